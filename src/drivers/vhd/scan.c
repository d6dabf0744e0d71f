/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All blocks, looked at together.
 *
 * Before it is written an image is put in order: what lies between the last block and
 * the footer is nobody's (a killed writer's room) and is cut off; a footer that a
 * power cut has taken is written from its copy; a batmap that cannot be relied on is
 * emptied. A block that passes the end of the file is somebody else's to repair.
 *
 * Check asks in addition whether two things have the same place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/vhd/vhd.h"

#include "base/guard.h"

#define CHUNK (64 * KiB)
#define BLOCKS_MAX (1ull << 27)

/* ---- prepare ---------------------------------------------------------------------- */

/* Whatever else lies in the file. */
static uint64_t end_of_tables(const struct vhd *vhd)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t size = td_file_size(vhd->file);
	uint64_t end = max_u64(from_be64(layout->footer.header_at) + sizeof(struct vhd_header),
			       layout->bat_at + vhd_bat_len(layout));

	if (layout->batmap_len || layout->batmap_wrong)
		end = max_u64(end, layout->bat_at + vhd_bat_len(layout) + 512);
	end = max_u64(end, layout->batmap_at + layout->batmap_len);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *locator = &layout->header.locator[i];
		uint64_t at = from_be64(locator->at);
		uint64_t len = max_u64(from_be32(locator->space), from_be32(locator->len));

		if (locator->code[0] && at < size && len < size - at)
			end = max_u64(end, at + len);
	}
	return round_up(end, 512);
}

static int scan_entries(struct vhd *vhd, const be32 *entry, uint64_t first, uint64_t count,
			uint64_t limit, uint64_t *end, struct td_why *why)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t len = layout->bitmap + vhd_block(layout);

	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = from_be32(entry[i]) * 512ull;

		if (from_be32(entry[i]) == VHD_NO_BLOCK) {
			if (vhd_is_full(vhd, first + i))
				vhd->layout.batmap_wrong = true;
			continue;
		}
		if (at < 512 || at > limit || len > limit - at)
			return td_fail(why, -EINVAL, "%s: its block %llu, at %llu, does not lie in the "
				       "file: it can be opened read-only", td_file_path(vhd->file),
				       (unsigned long long)(first + i), (unsigned long long)at);
		*end = max_u64(*end, at + len);
	}
	return 0;
}

static int scan(struct vhd *vhd, uint64_t *end, struct td_why *why)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t limit = layout->has_footer ? layout->footer_at : td_file_size(vhd->file);
	AUTO_FREE be32 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	*end = end_of_tables(vhd);
	for (uint64_t i = 0, n; !err && i < layout->entries; i += n) {
		n = min_u64(layout->entries - i, CHUNK / 4);
		err = td_file_read(vhd->file, buf, n * 4, layout->bat_at + i * 4);
		if (!err && (err = scan_entries(vhd, buf, i, n, limit, end, why)))
			return err;
	}
	return err ? td_fail(why, err, "%s: cannot read its block table",
			     td_file_path(vhd->file)) : 0;
}

/* An empty one says nothing that is wrong. A power cut leaves one whose checksum is
 * not that of the bits: this is done again then. */
static int batmap_empty(struct vhd *vhd)
{
	struct vhd_layout *layout = &vhd->layout;
	uint64_t at = layout->bat_at + vhd_bat_len(layout);
	AUTO_FREE void *zeroes = calloc(1, max_u64(layout->batmap_len, 512));
	be32 checksum = to_be32(UINT32_MAX);
	int err;

	free(vhd->full);
	vhd->full = NULL;
	if (!layout->batmap_len) /* not even its place: it goes */
		return zeroes ? td_file_write(vhd->file, zeroes, 8, at) : -ENOMEM;
	err = zeroes ? td_file_write(vhd->file, zeroes, layout->batmap_len, layout->batmap_at) :
		       -ENOMEM;
	if (!err)
		err = td_file_write(vhd->file, &checksum, sizeof(checksum),
				    at + offsetof(struct vhd_batmap, checksum));
	return err;
}

