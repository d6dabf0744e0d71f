/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request between the ring and the disk. See lane.c for the way it goes.
 */
#ifndef TRANSPORTS_XEN_SLOT_H
#define TRANSPORTS_XEN_SLOT_H

#include "transports/xen/lane.h"

enum stage {
	TAKEN,
	COPY_SEGMENTS, /* of an indirect request */
	COPY_IN,
	AT_DISK,
	FLUSH_FIRST,   /* at the disk: the flush before a barrier's data */
	COPY_OUT,
};

/* Where the data of a request are, and so what is given back at its end. */
enum holds {
	NOTHING,
	PAGES,  /* of the lane's pool: copied in or out */
	MAPPED, /* the guest's, for this request alone */
	KEPT,   /* the guest's, which stay mapped */
};

struct slot {
	struct xen_lane *lane;
	struct td_req *req;
	struct list link;         /* in one of the lists of its lane */
	struct ring_req head;
	const struct ring_seg *segs;
	enum stage stage;
	enum ring_status status;
	enum holds holds;
	void *memory;             /* PAGES, MAPPED */
	unsigned pages;
	uint16_t kept[TD_XEN_MAX_SEGMENTS]; /* KEPT: of the lane's grants */
	unsigned copy_at, copies; /* its part of the batch */
	struct iovec iov[TD_XEN_MAX_SEGMENTS];
	struct ring_seg indirect[TD_XEN_MAX_SEGMENTS];
};

/* Sends a request that was taken on its way. A barrier only becomes lane->barrier. */
void slot_start(struct slot *slot);
/* It broke the protocol: told, and answered with status. */
void slot_reject(struct slot *slot, enum ring_status status, const char *what);
/* Sends the flush with which a barrier begins. */
void slot_start_barrier(struct slot *slot);
/* Gives back what it holds, unanswered. */
void slot_release(struct slot *slot);
/* The disk has ended it; may be called from within td_submit(). */
td_done slot_ended;

/* Steps of a turn, over all slots that are there. True: something was done. */
bool slots_after_disk(struct xen_lane *lane);
void slots_feed(struct xen_lane *lane);
void slots_copy(struct xen_lane *lane);
bool slots_answer(struct xen_lane *lane);

#endif
