/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All entries of the block table, looked at together.
 *
 * Before it is written an image is put in order: what lies behind everything that is
 * used is nobody's (a killed writer's room) and is cut off; an image over a parent gets
 * the bitmaps that it lacks, so that a new block never needs a new bitmap: both would
 * have to appear at once. Blocks of the file that nobody has are remembered: they were
 * freed in an earlier session, and the first change gives them to space.
 *
 * Check asks in addition whether two things have the same place.
 */
#include <stdlib.h>
#include <string.h>

#include "drivers/vhdx/vhdx.h"

#include "base/guard.h"

#define CHUNK (64 * KiB)
#define FREED_MAX 512 /* runs; more than that stays as it is */

struct walk {
	struct vhdx *vhdx;
	uint64_t limit;        /* what is used ends there */
	uint64_t end;          /* of what is used, as far as it has been seen */
	uint64_t missing;      /* bitmaps */
	struct td_check *check;
	uint8_t *used;         /* a bit for each MiB of the file */
	struct td_why *why;
};

/* An entry of the table; n: which block, or which chunk's bitmap. */
typedef int each_entry(struct walk *walk, bool bitmap, uint64_t n, uint64_t entry);

static int read_table(struct vhdx *vhdx, void *buf, size_t len, uint64_t at)
{
	return vhdx->cache ? td_cache_read(vhdx->cache, buf, len, at) :
			     vhdx_read(&vhdx->reader, buf, len, at);
}

static int for_entries(struct walk *walk, each_entry *each)
{
	const struct vhdx_layout *layout = &walk->vhdx->layout;
	uint64_t group = (1ull << layout->ratio_bits) + 1;
	AUTO_FREE le64 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0, n; i < layout->entries && !err; i += n) {
		n = min_u64(layout->entries - i, CHUNK / 8);
		err = read_table(walk->vhdx, buf, n * 8, layout->bat.at + i * 8);
		for (uint64_t k = 0; k < n && !err; k++) {
			uint64_t chunk = (i + k) / group, in = (i + k) % group;
			bool bitmap = in == group - 1;

			if (bitmap ? layout->has_parent : i + k - chunk < layout->blocks)
				err = each(walk, bitmap, bitmap ? chunk : i + k - chunk,
					   from_le64(buf[k]));
		}
	}
	return err;
}

static bool takes_place(bool bitmap, uint64_t entry)
{
	return vhdx_state(entry) == VHDX_PRESENT || (!bitmap && vhdx_state(entry) == VHDX_PARTIAL);
}

static uint64_t len_of(const struct walk *walk, bool bitmap)
{
	return bitmap ? MiB : vhdx_block(&walk->vhdx->layout);
}

static bool lies_well(const struct walk *walk, bool bitmap, uint64_t entry)
{
	uint64_t at = vhdx_place(entry), len = len_of(walk, bitmap);

	return at <= walk->limit && len <= walk->limit - at &&
	       !vhdx_hits_tables(&walk->vhdx->layout, at, len);
}

/* ---- which places are used --------------------------------------------------------- */

static bool is_used(const struct walk *walk, uint64_t at)
{
	return walk->used[at / MiB / 8] >> at / MiB % 8 & 1;
}

/* False: some of it is used already. */
static bool take_places(struct walk *walk, uint64_t at, uint64_t len)
{
	bool taken = false;

	for (uint64_t i = at / MiB; i < (at + len) / MiB; i++) {
		taken |= walk->used[i / 8] >> i % 8 & 1;
		walk->used[i / 8] |= 1u << i % 8;
	}
	return !taken;
}

/* Places of whole blocks that nobody has, before what is used ends. */
static int find_freed(struct walk *walk)
{
	struct vhdx *vhdx = walk->vhdx;
	uint64_t block = vhdx_block(&vhdx->layout), at = vhdx->layout.tables_end, begin;

	vhdx->freed = calloc(FREED_MAX, sizeof(*vhdx->freed));
	while (vhdx->freed && at + block <= walk->end && vhdx->freed_count < FREED_MAX) {
		for (begin = at; at < walk->end && !is_used(walk, at);)
			at += MiB;
		if (at - begin >= block)
			vhdx->freed[vhdx->freed_count++] =
				(struct vhdx_span){ begin, round_down(at - begin, block) };
		at += MiB;
	}
	return vhdx->freed ? 0 : -ENOMEM;
}

