/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies where in an extent: the directory, in memory, names tables; these, in the
 * cache, name grains. Most hosted extents have all of that twice: an entry is set in
 * both copies, one store each, and read from the first.
 *
 * Of an extent that is flat there is nothing to look up.
 */
#include "drivers/vmdk/vmdk.h"

#include <string.h>
#include "config.h"
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif

#define PAGE 512

int vmdk_corrupt(struct vmdk *v, const struct vmdk_extent *e, const char *what, uint64_t at,
		 uint64_t value)
{
	td_say(v->img, LOG_ERR, "%s: %s %llu is %#llx, which cannot be", td_file_path(e->file),
	       what, (unsigned long long)at, (unsigned long long)value);
	return -EIO;
}

/* ---- entries ----------------------------------------------------------------------- */

uint64_t vmdk_table_at(const struct vmdk_extent *e, uint32_t number)
{
	const struct vmdk_layout *layout = &e->layout;

	if (!number)
		return 0;
	if (layout->kind != VMDK_SESPARSE)
		return number * VMDK_SECTOR;
	return layout->tables_at + (number - 1) * layout->entries * vmdk_entry_size(layout);
}

/* Whether a grain, or where packed ones begin, can be at that place. */
static bool place_fits(const struct vmdk_extent *e, uint64_t at)
{
	uint64_t size = td_file_size(e->file);

	if (at < e->layout.overhead || at >= size)
		return false;
	return !e->space || at + e->layout.grain <= td_space_end(e->space);
}

static int sesparse_spot(const struct vmdk_extent *e, const void *entry, struct td_spot *out)
{
	const struct vmdk_layout *layout = &e->layout;
	uint64_t value, number;
	le64 raw;

	memcpy(&raw, entry, sizeof(raw));
	value = from_le64(raw);
	number = (value >> 48 & 0xfff) | (value & 0xffffffffffffull) << 12;
	switch (value >> 60) {
	case 0:
		*out = (struct td_spot){ .kind = TD_SPOT_HOLE };
		return value ? -EIO : 0;
	case 1: /* unmapped by the guest */
	case 2:
		*out = (struct td_spot){ .kind = TD_SPOT_ZERO };
		return 0;
	case 3:
		if (number >= layout->grains_len / layout->grain)
			return -EIO;
		*out = (struct td_spot){ .kind = TD_SPOT_DATA,
					 .at = layout->grains_at + number * layout->grain };
		return place_fits(e, out->at) ? 0 : -EIO;
	}
	return -EIO;
}

int vmdk_spot(const struct vmdk_extent *e, const void *entry, struct td_spot *out)
{
	uint64_t value;
	le32 raw;

	if (e->layout.kind == VMDK_SESPARSE)
		return sesparse_spot(e, entry, out);
	memcpy(&raw, entry, sizeof(raw));
	value = from_le32(raw);
	*out = (struct td_spot){ .kind = TD_SPOT_HOLE };
	if (!value)
		return 0;
	if (value == 1 && e->layout.zeroes) {
		out->kind = TD_SPOT_ZERO;
		return 0;
	}
	out->kind = e->layout.compressed ? TD_SPOT_PACKED : TD_SPOT_DATA;
	out->at = value * VMDK_SECTOR;
	return place_fits(e, out->at) ? 0 : -EIO;
}

/* ---- what is there -------------------------------------------------------------------- */

static uint64_t entry_at(const struct vmdk_extent *e, uint64_t table, uint64_t rel)
{
	return table + rel / e->layout.grain % e->layout.entries * vmdk_entry_size(&e->layout);
}

/* Bytes of the disk from rel to the end of what the page of that entry maps. */
static uint64_t reach(const struct vmdk_extent *e, uint64_t at, uint64_t rel)
{
	uint64_t left = (PAGE - at % PAGE) / vmdk_entry_size(&e->layout);

	left = min_u64(left, e->layout.entries - rel / e->layout.grain % e->layout.entries);
	return left * e->layout.grain - rel % e->layout.grain;
}

