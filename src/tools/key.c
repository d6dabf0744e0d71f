/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The terminal, and what was typed there; pipes, and what came from them.
 */
#include "tools/key.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/key.h"

struct tool_asked {
	struct tool_asked *next;
	char *image; /* or "key-fd=N", "key-file=PATH" */
	struct td_key *key;
};

/* False: a signal came that ends the tool. One is let in only while we wait, or it could
 * be noted just before we read, and the read would still wait for somebody to type. */
static bool wait_for_key(int tty)
{
	struct pollfd typed = { .fd = tty, .events = POLLIN };
	sigset_t all, before;
	int n;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	do
		n = tool_stopped ? -1 : ppoll(&typed, 1, NULL, &before);
	while (n < 0 && errno == EINTR && !tool_stopped);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return n > 0;
}

/* A line, up to its end; a signal that ends the tool ends it too. */
static int line_read(int tty, struct td_key *key)
{
	char *to = (char *)key->data;

	while (key->len < TD_KEY_MAX) {
		if (!wait_for_key(tty) || read(tty, to + key->len, 1) <= 0)
			return -ENOKEY;
		if (to[key->len] == '\n')
			return key->len ? 0 : -ENOKEY;
		key->len++;
	}
	return -ENOKEY;
}

static struct td_key *type_key(const char *question, const char *image)
{
	AUTO_CLOSE int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	struct termios before, silent;
	struct td_key *key;
	int err = -ENOKEY;

	if (tty < 0 || tcgetattr(tty, &before))
		return NULL;
	key = td_key_new();
	if (!key)
		return NULL;
	silent = before;
	silent.c_lflag &= ~(tcflag_t)ECHO;
	if (!tcsetattr(tty, TCSAFLUSH, &silent)) {
		dprintf(tty, "%s %s: ", question, image);
		err = line_read(tty, key);
		tcsetattr(tty, TCSAFLUSH, &before);
		dprintf(tty, "\n");
	}
	if (!err)
		return key;
	td_keys_free(key);
	return NULL;
}

static int remember(struct tool_run *run, const char *image, struct td_key *key,
		    const struct td_key **out)
{
	struct tool_asked *asked = calloc(1, sizeof(*asked));

	if (asked)
		asked->image = strdup(image);
	if (!asked || !asked->image) {
		free(asked);
		td_keys_free(key);
		return -ENOMEM;
	}
	asked->key = key;
	asked->next = run->asked;
	run->asked = asked;
	*out = key;
	return 0;
}

static const struct td_key *remembered(const struct tool_run *run, const char *image)
{
	for (const struct tool_asked *asked = run->asked; asked; asked = asked->next)
		if (!strcmp(asked->image, image))
			return asked->key;
	return NULL;
}

int key_read(void *arg, const char *how, const char *where, struct td_key **list,
	     struct td_why *why)
{
	struct tool_run *run = arg;
	struct td_key *fresh = NULL;
	const struct td_key *key;
	AUTO_FREE char *name = NULL;
	int err;

	if (asprintf(&name, "%s=%s", how, where) < 0) {
		name = NULL;
		return td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	}
	key = remembered(run, name);
	if (!key) {
		err = td_key_from(how, where, &fresh, why);
		if (!err && remember(run, name, fresh, &key))
			err = td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
		if (err)
			return err;
	}
	err = td_key_copy(key, list);
	return err ? td_fail(why, err, "%s", strerror(-err)) : 0;
}

int key_ask(void *arg, const char *image, const struct td_key **out)
{
	struct tool_run *run = arg;
	struct td_key *key;

	*out = remembered(run, image);
	if (*out)
		return 0;
	key = type_key("Passphrase of", image);
	return key ? remember(run, image, key, out) : -ENOKEY;
}

int key_ask_new(struct tool_run *run, const char *image, const struct td_key **out)
{
	struct td_key *key = type_key("New passphrase of", image), *again;
	bool same;

	if (!key)
		return -ENOKEY;
	again = type_key("Again, the passphrase of", image);
	same = again && key->len == again->len && !memcmp(key->data, again->data, key->len);
	td_keys_free(again);
	if (same)
		return remember(run, image, key, out);
	td_keys_free(key);
	tool_say(run->tool, "%s: that was not the same passphrase", image);
	return -EINVAL;
}

void keys_forget(struct tool_run *run)
{
	while (run->asked) {
		struct tool_asked *asked = run->asked;

		run->asked = asked->next;
		td_keys_free(asked->key);
		free(asked->image);
		free(asked);
	}
}