/* ---- prepare ---------------------------------------------------------------------- */

static int prepare_entry(struct walk *walk, bool bitmap, uint64_t n, uint64_t entry)
{
	if (!takes_place(bitmap, entry)) {
		walk->missing += bitmap;
		return 0;
	}
	if (!lies_well(walk, bitmap, entry)) {
		td_fail(walk->why, -EINVAL, "%s: its %s %llu, at %llu, does not lie in the file, or lies "
			"on a table: it can be opened read-only", td_file_path(walk->vhdx->file),
			bitmap ? "bitmap" : "block", (unsigned long long)n,
			(unsigned long long)vhdx_place(entry));
		return -EINVAL;
	}
	walk->end = max_u64(walk->end, vhdx_place(entry) + len_of(walk, bitmap));
	take_places(walk, vhdx_place(entry), len_of(walk, bitmap));
	return 0;
}

/* The bitmaps get room from *end on, and the page of the table that has the entries of
 * chunks from *chunk on says so. */
static int bitmaps_in_page(struct vhdx *vhdx, uint8_t *page, uint64_t *chunk, uint64_t *end)
{
	const struct vhdx_layout *layout = &vhdx->layout;
	uint64_t at = round_down(vhdx_bitmap_entry_at(layout, *chunk), VHDX_PAGE);
	int err = td_file_read(vhdx->file, page, VHDX_PAGE, at);
	bool changed = false;

	for (; !err && *chunk < layout->chunks; ++*chunk) {
		uint64_t entry_at = vhdx_bitmap_entry_at(layout, *chunk);
		le64 entry;

		if (entry_at >= at + VHDX_PAGE)
			break;
		memcpy(&entry, page + (entry_at - at), sizeof(entry));
		if (vhdx_state(from_le64(entry)) == VHDX_PRESENT)
			continue;
		entry = to_le64(*end | VHDX_PRESENT);
		memcpy(page + (entry_at - at), &entry, sizeof(entry));
		*end += MiB;
		changed = true;
	}
	if (err || !changed)
		return err;
	vhdx_log_begin(vhdx->log);
	vhdx_log_add(vhdx->log, at, page);
	return vhdx_log_apply(vhdx->log, *end);
}

static int make_bitmaps(struct vhdx *vhdx, uint64_t *end, uint64_t count)
{
	AUTO_FREE uint8_t *page = aligned_alloc(VHDX_PAGE, VHDX_PAGE);
	int err = page ? td_file_truncate(vhdx->file, *end + count * MiB) : -ENOMEM;

	if (!err)
		err = vhdx_log_open(vhdx->log, &vhdx->layout, false);
	for (uint64_t chunk = 0; chunk < vhdx->layout.chunks && !err;)
		err = bitmaps_in_page(vhdx, page, &chunk, end);
	return err ? err : vhdx_log_close(vhdx->file, &vhdx->layout);
}

int vhdx_prepare(struct vhdx *vhdx, uint64_t *end, struct td_why *why)
{
	struct walk walk = { .vhdx = vhdx, .why = why, .limit = td_file_size(vhdx->file),
			     .end = vhdx->layout.tables_end };
	int err;

	why->text[0] = 0;
	walk.used = calloc(1, walk.limit / MiB / 8 + 1);
	err = walk.used ? for_entries(&walk, prepare_entry) : -ENOMEM;
	if (!err && !vhdx->layout.fixed && td_file_can_discard(vhdx->file))
		err = find_freed(&walk);
	if (!err && td_file_size(vhdx->file) > walk.end)
		err = td_file_truncate(vhdx->file, walk.end);
	if (!err && walk.missing)
		err = make_bitmaps(vhdx, &walk.end, walk.missing);
	*end = round_up(walk.end, VHDX_ALIGN);
	free(walk.used);
	if (err && !why->text[0])
		td_fail(why, err, "%s: cannot put it in order: %s", td_file_path(vhdx->file),
			strerror(-err));
	return err;
}

