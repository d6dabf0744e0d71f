/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON-RPC 2.0 over a Unix stream socket, one message a line, on an event loop.
 * A server answers several clients; a link asks one server. Neither blocks, and
 * neither lets its peer make it grow: lines, queues, clients and requests in
 * progress are bounded (docs/control.md has the figures).
 *
 * A failure of what was asked has an errno value as its code; the codes below
 * zero are JSON-RPC's own, for messages that are no proper request.
 * References to JSON values: "taken" means that the callee drops it.
 */
#ifndef CONTROL_RPC_H
#define CONTROL_RPC_H

#include <blktap/driver.h>
#include <jansson.h>
#include <sys/types.h>

#include "io/loop.h"

/* ---- the server ---------------------------------------------------------- */

struct td_rpc_server;
struct td_rpc_call; /* a request that waits for its answer */

/*
 * Answers call now or later, once, with td_rpc_answer() or td_rpc_refuse(); the
 * client may be gone by then. params is an object (empty if none was sent) and
 * stays until the answer.
 */
typedef void td_rpc_method(void *arg, struct td_rpc_call *call, json_t *params);

struct td_rpc_row {
	const char *name; /* NULL ends the table */
	td_rpc_method *run;
};

/*
 * Listens at path, mode 0600; only root and our own user are let in. A socket
 * that nobody listens at any more is replaced, a live one refused (-EADDRINUSE).
 */
int td_rpc_listen(struct td_loop *loop, const char *path,
		  struct td_rpc_server **out, struct td_why *why);
/* Adds a table of methods; the rows must stay. A later one of the same name takes the
 * place of an earlier one. At most 4 tables. */
void td_rpc_serve(struct td_rpc_server *server, const struct td_rpc_row *rows,
		  void *arg);
/* Drops all clients and removes the socket; answers still owed to them go
 * nowhere. What is written already is given to the kernel first. */
void td_rpc_close(struct td_rpc_server *server);

void td_rpc_answer(struct td_rpc_call *call, json_t *result /* taken; NULL: {} */);
/* err: -errno */
void td_rpc_refuse(struct td_rpc_call *call, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Takes values out of params: names and places as in json_unpack_ex(), e.g.
 * "{s:s, s?b}". Refuses call and returns false when params do not fit, which
 * they also do not with keys that fmt does not name.
 */
bool td_rpc_params(struct td_rpc_call *call, json_t *params, const char *fmt, ...);

/* ---- a link to a server ----------------------------------------------------- */

struct td_rpc_link;

/* err 0: result is set (borrowed). Else why says what was wrong; -ECONNRESET:
 * the link is not connected any more; -ETIMEDOUT. Never called from within
 * td_rpc_ask(). */
typedef void td_rpc_answered(void *arg, int err, const char *why, json_t *result);

struct td_rpc_link *td_rpc_link_new(struct td_loop *loop); /* connected to nobody */
void td_rpc_link_free(struct td_rpc_link *link); /* NULL is fine; forgets all */
int td_rpc_connect(struct td_rpc_link *link, const char *path, struct td_why *why);
bool td_rpc_connected(const struct td_rpc_link *link);
/* Questions under way fail, here and now, with -ECONNRESET. */
void td_rpc_hang_up(struct td_rpc_link *link);
pid_t td_rpc_peer(const struct td_rpc_link *link); /* 0: unknown */

/* timeout_ms 0: waits for ever. */
void td_rpc_ask(struct td_rpc_link *link, const char *method,
		json_t *params /* taken; NULL: {} */, unsigned timeout_ms,
		td_rpc_answered *answered, void *arg);
/* No answer whose arg is this will be delivered any more. */
void td_rpc_forget(struct td_rpc_link *link, const void *arg);

#endif
