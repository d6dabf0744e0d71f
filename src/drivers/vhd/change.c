/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the image as a whole: its size, its parent. They block; no request is under
 * way. The map is closed meanwhile, and opened again.
 *
 * What is in force changes by one write of a sector: the footer at the end, which names
 * the header, or the header's first one, which names the block table. Room for a new one
 * of either is made at the end: the footer is written behind it first, then zeroed where
 * it was. So it is always found.
 */
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/rule.h"
#include "drivers/vhd/vhd.h"

#define HOME 512          /* where a header should be: some readers look nowhere else */
#define CHUNK (64 * KiB)

static int write_synced(struct vhd *vhd, const void *data, size_t len, uint64_t at)
{
	int err = td_file_write(vhd->file, data, len, at);

	return err ? err : td_file_sync(vhd->file);
}

static int write_zeroes(struct vhd *vhd, uint64_t at, uint64_t end)
{
	AUTO_FREE char *zeroes = calloc(1, CHUNK);
	int err = zeroes ? 0 : -ENOMEM;

	for (uint64_t n; at < end && !err; at += n) {
		n = min_u64(end - at, CHUNK);
		err = td_file_write(vhd->file, zeroes, n, at);
	}
	return err;
}

static int zero_range(struct vhd *vhd, uint64_t at, uint64_t end)
{
	int err = write_zeroes(vhd, at, end);

	return err ? err : td_file_sync(vhd->file);
}

/* The footer, as it is, goes to the new end of the file; *at: room begins where it was. */
static int room_at_end(struct vhd *vhd, uint64_t len, uint64_t *at)
{
	struct vhd_layout *layout = &vhd->layout;
	int err = write_synced(vhd, &layout->footer, sizeof(layout->footer),
			       layout->footer_at + len);

	*at = layout->footer_at;
	layout->footer_at += len;
	return err ? err : zero_range(vhd, *at, *at + sizeof(layout->footer));
}

/* Another footer is in force, and then its copy. */
static int put_footer(struct vhd *vhd, struct vhd_footer *footer)
{
	int err;

	vhd_footer_seal(footer);
	err = write_synced(vhd, footer, sizeof(*footer), vhd->layout.footer_at);
	if (!err && vhd->layout.type != VHD_FIXED)
		err = write_synced(vhd, footer, sizeof(*footer), 0);
	if (!err)
		vhd->layout.footer = *footer;
	return err;
}

/* The footer may have gone on since the image was opened. */
static void close_map(struct vhd *vhd)
{
	vhd_close_map(vhd);
	vhd->layout.footer_at = td_file_size(vhd->file) - sizeof(vhd->layout.footer);
}

/* The file has been changed, or should have been: err. */
static int open_again(struct vhd *vhd, int err, struct td_why *why)
{
	struct vhd_choice choice = { .subformat = vhd->subformat, .size = vhd->size_from };
	struct td_why again;
	int end = vhd_layout_read(vhd->file, &choice, &vhd->layout, err ? &again : why);

	if (!end && vhd->layout.type != VHD_FIXED)
		end = vhd_open_map(vhd, err ? &again : why);
	return err ? err : end;
}

/* ---- size ---------------------------------------------------------------------------- */

/* Whoever made it: a geometry cannot tell every size, and here it would be believed. */
static void set_size(struct vhd *vhd, struct vhd_footer *footer, uint64_t size)
{
	uint32_t version = from_be32(footer->app_version);

	footer->current_size = to_be64(size);
	vhd_geometry(footer, size);
	if (memcmp(footer->app, "tap", 4) || version != 1) {
		memcpy(footer->app, "tap", 4);
		footer->app_version = to_be32(0x10001);
	}
}

int vhd_end_fixed(struct vhd *vhd, struct td_why *why)
{
	uint64_t end = vhd->layout.footer_at + sizeof(vhd->layout.footer);
	int err = 0;

	if (td_file_size(vhd->file) > end && !td_file_is_device(vhd->file))
		err = td_file_truncate(vhd->file, end);
	return err ? td_fail(why, err, "%s: cannot make it %llu bytes: %s", td_file_path(vhd->file),
			     (unsigned long long)end, strerror(-err)) : 0;
}

/* What follows the disk is zeroed; the footer stays the old one until then. It moves in steps,
 * so that it can be found if the file is longer and the footer has not come there. */
