/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The io_uring engine. With DEFER_TASKRUN completions are posted only while this
 * thread asks for them, so that they never interrupt it.
 *
 * Flushing fills the ring; the loop's wait tells the kernel of that, and waits in the
 * ring: for the transfers, and with a poll request for the loop's own watches. (Neither
 * polling the ring from outside nor its eventfd will do: Linux 6.18 was seen to lose
 * wake-ups of both.)
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "io/engine_impl.h"

#define REAP_BATCH 64

struct uring {
	struct td_engine base;
	struct io_uring ring;
	struct td_waiter waiter;
	unsigned depth;
	unsigned in_flight; /* in the ring, whether told already or not */
	bool polling;       /* for the loop's watches; completes with data NULL */
	bool polled;        /* ... and did */
};

static struct uring *uring_of(struct td_engine *engine)
{
	return container_of(engine, struct uring, base);
}

/* The best flags this kernel has; older ones answer -EINVAL. One that cannot wait with
 * a time limit by itself (before 5.11) gets it as a request of the library's own, which
 * would come back among ours. */
static int ring_open(struct uring *uring)
{
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	struct io_uring_params params = { 0 };
	int err = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && err == -EINVAL; i++) {
		params = (struct io_uring_params){ .flags = flags[i] };

		/* one more, for the poll */
		err = io_uring_queue_init_params(uring->depth + 1, &uring->ring, &params);
	}
	if (!err && !(params.features & IORING_FEAT_EXT_ARG)) {
		io_uring_queue_exit(&uring->ring);
		err = -ENOSYS;
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
	uring->in_flight++;
}

static bool ring_reap(struct uring *uring)
{
	struct io_uring_cqe *cqes[REAP_BATCH];
	struct td_rw *rws[REAP_BATCH];
	unsigned count = io_uring_peek_batch_cqe(&uring->ring, cqes, REAP_BATCH);
	unsigned ended = 0;

	for (unsigned i = 0; i < count; i++) {
		struct td_rw *rw = io_uring_cqe_get_data(cqes[i]);

		if (rw) {
			rw->res = cqes[i]->res;
			rws[ended++] = rw;
		} else {
			uring->polling = false;
			uring->polled = true;
		}
	}
	io_uring_cq_advance(&uring->ring, count);
	uring->in_flight -= ended;
	for (unsigned i = 0; i < ended; i++)
		rws[i]->done(rws[i], rws[i]->res);
	return ended;
}

static bool uring_flush(struct td_engine *engine)
{
	struct uring *uring = uring_of(engine);
	struct list *link;

	while (uring->in_flight < uring->depth && (link = list_pop(&engine->waiting)))
		rw_prepare(uring, list_item(link, struct td_rw, link));
	return ring_reap(uring);
}

/* ---- waiting --------------------------------------------------------------- */

/* A poll that is still there would complete for what the loop has found elsewhere. */
static bool uring_busy(struct td_waiter *waiter)
{
	const struct uring *uring = container_of(waiter, struct uring, waiter);

	return uring->in_flight || uring->polling;
}

/* One-shot: when it is armed again it sees what has not been read yet. */
static void poll_prepare(struct uring *uring, int fd)
{
	struct io_uring_sqe *sqe;

	if (uring->polling || !(sqe = io_uring_get_sqe(&uring->ring)))
		return;
	io_uring_prep_poll_add(sqe, fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	uring->polling = true;
}

/* -EAGAIN and -EBUSY: the kernel is short of memory, or wants completions reaped first;
 * what it did not take stays in the ring and is told again with the next wait. */
static bool uring_wait(struct td_waiter *waiter, int fd, int timeout_ms)
{
	struct uring *uring = container_of(waiter, struct uring, waiter);
	struct __kernel_timespec limit = {
		.tv_sec = timeout_ms / 1000,
		.tv_nsec = timeout_ms % 1000 * 1000000ll,
	};
	struct io_uring_cqe *cqe;

	uring->polled = false;
	poll_prepare(uring, fd);
	/* without a poll, watches are looked at again after a moment */
	if (!uring->polling && timeout_ms)
		limit = (struct __kernel_timespec){ .tv_nsec = 1000000 };
	io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1,
					 timeout_ms < 0 && uring->polling ? NULL : &limit,
					 NULL);
	if (io_uring_sq_ready(&uring->ring))
		td_engine_retry(&uring->base);
	ring_reap(uring);
	return uring->polled || !uring->polling;
}

/* ---- open and close -------------------------------------------------------- */

static void uring_close(struct td_engine *engine)
{
	struct uring *uring = uring_of(engine);

	td_loop_del_waiter(&uring->waiter);
	io_uring_queue_exit(&uring->ring);
	free(uring);
}

static int uring_open(struct td_loop *loop, unsigned depth,
		      struct td_engine **out, struct td_why *why)
{
	struct uring *uring = calloc(1, sizeof(*uring));
	int err;

	if (!uring)
		return -ENOMEM;
	uring->depth = depth;
	uring->waiter.busy = uring_busy;
	uring->waiter.wait = uring_wait;
	err = ring_open(uring);
	if (err) {
		free(uring);
		return td_fail(why, err, "io_uring: %s", strerror(-err));
	}
	td_loop_add_waiter(loop, &uring->waiter);
	*out = &uring->base;
	return 0;
}

const struct td_engine_ops td_engine_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.flush = uring_flush,
};
