/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts who shows each cluster of the file: header, refcount table and blocks, L1
 * and L2 tables and the clusters in them, of the image and of its snapshots. A
 * stored refcount that is lower is a corruption, one that is higher a leak. Tables
 * are read as the cache has them.
 *
 * rebuild writes what was counted, for an image that is marked dirty.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/rule.h"
#include "drivers/qcow2/qcow2.h"

#define CLUSTERS_MAX (1ull << 34)

struct walk {
	struct qcow2 *q;
	struct td_check *check;
	uint64_t clusters;      /* of the file */
	uint16_t *count;        /* of each, as far as it goes */
	be64 *table, *buf;      /* a cluster each */
	uint64_t block_index;   /* which is in block */
	char *block;
	bool active;            /* the image's own tables, not a snapshot's */
	bool recount;           /* refcounts are wrong: nothing is compared with them */
};

static bool seen(struct walk *walk, const char *what, uint64_t at, uint64_t len)
{
	unsigned bits = walk->q->layout.cluster_bits;
	uint64_t first = at >> bits, end = (at + len - 1) >> bits;

	if (end >= walk->clusters) {
		td_check_found(walk->check, "%s at %llu lies past the end of the file", what,
			       (unsigned long long)at);
		return false;
	}
	for (uint64_t i = first; i <= end; i++)
		if (walk->count[i] < UINT16_MAX)
			walk->count[i]++;
	return true;
}

/* ---- stored refcounts ------------------------------------------------------------- */

static int stored_get(struct walk *walk, uint64_t cluster, uint64_t *out)
{
	struct qcow2 *q = walk->q;
	unsigned bits = qcow2_block_bits(&q->layout);
	uint64_t index = cluster >> bits, at;
	be64 entry;
	int err;

	if (index != walk->block_index) {
		memset(walk->block, 0, qcow2_cluster(&q->layout));
		walk->block_index = index;
		if (index < q->layout.table_clusters << (q->layout.cluster_bits - 3)) {
			err = td_cache_read(q->cache, &entry, sizeof(entry),
					    q->layout.table_at + index * 8);
			at = err ? 0 : from_be64(entry) & ~511ull;
			if (at && qcow2_place_fits(q, at))
				err = td_cache_read(q->cache, walk->block,
						    qcow2_cluster(&q->layout), at);
			if (err)
				return err;
		}
	}
	*out = qcow2_ref_get(&q->layout, walk->block, cluster & ((1ull << bits) - 1));
	return 0;
}

static int copied_flag(struct walk *walk, const char *what, uint64_t number, uint64_t entry)
{
	uint64_t count = 0;
	int err;

	if (!walk->active || walk->recount)
		return 0;
	err = stored_get(walk, (entry & QCOW2_HOST) >> walk->q->layout.cluster_bits, &count);
	if (!err && count == 1 && !(entry & QCOW2_COPIED))
		walk->check->leaks++; /* a write will copy what it need not */
	else if (!err && entry & QCOW2_COPIED && count != 1)
		td_check_found(walk->check, "%s %llu is %#llx, but the refcount is %llu", what,
			       (unsigned long long)number, (unsigned long long)entry,
			       (unsigned long long)count);
	return err;
}

/* ---- the walk ------------------------------------------------------------------------ */

static int walk_cluster(struct walk *walk, uint64_t offset, uint64_t entry)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	uint64_t host = entry & QCOW2_HOST, at = qcow2_packed_at(layout, entry);
	uint64_t packed = qcow2_packed_len(layout, entry);
	uint64_t end = round_up(td_file_size(walk->q->file), qcow2_cluster(layout));

	if (layout->external) {
		walk->check->allocated += walk->active && entry & QCOW2_COPIED;
		return 0;
	}
	if (entry & QCOW2_PACKED) {
		walk->check->compressed += walk->active;
		walk->check->allocated += walk->active;
		/* the last sectors may be past the end of the file, but not of its clusters */
		if (at < end && packed > end - at)
			td_check_found(walk->check, "disk offset %llu: compressed, and past the "
				       "end of the file", (unsigned long long)offset);
		else if (seen(walk, "a compressed cluster", at,
			      min_u64(packed, max_u64(td_file_size(walk->q->file), at + 1) - at)) &&
			 entry & QCOW2_COPIED)
			td_check_found(walk->check,
				       "disk offset %llu: compressed, and marked as copied",
				       (unsigned long long)offset);
		return 0;
	}
	if (entry & QCOW2_L2_RESERVED || (entry & QCOW2_ZERO && layout->version < 3) ||
	    !is_aligned(host, qcow2_cluster(layout)) || (host && host < qcow2_cluster(layout))) {
		td_check_found(walk->check, "disk offset %llu: entry %#llx cannot be",
			       (unsigned long long)offset,
			       (unsigned long long)entry);
		return 0;
	}
	if (!host)
		return 0;
	walk->check->allocated += walk->active && !(entry & QCOW2_ZERO);
	if (!seen(walk, "a cluster", host, qcow2_cluster(layout)))
		return 0;
	return copied_flag(walk, "the entry of disk offset", offset, entry);
}

