/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Grants that stay mapped: how many, for how long, and that it shows in nothing but
 * the number of hypercalls.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "transports/xen/grants.h"

static const struct td_xen_offer persistent = {
	.flush = true, .barrier = true, .discard = true, .persistent = true,
	.segments = 256, .sector = 512,
};

static void kept_grants_are_mapped_once(void **state)
{
	struct td_xen_stats stats;
	struct bench b;

	for (int is32 = 0; is32 < 2; is32++) {
		struct front_req write = { .op = 1, .sector = 3, .count = 3 }, read = write;
		uint8_t expect[3 * 4096];

		bench_open(&b, &(struct setup){ .is32 = is32, .offer = &persistent });
		for (unsigned i = 0; i < 3; i++) {
			write.segs[i] = bench_seg(&b, 0, 7, i);
			read.segs[i] = bench_seg(&b, 0, 7, 50 + i);
		}
		read.op = 0;
		for (unsigned round = 0; round < 20; round++) {
			for (unsigned i = 0; i < 3; i++) {
				uint8_t *page = sim_page(&b.sim, write.segs[i].gref);

				memset(page, (int)(round * 3 + i), 4096);
				memcpy(expect + i * 4096, page, 4096);
			}
			assert_int_equal(bench_ask(&b, write), 0);
			assert_int_equal(bench_ask(&b, read), 0);
			bench_expect(&b, 3 * 512, expect, sizeof(expect));
			for (unsigned i = 0; i < 3; i++)
				assert_memory_equal(sim_page(&b.sim, read.segs[i].gref),
						    expect + i * 4096, 4096);
		}
		assert_int_equal(b.sim.mapped, 1 + 6);
		assert_int_equal(b.sim.maps, 1 + 6);
		assert_int_equal(b.sim.copies, 0);
		td_xen_stats(b.xen, &stats);
		assert_int_equal(stats.kept, 40);
		bench_close(&b); /* and nothing is mapped then */
	}
}

/* 8 x 256 pages at once are more than are kept: some requests go another way. */
static void no_more_are_kept_than_the_bound(void **state)
{
	struct td_xen_stats stats;
	struct bench b;
	int answers[8];

	bench_open(&b, &(struct setup){ .offer = &persistent });
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 8; i++) {
			uint32_t first = 1000 + (round * 8 + i) * 256;
			struct front_req req = bench_indirect(&b, 1, i * 2048, 256, first);

			memset(sim_page(&b.sim, first), (int)(round * 8 + i + 1), MiB);
			req.id = i;
			front_put(&b.front[0], &req);
		}
		bench_push_on(&b, 0);
		bench_collect(&b, 8, answers, 8);
		for (unsigned i = 0; i < 8; i++) {
			assert_int_equal(answers[i], 0);
			bench_expect(&b, i * MiB,
				     sim_page(&b.sim, 1000 + (round * 8 + i) * 256), MiB);
		}
		assert_true(b.sim.mapped <= 1 + GRANTS_MAX);
	}
	td_xen_stats(b.xen, &stats);
	assert_true(stats.kept && stats.kept + stats.mapped + stats.copied == 24);
	bench_close(&b);
}

static void a_bad_grant_fails_its_request_alone(void **state)
{
	int answers[16];
	struct bench b;

	bench_open(&b, &(struct setup){ .offer = &persistent });
	for (unsigned i = 0; i < 16; i++) {
		struct front_req req = { .op = (uint8_t)(i & 1), .id = i, .sector = i * 32,
					 .count = 3 };

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
	bench_close(&b);
}

static struct grant *got(struct grants *grants, uint32_t gref)
{
	int err = 0;
	struct grant *grant = grants_get(grants, gref, &err);

	assert_int_equal(err, 0);
	return grant;
}

static void the_one_unused_for_longest_makes_room(void **state)
{
	struct sim *sim = malloc(sizeof(*sim));
	struct grants grants;
	struct grant *used, *kept;
	int err = 0;

	sim_open(sim);
	assert_int_equal(grants_init(&grants, &sim->ring[0].guest), 0);
	for (uint32_t gref = 1; gref <= GRANTS_MAX; gref++)
		grants_put(&grants, got(&grants, gref), gref);
	assert_int_equal(sim->maps, GRANTS_MAX);
	grants_put(&grants, got(&grants, 1), GRANTS_MAX + 1); /* used again */
	used = got(&grants, 2);
	kept = got(&grants, 2); /* twice at once */
	assert_ptr_equal(used, kept);
	assert_int_equal(sim->maps, GRANTS_MAX);
	grants_put(&grants, got(&grants, 5000), GRANTS_MAX + 2);
	assert_int_equal(sim->mapped, GRANTS_MAX);
	assert_int_equal(sim->maps, GRANTS_MAX + 1);
	grants_put(&grants, got(&grants, 1), GRANTS_MAX + 3); /* still there */
	assert_int_equal(sim->maps, GRANTS_MAX + 1);
	grants_put(&grants, got(&grants, 3), GRANTS_MAX + 4); /* it was the oldest */
	assert_int_equal(sim->maps, GRANTS_MAX + 2);
	sim->bad[6000] = 1;
	assert_null(grants_get(&grants, 6000, &err));
	assert_int_equal(err, -EFAULT);
	assert_int_equal(sim->mapped, GRANTS_MAX - 1); /* room was made for it */
	grants_put(&grants, kept, 1);
	grants_put(&grants, used, 1);
	grants_fini(&grants);
	assert_int_equal(sim->mapped, 0);
	sim_close(sim);
	free(sim);
}

static void what_is_not_used_is_dropped(void **state)
{
	struct sim *sim = malloc(sizeof(*sim));
	struct grant *used;
	struct grants grants;

	sim_open(sim);
	assert_int_equal(grants_init(&grants, &sim->ring[0].guest), 0);
	used = got(&grants, 500);
	for (uint32_t gref = 1; gref <= 100; gref++)
		grants_put(&grants, got(&grants, gref), gref * 10);
	grants_drop(&grants, 500); /* those of 10 ... 490 */
	assert_int_equal(sim->mapped, 1 + 51);
	grants_drop(&grants, 5000);
	assert_int_equal(sim->mapped, 1);
	grants_put(&grants, got(&grants, 1), 6000);
	assert_int_equal(sim->mapped, 2);
	grants_put(&grants, used, 6000);
	grants_fini(&grants);
	assert_int_equal(sim->mapped, 0);
	sim_close(sim);
	free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kept_grants_are_mapped_once),
		cmocka_unit_test(no_more_are_kept_than_the_bound),
		cmocka_unit_test(a_bad_grant_fails_its_request_alone),
		cmocka_unit_test(the_one_unused_for_longest_makes_room),
		cmocka_unit_test(what_is_not_used_is_dropped),
	};

	td_log_level(LOG_CRIT); /* what guests do wrong is told; not here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
