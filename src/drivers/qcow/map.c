/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L1 and L2: what lies where. An L1 entry names an L2 table, an L2 entry a cluster.
 * Both are read through the cache, a page at a time, and an entry changes by one
 * store.
 *
 * An image that stands alone maps whole runs: the first write to one gives all its
 * empty entries their place, one after the other. The run is contiguous in the file,
 * and all its other first writes are writes in place. Space is sparse, so a mapped
 * cluster without data takes none. (Not so if it is encrypted: there zeroes of the file
 * are noise of the disk.)
 *
 * Nobody counts who has a cluster. So what an entry showed before it is lost to the
 * file, until that is copied.
 */
#include <assert.h>

#include "drivers/qcow/qcow.h"

static struct qcow *qcow_of(struct td_image *img)
{
	return img->state;
}

static int corrupt(struct qcow *qcow, const char *what, uint64_t offset, uint64_t value)
{
	td_say(qcow->img, LOG_ERR, "corrupt qcow %s entry 0x%llx for disk offset %llu", what,
	       (unsigned long long)value, (unsigned long long)offset);
	return -EIO;
}

static uint64_t l1_index(const struct qcow *qcow, uint64_t offset)
{
	return offset >> (qcow->layout.cluster_bits + qcow->layout.l2_bits);
}

/* *table: where the L2 table is; 0: there is none. *page: the entry. */
static int l1_get(struct qcow *qcow, struct td_park *park, uint64_t offset, void **page,
		  uint64_t *table)
{
	uint64_t index = l1_index(qcow, offset);
	int err = td_cache_get(qcow->cache, qcow->layout.l1_at + index * 8, park, page);

	if (err)
		return err;
	*table = qcow_l1_value(qcow, *(be64 *)*page);
	if (*table && (qcow_l1_is_bad(qcow, index) || !qcow_l2_fits(qcow, *table)))
		return corrupt(qcow, "L1", offset, *table);
	return 0;
}

/* Where the file has the L2 entry for offset. */
static uint64_t l2_entry_at(const struct qcow *qcow, uint64_t table, uint64_t offset)
{
	uint64_t index = offset >> qcow->layout.cluster_bits;

	return table + (index * 8 & (qcow_l2_bytes(&qcow->layout) - 1));
}

/* Entries from there to the end of the page. */
static uint64_t entries_left(const struct qcow *qcow, uint64_t entry_at)
{
	return (qcow->page - entry_at % qcow->page) / 8;
}

/* ---- what is there ---------------------------------------------------------------- */

/* The bytes from offset to the next L1 entry that names a table, more or less. */
static uint64_t no_table_len(const struct qcow *qcow, const be64 *entry, uint64_t offset,
			     uint64_t len)
{
	uint64_t span = qcow_span(&qcow->layout), index = l1_index(qcow, offset);
	uint64_t max = min_u64(entries_left(qcow, qcow->layout.l1_at + index * 8),
			       qcow->layout.l1_count - index);
	uint64_t total = span - offset % span;

	for (uint64_t i = 1; i < max && total < len && !from_be64(entry[i]); i++)
		total += span;
	return total;
}

static int packed_spot(struct qcow *qcow, uint64_t offset, uint64_t entry, struct td_spot *out)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t at = qcow_packed_at(layout, entry), len = qcow_packed_len(layout, entry);
	uint64_t size = td_file_size(qcow->file);

	if (!len || at >= size || len > size - at || qcow_hits_head(layout, at, len))
		return corrupt(qcow, "compressed", offset, entry);
	*out = (struct td_spot){ .kind = TD_SPOT_PACKED, .at = at, .packed = len };
	return 0;
}

static int spot_of(struct qcow *qcow, uint64_t offset, uint64_t entry, struct td_spot *out)
{
	uint64_t cluster = qcow_cluster(&qcow->layout);

	if (entry & QCOW_PACKED)
		return packed_spot(qcow, offset, entry, out);
	if (entry && (entry % cluster || entry >= td_file_size(qcow->file) ||
		      qcow_hits_head(&qcow->layout, entry, cluster)))
		return corrupt(qcow, "L2", offset, entry);
	*out = (struct td_spot){
		.kind = entry ? TD_SPOT_DATA : TD_SPOT_HOLE, .at = entry + offset % cluster,
	};
	return 0;
}

/* How far the file goes on from a cluster's byte, before it ends or L1 begins: entries
 * that follow have not been looked at, but for being in a row. */
static uint64_t file_left(const struct qcow *qcow, uint64_t at)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t end = round_up(td_file_size(qcow->file), qcow_cluster(layout));

	return (at < layout->l1_at ? min_u64(layout->l1_at, end) : end) - at;
}

/* Entries that go on as the first one does. */
static uint64_t run_len(const struct qcow *qcow, const be64 *entry, uint64_t max, uint64_t offset,
			uint64_t len, const struct td_spot *spot)
{
	uint64_t cluster = qcow_cluster(&qcow->layout), total = cluster - offset % cluster;
	uint64_t first = from_be64(entry[0]);

	if (spot->kind == TD_SPOT_PACKED)
		return total;
	for (uint64_t i = 1; i < max && total < len; i++, total += cluster)
		if (from_be64(entry[i]) != first + (first ? i * cluster : 0))
			break;
	return first ? min_u64(total, file_left(qcow, spot->at)) : total;
}

int qcow_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
	      struct td_spot *out)
{
	struct qcow *qcow = qcow_of(img);
	uint64_t table, at;
	void *page;
	int err = l1_get(qcow, park, offset, &page, &table);

