/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots within an image: rows of a table that name L1 tables. What they show is
 * shared with the image until one of the two changes it, which refcounts tell.
 *
 *   make    bits 63 go; one owner more of all; a copy of L1; a longer table
 *   apply   one owner more of all that the snapshot shows; a copy of its L1; the
 *           header names it; one owner less of what the image showed
 *   delete  a shorter table; one owner less of all; bits 63 come back
 *
 * All of it blocks: no request is under way. The header changes by one write, after
 * all that it shows is durable, and before anything loses an owner: a cut leaves
 * the old or the new, and leaked clusters at most. Bits 63 go before there are more
 * owners, and come after there are fewer: what has two never looks like one's own. One
 * that is missing costs a copy.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rule.h"
#include "drivers/qcow2/qcow2.h"

#define ROW_HEAD 40
#define ROWS_MAX 65536
#define EXTRA 16 /* of ours: the size of a machine's state, and of the disk */

struct row_head {
	be64 l1_at;
	be32 l1_count;
	be16 id_len, name_len;
	be32 sec, nsec;
	be64 clock;
	be32 state_size, extra_len;
};
static_assert(sizeof(struct row_head) == ROW_HEAD, "see docs/qcow2.md");

/* ---- the table ------------------------------------------------------------------- */

static int read_text(struct qcow2 *q, uint64_t at, uint32_t len, char out[256])
{
	uint32_t n = min_u64(len, 255);

	memset(out, 0, 256);
	return td_file_read(q->file, out, n, at);
}

int qcow2_snapshot_read(struct qcow2 *q, uint64_t *at, struct qcow2_snapshot *out)
{
	uint64_t size = td_file_size(q->file), pos = *at;
	struct row_head head;
	uint32_t extra, id, name;
	be64 pair[2] = { 0 };
	int err;

	if (pos > size || size - pos < ROW_HEAD)
		return -EINVAL;
	err = td_file_read(q->file, &head, sizeof(head), pos);
	if (err)
		return err;
	extra = from_be32(head.extra_len);
	id = from_be16(head.id_len);
	name = from_be16(head.name_len);
	if (extra > 4096 || (uint64_t)ROW_HEAD + extra + id + name > size - pos)
		return -EINVAL;
	err = td_file_read(q->file, pair, min_u64(extra, sizeof(pair)), pos + ROW_HEAD);
	if (!err)
		err = read_text(q, pos + ROW_HEAD + extra, id, out->id);
	if (!err)
		err = read_text(q, pos + ROW_HEAD + extra + id, name, out->name);
	if (err)
		return err;
	out->at = pos;
	out->len = round_up((uint64_t)ROW_HEAD + extra + id + name, 8);
	out->l1_at = from_be64(head.l1_at);
	out->l1_count = from_be32(head.l1_count);
	out->made_s = from_be32(head.sec);
	out->state_size = extra >= 8 ? from_be64(pair[0]) : from_be32(head.state_size);
	out->size = extra >= 16 ? round_up(from_be64(pair[1]), 512) : q->layout.size;
	*at = pos + out->len;
	return 0;
}

/* Of all rows, or -errno; each may be NULL. */
static int each_row(struct qcow2 *q, int (*each)(void *arg, const struct qcow2_snapshot *row),
		    void *arg, uint64_t *end, struct td_why *why)
{
	uint64_t at = q->layout.snapshots_at;
	int err = 0;

	for (uint64_t i = 0; i < q->layout.snapshots && !err; i++) {
		struct qcow2_snapshot row;

		err = i < ROWS_MAX ? qcow2_snapshot_read(q, &at, &row) : -EINVAL;
		if (err)
			return td_fail(why, err, "%s: its snapshot table is damaged",
				       td_file_path(q->file));
		row.index = i;
		if (each)
			err = each(arg, &row);
	}
	if (end)
		*end = at;
	return err < 0 ? err : 0;
}

struct search {
	const char *name;
	struct qcow2_snapshot *out;
	bool found;
	uint64_t highest; /* id that is a number */
};

