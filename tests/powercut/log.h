/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A run of a disk, written down: what was done to its files, with the data, and
 * which requests were answered, all on one clock. Sits on the hook of the file
 * layer, in front of the suite's own, which shuffles.
 *
 *     clock:  1 2 3 4 5 ...
 *     deeds:  [write 8192+4096]   [sync]      begin and end of each
 *     asks:     [write 0+512 .............]   begin and end of each
 *
 * log_finish() works out when each of them became safe: a deed when the first
 * sync of its file that began after it had ended has ended (at its own end if
 * it was written with FUA); a request likewise, by the guest's flushes.
 */
#ifndef POWERCUT_LOG_H
#define POWERCUT_LOG_H

#include <pthread.h>

#include "../suite/suite.h"
#include "store.h"
#include "survivors.h"

#define NEVER UINT64_MAX
#define LOG_FILES 16

/* Something done to a file. */
struct deed {
	enum td_file_event event;
	unsigned file;
	uint64_t offset, len;
	char *data;             /* of a WRITE */
	bool dsync;
	uint64_t issued, ended; /* clock; NEVER: not by the end of the run */
	uint64_t safe;          /* must have happened if power is lost from then on */
	int err;
};

/* A request of the guest. */
struct asked {
	enum td_op op;
	unsigned flags;
	uint64_t offset, len;
	uint32_t tag;
	uint64_t issued, ended;
	uint64_t safe;
	int err;
};

struct log_file {
	char path[512];
	struct store before;    /* as it was when the run began */
};

struct log {
	struct td_file_hook base;
	struct hook *next;
	pthread_mutex_t lock;
	uint64_t clock, began;  /* cuts come after it */
	uint32_t tag;           /* what the disk read as before all requests */
	uint64_t disk_size;     /* in the end */
	uint64_t old_size;      /* before it was resized; 0: it was not */
	uint64_t resize_began, resize_ended;
	struct log_file file[LOG_FILES]; /* those that were changed or synced */
	unsigned files;
	struct deed *deed;
	unsigned deeds, deeds_room;
	struct asked *asked;
	unsigned asks, asks_room;
	pthread_t loop;         /* the thread of the loop */
	const char *survivors_in; /* folder; NULL: not looked at */
	struct survivors *survivors; /* at instants of that thread */
	unsigned taken, taken_room;
	bool survives;          /* there has been any */
};

void log_init(struct log *log, uint32_t tag, const char *survivors_in);
void log_free(struct log *log);

/* A hook that writes down what is done to files. */
struct td_file_hook *log_hook(struct log *log);
/* The rig has it, in front of its own, from the next open on. */
void log_attach(struct log *log, struct rig *rig);
/* Not any more: what happens now is not part of the run. */
void log_detach(struct log *log, struct rig *rig);

/* Survivor memory after that tick of the clock; NULL: not known. */
const struct survivors *log_survivors(const struct log *log, uint64_t at);

/* What the hook does, for logs written by hand: returns the deed's number. */
unsigned log_deed(struct log *log, const char *path, const struct deed *deed);
void log_deed_ended(struct log *log, unsigned deed, int err);

unsigned log_asked(struct log *log, enum td_op op, unsigned flags, uint64_t offset,
		   uint64_t len, uint32_t tag);
void log_answered(struct log *log, unsigned ask, int err);
/* The disk is about to get another size; and has it. */
void log_resize(struct log *log, uint64_t to);
void log_resized(struct log *log);
/* The disk has been closed: all requests so far are safe, and the run begins. */
void log_settle(struct log *log);

/* The run is over. Fails where two changes of the same bytes were in flight
 * together: nobody can say which of them came last. */
void log_finish(struct log *log);

#endif
