/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz entry of the control socket: whatever a client may send to a server with
 * a method that looks into its parameters. Aborts if an answer is no line of
 * JSON-RPC. Built with clang's libFuzzer:
 *     ninja -C build tests/control/fuzz-rpc && build/tests/control/fuzz-rpc
 */
#include "fuzz_rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/rpc.h"
#include "control/unix.h"

static void demand(bool holds)
{
	if (!holds)
		abort();
}

static void method_echo(void *arg, struct td_rpc_call *call, json_t *params)
{
	const char *text;
	json_t *more = NULL;

	if (td_rpc_params(call, params, "{s:s, s?o}", "text", &text, "more", &more))
		td_rpc_answer(call, json_pack("{s:s, s:O?}", "text", text, "more", more));
}

static const struct td_rpc_row rows[] = { { "echo", method_echo }, { NULL } };

static void look_at(char *answers)
{
	char *rest = answers, *line;

	while ((line = strsep(&rest, "\n")) && rest) {
		json_t *answer = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

		demand(answer && json_object_get(answer, "id"));
		demand(!json_object_get(answer, "result") != !json_object_get(answer, "error"));
		json_decref(answer);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char answers[1 << 20];
	static char path[64];
	struct td_rpc_server *server;
	struct td_loop *loop;
	size_t len = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/tmp/blktap-fuzz-%d", (int)getpid());
	demand(!td_loop_new(&loop));
	demand(!td_rpc_listen(loop, path, &server, NULL));
	td_rpc_serve(server, rows, NULL);
	demand(!td_unix_connect(path, false, &fd));
	if (size > 100000)
		size = 100000; /* what the socket holds */
	demand(send(fd, data, size, 0) == (ssize_t)size);
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 100; i++) {
		td_loop_turn(loop, 0);
		n = recv(fd, answers + len, sizeof(answers) - 1 - len, 0);
		if (n > 0)
			len += n;
	}
	answers[len] = 0;
	look_at(answers);
	close(fd);
	td_loop_turn(loop, 0);
	td_rpc_close(server);
	td_loop_turn(loop, 0);
	td_loop_free(loop);
	return 0;
}
