/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The answering side of JSON-RPC: a listening socket, its clients, and the
 * calls that wait for an answer. A call outlives its client: the method that
 * has it answers all the same, to nobody.
 *
 * Bounds: 64 clients; of each, 16 calls in progress (more wait unread in its
 * socket), lines of 64 KiB, 4 MiB of unread answers.
 */
#include "control/rpc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "control/unix.h"
#include "control/wire.h"

#define MAX_CLIENTS 64
#define MAX_CALLS 16
#define MAX_TABLES 4
#define ACCEPT_AGAIN_MS 200 /* when there was no descriptor for a client */

/* JSON-RPC's own codes */
#define RPC_NOT_JSON (-32700)
#define RPC_NOT_A_REQUEST (-32600)
#define RPC_NO_METHOD (-32601)
#define RPC_BAD_PARAMS (-32602)

struct table {
	const struct td_rpc_row *rows;
	void *arg;
};

struct td_rpc_server {
	struct td_loop *loop;
	struct td_watch watch;
	struct table tables[MAX_TABLES];
	unsigned table_count;
	struct list clients;
	unsigned client_count;
	struct td_timer again; /* armed: nobody is let in until then */
	struct td_ratelimit noise;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct client {
	struct list link; /* server->clients */
	struct td_rpc_server *server;
	struct td_wire *wire;
	struct list calls;
	unsigned call_count;
	bool asked_all; /* it will ask nothing more, but still listens */
};

struct td_rpc_call {
	struct list link;      /* client->calls */
	struct client *client; /* NULL: gone */
	json_t *id;            /* NULL: a notification, which gets no answer */
	json_t *params;
};

/* ---- clients ------------------------------------------------------------------ */

static void client_drop(struct client *client)
{
	LIST_FOR_SAFE(struct td_rpc_call, call, &client->calls, link) {
		list_del(&call->link);
		call->client = NULL;
	}
	td_wire_free(client->wire);
	list_del(&client->link);
	client->server->client_count--;
	free(client);
}

static void client_ended(void *arg, bool hard)
{
	struct client *client = arg;

	client->asked_all = true;
	if (hard)
		client_drop(client);
	else if (!client->call_count)
		td_wire_finish(client->wire); /* once it has all answers */
}

static void client_send(struct client *client, json_t *id, const char *key, json_t *value)
{
	json_t *reply = json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id", id, key, value);

	if (reply && !json_object_get(reply, "id"))
		json_object_set_new(reply, "id", json_null());
	if (reply)
		td_wire_send(client->wire, reply);
	json_decref(reply);
}

static void client_send_error(struct client *client, json_t *id, int code, const char *text)
{
	client_send(client, id, "error",
		    json_pack("{s:i, s:s}", "code", code, "message", text));
}

/* ---- calls ---------------------------------------------------------------------- */

/* Frees the call; returns its client if that is still there. */
static struct client *call_end(struct td_rpc_call *call)
{
	struct client *client = call->client;

