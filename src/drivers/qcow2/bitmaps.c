/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Persistent bitmaps: what has been written on the disk since each of them was made.
 * The header names a directory; a row of it names a table, and that clusters of bits.
 *
 *   open    bitmaps that follow the disk are read, and marked as in use
 *   write   bits are set, in memory
 *   close   clusters of bits that changed are written, then the tables, then the
 *           rows, then the marks go; a sync between each of these
 *
 * So after a kill or a power cut they are marked, which says that they are not true.
 * One that is switched off stays as it is, unless the size of the disk changes.
 */
#include <stdlib.h>
#include <string.h>

#include "drivers/qcow2/qcow2.h"

#define MEMORY_MAX (64 * MiB)       /* of all bitmaps: one that needs more is not kept */
#define DIRECTORY_MAX (16 * MiB)
#define ALL_ONES 1ull               /* an entry without a cluster */
#define ENTRY_RESERVED 0xff000000000001feull

struct row {
	be64 table_at;
	be32 table_count, flags;
	uint8_t type, grain_bits;
	be16 name_len;
	be32 extra_len;
};
static_assert(sizeof(struct row) == 24, "see docs/qcow2.md");

struct qcow2_bitmap {
	uint64_t row_at;
	uint32_t flags;             /* when it was opened */
	unsigned grain_bits;
	uint64_t table_at, count;   /* its table in the file, and the entries of that */
	uint64_t new_at;            /* where the table goes; 0: stays */
	be64 *table;                /* of at least as many entries as either counts */
	uint64_t clusters;          /* of bits, as the size of the disk demands */
	uint8_t *bits, *touched;    /* touched: each cluster of bits */
};

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return n / by + !!(n % by);
}

static uint64_t bits_of(uint64_t size, unsigned grain_bits)
{
	return divide_up(size, 1ull << grain_bits);
}

static uint64_t clusters_of(const struct qcow2 *q, uint64_t size, unsigned grain_bits)
{
	return divide_up(bits_of(size, grain_bits), 8 * qcow2_cluster(&q->layout));
}

/* ---- the directory --------------------------------------------------------------- */

/* The row at data, of a directory that has left bytes from it on; 0: it cannot be. */
static uint64_t row_take(const struct qcow2 *q, const char *data, uint64_t left,
			 struct qcow2_bitmap_row *out)
{
	const struct row *row = (const struct row *)data;
	uint64_t extra, name, len, size = td_file_size(q->file);

	if (left < sizeof(*row))
		return 0;
	extra = from_be32(row->extra_len);
	name = from_be16(row->name_len);
	len = round_up(sizeof(*row) + extra + name, 8);
	if (len > left || !name || name >= sizeof(out->name))
		return 0;
	out->len = len;
	out->table_at = from_be64(row->table_at);
	out->count = from_be32(row->table_count);
	out->flags = from_be32(row->flags);
	out->grain_bits = row->grain_bits;
	out->known = row->type == 1 && (!extra || out->flags & QCOW2_BITMAP_EXTRA_OK);
	memset(out->name, 0, sizeof(out->name));
	memcpy(out->name, data + sizeof(*row) + extra, name);
	if (!out->count || out->grain_bits < 9 || out->grain_bits > 31 || !out->table_at ||
	    !is_aligned(out->table_at, qcow2_cluster(&q->layout)) || out->table_at >= size ||
	    out->count * 8 > size - out->table_at)
		return 0;
	return len;
}

