/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMDK. docs/vmdk.md tells the format and the order of writes; docs/formats.md what
 * does the work; vmdk.h names the parts of this driver.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open ----------------------------------------------------------------------- */

/* One file that has all: a header, and mostly a descriptor within. */
static int open_single(struct vmdk *v, struct td_file *file, struct td_why *why)
{
	struct vmdk_layout layout;
	int err;

	v->extent[0].file = file;
	v->extents = 1;
	err = vmdk_layout_read(file, &layout, why);
	if (!err && layout.text_len)
		err = vmdk_text_read(file, layout.text_at, layout.text_len, &v->text, why);
	if (err)
		return err;
	if (v->text.lines > 1 || (v->text.lines && v->text.line[0].type != VMDK_SPARSE))
		return td_fail(why, -EINVAL, "%s: its descriptor names other extents than the file "
			       "that it lies in", td_file_path(file));
	if (!v->text.lines && !v->img->read_only)
		return td_fail(why, -ENOTSUP, "%s: is one extent of an image: to write it, open "
			       "the descriptor that names it", td_file_path(file));
	return 0;
}

static int open_text(struct vmdk *v, struct td_file *file, struct td_why *why)
{
	int err = vmdk_text_read(file, 0, td_file_size(file), &v->text, why);

	v->file = file;
	if (!err)
		v->extents = v->text.lines;
	return err;
}

static int open_files(struct vmdk *v, struct td_why *why)
{
	struct td_image *img = v->img;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	struct td_file *file;
	int err = td_file_open(img->files, img->target, flags, &file, why);

	if (err)
		return err;
	v->extent = calloc(VMDK_EXTENTS_MAX, sizeof(*v->extent));
	if (!v->extent) {
		td_file_close(file);
		return td_fail(why, -ENOMEM, "%s: no memory", img->target);
	}
	switch (vmdk_file_kind(file)) {
	case VMDK_FILE_SPARSE:
		return open_single(v, file, why);
	case VMDK_FILE_TEXT:
		return open_text(v, file, why);
	case VMDK_FILE_UNKNOWN:
		break;
	}
	v->file = file;
	return td_fail(why, -EINVAL, "%s: no VMDK image", img->target);
}

/* ---- the image below --------------------------------------------------------------- */

extern const struct td_driver vmdk_driver;

static bool has_parent(const struct vmdk *v)
{
	return v->text.lines && v->text.parent_cid != VMDK_NO_CID;
}

static const char *parent_format(const struct vmdk *v)
{
	if (v->backing_format)
		return v->backing_format;
	return v->text.parent_format ? v->text.parent_format : vmdk_driver.name;
}

/* Whether the parent's content is still what the image was made over. */
static int check_parent(const struct vmdk *v, struct td_why *why)
{
	const struct td_image *below = v->img->below;
	const struct vmdk_text *parent;

	if (!below || below->driver != &vmdk_driver || v->stale_parent)
		return 0;
	parent = &vmdk_of(below)->text;
	if (!parent->lines || parent->cid == v->text.parent_cid)
		return 0;
	return td_fail(why, -ESTALE, "%s: its parent %s has been changed: its CID is %08x, not "
		       "%08x (stale-parent=on opens it all the same)", v->img->target,
		       below->target, parent->cid, v->text.parent_cid);
}

static int open_below(struct vmdk *v, struct td_why *why)
{
	const char *path = td_file_path(vmdk_text_file(v));
	struct td_why below_why;
	int err;

	if (!has_parent(v)) {
		if (v->backing_format)
			return td_fail(why, -EINVAL, "%s: backing-format= is given, and it has no "
				       "parent", path);
		return 0;
	}
	for (unsigned i = 0; i < v->extents; i++)
		if (v->extent[i].type != VMDK_SPARSE)
			return td_fail(why, -EINVAL, "%s: has a parent, and extents that hide it",
				       path);
	err = td_image_open_below(v->img, parent_format(v), v->text.parent, path, &below_why);
	if (err)
		return td_fail(why, err, "%s: its parent: %s", path, below_why.text);
	return check_parent(v, why);
}

/* ---- the table's functions ------------------------------------------------------------ */

static void vmdk_free(struct vmdk *v)
{
	if (v->extent)
		vmdk_extents_close(v);
	td_file_close(v->file);
	vmdk_text_free(&v->text);
}

static int vmdk_open(struct td_image *img, struct td_why *why)
{
	struct vmdk *v = img->state;
	int err;

	v->img = img;
	err = open_files(v, why);
	if (!err)
		err = vmdk_extents_open(v, why);
	if (!err)
		err = open_below(v, why);
	if (err) {
		v->unclean = false; /* as it was found */
		vmdk_free(v);
		return err;
	}
	img->block_size = 512;
	if (v->stream)
		img->can = TD_CAN_WRITE | TD_CAN_EXTENTS | TD_CAN_COMPRESS | TD_CAN_STREAM;
	else
		img->can &= ~(TD_CAN_COMPRESS | TD_CAN_STREAM);
	if (v->extent[0].type == VMDK_SPARSE)
		img->cluster = v->extent[0].layout.grain;
	return 0;
}

static void vmdk_close(struct td_image *img)
{
	vmdk_free(img->state);
}

/* A request that waits for the marks. */
struct waiting {
	struct td_park park;
	struct td_req *req;
};
static_assert(sizeof(struct waiting) <= TD_MAP_REQ_SIZE, "lies where the map's will");

