/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole transport against a guest of the test's own: every layout and way of
 * reaching the data, and guests that break the rules, on one ring.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "tests/seed.h"

#define EACH_SETUP(s) \
	for (unsigned n_ = 0; n_ < 6; n_++) \
		for (struct setup s = { .is32 = n_ & 1, .data = (enum td_xen_data)(n_ / 2) }, \
		     *once_ = &s; once_; once_ = NULL)

static void written_data_is_read_back(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		struct front_req write = { .op = 1, .sector = 3, .count = 4 };
		struct front_req read = { .op = 0, .sector = 3, .count = 2 };
		uint8_t expect[20 * 512], *at = expect;

		bench_open(&b, &setup);
		write.segs[0] = bench_seg(&b, 5, 7, 1);
		write.segs[1] = bench_seg(&b, 0, 7, 2);
		write.segs[2] = bench_seg(&b, 0, 7, 3);
		write.segs[3] = bench_seg(&b, 2, 2, 4);
		for (unsigned i = 0; i < 4; i++) {
			size_t len = (write.segs[i].last - write.segs[i].first + 1) * 512ul;

			memcpy(at, sim_page(&b.sim, write.segs[i].gref) +
			       write.segs[i].first * 512, len);
			at += len;
		}
		assert_int_equal(bench_ask(&b, write), 0);
		bench_expect(&b, 3 * 512, expect, sizeof(expect));
		assert_int_equal(b.sim.writable_maps, 1); /* the ring */
		read.segs[0] = bench_seg(&b, 0, 7, 50);
		read.segs[1] = bench_seg(&b, 4, 7, 51);
		assert_int_equal(bench_ask(&b, read), 0);
		assert_memory_equal(sim_page(&b.sim, read.segs[0].gref), expect, 4096);
		assert_memory_equal(sim_page(&b.sim, read.segs[1].gref) + 2048,
				    expect + 4096, 2048);
		/* What was not asked for stays. */
		assert_int_equal(sim_page(&b.sim, read.segs[1].gref)[2047],
				 (uint8_t)(51 * 31 + 3 * 7 + 2047));
		bench_disconnect(&b);
		assert_true(setup.data == TD_XEN_MAP ? !b.sim.copies : b.sim.copies > 0);
		bench_close(&b);
	}
}

static void a_mebibyte_goes_in_one_indirect_request(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		uint32_t from, to;

		bench_open(&b, &setup);
		from = b.next_page;
		for (unsigned i = 0; i < 256; i++)
			bench_seg(&b, 0, 7, i);
		to = b.next_page;
		b.next_page += 256;
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 1, 2048, 256, from)), 0);
		bench_expect(&b, MiB, sim_page(&b.sim, from), MiB);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 2048, 256, to)), 0);
		assert_memory_equal(sim_page(&b.sim, from), sim_page(&b.sim, to), MiB);
		bench_close(&b);
	}
}

static void a_full_ring_of_any_size_is_served(void **state)
{
	struct td_xen_stats stats;
	int answers[512];
	struct bench b;

	EACH_SETUP(setup) {
		for (setup.order = 0; setup.order <= 4; setup.order += 2) {
			unsigned count;

			bench_open(&b, &setup);
			count = b.front[0].entries;
			for (unsigned i = 0; i < count; i++) {
				struct front_req req = { .op = 1, .id = i, .sector = i * 8,
							 .count = 1 };

				answers[i] = 99;
				req.segs[0] = bench_seg(&b, 0, 7, i);
				front_put(&b.front[0], &req);
			}
			bench_push_on(&b, 0);
			bench_collect(&b, count, answers, count);
			for (unsigned i = 0; i < count; i++)
				assert_int_equal(answers[i], 0);
			bench_expect(&b, 0, sim_page(&b.sim, FIRST_DATA), count * 4096ul);
			td_xen_stats(b.xen, &stats);
			assert_int_equal(stats.requests, count);
			assert_int_equal(stats.in_flight, 0);
			/* Batches, not one by one. */
			if (setup.data == TD_XEN_COPY && setup.order < 4)
				assert_true(b.sim.copy_calls <= count / 16);
			bench_close(&b);
		}
	}
}

