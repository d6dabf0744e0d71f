/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Xen block back end's data side: the blkif rings of a front end, served
 * from a disk, each on one of its queues. Everything here comes from the daemon,
 * which has read it from xenstore and checked its form; what lies in a ring is
 * hostile. blkif: Xen's public/io/blkif.h.
 */
#ifndef TRANSPORTS_XEN_H
#define TRANSPORTS_XEN_H

#include <blktap/driver.h>

#include "base/log.h"

struct td_disk;
struct td_xen;

/* Layout of the ring's requests: the guest's word size, not ours. */
enum td_xen_protocol {
	TD_XEN_NATIVE,
	TD_XEN_X86_32,
	TD_XEN_X86_64,
};

/* How a guest's data is reached. */
enum td_xen_data {
	TD_XEN_AUTO, /* by request size, as measured */
	TD_XEN_MAP,  /* grants mapped, I/O on the guest's pages: no copy */
	TD_XEN_COPY, /* grant copy, one hypercall a batch */
};

#define TD_XEN_MAX_RING_ORDER 4       /* 16 pages */
#define TD_XEN_MAX_RINGS 16
#define TD_XEN_MAX_SEGMENTS 256       /* of an indirect request: 1 MiB */

/* One of the guest's rings: ring N is served on the disk's queue N % its queues. */
struct td_xen_ring {
	uint32_t refs[1 << TD_XEN_MAX_RING_ORDER];
	uint32_t event_channel;
};

/* What the guest was offered: it gets nothing else. */
struct td_xen_offer {
	bool flush, barrier, discard;
	bool persistent;     /* and it has agreed: its grants may be kept mapped */
	unsigned segments;   /* of an indirect request; 0: there are no such */
	unsigned sector;     /* bytes, a power of two: what all requests are multiples of */
};

struct td_xen_params {
	uint16_t domid;
	uint32_t devid;      /* the front end's virtual-device, for logs */
	unsigned ring_order; /* 1 << ring_order pages a ring */
	unsigned ring_count; /* 1 to TD_XEN_MAX_RINGS */
	struct td_xen_ring rings[TD_XEN_MAX_RINGS];
	enum td_xen_protocol protocol;
	enum td_xen_data data;
	struct td_xen_offer offer;
	unsigned poll_us;    /* an empty ring is looked at for so long at most; 0: not */
	/* Called once, from the home loop, when the guest has broken a ring: that is
	 * served no longer, and all are to be disconnected. May be NULL. */
	void (*broken)(void *arg);
	void *arg;
	/* Of lines that the guest causes. It outlives the connection: a guest may come
	 * back any number of times. */
	struct td_ratelimit *noise;
};

struct td_xen_stats {
	uint64_t requests, segments, indirect, mapped, copied, notified;
	uint64_t kept;     /* requests whose grants stay mapped */
	uint64_t polled;   /* requests, or some at once, found by looking */
	uint64_t rejected; /* requests that broke the protocol */
	uint64_t in_flight;
	bool broken;       /* a ring itself did */
};

/* Maps the rings, binds their event channels and serves until disconnected. All of
 * them or none. These three are called on the disk's home thread. */
int td_xen_connect(struct td_disk *disk, const struct td_xen_params *params,
		   struct td_xen **out, struct td_why *why);
/* Takes no more requests, waits for those in flight without blocking, unmaps
 * everything, then calls done(arg) from the loop; xen is gone by then. */
void td_xen_disconnect(struct td_xen *xen, void (*done)(void *arg), void *arg);
void td_xen_stats(const struct td_xen *xen, struct td_xen_stats *out);

#endif
