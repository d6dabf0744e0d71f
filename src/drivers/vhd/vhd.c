/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHD: fixed, dynamic and differencing. docs/vhd.md tells the format and the order of
 * writes; docs/formats.md what does the work; vhd.h names the parts of this driver.
 * A fixed one is a raw image with a footer, and needs none of them.
 */
#include "drivers/vhd/vhd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/uuid.h"

/* ---- open --------------------------------------------------------------------- */

static int open_file(struct vhd *vhd, struct td_why *why)
{
	struct td_image *img = vhd->img;
	struct vhd_choice choice = { .subformat = vhd->subformat, .size = vhd->size_from };
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	int err = td_file_open(img->files, img->target, flags, &vhd->file, why);

	if (!err)
		err = vhd_layout_read(vhd->file, &choice, &vhd->layout, why);
	if (err)
		return err;
	if (vhd->layout.type == VHD_FIXED) {
		if (vhd->backing_format)
			return td_fail(why, -EINVAL, "%s: backing-format= is given, and it has no "
				       "backing file", img->target);
		if (!img->read_only && !td_file_can_discard(vhd->file))
			img->can &= ~TD_CAN_DISCARD;
		return img->read_only ? 0 : vhd_end_fixed(vhd, why);
	}
	return td_refuse_device(img, vhd->file, "a VHD that grows", why);
}

static int read_batmap(struct vhd *vhd, struct td_why *why)
{
	const struct vhd_layout *layout = &vhd->layout;
	int err;

	if (!layout->batmap_len || layout->batmap_wrong)
		return 0;
	vhd->full = malloc(layout->batmap_len);
	err = vhd->full ? td_file_read(vhd->file, vhd->full, layout->batmap_len,
				       layout->batmap_at) : -ENOMEM;
	return err ? td_fail(why, err, "%s: cannot read its batmap", td_file_path(vhd->file)) : 0;
}

int vhd_open_map(struct vhd *vhd, struct td_why *why)
{
	struct td_cache_config cache = { .page = VHD_PAGE, .size = vhd->cache_size,
					 .shows = VHD_SHOWS };
	struct td_map_config config = { .file = vhd->file, .ops = &vhd_ops, .grain = 512,
					.grains_apart = true,
					.unit = vhd_block(&vhd->layout) };
	uint64_t end;
	int err = read_batmap(vhd, why);

	if (!err && !vhd->img->read_only)
		err = vhd_prepare(vhd, &end, why);
	if (!err)
		err = td_cache_new(vhd->img, vhd->file, &cache, &vhd->cache, why);
	if (!err && !vhd->img->read_only)
		err = td_space_new(vhd->img, vhd->file, vhd->cache, VHD_ALIGN, end, &vhd->space, why);
	if (!err && vhd->space)
		err = td_space_tail(vhd->space, &vhd->layout.footer, sizeof(vhd->layout.footer),
				    vhd->layout.footer_at, why);
	if (err)
		return err;
	config.cache = vhd->cache;
	config.space = vhd->space;
	return td_map_new(vhd->img, &config, &vhd->map, why);
}

void vhd_close_map(struct vhd *vhd)
{
	td_map_free(vhd->map);
	td_cache_free(vhd->cache);
	td_space_free(vhd->space);
	free(vhd->full);
	vhd->map = NULL;
	vhd->cache = NULL;
	vhd->space = NULL;
	vhd->full = NULL;
}

static void vhd_close(struct td_image *img)
{
	struct vhd *vhd = img->state;

	vhd_close_map(vhd);
	td_file_close(vhd->file);
	free(vhd->parent);
}

static int vhd_open(struct td_image *img, struct td_why *why)
{
	struct vhd *vhd = img->state;
	int err;

	vhd->img = img;
	err = open_file(vhd, why);
	if (!err && vhd->layout.type != VHD_FIXED)
		err = vhd_parent_open(vhd, why);
	if (!err && vhd->layout.type != VHD_FIXED)
		err = vhd_open_map(vhd, why);
	if (err) {
		vhd_close(img);
		return err;
	}
	img->size = vhd->layout.size;
	img->block_size = 512;
	img->cluster = vhd->map ? min_u64(vhd_block(&vhd->layout), 64 * KiB) : 0;
	return 0;
}

