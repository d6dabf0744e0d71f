/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image: the header, the backing file's name after it, and the
 * L1 table at the next 4 KiB. Clusters are 4 KiB, tables too, so that one table
 * maps 2 MiB; disks so large that L1 would pass 4 MiB get larger tables.
 *
 * With reserve, every cluster gets its place and its blocks at once: the L2
 * tables follow L1, and the disk's bytes follow them in order.
 */
#include "drivers/qcow/qcow.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER 4096
#define L1_WANTED (512 * KiB) /* entries */

struct plan {
	const struct td_create *make;
	struct qcow_layout layout;
};

static unsigned log2_of(uint64_t n)
{
	return 63 - __builtin_clzll(n);
}

const struct td_option qcow_create_options[] = {
	{ "encryption", TD_STRING, offsetof(struct qcow_create_options, encryption),
	  "aes: data are encrypted, with the key of key-file or key-fd; only with weak=on" },
	{ "encrypt.format", TD_STRING, offsetof(struct qcow_create_options, encryption),
	  "the same" },
	{ "weak", TD_BOOL, offsetof(struct qcow_create_options, weak),
	  "a weak encryption is meant: the format has no other" },
	{ NULL },
};

/* The image knows nothing of its key: none is needed to make it. */
static int plan_encryption(const struct td_create *make, struct qcow_layout *out,
			   struct td_why *why)
{
	static const struct qcow_create_options none;
	const struct qcow_create_options *options = make->options ? make->options : &none;

	if (!options->encryption)
		return !make->key ? 0 :
		       td_fail(why, -EINVAL, "%s: a key is given, and it is not to be encrypted: "
			       "say encryption=aes", make->path);
	if (strcmp(options->encryption, "aes"))
		return td_fail(why, -EINVAL, "%s: encryption can be aes, not %s", make->path,
			       options->encryption);
	if (!options->weak)
		return td_fail(why, -EINVAL, "%s: the encryption of qcow is weak: use qcow2 with "
			       "encryption=luks, or say weak=on", make->path);
	if (make->reserve)
		return td_fail(why, -EINVAL, "%s: an encrypted image cannot be reserved: its "
			       "clusters would be noise", make->path);
	out->encrypted = true;
	return 0;
}

static int plan_layout(const struct td_create *make, struct qcow_layout *out,
		       struct td_why *why)
{
	uint64_t cluster = make->cluster ? make->cluster : CLUSTER;
	uint64_t size = make->size;
	size_t name = make->backing ? strlen(make->backing) : 0;

	if (make->backing && !size)
		size = make->backing_size;
	if (!size || size % 512 || size > INT64_MAX)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", make->path, (unsigned long long)size);
	if (make->backing && make->backing_size && size != make->backing_size)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes over one of %llu: in qcow both "
			       "have one size (qcow2 has no such rule)", make->path,
			       (unsigned long long)size, (unsigned long long)make->backing_size);
	if (!is_pow2(cluster) || cluster < 512 || cluster > 64 * KiB)
		return td_fail(why, -EINVAL, "%s: a cluster size of %llu is not a power of 2 from "
			       "512 to 65536", make->path, (unsigned long long)cluster);
	if (make->backing && make->backing_format && strcmp(make->backing_format, "raw") &&
	    strcmp(make->backing_format, "aio"))
		return td_fail(why, -EINVAL, "%s: the backing file of a qcow image is a raw one, "
			       "not %s", make->path, make->backing_format);
	if (make->backing && (!name || name > QCOW_NAME_MAX))
		return td_fail(why, -ENAMETOOLONG, "%s: the backing file's name has %zu bytes (1 to "
			       "%d are allowed)", make->path, name, QCOW_NAME_MAX);
	*out = (struct qcow_layout){ .size = size, .cluster_bits = log2_of(cluster) };
	for (out->l2_bits = 9; out->l2_bits < 13; out->l2_bits++)
		if ((size - 1) / qcow_span(out) < L1_WANTED)
			break;
	out->l1_count = (size - 1) / qcow_span(out) + 1;
	if (out->l1_count > QCOW_L1_MAX / 8)
		return td_fail(why, -EFBIG, "%s: a disk of %llu bytes is too large for qcow with "
			       "clusters of %llu", make->path, (unsigned long long)size,
			       (unsigned long long)cluster);
	out->head_end = sizeof(struct qcow_header) + name;
	out->l1_at = round_up(out->head_end, 4096);
	return plan_encryption(make, out, why);
}

