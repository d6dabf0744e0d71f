/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image:
 *
 *     header | refcount table | refcount blocks | L1 | with places: L2 | clusters
 *
 * The refcount table has room for all that the disk can need. A LUKS header lies behind
 * all that. With the option metadata every cluster has its place at once, with reserve
 * its space too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/path.h"
#include "drivers/qcow2/qcow2.h"

#define CLUSTER (64 * KiB)
#define L1_MAX (32 * MiB) /* bytes: what others accept */
#define CHUNK (64 * KiB)

const struct td_option qcow2_create_options[] = {
	{ "compat", TD_STRING, offsetof(struct qcow2_create_options, compat),
	  "1.1 or v3: version 3; 0.10 or v2: version 2, which has none of what follows" },
	{ "refcount_bits", TD_UINT, offsetof(struct qcow2_create_options, refcount_bits),
	  "1 to 64, a power of 2: how many may share a cluster; 16" },
	{ "extended_l2", TD_BOOL, offsetof(struct qcow2_create_options, extended_l2),
	  "subclusters: a 32nd of a cluster" },
	{ "compression_type", TD_STRING, offsetof(struct qcow2_create_options, compression),
	  "zlib or zstd" },
	{ "lazy_refcounts", TD_BOOL, offsetof(struct qcow2_create_options, lazy_refcounts),
	  "others may leave refcounts to be counted anew; we do not" },
	{ "data_file", TD_STRING, offsetof(struct qcow2_create_options, data_file),
	  "data go to this new file; from the image's folder" },
	{ "data_file_raw", TD_BOOL, offsetof(struct qcow2_create_options, data_file_raw),
	  "it is a raw disk by itself" },
	{ "metadata", TD_BOOL, offsetof(struct qcow2_create_options, metadata),
	  "each cluster has its place, but no space: preallocation=metadata" },
	{ "encryption", TD_STRING, offsetof(struct qcow2_create_options, encryption),
	  "luks: data are encrypted, under the passphrase of key-file or key-fd" },
	{ "encrypt.format", TD_STRING, offsetof(struct qcow2_create_options, encryption),
	  "the same" },
	{ "iter-time", TD_STRING, offsetof(struct qcow2_create_options, iter_time),
	  "milliseconds that a passphrase is hashed, 2000; 0: for a key that is random" },
	{ "encrypt.iter-time", TD_STRING, offsetof(struct qcow2_create_options, iter_time),
	  "the same" },
	{ NULL },
};

struct plan {
	const struct td_create *make;
	struct qcow2_layout layout;
	void *luks;                        /* its header; NULL: none */
	bool places;
	uint64_t blocks, blocks_at, l1_clusters;
	uint64_t data, l2, l2_at, data_at; /* clusters; 0 and 0 without places */
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
			      sizeof(struct qcow2_header) + 72 + name > cluster))
		return td_fail(why, -ENAMETOOLONG, "%s: the backing file's name has %zu bytes, too "
			       "many or too few", make->path, name);
	if (make->backing && (!make->backing_format || !*make->backing_format ||
			      strlen(make->backing_format) >= sizeof(layout->backing_format)))
		return td_fail(why, -EINVAL, "%s: the backing file's format must be named",
			       make->path);
	if (make->backing && plan->places)
		return td_fail(why, -EINVAL, "%s: an overlay cannot take all space now: nothing "
			       "of its backing file would be seen", make->path);
	if (layout->extended && cluster < 16 * KiB)
		return td_fail(why, -EINVAL, "%s: a cluster with subclusters has 16K at least",
			       make->path);
	layout->cluster_bits = 63 - __builtin_clzll(cluster);
	layout->size = size;
	layout->l1_count = ((size - 1) >> qcow2_span_bits(layout)) + 1;
	if (layout->l1_count * 8 > L1_MAX)
		return td_fail(why, -EFBIG, "%s: a disk of %llu bytes is too large for qcow2 with "
			       "clusters of %llu", make->path, (unsigned long long)size,
			       (unsigned long long)cluster);
	return 0;
}

static bool one_of(const char *text, const char *one, const char *other)
{
	return !strcmp(text, one) || !strcmp(text, other);
}

