/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The io_uring engine. With DEFER_TASKRUN completions are posted only while this
 * thread asks for them, so that they never interrupt it.
 *
 * An eventfd tells the loop that there are some; polling the ring itself does
 * not see those that worker threads of the kernel leave behind (Linux 6.18). It
 * is switched on only while the loop is about to wait: what completes at once,
 * from the page cache or tmpfs, costs no wake-up. It is edge-triggered and never
 * read.
 *
 * The kernel may lose its signal: one that falls into the middle of another
 * eventfd's signal is put off, and 6.18 puts off only the first of them (seen as
 * 32 transfers that had ended and were never told of). So while there are
 * transfers in flight the loop has a look every few milliseconds.
 */
#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "io/engine_impl.h"

#define REAP_BATCH 64
#define LOOK_MS 10

struct uring {
	struct td_engine base;
	struct io_uring ring;
	struct td_watch watch; /* the eventfd */
	struct td_timer look;  /* its signal may have been lost */
	unsigned depth, in_flight;
	unsigned prepared;  /* entries the kernel has not been told of */
	bool defers;        /* DEFER_TASKRUN: completions wait to be asked for */
};

static struct uring *uring_of(struct td_engine *engine)
{
	return container_of(engine, struct uring, base);
}

/* The best flags this kernel has; older ones answer -EINVAL. */
static int ring_open(struct uring *uring)
{
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	int err = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && err == -EINVAL; i++) {
		struct io_uring_params params = { .flags = flags[i] };

		err = io_uring_queue_init_params(uring->depth, &uring->ring, &params);
		uring->defers = flags[i] & IORING_SETUP_DEFER_TASKRUN;
	}
	return err;
}

static void rw_prepare(struct uring *uring, struct td_rw *rw)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
	int flags = rw->dsync ? RWF_DSYNC : 0;

	if (rw->iov_count == 1 && rw->write)
		io_uring_prep_write(sqe, rw->fd, rw->iov->iov_base,
				    rw->iov->iov_len, rw->offset);
	else if (rw->iov_count == 1)
		io_uring_prep_read(sqe, rw->fd, rw->iov->iov_base,
				   rw->iov->iov_len, rw->offset);
	else if (rw->write)
		io_uring_prep_writev(sqe, rw->fd, rw->iov, rw->iov_count, rw->offset);
	else
		io_uring_prep_readv(sqe, rw->fd, rw->iov, rw->iov_count, rw->offset);
	sqe->rw_flags = flags;
	io_uring_sqe_set_data(sqe, rw);
	uring->prepared++;
	uring->in_flight++;
}

/* Tells the kernel of what is prepared. -EAGAIN and -EBUSY: it is short of
 * memory, or wants completions reaped first; what it did not take stays in the
 * ring and is told again with the next flush. */
static bool ring_submit(struct uring *uring)
{
	int count;

	if (!uring->prepared)
		return false;
	count = uring->defers ? io_uring_submit_and_get_events(&uring->ring)
			      : io_uring_submit(&uring->ring);
	if (count > 0)
		uring->prepared -= count;
	if (uring->prepared)
		td_engine_retry(&uring->base);
	return count > 0;
}

static bool ring_reap(struct uring *uring)
{
	struct io_uring_cqe *cqes[REAP_BATCH];
	struct td_rw *rws[REAP_BATCH];
	unsigned count = io_uring_peek_batch_cqe(&uring->ring, cqes, REAP_BATCH);

	for (unsigned i = 0; i < count; i++) {
		rws[i] = io_uring_cqe_get_data(cqes[i]);
		rws[i]->res = cqes[i]->res;
	}
	io_uring_cq_advance(&uring->ring, count);
	uring->in_flight -= count;
	for (unsigned i = 0; i < count; i++)
		rws[i]->done(rws[i], rws[i]->res);
	return count;
}

static bool completions_wait(struct uring *uring)
{
	return io_uring_cq_ready(&uring->ring) ||
	       (uring->defers &&
		IO_URING_READ_ONCE(*uring->ring.sq.kflags) & IORING_SQ_TASKRUN);
}

/* Nothing to do: have the eventfd wake us. What came before that is seen here. */
static bool uring_arm(struct uring *uring)
{
	io_uring_cq_eventfd_toggle(&uring->ring, true);
	atomic_thread_fence(memory_order_seq_cst);
	if (!completions_wait(uring))
		return false;
	if (uring->defers)
		io_uring_get_events(&uring->ring);
	return ring_reap(uring);
}

/* What the turn flushes next finds what there is. */
static void look_fired(struct td_timer *timer)
{
}

static bool uring_flush(struct td_engine *engine)
{
	struct uring *uring = uring_of(engine);
	struct list *link;
	bool busy;

	io_uring_cq_eventfd_toggle(&uring->ring, false);
	while (uring->in_flight < uring->depth && (link = list_pop(&engine->waiting)))
		rw_prepare(uring, list_item(link, struct td_rw, link));
	busy = ring_submit(uring);
	if (uring->in_flight && !uring->look.armed)
		td_timer_arm(engine->loop, &uring->look, LOOK_MS);
	return ring_reap(uring) || busy || (uring->in_flight && uring_arm(uring));
}

static void uring_ready(struct td_watch *watch, uint32_t events)
{
	struct uring *uring = container_of(watch, struct uring, watch);

	if (uring->defers)
		io_uring_get_events(&uring->ring);
	ring_reap(uring);
}

static void uring_free(struct uring *uring)
{
	if (uring->ring.ring_fd > 0)
		io_uring_queue_exit(&uring->ring);
	if (uring->watch.fd >= 0)
		close(uring->watch.fd);
	free(uring);
}

static void uring_close(struct td_engine *engine)
{
	struct uring *uring = uring_of(engine);

	td_timer_cancel(&uring->look);
	td_watch_stop(engine->loop, &uring->watch);
	uring_free(uring);
}

static int uring_open(struct td_loop *loop, unsigned depth,
		      struct td_engine **out, struct td_why *why)
{
	struct uring *uring = calloc(1, sizeof(*uring));
	int err;

	if (!uring)
		return -ENOMEM;
	uring->depth = depth;
	uring->watch.ready = uring_ready;
	uring->look.fired = look_fired;
	uring->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = uring->watch.fd < 0 ? -errno : ring_open(uring);
	if (!err)
		err = io_uring_register_eventfd(&uring->ring, uring->watch.fd);
	if (!err)
		err = td_watch_start(loop, &uring->watch, uring->watch.fd,
				     EPOLLIN | EPOLLET);
	if (err) {
		td_fail(why, err, "io_uring: %s", strerror(-err));
		uring_free(uring);
		return err;
	}
	*out = &uring->base;
	return 0;
}

const struct td_engine_ops td_engine_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.flush = uring_flush,
};