int vhd_prepare(struct vhd *vhd, uint64_t *end, struct td_why *why)
{
	struct vhd_layout *layout = &vhd->layout;
	bool changed = false;
	int err = scan(vhd, end, why);

	if (err)
		return err;
	if (layout->batmap_wrong) {
		err = batmap_empty(vhd);
		layout->batmap_wrong = false;
		changed = true;
	}
	if (!err && (!layout->has_footer || layout->footer_at > round_up(*end, VHD_ALIGN) ||
		     td_file_size(vhd->file) != layout->footer_at + sizeof(layout->footer))) {
		layout->footer_at = *end;
		err = td_file_write(vhd->file, &layout->footer, sizeof(layout->footer), *end);
		if (!err)
			err = td_file_truncate(vhd->file, *end + sizeof(layout->footer));
		layout->has_footer = changed = true;
	}
	if (!err && !layout->has_copy) {
		err = td_file_write(vhd->file, &layout->footer, sizeof(layout->footer), 0);
		layout->has_copy = changed = true;
	}
	if (!err && changed)
		err = td_file_sync(vhd->file);
	*end = round_up(layout->footer_at, VHD_ALIGN);
	return err ? td_fail(why, err, "%s: cannot put it in order: %s", td_file_path(vhd->file),
			     strerror(-err)) : 0;
}

/* ---- check ------------------------------------------------------------------------ */

struct place {
	uint32_t sector, block;
};

struct walk {
	struct vhd *vhd;
	struct td_check *check;
	uint64_t limit;        /* what is used ends there */
	struct place *place;
	uint64_t places;
	uint8_t *bits;         /* a bitmap */
};

/* Calls each() with every entry that names a place. */
static int for_blocks(struct walk *walk, int (*each)(struct walk *, uint64_t block, uint32_t at))
{
	const struct vhd_layout *layout = &walk->vhd->layout;
	AUTO_FREE be32 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0, n; !err && i < layout->entries; i += n) {
		n = min_u64(layout->entries - i, CHUNK / 4);
		err = td_cache_read(walk->vhd->cache, buf, n * 4, layout->bat_at + i * 4);
		for (uint64_t k = 0; k < n && !err; k++)
			if (from_be32(buf[k]) != VHD_NO_BLOCK)
				err = each(walk, i + k, from_be32(buf[k]));
	}
	return err;
}

static int count_block(struct walk *walk, uint64_t block, uint32_t sector)
{
	const struct vhd_layout *layout = &walk->vhd->layout;
	uint64_t at = sector * 512ull, len = layout->bitmap + vhd_block(layout);

	if (at < 512 || at > walk->limit || len > walk->limit - at)
		td_check_found(walk->check, "block %llu, at %llu, does not lie in the file",
			       (unsigned long long)block, (unsigned long long)at);
	else
		walk->places++;
	return 0;
}

/* The batmap may say that a block is full only if its bitmap does. */
static int check_full(struct walk *walk, uint64_t block, uint64_t at)
{
	const struct vhd_layout *layout = &walk->vhd->layout;
	uint64_t sectors = min_u64(vhd_block(layout),
				   layout->size - min_u64(layout->size, block << layout->block_bits)) / 512;
	int err;

	if (!vhd_is_full(walk->vhd, block))
		return 0;
	err = td_cache_read(walk->vhd->cache, walk->bits, layout->bitmap, at);
	for (uint64_t i = 0; i < sectors && !err; i++)
		if (!(walk->bits[i / 8] & vhd_bit(layout, i))) {
			td_check_found(walk->check,
				       "block %llu: the batmap says that it is full, and its bitmap does not",
				       (unsigned long long)block);
			break;
		}
	return err;
}

