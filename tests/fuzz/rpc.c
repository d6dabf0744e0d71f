/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control socket: whatever a client may send to a server with a method that looks
 * into its parameters. Each answer must be a line of JSON-RPC.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/num.h"
#include "control/rpc.h"
#include "control/unix.h"
#include "targets.h"

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

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	static char answers[1 << 20];
	static char path[64];
	struct td_rpc_server *server;
	struct td_loop *loop;
	size_t len = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/rpc", fuzz_folder());
	demand(!td_loop_new(&loop));
	demand(!td_rpc_listen(loop, path, &server, NULL));
	td_rpc_serve(server, rows, NULL);
	demand(!td_unix_connect(path, false, &fd));
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
}

static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	static const char *const texts[] = {
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":"
		"{\"text\":\"\\u00e4\",\"more\":[1,{\"a\":null}]}}\n"
		"{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}\n[]\n",
		"[{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"none\"}]\n"
		"{\"jsonrpc\":\"2.0\",\"id\":1e3,\"method\":\"echo\",\"params\":[]}\n",
	};

	if (n >= ARRAY_SIZE(texts))
		return 0;
	memcpy(out, texts[n], strlen(texts[n]));
	return strlen(texts[n]);
}

const struct fuzz_target fuzz_rpc = { .name = "rpc", .input = input, .seed = seed };
