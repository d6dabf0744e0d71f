/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests with several rings, on disks with one queue and with several: who serves
 * which, all that a front end and we can agree on, and what goes wrong.
 */
#include <errno.h>
#include <string.h>

#include "bench.h"

#define BLOCK 4096u

/* Ring r's n-th request is about a block that is nobody else's. */
static uint64_t sector_of(const struct bench *b, unsigned ring, unsigned n)
{
	return ((uint64_t)n * b->rings + ring) * (BLOCK / 512);
}

/* As many of one kind as the ring holds, on all rings at once. */
static unsigned fill(struct bench *b, uint8_t op, unsigned most, uint32_t first_page)
{
	unsigned count = (unsigned)min_u64(b->front[0].entries, most);

	for (unsigned r = 0; r < b->rings; r++) {
		for (unsigned i = 0; i < count; i++) {
			struct front_req req = {
				.op = op, .id = i, .sector = sector_of(b, r, i), .count = 1,
				.segs = { { .gref = first_page + r * count + i, .last = 7 } },
			};

			if (op == 1)
				memset(sim_page(&b->sim, req.segs[0].gref),
				       (int)(r * 37 + i + 1), BLOCK);
			front_put(&b->front[r], &req);
		}
	}
	for (unsigned r = 0; r < b->rings; r++)
		bench_push_on(b, r);
	return count;
}

static void all_well(struct bench *b, unsigned count)
{
	int answers[512];

	for (unsigned r = 0; r < b->rings; r++) {
		memset(answers, 99, sizeof(answers));
		bench_collect_on(b, r, count, answers, count);
		for (unsigned i = 0; i < count; i++)
			assert_int_equal(answers[i], 0);
	}
}

/* What all rings write is what all rings read. */
static void write_and_read(struct bench *b, unsigned most)
{
	uint32_t from = FIRST_DATA, to;
	unsigned count = fill(b, 1, most, from);

	all_well(b, count);
	to = from + b->rings * count;
	fill(b, 0, most, to);
	all_well(b, count);
	assert_memory_equal(sim_page(&b->sim, from), sim_page(&b->sim, to),
			    b->rings * count * BLOCK);
}

static void every_agreement_of_rings_and_queues_works(void **state)
{
	static const unsigned orders[] = { 0, 2, 4 };
	static const struct { unsigned rings, queues; } shapes[] = {
		{ 1, 1 }, { 1, 3 }, { 2, 1 }, { 2, 2 }, { 5, 3 }, { TD_XEN_MAX_RINGS, 2 },
	};
	struct td_xen_stats stats;
	struct bench b;

	for (unsigned n = 0; n < 2 * 3 * ARRAY_SIZE(orders) * ARRAY_SIZE(shapes); n++) {
		unsigned shape = n / 18;
		struct setup setup = {
			.is32 = n & 1, .data = (enum td_xen_data)(n / 2 % 3),
			.order = orders[n / 6 % 3], .rings = shapes[shape].rings,
			.queues = shapes[shape].queues, .quiet = true,
		};

		bench_open(&b, &setup);
		write_and_read(&b, setup.order ? 64 : 32);
		td_xen_stats(b.xen, &stats);
		assert_int_equal(stats.requests,
				 2 * b.rings * min_u64(b.front[0].entries, 64));
		assert_false(stats.broken);
		bench_close(&b);
	}
}

static void a_ring_lives_on_its_queue(void **state)
{
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_COPY, .rings = 5, .queues = 2,
					.quiet = true });
	write_and_read(&b, 8);
	bench_disconnect(&b);
	assert_true(pthread_equal(b.sim.ring[0].thread, pthread_self()));
	assert_false(pthread_equal(b.sim.ring[1].thread, pthread_self()));
	for (unsigned r = 2; r < b.rings; r++)
		assert_true(pthread_equal(b.sim.ring[r].thread, b.sim.ring[r % 2].thread));
	bench_close(&b);
}

static void all_rings_or_none_are_mapped(void **state)
{
	struct setup setup = { .order = 1, .rings = 4, .queues = 2, .quiet = true };
	struct td_xen_params params, bad;
	struct td_why why;
	struct bench b;

	bench_prepare(&b, &setup, &params);
	for (unsigned r = 0; r < 4; r++) {
		bad = params;
		bad.rings[r].refs[1] = r % 2 ? 0 : SIM_PAGES + 5;
		assert_int_not_equal(bench_connect(&b, &bad, &why), 0);
		assert_non_null(strstr(why.text, "domain 7"));
		assert_int_equal(why.text[strlen("ring ")], '0' + r);
		assert_int_equal(b.sim.mapped, 0);
		assert_int_equal(b.sim.freed, 4);
	}
	assert_int_equal(bench_connect(&b, &params, &why), 0);
	write_and_read(&b, 16);
	bench_close(&b);
}

static void a_broken_ring_breaks_the_connection_once(void **state)
{
	uint64_t end = td_now_ms() + 60000;
	struct td_xen_stats stats;
	struct bench b;

	bench_open(&b, &(struct setup){ .rings = 4, .queues = 3, .quiet = true });
	write_and_read(&b, 8);
	for (unsigned r = 1; r < 4; r++) {
		*front_index(&b.front[r], 0) = b.front[r].req_prod + 1000;
		sim_kick(&b.sim, r);
	}
	while (!b.broken && td_now_ms() < end)
		td_loop_turn(b.loop, 10);
	for (int i = 0; i < 10; i++)
		td_loop_turn(b.loop, 5);
	assert_int_equal(b.broken, 1);
	td_xen_stats(b.xen, &stats);
	assert_true(stats.broken);
	/* The one that is whole is served until it is over. */
	assert_int_equal(bench_ask(&b, (struct front_req){ .op = 3 }), 0);
	bench_close(&b);
}

