/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks the daemon looks after: one tapdisk process each.
 *
 *   start -> STARTING -> SERVING -> (stop) STOPPING -> gone
 *                \           \-> DEAD   its process died; stays until stopped
 *                 \-> gone, with the reason
 *
 * All calls are asynchronous: their callbacks come from the loop, never from
 * within the call. A tapdisk outlives the daemon; the next one adopts it.
 */
#ifndef DAEMON_DISKS_H
#define DAEMON_DISKS_H

#include <blktap/driver.h>
#include <jansson.h>
#include <sys/types.h>

#include "control/rpc.h"
#include "io/loop.h"

struct td_disks;   /* all of them */
struct td_tapdisk; /* one */

enum td_tapdisk_state {
	TAPDISK_STARTING,
	TAPDISK_SERVING,
	TAPDISK_STOPPING,
	TAPDISK_DEAD,
};

/* ---- the set ------------------------------------------------------------- */

struct td_disks_options {
	const char *run_dir;     /* sockets are RUN_DIR/tapdisk/NAME.sock, .nbd */
	const char *tapdisk;     /* the program */
	const char *cgroup;      /* "auto", "none", or the folder to use */
	unsigned start_limit_s;  /* a tapdisk that opens its images for longer is killed */
};

int td_disks_new(struct td_loop *loop, const struct td_disks_options *options,
		 struct td_disks **out, struct td_why *why);
/* The tapdisks go on serving. */
void td_disks_free(struct td_disks *disks);
/* Finds the tapdisks of an earlier daemon, then calls done(arg). */
void td_disks_adopt(struct td_disks *disks, void (*done)(void *arg), void *arg);

struct td_tapdisk *td_disks_find(struct td_disks *disks, const char *name);
/* NULL: the first; returns NULL after the last. */
struct td_tapdisk *td_disks_next(struct td_disks *disks, struct td_tapdisk *tap);
struct td_loop *td_disks_loop(struct td_disks *disks);
unsigned td_disks_start_limit(const struct td_disks *disks); /* seconds */
/* The disk for which spec could not be served, to be written, now; NULL: none here. */
struct td_tapdisk *td_disks_in_the_way(struct td_disks *disks, const char *spec);

/* ---- one disk -------------------------------------------------------------- */

struct td_tapdisk_want {
	const char *spec;    /* "type:target[,key=value...]" */
	const char *name;    /* [A-Za-z0-9._-], at most 48; NULL: next free dN */
	const char *user;    /* who uses it, e.g. "domain 3"; NULL: unknown */
	const char *nbd;     /* also listen here; NULL: no */
	bool beside;         /* listen for NBD beside its control socket (and not at nbd) */
	const char *engine;  /* NULL: the best */
	bool read_only;
	/* It only looks: the image is opened for its size, while another disk may write
	 * it. Claims nothing. */
	bool peek;
};

/* err 0: it serves. Else *why says why not and the disk is gone. */
typedef void td_tapdisk_started(void *arg, struct td_tapdisk *tap, int err,
				const char *why);

/*
 * Starts one. What can be refused at once is (NULL and *why): a name that is
 * taken, an image that another disk writes. started is called once, with
 * -ECANCELED if it is stopped first. Strings are copied.
 */
struct td_tapdisk *td_tapdisk_start(struct td_disks *disks,
				    const struct td_tapdisk_want *want,
				    td_tapdisk_started *started, void *arg,
				    int *err, struct td_why *why);

/* Who holds a tap is told what becomes of it; the functions may be NULL. */
struct td_tapdisk_holder {
	/* The process of a SERVING disk has died by itself: the disk is DEAD. */
	void (*died)(void *arg, const char *cause);
	/* It has answered with what it is now: its size may be another. */
	void (*changed)(void *arg);
	/* Whoever has ended it: tap is no more when this returns. Comes before started
	 * and stopped. */
	void (*gone)(void *arg);
};
/* One holder at a time; NULL: nobody. */
void td_tapdisk_hold(struct td_tapdisk *tap, const struct td_tapdisk_holder *holder, void *arg);
/* For one that an earlier daemon started and that is still STARTING here: it has not
 * answered yet. */
void td_tapdisk_on_start(struct td_tapdisk *tap, td_tapdisk_started *started, void *arg);

/* Calls a method of the tapdisk. -ECONNRESET: it died, or is not SERVING;
 * -ETIMEDOUT: no answer in 30 s. */
void td_tapdisk_call(struct td_tapdisk *tap, const char *method,
		     json_t *params /* taken; NULL: {} */,
		     td_rpc_answered *answered, void *arg);
/* The same for a method that answers when something happens: no time limit. */
void td_tapdisk_await(struct td_tapdisk *tap, const char *method, json_t *params,
		      td_rpc_answered *answered, void *arg);
/* No answer to arg any more: its owner goes away. */
void td_tapdisk_forget(struct td_tapdisk *tap, const void *arg);

/*
 * Drains and ends it in any state; done(arg, err, why) when the process is gone
 * and nothing of it is left. err says that the last flush failed, or
 * (-ETIMEDOUT) that it has not ended in 30 s: it goes on trying, and may be
 * stopped once more, or killed. done may be NULL.
 */
typedef void td_tapdisk_stopped(void *arg, int err, const char *why);
void td_tapdisk_stop(struct td_tapdisk *tap, td_tapdisk_stopped *done, void *arg);
/* The same with SIGKILL: nothing is drained; acknowledged writes are kept. */
void td_tapdisk_kill(struct td_tapdisk *tap, td_tapdisk_stopped *done, void *arg);

const char *td_tapdisk_name(const struct td_tapdisk *tap);
const char *td_tapdisk_spec(const struct td_tapdisk *tap);
enum td_tapdisk_state td_tapdisk_state(const struct td_tapdisk *tap);
bool td_tapdisk_read_only(const struct td_tapdisk *tap);
bool td_tapdisk_peeks(const struct td_tapdisk *tap);
/* Whether it would be just the same if it were started so. */
bool td_tapdisk_serves_as(const struct td_tapdisk *tap, const char *spec, bool read_only);
/* The socket where it listens for NBD beside its control socket; NULL: it does not. */
const char *td_tapdisk_beside(const struct td_tapdisk *tap);
pid_t td_tapdisk_pid(const struct td_tapdisk *tap);       /* 0: none (dead) */
uint64_t td_tapdisk_size(const struct td_tapdisk *tap);       /* bytes */
uint32_t td_tapdisk_block_size(const struct td_tapdisk *tap);
/* What it answered to info when it was started or adopted: can, cluster, and,
 * of an adopted one, its transports; docs/control.md. Borrowed. */
json_t *td_tapdisk_info(const struct td_tapdisk *tap);
void td_tapdisk_set_user(struct td_tapdisk *tap, const char *user);

/* Disks of guests have names of their own, vbd-DOMID-DEVID, by which a new daemon
 * knows whose they are; no others may have such a name. */
#define TD_GUEST_NAME_SIZE 40
void td_guest_name(char name[TD_GUEST_NAME_SIZE], uint32_t domid, uint32_t devid);
bool td_guest_name_parse(const char *name, uint32_t *domid, uint32_t *devid);

#endif
