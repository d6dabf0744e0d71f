/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block table and the bitmaps: what lies where.
 *
 *   block table  an entry for each block: its state, and its place in MiB; after those of
 *                a chunk (2^23 sectors) one for the chunk's bitmap
 *   bitmap       1 MiB: a bit for each sector of the chunk, the lowest of a byte first
 *
 * Only blocks of an image over a parent are there in parts (PARTIAL): a sector whose bit
 * is 0 belongs to the parent, and its place in the block may hold anything. Such a block
 * begins with no sector; bits are set when their data have been written. Bits of other
 * blocks mean nothing: a new block clears what it finds. A block that is zeroes is so
 * whatever the parent has, and becomes PRESENT, in fresh room.
 */
#include "drivers/vhdx/vhdx.h"

#include <assert.h>
#include <string.h>

static struct vhdx *vhdx_of(struct td_image *img)
{
	return img->state;
}

static uint64_t entry_of(const void *at)
{
	le64 entry;

	memcpy(&entry, at, sizeof(entry));
	return from_le64(entry);
}

static bool has_place(uint64_t entry)
{
	return vhdx_state(entry) == VHDX_PRESENT || vhdx_state(entry) == VHDX_PARTIAL;
}

static bool entry_fits(const struct vhdx *vhdx, uint64_t entry, uint64_t len)
{
	uint64_t at = vhdx_place(entry);

	return at < vhdx_reader_size(&vhdx->reader) && !vhdx_hits_tables(&vhdx->layout, at, len);
}

static int entry_is_wrong(struct vhdx *vhdx, const char *what, uint64_t n, uint64_t entry)
{
	td_say(vhdx->img, LOG_ERR, "%s %llu has the entry %#llx, which cannot be", what,
	       (unsigned long long)n, (unsigned long long)entry);
	return -EIO;
}

/* *page: where the block's entry is. */
static int table_get(struct vhdx *vhdx, struct td_park *park, uint64_t block, void **page,
		     uint64_t *entry)
{
	int err = td_cache_get(vhdx->cache, vhdx_entry_at(&vhdx->layout, block), park, page);

	if (err)
		return err;
	*entry = entry_of(*page);
	if (vhdx_state(*entry) < 4 ||
	    (has_place(*entry) && entry_fits(vhdx, *entry, vhdx_block(&vhdx->layout)) &&
	     (vhdx_state(*entry) == VHDX_PRESENT || vhdx->layout.has_parent)))
		return 0;
	return entry_is_wrong(vhdx, "block", block, *entry);
}

/* *at: where the byte with the bit of that sector is in the file. */
static int bits_place(struct vhdx *vhdx, struct td_park *park, uint64_t sector, uint64_t *at)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t chunk = sector >> 23, entry;
	void *page;
	int err = td_cache_get(vhdx->cache, vhdx_bitmap_entry_at(layout, chunk), park, &page);

	if (err)
		return err;
	entry = entry_of(page);
	if (vhdx_state(entry) != VHDX_PRESENT || !entry_fits(vhdx, entry, MiB))
		return entry_is_wrong(vhdx, "the bitmap of chunk", chunk, entry);
	*at = vhdx_place(entry) + (sector & ((1u << 23) - 1)) / 8;
	return 0;
}

/* ---- what is there ---------------------------------------------------------------- */

/* The bytes from offset on that are in blocks of the same state, without a place, as far
 * as this page tells. */
static uint64_t same_len(const struct vhdx *vhdx, const void *page, uint64_t offset, uint64_t len)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t block = offset >> layout->block_bits, size = vhdx_block(layout);
	uint64_t at = vhdx_entry_at(layout, block), left = layout->blocks - block;
	uint64_t in_chunk = (1ull << layout->ratio_bits) - (block & ((1ull << layout->ratio_bits) - 1));
	uint64_t max = min_u64((VHDX_PAGE - at % VHDX_PAGE) / 8, min_u64(left, in_chunk));
	uint64_t total = size - offset % size;
	bool absent = vhdx_state(entry_of(page)) == VHDX_ABSENT;

	for (uint64_t i = 1; i < max && total < len; i++) {
		uint64_t entry = entry_of((const char *)page + i * 8);

		if (has_place(entry) || (vhdx_state(entry) == VHDX_ABSENT) != absent)
			break;
		total += size;
	}
	return total;
}