static int grow_fixed(struct vhd *vhd, uint64_t size)
{
	struct vhd_layout *layout = &vhd->layout;
	struct vhd_footer footer = layout->footer;
	uint64_t at = layout->footer_at;
	int err = zero_range(vhd, layout->size, min_u64(size, at));

	while (!err && size > layout->footer_at)
		err = room_at_end(vhd, min_u64(size - layout->footer_at, VHD_FIXED_STEP), &at);
	set_size(vhd, &footer, size);
	return err ? err : put_footer(vhd, &footer);
}

/* The block table with more entries, in its place or at the end. */
static int grow_table(struct vhd *vhd, uint64_t entries)
{
	struct vhd_layout *layout = &vhd->layout;
	uint64_t old = vhd_bat_len(layout), len = round_up(entries * 4, 512);
	AUTO_FREE char *table = malloc(len);
	uint64_t at = layout->bat_at;
	struct vhd_header header = layout->header;
	int err = table ? td_file_read(vhd->file, table, old, at) : -ENOMEM;

	if (err)
		return err;
	memset(table + layout->entries * 4, 0xff, len - layout->entries * 4);
	if (len > old)
		err = room_at_end(vhd, len, &at);
	if (!err)
		err = td_file_write(vhd->file, table, len, at);
	if (!err && td_rule("vhd-table-before-header"))
		err = td_file_sync(vhd->file);
	header.bat_at = to_be64(at);
	header.entries = to_be32(entries);
	vhd_header_seal(&header);
	return err ? err : write_synced(vhd, &header, 512, from_be64(layout->footer.header_at));
}

static int grow_blocks(struct vhd *vhd, uint64_t size)
{
	struct vhd_layout *layout = &vhd->layout;
	uint64_t entries = ((size - 1) >> layout->block_bits) + 1;
	struct vhd_footer footer = layout->footer;
	int err = 0;

	if (entries > layout->entries)
		err = grow_table(vhd, entries);
	set_size(vhd, &footer, size);
	return err ? err : put_footer(vhd, &footer);
}

/* What blocks hold past the end of the disk. */
static int zero_hidden(struct vhd *vhd, uint64_t size)
{
	struct vhd_layout *layout = &vhd->layout;
	uint64_t end = min_u64(round_up(size, vhd_block(layout)),
			       layout->entries << layout->block_bits);
	int err;

	td_cache_block(vhd->cache, true);
	err = td_map_zero(vhd->map, layout->size, end);
	if (!err)
		err = td_cache_sync(vhd->cache);
	close_map(vhd);
	return err;
}

int vhd_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct vhd *vhd = img->state;
	struct vhd_layout *layout = &vhd->layout;
	const char *path = td_file_path(vhd->file);
	int err;

	if (size < layout->size)
		return td_fail(why, -ENOTSUP, "%s: a VHD cannot be made smaller", path);
	if (size % 512 || size > VHD_SIZE_MAX)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; a VHD has a multiple of 512 up "
			       "to 2040 GiB", path, (unsigned long long)size);
	if (layout->type == VHD_FIXED && td_file_is_device(vhd->file))
		return td_fail(why, -ENOTSUP, "%s: a VHD on a block device ends where it ends", path);
	if (img->below && img->below->size > layout->size)
		return td_fail(why, -ENOTSUP, "%s: its parent is larger than it is, and more of that "
			       "would be seen", path);
	if (layout->type == VHD_FIXED) {
		err = grow_fixed(vhd, size);
	} else {
		err = zero_hidden(vhd, size);
		if (!err)
			err = grow_blocks(vhd, size);
	}
	if (err)
		td_fail(why, err, "%s: cannot be made %llu bytes: %s", path,
			(unsigned long long)size, strerror(-err));
	err = open_again(vhd, err, why);
	img->size = layout->size;
	return err;
}

/* ---- the parent ------------------------------------------------------------------------ */

/* A header and its locators, as they will lie in the file. */
struct place {
	struct vhd_header header;
	struct vhd_parent parent;
	uint64_t len;
};

static int compose(struct vhd *vhd, const char *backing, const char *format, uint64_t at,
		   struct place *out, struct td_why *why)
{
	int err = 0;

	out->header = vhd->layout.header;
	out->len = sizeof(out->header);
	out->parent.count = 0;
	vhd_parent_clear(&out->header);
	if (backing)
		err = vhd_parent_name(td_file_path(vhd->file), backing, format, vhd->img->files,
				      at + out->len, &out->header, &out->parent, why);
	for (unsigned i = 0; i < out->parent.count; i++)
		out->len += round_up(out->parent.len[i], 512);
	vhd_header_seal(&out->header);
	return err;
}

