/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block table and the blocks' bitmaps: what lies where.
 *
 *   block table  the place of each block, in sectors of the file; all ones: none
 *   block        a bitmap, then its data; a bit says that its sector is there
 *
 * A sector that is not there belongs to the image below, or reads as zeroes, and its
 * place in the block may hold anything. Without an image below a new block's bitmap
 * is full from the start, as its place reads as zeroes: so others read the same who
 * do not look at bitmaps there. Over an image below it is empty, and bits are set
 * when their data have been written. Nothing takes a block away again.
 */
#include "drivers/vhd/vhd.h"

#include <assert.h>
#include <string.h>

static struct vhd *vhd_of(struct td_image *img)
{
	return img->state;
}

static uint64_t place_of(be32 entry)
{
	return from_be32(entry) * 512ull;
}

static bool hits(uint64_t at, uint64_t len, uint64_t from, uint64_t from_len)
{
	return at < from + from_len && from < at + len;
}

static bool place_fits(const struct vhd *vhd, uint64_t at)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t len = layout->bitmap + vhd_block(layout), size = td_file_size(vhd->file);

	return at >= 512 && at < size && layout->bitmap < size - at &&
	       !hits(at, len, from_be64(layout->footer.header_at), sizeof(struct vhd_header)) &&
	       !hits(at, len, layout->bat_at, layout->entries * 4) &&
	       !hits(at, len, layout->batmap_at, layout->batmap_len);
}

/* *at: where the block is, its bitmap first; 0: nowhere. *page: its entry. */
static int bat_get(struct vhd *vhd, struct td_park *park, uint64_t block, void **page,
		   uint64_t *at)
{
	int err = td_cache_get(vhd->cache, vhd->layout.bat_at + block * 4, park, page);
	be32 entry;

	if (err)
		return err;
	entry = *(be32 *)*page;
	*at = 0;
	if (from_be32(entry) == VHD_NO_BLOCK)
		return 0;
	*at = place_of(entry);
	if (place_fits(vhd, *at))
		return 0;
	td_say(vhd->img, LOG_ERR, "block %llu is at %llu of the file, which cannot be",
	       (unsigned long long)block, (unsigned long long)*at);
	return -EIO;
}

/* ---- what is there ---------------------------------------------------------------- */

/* The bytes from offset to the next block that is there, as far as this page tells. */
static uint64_t hole_len(const struct vhd *vhd, const be32 *entry, uint64_t offset, uint64_t len)
{
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t block = offset >> layout->block_bits, size = vhd_block(layout);
	uint64_t at = layout->bat_at + block * 4;
	uint64_t max = min_u64((VHD_PAGE - at % VHD_PAGE) / 4, layout->entries - block);
	uint64_t total = size - offset % size;

	for (uint64_t i = 1; i < max && total < len && from_be32(entry[i]) == VHD_NO_BLOCK; i++)
		total += size;
	return total;
}

/* How many sectors from one on are alike; bits holds that one's and the page's last. */
static uint64_t run_len(const struct vhd_layout *layout, const uint8_t *bits, uint64_t sector,
			uint64_t max, bool *there)
{
	uint8_t all;
	uint64_t n = 0;

	*there = *bits & vhd_bit(layout, sector);
	all = *there ? 0xff : 0;
	while (n < max) {
		uint8_t byte = bits[(sector % 8 + n) / 8];

		if ((sector + n) % 8 == 0 && byte == all)
			n += 8;
		else if (!!(byte & vhd_bit(layout, sector + n)) == *there)
			n++;
		else
			break;
	}
	return min_u64(n, max);
}

static int vhd_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
		    struct td_spot *out)
{
	struct vhd *vhd = vhd_of(img);
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t block = offset >> layout->block_bits, skip = offset & (vhd_block(layout) - 1);
	uint64_t left = vhd_block(layout) - skip, sector = skip / 512, at, max;
	bool there = true;
	void *page;
	int err = bat_get(vhd, park, block, &page, &at);

	if (err)
		return err;
	if (!at) {
		*out = (struct td_spot){ .kind = TD_SPOT_HOLE,
					 .len = hole_len(vhd, page, offset, len) };
		return 0;
	}
	if (!vhd_is_full(vhd, block)) {
		err = td_cache_get(vhd->cache, at + sector / 8, park, &page);
		if (err)
			return err;
		max = min_u64((VHD_PAGE - (at + sector / 8) % VHD_PAGE) * 8 - sector % 8,
			      min_u64(left, round_up(len, 512)) / 512);
		left = 512 * run_len(layout, page, sector, max, &there);
	}
	*out = (struct td_spot){ .kind = there ? TD_SPOT_DATA : TD_SPOT_HOLE, .len = left,
				 .at = at + layout->bitmap + skip, .placed = !there,
				 .dirty = !there };
	return 0;
}

