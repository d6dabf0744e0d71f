/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2, versions 2 and 3. docs/qcow2.md tells the format and the order of writes;
 * docs/formats.md what does the work; qcow2.h names the parts of this driver.
 */
#include "drivers/qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/path.h"

/* Of a data file that is a disk by itself: it holds what the disk holds, zeroes too. */
static const struct td_map_ops raw_ops = {
	.find = qcow2_find,
	.ready = qcow2_ready,
	.place = qcow2_place,
	.set = qcow2_set,
	.release = qcow2_release,
};

static const struct td_map_ops ops = {
	.find = qcow2_find,
	.ready = qcow2_ready,
	.place = qcow2_place,
	.set = qcow2_set,
	.clear = qcow2_clear,
	.release = qcow2_release,
	.unpack = qcow2_unpack,
	.pack = qcow2_pack,
	.place_packed = qcow2_place_packed,
	.set_packed = qcow2_set_packed,
};

/* ---- open --------------------------------------------------------------------- */

static int open_file(struct qcow2 *q, struct td_why *why)
{
	struct td_image *img = q->img;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);

	return td_file_open(img->files, img->target, flags, &q->file, why);
}

/* Where room begins: a file ends there, a device goes on behind what is used. */
static int used_end(struct qcow2 *q, uint64_t *end)
{
	uint64_t shown = 0;
	int err = 0;

	*end = round_up(td_file_size(q->file), qcow2_cluster(&q->layout));
	if (!td_file_is_device(q->file))
		return 0;
	err = qcow2_refs_end(q, end);
	if (!err && q->layout.incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT))
		err = qcow2_shown_end(q, &shown); /* refcounts may be wrong */
	*end = max_u64(*end, shown);
	return err;
}

/* A data file is somebody's word in the image: it is opened only if the user says so,
 * with data-file=on or the path. */
static int open_data(struct qcow2 *q, struct td_why *why)
{
	const char *path = q->data_path, *image = td_file_path(q->file);
	unsigned flags = TD_FILE_ZERO_TAIL | (q->img->read_only ? 0 : TD_FILE_WRITE);
	AUTO_FREE char *beside = NULL;

	if (!q->layout.external)
		return !path ? 0 : td_fail(why, -EINVAL, "%s: data-file= is given, and it has its "
					   "data itself", image);
	q->img->can &= ~TD_CAN_COMPRESS; /* each cluster has its place there */
	if (!path)
		return td_fail(why, -EACCES, "%s: its data are in another file, %s: say data-file=on "
			       "or data-file=PATH to have it opened", image,
			       q->layout.data_file[0] ? q->layout.data_file : "not named");
	if (!strcmp(path, "on"))
		path = q->layout.data_file;
	if (!*path)
		return td_fail(why, -EINVAL, "%s: does not name its data file: say data-file=PATH",
			       image);
	beside = td_path_beside(path == q->layout.data_file ? image : NULL, path);
	if (!beside)
		return td_fail(why, -ENOMEM, "%s: no memory", image);
	return td_file_open(q->img->files, beside, flags, &q->data, why);
}

static int open_cache(struct qcow2 *q, struct td_why *why)
{
	struct td_cache_config config = { .size = q->cache_size, .shows = QCOW2_TABLE,
					  .data = q->data };

	config.page = q->page = min_u64(qcow2_cluster(&q->layout), 4096);
	return td_cache_new(q->img, q->file, &config, &q->cache, why);
}

static int open_map(struct qcow2 *q, struct td_why *why)
{
	uint32_t cluster = qcow2_cluster(&q->layout);
	struct td_map_config config = {
		.file = q->data ? q->data : q->file, .cache = q->cache,
		.ops = q->layout.autoclear & QCOW2_AUTOCLEAR_RAW ? &raw_ops : &ops,
		.unit = cluster, .grain = q->layout.extended ? cluster / 32 : cluster,
		.zeroes = q->layout.version > 2, .crypt = q->crypt,
		.crypt_by_disk = q->layout.encryption == QCOW2_AES,
		.notes_writes = q->layout.bitmaps,
	};
	uint64_t end;
	int err = q->img->read_only ? 0 : used_end(q, &end);

	if (err)
		return td_fail(why, err, "%s: cannot find out what is used of it: %s",
			       td_file_path(q->file), strerror(-err));
	if (!q->img->read_only) {
		q->reuse.to = end / cluster;
		err = td_space_new(q->img, q->file, q->cache, cluster, end, &q->space, why);
	}
	config.space = q->space;
	if (!err && qcow2_copies_open(q))
		err = td_fail(why, -ENOMEM, "%s: no memory", td_file_path(q->file));
	return err ? err : td_map_new(q->img, &config, &q->map, why);
}

