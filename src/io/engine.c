/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both engines share: choosing one, and the line of transfers that wait
 * for a slot in the kernel's ring. A turn's transfers are queued, then sent
 * together by the flush hook.
 *
 * Files in memory are another matter: a ring hands each transfer to a worker
 * thread of the kernel, which costs several times the copy. Short ones are done
 * by plain system calls in the flush hook; they wait for nothing but the copy
 * (and for a page that was swapped out, as any use of memory does). Long ones
 * are left to the workers, so that they do not hold the loop. An engine that was
 * asked for by name gets them all.
 */
#include "io/engine_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE_MAX (128 * KiB) /* about 20 us of copying */

static const struct td_engine_ops *const engines[] = {
#ifdef HAVE_URING
	&td_engine_uring,
#endif
#ifdef HAVE_AIO
	&td_engine_aio,
#endif
};

static int64_t rw_now(const struct td_rw *rw)
{
	ssize_t len;

	do
		len = rw->write ? pwritev(rw->fd, rw->iov, rw->iov_count, rw->offset)
				: preadv(rw->fd, rw->iov, rw->iov_count, rw->offset);
	while (len < 0 && errno == EINTR);
	return len < 0 ? -errno : len;
}

static bool at_once_run(struct td_engine *engine)
{
	struct list batch, *link;

	if (list_empty(&engine->at_once))
		return false;
	list_init(&batch);
	list_join(&batch, &engine->at_once);
	while ((link = list_pop(&batch))) {
		struct td_rw *rw = list_item(link, struct td_rw, link);

		rw->done(rw, rw_now(rw));
	}
	return true;
}

static bool engine_flush(struct td_flush_hook *hook)
{
	struct td_engine *engine = container_of(hook, struct td_engine, hook);
	bool busy = at_once_run(engine);

	return engine->ops->flush(engine) || busy;
}

/* The flush hook, which runs before the next wait, does the work. */
static void retry_fired(struct td_timer *timer)
{
}

void td_engine_retry(struct td_engine *engine)
{
	td_timer_arm(engine->loop, &engine->retry, 1);
}

static int engine_try(struct td_loop *loop, const struct td_engine_ops *ops,
		      unsigned depth, struct td_engine **out, struct td_why *why)
{
	struct td_engine *engine;
	int err = ops->open(loop, depth, &engine, why);

	if (err)
		return err;
	engine->ops = ops;
	engine->loop = loop;
	engine->hook.flush = engine_flush;
	engine->retry.fired = retry_fired;
	list_init(&engine->waiting);
	list_init(&engine->at_once);
	td_loop_add_flush(loop, &engine->hook);
	*out = engine;
	return 0;
}

int td_engine_open(struct td_loop *loop, const char *name, unsigned depth,
		   struct td_engine **out, struct td_why *why)
{
	struct td_why last = { "" };
	int err = td_fail(&last, -ENOENT, "no I/O engine is called \"%s\"",
			  name ? name : "");

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		if (name && strcmp(name, engines[i]->name))
			continue;
		err = engine_try(loop, engines[i], depth, out, &last);
		if (!err) {
			(*out)->named = name;
			return 0;
		}
	}
	return td_fail(why, err, "%s", last.text);
}

void td_engine_close(struct td_engine *engine)
{
	if (!engine)
		return;
	td_timer_cancel(&engine->retry);
	td_loop_del_flush(&engine->hook);
	engine->ops->close(engine);
}

const char *td_engine_name(const struct td_engine *engine)
{
	return engine->ops->name;
}

static uint64_t rw_len(const struct td_rw *rw)
{
	uint64_t len = 0;

	for (unsigned i = 0; i < rw->iov_count; i++)
		len += rw->iov[i].iov_len;
	return len;
}

void td_engine_rw(struct td_engine *engine, struct td_rw *rw)
{
	bool now = rw->in_memory && !engine->named && rw_len(rw) <= AT_ONCE_MAX;

	list_add(now ? &engine->at_once : &engine->waiting, &rw->link);
}
