/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An I/O engine: asynchronous vectored reads and writes of a loop, gathered
 * during a turn and sent to the kernel at its end. io_uring where the kernel
 * has and allows it, else libaio. Alignment, short transfers and everything
 * that is no read or write is the business of file.c, above.
 */
#ifndef IO_ENGINE_H
#define IO_ENGINE_H

#include <blktap/driver.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"

struct td_loop;
struct td_engine;

/* One transfer; belongs to the engine from td_engine_rw() until done(). */
struct td_rw {
	int fd;
	bool write;
	bool dsync;              /* durable when done (RWF_DSYNC) */
	bool in_memory;          /* the file is, on a tmpfs: no call waits */
	const struct iovec *iov; /* stays until done */
	unsigned iov_count;
	uint64_t offset;
	/* res: bytes transferred, maybe fewer than asked, or -errno. Never
	 * called from within td_engine_rw(). */
	void (*done)(struct td_rw *rw, int64_t res);
	struct list link; /* private: waits for a slot in the ring */
	int64_t res;      /* private */
};

/* name: "io_uring", "libaio", or NULL for the best there is. depth: transfers
 * that may be in the kernel at once; more wait in order. */
int td_engine_open(struct td_loop *loop, const char *name, unsigned depth,
		   struct td_engine **out, struct td_why *why);
void td_engine_close(struct td_engine *engine); /* nothing in flight */
const char *td_engine_name(const struct td_engine *engine);

void td_engine_rw(struct td_engine *engine, struct td_rw *rw);

#endif