static void answers_of_a_turn_share_a_notification(void **state)
{
	int answers[30];
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_AUTO });
	for (unsigned i = 0; i < 30; i++)
		front_put(&b.front[0], &(struct front_req){ .op = 4, .id = i });
	bench_push_on(&b, 0);
	bench_collect(&b, 30, answers, 30);
	assert_int_equal(b.sim.notified, 1);
	bench_close(&b);
}

static void more_data_than_buffers_waits(void **state)
{
	int answers[32];
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_COPY });
	for (unsigned i = 0; i < 32; i++) {
		struct front_req req = bench_indirect(&b, i & 1, (i & 7) * 2048, 256, 2000 + i * 256);

		req.id = i;
		answers[i] = 99;
		front_put(&b.front[0], &req);
	}
	bench_push_on(&b, 0);
	bench_collect(&b, 32, answers, 32);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(answers[i], 0);
	bench_close(&b);
}

/* 32 requests of 256 single sectors: more copies than a batch holds. */
static void more_copies_than_a_batch_holds_are_made(void **state)
{
	int answers[32];
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_COPY });
	for (unsigned i = 0; i < 32; i++) {
		struct front_req req = bench_indirect(&b, 1, i * 256, 256, 2000 + i * 256);
		struct front_seg *segs = (void *)sim_page(&b.sim, req.pages[0]);

		for (unsigned s = 0; s < 256; s++) {
			segs[s].first = segs[s].last = s % 8;
			memset(sim_page(&b.sim, segs[s].gref) + s % 8 * 512, (int)(i + s), 512);
		}
		req.id = i;
		answers[i] = 99;
		front_put(&b.front[0], &req);
	}
	bench_push_on(&b, 0);
	bench_collect(&b, 32, answers, 32);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t expect[512];

		assert_int_equal(answers[i], 0);
		memset(expect, (int)(i + 200), sizeof(expect));
		bench_expect(&b, (i * 256 + 200) * 512ul, expect, sizeof(expect));
	}
	bench_close(&b);
}

static void a_bad_grant_fails_its_request_alone(void **state)
{
	int answers[16];
	struct bench b;

	EACH_SETUP(setup) {
		for (int reading = 0; reading < 2; reading++) {
			bench_open(&b, &setup);
			for (unsigned i = 0; i < 16; i++) {
				struct front_req req = { .op = !reading, .id = i,
							 .sector = i * 32, .count = 3 };

				for (unsigned s = 0; s < 3; s++)
					req.segs[s] = bench_seg(&b, 0, 7, i);
				if (i % 4 == 1)
					b.sim.bad[req.segs[i % 3].gref] = 1;
				front_put(&b.front[0], &req);
			}
			bench_push_on(&b, 0);
			bench_collect(&b, 16, answers, 16);
			for (unsigned i = 0; i < 16; i++)
				assert_int_equal(answers[i], i % 4 == 1 ? -1 : 0);
			assert_int_equal(b.sim.mapped, 1); /* the ring */
			bench_close(&b);
		}
	}
}

static void a_bad_page_of_segments_is_an_error(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		struct front_req req;
		struct front_seg *segs;

		bench_open(&b, &setup);
		req = bench_indirect(&b, 1, 0, 20, 5000);
		b.sim.bad[req.pages[0]] = 1;
		assert_int_equal(bench_ask(&b, req), -1);
		req = bench_indirect(&b, 0, 0, 20, 5000);
		segs = (void *)sim_page(&b.sim, req.pages[0]);
		segs[19].last = 8;
		assert_int_equal(bench_ask(&b, req), -1);
		req = bench_indirect(&b, 0, 0, 20, 5000);
		b.sim.bad[5019] = 1;
		assert_int_equal(bench_ask(&b, req), -1);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 0, 19, 5000)), 0);
		bench_close(&b);
	}
}