static int walk_l2(struct walk *walk, uint64_t index, uint64_t entry)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	uint64_t cluster = qcow2_cluster(layout), at = entry & QCOW2_HOST;
	uint64_t offset = index << qcow2_span_bits(layout);
	unsigned step = layout->extended ? 2 : 1;
	int err;

	if (entry & QCOW2_L1_RESERVED || !qcow2_place_fits(walk->q, at)) {
		td_check_found(walk->check, "L1 entry %llu, %#llx, cannot be",
			       (unsigned long long)index,
			       (unsigned long long)entry);
		return 0;
	}
	if (!seen(walk, "an L2 table", at, cluster))
		return 0;
	err = copied_flag(walk, "L1 entry", index, entry);
	if (!err)
		err = td_cache_read(walk->q->cache, walk->buf, cluster, at);
	for (uint64_t i = 0; i < cluster / 8 && !err; i += step, offset += cluster)
		if (from_be64(walk->buf[i]))
			err = walk_cluster(walk, offset, from_be64(walk->buf[i]));
	return err;
}

static int walk_l1(struct walk *walk, uint64_t at, uint64_t count)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	uint64_t cluster = qcow2_cluster(layout), size = td_file_size(walk->q->file);
	int err = 0;

	if (!is_aligned(at, cluster) || !count || at >= size || count * 8 > size - at) {
		td_check_found(walk->check, "an L1 table of %llu entries at %llu cannot be",
			       (unsigned long long)count, (unsigned long long)at);
		return 0;
	}
	if (!seen(walk, "an L1 table", at, count * 8))
		return 0;
	for (uint64_t i = 0; i < count && !err; i++) {
		if (i % (cluster / 8) == 0)
			err = td_cache_read(walk->q->cache, walk->table,
					    min_u64(cluster, (count - i) * 8), at + i * 8);
		if (!err && from_be64(walk->table[i % (cluster / 8)]) & QCOW2_HOST)
			err = walk_l2(walk, i, from_be64(walk->table[i % (cluster / 8)]));
	}
	return err;
}

/* A snapshot: 40 bytes, what they announce, padded to 8. */
static int walk_snapshots(struct walk *walk)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	uint64_t at = layout->snapshots_at, size = td_file_size(walk->q->file);

	for (uint64_t i = 0; i < layout->snapshots; i++) {
		uint8_t head[40];
		be64 l1_at;
		be32 n32[2];
		be16 n16[2];
		int err;

		if (at > size - min_u64(size, sizeof(head))) {
			td_check_found(walk->check, "snapshot %llu lies past the end of the file",
				       (unsigned long long)i);
			return 0;
		}
		err = td_cache_read(walk->q->cache, head, sizeof(head), at);
		if (err)
			return err;
		memcpy(&l1_at, head, 8);
		memcpy(&n32[0], head + 8, 4);
		memcpy(n16, head + 12, 4);
		memcpy(&n32[1], head + 36, 4);
		err = walk_l1(walk, from_be64(l1_at), from_be32(n32[0]));
		if (err)
			return err;
		at = round_up(at + sizeof(head) + from_be32(n32[1]) + from_be16(n16[0]) +
			      from_be16(n16[1]), 8);
	}
	if (layout->snapshots)
		seen(walk, "the snapshot table", layout->snapshots_at, at - layout->snapshots_at);
	return 0;
}

