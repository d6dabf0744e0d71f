/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring and its requests, with honest and with hostile front ends. Each test
 * runs with both layouts; the ring lies in memory that ends at a guard page, so
 * that a look past it ends the test.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#include "base/num.h"
#include "front.h"
#include "transports/xen/ring.h"
#include "config.h"

#ifdef HAVE_XEN
#include <xen/xen.h>
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()
#include <xen/io/blkif.h>
/* The test's own idea of a front end is Xen's. */
_Static_assert(sizeof(union blkif_sring_entry) == sizeof(union front64_entry), "entry");
_Static_assert(offsetof(struct blkif_request, seg) == offsetof(struct front64_rw, segs), "segs");
_Static_assert(offsetof(struct blkif_request_indirect, indirect_grefs) ==
	       offsetof(struct front64_indirect, pages), "pages");
_Static_assert(offsetof(struct blkif_request_discard, nr_sectors) ==
	       offsetof(struct front64_discard, sectors), "sectors");
_Static_assert(offsetof(struct blkif_response, status) ==
	       offsetof(struct front64_response, status), "status");
_Static_assert(offsetof(struct blkif_sring, ring) == 64, "header");
#endif
_Static_assert(sizeof(union front32_entry) == 108, "32-bit entry");
_Static_assert(offsetof(struct front32_indirect, pages) == 24, "32-bit pages");

struct both {
	struct ring ring;
	struct front front;
	uint8_t *memory;
	size_t size;
};

static void both_open(struct both *b, unsigned pages, bool is32)
{
	size_t size = (pages + 1) * 4096ul;
	uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	assert_int_equal(mprotect(memory + pages * 4096, 4096, PROT_NONE), 0);
	b->memory = memory;
	b->size = size;
	front_init(&b->front, memory, pages, is32);
	ring_attach(&b->ring, memory, pages, is32 ? TD_XEN_X86_32 : TD_XEN_X86_64);
}

static void both_close(struct both *b)
{
	munmap(b->memory, b->size);
}

/* Sends one request and takes it. */
static enum ring_status pass(struct both *b, const struct front_req *sent,
			     struct ring_req *got)
{
	const char *why = NULL;
	enum ring_status status;
	uint32_t waiting;

	front_put(&b->front, sent);
	front_push(&b->front);
	assert_int_equal(ring_waiting(&b->ring, &waiting), 0);
	assert_int_equal(waiting, 1);
	status = ring_take(&b->ring, got, &why);
	assert_int_equal(got->id, sent->id);
	assert_int_equal(got->code, sent->op == 6 ? sent->indirect_op : sent->op);
	assert_true((status != RING_OKAY) == (why != NULL));
	ring_answer(&b->ring, got->id, got->code, status);
	ring_push(&b->ring);
	return status;
}

#define EACH_LAYOUT(is32) for (int is32 = 0; is32 < 2; is32++)

static void ring_holds_as_many_entries_as_the_guest_thinks(void **state)
{
	static const unsigned expect[] = { 32, 64, 128, 256, 512 };
	struct both b;

	EACH_LAYOUT(is32) {
		for (unsigned order = 0; order < 5; order++) {
			both_open(&b, 1u << order, is32);
			assert_int_equal(b.ring.entries, b.front.entries);
			assert_int_equal(b.ring.entries, expect[order]);
			both_close(&b);
		}
	}
}

static void requests_are_read_in_every_layout(void **state)
{
	struct ring_req got;
	struct both b;

	EACH_LAYOUT(is32) {
		struct front_req write = {
			.op = 1, .id = 0x1122334455667788, .sector = 0x100000007, .count = 2,
			.segs = { { 70, 1, 7, {0} }, { 71, 0, 3, {0} } },
		};
		struct front_req discard = {
			.op = 5, .id = 9, .sector = 16, .sectors = 0x200000000,
		};
		struct front_req indirect = {
			.op = 6, .indirect_op = 0, .id = 77, .sector = 5, .count = 200,
			.pages = { 1234 },
		};

		both_open(&b, 1, is32);
		assert_int_equal(pass(&b, &write, &got), RING_OKAY);
		assert_int_equal(got.op, RING_WRITE);
		assert_int_equal(got.offset, 0x100000007 * 512);
		assert_int_equal(got.len, 11 * 512);
		assert_int_equal(got.seg_count, 2);
		assert_int_equal(got.segs[0].gref, 70);
		assert_int_equal(got.segs[0].offset, 512);
		assert_int_equal(got.segs[0].len, 7 * 512);
		assert_int_equal(got.segs[1].gref, 71);
		assert_int_equal(got.segs[1].len, 4 * 512);

		assert_int_equal(pass(&b, &discard, &got), RING_OKAY);
		assert_int_equal(got.offset, 16 * 512);
		assert_int_equal(got.len, 0x200000000 * 512);

		assert_int_equal(pass(&b, &indirect, &got), RING_OKAY);
		assert_true(got.indirect);
		assert_int_equal(got.op, RING_READ);
		assert_int_equal(got.seg_count, 200);
		assert_int_equal(got.pages[0], 1234);
		both_close(&b);
	}
}

