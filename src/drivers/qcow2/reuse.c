/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that were free when the image was opened, found again. Space knows only
 * those that were freed since, so when it has none, refcounts are looked through
 * from where the last look ended. What is free there may hold anything: it gets an
 * owner and is dropped, and comes back from there zeroed, as what a discard frees
 * does. Whoever needs room meanwhile takes it from the end.
 */
#include "drivers/qcow2/qcow2.h"

#define AT_A_TIME 256 /* clusters: lost to the file until a check, if we are killed */

/* Free clusters among the next ones, at most as many as *room, become dropped. */
static int look(struct qcow2 *q, struct qcow2_job *job, uint64_t *room)
{
	unsigned bits = q->layout.cluster_bits;
	uint64_t n, run = 0;
	void *page;
	int err = qcow2_refs_page(q, &job->park, job->pos, &page, &n);

	if (err)
		return err;
	n = min_u64(n, job->to - job->pos);
	if (!page) { /* no block: all are free, and were never written */
		job->pos += n;
		return 0;
	}
	for (; n && *room; n--, job->pos++) {
		if (qcow2_ref_get(&q->layout, page, qcow2_ref_index(q, job->pos))) {
			if (run)
				td_map_drop(q->map, (job->pos - run) << bits, run << bits);
			run = 0;
			continue;
		}
		td_cache_dirty(q->cache, page, QCOW2_REFS);
		qcow2_ref_set(&q->layout, page, qcow2_ref_index(q, job->pos), 1);
		run++;
		--*room;
	}
	if (run)
		td_map_drop(q->map, (job->pos - run) << bits, run << bits);
	return 0;
}

static void reuse_go(struct td_park *park, int err)
{
	struct qcow2_job *job = container_of(park, struct qcow2_job, park);
	struct qcow2 *q = container_of(job, struct qcow2, reuse);
	uint64_t room = AT_A_TIME;

	while (!err && room && job->pos < job->to)
		err = look(q, job, &room);
	if (err == TD_PARKED)
		return;
	if (err) /* the rest is not worth more trouble */
		job->pos = job->to;
	job->running = false;
}

void qcow2_reuse(struct qcow2 *q)
{
	struct qcow2_job *job = &q->reuse;

	if (job->running || job->pos >= job->to || td_cache_blocks(q->cache) ||
	    td_space_has_freed(q->space) || td_map_drops(q->map))
		return;
	job->running = true;
	job->park.go = reuse_go;
	reuse_go(&job->park, 0);
}