static int plan_version(const struct td_create *make, const struct qcow2_create_options *options,
			struct qcow2_layout *layout, struct td_why *why)
{
	const char *compat = options->compat ? options->compat : "1.1";
	uint64_t bits = options->refcount_bits ? options->refcount_bits : 16;

	if (!one_of(compat, "0.10", "v2") && !one_of(compat, "1.1", "v3"))
		return td_fail(why, -EINVAL, "%s: compat can be 0.10 (or v2) or 1.1 (or v3), not %s",
			       make->path, compat);
	if (!is_pow2(bits) || bits > 64)
		return td_fail(why, -EINVAL, "%s: refcount_bits can be a power of 2 from 1 to 64, "
			       "not %llu", make->path, (unsigned long long)bits);
	layout->version = one_of(compat, "0.10", "v2") ? 2 : 3;
	layout->refcount_order = __builtin_ctzll(bits);
	if (layout->version == 2 &&
	    (bits != 16 || layout->incompatible || layout->compatible || options->encryption))
		return td_fail(why, -EINVAL, "%s: version 2 has no such image: leave out compat=%s, or "
			       "the other options", make->path, compat);
	return 0;
}

static int plan_options(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	static const struct qcow2_create_options none;
	const struct qcow2_create_options *options = make->options ? make->options : &none;
	struct qcow2_layout *layout = &plan->layout;
	const char *file = options->data_file, *type = options->compression;
	int err;

	layout->extended = options->extended_l2;
	layout->external = file;
	layout->compatible = options->lazy_refcounts ? QCOW2_LAZY : 0;
	layout->zstd = type && !strcmp(type, "zstd");
	if (type && !layout->zstd && strcmp(type, "zlib"))
		return td_fail(why, -EINVAL, "%s: compression_type can be zlib or zstd, not %s",
			       make->path, type);
	if (file && (!*file || strlen(file) > QCOW2_NAME_MAX))
		return td_fail(why, -EINVAL, "%s: the name of its data file is too short or long",
			       make->path);
	if (options->data_file_raw && (!file || make->backing))
		return td_fail(why, -EINVAL, "%s: data_file_raw needs data_file and no backing file",
			       make->path);
	if (file && layout->extended)
		return td_fail(why, -ENOTSUP, "%s: subclusters in a data file are not supported",
			       make->path);
	if (file)
		snprintf(layout->data_file, sizeof(layout->data_file), "%s", file);
	layout->autoclear = options->data_file_raw ? QCOW2_AUTOCLEAR_RAW : 0;
	layout->incompatible = (file ? QCOW2_DATA_FILE : 0) |
			       (layout->zstd ? QCOW2_COMPRESSION : 0) |
			       (layout->extended ? QCOW2_EXTENDED_L2 : 0);
	plan->places = make->reserve || options->metadata || options->data_file_raw;
	err = plan_version(make, options, layout, why);
	return err ? err : qcow2_crypt_plan(make, options, layout, why);
}

