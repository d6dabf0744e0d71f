/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the image as a whole: its size. They block; no request is under way.
 * What the header names is durable before the header changes, by one write within a
 * sector. header.c has the name of the backing file.
 */
#include <stdlib.h>
#include <string.h>

#include "base/rule.h"
#include "drivers/qcow2/qcow2.h"

int qcow2_take_run(struct qcow2 *q, uint64_t bytes, uint64_t *at)
{
	struct td_park nobody = { 0 };
	uint64_t cluster = qcow2_cluster(&q->layout), needs = round_up(bytes, cluster);
	uint64_t first = 0, has = 0;

	/* a new block of refcounts would always come between: see block_new() */
	if (needs >> q->layout.cluster_bits >= 1ull << qcow2_block_bits(&q->layout))
		return -EFBIG;
	while (has < needs) {
		uint64_t len = needs - has, next;
		int err = td_cache_room(q->cache, &nobody);

		if (!err)
			err = qcow2_take(q, &nobody, &len, &next);
		if (err) {
			qcow2_give_run(q, first, has);
			return err;
		}
		if (has && next != first + has) { /* something came between: begin anew */
			qcow2_give_run(q, first, has);
			has = 0;
		}
		if (!has)
			first = next;
		has += len;
	}
	*at = first;
	return 0;
}

void qcow2_give_run(struct qcow2 *q, uint64_t at, uint64_t bytes)
{
	struct td_park nobody = { 0 };
	uint64_t cluster = qcow2_cluster(&q->layout), left;

	for (uint64_t pos = 0; pos < bytes; pos += cluster)
		if (!td_cache_room(q->cache, &nobody) &&
		    !qcow2_ref_add(q, &nobody, at + pos, -1, &left) && !left) {
			td_cache_forget(q->cache, at + pos, cluster);
			td_file_punch(q->file, at + pos, cluster);
		}
}

/* The cache may have the page: nothing in it is dirty. */
int qcow2_head_write(struct qcow2 *q, const void *part, size_t len, size_t at)
{
	int err = td_rule("qcow2-shown-before-header") ? td_cache_sync(q->cache) : 0;

	if (!err)
		err = td_file_write(q->file, part, len, at);
	if (!err)
		err = td_file_sync(q->file);
	td_cache_forget(q->cache, 0, q->page);
	return err;
}

int qcow2_l1_copy(struct qcow2 *q, uint64_t from, uint64_t has, uint64_t count, bool shared,
		  uint64_t *at)
{
	be64 *l1 = calloc(count, sizeof(*l1));
	int err = l1 ? qcow2_take_run(q, count * 8, at) : -ENOMEM;

	if (!err)
		err = td_cache_read(q->cache, l1, min_u64(has, count) * 8, from);
	for (uint64_t i = 0; !err && shared && i < count; i++)
		l1[i] = to_be64(from_be64(l1[i]) & ~QCOW2_COPIED);
	if (!err)
		err = td_file_write(q->file, l1, count * 8, *at);
	td_cache_data(q->cache);
	free(l1);
	return err;
}

/* ---- size --------------------------------------------------------------------------- */

static void nothing(struct td_park *park, int err)
{
}

/* Entries for offset can be changed. A table that had to be copied is there then. */
static int ready_now(struct qcow2 *q, uint64_t offset, uint64_t *len)
{
	struct td_park nobody = { .go = nothing };
	int err = td_cache_room(q->cache, &nobody);

	if (!err)
		err = qcow2_ready(q->img, &nobody, offset, len);
	if (err != TD_PARKED)
		return err;
	err = qcow2_ready(q->img, &nobody, offset, len);
	return err == TD_PARKED ? -EIO : err;
}

/* Clusters [from, to) read as zeroes, and take no space. */
static int forget_range(struct qcow2 *q, uint64_t from, uint64_t to, bool zero)
{
	struct td_park nobody = { 0 };
	uint64_t cluster = qcow2_cluster(&q->layout);
	int err = 0;

	for (uint64_t n; from < to && !err; from += n) {
		struct td_spot spot;

		err = td_cache_room(q->cache, &nobody);
		if (!err)
			err = qcow2_find(q->img, &nobody, from, to - from, &spot);
		/* a hole may end within a cluster, at a subcluster with data */
		n = err || spot.kind != TD_SPOT_HOLE || zero ? 0 : round_down(spot.len, cluster);
		if (err || n)
			continue;
		n = min_u64(min_u64(round_up(spot.len, cluster), to - from), 256 * cluster);
		err = ready_now(q, from, &n);
		if (!err)
			err = qcow2_clear(q->img, from, n, zero);
	}
	return err;
}

