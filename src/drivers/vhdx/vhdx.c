/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHDX: fixed, dynamic and differencing. docs/vhdx.md tells the format and the order of
 * writes; docs/formats.md what does the work; vhdx.h names the parts of this driver.
 */
#include "drivers/vhdx/vhdx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the log, as the cache wants it --------------------------------------------- */

static void log_begin(struct td_image *img)
{
	struct vhdx *vhdx = img->state;

	vhdx_log_begin(vhdx->log);
}

static bool log_add(struct td_image *img, uint64_t at, const void *page)
{
	struct vhdx *vhdx = img->state;

	return vhdx_log_add(vhdx->log, at, page);
}

static void log_end(struct td_image *img, void **entry, size_t *len, uint64_t *at)
{
	struct vhdx *vhdx = img->state;

	/* room was made before it was taken, and what was taken is durable by now */
	vhdx_log_end(vhdx->log, td_space_end(vhdx->space), entry, len, at);
}

static const struct td_log_ops log_ops = { log_begin, log_add, log_end };

static void patch(struct td_image *img, void *buf, size_t len, uint64_t at)
{
	struct vhdx *vhdx = img->state;

	vhdx_patch(&vhdx->reader, buf, len, at);
}

/* ---- the first change ------------------------------------------------------------ */

/* What earlier sessions have freed may hold anything. It is nobody's for certain now: the
 * tables as they were found are durable. */
static void freed_zero(struct vhdx *vhdx)
{
	for (unsigned i = 0; i < vhdx->freed_count; i++)
		if (td_file_zero(vhdx->file, vhdx->freed[i].at, vhdx->freed[i].len))
			vhdx->freed_count = i; /* room there is without the others */
}

static void freed_give(struct vhdx *vhdx)
{
	for (unsigned i = 0; i < vhdx->freed_count; i++)
		td_space_give(vhdx->space, vhdx->freed[i].at, vhdx->freed[i].len);
	vhdx->freed_count = 0;
}

static int mark_run(struct td_work *work)
{
	struct vhdx *vhdx = container_of(work, struct vhdx, work);
	int err = vhdx_log_open(vhdx->log, &vhdx->layout, true);

	if (!err)
		freed_zero(vhdx);
	return err;
}

/* From now on survivor memory has the header that says that the log is empty. */
static void is_marked(struct vhdx *vhdx)
{
	struct vhdx_layout *layout = &vhdx->layout;
	unsigned other = !layout->current;
	struct vhdx_header next = layout->header[layout->current];

	next.sequence = to_le64(from_le64(next.sequence) + 1);
	next.log = vhdx_guid_none;
	vhdx_header_seal(&next);
	td_cache_last(vhdx->cache, (other + 1) * VHDX_HEADERS_AT, &layout->header[other], &next);
	vhdx->marked = true;
}

static void mark_done(struct td_work *work, int err)
{
	struct vhdx *vhdx = container_of(work, struct vhdx, work);
	struct td_parks waiting = vhdx->waiting;

	vhdx->waiting = (struct td_parks){ 0 };
	vhdx->marking = false;
	if (!err) {
		is_marked(vhdx);
		freed_give(vhdx);
	}
	td_parks_go(&waiting, err);
}

int vhdx_mark_now(struct vhdx *vhdx)
{
	int err = vhdx->marked ? 0 : vhdx_log_open(vhdx->log, &vhdx->layout, true);

	if (!err && !vhdx->marked)
		is_marked(vhdx);
	return err;
}

struct waiting {
	struct td_park park;
	struct td_req *req;
};

static void marked(struct td_park *park, int err)
{
	struct td_req *req = container_of(park, struct waiting, park)->req;
	struct vhdx *vhdx = req->image->state;

	if (err)
		td_end(req, err);
	else
		td_map_submit(vhdx->map, req);
}

static void mark(struct vhdx *vhdx, struct td_req *req)
{
	struct waiting *waiting = td_scratch(vhdx->img, req);

	waiting->park.go = marked;
	waiting->req = req;
	td_parks_add(&vhdx->waiting, &waiting->park);
	if (vhdx->marking)
		return;
	vhdx->marking = true;
	vhdx->work.run = mark_run;
	vhdx->work.done = mark_done;
	td_work_start(vhdx->img->queue, &vhdx->work);
}

static void vhdx_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vhdx *vhdx = img->state;

	if (!vhdx->map) /* a change of it as a whole failed, and it could not be opened again */
		td_end(req, -EIO);
	else if (!vhdx->marked && (req->op == TD_WRITE || req->op == TD_WRITE_ZEROES ||
				   req->op == TD_DISCARD))
		mark(vhdx, req);
	else
		td_map_submit(vhdx->map, req);
}

static bool vhdx_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vhdx *vhdx = img->state;

	return vhdx->map && td_map_submit_away(vhdx->map, req);
}

static bool vhdx_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	return td_map_is_hole(((struct vhdx *)img->state)->map, offset, len);
}

/* ---- open --------------------------------------------------------------------- */

int vhdx_read_file(struct vhdx *vhdx, struct td_why *why)
{
	int err;

	memset(&vhdx->layout, 0, sizeof(vhdx->layout));
	err = vhdx_headers_read(vhdx->file, &vhdx->layout, why);
	if (!err)
		err = vhdx_replay(vhdx->file, vhdx->img->read_only, &vhdx->layout, &vhdx->reader, why);
	return err ? err : vhdx_tables_read(&vhdx->reader, &vhdx->layout, why);
}

