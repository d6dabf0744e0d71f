/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header: read, doubted, and turned into a struct qcow2_layout. What this
 * driver does not know is refused by its name, which the image may tell.
 */
#include "drivers/qcow2/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <blktap/format.h>

#define EXTENSIONS_MAX (64 * KiB)
#define FEATURE_SIZE 48
#define HEAD_SIZE 4096       /* is read at once, and has all of most headers */

static const char *const known_feature[] = {
	"dirty bit", "corrupt bit", "external data file", "compression type",
	"extended L2 entries",
};

struct reading {
	struct td_file *file;
	struct qcow2_layout *layout;
	struct td_why *why;
	char *ext;               /* extensions, and whatever follows */
	uint64_t ext_len;
	const char *features;    /* the feature name table in there */
	uint64_t features_len;
	uint64_t head_len;
	char head[HEAD_SIZE];
};

static int head_read(const struct reading *r, void *buf, size_t len, uint64_t at)
{
	if (at > r->head_len || len > r->head_len - at)
		return td_file_read(r->file, buf, len, at);
	memcpy(buf, r->head + at, len);
	return 0;
}

/* Whether [at, at + len) lies in the file, at a cluster's edge. */
static bool table_fits(const struct reading *r, uint64_t at, uint64_t len)
{
	uint64_t size = td_file_size(r->file);

	return at && is_aligned(at, qcow2_cluster(r->layout)) && at < size && len <= size - at;
}

/* The image's own name for an incompatible bit, else ours, else its number. */
static void feature_name(const struct reading *r, unsigned bit, char out[64])
{
	for (uint64_t i = 0; i + FEATURE_SIZE <= r->features_len; i += FEATURE_SIZE) {
		const char *row = r->features + i;

		if (row[0] != 0 || (uint8_t)row[1] != bit || !row[2])
			continue;
		snprintf(out, 64, "%.46s", row + 2);
		for (char *p = out; *p; p++)
			if (*p < ' ' || *p > '~')
				*p = '?';
		return;
	}
	if (bit < ARRAY_SIZE(known_feature))
		snprintf(out, 64, "%s", known_feature[bit]);
	else
		snprintf(out, 64, "incompatible bit %u", bit);
}

static int check_features(const struct reading *r)
{
	uint64_t can = QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2 |
		       QCOW2_DATA_FILE;
	uint64_t unknown = r->layout->incompatible & ~can;
	char name[64];

	if (!unknown)
		return 0;
	feature_name(r, __builtin_ctzll(unknown), name);
	return td_fail(r->why, -ENOTSUP, "%s: needs '%s', which is not supported",
		       td_file_path(r->file), name);
}

static int read_extensions(struct reading *r, uint64_t from, uint64_t end)
{
	struct qcow2_layout *layout = r->layout;
	uint64_t pos = 0;

	r->ext_len = min_u64(end - from, EXTENSIONS_MAX);
	r->ext = calloc(1, r->ext_len + 1);
	if (!r->ext || head_read(r, r->ext, r->ext_len, from))
		return td_fail(r->why, -EIO, "%s: cannot read its header", td_file_path(r->file));
	while (r->ext_len - pos >= 8) {
		uint32_t type = from_be32(*(be32 *)(r->ext + pos));
		uint32_t len = from_be32(*(be32 *)(r->ext + pos + 4));
		const char *data = r->ext + pos + 8;

		if (!type)
			break;
		if (len > r->ext_len - pos - 8)
			return td_fail(r->why, -EINVAL, "%s: a header extension of %u bytes is too "
				       "long", td_file_path(r->file), len);
		if (type == QCOW2_EXT_BACKING) {
			if (!len || len >= sizeof(layout->backing_format) || memchr(data, 0, len))
				return td_fail(r->why, -EINVAL, "%s: names no backing format that "
					       "there is", td_file_path(r->file));
			memcpy(layout->backing_format, data, len);
		} else if (type == QCOW2_EXT_DATA_FILE) {
			if (!len || len >= sizeof(layout->data_file) || memchr(data, 0, len))
				return td_fail(r->why, -EINVAL, "%s: the name of its data file, %u "
					       "bytes, cannot be", td_file_path(r->file), len);
			memcpy(layout->data_file, data, len);
		} else if (type == QCOW2_EXT_LUKS && len >= 16) {
			layout->luks_at = from_be64(*(be64 *)data);
			layout->luks_len = from_be64(*(be64 *)(data + 8));
		} else if (type == QCOW2_EXT_FEATURES) {
			r->features = data;
			r->features_len = len;
		} else if (type == QCOW2_EXT_BITMAPS && len >= 24) {
			layout->bitmaps = from_be32(*(be32 *)data);
			layout->bitmaps_len = from_be64(*(be64 *)(data + 8));
			layout->bitmaps_at = from_be64(*(be64 *)(data + 16));
		}
		pos = min_u64(pos + 8 + round_up(len, 8), r->ext_len);
	}
	return 0;
}

