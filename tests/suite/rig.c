/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The open disk of a behaviour and its requests; see suite.h.
 *
 * Requests are sent as a transport sends them. One that has ended rests outside
 * the pool for as long as there are others, so that a second end finds it.
 * With several queues requests take turns on them, and those of others than the
 * home queue are sent there and come back.
 * Memory lies between canaries; reads find it filled with a pattern first, so
 * that bytes nobody wrote are seen.
 */
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

#define CANARY 0xc9
#define UNTOUCHED 0xa5
#define EDGE 64 /* bytes of canary on either side of a piece */

static struct io **io_slot(struct td_req *req)
{
	return td_req_user(req);
}

static void io_done(struct td_req *req)
{
	struct io *io = *io_slot(req);

	require(io && !io->ended, "a request ended twice");
	io->ended = true;
	io->err = req->err;
	io->extent = req->extent;
	io->rig->in_flight--;
	list_add(&io->rig->resting, &io->link);
	eventfd_write(io->rig->ended.fd, 1);
}

static void io_came_back(struct td_post *post)
{
	struct io *io = container_of(post, struct io, post);

	io->ended = true;
	io->rig->in_flight--;
	io->rig->busy[io->queue]--;
}

static void io_done_there(struct td_req *req)
{
	struct io *io = *io_slot(req);

	require(io, "a request ended twice");
	*io_slot(req) = NULL;
	io->err = req->err;
	io->extent = req->extent;
	td_pool_put(io->rig->pool[io->queue], req);
	io->post.run = io_came_back;
	td_loop_post(io->rig->loop, &io->post);
}

static void ended_ready(struct td_watch *watch, uint32_t events)
{
	eventfd_t count;

	eventfd_read(watch->fd, &count);
}

void rig_prepare(struct rig *rig, struct suite *suite)
{
	*rig = (struct rig){ .suite = suite };
	list_init(&rig->resting);
	hook_init(&rig->hook, suite->seed, suite->shuffle);
	rig->options = (struct td_disk_options){
		.name = "suite",
		.engine = suite->engine,
		.hook = &rig->hook.base,
		.force_align = suite->align,
	};
	require(!td_loop_new(&rig->loop), "no event loop");
	rig->ended.ready = ended_ready;
	require(!td_watch_start(rig->loop, &rig->ended, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
				EPOLLIN), "no eventfd");
	rig->hook.wake = rig->ended.fd;
}

int rig_try_open(struct rig *rig, const struct target *target, struct td_why *why)
{
	bool shuffle = rig->hook.shuffle;
	unsigned queues = rig->suite->queues;
	char spec[sizeof(target->spec) + 16];
	int err;

	snprintf(spec, sizeof(spec), queues > 1 ? "%s,queues=%u" : "%s", target->spec, queues);
	/* Opening waits without turning our loop: nothing may be held. */
	rig->hook.shuffle = false;
	err = td_disk_open(rig->loop, rig->suite->registry, spec, &rig->options, &rig->disk, why);
	rig->hook.shuffle = shuffle;
	if (err)
		return err;
	rig->size = td_disk_size(rig->disk);
	rig->block = td_disk_block_size(rig->disk);
	rig->can = td_disk_can(rig->disk);
	if (!rig->model.cell)
		model_init(&rig->model, rig->size, target->tag);
	require(rig->model.size == rig->size, "the size was %llu and is %llu now",
		(unsigned long long)rig->model.size, (unsigned long long)rig->size);
	for (unsigned i = 0; i < td_disk_queues(rig->disk); i++) {
		err = td_pool_new(td_disk_queue_at(rig->disk, i), RIG_DEPTH, sizeof(struct io *),
				  i ? io_done_there : io_done, &rig->pool[i]);
		require(!err, "no pool: %s", strerror(-err));
	}
	return 0;
}

static void open_as(struct rig *rig, struct suite *suite, const struct target *target,
		    bool read_only)
{
	struct td_why why = { "" };
	int err;

	rig_prepare(rig, suite);
	rig->options.read_only = read_only;
	err = rig_try_open(rig, target, &why);
	require(!err, "open %s: %s (%s)", target->spec, why.text, strerror(-err));
}

