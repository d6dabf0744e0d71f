/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver for tests: the disk is the pages of a cache. A write stores the first 8
 * bytes of each 512 it is given, a read gets them; the stage of a page is its
 * number modulo 4. And what a test needs around it.
 */
#ifndef TESTS_FORMAT_PAGES_H
#define TESTS_FORMAT_PAGES_H

#include <blktap/format.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/registry.h"

#define UNIT 512u
#define PAGES_STAGES 4

extern const struct td_driver pages_driver;

struct pages_disk {
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_pool *pool;
};

/* 0, or the error of the open. */
int pages_open(struct pages_disk *disk, const char *spec, const struct td_disk_options *options,
	       struct td_why *why);
int pages_close(struct pages_disk *disk);
/* What became of a request: ended is false at first. */
struct pages_end {
	bool ended;
	int err;
	struct td_pool *pool; /* private */
};
void pages_send(struct pages_disk *disk, enum td_op op, uint64_t offset, struct iovec *iov,
		struct pages_end *end);
int pages_wait(struct pages_disk *disk, const struct pages_end *end);
/* One request, waited for. */
int pages_do(struct pages_disk *disk, enum td_op op, uint64_t offset, void *buf, uint64_t len);
int pages_store(struct pages_disk *disk, uint64_t unit, uint64_t value);
int pages_load(struct pages_disk *disk, uint64_t unit, uint64_t *value);

#endif
