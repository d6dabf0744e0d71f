/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A transport's requests: checked, given to the top image, counted.
 *
 *   td_submit -> root_check -> image_submit -> (driver) -> td_end ... -> root_ended
 *             -> maybe more: zeroes still to write, a flush for FUA -> done()
 *
 * All between td_submit() and done() may happen on the home queue.
 */
#include <errno.h>

#include "core/core_impl.h"
#include "core/trace.h"

static int root_check(const struct td_disk *disk, const struct td_req *req)
{
	const struct td_image *img = &disk->top->img;
	uint32_t can = td_disk_can(disk);

	if (disk->options.keyless && disk->encrypted && req->op != TD_FLUSH &&
	    req->op != TD_EXTENTS)
		return -ENOKEY;
	if (req->op == TD_FLUSH)
		return req->offset || req->len ? -EINVAL : 0;
	if (!req->len || !is_aligned(req->offset | req->len, img->block_size) ||
	    req->offset > img->size || req->len > img->size - req->offset)
		return -EINVAL;
	if (req->iov_count > TD_IOV_MAX)
		return -EINVAL;
	if (req->op == TD_READ || req->op == TD_EXTENTS)
		return 0;
	if (img->read_only)
		return -EROFS;
	if (req->op == TD_DISCARD && !(can & TD_CAN_DISCARD))
		return -EOPNOTSUPP;
	if (req->flags & TD_COMPRESS && !(can & TD_CAN_COMPRESS))
		return -EOPNOTSUPP;
	return 0;
}

static void root_finish(struct td_slot *slot);

static void root_came_back(struct td_post *post)
{
	struct td_slot *slot = container_of(post, struct td_slot, post);

	slot->req.queue = slot->pool->queue;
	root_finish(slot);
}

static void root_finish(struct td_slot *slot)
{
	struct td_queue *queue = slot->pool->queue;

	if (slot->req.queue != queue) {
		slot->post.run = root_came_back;
		td_loop_post(queue->loop, &slot->post);
		return;
	}
	slot->req.op = slot->asked.op;
	slot->req.flags = slot->asked.flags;
	slot->req.offset = slot->asked.offset;
	slot->req.len = slot->asked.len;
	slot->req.iov = slot->asked.iov;
	slot->req.iov_count = slot->asked.iov_count;
	slot->shares = 1;
	count_add(&queue->counts[slot->asked.op].requests, 1);
	count_add(&queue->counts[slot->asked.op].bytes, slot->req.len);
	count_add(&queue->counts[slot->asked.op].errors, slot->req.err != 0);
	count_add(&queue->in_flight, -1);
	trace_done(&slot->req);
	slot->pool->done(&slot->req);
	if (queue->held)
		queue_ended_one(queue);
}

/* As much of what is left to zero as one write takes: whole pieces, or the end. */
static void root_aim_zeroes(struct td_slot *slot)
{
	struct td_disk *disk = slot->req.queue->disk;
	struct td_req *req = &slot->req;
	uint64_t piece = disk->zero_iov[0].iov_len;
	uint64_t pieces = min_u64(slot->zero_left / piece, ARRAY_SIZE(disk->zero_iov));

	req->op = TD_WRITE;
	req->flags = 0;
	req->offset = slot->asked.offset + slot->asked.len - slot->zero_left;
	if (pieces) {
		req->len = pieces * piece;
		req->iov = disk->zero_iov;
		req->iov_count = pieces;
	} else {
		req->len = slot->zero_left;
		slot->one = (struct iovec){ disk->zeroes, req->len };
		req->iov = &slot->one;
		req->iov_count = 1;
	}
	slot->zero_left -= req->len;
}

/* WRITE_ZEROES for a driver without: one write after the other. A share of our
 * own keeps one that ends at once from starting the next within itself. */
static void root_send_zeroes(struct td_slot *slot)
{
	while (slot->zero_left && !slot->req.err) {
		root_aim_zeroes(slot);
		slot->shares = 2;
		image_submit(&slot->req.queue->disk->top->img, &slot->req);
		if (--slot->shares)
			return; /* td_end() comes back to root_ended() */
	}
	root_ended(slot);
}

static void root_send_flush(struct td_slot *slot)
{
	slot->flush_after = false;
	slot->req.op = TD_FLUSH;
	slot->req.flags = 0;
	slot->req.offset = slot->req.len = 0;
	slot->req.iov = NULL;
	slot->req.iov_count = 0;
	image_submit(&slot->req.queue->disk->top->img, &slot->req);
}

/* Drivers answer as exactly as they know: a server may say that there are zeroes from
 * byte 1000 on. Who asked goes on from there, and can do so at sectors only. One of which
 * only a part is known counts as data. */
static void root_round_extent(struct td_slot *slot)
{
	struct td_extent *extent = &slot->req.extent;
	uint32_t sector = slot->req.queue->disk->top->img.block_size;

	if (extent->len >= slot->asked.len || is_aligned(extent->len, sector))
		return;
	if (extent->len < sector)
		*extent = (struct td_extent){
			.len = sector,
			.flags = extent->flags & ~(unsigned)(TD_EXTENT_HOLE | TD_EXTENT_ZERO),
		};
	extent->len = round_down(extent->len, sector);
}

void root_ended(struct td_slot *slot)
{
	slot->shares = 1;
	if (!slot->req.err && slot->asked.op == TD_EXTENTS)
		root_round_extent(slot);
	if (!slot->req.err && slot->zero_left)
		root_send_zeroes(slot);
	else if (!slot->req.err && slot->flush_after)
		root_send_flush(slot);
	else
		root_finish(slot);
}

static void root_start(struct td_slot *slot)
{
	struct td_req *req = &slot->req;
	struct td_image *img = &req->queue->disk->top->img;

	if (req->flags & TD_FUA &&
	    (req->op != TD_WRITE || !(img->can & TD_CAN_FUA))) {
		req->flags &= ~TD_FUA;
		slot->flush_after = req->op == TD_WRITE || req->op == TD_WRITE_ZEROES;
	}
	if (req->op == TD_WRITE_ZEROES && !(img->can & TD_CAN_WRITE_ZEROES)) {
		slot->zero_left = req->len;
		root_send_zeroes(slot);
		return;
	}
	image_submit(img, req);
}

static void root_came_home(struct td_post *post)
{
	struct td_slot *slot = container_of(post, struct td_slot, post);

	slot->req.queue = td_disk_queue(slot->req.queue->disk);
	root_start(slot);
}

void root_submit(struct td_req *req)
{
	struct td_disk *disk = req->queue->disk;
	struct td_image *img = &disk->top->img;
	struct td_slot *slot = slot_of(req);

	slot->asked = *req;
	slot->zero_left = 0;
	slot->flush_after = false;
	req->err = root_check(disk, req);
	count_add(&req->queue->in_flight, 1);
	trace_begin(req);
	if (req->err || (req->op == TD_FLUSH && img->read_only)) {
		root_finish(slot);
	} else if (req->op == TD_EXTENTS && !(img->can & TD_CAN_EXTENTS)) {
		req->extent = (struct td_extent){ .len = req->len };
		root_finish(slot);
	} else if (!lives_elsewhere(img, req)) {
		root_start(slot);
	} else if (!image_submit_away(img, req)) {
		slot->post.run = root_came_home;
		td_loop_post(disk->loop, &slot->post);
	}
}

void td_submit(struct td_req *req)
{
	struct td_queue *queue = req->queue;

	if (__builtin_expect(queue->held, 0))
		list_add(&queue->parked, &slot_of(req)->link);
	else
		root_submit(req);
}
