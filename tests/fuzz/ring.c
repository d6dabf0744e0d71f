/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Xen ring: the first byte chooses the layout, the rest is the shared page and a
 * page of segments, whatever they say. What comes out must be within its bounds.
 */
#include <string.h>

#include "base/num.h"
#include "targets.h"
#include "transports/xen/ring.h"

#define RING_BYTES 4096

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

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	_Alignas(8) static uint8_t shared[RING_BYTES], page[TD_XEN_MAX_SEGMENTS * 8];
	struct ring ring;
	uint32_t waiting;
	size_t rest;

	if (!size)
		return;
	memset(shared, 0, sizeof(shared));
	memset(page, 0, sizeof(page));
	rest = min_u64(size - 1, sizeof(shared));
	memcpy(shared, data + 1, rest);
	memcpy(page, data + 1 + rest, min_u64(size - 1 - rest, sizeof(page)));
	ring_attach(&ring, shared, 1, data[0] & 1 ? TD_XEN_X86_32 : TD_XEN_X86_64);
	for (int turn = 0; turn < 2; turn++) {
		if (ring_waiting(&ring, &waiting))
			return;
		demand(waiting <= ring.entries);
		while (waiting--)
			take_one(&ring, page);
		ring_push(&ring);
		ring_sleep(&ring);
	}
}

/* Requests of every kind, some with segments; n: the layout. */
static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	size_t entry = n ? 108 : 112;

	if (n > 1)
		return 0;
	memset(out, 0, 1 + RING_BYTES + 512);
	out[0] = n;
	out[1] = 24; /* how many the guest has put there */
	for (unsigned i = 0; i < 24; i++) {
		uint8_t *at = out + 1 + 64 + i * entry;

		at[0] = i % 8;
		at[1] = i % 12;
		for (unsigned s = 0; s < 11; s++) {
			at[entry - 88 + 8 * s] = 1;
			at[entry - 88 + 8 * s + 5] = 7;
		}
	}
	for (unsigned i = 0; i < 64; i++)
		out[1 + RING_BYTES + 8 * i + 5] = 7;
	return 1 + RING_BYTES + 512;
}

const struct fuzz_target fuzz_ring = { .name = "xen-ring", .input = input, .seed = seed };
