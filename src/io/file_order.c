/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The order of writes that touch the same block.
 *
 * A write of less than a block must read the block, and would undo what another
 * write does to the rest of it meanwhile: it waits until no other write touches
 * its blocks, and others wait for it. Whole-block writes never wait for each
 * other. The same holds for unaligned zeroing. The blocks are the file system's,
 * for the end of a file whose length is not aligned passes the page cache. Writes
 * of several loops to one file keep to this too: a lock guards the lists.
 */
#include "io/file_impl.h"

static bool ops_collide(const struct td_fileop *a, const struct td_fileop *b)
{
	uint64_t align = a->file->block;

	return (a->rmw || b->rmw) &&
	       round_down(a->offset, align) < round_up(b->offset + b->len, align) &&
	       round_down(b->offset, align) < round_up(a->offset + a->len, align);
}

/* Must op wait for one that is under way, or that has waited longer? */
static bool op_must_wait(const struct td_fileop *op)
{
	struct td_file *file = op->file;

	if (!op->rmw && !file->rmw_writing && list_empty(&file->waiting))
		return false;
	LIST_FOR (struct td_fileop, other, &file->writing, range)
		if (ops_collide(op, other))
			return true;
	LIST_FOR (struct td_fileop, other, &file->waiting, link) {
		if (other == op)
			break;
		if (ops_collide(op, other))
			return true;
	}
	return false;
}

static void order_lock(struct td_file *file)
{
	if (file->many)
		pthread_mutex_lock(&file->lock);
}

static void order_unlock(struct td_file *file)
{
	if (file->many)
		pthread_mutex_unlock(&file->lock);
}

static void writing_add(struct td_fileop *op)
{
	list_add(&op->file->writing, &op->range);
	op->file->rmw_writing += op->rmw;
}

bool file_order_enter(struct td_fileop *op)
{
	struct td_file *file = op->file;
	bool wait;

	order_lock(file);
	wait = op_must_wait(op);
	if (wait)
		list_add(&file->waiting, &op->link);
	else
		writing_add(op);
	order_unlock(file);
	return !wait;
}

void file_order_leave(struct td_fileop *op, struct list *ready)
{
	struct td_file *file = op->file;

	list_init(ready);
	order_lock(file);
	list_del(&op->range);
	file->rmw_writing -= op->rmw;
	LIST_FOR_SAFE (struct td_fileop, next, &file->waiting, link) {
		if (op_must_wait(next))
			continue;
		list_del(&next->link);
		writing_add(next);
		list_add(ready, &next->link);
	}
	order_unlock(file);
}
