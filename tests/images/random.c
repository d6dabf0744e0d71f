/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * image-random IMAGE MODEL [key=value...]
 *
 * Does a random sequence of writes, zeroing, discards, reads, flushes and
 * reopenings to a disk, many at a time, and keeps a model of what it must hold,
 * sector by sector. MODEL, a raw file, is what the disk holds at first; at the
 * end it is what the disk must hold, for others to compare. Keys: seed, ops,
 * depth, engine, align (pretended alignment of files), max (bytes of a request),
 * reopen (one in so many ops), check (0: do not), full (1: requests may fail for
 * want of space; then each sector is what it was, or what it was to be. Flushes may,
 * too, and the last close; reopening must not, so it wants reopen=0).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "drivers/builtin.h"
#include "tests/seed.h"

#define SECT 512u
#define DEPTH_MAX 64

struct slot {
	struct td_req *req;
	enum td_op op;
	uint64_t first, count; /* sectors */
	char *buf;
	struct iovec iov[3];
	bool done, settle;     /* settle: a sector may be one of two things */
	char *other;           /* ... what it is now, or this */
	int err;
};

static struct {
	uint64_t seed, ops, depth, align, max, reopen, check, full;
	const char *engine;
} opt = { .ops = 3000, .depth = 16, .max = 128 * KiB, .reopen = 400, .check = 1 };

static struct td_loop *loop;
static struct td_registry *registry;
static struct td_disk *disk;
static struct td_pool *pool;
static const char *spec;
static struct slot slots[DEPTH_MAX];
static uint8_t *model, *locked;
static uint64_t sectors, rng, serial, failed;

#define DIE(...) \
	do { \
		fprintf(stderr, __VA_ARGS__); \
		fprintf(stderr, " (seed %llu)\n", (unsigned long long)opt.seed); \
		exit(1); \
	} while (0)

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng * 0x2545f4914f6cdd1dull >> 11) % below;
}

static void done(struct td_req *req)
{
	struct slot *slot = *(struct slot **)td_req_user(req);

	slot->done = true;
	slot->err = req->err;
}

static void open_disk(void)
{
	struct td_disk_options options = { .engine = opt.engine, .force_align = opt.align,
					   .depth = 24 };
	struct td_why why;

	if (td_disk_open(loop, registry, spec, &options, &disk, &why))
		DIE("open: %s", why.text);
	if (td_pool_new(td_disk_queue(disk), DEPTH_MAX, sizeof(struct slot *), done, &pool))
		DIE("no memory");
}

static void say(void *arg, const char *text)
{
	fprintf(stderr, "check: %s\n", text);
}

static void close_disk(void)
{
	struct td_image *top = td_disk_top(disk);
	struct td_check check = { .say = say };
	struct td_why why;
	int err;

	if (opt.check && top->driver->check) {
		if (top->driver->check(top, &check, &why))
			DIE("check: %s", why.text);
		if (check.corruptions)
			DIE("check found %llu corruptions", (unsigned long long)check.corruptions);
	}
	td_pool_free(pool);
	err = td_disk_close(disk);
	if (err && !(opt.full && err == -ENOSPC))
		DIE("close: %s", strerror(-err));
}

static void lock_range(const struct slot *slot, uint8_t value)
{
	memset(locked + slot->first, value, slot->count);
}

static void compare(const struct slot *slot)
{
	for (uint64_t i = 0; i < slot->count; i++)
		if (memcmp(slot->buf + i * SECT, model + (slot->first + i) * SECT, SECT))
			DIE("sector %llu is wrong: %02x %02x.. at %llu+%llu, want %02x %02x",
			    (unsigned long long)(slot->first + i), (uint8_t)slot->buf[i * SECT],
			    (uint8_t)slot->buf[i * SECT + 1], (unsigned long long)slot->first,
			    (unsigned long long)slot->count, model[(slot->first + i) * SECT],
			    model[(slot->first + i) * SECT + 1]);
}

