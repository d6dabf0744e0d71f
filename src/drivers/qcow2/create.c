/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image of version 3:
 *
 *     header | refcount table | refcount blocks | L1 | with reserve: L2 | clusters
 *
 * Refcounts have 16 bits. The refcount table has room for all that the disk can
 * need. With reserve every cluster has its place, and its space, at once.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/qcow2/qcow2.h"

#define CLUSTER (64 * KiB)
#define L1_MAX (32 * MiB) /* bytes: what others accept */
#define CHUNK (64 * KiB)

struct plan {
	struct qcow2_layout layout;
	uint64_t blocks, blocks_at, l1_clusters;
	uint64_t data, l2, l2_at, data_at; /* clusters; 0 and 0 without reserve */
	uint64_t used;                     /* clusters, from the first on */
};

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return n / by + !!(n % by);
}

static int plan_numbers(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = make->cluster ? make->cluster : CLUSTER, size = make->size;
	size_t name = make->backing ? strlen(make->backing) : 0;

	if (make->backing && !size)
		size = make->backing_size;
	if (!size || size % 512 || size > INT64_MAX - GiB)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", make->path, (unsigned long long)size);
	if (!is_pow2(cluster) || cluster < 512 || cluster > 2 * MiB)
		return td_fail(why, -EINVAL, "%s: a cluster size of %llu is not a power of 2 from "
			       "512 to 2M", make->path, (unsigned long long)cluster);
	if (make->backing && (!name || name > QCOW2_NAME_MAX ||
			      sizeof(struct qcow2_header) + 48 + name > cluster))
		return td_fail(why, -ENAMETOOLONG, "%s: the backing file's name has %zu bytes, too "
			       "many or too few", make->path, name);
	if (make->backing && (!make->backing_format || !*make->backing_format ||
			      strlen(make->backing_format) >= sizeof(layout->backing_format)))
		return td_fail(why, -EINVAL, "%s: the backing file's format must be named",
			       make->path);
	if (make->backing && make->reserve)
		return td_fail(why, -EINVAL, "%s: an overlay cannot take all space now: nothing "
			       "of its backing file would be seen", make->path);
	layout->version = 3;
	layout->cluster_bits = 63 - __builtin_clzll(cluster);
	layout->refcount_order = 4;
	layout->size = size;
	layout->l1_count = ((size - 1) >> qcow2_span_bits(layout)) + 1;
	if (layout->l1_count * 8 > L1_MAX)
		return td_fail(why, -EFBIG, "%s: a disk of %llu bytes is too large for qcow2 with "
			       "clusters of %llu", make->path, (unsigned long long)size,
			       (unsigned long long)cluster);
	return 0;
}

static void plan_places(struct plan *plan, bool reserve)
{
	struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = qcow2_cluster(layout), per_block = cluster / 2;
	uint64_t data = divide_up(layout->size, cluster), most;

	plan->l1_clusters = divide_up(layout->l1_count * 8, cluster);
	plan->data = reserve ? data : 0;
	plan->l2 = reserve ? layout->l1_count : 0;
	/* all that can be mapped, and what counts it: a little more than that */
	most = data + layout->l1_count + plan->l1_clusters + 16;
	most += most / 64 + 4 * divide_up(most, per_block);
	layout->table_clusters = divide_up(divide_up(most, per_block) * 8, cluster);
	plan->used = 1 + layout->table_clusters + plan->l1_clusters + plan->l2 + plan->data;
	do {
		plan->blocks = divide_up(plan->used + plan->blocks, per_block);
	} while (plan->blocks * per_block < plan->used + plan->blocks);
	plan->used += plan->blocks;
	layout->table_at = cluster;
	plan->blocks_at = layout->table_at + layout->table_clusters * cluster;
	layout->l1_at = plan->blocks_at + plan->blocks * cluster;
	plan->l2_at = layout->l1_at + plan->l1_clusters * cluster;
	plan->data_at = plan->l2_at + plan->l2 * cluster;
}

/* Entries of 8 bytes, of rising value. */
static int write_entries(struct td_file *file, uint64_t at, uint64_t value, uint64_t step,
			 uint64_t count)
{
	be64 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	while (!err && count) {
		uint64_t n = min_u64(count, CHUNK / 8);

		for (uint64_t i = 0; i < n; i++, value += step)
			buf[i] = to_be64(value);
		err = td_file_write(file, buf, n * 8, at);
		at += n * 8;
		count -= n;
	}
	free(buf);
	return err;
}

