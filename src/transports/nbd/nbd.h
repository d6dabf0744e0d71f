/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server: newstyle negotiation, several connections to one disk.
 * Protocol: the NBD project's doc/proto.md.
 */
#ifndef TRANSPORTS_NBD_H
#define TRANSPORTS_NBD_H

#include <blktap/driver.h>

struct td_disk;
struct td_nbd;

/* address: "unix:PATH" or "tcp:HOST:PORT" (an IPv6 host in brackets). A socket
 * file is made with mode 0600 and removed at close; a dead one of the same name
 * is replaced, a live one refused. */
int td_nbd_listen(struct td_disk *disk, const char *address,
		  struct td_nbd **out, struct td_why *why);
/* Stops listening, takes no more requests, lets those in flight end without
 * blocking, then calls done(arg) from the loop; nbd is gone by then. */
void td_nbd_close(struct td_nbd *nbd, void (*done)(void *arg), void *arg);
/* Those that are served; others may be negotiating. */
unsigned td_nbd_connections(const struct td_nbd *nbd);

#endif