static int note_block(struct walk *walk, uint64_t block, uint32_t sector)
{
	const struct vhd_layout *layout = &walk->vhd->layout;
	uint64_t at = sector * 512ull, len = layout->bitmap + vhd_block(layout);

	if (at < 512 || at > walk->limit || len > walk->limit - at)
		return 0;
	walk->place[walk->places++] = (struct place){ sector, block };
	return check_full(walk, block, at);
}

static int by_sector(const void *a_, const void *b_)
{
	const struct place *a = a_, *b = b_;

	return a->sector < b->sector ? -1 : a->sector > b->sector;
}

static bool is_table(const struct vhd *vhd, uint64_t at, uint64_t len)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t header = from_be64(layout->footer.header_at);

	return (at < header + sizeof(struct vhd_header) && header < at + len) ||
	       (at < layout->bat_at + layout->entries * 4 && layout->bat_at < at + len) ||
	       (at < layout->batmap_at + layout->batmap_len && layout->batmap_at < at + len);
}

/* How many blocks would fit between. */
static uint64_t room_for(const struct vhd_layout *layout, uint64_t from, uint64_t to)
{
	from = round_up(from, VHD_ALIGN);
	to = round_down(to, VHD_ALIGN);
	return to > from ? (to - from) / vhd_stride(layout) : 0;
}

/* Blocks in the order of the file: none on another, and no room for one between. */
static void check_places(struct walk *walk)
{
	const struct vhd_layout *layout = &walk->vhd->layout;
	uint64_t len = layout->bitmap + vhd_block(layout), end = end_of_tables(walk->vhd);

	qsort(walk->place, walk->places, sizeof(*walk->place), by_sector);
	for (uint64_t i = 0; i < walk->places; i++) {
		uint64_t at = walk->place[i].sector * 512ull;

		if (is_table(walk->vhd, at, len))
			td_check_found(walk->check, "block %u, at %llu, lies on a table",
				       walk->place[i].block,
				       (unsigned long long)at);
		if (i && at < walk->place[i - 1].sector * 512ull + len)
			td_check_found(walk->check,
				       "blocks %u and %u, at %llu, have the same place",
				       walk->place[i - 1].block, walk->place[i].block,
				       (unsigned long long)at);
		else
			walk->check->leaks += room_for(layout, end, at);
		end = max_u64(end, at + len);
	}
	walk->check->leaks += room_for(layout, end, walk->limit);
}

static int check_blocks(struct walk *walk)
{
	int err = for_blocks(walk, count_block);

	if (err)
		return err;
	if (walk->places > BLOCKS_MAX)
		return -E2BIG;
	walk->place = malloc((walk->places + 1) * sizeof(*walk->place));
	walk->bits = malloc(walk->vhd->layout.bitmap);
	if (!walk->place || !walk->bits)
		return -ENOMEM;
	walk->places = 0;
	err = for_blocks(walk, note_block);
	if (!err)
		check_places(walk);
	return err;
}

int vhd_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct vhd *vhd = img->state;
	const struct vhd_layout *layout = &vhd->layout;
	struct walk walk = { .vhd = vhd, .check = check };
	int err;

	if (layout->type == VHD_FIXED) {
		check->allocated = check->total = 1;
		return 0;
	}
	walk.limit = layout->has_footer ? layout->footer_at : td_file_size(vhd->file);
	if (vhd->space)
		walk.limit = td_space_end(vhd->space);
	/* what opening for writing puts right */
	check->leaks += !layout->has_footer + !layout->has_copy + layout->batmap_wrong;
	err = check_blocks(&walk);
	check->total = ((layout->size - 1) >> layout->block_bits) + 1;
	check->allocated = walk.places;
	free(walk.place);
	free(walk.bits);
	return err ? td_fail(why, err, "%s: cannot be checked: %s", td_file_path(vhd->file),
			     strerror(-err)) : 0;
}
