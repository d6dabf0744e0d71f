/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the image as a whole: its size, its parent. They block; no request is under
 * way.
 *
 * What entries must be beforehand they become while the image is open as ever: each of
 * them means the same before and after. Then the map is closed, what the metadata says is
 * changed by one entry of the log, and the map is opened again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "drivers/vhdx/vhdx.h"

#define CHUNK (64 * KiB)
#define PAGES 24          /* a table of items, a locator, values */

/* ---- one entry of the log --------------------------------------------------------- */

struct edit {
	struct vhdx *vhdx;
	uint64_t at[PAGES];
	uint8_t *page[PAGES];
	unsigned count;
};

static void edit_free(struct edit *edit)
{
	for (unsigned i = 0; i < edit->count; i++)
		free(edit->page[i]);
}

static int edit_page(struct edit *edit, uint64_t at, uint8_t **page)
{
	unsigned i = 0;

	while (i < edit->count && edit->at[i] != at)
		i++;
	if (i == PAGES)
		return -E2BIG;
	if (i == edit->count) {
		edit->page[i] = aligned_alloc(VHDX_PAGE, VHDX_PAGE);
		if (!edit->page[i])
			return -ENOMEM;
		edit->at[i] = at;
		edit->count++;
		int err = td_file_read(edit->vhdx->file, edit->page[i], VHDX_PAGE, at);
		if (err)
			return err;
	}
	*page = edit->page[i];
	return 0;
}

static int edit_put(struct edit *edit, uint64_t at, const void *data, size_t len)
{
	int err = 0;

	while (len && !err) {
		uint64_t skip = at % VHDX_PAGE;
		size_t n = min_u64(len, VHDX_PAGE - skip);
		uint8_t *page;

		err = edit_page(edit, at - skip, &page);
		if (!err)
			memcpy(page + skip, data, n);
		data = (const char *)data + n;
		at += n;
		len -= n;
	}
	return err;
}

static int edit_apply(struct edit *edit)
{
	struct vhdx *vhdx = edit->vhdx;
	int err = vhdx_log_open(vhdx->log, &vhdx->layout, true);

	if (err)
		return err;
	vhdx_log_begin(vhdx->log);
	for (unsigned i = 0; i < edit->count; i++)
		vhdx_log_add(vhdx->log, edit->at[i], edit->page[i]);
	err = vhdx_log_apply(vhdx->log, td_file_size(vhdx->file));
	return err ? err : vhdx_log_close(vhdx->file, &vhdx->layout);
}

/* ---- closed, and open again ------------------------------------------------------- */

/* All that the tables hold is in the file; the log is empty, and may be used here. */
static int close_map(struct vhdx *vhdx, struct td_why *why)
{
	int err;

	vhdx_close_map(vhdx);
	err = vhdx_headers_read(vhdx->file, &vhdx->layout, why);
	if (!err && !vhdx_guid_is(&vhdx->layout.header[vhdx->layout.current].log, &vhdx_guid_none))
		err = td_fail(why, -EIO, "%s: its tables could not be written",
			      td_file_path(vhdx->file));
	return err ? err : vhdx_log_new(vhdx->file, &vhdx->layout, &vhdx->log);
}

/* The file has been changed, or should have been: err. */
static int open_again(struct vhdx *vhdx, int err, struct td_why *why)
{
	struct td_why again;
	int end;

	vhdx_close_map(vhdx);
	end = vhdx_read_file(vhdx, err ? &again : why);
	if (!end)
		end = vhdx_open_map(vhdx, err ? &again : why);
	return err ? err : end;
}

/* ---- entries ---------------------------------------------------------------------- */

/* Calls each() with the entry that is there, which it may change. */
static int change_entry(struct vhdx *vhdx, uint64_t at, uint64_t (*each)(uint64_t entry))
{
	struct td_park nobody = { 0 };
	int err = td_cache_room(vhdx->cache, &nobody);
	uint64_t becomes;
	le64 entry;
	void *page;

	if (!err)
		err = td_cache_get(vhdx->cache, at, &nobody, &page);
	if (err)
		return err;
	memcpy(&entry, page, sizeof(entry));
	becomes = each(from_le64(entry));
	if (becomes == from_le64(entry))
		return 0;
	td_cache_dirty(vhdx->cache, page, VHDX_TABLE_STAGE);
	td_set64(page, htole64(becomes));
	return 0;
}

