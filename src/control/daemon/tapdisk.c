/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One disk's life, in the order of time:
 *
 *   launched -> its ready line -> connected: SERVING -> quit -> its process ends
 *                                           \-> its process ends: DEAD -> buried
 *
 * Everything that ends a disk passes td_tapdisk_ended(), which is called once,
 * by its process descriptor.
 */
#include "control/daemon/tapdisk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"

#define CALL_MS 30000 /* for answers of a tapdisk: a disk may be slow */
#define EXIT_MS 5000  /* from the answer to quit to its end */

struct stop_waiter {
	struct list link;
	td_tapdisk_stopped *done;
	void *arg;
};

/* ---- the end ------------------------------------------------------------------- */

static void tell_waiters(struct list *waiters, int err, const char *why)
{
	struct list *link;

	while ((link = list_pop(waiters))) {
		struct stop_waiter *waiter = list_item(link, struct stop_waiter, link);

		if (waiter->done)
			waiter->done(waiter->arg, err, why);
		free(waiter);
	}
}

static void ready_close(struct td_tapdisk *tap)
{
	if (tap->ready.fd < 0)
		return;
	td_watch_stop(tap->disks->loop, &tap->ready);
	close(tap->ready.fd);
	tap->ready.fd = -1;
}

static const char *beside_path(const struct td_tapdisk *tap)
{
	return tap->beside + strlen("unix:");
}

void td_tapdisk_unlink(struct td_tapdisk *tap)
{
	unlink(tap->socket);
	unlink(beside_path(tap));
}

/* What the process leaves behind, whatever its end. */
static void tapdisk_clean_up(struct td_tapdisk *tap)
{
	int err = td_cgroups_remove(tap->disks->cgroups, tap->name);

	if (err && err != -ENOENT)
		td_log(tap->name, LOG_WARNING, "its cgroup stays: %s", strerror(-err));
	td_tapdisk_unlink(tap);
	td_timer_cancel(&tap->patience);
	td_rpc_hang_up(tap->rpc);
}

/*
 * The disk is gone: tells whom it concerns, who may start its successor there. So the
 * memory goes first: a RAM disk of the same name that is started then is a new one.
 */
void td_tapdisk_gone(struct td_tapdisk *tap, int start_err, const char *start_why)
{
	const struct td_tapdisk_holder *holder = tap->holder;
	td_tapdisk_started *started = tap->started;
	struct list waiters;

	list_del(&tap->link);
	td_memory_put(take(tap->memory));
	list_init(&waiters);
	list_join(&waiters, &tap->waiters);
	if (holder && holder->gone)
		holder->gone(tap->holder_arg);
	if (started)
		started(tap->started_arg, tap, start_err, start_why);
	tell_waiters(&waiters, tap->stop_err, tap->stop_why);
	td_tapdisk_free(tap);
}

static void start_failed(struct td_tapdisk *tap, const char *cause)
{
	AUTO_FREE char *holder = NULL;
	char why[800];

	if (!tap->start_err) {
		tap->start_err = -EIO;
		snprintf(tap->start_why, sizeof(tap->start_why),
			 "tapdisk %s before it was ready", cause);
	}
	/* its lock says that somebody holds an image; we may know who */
	if (tap->start_err == -EBUSY || tap->start_err == -EAGAIN)
		holder = td_disks_holder(tap, tap->start_why);
	snprintf(why, sizeof(why), "%s%s%s%s", tap->start_why, holder ? " (" : "",
		 holder ? holder : "", holder ? ")" : "");
	td_log(tap->name, LOG_ERR, "not started: %s", why);
	td_tapdisk_gone(tap, tap->start_err, why);
}

static void died(struct td_tapdisk *tap, const char *cause)
{
	const struct td_tapdisk_holder *holder = tap->holder;

	tap->state = TAPDISK_DEAD;
	snprintf(tap->cause, sizeof(tap->cause), "%s", cause);
	td_log(tap->name, LOG_ERR, "its tapdisk died: %s; the disk stalls until it is detached",
	       cause);
	if (holder && holder->died)
		holder->died(tap->holder_arg, cause);
}