static int open_below(struct qcow2 *q, struct td_why *why)
{
	const struct qcow2_layout *layout = &q->layout;
	const char *format = layout->backing_format, *path = td_file_path(q->file);
	struct td_why below_why;
	int err;

	if (!layout->backing[0]) {
		if (q->backing_format)
			return td_fail(why, -EINVAL, "%s: backing-format= is given, and it has no "
				       "backing file", path);
		return 0;
	}
	if (q->backing_format)
		format = q->backing_format;
	if (!format[0])
		return td_fail(why, -EINVAL, "%s: does not say of what format its backing file %s "
			       "is: say backing-format=", path, layout->backing);
	err = td_image_open_below(q->img, format, layout->backing, path, &below_why);
	if (err)
		return td_fail(why, err, "%s: its backing file: %s", path, below_why.text);
	return 0;
}

static int autoclear_write(struct qcow2 *q, uint64_t keep)
{
	be64 bits = to_be64(keep);
	int err;

	if (q->layout.autoclear == keep)
		return 0;
	q->layout.autoclear = keep;
	err = td_file_write(q->file, &bits, sizeof(bits),
			    offsetof(struct qcow2_header, autoclear));
	return err ? err : td_file_sync(q->file);
}

/* Bitmaps that make no sense are not true any more. */
static int prepare_autoclear(struct qcow2 *q)
{
	uint64_t keep = (q->layout.bitmaps ? QCOW2_AUTOCLEAR_BITMAPS : 0) |
			(q->layout.external ? QCOW2_AUTOCLEAR_RAW : 0);
	int err = autoclear_write(q, q->layout.autoclear & keep);

	if (!err)
		err = qcow2_bitmaps_open(q);
	if (err != -EINVAL)
		return err;
	td_say(q->img, LOG_NOTICE, "the directory of its bitmaps is damaged: none is kept true");
	return autoclear_write(q, q->layout.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS);
}

/* What a writer must do before anything else: the autoclear bits of what it does not
 * keep true are cleared, refcounts that may be wrong are counted anew. */
static int prepare(struct qcow2 *q, struct td_why *why)
{
	struct qcow2_layout *layout = &q->layout;
	const char *path = td_file_path(q->file);
	be64 bits;
	int err = 0;

	if (layout->incompatible & QCOW2_CORRUPT && !q->img->repair)
		return td_fail(why, -EINVAL, "%s: is marked corrupt: open it read-only, or repair it",
			       path);
	if (layout->incompatible & QCOW2_DIRTY) {
		td_cache_block(q->cache, true);
		err = qcow2_rebuild(q, why);
		td_cache_block(q->cache, false);
		if (err)
			return err;
		layout->incompatible &= ~(uint64_t)QCOW2_DIRTY;
		bits = to_be64(layout->incompatible);
		err = td_file_write(q->file, &bits, sizeof(bits),
				    offsetof(struct qcow2_header, incompatible));
	}
	if (!err)
		err = prepare_autoclear(q);
	return err ? td_fail(why, err, "%s: cannot write its header: %s", path, strerror(-err)) : 0;
}

static void qcow2_free(struct qcow2 *q)
{
	qcow2_bitmaps_free(q);
	td_map_free(q->map);
	qcow2_copies_free(q);
	td_crypt_free(q->crypt);
	td_cache_free(q->cache);
	td_space_free(q->space);
	td_file_close(q->data);
	td_file_close(q->file);
}

/* The disk is what it was then, and can be read only. */
static int open_snapshot(struct qcow2 *q, struct td_why *why)
{
	struct qcow2_layout *layout = &q->layout;
	uint64_t size = td_file_size(q->file);
	struct qcow2_snapshot row;
	int err = qcow2_snapshot_find(q, q->snapshot, &row, why);

	if (err)
		return err;
	if (!row.size || row.size > INT64_MAX - MiB || row.l1_at >= size || !row.l1_at ||
	    !is_aligned(row.l1_at, qcow2_cluster(layout)) || row.l1_count * 8 > size - row.l1_at ||
	    ((row.size - 1) >> qcow2_span_bits(layout)) >= row.l1_count)
		return td_fail(why, -EINVAL, "%s: the L1 table of its snapshot '%s' cannot be",
			       td_file_path(q->file), q->snapshot);
	q->now_l1_at = layout->l1_at;
	q->now_l1_count = layout->l1_count;
	layout->l1_at = row.l1_at;
	layout->l1_count = row.l1_count;
	layout->size = row.size;
	return 0;
}

static int qcow2_open(struct td_image *img, struct td_why *why)
{
	struct qcow2 *q = img->state;
	int err;

	q->img = img;
	if (q->snapshot) {
		img->read_only = true;
		img->can &= ~TD_CAN_WRITE;
	}
	err = open_file(q, why);
	if (!err)
		err = qcow2_layout_read(q->file, &q->layout, why);
	if (!err && q->snapshot)
		err = open_snapshot(q, why);
	if (!err)
		err = qcow2_crypt_open(q, why);
	if (!err)
		err = open_data(q, why);
	if (!err)
		err = open_cache(q, why);
	if (!err)
		err = open_map(q, why);
	if (!err)
		err = open_below(q, why);
	if (!err && !img->read_only)
		err = prepare(q, why);
	if (err) {
		qcow2_free(q);
		return err;
	}
	img->size = q->layout.size;
	img->block_size = 512;
	img->cluster = qcow2_cluster(&q->layout);
	return 0;
}