static int read_backing(struct reading *r, const struct qcow2_header *head)
{
	uint64_t at = from_be64(head->backing_at);
	uint32_t len = from_be32(head->backing_len);

	if (!at)
		return 0;
	if (!len || len > QCOW2_NAME_MAX || at > qcow2_cluster(r->layout) ||
	    len > qcow2_cluster(r->layout) - at)
		return td_fail(r->why, -EINVAL, "%s: the name of its backing file, %u bytes at %llu, "
			       "does not lie in the first cluster", td_file_path(r->file), len,
			       (unsigned long long)at);
	if (head_read(r, r->layout->backing, len, at))
		return td_fail(r->why, -EIO, "%s: cannot read the name of its backing file",
			       td_file_path(r->file));
	if (memchr(r->layout->backing, 0, len))
		return td_fail(r->why, -EINVAL, "%s: the name of its backing file has a NUL in it",
			       td_file_path(r->file));
	return 0;
}

static int check_tables(const struct reading *r)
{
	struct qcow2_layout *layout = r->layout;
	const char *path = td_file_path(r->file);
	unsigned span = qcow2_span_bits(layout);
	uint64_t needs = ((layout->size - 1) >> span) + 1;

	if (layout->l1_count < needs || !table_fits(r, layout->l1_at, layout->l1_count * 8))
		return td_fail(r->why, -EINVAL, "%s: its L1 table, %llu entries at %llu, cannot be",
			       path, (unsigned long long)layout->l1_count,
			       (unsigned long long)layout->l1_at);
	if (!layout->table_clusters ||
	    !table_fits(r, layout->table_at, layout->table_clusters << layout->cluster_bits))
		return td_fail(r->why, -EINVAL, "%s: its refcount table, %llu clusters at %llu, "
			       "cannot be", path, (unsigned long long)layout->table_clusters,
			       (unsigned long long)layout->table_at);
	if (layout->snapshots && !table_fits(r, layout->snapshots_at, layout->snapshots * 40))
		return td_fail(r->why, -EINVAL, "%s: its snapshot table, %llu entries at %llu, "
			       "cannot be", path, (unsigned long long)layout->snapshots,
			       (unsigned long long)layout->snapshots_at);
	if (layout->encryption != QCOW2_LUKS)
		layout->luks_at = layout->luks_len = 0;
	else if (layout->luks_len < TD_LUKS_MIN || layout->luks_len > QCOW2_LUKS_MAX ||
		 !table_fits(r, layout->luks_at, layout->luks_len))
		return td_fail(r->why, -EINVAL, "%s: its LUKS header, %llu bytes at %llu, cannot be",
			       path, (unsigned long long)layout->luks_len,
			       (unsigned long long)layout->luks_at);
	return 0;
}

