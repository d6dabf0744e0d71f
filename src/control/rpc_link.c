/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The asking side of JSON-RPC on a loop: questions that wait for their answer,
 * found again by number. Each has a timer, which ends it when the answer is
 * late, and at once when there is nobody to ask any more.
 */
#include "control/rpc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/guard.h"
#include "base/list.h"
#include "control/unix.h"
#include "control/wire.h"

struct td_rpc_link {
	struct td_loop *loop;
	struct td_wire *wire; /* NULL: connected to nobody */
	struct list questions;
	json_int_t last_id;
	pid_t peer;
	unsigned busy; /* callbacks that are running */
	bool freed;
};

struct question {
	struct list link;
	struct td_rpc_link *on;
	struct td_timer timer;
	json_int_t id;
	int late; /* what it ends with when the timer fires */
	td_rpc_answered *answered;
	void *arg;
};

static void link_release(struct td_rpc_link *link)
{
	if (link->freed && !link->busy)
		free(link);
}

static void question_free(struct question *question)
{
	td_timer_cancel(&question->timer);
	list_del(&question->link);
	free(question);
}

/* Delivers the answer. The link may be closed by the callback. */
static void question_end(struct question *question, int err, const char *why, json_t *result)
{
	struct td_rpc_link *link = question->on;
	td_rpc_answered *answered = question->answered;
	void *arg = question->arg;

	question_free(question);
	link->busy++;
	answered(arg, err, why, result);
	link->busy--;
	link_release(link);
}

static void question_late(struct td_timer *timer)
{
	struct question *question = container_of(timer, struct question, timer);

	question_end(question, question->late,
		     question->late == -ETIMEDOUT ? "no answer in time" : "the process is gone",
		     NULL);
}

static struct question *question_find(struct td_rpc_link *link, json_t *id)
{
	LIST_FOR(struct question, question, &link->questions, link)
		if (json_is_integer(id) && question->id == json_integer_value(id))
			return question;
	return NULL;
}

static void link_message(void *arg, json_t *value, const char *why)
{
	struct td_rpc_link *link = arg;
	struct question *question = question_find(link, json_object_get(value, "id"));
	json_t *result = json_object_get(value, "result");
	json_t *error = json_object_get(value, "error");
	const char *text = json_string_value(json_object_get(error, "message"));
	json_int_t code = json_integer_value(json_object_get(error, "code"));

	if (!question)
		return; /* forgotten, or late */
	if (result)
		question_end(question, 0, NULL, result);
	else
		question_end(question, code > 0 && code < 4096 ? -(int)code : -EPROTO,
			     text ? text : "an answer that is none", NULL);
}

void td_rpc_hang_up(struct td_rpc_link *link)
{
	json_int_t last = link->last_id; /* what is asked from now on stays */

	td_wire_free(take(link->wire));
	link->busy++;
	while (!link->freed && !list_empty(&link->questions)) {
		struct question *first = list_item(link->questions.next, struct question, link);

		if (first->id > last)
			break;
		question_end(first, -ECONNRESET, "the process is gone", NULL);
	}
	link->busy--;
	link_release(link);
}

static void link_ended(void *arg, bool hard)
{
	td_rpc_hang_up(arg);
}

static const struct td_wire_owner link_wire = {
	.message = link_message,
	.ended = link_ended,
	.line_max = 4 * MiB,
	.queue_max = MiB,
};

struct td_rpc_link *td_rpc_link_new(struct td_loop *loop)
{
	struct td_rpc_link *link = calloc(1, sizeof(*link));

	if (link) {
		link->loop = loop;
		list_init(&link->questions);
	}
	return link;
}

void td_rpc_link_free(struct td_rpc_link *link)
{
	if (!link)
		return;
	td_wire_free(take(link->wire));
	LIST_FOR_SAFE(struct question, question, &link->questions, link)
		question_free(question);
	link->freed = true;
	link_release(link);
}

int td_rpc_connect(struct td_rpc_link *link, const char *path, struct td_why *why)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int fd, err = td_unix_connect(path, false, &fd);

	td_rpc_hang_up(link);
	if (!err) {
		if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
			link->peer = peer.pid;
		err = td_wire_new(link->loop, fd, &link_wire, link, &link->wire);
	}
	return err ? td_fail(why, err, "%s: %s", path, strerror(-err)) : 0;
}

bool td_rpc_connected(const struct td_rpc_link *link)
{
	return link->wire;
}

pid_t td_rpc_peer(const struct td_rpc_link *link)
{
	return link->peer;
}

void td_rpc_ask(struct td_rpc_link *link, const char *method, json_t *params,
		unsigned timeout_ms, td_rpc_answered *answered, void *arg)
{
	struct question *question = calloc(1, sizeof(*question));
	json_t *request = json_pack("{s:s, s:I, s:s, s:o}", "jsonrpc", "2.0", "id",
				    ++link->last_id, "method", method, "params",
				    params ? params : json_object());

	if (!question)
		abort(); /* an answer is promised, and there is no memory to owe it */
	*question = (struct question){ .on = link, .id = link->last_id, .late = -ETIMEDOUT,
				       .answered = answered, .arg = arg };
	question->timer.fired = question_late;
	list_add(&link->questions, &question->link);
	if (!link->wire || !request) {
		question->late = -ECONNRESET;
		td_timer_arm(link->loop, &question->timer, 0);
	} else {
		td_wire_send(link->wire, request);
		if (timeout_ms)
			td_timer_arm(link->loop, &question->timer, timeout_ms);
	}
	json_decref(request);
}

void td_rpc_forget(struct td_rpc_link *link, const void *arg)
{
	LIST_FOR_SAFE(struct question, question, &link->questions, link)
		if (question->arg == arg)
			question_free(question);
}
