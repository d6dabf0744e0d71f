/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * image-check [TYPE:]IMAGE: opens it read-only, checks it, prints what was found, and
 * reads it from end to end. Exit 0: sound; 1: cannot be opened; 3: corruptions
 * were found; 4: a part cannot be read.
 */
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "drivers/builtin.h"

static bool ended;

static void done(struct td_req *req)
{
	ended = true;
}

static void say(void *arg, const char *text)
{
	printf("corrupt: %s\n", text);
}

static void put(void *arg, const char *key, const char *value)
{
	printf("%s: %s\n", key, value);
}

/* The bytes that could not be read. */
static uint64_t read_all(struct td_loop *loop, struct td_disk *disk)
{
	static char buf[64 * KiB] __attribute__((aligned(4096)));
	uint64_t bad = 0, size = td_disk_size(disk), n;
	struct td_pool *pool;

	if (td_pool_new(td_disk_queue(disk), 1, 0, done, &pool))
		return size;
	for (uint64_t at = 0; at < size; at += n) {
		struct td_req *req = td_pool_get(pool);
		struct iovec iov;

		n = min_u64(sizeof(buf), size - at);
		iov = (struct iovec){ buf, n };
		req->op = TD_READ;
		req->offset = at;
		req->len = n;
		req->iov = &iov;
		req->iov_count = 1;
		ended = false;
		td_submit(req);
		while (!ended)
			td_loop_turn(loop, -1);
		bad += req->err ? n : 0;
		td_pool_put(pool, req);
	}
	td_pool_free(pool);
	return bad;
}

static int check_image(struct td_loop *loop, struct td_disk *disk)
{
	struct td_check check = { .say = say };
	struct td_image *top = td_disk_top(disk);
	struct td_why why = { "" };
	uint64_t bad;

	top->driver->info(top, put, NULL);
	if (top->driver->check(top, &check, &why)) {
		fprintf(stderr, "%s\n", why.text);
		return 1;
	}
	printf("corruptions: %llu\nleaks: %llu\nallocated: %llu of %llu\ncompressed: %llu\n",
	       (unsigned long long)check.corruptions, (unsigned long long)check.leaks,
	       (unsigned long long)check.allocated, (unsigned long long)check.total,
	       (unsigned long long)check.compressed);
	bad = read_all(loop, disk);
	printf("unreadable: %llu\n", (unsigned long long)bad);
	return check.corruptions ? 3 : bad ? 4 : 0;
}

int main(int argc, char **argv)
{
	struct td_disk_options options = { .read_only = true };
	struct td_registry *registry;
	struct td_why why = { "" };
	struct td_disk *disk;
	struct td_loop *loop;
	char spec[1024];
	int code = 1;

	if (argc != 2 || td_loop_new(&loop) || td_registry_new(NULL, &registry))
		return 2;
	td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases);
	snprintf(spec, sizeof(spec), "%s%s", strchr(argv[1], ':') ? "" : "qcow:", argv[1]);
	if (td_disk_open(loop, registry, spec, &options, &disk, &why)) {
		fprintf(stderr, "%s\n", why.text);
	} else {
		code = check_image(loop, disk);
		td_disk_close(disk);
	}
	td_registry_free(registry);
	td_loop_free(loop);
	return code;
}
