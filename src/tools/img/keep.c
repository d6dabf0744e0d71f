/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeping what an image takes from below, see keep.h. The image is asked, range by range,
 * what it does not hold itself: of one that stands alone, its zeroes, as holes will show
 * what is put below it. That is cut into chunks, many of them under way at a time:
 *
 *   idle -> the image and the other one are read -> what differs is written, piece by
 *   piece -> idle
 *
 * Requests that end only count down; turn() does what comes next.
 */
#include "tools/img/keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "core/queue.h"
#include "io/loop.h"
#include "tools/progress.h"

#define CHUNK (1 * MiB)
#define SLOTS 16
#define ASK_MAX GiB
#define BLOCK 4096

struct keep;

struct slot {
	struct keep *keep;
	char *old, *new;
	struct iovec old_iov, new_iov;
	uint64_t at, len;
	uint64_t pos;       /* what lies before it has been compared */
	bool busy;
	unsigned waits;     /* requests */
};

struct keep {
	struct img_disk *img, *other;
	struct td_loop *loop;
	struct td_pool *img_pool, *other_pool;
	struct slot slot[SLOTS];
	uint64_t written;
	int err;
	struct progress progress;
};

static struct slot **slot_of(struct td_req *req)
{
	return td_req_user(req);
}

static void ended(struct td_pool *pool, struct td_req *req)
{
	struct slot *slot = *slot_of(req);

	slot->waits--;
	if (req->err && !slot->keep->err)
		slot->keep->err = req->err;
	td_pool_put(pool, req);
}

static void img_done(struct td_req *req)
{
	ended((*slot_of(req))->keep->img_pool, req);
}

static void other_done(struct td_req *req)
{
	ended((*slot_of(req))->keep->other_pool, req);
}

static void send(struct td_pool *pool, struct slot *slot, enum td_op op, uint64_t at,
		 struct iovec *iov, char *buf, uint64_t len)
{
	struct td_req *req = td_pool_get(pool);

	*slot_of(req) = slot;
	*iov = (struct iovec){ buf, len };
	req->op = op;
	req->offset = at;
	req->len = len;
	req->iov = iov;
	req->iov_count = 1;
	slot->waits++;
	td_submit(req);
}

static uint64_t other_size(const struct keep *keep)
{
	return keep->other ? td_disk_size(keep->other->disk) : 0;
}

static void slot_read(struct slot *slot, uint64_t at, uint64_t len)
{
	struct keep *keep = slot->keep;
	uint64_t size = other_size(keep), n = at < size ? min_u64(len, size - at) : 0;

	slot->busy = true;
	slot->at = at;
	slot->len = len;
	slot->pos = 0;
	memset(slot->new + n, 0, len - n);
	send(keep->img_pool, slot, TD_READ, at, &slot->old_iov, slot->old, len);
	if (n)
		send(keep->other_pool, slot, TD_READ, at, &slot->new_iov, slot->new, n);
}

/* From pos on, by blocks, as long as all are the same or all differ. */
static uint64_t run(const struct slot *slot, bool *same)
{
	uint64_t end = slot->pos, n;

	while (end < slot->len) {
		n = min_u64(BLOCK, slot->len - end);
		bool is = !memcmp(slot->old + end, slot->new + end, n);
		if (end == slot->pos)
			*same = is;
		if (is != *same)
			break;
		end += n;
	}
	return end - slot->pos;
}

static void slot_write(struct slot *slot)
{
	struct keep *keep = slot->keep;

	while (slot->pos < slot->len && !slot->waits && !keep->err) {
		bool same = true;
		uint64_t len = run(slot, &same);

		if (!same) {
			send(keep->img_pool, slot, TD_WRITE, slot->at + slot->pos, &slot->old_iov,
			     slot->old + slot->pos, len);
			keep->written += len;
		}
		slot->pos += len;
	}
	slot->busy = slot->waits > 0;
}

