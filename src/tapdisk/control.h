/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tapdisk's own control socket, through which the daemon asks it to serve,
 * to tell and to end; docs/control.md lists the methods. And the one line that
 * tells whoever started it whether the disk could be opened.
 */
#ifndef TAPDISK_CONTROL_H
#define TAPDISK_CONTROL_H

#include <blktap/driver.h>
#include <errno.h>

#include "config.h"
#include "tapdisk/serve.h"

struct td_control;

#ifdef HAVE_CONTROL

/* quit(arg) is called, once, when a client asks for the end. */
int td_control_open(struct td_loop *loop, struct td_serve *serve, const char *path,
		    void (*quit)(void *arg), void *arg, struct td_control **out,
		    struct td_why *why);
/* The disk is closed, with err: answers who asked for the end. NULL is fine. */
void td_control_close(struct td_control *control, int err);

/* Writes {"ready":true} or, with why, {"error":..., "errno":...} to fd and
 * closes it; fd -1: nobody wants to know. */
int td_control_tell(int fd, int err, const char *why);
#else
static inline int td_control_open(struct td_loop *loop, struct td_serve *serve,
				  const char *path, void (*quit)(void *arg), void *arg,
				  struct td_control **out, struct td_why *why)
{
	return td_fail(why, -EOPNOTSUPP, "%s: this tapdisk was built without jansson", path);
}

static inline void td_control_close(struct td_control *control, int err)
{
}

static inline int td_control_tell(int fd, int err, const char *why)
{
	return 0;
}
#endif

#endif