	if (err)
		return err;
	if (!table) {
		*out = (struct td_spot){ .kind = TD_SPOT_HOLE,
					 .len = no_table_len(qcow, page, offset, len) };
		return 0;
	}
	at = l2_entry_at(qcow, table, offset);
	err = td_cache_get(qcow->cache, at, park, &page);
	if (!err)
		err = spot_of(qcow, offset, from_be64(*(be64 *)page), out);
	if (!err)
		out->len = run_len(qcow, page, entries_left(qcow, at), offset, len, out);
	return err;
}

/* ---- changes ------------------------------------------------------------------------ */

/* A new L2 table, which reads as holes. */
static int l2_new(struct qcow *qcow, struct td_park *park, uint64_t offset)
{
	uint64_t len = round_up(qcow_l2_bytes(&qcow->layout), qcow_cluster(&qcow->layout));
	uint64_t had, at;
	void *l1, *l2;
	int err = td_space_find(qcow->space, park, len, &len, &at);

	if (err)
		return err;
	err = l1_get(qcow, park, offset, &l1, &had);
	assert(!err && !had); /* it has just been looked at */
	td_space_take(qcow->space, at, len);
	td_cache_dirty(qcow->cache, l1, QCOW_TABLES);
	td_set64(l1, qcow->l1_little ? htole64(at) : htobe64(at));
	/* saves reading it; if it cannot be had now, it is read */
	return td_cache_get_new(qcow->cache, l2_entry_at(qcow, at, offset), park, &l2);
}

int qcow_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct qcow *qcow = qcow_of(img);
	uint64_t table, at, reach;
	void *page;
	int err = l1_get(qcow, park, offset, &page, &table);

	if (!err && !table) {
		err = l2_new(qcow, park, offset);
		if (!err)
			err = l1_get(qcow, park, offset, &page, &table);
	}
	if (err)
		return err;
	at = l2_entry_at(qcow, table, offset);
	reach = entries_left(qcow, at) << qcow->layout.cluster_bits;
	*len = min_u64(*len, reach - offset % qcow_cluster(&qcow->layout));
	return td_cache_get(qcow->cache, at, park, &page);
}

/* The L2 entry for offset, which is ready. */
static be64 *entry_ready(struct qcow *qcow, uint64_t offset)
{
	static struct td_park nobody;
	uint64_t table = 0;
	void *page;
	int err = l1_get(qcow, &nobody, offset, &page, &table);

	if (!err && table)
		err = td_cache_get(qcow->cache, l2_entry_at(qcow, table, offset), &nobody, &page);
	assert(err != TD_PARKED);
	return err || !table ? NULL : page;
}

/* The first cluster of a run that offset lies in; *count: how many it has. */
static uint64_t run_of(const struct qcow *qcow, uint64_t offset, uint64_t *count)
{
	uint64_t from = round_down(offset, qcow->run);
	uint64_t size = round_up(qcow->layout.size, qcow_cluster(&qcow->layout));

	*count = min_u64(qcow->run, size - from) >> qcow->layout.cluster_bits;
	return from;
}

/* Maps the run around offset, whose own entry is empty. */
static int place_run(struct qcow *qcow, struct td_park *park, uint64_t offset, uint64_t *len,
		     uint64_t *at)
{
	uint64_t cluster = qcow_cluster(&qcow->layout), count, from = run_of(qcow, offset, &count);
	uint64_t first = (offset - from) / cluster, needs = 0, room, place, n = 1;
	be64 *entry = entry_ready(qcow, from);
	int err;

	if (!entry)
		return -EIO;
	for (uint64_t i = 0; i < count; i++)
		needs += from_be64(entry[i]) ? 0 : cluster;
	room = needs;
	err = td_space_find(qcow->space, park, needs, &room, &place);
	if (err)
		return err;
	td_space_take(qcow->space, place, needs);
	td_cache_dirty(qcow->cache, entry, QCOW_TABLES);
	for (uint64_t i = 0; i < count; i++) {
		if (from_be64(entry[i]))
			continue;
		td_set64(&entry[i], htobe64(place));
		place += cluster;
	}
	*at = from_be64(entry[first]);
	while (first + n < count && from_be64(entry[first + n]) == *at + n * cluster)
		n++;
	*len = min_u64(*len, n * cluster);
	return 0;
}

int qcow_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
	       uint64_t *at)
{
	struct qcow *qcow = qcow_of(img);
	be64 *entry = entry_ready(qcow, offset);
	int err;

	if (!entry)
		return -EIO;
	if (!img->below && !qcow->layout.encrypted && !from_be64(*entry))
		return place_run(qcow, park, offset, len, at);
	err = td_space_find(qcow->space, park, qcow_cluster(&qcow->layout), len, at);
	if (err)
		return err;
	*len = round_down(*len, qcow_cluster(&qcow->layout));
	td_space_take(qcow->space, *at, *len);
	return 0;
}

int qcow_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	struct qcow *qcow = qcow_of(img);
	be64 *entry = entry_ready(qcow, offset);

	if (!entry)
		return -EIO;
	td_cache_dirty(qcow->cache, entry, QCOW_TABLES);
	for (uint64_t pos = 0; pos < len; pos += qcow_cluster(&qcow->layout))
		td_set64(entry++, htobe64(at + pos));
	return 0;
}

int qcow_set_packed(struct td_image *img, uint64_t offset, uint64_t at, uint64_t len)
{
	struct qcow *qcow = qcow_of(img);
	be64 *entry = entry_ready(qcow, offset);

	if (!entry)
		return -EIO;
	td_cache_dirty(qcow->cache, entry, QCOW_TABLES);
	td_set64(entry, htobe64(QCOW_PACKED | len << (63 - qcow->layout.cluster_bits) | at));
	return 0;
}

/* Dropped is only what a failed first write had been given: nothing ever showed it. */
int qcow_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	*gone = true;
	return 0;
}