/* ---- changes ------------------------------------------------------------------------ */

/* The pages of a block's bitmap for that part of it. */
static int bitmap_pages(struct vhd *vhd, struct td_park *park, uint64_t at, uint64_t skip,
			uint64_t len, bool fresh)
{
	uint64_t from = round_down(at + skip / 4096, VHD_PAGE);
	uint64_t end = at + (skip + len - 1) / 4096;
	void *page;
	int err = 0;

	for (; from <= end && !err; from += VHD_PAGE)
		err = fresh ? td_cache_get_new(vhd->cache, from, park, &page) :
			      td_cache_get(vhd->cache, from, park, &page);
	return err;
}

static int vhd_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct vhd *vhd = vhd_of(img);
	uint64_t size = vhd_block(&vhd->layout), skip = offset & (size - 1), at;
	uint64_t block = offset >> vhd->layout.block_bits;
	void *page;
	int err = bat_get(vhd, park, block, &page, &at);

	*len = min_u64(*len, size - skip);
	if (err || !at || vhd_is_full(vhd, block))
		return err;
	return bitmap_pages(vhd, park, at, skip, *len, false);
}

/* The block gets its place in the file, and its entry, at once. */
static int vhd_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
		     uint64_t *out)
{
	struct vhd *vhd = vhd_of(img);
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t stride = vhd_stride(layout), room = stride, at, had;
	void *entry, *page;
	int err = td_space_find(vhd->space, park, stride, &room, &at);

	if (err)
		return err;
	if (at > VHD_FILE_MAX - stride - 512) {
		td_say(img, LOG_ERR, "the file is as large as a VHD can be");
		return -ENOSPC;
	}
	room = at;
	at += round_up(layout->bitmap, VHD_ALIGN) - layout->bitmap;
	err = bitmap_pages(vhd, park, at, 0, vhd_block(layout), true);
	if (!err)
		err = bat_get(vhd, park, offset >> layout->block_bits, &entry, &had);
	if (err)
		return err;
	assert(!had);
	td_space_take(vhd->space, room, stride);
	for (uint64_t pos = 0; layout->type == VHD_DYNAMIC && pos < layout->bitmap;
	     pos += VHD_PAGE) {
		err = td_cache_get(vhd->cache, at + pos, park, &page);
		assert(!err);
		td_cache_dirty(vhd->cache, page, VHD_FULL);
		memset(page, 0xff, VHD_PAGE);
	}
	td_cache_dirty(vhd->cache, entry, VHD_SHOWS);
	td_set32(entry, htobe32(at / 512));
	*len = vhd_block(layout);
	*out = at + layout->bitmap;
	return 0;
}

/* Sets bits of one page. */
static void set_bits(struct vhd *vhd, uint8_t *bits, uint64_t sector, uint64_t end)
{
	while (sector < end) {
		uint64_t next = min_u64(round_down(sector, 8) + 8, end);
		uint8_t mask = 0;

		for (; sector < next; sector++)
			mask |= vhd_bit(&vhd->layout, sector);
		if ((*bits & mask) != mask) {
			td_cache_dirty(vhd->cache, bits, VHD_SHOWS);
			td_set8(bits, *bits | mask);
		}
		bits++;
	}
}

static int vhd_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	static struct td_park nobody;
	struct vhd *vhd = vhd_of(img);
	const struct vhd_layout *layout = &vhd->layout;
	uint64_t skip = offset & (vhd_block(layout) - 1), bits_at = at - skip - layout->bitmap;
	uint64_t sector = skip / 512, end = sector + len / 512, next;
	void *page;

	if (vhd_is_full(vhd, offset >> layout->block_bits))
		return 0;
	for (; sector < end; sector = next) {
		int err = td_cache_get(vhd->cache, bits_at + sector / 8, &nobody, &page);

		assert(err != TD_PARKED); /* it is ready */
		if (err)
			return err;
		next = min_u64(round_down(sector, VHD_PAGE * 8) + VHD_PAGE * 8, end);
		set_bits(vhd, page, sector, next);
	}
	return 0;
}

/* Nothing is dropped. */
static int vhd_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	return 0;
}

const struct td_map_ops vhd_ops = {
	.find = vhd_find,
	.ready = vhd_ready,
	.place = vhd_place,
	.set = vhd_set,
	.release = vhd_release,
};