void td_tapdisk_ended(void *arg, bool clean, const char *cause)
{
	struct td_tapdisk *tap = arg;
	enum td_tapdisk_state state;

	tap->process = NULL;
	tapdisk_clean_up(tap);
	state = tap->state; /* who waited for an answer may have stopped it just now */
	if (state == TAPDISK_STARTING) {
		ready_close(tap);
		start_failed(tap, cause);
	} else if (state == TAPDISK_SERVING) {
		died(tap, cause);
	} else {
		if (!clean && !tap->killed && !tap->stop_err) {
			tap->stop_err = -EIO;
			snprintf(tap->stop_why, sizeof(tap->stop_why), "tapdisk %s", cause);
		}
		td_log(tap->name, tap->stop_err ? LOG_ERR : LOG_INFO, "detached%s%s",
		       tap->stop_err ? ": " : "", tap->stop_err ? tap->stop_why : "");
		td_tapdisk_gone(tap, -ECANCELED, "it was detached before it was ready");
	}
}

void td_tapdisk_free(struct td_tapdisk *tap)
{
	if (!tap)
		return;
	list_del(&tap->link);
	ready_close(tap);
	td_loop_undefer(tap->disks->loop, &tap->bury);
	td_timer_cancel(&tap->patience);
	td_rpc_link_free(tap->rpc);
	td_process_free(tap->process);
	td_memory_put(tap->memory);
	td_claims_free(&tap->claims);
	json_decref(tap->info);
	free(tap->name);
	free(tap->spec);
	free(tap->user);
	free(tap->socket);
	free(tap->beside);
	free(tap);
}

/* ---- the start ---------------------------------------------------------------------- */

static void start_refused(struct td_tapdisk *tap, int err, const char *why)
{
	tap->start_err = err;
	snprintf(tap->start_why, sizeof(tap->start_why), "%s", why);
	/* it ends by itself now; if it does not, it is made to */
	td_timer_arm(tap->disks->loop, &tap->patience, EXIT_MS);
}

void td_tapdisk_serves(struct td_tapdisk *tap, json_t *info)
{
	json_decref(tap->info);
	tap->info = json_incref(info);
	tap->state = TAPDISK_SERVING;
	td_timer_cancel(&tap->patience);
	if (!tap->peeks)
		td_claims_add_parents(&tap->claims, info);
}

static void info_answered(void *arg, int err, const char *why, json_t *info)
{
	struct td_tapdisk *tap = arg;
	td_tapdisk_started *started = tap->started;

	if (tap->state != TAPDISK_STARTING)
		return; /* stopped, or ended, meanwhile */
	if (err == -ECONNRESET)
		return; /* it died: its end will tell more */
	if (err) {
		start_refused(tap, err, why);
		td_process_kill(tap->process, SIGKILL);
		return;
	}
	td_tapdisk_serves(tap, info);
	td_log(tap->name, LOG_INFO, "attached: %s, tapdisk %d", tap->spec,
	       (int)td_tapdisk_pid(tap));
	tap->started = NULL;
	if (started)
		started(tap->started_arg, tap, 0, NULL);
}

static void ready_told(struct td_tapdisk *tap)
{
	json_t *ready = json_loadb(tap->line, tap->line_len, 0, NULL);
	const char *error = json_string_value(json_object_get(ready, "error"));
	int code = json_integer_value(json_object_get(ready, "errno"));
	struct td_why why;
	int err;

	if (!ready || error) {
		start_refused(tap, code > 0 ? -code : -EIO,
			      error ? error : "its tapdisk said what is no JSON");
	} else if ((err = td_rpc_connect(tap->rpc, tap->socket, &why))) {
		start_refused(tap, err, why.text);
		td_process_kill(tap->process, SIGKILL);
	} else {
		td_rpc_ask(tap->rpc, "info", NULL, CALL_MS, info_answered, tap);
	}
	json_decref(ready);
}

