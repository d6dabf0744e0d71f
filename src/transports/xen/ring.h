/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shared ring of blkif, seen from the back end, and what its requests mean.
 * Plain functions over memory that the other side may change at any moment: an
 * entry is copied once, then looked at; nothing read from the ring is believed.
 * Needs no Xen, so that tests and fuzzers can be as hostile as a guest.
 *
 *   page 0: req_prod req_event rsp_prod rsp_event ... 64: entries, a power of 2
 *
 * A request and its response share an entry. The three layouts differ only in
 * where the compiler of a 32- or 64-bit guest put each field.
 */
#ifndef TRANSPORTS_XEN_RING_H
#define TRANSPORTS_XEN_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transports/xen/xen.h"

#define RING_PAGE 4096u
#define RING_SEGMENTS 11        /* in a request itself */
#define RING_PAGE_SEGMENTS 512u /* in a page of an indirect one */
#define RING_INDIRECT_PAGES \
	((TD_XEN_MAX_SEGMENTS + RING_PAGE_SEGMENTS - 1) / RING_PAGE_SEGMENTS)

enum ring_op {
	RING_READ,
	RING_WRITE,
	RING_BARRIER,
	RING_FLUSH,
	RING_RESERVED,
	RING_DISCARD,
	RING_INDIRECT,
};

enum ring_status {
	RING_OKAY = 0,
	RING_ERROR = -1,
	RING_UNSUPPORTED = -2,
};

/* A part of one guest page. */
struct ring_seg {
	uint32_t gref;
	uint16_t offset, len; /* bytes in the page; multiples of 512 */
};

/* A request, copied and checked. */
struct ring_req {
	uint64_t id;
	uint8_t  code;         /* the operation that the response names */
	uint8_t  op;           /* enum ring_op; of an indirect one, the op within */
	bool     indirect;     /* segs are still to be read from the pages below */
	uint16_t seg_count;
	uint64_t sector;
	uint64_t offset, len;  /* bytes of the disk; of an indirect one they are
	                          known when its segments are */
	uint32_t pages[RING_INDIRECT_PAGES]; /* grants that hold its segments */
	struct ring_seg segs[RING_SEGMENTS]; /* of a direct one */
};

struct ring_layout;

struct ring {
	uint8_t *shared;
	const struct ring_layout *layout;
	uint32_t entries;
	uint32_t req_cons; /* requests taken */
	uint32_t rsp_prod; /* responses written */
	uint32_t rsp_shown; /* of these, shown to the guest */
};

/* Takes up the ring where its responses end: at 0 in a new one. */
void ring_attach(struct ring *ring, void *shared, unsigned pages,
		 enum td_xen_protocol protocol);

/*
 * How many requests wait to be taken. -EPROTO: the guest claims more than the
 * ring can hold, and nothing in the ring can be believed any more.
 */
int ring_waiting(const struct ring *ring, uint32_t *count);

/*
 * Copies the next request out of the ring and checks it. 0, or the status with
 * which it must be answered; id and code are set in any case, and *why names
 * what was wrong.
 */
enum ring_status ring_take(struct ring *ring, struct ring_req *req,
			   const char **why);

/* Checks the segments of an indirect request. copy: ours already, seg_count * 8
 * bytes. Sets segs, req->offset and req->len. */
enum ring_status ring_indirect(struct ring_req *req, const uint8_t *copy,
			       struct ring_seg *segs, const char **why);

/* Writes a response into its entry; seen by the guest after ring_push(). */
void ring_answer(struct ring *ring, uint64_t id, uint8_t code,
		 enum ring_status status);

/* Shows the guest all responses; true: it wants to be notified. */
bool ring_push(struct ring *ring);

/* Asks to be notified of the next request; true: there is one already. */
bool ring_sleep(struct ring *ring);

#endif
