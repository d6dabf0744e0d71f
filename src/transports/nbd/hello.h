/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The negotiation of one NBD connection, as a function of bytes: no socket, no
 * memory of its own, so that it is tested and fuzzed by itself.
 */
#ifndef NBD_HELLO_H
#define NBD_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is served: a disk, as a peer sees it. */
struct nbd_export {
	const char *name;     /* accepted beside "" */
	uint64_t size;
	uint32_t block_size;  /* smallest unit of a request */
	uint32_t preferred;   /* a power of two */
	uint32_t can;         /* enum td_can */
};

enum nbd_hello_state {
	NBD_HELLO_MORE,  /* go on */
	NBD_HELLO_SERVE, /* send out, then requests follow */
	NBD_HELLO_END,   /* send out, then hang up: the peer asked for it */
	NBD_HELLO_BAD,   /* hang up: error says why */
};

struct nbd_hello {
	const struct nbd_export *export;
	enum nbd_hello_state state;
	const char *error;
	bool flags_seen, fixed, no_zeroes;
	/* agreed with the peer */
	bool structured, allocation;
	unsigned options; /* seen so far: bounded */
	uint32_t skip;    /* bytes of an option too big to look at */
	/* to be sent, and emptied, before the next step */
	size_t out_len;
	uint8_t out[512];
};

/* An option's data may be as long as this. It must fit the peer's buffer. */
#define NBD_OPTION_MAX 16384
#define NBD_HELLO_MAX_STEP (NBD_OPTION_MAX + 16)

/* Starts, with the greeting in out. */
void nbd_hello_start(struct nbd_hello *hello, const struct nbd_export *export);

/*
 * Takes one message from the len bytes at in; returns the bytes taken. 0 with
 * state MORE: the message is not complete yet. hello->out is empty before it.
 */
size_t nbd_hello_step(struct nbd_hello *hello, const uint8_t *in, size_t len);

#define NBD_CONTEXT_ALLOCATION 1u /* our number for base:allocation */

#endif
