/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L1 and L2: what lies where. An L1 entry names an L2 table, an L2 entry a cluster.
 * Both tables are read through the cache, a page at a time, however large they are.
 *
 * An entry changes by one store. What it showed is dropped: the map calls release
 * for it when that is durable.
 */
#include <assert.h>

#include "drivers/qcow2/qcow2.h"

static struct qcow2 *qcow2_of(struct td_image *img)
{
	return img->state;
}

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t at, uint64_t value)
{
	td_say(q->img, LOG_ERR, "%s %llu is %#llx, which cannot be", what,
	       (unsigned long long)at, (unsigned long long)value);
	return -EIO;
}

static bool hits(uint64_t at, uint64_t len, uint64_t table, uint64_t table_len)
{
	return at < table + table_len && table < at + len;
}

bool qcow2_place_fits(const struct qcow2 *q, uint64_t at)
{
	const struct qcow2_layout *layout = &q->layout;
	uint64_t cluster = qcow2_cluster(layout);

	return at >= cluster && is_aligned(at, cluster) && at < td_file_size(q->file) &&
	       !hits(at, cluster, layout->luks_at, layout->luks_len) &&
	       !hits(at, cluster, layout->l1_at, layout->l1_count * 8) &&
	       !hits(at, cluster, layout->table_at,
		     layout->table_clusters << layout->cluster_bits);
}

static uint64_t l1_index(const struct qcow2 *q, uint64_t offset)
{
	return offset >> qcow2_span_bits(&q->layout);
}

/* *out: where the L2 table is, with the entry's flags; 0: there is none. */
static int l1_get(struct qcow2 *q, struct td_park *park, uint64_t index, void **page,
		  uint64_t *out)
{
	int err = td_cache_get(q->cache, q->layout.l1_at + index * 8, park, page);

	if (err)
		return err;
	*out = from_be64(*(be64 *)*page);
	if (!(*out & QCOW2_HOST))
		*out = 0;
	else if (*out & QCOW2_L1_RESERVED || !qcow2_place_fits(q, *out & QCOW2_HOST))
		return qcow2_corrupt(q, "L1 entry", index, *out);
	return 0;
}

/* Where the file has the L2 entry for offset. */
static uint64_t l2_entry_at(const struct qcow2 *q, uint64_t table, uint64_t offset)
{
	unsigned bits = qcow2_entry_bits(&q->layout);
	uint64_t index = offset >> q->layout.cluster_bits;

	return (table & QCOW2_HOST) + ((index << bits) & (qcow2_cluster(&q->layout) - 1));
}

/* Bytes from there to the end of the page. */
static uint64_t page_left(const struct qcow2 *q, uint64_t at)
{
	return q->page - (at & (q->page - 1));
}

static uint64_t entries_left(const struct qcow2 *q, uint64_t entry_at)
{
	return page_left(q, entry_at) >> qcow2_entry_bits(&q->layout);
}

/* ---- what is there ---------------------------------------------------------------- */

/* The bytes from offset to the next L1 entry that names a table, more or less. */
static uint64_t hole_len(const struct qcow2 *q, const be64 *entry, uint64_t offset, uint64_t len)
{
	uint64_t span = 1ull << qcow2_span_bits(&q->layout), index = l1_index(q, offset);
	uint64_t max = min_u64(page_left(q, q->layout.l1_at + index * 8) / 8,
			       q->layout.l1_count - index);
	uint64_t total = span - (offset & (span - 1));

	for (uint64_t i = 1; i < max && total < len && !(from_be64(entry[i]) & QCOW2_HOST); i++)
		total += span;
	return total;
}

int qcow2_packed_spot(struct qcow2 *q, uint64_t offset, uint64_t entry, struct td_spot *out)
{
	uint64_t at = qcow2_packed_at(&q->layout, entry);
	uint64_t len = qcow2_packed_len(&q->layout, entry), size = td_file_size(q->file);

	if (at < qcow2_cluster(&q->layout) || at >= size)
		return qcow2_corrupt(q, "the entry of disk offset", offset, entry);
	len = min_u64(len, size - at);
	if (len > 2 * qcow2_cluster(&q->layout))
		return qcow2_corrupt(q, "the entry of disk offset", offset, entry);
	*out = (struct td_spot){ .kind = TD_SPOT_PACKED, .at = at, .packed = len };
	return 0;
}

/* In a data file every cluster has one place: its own on the disk. */
static bool host_fits(const struct qcow2 *q, uint64_t host, uint64_t offset)
{
	if (q->layout.external)
		return host == round_down(offset, qcow2_cluster(&q->layout));
	return qcow2_place_fits(q, host);
}

static int spot_of(struct qcow2 *q, uint64_t offset, uint64_t entry, bool own_table,
		   struct td_spot *out)
{
	uint64_t host = entry & QCOW2_HOST, skip = offset & (qcow2_cluster(&q->layout) - 1);
	bool zero = entry & QCOW2_ZERO && q->layout.version > 2;