/* A table of entries like those of L2, without flags. */
static int walk_bitmap(void *arg, const struct qcow2_bitmap_row *row)
{
	struct walk *walk = arg;
	uint64_t cluster = qcow2_cluster(&walk->q->layout), per = cluster / 8;
	int err = 0;

	if (!seen(walk, "the table of a bitmap", row->table_at, row->count * 8))
		return 0;
	for (uint64_t i = 0; i < row->count && !err; i++) {
		uint64_t at;

		if (i % per == 0)
			err = td_file_read(walk->q->file, walk->table,
					   min_u64(cluster, (row->count - i) * 8),
					   row->table_at + i * 8);
		at = err ? 0 : from_be64(walk->table[i % per]) & QCOW2_HOST;
		if (at && !qcow2_place_fits(walk->q, at))
			td_check_found(walk->check, "bitmap '%.64s': entry %llu, %#llx, cannot be",
				       row->name, (unsigned long long)i, (unsigned long long)at);
		else if (at)
			seen(walk, "a cluster of a bitmap", at, cluster);
	}
	return err;
}

static int walk_bitmaps(struct walk *walk)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	int err = qcow2_bitmap_each(walk->q, walk_bitmap, walk);

	if (err == -EINVAL)
		td_check_found(walk->check, "the directory of its bitmaps is damaged");
	else if (!err && layout->bitmaps && layout->autoclear & QCOW2_AUTOCLEAR_BITMAPS)
		seen(walk, "the directory of bitmaps", layout->bitmaps_at, layout->bitmaps_len);
	return err == -EINVAL ? 0 : err;
}

static int walk_refcounts(struct walk *walk)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	uint64_t cluster = qcow2_cluster(layout);
	int err = 0;

	seen(walk, "the refcount table", layout->table_at,
	     layout->table_clusters << layout->cluster_bits);
	for (uint64_t i = 0; i < layout->table_clusters * (cluster / 8) && !err; i++) {
		uint64_t at;

		if (i % (cluster / 8) == 0)
			err = td_cache_read(walk->q->cache, walk->table, cluster,
					    layout->table_at + i * 8);
		at = err ? 0 : from_be64(walk->table[i % (cluster / 8)]);
		if (at && !qcow2_place_fits(walk->q, at))
			td_check_found(walk->check, "refcount table entry %llu, %#llx, cannot be",
				       (unsigned long long)i, (unsigned long long)at);
		else if (at)
			seen(walk, "a refcount block", at, cluster);
	}
	return err;
}

static int walk_all(struct walk *walk)
{
	const struct qcow2_layout *layout = &walk->q->layout;
	bool now = walk->q->now_l1_count;
	int err;

	seen(walk, "the header", 0, qcow2_cluster(layout));
	if (layout->luks_len)
		seen(walk, "the LUKS header", layout->luks_at, layout->luks_len);
	err = walk_refcounts(walk);
	walk->active = true;
	if (!err)
		err = walk_l1(walk, now ? walk->q->now_l1_at : layout->l1_at,
			      now ? walk->q->now_l1_count : layout->l1_count);
	walk->active = false;
	if (!err)
		err = walk_bitmaps(walk);
	return err ? err : walk_snapshots(walk);
}

static int write_count(struct walk *walk, uint64_t cluster);

/* Refcounts that are not as they were counted: told or, if that was asked for, written. */
static int compare(struct walk *walk)
{
	struct td_check *check = walk->check;
	int err = 0;

	for (uint64_t i = 0; i < walk->clusters && !err; i++) {
		uint64_t stored, count = walk->count[i];

		err = stored_get(walk, i, &stored);
		if (err || stored == count)
			continue;
		if (stored < count)
			td_check_found(walk->check,
				       "cluster %llu of the file: refcount %llu, but %llu show it",
				       (unsigned long long)i, (unsigned long long)stored,
				       (unsigned long long)count);
		else
			check->leaks++;
		if (check->repair == TD_REPAIR_NOTHING ||
		    (check->repair == TD_REPAIR_LEAKS && stored < count))
			continue;
		err = write_count(walk, i);
		*(stored < count ? &check->corruptions_fixed : &check->leaks_fixed) += !err;
		err = err == -EBADMSG ? 0 : err; /* stays as it is */
		walk->block_index = UINT64_MAX;
	}
	return err;
}