static void indirect_segments_are_checked(void **state)
{
	struct front_seg page[256];
	struct ring_seg segs[256];
	const char *why = NULL;
	struct ring_req got;
	struct both b;

	for (unsigned i = 0; i < 256; i++)
		page[i] = (struct front_seg){ .gref = i + 10, .first = 0, .last = 7 };
	both_open(&b, 1, false);
	pass(&b, &(struct front_req){ .op = 6, .indirect_op = 1, .sector = 8, .count = 256 },
	     &got);
	assert_int_equal(ring_indirect(&got, (uint8_t *)page, segs, &why), RING_OKAY);
	assert_int_equal(got.offset, 8 * 512);
	assert_int_equal(got.len, 1 << 20);
	assert_int_equal(segs[255].gref, 265);
	page[255].last = 8;
	assert_int_equal(ring_indirect(&got, (uint8_t *)page, segs, &why), RING_ERROR);
	page[255] = (struct front_seg){ .first = 3, .last = 2 };
	assert_int_equal(ring_indirect(&got, (uint8_t *)page, segs, &why), RING_ERROR);
	both_close(&b);
}

static void bad_requests_are_refused(void **state)
{
	const struct {
		struct front_req req;
		enum ring_status status;
	} bad[] = {
		{ { .op = 0, .count = 0 }, RING_ERROR },
		{ { .op = 0, .count = 12 }, RING_ERROR },
		{ { .op = 1, .count = 255 }, RING_ERROR },
		{ { .op = 2, .count = 12 }, RING_ERROR },
		{ { .op = 0, .count = 1, .segs = { { 1, 0, 8, {0} } } }, RING_ERROR },
		{ { .op = 0, .count = 1, .segs = { { 1, 5, 4, {0} } } }, RING_ERROR },
		{ { .op = 0, .count = 1, .segs = { { 1, 255, 255, {0} } } }, RING_ERROR },
		{ { .op = 1, .count = 1, .sector = UINT64_MAX }, RING_ERROR },
		{ { .op = 1, .count = 1, .sector = UINT64_MAX / 512 }, RING_ERROR },
		{ { .op = 4 }, RING_UNSUPPORTED },
		{ { .op = 5, .sectors = 0 }, RING_ERROR },
		{ { .op = 5, .sectors = 1, .secure = 1 }, RING_UNSUPPORTED },
		{ { .op = 5, .sectors = UINT64_MAX, .sector = 1 }, RING_ERROR },
		{ { .op = 5, .sectors = UINT64_MAX / 512, .sector = 1 }, RING_ERROR },
		{ { .op = 6, .indirect_op = 0, .count = 0 }, RING_ERROR },
		{ { .op = 6, .indirect_op = 0, .count = 257 }, RING_ERROR },
		{ { .op = 6, .indirect_op = 2, .count = 1 }, RING_UNSUPPORTED },
		{ { .op = 6, .indirect_op = 6, .count = 1 }, RING_UNSUPPORTED },
		{ { .op = 7 }, RING_UNSUPPORTED },
		{ { .op = 255 }, RING_UNSUPPORTED },
	};
	struct ring_req got;
	struct both b;

	EACH_LAYOUT(is32) {
		both_open(&b, 1, is32);
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
			struct front_req req = bad[i].req;

			req.id = i + 1000;
			assert_int_equal(pass(&b, &req, &got), bad[i].status);
		}
		both_close(&b);
	}
}

