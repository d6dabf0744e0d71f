/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory for the data of one connection: a fixed set of page-aligned
 * buffers, many small ones and few large ones. Address space is taken at once,
 * pages only when a request first needs them.
 */
#ifndef NBD_BUFFERS_H
#define NBD_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_REQUESTS 128          /* of one connection, at once */
#define NBD_STAGING (256u << 10)  /* what is received in one call */
#define NBD_BUFFER_CLASSES 4

struct nbd_buffers {
	uint8_t *base;    /* the whole mapping; the staging buffer comes first */
	bool used;        /* since the last look */
	bool dirty;       /* pages may be there */
	struct nbd_buffer_class {
		uint8_t *start;
		unsigned free_count;
		uint8_t free[NBD_REQUESTS]; /* last in, first out: warm ones first */
	} class[NBD_BUFFER_CLASSES];
};

int nbd_buffers_init(struct nbd_buffers *buffers);
void nbd_buffers_fini(struct nbd_buffers *buffers);

/* len: at most NBD_MAX_PAYLOAD. NULL: none is free just now. */
void *nbd_buffers_get(struct nbd_buffers *buffers, size_t len);
void nbd_buffers_put(struct nbd_buffers *buffers, void *buf);
/* A look at them, now and then: if they are idle (the staging buffer too) and
 * nothing was used since the last look, the pages go back to the system.
 * Returns true when there are none left, so that no more looks are needed. */
bool nbd_buffers_trim(struct nbd_buffers *buffers, bool idle);

#endif