static void plan_places(struct plan *plan)
{
	struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = qcow2_cluster(layout), per_block = 1ull << qcow2_block_bits(layout);
	uint64_t data = divide_up(layout->size, cluster), most;

	plan->l1_clusters = divide_up(layout->l1_count * 8, cluster);
	data = layout->external ? 0 : data; /* are not counted */
	plan->data = plan->places ? data : 0;
	plan->l2 = plan->places ? layout->l1_count : 0;
	/* all that can be mapped, and what counts it: a little more than that */
	most = data + layout->l1_count + plan->l1_clusters + 16;
	most += most / 64 + 4 * divide_up(most, per_block);
	layout->table_clusters = divide_up(divide_up(most, per_block) * 8, cluster);
	plan->used = 1 + layout->table_clusters + plan->l1_clusters + plan->l2 + plan->data +
		     divide_up(layout->luks_len, cluster);
	do {
		plan->blocks = divide_up(plan->used + plan->blocks, per_block);
	} while (plan->blocks * per_block < plan->used + plan->blocks);
	plan->used += plan->blocks;
	layout->table_at = cluster;
	plan->blocks_at = layout->table_at + layout->table_clusters * cluster;
	layout->l1_at = plan->blocks_at + plan->blocks * cluster;
	plan->l2_at = layout->l1_at + plan->l1_clusters * cluster;
	plan->data_at = plan->l2_at + plan->l2 * cluster;
	layout->luks_at = plan->data_at + plan->data * cluster;
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

/* The disk's clusters in a row from there on. Half of an extended entry tells that all
 * of the cluster is there. Zeroes in a place would decrypt to noise: there it is a
 * cluster of zeroes that has a place. */
static int write_l2(struct td_file *file, const struct plan *plan)
{
	const struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = qcow2_cluster(layout), count = divide_up(layout->size, cluster);
	uint64_t value = layout->external ? 0 : plan->data_at, at = plan->l2_at;
	unsigned step = layout->extended ? 2 : 1;
	be64 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	while (!err && count) {
		uint64_t n = min_u64(count, CHUNK / 8 / step);

		for (uint64_t i = 0; i < n; i++, value += cluster) {
			uint64_t zero = layout->encryption && !layout->extended ? QCOW2_ZERO : 0;

			buf[i * step] = to_be64(value | QCOW2_COPIED | zero);
			if (layout->extended)
				buf[i * step + 1] = to_be64(QCOW2_SUBS << (layout->encryption ? 32 : 0));
		}
		err = td_file_write(file, buf, n * step * 8, at);
		at += n * step * 8;
		count -= n;
	}
	free(buf);
	return err;
}

/* A refcount of 1 for each of count clusters. */
static int write_refcounts(struct td_file *file, const struct qcow2_layout *layout, uint64_t at,
			   uint64_t count)
{
	unsigned order = layout->refcount_order;
	uint64_t most = CHUNK * 8 >> order;
	char *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; buf && i < most; i++)
		qcow2_ref_set(layout, buf, i, 1);
	while (!err && count) {
		uint64_t n = min_u64(count, most), bytes = divide_up(n << order, 8);

		for (uint64_t i = n; i < (bytes * 8) >> order; i++)
			qcow2_ref_set(layout, buf, i, 0); /* the rest of a byte */
		err = td_file_write(file, buf, bytes, at);
		at += bytes;
		count -= n;
	}
	free(buf);
	return err;
}

static size_t put_extension(char *buf, size_t pos, uint32_t type, const char *text)
{
	size_t len = strlen(text);
	be32 ext[2] = { to_be32(type), to_be32(len) };

	memcpy(buf + pos, ext, sizeof(ext));
	memcpy(buf + pos + sizeof(ext), text, len);
	return pos + sizeof(ext) + round_up(len, 8);
}

static size_t put_luks(char *buf, size_t pos, const struct qcow2_layout *layout)
{
	be32 ext[2] = { to_be32(QCOW2_EXT_LUKS), to_be32(16) };
	be64 where[2] = { to_be64(layout->luks_at), to_be64(layout->luks_len) };

	memcpy(buf + pos, ext, sizeof(ext));
	memcpy(buf + pos + sizeof(ext), where, sizeof(where));
	return pos + sizeof(ext) + sizeof(where);
}

