/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies the content of one disk onto another, many requests at a time.
 */
#ifndef TOOLS_COPY_H
#define TOOLS_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct td_disk;
struct td_loop;
struct progress;

struct copy_options {
	bool fresh;   /* the target reads as zeroes now: leave zeroes out */
	struct progress *progress;
	const volatile int *stop; /* not 0: give up with -EINTR */
};

struct copy_result {
	uint64_t data;  /* bytes written */
	uint64_t at;    /* on error: about where */
	bool reading;   /* on error: the source failed, not the target */
};

/* Copies all of from, whose size is at most that of to, and flushes. Turns the
 * loop until done. 0 or -errno. */
int copy_disk(struct td_loop *loop, struct td_disk *from, struct td_disk *to,
	      const struct copy_options *options, struct copy_result *out);

#endif