static void barrier_and_flush_may_be_empty(void **state)
{
	struct ring_req got;
	struct both b;

	EACH_LAYOUT(is32) {
		both_open(&b, 1, is32);
		for (uint8_t op = 2; op <= 3; op++) {
			assert_int_equal(pass(&b, &(struct front_req){ .op = op,
						.sector = UINT64_MAX }, &got), RING_OKAY);
			assert_int_equal(got.seg_count, 0);
			assert_int_equal(got.len, 0);
		}
		both_close(&b);
	}
}

static void an_index_past_the_ring_is_noticed(void **state)
{
	static const uint32_t ahead[] = { 33, 34, 1000, 0x80000000, 0xffffffff };
	const char *why;
	struct ring_req got;
	uint32_t waiting;
	struct both b;

	EACH_LAYOUT(is32) {
		both_open(&b, 1, is32);
		for (unsigned i = 0; i < ARRAY_SIZE(ahead); i++) {
			*front_index(&b.front, 0) = ahead[i];
			assert_int_equal(ring_waiting(&b.ring, &waiting), -EPROTO);
		}
		*front_index(&b.front, 0) = 32;
		assert_int_equal(ring_waiting(&b.ring, &waiting), 0);
		assert_int_equal(waiting, 32);
		/* One taken and not answered: its entry is not free yet. */
		ring_take(&b.ring, &got, &why);
		*front_index(&b.front, 0) = 33;
		assert_int_equal(ring_waiting(&b.ring, &waiting), -EPROTO);
		ring_answer(&b.ring, got.id, got.code, RING_OKAY);
		assert_int_equal(ring_waiting(&b.ring, &waiting), 0);
		/* Behind what was taken. */
		*front_index(&b.front, 0) = 0;
		assert_int_equal(ring_waiting(&b.ring, &waiting), -EPROTO);
		both_close(&b);
	}
}

static void indices_wrap_round(void **state)
{
	struct front_answer answer;
	struct ring_req got;
	struct both b;

	EACH_LAYOUT(is32) {
		both_open(&b, 1, is32);
		b.front.req_prod = b.front.rsp_cons = 0xfffffff0;
		for (unsigned i = 0; i < 4; i++)
			*front_index(&b.front, i) = 0xfffffff0 + (i & 1);
		ring_attach(&b.ring, b.memory, 1, is32 ? TD_XEN_X86_32 : TD_XEN_X86_64);
		for (uint64_t id = 0; id < 100; id++) {
			assert_int_equal(pass(&b, &(struct front_req){ .op = 3, .id = id },
					      &got), RING_OKAY);
			assert_true(front_get(&b.front, &answer));
			assert_int_equal(answer.id, id);
			assert_int_equal(answer.op, 3);
			assert_int_equal(answer.status, 0);
		}
		both_close(&b);
	}
}

static void notification_is_wanted_once_for_a_batch(void **state)
{
	const char *why;
	struct ring_req got;
	struct both b;

	both_open(&b, 1, false);
	for (int i = 0; i < 4; i++)
		front_put(&b.front, &(struct front_req){ .op = 3 });
	assert_true(front_push(&b.front));
	for (int i = 0; i < 4; i++) {
		ring_take(&b.ring, &got, &why);
		ring_answer(&b.ring, got.id, got.code, RING_OKAY);
	}
	assert_true(ring_push(&b.ring));  /* the front end sleeps at the first */
	assert_false(ring_push(&b.ring)); /* nothing new */
	/* We are awake: no need to notify us; asleep, there is. */
	front_put(&b.front, &(struct front_req){ .op = 3 });
	assert_false(front_push(&b.front));
	assert_true(ring_sleep(&b.ring)); /* and we see what came in before */
	ring_take(&b.ring, &got, &why);
	assert_false(ring_sleep(&b.ring));
	front_put(&b.front, &(struct front_req){ .op = 3 });
	assert_true(front_push(&b.front));
	both_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_holds_as_many_entries_as_the_guest_thinks),
		cmocka_unit_test(requests_are_read_in_every_layout),
		cmocka_unit_test(indirect_segments_are_checked),
		cmocka_unit_test(bad_requests_are_refused),
		cmocka_unit_test(barrier_and_flush_may_be_empty),
		cmocka_unit_test(an_index_past_the_ring_is_noticed),
		cmocka_unit_test(indices_wrap_round),
		cmocka_unit_test(notification_is_wanted_once_for_a_batch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