static int search_row(void *arg, const struct qcow2_snapshot *row)
{
	struct search *search = arg;

	search->highest = max_u64(search->highest, strtoull(row->id, NULL, 10));
	/* a name counts for more than somebody else's id */
	if (!strcmp(row->name, search->name) ||
	    (!search->found && !strcmp(row->id, search->name))) {
		*search->out = *row;
		search->found = true;
	}
	return 0;
}

int qcow2_snapshot_find(struct qcow2 *q, const char *name, struct qcow2_snapshot *out,
			struct td_why *why)
{
	struct search search = { .name = name, .out = out };
	int err = each_row(q, search_row, &search, NULL, why);

	if (err || search.found)
		return err;
	return td_fail(why, -ENOENT, "%s: has no snapshot '%s'", td_file_path(q->file), name);
}

/* ---- owners ------------------------------------------------------------------------ */

static int add_clusters(struct qcow2 *q, uint64_t at, uint64_t end, int by)
{
	struct td_park nobody = { 0 };
	int err = 0;

	for (; at < end && !err; at += qcow2_cluster(&q->layout)) {
		uint64_t left = 1;

		err = td_cache_room(q->cache, &nobody);
		if (!err)
			err = qcow2_ref_add(q, &nobody, at, by, &left);
		if (!err && !by && left == qcow2_ref_max(q))
			err = -EOVERFLOW;
		if (!err && !left) {
			td_cache_forget(q->cache, at, qcow2_cluster(&q->layout));
			td_file_punch(q->file, at, qcow2_cluster(&q->layout));
		}
	}
	return err;
}

static int add_entry(struct qcow2 *q, uint64_t entry, int by)
{
	uint64_t cluster = qcow2_cluster(&q->layout), at = entry & QCOW2_HOST, end = at + cluster;

	if (entry & QCOW2_PACKED) {
		at = qcow2_packed_at(&q->layout, entry);
		end = round_up(at + qcow2_packed_len(&q->layout, entry), cluster);
		end = min_u64(end, round_up(td_file_size(q->file), cluster));
		at = round_down(at, cluster);
	}
	return at ? add_clusters(q, at, end, by) : 0;
}

/* by owners more of all that an L1 table shows; 0: there could be one more. */
static int add_all(struct qcow2 *q, uint64_t l1_at, uint64_t l1_count, int by)
{
	uint64_t cluster = qcow2_cluster(&q->layout), step = 1 << qcow2_entry_bits(&q->layout);
	be64 *table = malloc(cluster), entry;
	int err = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < l1_count && !err; i++) {
		uint64_t at;

		err = td_cache_read(q->cache, &entry, sizeof(entry), l1_at + i * 8);
		at = from_be64(entry) & QCOW2_HOST;
		if (err || !at)
			continue;
		if (!qcow2_place_fits(q, at))
			err = qcow2_corrupt(q, "L1 entry", i, at);
		if (!err)
			err = td_cache_read(q->cache, table, cluster, at);
		for (uint64_t pos = 0; pos < cluster && !err; pos += step)
			if (from_be64(table[pos / 8]))
				err = add_entry(q, from_be64(table[pos / 8]), by);
		if (!err)
			err = add_clusters(q, at, at + cluster, by);
	}
	free(table);
	return err;
}

/* ---- bits 63 --------------------------------------------------------------------------- */

/* They become as refcounts have it, or go. */
enum flags_are { FLAGS_GO, FLAGS_COME, FLAGS_MENDED };

static int mend_entry(struct qcow2 *q, uint64_t at, unsigned stage, enum flags_are how,
		      uint64_t *changed)
{
	struct td_park nobody = { 0 };
	uint64_t entry, left = 0;
	void *place;
	int err = td_cache_get(q->cache, at, &nobody, &place);

	entry = err ? 0 : from_be64(*(be64 *)place);
	if (err || entry & QCOW2_PACKED || !qcow2_place_fits(q, entry & QCOW2_HOST))
		return err;
	if (how == FLAGS_COME && entry & QCOW2_COPIED)
		return 0;
	if (how != FLAGS_GO)
		err = qcow2_ref_add(q, &nobody, entry & QCOW2_HOST, 0, &left);
	if (err || !!(entry & QCOW2_COPIED) == (left == 1))
		return err;
	err = td_cache_room(q->cache, &nobody);
	if (!err)
		err = td_cache_get(q->cache, at, &nobody, &place);
	if (err)
		return err;
	td_cache_dirty(q->cache, place, stage);
	td_set64(place, htobe64(entry ^ QCOW2_COPIED));
	++*changed;
	return 0;
}

