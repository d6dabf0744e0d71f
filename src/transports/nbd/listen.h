/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening sockets from an address: "unix:PATH" or "tcp:HOST:PORT".
 */
#ifndef NBD_LISTEN_H
#define NBD_LISTEN_H

#include <blktap/driver.h>

#define NBD_SOCKETS_MAX 8

struct nbd_sockets {
	int fd[NBD_SOCKETS_MAX];
	unsigned count;
	char *path;         /* unix: the socket file; NULL: none */
	uint64_t dev, ino;  /* its identity: only ours is removed */
};

int nbd_sockets_open(const char *address, struct nbd_sockets *out, struct td_why *why);
/* Closes them and removes the socket file, unless it is another's by now. */
void nbd_sockets_close(struct nbd_sockets *sockets);

/* Where fd listens, or whom it is connected to, for people. */
void nbd_socket_name(int fd, bool peer, char *buf, size_t len);

#endif