static int for_blocks(struct vhdx *vhdx, uint64_t first, uint64_t end,
		      uint64_t (*each)(uint64_t entry))
{
	int err = 0;

	for (uint64_t block = first; block < end && !err; block++)
		err = change_entry(vhdx, vhdx_entry_at(&vhdx->layout, block), each);
	return err;
}

/* All that the table has room for: an image without a parent may have less. */
static int for_bitmaps(struct vhdx *vhdx, uint64_t (*each)(uint64_t entry))
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t chunks = ((layout->blocks - 1) >> layout->ratio_bits) + 1;
	int err = 0;

	for (uint64_t chunk = 0; chunk < chunks && !err; chunk++)
		if (vhdx_bitmap_entry_at(layout, chunk) < layout->bat.at + layout->bat.len)
			err = change_entry(vhdx, vhdx_bitmap_entry_at(layout, chunk), each);
	return err;
}

static uint64_t becomes_absent(uint64_t entry)
{
	return VHDX_ABSENT;
}

static uint64_t becomes_zeroes(uint64_t entry)
{
	return VHDX_ZERO;
}

static uint64_t becomes_whole(uint64_t entry)
{
	return vhdx_state(entry) == VHDX_PARTIAL ? vhdx_place(entry) | VHDX_PRESENT : entry;
}

static uint64_t becomes_zero(uint64_t entry)
{
	return vhdx_state(entry) == VHDX_ABSENT ? VHDX_ZERO : entry;
}

/* ---- size ------------------------------------------------------------------------- */

static uint64_t entries_for(const struct vhdx_layout *layout, uint64_t size, bool has_parent)
{
	struct vhdx_layout next = *layout;

	next.size = size;
	next.has_parent = has_parent;
	vhdx_layout_count(&next);
	return next.entries;
}

/* Whether the parent has something where the disk has its end. */
static bool parent_goes_on(const struct vhdx *vhdx)
{
	const struct td_image *below = vhdx->img->below;

	return below && below->size > vhdx->layout.size;
}

/* Sectors of the last block that are the parent's become zeroes of its own. */
static int hide_spot(struct vhdx *vhdx, uint64_t from, const struct td_spot *spot)
{
	AUTO_FREE char *zeroes = spot->placed ? calloc(1, spot->len) : NULL;
	struct td_park nobody = { 0 };
	uint64_t len = spot->len, at;
	int err = td_cache_room(vhdx->cache, &nobody);

	if (!err)
		err = vhdx_ops.ready(vhdx->img, &nobody, from, &len);
	if (!err && !spot->placed) /* in room that reads as zeroes */
		err = vhdx_ops.place(vhdx->img, &nobody, from, &len, &at);
	else if (!err)
		err = zeroes ? td_file_write(vhdx->file, zeroes, spot->len, spot->at) : -ENOMEM;
	td_cache_data(vhdx->cache);
	return err ? err : vhdx_ops.set(vhdx->img, from, spot->len, spot->at);
}

static int hide_parent(struct vhdx *vhdx, uint64_t from, uint64_t to)
{
	struct td_park nobody = { 0 };
	int err = 0;

	while (from < to && !err) {
		struct td_spot spot;

		err = vhdx_ops.find(vhdx->img, &nobody, from, to - from, &spot);
		if (err)
			break;
		spot.len = min_u64(spot.len, to - from);
		if (spot.kind == TD_SPOT_HOLE)
			err = hide_spot(vhdx, from, &spot);
		from += spot.len;
	}
	return err;
}