void rig_open(struct rig *rig, struct suite *suite, const struct target *target)
{
	open_as(rig, suite, target, false);
}

void rig_open_read_only(struct rig *rig, struct suite *suite, const struct target *target)
{
	open_as(rig, suite, target, true);
}

static void rig_settle(struct rig *rig)
{
	while (!list_empty(&rig->resting)) {
		struct io *io = list_item(list_pop(&rig->resting), struct io, link);
		*io_slot(io->req) = NULL;
		td_pool_put(rig->pool[0], io->req);
		io->req = NULL;
	}
}

static void rig_free_loop(struct rig *rig)
{
	td_watch_stop(rig->loop, &rig->ended);
	close(rig->ended.fd);
	td_loop_free(rig->loop);
	rig->loop = NULL;
}

int rig_close(struct rig *rig)
{
	struct td_disk_stats stats;
	int err;

	require(!rig->in_flight, "%u requests were forgotten", rig->in_flight);
	hook_calm(&rig->hook);
	/* Whatever ends a second time would do so now. */
	for (int i = 0; i < 3; i++)
		td_loop_turn(rig->loop, 0);
	rig_settle(rig);
	require(td_pool_busy(rig->pool[0]) == 0, "%u requests are not back in the pool",
		td_pool_busy(rig->pool[0]));
	td_disk_stats(rig->disk, &stats);
	require(stats.in_flight == 0, "the disk counts %llu requests in flight at rest",
		(unsigned long long)stats.in_flight);
	for (unsigned i = 0; i < RIG_QUEUES; i++) {
		td_pool_free(rig->pool[i]);
		rig->pool[i] = NULL;
	}
	err = td_disk_close(rig->disk);
	rig->disk = NULL;
	rig_free_loop(rig);
	hook_free(&rig->hook);
	return err;
}

void rig_reopen(struct rig *rig, const struct target *target)
{
	struct suite *suite = rig->suite;
	struct model model = rig->model;
	uint64_t seed = rnd_next(&rig->hook.rnd);
	bool read_only = rig->options.read_only;
	struct td_why why = { "" };
	int err = rig_close(rig);

	require(!err, "close: %s", strerror(-err));
	rig_prepare(rig, suite);
	rig->model = model;
	rig->hook.rnd.s = seed;
	rig->options.read_only = read_only;
	err = rig_try_open(rig, target, &why);
	require(!err, "open again: %s (%s)", why.text, strerror(-err));
}

void rig_end(struct rig *rig)
{
	if (rig->loop)
		rig_free_loop(rig);
	model_free(&rig->model);
}

void rig_turn(struct rig *rig)
{
	uint64_t began = td_now_ms();

	td_loop_turn(rig->loop, hook_holds(&rig->hook) ? 0 : ASLEEP_MS);
	require(td_now_ms() - began < ASLEEP_MS || !rig->in_flight,
		"the loop slept for %d s with %u requests in flight", ASLEEP_MS / 1000,
		rig->in_flight);
	hook_turn(&rig->hook);
}

void rig_turn_for(struct rig *rig, unsigned ms)
{
	uint64_t end = td_now_ms() + ms;

	do {
		td_loop_turn(rig->loop, hook_holds(&rig->hook) ? 0 : 1);
		hook_turn(&rig->hook);
	} while (td_now_ms() < end);
}

/* ---- memory ---- */

static char *piece_start(const struct io *io, unsigned i)
{
	return io->iov[i].iov_base;
}

void io_memory(struct io *io, const size_t *piece, unsigned pieces, size_t skew)
{
	size_t total = 0;
	unsigned count = 0;
	uint64_t pos = 0;

	for (uint64_t left = io->len; left; count++) {
		size_t n = min_u64(left, piece[count % pieces]);
		total += round_up(n, 4096) + 2 * 4096;
		left -= n;
	}
	if (posix_memalign((void **)&io->memory, 4096, total ? total : 1))
		abort();
	io->memory_len = total;
	io->iov = calloc(count ? count : 1, sizeof(*io->iov));
	char *at = io->memory;
	for (unsigned i = 0; i < count; i++) {
		size_t n = min_u64(io->len - pos, piece[i % pieces]);
		at += 4096;
		io->iov[i] = (struct iovec){ at + skew, n };
		memset(at + skew - EDGE, CANARY, EDGE);
		memset(at + skew, UNTOUCHED, n);
		memset(at + skew + n, CANARY, EDGE);
		at += round_up(n, 4096) + 4096;
		pos += n;
	}
	io->iov_count = count;
}