static void qcow2_close(struct td_image *img)
{
	qcow2_bitmaps_close(img->state);
	qcow2_free(img->state);
}

static void qcow2_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct qcow2 *q = img->state;

	if (q->bitmaps && (req->op == TD_WRITE || req->op == TD_WRITE_ZEROES ||
			   req->op == TD_DISCARD))
		qcow2_bitmaps_note(q, req->offset, req->len);
	td_map_submit(q->map, req);
}

static bool qcow2_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	return td_map_submit_away(((struct qcow2 *)img->state)->map, req);
}

/* ---- info ------------------------------------------------------------------------ */

struct info {
	td_info_put *put;
	void *arg;
};

static int info_bitmap(void *arg, const struct qcow2_bitmap_row *row)
{
	struct info *info = arg;
	char key[sizeof(row->name) + 16], text[96];

	snprintf(key, sizeof(key), "bitmap %s", row->name);
	snprintf(text, sizeof(text), "%llu bytes to a bit, %s%s", 1ull << row->grain_bits,
		 row->flags & QCOW2_BITMAP_AUTO ? "enabled" : "disabled",
		 row->flags & QCOW2_BITMAP_IN_USE ? ", inconsistent" : "");
	info->put(info->arg, key, text);
	return 0;
}

static void info_bitmaps(struct qcow2 *q, td_info_put *put, void *arg)
{
	struct info info = { put, arg };

	if (!q->layout.bitmaps)
		return;
	td_info_number(put, arg, "bitmaps", q->layout.bitmaps);
	if (!(q->layout.autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		put(arg, "bitmaps-are", "inconsistent: the image was changed by a program that "
		    "does not keep them");
	else if (qcow2_bitmap_each(q, info_bitmap, &info))
		put(arg, "bitmaps-are", "damaged");
}

static int qcow2_info(struct td_image *img, td_info_put *put, void *arg)
{
	struct qcow2 *q = img->state;
	const struct qcow2_layout *layout = &q->layout;

	td_info_number(put, arg, "version", layout->version);
	td_info_number(put, arg, "cluster-size", qcow2_cluster(layout));
	td_info_number(put, arg, "refcount-bits", 1ull << layout->refcount_order);
	td_info_number(put, arg, "l1-entries", layout->l1_count);
	td_info_number(put, arg, "snapshots", layout->snapshots);
	td_info_number(put, arg, "file-length", td_file_size(q->file));
	put(arg, "compression", layout->zstd ? "zstd" : "zlib");
	put(arg, "subclusters", layout->extended ? "yes" : "no");
	qcow2_crypt_info(q, put, arg);
	if (q->data)
		put(arg, "data-file", td_file_path(q->data));
	if (q->data)
		put(arg, "data-file-raw", layout->autoclear & QCOW2_AUTOCLEAR_RAW ? "yes" : "no");
	put(arg, "lazy-refcounts", layout->compatible & 1 ? "yes" : "no");
	if (layout->incompatible & QCOW2_DIRTY)
		put(arg, "dirty", "yes");
	if (layout->incompatible & QCOW2_CORRUPT)
		put(arg, "corrupt", "yes");
	if (layout->backing[0])
		put(arg, "backing-file", layout->backing);
	if (layout->backing_format[0])
		put(arg, "backing-format", layout->backing_format);
	info_bitmaps(q, put, arg);
	return 0;
}

static const struct td_option options[] = {
	TD_MAP_OPTION_CACHE(struct qcow2, cache_size),
	{ "backing-format", TD_STRING, offsetof(struct qcow2, backing_format),
	  "of the backing file; default: what the image says" },
	{ "snapshot", TD_STRING, offsetof(struct qcow2, snapshot),
	  "name or id: the disk as it was then, read-only" },
	{ "data-file", TD_STRING, offsetof(struct qcow2, data_path),
	  "on: open the data file that the image names; or its path" },
	{ 0 },
};

extern const struct td_driver qcow2_driver;
const struct td_driver qcow2_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "qcow2",
	.summary = "qcow2, versions 2 and 3: a sparse image, or an overlay over another one",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS |
	       TD_CAN_COMPRESS,
	.state_size = sizeof(struct qcow2),
	.req_size = TD_MAP_REQ_SIZE,
	.options = options,
	.open = qcow2_open,
	.close = qcow2_close,
	.submit = qcow2_submit,
	.is_hole = qcow2_is_hole,
	.submit_away = qcow2_submit_away,
	.create = qcow2_create,
	.create_options = qcow2_create_options,
	.create_size = sizeof(struct qcow2_create_options),
	.check = qcow2_check,
	.info = qcow2_info,
	.looks_like = qcow2_looks_like,
	.repairs = TD_REPAIR_ALL,
	.measure = qcow2_measure,
	.resize = qcow2_resize,
	.set_backing = qcow2_set_backing,
	.unmake = qcow2_unmake,
	.snapshot = qcow2_snapshot,
};
