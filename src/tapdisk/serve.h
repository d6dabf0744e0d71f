/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transports that one disk is served by: any number of NBD addresses, and
 * at most one Xen guest.
 */
#ifndef TAPDISK_SERVE_H
#define TAPDISK_SERVE_H

#include <blktap/driver.h>

#include "transports/xen/xen.h"

struct td_disk;
struct td_loop;
struct td_serve;

int td_serve_new(struct td_disk *disk, struct td_serve **out);
/* Everything is closed. NULL is fine. */
void td_serve_free(struct td_serve *serve);
struct td_disk *td_serve_disk(const struct td_serve *serve);

int td_serve_nbd(struct td_serve *serve, const char *address, struct td_why *why);
/* Calls done(arg) when it is closed and drained. -ENOENT: no such listener. */
int td_serve_nbd_close(struct td_serve *serve, const char *address,
		       void (*done)(void *arg), void *arg, struct td_why *why);
/* Listeners, closing ones not counted; each(arg) in the order they were made. */
void td_serve_nbd_each(const struct td_serve *serve,
		       void (*each)(void *arg, const char *address, unsigned connections),
		       void *arg);

/* -EBUSY: there is a guest already. -EOPNOTSUPP: built without Xen. */
int td_serve_xen(struct td_serve *serve, const struct td_xen_params *params,
		 struct td_why *why);
/* Calls done(arg) when all is drained and unmapped; at once if there is none. */
void td_serve_xen_close(struct td_serve *serve, void (*done)(void *arg), void *arg);
/* NULL: no guest. */
const struct td_xen_params *td_serve_xen_params(const struct td_serve *serve);
void td_serve_xen_stats(const struct td_serve *serve, struct td_xen_stats *out);

/* Closes all; done(arg) comes from the loop when nothing is in flight. */
void td_serve_end(struct td_serve *serve, void (*done)(void *arg), void *arg);

#endif
