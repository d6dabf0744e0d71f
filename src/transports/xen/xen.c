/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's connection to a disk: one or more rings, each served by a lane on the
 * queue that its number falls to. All of this file runs on the home queue's thread.
 * Everything is mapped and bound before anything is served, so that a ring that
 * cannot be had leaves nothing behind.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/disk.h"
#include "transports/xen/guest.h"
#include "transports/xen/lane.h"

struct td_xen {
	struct td_xen_params params;
	struct xen_lane *lanes[TD_XEN_MAX_RINGS];
	unsigned open;            /* lanes that are there */
	bool broken, closing;
	void (*closed)(void *arg);
	void *closed_arg;
	struct td_xen_stats past; /* of lanes that have ended */
};

static void stats_add(struct td_xen_stats *stats, const struct xen_lane *lane)
{
	const struct lane_counts *counts = &lane->counts;

	stats->requests += count_read(&counts->requests);
	stats->segments += count_read(&counts->segments);
	stats->indirect += count_read(&counts->indirect);
	stats->mapped += count_read(&counts->mapped);
	stats->copied += count_read(&counts->copied);
	stats->kept += count_read(&counts->kept);
	stats->notified += count_read(&counts->notified);
	stats->polled += count_read(&counts->polled);
	stats->rejected += count_read(&counts->rejected);
	stats->in_flight += count_read(&counts->requests) - count_read(&counts->released);
	stats->broken |= count_read(&counts->broken) != 0;
}

static void lane_is_broken(struct xen_lane *lane)
{
	struct td_xen *xen = lane->owner;

	if (xen->broken || xen->closing)
		return;
	xen->broken = true;
	if (xen->params.broken)
		xen->params.broken(xen->params.arg);
}

static void lane_has_ended(struct xen_lane *lane)
{
	struct td_xen *xen = lane->owner;
	void (*closed)(void *arg) = xen->closed;
	void *arg = xen->closed_arg;

	stats_add(&xen->past, lane);
	xen->lanes[lane->index] = NULL;
	xen_lane_free(lane);
	if (--xen->open)
		return;
	free(xen);
	closed(arg);
}

/* What never began, and the guests that no lane has taken over. */
static void give_up(struct td_xen *xen, struct guest *guests[])
{
	for (unsigned i = 0; i < xen->params.ring_count; i++) {
		if (i < xen->open)
			xen_lane_free(xen->lanes[i]);
		else if (i > xen->open) /* the one between freed its own */
			guests[i]->ops->free(guests[i]);
	}
	free(xen);
}

int xen_connect_guests(struct td_disk *disk, const struct td_xen_params *params,
		       struct guest *guests[], struct td_xen **out, struct td_why *why)
{
	struct td_xen *xen = calloc(1, sizeof(*xen));

	if (!xen) {
		for (unsigned i = 0; i < params->ring_count; i++)
			guests[i]->ops->free(guests[i]);
		return td_fail(why, -ENOMEM, "no memory");
	}
	xen->params = *params;
	for (; xen->open < params->ring_count; xen->open++) {
		const struct lane_wish wish = {
			.disk = disk, .params = &xen->params, .index = xen->open,
			.guest = guests[xen->open], .broken = lane_is_broken,
			.ended_all = lane_has_ended, .owner = xen,
		};
		int err = xen_lane_open(&wish, &xen->lanes[xen->open], why);

		if (err) {
			give_up(xen, guests);
			return err;
		}
	}
	for (unsigned i = 0; i < xen->open; i++)
		xen_lane_begin(xen->lanes[i]);
	*out = xen;
	return 0;
}

void td_xen_disconnect(struct td_xen *xen, void (*done)(void *arg), void *arg)
{
	xen->closing = true;
	xen->closed = done;
	xen->closed_arg = arg;
	for (unsigned i = 0; i < xen->params.ring_count; i++)
		xen_lane_end(xen->lanes[i]);
}

void td_xen_stats(const struct td_xen *xen, struct td_xen_stats *out)
{
	*out = xen->past;
	for (unsigned i = 0; i < xen->params.ring_count; i++)
		if (xen->lanes[i])
			stats_add(out, xen->lanes[i]);
}
