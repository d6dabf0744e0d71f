/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request as it came over the wire, checked, and what an error is called on
 * the wire. Functions of bytes, like hello.h.
 */
#ifndef NBD_REQUEST_H
#define NBD_REQUEST_H

#include <blktap/driver.h>

#include "transports/nbd/hello.h"
#include "transports/nbd/proto.h"

#define NBD_MAX_PAYLOAD (32u << 20)

uint16_t nbd_export_flags(const struct nbd_export *export, bool structured);

/* What the request of a peer comes to. */
struct nbd_order {
	enum td_op op;
	unsigned flags;   /* enum td_flag */
	uint64_t offset;
	uint32_t len;
	uint32_t payload; /* bytes that follow it on the wire */
	be64 cookie;
	bool done;        /* nothing is left to do but to answer with err */
	bool one_extent;
	bool then_flush;
	int err;
};

enum nbd_verdict {
	NBD_TAKE,
	NBD_BYE,  /* the peer disconnects */
	NBD_BAD,  /* not a request, or one whose end cannot be found */
};

/* hello holds what was agreed on. */
enum nbd_verdict nbd_order_read(const struct nbd_hello *hello,
				const struct nbd_wire_request *wire,
				struct nbd_order *out);

/* err: 0 or -errno. */
uint32_t nbd_error(int err);

#endif