static void vhd_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vhd *vhd = img->state;

	if (vhd->map)
		td_map_submit(vhd->map, req);
	else if (vhd->layout.type != VHD_FIXED)
		td_end(req, -EIO); /* it could not be changed as a whole */
	else
		td_io(req, vhd->file, req->offset);
}

static bool vhd_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct vhd *vhd = img->state;

	if (vhd->map)
		return td_map_submit_away(vhd->map, req);
	if (vhd->layout.type != VHD_FIXED)
		return false;
	td_io(req, vhd->file, req->offset);
	return true;
}

static bool vhd_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	struct vhd *vhd = img->state;

	return vhd->map && td_map_is_hole(vhd->map, offset, len);
}

/* ---- info ------------------------------------------------------------------------ */

static void put_uuid(td_info_put *put, void *arg, const char *key, const uint8_t uuid[16])
{
	char text[TD_UUID_TEXT];

	td_uuid_text(uuid, TD_UUID_BIG, text);
	put(arg, key, text);
}

static void put_creator(td_info_put *put, void *arg, const struct vhd_footer *footer)
{
	uint32_t version = from_be32(footer->app_version);
	char text[64];

	snprintf(text, sizeof(text), "%.4s %u.%u", footer->app, version >> 16, version & 0xffff);
	for (char *p = text; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	put(arg, "creator", text);
}

static int vhd_info(struct td_image *img, td_info_put *put, void *arg)
{
	static const char *const subformats[] = { "fixed", "dynamic", "differencing" };
	const struct vhd *vhd = img->state;
	const struct vhd_layout *layout = &vhd->layout;
	const struct vhd_footer *footer = &layout->footer;
	char text[64];

	put(arg, "subformat", subformats[layout->type - VHD_FIXED]);
	td_info_number(put, arg, "current-size", from_be64(footer->current_size));
	td_info_number(put, arg, "original-size", from_be64(footer->original_size));
	snprintf(text, sizeof(text), "%u/%u/%u", from_be16(footer->cylinders), footer->heads,
		 footer->sectors);
	put(arg, "geometry", text);
	put_creator(put, arg, footer);
	put_uuid(put, arg, "identity", footer->uuid);
	td_info_number(put, arg, "file-length", td_file_size(vhd->file));
	if (footer->hidden)
		put(arg, "hidden", "yes");
	if (layout->type == VHD_FIXED)
		return 0;
	td_info_number(put, arg, "block-size", vhd_block(layout));
	td_info_number(put, arg, "blocks", layout->entries);
	put(arg, "batmap", vhd->full ? "yes" : layout->batmap_wrong ? "damaged" : "no");
	if (!layout->has_footer)
		put(arg, "footer", "missing at the end");
	else if (!layout->has_copy)
		put(arg, "footer", "the copy at the beginning is another");
	if (vhd->parent) {
		put(arg, "backing-file", vhd->parent);
		if (img->below)
			put(arg, "backing-format", img->below->driver->name);
		put_uuid(put, arg, "backing-identity", layout->header.parent_uuid);
	}
	return 0;
}

static const struct td_option options[] = {
	TD_MAP_OPTION_CACHE(struct vhd, cache_size),
	{ "backing-format", TD_STRING, offsetof(struct vhd, backing_format),
	  "of the parent; default: vhd, or aio where the image names no identity" },
	TD_SUBFORMAT_OPTIONS(struct vhd, subformat,
			     "fixed or dynamic, where the image can be read as either"),
	{ "size-from", TD_STRING, offsetof(struct vhd, size_from),
	  "chs or current; default: by the program that made it" },
	{ 0 },
};

extern const struct td_driver vhd_driver;
const struct td_driver vhd_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "vhd",
	.summary = "VHD of Virtual PC, Hyper-V and XenServer: fixed, dynamic or differencing",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS,
	.state_size = sizeof(struct vhd),
	.req_size = TD_MAP_REQ_SIZE,
	.options = options,
	.open = vhd_open,
	.close = vhd_close,
	.submit = vhd_submit,
	.is_hole = vhd_is_hole,
	.submit_away = vhd_submit_away,
	.create = vhd_create,
	.check = vhd_check,
	.info = vhd_info,
	.looks_like = vhd_looks_like,
	.create_options = vhd_create_options,
	.create_size = sizeof(struct vhd_create_options),
	.measure = vhd_measure,
	.repairs = TD_REPAIR_LEAKS, /* when it is opened for writing */
	.resize = vhd_resize,
	.set_backing = vhd_set_backing,
};