static int each_flag(struct qcow2 *q, enum flags_are how, uint64_t *changed)
{
	uint64_t cluster = qcow2_cluster(&q->layout), step = 1 << qcow2_entry_bits(&q->layout);
	int err = 0;

	for (uint64_t i = 0; i < q->layout.l1_count && !err && !q->layout.external; i++) {
		uint64_t at = q->layout.l1_at + i * 8, table;
		be64 entry;

		err = td_cache_read(q->cache, &entry, sizeof(entry), at);
		table = err ? 0 : from_be64(entry) & QCOW2_HOST;
		if (!table || !qcow2_place_fits(q, table))
			continue;
		for (uint64_t pos = 0; pos < cluster && !err; pos += step)
			err = mend_entry(q, table + pos, QCOW2_L2, how, changed);
		if (!err)
			err = mend_entry(q, at, QCOW2_L1, how, changed);
	}
	return err;
}

int qcow2_flags_mend(struct qcow2 *q, uint64_t *changed)
{
	return each_flag(q, FLAGS_MENDED, changed);
}

/* Durably, before anything that they speak of has another owner. */
static int flags_go(struct qcow2 *q)
{
	uint64_t changed = 0;
	int err = each_flag(q, FLAGS_GO, &changed);

	if (err || !td_rule("qcow2-flags-before-owners"))
		return err;
	return td_cache_sync(q->cache);
}

/* Those that are missing, once it is durable that they are true. */
int qcow2_flags_come(struct qcow2 *q, uint64_t *changed)
{
	int err = td_cache_sync(q->cache);

	return err ? err : each_flag(q, FLAGS_COME, changed);
}

/* ---- another table ------------------------------------------------------------------------ */

/* The table without one row (UINT64_MAX: with all), and with another at its end. */
static int table_write(struct qcow2 *q, uint64_t without, const void *row, size_t row_len)
{
	uint64_t old_at = q->layout.snapshots_at, old_end = old_at, at = 0, len, pos = 0;
	uint64_t count = q->layout.snapshots - (without != UINT64_MAX) + !!row;
	struct qcow2_snapshot one = { 0 };
	struct { be32 count; be64 at; } __attribute__((packed)) head;
	char *buf;
	int err = 0;

	for (uint64_t i = 0; i < q->layout.snapshots && !err; i++) {
		struct qcow2_snapshot each;

		err = qcow2_snapshot_read(q, &old_end, &each);
		if (i == without)
			one = each;
	}
	if (err)
		return err;
	len = old_end - old_at - one.len + row_len;
	buf = calloc(1, len + 1);
	if (!buf)
		return -ENOMEM;
	pos = one.len ? one.at - old_at : old_end - old_at;
	if (pos)
		err = td_file_read(q->file, buf, pos, old_at);
	if (!err && one.len && one.at + one.len < old_end)
		err = td_file_read(q->file, buf + pos, old_end - one.at - one.len,
				   one.at + one.len);
	if (row)
		memcpy(buf + len - row_len, row, row_len);
	if (!err && len)
		err = qcow2_take_run(q, len, &at);
	if (!err && len)
		err = td_file_write(q->file, buf, len, at);
	free(buf);
	td_cache_data(q->cache);
	if (!err)
		err = td_cache_sync(q->cache); /* all that the new table shows */
	head.count = to_be32(count);
	head.at = to_be64(at);
	if (!err)
		err = qcow2_head_write(q, &head, sizeof(head),
				       offsetof(struct qcow2_header, snapshots));
	if (err)
		return err;
	q->layout.snapshots = count;
	q->layout.snapshots_at = at;
	if (old_end > old_at)
		qcow2_give_run(q, old_at, old_end - old_at);
	return 0;
}

/* Refcounts and bits 63 cannot change together: while they do not agree the image says
 * so, and is mended when it is opened. Version 2 has no word for it. */
