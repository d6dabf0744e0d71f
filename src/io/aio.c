/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The libaio engine, for kernels where io_uring is missing or switched off.
 * Completions come through an eventfd that the loop watches.
 */
#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "io/engine_impl.h"

#define BATCH 64

struct aio {
	struct td_engine base;
	io_context_t context;
	struct td_watch watch; /* the eventfd */
	struct iocb *iocbs;    /* depth of them */
	struct iocb **free;    /* a stack */
	unsigned depth, free_count;
};

static struct aio *aio_of(struct td_engine *engine)
{
	return container_of(engine, struct aio, base);
}

static struct iocb *rw_prepare(struct aio *aio, struct td_rw *rw)
{
	struct iocb *iocb = aio->free[--aio->free_count];

	if (rw->write)
		io_prep_pwritev(iocb, rw->fd, rw->iov, rw->iov_count, rw->offset);
	else
		io_prep_preadv(iocb, rw->fd, rw->iov, rw->iov_count, rw->offset);
	iocb->aio_rw_flags = rw->dsync ? RWF_DSYNC : 0;
	iocb->data = rw;
	io_set_eventfd(iocb, aio->watch.fd);
	return iocb;
}

/* Puts back what the kernel did not take, in order. */
static void unprepare(struct aio *aio, struct iocb **batch, int from, int count)
{
	for (int i = count - 1; i >= from; i--) {
		struct td_rw *rw = batch[i]->data;

		list_add(aio->base.waiting.next, &rw->link);
		aio->free[aio->free_count++] = batch[i];
	}
}

/* Sends one batch. An error is that of the first transfer in it. */
static bool batch_send(struct aio *aio)
{
	struct iocb *batch[BATCH];
	struct list *link;
	struct td_rw *rw;
	int count = 0, sent;

	while (count < BATCH && aio->free_count &&
	       (link = list_pop(&aio->base.waiting)))
		batch[count++] = rw_prepare(aio, list_item(link, struct td_rw, link));
	if (!count)
		return false;
	sent = io_submit(aio->context, count, batch);
	if (sent >= 0) {
		unprepare(aio, batch, sent, count);
		return sent;
	}
	if (sent == -EAGAIN || sent == -EINTR) {
		unprepare(aio, batch, 0, count);
		td_engine_retry(&aio->base);
		return false;
	}
	unprepare(aio, batch, 1, count);
	aio->free[aio->free_count++] = batch[0];
	rw = batch[0]->data;
	rw->done(rw, sent);
	return true;
}

static bool aio_reap(struct aio *aio)
{
	struct io_event events[BATCH];
	struct timespec now = { 0 };
	int count;

	if (aio->free_count == aio->depth)
		return false;
	count = io_getevents(aio->context, 0, BATCH, events, &now);
	for (int i = 0; i < count; i++) {
		struct td_rw *rw = events[i].data;

		aio->free[aio->free_count++] = events[i].obj;
		rw->done(rw, (int64_t)events[i].res);
	}
	return count > 0;
}

static bool aio_flush(struct td_engine *engine)
{
	struct aio *aio = aio_of(engine);
	bool sent = false;

	while (batch_send(aio))
		sent = true;
	return sent ? aio_reap(aio) || sent : false;
}

static void aio_ready(struct td_watch *watch, uint32_t events)
{
	struct aio *aio = container_of(watch, struct aio, watch);
	uint64_t count;

	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	while (aio_reap(aio))
		;
}

static void aio_free(struct aio *aio)
{
	if (aio->context)
		io_destroy(aio->context);
	if (aio->watch.fd >= 0)
		close(aio->watch.fd);
	free(aio->iocbs);
	free(aio->free);
	free(aio);
}

static void aio_close(struct td_engine *engine)
{
	struct aio *aio = aio_of(engine);

	td_watch_stop(engine->loop, &aio->watch);
	aio_free(aio);
}

static int aio_open(struct td_loop *loop, unsigned depth, struct td_engine **out,
		    struct td_why *why)
{
	struct aio *aio = calloc(1, sizeof(*aio));
	int err = -ENOMEM;

	if (!aio)
		return -ENOMEM;
	aio->depth = depth;
	aio->watch.ready = aio_ready;
	aio->watch.fd = -1;
	aio->iocbs = calloc(depth, sizeof(*aio->iocbs));
	aio->free = calloc(depth, sizeof(*aio->free));
	if (!aio->iocbs || !aio->free)
		goto fail;
	while (aio->free_count < depth) {
		aio->free[aio->free_count] = &aio->iocbs[aio->free_count];
		aio->free_count++;
	}
	err = io_setup(depth, &aio->context);
	if (err) {
		td_fail(why, err, "libaio: %s (see /proc/sys/fs/aio-max-nr)",
			strerror(-err));
		goto fail;
	}
	aio->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = aio->watch.fd < 0 ? -errno : 0;
	if (!err)
		err = td_watch_start(loop, &aio->watch, aio->watch.fd, EPOLLIN);
	if (err)
		goto fail;
	*out = &aio->base;
	return 0;
fail:
	aio_free(aio);
	return err;
}

const struct td_engine_ops td_engine_aio = {
	.name = "libaio",
	.open = aio_open,
	.close = aio_close,
	.flush = aio_flush,
};
