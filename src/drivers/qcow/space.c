/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room at the end of the file. What is given out has been made part of the file
 * before, and a sync has made that length durable: otherwise the file could be
 * shorter after a power cut than a table says, and what is added to it later
 * would give some clusters a second owner. New room reads as zeroes. It is
 * sparse: the file system gives it blocks when data come.
 *
 *        end ........ ready ........ target
 *   used  | ours to give | being made on a worker thread
 *
 * A worker makes room ahead of need, in steps that grow while anybody has to
 * wait. Unused room is cut off at close; after a kill it stays, as a hole.
 */
#include <errno.h>

#include "base/rule.h"
#include "drivers/qcow/qcow.h"

#define STEP_MIN (2 * MiB)
#define STEP_MAX (256 * MiB)

static int grow_run(struct td_work *work)
{
	struct qcow *qcow = container_of(work, struct qcow, space.work);
	struct qcow_space *space = &qcow->space;
	int err = td_file_truncate(qcow->file, space->target);

	if (err && space->need < space->target) { /* no room for more than that */
		space->target = space->need;
		err = td_file_truncate(qcow->file, space->target);
	}
	if (err || !td_rule("qcow-room-before-entry"))
		return err;
	return td_file_sync(qcow->file);
}

static void go_all(struct list *pieces, int err)
{
	struct list *link, now;

	list_init(&now);
	list_join(&now, pieces);
	while ((link = list_pop(&now))) {
		struct qcow_piece *piece = list_item(link, struct qcow_piece, link);

		piece->go(piece, err);
	}
}

/* A failure is that of those it was begun for. Who came later tries again. */
static void grow_ended(struct td_work *work, int err)
{
	struct qcow *qcow = container_of(work, struct qcow, space.work);
	struct qcow_space *space = &qcow->space;
	struct list late;

	list_init(&late);
	list_join(&late, &space->late);
	space->growing = false;
	if (!err)
		space->ready = space->target;
	go_all(&space->waiters, err);
	go_all(&late, 0);
}

static void grow(struct qcow *qcow, uint64_t need)
{
	struct qcow_space *space = &qcow->space;

	space->growing = true;
	space->need = need;
	space->target = round_up(need + space->step, 4096);
	td_work_start(qcow->img->queue, &space->work);
}

bool qcow_space_take(struct qcow *qcow, uint64_t bytes, uint64_t align, uint64_t *at)
{
	struct qcow_space *space = &qcow->space;
	uint64_t from = round_up(space->end, align);

	if (from > space->ready || bytes > space->ready - from)
		return false;
	*at = from;
	space->end = from + bytes;
	if (!space->growing && space->ready - space->end < space->step / 2)
		grow(qcow, space->ready);
	return true;
}

void qcow_space_wait(struct qcow *qcow, struct qcow_piece *piece, uint64_t bytes)
{
	struct qcow_space *space = &qcow->space;

	if (space->growing) {
		list_add(&space->late, &piece->link);
		return;
	}
	list_add(&space->waiters, &piece->link);
	if (space->step < STEP_MAX)
		space->step *= 2;
	grow(qcow, space->end + bytes);
}

void qcow_space_open(struct qcow *qcow)
{
	struct qcow_space *space = &qcow->space;

	space->work.run = grow_run;
	space->work.done = grow_ended;
	space->step = STEP_MIN / 2;
	space->ready = td_file_size(qcow->file);
	/* a last cluster that the file has in part is its owner's whole */
	space->end = round_up(space->ready, max_u64(qcow_cluster(&qcow->layout), 4096));
}

void qcow_space_close(struct qcow *qcow)
{
	struct qcow_space *space = &qcow->space;

	if (space->ready > space->end)
		td_file_truncate(qcow->file, space->end);
}