/* The content of a cluster: of its place or, if it is compressed, of the spot. */
static int cluster_read(struct qcow2 *q, uint64_t host, const struct td_spot *spot, char *buf)
{
	uint64_t from = round_down(spot->at, 512);
	char *packed;
	int err;

	if (spot->kind != TD_SPOT_PACKED)
		return td_file_read(q->file, buf, qcow2_cluster(&q->layout), host);
	packed = malloc(spot->packed + 1024);
	err = packed ? td_file_read(q->file, packed, spot->packed + 512, from) : -ENOMEM;
	if (!err)
		err = qcow2_unpack(q->img, packed + spot->at % 512, spot->packed, buf);
	free(packed);
	return err;
}

/* A cluster that a snapshot has too, or that is compressed: a copy, with zeroes from
 * there on, takes its place. */
static int tail_copy(struct qcow2 *q, uint64_t from, uint64_t to)
{
	struct td_park nobody = { 0 };
	uint64_t cluster = qcow2_cluster(&q->layout), start = to - cluster, len = cluster, at;
	char *buf = calloc(1, cluster);
	struct td_spot spot;
	be64 *entry;
	int err = buf ? ready_now(q, start, &len) : -ENOMEM;

	if (!err)
		err = qcow2_find(q->img, &nobody, start, cluster, &spot);
	entry = err ? NULL : qcow2_entry_ready(q, start);
	if (!err)
		err = entry ? cluster_read(q, from_be64(*entry) & QCOW2_HOST, &spot, buf) : -EIO;
	if (!err && spot.kind != TD_SPOT_PACKED)
		err = qcow2_recrypt(q, buf, from_be64(*entry) & QCOW2_HOST, 0);
	if (!err)
		err = qcow2_take_run(q, cluster, &at);
	if (!err) {
		memset(buf + (from - start), 0, to - from);
		err = qcow2_recrypt(q, buf, 0, at);
		if (!err)
			err = td_file_write(q->file, buf, cluster, at);
		td_cache_data(q->cache);
	}
	if (!err)
		err = ready_now(q, start, &len);
	if (!err && q->layout.extended && spot.kind != TD_SPOT_PACKED)
		qcow2_sub_move(q, start, at);
	else if (!err)
		err = qcow2_set(q->img, start, cluster, at);
	free(buf);
	return err;
}

static int zeroes_write(struct qcow2 *q, uint64_t at, uint64_t len)
{
	char *zeroes = calloc(1, len);
	int err = zeroes ? 0 : -ENOMEM;

	if (!err && q->crypt)
		err = td_crypt_encrypt(q->crypt, at / TD_CRYPT_SECTOR, zeroes, len);
	if (!err)
		err = td_file_write(q->data ? q->data : q->file, zeroes, len, at);
	free(zeroes);
	return err;
}

/* What the last cluster has past the end of the disk would be seen. */
static int zero_tail(struct qcow2 *q, uint64_t from, uint64_t to)
{
	struct td_park nobody = { 0 };
	int err = 0;

	for (uint64_t pos = from, n; pos < to && !err; pos += n) {
		struct td_spot spot;

		err = qcow2_find(q->img, &nobody, pos, to - pos, &spot);
		if (err)
			return err;
		n = min_u64(spot.len, to - pos);
		if (spot.kind == TD_SPOT_DATA)
			err = zeroes_write(q, spot.at, n);
		else if (spot.kind == TD_SPOT_SHARED || spot.kind == TD_SPOT_PACKED)
			return tail_copy(q, from, to);
	}
	return err;
}

/* Subclusters of the last cluster, which has a place, that are the backing file's. */
static int hide_tail(struct qcow2 *q, uint64_t from, uint64_t to)
{
	struct td_park nobody = { 0 };
	int err = 0;

	for (uint64_t pos = from, n; pos < to && !err; pos += n) {
		struct td_spot spot;

		err = qcow2_find(q->img, &nobody, pos, to - pos, &spot);
		n = err ? 0 : min_u64(spot.len, to - pos);
		if (err || spot.kind != TD_SPOT_HOLE)
			continue;
		if (!spot.placed)
			return -ENOTSUP;
		err = zeroes_write(q, spot.at, n);
		td_cache_data(q->cache);
		if (!err)
			err = ready_now(q, pos, &n);
		if (!err)
			err = qcow2_set(q->img, pos, n, spot.at);
	}
	return err;
}