/* ---- the ends ----------------------------------------------------------------------- */

static int walk_begin(struct walk *walk, struct qcow2 *q, struct td_check *check,
		      struct td_why *why)
{
	uint64_t cluster = qcow2_cluster(&q->layout);

	*walk = (struct walk){ .q = q, .check = check, .block_index = UINT64_MAX };
	walk->clusters = (td_file_size(q->file) - 1) / cluster + 1;
	if (walk->clusters > CLUSTERS_MAX)
		return td_fail(why, -EFBIG, "%s: has too many clusters to be checked",
			       td_file_path(q->file));
	walk->table = malloc(cluster);
	walk->buf = malloc(cluster);
	walk->block = malloc(cluster);
	walk->count = mmap(NULL, walk->clusters * sizeof(*walk->count), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (walk->count == MAP_FAILED)
		walk->count = NULL;
	if (walk->table && walk->buf && walk->block && walk->count)
		return 0;
	return td_fail(why, -ENOMEM, "%s: no memory to check it", td_file_path(q->file));
}

static void walk_end(struct walk *walk)
{
	if (walk->count)
		munmap(walk->count, walk->clusters * sizeof(*walk->count));
	free(walk->block);
	free(walk->buf);
	free(walk->table);
}

/* All that was wrong has been put right: the mark goes. */
static int unmark(struct qcow2 *q, const struct td_check *check)
{
	be64 bits;

	if (!(q->layout.incompatible & QCOW2_CORRUPT) || check->repair != TD_REPAIR_ALL ||
	    check->corruptions != check->corruptions_fixed)
		return 0;
	q->layout.incompatible &= ~(uint64_t)QCOW2_CORRUPT;
	bits = to_be64(q->layout.incompatible);
	return qcow2_head_write(q, &bits, sizeof(bits), offsetof(struct qcow2_header, incompatible));
}

/* What was wrong in a table because of a refcount is right once that is repaired, and has
 * not been counted: so what is left is looked for again. */
static int look_again(struct qcow2 *q, struct td_check *check)
{
	struct td_check left = { 0 };
	struct walk walk;
	int err = td_cache_sync(q->cache);

	if (err || check->repair != TD_REPAIR_ALL || check->corruptions == check->corruptions_fixed)
		return err;
	err = walk_begin(&walk, q, &left, NULL);
	if (!err)
		err = walk_all(&walk);
	if (!err)
		err = compare(&walk);
	walk_end(&walk);
	if (err)
		return err;
	check->corruptions = max_u64(check->corruptions, left.corruptions);
	check->corruptions_fixed = check->corruptions - left.corruptions;
	check->leaks = max_u64(check->leaks, left.leaks);
	check->leaks_fixed = check->leaks - left.leaks;
	return left.corruptions ? 0 : qcow2_flags_come(q, &check->leaks_fixed);
}

int qcow2_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct qcow2 *q = img->state;
	struct walk walk;
	int err = walk_begin(&walk, q, check, why);

	walk.recount = q->layout.incompatible & QCOW2_DIRTY; /* no refcount is relied on */
	check->total = ((q->layout.size - 1) >> q->layout.cluster_bits) + 1;
	if (!err) {
		td_cache_block(q->cache, check->repair);
		err = walk_all(&walk);
		if (!err && !walk.recount)
			err = compare(&walk);
		if (!err && check->repair && check->corruptions == check->corruptions_fixed)
			err = qcow2_flags_come(q, &check->leaks_fixed);
		if (!err && check->repair == TD_REPAIR_ALL)
			err = qcow2_flags_mend(q, &check->corruptions_fixed);
		if (!err && check->repair)
			err = look_again(q, check);
		if (!err && check->repair)
			err = td_cache_sync(q->cache);
		if (!err)
			err = unmark(q, check);
		td_cache_block(q->cache, false);
		if (err)
			td_fail(why, err, "%s: cannot read its tables: %s",
				td_file_path(q->file), strerror(-err));
	}
	walk_end(&walk);
	return err;
}

