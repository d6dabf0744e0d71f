/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * aio: a raw image. What the guest sees is the file, the partition or the
 * device, byte for byte.
 */
#include <blktap/driver.h>
#include <errno.h>

struct raw {
	struct td_file *file;
};

static int raw_open(struct td_image *img, struct td_why *why)
{
	struct raw *raw = img->state;
	unsigned flags = img->read_only ? 0 : TD_FILE_WRITE;
	int err = td_file_open(img->files, img->target,
			       flags | (img->shared ? TD_FILE_SHARED : 0),
			       &raw->file, why);

	if (err)
		return err;
	img->size = td_file_size(raw->file);
	if (td_file_is_device(raw->file) && td_file_align(raw->file) > 512)
		img->block_size = td_file_align(raw->file);
	if (!td_file_can_discard(raw->file))
		img->can &= ~TD_CAN_DISCARD;
	return 0;
}

static void raw_close(struct td_image *img)
{
	struct raw *raw = img->state;

	td_file_close(raw->file);
}

static void raw_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct raw *raw = img->state;

	td_io(req, raw->file, req->offset);
}

const struct td_driver aio_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "aio",
	.summary = "raw files, partitions and block devices",
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES |
	       TD_CAN_EXTENTS | TD_CAN_SHARE,
	.state_size = sizeof(struct raw),
	.open = raw_open,
	.close = raw_close,
	.submit = raw_submit,
};
