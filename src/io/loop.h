/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event loop: one per thread. A turn is
 *     deferred calls -> flush hooks -> wait -> what became ready
 * Flush hooks send what has been gathered: I/O to the kernel, responses to
 * a guest or peer. Blocking calls run on a few worker threads, started when
 * first needed, and come back as events.
 *
 * Everything is called on the loop's thread except td_loop_stop() and
 * td_loop_post().
 */
#ifndef IO_LOOP_H
#define IO_LOOP_H

#include <blktap/driver.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct td_loop;

int td_loop_new(struct td_loop **out);
void td_loop_free(struct td_loop *loop);

/* Turns until td_loop_stop(). */
void td_loop_run(struct td_loop *loop);
/* One turn; waits at most timeout_ms (-1: as long as it takes), and not at all
 * if something has been done before it would wait. */
void td_loop_turn(struct td_loop *loop, int timeout_ms);
/* Async-signal-safe, any thread. */
void td_loop_stop(struct td_loop *loop);

/* struct td_watch is in <blktap/driver.h>; td_watch() there is these three for drivers. */
int td_watch_start(struct td_loop *loop, struct td_watch *watch, int fd,
		   uint32_t events);
int td_watch_change(struct td_loop *loop, struct td_watch *watch,
		    uint32_t events);
/* Before fd is closed. ready() is not called any more, in this turn either. */
void td_watch_stop(struct td_loop *loop, struct td_watch *watch);

struct td_timer {
	void (*fired)(struct td_timer *timer);
	uint64_t at_ms;   /* private */
	struct list link; /* private */
	bool armed;
};
/* Arming an armed timer moves it. */
void td_timer_arm(struct td_loop *loop, struct td_timer *timer, unsigned ms);
void td_timer_cancel(struct td_timer *timer);

/* Runs once, at the end of this turn; see struct td_defer. */
void td_loop_defer(struct td_loop *loop, struct td_defer *defer);
/* Takes a scheduled call back. */
void td_loop_undefer(struct td_loop *loop, struct td_defer *defer);

/*
 * Runs before every wait, after the deferred calls. Returns true if it did
 * something: then deferred calls and all hooks have another round before the
 * loop waits, so that what one hook completes another can send.
 */
struct td_flush_hook {
	bool (*flush)(struct td_flush_hook *hook);
	struct list link;
};
void td_loop_add_flush(struct td_loop *loop, struct td_flush_hook *hook);
void td_loop_del_flush(struct td_flush_hook *hook);

/*
 * An I/O engine that has transfers for the kernel, or in it, hands them over and
 * waits there for them, and for the loop's watches at the same time. wait() returns
 * when something has been completed, when fd has become readable (then true), or
 * after timeout_ms (-1: never). Of several that are busy the last waits, for a
 * millisecond at most.
 */
struct td_waiter {
	bool (*busy)(struct td_waiter *waiter);
	bool (*wait)(struct td_waiter *waiter, int fd, int timeout_ms);
	struct list link;
};
void td_loop_add_waiter(struct td_loop *loop, struct td_waiter *waiter);
void td_loop_del_waiter(struct td_waiter *waiter);

/* A call on the thread of a loop, from any thread: those that one thread posts run in
 * the order it posted them. post is the loop's until run() is called. */
struct td_post {
	void (*run)(struct td_post *post);
	struct td_post *next; /* private */
};
void td_loop_post(struct td_loop *loop, struct td_post *post);

void td_loop_work(struct td_loop *loop, struct td_work *work);
/* Work that was started and whose done() has not been called yet. */
unsigned td_loop_working(const struct td_loop *loop);

#endif