/* Copies between the pieces and one run of bytes. */
static void io_copy(const struct io *io, char *run, bool to_run)
{
	for (unsigned i = 0; i < io->iov_count; i++) {
		if (to_run)
			memcpy(run, piece_start(io, i), io->iov[i].iov_len);
		else
			memcpy(piece_start(io, i), run, io->iov[i].iov_len);
		run += io->iov[i].iov_len;
	}
}

char *io_bytes(const struct io *io)
{
	char *run = malloc(io->len ? io->len : 1);

	io_copy(io, run, true);
	return run;
}

static void io_fill(struct io *io)
{
	char *run = malloc(io->len);

	tag_fill(run, io->offset, io->len, io->tag);
	io_copy(io, run, false);
	free(run);
}

static bool all_canary(const char *p, size_t n)
{
	return (unsigned char)*p == CANARY && !memcmp(p, p + 1, n - 1);
}

static void io_check_memory(const struct io *io)
{
	for (unsigned i = 0; i < io->iov_count; i++) {
		const char *p = piece_start(io, i);
		require(all_canary(p - EDGE, EDGE) && all_canary(p + io->iov[i].iov_len, EDGE),
			"a %s touched memory outside its iovec",
			io->op == TD_READ ? "read" : "write");
	}
	if (io->op != TD_WRITE)
		return;
	char *run = io_bytes(io);
	for (uint64_t pos = 0; pos < io->len; pos += SECTOR)
		require(tag_matches(run + pos, io->offset + pos, io->tag),
			"a write changed the caller's memory");
	free(run);
}

void io_free(struct io *io)
{
	if (io->req) { /* still resting */
		list_del(&io->link);
		*io_slot(io->req) = NULL;
		td_pool_put(io->rig->pool[0], io->req);
		io->req = NULL;
	}
	if (!io->memory)
		return;
	free(io->memory);
	free(io->iov);
	io->memory = NULL;
	io->iov = NULL;
}

/* ---- requests ---- */

/* Default memory: one piece, at an alignment that depends on where it goes. */
static void io_default_memory(struct io *io)
{
	static const size_t skew[] = { 0, 512, 8, 4, 2048, 1536 };
	size_t whole = io->len;

	io_memory(io, &whole, 1, skew[(io->offset / 512 + io->len / 512) % ARRAY_SIZE(skew)]);
}

static struct td_req *req_get(struct rig *rig)
{
	struct td_req *req = td_pool_get(rig->pool[0]);

	if (!req && !list_empty(&rig->resting)) {
		rig_settle(rig);
		req = td_pool_get(rig->pool[0]);
	}
	return req;
}

static void req_submit(struct io *io, struct td_req *req)
{
	*io_slot(req) = io;
	req->op = io->op;
	req->flags = io->flags;
	req->offset = io->offset;
	req->len = io->len;
	req->iov = io->iov;
	req->iov_count = io->iov_count;
	td_submit(req);
}

static void io_arrived(struct td_post *post)
{
	struct io *io = container_of(post, struct io, post);

	req_submit(io, td_pool_get(io->rig->pool[io->queue]));
}

/* False: there is no room just now. */
static bool io_send(struct rig *rig, struct io *io)
{
	if (!io->queue) {
		io->req = req_get(rig);
		if (io->req)
			req_submit(io, io->req);
		return io->req;
	}
	if (rig->busy[io->queue] == RIG_DEPTH)
		return false;
	rig->busy[io->queue]++;
	io->post.run = io_arrived;
	td_loop_post(td_queue_loop(td_disk_queue_at(rig->disk, io->queue)), &io->post);
	return true;
}