/* Holes, up to the next table. */
static uint64_t hole_len(const struct vmdk_extent *e, uint64_t rel, uint64_t len)
{
	uint64_t span = vmdk_span(&e->layout), total = span - rel % span;

	for (uint64_t i = rel / span + 1; i < e->layout.tables && total < len; i++, total += span)
		if (e->table[0][i])
			break;
	return total;
}

/* A grain's packed bytes: no more than to where the next one begins, if that follows. */
static void packed_len(const struct vmdk_extent *e, const le32 *entry, uint64_t left,
		       struct td_spot *out)
{
	uint64_t len = min_u64(2 * e->layout.grain, td_file_size(e->file) - out->at);
	uint64_t next = left > 1 ? from_le32(entry[1]) * VMDK_SECTOR : 0;

	if (next > out->at)
		len = min_u64(len, next - out->at);
	out->packed = len;
}

/* Entries that go on as the first one does. */
static uint64_t run_len(const struct vmdk_extent *e, const char *entry, uint64_t max, uint64_t len,
			uint64_t skip, const struct td_spot *first)
{
	uint64_t grain = e->layout.grain, total = grain - skip;
	struct td_spot next;

	if (first->kind == TD_SPOT_PACKED)
		return total;
	max = min_u64(max, len);
	for (uint64_t n = grain; total < max; total += grain, n += grain) {
		entry += vmdk_entry_size(&e->layout);
		if (vmdk_spot(e, entry, &next) || next.kind != first->kind ||
		    (first->kind == TD_SPOT_DATA && next.at != first->at + n))
			break;
	}
	return total;
}

static int sparse_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
		       struct td_spot *out)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *e = vmdk_extent_at(v, offset);
	uint64_t rel = offset - e->start, number = rel / vmdk_span(&e->layout);
	uint64_t skip = rel % e->layout.grain, at, max;
	uint32_t table = e->table[0][number];
	void *entry;
	int err;

	if (!table) {
		*out = (struct td_spot){ .kind = TD_SPOT_HOLE, .len = hole_len(e, rel, len) };
		return 0;
	}
	if (table == VMDK_TABLE_BAD)
		return vmdk_corrupt(v, e, "grain directory entry", number, table);
	at = entry_at(e, vmdk_table_at(e, table), rel);
	err = td_cache_get(e->cache, at, park, &entry);
	if (err)
		return err;
	err = vmdk_spot(e, entry, out);
	if (err)
		return vmdk_corrupt(v, e, "the entry of disk offset", offset, out->at);
	max = reach(e, at, rel);
	out->len = run_len(e, entry, max, len, skip, out);
	if (out->kind == TD_SPOT_DATA)
		out->at += skip;
	if (out->kind == TD_SPOT_PACKED)
		packed_len(e, entry, (max + skip) / e->layout.grain, out);
	out->len = min_u64(out->len, e->end - offset);
	return 0;
}

static int flat_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
		     struct td_spot *out)
{
	const struct vmdk_extent *e = vmdk_extent_at(vmdk_of(img), offset);

	*out = (struct td_spot){ .kind = e->type == VMDK_ZERO ? TD_SPOT_ZERO : TD_SPOT_DATA,
				 .at = e->at + (offset - e->start), .len = e->end - offset };
	return 0;
}

/* ---- changes -------------------------------------------------------------------------- */

/* The entry for offset in one of the copies. */
static int entry_get(struct vmdk_extent *e, struct td_park *park, unsigned copy, uint64_t offset,
		     le32 **out)
{
	uint64_t rel = offset - e->start;
	uint32_t table = e->table[copy][rel / vmdk_span(&e->layout)];
	uint64_t at = entry_at(e, vmdk_table_at(e, table), rel);

	return td_cache_get(e->cache, at, park, (void **)out);
}

static unsigned copies(const struct vmdk_extent *e)
{
	return e->table[1] ? 2 : 1;
}