	if (!entry && !q->layout.external) {
		*out = (struct td_spot){ .kind = TD_SPOT_HOLE };
		return 0;
	}
	if (entry & QCOW2_PACKED && !q->layout.external)
		return qcow2_packed_spot(q, offset, entry, out);
	if (entry & QCOW2_L2_RESERVED || (entry & QCOW2_ZERO && !zero) ||
	    (host && !host_fits(q, host, offset)))
		return qcow2_corrupt(q, "the entry of disk offset", offset, entry);
	*out = (struct td_spot){ .at = host + skip };
	if (q->layout.external) {
		*out = (struct td_spot){ .at = offset, .placed = true, .dirty = true };
		out->kind = zero ? TD_SPOT_ZERO : entry & QCOW2_COPIED ? TD_SPOT_DATA :
								       TD_SPOT_HOLE;
	} else if (zero) {
		out->kind = TD_SPOT_ZERO;
		out->placed = out->dirty = host && entry & QCOW2_COPIED && own_table;
	} else if (!host) {
		out->kind = TD_SPOT_HOLE;
	} else {
		out->kind = entry & QCOW2_COPIED && own_table ? TD_SPOT_DATA : TD_SPOT_SHARED;
	}
	return 0;
}

/* Entries that go on as the first one does. */
static uint64_t run_len(const struct qcow2 *q, const be64 *entry, uint64_t max, uint64_t offset,
			uint64_t len, const struct td_spot *spot)
{
	uint64_t cluster = qcow2_cluster(&q->layout), total = cluster - (offset & (cluster - 1));
	uint64_t first = from_be64(entry[0]);
	bool placed = first & (q->layout.external ? QCOW2_COPIED : QCOW2_HOST);

	if (total >= len || spot->kind == TD_SPOT_PACKED)
		return total;
	for (uint64_t i = 1; i < max && total < len; i++, total += cluster)
		if (from_be64(entry[i]) != first + (placed ? i * cluster : 0))
			break;
	return total;
}

static int table_find(struct qcow2 *q, struct td_park *park, uint64_t index, void **page,
		      uint64_t *table)
{
	int err;

	if (q->seen_table && q->seen_index == index) {
		*table = q->seen_table;
		return 0;
	}
	err = l1_get(q, park, index, page, table);
	if (!err && q->img->read_only) {
		q->seen_index = index;
		q->seen_table = *table;
	}
	return err;
}

int qcow2_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
	       struct td_spot *out)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t table, at;
	void *page;
	int err = table_find(q, park, l1_index(q, offset), &page, &table);

	if (err)
		return err;
	if (!table) {
		*out = (struct td_spot){
			.kind = TD_SPOT_HOLE, .len = hole_len(q, page, offset, len),
			.at = offset, .placed = q->layout.external, .dirty = true,
		};
		return 0;
	}
	at = l2_entry_at(q, table, offset);
	err = td_cache_get(q->cache, at, park, &page);
	if (!err && q->layout.extended)
		err = qcow2_sub_spot(q, page, entries_left(q, at), offset, len,
				     table & QCOW2_COPIED, out);
	else if (!err)
		err = spot_of(q, offset, from_be64(*(be64 *)page), table & QCOW2_COPIED, out);
	if (!err && !q->layout.extended)
		out->len = run_len(q, page, entries_left(q, at), offset, len, out);
	/* what follows the first has not been looked at, but for being in a row */
	if (!err && !q->layout.external && out->len > qcow2_cluster(&q->layout) &&
	    (out->kind == TD_SPOT_DATA || out->kind == TD_SPOT_SHARED))
		out->len = min_u64(out->len, round_up(td_file_size(q->file),
						      qcow2_cluster(&q->layout)) - out->at);
	return err;
}

/* Of a long chain each image is asked for each request, mostly about one table. */
bool qcow2_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t skip = offset & (qcow2_cluster(&q->layout) - 1);
	void *entry;

	if (!q->seen_table || q->seen_index != l1_index(q, offset) || q->layout.extended ||
	    q->layout.external || skip + len > qcow2_cluster(&q->layout))
		return td_map_is_hole(q->map, offset, len);
	return !td_cache_get(q->cache, l2_entry_at(q, q->seen_table, offset), NULL, &entry) &&
	       !*(uint64_t *)entry;
}

/* ---- changes ------------------------------------------------------------------------ */

/* A new L2 table, which reads as holes. */
static int l2_new(struct qcow2 *q, struct td_park *park, uint64_t index, uint64_t offset)
{
	uint64_t len = qcow2_cluster(&q->layout), at, had;
	void *l1, *l2;
	int err = qcow2_take(q, park, &len, &at);

	if (err)
		return err;
	err = l1_get(q, park, index, &l1, &had);
	if (err || had) { /* cannot be: it has just been looked at */
		assert(err != TD_PARKED);
		td_map_drop(q->map, at, len);
		return err ? err : -EIO;
	}
	td_cache_dirty(q->cache, l1, QCOW2_L1);
	td_set64(l1, htobe64(at | QCOW2_COPIED));
	/* saves reading it; if it cannot be had now, it is read */
	return td_cache_get_new(q->cache, l2_entry_at(q, at, offset), park, &l2);
}