static int mark(struct qcow2 *q, bool dirty)
{
	struct qcow2_layout *layout = &q->layout;
	be64 bits;

	if (layout->version < 3)
		return 0;
	layout->incompatible &= ~(uint64_t)QCOW2_DIRTY;
	layout->incompatible |= dirty ? QCOW2_DIRTY : 0;
	bits = to_be64(layout->incompatible);
	return qcow2_head_write(q, &bits, sizeof(bits), offsetof(struct qcow2_header, incompatible));
}

/* ---- what is asked for ---------------------------------------------------------------------- */

static int list_row(void *arg, const struct qcow2_snapshot *row)
{
	const struct td_snapshots *ask = arg;
	struct td_snapshot told = { .id = row->id, .name = row->name, .size = row->size,
				    .made_s = row->made_s, .state_size = row->state_size };

	ask->put(ask->arg, &told);
	return 0;
}

static int make(struct qcow2 *q, const char *name, struct td_why *why)
{
	struct qcow2_layout *layout = &q->layout;
	const char *path = td_file_path(q->file);
	struct qcow2_snapshot other;
	struct search search = { .name = name, .out = &other };
	size_t name_len = strlen(name), id_len, len;
	struct timespec now;
	struct row_head head = { 0 };
	char row[ROW_HEAD + EXTRA + 32 + 256] = { 0 }, id[32];
	be64 extra[2] = { to_be64(0), to_be64(layout->size) };
	uint64_t at;
	int err = each_row(q, search_row, &search, NULL, why);

	if (err)
		return err;
	if (!name_len || name_len > 255 || (search.found && !strcmp(other.name, name)))
		return td_fail(why, -EEXIST, "%s: '%s' is %s", path, name,
			       search.found ? "a snapshot's name already" : "no name for a snapshot");
	err = add_all(q, layout->l1_at, layout->l1_count, 0);
	if (!err)
		err = mark(q, true);
	if (!err)
		err = flags_go(q);
	if (!err)
		err = add_all(q, layout->l1_at, layout->l1_count, 1);
	if (!err)
		err = qcow2_l1_copy(q, layout->l1_at, layout->l1_count, layout->l1_count, true, &at);
	if (err)
		return td_fail(why, err, "%s: cannot make a snapshot: %s", path,
			       err == -EOVERFLOW ? "its refcounts are too small for another" :
						   strerror(-err));
	snprintf(id, sizeof(id), "%llu", (unsigned long long)search.highest + 1);
	id_len = strlen(id);
	clock_gettime(CLOCK_REALTIME, &now);
	head.l1_at = to_be64(at);
	head.l1_count = to_be32(layout->l1_count);
	head.id_len = to_be16(id_len);
	head.name_len = to_be16(name_len);
	head.sec = to_be32(now.tv_sec);
	head.nsec = to_be32(now.tv_nsec);
	head.extra_len = to_be32(EXTRA);
	memcpy(row, &head, ROW_HEAD);
	memcpy(row + ROW_HEAD, extra, EXTRA);
	memcpy(row + ROW_HEAD + EXTRA, id, id_len);
	memcpy(row + ROW_HEAD + EXTRA + id_len, name, name_len);
	len = round_up(ROW_HEAD + EXTRA + id_len + name_len, 8);
	err = table_write(q, UINT64_MAX, row, len);
	return err ? td_fail(why, err, "%s: cannot write its snapshot table: %s", path,
			     strerror(-err)) : 0;
}

static int delete(struct qcow2 *q, const char *name, struct td_why *why)
{
	const char *path = td_file_path(q->file);
	struct qcow2_snapshot row;
	uint64_t changed = 0;
	int err = qcow2_snapshot_find(q, name, &row, why);

	if (err)
		return err;
	err = mark(q, true);
	if (!err)
		err = table_write(q, row.index, NULL, 0);
	if (!err)
		err = add_all(q, row.l1_at, row.l1_count, -1);
	if (!err) {
		qcow2_give_run(q, row.l1_at, row.l1_count * 8);
		err = qcow2_flags_come(q, &changed);
	}
	return err ? td_fail(why, err, "%s: cannot delete its snapshot '%s': %s", path, name,
			     strerror(-err)) : 0;
}