/* After a discard, or a write that failed, the model takes what is there. */
static void settle(const struct slot *slot)
{
	for (uint64_t i = 0; i < slot->count; i++) {
		uint8_t *want = model + (slot->first + i) * SECT;

		if (memcmp(slot->buf + i * SECT, want, SECT) &&
		    memcmp(slot->buf + i * SECT, slot->other + i * SECT, SECT))
			DIE("sector %llu is neither old nor new",
			    (unsigned long long)(slot->first + i));
		memcpy(want, slot->buf + i * SECT, SECT);
	}
}

static void submit(struct slot *slot, enum td_op op)
{
	uint64_t len = slot->count * SECT;
	struct td_req *req = td_pool_get(pool);

	*(struct slot **)td_req_user(req) = slot;
	slot->req = req;
	slot->op = op;
	slot->done = false;
	req->op = op;
	req->flags = op == TD_WRITE_ZEROES && rnd(2) ? TD_MAY_UNMAP : 0;
	req->offset = slot->first * SECT;
	req->len = len;
	req->iov = NULL;
	req->iov_count = 0;
	if (op == TD_FLUSH) {
		req->offset = req->len = 0;
	} else if (op == TD_READ || op == TD_WRITE) {
		uint64_t a = len > SECT ? rnd(slot->count - 1) * SECT + SECT : len;

		slot->iov[0] = (struct iovec){ slot->buf, a };
		slot->iov[1] = (struct iovec){ slot->buf + a, len - a };
		req->iov = slot->iov;
		req->iov_count = a < len ? 2 : 1;
	}
	td_submit(req);
}

/* What the request has done is not certain: look. */
static void look(struct slot *slot, bool wrote)
{
	if (wrote)
		memcpy(slot->other, slot->buf, slot->count * SECT);
	else
		memset(slot->other, 0, slot->count * SECT);
	slot->settle = true;
	submit(slot, TD_READ);
}

static void finish(struct slot *slot)
{
	struct td_req *req = slot->req;
	enum td_op op = slot->op;
	uint8_t *at = model + slot->first * SECT;
	bool full = opt.full && slot->err == -ENOSPC &&
		    (op == TD_WRITE || op == TD_WRITE_ZEROES || op == TD_FLUSH);

	if (slot->err && !full)
		DIE("op %d at %llu+%llu: %s", op, (unsigned long long)slot->first,
		    (unsigned long long)slot->count, strerror(-slot->err));
	td_pool_put(pool, req);
	slot->req = NULL;
	failed += full;
	if ((full && op != TD_FLUSH) || op == TD_DISCARD) {
		look(slot, op == TD_WRITE);
		return;
	}
	if (op == TD_WRITE)
		memcpy(at, slot->buf, slot->count * SECT);
	else if (op == TD_WRITE_ZEROES)
		memset(at, 0, slot->count * SECT);
	else if (op == TD_READ && slot->settle)
		settle(slot);
	else if (op == TD_READ)
		compare(slot);
	slot->settle = false;
	lock_range(slot, 0);
}

static unsigned reap(void)
{
	unsigned busy = 0;

	for (unsigned i = 0; i < opt.depth; i++) {
		if (slots[i].req && slots[i].done)
			finish(&slots[i]);
		busy += slots[i].req != NULL;
	}
	return busy;
}

static void drain(void)
{
	while (reap())
		td_loop_turn(loop, 1000);
}

static bool pick_range(struct slot *slot)
{
	uint64_t max = opt.max / SECT;
	uint64_t n = 1 + (rnd(3) ? rnd(min_u64(16, max)) : rnd(max));
	/* most of it in one place, so that things meet */
	uint64_t span = rnd(2) ? sectors : max_u64(sectors / 16, 1);

	slot->first = rnd(span);
	if (rnd(2))
		slot->first = round_down(slot->first, 8);
	slot->count = min_u64(n, sectors - slot->first);
	return !memchr(locked + slot->first, 1, slot->count);
}

static void fill(struct slot *slot)
{
	serial++;
	for (uint64_t i = 0; i < slot->count * SECT; i += 8) {
		uint64_t v = rnd(UINT64_MAX) | 1;

		memcpy(slot->buf + i, i % SECT ? (void *)&v : (void *)&serial, 8);
	}
}