/* Whether any is still busy; *idle: one that is not. */
static bool turn(struct keep *keep, struct slot **idle)
{
	bool busy = false;

	*idle = NULL;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *slot = &keep->slot[i];

		if (slot->busy && !slot->waits)
			slot_write(slot);
		busy |= slot->busy;
		if (!slot->busy)
			*idle = slot;
	}
	return busy;
}

static struct slot *slot_get(struct keep *keep)
{
	struct slot *idle;

	turn(keep, &idle);
	while (!idle) {
		td_loop_turn(keep->loop, -1);
		turn(keep, &idle);
	}
	return idle;
}

static void drain(struct keep *keep)
{
	struct slot *idle;

	while (turn(keep, &idle))
		td_loop_turn(keep->loop, -1);
}

/* A range that the image does not hold itself. */
static void keep_range(struct keep *keep, uint64_t at, uint64_t end)
{
	while (!keep->err && at < end && !tool_stopped) {
		uint64_t len = min_u64(CHUNK, end - at);

		slot_read(slot_get(keep), at, len);
		at += len;
		progress_at(&keep->progress, at);
	}
}

/* How far from at the other one reads as zeroes. */
static int zero_in_other(struct keep *keep, uint64_t at, uint64_t len, uint64_t *out)
{
	uint64_t size = other_size(keep);
	struct td_extent extent;
	int err;

	*out = len;
	if (at >= size)
		return 0;
	err = img_extent(keep->other, at, min_u64(len, size - at), &extent);
	*out = !err && extent.flags & TD_EXTENT_ZERO ? extent.len : 0;
	return err;
}

/* Whether the image reads so whatever lies below it. */
static bool holds(const struct keep *keep, unsigned flags)
{
	bool alone = !td_disk_top(keep->img->disk)->below;

	return !td_extent_depth(flags) && !(alone && flags & TD_EXTENT_ZERO);
}

static int walk(struct keep *keep)
{
	uint64_t size = td_disk_size(keep->img->disk), zero = 0;
	struct td_extent extent;
	int err = 0;

	for (uint64_t at = 0; !err && !keep->err && at < size && !tool_stopped; at += extent.len) {
		progress_at(&keep->progress, at);
		err = img_extent(keep->img, at, min_u64(size - at, ASK_MAX), &extent);
		if (err || holds(keep, extent.flags))
			continue;
		if (extent.flags & TD_EXTENT_ZERO) {
			err = zero_in_other(keep, at, extent.len, &zero);
			if (!err && zero) {
				extent.len = zero;
				continue;
			}
		}
		if (!err)
			keep_range(keep, at, at + extent.len);
	}
	drain(keep);
	if (!err)
		err = keep->err;
	return err ? err : img_do(keep->img, TD_FLUSH, 0, 0, 0, NULL, NULL);
}

static int pools(struct keep *keep)
{
	int err = td_pool_new(td_disk_queue(keep->img->disk), SLOTS, sizeof(struct slot *),
			      img_done, &keep->img_pool);

	if (err || !keep->other)
		return err;
	return td_pool_new(td_disk_queue(keep->other->disk), SLOTS, sizeof(struct slot *),
			   other_done, &keep->other_pool);
}

int keep_content(struct img_disk *img, struct img_disk *other, bool quiet, uint64_t *written)
{
	AUTO_FREE struct keep *keep = calloc(1, sizeof(*keep));
	AUTO_FREE char *memory = aligned_alloc(4096, 2 * SLOTS * CHUNK);
	int err;

	if (!keep || !memory)
		return -ENOMEM;
	keep->img = img;
	keep->other = other;
	keep->loop = td_queue_loop(td_disk_queue(img->disk));
	for (unsigned i = 0; i < SLOTS; i++)
		keep->slot[i] = (struct slot){ .keep = keep, .old = memory + 2 * i * CHUNK,
					       .new = memory + (2 * i + 1) * CHUNK };
	progress_begin(&keep->progress, name_path(&img->name), td_disk_size(img->disk), quiet);
	err = pools(keep);
	if (!err)
		err = walk(keep);
	progress_end(&keep->progress, err ? "failed" : "done");
	td_pool_free(keep->img_pool);
	td_pool_free(keep->other_pool);
	*written = keep->written;
	return err;
}