int qcow2_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t index = l1_index(q, offset), table, at, reach;
	void *page;
	int err = l1_get(q, park, index, &page, &table);

	if (!err && !table) {
		err = l2_new(q, park, index, offset);
		if (!err)
			err = l1_get(q, park, index, &page, &table);
	} else if (!err && !(table & QCOW2_COPIED)) {
		return qcow2_l2_unshare(q, park, index, table & QCOW2_HOST);
	}
	if (err)
		return err;
	at = l2_entry_at(q, table, offset);
	err = td_cache_get(q->cache, at, park, &page);
	if (err)
		return err;
	reach = entries_left(q, at) << q->layout.cluster_bits;
	*len = min_u64(*len, reach - (offset & (qcow2_cluster(&q->layout) - 1)));
	return 0;
}

be64 *qcow2_entry_ready(struct qcow2 *q, uint64_t offset)
{
	static struct td_park nobody;
	uint64_t table = 0;
	void *page;
	int err = l1_get(q, &nobody, l1_index(q, offset), &page, &table);

	if (!err && table)
		err = td_cache_get(q->cache, l2_entry_at(q, table, offset), &nobody, &page);
	assert(err != TD_PARKED);
	return err || !table ? NULL : page;
}

/* What an entry showed, but for what it shows now. */
static void drop_old(struct qcow2 *q, uint64_t entry, uint64_t now)
{
	uint64_t cluster = qcow2_cluster(&q->layout), at = entry & QCOW2_HOST, end = at + cluster;

	if (q->layout.external) /* nobody counts its clusters */
		return;
	if (entry & QCOW2_PACKED) {
		at = qcow2_packed_at(&q->layout, entry);
		end = at + qcow2_packed_len(&q->layout, entry);
		at = round_down(at, cluster);
		end = round_up(end, cluster);
	}
	if (!at || at == now)
		return;
	/* nothing more goes into a cluster that may lose its last owner */
	if (q->packed_at > at && q->packed_at <= end)
		q->packed_at = 0;
	td_map_drop(q->map, at, end - at);
}

static unsigned entry_step(const struct qcow2 *q)
{
	return q->layout.extended ? 2 : 1;
}

int qcow2_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t cluster = qcow2_cluster(&q->layout);
	be64 *entry = qcow2_entry_ready(q, offset);

	if (!entry)
		return -EIO;
	td_cache_dirty(q->cache, entry, QCOW2_L2);
	for (uint64_t pos = 0, n; pos < len; pos += n, entry += entry_step(q)) {
		uint64_t old = from_be64(*entry), skip = (offset + pos) & (cluster - 1);

		n = min_u64(cluster - skip, len - pos);
		if (q->layout.extended)
			qcow2_sub_set(q, entry, at + pos - skip, skip, skip + n);
		else
			td_set64(entry, htobe64((at + pos) | QCOW2_COPIED));
		drop_old(q, old, at + pos - skip);
	}
	return 0;
}

int qcow2_clear(struct td_image *img, uint64_t offset, uint64_t len, bool zero)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t cluster = qcow2_cluster(&q->layout);
	be64 *entry = qcow2_entry_ready(q, offset);

	if (!entry)
		return -EIO;
	td_cache_dirty(q->cache, entry, QCOW2_L2);
	for (uint64_t pos = 0; pos < len; pos += cluster, entry += entry_step(q)) {
		uint64_t old = from_be64(*entry);

		if (q->layout.extended)
			td_set128(entry, 0, htobe64(zero ? QCOW2_SUBS << 32 : 0));
		else
			td_set64(entry, htobe64(zero ? QCOW2_ZERO : 0));
		drop_old(q, old, 0);
	}
	return 0;
}

int qcow2_set_packed(struct td_image *img, uint64_t offset, uint64_t at, uint64_t len)
{
	struct qcow2 *q = qcow2_of(img);
	unsigned bits = 62 - (q->layout.cluster_bits - 8);
	uint64_t sectors = (at % 512 + len + 511) / 512 - 1, old;
	be64 *entry = qcow2_entry_ready(q, offset);

	if (!entry)
		return -EIO;
	old = from_be64(*entry);
	td_cache_dirty(q->cache, entry, QCOW2_L2);
	if (q->layout.extended)
		td_set128(entry, htobe64(QCOW2_PACKED | sectors << bits | at), 0);
	else
		td_set64(entry, htobe64(QCOW2_PACKED | sectors << bits | at));
	drop_old(q, old, 0);
	return 0;
}