static void what_the_disk_refuses_is_an_error(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		struct front_req req = { .op = 1, .count = 1 };

		bench_open(&b, &setup);
		req.segs[0] = bench_seg(&b, 0, 7, 1);
		req.sector = DISK_SIZE / 512 - 7;
		assert_int_equal(bench_ask(&b, req), -1);
		req.sector = DISK_SIZE / 512 - 8;
		assert_int_equal(bench_ask(&b, req), 0);
		req.sector = UINT64_MAX / 512;
		assert_int_equal(bench_ask(&b, req), -1);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 9 }), -2);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 4 }), -2);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sectors = 8, .secure = 1 }), -2);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sectors = DISK_SIZE }), -1);
		bench_close(&b);
		setup.read_only = true;
		bench_open(&b, &setup);
		req.sector = 0;
		req.segs[0] = bench_seg(&b, 0, 7, 1);
		assert_int_equal(bench_ask(&b, req), -1);
		req.op = 0;
		assert_int_equal(bench_ask(&b, req), 0);
		bench_close(&b);
	}
}

static void discard_makes_a_hole(void **state)
{
	static const uint8_t zero[8192];
	struct front_req write = { .op = 1, .sector = 16, .count = 2 };
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_AUTO });
	write.segs[0] = bench_seg(&b, 0, 7, 1);
	write.segs[1] = bench_seg(&b, 0, 7, 2);
	assert_int_equal(bench_ask(&b, write), 0);
	assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sector = 16, .sectors = 16 }), 0);
	bench_expect(&b, 8192, zero, sizeof(zero));
	bench_close(&b);
}

/* Each operation is refused where it alone was not offered, and works elsewhere. */
static void what_was_not_offered_is_refused(void **state)
{
	static const struct td_xen_offer offers[] = {
		{ false, true, true, false, 256, 512 }, { true, false, true, false, 256, 512 },
		{ true, true, false, false, 256, 512 }, { true, true, true, false, 0, 512 },
		{ true, true, true, false, 32, 512 },
	};
	struct bench b;

	for (unsigned i = 0; i < ARRAY_SIZE(offers); i++) {
		bench_open(&b, &(struct setup){ .is32 = i & 1, .offer = &offers[i] });
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 3 }), i == 0 ? -2 : 0);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 2 }), i == 1 ? -2 : 0);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sectors = 8 }),
				 i == 2 ? -2 : 0);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 0, 32, 5000)),
				 i == 3 ? -2 : 0);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 0, 33, 5000)),
				 i == 3 ? -2 : i == 4 ? -1 : 0);
		bench_close(&b);
	}
}

/* All numbers of a request count 512 bytes, whatever the sectors are. */
static void large_sectors_are_read_and_written_whole(void **state)
{
	static const struct td_xen_offer offer = { true, true, true, false, 256, 4096 };
	struct bench b;

	EACH_SETUP(setup) {
		struct front_req req = { .op = 1, .sector = 16, .count = 2 };
		uint8_t expect[8192];

		setup.offer = &offer;
		bench_open(&b, &setup);
		req.segs[0] = bench_seg(&b, 4, 7, 1);
		req.segs[1] = bench_seg(&b, 0, 3, 2);
		memcpy(expect, sim_page(&b.sim, req.segs[0].gref) + 2048, 2048);
		memcpy(expect + 2048, sim_page(&b.sim, req.segs[1].gref), 2048);
		assert_int_equal(bench_ask(&b, req), 0);
		bench_expect(&b, 8192, expect, 4096);
		req.sector = 17;
		assert_int_equal(bench_ask(&b, req), -1);
		req.sector = 16;
		req.segs[1].last = 2;
		assert_int_equal(bench_ask(&b, req), -1);
		req.op = 0;
		assert_int_equal(bench_ask(&b, req), -1);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sector = 8,
								   .sectors = 8 }), 0);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 5, .sector = 8,
								   .sectors = 7 }), -1);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 7, 8, 5000)), -1);
		assert_int_equal(bench_ask(&b, bench_indirect(&b, 0, 8, 8, 5000)), 0);
		bench_expect(&b, 8192, expect, 4096);
		bench_close(&b);
	}
}