static int sparse_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct vmdk_extent *e = vmdk_extent_at(vmdk_of(img), offset);
	uint64_t rel = offset - e->start, number = rel / vmdk_span(&e->layout);
	le32 *entry;

	for (unsigned copy = copies(e); copy--;) {
		uint64_t table = vmdk_table_at(e, e->table[copy][number]);
		int err = entry_get(e, park, copy, offset, &entry);

		if (err)
			return err;
		*len = min_u64(*len, reach(e, entry_at(e, table, rel), rel));
	}
	return 0;
}

static int sparse_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
			uint64_t *at)
{
	struct vmdk_extent *e = vmdk_extent_at(vmdk_of(img), offset);
	int err = td_space_find(e->space, park, e->layout.grain, len, at);

	if (err)
		return err;
	if (*at + *len > VMDK_FILE_MAX)
		return -EFBIG;
	td_space_take(e->space, *at, *len);
	return 0;
}

/* Grains from offset on get value, value + step ... in one copy. */
static int set_copy(struct vmdk_extent *e, unsigned copy, uint64_t offset, uint64_t count,
		    uint32_t value, uint32_t step)
{
	static struct td_park nobody;
	le32 *entry;
	int err = entry_get(e, &nobody, copy, offset, &entry);

	assert(err != TD_PARKED);
	if (err)
		return err;
	td_cache_dirty(e->cache, entry, VMDK_TABLES);
	for (uint64_t i = 0; i < count; i++, entry++, value += step) {
		uint64_t old = from_le32(*entry);

		td_set32(entry, htole32(value));
		if (!copy && old > 1 && old != value)
			td_map_drop(e->map, old * VMDK_SECTOR, e->layout.grain);
	}
	return 0;
}

/* The second copy first: what the first shows, both do, but for a kill in between. */
static int set_both(struct vmdk_extent *e, uint64_t offset, uint64_t len, uint32_t value,
		    uint32_t step)
{
	uint64_t count = (len + e->layout.grain - 1) / e->layout.grain;
	int err = 0;

	for (unsigned copy = copies(e); copy-- && !err;)
		err = set_copy(e, copy, offset, count, value, step);
	return err;
}

static int sparse_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	struct vmdk_extent *e = vmdk_extent_at(vmdk_of(img), offset);

	return set_both(e, offset, len, at / VMDK_SECTOR, e->layout.grain / VMDK_SECTOR);
}

static int sparse_clear(struct td_image *img, uint64_t offset, uint64_t len, bool zero)
{
	return set_both(vmdk_extent_at(vmdk_of(img), offset), offset, len, zero, 0);
}

/* A grain has one owner. */
static int sparse_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	*gone = true;
	return 0;
}

/* ---- compressed grains ------------------------------------------------------------------- */

#ifdef HAVE_ZLIB
static int unzip(const char *from, size_t len, char *to, size_t grain)
{
	z_stream z = {
		.next_in = (void *)from, .avail_in = len, .next_out = (void *)to,
		.avail_out = grain,
	};
	int ret;

	if (inflateInit(&z) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (ret != Z_STREAM_END)
		return -EIO;
	memset(to + (grain - z.avail_out), 0, z.avail_out); /* the disk's last one is short */
	return 0;
}
#else
static int unzip(const char *from, size_t len, char *to, size_t grain)
{
	return -EOPNOTSUPP;
}
#endif

static int sparse_unpack(struct td_image *img, const void *from, size_t len, void *to)
{
	const struct vmdk_layout *layout = &vmdk_of(img)->extent[0].layout;
	struct vmdk_grain_marker marker;

	if (layout->markers) {
		if (len < sizeof(marker))
			return -EIO;
		memcpy(&marker, from, sizeof(marker));
		from = (const char *)from + sizeof(marker);
		len -= sizeof(marker);
		if (!from_le32(marker.size) || from_le32(marker.size) > len)
			return -EIO;
		len = from_le32(marker.size);
	}
	return unzip(from, len, to, layout->grain);
}

const struct td_map_ops vmdk_sparse_ops = {
	.find = sparse_find,
	.ready = sparse_ready,
	.place = sparse_place,
	.set = sparse_set,
	.clear = sparse_clear,
	.release = sparse_release,
	.unpack = sparse_unpack,
};

const struct td_map_ops vmdk_flat_ops = {
	.find = flat_find,
};