void io_start(struct rig *rig, struct io *io)
{
	if (!io->iov && (io->op == TD_READ || io->op == TD_WRITE))
		io_default_memory(io);
	if (io->op == TD_WRITE)
		io_fill(io);
	io_start_raw(rig, io);
}

void io_start_raw(struct rig *rig, struct io *io)
{
	uint64_t began = td_now_ms();

	io->rig = rig;
	io->queue = rig->started++ % td_disk_queues(rig->disk);
	io->req = NULL;
	io->ended = false;
	io->began_ms = td_now_ms();
	rig->in_flight++;
	while (!io_send(rig, io)) {
		rig_turn(rig);
		require(td_now_ms() - began < DEADLINE_MS, "no request has ended for %d s",
			DEADLINE_MS / 1000);
	}
}

static const char *op_name(enum td_op op)
{
	static const char *const name[] = {
		[TD_READ]    = "read",    [TD_WRITE]        = "write",
		[TD_FLUSH]   = "flush",   [TD_DISCARD]      = "discard",
		[TD_EXTENTS] = "extents", [TD_WRITE_ZEROES] = "write zeroes",
	};

	return name[op];
}

int io_wait(struct io *io)
{
	while (!io->ended) {
		rig_turn(io->rig);
		require(td_now_ms() - io->began_ms < DEADLINE_MS,
			"%s of %llu bytes at %llu never ended", op_name(io->op),
			(unsigned long long)io->len, (unsigned long long)io->offset);
	}
	require(io->err <= 0, "%s ended with a positive error, %d", op_name(io->op), io->err);
	io_check_memory(io);
	return io->err;
}

int rig_ask(struct rig *rig, enum td_op op, unsigned flags, uint64_t offset, uint64_t len)
{
	struct io io = { .op = op, .flags = flags, .offset = offset, .len = len };

	io_start(rig, &io);
	int err = io_wait(&io);
	io_free(&io);
	return err;
}

void rig_do(struct rig *rig, enum td_op op, unsigned flags, uint64_t offset, uint64_t len)
{
	int err = rig_ask(rig, op, flags, offset, len);

	require(!err, "%s of %llu bytes at %llu: %s", op_name(op), (unsigned long long)len,
		(unsigned long long)offset, strerror(-err));
}

void rig_write(struct rig *rig, uint64_t offset, uint64_t len, uint32_t tag)
{
	struct io io = { .op = TD_WRITE, .offset = offset, .len = len, .tag = tag };

	io_start(rig, &io);
	int err = io_wait(&io);
	io_free(&io);
	require(!err, "write of %llu bytes at %llu: %s", (unsigned long long)len,
		(unsigned long long)offset, strerror(-err));
	model_set(&rig->model, offset, len, tag);
}

void rig_expect(struct rig *rig, uint64_t offset, uint64_t len)
{
	struct io io = { .op = TD_READ, .offset = offset, .len = len };
	char text[512];

	io_start(rig, &io);
	int err = io_wait(&io);
	require(!err, "read of %llu bytes at %llu: %s", (unsigned long long)len,
		(unsigned long long)offset, strerror(-err));
	char *bytes = io_bytes(&io);
	io_free(&io);
	require(model_match(&rig->model, offset, bytes, len, text, sizeof(text)), "%s", text);
	free(bytes);
}

void rig_expect_all(struct rig *rig)
{
	for (uint64_t at = 0; at < rig->size; at += MiB)
		rig_expect(rig, at, min_u64(MiB, rig->size - at));
}

static void say_corruption(void *arg, const char *text)
{
	printf("# check: %s\n", text);
}

void rig_check(struct rig *rig)
{
	struct td_image *top = td_disk_top(rig->disk);
	struct td_check found = { .say = say_corruption };
	struct td_why why = { "" };
	int err;

	if (!top->driver->check)
		return;
	err = top->driver->check(top, &found, &why);
	require(!err, "check: %s (%s)", why.text, strerror(-err));
	require(!found.corruptions, "check found %llu corruptions",
		(unsigned long long)found.corruptions);
}
