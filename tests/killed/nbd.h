/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As much of an NBD client as the kill test needs: one connection, requests sent
 * one after the other, replies taken as they come. A server that dies is no
 * error: it is told.
 */
#ifndef KILLED_NBD_H
#define KILLED_NBD_H

#include <stdbool.h>
#include <stdint.h>

enum nbd_command {
	NBD_READ, NBD_WRITE, NBD_FLUSH = 3, NBD_TRIM, NBD_ZEROES = 6,
};

enum nbd_can { /* of the server's flags */
	NBD_CAN_FLUSH = 1 << 2, NBD_CAN_FUA = 1 << 3, NBD_CAN_TRIM = 1 << 5,
	NBD_CAN_ZEROES = 1 << 6,
};

#define NBD_FUA 1u

struct nbd {
	int fd;
	uint64_t size;
	uint16_t can;
};

/* False: nobody there, or no longer. */
bool nbd_connect(struct nbd *nbd, const char *path);
void nbd_close(struct nbd *nbd);
bool nbd_send(struct nbd *nbd, enum nbd_command command, unsigned flags, uint64_t cookie,
	      uint64_t offset, uint32_t len, const void *data);
/* The next reply; the data of a READ are fetched with nbd_get(). */
bool nbd_reply(struct nbd *nbd, uint64_t *cookie, uint32_t *err);
bool nbd_get(struct nbd *nbd, void *data, uint64_t len);

#endif