/* How many sectors from one on are alike; bits begins with that one's byte. */
static uint64_t run_len(const uint8_t *bits, uint64_t sector, uint64_t max, bool *there)
{
	unsigned first = sector % 8;
	uint64_t n = 0;
	uint8_t all;

	*there = *bits >> first & 1;
	all = *there ? 0xff : 0;
	while (n < max) {
		uint8_t byte = bits[(first + n) / 8];

		if ((first + n) % 8 == 0 && byte == all)
			n += 8;
		else if ((byte >> (first + n) % 8 & 1) == *there)
			n++;
		else
			break;
	}
	return min_u64(n, max);
}

static int find_in_partial(struct vhdx *vhdx, struct td_park *park, uint64_t offset, uint64_t len,
			   struct td_spot *out)
{
	unsigned bits = vhdx->layout.sector_bits;
	uint64_t sector = offset >> bits, at, max;
	bool there;
	void *page;
	int err = bits_place(vhdx, park, sector, &at);

	if (!err)
		err = td_cache_get(vhdx->cache, at, park, &page);
	if (err)
		return err;
	max = min_u64((VHDX_PAGE - at % VHDX_PAGE) * 8 - sector % 8,
		      min_u64(out->len, round_up(len, 1u << bits)) >> bits);
	out->len = run_len(page, sector, max, &there) << bits;
	out->kind = there ? TD_SPOT_DATA : TD_SPOT_HOLE;
	out->placed = out->dirty = !there;
	return 0;
}

static int vhdx_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
		     struct td_spot *out)
{
	struct vhdx *vhdx = vhdx_of(img);
	uint64_t skip = offset & (vhdx_block(&vhdx->layout) - 1), entry;
	void *page;
	int err = table_get(vhdx, park, offset >> vhdx->layout.block_bits, &page, &entry);

	if (err)
		return err;
	if (!has_place(entry)) {
		*out = (struct td_spot){
			.kind = vhdx_state(entry) == VHDX_ABSENT ? TD_SPOT_HOLE : TD_SPOT_ZERO,
			.len = same_len(vhdx, page, offset, len) };
		return 0;
	}
	*out = (struct td_spot){ .kind = TD_SPOT_DATA, .at = vhdx_place(entry) + skip,
				 .len = vhdx_block(&vhdx->layout) - skip };
	if (vhdx_state(entry) == VHDX_PARTIAL)
		return find_in_partial(vhdx, park, offset, len, out);
	return 0;
}

/* ---- changes ------------------------------------------------------------------------ */

/* The pages of bitmap for these bytes of the disk, which are of one chunk. With set they
 * are here, and all bits become that. */
static int bits_for(struct vhdx *vhdx, struct td_park *park, uint64_t offset, uint64_t len,
		    void (*each)(struct vhdx *vhdx, uint8_t *bits, unsigned first, uint64_t count))
{
	unsigned bits = vhdx->layout.sector_bits;
	uint64_t sector = offset >> bits, end = (offset + len) >> bits, at, n;
	void *page;
	int err = bits_place(vhdx, park, sector, &at);

	for (; sector < end && !err; sector += n) {
		n = min_u64((VHDX_PAGE - at % VHDX_PAGE) * 8 - sector % 8, end - sector);
		err = td_cache_get(vhdx->cache, at, park, &page);
		if (!err && each)
			each(vhdx, page, sector % 8, n);
		at = round_down(at, VHDX_PAGE) + VHDX_PAGE;
	}
	return err;
}

static void bits_change(struct vhdx *vhdx, uint8_t *bits, unsigned first, uint64_t count, bool to)
{
	while (count) {
		unsigned n = min_u64(8 - first, count);
		uint8_t mask = ((1u << n) - 1) << first, is = to ? *bits | mask : *bits & ~mask;

		if (*bits != is) {
			td_cache_dirty(vhdx->cache, bits, VHDX_BITMAP);
			td_set8(bits, is);
		}
		bits++;
		count -= n;
		first = 0;
	}
}