static int write_head(struct td_file *file, const struct qcow_layout *layout,
		      const char *backing)
{
	struct qcow_header head = {
		.magic = to_be32(QCOW_MAGIC),
		.version = to_be32(1),
		.size = to_be64(layout->size),
		.cluster_bits = layout->cluster_bits,
		.l2_bits = layout->l2_bits,
		.crypt = to_be32(layout->encrypted ? QCOW_AES : 0),
		.l1_at = to_be64(layout->l1_at),
	};
	char *buf = calloc(1, layout->l1_at);
	int err;

	if (!buf)
		return -ENOMEM;
	if (backing) {
		size_t len = strlen(backing);

		head.backing_at = to_be64(sizeof(head));
		head.backing_len = to_be32(len);
		memcpy(buf + sizeof(head), backing, len);
	}
	memcpy(buf, &head, sizeof(head));
	err = td_file_write(file, buf, layout->l1_at, 0);
	free(buf);
	return err;
}

/* Fills one table after the other with places that follow each other. */
static int write_tables(struct td_file *file, uint64_t at, uint64_t value, uint64_t step,
			uint64_t count)
{
	size_t max = 64 * KiB / sizeof(be64);
	be64 *buf = malloc(max * sizeof(be64));
	int err = buf ? 0 : -ENOMEM;

	while (!err && count) {
		size_t n = min_u64(max, count);

		for (size_t i = 0; i < n; i++, value += step)
			buf[i] = to_be64(value);
		err = td_file_write(file, buf, n * sizeof(be64), at);
		at += n * sizeof(be64);
		count -= n;
	}
	free(buf);
	return err;
}

static int reserve_all(struct td_file *file, const struct qcow_layout *layout, uint64_t l1_end)
{
	uint64_t cluster = qcow_cluster(layout);
	uint64_t clusters = (layout->size - 1) / cluster + 1;
	uint64_t l2_at = round_up(l1_end, max_u64(cluster, 4096));
	uint64_t data_at = round_up(l2_at + layout->l1_count * qcow_l2_bytes(layout),
				    max_u64(cluster, 4096));
	int err;

	err = td_file_allocate(file, td_file_size(file),
			       data_at + clusters * cluster - td_file_size(file));
	if (!err)
		err = write_tables(file, l2_at, data_at, cluster, clusters);
	if (!err)
		err = write_tables(file, layout->l1_at, l2_at, qcow_l2_bytes(layout),
				   layout->l1_count);
	return err;
}

static int fill(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;
	const struct qcow_layout *layout = &plan->layout;
	uint64_t l1_end = round_up(layout->l1_at + layout->l1_count * 8, 4096);
	int err = td_file_truncate(file, l1_end);

	if (!err)
		err = write_head(file, layout, plan->make->backing);
	if (!err && plan->make->reserve)
		err = reserve_all(file, layout, l1_end);
	return err;
}

int qcow_create(const struct td_create *make, struct td_why *why)
{
	struct plan plan = { .make = make };
	int err = plan_layout(make, &plan.layout, why);

	if (!err && make->reserve && make->backing)
		err = td_fail(why, -EINVAL, "%s: an overlay cannot be reserved: it takes what is "
			      "not written from its backing file", make->path);
	return err ? err : td_file_make(make->files, make->path, fill, &plan, why);
}

/* All tables may come to be needed; an image that stands alone maps whole runs. */
int qcow_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	struct qcow_layout layout = { 0 };
	int err = plan_layout(make, &layout, why);
	uint64_t cluster, run;

	if (err)
		return err;
	cluster = qcow_cluster(&layout);
	run = min_u64(qcow_run(&layout, qcow_page(&layout)), round_up(layout.size, cluster));
	*out = (struct td_measure){
		.tables = round_up(layout.l1_at + layout.l1_count * 8, 4096) +
			  layout.l1_count * qcow_l2_bytes(&layout),
		.unit = make->backing || layout.encrypted ? cluster : run,
	};
	return 0;
}
