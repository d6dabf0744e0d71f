/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking requests out of a hostile ring, and answering. See ring.h; the fields
 * and their meaning are those of Xen's public/io/blkif.h and io/ring.h.
 *
 * Sector numbers, and first_sect and last_sect of a segment, count 512 bytes
 * whatever the disk's sector size is.
 */
#include "transports/xen/ring.h"

#include <errno.h>
#include <string.h>

#define HEADER_SIZE 64
#define ENTRY_MAX 112
#define DISCARD_SECURE 1

struct ring_layout {
	uint8_t entry;                       /* bytes of an entry */
	uint8_t id, sector;                  /* of a request; op and count: 0, 1 */
	uint8_t segs, discard, pages;        /* of its three kinds */
	uint8_t answer_op, answer_status;    /* of a response; id: 0 */
};

/* A 32-bit x86 compiler aligns 64-bit numbers to 4 bytes, others to 8. */
static const struct ring_layout layout_32 = {
	.entry = 108, .id = 4, .sector = 12, .segs = 20, .discard = 20, .pages = 24,
	.answer_op = 8, .answer_status = 10,
};
static const struct ring_layout layout_64 = {
	.entry = 112, .id = 8, .sector = 16, .segs = 24, .discard = 24, .pages = 28,
	.answer_op = 8, .answer_status = 10,
};

static const struct ring_layout *layout_of(enum td_xen_protocol protocol)
{
	switch (protocol) {
	case TD_XEN_X86_32:
		return &layout_32;
	case TD_XEN_X86_64:
		return &layout_64;
	case TD_XEN_NATIVE:
		break;
	}
#ifdef __i386__
	return &layout_32;
#else
	return &layout_64;
#endif
}

/* ---- the indices --------------------------------------------------------- */

enum index_at {
	REQ_PROD = 0,
	REQ_EVENT = 4,
	RSP_PROD = 8,
	RSP_EVENT = 12,
};

static uint32_t *index_of(const struct ring *ring, enum index_at at)
{
	return (uint32_t *)(ring->shared + at);
}

void ring_attach(struct ring *ring, void *shared, unsigned pages,
		 enum td_xen_protocol protocol)
{
	const struct ring_layout *layout = layout_of(protocol);
	uint32_t fit = (pages * RING_PAGE - HEADER_SIZE) / layout->entry;
	uint32_t entries = 1;

	while (entries * 2 <= fit)
		entries *= 2;
	*ring = (struct ring){
		.shared = shared, .layout = layout, .entries = entries,
	};
	ring->rsp_prod = __atomic_load_n(index_of(ring, RSP_PROD), __ATOMIC_ACQUIRE);
	ring->rsp_shown = ring->req_cons = ring->rsp_prod;
}

int ring_waiting(const struct ring *ring, uint32_t *count)
{
	/* Acquire: the entries are read after the index that shows them. */
	uint32_t prod = __atomic_load_n(index_of(ring, REQ_PROD), __ATOMIC_ACQUIRE);
	uint32_t unanswered = ring->req_cons - ring->rsp_prod;
	uint32_t waiting = prod - ring->req_cons;

	if (waiting > ring->entries - unanswered)
		return -EPROTO;
	*count = waiting;
	return 0;
}

bool ring_push(struct ring *ring)
{
	uint32_t news = ring->rsp_prod - ring->rsp_shown;
	uint32_t event;

	/* Responses are seen before the index, and the index before we look
	 * whether the guest has gone to sleep. */
	__atomic_store_n(index_of(ring, RSP_PROD), ring->rsp_prod, __ATOMIC_RELEASE);
	ring->rsp_shown = ring->rsp_prod;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n(index_of(ring, RSP_EVENT), __ATOMIC_RELAXED);
	return ring->rsp_prod - event < news;
}

