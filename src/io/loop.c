/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event loop over epoll. Other threads reach it through one eventfd: a
 * worker that has finished puts its work on the done list and wakes the loop;
 * the loop of another queue posts a call, and wakes it for the first of several.
 * Workers are few, share one FIFO, and are started only while all that exist
 * are busy, so that a disk that never blocks never has one.
 */
#include "io/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

#define EVENTS_PER_TURN 64
#define ROUNDS_PER_TURN 16
#define WORKERS_LEAST 4      /* they may wait for a disk */
#define WORKERS 16           /* of a machine with as many processors */
#define WORKER_STACK (128 * 1024)

struct td_loop {
	int epoll_fd;
	struct td_watch wake; /* the eventfd */
	_Atomic bool stopped;

	struct epoll_event ready[EVENTS_PER_TURN];
	int ready_count, ready_at;

	struct list timers;   /* soonest first */
	struct list flush_hooks, waiters;
	struct td_defer *defer_first, **defer_last;
	bool more;            /* to send, before one may wait */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t to_do;
	struct td_work *todo_first, **todo_last;
	struct td_work *done_first, **done_last;
	struct td_post *post_first, **post_last;
	pthread_t worker[WORKERS];
	unsigned workers, idle, workers_max;
	bool closing;

	unsigned working;     /* loop's thread only */
};

static void loop_wake(struct td_loop *loop)
{
	uint64_t one = 1;

	while (write(loop->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* ---- workers ----------------------------------------------------------- */

static struct td_work *work_take(struct td_loop *loop)
{
	struct td_work *work;

	loop->idle++;
	while (!loop->todo_first && !loop->closing)
		pthread_cond_wait(&loop->to_do, &loop->lock);
	loop->idle--;
	work = loop->todo_first;
	if (!work)
		return NULL;
	loop->todo_first = work->next;
	if (!work->next)
		loop->todo_last = &loop->todo_first;
	return work;
}

static void *worker_main(void *arg)
{
	struct td_loop *loop = arg;
	struct td_work *work;

	pthread_mutex_lock(&loop->lock);
	while ((work = work_take(loop))) {
		pthread_mutex_unlock(&loop->lock);
		work->err = work->run(work);
		pthread_mutex_lock(&loop->lock);
		work->next = NULL;
		*loop->done_last = work;
		loop->done_last = &work->next;
		loop_wake(loop);
	}
	pthread_mutex_unlock(&loop->lock);
	return NULL;
}

/* Signals are for the loop's thread. Called with the lock held. */
static int worker_start(struct td_loop *loop)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&loop->worker[loop->workers], &attr, worker_main, loop);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (!err)
		loop->workers++;
	return -err;
}

void td_loop_work(struct td_loop *loop, struct td_work *work)
{
	unsigned queued = 1;
	int err = 0;

	work->next = NULL;
	work->home = loop;
	loop->working++;
	pthread_mutex_lock(&loop->lock);
	for (struct td_work *w = loop->todo_first; w; w = w->next)
		queued++;
	if (queued > loop->idle && loop->workers < loop->workers_max)
		err = worker_start(loop);
	if (err && !loop->workers) {
		work->err = err; /* it fails, as an event like any other */
		*loop->done_last = work;
		loop->done_last = &work->next;
		loop_wake(loop);
	} else {
		*loop->todo_last = work;
		loop->todo_last = &work->next;
		pthread_cond_signal(&loop->to_do);
	}
	pthread_mutex_unlock(&loop->lock);
}

unsigned td_loop_working(const struct td_loop *loop)
{
	return loop->working;
}

static void works_done(struct td_loop *loop, struct td_work *work)
{
	struct td_work *next;

	for (; work; work = next) {
		next = work->next;
		loop->working--;
		work->done(work, work->err);
	}
}

/* ---- other threads ------------------------------------------------------ */

void td_loop_post(struct td_loop *loop, struct td_post *post)
{
	bool first;

	post->next = NULL;
	pthread_mutex_lock(&loop->lock);
	first = !loop->post_first;
	*loop->post_last = post;
	loop->post_last = &post->next;
	pthread_mutex_unlock(&loop->lock);
	if (first)
		loop_wake(loop);
}

static void posts_run(struct td_post *post)
{
	struct td_post *next;

	for (; post; post = next) {
		next = post->next;
		post->run(post);
	}
}

static void wake_ready(struct td_watch *watch, uint32_t events)
{
	struct td_loop *loop = container_of(watch, struct td_loop, wake);
	struct td_work *work;
	struct td_post *post;
	uint64_t count;

	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&loop->lock);
	work = loop->done_first;
	loop->done_first = NULL;
	loop->done_last = &loop->done_first;
	post = loop->post_first;
	loop->post_first = NULL;
	loop->post_last = &loop->post_first;
	pthread_mutex_unlock(&loop->lock);
	works_done(loop, work);
	posts_run(post);
}