/* A block for a range of the file that has none, though its clusters are in use. */
static int block_for(struct qcow2 *q, uint64_t index)
{
	struct td_park nobody = { 0 };
	uint64_t len = qcow2_cluster(&q->layout), at;
	void *entry;
	int err = td_cache_get(q->cache, q->layout.table_at + index * 8, &nobody, &entry);

	if (err || from_be64(*(be64 *)entry))
		return err;
	err = qcow2_take(q, &nobody, &len, &at);
	if (!err)
		err = td_cache_get(q->cache, q->layout.table_at + index * 8, &nobody, &entry);
	if (err || from_be64(*(be64 *)entry)) /* it may have become its own */
		return err;
	td_cache_dirty(q->cache, entry, QCOW2_TABLE);
	td_set64(entry, htobe64(at));
	return 0;
}

/* What a damaged table names may be anything, and somebody else's. */
static bool is_block(const struct walk *walk, uint64_t at)
{
	uint64_t cluster = at >> walk->q->layout.cluster_bits;

	return qcow2_place_fits(walk->q, at) &&
	       (cluster >= walk->clusters || walk->count[cluster] <= 1);
}

/* -EBADMSG: there is no place for it. */
static int write_count(struct walk *walk, uint64_t cluster)
{
	struct qcow2 *q = walk->q;
	unsigned order = q->layout.refcount_order;
	uint64_t bits = qcow2_block_bits(&q->layout), count = walk->count[cluster], at, bit;
	struct td_park nobody = { 0 };
	void *page;
	int err;

	if (order < 4 && count >> (1 << order))
		return -EOVERFLOW;
	if (cluster >> bits >= q->layout.table_clusters << (q->layout.cluster_bits - 3))
		return -EBADMSG;
	err = block_for(q, cluster >> bits);
	if (!err)
		err = td_cache_get(q->cache, q->layout.table_at + (cluster >> bits) * 8, &nobody,
				   &page);
	if (err)
		return err;
	at = from_be64(*(be64 *)page);
	if (!is_block(walk, at))
		return -EBADMSG;
	bit = (cluster & ((1ull << bits) - 1)) << order;
	err = td_cache_room(q->cache, &nobody);
	if (!err)
		err = td_cache_get(q->cache, at + bit / 8, &nobody, &page);
	if (err)
		return err;
	td_cache_dirty(q->cache, page, QCOW2_REFS);
	qcow2_ref_set(&q->layout, page, bit % 8 >> order, count);
	return 0;
}

int qcow2_rebuild(struct qcow2 *q, struct td_why *why)
{
	const char *path = td_file_path(q->file);
	struct td_check check = { 0 };
	struct walk walk;
	uint64_t changed = 0;
	int err = walk_begin(&walk, q, &check, why);

	if (err)
		goto out;
	walk.recount = true;
	err = walk_all(&walk);
	if (!err && check.corruptions)
		err = -EBADMSG; /* not what counting again can mend */
	for (uint64_t i = 0; i < walk.clusters && !err; i++) {
		uint64_t stored;

		walk.block_index = changed ? UINT64_MAX : walk.block_index;
		err = stored_get(&walk, i, &stored);
		if (err || stored == walk.count[i])
			continue;
		err = write_count(&walk, i);
		changed++;
	}
	if (!err && td_rule("qcow2-counts-before-clean"))
		err = td_cache_sync(q->cache);
	if (!err)
		err = qcow2_flags_mend(q, &changed);
	if (!err && td_rule("qcow2-counts-before-clean"))
		err = td_cache_sync(q->cache);
	if (err)
		td_fail(why, err, "%s: was not closed, and its refcounts cannot be counted anew: %s",
			path, strerror(-err));
	else
		td_log(path, LOG_NOTICE, "was not closed: %llu refcounts or bits 63 were wrong and "
		       "have been written anew", (unsigned long long)changed);
out:
	walk_end(&walk);
	return err;
}

int qcow2_shown_end(struct qcow2 *q, uint64_t *end)
{
	struct td_check check = { 0 };
	struct walk walk;
	int err = walk_begin(&walk, q, &check, NULL);

	walk.recount = true;
	if (!err)
		err = walk_all(&walk);
	for (uint64_t i = walk.clusters; i && !err; i--)
		if (walk.count[i - 1]) {
			*end = i << q->layout.cluster_bits;
			break;
		}
	walk_end(&walk);
	return err;
}
