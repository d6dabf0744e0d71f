/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies the content of one disk onto another, many requests at a time, in no
 * particular order.
 */
#ifndef TOOLS_COPY_H
#define TOOLS_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct td_disk;
struct td_loop;
struct progress;

#define COPY_JOBS 16
#define COPY_JOBS_MAX 256
#define COPY_SPARSE 4096

struct copy_options {
	bool fresh;      /* the target reads as zeroes now: leave zeroes out */
	bool compress;   /* the target's clusters, where it can */
	bool salvage;    /* what cannot be read becomes zeroes */
	unsigned jobs;   /* chunks under way at a time; 0: COPY_JOBS */
	uint64_t sparse; /* zeroes in a row that are not written as data, a multiple of
	                    512; 0: all is written */
	uint64_t offset; /* where in the source to begin ... */
	uint64_t to;     /* ... and where in the target */
	uint64_t len;    /* how much; 0: up to its end */
	/* Copy only what is not this deep in the source's chain: 1 is what the top
	 * image holds itself, and what it does not hold stays as it is. 0: all */
	unsigned above;
	struct progress *progress;
	const volatile int *stop; /* not 0: give up with -EINTR */
};

struct copy_result {
	uint64_t data;  /* bytes written */
	uint64_t lost;  /* bytes that could not be read, with salvage */
	uint64_t at;    /* on error: about where, in what failed */
	bool reading;   /* on error: the source failed, not the target */
};

/* Copies, and flushes. The target is large enough. Turns the loop until done. 0 or
 * -errno. */
int copy_disk(struct td_loop *loop, struct td_disk *from, struct td_disk *to,
	      const struct copy_options *options, struct copy_result *out);

#endif