static int put_place(struct vhd *vhd, const struct place *place, uint64_t at, bool parent)
{
	struct vhd_footer footer = vhd->layout.footer;
	uint64_t pos = at + sizeof(place->header);
	int err = td_file_write(vhd->file, &place->header, sizeof(place->header), at);

	for (unsigned i = 0; i < place->parent.count && !err; i++) {
		err = td_file_write(vhd->file, place->parent.name[i], place->parent.len[i], pos);
		pos += round_up(place->parent.len[i], 512);
	}
	if (!err && td_rule("vhd-header-before-footer"))
		err = td_file_sync(vhd->file);
	footer.header_at = to_be64(at);
	footer.type = to_be32(parent ? VHD_DIFFERENCING : VHD_DYNAMIC);
	return err ? err : put_footer(vhd, &footer);
}

/* How far the header that is in force, and its locators, reach from where a header should be;
 * 0: it is elsewhere. */
static uint64_t home_len(const struct vhd_layout *layout)
{
	uint64_t end = HOME + sizeof(layout->header);

	if (from_be64(layout->footer.header_at) != HOME)
		return 0;
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *locator = &layout->header.locator[i];

		if (locator->code[0] && from_be64(locator->at) == end)
			end += round_up(min_u64(from_be32(locator->len), VHD_LOCATOR_MAX), 512);
	}
	return end - HOME;
}

/* First to the end; and, when that is in force, back to where a header should be. */
static int put_parent(struct vhd *vhd, const char *backing, const char *format,
		      struct td_why *why)
{
	AUTO_FREE struct place *place = calloc(1, sizeof(*place));
	uint64_t home = home_len(&vhd->layout), at = vhd->layout.footer_at;
	int err = place ? compose(vhd, backing, format, at, place, why) : -ENOMEM;

	if (!err)
		err = room_at_end(vhd, place->len, &at);
	if (!err)
		err = put_place(vhd, place, at, backing);
	if (err || place->len > home)
		return err;
	err = compose(vhd, backing, format, HOME, place, why);
	return err ? err : put_place(vhd, place, HOME, backing);
}

/* Calls each() with what blocks have room for, and is not there. */
static int for_absent(struct vhd *vhd, int (*each)(struct vhd *vhd, uint64_t offset,
						   const struct td_spot *spot))
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t end = layout->entries << layout->block_bits;
	struct td_park nobody = { 0 };
	struct td_spot spot;
	int err = 0;

	for (uint64_t at = 0; at < end && !err; at += spot.len) {
		err = vhd_ops.find(vhd->img, &nobody, at, end - at, &spot);
		if (!err && spot.kind == TD_SPOT_HOLE && spot.placed)
			err = each(vhd, at, &spot);
	}
	return err;
}

static int zero_absent(struct vhd *vhd, uint64_t offset, const struct td_spot *spot)
{
	return write_zeroes(vhd, spot->at, spot->at + spot->len);
}

static int show_absent(struct vhd *vhd, uint64_t offset, const struct td_spot *spot)
{
	struct td_park nobody = { 0 };
	uint64_t len = spot->len;
	int err = td_cache_room(vhd->cache, &nobody);

	if (!err)
		err = vhd_ops.ready(vhd->img, &nobody, offset, &len);
	return err ? err : vhd_ops.set(vhd->img, offset, len, spot->at);
}

/* Without a parent others do not look at bitmaps: what is not there becomes zeroes while
 * nobody sees it, and then there. */
int vhd_set_backing(struct td_image *img, const char *backing, const char *format,
		    struct td_why *why)
{
	struct vhd *vhd = img->state;
	const char *path = td_file_path(vhd->file);
	int err;

	if (vhd->layout.type == VHD_FIXED)
		return td_fail(why, -ENOTSUP, "%s: a fixed VHD lies over nothing", path);
	why->text[0] = 0;
	td_cache_block(vhd->cache, true);
	err = backing ? 0 : for_absent(vhd, zero_absent);
	if (!err)
		err = td_cache_sync(vhd->cache);
	close_map(vhd);
	if (!err)
		err = td_file_sync(vhd->file);
	if (!err)
		err = put_parent(vhd, backing, format, why);
	if (err && !why->text[0])
		td_fail(why, err, "%s: cannot name %s as its parent: %s", path,
			backing ? backing : "none", strerror(-err));
	err = open_again(vhd, err, why);
	if (err || backing)
		return err;
	td_cache_block(vhd->cache, true);
	err = for_absent(vhd, show_absent);
	if (!err)
		err = td_cache_sync(vhd->cache);
	td_cache_block(vhd->cache, false);
	return err ? td_fail(why, err, "%s: lies over nothing now, but not all of its bitmaps could "
			     "be written: %s", path, strerror(-err)) : 0;
}
