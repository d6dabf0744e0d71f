/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request among drivers: it is given to one, passed on, done on a file, shared
 * out to children, and ends with its last share.
 *
 * Children come from one pool per image, so a request waits only for what requests
 * deeper in the chain hold, and those can always finish. Requests that wait for a
 * child are called again from a deferred call, never from within the td_end() that
 * freed one.
 *
 * A request is on one queue at a time. When an image below lives at home, and the
 * request is not there, it is sent; what it has come to is told where it came from.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/core_impl.h"
#include "core/trace.h"

/* ---- to a driver, and to files -------------------------------------------- */

void image_submit(struct td_image *img, struct td_req *req)
{
	req->image = img;
	memset(td_scratch(img, req), 0, img->driver->req_size);
	if (req->op == TD_EXTENTS)
		req->extent = (struct td_extent){ 0 };
	trace_submit(req);
	img->driver->submit(req->queue, img, req);
}

bool image_submit_away(struct td_image *img, struct td_req *req)
{
	if (!img->driver->submit_away || req->flags ||
	    (req->op != TD_READ && req->op != TD_WRITE))
		return false;
	req->image = img;
	memset(td_scratch(img, req), 0, img->driver->req_size);
	return img->driver->submit_away(req->queue, img, req);
}

bool td_req_was_sent(const struct td_req *req)
{
	const struct td_slot *slot = slot_of(req);

	return slot->from || (slot->pool && slot->pool->queue != req->queue);
}

static void came_home(struct td_post *post)
{
	struct td_slot *slot = container_of(post, struct td_slot, post);

	slot->req.queue = slot->req.image->queue;
	image_submit(slot->req.image, &slot->req);
}

static void submit_below(struct td_image *img, struct td_req *req)
{
	struct td_slot *slot = slot_of(req);

	if (req->op == TD_EXTENTS && !(img->can & TD_CAN_EXTENTS)) { /* data, for all it knows */
		req->extent = (struct td_extent){ .len = req->len };
		td_end(req, 0);
		return;
	}
	if (!lives_elsewhere(img, req)) {
		image_submit(img, req);
		return;
	}
	if (image_submit_away(img, req))
		return;
	req->image = img;
	slot->from = req->queue;
	slot->post.run = came_home;
	td_loop_post(img->queue->loop, &slot->post);
}

/* The driver may look at its request again when the images below are done. */
static void remember(struct td_slot *slot)
{
	if (slot->passed)
		return;
	slot->passed = true;
	slot->depth = 0;
	slot->offset = slot->req.offset;
	slot->len = slot->req.len;
	slot->iov = slot->req.iov;
	slot->iov_count = slot->req.iov_count;
	slot->image = slot->req.image;
}

static void restore(struct td_slot *slot)
{
	if (!slot->passed)
		return;
	slot->passed = false;
	slot->req.offset = slot->offset;
	slot->req.len = slot->len;
	slot->req.iov = slot->iov;
	slot->req.iov_count = slot->iov_count;
	slot->req.image = slot->image;
	slot->req.extent.flags += slot->depth * TD_EXTENT_BELOW;
}

static void nothing_below(struct td_req *req)
{
	if (req->op == TD_READ)
		td_req_zero(req, 0, req->len);
	else
		req->extent = (struct td_extent){
			.len = req->len,
			.flags = TD_EXTENT_HOLE | TD_EXTENT_ZERO |
				 (req->image->below ? TD_EXTENT_BELOW : 0),
		};
	td_end(req, 0);
}

/* The rest lies past the end of the image below. */
static void cut_short(struct td_req *req, uint64_t len)
{
	struct td_slot *slot = slot_of(req);

	if (req->op == TD_READ) {
		td_req_zero(req, len, req->len - len);
		req->iov_count = iov_cut(slot->passing, TD_IOV_MAX, req->iov, 0, len);
		req->iov = slot->passing;
	}
	req->len = len;
}

/* Whether the image would only pass on what is there, too: then it need not have the
 * request at all, which is what a long chain costs. */
static bool passes(struct td_image *img, const struct td_req *req, uint64_t offset, uint64_t len)
{
	return req->op == TD_READ && img->driver->is_hole && !lives_elsewhere(img, req) &&
	       img->driver->is_hole(img, offset, len);
}

/* What is known of the block that a read of the top lies in; of the home queue. */
static struct skip *skip_of(const struct td_req *req)
{
	struct td_disk *disk = req->queue->disk;
	uint64_t block = req->offset / TD_SKIP_BLOCK;
	struct skip *skip;

	if (disk->images < TD_SKIP_IMAGES || req->op != TD_READ || req->image != &disk->top->img ||
	    req->queue->index || (req->offset + req->len - 1) / TD_SKIP_BLOCK != block)
		return NULL;
	skip = &disk->skips[block % TD_SKIPS];
	if (skip->block != block + 1)
		*skip = (struct skip){ .block = block + 1, .to = req->image->below };
	return skip;
}