static void disconnecting_under_load_drains_every_ring(void **state)
{
	struct bench b;

	for (unsigned queues = 1; queues <= 3; queues++) {
		for (unsigned turns = 0; turns < 4; turns++) {
			bench_open(&b, &(struct setup){ .data = (enum td_xen_data)(turns % 3),
							.rings = 6, .queues = queues,
							.order = 1, .quiet = true });
			fill(&b, turns & 1, 64, FIRST_DATA);
			for (unsigned i = 0; i < turns; i++)
				td_loop_turn(b.loop, 0);
			bench_close(&b);
		}
	}
}

/* A barrier orders its own ring: another's requests go on. */
static void a_barrier_holds_its_own_ring_only(void **state)
{
	int answers[8];
	struct bench b;

	bench_open(&b, &(struct setup){ .rings = 2, .queues = 2, .quiet = true });
	for (unsigned i = 0; i < 8; i++) {
		for (unsigned r = 0; r < 2; r++) {
			struct front_req req = { .op = r == 0 && i % 2 ? 2 : 1, .id = i,
						 .sector = sector_of(&b, r, i), .count = 1 };

			req.segs[0] = bench_seg(&b, 0, 7, i + r);
			front_put(&b.front[r], &req);
		}
	}
	for (unsigned r = 0; r < 2; r++)
		bench_push_on(&b, r);
	for (unsigned r = 2; r-- > 0;) {
		bench_collect_on(&b, r, 8, answers, 8);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(answers[i], 0);
	}
	bench_close(&b);
}

/* A guest that asks again at once is met by a server that still looks; then it rests. */
static void polling_finds_requests_and_ends_at_rest(void **state)
{
	struct td_xen_stats stats;
	unsigned notices = 0;
	struct bench b;

	bench_open(&b, &(struct setup){ .poll_us = 1000 });
	for (int i = 0; i < 200; i++) {
		front_put(&b.front[0], &(struct front_req){ .op = 3 });
		if (front_push(&b.front[0])) {
			notices++;
			sim_kick(&b.sim, 0);
		}
		bench_collect(&b, 1, &(int){ 0 }, 1);
	}
	td_xen_stats(b.xen, &stats);
	assert_true(stats.polled > 0);
	assert_true(notices < 200);
	/* It sleeps in the end: the next request needs to say so. */
	uint64_t end = td_now_ms() + 20;
	for (int turns = 0; turns < 20 || td_now_ms() < end; turns++)
		td_loop_turn(b.loop, 1);
	front_put(&b.front[0], &(struct front_req){ .op = 3 });
	assert_true(front_push(&b.front[0]));
	sim_kick(&b.sim, 0);
	bench_collect(&b, 1, &(int){ 0 }, 1);
	bench_close(&b);
}

static void on_resized(void *arg, int err, const char *why)
{
	*(int *)arg = err;
}

static int resize(struct bench *b, uint64_t size)
{
	uint64_t end = td_now_ms() + 60000;
	struct td_why why;
	int result = 1, err = td_disk_resize(b->disk, size, on_resized, &result, &why);

	if (err)
		return err;
	assert_int_equal(td_disk_resize(b->disk, size, on_resized, &result, &why), -EALREADY);
	while (result == 1 && td_now_ms() < end)
		td_loop_turn(b->loop, 1);
	return result;
}

/* Requests under way end, those that come meanwhile wait, and none fails. */
static void a_disk_grows_under_load(void **state)
{
	static const struct { unsigned rings, queues; } shapes[] = { { 1, 1 }, { 6, 3 } };
	struct bench b;

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct front_req beyond = { .op = 1, .sector = DISK_SIZE / 512 + 8, .count = 1 };

		bench_open(&b, &(struct setup){ .rings = shapes[i].rings, .order = 1,
						.queues = shapes[i].queues, .quiet = true });
		beyond.segs[0] = bench_seg(&b, 0, 7, 3);
		assert_int_equal(bench_ask(&b, beyond), -1);
		for (unsigned round = 1; round < 6; round++) {
			unsigned count = fill(&b, 1, 32, FIRST_DATA + 8);

			td_loop_turn(b.loop, 0);
			assert_int_equal(resize(&b, DISK_SIZE + round * MiB), 0);
			assert_int_equal(td_disk_size(b.disk), DISK_SIZE + round * MiB);
			all_well(&b, count);
		}
		assert_int_equal(bench_ask(&b, beyond), 0);
		bench_expect(&b, DISK_SIZE + 4096, sim_page(&b.sim, beyond.segs[0].gref), 4096);
		assert_int_equal(resize(&b, DISK_SIZE), -EINVAL);
		assert_int_equal(resize(&b, DISK_SIZE * 2 + 100), -EINVAL);
		bench_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_agreement_of_rings_and_queues_works),
		cmocka_unit_test(a_ring_lives_on_its_queue),
		cmocka_unit_test(all_rings_or_none_are_mapped),
		cmocka_unit_test(a_broken_ring_breaks_the_connection_once),
		cmocka_unit_test(disconnecting_under_load_drains_every_ring),
		cmocka_unit_test(a_barrier_holds_its_own_ring_only),
		cmocka_unit_test(polling_finds_requests_and_ends_at_rest),
		cmocka_unit_test(a_disk_grows_under_load),
	};

	td_log_level(LOG_CRIT); /* what guests do wrong is told; not here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