static void begin(struct slot *slot)
{
	static const enum td_op ops[] = {
		TD_WRITE, TD_WRITE, TD_WRITE, TD_WRITE, TD_WRITE, TD_READ, TD_READ, TD_READ,
		TD_WRITE_ZEROES, TD_DISCARD, TD_FLUSH,
	};
	enum td_op op = ops[rnd(ARRAY_SIZE(ops))];

	if (op == TD_FLUSH)
		slot->count = 0;
	else if (!pick_range(slot))
		return;
	if (op == TD_WRITE)
		fill(slot);
	lock_range(slot, 1);
	submit(slot, op);
}

static void run(void)
{
	for (uint64_t i = 0; i < opt.ops; i++) {
		struct slot *slot = NULL;

		while (!slot) {
			for (unsigned j = 0; j < opt.depth && !slot; j++)
				if (!slots[j].req)
					slot = &slots[j];
			if (!slot) {
				td_loop_turn(loop, 1000);
				reap();
			}
		}
		begin(slot);
		if (rnd(4) == 0) {
			td_loop_turn(loop, 0);
			reap();
		}
		if (opt.reopen && rnd(opt.reopen) == 0) {
			drain();
			close_disk();
			open_disk();
		}
	}
	drain();
}

static void read_all(void)
{
	struct slot *slot = &slots[0];

	for (uint64_t at = 0; at < sectors; at += slot->count) {
		slot->first = at;
		slot->count = min_u64(opt.max / SECT, sectors - at);
		submit(slot, TD_READ);
		while (!slot->done)
			td_loop_turn(loop, 1000);
		finish(slot);
	}
}

static void parse(const char *arg)
{
	uint64_t *const to[] = { &opt.seed, &opt.ops, &opt.depth, &opt.align, &opt.max,
				 &opt.reopen, &opt.check, &opt.full };
	static const char *const name[] = { "seed=", "ops=", "depth=", "align=", "max=",
					    "reopen=", "check=", "full=" };

	for (unsigned i = 0; i < ARRAY_SIZE(to); i++)
		if (!strncmp(arg, name[i], strlen(name[i]))) {
			*to[i] = strtoull(arg + strlen(name[i]), NULL, 0);
			return;
		}
	if (strncmp(arg, "engine=", 7))
		DIE("%s: unknown", arg);
	opt.engine = arg + 7;
}

int main(int argc, char **argv)
{
	struct stat st;
	int fd;

	if (argc < 3)
		return 2;
	opt.seed = test_seed();
	for (int i = 3; i < argc; i++)
		parse(argv[i]);
	if (opt.depth > DEPTH_MAX)
		opt.depth = DEPTH_MAX;
	printf("seed=%llu\n", (unsigned long long)opt.seed);
	rng = opt.seed * 0x9e3779b97f4a7c15ull | 1;
	spec = argv[1];
	td_loop_new(&loop);
	td_registry_new(NULL, &registry);
	td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases);
	open_disk();
	sectors = td_disk_size(disk) / SECT;
	fd = open(argv[2], O_RDWR);
	if (fd < 0 || fstat(fd, &st) || (uint64_t)st.st_size != sectors * SECT)
		DIE("%s: no model of the disk's size", argv[2]);
	model = malloc(sectors * SECT);
	locked = calloc(1, sectors);
	for (uint64_t at = 0; at < sectors * SECT;)
		at += pread(fd, model + at, sectors * SECT - at, at);
	for (unsigned i = 0; i < DEPTH_MAX; i++) {
		slots[i].buf = aligned_alloc(4096, round_up(opt.max, 4096));
		slots[i].other = malloc(opt.max);
	}
	run();
	read_all();
	close_disk();
	for (uint64_t at = 0; at < sectors * SECT;)
		at += pwrite(fd, model + at, sectors * SECT - at, at);
	close(fd);
	for (unsigned i = 0; i < DEPTH_MAX; i++) {
		free(slots[i].buf);
		free(slots[i].other);
	}
	if (opt.full)
		printf("failed for want of space: %llu\n", (unsigned long long)failed);
	free(model);
	free(locked);
	td_registry_free(registry);
	td_loop_free(loop);
	return 0;
}
