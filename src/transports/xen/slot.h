/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request between the ring and the disk, and the server of a ring that all of
 * its requests hang from. See xen.c for the way they go.
 */
#ifndef TRANSPORTS_XEN_SLOT_H
#define TRANSPORTS_XEN_SLOT_H

#include <blktap/driver.h>

#include "base/list.h"
#include "core/queue.h"
#include "io/loop.h"
#include "transports/xen/guest.h"
#include "transports/xen/pages.h"
#include "transports/xen/ring.h"
#include "transports/xen/xen.h"

#define SLOT_COPIES 1024 /* of one batch */

enum stage {
	TAKEN,
	COPY_SEGMENTS, /* of an indirect request */
	COPY_IN,
	AT_DISK,
	FLUSH_FIRST,   /* at the disk: the flush before a barrier's data */
	COPY_OUT,
};

struct slot {
	struct td_xen *xen;
	struct td_req *req;
	struct list link;         /* in one of the lists of td_xen */
	struct ring_req head;
	const struct ring_seg *segs;
	enum stage stage;
	enum ring_status status;
	void *memory;             /* mapped grants, or pages of the pool */
	unsigned pages;
	bool mapped;
	unsigned copy_at, copies; /* its part of the batch */
	struct iovec iov[TD_XEN_MAX_SEGMENTS];
	struct ring_seg indirect[TD_XEN_MAX_SEGMENTS];
};

struct td_xen {
	struct td_disk *disk;
	struct td_loop *loop;
	struct td_xen_params params;
	struct guest *guest;
	struct td_watch event;
	struct td_flush_hook hook;
	void *shared;
	struct ring ring;
	struct td_pool *pool;
	struct pages pages;

	struct list hungry;       /* need memory, oldest first */
	bool starved;             /* there was none: nothing more is taken */
	struct list ended;        /* by the disk */
	struct list batched;      /* have copies in the batch */
	struct list to_answer;
	struct slot *barrier;     /* taken; nothing else is until it is answered */
	struct guest_copy batch[SLOT_COPIES];
	unsigned batch_count;

	bool awake;               /* the ring may hold requests */
	bool closing;
	void (*closed)(void *arg);
	void *closed_arg;
	struct td_xen_stats stats;
};

/* Sends a request that was taken on its way. A barrier only becomes xen->barrier. */
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
bool slots_after_disk(struct td_xen *xen);
void slots_feed(struct td_xen *xen);
void slots_copy(struct td_xen *xen);
bool slots_answer(struct td_xen *xen);

#endif
