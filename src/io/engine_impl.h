/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between engine.c and the engines. Each engine embeds struct td_engine first.
 */
#ifndef IO_ENGINE_IMPL_H
#define IO_ENGINE_IMPL_H

#include <blktap/driver.h>

#include "config.h"
#include "io/engine.h"
#include "io/loop.h"

struct td_engine_ops {
	const char *name;
	int (*open)(struct td_loop *loop, unsigned depth, struct td_engine **out,
		    struct td_why *why);
	void (*close)(struct td_engine *engine);
	/* Sends what waits, as far as there is room; completes what is done.
	 * True if it did either. */
	bool (*flush)(struct td_engine *engine);
};

struct td_engine {
	const struct td_engine_ops *ops;
	struct td_loop *loop;
	struct td_flush_hook hook;
	struct list waiting; /* td_rw, oldest first */
	struct list at_once; /* those on files in memory */
	bool named;          /* asked for: does those too */
	struct td_timer retry;
};

/* The kernel is out of memory or slots: looks again soon, events or none. */
void td_engine_retry(struct td_engine *engine);

extern const struct td_engine_ops td_engine_uring, td_engine_aio;

#endif
