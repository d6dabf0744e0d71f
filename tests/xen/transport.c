/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole transport against a guest of the test's own: every layout and way of
 * reaching the data, and guests that break the rules. The disk is a raw file; a
 * hook under it records the order of writes and syncs.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/registry.h"
#include "drivers/builtin.h"
#include "front.h"
#include "io/loop.h"
#include "sim.h"
#include "transports/xen/xen.h"

#define DISK_SIZE (8 * MiB)
#define FIRST_DATA 32u /* grants below it: the ring */

struct bench {
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_xen *xen;
	struct sim sim;
	struct front front;
	struct td_file_hook hook;
	char path[64];
	char order[256];        /* of the file's writes, durable ones and syncs:
	                           w, f, s as they begin, W, F, S as they end */
	unsigned events;
	bool broken, closed;
	struct td_ratelimit noise;
	uint32_t next_page;
};

static void saw(struct bench *b, char what)
{
	if (b->events < sizeof(b->order) - 1)
		b->order[b->events++] = what;
}

static int hook_begin(struct td_file_hook *hook, const struct td_file_op_seen *op,
		      uint64_t *id)
{
	*id = op->event == TD_EV_WRITE ? (op->dsync ? 'f' : 'w') :
	      op->event == TD_EV_SYNC  ? 's' : 0;
	if (*id)
		saw(container_of(hook, struct bench, hook), (char)*id);
	return 0;
}

static void hook_end(struct td_file_hook *hook, uint64_t id, int err)
{
	if (id)
		saw(container_of(hook, struct bench, hook), (char)(id - 'a' + 'A'));
}

static void on_broken(void *arg)
{
	((struct bench *)arg)->broken = true;
}

static void on_closed(void *arg)
{
	((struct bench *)arg)->closed = true;
}

struct setup {
	bool is32;
	enum td_xen_data data;
	unsigned order;
	bool read_only;
};

static void bench_disk(struct bench *b, const struct setup *setup)
{
	struct td_disk_options options = {
		.name = "test", .read_only = setup->read_only, .hook = &b->hook,
	};
	struct td_why why = { "" };
	char spec[80];
	int fd;

	snprintf(b->path, sizeof(b->path), "xen-transport-%d.img", getpid());
	fd = open(b->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	assert_int_equal(td_loop_new(&b->loop), 0);
	assert_int_equal(td_registry_new(NULL, &b->registry), 0);
	assert_int_equal(td_registry_add_all(b->registry, td_builtin_drivers,
					     td_builtin_aliases), 0);
	b->hook.begin = hook_begin;
	b->hook.end = hook_end;
	snprintf(spec, sizeof(spec), "aio:%s", b->path);
	if (td_disk_open(b->loop, b->registry, spec, &options, &b->disk, &why))
		fail_msg("%s", why.text);
}

static void bench_open(struct bench *b, const struct setup *setup)
{
	struct td_xen_params params = {
		.domid = 7, .devid = 51712, .ring_order = setup->order,
		.protocol = setup->is32 ? TD_XEN_X86_32 : TD_XEN_X86_64,
		.data = setup->data, .broken = on_broken, .arg = b,
		.noise = &b->noise,
	};
	struct td_why why = { "" };

	memset(b, 0, sizeof(*b));
	bench_disk(b, setup);
	sim_open(&b->sim);
	for (unsigned i = 0; i < 1u << setup->order; i++)
		params.ring_refs[i] = i + 1;
	front_init(&b->front, sim_page(&b->sim, 1), 1u << setup->order, setup->is32);
	if (xen_connect_guest(b->disk, &params, &b->sim.guest, &b->xen, &why))
		fail_msg("%s", why.text);
	b->next_page = FIRST_DATA;
}

static void bench_disconnect(struct bench *b)
{
	uint64_t end = td_now_ms() + 10000;

	td_xen_disconnect(b->xen, on_closed, b);
	while (!b->closed && td_now_ms() < end)
		td_loop_turn(b->loop, 100);
	assert_true(b->closed);
	assert_int_equal(b->sim.mapped, 0);
	assert_int_equal(b->sim.freed, 1);
}

static void bench_close(struct bench *b)
{
	if (!b->closed)
		bench_disconnect(b);
	td_disk_close(b->disk);
	td_registry_free(b->registry);
	td_loop_free(b->loop);
	sim_close(&b->sim);
	unlink(b->path);
}

/* ---- requests ------------------------------------------------------------------ */

static uint32_t new_page(struct bench *b)
{
	assert_true(b->next_page < SIM_PAGES);
	return b->next_page++;
}

/* Each segment goes to a page of its own, filled by seed. */
static struct front_seg new_seg(struct bench *b, unsigned first, unsigned last, unsigned seed)
{
	struct front_seg seg = { .gref = new_page(b), .first = first, .last = last };
	uint8_t *page = sim_page(&b->sim, seg.gref);

	for (unsigned i = 0; i < 4096; i++)
		page[i] = (uint8_t)(seed * 31 + i / 512 * 7 + i);
	return seg;
}

static void send(struct bench *b, const struct front_req *req)
{
	front_put(&b->front, req);
	if (front_push(&b->front))
		sim_kick(&b->sim);
}

/* Waits for count answers; answers[id] = status, for ids below limit. */
static void collect(struct bench *b, unsigned count, int *answers, unsigned limit)
{
	uint64_t end = td_now_ms() + 10000;
	struct front_answer answer;

	while (count) {
		if (front_get(&b->front, &answer)) {
			assert_true(answer.id < limit);
			assert_int_not_equal(answer.op, 6); /* but the op within */
			answers[answer.id] = answer.status;
			count--;
			continue;
		}
		assert_true(td_now_ms() < end);
		td_loop_turn(b->loop, 100);
	}
}

static int ask(struct bench *b, struct front_req req)
{
	int answer = 99;

	req.id = 0;
	send(b, &req);
	collect(b, 1, &answer, 1);
	return answer;
}

static void expect_file(struct bench *b, uint64_t at, const void *data, size_t len)
{
	uint8_t *found = malloc(len);
	int fd = open(b->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, found, len, (off_t)at), len);
	assert_memory_equal(found, data, len);
	close(fd);
	free(found);
}

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
		write.segs[0] = new_seg(&b, 5, 7, 1);
		write.segs[1] = new_seg(&b, 0, 7, 2);
		write.segs[2] = new_seg(&b, 0, 7, 3);
		write.segs[3] = new_seg(&b, 2, 2, 4);
		for (unsigned i = 0; i < 4; i++) {
			size_t len = (write.segs[i].last - write.segs[i].first + 1) * 512ul;

			memcpy(at, sim_page(&b.sim, write.segs[i].gref) +
			       write.segs[i].first * 512, len);
			at += len;
		}
		assert_int_equal(ask(&b, write), 0);
		expect_file(&b, 3 * 512, expect, sizeof(expect));
		assert_int_equal(b.sim.writable_maps, 1); /* the ring */
		read.segs[0] = new_seg(&b, 0, 7, 50);
		read.segs[1] = new_seg(&b, 4, 7, 51);
		assert_int_equal(ask(&b, read), 0);
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