/* Nobody needs to look at img for this block any more. */
static bool skips(struct skip *skip, struct td_image *img, const struct td_req *req)
{
	uint64_t at = round_down(req->offset, TD_SKIP_BLOCK);

	if (!skip || skip->to != img || img->size < at + TD_SKIP_BLOCK ||
	    !passes(img, req, at, TD_SKIP_BLOCK))
		return false;
	skip->to = img->below;
	return true;
}

void td_pass(struct td_req *req)
{
	struct skip *skip = skip_of(req);
	struct td_image *below = skip ? skip->to : req->image->below;
	struct td_slot *slot = slot_of(req);

	assert(req->op == TD_READ || req->op == TD_EXTENTS);
	remember(slot);
	for (; below && req->offset < below->size; below = below->below) {
		slot->depth++;
		if (req->len > below->size - req->offset)
			cut_short(req, below->size - req->offset);
		if (!skips(skip, below, req) && !passes(below, req, req->offset, req->len)) {
			submit_below(below, req);
			return;
		}
	}
	nothing_below(req);
}

static void io_done(struct td_fileop *op, int err)
{
	struct td_slot *slot = container_of(op, struct td_slot, op);

	td_step *step = slot->io_step;

	slot->req.queue->file_io--;
	slot->req.extent = op->extent;
	if (op->op == TD_EXTENTS) {
		slot->req.extent.file = op->file;
		slot->req.extent.at = op->offset;
	}
	if (!step) {
		td_end(&slot->req, err);
		return;
	}
	slot->io_step = NULL;
	if (err && !slot->req.err)
		slot->req.err = err;
	step(&slot->req);
}

void td_io_step(struct td_req *req, struct td_file *file, uint64_t at, td_step *step)
{
	slot_of(req)->io_step = step;
	td_io(req, file, at);
}

void td_io(struct td_req *req, struct td_file *file, uint64_t at)
{
	struct td_slot *slot = slot_of(req);

	trace_io(req, file, at);
	req->queue->file_io++;
	slot->op.op = req->op;
	slot->op.flags = req->flags;
	slot->op.offset = at;
	slot->op.len = req->len;
	slot->op.iov = req->iov;
	slot->op.iov_count = req->iov_count;
	slot->op.done = io_done;
	td_fileop_submit(req->queue->io, file, &slot->op);
}

/* ---- children -------------------------------------------------------------- */

/* Those that wait are called again as long as there are children to take. */
static void kick_waiting(struct td_defer *defer)
{
	struct lane *lane = container_of(defer, struct lane, kick);
	struct list *link;
	struct list waited;

	list_init(&waited);
	list_join(&waited, &lane->waiting);
	while (pool_has(lane->kids) && (link = list_pop(&waited))) {
		struct td_slot *slot = list_item(link, struct td_slot, link);

		slot->again(&slot->req);
	}
	list_join(&waited, &lane->waiting); /* new ones behind old ones */
	list_join(&lane->waiting, &waited);
}

int lanes_new(struct image_core *core, unsigned kids)
{
	struct td_disk *disk = core->disk;
	bool all = core->img.can & TD_CAN_ANY_QUEUE;
	int err = 0;

	core->lanes = calloc(disk->queue_count, sizeof(*core->lanes));
	if (!core->lanes)
		return -ENOMEM;
	for (unsigned i = 0; !err && i < (all ? disk->queue_count : 1); i++) {
		struct lane *lane = &core->lanes[i];

		lane->queue = &disk->queues[i];
		list_init(&lane->waiting);
		lane->kick.run = kick_waiting;
		err = pool_new(lane->queue, kids, 0, &lane->kids);
		if (!err)
			lane->kids->core = core;
	}
	return err;
}

void lanes_free(struct image_core *core)
{
	for (unsigned i = 0; core->lanes && i < core->disk->queue_count; i++) {
		struct lane *lane = &core->lanes[i];

		if (lane->queue)
			td_loop_undefer(lane->queue->loop, &lane->kick);
		td_pool_free(lane->kids);
	}
	free(core->lanes);
}

static struct lane *lane_of(const struct td_req *req)
{
	return &core_of(req->image)->lanes[req->queue->index];
}

static void kick_later(struct lane *lane)
{
	td_loop_defer(lane->queue->loop, &lane->kick);
}

/* Who waits already comes first: while they are being called again, the list is
 * empty. */
struct td_req *td_child(struct td_req *parent)
{
	struct lane *lane = lane_of(parent);
	struct td_slot *slot = NULL;

	assert(slot_of(parent)->pool != lane->kids);
	if (list_empty(&lane->waiting))
		slot = pool_take(lane->kids);
	if (!slot)
		return NULL;
	slot_of(parent)->shares++;
	slot->req.parent = parent;
	slot->req.image = parent->image;
	slot->req.step = NULL;
	slot->req.user = NULL;
	trace_child(&slot->req);
	memset(td_scratch(parent->image, &slot->req), 0,
	       parent->image->driver->req_size);
	return &slot->req;
}

