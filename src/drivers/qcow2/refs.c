/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts: how many entries show a cluster of the file. The refcount table names
 * blocks of counts, of 1 to 64 bits each.
 *
 * A new cluster comes from space, if its count is 0, and has 1 before anything
 * points to it. A range of the file without a block gets one, which lies in that
 * range and counts itself.
 */
#include <stdlib.h>

#include "drivers/qcow2/qcow2.h"

#define SKIPS_MAX 65536 /* clusters past the end that somebody has already */

uint64_t qcow2_ref_get(const struct qcow2_layout *layout, const void *block, uint64_t index)
{
	unsigned order = layout->refcount_order;
	const uint8_t *at = (const uint8_t *)block + (index << order) / 8;

	switch (order) {
	case 4: return from_be16(*(be16 *)at);
	case 5: return from_be32(*(be32 *)at);
	case 6: return from_be64(*(be64 *)at);
	}
	return *at >> ((index << order) % 8) & ((1u << (1 << order)) - 1);
}

void qcow2_ref_set(const struct qcow2_layout *layout, void *block, uint64_t index, uint64_t value)
{
	unsigned order = layout->refcount_order, shift = (index << order) % 8;
	uint8_t *at = (uint8_t *)block + (index << order) / 8;
	unsigned mask = (1u << (1 << (order & 3))) - 1;

	switch (order) {
	case 4: td_set16(at, htobe16(value)); break;
	case 5: td_set32(at, htobe32(value)); break;
	case 6: td_set64(at, htobe64(value)); break;
	default: td_set8(at, (*at & ~(mask << shift)) | value << shift); break;
	}
}

/* Where a refcount lies. */
struct ref {
	void *page;        /* the byte that it begins in */
	uint64_t index;    /* of page's refcounts, it is this one: 0 but for small ones */
	uint64_t left;     /* refcounts from it to the end of the page */
};

static uint64_t table_entries(const struct qcow2 *q)
{
	return q->layout.table_clusters << (q->layout.cluster_bits - 3);
}

/* *block: of the refcount; 0: there is none, and its count is 0. */
static int block_of(struct qcow2 *q, struct td_park *park, uint64_t cluster, uint64_t *block)
{
	uint64_t index = cluster >> qcow2_block_bits(&q->layout);
	void *entry;
	int err;

	*block = 0;
	if (index >= table_entries(q))
		return 0;
	err = td_cache_get(q->cache, q->layout.table_at + index * 8, park, &entry);
	if (err)
		return err;
	*block = from_be64(*(be64 *)entry) & ~511ull;
	if (*block && !qcow2_place_fits(q, *block))
		return qcow2_corrupt(q, "refcount table entry", index, *block);
	return 0;
}

static int ref_find(struct qcow2 *q, struct td_park *park, uint64_t cluster, uint64_t block,
		    struct ref *out)
{
	unsigned order = q->layout.refcount_order;
	uint64_t in_block = cluster & ((1ull << qcow2_block_bits(&q->layout)) - 1);
	uint64_t bit = in_block << order, at = block + bit / 8;
	int err = td_cache_get(q->cache, at, park, &out->page);

	out->index = bit % 8 >> order;
	out->left = ((q->page - at % q->page) * 8 >> order) - out->index;
	return err;
}

/* A block for the refcounts of the cluster that is at, which it becomes itself. */
static int block_new(struct qcow2 *q, struct td_park *park, uint64_t at)
{
	uint64_t cluster = at >> q->layout.cluster_bits;
	unsigned bits = qcow2_block_bits(&q->layout), order = q->layout.refcount_order;
	uint64_t in_block = (cluster & ((1ull << bits) - 1)) << order;
	void *entry, *page;
	int err = td_cache_get(q->cache, q->layout.table_at + (cluster >> bits) * 8, park, &entry);

	if (!err)
		err = td_cache_get_new(q->cache, at + in_block / 8, park, &page);
	if (err)
		return err;
	td_space_take(q->space, at, qcow2_cluster(&q->layout));
	td_cache_dirty(q->cache, page, QCOW2_REFS);
	qcow2_ref_set(&q->layout, page, in_block % 8 >> order, 1);
	td_cache_dirty(q->cache, entry, QCOW2_TABLE);
	td_set64(entry, htobe64(at));
	return 0;
}

/* Takes up to count clusters from at on whose refcount is 0; 0: the first's is not. */
static uint64_t take_free(struct qcow2 *q, const struct ref *ref, uint64_t count)
{
	uint64_t n = 0;

	count = min_u64(count, ref->left);
	while (n < count && !qcow2_ref_get(&q->layout, ref->page, ref->index + n))
		n++;
	if (n)
		td_cache_dirty(q->cache, ref->page, QCOW2_REFS);
	for (uint64_t i = 0; i < n; i++)
		qcow2_ref_set(&q->layout, ref->page, ref->index + i, 1);
	return n;
}