static void marked(struct td_park *park, int err)
{
	struct td_req *req = container_of(park, struct waiting, park)->req;

	if (err) {
		td_end(req, err);
		return;
	}
	memset(td_scratch(req->image, req), 0, TD_MAP_REQ_SIZE);
	td_map_submit(vmdk_of(req->image)->extent[0].map, req);
}

static bool changes(const struct td_req *req)
{
	return req->op == TD_WRITE || req->op == TD_WRITE_ZEROES || req->op == TD_DISCARD;
}

static void vmdk_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vmdk *v = vmdk_of(img);
	struct waiting *waiting;

	if (v->lost) {
		td_end(req, -EIO);
		return;
	}
	if (v->stream) {
		vmdk_stream_submit(v->stream, req);
		return;
	}
	if (!v->marked && changes(req)) {
		waiting = td_scratch(img, req);
		waiting->park.go = marked;
		waiting->req = req;
		vmdk_mark(v, &waiting->park);
		return;
	}
	td_map_submit(v->extent[0].map, req);
}

static bool vmdk_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vmdk *v = img->state;

	return !v->lost && !v->stream && td_map_submit_away(v->extent[0].map, req);
}

static bool vmdk_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	const struct vmdk *v = vmdk_of(img);

	return !v->stream && v->extent[0].map && td_map_is_hole(v->extent[0].map, offset, len);
}

/* ---- info ------------------------------------------------------------------------------- */

static void put_cid(td_info_put *put, void *arg, const char *key, uint32_t cid)
{
	char text[9];

	snprintf(text, sizeof(text), "%08x", cid);
	put(arg, key, text);
}

static int vmdk_info(struct td_image *img, td_info_put *put, void *arg)
{
	const struct vmdk *v = vmdk_of(img);
	const struct vmdk_extent *e = &v->extent[0];
	uint64_t length = v->file ? td_file_size(v->file) : 0;
	bool dirty = false;

	put(arg, "type", v->text.type ? v->text.type : "one extent");
	if (v->text.lines)
		put_cid(put, arg, "cid", v->text.cid);
	td_info_number(put, arg, "extents", v->extents);
	if (e->type == VMDK_SPARSE) {
		td_info_number(put, arg, "version", e->layout.version);
		td_info_number(put, arg, "cluster-size", e->layout.grain);
		put(arg, "zeroed-grains", e->layout.zeroes ? "yes" : "no");
		put(arg, "compressed", e->layout.compressed ? "yes" : "no");
	}
	for (unsigned i = 0; i < v->extents; i++) {
		dirty |= v->extent[i].layout.unclean;
		length += v->extent[i].file ? td_file_size(v->extent[i].file) : 0;
	}
	td_info_number(put, arg, "file-length", length);
	put(arg, "dirty", dirty ? "yes" : "no");
	if (has_parent(v)) {
		put_cid(put, arg, "parent-cid", v->text.parent_cid);
		put(arg, "backing-file", v->text.parent);
		put(arg, "backing-format", parent_format(v));
	}
	return 0;
}

static bool vmdk_looks_like(struct td_file *file)
{
	return vmdk_file_kind(file) != VMDK_FILE_UNKNOWN;
}

static const struct td_option options[] = {
	TD_MAP_OPTION_CACHE(struct vmdk, cache_size),
	{ "backing-format", TD_STRING, offsetof(struct vmdk, backing_format),
	  "of the parent; default: what the image says, or vmdk" },
	{ "parent-format", TD_STRING, offsetof(struct vmdk, backing_format), "the same" },
	{ "stale-parent", TD_BOOL, offsetof(struct vmdk, stale_parent),
	  "open it over a parent that was changed since; default off" },
	{ "anywhere", TD_BOOL, offsetof(struct vmdk, any_folder),
	  "extents may lie outside the descriptor's folder; default off" },
	{ 0 },
};

static const struct td_option create_options[] = {
	{ "subformat", TD_STRING, offsetof(struct vmdk_create_options, subformat),
	  "monolithicSparse (default), monolithicFlat, twoGbMaxExtentSparse, "
	  "twoGbMaxExtentFlat, vmfs, streamOptimized" },
	{ "zeroed_grain", TD_BOOL, offsetof(struct vmdk_create_options, zeroed_grain),
	  "grains of zeroes take no space; version 2; default off" },
	{ 0 },
};

const struct td_driver vmdk_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "vmdk",
	.summary = "VMDK: sparse, flat or split images, and deltas over others",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS |
	       TD_CAN_COMPRESS | TD_CAN_STREAM,
	.state_size = sizeof(struct vmdk),
	.req_size = TD_MAP_REQ_SIZE,
	.options = options,
	.open = vmdk_open,
	.close = vmdk_close,
	.submit = vmdk_submit,
	.is_hole = vmdk_is_hole,
	.submit_away = vmdk_submit_away,
	.create = vmdk_create,
	.check = vmdk_check,
	.info = vmdk_info,
	.looks_like = vmdk_looks_like,
	.create_options = create_options,
	.create_size = sizeof(struct vmdk_create_options),
	.repairs = TD_REPAIR_ALL,
	.measure = vmdk_measure,
	.resize = vmdk_resize,
	.set_backing = vmdk_set_backing,
	.unmake = vmdk_unmake,
};