/* The header names tables for the larger of both, and says size. */
static int grow_tables(struct qcow2 *q, uint64_t size, uint64_t tables_for)
{
	struct qcow2_layout *layout = &q->layout;
	uint64_t count = ((tables_for - 1) >> qcow2_span_bits(layout)) + 1, at = layout->l1_at;
	uint64_t old_at = at, old_count = layout->l1_count;
	struct { be64 size; be32 encryption, l1_count; be64 l1_at; } head;
	int err = 0;

	count = max_u64(count, old_count);
	if (count > UINT32_MAX)
		return -EFBIG;
	if (count != old_count)
		err = qcow2_l1_copy(q, old_at, old_count, count, false, &at);
	if (err)
		return err;
	head.size = to_be64(size);
	head.encryption = to_be32(layout->encryption);
	head.l1_count = to_be32(count);
	head.l1_at = to_be64(at);
	err = qcow2_head_write(q, &head, sizeof(head), offsetof(struct qcow2_header, size));
	if (err)
		return err;
	layout->l1_at = at;
	layout->l1_count = count;
	if (at != old_at)
		qcow2_give_run(q, old_at, old_count * 8);
	return 0;
}

/* A data file that is a disk by itself is as long as that. */
static int raw_resize(struct qcow2 *q, uint64_t size)
{
	if (!(q->layout.autoclear & QCOW2_AUTOCLEAR_RAW) || td_file_is_device(q->data))
		return 0;
	return td_file_truncate(q->data, size);
}

static int resize(struct qcow2 *q, uint64_t size)
{
	uint64_t cluster = qcow2_cluster(&q->layout), old = q->layout.size;
	uint64_t from = min_u64(size, old), whole = round_up(from, cluster);
	uint64_t below = q->img->below ? q->img->below->size : 0;
	int err = 0;

	if (from < whole)
		err = zero_tail(q, from, whole);
	if (!err && from < whole && size > old && below > old)
		err = hide_tail(q, from, whole);
	if (!err && size < old) { /* L1 stays as long as it is */
		err = grow_tables(q, size, size);
		if (!err)
			err = forget_range(q, whole, round_up(old, cluster), false);
		return err ? err : raw_resize(q, size);
	}
	if (!err)
		err = raw_resize(q, size);
	if (!err && below > whole) { /* hidden before it could be seen */
		err = grow_tables(q, old, size);
		if (!err)
			err = forget_range(q, whole, round_up(min_u64(below, size), cluster), true);
	}
	return err ? err : grow_tables(q, size, size);
}

/* Nothing from below, behind the end of the disk, would come to be seen in its last
 * cluster. */
static bool holds_end(struct qcow2 *q, uint64_t size)
{
	const struct td_image *below = q->img->below;
	struct td_park nobody = { 0 };
	uint64_t end = q->layout.size;
	struct td_spot spot;

	return size <= end || !below || below->size <= end || end % qcow2_cluster(&q->layout) == 0 ||
	       (!qcow2_find(q->img, &nobody, end - 512, 512, &spot) && spot.kind != TD_SPOT_HOLE);
}

int qcow2_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct qcow2 *q = img->state;
	const char *path = td_file_path(q->file);
	int err;

	if (!size || size % 512 || size > INT64_MAX - GiB)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", path, (unsigned long long)size);
	if (q->layout.snapshots && q->layout.version < 3)
		return td_fail(why, -ENOTSUP, "%s: of version 2, has snapshots, which do not know "
			       "their size: it must stay as it is", path);
	if (img->encrypted && !q->crypt)
		return td_fail(why, -ENOKEY, "%s: is encrypted: its size changes only with its key",
			       path);
	if (size > img->size && img->below && img->below->size > img->size && q->layout.version < 3)
		return td_fail(why, -ENOTSUP, "%s: its backing file is larger than it is, and more of "
			       "that would be seen: version 2 has no clusters of zeroes to hide it", path);
	td_cache_block(q->cache, true);
	err = holds_end(q, size) ? 0 : td_fail(why, -ENOTSUP, "%s: its backing file is larger than it "
		"is, and its last cluster is the backing file's: write to that first", path);
	if (err) {
		td_cache_block(q->cache, false);
		return err;
	}
	err = qcow2_bitmaps_take_all(q);
	if (!err)
		err = resize(q, size);
	if (!err)
		err = td_cache_sync(q->cache);
	if (!err)
		err = qcow2_bitmaps_resize(q, q->layout.size, size);
	td_cache_block(q->cache, false);
	if (err)
		return td_fail(why, err, "%s: cannot be made %llu bytes: %s", path,
			       (unsigned long long)size, strerror(-err));
	q->layout.size = img->size = size;
	return 0;
}
