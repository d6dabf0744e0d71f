/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bench for the whole transport: a raw disk, a guest of the tests' own with its
 * rings, and a hook under the disk that records the order of writes and syncs.
 */
#ifndef TESTS_XEN_BENCH_H
#define TESTS_XEN_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/registry.h"
#include "front.h"
#include "io/loop.h"
#include "sim.h"
#include "transports/xen/xen.h"

#define DISK_SIZE (8 * MiB)
#define FIRST_DATA 32u /* grants below it: the first ring; the others' are the last */

struct bench {
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_xen *xen;
	struct sim sim;
	unsigned rings;
	struct front front[TD_XEN_MAX_RINGS];
	struct td_file_hook hook;
	char path[64];
	char order[256];        /* of the file's writes, durable ones and syncs:
	                           w, f, s as they begin, W, F, S as they end */
	unsigned events;
	unsigned broken;        /* times that we were told */
	bool closed;
	struct td_ratelimit noise;
	uint32_t next_page;
};

struct setup {
	bool is32;
	enum td_xen_data data;
	unsigned order;
	bool read_only;
	unsigned rings, queues;        /* 0: one */
	unsigned poll_us;
	const struct td_xen_offer *offer; /* NULL: all but persistent grants */
	bool quiet;                    /* the order of writes is not recorded */
};

void bench_open(struct bench *b, const struct setup *setup);
/* Only the disk; the guest is there, and its rings are laid out in params. */
void bench_prepare(struct bench *b, const struct setup *setup, struct td_xen_params *params);
int bench_connect(struct bench *b, const struct td_xen_params *params, struct td_why *why);
void bench_disconnect(struct bench *b); /* and nothing of the guest is left mapped */
void bench_close(struct bench *b);

uint32_t bench_page(struct bench *b);
/* Each segment goes to a page of its own, filled by seed. */
struct front_seg bench_seg(struct bench *b, unsigned first, unsigned last, unsigned seed);
/* An indirect request of count whole pages, from page first on. */
struct front_req bench_indirect(struct bench *b, uint8_t op, uint64_t sector,
				unsigned count, uint32_t first);

/* On a ring; the others use the first. */
void bench_push_on(struct bench *b, unsigned ring);
void bench_send(struct bench *b, const struct front_req *req);
/* Waits for count answers; answers[id] = status, for ids below limit. */
void bench_collect_on(struct bench *b, unsigned ring, unsigned count, int *answers,
		      unsigned limit);
void bench_collect(struct bench *b, unsigned count, int *answers, unsigned limit);
int bench_ask(struct bench *b, struct front_req req);

void bench_expect(struct bench *b, uint64_t at, const void *data, size_t len);

#endif