/* An indirect request of count whole pages, from page first on. */
static struct front_req indirect(struct bench *b, uint8_t op, uint64_t sector,
				 unsigned count, uint32_t first)
{
	struct front_req req = {
		.op = 6, .indirect_op = op, .sector = sector, .count = count,
		.pages = { new_page(b) },
	};
	struct front_seg *segs = (void *)sim_page(&b->sim, req.pages[0]);

	for (unsigned i = 0; i < count; i++)
		segs[i] = (struct front_seg){ .gref = first + i, .first = 0, .last = 7 };
	return req;
}

static void a_mebibyte_goes_in_one_indirect_request(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		uint32_t from, to;

		bench_open(&b, &setup);
		from = b.next_page;
		for (unsigned i = 0; i < 256; i++)
			new_seg(&b, 0, 7, i);
		to = b.next_page;
		b.next_page += 256;
		assert_int_equal(ask(&b, indirect(&b, 1, 2048, 256, from)), 0);
		expect_file(&b, MiB, sim_page(&b.sim, from), MiB);
		assert_int_equal(ask(&b, indirect(&b, 0, 2048, 256, to)), 0);
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
			count = b.front.entries;
			for (unsigned i = 0; i < count; i++) {
				struct front_req req = { .op = 1, .id = i, .sector = i * 8,
							 .count = 1 };

				answers[i] = 99;
				req.segs[0] = new_seg(&b, 0, 7, i);
				front_put(&b.front, &req);
			}
			if (front_push(&b.front))
				sim_kick(&b.sim);
			collect(&b, count, answers, count);
			for (unsigned i = 0; i < count; i++)
				assert_int_equal(answers[i], 0);
			expect_file(&b, 0, sim_page(&b.sim, FIRST_DATA), count * 4096ul);
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
		front_put(&b.front, &(struct front_req){ .op = 4, .id = i });
	if (front_push(&b.front))
		sim_kick(&b.sim);
	collect(&b, 30, answers, 30);
	assert_int_equal(b.sim.notified, 1);
	bench_close(&b);
}