/* A refcount of 1 for each of count clusters. */
static int write_refcounts(struct td_file *file, uint64_t at, uint64_t count)
{
	be16 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; buf && i < CHUNK / 2; i++)
		buf[i] = to_be16(1);
	while (!err && count) {
		uint64_t n = min_u64(count, CHUNK / 2);

		err = td_file_write(file, buf, n * 2, at);
		at += n * 2;
		count -= n;
	}
	free(buf);
	return err;
}

static int write_head(struct td_file *file, const struct plan *plan, const struct td_create *make)
{
	const struct qcow2_layout *layout = &plan->layout;
	struct qcow2_header head = {
		.magic = to_be32(QCOW2_MAGIC),
		.version = to_be32(3),
		.cluster_bits = to_be32(layout->cluster_bits),
		.size = to_be64(layout->size),
		.l1_count = to_be32(layout->l1_count),
		.l1_at = to_be64(layout->l1_at),
		.table_at = to_be64(layout->table_at),
		.table_clusters = to_be32(layout->table_clusters),
		.refcount_order = to_be32(layout->refcount_order),
		.length = to_be32(sizeof(head)),
	};
	size_t len = 4096, pos = sizeof(head);
	char *buf;
	int err;

	len = min_u64(len, qcow2_cluster(layout));
	buf = calloc(1, len);
	if (!buf)
		return -ENOMEM;
	if (make->backing) {
		size_t format = strlen(make->backing_format), name = strlen(make->backing);
		be32 ext[2] = { to_be32(QCOW2_EXT_BACKING), to_be32(format) };

		memcpy(buf + pos, ext, sizeof(ext));
		memcpy(buf + pos + 8, make->backing_format, format);
		pos += 8 + round_up(format, 8) + 8; /* and the end of extensions */
		memcpy(buf + pos, make->backing, name);
		head.backing_at = to_be64(pos);
		head.backing_len = to_be32(name);
	}
	memcpy(buf, &head, sizeof(head));
	err = td_file_write(file, buf, len, 0);
	free(buf);
	return err;
}

static int write_all(struct td_file *file, const struct plan *plan, const struct td_create *make)
{
	const struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = qcow2_cluster(layout), end = plan->used * cluster;
	int err = make->reserve ? td_file_allocate(file, 0, end) : td_file_truncate(file, end);

	if (!err)
		err = write_entries(file, layout->table_at, plan->blocks_at, cluster, plan->blocks);
	if (!err)
		err = write_refcounts(file, plan->blocks_at, plan->used);
	if (!err && plan->l2)
		err = write_entries(file, layout->l1_at, plan->l2_at | QCOW2_COPIED, cluster,
				    plan->l2);
	if (!err && plan->data)
		err = write_entries(file, plan->l2_at, plan->data_at | QCOW2_COPIED, cluster,
				    plan->data);
	return err ? err : write_head(file, plan, make);
}

int qcow2_create(const struct td_create *make, struct td_why *why)
{
	struct plan plan = { 0 };
	struct td_file *file;
	int err = plan_numbers(make, &plan, why);

	if (err)
		return err;
	plan_places(&plan, make->reserve);
	err = td_file_open(make->files, make->path, TD_FILE_CREATE | TD_FILE_WRITE, &file, why);
	if (err)
		return err;
	err = write_all(file, &plan, make);
	if (!err)
		err = td_file_sync(file);
	td_file_close(file);
	if (err) {
		unlink(make->path);
		return td_fail(why, err, "%s: %s", make->path, strerror(-err));
	}
	return 0;
}

int qcow2_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	struct plan plan = { 0 };
	int err = plan_numbers(make, &plan, why);
	uint64_t cluster, tables;

	if (err)
		return err;
	plan_places(&plan, make->reserve);
	cluster = qcow2_cluster(&plan.layout);
	tables = plan.used;
	if (!make->reserve) { /* with all L2 tables and refcount blocks that can be needed */
		uint64_t most = plan.used + plan.layout.l1_count + divide_up(plan.layout.size, cluster);

		tables += plan.layout.l1_count + divide_up(most, cluster / 2) - plan.blocks;
	}
	*out = (struct td_measure){ .tables = tables * cluster,
				    .unit = make->reserve ? 0 : cluster };
	return 0;
}
