/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A run of a disk, written down: what was done to the image's file, with the
 * data, and which requests were answered, all on one clock. Sits on the hook of
 * the file layer, in front of the suite's own, which shuffles.
 */
#ifndef POWERCUT_RECORD_H
#define POWERCUT_RECORD_H

#include <pthread.h>

#include "../suite/suite.h"

#define NEVER UINT64_MAX

/* Something done to the file. */
struct deed {
	enum td_file_event event;
	uint64_t offset, len;
	char *data;         /* of a WRITE */
	bool dsync;
	uint64_t issued, ended; /* clock; NEVER: not by the end of the run */
	int err;
};

/* A request of the guest. */
struct asked {
	enum td_op op;
	unsigned flags;
	uint64_t offset, len;
	uint32_t tag;
	uint64_t issued, ended;
	int err;
};

struct record {
	struct td_file_hook base;
	struct hook *next;
	const char *path;   /* the image's file: others must not change */
	pthread_mutex_t lock;
	uint64_t clock;
	char *before;       /* the file as it was */
	uint64_t before_size;
	uint32_t tag;       /* what the disk read as before */
	uint64_t disk_size;
	struct deed *deed;
	unsigned deeds, deeds_room;
	struct asked *asked;
	unsigned asks, asks_room;
};

/* Puts itself before the rig's hook; path is read. Call before the open. */
void record_start(struct record *record, struct rig *rig, const struct target *target);
unsigned record_asked(struct record *record, const struct io *io);
void record_answered(struct record *record, unsigned ask, int err);
void record_free(struct record *record);

#endif