static void ready_readable(struct td_watch *watch, uint32_t events)
{
	struct td_tapdisk *tap = container_of(watch, struct td_tapdisk, ready);
	size_t room = sizeof(tap->line) - tap->line_len;
	ssize_t n = read(watch->fd, tap->line + tap->line_len, room);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		tap->line_len += n;
	if (n > 0 && (size_t)n < room && tap->line[tap->line_len - 1] != '\n')
		return;
	ready_close(tap);
	/* nothing said: it died, and its end will tell more */
	if (tap->line_len && tap->state == TAPDISK_STARTING)
		ready_told(tap);
}

static void out_of_patience(struct td_timer *timer)
{
	struct td_tapdisk *tap = container_of(timer, struct td_tapdisk, patience);

	if (tap->state == TAPDISK_STARTING && !tap->start_err) {
		tap->start_err = -ETIMEDOUT;
		snprintf(tap->start_why, sizeof(tap->start_why),
			 "%s: tapdisk has not opened it in %u s", tap->spec,
			 tap->disks->start_limit_s);
	} else {
		td_log(tap->name, LOG_WARNING, "tapdisk %d does not end: killed",
		       (int)td_tapdisk_pid(tap));
	}
	td_process_kill(tap->process, SIGKILL);
}

/* ---- the stop ------------------------------------------------------------------------ */

static void tapdisk_bury(struct td_defer *defer)
{
	struct td_tapdisk *tap = container_of(defer, struct td_tapdisk, bury);

	td_log(tap->name, LOG_INFO, "detached");
	td_tapdisk_gone(tap, 0, NULL);
}

static void quit_answered(void *arg, int err, const char *why, json_t *result)
{
	struct td_tapdisk *tap = arg;

	if (err == -ETIMEDOUT) { /* it goes on trying */
		tell_waiters(&tap->waiters, err, "its I/O does not end; see detach --force");
		return;
	}
	if (err && err != -ECONNRESET) {
		tap->stop_err = err;
		snprintf(tap->stop_why, sizeof(tap->stop_why), "%s", why);
	}
	td_timer_arm(tap->disks->loop, &tap->patience, EXIT_MS);
}

static void waiter_add(struct td_tapdisk *tap, td_tapdisk_stopped *done, void *arg)
{
	struct stop_waiter *waiter = calloc(1, sizeof(*waiter));

	if (!waiter)
		abort(); /* an answer is promised, and there is no memory to owe it */
	waiter->done = done;
	waiter->arg = arg;
	list_add(&tap->waiters, &waiter->link);
}

static void tapdisk_end(struct td_tapdisk *tap, bool kill, td_tapdisk_stopped *done, void *arg)
{
	enum td_tapdisk_state state = tap->state;

	waiter_add(tap, done, arg);
	if (state == TAPDISK_DEAD) {
		td_loop_defer(tap->disks->loop, &tap->bury);
		return;
	}
	tap->state = TAPDISK_STOPPING;
	if (kill || state == TAPDISK_STARTING) {
		tap->killed = true;
		td_process_kill(tap->process, SIGKILL);
	} else {
		td_rpc_ask(tap->rpc, "quit", NULL, CALL_MS, quit_answered, tap);
	}
}

void td_tapdisk_stop(struct td_tapdisk *tap, td_tapdisk_stopped *done, void *arg)
{
	tapdisk_end(tap, false, done, arg);
}

void td_tapdisk_kill(struct td_tapdisk *tap, td_tapdisk_stopped *done, void *arg)
{
	tapdisk_end(tap, true, done, arg);
}

/* ---- in between ------------------------------------------------------------------------ */

/* Names are kept in order: d2 before d10. */
static struct list *after(struct td_disks *disks, const char *name)
{
	LIST_FOR(struct td_tapdisk, tap, &disks->all, link)
		if (strverscmp(name, tap->name) < 0)
			return &tap->link;
	return &disks->all;
}