	if (client) {
		list_del(&call->link);
		client->call_count--;
		td_wire_pause(client->wire, false);
	}
	json_decref(call->id);
	json_decref(call->params);
	free(call);
	return client;
}

/* Sends {key: value} for the call and ends it. Takes value. */
static void call_reply(struct td_rpc_call *call, const char *key, json_t *value)
{
	struct client *client = call->client;

	if (client && call->id)
		client_send(client, call->id, key, value);
	else
		json_decref(value);
	call_end(call);
	if (client && client->asked_all && !client->call_count)
		td_wire_finish(client->wire);
}

void td_rpc_answer(struct td_rpc_call *call, json_t *result)
{
	call_reply(call, "result", result ? result : json_object());
}

static void call_error(struct td_rpc_call *call, int code, const char *text)
{
	json_t *error = json_pack("{s:i, s:s}", "code", code, "message", text);

	/* what a library put into it may be no UTF-8 */
	if (!error)
		error = json_pack("{s:i, s:s}", "code", code, "message",
				  "the reason is not printable");
	call_reply(call, "error", error);
}

void td_rpc_refuse(struct td_rpc_call *call, int err, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	td_text_plain(text);
	call_error(call, -err, text);
}

bool td_rpc_params(struct td_rpc_call *call, json_t *params, const char *fmt, ...)
{
	json_error_t error;
	va_list ap;
	int bad;

	va_start(ap, fmt);
	bad = json_vunpack_ex(params, &error, JSON_STRICT, fmt, ap);
	va_end(ap);
	if (bad)
		call_error(call, RPC_BAD_PARAMS, error.text);
	return !bad;
}

/* ---- requests --------------------------------------------------------------------- */

static bool call_run(struct td_rpc_server *server, struct td_rpc_call *call, const char *method)
{
	for (unsigned i = server->table_count; i--;) {
		const struct table *table = &server->tables[i];

		for (const struct td_rpc_row *row = table->rows; row->name; row++) {
			if (!strcmp(row->name, method)) {
				row->run(table->arg, call, call->params);
				return true;
			}
		}
	}
	return false;
}

static const char *request_flaw(json_t *request, const char **method)
{
	const char *version = json_string_value(json_object_get(request, "jsonrpc"));
	json_t *id = json_object_get(request, "id");
	json_t *params = json_object_get(request, "params");

	*method = json_string_value(json_object_get(request, "method"));
	if (!json_is_object(request))
		return "a request is one JSON object";
	if (!version || strcmp(version, "2.0"))
		return "jsonrpc is not \"2.0\"";
	if (!*method)
		return "method is no string";
	if (id && !json_is_string(id) && !json_is_number(id) && !json_is_null(id))
		return "id is no string or number";
	if (params && !json_is_object(params))
		return "params is no object";
	return NULL;
}

static void client_request(struct client *client, json_t *request)
{
	json_t *params = json_object_get(request, "params");
	const char *method, *flaw = request_flaw(request, &method);
	struct td_rpc_call *call;
	char text[100];

	if (flaw) {
		client_send_error(client, NULL, RPC_NOT_A_REQUEST, flaw);
		return;
	}
	call = calloc(1, sizeof(*call));
	if (!call) {
		client_drop(client);
		return;
	}
	call->client = client;
	call->id = json_incref(json_object_get(request, "id"));
	call->params = params ? json_incref(params) : json_object();
	list_add(&client->calls, &call->link);
	if (++client->call_count >= MAX_CALLS)
		td_wire_pause(client->wire, true);
	if (!call_run(client->server, call, method)) {
		snprintf(text, sizeof(text), "no method '%.60s' here", method);
		call_error(call, RPC_NO_METHOD, text);
	}
}

static void client_message(void *arg, json_t *value, const char *why)
{
	struct client *client = arg;

	if (value)
		client_request(client, value);
	else
		client_send_error(client, NULL, RPC_NOT_JSON, why);
}

static const struct td_wire_owner client_wire = {
	.message = client_message,
	.ended = client_ended,
	.line_max = 64 * KiB,
	.queue_max = 4 * MiB,
};

/* ---- listening -------------------------------------------------------------------- */

static bool peer_is_welcome(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	return peer.uid == 0 || peer.uid == geteuid();
}

static int client_add(struct td_rpc_server *server, int fd)
{
	struct client *client;
	int err;

	if (!peer_is_welcome(fd) || server->client_count >= MAX_CLIENTS) {
		close(fd);
		return -EPERM;
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return -ENOMEM;
	}
	client->server = server;
	list_init(&client->calls);
	err = td_wire_new(server->loop, fd, &client_wire, client, &client->wire);
	if (err) {
		free(client);
		return err;
	}
	list_add(&server->clients, &client->link);
	server->client_count++;
	return 0;
}

static void server_ready(struct td_watch *watch, uint32_t events)
{
	struct td_rpc_server *server = container_of(watch, struct td_rpc_server, watch);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		client_add(server, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
		td_log_limited(&server->noise, NULL, LOG_WARNING, "%s: no room for a client: %s",
			       server->path, strerror(errno));
		td_watch_change(server->loop, &server->watch, 0);
		td_timer_arm(server->loop, &server->again, ACCEPT_AGAIN_MS);
	}
}

static void accept_again(struct td_timer *timer)
{
	struct td_rpc_server *server = container_of(timer, struct td_rpc_server, again);

	td_watch_change(server->loop, &server->watch, EPOLLIN);
}

int td_rpc_listen(struct td_loop *loop, const char *path, struct td_rpc_server **out,
		  struct td_why *why)
{
	struct td_rpc_server *server = calloc(1, sizeof(*server));
	int fd, err;

	if (!server)
		return td_fail(why, -ENOMEM, "%s: %s", path, strerror(ENOMEM));
	server->loop = loop;
	server->watch.ready = server_ready;
	server->again.fired = accept_again;
	list_init(&server->clients);
	err = td_unix_listen(path, &fd);
	if (err) {
		td_fail(why, err, "%s: %s", path,
			err == -EADDRINUSE ? "another process listens there" : strerror(-err));
		goto free_server;
	}
	snprintf(server->path, sizeof(server->path), "%s", path);
	err = td_watch_start(loop, &server->watch, fd, EPOLLIN);
	if (err) {
		td_fail(why, err, "%s: %s", path, strerror(-err));
		goto close_fd;
	}
	*out = server;
	return 0;
close_fd:
	unlink(path);
	close(fd);
free_server:
	free(server);
	return err;
}

void td_rpc_serve(struct td_rpc_server *server, const struct td_rpc_row *rows, void *arg)
{
	if (server->table_count < MAX_TABLES)
		server->tables[server->table_count++] = (struct table){ rows, arg };
}

void td_rpc_close(struct td_rpc_server *server)
{
	if (!server)
		return;
	LIST_FOR_SAFE(struct client, client, &server->clients, link)
		client_drop(client);
	unlink(server->path);
	td_timer_cancel(&server->again);
	td_watch_stop(server->loop, &server->watch);
	close(server->watch.fd);
	free(server);
}
