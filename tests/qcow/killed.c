/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow-killed IMAGE ROUNDS [SEED]: a process writes to the image, many requests
 * at a time, and is killed (SIGKILL) at a moment of no choice. Then every write
 * that had ended must be there: each block holds the number of the last write to
 * it that ended, or of the one that was under way. The image must be sound.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "drivers/builtin.h"

#define BLOCK 4096u
#define DEPTH 24

/* Shared with the writer: what outlives it. */
struct note {
	uint32_t ended;    /* number of the last write that ended; 0: none */
	uint32_t under_way;
};

struct io {
	uint64_t block;
	bool busy, done;
	struct td_req *req;
	uint32_t *buf;
	struct iovec iov;
};

static struct note *notes;
static uint32_t *serial; /* shared too */
static const char *spec;
static uint64_t blocks, rng;
static struct td_loop *loop;
static struct td_disk *disk;
static struct td_pool *pool;

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng * 0x2545f4914f6cdd1dull >> 11) % below;
}

static void done(struct td_req *req)
{
	(*(struct io **)td_req_user(req))->done = true;
}

static struct td_registry *open_disk(void)
{
	struct td_registry *registry;
	struct td_why why;

	if (td_loop_new(&loop) || td_registry_new(NULL, &registry))
		die("no memory");
	for (unsigned i = 0; td_builtin_drivers[i]; i++)
		td_registry_add(registry, td_builtin_drivers[i]);
	/* a killed process lets go of its files, and locks, a little later */
	for (int tries = 0; td_disk_open(loop, registry, spec, NULL, &disk, &why); tries++) {
		if (tries == 500)
			die(why.text);
		usleep(10000);
	}
	if (td_pool_new(disk, DEPTH, sizeof(struct io *), done, &pool))
		die("no memory");
	return registry;
}

static void send(struct io *io, enum td_op op, uint64_t offset, uint64_t len)
{
	io->req = td_pool_get(pool);
	*(struct io **)td_req_user(io->req) = io;
	io->done = false;
	io->iov = (struct iovec){ io->buf, len };
	io->req->op = op;
	io->req->offset = offset;
	io->req->len = len;
	io->req->iov = &io->iov;
	io->req->iov_count = 1;
	td_submit(io->req);
}

static void begin_write(struct io *io)
{
	uint32_t number = ++*serial;
	/* often part of a block: the rest must come from below, or stay */
	uint64_t skip = rnd(2) ? 0 : rnd(8) * 512;

	io->block = rnd(2) ? rnd(blocks) : rnd(blocks / 16);
	if (notes[io->block].under_way) {
		io->block = 0;
		return;
	}
	notes[io->block].under_way = number;
	for (unsigned i = 0; i < BLOCK / 4; i++)
		io->buf[i] = number;
	io->busy = true;
	send(io, TD_WRITE, io->block * BLOCK + skip, skip ? 512 : BLOCK);
}

static void end_write(struct io *io)
{
	if (io->req->err)
		die("a write failed");
	if (io->req->len == BLOCK) /* parts are noise for the others only */
		notes[io->block].ended = notes[io->block].under_way;
	__atomic_store_n(&notes[io->block].under_way, 0, __ATOMIC_SEQ_CST);
	td_pool_put(pool, io->req);
	io->busy = false;
}

static void writer(void)
{
	static struct io io[DEPTH];

	open_disk();
	for (unsigned i = 0; i < DEPTH; i++)
		io[i].buf = aligned_alloc(4096, BLOCK);
	for (;;) {
		for (unsigned i = 0; i < DEPTH; i++) {
			if (io[i].busy && io[i].done)
				end_write(&io[i]);
			if (!io[i].busy)
				begin_write(&io[i]);
		}
		td_loop_turn(loop, 10);
	}
}

/* A block whose whole-block write number n ended holds n in each sector, or the
 * number of a later write of a part, or what was under way. */
static bool sector_right(const uint32_t *sector, const struct note *note)
{
	for (unsigned i = 1; i < 128; i++)
		if (sector[i] != sector[0])
			return note->ended == 0 && !note->under_way ? sector[0] == sector[1] : false;
	return sector[0] >= note->ended && sector[0] <= *serial;
}

static void verify(bool plain)
{
	struct td_registry *registry = open_disk();
	struct td_image *top = td_disk_top(disk);
	struct td_check check = { 0 };
	struct io io = { .buf = aligned_alloc(4096, BLOCK) };
	struct td_why why;

	for (uint64_t i = 0; i < blocks; i++) {
		send(&io, TD_READ, i * BLOCK, BLOCK);
		while (!io.done)
			td_loop_turn(loop, -1);
		if (io.req->err)
			die("a read failed");
		td_pool_put(pool, io.req);
		for (unsigned s = 0; s < 8; s++)
			if ((plain || notes[i].ended) &&
			    !sector_right(io.buf + s * 128, &notes[i])) {
				fprintf(stderr, "block %llu sector %u holds %u; %u had ended\n",
					(unsigned long long)i, s, io.buf[s * 128], notes[i].ended);
				exit(1);
			}
		notes[i].under_way = 0;
	}
	if (top->driver->check(top, &check, &why) || check.corruptions)
		die("the image is damaged");
	free(io.buf);
	td_pool_free(pool);
	td_disk_close(disk);
	td_registry_free(registry);
	td_loop_free(loop);
}

int main(int argc, char **argv)
{
	unsigned rounds;
	uint64_t seed;

	if (argc < 3)
		return 2;
	spec = argv[1];
	rounds = atoi(argv[2]);
	seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL) + getpid();
	printf("seed=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	rng = seed * 0x9e3779b97f4a7c15ull | 1;
	blocks = 32 * MiB / BLOCK;
	notes = mmap(NULL, (blocks + 1) * sizeof(*notes), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (notes == MAP_FAILED)
		die("no memory");
	serial = &notes[blocks].ended;
	for (unsigned i = 0; i < rounds; i++) {
		struct timespec wait = { 0, (5 + rnd(60)) * 1000000 };
		pid_t pid;

		rnd(2);
		pid = fork();
		if (pid == 0)
			writer();
		nanosleep(&wait, NULL);
		if (waitpid(pid, NULL, WNOHANG))
			die("the writer ended by itself");
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		verify(strstr(spec, "alone"));
	}
	printf("%u writes\n", *serial);
	return *serial > 0 ? 0 : 1;
}
