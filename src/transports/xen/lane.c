/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way of a guest's request through its ring's server:
 *
 *   taken ---> [segments copied in] -> needs memory -+-> mapped ------------+
 *    |          of indirect ones                     +-> mapped before ------+
 *    |                                               +-> copied in (writes) +
 *    +-> flush, discard -----------------------------------------------------+
 *   at the disk <------------------------------------------------------------+
 *    +-> ended -> [copied out: reads] -> unmapped, answered
 *
 * All of it happens in the flush hook of the loop, so that a turn's grant copies
 * share a hypercall and its responses a notification; the loop bounds how often
 * the hook runs before control has its say.
 *
 * A barrier is taken alone: it waits for all before it in its ring, and all after it
 * waits. What finds no free request or buffer waits too, and nothing more is taken
 * from the ring meanwhile. Nothing is allocated per request.
 */
#include "transports/xen/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "core/disk.h"
#include "transports/xen/slot.h"

#define MAX_REQUESTS 128 /* in flight; a large ring waits */
#define TAKE_AT_ONCE 64  /* between two looks at what has ended */
#define SWEEP_MS 5000    /* a grant that is not used for one to two of these is dropped */

/* ---- out of the ring ----------------------------------------------------- */

/* A guest that was not offered an operation has no business asking for it. */
static enum ring_status offered(const struct xen_lane *lane, const struct ring_req *head,
				const char **what)
{
	const struct td_xen_offer *offer = &lane->params->offer;

	if ((head->op == RING_FLUSH && !offer->flush) ||
	    (head->op == RING_BARRIER && !offer->barrier) ||
	    (head->op == RING_DISCARD && !offer->discard) ||
	    (head->indirect && !offer->segments)) {
		*what = "it was not offered";
		return RING_UNSUPPORTED;
	}
	if (head->indirect && head->seg_count > offer->segments) {
		*what = "more segments than were offered";
		return RING_ERROR;
	}
	return RING_OKAY;
}

static void take_one(struct xen_lane *lane, struct td_req *req)
{
	struct slot *slot = td_req_user(req);
	const char *what = NULL;
	enum ring_status status;

	slot->lane = lane;
	slot->req = req;
	slot->stage = TAKEN;
	slot->holds = NOTHING;
	list_init(&slot->link);
	status = ring_take(&lane->ring, &slot->head, &what);
	count_add(&lane->counts.requests, 1);
	count_add(&lane->counts.indirect, slot->head.indirect);
	if (!status)
		status = offered(lane, &slot->head, &what);
	if (status)
		slot_reject(slot, status, what);
	else
		slot_start(slot);
}

/* It is served no longer, and whoever owns the connection is told. */
static void lane_break(struct xen_lane *lane, const char *what)
{
	lane->awake = false;
	td_log_limited(lane->params->noise, td_disk_name(lane->disk), LOG_ERR,
		       "domain %u, device %u, ring %u: %s; it is served no longer",
		       lane->params->domid, lane->params->devid, lane->index, what);
	if (!count_read(&lane->counts.broken))
		td_loop_post(lane->home, &lane->broke);
	count_add(&lane->counts.broken, 1);
}

/* The ring is empty. True: it is to be looked at again, in the next turn. */
static bool look_again(struct xen_lane *lane)
{
	if (lane->patience.limit_us && patience_lasts(&lane->patience, td_now_us()))
		return true;
	lane->awake = ring_sleep(&lane->ring);
	return false;
}

/* True: the loop is not to wait. The count bounds what a guest that keeps moving
 * its index can make us do in a turn. */
static bool take_some(struct xen_lane *lane)
{
	uint32_t waiting;
	bool any = false;

	for (unsigned i = 0; lane->awake && i < TAKE_AT_ONCE; i++) {
		struct td_req *req;

		if (lane->barrier || lane->starved)
			break;
		if (ring_waiting(&lane->ring, &waiting)) {
			lane_break(lane, "the guest claims more requests than its ring holds");
			break;
		}
		if (!waiting) {
			if (look_again(lane))
				return true;
			continue;
		}
		count_add(&lane->counts.polled, patience_pays(&lane->patience));
		req = td_pool_get(lane->pool);
		if (!req)
			break;
		take_one(lane, req);
		any = true;
	}
	return any;
}

static bool barrier_start(struct xen_lane *lane)
{
	struct slot *slot = lane->barrier;

	if (!slot || slot->stage != TAKEN || td_pool_busy(lane->pool) > 1)
		return false;
	slot_start_barrier(slot);
	return true;
}

/* ---- the loop's side ----------------------------------------------------- */

static void drop_untouched(struct xen_lane *lane)
{
	struct list *link;

	while ((link = list_pop(&lane->hungry)))
		slot_release(list_item(link, struct slot, link));
	if (lane->barrier && lane->barrier->stage == TAKEN)
		slot_release(lane->barrier);
}

static void lane_ended(struct td_post *post)
{
	struct xen_lane *lane = container_of(post, struct xen_lane, end);

	lane->ended_all(lane);
}

/* True: it was the last turn. */
static bool end_when_drained(struct xen_lane *lane)
{
	drop_untouched(lane);
	if (td_pool_busy(lane->pool))
		return false;
	td_loop_del_flush(&lane->hook);
	td_timer_cancel(&lane->sweep);
	lane->end.run = lane_ended;
	td_loop_post(lane->home, &lane->end); /* it is not ours any more */
	return true;
}

