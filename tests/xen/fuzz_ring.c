/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz entry of the ring: the first byte chooses the layout, the rest is the
 * shared page and a page of segments, whatever they say. Aborts if something comes
 * out that is not within its bounds. Built with clang's libFuzzer:
 *     ninja -C build tests/xen/fuzz-xen-ring && build/tests/xen/fuzz-xen-ring
 */
#include "fuzz_ring.h"

#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "transports/xen/ring.h"

#define RING_BYTES 4096

static void demand(bool holds)
{
	if (!holds)
		abort();
}

static void look_at_segs(const struct ring_req *req, const struct ring_seg *segs)
{
	uint64_t sum = 0;

	demand(req->seg_count <= TD_XEN_MAX_SEGMENTS);
	for (unsigned i = 0; i < req->seg_count; i++) {
		demand(segs[i].len && segs[i].offset + segs[i].len <= 4096);
		sum += segs[i].len;
	}
	if (req->seg_count)
		demand(sum == req->len);
	demand(req->offset + req->len >= req->offset);
}

static void take_one(struct ring *ring, const uint8_t *page)
{
	struct ring_seg segs[TD_XEN_MAX_SEGMENTS];
	struct ring_req req;
	const char *why = NULL;
	enum ring_status status = ring_take(ring, &req, &why);

	if (!status && req.indirect) {
		status = ring_indirect(&req, page, segs, &why);
		if (!status)
			look_at_segs(&req, segs);
	} else if (!status) {
		look_at_segs(&req, req.segs);
	}
	demand(!status == !why);
	ring_answer(ring, req.id, req.code, status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_Alignas(8) static uint8_t shared[RING_BYTES], page[TD_XEN_MAX_SEGMENTS * 8];
	struct ring ring;
	uint32_t waiting;
	size_t rest;

	if (!size)
		return 0;
	memset(shared, 0, sizeof(shared));
	memset(page, 0, sizeof(page));
	rest = min_u64(size - 1, sizeof(shared));
	memcpy(shared, data + 1, rest);
	memcpy(page, data + 1 + rest, min_u64(size - 1 - rest, sizeof(page)));
	ring_attach(&ring, shared, 1, data[0] & 1 ? TD_XEN_X86_32 : TD_XEN_X86_64);
	for (int turn = 0; turn < 2; turn++) {
		if (ring_waiting(&ring, &waiting))
			return 0;
		demand(waiting <= ring.entries);
		while (waiting--)
			take_one(&ring, page);
		ring_push(&ring);
		ring_sleep(&ring);
	}
	return 0;
}
