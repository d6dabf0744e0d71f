/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * aio: a raw image. What the guest sees is the file, the partition or the
 * device, byte for byte.
 */
#include <blktap/driver.h>
#include <errno.h>
#include <string.h>

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

static int fill(struct td_file *file, const void *plan)
{
	const struct td_create *make = plan;

	return make->reserve ? td_file_allocate(file, 0, make->size) :
			       td_file_truncate(file, make->size);
}

static int raw_create(const struct td_create *make, struct td_why *why)
{
	if (make->backing)
		return td_fail(why, -EINVAL, "%s: a raw image has no backing file", make->path);
	if (make->cluster)
		return td_fail(why, -EINVAL, "%s: a raw image has no clusters", make->path);
	if (!make->size || make->size % 512)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", make->path, (unsigned long long)make->size);
	return td_file_make(make->files, make->path, fill, make, why);
}

static int raw_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	*out = (struct td_measure){ .tables = make->size };
	return 0;
}

static int raw_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct raw *raw = img->state;
	int err;

	if (td_file_is_device(raw->file))
		return td_fail(why, -EINVAL, "%s: a device has the size that it has", img->target);
	err = td_file_truncate(raw->file, size);
	if (!err)
		err = td_file_sync(raw->file);
	if (err)
		return td_fail(why, err, "%s: cannot make it %llu bytes: %s", img->target,
			       (unsigned long long)size, strerror(-err));
	img->size = size;
	return 0;
}

const struct td_driver aio_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "aio",
	.summary = "raw files, partitions and block devices",
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES |
	       TD_CAN_EXTENTS | TD_CAN_SHARE | TD_CAN_ANY_QUEUE,
	.state_size = sizeof(struct raw),
	.open = raw_open,
	.close = raw_close,
	.submit = raw_submit,
	.create = raw_create,
	.measure = raw_measure,
	.resize = raw_resize,
};
