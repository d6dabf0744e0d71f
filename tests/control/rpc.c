/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON-RPC between a link and a server on one loop: answers now and later, none
 * at all, peers that go away at every possible moment.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "control/rpc.h"
#include "control/unix.h"

struct fixture {
	struct td_loop *loop;
	struct td_rpc_server *server;
	struct td_rpc_link *link;
	struct td_rpc_call *held[2]; /* by "hold" */
	unsigned holds;
	char path[64];
	/* what the last answer was */
	unsigned answers;
	int err;
	json_int_t value;
	bool free_in_answer;
};

static void method_double(void *arg, struct td_rpc_call *call, json_t *params)
{
	int n;

	if (td_rpc_params(call, params, "{s:i}", "n", &n))
		td_rpc_answer(call, json_pack("{s:i}", "n", 2 * n));
}

static void method_hold(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct fixture *f = arg;

	assert_true(f->holds < 2);
	f->held[f->holds++] = call;
}

static void method_fail(void *arg, struct td_rpc_call *call, json_t *params)
{
	td_rpc_refuse(call, -EBUSY, "in use by \"%s\"", "d1");
}

static void method_bytes(void *arg, struct td_rpc_call *call, json_t *params)
{
	td_rpc_refuse(call, -EIO, "%s", "\xff\xfe");
}

static const struct td_rpc_row rows[] = {
	{ "double", method_double }, { "hold", method_hold }, { "fail", method_fail },
	{ "bytes", method_bytes },   { NULL },
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct td_why why;

	snprintf(f->path, sizeof(f->path), "/tmp/blktap-rpc-%d", (int)getpid());
	assert_int_equal(td_loop_new(&f->loop), 0);
	assert_int_equal(td_rpc_listen(f->loop, f->path, &f->server, &why), 0);
	td_rpc_serve(f->server, rows, f);
	f->link = td_rpc_link_new(f->loop);
	assert_int_equal(td_rpc_connect(f->link, f->path, &why), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	td_rpc_link_free(f->link);
	td_rpc_close(f->server);
	td_loop_turn(f->loop, 0);
	td_loop_free(f->loop);
	assert_int_not_equal(access(f->path, F_OK), 0);
	free(f);
	return 0;
}

static void answered(void *arg, int err, const char *why, json_t *result)
{
	struct fixture *f = arg;

	assert_true(!err == !!result);
	f->answers++;
	f->err = err;
	f->value = json_integer_value(json_object_get(result, "n"));
	if (f->free_in_answer)
		td_rpc_link_free(take(f->link));
}

/* Turns until there are that many answers, for a minute at most. */
static void turn_for(struct fixture *f, unsigned answers)
{
	uint64_t end = td_now_ms() + 60000;

	while (f->answers < answers && td_now_ms() < end)
		td_loop_turn(f->loop, 100);
	assert_int_equal(f->answers, answers);
}

static void turns(struct fixture *f)
{
	for (int i = 0; i < 10; i++)
		td_loop_turn(f->loop, 1);
}

static void ask(struct fixture *f, const char *method, json_t *params)
{
	unsigned before = f->answers;

	td_rpc_ask(f->link, method, params, 0, answered, f);
	assert_int_equal(f->answers, before); /* never from within */
}

static void rpc_answers(void **state)
{
	struct fixture *f = *state;

	ask(f, "double", json_pack("{s:i}", "n", 21));
	turn_for(f, 1);
	assert_int_equal(f->err, 0);
	assert_int_equal(f->value, 42);
	assert_int_equal(td_rpc_peer(f->link), getpid());
}

static void rpc_refuses_with_number_and_words(void **state)
{
	struct fixture *f = *state;

	ask(f, "fail", NULL);
	turn_for(f, 1);
	assert_int_equal(f->err, -EBUSY);
	ask(f, "bytes", NULL); /* words that are no UTF-8 */
	turn_for(f, 2);
	assert_int_equal(f->err, -EIO);
	ask(f, "double", json_pack("{s:i, s:i}", "n", 1, "m", 2));
	turn_for(f, 3);
	assert_int_equal(f->err, -EPROTO);
	ask(f, "nothing", NULL);
	turn_for(f, 4);
	assert_int_equal(f->err, -EPROTO);
}

static void rpc_answers_later_and_out_of_order(void **state)
{
	struct fixture *f = *state;

	ask(f, "hold", NULL);
	ask(f, "double", json_pack("{s:i}", "n", 4));
	turn_for(f, 1);
	assert_int_equal(f->value, 8);
	td_rpc_answer(f->held[0], json_pack("{s:i}", "n", 5));
	turn_for(f, 2);
	assert_int_equal(f->value, 5);
}

static void rpc_late_answer_is_a_timeout(void **state)
{
	struct fixture *f = *state;

	td_rpc_ask(f->link, "hold", NULL, 30, answered, f);
	turn_for(f, 1);
	assert_int_equal(f->err, -ETIMEDOUT);
	for (unsigned i = 0; !f->holds && i < 1000; i++) /* we may have slept for so long */
		td_loop_turn(f->loop, 10);
	assert_int_equal(f->holds, 1);
	td_rpc_answer(f->held[0], NULL); /* nobody waits for it any more */
	turns(f);
	assert_int_equal(f->answers, 1);
}

static void rpc_forgets(void **state)
{
	struct fixture *f = *state;

	ask(f, "hold", NULL);
	turns(f);
	td_rpc_forget(f->link, f);
	td_rpc_answer(f->held[0], NULL);
	turns(f);
	assert_int_equal(f->answers, 0);
}

static void rpc_peer_gone_fails_what_was_asked(void **state)
{
	struct fixture *f = *state;

	ask(f, "hold", NULL);
	ask(f, "hold", NULL);
	turns(f);
	td_rpc_refuse(f->held[1], -EIO, "the second");
	turn_for(f, 1);
	td_rpc_close(take(f->server));
	turn_for(f, 2);
	assert_int_equal(f->err, -ECONNRESET);
	assert_false(td_rpc_connected(f->link));
	ask(f, "double", NULL); /* and what is asked from then on */
	turn_for(f, 3);
	assert_int_equal(f->err, -ECONNRESET);
	td_rpc_answer(f->held[0], NULL);
}

static void rpc_call_outlives_its_client(void **state)
{
	struct fixture *f = *state;

	ask(f, "hold", NULL);
	turns(f);
	td_rpc_link_free(take(f->link));
	turns(f);
	td_rpc_answer(f->held[0], json_pack("{s:i}", "n", 1));
	turns(f);
	assert_int_equal(f->answers, 0);
}

static void rpc_link_may_be_freed_in_an_answer(void **state)
{
	struct fixture *f = *state;

	f->free_in_answer = true;
	ask(f, "double", json_pack("{s:i}", "n", 1));
	ask(f, "double", json_pack("{s:i}", "n", 2));
	turn_for(f, 1);
	turns(f);
	assert_int_equal(f->answers, 1);
	assert_null(f->link);
}

static void rpc_link_may_be_freed_as_it_breaks(void **state)
{
	struct fixture *f = *state;

	f->free_in_answer = true;
	ask(f, "hold", NULL);
	ask(f, "hold", NULL);
	turns(f);
	td_rpc_hang_up(f->link);
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->err, -ECONNRESET);
	td_rpc_answer(f->held[0], NULL);
	td_rpc_answer(f->held[1], NULL);
}

