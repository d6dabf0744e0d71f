/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looks at every entry of every sparse extent: it must name room in the file, which no
 * other entry and no table has, and both copies of the tables must say the same. What
 * of the file nobody names is a leak.
 *
 * vmdk_mend makes the second copy what the first one is.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/guard.h"
#include "drivers/vmdk/vmdk.h"

struct walk {
	struct vmdk *v;
	struct vmdk_extent *e;
	struct td_check *check;
	uint64_t sectors;       /* of the file */
	uint8_t *used;          /* a bit for each of them */
	char *table, *other;    /* a table of each copy */
	uint64_t table_len, differ; /* tables whose copies do */
	uint64_t leaks;
};

static void say(struct walk *walk, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct walk *walk, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	td_check_found(walk->check, "%.300s: %s", td_file_path(walk->e->file), text);
}

/* False: somebody has some of these sectors already. */
static bool take_sectors(struct walk *walk, uint64_t at, uint64_t len)
{
	uint64_t first = at / VMDK_SECTOR, end = min_u64((at + len - 1) / VMDK_SECTOR + 1,
							 walk->sectors);
	bool was = false;

	for (uint64_t i = first; i < end; i++) {
		was |= walk->used[i / 8] & 1 << i % 8;
		walk->used[i / 8] |= 1 << i % 8;
	}
	return !was;
}

static void walk_entry(struct walk *walk, uint64_t offset, const char *entry)
{
	struct vmdk_extent *e = walk->e;
	struct td_spot spot;
	bool packed;

	if (vmdk_spot(e, entry, &spot)) {
		say(walk, "the entry of disk offset %llu cannot be", (unsigned long long)offset);
		return;
	}
	if (spot.kind == TD_SPOT_HOLE || spot.kind == TD_SPOT_ZERO)
		return;
	packed = spot.kind == TD_SPOT_PACKED;
	walk->check->allocated++;
	walk->check->compressed += packed;
	if (!take_sectors(walk, spot.at, packed ? VMDK_SECTOR : e->layout.grain))
		say(walk, "what lies at %llu, of disk offset %llu, belongs to something else too",
		    (unsigned long long)spot.at, (unsigned long long)offset);
}

static int table_read(struct walk *walk, uint64_t number, unsigned copy, char *buf)
{
	uint32_t table = walk->e->table[copy][number];

	if (table == VMDK_TABLE_BAD) {
		say(walk, "grain directory entry %llu cannot be", (unsigned long long)number);
		return -EBADMSG;
	}
	if (!table)
		return -ENOENT;
	return td_cache_read(walk->e->cache, buf, walk->table_len, vmdk_table_at(walk->e, table));
}

static void compare(struct walk *walk, uint64_t number)
{
	uint64_t differ = 0;

	for (uint64_t i = 0; i < walk->table_len; i += 4)
		differ += !!memcmp(walk->table + i, walk->other + i, 4);
	walk->differ += !!differ;
	if (differ)
		say(walk, "%llu entries of grain table %llu are not what its second copy says",
		    (unsigned long long)differ, (unsigned long long)number);
}

static void take_table(struct walk *walk, uint64_t number, unsigned copy)
{
	uint64_t at = vmdk_table_at(walk->e, walk->e->table[copy][number]);

	if (!take_sectors(walk, at, walk->table_len))
		say(walk, "grain table %llu, at %llu, lies where something else does",
		    (unsigned long long)number, (unsigned long long)at);
}

static int walk_table(struct walk *walk, uint64_t number)
{
	struct vmdk_extent *e = walk->e;
	uint64_t entry = vmdk_entry_size(&e->layout), offset = number * vmdk_span(&e->layout);
	int err = table_read(walk, number, 0, walk->table);

	if (err)
		return err == -ENOENT || err == -EBADMSG ? 0 : err;
	take_table(walk, number, 0);
	for (uint64_t i = 0; i < walk->table_len; i += entry, offset += e->layout.grain)
		if (offset < e->end - e->start)
			walk_entry(walk, e->start + offset, walk->table + i);
	if (!e->table[1])
		return 0;
	err = table_read(walk, number, 1, walk->other);
	if (err)
		return err == -ENOENT || err == -EBADMSG ? 0 : err;
	take_table(walk, number, 1);
	if (!e->layout.unclean)
		compare(walk, number);
	return 0;
}

/* Only what we know all owners of: not packed grains, nor what ESX has besides. */
static void count_leaks(struct walk *walk)
{
	uint64_t lost = 0;

	if (walk->e->layout.kind != VMDK_HOSTED || walk->e->layout.compressed)
		return;
	for (uint64_t i = walk->e->layout.overhead / VMDK_SECTOR; i < walk->sectors; i++)
		lost += !(walk->used[i / 8] & 1 << i % 8);
	walk->check->leaks += lost / (walk->e->layout.grain / VMDK_SECTOR);
}

/* Header, descriptor and directories. */
static void take_head(struct walk *walk)
{
	const struct vmdk_layout *layout = &walk->e->layout;
	uint64_t len = layout->tables * vmdk_entry_size(layout);
	bool alone = take_sectors(walk, 0, VMDK_SECTOR);

	if (layout->text_len)
		alone &= take_sectors(walk, layout->text_at, layout->text_len);
	alone &= take_sectors(walk, layout->gd_at, len);
	if (layout->rgd_at)
		alone &= take_sectors(walk, layout->rgd_at, len);
	if (!alone)
		say(walk, "header, descriptor and directories lie in each other's places");
}