/* Two writes, a barrier that writes, two writes: nothing passes the barrier, and
 * there is a sync before its data; its data is durable when it is answered. */
static void nothing_passes_a_barrier(void **state)
{
	int answers[5];
	struct bench b;
	const char *after;

	EACH_SETUP(setup) {
		bench_open(&b, &setup);
		for (unsigned i = 0; i < 5; i++) {
			struct front_req req = { .op = i == 2 ? 2 : 1, .id = i,
						 .sector = i * 64, .count = 1 };

			req.segs[0] = bench_seg(&b, 0, 7, i);
			front_put(&b.front[0], &req);
		}
		bench_push_on(&b, 0);
		bench_collect(&b, 5, answers, 5);
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(answers[i], 0);
		assert_int_equal(strspn(b.order, "wW"), 4); /* both have ended */
		assert_memory_equal(b.order + 4, "sS", 2);
		after = b.order + 6;
		if (!strncmp(after, "fF", 2))
			after += 2;
		else if (!strncmp(after, "wWsS", 4))
			after += 4;
		else
			fail_msg("the barrier's data is not durable: %s", b.order);
		assert_int_equal(strspn(after, "wW"), 4);
		assert_int_equal(strlen(after), 4);
		/* Empty, it is a flush. */
		b.events = 0;
		memset(b.order, 0, sizeof(b.order));
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 2 }), 0);
		assert_int_equal(bench_ask(&b, (struct front_req){ .op = 3 }), 0);
		bench_close(&b);
	}
}

static void a_broken_ring_is_served_no_longer(void **state)
{
	struct front_req req = { .op = 3 };
	struct td_xen_stats stats;
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_AUTO });
	assert_int_equal(bench_ask(&b, req), 0);
	*front_index(&b.front[0], 0) = b.front[0].req_prod + 40;
	sim_kick(&b.sim, 0);
	td_log_level(LOG_ERR);
	for (int i = 0; i < 10; i++)
		td_loop_turn(b.loop, 10);
	td_log_level(LOG_CRIT);
	assert_int_equal(b.broken, 1);
	assert_int_equal(b.noise.count, 1); /* told, and counted beyond this connection */
	td_xen_stats(b.xen, &stats);
	assert_true(stats.broken);
	/* Put right again, it stays dead. */
	*front_index(&b.front[0], 0) = b.front[0].req_prod;
	bench_send(&b, &req);
	sim_kick(&b.sim, 0);
	for (int i = 0; i < 10; i++)
		td_loop_turn(b.loop, 10);
	assert_int_equal(*front_index(&b.front[0], 2), b.front[0].rsp_cons);
	bench_close(&b);
}

static void disconnecting_waits_for_requests_in_flight(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		bench_open(&b, &setup);
		for (unsigned i = 0; i < 30; i++) {
			struct front_req req = i == 15 ? (struct front_req){ .op = 2 } :
				bench_indirect(&b, i & 1, (i & 7) * 2048, 200, 2000 + i * 256);

			front_put(&b.front[0], &req);
		}
		bench_push_on(&b, 0);
		td_loop_turn(b.loop, 0);
		td_loop_turn(b.loop, 0);
		bench_close(&b);
	}
}

static struct front_req random_request(void)
{
	struct front_req req = {
		.op = (uint8_t)(random() % 7), .id = (uint64_t)random(),
		.sector = (uint64_t)random() % (DISK_SIZE / 512),
		.count = (unsigned)random() % 13,
		.sectors = (uint64_t)random() % 4096,
		.indirect_op = (uint8_t)(random() % 2),
		.pages = { (uint32_t)random() % 500 },
	};

