/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A larger disk. The map needs more entries; where there is no room for them before the
 * data, the first blocks make room, and a new map lies where they were:
 *
 *     header | map | 0 | 1 | 2 | 3 |              the first two blocks are copied to the end,
 *     header | map |       | 2 | 3 | 0 | 1 |      the map shows them there: places without
 *     header |     | map   | 0 | 1 | 2 | 3 |      an owner; a new map, and the header names it
 *
 * All that the header says changes by one write of its sector, when everything it names is
 * durable. What is cut short is put in order when it is opened the next time.
 */
#include "drivers/vdi/vdi.h"

#include <stdlib.h>
#include <string.h>

#include "base/guard.h"

#define CHUNK (64 * KiB)

static int write_header(struct vdi *vdi, const struct vdi_layout *now)
{
	struct vdi_header header = vdi->layout.header;
	int err;

	header.map_at = to_le32(now->map_at);
	header.data_at = to_le32(now->data_at);
	header.size = to_le64(now->size);
	header.blocks = to_le32(now->blocks);
	header.used = to_le32(now->used);
	err = td_rule("vdi-map-before-header") ? td_file_sync(vdi->file) : 0;
	if (!err)
		err = td_file_write(vdi->file, &header, sizeof(header), 0);
	return err ? err : td_file_sync(vdi->file);
}

/* The places [0, count) go to where base is. */
static int copy_places(struct vdi *vdi, uint64_t count, uint64_t base)
{
	int err = 0;

	for (uint64_t i = 0; i < count && !err; i++)
		err = vdi_copy_block(vdi, i, base + i);
	return err;
}

/* Writes the entries [first, first + count) of a map at that place of the file: those
 * that were, as change() has them, and places from *next on, or none. */
struct entries {
	struct vdi *vdi;
	uint64_t at;          /* of the map that is written */
	uint64_t below, base; /* places below that are now from base on */
	uint64_t less;        /* all places are so many less */
	uint64_t next;        /* UINT64_MAX: new blocks have no place */
};

static le32 entry_now(struct entries *to, uint64_t block, le32 was)
{
	uint64_t place = from_le32(was);

	if (block >= to->vdi->layout.blocks)
		return to_le32(to->next == UINT64_MAX ? VDI_NO_BLOCK : to->next++);
	if (place >= VDI_ZERO_BLOCK)
		return was;
	return to_le32((place < to->below ? to->base + place : place) - to->less);
}

static int write_entries(struct entries *to, uint64_t first, uint64_t end)
{
	const struct vdi_layout *layout = &to->vdi->layout;
	AUTO_FREE le32 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = first, n; i < end && !err; i += n) {
		uint64_t had = i < layout->blocks ? layout->blocks - i : 0;

		n = min_u64(end - i, CHUNK / 4);
		had = min_u64(had, n);
		if (had)
			err = td_file_read(to->vdi->file, buf, had * 4, layout->map_at + i * 4);
		for (uint64_t k = 0; k < n && !err; k++)
			buf[k] = entry_now(to, i + k, k < had ? buf[k] : to_le32(VDI_NO_BLOCK));
		if (!err)
			err = td_file_write(to->vdi->file, buf, n * 4, to->at + i * 4);
	}
	return err;
}

/* The first so many places have no owner any more. */
static int vacate(struct vdi *vdi, uint64_t count)
{
	struct vdi_layout *layout = &vdi->layout;
	uint64_t moved = min_u64(count, layout->used), base = max_u64(count, layout->used);
	struct entries to = { .vdi = vdi, .at = layout->map_at, .below = moved, .base = base };
	int err;

	if (!moved)
		return 0;
	err = copy_places(vdi, moved, base);
	layout->used = base + moved;
	if (!err)
		err = write_header(vdi, layout); /* the count comes before the map */
	if (!err)
		err = write_entries(&to, 0, layout->blocks);
	return err ? err : td_file_sync(vdi->file);
}

static int grow(struct vdi *vdi, uint64_t size)
{
	struct vdi_layout *layout = &vdi->layout, now = *layout;
	uint64_t block = vdi_block(layout), places = 0;
	struct entries to = { .vdi = vdi, .at = layout->map_at, .next = UINT64_MAX };
	int err = 0;

	now.size = size;
	now.blocks = max_u64(layout->blocks, ((size - 1) >> layout->block_bits) + 1);
	if (now.blocks * 4 > layout->data_at - layout->map_at) {
		places = (now.blocks * 4 - 1) / block + 1;
		now.map_at = to.at = layout->data_at;
		now.data_at = layout->data_at + places * block;
		if (now.data_at > UINT32_MAX)
			return -EFBIG;
		err = vacate(vdi, places);
		to.less = places;
	}
	now.used = layout->used - min_u64(places, layout->used);
	if (layout->type == VDI_FIXED && !err) {
		to.next = now.used;
		now.used += now.blocks - layout->blocks;
		err = td_file_truncate(vdi->file, vdi_place(&now, now.used));
	}
	if (!err)
		err = write_entries(&to, places ? 0 : layout->blocks, now.blocks);
	return err ? err : write_header(vdi, &now);
}

int vdi_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct vdi *vdi = img->state;
	uint64_t old = vdi->layout.size, block = vdi_block(&vdi->layout);
	const char *path = td_file_path(vdi->file);
	struct td_why again;
	int err, end;

	if (size < old)
		return td_fail(why, -ENOTSUP, "%s: a VDI cannot be made smaller", path);
	if (size % 512 || size > VDI_BLOCKS_MAX * block)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; a VDI with blocks of %llu has a "
			       "multiple of 512 up to %llu", path, (unsigned long long)size,
			       (unsigned long long)block,
			       (unsigned long long)(VDI_BLOCKS_MAX * block));
	td_cache_block(vdi->cache, true);
	err = td_map_zero(vdi->map, old, min_u64(round_up(size, block), vdi->layout.blocks * block));
	if (!err)
		err = td_cache_sync(vdi->cache);
	vdi_close_map(vdi);
	if (!err)
		err = grow(vdi, size);
	if (err)
		td_fail(why, err, "%s: cannot be made %llu bytes: %s", path, (unsigned long long)size,
			strerror(-err));
	end = vdi_layout_read(vdi->file, &vdi->layout, err ? &again : why);
	if (!end)
		end = vdi_open_map(vdi, err ? &again : why);
	if (!end)
		img->size = vdi->layout.size;
	return err ? err : end;
}
