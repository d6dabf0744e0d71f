/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two kinds of work on many pages, one of each at a time; whoever needs the result
 * waits for it:
 *
 *   a longer refcount table   where the old one cannot count a new cluster: at the
 *                             end of the file, behind the blocks that count them
 *                             both; the old one's entries are copied, then the
 *                             header names the new one
 *   an L2 table of one's own  where a snapshot has the same: copied, then the L1
 *                             entry names the copy
 */
#include <string.h>

#include "drivers/qcow2/qcow2.h"

static void job_end(struct qcow2_job *job, int err)
{
	struct td_parks waiting = job->waiting;

	job->waiting = (struct td_parks){ 0 };
	job->running = false;
	td_parks_go(&waiting, err);
}

/* ---- a longer refcount table ---------------------------------------------------------- */

/* blocks that count themselves and the table, which has entries for all blocks. */
static void longer_plan(const struct qcow2 *q, struct qcow2_job *job, uint64_t end)
{
	uint64_t per_block = 1ull << qcow2_block_bits(&q->layout);
	uint64_t first = end >> q->layout.cluster_bits, entries;

	job->index = first / per_block;
	job->blocks = 1;
	for (;;) {
		uint64_t needs;

		entries = (job->index + job->blocks) * 3 / 2 + 1;
		job->clusters = ((entries * 8 - 1) >> q->layout.cluster_bits) + 1;
		needs = (first % per_block + job->blocks + job->clusters - 1) / per_block + 1;
		if (needs <= job->blocks)
			break;
		job->blocks = needs;
	}
	job->size = (job->blocks + job->clusters) << q->layout.cluster_bits;
}

/* A page of the new table: the old entries, then those of the new blocks. */
static int longer_table_page(struct qcow2 *q, struct qcow2_job *job)
{
	uint64_t old_size = q->layout.table_clusters << q->layout.cluster_bits;
	void *old = NULL, *new;
	be64 *entry;
	int err = 0;

	if (job->pos < old_size)
		err = td_cache_get(q->cache, q->layout.table_at + job->pos, &job->park, &old);
	if (!err)
		err = td_cache_get_new(q->cache, job->to + job->pos, &job->park, &new);
	if (err)
		return err;
	td_cache_dirty(q->cache, new, QCOW2_TABLE);
	if (old)
		memcpy(new, old, q->page);
	entry = new;
	for (uint64_t i = 0; i < q->page / 8; i++) {
		uint64_t n = job->pos / 8 + i;

		if (n >= job->index && n < job->index + job->blocks)
			td_set64(&entry[i], htobe64(job->at + ((n - job->index)
							       << q->layout.cluster_bits)));
	}
	return 0;
}

/* The page of the new blocks that counts the cluster at job->pos; *n: how many. */
static int longer_block_page(struct qcow2 *q, struct qcow2_job *job, uint64_t *n)
{
	unsigned order = q->layout.refcount_order;
	uint64_t per_block = 1ull << qcow2_block_bits(&q->layout);
	uint64_t per_page = (uint64_t)q->page * 8 >> order;
	uint64_t cluster = (job->at >> q->layout.cluster_bits) + job->pos;
	uint64_t block = job->at + ((cluster / per_block - job->index) << q->layout.cluster_bits);
	uint64_t in_page = cluster % per_block % per_page;
	void *page;
	int err = td_cache_get_new(q->cache, block + cluster % per_block / per_page * q->page,
				   &job->park, &page);

	if (err)
		return err;
	*n = min_u64(per_page - in_page, job->blocks + job->clusters - job->pos);
	td_cache_dirty(q->cache, page, QCOW2_REFS);
	for (uint64_t i = 0; i < *n; i++)
		qcow2_ref_set(&q->layout, page, in_page + i, 1);
	return 0;
}

static int longer_head(struct qcow2 *q, struct qcow2_job *job)
{
	struct qcow2_layout *layout = &q->layout;
	uint64_t old = layout->table_at, old_size = layout->table_clusters << layout->cluster_bits;
	char *head;
	int err = td_cache_get(q->cache, 0, &job->park, (void **)&head);

	if (err)
		return err;
	td_cache_dirty(q->cache, head, QCOW2_HEAD);
	/* the new one begins like the old one: either length is right for it */
	td_set64(head + offsetof(struct qcow2_header, table_at), htobe64(job->to));
	td_set32(head + offsetof(struct qcow2_header, table_clusters), htobe32(job->clusters));
	layout->table_at = job->to;
	layout->table_clusters = job->clusters;
	td_map_drop(q->map, old, old_size);
	return 0;
}

