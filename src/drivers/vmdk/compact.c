/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leaks are repaired by moving the last grains of a file to places that nobody has, and
 * cutting off what is behind the last one then. For each table:
 *
 *     grains copied -> a barrier -> table 2, table 1 -> a barrier
 *
 * The extent is marked as in use meanwhile, since the copies of a table may differ. A
 * grain's old place is not written before its table is durable: no place is used twice.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdlib.h>
#include <string.h>

#include "base/guard.h"

struct compact {
	struct vmdk_extent *e;
	uint8_t *used;          /* a bit for each sector of the file */
	uint64_t sectors, grain; /* grain: sectors */
	uint8_t *starts;        /* ... where a grain begins */
	uint64_t last;          /* grains that begin behind it are moved */
	uint64_t slot;          /* the next place that nobody has */
	char *buf, *table;
};

static bool bit(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] & 1 << i % 8;
}

static bool is_free(const struct compact *c, uint64_t at)
{
	for (uint64_t i = 0; i < c->grain; i++)
		if (at + i >= c->sectors || bit(c->used, at + i))
			return false;
	return true;
}

/* The first free place from there on; or the end. */
static uint64_t next_slot(const struct compact *c, uint64_t at)
{
	while (at < c->sectors && !is_free(c, at))
		at += c->grain;
	return at;
}

static uint64_t grain_before(const struct compact *c, uint64_t at)
{
	while (at && !bit(c->starts, at - 1))
		at--;
	return at ? at - 1 : 0;
}

/* As many of the last grains as there are places before them. */
static bool choose(struct compact *c)
{
	uint64_t slot = next_slot(c, c->slot), grain = grain_before(c, c->sectors);
	bool any = false;

	c->last = grain;
	while (slot < grain) {
		any = true;
		slot = next_slot(c, slot + c->grain);
		grain = grain_before(c, grain);
		c->last = grain;
	}
	return any;
}

static le32 *entries_read(struct compact *c, uint64_t number, int *err)
{
	*err = td_file_read(c->e->file, c->table, VMDK_ENTRIES * 4,
			    vmdk_table_at(c->e, c->e->table[0][number]));
	return (le32 *)c->table;
}

static bool is_grain(const struct compact *c, le32 entry)
{
	struct td_spot spot;

	return !vmdk_spot(c->e, &entry, &spot) && spot.kind == TD_SPOT_DATA;
}

static int note_starts(struct compact *c)
{
	int err = 0;

	for (uint64_t i = 0; i < c->e->layout.tables && !err; i++) {
		le32 *entry = entries_read(c, i, &err);

		for (unsigned k = 0; k < VMDK_ENTRIES && !err; k++)
			if (is_grain(c, entry[k]))
				c->starts[from_le32(entry[k]) / 8] |= 1 << from_le32(entry[k]) % 8;
	}
	return err;
}

static int move_grain(struct compact *c, le32 *entry)
{
	uint64_t len = c->grain * VMDK_SECTOR, slot = next_slot(c, c->slot);
	int err = td_file_read(c->e->file, c->buf, len, from_le32(*entry) * VMDK_SECTOR);

	if (!err)
		err = td_file_write(c->e->file, c->buf, len, slot * VMDK_SECTOR);
	*entry = to_le32(slot);
	c->slot = slot + c->grain;
	return err;
}

static int move_table(struct compact *c, uint64_t number)
{
	bool moved = false;
	int err;
	le32 *entry = entries_read(c, number, &err);

	for (unsigned k = 0; k < VMDK_ENTRIES && !err; k++)
		if (from_le32(entry[k]) > c->last && is_grain(c, entry[k])) {
			err = move_grain(c, &entry[k]);
			moved = true;
		}
	if (err || !moved)
		return err;
	err = td_file_sync(c->e->file);
	for (unsigned copy = 2; copy-- && !err;)
		if (c->e->table[copy])
			err = td_file_write(c->e->file, c->table, VMDK_ENTRIES * 4,
					    vmdk_table_at(c->e, c->e->table[copy][number]));
	return err ? err : td_file_sync(c->e->file);
}

int vmdk_compact(struct vmdk_extent *e, uint8_t *used, uint64_t sectors)
{
	struct compact c = { .e = e, .used = used, .sectors = sectors,
			     .grain = e->layout.grain / VMDK_SECTOR };
	AUTO_FREE uint8_t *starts = calloc(1, sectors / 8 + 1);
	AUTO_FREE char *table = malloc(VMDK_ENTRIES * 4);
	AUTO_FREE char *buf = malloc(e->layout.grain);
	uint64_t fixed = 0, end;
	int err = starts && table && buf ? 0 : -ENOMEM;

	c.starts = starts;
	c.table = table;
	c.buf = buf;
	c.slot = round_up(e->layout.overhead, e->layout.grain) / VMDK_SECTOR;
	if (!err)
		err = note_starts(&c);
	if (!err && choose(&c))
		for (uint64_t i = 0; i < e->layout.tables && !err; i++)
			err = move_table(&c, i);
	if (!err)
		err = vmdk_mend(e, &fixed, &end);
	if (!err && round_up(end, e->layout.grain) < td_file_size(e->file))
		err = td_file_truncate(e->file, round_up(end, e->layout.grain));
	return err;
}
