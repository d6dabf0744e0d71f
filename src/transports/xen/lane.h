/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One ring of a guest and its server, on one queue's thread. The connection that
 * it belongs to lives on the home queue (xen.c): it opens, begins, ends and frees
 * its lanes; all else of a lane is its own thread's.
 */
#ifndef TRANSPORTS_XEN_LANE_H
#define TRANSPORTS_XEN_LANE_H

#include <blktap/driver.h>

#include "base/count.h"
#include "base/list.h"
#include "core/queue.h"
#include "io/loop.h"
#include "transports/xen/grants.h"
#include "transports/xen/guest.h"
#include "transports/xen/pages.h"
#include "transports/xen/patience.h"
#include "transports/xen/ring.h"
#include "transports/xen/xen.h"

#define LANE_COPIES 1024 /* of one batch */

struct slot;

/* Counted by the lane, read by the connection. */
struct lane_counts {
	count_t requests, released, segments, indirect, mapped, copied, kept, notified;
	count_t polled, rejected, broken;
};

struct xen_lane {
	struct td_disk *disk;
	const struct td_xen_params *params; /* the connection's: they never change */
	unsigned index;
	struct td_loop *home, *loop;
	struct guest *guest;
	struct td_watch event;
	struct td_flush_hook hook;
	void *shared;
	struct ring ring;
	struct td_pool *pool;
	struct pages pages;
	struct grants grants;     /* that stay mapped, if the guest has agreed */
	struct td_timer sweep;    /* of those that are not used */

	struct list hungry;       /* need memory, oldest first */
	bool starved;             /* there was none: nothing more is taken */
	struct list ended;        /* by the disk */
	struct list batched;      /* have copies in the batch */
	struct list to_answer;
	struct slot *barrier;     /* taken; nothing else is until it is answered */
	struct guest_copy batch[LANE_COPIES];
	unsigned batch_count;

	bool awake;               /* the ring may hold requests */
	struct patience patience; /* with a ring that holds none */
	bool closing;
	struct lane_counts counts;

	/* Calls from thread to thread, and what they tell the connection. */
	struct td_post begin, end, broke;
	void (*broken)(struct xen_lane *lane); /* its guest has broken the ring */
	void (*ended_all)(struct xen_lane *lane);
	void *owner;
};

/*
 * Maps the ring, and makes all that its requests need; nothing is served yet. Takes
 * guest over, and frees it on failure too. broken and ended_all will be called on the
 * home thread.
 */
struct lane_wish {
	struct td_disk *disk;
	const struct td_xen_params *params;
	unsigned index;
	struct guest *guest;
	void (*broken)(struct xen_lane *lane);
	void (*ended_all)(struct xen_lane *lane);
	void *owner;
};
int xen_lane_open(const struct lane_wish *wish, struct xen_lane **out, struct td_why *why);
void xen_lane_begin(struct xen_lane *lane);
/* Drains it without blocking; then ended_all(), which may free it. */
void xen_lane_end(struct xen_lane *lane);
/* Grants of its are kept: they will be dropped when they are not used any more. */
void xen_lane_keeps(struct xen_lane *lane);
/* One that has not begun, or has ended. NULL is fine. */
void xen_lane_free(struct xen_lane *lane);

#endif
