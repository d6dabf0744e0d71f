/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xenstore, seen from the daemon: see xenbus_store.h. */
#include "control/daemon/xenbus_store.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"

#define PATH_SIZE 512
#define TRIES 100 /* of a transaction that others disturb */

static int path_of(char *path, const char *dir, const char *key)
{
	int n = snprintf(path, PATH_SIZE, key ? "%s/%s" : "%s", dir, key);

	return n < PATH_SIZE ? 0 : -ENAMETOOLONG;
}

struct store_node store_node(const char *key, const char *fmt, ...)
{
	struct store_node node;
	va_list args;

	snprintf(node.key, sizeof(node.key), "%s", key);
	va_start(args, fmt);
	vsnprintf(node.value, sizeof(node.value), fmt, args);
	va_end(args);
	return node;
}

char *store_read(struct xs_handle *xs, xs_transaction_t t, const char *dir,
		 const char *key)
{
	char path[PATH_SIZE];
	unsigned len;
	int err = path_of(path, dir, key);

	if (err) {
		errno = -err;
		return NULL;
	}
	return xs_read(xs, t, path, &len);
}

int store_parse(const char *text, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' ||
		    __builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value) ||
		    value > max)
			return -EINVAL;
	}
	*out = value;
	return 0;
}

int store_number(struct xs_handle *xs, const char *dir, const char *key, uint64_t max,
		 uint64_t *out)
{
	AUTO_FREE char *text = store_read(xs, XBT_NULL, dir, key);

	if (!text)
		return -errno;
	return store_parse(text, max, out);
}

bool store_exists(struct xs_handle *xs, const char *dir, const char *key)
{
	AUTO_FREE char *text = store_read(xs, XBT_NULL, dir, key);

	return text;
}

int store_change(struct xs_handle *xs, int (*change)(void *arg, xs_transaction_t t),
		 void *arg)
{
	for (int i = 0; i < TRIES; i++) {
		xs_transaction_t t = xs_transaction_start(xs);
		int err;

		if (t == XBT_NULL)
			return -errno;
		err = change(arg, t);
		if (err) {
			xs_transaction_end(xs, t, true);
			return err;
		}
		if (xs_transaction_end(xs, t, false))
			return 0;
		if (errno != EAGAIN)
			return -errno;
	}
	return -EBUSY;
}

int store_put(struct xs_handle *xs, xs_transaction_t t, const char *dir,
	      const struct store_node *nodes, unsigned count)
{
	char path[PATH_SIZE];

	for (unsigned i = 0; i < count; i++) {
		int err = path_of(path, dir, nodes[i].key);

		if (err)
			return err;
		if (!xs_write(xs, t, path, nodes[i].value,
			      (unsigned)strlen(nodes[i].value)))
			return -errno;
	}
	return 0;
}

int store_folder(struct xs_handle *xs, xs_transaction_t t, const char *dir,
		 unsigned owner, unsigned reader)
{
	struct xs_permissions perms[2] = {
		{ .id = owner, .perms = XS_PERM_NONE },
		{ .id = reader, .perms = XS_PERM_READ },
	};

	if (!xs_mkdir(xs, t, dir) || !xs_set_permissions(xs, t, dir, perms, 2))
		return -errno;
	return 0;
}

void store_remove(struct xs_handle *xs, xs_transaction_t t, const char *dir)
{
	AUTO_FREE char *path = strdup(dir);
	unsigned left = 0;

	while (path && !left) {
		char *slash = strrchr(path, '/');
		char **names;

		if (!xs_rm(xs, t, path) || !slash || slash == path)
			return;
		*slash = '\0';
		names = xs_directory(xs, t, path, &left);
		if (!names)
			return;
		free(names);
	}
}

struct update {
	struct xs_handle *xs;
	const char *dir;
	const struct store_node *nodes;
	unsigned count;
};

static int update(void *arg, xs_transaction_t t)
{
	const struct update *u = arg;
	AUTO_FREE char *state = store_read(u->xs, t, u->dir, "state");

	if (!state)
		return -errno;
	return store_put(u->xs, t, u->dir, u->nodes, u->count);
}

int store_update(struct xs_handle *xs, const char *dir, const struct store_node *nodes,
		 unsigned count)
{
	struct update u = { .xs = xs, .dir = dir, .nodes = nodes, .count = count };

	return store_change(xs, update, &u);
}