bool ring_sleep(struct ring *ring)
{
	uint32_t *event = index_of(ring, REQ_EVENT);

	__atomic_store_n(event, ring->req_cons + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(index_of(ring, REQ_PROD), __ATOMIC_ACQUIRE) !=
	       ring->req_cons;
}

/* ---- requests ------------------------------------------------------------ */

static uint16_t get16(const uint8_t *from)
{
	uint16_t v;

	memcpy(&v, from, sizeof(v));
	return v;
}

static uint32_t get32(const uint8_t *from)
{
	uint32_t v;

	memcpy(&v, from, sizeof(v));
	return v;
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t v;

	memcpy(&v, from, sizeof(v));
	return v;
}

static uint8_t *entry_of(const struct ring *ring, uint32_t index)
{
	uint32_t slot = index & (ring->entries - 1);

	return ring->shared + HEADER_SIZE + slot * ring->layout->entry;
}

static enum ring_status refuse(enum ring_status status, const char **why,
			       const char *text)
{
	*why = text;
	return status;
}

static bool span(uint64_t sector, uint64_t count, uint64_t *offset, uint64_t *len)
{
	uint64_t end;

	if (__builtin_add_overflow(sector, count, &end) || end > UINT64_MAX / 512)
		return false;
	*offset = sector * 512;
	*len = count * 512;
	return true;
}

/* Reads seg_count segments, 8 bytes each, and sets offset and len. */
static enum ring_status take_segs(struct ring_req *req, const uint8_t *from,
				  struct ring_seg *segs, const char **why)
{
	uint64_t sectors = 0;

	for (unsigned i = 0; i < req->seg_count; i++, from += 8) {
		uint8_t first = from[4], last = from[5];

		if (last > 7 || first > last)
			return refuse(RING_ERROR, why, "a segment leaves its page");
		segs[i] = (struct ring_seg){
			.gref = get32(from),
			.offset = first * 512,
			.len = (last - first + 1) * 512,
		};
		sectors += last - first + 1u;
	}
	if (!span(req->sector, sectors, &req->offset, &req->len))
		return refuse(RING_ERROR, why, "sector number out of range");
	return RING_OKAY;
}

static enum ring_status take_data(const struct ring_layout *layout,
				  const uint8_t *copy, struct ring_req *req,
				  const char **why)
{
	bool may_be_empty = req->op == RING_BARRIER || req->op == RING_FLUSH;

	req->seg_count = copy[1];
	if (req->seg_count > RING_SEGMENTS)
		return refuse(RING_ERROR, why, "more than 11 segments");
	if (!req->seg_count) {
		if (!may_be_empty)
			return refuse(RING_ERROR, why, "no segments");
		return RING_OKAY; /* its sector number means nothing */
	}
	return take_segs(req, copy + layout->segs, req->segs, why);
}

static enum ring_status take_discard(const struct ring_layout *layout,
				     const uint8_t *copy, struct ring_req *req,
				     const char **why)
{
	uint64_t count = get64(copy + layout->discard);

	if (copy[1] & DISCARD_SECURE)
		return refuse(RING_UNSUPPORTED, why, "secure discard is not offered");
	if (!count)
		return refuse(RING_ERROR, why, "a discard of nothing");
	if (!span(req->sector, count, &req->offset, &req->len))
		return refuse(RING_ERROR, why, "sector number out of range");
	return RING_OKAY;
}

static enum ring_status take_indirect(const struct ring_layout *layout,
				      const uint8_t *copy, struct ring_req *req,
				      const char **why)
{
	unsigned pages;

	req->indirect = true;
	req->op = req->code = copy[1]; /* front ends expect this one in the answer */
	req->seg_count = get16(copy + 2);
	if (req->op != RING_READ && req->op != RING_WRITE)
		return refuse(RING_UNSUPPORTED, why, "an indirect request of unknown kind");
	if (!req->seg_count || req->seg_count > TD_XEN_MAX_SEGMENTS)
		return refuse(RING_ERROR, why, "indirect request with too few or too many segments");
	pages = (req->seg_count + RING_PAGE_SEGMENTS - 1) / RING_PAGE_SEGMENTS;
	for (unsigned i = 0; i < pages; i++)
		req->pages[i] = get32(copy + layout->pages + 4 * i);
	return RING_OKAY;
}

/* The one look at an entry: the guest may change it under our hands. */
static void copy_entry(const struct ring *ring, uint8_t *to)
{
	const volatile uint8_t *from = entry_of(ring, ring->req_cons);

	for (unsigned i = 0; i < ring->layout->entry; i += 4)
		memcpy(to + i, &(uint32_t){ *(const volatile uint32_t *)(from + i) }, 4);
}

enum ring_status ring_take(struct ring *ring, struct ring_req *req, const char **why)
{
	const struct ring_layout *layout = ring->layout;
	uint8_t copy[ENTRY_MAX];

	copy_entry(ring, copy);
	ring->req_cons++;
	*req = (struct ring_req){
		.code = copy[0],
		.op = copy[0],
		.id = get64(copy + layout->id),
		.sector = get64(copy + layout->sector),
	};
	switch (req->op) {
	case RING_READ:
	case RING_WRITE:
	case RING_BARRIER:
	case RING_FLUSH:
		return take_data(layout, copy, req, why);
	case RING_DISCARD:
		return take_discard(layout, copy, req, why);
	case RING_INDIRECT:
		return take_indirect(layout, copy, req, why);
	}
	return refuse(RING_UNSUPPORTED, why, "unknown operation");
}

enum ring_status ring_indirect(struct ring_req *req, const uint8_t *copy,
			       struct ring_seg *segs, const char **why)
{
	return take_segs(req, copy, segs, why);
}

void ring_answer(struct ring *ring, uint64_t id, uint8_t code, enum ring_status status)
{
	uint8_t *entry = entry_of(ring, ring->rsp_prod++);

	memcpy(entry, &id, sizeof(id));
	entry[ring->layout->answer_op] = code;
	memcpy(entry + ring->layout->answer_status, &(int16_t){ status }, 2);
}