static void more_data_than_buffers_waits(void **state)
{
	int answers[32];
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_COPY });
	for (unsigned i = 0; i < 32; i++) {
		struct front_req req = indirect(&b, i & 1, (i & 7) * 2048, 256, 2000 + i * 256);

		req.id = i;
		answers[i] = 99;
		front_put(&b.front, &req);
	}
	if (front_push(&b.front))
		sim_kick(&b.sim);
	collect(&b, 32, answers, 32);
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
		struct front_req req = indirect(&b, 1, i * 256, 256, 2000 + i * 256);
		struct front_seg *segs = (void *)sim_page(&b.sim, req.pages[0]);

		for (unsigned s = 0; s < 256; s++) {
			segs[s].first = segs[s].last = s % 8;
			memset(sim_page(&b.sim, segs[s].gref) + s % 8 * 512, (int)(i + s), 512);
		}
		req.id = i;
		answers[i] = 99;
		front_put(&b.front, &req);
	}
	if (front_push(&b.front))
		sim_kick(&b.sim);
	collect(&b, 32, answers, 32);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t expect[512];

		assert_int_equal(answers[i], 0);
		memset(expect, (int)(i + 200), sizeof(expect));
		expect_file(&b, (i * 256 + 200) * 512ul, expect, sizeof(expect));
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
					req.segs[s] = new_seg(&b, 0, 7, i);
				if (i % 4 == 1)
					b.sim.bad[req.segs[i % 3].gref] = 1;
				front_put(&b.front, &req);
			}
			if (front_push(&b.front))
				sim_kick(&b.sim);
			collect(&b, 16, answers, 16);
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
		req = indirect(&b, 1, 0, 20, 5000);
		b.sim.bad[req.pages[0]] = 1;
		assert_int_equal(ask(&b, req), -1);
		req = indirect(&b, 0, 0, 20, 5000);
		segs = (void *)sim_page(&b.sim, req.pages[0]);
		segs[19].last = 8;
		assert_int_equal(ask(&b, req), -1);
		req = indirect(&b, 0, 0, 20, 5000);
		b.sim.bad[5019] = 1;
		assert_int_equal(ask(&b, req), -1);
		assert_int_equal(ask(&b, indirect(&b, 0, 0, 19, 5000)), 0);
		bench_close(&b);
	}
}

static void what_the_disk_refuses_is_an_error(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		struct front_req req = { .op = 1, .count = 1 };

		bench_open(&b, &setup);
		req.segs[0] = new_seg(&b, 0, 7, 1);
		req.sector = DISK_SIZE / 512 - 7;
		assert_int_equal(ask(&b, req), -1);
		req.sector = DISK_SIZE / 512 - 8;
		assert_int_equal(ask(&b, req), 0);
		req.sector = UINT64_MAX / 512;
		assert_int_equal(ask(&b, req), -1);
		assert_int_equal(ask(&b, (struct front_req){ .op = 9 }), -2);
		assert_int_equal(ask(&b, (struct front_req){ .op = 4 }), -2);
		assert_int_equal(ask(&b, (struct front_req){ .op = 5, .sectors = 8, .secure = 1 }), -2);
		assert_int_equal(ask(&b, (struct front_req){ .op = 5, .sectors = DISK_SIZE }), -1);
		bench_close(&b);
		setup.read_only = true;
		bench_open(&b, &setup);
		req.sector = 0;
		req.segs[0] = new_seg(&b, 0, 7, 1);
		assert_int_equal(ask(&b, req), -1);
		req.op = 0;
		assert_int_equal(ask(&b, req), 0);
		bench_close(&b);
	}
}

static void discard_makes_a_hole(void **state)
{
	static const uint8_t zero[8192];
	struct front_req write = { .op = 1, .sector = 16, .count = 2 };
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_AUTO });
	write.segs[0] = new_seg(&b, 0, 7, 1);
	write.segs[1] = new_seg(&b, 0, 7, 2);
	assert_int_equal(ask(&b, write), 0);
	assert_int_equal(ask(&b, (struct front_req){ .op = 5, .sector = 16, .sectors = 16 }), 0);
	expect_file(&b, 8192, zero, sizeof(zero));
	bench_close(&b);
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

			req.segs[0] = new_seg(&b, 0, 7, i);
			front_put(&b.front, &req);
		}
		if (front_push(&b.front))
			sim_kick(&b.sim);
		collect(&b, 5, answers, 5);
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
		assert_int_equal(ask(&b, (struct front_req){ .op = 2 }), 0);
		assert_int_equal(ask(&b, (struct front_req){ .op = 3 }), 0);
		bench_close(&b);
	}
}

