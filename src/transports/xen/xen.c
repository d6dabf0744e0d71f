/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way of a guest's request through its ring's server:
 *
 *   taken ---> [segments copied in] -> needs memory -+-> mapped ------------+
 *    |          of indirect ones                     +-> copied in (writes) +
 *    +-> flush, discard -----------------------------------------------------+
 *   at the disk <------------------------------------------------------------+
 *    +-> ended -> [copied out: reads] -> unmapped, answered
 *
 * All of it happens in the flush hook of the loop, so that a turn's grant copies
 * share a hypercall and its responses a notification; the loop bounds how often
 * the hook runs before control has its say.
 *
 * A barrier is taken alone: it waits for all before it, and all after it waits.
 * What finds no free request or buffer waits too, and nothing more is taken from
 * the ring meanwhile. Nothing is allocated per request.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "core/disk.h"
#include "transports/xen/slot.h"

#define MAX_REQUESTS 128 /* in flight; a large ring waits */
#define TAKE_AT_ONCE 64  /* between two looks at what has ended */

/* ---- out of the ring ----------------------------------------------------- */

static void take_one(struct td_xen *xen, struct td_req *req)
{
	struct slot *slot = td_req_user(req);
	const char *what = NULL;
	enum ring_status status;

	slot->xen = xen;
	slot->req = req;
	slot->stage = TAKEN;
	slot->memory = NULL;
	slot->mapped = false;
	list_init(&slot->link);
	status = ring_take(&xen->ring, &slot->head, &what);
	xen->stats.requests++;
	xen->stats.indirect += slot->head.indirect;
	if (status)
		slot_reject(slot, status, what);
	else
		slot_start(slot);
}

static void ring_broken(struct td_xen *xen)
{
	xen->stats.broken = true;
	xen->awake = false;
	td_log_limited(xen->params.noise, td_disk_name(xen->disk), LOG_ERR,
		       "domain %u, device %u: the guest claims more requests than its ring "
		       "holds; it is served no longer", xen->params.domid, xen->params.devid);
	if (xen->params.broken)
		xen->params.broken(xen->params.arg);
}

/* True: something was taken. The count bounds what a guest that keeps moving
 * its index can make us do in a turn. */
static bool take_some(struct td_xen *xen)
{
	uint32_t waiting;
	bool any = false;

	for (unsigned i = 0; xen->awake && i < TAKE_AT_ONCE; i++) {
		struct td_req *req;

		if (xen->barrier || xen->starved)
			break;
		if (ring_waiting(&xen->ring, &waiting)) {
			ring_broken(xen);
			break;
		}
		if (!waiting) {
			xen->awake = ring_sleep(&xen->ring);
			continue;
		}
		req = td_pool_get(xen->pool);
		if (!req)
			break;
		take_one(xen, req);
		any = true;
	}
	return any;
}

static bool barrier_start(struct td_xen *xen)
{
	struct slot *slot = xen->barrier;

	if (!slot || slot->stage != TAKEN || td_pool_busy(xen->pool) > 1)
		return false;
	slot_start_barrier(slot);
	return true;
}

/* ---- the loop's side ----------------------------------------------------- */

static void xen_free(struct td_xen *xen)
{
	if (!xen)
		return;
	td_pool_free(xen->pool);
	pages_fini(&xen->pages);
	if (xen->shared)
		xen->guest->ops->unmap(xen->guest, xen->shared,
				       1u << xen->params.ring_order);
	if (xen->guest)
		xen->guest->ops->free(xen->guest);
	free(xen);
}

static void drop_untouched(struct td_xen *xen)
{
	struct list *link;

	while ((link = list_pop(&xen->hungry)))
		slot_release(list_item(link, struct slot, link));
	if (xen->barrier && xen->barrier->stage == TAKEN)
		slot_release(xen->barrier);
}

static bool xen_flush(struct td_flush_hook *hook)
{
	struct td_xen *xen = container_of(hook, struct td_xen, hook);
	bool busy;

	busy = slots_after_disk(xen);
	slots_copy(xen);
	busy |= slots_answer(xen);
	if (!xen->closing)
		busy |= take_some(xen);
	slots_copy(xen);  /* segments of indirect requests */
	slots_feed(xen);
	slots_copy(xen);  /* data of writes */
	busy |= barrier_start(xen);
	busy |= slots_answer(xen);
	if (xen->closing) {
		drop_untouched(xen);
		if (!td_pool_busy(xen->pool)) {
			void (*closed)(void *arg) = xen->closed;
			void *arg = xen->closed_arg;

			td_loop_del_flush(&xen->hook);
			xen_free(xen);
			closed(arg);
			return false;
		}
	}
	return busy;
}

static void xen_event(struct td_watch *watch, uint32_t events)
{
	struct td_xen *xen = container_of(watch, struct td_xen, event);

	xen->guest->ops->event(xen->guest);
	xen->awake = !xen->stats.broken;
}

int xen_connect_guest(struct td_disk *disk, const struct td_xen_params *params,
		      struct guest *guest, struct td_xen **out, struct td_why *why)
{
	unsigned pages = 1u << params->ring_order;
	struct td_xen *xen = calloc(1, sizeof(*xen));
	int err;

	if (!xen) {
		guest->ops->free(guest);
		return td_fail(why, -ENOMEM, "no memory");
	}
	xen->disk = disk;
	xen->params = *params;
	xen->guest = guest;
	xen->loop = td_queue_loop(td_disk_queue(disk));
	list_init(&xen->hungry);
	list_init(&xen->ended);
	list_init(&xen->batched);
	list_init(&xen->to_answer);
	list_init(&xen->hook.link);
	xen->shared = guest->ops->map(guest, params->ring_refs, pages, true);
	if (!xen->shared) {
		err = td_fail(why, -errno, "ring of %u page(s), grant %u, of domain %u: %s",
			      pages, params->ring_refs[0], params->domid,
			      strerror(errno));
		goto fail;
	}
	ring_attach(&xen->ring, xen->shared, pages, params->protocol);
	err = pages_init(&xen->pages);
	if (!err)
		err = td_pool_new(disk, (unsigned)min_u64(xen->ring.entries, MAX_REQUESTS),
				  sizeof(struct slot), slot_ended, &xen->pool);
	if (err) {
		td_fail(why, err, "no memory for requests: %s", strerror(-err));
		goto fail;
	}
	xen->event.ready = xen_event;
	err = td_watch_start(xen->loop, &xen->event, guest->event_fd, EPOLLIN);
	if (err) {
		td_fail(why, err, "event channel: %s", strerror(-err));
		goto fail;
	}
	xen->awake = true; /* requests may be there already */
	xen->hook.flush = xen_flush;
	td_loop_add_flush(xen->loop, &xen->hook);
	*out = xen;
	return 0;
fail:
	xen_free(xen);
	return err;
}

void td_xen_disconnect(struct td_xen *xen, void (*done)(void *arg), void *arg)
{
	td_watch_stop(xen->loop, &xen->event);
	xen->closing = true;
	xen->closed = done;
	xen->closed_arg = arg;
}

void td_xen_stats(const struct td_xen *xen, struct td_xen_stats *out)
{
	*out = xen->stats;
	out->in_flight = td_pool_busy(xen->pool);
}