static int longer_steps(struct qcow2 *q, struct qcow2_job *job)
{
	uint64_t used = round_up((job->index + job->blocks) * 8, q->page);
	int err = 0;

	for (; !err && job->from == 0; job->pos += q->page) {
		if (job->pos >= used) {
			job->from = 1;
			job->pos = 0;
			break;
		}
		err = longer_table_page(q, job);
		if (err)
			break;
	}
	while (!err && job->from == 1 && job->pos < job->blocks + job->clusters) {
		uint64_t n;

		err = longer_block_page(q, job, &n);
		if (!err)
			job->pos += n;
	}
	return err ? err : longer_head(q, job);
}

static void longer_go(struct td_park *park, int err)
{
	struct qcow2_job *job = container_of(park, struct qcow2_job, park);
	struct qcow2 *q = container_of(job, struct qcow2, longer);

	if (!err)
		err = longer_steps(q, job);
	if (err != TD_PARKED)
		job_end(job, err);
}

int qcow2_table_longer(struct qcow2 *q, struct td_park *park)
{
	struct qcow2_job *job = &q->longer;
	uint64_t len;
	int err;

	longer_plan(q, job, td_space_end(q->space));
	len = job->size;
	err = td_space_find(q->space, park, job->size, &len, &job->at);
	if (err)
		return err;
	td_space_take(q->space, job->at, job->size);
	job->to = job->at + (job->blocks << q->layout.cluster_bits);
	job->running = true;
	job->from = job->pos = 0;
	job->park.go = longer_go;
	if (td_cache_blocks(q->cache)) { /* nobody parks then */
		err = longer_steps(q, job);
		job_end(job, err);
		return err;
	}
	td_parks_add(&job->waiting, park);
	longer_go(&job->park, 0);
	return TD_PARKED;
}

/* ---- an L2 table of one's own ------------------------------------------------------------ */

static int unshare_page(struct qcow2 *q, struct qcow2_job *job)
{
	void *old, *new;
	int err = td_cache_room(q->cache, &job->park);

	if (!err)
		err = td_cache_get(q->cache, job->from + job->pos, &job->park, &old);
	if (!err)
		err = td_cache_get_new(q->cache, job->to + job->pos, &job->park, &new);
	if (err)
		return err;
	td_cache_dirty(q->cache, new, QCOW2_L2);
	memcpy(new, old, q->page);
	return 0;
}

static int unshare_link(struct qcow2 *q, struct qcow2_job *job)
{
	uint64_t cluster = qcow2_cluster(&q->layout);
	void *entry;
	int err = td_cache_get(q->cache, q->layout.l1_at + job->index * 8, &job->park, &entry);

	if (err)
		return err;
	td_cache_dirty(q->cache, entry, QCOW2_L1);
	td_set64(entry, htobe64(job->to | QCOW2_COPIED));
	td_map_drop(q->map, job->from, cluster);
	return 0;
}

static void unshare_go(struct td_park *park, int err)
{
	struct qcow2_job *job = container_of(park, struct qcow2_job, park);
	struct qcow2 *q = container_of(job, struct qcow2, unshare);
	uint64_t cluster = qcow2_cluster(&q->layout), len = cluster, at;

	if (!err && !job->to) {
		err = qcow2_take(q, park, &len, &at);
		if (!err)
			job->to = at;
	}
	for (; !err && job->pos < cluster; job->pos += q->page) {
		err = unshare_page(q, job);
		if (err)
			break;
	}
	if (!err)
		err = unshare_link(q, job);
	if (err == TD_PARKED)
		return;
	if (err && job->to)
		td_map_drop(q->map, job->to, cluster);
	job_end(job, err);
}

int qcow2_l2_unshare(struct qcow2 *q, struct td_park *park, uint64_t index, uint64_t from)
{
	struct qcow2_job *job = &q->unshare;

	td_parks_add(&job->waiting, park);
	if (job->running)
		return TD_PARKED;
	job->running = true;
	job->index = index;
	job->from = from;
	job->to = job->pos = 0;
	job->park.go = unshare_go;
	unshare_go(&job->park, 0);
	return TD_PARKED;
}