static void bits_set(struct vhdx *vhdx, uint8_t *bits, unsigned first, uint64_t count)
{
	bits_change(vhdx, bits, first, count, true);
}

static void bits_clear(struct vhdx *vhdx, uint8_t *bits, unsigned first, uint64_t count)
{
	bits_change(vhdx, bits, first, count, false);
}

static int vhdx_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct vhdx *vhdx = vhdx_of(img);
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t size = vhdx_block(layout), block = offset >> layout->block_bits, entry;
	void *page;
	int err;

	*len = min_u64(*len, size - (offset & (size - 1)));
	if (layout->has_parent) { /* bits first: their pages are more */
		err = bits_for(vhdx, park, offset, *len, NULL);
		if (err)
			return err;
	}
	return table_get(vhdx, park, block, &page, &entry);
}

static void entry_set(struct vhdx *vhdx, void *page, uint64_t entry)
{
	td_cache_dirty(vhdx->cache, page, VHDX_TABLE_STAGE);
	td_set64(page, htole64(entry));
}

/* The block gets its place in the file, and its entry, at once. */
static int vhdx_place_block(struct td_image *img, struct td_park *park, uint64_t offset,
			    uint64_t *len, uint64_t *out)
{
	struct vhdx *vhdx = vhdx_of(img);
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t size = vhdx_block(layout), room = size, begin = round_down(offset, size), at, entry;
	void *page;
	int err = td_space_find(vhdx->space, park, size, &room, &at);

	if (err)
		return err;
	if (at > VHDX_FILE_MAX - size) {
		td_say(img, LOG_ERR, "the file is as large as a VHDX can be");
		return -ENOSPC;
	}
	if (layout->has_parent)
		err = bits_for(vhdx, park, begin, size, NULL);
	if (!err)
		err = table_get(vhdx, park, begin >> layout->block_bits, &page, &entry);
	if (err)
		return err;
	assert(!has_place(entry));
	td_space_take(vhdx->space, at, size);
	if (layout->has_parent && vhdx_state(entry) == VHDX_ABSENT) {
		err = bits_for(vhdx, park, begin, size, bits_clear);
		assert(!err);
		entry_set(vhdx, page, at | VHDX_PARTIAL);
	} else {
		entry_set(vhdx, page, at | VHDX_PRESENT);
	}
	*len = size;
	*out = at;
	return 0;
}

static int vhdx_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	static struct td_park nobody;
	struct vhdx *vhdx = vhdx_of(img);
	uint64_t entry;
	void *page;
	int err = table_get(vhdx, &nobody, offset >> vhdx->layout.block_bits, &page, &entry);

	if (!err && vhdx_state(entry) == VHDX_PARTIAL)
		err = bits_for(vhdx, &nobody, offset, len, bits_set);
	assert(err != TD_PARKED); /* it is ready */
	return err;
}

/* It is ready, which is one block at a time. */
static int vhdx_clear(struct td_image *img, uint64_t offset, uint64_t len, bool zero)
{
	static struct td_park nobody;
	struct vhdx *vhdx = vhdx_of(img);
	uint64_t entry;
	void *page;
	int err = table_get(vhdx, &nobody, offset >> vhdx->layout.block_bits, &page, &entry);

	assert(err != TD_PARKED);
	if (err)
		return err;
	entry_set(vhdx, page, VHDX_ZERO);
	if (has_place(entry))
		td_map_drop(vhdx->map, vhdx_place(entry), vhdx_block(&vhdx->layout));
	return 0;
}

/* A block of the file is one block's of the disk. */
static int vhdx_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	*gone = true;
	return 0;
}

const struct td_map_ops vhdx_ops = {
	.find = vhdx_find,
	.ready = vhdx_ready,
	.place = vhdx_place_block,
	.set = vhdx_set,
	.clear = vhdx_clear,
	.release = vhdx_release,
};

/* All blocks are there, and stay. */
const struct td_map_ops vhdx_fixed_ops = {
	.find = vhdx_find,
	.ready = vhdx_ready,
	.place = vhdx_place_block,
	.set = vhdx_set,
	.release = vhdx_release,
};