static int walk_extent(struct walk *walk)
{
	struct vmdk_extent *e = walk->e;
	uint64_t len;
	int err = 0;

	walk->sectors = td_file_size(e->file) / VMDK_SECTOR + 1;
	walk->table_len = e->layout.entries * vmdk_entry_size(&e->layout);
	walk->check->total += (e->end - e->start - 1) / e->layout.grain + 1;
	len = walk->sectors / 8 + 1;
	walk->used = mmap(NULL, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (walk->used == MAP_FAILED) {
		walk->used = NULL;
		return -ENOMEM;
	}
	walk->table = malloc(walk->table_len);
	walk->other = malloc(walk->table_len);
	if (!walk->table || !walk->other)
		err = -ENOMEM;
	if (!err)
		take_head(walk);
	for (uint64_t i = 0; i < e->layout.tables && !err; i++)
		err = walk_table(walk, i);
	if (!err)
		count_leaks(walk);
	free(walk->table);
	free(walk->other);
	return err;
}

static void walk_free(struct walk *walk)
{
	if (walk->used)
		munmap(walk->used, walk->sectors / 8 + 1);
}

/* ---- mending -------------------------------------------------------------------- */

/* Raises *end to that of the last grain that a table names. */
static void find_end(const struct vmdk_extent *e, const char *table, uint64_t *end)
{
	struct td_spot spot;

	for (uint64_t i = 0; i < e->layout.entries; i++)
		if (!vmdk_spot(e, table + i * vmdk_entry_size(&e->layout), &spot) &&
		    spot.kind == TD_SPOT_DATA)
			*end = max_u64(*end, spot.at + e->layout.grain);
}

static int mend_table(struct vmdk_extent *e, uint64_t number, char *first, char *second,
		      uint64_t *fixed, uint64_t *end)
{
	uint64_t len = e->layout.entries * vmdk_entry_size(&e->layout);
	uint64_t from = vmdk_table_at(e, e->table[0][number]), to;
	int err = td_file_read(e->file, first, len, from);

	if (err)
		return err;
	*end = max_u64(*end, from + len);
	find_end(e, first, end);
	if (!e->table[1])
		return 0;
	to = vmdk_table_at(e, e->table[1][number]);
	*end = max_u64(*end, to + len);
	err = td_file_read(e->file, second, len, to);
	if (err || !memcmp(first, second, len))
		return err;
	for (uint64_t i = 0; i < len; i += 4)
		*fixed += !!memcmp(first + i, second + i, 4);
	if (e->cache)
		td_cache_forget(e->cache, to, len);
	return td_file_write(e->file, first, len, to);
}

int vmdk_mend(struct vmdk_extent *e, uint64_t *fixed, uint64_t *end)
{
	uint64_t len = e->layout.entries * vmdk_entry_size(&e->layout);
	AUTO_FREE char *first = malloc(len);
	AUTO_FREE char *second = malloc(len);
	uint64_t directory = e->layout.tables * vmdk_entry_size(&e->layout);
	int err = first && second ? 0 : -ENOMEM;

	*end = max_u64(e->layout.overhead, e->layout.text_at + e->layout.text_len);
	*end = max_u64(*end, max_u64(e->layout.gd_at, e->layout.rgd_at) + directory);
	if (!err && e->cache)
		err = td_cache_sync(e->cache);
	for (uint64_t i = 0; i < e->layout.tables && !err; i++)
		err = mend_table(e, i, first, second, fixed, end);
	return err || !*fixed ? err : td_file_sync(e->file);
}

/* What is leaked of the extent goes: grains move there, and its file becomes shorter. */
static int repair_leaks(struct walk *walk, struct td_why *why)
{
	struct td_check after = { 0 };
	struct walk again = { .v = walk->v, .e = walk->e, .check = &after };
	int err = td_cache_sync(walk->e->cache), end;

	if (!err)
		err = vmdk_mark_in_use(walk->v);
	vmdk_extent_close(walk->e);
	if (!err)
		err = vmdk_compact(walk->e, walk->used, walk->sectors);
	end = vmdk_extent_reopen(walk->v, walk->e, why);
	if (!err && !end)
		err = walk_extent(&again);
	walk_free(&again);
	if (!err && !end)
		walk->check->leaks_fixed += walk->leaks - min_u64(after.leaks, walk->leaks);
	return err ? err : end;
}

static int check_extent(struct vmdk *v, struct vmdk_extent *e, struct td_check *check,
			struct td_why *why)
{
	struct walk walk = { .v = v, .e = e, .check = check };
	uint64_t fixed = 0, end, errors = check->corruptions, leaks = check->leaks;
	int err = walk_extent(&walk);

	walk.leaks = check->leaks - leaks;
	if (!err && check->repair == TD_REPAIR_ALL && e->table[1])
		err = vmdk_mend(e, &fixed, &end);
	check->corruptions_fixed += fixed ? walk.differ : 0;
	if (!err && check->repair && walk.leaks && check->corruptions == errors)
		err = repair_leaks(&walk, why);
	walk_free(&walk);
	return err ? td_fail(why, err, "%s: cannot read or mend its tables: %s",
			     td_file_path(e->file), strerror(-err)) : 0;
}

int vmdk_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct vmdk *v = vmdk_of(img);
	int err = 0;

	for (unsigned i = 0; i < v->extents && !err; i++)
		if (v->extent[i].type == VMDK_SPARSE)
			err = check_extent(v, &v->extent[i], check, why);
	return err;
}