	if (random() % 2)
		req.count = 1 + (unsigned)random() % 200;
	for (unsigned s = 0; s < 11; s++)
		req.segs[s] = (struct front_seg){
			.gref = (uint32_t)random() % 420,
			.first = (uint8_t)(random() % 4),
			.last = (uint8_t)(3 + random() % 5),
		};
	return req;
}

/* Fills a ring with nonsense, and pages with what may be segments. */
static void random_turn(struct bench *b, unsigned ring)
{
	struct front *front = &b->front[ring];
	uint32_t n = (uint32_t)random() % front->entries;

	for (uint32_t i = 0; i < n; i++) {
		struct front_req req = random_request();

		front_put(front, &req);
		if (!(random() % 8))
			front_entry(front, front->req_prod - 1)[random() % 108] =
				(uint8_t)random();
	}
	/* Pages of segments: sane ones now and then. */
	for (unsigned p = 100; p < 140; p++)
		for (unsigned s = 0; s < 512; s += 1 + (unsigned)random() % 9)
			((struct front_seg *)sim_page(&b->sim, p))[s] =
				(struct front_seg){ (uint32_t)random() % 420, 0,
						    (uint8_t)(random() % 9), { 0 } };
	__atomic_store_n(front_index(front, 0), *front_index(front, 2) + n, __ATOMIC_SEQ_CST);
	if (!(random() % 200))
		*front_index(front, (unsigned)random() % 4) = (uint32_t)random();
	sim_kick(&b->sim, ring);
}

/* A guest that writes anything anywhere gets answers or silence; nothing of its
 * memory stays mapped and nothing else comes of it. */
static void random_guests_do_no_harm(void **state)
{
	unsigned seed = (unsigned)test_seed();
	struct bench b;

	print_message("seed %u\n", seed);
	srandom(seed);
	for (int round = 0; round < 60; round++) {
		const struct td_xen_offer offer = {
			.flush = random() % 8, .barrier = random() % 8, .discard = random() % 8,
			.persistent = random() % 2, .segments = (unsigned)random() % 257,
			.sector = random() % 4 ? 512 : 4096,
		};
		struct setup setup = {
			.is32 = random() & 1, .data = (enum td_xen_data)(random() % 3),
			.order = (unsigned)random() % 5, .read_only = !(random() % 5),
			.rings = 1 + (unsigned)random() % 4,
			.queues = random() % 2 ? 1 : 3, .quiet = true, .offer = &offer,
			.poll_us = random() % 2 ? 0 : 20,
		};

		bench_open(&b, &setup);
		for (unsigned i = FIRST_DATA; i < 400; i++)
			b.sim.bad[i] = !(random() % 40);
		for (int turn = 0; turn < 40; turn++) {
			random_turn(&b, (unsigned)random() % b.rings);
			td_loop_turn(b.loop, 0);
			td_loop_turn(b.loop, 0);
		}
		bench_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(written_data_is_read_back),
		cmocka_unit_test(a_mebibyte_goes_in_one_indirect_request),
		cmocka_unit_test(a_full_ring_of_any_size_is_served),
		cmocka_unit_test(answers_of_a_turn_share_a_notification),
		cmocka_unit_test(more_data_than_buffers_waits),
		cmocka_unit_test(more_copies_than_a_batch_holds_are_made),
		cmocka_unit_test(a_bad_grant_fails_its_request_alone),
		cmocka_unit_test(a_bad_page_of_segments_is_an_error),
		cmocka_unit_test(what_the_disk_refuses_is_an_error),
		cmocka_unit_test(discard_makes_a_hole),
		cmocka_unit_test(what_was_not_offered_is_refused),
		cmocka_unit_test(large_sectors_are_read_and_written_whole),
		cmocka_unit_test(nothing_passes_a_barrier),
		cmocka_unit_test(a_broken_ring_is_served_no_longer),
		cmocka_unit_test(disconnecting_waits_for_requests_in_flight),
		cmocka_unit_test(random_guests_do_no_harm),
	};

	td_log_level(LOG_CRIT); /* what guests do wrong is told; not here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