static bool lane_flush(struct td_flush_hook *hook)
{
	struct xen_lane *lane = container_of(hook, struct xen_lane, hook);
	bool busy;

	busy = slots_after_disk(lane);
	slots_copy(lane);
	busy |= slots_answer(lane);
	if (!lane->closing)
		busy |= take_some(lane);
	slots_copy(lane);  /* segments of indirect requests */
	slots_feed(lane);
	slots_copy(lane);  /* data of writes */
	busy |= barrier_start(lane);
	busy |= slots_answer(lane);
	if (lane->closing && end_when_drained(lane))
		return false;
	return busy;
}

static void lane_event(struct td_watch *watch, uint32_t events)
{
	struct xen_lane *lane = container_of(watch, struct xen_lane, event);

	lane->guest->ops->event(lane->guest);
	if (lane->patience.limit_us)
		patience_woken(&lane->patience, td_now_us());
	lane->awake = !count_read(&lane->counts.broken);
}

/* ---- grants that are kept --------------------------------------------------- */

static void sweep(struct td_timer *timer)
{
	struct xen_lane *lane = container_of(timer, struct xen_lane, sweep);

	grants_drop(&lane->grants, td_now_ms() - SWEEP_MS);
	if (lane->grants.mapped)
		td_timer_arm(lane->loop, timer, SWEEP_MS);
}

void xen_lane_keeps(struct xen_lane *lane)
{
	if (!lane->sweep.armed)
		td_timer_arm(lane->loop, &lane->sweep, SWEEP_MS);
}

/* ---- begin and end --------------------------------------------------------- */

static void lane_begins(struct td_post *post)
{
	struct xen_lane *lane = container_of(post, struct xen_lane, begin);

	lane->awake = true; /* requests may be there already */
	if (td_watch_start(lane->loop, &lane->event, lane->guest->event_fd, EPOLLIN))
		lane_break(lane, "its event channel cannot be watched");
	td_loop_add_flush(lane->loop, &lane->hook);
}

static void lane_ends(struct td_post *post)
{
	struct xen_lane *lane = container_of(post, struct xen_lane, end);

	td_watch_stop(lane->loop, &lane->event);
	lane->closing = true;
}

static void lane_broke(struct td_post *post)
{
	struct xen_lane *lane = container_of(post, struct xen_lane, broke);

	lane->broken(lane);
}

void xen_lane_begin(struct xen_lane *lane)
{
	td_loop_post(lane->loop, &lane->begin);
}

void xen_lane_end(struct xen_lane *lane)
{
	td_loop_post(lane->loop, &lane->end);
}

/* ---- making ------------------------------------------------------------------ */

static int ring_map(struct xen_lane *lane, struct td_why *why)
{
	const struct td_xen_params *params = lane->params;
	const uint32_t *refs = params->rings[lane->index].refs;
	unsigned pages = 1u << params->ring_order;

	lane->shared = lane->guest->ops->map(lane->guest, refs, pages, true);
	if (!lane->shared)
		return td_fail(why, -errno, "ring %u of %u page(s), grant %u, of domain %u: %s",
			       lane->index, pages, refs[0], params->domid, strerror(errno));
	ring_attach(&lane->ring, lane->shared, pages, params->protocol);
	return 0;
}

int xen_lane_open(const struct lane_wish *wish, struct xen_lane **out, struct td_why *why)
{
	struct td_queue *queue = td_disk_queue_at(wish->disk,
						  wish->index % td_disk_queues(wish->disk));
	struct xen_lane *lane = calloc(1, sizeof(*lane));
	int err;

	if (!lane) {
		wish->guest->ops->free(wish->guest);
		return td_fail(why, -ENOMEM, "no memory");
	}
	lane->disk = wish->disk;
	lane->params = wish->params;
	lane->index = wish->index;
	lane->guest = wish->guest;
	lane->patience.limit_us = wish->params->poll_us;
	lane->broken = wish->broken;
	lane->ended_all = wish->ended_all;
	lane->owner = wish->owner;
	lane->home = td_queue_loop(td_disk_queue(wish->disk));
	lane->loop = td_queue_loop(queue);
	lane->event.ready = lane_event;
	lane->hook.flush = lane_flush;
	lane->sweep.fired = sweep;
	lane->begin.run = lane_begins;
	lane->end.run = lane_ends;
	lane->broke.run = lane_broke;
	list_init(&lane->hungry);
	list_init(&lane->ended);
	list_init(&lane->batched);
	list_init(&lane->to_answer);
	err = ring_map(lane, why);
	if (err)
		goto fail;
	err = pages_init(&lane->pages);
	if (!err && lane->params->offer.persistent)
		err = grants_init(&lane->grants, lane->guest);
	if (!err)
		err = td_pool_new(queue, (unsigned)min_u64(lane->ring.entries, MAX_REQUESTS),
				  sizeof(struct slot), slot_ended, &lane->pool);
	if (err) {
		td_fail(why, err, "no memory for requests: %s", strerror(-err));
		goto fail;
	}
	*out = lane;
	return 0;
fail:
	xen_lane_free(lane);
	return err;
}

void xen_lane_free(struct xen_lane *lane)
{
	if (!lane)
		return;
	td_pool_free(lane->pool);
	pages_fini(&lane->pages);
	grants_fini(&lane->grants);
	if (lane->shared)
		lane->guest->ops->unmap(lane->guest, lane->shared, 1u << lane->params->ring_order);
	lane->guest->ops->free(lane->guest);
	free(lane);
}