struct td_tapdisk *td_tapdisk_new(struct td_disks *disks, const char *name)
{
	struct td_tapdisk *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return NULL;
	tap->disks = disks;
	tap->ready.fd = -1;
	tap->ready.ready = ready_readable;
	tap->patience.fired = out_of_patience;
	tap->bury.run = tapdisk_bury;
	list_init(&tap->waiters);
	list_add(after(disks, name), &tap->link);
	tap->name = strdup(name);
	tap->rpc = td_rpc_link_new(disks->loop);
	if (!tap->name || !tap->rpc ||
	    asprintf(&tap->socket, "%s/%s.sock", disks->socket_dir, name) < 0 ||
	    asprintf(&tap->beside, "unix:%s/%s.nbd", disks->socket_dir, name) < 0) {
		td_tapdisk_free(tap);
		return NULL;
	}
	return tap;
}

void td_tapdisk_hold(struct td_tapdisk *tap, const struct td_tapdisk_holder *holder, void *arg)
{
	tap->holder = holder;
	tap->holder_arg = arg;
}

void td_tapdisk_on_start(struct td_tapdisk *tap, td_tapdisk_started *started, void *arg)
{
	tap->started = started;
	tap->started_arg = arg;
}

static void tapdisk_ask(struct td_tapdisk *tap, const char *method, json_t *params,
			unsigned timeout_ms, td_rpc_answered *answered, void *arg)
{
	/* it hangs up on who leaves answers unread; that was not for ever */
	if (tap->process && !td_rpc_connected(tap->rpc))
		td_rpc_connect(tap->rpc, tap->socket, NULL);
	td_rpc_ask(tap->rpc, method, params, timeout_ms, answered, arg);
}

void td_tapdisk_call(struct td_tapdisk *tap, const char *method, json_t *params,
		     td_rpc_answered *answered, void *arg)
{
	tapdisk_ask(tap, method, params, CALL_MS, answered, arg);
}

void td_tapdisk_await(struct td_tapdisk *tap, const char *method, json_t *params,
		      td_rpc_answered *answered, void *arg)
{
	tapdisk_ask(tap, method, params, 0, answered, arg);
}

void td_tapdisk_forget(struct td_tapdisk *tap, const void *arg)
{
	td_rpc_forget(tap->rpc, arg);
	if (tap->started_arg == arg)
		tap->started = NULL;
	if (tap->holder_arg == arg)
		tap->holder = NULL;
	LIST_FOR(struct stop_waiter, waiter, &tap->waiters, link)
		if (waiter->arg == arg)
			waiter->done = NULL;
}

const char *td_tapdisk_name(const struct td_tapdisk *tap)
{
	return tap->name;
}

const char *td_tapdisk_spec(const struct td_tapdisk *tap)
{
	return tap->spec;
}

enum td_tapdisk_state td_tapdisk_state(const struct td_tapdisk *tap)
{
	return tap->state;
}

bool td_tapdisk_read_only(const struct td_tapdisk *tap)
{
	return tap->read_only;
}

bool td_tapdisk_peeks(const struct td_tapdisk *tap)
{
	return tap->peeks;
}

const char *td_tapdisk_beside(const struct td_tapdisk *tap)
{
	json_t *nbd = json_object_get(tap->info, "nbd"), *item;
	size_t i;

	json_array_foreach(nbd, i, item) {
		const char *address = json_string_value(json_object_get(item, "address"));

		if (address && !strcmp(address, tap->beside))
			return beside_path(tap);
	}
	return NULL;
}

pid_t td_tapdisk_pid(const struct td_tapdisk *tap)
{
	return tap->process ? td_process_pid(tap->process) : 0;
}

uint64_t td_tapdisk_size(const struct td_tapdisk *tap)
{
	return json_integer_value(json_object_get(tap->info, "size"));
}

uint32_t td_tapdisk_block_size(const struct td_tapdisk *tap)
{
	return json_integer_value(json_object_get(tap->info, "block_size"));
}

json_t *td_tapdisk_info(const struct td_tapdisk *tap)
{
	return tap->info;
}

void td_tapdisk_set_user(struct td_tapdisk *tap, const char *user)
{
	free(tap->user);
	tap->user = user ? strdup(user) : NULL;
}
