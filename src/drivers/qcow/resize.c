/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another size. The header has no length of L1: it follows from the disk's size. A
 * table that becomes longer is copied behind the end of the file first; then size and
 * place of it change by one write within the header's sector. It blocks; no request is
 * under way.
 *
 * What tables show past the end of a disk stays when that becomes smaller, and is
 * zeroed before it becomes larger again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/rule.h"
#include "drivers/qcow/qcow.h"

#define CHUNK (256 * KiB)

static uint64_t l1_count(const struct qcow *qcow, uint64_t size)
{
	return (size - 1) / qcow_span(&qcow->layout) + 1;
}

/* A copy of L1 with room for count entries, at *at. */
static int l1_copy(struct qcow *qcow, uint64_t count, uint64_t *at)
{
	uint64_t len = round_up(count * 8, qcow_cluster(&qcow->layout));
	uint64_t left = qcow->layout.l1_count * 8, n;
	AUTO_FREE void *buf = malloc(CHUNK);
	struct td_park nobody = { 0 };
	int err = buf ? td_space_find(qcow->space, &nobody, len, &len, at) : -ENOMEM;

	if (err)
		return err;
	td_space_take(qcow->space, *at, len);
	for (uint64_t pos = 0; pos < left && !err; pos += n) {
		n = min_u64(left - pos, CHUNK);
		err = td_cache_read(qcow->cache, buf, n, qcow->layout.l1_at + pos);
		if (!err)
			err = td_file_write(qcow->file, buf, n, *at + pos);
	}
	return err;
}

/* Size and place of L1 are in one sector. The cache may have it, with L1 behind. */
static int head_write(struct qcow *qcow, uint64_t size, uint64_t l1_at)
{
	struct qcow_header head;
	int err = td_rule("qcow-l1-before-header") ? td_cache_sync(qcow->cache) : 0;

	if (!err)
		err = td_file_read(qcow->file, &head, sizeof(head), 0);
	head.size = to_be64(size);
	head.l1_at = to_be64(l1_at);
	if (!err)
		err = td_file_write(qcow->file, &head, sizeof(head), 0);
	if (!err)
		err = td_file_sync(qcow->file);
	td_cache_forget(qcow->cache, 0, qcow->page);
	return err;
}

static int grow(struct qcow *qcow, uint64_t size)
{
	struct qcow_layout *layout = &qcow->layout;
	uint64_t count = l1_count(qcow, size), at = layout->l1_at;
	uint64_t shown = min_u64(size, layout->l1_count * qcow_span(layout));
	int err = td_map_zero(qcow->map, layout->size, shown);

	if (!err && count > layout->l1_count)
		err = l1_copy(qcow, count, &at);
	if (!err)
		err = head_write(qcow, size, at);
	if (err)
		return err;
	layout->l1_at = at;
	layout->l1_count = count;
	layout->size = size;
	return 0;
}

/* What lies past the end is given back as far as that can be done. */
static int shrink(struct qcow *qcow, uint64_t size)
{
	struct td_park nobody = { 0 };
	uint64_t from = round_up(size, qcow_cluster(&qcow->layout)), old = qcow->layout.size;
	struct td_spot spot;
	int err = head_write(qcow, size, qcow->layout.l1_at);

	if (err)
		return err;
	for (; from < old && !qcow_find(qcow->img, &nobody, from, old - from, &spot);
	     from += spot.len)
		if (spot.kind == TD_SPOT_DATA)
			td_file_punch(qcow->file, spot.at, spot.len);
	qcow->layout.l1_count = l1_count(qcow, size);
	qcow->layout.size = size;
	return 0;
}

static int refuse(struct qcow *qcow, uint64_t size, struct td_why *why)
{
	const char *path = td_file_path(qcow->file);
	struct td_image *below = qcow->img->below;

	if (!size || size % 512 || size > INT64_MAX - GiB)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", path, (unsigned long long)size);
	if (l1_count(qcow, size) > QCOW_L1_MAX / 8)
		return td_fail(why, -EFBIG, "%s: a disk of %llu bytes is too large for qcow with "
			       "its clusters and tables", path, (unsigned long long)size);
	if (qcow->l1_bad)
		return td_fail(why, -EINVAL, "%s: entries of its L1 table are wrong: its size "
			       "stays", path);
	if (below && !qcow->resized)
		return td_fail(why, -EINVAL, "%s: an overlay has the size of its backing file "
			       "(resized=on if another one is meant)", path);
	if (below && below->size > qcow->layout.size && size > qcow->layout.size)
		return td_fail(why, -ENOTSUP, "%s: what its backing file has past %llu bytes would "
			       "be seen: it cannot become larger", path,
			       (unsigned long long)qcow->layout.size);
	return 0;
}

int qcow_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct qcow *qcow = img->state;
	int err = refuse(qcow, size, why);

	if (err)
		return err;
	td_cache_block(qcow->cache, true);
	err = td_cache_sync(qcow->cache);
	if (!err)
		err = size > img->size ? grow(qcow, size) : shrink(qcow, size);
	td_cache_block(qcow->cache, false);
	if (err)
		return td_fail(why, err, "%s: cannot be made %llu bytes: %s",
			       td_file_path(qcow->file), (unsigned long long)size,
			       err == -ENOTSUP ? "its last cluster is compressed" : strerror(-err));
	img->size = size;
	return 0;
}
