/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocking client: one question at a time over a Unix socket.
 */
#include <blktap/client.h>

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "control/unix.h"

#define ANSWER_MAX (16 * MiB)

struct td_client {
	int fd;
	json_int_t last_id;
	char *in;
	size_t in_len, in_room;
};

static int failed(struct td_client_error *error, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int failed(struct td_client_error *error, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		vsnprintf(error->text, sizeof(error->text), fmt, ap);
	va_end(ap);
	return err;
}

int td_client_open(const char *path, struct td_client **out, struct td_client_error *error)
{
	struct td_client *client;
	int fd, err;

	if (!path)
		path = TD_CLIENT_SOCKET;
	err = td_unix_connect(path, true, &fd);
	if (err)
		return failed(error, err, "%s: %s", path, strerror(-err));
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return failed(error, -ENOMEM, "%s", strerror(ENOMEM));
	}
	client->fd = fd;
	*out = client;
	return 0;
}

void td_client_close(struct td_client *client)
{
	if (!client)
		return;
	close(client->fd);
	free(client->in);
	free(client);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* until: a time of now_ms(), or -1 */
static int wait_for(struct td_client *client, short events, int64_t until)
{
	struct pollfd ready = { .fd = client->fd, .events = events };
	int64_t left = until < 0 ? -1 : until - now_ms();
	int n = poll(&ready, 1, until >= 0 && left < 0 ? 0 : (int)left);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return n ? 0 : -ETIME;
}

static int send_all(struct td_client *client, const char *text, size_t len, int64_t until)
{
	while (len) {
		ssize_t n = send(client->fd, text, len, MSG_NOSIGNAL);
		int err = 0;

		if (n >= 0) {
			text += n;
			len -= n;
		} else if (errno == EAGAIN) {
			err = wait_for(client, POLLOUT, until);
		} else if (errno != EINTR) {
			err = -ECONNRESET;
		}
		if (err)
			return err;
	}
	return 0;
}

static int receive_more(struct td_client *client, int64_t until)
{
	ssize_t n;

	if (client->in_len == client->in_room) {
		size_t room = max_u64(4096, client->in_room * 2);
		char *in = room <= ANSWER_MAX ? realloc(client->in, room) : NULL;

		if (!in)
			return -ENOMEM;
		client->in = in;
		client->in_room = room;
	}
	n = recv(client->fd, client->in + client->in_len, client->in_room - client->in_len, 0);
	if (n < 0 && errno == EAGAIN)
		return wait_for(client, POLLIN, until);
	if (n < 0 && errno == EINTR)
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	client->in_len += n;
	return 0;
}

/* The next line, as JSON. */
static int receive(struct td_client *client, int64_t until, json_t **out)
{
	size_t looked = 0;
	char *end;

	while (!(end = client->in_len > looked
			       ? memchr(client->in + looked, '\n', client->in_len - looked)
			       : NULL)) {
		int err;

		looked = client->in_len;
		err = receive_more(client, until);
		if (err)
			return err;
	}
	*out = json_loadb(client->in, end - client->in, 0, NULL);
	client->in_len -= end + 1 - client->in;
	memmove(client->in, end + 1, client->in_len);
	return *out ? 0 : -EPROTO;
}

static int send_request(struct td_client *client, const char *method, json_t *params,
			int64_t until)
{
	json_t *request = json_pack("{s:s, s:I, s:s, s:O}", "jsonrpc", "2.0", "id",
				    ++client->last_id, "method", method, "params", params);
	AUTO_FREE char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int err;

	json_decref(request);
	if (!text)
		return -EINVAL;
	err = send_all(client, text, strlen(text), until);
	return err ? err : send_all(client, "\n", 1, until);
}

static int read_answer(json_t *answer, char **result, struct td_client_error *error)
{
	json_t *good = json_object_get(answer, "result");
	json_t *bad = json_object_get(answer, "error");
	const char *text = json_string_value(json_object_get(bad, "message"));
	json_int_t code = json_integer_value(json_object_get(bad, "code"));

	if (!good)
		return failed(error, code > 0 && code < 4096 ? -(int)code : -EPROTO, "%s",
			      text ? text : "the answer is no JSON-RPC");
	*result = json_dumps(good, JSON_COMPACT | JSON_ENCODE_ANY);
	return *result ? 0 : failed(error, -ENOMEM, "%s", strerror(ENOMEM));
}

int td_client_call(struct td_client *client, const char *method, const char *params,
		   int timeout_ms, char **result, struct td_client_error *error)
{
	int64_t until = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	json_error_t flaw;
	json_t *object = json_loads(params ? params : "{}", 0, &flaw);
	json_t *answer = NULL;
	int err;

	if (!object)
		return failed(error, -EINVAL, "parameters: %s", flaw.text);
	err = send_request(client, method, object, until);
	json_decref(object);
	while (!err) {
		err = receive(client, until, &answer);
		if (!err && json_integer_value(json_object_get(answer, "id")) == client->last_id)
			break;
		json_decref(take(answer));
	}
	if (err)
		return failed(error, err, "%s: %s", method,
			      err == -ETIME	   ? "no answer in time"
			      : err == -ECONNRESET ? "the other side has gone away"
						   : strerror(-err));
	err = read_answer(answer, result, error);
	json_decref(answer);
	return err;
}