/* ---- making and running ------------------------------------------------ */

int td_loop_new(struct td_loop **out)
{
	struct td_loop *loop = calloc(1, sizeof(*loop));
	int err, fd;

	if (!loop)
		return -ENOMEM;
	list_init(&loop->timers);
	list_init(&loop->flush_hooks);
	list_init(&loop->waiters);
	loop->defer_last = &loop->defer_first;
	loop->todo_last = &loop->todo_first;
	loop->done_last = &loop->done_first;
	loop->post_last = &loop->post_first;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->to_do, NULL);
	loop->workers_max = max_u64(WORKERS_LEAST,
				    min_u64(WORKERS, sysconf(_SC_NPROCESSORS_ONLN)));
	loop->wake.fd = -1;
	loop->wake.ready = wake_ready;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0) {
		err = -errno;
		goto fail;
	}
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0) {
		err = -errno;
		goto fail;
	}
	err = td_watch_start(loop, &loop->wake, fd, EPOLLIN);
	if (err) {
		close(fd);
		goto fail;
	}
	*out = loop;
	return 0;
fail:
	td_loop_free(loop);
	return err;
}

void td_loop_free(struct td_loop *loop)
{
	if (!loop)
		return;
	pthread_mutex_lock(&loop->lock);
	loop->closing = true;
	pthread_cond_broadcast(&loop->to_do);
	pthread_mutex_unlock(&loop->lock);
	for (unsigned i = 0; i < loop->workers; i++)
		pthread_join(loop->worker[i], NULL);
	if (loop->wake.fd >= 0)
		close(loop->wake.fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_cond_destroy(&loop->to_do);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

void td_loop_stop(struct td_loop *loop)
{
	loop->stopped = true;
	loop_wake(loop);
}

static int wait_ms(const struct td_loop *loop, int timeout_ms)
{
	struct td_timer *soonest;
	uint64_t now, left;

	if (loop->more)
		return 0;
	if (list_empty(&loop->timers))
		return timeout_ms;
	soonest = list_item(loop->timers.next, struct td_timer, link);
	now = td_now_ms();
	left = soonest->at_ms > now ? soonest->at_ms - now : 0;
	if (timeout_ms >= 0 && (uint64_t)timeout_ms < left)
		return timeout_ms;
	return left > INT32_MAX ? INT32_MAX : (int)left;
}

static void timers_run(struct td_loop *loop)
{
	uint64_t now;

	if (list_empty(&loop->timers))
		return;
	now = td_now_ms();
	while (!list_empty(&loop->timers)) {
		struct td_timer *timer =
			list_item(loop->timers.next, struct td_timer, link);

		if (timer->at_ms > now)
			return;
		td_timer_cancel(timer);
		timer->fired(timer);
	}
}

static void defers_run(struct td_loop *loop)
{
	struct td_defer *defer;

	while ((defer = loop->defer_first)) {
		td_loop_undefer(loop, defer);
		defer->run(defer);
	}
}

/* Hooks may defer calls, and deferred calls give hooks something to send. After
 * some rounds the loop has a look at its watches all the same. */
static bool send_gathered(struct td_loop *loop)
{
	bool busy = false;

	loop->more = true;
	for (int round = 0; loop->more && round < ROUNDS_PER_TURN; round++) {
		busy |= loop->defer_first != NULL;
		defers_run(loop);
		loop->more = false;
		LIST_FOR_SAFE (struct td_flush_hook, hook, &loop->flush_hooks, link)
			loop->more |= hook->flush(hook);
		busy |= loop->more;
		loop->more |= loop->defer_first != NULL;
	}
	return busy;
}

static void watches_run(struct td_loop *loop, int timeout_ms)
{
	int count = epoll_wait(loop->epoll_fd, loop->ready, EVENTS_PER_TURN, timeout_ms);

	loop->ready_count = count > 0 ? count : 0;
	for (loop->ready_at = 0; loop->ready_at < loop->ready_count; loop->ready_at++) {
		struct epoll_event *event = &loop->ready[loop->ready_at];
		struct td_watch *watch = event->data.ptr;

		if (watch)
			watch->ready(watch, event->events);
	}
	loop->ready_count = 0;
}

/* In the engines that are busy, if any is. True: watches may be ready. */
static bool wait_in_engines(struct td_loop *loop, int ms)
{
	struct td_waiter *last = NULL;
	bool ready = false;

	LIST_FOR (struct td_waiter, waiter, &loop->waiters, link) {
		if (!waiter->busy(waiter))
			continue;
		if (last) {
			ready |= last->wait(last, loop->epoll_fd, 0);
			ms = ms && !ready;
		}
		last = waiter;
	}
	return last->wait(last, loop->epoll_fd, ms) || ready;
}

static bool engine_is_busy(const struct td_loop *loop)
{
	LIST_FOR (struct td_waiter, waiter, &loop->waiters, link)
		if (waiter->busy(waiter))
			return true;
	return false;
}

static void wait_and_serve(struct td_loop *loop, int timeout_ms)
{
	int ms = wait_ms(loop, timeout_ms);

	if (!engine_is_busy(loop))
		watches_run(loop, ms);
	else if (wait_in_engines(loop, ms))
		watches_run(loop, 0);
	timers_run(loop);
}

void td_loop_turn(struct td_loop *loop, int timeout_ms)
{
	/* what the caller waits for may have happened: it looks before we wait */
	wait_and_serve(loop, send_gathered(loop) ? 0 : timeout_ms);
}

void td_loop_run(struct td_loop *loop)
{
	while (!loop->stopped) {
		send_gathered(loop);
		wait_and_serve(loop, -1);
	}
	loop->stopped = false;
}

/* ---- watches, timers, deferred calls ----------------------------------- */

static int watch_ctl(struct td_loop *loop, int how, struct td_watch *watch)
{
	struct epoll_event event = { .events = watch->events, .data.ptr = watch };

	return epoll_ctl(loop->epoll_fd, how, watch->fd, &event) < 0 ? -errno : 0;
}

int td_watch_start(struct td_loop *loop, struct td_watch *watch, int fd,
		   uint32_t events)
{
	watch->fd = fd;
	watch->events = events;
	return watch_ctl(loop, EPOLL_CTL_ADD, watch);
}

int td_watch_change(struct td_loop *loop, struct td_watch *watch, uint32_t events)
{
	if (watch->events == events)
		return 0;
	watch->events = events;
	return watch_ctl(loop, EPOLL_CTL_MOD, watch);
}

void td_watch_stop(struct td_loop *loop, struct td_watch *watch)
{
	watch_ctl(loop, EPOLL_CTL_DEL, watch);
	for (int i = loop->ready_at; i < loop->ready_count; i++)
		if (loop->ready[i].data.ptr == watch)
			loop->ready[i].data.ptr = NULL;
}

void td_timer_arm(struct td_loop *loop, struct td_timer *timer, unsigned ms)
{
	struct list *before = &loop->timers;

	td_timer_cancel(timer);
	timer->at_ms = td_now_ms() + ms;
	LIST_FOR (struct td_timer, other, &loop->timers, link) {
		if (other->at_ms > timer->at_ms) {
			before = &other->link;
			break;
		}
	}
	list_add(before, &timer->link);
	timer->armed = true;
}

void td_timer_cancel(struct td_timer *timer)
{
	if (!timer->armed)
		return;
	list_del(&timer->link);
	timer->armed = false;
}

void td_loop_defer(struct td_loop *loop, struct td_defer *defer)
{
	if (defer->queued)
		return;
	defer->queued = true;
	defer->next = NULL;
	*loop->defer_last = defer;
	loop->defer_last = &defer->next;
}

void td_loop_undefer(struct td_loop *loop, struct td_defer *defer)
{
	struct td_defer **at = &loop->defer_first;

	if (!defer->queued)
		return;
	while (*at != defer)
		at = &(*at)->next;
	*at = defer->next;
	if (!defer->next)
		loop->defer_last = at;
	defer->queued = false;
}

void td_loop_add_flush(struct td_loop *loop, struct td_flush_hook *hook)
{
	list_add(&loop->flush_hooks, &hook->link);
}

void td_loop_del_flush(struct td_flush_hook *hook)
{
	list_del(&hook->link);
}

void td_loop_add_waiter(struct td_loop *loop, struct td_waiter *waiter)
{
	list_add(&loop->waiters, &waiter->link);
}

void td_loop_del_waiter(struct td_waiter *waiter)
{
	list_del(&waiter->link);
}