static int open_file(struct vhdx *vhdx, struct td_why *why)
{
	struct td_image *img = vhdx->img;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	int err = td_file_open(img->files, img->target, flags, &vhdx->file, why);

	if (!err)
		err = td_refuse_device(img, vhdx->file, "a VHDX", why);
	if (!err)
		err = vhdx_read_file(vhdx, why);
	if (!err && img->read_only)
		err = vhdx_log_spares_data(vhdx, why);
	return err;
}

static int open_for_writing(struct vhdx *vhdx, uint64_t *end, struct td_why *why)
{
	int err = vhdx_log_new(vhdx->file, &vhdx->layout, &vhdx->log);

	if (err)
		return td_fail(why, err, "%s: no memory", td_file_path(vhdx->file));
	return vhdx_prepare(vhdx, end, why);
}

int vhdx_open_map(struct vhdx *vhdx, struct td_why *why)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	struct td_cache_config cache = { .page = VHDX_PAGE, .size = vhdx->cache_size,
					 .log = &log_ops, .patch = vhdx->reader.patches ? patch : NULL };
	struct td_map_config config = { .file = vhdx->file, .grains_apart = true, .zeroes = true,
					.ops = layout->fixed ? &vhdx_fixed_ops : &vhdx_ops,
					.grain = 1u << layout->sector_bits, .unit = vhdx_block(layout) };
	uint64_t end = 0;
	int err = vhdx->img->read_only ? 0 : open_for_writing(vhdx, &end, why);

	if (!err)
		err = td_cache_new(vhdx->img, vhdx->file, &cache, &vhdx->cache, why);
	if (!err && !vhdx->img->read_only)
		err = td_space_new(vhdx->img, vhdx->file, vhdx->cache, vhdx_block(layout), end,
				   &vhdx->space, why);
	if (err)
		return err;
	config.cache = vhdx->cache;
	config.space = vhdx->space;
	return td_map_new(vhdx->img, &config, &vhdx->map, why);
}

void vhdx_close_map(struct vhdx *vhdx)
{
	td_map_free(vhdx->map);
	td_cache_free(vhdx->cache);
	td_space_free(vhdx->space);
	vhdx_log_free(vhdx->log);
	free(vhdx->freed);
	vhdx->freed = NULL;
	vhdx->freed_count = 0;
	vhdx->map = NULL;
	vhdx->cache = NULL;
	vhdx->space = NULL;
	vhdx->log = NULL;
	vhdx->marked = false;
}

static void vhdx_close(struct td_image *img)
{
	struct vhdx *vhdx = img->state;

	vhdx_close_map(vhdx);
	vhdx_reader_free(&vhdx->reader);
	td_file_close(vhdx->file);
	free(vhdx->parent);
}

static int vhdx_open(struct td_image *img, struct td_why *why)
{
	struct vhdx *vhdx = img->state;
	int err;

	vhdx->img = img;
	err = open_file(vhdx, why);
	if (!err)
		err = vhdx_parent_open(vhdx, why);
	if (!err)
		err = vhdx_open_map(vhdx, why);
	if (err) {
		vhdx_close(img);
		return err;
	}
	img->size = vhdx->layout.size;
	img->block_size = 1u << vhdx->layout.sector_bits;
	img->cluster = 64 * KiB;
	return 0;
}

/* ---- info ------------------------------------------------------------------------ */

static void put_guid(td_info_put *put, void *arg, const char *key, const struct vhdx_guid *guid)
{
	char text[TD_UUID_TEXT];

	vhdx_guid_text(guid, text);
	put(arg, key, text);
}

static int vhdx_info(struct td_image *img, td_info_put *put, void *arg)
{
	const struct vhdx *vhdx = img->state;
	const struct vhdx_layout *layout = &vhdx->layout;
	const struct vhdx_header *header = &layout->header[layout->current];

	put(arg, "subformat", layout->has_parent ? "differencing" :
			      layout->fixed ? "fixed" : "dynamic");
	td_info_number(put, arg, "block-size", vhdx_block(layout));
	td_info_number(put, arg, "sector-size", 1u << layout->sector_bits);
	td_info_number(put, arg, "physical-sector-size", layout->physical);
	td_info_number(put, arg, "log-size", layout->log.len);
	put_guid(put, arg, "identity", &layout->disk);
	put_guid(put, arg, "data-written", &header->data_write);
	td_info_number(put, arg, "file-length", td_file_size(vhdx->file));
	if (vhdx->reader.unclean && img->read_only)
		put(arg, "dirty", "yes");
	if (vhdx->parent) {
		put(arg, "backing-file", vhdx->parent);
		if (img->below)
			put(arg, "backing-format", img->below->driver->name);
	}
	return 0;
}

static const struct td_option options[] = {
	TD_MAP_OPTION_CACHE(struct vhdx, cache_size),
	{ "backing-format", TD_STRING, offsetof(struct vhdx, backing_format),
	  "of the parent; default: vhdx, or aio where the image names no time of its writing" },
	{ 0 },
};

extern const struct td_driver vhdx_driver;
const struct td_driver vhdx_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "vhdx",
	.summary = "VHDX of Hyper-V: fixed, dynamic or differencing",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS,
	.state_size = sizeof(struct vhdx),
	.req_size = TD_MAP_REQ_SIZE,
	.options = options,
	.open = vhdx_open,
	.close = vhdx_close,
	.submit = vhdx_submit,
	.is_hole = vhdx_is_hole,
	.submit_away = vhdx_submit_away,
	.create = vhdx_create,
	.check = vhdx_check,
	.info = vhdx_info,
	.looks_like = vhdx_looks_like,
	.create_options = vhdx_create_options,
	.create_size = sizeof(struct vhdx_create_options),
	.measure = vhdx_measure,
	.resize = vhdx_resize,
	.set_backing = vhdx_set_backing,
};