/* Whether the image can have the size that it had then. */
static bool size_is_sane(const struct qcow2 *q, const struct qcow2_snapshot *row)
{
	return row->size == q->layout.size ||
	       (row->size && row->size <= INT64_MAX - GiB &&
		(row->size - 1) >> qcow2_span_bits(&q->layout) < row->l1_count);
}

/* The header names the copy of the L1 table, and has the size of then. */
static int apply_head(struct qcow2 *q, const struct qcow2_snapshot *row)
{
	struct qcow2_layout *layout = &q->layout;
	uint64_t count = max_u64(layout->l1_count, row->l1_count), at = 0;
	struct { be64 size; be32 encryption, l1_count; be64 l1_at; } head;
	int err = qcow2_l1_copy(q, row->l1_at, row->l1_count, count, true, &at);

	if (!err)
		err = td_cache_sync(q->cache);
	head.size = to_be64(row->size);
	head.encryption = to_be32(layout->encryption);
	head.l1_count = to_be32(count);
	head.l1_at = to_be64(at);
	if (!err)
		err = qcow2_head_write(q, &head, sizeof(head), offsetof(struct qcow2_header, size));
	if (!err)
		err = qcow2_bitmaps_resize(q, layout->size, row->size);
	if (err)
		return err;
	layout->l1_at = at;
	layout->l1_count = count;
	layout->size = q->img->size = row->size;
	qcow2_bitmaps_note(q, 0, layout->size);
	return 0;
}

static int apply(struct qcow2 *q, const char *name, struct td_why *why)
{
	const char *path = td_file_path(q->file);
	uint64_t old_at = q->layout.l1_at, old_count = q->layout.l1_count, changed = 0;
	struct qcow2_snapshot row;
	int err = qcow2_snapshot_find(q, name, &row, why);

	if (err)
		return err;
	if (!size_is_sane(q, &row))
		return td_fail(why, -EINVAL, "%s: its snapshot '%s' has %llu bytes, and no table for "
			       "them", path, name, (unsigned long long)row.size);
	err = row.size == q->layout.size ? 0 : qcow2_bitmaps_take_all(q);
	if (!err)
		err = add_all(q, row.l1_at, row.l1_count, 0);
	if (!err)
		err = mark(q, true);
	if (!err)
		err = add_all(q, row.l1_at, row.l1_count, 1);
	if (!err)
		err = apply_head(q, &row);
	if (!err)
		err = add_all(q, old_at, old_count, -1);
	if (!err) {
		qcow2_give_run(q, old_at, old_count * 8);
		err = qcow2_flags_come(q, &changed);
	}
	return err ? td_fail(why, err, "%s: cannot apply its snapshot '%s': %s", path, name,
			     strerror(-err)) : 0;
}

static int change(struct qcow2 *q, const struct td_snapshots *ask, struct td_why *why)
{
	if (ask->op == TD_SNAPSHOT_MAKE)
		return make(q, ask->name, why);
	if (ask->op == TD_SNAPSHOT_APPLY)
		return apply(q, ask->name, why);
	return delete(q, ask->name, why);
}

int qcow2_snapshot(struct td_image *img, const struct td_snapshots *ask, struct td_why *why)
{
	struct qcow2 *q = img->state;
	int err = 0, last;

	if (ask->op == TD_SNAPSHOT_LIST)
		return each_row(q, list_row, (void *)ask, NULL, why);
	if (q->layout.external)
		return td_fail(why, -ENOTSUP, "%s: there are no snapshots of an image with a data "
			       "file: its clusters have no other place", td_file_path(q->file));
	td_cache_block(q->cache, true);
	err = td_cache_sync(q->cache);
	if (err)
		td_fail(why, err, "%s: %s", td_file_path(q->file), strerror(-err));
	else
		err = change(q, ask, why);
	last = td_cache_sync(q->cache);
	if (!err && !last)
		last = mark(q, false);
	if (!err && last)
		err = td_fail(why, last, "%s: %s", td_file_path(q->file), strerror(-last));
	td_cache_block(q->cache, false);
	return err;
}
