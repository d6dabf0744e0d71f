/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The suite's hand on the file layer, through struct td_file_hook:
 *  - counts what is done to files, and makes the n-th operation fail (or all
 *    from the n-th on, as when a device goes away);
 *  - holds operations back, before they are issued and again before they are
 *    told to have ended, and lets them go in random order: a driver that takes
 *    one order for granted meets another one;
 *  - knows which writes have not been synced yet. With a log that is less easy: when the
 *    entry of a flush is durable its pages go to their places, which the flush does not
 *    wait for. Who hears of its end on another queue finds some of these done.
 */
#ifndef SUITE_HOOK_H
#define SUITE_HOOK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "io/file.h"
#include "model.h"

#define HOOK_FILES 16

struct hook_file {
	struct td_file *file;
	uint64_t written; /* clock at the end of the last plain write */
	uint64_t synced;  /* clock at the begin of the last sync that ended */
	uint64_t before;  /* as written was at the mark */
	uint64_t first;   /* clock at the end of the first one after it; 0: none */
};

struct hook {
	struct td_file_hook base;
	pthread_mutex_t lock; /* workers call too, and the threads of other queues */
	struct rnd rnd;

	uint64_t count;      /* operations so far */
	uint64_t fail_at;    /* this one fails; 0: none */
	bool fail_on;        /* and all later ones */
	int fail_err;        /* -EIO, -ENOSPC ... */
	uint64_t failed;     /* operations made to fail */
	enum td_file_event failed_event; /* the first of them */
	bool failed_aside;   /* a worker did it: no request's own data or tables */
	pthread_t home;      /* whose thread is none */
	uint64_t at_home;    /* operations that it began */

	_Atomic bool shuffle;
	struct list held;
	bool keep;           /* the next read, before it is issued */
	struct td_fileop *kept;
	int wake;            /* an eventfd: something is held, do not wait */
	uint64_t turn;

	uint64_t clock;
	uint64_t changes;    /* writes, truncates, ... seen */
	struct hook_file file[HOOK_FILES];
};

void hook_init(struct hook *hook, uint64_t seed, bool shuffle);
void hook_free(struct hook *hook);
/* Once a turn of the loop: lets some of the held operations go. */
void hook_turn(struct hook *hook);
bool hook_holds(struct hook *hook);
/* The next read is held back, before it is issued, until it is let go. */
void hook_keep_next(struct hook *hook);
bool hook_keeps(struct hook *hook);
void hook_let_go(struct hook *hook);
/* From now on nothing is held back; what is held goes. */
void hook_calm(struct hook *hook);
/* Writes that ended without a sync or FUA after them, in how many files? */
unsigned hook_unsynced(struct hook *hook);
/* Likewise, but of the writes after the mark only the first counts: a flush that is sent
 * after the mark writes its log's entry first. */
void hook_mark(struct hook *hook);
unsigned hook_unsynced_entries(struct hook *hook);
const char *hook_event_name(enum td_file_event event);

#endif