static int write_head(struct td_file *file, const struct plan *plan)
{
	const struct td_create *make = plan->make;
	const struct qcow2_layout *layout = &plan->layout;
	struct qcow2_header head = {
		.magic = to_be32(QCOW2_MAGIC),
		.version = to_be32(layout->version),
		.cluster_bits = to_be32(layout->cluster_bits),
		.size = to_be64(layout->size),
		.encryption = to_be32(layout->encryption),
		.l1_count = to_be32(layout->l1_count),
		.l1_at = to_be64(layout->l1_at),
		.table_at = to_be64(layout->table_at),
		.table_clusters = to_be32(layout->table_clusters),
		.incompatible = to_be64(layout->incompatible),
		.compatible = to_be64(layout->compatible),
		.autoclear = to_be64(layout->autoclear),
		.refcount_order = to_be32(layout->refcount_order),
		.length = to_be32(sizeof(head)),
		.compression = layout->zstd,
	};
	size_t known = layout->version == 2 ? QCOW2_HEAD_V2 : sizeof(head), pos = known;
	size_t len = min_u64(4096, qcow2_cluster(layout));
	size_t name = make->backing ? strlen(make->backing) : 0;
	char *buf = calloc(1, 4096);
	int err;

	if (!buf)
		return -ENOMEM;
	if (make->backing)
		pos = put_extension(buf, pos, QCOW2_EXT_BACKING, make->backing_format);
	if (layout->external)
		pos = put_extension(buf, pos, QCOW2_EXT_DATA_FILE, layout->data_file);
	if (layout->luks_len)
		pos = put_luks(buf, pos, layout);
	pos += 8; /* the end of extensions */
	if (make->backing) {
		memcpy(buf + pos, make->backing, name);
		head.backing_at = to_be64(pos);
		head.backing_len = to_be32(name);
	}
	memcpy(buf, &head, known);
	err = pos + name > len ? -ENAMETOOLONG : td_file_write(file, buf, len, 0);
	free(buf);
	return err;
}

static int fill(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;
	const struct qcow2_layout *layout = &plan->layout;
	uint64_t cluster = qcow2_cluster(layout), end = plan->used * cluster;
	int err = plan->make->reserve ? td_file_allocate(file, 0, end) :
					td_file_truncate(file, end);

	if (!err)
		err = write_entries(file, layout->table_at, plan->blocks_at, cluster, plan->blocks);
	if (!err)
		err = write_refcounts(file, layout, plan->blocks_at, plan->used);
	if (!err && plan->l2)
		err = write_entries(file, layout->l1_at, plan->l2_at | QCOW2_COPIED, cluster,
				    plan->l2);
	if (!err && plan->l2)
		err = write_l2(file, plan);
	if (!err && plan->luks)
		err = td_file_write(file, plan->luks, layout->luks_len, layout->luks_at);
	if (!err)
		err = write_head(file, plan);
	return err;
}

/* A data file. */
static int fill_data(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;

	return plan->make->reserve ? td_file_allocate(file, 0, plan->layout.size) :
				     td_file_truncate(file, plan->layout.size);
}

int qcow2_create(const struct td_create *make, struct td_why *why)
{
	struct plan plan = { .make = make };
	char *data = NULL;
	int err = plan_options(make, &plan, why);

	if (!err)
		err = plan_numbers(make, &plan, why);
	if (!err)
		err = qcow2_crypt_make(make, make->options, &plan.layout, &plan.luks, why);
	if (err)
		return err;
	plan_places(&plan);
	if (plan.layout.external) {
		data = td_path_beside(make->path, plan.layout.data_file);
		err = data ? td_file_make(make->files, data, fill_data, &plan, why) :
			     td_fail(why, -ENOMEM, "%s: no memory", make->path);
	}
	if (!err) {
		err = td_file_make(make->files, make->path, fill, &plan, why);
		if (err && data)
			unlink(data);
	}
	free(plan.luks);
	free(data);
	return err;
}

void qcow2_unmake(const struct td_create *make)
{
	const struct qcow2_create_options *options = make->options;
	char *data = options && options->data_file ?
		     td_path_beside(make->path, options->data_file) : NULL;

	if (data)
		unlink(data);
	free(data);
}

int qcow2_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	struct plan plan = { 0 };
	int err = plan_options(make, &plan, why);
	uint64_t cluster, tables;

	if (!err)
		err = plan_numbers(make, &plan, why);
	if (err)
		return err;
	plan_places(&plan);
	cluster = qcow2_cluster(&plan.layout);
	tables = plan.used;
	if (!plan.places) { /* with all L2 tables and refcount blocks that can be needed */
		uint64_t data = plan.layout.external ? 0 : divide_up(plan.layout.size, cluster);
		uint64_t most = plan.used + plan.layout.l1_count + data;

		tables += plan.layout.l1_count - plan.blocks +
			  divide_up(most, 1ull << qcow2_block_bits(&plan.layout));
	}
	*out = (struct td_measure){ .tables = tables * cluster,
				    .unit = plan.places || plan.layout.external ? 0 : cluster };
	return 0;
}
