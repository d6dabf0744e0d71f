/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closing is what needs care here: each transport drains without blocking and
 * says when it has. A list of those that wait for it is told then.
 */
#include "tapdisk/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "config.h"
#include "core/disk.h"
#include "core/queue.h"
#include "transports/nbd/nbd.h"

/* Who is to be told. */
struct teller {
	void (*done)(void *arg);
	void *arg;
};

struct listener {
	struct list link;
	struct td_serve *serve;
	struct td_nbd *nbd;
	bool closing;
	struct teller closed;
	char address[];
};

struct td_serve {
	struct td_disk *disk;
	struct td_loop *loop;
	bool ending; /* no transport is added any more */
	struct list listeners;
	struct td_xen *xen; /* NULL: no guest */
	bool xen_closing;
	struct td_xen_params xen_params;
	struct td_ratelimit xen_noise;
	struct teller xen_closed;
	struct teller ended; /* set once all is to end */
	struct td_defer check;
};

static void teller_call(struct teller *teller)
{
	struct teller call = *teller;

	*teller = (struct teller){ 0 };
	if (call.done)
		call.done(call.arg);
}

/* Tells that all has ended, when it has. */
static void serve_check(struct td_defer *defer)
{
	struct td_serve *serve = container_of(defer, struct td_serve, check);

	if (serve->ended.done && list_empty(&serve->listeners) && !serve->xen)
		teller_call(&serve->ended);
}

static void serve_check_later(struct td_serve *serve)
{
	td_loop_defer(serve->loop, &serve->check);
}

int td_serve_new(struct td_disk *disk, struct td_serve **out)
{
	struct td_serve *serve = calloc(1, sizeof(*serve));

	if (!serve)
		return -ENOMEM;
	serve->disk = disk;
	serve->loop = td_queue_loop(td_disk_queue(disk));
	serve->check.run = serve_check;
	list_init(&serve->listeners);
	*out = serve;
	return 0;
}

void td_serve_free(struct td_serve *serve)
{
	if (!serve)
		return;
	td_loop_undefer(serve->loop, &serve->check);
	free(serve);
}

struct td_disk *td_serve_disk(const struct td_serve *serve)
{
	return serve->disk;
}

/* ---- NBD ------------------------------------------------------------------------- */

static struct listener *listener_find(const struct td_serve *serve, const char *address)
{
	LIST_FOR(struct listener, listener, &serve->listeners, link)
		if (!listener->closing && !strcmp(listener->address, address))
			return listener;
	return NULL;
}

int td_serve_nbd(struct td_serve *serve, const char *address, struct td_why *why)
{
	struct listener *listener;
	int err;

	if (serve->ending)
		return td_fail(why, -ESHUTDOWN, "%s: the disk is being closed", address);
	if (listener_find(serve, address))
		return td_fail(why, -EEXIST, "%s: this disk listens there already", address);
	listener = calloc(1, sizeof(*listener) + strlen(address) + 1);
	if (!listener)
		return td_fail(why, -ENOMEM, "%s: %s", address, strerror(ENOMEM));
	strcpy(listener->address, address);
	listener->serve = serve;
	err = td_nbd_listen(serve->disk, address, &listener->nbd, why);
	if (err)
		free(listener);
	else
		list_add(&serve->listeners, &listener->link);
	return err;
}

static void listener_closed(void *arg)
{
	struct listener *listener = arg;

	list_del(&listener->link);
	serve_check_later(listener->serve);
	teller_call(&listener->closed);
	free(listener);
}

static void listener_close(struct listener *listener)
{
	if (listener->closing)
		return;
	listener->closing = true;
	td_nbd_close(listener->nbd, listener_closed, listener);
}

int td_serve_nbd_close(struct td_serve *serve, const char *address, void (*done)(void *arg),
		       void *arg, struct td_why *why)
{
	struct listener *listener = listener_find(serve, address);

	if (!listener)
		return td_fail(why, -ENOENT, "%s: this disk does not listen there", address);
	listener->closed = (struct teller){ done, arg };
	listener_close(listener);
	return 0;
}

void td_serve_nbd_each(const struct td_serve *serve,
		       void (*each)(void *arg, const char *address, unsigned connections),
		       void *arg)
{
	LIST_FOR(struct listener, listener, &serve->listeners, link)
		if (!listener->closing)
			each(arg, listener->address, td_nbd_connections(listener->nbd));
}

/* ---- Xen -------------------------------------------------------------------------- */

const struct td_xen_params *td_serve_xen_params(const struct td_serve *serve)
{
	return serve->xen ? &serve->xen_params : NULL;
}

#ifdef HAVE_XEN
int td_serve_xen(struct td_serve *serve, const struct td_xen_params *params,
		 struct td_why *why)
{
	if (serve->ending)
		return td_fail(why, -ESHUTDOWN, "the disk is being closed");
	if (serve->xen)
		return td_fail(why, -EBUSY, "the disk has rings already, of domain %u",
			       serve->xen_params.domid);
	serve->xen_params = *params;
	serve->xen_params.noise = &serve->xen_noise;
	return td_xen_connect(serve->disk, &serve->xen_params, &serve->xen, why);
}

static void xen_closed(void *arg)
{
	struct td_serve *serve = arg;

	serve->xen = NULL;
	serve->xen_closing = false;
	serve_check_later(serve);
	teller_call(&serve->xen_closed);
}

static void xen_close(struct td_serve *serve)
{
	if (!serve->xen || serve->xen_closing)
		return;
	serve->xen_closing = true;
	td_xen_disconnect(serve->xen, xen_closed, serve);
}

void td_serve_xen_close(struct td_serve *serve, void (*done)(void *arg), void *arg)
{
	if (!serve->xen) {
		done(arg);
		return;
	}
	serve->xen_closed = (struct teller){ done, arg };
	xen_close(serve);
}

void td_serve_xen_stats(const struct td_serve *serve, struct td_xen_stats *out)
{
	td_xen_stats(serve->xen, out);
}
#else
int td_serve_xen(struct td_serve *serve, const struct td_xen_params *params,
		 struct td_why *why)
{
	return td_fail(why, -EOPNOTSUPP, "this tapdisk was built without the Xen libraries");
}

static void xen_close(struct td_serve *serve)
{
}

void td_serve_xen_close(struct td_serve *serve, void (*done)(void *arg), void *arg)
{
	done(arg);
}

void td_serve_xen_stats(const struct td_serve *serve, struct td_xen_stats *out)
{
	*out = (struct td_xen_stats){ 0 };
}
#endif

/* ---- the end ------------------------------------------------------------------------ */

void td_serve_end(struct td_serve *serve, void (*done)(void *arg), void *arg)
{
	serve->ending = true;
	serve->ended = (struct teller){ done, arg };
	LIST_FOR_SAFE(struct listener, listener, &serve->listeners, link)
		listener_close(listener);
	xen_close(serve);
	serve_check_later(serve);
}
