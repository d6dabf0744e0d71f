/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One disk, as disks.c and tapdisk.c share it; disks.h is the face for others.
 */
#ifndef DAEMON_TAPDISK_H
#define DAEMON_TAPDISK_H

#include "base/list.h"
#include "control/daemon/cgroup.h"
#include "control/daemon/claims.h"
#include "control/daemon/disks.h"
#include "control/daemon/memory.h"
#include "control/daemon/process.h"
#include "core/spec.h"

struct td_disks {
	struct td_loop *loop;
	char *socket_dir;
	char *program;
	struct td_cgroups *cgroups;
	struct list all;      /* struct td_tapdisk */
	struct list memories; /* struct td_memory */
	unsigned last_number; /* of the names d1, d2 ... */
	unsigned start_limit_s;
	/* adoption */
	unsigned asking;
	struct td_timer patience;
	void (*adopted)(void *arg);
	void *adopted_arg;
};

struct td_tapdisk {
	struct list link; /* disks->all */
	struct td_disks *disks;
	enum td_tapdisk_state state;
	char *name, *spec, *user, *socket;
	char *beside; /* the NBD address unix:RUN_DIR/tapdisk/NAME.nbd, used or not */
	bool read_only;
	bool peeks;
	struct td_claims claims;
	struct td_memory *memory;   /* NULL: no RAM disk */
	struct td_process *process; /* NULL: dead */
	struct td_rpc_link *rpc;    /* connected once it is ready */
	json_t *info;               /* NULL: not SERVING yet */

	/* STARTING: its one line, and what was wrong with it */
	struct td_watch ready;
	char line[1024];
	size_t line_len;
	int start_err;
	char start_why[512];
	td_tapdisk_started *started;
	void *started_arg;

	const struct td_tapdisk_holder *holder; /* NULL: nobody */
	void *holder_arg;
	char cause[100]; /* DEAD: of its death */

	/* STOPPING */
	struct list waiters; /* struct stop_waiter */
	int stop_err;
	char stop_why[512];
	bool killed;              /* by our own SIGKILL */
	struct td_timer patience; /* until SIGKILL: it starts, or has promised to end */
	struct td_defer bury;     /* of a dead one */
};

/* tapdisk.c */
struct td_tapdisk *td_tapdisk_new(struct td_disks *disks, const char *name);
void td_tapdisk_free(struct td_tapdisk *tap); /* the process lives on */
/* launch.c: runs the program; its name, spec, claims and memory are set. */
int td_tapdisk_launch(struct td_tapdisk *tap, const struct td_tapdisk_want *want,
		      struct td_why *why);
/* Its sockets; without a process nobody else does. */
void td_tapdisk_unlink(struct td_tapdisk *tap);
void td_tapdisk_ended(void *arg, bool clean, const char *cause);
/* Tells whom it concerns that the disk is gone, and frees it. */
void td_tapdisk_gone(struct td_tapdisk *tap, int start_err, const char *start_why);
/* It serves: takes note of what it says about itself. */
void td_tapdisk_serves(struct td_tapdisk *tap, json_t *info);

/* disks.c: "disk d1, tapdisk 123", who holds a file that text names, for which
 * this one was refused; NULL: nobody whom we know. */
char *td_disks_holder(const struct td_tapdisk *refused, const char *text);
int td_tapdisk_claim(struct td_tapdisk *tap, const struct td_spec *spec, bool read_only,
		     struct td_why *why);

#endif