int qcow2_take(struct qcow2 *q, struct td_park *park, uint64_t *len, uint64_t *at)
{
	uint64_t cluster = qcow2_cluster(&q->layout), wanted = *len, block, n;
	struct ref ref;
	int err;

	if (q->longer.running) {
		td_parks_add(&q->longer.waiting, park);
		return TD_PARKED;
	}
	for (unsigned skips = 0; skips < SKIPS_MAX;) {
		*len = wanted;
		err = td_space_find(q->space, park, cluster, len, at);
		if (!err && *at >> q->layout.cluster_bits >> qcow2_block_bits(&q->layout) >=
			    table_entries(q)) {
			err = qcow2_table_longer(q, park);
			if (err)
				return err;
			continue;
		}
		if (!err)
			err = block_of(q, park, *at >> q->layout.cluster_bits, &block);
		if (!err && !block) {
			err = block_new(q, park, *at);
			if (err)
				return err;
			continue;
		}
		if (!err)
			err = ref_find(q, park, *at >> q->layout.cluster_bits, block, &ref);
		if (err)
			return err;
		n = take_free(q, &ref, *len >> q->layout.cluster_bits);
		td_space_take(q->space, *at, max_u64(n, 1) << q->layout.cluster_bits);
		*len = n << q->layout.cluster_bits;
		if (n) {
			qcow2_reuse(q);
			return 0;
		}
		skips++;
	}
	td_say(q->img, LOG_ERR, "clusters past the end of the file are in use: check the image");
	return -EIO;
}

int qcow2_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
		uint64_t *at)
{
	struct qcow2 *q = img->state;
	int err = q->layout.extended ? qcow2_sub_own(q, park, offset) : 0;

	return err ? err : qcow2_take(q, park, len, at);
}

int qcow2_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	uint64_t left;
	int err = qcow2_ref_add(img->state, park, at, -1, &left);

	if (!err)
		*gone = !left;
	return err;
}

uint64_t qcow2_ref_max(const struct qcow2 *q)
{
	return q->layout.refcount_order == 6 ? UINT64_MAX :
					       (1ull << (1 << q->layout.refcount_order)) - 1;
}

int qcow2_ref_add(struct qcow2 *q, struct td_park *park, uint64_t at, int by, uint64_t *left)
{
	uint64_t cluster = at >> q->layout.cluster_bits, block, count;
	struct ref ref;
	int err = block_of(q, park, cluster, &block);

	if (!err && block)
		err = ref_find(q, park, cluster, block, &ref);
	if (err)
		return err;
	count = block ? qcow2_ref_get(&q->layout, ref.page, ref.index) : 0;
	if (!count)
		return qcow2_corrupt(q, "the refcount of a cluster in use, at", at, 0);
	if (by > 0 && count == qcow2_ref_max(q))
		return -EOVERFLOW;
	*left = count + by;
	if (!by)
		return 0;
	td_cache_dirty(q->cache, ref.page, QCOW2_REFS);
	qcow2_ref_set(&q->layout, ref.page, ref.index, *left);
	return 0;
}

uint64_t qcow2_ref_index(const struct qcow2 *q, uint64_t cluster)
{
	return cluster & ((((uint64_t)q->page * 8) >> q->layout.refcount_order) - 1);
}

int qcow2_refs_page(struct qcow2 *q, struct td_park *park, uint64_t cluster, void **page,
		    uint64_t *left)
{
	unsigned order = q->layout.refcount_order;
	uint64_t in_block = cluster & ((1ull << qcow2_block_bits(&q->layout)) - 1), block;
	uint64_t index = qcow2_ref_index(q, cluster);
	int err = block_of(q, park, cluster, &block);

	*page = NULL;
	*left = (((uint64_t)q->page * 8) >> order) - index;
	if (err || !block)
		return err;
	return td_cache_get(q->cache, block + (((in_block - index) << order) / 8), park, page);
}

int qcow2_refs_end(struct qcow2 *q, uint64_t *end)
{
	uint64_t cluster = qcow2_cluster(&q->layout), n = 1ull << qcow2_block_bits(&q->layout);
	void *block = malloc(cluster);
	int err = block ? 0 : -ENOMEM;

	*end = cluster;
	for (uint64_t index = table_entries(q); index && !err && *end == cluster; index--) {
		be64 entry;
		uint64_t at;

		err = td_cache_read(q->cache, &entry, sizeof(entry),
				    q->layout.table_at + (index - 1) * 8);
		at = err ? 0 : from_be64(entry) & ~511ull;
		if (at && !qcow2_place_fits(q, at))
			err = -EINVAL;
		else if (at)
			err = td_cache_read(q->cache, block, cluster, at);
		for (uint64_t i = n; at && !err && i && *end == cluster; i--)
			if (qcow2_ref_get(&q->layout, block, i - 1))
				*end = ((index - 1) * n + i) << q->layout.cluster_bits;
	}
	free(block);
	return err;
}