static void rpc_takes_lines_byte_by_byte(void **state)
{
	static const char line[] = "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"double\","
				   "\"params\":{\"n\":3}}\n";
	struct fixture *f = *state;
	char text[200] = "";
	AUTO_CLOSE int fd = -1;

	assert_int_equal(td_unix_connect(f->path, false, &fd), 0);
	turns(f);
	for (const char *at = line; *at; at++) {
		assert_int_equal(recv(fd, text, sizeof(text) - 1, 0), -1);
		assert_int_equal(send(fd, at, 1, 0), 1);
		td_loop_turn(f->loop, 100);
	}
	assert_true(recv(fd, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{\"n\":6}}\n");
}

static void rpc_serves_one_socket_once(void **state)
{
	struct fixture *f = *state;
	struct td_rpc_server *second;
	struct td_why why;

	assert_int_equal(td_rpc_listen(f->loop, f->path, &second, &why), -EADDRINUSE);
	assert_non_null(strstr(why.text, f->path));
	/* no file that is no socket is ever removed */
	assert_int_equal(td_rpc_listen(f->loop, "/etc/passwd", &second, &why), -EADDRINUSE);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(rpc_answers),
		TEST(rpc_refuses_with_number_and_words),
		TEST(rpc_answers_later_and_out_of_order),
		TEST(rpc_late_answer_is_a_timeout),
		TEST(rpc_forgets),
		TEST(rpc_peer_gone_fails_what_was_asked),
		TEST(rpc_call_outlives_its_client),
		TEST(rpc_link_may_be_freed_in_an_answer),
		TEST(rpc_link_may_be_freed_as_it_breaks),
		TEST(rpc_takes_lines_byte_by_byte),
		TEST(rpc_serves_one_socket_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
