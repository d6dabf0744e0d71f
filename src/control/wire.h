/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON values over a stream socket, one a line, on an event loop. What comes in
 * is read only as fast as the owner takes it; what goes out is bounded.
 */
#ifndef CONTROL_WIRE_H
#define CONTROL_WIRE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "io/loop.h"

struct td_wire;

struct td_wire_owner {
	/* A line arrived; value is borrowed, or NULL with what is wrong in why. */
	void (*message)(void *arg, json_t *value, const char *why);
	/* No more messages will come. hard: nothing can be sent either. Called
	 * at most twice, first soft, then hard. */
	void (*ended)(void *arg, bool hard);
	size_t line_max;  /* bytes of an incoming line */
	size_t queue_max; /* bytes that wait to be sent; more breaks the wire */
};

/* fd belongs to the wire then, in case of failure too. All calls below are
 * fine from within message() and ended(). */
int td_wire_new(struct td_loop *loop, int fd, const struct td_wire_owner *owner,
		void *arg, struct td_wire **out);
void td_wire_free(struct td_wire *wire); /* NULL is fine */

void td_wire_send(struct td_wire *wire, const json_t *value);
bool td_wire_sent(const struct td_wire *wire); /* nothing waits to be sent */
/* While on, no message is delivered. */
void td_wire_pause(struct td_wire *wire, bool on);
/* Reads no more; ended(hard) when all that waits has been sent. */
void td_wire_finish(struct td_wire *wire);

#endif