/* What lies past the end of the disk is zeroes: the rest of the last block, and entries. */
static int zero_hidden(struct vhdx *vhdx, uint64_t size)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t end = min_u64(round_up(layout->size, vhdx_block(layout)), size);
	uint64_t room = layout->bat.len / 8, blocks = ((size - 1) >> layout->block_bits) + 1;
	int err = 0;

	if (end > layout->size)
		err = td_map_zero(vhdx->map, layout->size, end);
	if (!err && parent_goes_on(vhdx))
		err = hide_parent(vhdx, layout->size, end);
	blocks = min_u64(blocks, room - room / ((1ull << layout->ratio_bits) + 1));
	if (!err)
		err = for_blocks(vhdx, layout->blocks, blocks,
				 parent_goes_on(vhdx) ? becomes_zeroes : becomes_absent);
	return err ? err : td_cache_sync(vhdx->cache);
}

/* A fixed one takes its new blocks from the end of the file. */
static int add_blocks(struct vhdx *vhdx, uint64_t size)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t blocks = ((size - 1) >> layout->block_bits) + 1, bits = layout->block_bits;
	uint64_t at = round_up(td_file_size(vhdx->file), VHDX_ALIGN), block = layout->blocks;
	int err = td_file_truncate(vhdx->file, at + ((blocks - block) << bits));

	if (!err)
		err = td_file_sync(vhdx->file);
	for (; block < blocks && !err; block++, at += 1ull << bits) {
		le64 entry = to_le64(at | VHDX_PRESENT);

		err = td_file_write(vhdx->file, &entry, sizeof(entry), vhdx_entry_at(layout, block));
	}
	return err ? err : td_file_sync(vhdx->file);
}

/* Entries from number on, of blocks that are zeroes whatever the parent has. Those of
 * bitmaps are not there yet. */
static int zero_entries(struct vhdx *vhdx, uint64_t to, uint64_t number, uint64_t end)
{
	uint64_t group = (1ull << vhdx->layout.ratio_bits) + 1;
	AUTO_FREE le64 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t n; number < end && !err; number += n) {
		n = min_u64(end - number, CHUNK / 8);
		for (uint64_t i = 0; i < n; i++)
			buf[i] = to_le64((number + i) % group == group - 1 ? VHDX_ABSENT : VHDX_ZERO);
		err = td_file_write(vhdx->file, buf, n * 8, to + number * 8);
	}
	return err;
}

static int copy_table(struct vhdx *vhdx, uint64_t to)
{
	const struct vhdx_span *bat = &vhdx->layout.bat;
	AUTO_FREE char *buf = malloc(CHUNK);
	uint64_t len = vhdx->layout.entries * 8;
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t pos = 0, n; pos < len && !err; pos += n) {
		n = min_u64(len - pos, CHUNK);
		err = td_file_read(vhdx->file, buf, n, bat->at + pos);
		if (!err)
			err = td_file_write(vhdx->file, buf, n, to + pos);
	}
	return err ? err : td_file_sync(vhdx->file);
}

/* Both region tables, one after the other: one of them is always whole, and either is right. */
static int regions_write(struct vhdx *vhdx, uint64_t at, uint64_t len)
{
	AUTO_FREE struct vhdx_regions *regions = malloc(sizeof(*regions));
	int err = regions ? vhdx_regions_read(&vhdx->reader, regions) : -ENOMEM;

	for (unsigned i = 0; !err && i < from_le32(regions->count); i++) {
		struct vhdx_region *region = &regions->region[i];

		if (!vhdx_guid_is(&region->guid, &vhdx_guid_bat))
			continue;
		region->at = to_le64(at);
		region->len = to_le32(len);
	}
	if (!err)
		vhdx_regions_seal(regions);
	for (unsigned i = 0; i < 2 && !err; i++) {
		err = td_file_write(vhdx->file, regions, sizeof(*regions),
				    VHDX_REGIONS_AT + i * VHDX_TABLE);
		if (!err)
			err = td_file_sync(vhdx->file);
	}
	return err;
}