static int read_numbers(struct reading *r, const struct qcow2_header *head, uint32_t *length)
{
	struct qcow2_layout *layout = r->layout;
	const char *path = td_file_path(r->file);

	layout->version = from_be32(head->version);
	if (layout->version != 2 && layout->version != 3)
		return td_fail(r->why, -ENOTSUP, "%s: qcow version %u; this driver knows 2 and 3",
			       path, layout->version);
	layout->cluster_bits = from_be32(head->cluster_bits);
	if (layout->cluster_bits < 9 || layout->cluster_bits > 21)
		return td_fail(r->why, -EINVAL, "%s: clusters of 2^%u bytes cannot be", path,
			       layout->cluster_bits);
	layout->encryption = from_be32(head->encryption);
	if (layout->encryption > QCOW2_LUKS)
		return td_fail(r->why, -ENOTSUP, "%s: is encrypted (method %u), which is not "
			       "supported", path, layout->encryption);
	layout->size = from_be64(head->size);
	if (!layout->size || layout->size > INT64_MAX - MiB)
		return td_fail(r->why, -EINVAL, "%s: a disk of %llu bytes cannot be", path,
			       (unsigned long long)layout->size);
	layout->size = round_up(layout->size, 512);
	layout->l1_count = from_be32(head->l1_count);
	layout->l1_at = from_be64(head->l1_at);
	layout->table_at = from_be64(head->table_at);
	layout->table_clusters = from_be32(head->table_clusters);
	layout->snapshots = from_be32(head->snapshots);
	layout->snapshots_at = from_be64(head->snapshots_at);
	layout->refcount_order = 4;
	*length = QCOW2_HEAD_V2;
	if (layout->version == 2)
		return 0;
	layout->incompatible = from_be64(head->incompatible);
	layout->compatible = from_be64(head->compatible);
	layout->autoclear = from_be64(head->autoclear);
	layout->refcount_order = from_be32(head->refcount_order);
	*length = from_be32(head->length);
	if (layout->refcount_order > 6)
		return td_fail(r->why, -EINVAL, "%s: refcounts of 2^%u bits cannot be", path,
			       layout->refcount_order);
	if (*length < QCOW2_HEAD_V3 || *length % 8 || *length > qcow2_cluster(layout))
		return td_fail(r->why, -EINVAL, "%s: a header of %u bytes cannot be", path, *length);
	if (*length > QCOW2_HEAD_V3 && head->compression > 1)
		return td_fail(r->why, -ENOTSUP, "%s: compression type %u is not supported", path,
			       head->compression);
	layout->extended = layout->incompatible & QCOW2_EXTENDED_L2;
	layout->external = layout->incompatible & QCOW2_DATA_FILE;
	if (layout->extended && layout->cluster_bits < 14)
		return td_fail(r->why, -EINVAL, "%s: clusters of 2^%u bytes have no subclusters",
			       path, layout->cluster_bits);
	layout->zstd = *length > QCOW2_HEAD_V3 && head->compression == 1;
	if (layout->zstd != !!(layout->incompatible & QCOW2_COMPRESSION))
		return td_fail(r->why, -EINVAL, "%s: its header contradicts itself about compression",
			       path);
	return 0;
}

int qcow2_layout_read(struct td_file *file, struct qcow2_layout *out, struct td_why *why)
{
	struct reading r = { .file = file, .layout = out, .why = why };
	const char *path = td_file_path(file);
	struct qcow2_header head = { 0 };
	uint64_t size = td_file_size(file), ext_end;
	uint32_t length = 0;
	int err;

	if (size < QCOW2_HEAD_V2)
		return td_fail(why, -EINVAL, "%s: no qcow2 image: it is too short", path);
	r.head_len = min_u64(size, HEAD_SIZE);
	err = td_file_read(file, r.head, r.head_len, 0);
	if (err)
		return td_fail(why, err, "%s: cannot read its header", path);
	memcpy(&head, r.head, min_u64(size, sizeof(head)));
	if (from_be32(head.magic) != QCOW2_MAGIC)
		return td_fail(why, -EINVAL, "%s: no qcow2 image", path);
	err = read_numbers(&r, &head, &length);
	if (err)
		return err;
	/* extensions end where the backing file's name begins, or the cluster ends */
	ext_end = qcow2_cluster(out);
	if (from_be64(head.backing_at) && from_be64(head.backing_at) < ext_end)
		ext_end = max_u64(from_be64(head.backing_at), length);
	ext_end = min_u64(ext_end, size);
	if (length < ext_end)
		err = read_extensions(&r, length, ext_end);
	if (!err)
		err = check_features(&r);
	if (!err)
		err = read_backing(&r, &head);
	if (!err)
		err = check_tables(&r);
	free(r.ext);
	return err;
}

bool qcow2_looks_like(struct td_file *file)
{
	be32 head[2];

	return td_file_size(file) >= QCOW2_HEAD_V2 && !td_file_read(file, head, sizeof(head), 0) &&
	       from_be32(head[0]) == QCOW2_MAGIC &&
	       (from_be32(head[1]) == 2 || from_be32(head[1]) == 3);
}