static int spares_entry(struct walk *walk, bool bitmap, uint64_t n, uint64_t entry)
{
	if (bitmap || !takes_place(bitmap, entry) ||
	    !vhdx_patched(&walk->vhdx->reader, vhdx_place(entry), len_of(walk, bitmap)))
		return 0;
	return td_fail(walk->why, -ENOTSUP, "%s: was not closed, and its log changes data: open it for "
		       "writing once", td_file_path(walk->vhdx->file));
}

int vhdx_log_spares_data(struct vhdx *vhdx, struct td_why *why)
{
	struct walk walk = { .vhdx = vhdx, .why = why };
	int err;

	why->text[0] = 0;
	err = vhdx->reader.patches ? for_entries(&walk, spares_entry) : 0;
	if (err && !why->text[0])
		td_fail(why, err, "%s: cannot read its block table: %s", td_file_path(vhdx->file),
			strerror(-err));
	return err;
}

/* ---- check ------------------------------------------------------------------------ */

static bool state_is_known(const struct walk *walk, bool bitmap, uint64_t entry)
{
	enum vhdx_state state = vhdx_state(entry);

	if (bitmap)
		return state == VHDX_ABSENT || state == VHDX_PRESENT;
	return state < 4 || state == VHDX_PRESENT ||
	       (state == VHDX_PARTIAL && walk->vhdx->layout.has_parent);
}

static bool has_bitmap(struct walk *walk, uint64_t block)
{
	const struct vhdx_layout *layout = &walk->vhdx->layout;
	le64 entry;

	return !read_table(walk->vhdx, &entry, sizeof(entry),
			   vhdx_bitmap_entry_at(layout, block >> layout->ratio_bits)) &&
	       vhdx_state(from_le64(entry)) == VHDX_PRESENT;
}

static int check_entry(struct walk *walk, bool bitmap, uint64_t n, uint64_t entry)
{
	const char *what = bitmap ? "bitmap" : "block";
	uint64_t at = vhdx_place(entry);

	if (!state_is_known(walk, bitmap, entry)) {
		td_check_found(walk->check, "%s %llu has state %u, which cannot be", what,
			       (unsigned long long)n, vhdx_state(entry));
	} else if (!takes_place(bitmap, entry)) {
		return 0;
	} else if (!lies_well(walk, bitmap, entry)) {
		td_check_found(walk->check, "%s %llu, at %llu, does not lie in the file, or lies on a "
			       "table", what, (unsigned long long)n, (unsigned long long)at);
	} else if (!take_places(walk, at, len_of(walk, bitmap))) {
		td_check_found(walk->check, "%s %llu, at %llu, lies on another one", what,
			       (unsigned long long)n, (unsigned long long)at);
	} else if (!bitmap && vhdx_state(entry) == VHDX_PARTIAL && !has_bitmap(walk, n)) {
		td_check_found(walk->check, "block %llu is there in parts, and no bitmap says which",
			       (unsigned long long)n);
	}
	walk->check->allocated += !bitmap;
	return 0;
}

/* MiB that nobody has. What is too short for a block, or else a bitmap, was never one: QEMU's
 * tools leave 4 MiB behind the tables. */
static uint64_t count_leaks(const struct walk *walk)
{
	const struct vhdx_layout *layout = &walk->vhdx->layout;
	uint64_t least = layout->has_parent ? 1 : vhdx_block(layout) / MiB;
	uint64_t leaks = 0, run = 0;

	for (uint64_t i = layout->tables_end / MiB; i <= walk->limit / MiB; i++) {
		if (i < walk->limit / MiB && !is_used(walk, i * MiB)) {
			run++;
			continue;
		}
		leaks += run >= least ? run : 0;
		run = 0;
	}
	return leaks;
}

int vhdx_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct vhdx *vhdx = img->state;
	const struct vhdx_layout *layout = &vhdx->layout;
	struct walk walk = { .vhdx = vhdx, .check = check, .why = why,
			     .limit = vhdx->space ? td_space_end(vhdx->space) :
						    vhdx_reader_size(&vhdx->reader) };
	int err;

	walk.used = calloc(1, walk.limit / MiB / 8 + 1);
	err = walk.used ? for_entries(&walk, check_entry) : -ENOMEM;
	if (!err)
		check->leaks += count_leaks(&walk);
	check->total = layout->blocks;
	free(walk.used);
	return err ? td_fail(why, err, "%s: cannot be checked: %s", td_file_path(vhdx->file),
			     strerror(-err)) : 0;
}
