/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow, version 1: sparse images that stand alone, and overlays that keep what
 * was changed over a raw file or device. docs/qcow.md tells the format and the
 * order of writes; docs/formats.md what does the work; qcow.h names the parts of
 * this driver.
 */
#include "drivers/qcow/qcow.h"

#include <stdio.h>
#include <stdlib.h>

static const struct td_map_ops ops = {
	.find = qcow_find,
	.ready = qcow_ready,
	.place = qcow_place,
	.set = qcow_set,
	.release = qcow_release,
	.unpack = qcow_unpack,
	.pack = qcow_pack,
	.place_packed = qcow_place_packed,
	.set_packed = qcow_set_packed,
};

/* ---- open and close ---------------------------------------------------------------- */

static int open_file(struct qcow *qcow, struct td_why *why)
{
	struct td_image *img = qcow->img;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	int err = td_file_open(img->files, img->target, flags, &qcow->file, why);

	if (err)
		return err;
	err = qcow_layout_read(qcow->file, &qcow->layout, why);
	return err ? err : qcow_l1_open(qcow, why);
}

static int open_crypt(struct qcow *qcow, struct td_why *why)
{
	struct td_image *img = qcow->img;
	struct td_why inner;
	int err;

	if (!qcow->layout.encrypted)
		return 0;
	img->encrypted = true;
	img->can &= ~TD_CAN_COMPRESS;
	err = img->keyless ? 0 : td_aes_open(img, &qcow->crypt, &inner);
	return err ? td_fail(why, err, "%s: %s", td_file_path(qcow->file), inner.text) : 0;
}

static int open_map(struct qcow *qcow, struct td_why *why)
{
	uint32_t cluster = qcow_cluster(&qcow->layout);
	struct td_cache_config cache = { .page = qcow->page, .size = qcow->cache_size,
					 .shows = QCOW_TABLES };
	struct td_map_config config = { .file = qcow->file, .ops = &ops, .unit = cluster,
					.grain = cluster, .crypt = qcow->crypt,
					.crypt_by_disk = true };
	uint64_t end;
	int err = td_cache_new(qcow->img, qcow->file, &cache, &qcow->cache, why);

	if (!err && !qcow->img->read_only)
		err = qcow_used_end(qcow, &end, why);
	/* a last cluster that the file has in part is its owner's whole */
	if (!err && !qcow->img->read_only)
		err = td_space_new(qcow->img, qcow->file, qcow->cache, cluster,
				   round_up(end, max_u64(cluster, 4096)), &qcow->space, why);
	config.cache = qcow->cache;
	config.space = qcow->space;
	qcow->run = qcow_run(&qcow->layout, qcow->page);
	return err ? err : td_map_new(qcow->img, &config, &qcow->map, why);
}

static int open_below(struct qcow *qcow, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	struct td_image *img = qcow->img;
	struct td_why below_why;
	int err;

	if (!layout->backing[0])
		return 0;
	err = td_image_open_below(img, "aio", layout->backing, td_file_path(qcow->file),
				  &below_why);
	if (err)
		return td_fail(why, err, "%s: its backing file: %s", td_file_path(qcow->file),
			       below_why.text);
	if (img->below->size != layout->size && !qcow->resized)
		return td_fail(why, -EINVAL,
			       "%s: has %llu bytes but its backing file %s has %llu "
			       "(resized=on if that is meant)", td_file_path(qcow->file),
			       (unsigned long long)layout->size, layout->backing,
			       (unsigned long long)img->below->size);
	return 0;
}

static void qcow_close(struct td_image *img)
{
	struct qcow *qcow = img->state;

	td_map_free(qcow->map);
	td_crypt_free(qcow->crypt);
	td_cache_free(qcow->cache);
	td_space_free(qcow->space);
	td_file_close(qcow->file);
	free(qcow->l1_bad);
}

static int qcow_open(struct td_image *img, struct td_why *why)
{
	struct qcow *qcow = img->state;
	int err;

	qcow->img = img;
	err = open_file(qcow, why);
	if (!err)
		err = open_crypt(qcow, why);
	if (!err)
		err = open_map(qcow, why);
	if (!err)
		err = open_below(qcow, why);
	if (err) {
		qcow_close(img);
		return err;
	}
	img->size = qcow->layout.size;
	img->block_size = 512;
	img->cluster = qcow_cluster(&qcow->layout);
	return 0;
}

static void qcow_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	td_map_submit(((struct qcow *)img->state)->map, req);
}

static bool qcow_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	return td_map_submit_away(((struct qcow *)img->state)->map, req);
}

static bool qcow_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	return td_map_is_hole(((struct qcow *)img->state)->map, offset, len);
}

/* ---- info ------------------------------------------------------------------------ */

static int qcow_info(struct td_image *img, td_info_put *put, void *arg)
{
	const struct qcow *qcow = img->state;
	const struct qcow_layout *layout = &qcow->layout;

	td_info_number(put, arg, "cluster-size", qcow_cluster(layout));
	td_info_number(put, arg, "l2-table-size", qcow_l2_bytes(layout));
	td_info_number(put, arg, "l1-entries", layout->l1_count);
	td_info_number(put, arg, "file-length", td_file_size(qcow->file));
	if (layout->encrypted)
		put(arg, "encryption", "aes, old and weak");
	if (layout->backing[0])
		put(arg, "backing-file", layout->backing);
	if (layout->xen_len)
		put(arg, "blktap-2006", qcow->l1_little ? "L1 table little-endian" :
							  "L1 table big-endian");
	return 0;
}

static const struct td_option qcow_options[] = {
	{ "resized", TD_BOOL, offsetof(struct qcow, resized),
	  "accept a backing file of another size than the image (default: off)" },
	TD_MAP_OPTION_CACHE(struct qcow, cache_size),
	{ 0 },
};

extern const struct td_driver qcow_driver;
const struct td_driver qcow_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "qcow",
	.summary = "qcow version 1: a sparse image, or an overlay over a raw one",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS |
	       TD_CAN_COMPRESS,
	.state_size = sizeof(struct qcow),
	.req_size = TD_MAP_REQ_SIZE,
	.options = qcow_options,
	.open = qcow_open,
	.close = qcow_close,
	.submit = qcow_submit,
	.is_hole = qcow_is_hole,
	.submit_away = qcow_submit_away,
	.create = qcow_create,
	.check = qcow_check,
	.info = qcow_info,
	.looks_like = qcow_looks_like,
	.create_options = qcow_create_options,
	.create_size = sizeof(struct qcow_create_options),
	.measure = qcow_measure,
	.resize = qcow_resize,
};
