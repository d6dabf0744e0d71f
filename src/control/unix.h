/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unix stream sockets by path.
 */
#ifndef CONTROL_UNIX_H
#define CONTROL_UNIX_H

#include <stdbool.h>

/* A socket file of mode 0600. One that nobody listens at is replaced;
 * -EADDRINUSE: somebody does; -ENAMETOOLONG: the path does not fit a socket. */
int td_unix_listen(const char *path, int *fd);
/* Non-blocking from then on. -ECONNREFUSED: a dead socket. wait: for room among
 * those who wait to be let in; else -EAGAIN. */
int td_unix_connect(const char *path, bool wait, int *fd);

#endif
