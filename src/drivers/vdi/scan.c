/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All blocks, looked at together: which places of the file have an owner.
 *
 * Others take a place for free if the header does not count it, and take it for a
 * fault if one that is counted has no owner. A power cut can leave the latter: the
 * count reaches the disk before the map. So before an image is written its last blocks
 * are moved to places without an owner, each copied before the map shows it, and then
 * the count is what it should be. Two blocks in one place, or one that is not counted,
 * are somebody else's to repair.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/vdi/vdi.h"

#include "base/guard.h"

#define CHUNK (64 * KiB)

struct walk {
	struct vdi *vdi;
	struct td_check *check; /* NULL: a fault is an error, with why */
	struct td_why *why;
	uint8_t *owned;         /* a bit for each place that is counted */
	uint64_t owners;
	le32 *buf;
};

static int fault(struct walk *walk, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fault(struct walk *walk, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (!walk->check)
		return td_fail(walk->why, -EINVAL, "%s: %s: it can be opened read-only",
			       td_file_path(walk->vdi->file), text);
	td_check_found(walk->check, "%s", text);
	return 0;
}

static int walk_entry(struct walk *walk, uint64_t block, uint32_t place)
{
	const struct vdi_layout *layout = &walk->vdi->layout;

	if (place == VDI_NO_BLOCK || place == VDI_ZERO_BLOCK)
		return 0;
	if (place >= layout->used)
		return fault(walk, "block %llu has place %u, and only %llu are in use",
			     (unsigned long long)block, place, (unsigned long long)layout->used);
	if (walk->owned[place / 8] & (1u << (place % 8)))
		return fault(walk, "block %llu has place %u, which is another's",
			     (unsigned long long)block, place);
	walk->owned[place / 8] |= 1u << (place % 8);
	walk->owners++;
	if (walk->check && vdi_place(layout, place) >= td_file_size(walk->vdi->file))
		return fault(walk, "block %llu lies past the end of the file",
			     (unsigned long long)block);
	return 0;
}

/* The map's entries from first on, as the cache has them, if there is one. */
static int read_entries(struct walk *walk, uint64_t first, uint64_t n)
{
	uint64_t at = walk->vdi->layout.map_at + first * 4;

	return walk->vdi->cache ? td_cache_read(walk->vdi->cache, walk->buf, n * 4, at) :
				  td_file_read(walk->vdi->file, walk->buf, n * 4, at);
}

static int walk_map(struct walk *walk)
{
	const struct vdi_layout *layout = &walk->vdi->layout;
	int err = 0;

	walk->owned = calloc(1, layout->used / 8 + 1);
	walk->buf = malloc(CHUNK);
	if (!walk->owned || !walk->buf)
		return td_fail(walk->why, -ENOMEM, "%s: no memory", td_file_path(walk->vdi->file));
	for (uint64_t i = 0, n; !err && i < layout->blocks; i += n) {
		n = min_u64(layout->blocks - i, CHUNK / 4);
		err = read_entries(walk, i, n);
		if (err)
			return td_fail(walk->why, err, "%s: cannot read its block map",
				       td_file_path(walk->vdi->file));
		for (uint64_t k = 0; k < n && !err; k++)
			err = walk_entry(walk, i + k, from_le32(walk->buf[k]));
	}
	return err;
}

static void walk_free(struct walk *walk)
{
	free(walk->owned);
	free(walk->buf);
}

/* ---- prepare ---------------------------------------------------------------------- */

int vdi_copy_block(struct vdi *vdi, uint64_t from, uint64_t to)
{
	uint64_t size = vdi_block(&vdi->layout), at = vdi_place(&vdi->layout, from);
	AUTO_FREE void *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	to = vdi_place(&vdi->layout, to);
	for (uint64_t pos = 0, n; pos < size && !err; pos += n) {
		n = min_u64(size - pos, CHUNK);
		err = td_file_read(vdi->file, buf, n, at + pos);
		if (!err)
			err = td_file_write(vdi->file, buf, n, to + pos);
	}
	return err;
}

/* Blocks of these entries that are behind all owners move to where there is none. */
static int move_some(struct walk *walk, uint64_t first, uint64_t n, uint64_t *hole)
{
	struct vdi *vdi = walk->vdi;
	bool moved = false;
	int err = read_entries(walk, first, n);

	for (uint64_t k = 0; k < n && !err; k++) {
		uint32_t place = from_le32(walk->buf[k]);

		if (place >= VDI_ZERO_BLOCK || place < walk->owners)
			continue;
		while (walk->owned[*hole / 8] & (1u << (*hole % 8)))
			++*hole;
		err = vdi_copy_block(vdi, place, *hole);
		walk->buf[k] = to_le32((*hole)++);
		moved = true;
	}
	if (!moved || err)
		return err;
	err = td_file_sync(vdi->file);
	if (!err)
		err = td_file_write(vdi->file, walk->buf, n * 4, vdi->layout.map_at + first * 4);
	return err ? err : td_file_sync(vdi->file);
}

static int move_blocks(struct walk *walk)
{
	struct vdi_layout *layout = &walk->vdi->layout;
	uint64_t hole = 0;
	le32 used = to_le32(walk->owners);
	int err = 0;

	for (uint64_t i = 0, n; !err && i < layout->blocks; i += n) {
		n = min_u64(layout->blocks - i, CHUNK / 4);
		err = move_some(walk, i, n, &hole);
	}
	if (!err)
		err = td_file_write(walk->vdi->file, &used, sizeof(used),
				    offsetof(struct vdi_header, used));
	if (!err)
		err = td_file_sync(walk->vdi->file);
	if (!err)
		layout->used = walk->owners;
	return err;
}

int vdi_prepare(struct vdi *vdi, struct td_why *why)
{
	struct walk walk = { .vdi = vdi, .why = why };
	int err = walk_map(&walk);
	uint64_t end;

	if (!err && walk.owners < vdi->layout.used) {
		err = move_blocks(&walk);
		if (err)
			td_fail(why, err, "%s: cannot put it in order: %s", td_file_path(vdi->file),
				strerror(-err));
	}
	walk_free(&walk);
	if (err)
		return err;
	/* room of a writer who was killed; or a last block that was left short */
	end = vdi_place(&vdi->layout, vdi->layout.used);
	if (td_file_size(vdi->file) != end)
		err = td_file_truncate(vdi->file, end);
	return err ? td_fail(why, err, "%s: cannot make it %llu bytes: %s", td_file_path(vdi->file),
			     (unsigned long long)end, strerror(-err)) : 0;
}

/* ---- check ------------------------------------------------------------------------ */

int vdi_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct vdi *vdi = img->state;
	const struct vdi_layout *layout = &vdi->layout;
	struct walk walk = { .vdi = vdi, .check = check, .why = why };
	uint64_t end = vdi_place(layout, layout->used), size = td_file_size(vdi->file);
	int err = walk_map(&walk);

	check->total = ((layout->size - 1) >> layout->block_bits) + 1;
	check->allocated = walk.owners;
	check->leaks += layout->used - walk.owners;
	if (!vdi->space && size > end)
		check->leaks += (size - end) >> layout->block_bits;
	walk_free(&walk);
	return err;
}