int qcow2_bitmap_each(struct qcow2 *q, qcow2_bitmap_fn *each, void *arg)
{
	const struct qcow2_layout *layout = &q->layout;
	uint64_t len = layout->bitmaps_len, pos = 0, size = td_file_size(q->file), n;
	struct qcow2_bitmap_row row;
	char *data;
	int err;

	if (!(layout->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || !layout->bitmaps)
		return 0;
	if (len > DIRECTORY_MAX || layout->bitmaps_at >= size || len > size - layout->bitmaps_at ||
	    !layout->bitmaps_at || !is_aligned(layout->bitmaps_at, qcow2_cluster(layout)))
		return -EINVAL;
	data = malloc(len + 1);
	err = data ? td_file_read(q->file, data, len, layout->bitmaps_at) : -ENOMEM;
	for (uint32_t i = 0; i < layout->bitmaps && !err; i++, pos += n) {
		n = row_take(q, data + pos, len - pos, &row);
		row.at = layout->bitmaps_at + pos;
		err = n ? each(arg, &row) : -EINVAL;
	}
	free(data);
	return err;
}

static int flags_write(struct qcow2 *q, uint64_t row_at, uint32_t flags)
{
	be32 on_disk = to_be32(flags);

	return td_file_write(q->file, &on_disk, sizeof(on_disk),
			     row_at + offsetof(struct row, flags));
}

/* ---- bits ------------------------------------------------------------------------- */

static void bits_set(const struct qcow2 *q, struct qcow2_bitmap *b, uint64_t from, uint64_t to)
{
	unsigned shift = q->layout.cluster_bits + 3;

	if (from >= to)
		return;
	memset(b->touched + (from >> shift), 1, ((to - 1) >> shift) - (from >> shift) + 1);
	for (; from < to && from % 8; from++)
		b->bits[from / 8] |= 1 << from % 8;
	if (to - from >= 8) {
		memset(b->bits + from / 8, 0xff, (to - from) / 8);
		from = round_down(to, 8);
	}
	for (; from < to; from++)
		b->bits[from / 8] |= 1 << from % 8;
}

/* What is behind the last bit is zero. */
static void tail_clear(const struct qcow2 *q, struct qcow2_bitmap *b, uint64_t bits)
{
	uint64_t bytes = b->clusters << q->layout.cluster_bits;

	for (; bits % 8; bits++)
		b->bits[bits / 8] &= ~(1 << bits % 8);
	memset(b->bits + bits / 8, 0, bytes - bits / 8);
}

void qcow2_bitmaps_note(struct qcow2 *q, uint64_t offset, uint64_t len)
{
	for (unsigned i = 0; i < q->bitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmap[i];

		if (b->flags & QCOW2_BITMAP_AUTO && len)
			bits_set(q, b, offset >> b->grain_bits,
				 ((offset + len - 1) >> b->grain_bits) + 1);
	}
}

/* ---- open ------------------------------------------------------------------------- */

static void bitmap_free(struct qcow2_bitmap *b)
{
	free(b->table);
	free(b->bits);
	free(b->touched);
}

static int bits_read(struct qcow2 *q, struct qcow2_bitmap *b)
{
	uint64_t cluster = qcow2_cluster(&q->layout);
	int err = td_file_read(q->file, b->table, b->count * 8, b->table_at);

	for (uint64_t i = 0; i < b->count && !err; i++) {
		uint64_t entry = from_be64(b->table[i]), at = entry & QCOW2_HOST;

		if (entry & ENTRY_RESERVED || (at && (entry & ALL_ONES || !qcow2_place_fits(q, at))))
			err = -EINVAL;
		else if (at)
			err = td_file_read(q->file, b->bits + i * cluster, cluster, at);
		else if (entry & ALL_ONES)
			memset(b->bits + i * cluster, 0xff, cluster);
	}
	if (!err)
		tail_clear(q, b, bits_of(q->layout.size, b->grain_bits));
	return err;
}

static int bitmap_read(struct qcow2 *q, const struct qcow2_bitmap_row *row)
{
	uint64_t cluster = qcow2_cluster(&q->layout);
	uint64_t clusters = clusters_of(q, q->layout.size, row->grain_bits), has = 0;
	struct qcow2_bitmap *more, *b;
	int err;

	for (unsigned i = 0; i < q->bitmaps; i++)
		has += q->bitmap[i].clusters;
	if (!row->known || clusters != row->count || clusters + has > MEMORY_MAX / cluster)
		return -ENOTSUP;
	more = realloc(q->bitmap, (q->bitmaps + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	q->bitmap = more;
	b = &more[q->bitmaps];
	*b = (struct qcow2_bitmap){
		.row_at = row->at, .flags = row->flags, .grain_bits = row->grain_bits,
		.table_at = row->table_at, .count = clusters, .clusters = clusters,
		.table = calloc(clusters, 8), .bits = calloc(clusters, cluster),
		.touched = calloc(clusters, 1),
	};
	err = b->table && b->bits && b->touched ? bits_read(q, b) : -ENOMEM;
	if (err)
		bitmap_free(b);
	else
		q->bitmaps++;
	return err;
}

struct taking {
	struct qcow2 *q;
	uint32_t flags;          /* those that have all of these */
	bool marked;
};

/* It is marked whether it can be kept true or not. */
static int take_row(void *arg, const struct qcow2_bitmap_row *row)
{
	struct taking *taking = arg;
	struct qcow2 *q = taking->q;

	if (row->flags & QCOW2_BITMAP_IN_USE || (row->flags & taking->flags) != taking->flags)
		return 0;
	if (bitmap_read(q, row))
		td_say(q->img, LOG_NOTICE, "the bitmap '%s' is not kept true from now on: it is "
		       "damaged, too large or of an unknown kind", row->name);
	taking->marked = true;
	return flags_write(q, row->at, row->flags | QCOW2_BITMAP_IN_USE);
}

static int take_rows(struct qcow2 *q, uint32_t flags)
{
	struct taking taking = { .q = q, .flags = flags };
	int err = qcow2_bitmap_each(q, take_row, &taking);

	return !err && taking.marked ? td_file_sync(q->file) : err;
}

int qcow2_bitmaps_open(struct qcow2 *q)
{
	return take_rows(q, QCOW2_BITMAP_AUTO);
}

/* ---- another size ------------------------------------------------------------------- */

int qcow2_bitmaps_take_all(struct qcow2 *q)
{
	return take_rows(q, 0);
}

static int bitmap_resize(struct qcow2 *q, struct qcow2_bitmap *b, uint64_t old, uint64_t size)
{
	uint64_t cluster = qcow2_cluster(&q->layout), had = b->clusters;
	uint64_t clusters = clusters_of(q, size, b->grain_bits), most = max_u64(clusters, b->count);
	be64 *table = realloc(b->table, max_u64(most, had) * 8);
	uint8_t *bits = realloc(b->bits, max_u64(clusters, had) * cluster);
	uint8_t *touched = realloc(b->touched, max_u64(clusters, had));

	b->table = table ? table : b->table;
	b->bits = bits ? bits : b->bits;
	b->touched = touched ? touched : b->touched;
	if (!table || !bits || !touched)
		return -ENOMEM;
	for (uint64_t i = had; i < clusters; i++) {
		memset(bits + i * cluster, 0, cluster);
		touched[i] = 0;
		if (i >= b->count)
			table[i] = to_be64(0);
	}
	b->clusters = clusters;
	if (size < old) {
		tail_clear(q, b, bits_of(size, b->grain_bits));
		touched[clusters - 1] = 1;
	} else { /* what is new has changed */
		bits_set(q, b, old >> b->grain_bits, bits_of(size, b->grain_bits));
	}
	return 0;
}

int qcow2_bitmaps_resize(struct qcow2 *q, uint64_t old, uint64_t size)
{
	int err = 0;

	for (unsigned i = 0; i < q->bitmaps && !err; i++)
		err = bitmap_resize(q, &q->bitmap[i], old, size);
	return err;
}

/* ---- close ---------------------------------------------------------------------------- */

static uint64_t table_size(const struct qcow2 *q, uint64_t count)
{
	return round_up(count * 8, qcow2_cluster(&q->layout));
}

/* Clusters of bits, and places for new ones. */
static int store_bits(struct qcow2 *q, struct qcow2_bitmap *b)
{
	uint64_t cluster = qcow2_cluster(&q->layout);
	int err = 0;

	for (uint64_t i = 0; i < b->clusters && !err; i++) {
		uint64_t at = from_be64(b->table[i]) & QCOW2_HOST;

		if (!b->touched[i])
			continue;
		if (!at)
			err = qcow2_take_run(q, cluster, &at);
		if (err)
			return err;
		b->table[i] = to_be64(at);
		err = td_file_write(q->file, b->bits + i * cluster, cluster, at);
	}
	if (!err && table_size(q, b->clusters) > table_size(q, b->count))
		err = qcow2_take_run(q, table_size(q, b->clusters), &b->new_at);
	td_cache_data(q->cache);
	return err;
}

static int store_table(struct qcow2 *q, struct qcow2_bitmap *b)
{
	return td_file_write(q->file, b->table, b->clusters * 8,
			     b->new_at ? b->new_at : b->table_at);
}

/* A longer table begins like the old one: its place may change before its length. */
static int store_place(struct qcow2 *q, struct qcow2_bitmap *b)
{
	be64 at = to_be64(b->new_at);

	return !b->new_at ? 0 : td_file_write(q->file, &at, sizeof(at),
					      b->row_at + offsetof(struct row, table_at));
}

static int store_count(struct qcow2 *q, struct qcow2_bitmap *b)
{
	be32 count = to_be32(b->clusters);

	return b->clusters == b->count ? 0 :
		td_file_write(q->file, &count, sizeof(count),
			      b->row_at + offsetof(struct row, table_count));
}

/* What the row does not show any more. */
static int give_back(struct qcow2 *q, struct qcow2_bitmap *b)
{
	uint64_t has = table_size(q, b->count), keeps = b->new_at ? 0 : table_size(q, b->clusters);

	for (uint64_t i = b->clusters; i < b->count; i++)
		if (from_be64(b->table[i]) & QCOW2_HOST)
			qcow2_give_run(q, from_be64(b->table[i]) & QCOW2_HOST,
				       qcow2_cluster(&q->layout));
	if (has > keeps)
		qcow2_give_run(q, b->table_at + keeps, has - keeps);
	return 0;
}

static int unmark(struct qcow2 *q, struct qcow2_bitmap *b)
{
	return flags_write(q, b->row_at, b->flags);
}

/* What is done with each before the next is done with any. */
static int store(struct qcow2 *q)
{
	static int (*const steps[])(struct qcow2 *q, struct qcow2_bitmap *b) = {
		store_bits, store_table, store_place, store_count, give_back, unmark,
	};
	int err = 0;

	for (unsigned step = 0; step < ARRAY_SIZE(steps) && !err; step++) {
		for (unsigned i = 0; i < q->bitmaps && !err; i++)
			err = steps[step](q, &q->bitmap[i]);
		if (!err)
			err = td_cache_sync(q->cache);
	}
	return err;
}

void qcow2_bitmaps_close(struct qcow2 *q)
{
	int err = 0;

	if (q->bitmaps && !td_file_is_removed(q->file)) {
		td_cache_block(q->cache, true);
		err = store(q);
	}
	if (err)
		td_say(q->img, LOG_WARNING, "its bitmaps cannot be stored, and are inconsistent from "
		       "now on: %s", strerror(-err));
}

void qcow2_bitmaps_free(struct qcow2 *q)
{
	for (unsigned i = 0; i < q->bitmaps; i++)
		bitmap_free(&q->bitmap[i]);
	free(q->bitmap);
}
