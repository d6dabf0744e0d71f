/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks every table of an image. The file is a row of blocks; a bit for each
 * says that it has an owner: the header, L1, an L2 table, a cluster. An entry
 * that points outside the file, between clusters or at a block that has an
 * owner is a corruption; a block that nobody owns is a leak. Compressed
 * clusters may share blocks with each other (a second map), not with others.
 */
#include "drivers/qcow/qcow.h"

#include <stdlib.h>

struct walk {
	struct qcow *qcow;
	struct td_check *check;
	uint64_t size;       /* of the file */
	unsigned block_bits;
	uint8_t *owned, *packed;
};

static bool bit_test(const uint8_t *map, uint64_t i)
{
	return map[i / 8] & (1u << (i % 8));
}

/* Marks [at, at + len), which lies in the file; false: somebody owned a part. */
static bool take_blocks(struct walk *walk, uint8_t *map, const uint8_t *other, uint64_t at,
			uint64_t len)
{
	bool was_free = true;

	for (uint64_t i = at >> walk->block_bits; i <= (at + len - 1) >> walk->block_bits; i++) {
		if ((map != walk->packed && bit_test(map, i)) || bit_test(other, i))
			was_free = false;
		map[i / 8] |= 1u << (i % 8);
	}
	return was_free;
}

static bool take_own(struct walk *walk, uint64_t at, uint64_t len)
{
	return take_blocks(walk, walk->owned, walk->packed, at, len);
}

/* It may begin in the block where the L1 table ends. */
static bool take_packed(struct walk *walk, uint64_t at, uint64_t len)
{
	const struct qcow_layout *layout = &walk->qcow->layout;
	uint64_t first = at >> walk->block_bits;
	uint64_t l1_last = (layout->l1_at + layout->l1_count * 8 - 1) >> walk->block_bits;

	if (first == l1_last) {
		uint64_t end = (first + 1) << walk->block_bits;

		if (at + len <= end)
			return true;
		len = at + len - end;
		at = end;
	}
	return take_blocks(walk, walk->packed, walk->owned, at, len);
}

static void check_packed(struct walk *walk, uint64_t offset, uint64_t entry)
{
	const struct qcow_layout *layout = &walk->qcow->layout;
	uint64_t at = qcow_packed_at(layout, entry), len = qcow_packed_len(layout, entry);

	walk->check->compressed++;
	if (!len || at >= walk->size || len > walk->size - at)
		td_check_found(walk->check,
			       "disk offset %llu: compressed cluster at %llu, %llu bytes, is outside "
			       "the file", (unsigned long long)offset, (unsigned long long)at,
			       (unsigned long long)len);
	else if (qcow_hits_head(layout, at, len))
		td_check_found(walk->check,
			       "disk offset %llu: compressed cluster at %llu lies in the header",
			       (unsigned long long)offset, (unsigned long long)at);
	else if (!take_packed(walk, at, len))
		td_check_found(walk->check,
			       "disk offset %llu: compressed cluster at %llu belongs to something else "
			       "too", (unsigned long long)offset, (unsigned long long)at);
}

static void check_cluster(struct walk *walk, uint64_t offset, uint64_t at)
{
	uint64_t cluster = qcow_cluster(&walk->qcow->layout);

	if (at >= walk->size)
		td_check_found(walk->check,
			       "disk offset %llu: cluster at %llu, past the end of the file",
			       (unsigned long long)offset, (unsigned long long)at);
	else if (at % cluster)
		td_check_found(walk->check,
			       "disk offset %llu: cluster at %llu, which is no multiple of %llu",
			       (unsigned long long)offset, (unsigned long long)at,
			       (unsigned long long)cluster);
	else if (!take_own(walk, at, min_u64(cluster, walk->size - at)))
		td_check_found(walk->check,
			       "disk offset %llu: cluster at %llu belongs to something else too",
			       (unsigned long long)offset, (unsigned long long)at);
}

static void check_table(struct walk *walk, uint64_t offset, const be64 *entry, uint32_t count)
{
	uint64_t cluster = qcow_cluster(&walk->qcow->layout);

	for (uint32_t i = 0; i < count; i++, offset += cluster) {
		uint64_t value = from_be64(entry[i]);

		if (!value)
			continue;
		if (offset < walk->qcow->layout.size) /* the last table may go on */
			walk->check->allocated++;
		if (value & QCOW_PACKED)
			check_packed(walk, offset, value);
		else
			check_cluster(walk, offset, value);
	}
}