/* The block table gets a place at the end of the file, with room for so many entries. */
static int move_table(struct vhdx *vhdx, uint64_t entries)
{
	uint64_t at = round_up(td_file_size(vhdx->file), VHDX_ALIGN);
	uint64_t len = round_up(entries * 8, VHDX_ALIGN);
	int err = td_file_truncate(vhdx->file, at + len);

	if (!err && parent_goes_on(vhdx))
		err = zero_entries(vhdx, at, vhdx->layout.entries, len / 8);
	if (!err)
		err = copy_table(vhdx, at);
	if (!err)
		err = regions_write(vhdx, at, len);
	if (err)
		return err;
	vhdx->layout.bat = (struct vhdx_span){ at, len };
	return 0;
}

static int write_size(struct vhdx *vhdx, uint64_t size)
{
	struct edit edit = { .vhdx = vhdx };
	le64 value = to_le64(size);
	int err = edit_put(&edit, vhdx->layout.size_at, &value, sizeof(value));

	if (!err)
		err = edit_apply(&edit);
	edit_free(&edit);
	return err;
}

static int grow(struct vhdx *vhdx, uint64_t size, struct td_why *why)
{
	struct vhdx_layout *layout = &vhdx->layout;
	uint64_t entries = entries_for(layout, size, layout->has_parent);
	int err = vhdx_mark_now(vhdx);

	td_cache_block(vhdx->cache, true);
	if (!err)
		err = zero_hidden(vhdx, size);
	if (!err)
		err = close_map(vhdx, why);
	if (!err && entries > layout->bat.len / 8)
		err = move_table(vhdx, entries);
	if (!err && layout->fixed)
		err = add_blocks(vhdx, size);
	return err ? err : write_size(vhdx, size);
}

int vhdx_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct vhdx *vhdx = img->state;
	struct vhdx_layout *layout = &vhdx->layout;
	const char *path = td_file_path(vhdx->file);
	uint32_t sector = 1u << layout->sector_bits;
	int err;

	if (size < layout->size)
		return td_fail(why, -ENOTSUP, "%s: a VHDX cannot be made smaller", path);
	if (size % sector || size > VHDX_SIZE_MAX)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; this VHDX has a multiple of %u "
			       "up to 64 TiB", path, (unsigned long long)size, sector);
	why->text[0] = 0;
	err = grow(vhdx, size, why);
	if (err && !why->text[0])
		td_fail(why, err, "%s: cannot be made %llu bytes: %s", path,
			(unsigned long long)size, strerror(-err));
	err = open_again(vhdx, err, why);
	img->size = layout->size;
	return err;
}

/* ---- the parent ------------------------------------------------------------------- */

/* Sectors of blocks in parts that are not there become zeroes, where nobody sees them. */
static int zero_absent(struct vhdx *vhdx)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t end = layout->blocks << layout->block_bits;
	AUTO_FREE char *zeroes = calloc(1, CHUNK);
	struct td_park nobody = { 0 };
	struct td_spot spot;
	int err = zeroes ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < end && !err; at += spot.len) {
		err = vhdx_ops.find(vhdx->img, &nobody, at, end - at, &spot);
		if (err || spot.kind != TD_SPOT_HOLE || !spot.placed)
			continue;
		for (uint64_t pos = 0, n; pos < spot.len && !err; pos += n) {
			n = min_u64(spot.len - pos, CHUNK);
			err = td_file_write(vhdx->file, zeroes, n, spot.at + pos);
		}
	}
	return err ? err : td_file_sync(vhdx->file);
}

/* Entries that mean the same with a parent, or without one. */
static int prepare_entries(struct vhdx *vhdx, bool parent)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	int err = 0;

	if (layout->has_parent && !parent)
		err = zero_absent(vhdx);
	if (!err && layout->has_parent && !parent)
		err = for_blocks(vhdx, 0, layout->blocks, becomes_whole);
	if (!err && !layout->has_parent && parent)
		err = for_blocks(vhdx, 0, layout->blocks, becomes_zero);
	if (!err && !layout->has_parent && parent) /* what an earlier parent left is not ours */
		err = for_bitmaps(vhdx, becomes_absent);
	return err ? err : td_cache_sync(vhdx->cache);
}

