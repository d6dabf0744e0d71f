/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bench of the transport's tests: see bench.h. */
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/builtin.h"

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
	((struct bench *)arg)->broken++;
}

static void on_closed(void *arg)
{
	((struct bench *)arg)->closed = true;
}

/* ---- the disk ------------------------------------------------------------------ */

static void disk_open(struct bench *b, const struct setup *setup)
{
	struct td_disk_options options = {
		.name = "test", .read_only = setup->read_only,
		.hook = setup->quiet ? NULL : &b->hook,
	};
	struct td_why why = { "" };
	char spec[100];
	int fd;

	snprintf(b->path, sizeof(b->path), "xen-bench-%d.img", getpid());
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
	snprintf(spec, sizeof(spec), "aio:%s,queues=%u", b->path,
		 setup->queues ? setup->queues : 1);
	if (td_disk_open(b->loop, b->registry, spec, &options, &b->disk, &why))
		fail_msg("%s", why.text);
}

/* ---- the guest ------------------------------------------------------------------ */

static uint32_t ring_page(unsigned ring, unsigned page)
{
	return ring ? SIM_PAGES - (ring << TD_XEN_MAX_RING_ORDER) + page : 1 + page;
}

void bench_prepare(struct bench *b, const struct setup *setup, struct td_xen_params *params)
{
	*params = (struct td_xen_params){
		.domid = 7, .devid = 51712, .ring_order = setup->order,
		.ring_count = setup->rings ? setup->rings : 1,
		.protocol = setup->is32 ? TD_XEN_X86_32 : TD_XEN_X86_64,
		.data = setup->data, .poll_us = setup->poll_us, .broken = on_broken, .arg = b,
		.noise = &b->noise,
		.offer = { .flush = true, .barrier = true, .discard = true, .segments = 256,
			   .sector = 512 },
	};
	if (setup->offer)
		params->offer = *setup->offer;
	memset(b, 0, sizeof(*b));
	disk_open(b, setup);
	sim_open(&b->sim);
	b->rings = params->ring_count;
	for (unsigned r = 0; r < b->rings; r++) {
		for (unsigned i = 0; i < 1u << setup->order; i++)
			params->rings[r].refs[i] = ring_page(r, i);
		front_init(&b->front[r], sim_page(&b->sim, ring_page(r, 0)),
			   1u << setup->order, setup->is32);
	}
	b->next_page = FIRST_DATA;
}

int bench_connect(struct bench *b, const struct td_xen_params *params, struct td_why *why)
{
	struct guest *guests[TD_XEN_MAX_RINGS];
	int err;

	for (unsigned i = 0; i < params->ring_count; i++)
		guests[i] = &b->sim.ring[i].guest;
	b->closed = false;
	atomic_store(&b->sim.freed, 0);
	err = xen_connect_guests(b->disk, params, guests, &b->xen, why);
	if (err)
		b->closed = true;
	return err;
}

void bench_open(struct bench *b, const struct setup *setup)
{
	struct td_xen_params params;
	struct td_why why = { "" };

	bench_prepare(b, setup, &params);
	if (bench_connect(b, &params, &why))
		fail_msg("%s", why.text);
}

void bench_disconnect(struct bench *b)
{
	uint64_t end = td_now_ms() + 60000;

	td_xen_disconnect(b->xen, on_closed, b);
	while (!b->closed && td_now_ms() < end)
		td_loop_turn(b->loop, 100);
	assert_true(b->closed);
	assert_int_equal(b->sim.mapped, 0);
	assert_int_equal(b->sim.freed, b->rings);
}

void bench_close(struct bench *b)
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

uint32_t bench_page(struct bench *b)
{
	assert_true(b->next_page < SIM_PAGES);
	return b->next_page++;
}

struct front_seg bench_seg(struct bench *b, unsigned first, unsigned last, unsigned seed)
{
	struct front_seg seg = { .gref = bench_page(b), .first = first, .last = last };
	uint8_t *page = sim_page(&b->sim, seg.gref);

	for (unsigned i = 0; i < 4096; i++)
		page[i] = (uint8_t)(seed * 31 + i / 512 * 7 + i);
	return seg;
}

struct front_req bench_indirect(struct bench *b, uint8_t op, uint64_t sector,
				unsigned count, uint32_t first)
{
	struct front_req req = {
		.op = 6, .indirect_op = op, .sector = sector, .count = count,
		.pages = { bench_page(b) },
	};
	struct front_seg *segs = (void *)sim_page(&b->sim, req.pages[0]);

	for (unsigned i = 0; i < count; i++)
		segs[i] = (struct front_seg){ .gref = first + i, .first = 0, .last = 7 };
	return req;
}

void bench_push_on(struct bench *b, unsigned ring)
{
	if (front_push(&b->front[ring]))
		sim_kick(&b->sim, ring);
}

void bench_send(struct bench *b, const struct front_req *req)
{
	front_put(&b->front[0], req);
	bench_push_on(b, 0);
}

void bench_collect_on(struct bench *b, unsigned ring, unsigned count, int *answers,
		      unsigned limit)
{
	uint64_t end = td_now_ms() + 60000;
	struct front_answer answer;

	while (count) {
		if (front_get(&b->front[ring], &answer)) {
			assert_true(answer.id < limit);
			assert_int_not_equal(answer.op, 6); /* but the op within */
			answers[answer.id] = answer.status;
			count--;
			continue;
		}
		assert_true(td_now_ms() < end);
		/* other threads' answers do not wake this loop */
		td_loop_turn(b->loop, td_disk_queues(b->disk) > 1 ? 1 : 100);
	}
}

void bench_collect(struct bench *b, unsigned count, int *answers, unsigned limit)
{
	bench_collect_on(b, 0, count, answers, limit);
}

int bench_ask(struct bench *b, struct front_req req)
{
	int answer = 99;

	req.id = 0;
	bench_send(b, &req);
	bench_collect(b, 1, &answer, 1);
	return answer;
}

void bench_expect(struct bench *b, uint64_t at, const void *data, size_t len)
{
	uint8_t *found = malloc(len);
	int fd = open(b->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, found, len, (off_t)at), len);
	assert_memory_equal(found, data, len);
	close(fd);
	free(found);
}
