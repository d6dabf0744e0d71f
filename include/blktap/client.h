/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * <blktap/client.h>: the only header a control client needs. It asks blktapctrl
 * (or one tapdisk) a question and waits for the answer. Parameters and results
 * are JSON text, for the caller's own JSON library; docs/control.md lists the
 * methods.
 *
 *     struct td_client *client;
 *     struct td_client_error error;
 *     char *disks;
 *     if (td_client_open(NULL, &client, &error) ||
 *         td_client_call(client, "list", NULL, -1, &disks, &error))
 *             errx(1, "%s", error.text);
 *     puts(disks);
 *     free(disks);
 *     td_client_close(client);
 *
 * One thread at a time may use a client. Functions return 0, or -errno with
 * *error filled.
 */
#ifndef BLKTAP_CLIENT_H
#define BLKTAP_CLIENT_H

#ifdef __cplusplus
extern "C" {
#endif

#define TD_CLIENT_SOCKET "/run/blktap/control"

struct td_client;

struct td_client_error {
	char text[512]; /* one line, for people */
};

/* path: NULL for TD_CLIENT_SOCKET. -ENOENT, -ECONNREFUSED: nobody is there. */
int td_client_open(const char *path, struct td_client **out, struct td_client_error *error);
void td_client_close(struct td_client *client); /* NULL is fine */

/*
 * params: a JSON object, or NULL for none. timeout_ms: -1 waits as long as it
 * takes, else -ETIME after it; after -ETIME or -ECONNRESET the client can only be
 * closed.
 * *result is the caller's to free. What the daemon refuses comes back with its
 * own error number and words.
 */
int td_client_call(struct td_client *client, const char *method, const char *params,
		   int timeout_ms, char **result, struct td_client_error *error);

#ifdef __cplusplus
}
#endif

#endif
