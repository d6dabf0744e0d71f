/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables, and changes of them. A table in memory equals the file at any time:
 * a change waits beside it (staged), is written with all others of that table
 * that have gathered, and is shown in memory when the write has ended. If the
 * write fails, memory still has what the file had, and the changes' owners are
 * told. While a table is being written, new changes gather for the next write.
 *
 *   stage -> (end of the turn) write_start -> write_ended -> change->done
 */
#include <string.h>

#include "drivers/qcow/qcow.h"

void qcow_table_init(struct qcow_table *table, struct qcow *qcow, uint64_t at, be64 *entry,
		     uint32_t count)
{
	*table = (struct qcow_table){
		.qcow = qcow, .at = at, .entry = entry, .count = count,
	};
	list_init(&table->link);
	list_init(&table->staged);
	list_init(&table->writing);
}

struct qcow_meta *qcow_meta_get(struct qcow *qcow)
{
	struct list *link = list_pop(&qcow->meta_free);

	return link ? list_item(link, struct qcow_meta, link) : NULL;
}

void qcow_meta_aim(struct qcow_meta *meta, struct qcow_table *table, td_step *step)
{
	meta->table = table;
	meta->req->user = meta;
	meta->req->step = step;
	meta->req->err = 0;
}

void qcow_meta_put(struct qcow_meta *meta)
{
	struct qcow *qcow = meta->qcow;

	if (qcow_page_load_next(qcow, meta))
		return;
	list_add(&qcow->meta_free, &meta->link);
	if (!list_empty(&qcow->dirty))
		td_defer(qcow->img->queue, &qcow->defer);
}

static void enqueue(struct qcow_table *table)
{
	struct qcow *qcow = table->qcow;

	if (table->queued || list_empty(&table->staged) || !list_empty(&table->writing))
		return;
	table->queued = true;
	list_add(&qcow->dirty, &table->link);
	td_defer(qcow->img->queue, &qcow->defer);
}

void qcow_table_stage(struct qcow_table *table, struct qcow_change *change)
{
	list_add(&table->staged, &change->link);
	enqueue(table);
}

static void apply(const struct qcow_table *table, be64 *entry, const struct qcow_change *change)
{
	uint64_t value = change->value;

	for (uint32_t i = 0; i < change->count; i++) {
		if (change->empty_only && qcow_entry(table, change->first + i))
			continue;
		entry[change->first + i] = to_be64(table->little ? __builtin_bswap64(value) : value);
		value += change->step;
	}
}

/* Shows the changes; their owners may stage others for this table. */
static void write_ended(struct td_req *req)
{
	struct qcow_meta *meta = req->user;
	struct qcow_table *table = meta->table;
	struct list *link;
	struct list ended;
	int err = req->err;

	list_init(&ended);
	list_join(&ended, &table->writing);
	if (!err)
		LIST_FOR(struct qcow_change, change, &ended, link)
			apply(table, table->entry, change);
	enqueue(table);
	qcow_meta_put(meta);
	while ((link = list_pop(&ended))) {
		struct qcow_change *change = list_item(link, struct qcow_change, link);

		change->done(change, err); /* the last one may drop the table */
	}
}

/* One write for all that is staged: the entries touched, in whole sectors, and
 * in whole 4 KiB where the table has them. */
static void write_start(struct qcow_table *table, struct qcow_meta *meta)
{
	uint32_t first = table->count, end = 0;
	uint64_t from, to;

	list_join(&table->writing, &table->staged);
	LIST_FOR(struct qcow_change, change, &table->writing, link) {
		if (change->first < first)
			first = change->first;
		if (change->first + change->count > end)
			end = change->first + change->count;
	}
	from = max_u64(round_down(table->at + first * 8ull, 4096), table->at - table->before);
	to = min_u64(round_up(table->at + end * 8ull, 4096),
		     table->at + table->count * 8ull + table->after);
	memcpy(meta->buf, (char *)table->entry + (int64_t)(from - table->at), to - from);
	LIST_FOR(struct qcow_change, change, &table->writing, link)
		apply(table, (be64 *)(meta->buf + (int64_t)(table->at - from)), change);
	qcow_meta_aim(meta, table, write_ended);
	td_buffer(meta->req, TD_WRITE, meta->buf, to - from);
	td_io(meta->req, table->qcow->file, from);
}

void qcow_tables_flush(struct qcow *qcow)
{
	while (!list_empty(&qcow->dirty)) {
		struct qcow_meta *meta = qcow_meta_get(qcow);
		struct qcow_table *table;

		if (!meta)
			return;
		table = list_item(list_pop(&qcow->dirty), struct qcow_table, link);
		table->queued = false;
		write_start(table, meta);
	}
}
