/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz entry of qcow images: the bytes are an image. If it opens, it is checked
 * and read, with not a byte of it changed; then it is written here and there.
 * Aborts if a request does not end. Built with clang's libFuzzer:
 *     ninja -C build tests/qcow/fuzz-image && build/tests/qcow/fuzz-image CORPUS
 * and for qcow2, where an image may be one that can be read only, fuzz-qcow2; other
 * formats have theirs in their folders. A VHD gets right checksums first.
 */
#include "fuzz_image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "drivers/builtin.h"

#define CHUNK (64 * KiB)
#ifndef FUZZ_TYPE
#define FUZZ_TYPE "qcow"
#define ALL_CAN_BE_WRITTEN true /* that can be read */
#else
#define ALL_CAN_BE_WRITTEN false
#endif

static bool ended;

static void demand(bool holds)
{
	if (!holds)
		abort();
}

static void done(struct td_req *req)
{
	ended = true;
}

static void put(void *arg, const char *key, const char *value)
{
}

static void request(struct td_loop *loop, struct td_pool *pool, enum td_op op,
		    uint64_t offset, uint64_t len, char *buf)
{
	struct td_req *req = td_pool_get(pool);
	struct iovec iov = { buf, len };
	uint64_t until = td_now_ms() + 20000;

	req->op = op;
	req->offset = offset;
	req->len = len;
	req->iov = op == TD_READ || op == TD_WRITE ? &iov : NULL;
	req->iov_count = req->iov ? 1 : 0;
	ended = false;
	td_submit(req);
	while (!ended) {
		td_loop_turn(loop, 100);
		demand(td_now_ms() < until);
	}
	td_pool_put(pool, req);
}

/* At the beginning, in the middle and at the end, as far as there is one. */
static void use(struct td_loop *loop, struct td_disk *disk, enum td_op op)
{
	static char buf[CHUNK] __attribute__((aligned(4096)));
	uint64_t size = td_disk_size(disk);
	uint64_t len = min_u64(size, CHUNK);
	const uint64_t at[] = { 0, round_down(size / 2, 512), size - len };
	struct td_pool *pool;

	demand(!td_pool_new(disk, 1, 0, done, &pool));
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		uint64_t n = min_u64(len, size - at[i]);

		/* part of a cluster, too */
		n = i == 1 && n > 512 ? 512 : n;
		request(loop, pool, op, at[i], n, buf);
	}
	request(loop, pool, TD_FLUSH, 0, 0, NULL);
	td_pool_free(pool);
}

static void use_read_only(struct td_loop *loop, struct td_disk *disk)
{
	struct td_image *top = td_disk_top(disk);
	struct td_check check = { 0 };
	struct td_why why;

	top->driver->info(top, put, NULL);
	top->driver->check(top, &check, &why);
	use(loop, disk, TD_READ);
	use(loop, disk, TD_EXTENTS);
}

static void use_writable(struct td_loop *loop, struct td_disk *disk)
{
	use(loop, disk, TD_WRITE_ZEROES);
	use(loop, disk, TD_WRITE);
	use(loop, disk, TD_DISCARD);
	use(loop, disk, TD_READ);
}

static void seal(uint8_t *data, size_t len, size_t checksum_at)
{
	uint32_t sum = 0;

	memset(data + checksum_at, 0, 4);
	for (size_t i = 0; i < len; i++)
		sum += data[i];
	for (unsigned i = 0; i < 4; i++)
		data[checksum_at + i] = ~sum >> (24 - 8 * i);
}

/* A wrong checksum would end it before anything is looked at. */
static void seal_vhd(uint8_t *data, size_t size)
{
	if (size >= 1536 && !memcmp(data + 512, "cxsparse", 8))
		seal(data + 512, 1024, 36);
	if (size >= 512 && !memcmp(data, "conectix", 8))
		seal(data, 512, 64);
	if (size >= 1024 && !memcmp(data + size - 512, "conectix", 8))
		seal(data + size - 512, 512, 64);
}

static void file_make(const char *path, const uint8_t *data, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	demand(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static void file_is(const char *path, const uint8_t *data, size_t size)
{
	uint8_t *now = malloc(size + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	demand(fd >= 0 && read(fd, now, size + 1) == (ssize_t)size);
	demand(!size || !memcmp(now, data, size));
	close(fd);
	free(now);
}

int LLVMFuzzerTestOneInput(const uint8_t *given, size_t size)
{
	uint8_t *data = malloc(size + 1);
	struct td_disk_options read_only = { .read_only = true };
	struct td_registry *registry = NULL;
	struct td_loop *loop;
	struct td_disk *disk;
	char path[64], spec[80];
	struct td_why why;

	demand(data);
	memcpy(data, given, size);
	if (!strcmp(FUZZ_TYPE, "vhd"))
		seal_vhd(data, size);
	td_log_level(LOG_EMERG);
	snprintf(path, sizeof(path), "/dev/shm/blktap-fuzz-%d", (int)getpid());
	snprintf(spec, sizeof(spec), FUZZ_TYPE ":%s", path);
	file_make(path, data, size);
	demand(!td_loop_new(&loop) && !td_registry_new(NULL, &registry));
	demand(!td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases));
	if (!td_disk_open(loop, registry, spec, &read_only, &disk, &why)) {
		use_read_only(loop, disk);
		td_disk_close(disk);
		file_is(path, data, size);
		if (!td_disk_open(loop, registry, spec, NULL, &disk, &why)) {
			use_writable(loop, disk);
			td_disk_close(disk);
		} else {
			demand(!ALL_CAN_BE_WRITTEN);
		}
	}
	td_registry_free(registry);
	td_loop_free(loop);
	unlink(path);
	free(data);
	return 0;
}