void td_wait(struct td_req *req, td_step *again)
{
	struct lane *lane = lane_of(req);
	struct td_slot *slot = slot_of(req);

	slot->again = again;
	assert(slot->pool != lane->kids && list_empty(&slot->link));
	list_add(&lane->waiting, &slot->link);
	if (!lane->kids->busy) /* none will end and kick */
		kick_later(lane);
}

static void kid_ended(struct td_slot *slot)
{
	struct td_req *parent = slot->req.parent;
	struct lane *lane = &slot->pool->core->lanes[slot->req.queue->index];
	int err = slot->req.err;

	pool_put(slot);
	if (!list_empty(&lane->waiting))
		kick_later(lane);
	td_end(parent, err);
}

/* All shares are given back, on the queue where they were taken. */
static void ended(struct td_slot *slot)
{
	struct td_req *req = &slot->req;
	td_step *step = req->step;

	restore(slot);
	trace_end(req);
	if (step) {
		slot->shares = 1;
		req->step = NULL;
		step(req);
	} else if (req->parent) {
		kid_ended(slot);
	} else {
		root_ended(slot);
	}
}

static void came_back(struct td_post *post)
{
	struct td_slot *slot = container_of(post, struct td_slot, post);

	slot->req.queue = slot->from;
	slot->from = NULL;
	ended(slot);
}

void td_end(struct td_req *req, int err)
{
	struct td_slot *slot = slot_of(req);

	if (err && !req->err)
		req->err = err;
	assert(slot->shares);
	if (--slot->shares)
		return;
	if (slot->from) {
		slot->post.run = came_back;
		td_loop_post(slot->from->loop, &slot->post);
		return;
	}
	ended(slot);
}

/* td_buffer() describes its memory in one piece, and td_pass() a part of that. What the
 * images below would keep in it is not touched: they clear it before they do. */
struct td_req *td_req_new(struct td_queue *queue, struct td_image *img)
{
	struct td_slot *slot;
	size_t size = round_up(sizeof(*slot) + TD_SCRATCH_MAX, 64);

	slot = aligned_alloc(64, size + 64);
	if (!slot)
		return NULL;
	memset(slot, 0, sizeof(*slot));
	memset(slot->scratch + img->scratch_at, 0, img->driver->req_size);
	slot->passing = (struct iovec *)((char *)slot + size);
	slot->shares = 1;
	slot->req.queue = queue;
	slot->req.image = img;
	slot->id = ++queue->disk->own;
	return &slot->req;
}

void td_req_free(struct td_req *req)
{
	if (req)
		free(slot_of(req));
}

/* ---- deferred calls, alarms, watches and work ---------------------------------- */

void td_defer(struct td_queue *queue, struct td_defer *defer)
{
	td_loop_defer(queue->loop, defer);
}

void td_undefer(struct td_queue *queue, struct td_defer *defer)
{
	td_loop_undefer(queue->loop, defer);
}

struct td_alarm {
	struct td_timer timer;
	struct td_loop *loop;
	void (*ring)(void *arg);
	void *arg;
};

static void alarm_fired(struct td_timer *timer)
{
	struct td_alarm *alarm = container_of(timer, struct td_alarm, timer);

	alarm->ring(alarm->arg);
}

struct td_alarm *td_alarm_new(struct td_queue *queue, void (*ring)(void *arg), void *arg)
{
	struct td_alarm *alarm = calloc(1, sizeof(*alarm));

	if (!alarm)
		return NULL;
	alarm->timer.fired = alarm_fired;
	alarm->loop = queue->loop;
	alarm->ring = ring;
	alarm->arg = arg;
	return alarm;
}

void td_alarm_set(struct td_alarm *alarm, unsigned ms)
{
	td_timer_arm(alarm->loop, &alarm->timer, ms);
}

bool td_alarm_is_set(const struct td_alarm *alarm)
{
	return alarm->timer.armed;
}

void td_alarm_free(struct td_alarm *alarm)
{
	if (!alarm)
		return;
	td_timer_cancel(&alarm->timer);
	free(alarm);
}

int td_watch(struct td_queue *queue, struct td_watch *watch, uint32_t events)
{
	int err;

	if (watch->events && events)
		return td_watch_change(queue->loop, watch, events);
	if (events) {
		err = td_watch_start(queue->loop, watch, watch->fd, events);
		if (err)
			watch->events = 0;
		return err;
	}
	if (watch->events)
		td_watch_stop(queue->loop, watch);
	watch->events = 0;
	return 0;
}

void td_work_start(struct td_queue *queue, struct td_work *work)
{
	td_loop_work(queue->loop, work);
}
