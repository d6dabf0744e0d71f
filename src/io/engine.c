/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both engines share: choosing one, and the line of transfers that wait
 * for a slot in the kernel's ring. A turn's transfers are queued, then sent
 * together by the flush hook.
 */
#include "io/engine_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct td_engine_ops *const engines[] = {
#ifdef HAVE_URING
	&td_engine_uring,
#endif
#ifdef HAVE_AIO
	&td_engine_aio,
#endif
};

static bool engine_flush(struct td_flush_hook *hook)
{
	struct td_engine *engine = container_of(hook, struct td_engine, hook);

	return engine->ops->flush(engine);
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
		if (!err)
			return 0;
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

void td_engine_rw(struct td_engine *engine, struct td_rw *rw)
{
	list_add(&engine->waiting, &rw->link);
}
