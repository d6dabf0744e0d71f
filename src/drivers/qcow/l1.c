/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must be known of the tables before they are used. L1 is walked at open; later
 * its entries are read through the cache like all others.
 *
 * Its byte order: first versions of the tools of 2006 wrote entries in the order of
 * their machine and said so nowhere. The entries tell: read the right way, every one
 * of them is the place of a table within the file; read the wrong way, hardly ever.
 * Where both ways are possible the image is refused.
 *
 * Pages of the cache hold nothing but tables: how large they can be follows from
 * where the tables lie. And which entries are wrong: the file may grow over the
 * place that they name, and would make them right.
 */
#include <stdlib.h>
#include <string.h>

#include "drivers/qcow/qcow.h"

#define CHUNK (256 * KiB)
#define PAGE_MIN 512

/* For each entry that is not 0, as a big-endian number. */
typedef int look_at(struct qcow *qcow, uint64_t index, uint64_t value, void *arg);

static int walk(struct qcow *qcow, look_at *look, void *arg, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t left = layout->l1_count, index = 0;
	be64 *buf = malloc(min_u64(left * sizeof(*buf), CHUNK));
	int err = buf ? 0 : -ENOMEM;

	while (left && !err) {
		uint64_t n = min_u64(left, CHUNK / sizeof(*buf));

		err = td_file_read(qcow->file, buf, n * sizeof(*buf),
				   layout->l1_at + index * sizeof(*buf));
		for (uint64_t i = 0; i < n && !err; i++)
			if (from_be64(buf[i]))
				err = look(qcow, index + i, from_be64(buf[i]), arg);
		index += n;
		left -= n;
	}
	free(buf);
	return err ? td_fail(why, err, "%s: cannot read the qcow L1 table: %s",
			     td_file_path(qcow->file), strerror(-err)) : 0;
}

bool qcow_l2_fits(const struct qcow *qcow, uint64_t at)
{
	uint64_t bytes = qcow_l2_bytes(&qcow->layout), size = td_file_size(qcow->file);

	return at % 512 == 0 && at < size && bytes <= size - at &&
	       !qcow_hits_head(&qcow->layout, at, bytes);
}

/* ---- byte order ---------------------------------------------------------------- */

struct orders {
	bool any, big, little;  /* makes sense for all entries */
};

static int look_at_order(struct qcow *qcow, uint64_t index, uint64_t value, void *arg)
{
	struct orders *orders = arg;

	orders->any = true;
	orders->big = orders->big && qcow_l2_fits(qcow, value);
	orders->little = orders->little && qcow_l2_fits(qcow, __builtin_bswap64(value));
	return 0;
}

static int tell_order(struct qcow *qcow, struct td_why *why)
{
	struct orders orders = { .big = true, .little = true };
	int err = walk(qcow, look_at_order, &orders, why);

	if (err)
		return err;
	if (orders.any && orders.big == orders.little)
		return td_fail(why, -EINVAL,
			       "%s: cannot tell the byte order of its qcow L1 table, written by "
			       "a blktap of 2006%s", td_file_path(qcow->file),
			       orders.big ? " (both orders are possible)" :
					    " (neither order makes sense)");
	/* An empty table keeps its format's rule: the writer's own, x86's. */
	qcow->l1_little = orders.any ? orders.little : true;
	return 0;
}

/* ---- pages, and what is wrong ---------------------------------------------------- */

static int look_at_place(struct qcow *qcow, uint64_t index, uint64_t value, void *arg)
{
	value = qcow_l1_value(qcow, to_be64(value));
	if (qcow_l2_fits(qcow, value)) {
		if (!is_aligned(value, qcow->page))
			qcow->page = PAGE_MIN;
		return 0;
	}
	if (!qcow->l1_bad)
		qcow->l1_bad = calloc(qcow->layout.l1_count / 8 + 1, 1);
	if (!qcow->l1_bad)
		return -ENOMEM;
	qcow->l1_bad[index / 8] |= 1u << index % 8;
	return 0;
}

int qcow_l1_open(struct qcow *qcow, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	int err = layout->l1_native ? tell_order(qcow, why) : 0;

	qcow->page = qcow_page(layout);
	return err ? err : walk(qcow, look_at_place, NULL, why);
}

/* ---- what is used ---------------------------------------------------------------- */

struct used {
	uint64_t end;
	be64 *table;
};

/* A place that cannot be is not used. */
static void add_used(struct qcow *qcow, struct used *used, uint64_t at, uint64_t len)
{
	uint64_t size = td_file_size(qcow->file);

	if (at < size)
		used->end = max_u64(used->end, at + min_u64(len, size - at));
}

static int look_at_table(struct qcow *qcow, uint64_t index, uint64_t value, void *arg)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t at = qcow_l1_value(qcow, to_be64(value)), bytes = qcow_l2_bytes(layout);
	struct used *used = arg;
	int err;

	if (qcow_l1_is_bad(qcow, index))
		return 0;
	add_used(qcow, used, at, bytes);
	err = td_file_read(qcow->file, used->table, bytes, at);
	for (uint64_t i = 0; i < bytes / 8 && !err; i++) {
		uint64_t entry = from_be64(used->table[i]);

		if (entry & QCOW_PACKED)
			add_used(qcow, used, qcow_packed_at(layout, entry),
				 qcow_packed_len(layout, entry));
		else if (entry)
			add_used(qcow, used, entry, qcow_cluster(layout));
	}
	return err;
}

int qcow_used_end(struct qcow *qcow, uint64_t *end, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	struct used used = { .end = max_u64(layout->head_end, layout->name_end) };
	int err;

	*end = td_file_size(qcow->file);
	if (!td_file_is_device(qcow->file))
		return 0;
	add_used(qcow, &used, layout->l1_at, layout->l1_count * 8);
	used.table = malloc(qcow_l2_bytes(layout));
	err = used.table ? walk(qcow, look_at_table, &used, why) : -ENOMEM;
	free(used.table);
	*end = used.end;
	return err;
}