static void a_broken_ring_is_served_no_longer(void **state)
{
	struct front_req req = { .op = 3 };
	struct td_xen_stats stats;
	struct bench b;

	bench_open(&b, &(struct setup){ .data = TD_XEN_AUTO });
	assert_int_equal(ask(&b, req), 0);
	*front_index(&b.front, 0) = b.front.req_prod + 40;
	sim_kick(&b.sim);
	td_log_level(LOG_ERR);
	for (int i = 0; i < 10; i++)
		td_loop_turn(b.loop, 10);
	td_log_level(LOG_CRIT);
	assert_true(b.broken);
	assert_int_equal(b.noise.count, 1); /* told, and counted beyond this connection */
	td_xen_stats(b.xen, &stats);
	assert_true(stats.broken);
	/* Put right again, it stays dead. */
	*front_index(&b.front, 0) = b.front.req_prod;
	send(&b, &req);
	sim_kick(&b.sim);
	for (int i = 0; i < 10; i++)
		td_loop_turn(b.loop, 10);
	assert_int_equal(*front_index(&b.front, 2), b.front.rsp_cons);
	bench_close(&b);
}

static void disconnecting_waits_for_requests_in_flight(void **state)
{
	struct bench b;

	EACH_SETUP(setup) {
		bench_open(&b, &setup);
		for (unsigned i = 0; i < 30; i++) {
			struct front_req req = i == 15 ? (struct front_req){ .op = 2 } :
				indirect(&b, i & 1, (i & 7) * 2048, 200, 2000 + i * 256);

			front_put(&b.front, &req);
		}
		if (front_push(&b.front))
			sim_kick(&b.sim);
		td_loop_turn(b.loop, 0);
		td_loop_turn(b.loop, 0);
		bench_close(&b);
	}
}

/* A guest that writes anything anywhere gets answers or silence; nothing of its
 * memory stays mapped and nothing else comes of it. */
static void random_guests_do_no_harm(void **state)
{
	const char *given = getenv("SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
	struct bench b;

	print_message("SEED=%u\n", seed);
	srandom(seed);
	for (int round = 0; round < 60; round++) {
		struct setup setup = {
			.is32 = random() & 1, .data = (enum td_xen_data)(random() % 3),
			.order = (unsigned)random() % 5, .read_only = !(random() % 5),
		};

		bench_open(&b, &setup);
		for (unsigned i = FIRST_DATA; i < 400; i++)
			b.sim.bad[i] = !(random() % 40);
		for (int turn = 0; turn < 40; turn++) {
			uint32_t n = (uint32_t)random() % b.front.entries;

			for (uint32_t i = 0; i < n; i++) {
				struct front_req req = {
					.op = (uint8_t)random() % 7, .id = (uint64_t)random(),
					.sector = (uint64_t)random() % (DISK_SIZE / 512),
					.count = (unsigned)random() % 13,
					.sectors = (uint64_t)random() % 4096,
					.indirect_op = (uint8_t)random() % 2,
					.pages = { (uint32_t)random() % 500 },
				};

				if (random() % 2)
					req.count = 1 + (unsigned)random() % 200;
				for (unsigned s = 0; s < 11; s++)
					req.segs[s] = (struct front_seg){
						.gref = (uint32_t)random() % 420,
						.first = (uint8_t)random() % 4,
						.last = (uint8_t)(3 + random() % 5),
					};
				front_put(&b.front, &req);
				if (!(random() % 8))
					front_entry(&b.front, b.front.req_prod - 1)
						[random() % 108] = (uint8_t)random();
			}
			/* Pages of segments: sane ones now and then. */
			for (unsigned p = 100; p < 140; p++)
				for (unsigned s = 0; s < 512; s += 1 + (unsigned)random() % 9)
					((struct front_seg *)sim_page(&b.sim, p))[s] =
						(struct front_seg){ (uint32_t)random() % 420, 0,
								    (uint8_t)random() % 9, { 0 } };
			__atomic_store_n(front_index(&b.front, 0),
					 *front_index(&b.front, 2) + n, __ATOMIC_SEQ_CST);
			if (!(random() % 200))
				*front_index(&b.front, (unsigned)random() % 4) =
					(uint32_t)random();
			sim_kick(&b.sim);
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
		cmocka_unit_test(nothing_passes_a_barrier),
		cmocka_unit_test(a_broken_ring_is_served_no_longer),
		cmocka_unit_test(disconnecting_waits_for_requests_in_flight),
		cmocka_unit_test(random_guests_do_no_harm),
	};

	td_log_level(LOG_CRIT); /* what guests do wrong is told; not here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