static int check_l1_entry(struct walk *walk, uint64_t i, uint64_t at, be64 *buf)
{
	struct qcow *qcow = walk->qcow;
	uint64_t bytes = qcow_l2_bytes(&qcow->layout);
	int err;

	if (qcow_l1_is_bad(qcow, i) || !qcow_l2_fits(qcow, at)) {
		td_check_found(walk->check, "L1 entry %llu: table at %llu, which cannot be",
			       (unsigned long long)i, (unsigned long long)at);
		return 0;
	}
	if (!take_own(walk, at, bytes))
		td_check_found(walk->check,
			       "L1 entry %llu: table at %llu belongs to something else too",
			       (unsigned long long)i, (unsigned long long)at);
	err = td_cache_read(qcow->cache, buf, bytes, at);
	if (!err)
		check_table(walk, i * qcow_span(&qcow->layout), buf, bytes / 8);
	return err;
}

static int check_tables(struct walk *walk, be64 *buf)
{
	const struct qcow_layout *layout = &walk->qcow->layout;
	be64 l1[512];
	int err = 0;

	for (uint64_t i = 0, n; i < layout->l1_count && !err; i += n) {
		n = min_u64(layout->l1_count - i, ARRAY_SIZE(l1));
		err = td_cache_read(walk->qcow->cache, l1, n * 8, layout->l1_at + i * 8);
		for (uint64_t k = 0; k < n && !err; k++)
			if (from_be64(l1[k]))
				err = check_l1_entry(walk, i + k, qcow_l1_value(walk->qcow, l1[k]),
						     buf);
	}
	return err;
}

static bool is_lost(const struct walk *walk, uint64_t block)
{
	return !bit_test(walk->owned, block) && !bit_test(walk->packed, block);
}

/* What is lost is a place for a cluster. The gaps before those, and between a small table
 * and the next cluster, are none. */
static void count_leaks(struct walk *walk)
{
	const struct qcow_layout *layout = &walk->qcow->layout;
	uint64_t blocks = walk->size >> walk->block_bits;
	uint64_t per_cluster = qcow_cluster(layout) >> walk->block_bits;
	uint64_t at = round_up(layout->l1_at + layout->l1_count * 8,
			       max_u64(qcow_cluster(layout), 4096)) >> walk->block_bits;

	if (td_file_is_device(walk->qcow->file)) /* goes on behind the image */
		while (blocks && is_lost(walk, blocks - 1))
			blocks--;
	for (; at + per_cluster <= blocks; at += per_cluster) {
		uint64_t n = 0;

		while (n < per_cluster && is_lost(walk, at + n))
			n++;
		walk->check->leaks += n == per_cluster;
	}
}

int qcow_check(struct td_image *img, struct td_check *check, struct td_why *why)
{
	struct qcow *qcow = img->state;
	const struct qcow_layout *layout = &qcow->layout;
	struct walk walk = {
		.qcow = qcow, .check = check, .size = td_file_size(qcow->file),
		.block_bits = layout->cluster_bits < 12 ? layout->cluster_bits : 12,
	};
	size_t bytes = (walk.size >> walk.block_bits) / 8 + 1;
	be64 *buf = malloc(qcow_l2_bytes(layout));
	int err = 0;

	walk.owned = calloc(1, bytes);
	walk.packed = calloc(1, bytes);
	if (!buf || !walk.owned || !walk.packed) {
		err = td_fail(why, -ENOMEM, "%s: no memory to check it", td_file_path(qcow->file));
		goto out;
	}
	check->total = (layout->size - 1) / qcow_cluster(layout) + 1;
	take_own(&walk, 0, layout->head_end);
	take_own(&walk, layout->l1_at, layout->l1_count * 8);
	err = check_tables(&walk, buf);
	if (err)
		td_fail(why, err, "%s: cannot read its tables", td_file_path(qcow->file));
	else
		count_leaks(&walk);
out:
	free(walk.packed);
	free(walk.owned);
	free(buf);
	return err;
}