/* The table of items without a locator, or with one that lies behind all others. *at: where. */
static int set_item(struct vhdx *vhdx, struct vhdx_metadata *table, uint32_t len, uint32_t *at)
{
	unsigned count = from_le16(table->count), kept = 0;

	*at = VHDX_TABLE;
	for (unsigned i = 0; i < count; i++) {
		const struct vhdx_item item = table->item[i];

		if (vhdx_guid_is(&item.guid, &vhdx_guid_locator))
			continue;
		*at = max_u64(*at, from_le32(item.at) + from_le32(item.len));
		table->item[kept++] = item;
	}
	memset(&table->item[kept], 0, (count - kept) * sizeof(table->item[0]));
	*at = round_up(*at, VHDX_PAGE);
	if (len && (*at + len > vhdx->layout.metadata.len || kept == VHDX_ENTRIES_MAX))
		return -ENOSPC;
	if (len)
		table->item[kept++] = (struct vhdx_item){ vhdx_guid_locator, to_le32(*at), to_le32(len),
							  to_le32(VHDX_ITEM_REQUIRED), to_le32(0) };
	table->count = to_le16(kept);
	return 0;
}

static int put_parent(struct vhdx *vhdx, const uint8_t *locator, uint32_t len)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	AUTO_FREE struct vhdx_metadata *table = malloc(sizeof(*table));
	struct edit edit = { .vhdx = vhdx };
	le32 flags = to_le32((layout->fixed ? VHDX_LEAVE_ALLOCATED : 0) | (len ? VHDX_HAS_PARENT : 0));
	uint64_t items = sizeof(*table) - sizeof(table->item);
	uint32_t at;
	int err = table ? td_file_read(vhdx->file, table, sizeof(*table), layout->metadata.at) : -ENOMEM;

	if (!err)
		err = set_item(vhdx, table, len, &at);
	if (!err) /* and the one that is not there any more */
		items += min_u64(from_le16(table->count) + 1, VHDX_ENTRIES_MAX) * sizeof(table->item[0]);
	if (!err)
		err = edit_put(&edit, layout->metadata.at, table, items);
	if (!err)
		err = edit_put(&edit, layout->flags_at, &flags, sizeof(flags));
	if (!err && len)
		err = edit_put(&edit, layout->metadata.at + at, locator, len);
	if (!err)
		err = edit_apply(&edit);
	edit_free(&edit);
	return err;
}

static int change_parent(struct vhdx *vhdx, const uint8_t *locator, uint32_t len,
			 struct td_why *why)
{
	struct vhdx_layout *layout = &vhdx->layout;
	uint64_t entries = entries_for(layout, layout->size, len);
	int err = vhdx_mark_now(vhdx);

	td_cache_block(vhdx->cache, true);
	if (!err)
		err = prepare_entries(vhdx, len);
	if (!err)
		err = close_map(vhdx, why);
	if (!err && entries > layout->bat.len / 8)
		err = move_table(vhdx, entries);
	return err ? err : put_parent(vhdx, locator, len);
}

int vhdx_set_backing(struct td_image *img, const char *backing, const char *format,
		     struct td_why *why)
{
	struct vhdx *vhdx = img->state;
	const char *path = td_file_path(vhdx->file);
	struct td_create make = { .path = path, .backing = backing, .backing_format = format,
				  .files = img->files };
	AUTO_FREE uint8_t *locator = calloc(1, VHDX_LOCATOR_MAX);
	uint32_t len = 0;
	int err = 0;

	if (vhdx->layout.fixed)
		return td_fail(why, -ENOTSUP, "%s: a fixed VHDX lies over nothing", path);
	if (!locator)
		return td_fail(why, -ENOMEM, "%s: no memory", path);
	if (backing)
		err = vhdx_parent_name(&make, locator, &len, why);
	if (err)
		return err;
	why->text[0] = 0;
	err = change_parent(vhdx, locator, len, why);
	if (err && !why->text[0])
		td_fail(why, err, "%s: cannot name %s as its parent: %s", path,
			backing ? backing : "none", strerror(-err));
	return open_again(vhdx, err, why);
}
