/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and writing xenstore: nodes as strings and as checked numbers, and
 * changes that happen as a whole or not at all.
 */
#ifndef DAEMON_XENBUS_STORE_H
#define DAEMON_XENBUS_STORE_H

#include <blktap/driver.h>
#include <xenstore.h>

/* A node below a folder. */
struct store_node {
	char key[32];
	char value[512]; /* cut off, if it must be */
};

struct store_node store_node(const char *key, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The caller frees it; NULL: errno. key NULL: dir itself. */
char *store_read(struct xs_handle *xs, xs_transaction_t t, const char *dir,
		 const char *key);

/* -ENOENT, or -EINVAL: not a decimal number up to max, and nothing else. */
int store_number(struct xs_handle *xs, const char *dir, const char *key, uint64_t max,
		 uint64_t *out);
int store_parse(const char *text, uint64_t max, uint64_t *out);

bool store_exists(struct xs_handle *xs, const char *dir, const char *key);

/*
 * Runs change(arg, t) in a transaction, again when others got in its way. Its
 * error, if any, undoes everything.
 */
int store_change(struct xs_handle *xs, int (*change)(void *arg, xs_transaction_t t),
		 void *arg);

/* In a transaction: */
int store_put(struct xs_handle *xs, xs_transaction_t t, const char *dir,
	      const struct store_node *nodes, unsigned count);
/* A folder owned by owner, which reader may read; what is made in it later
 * inherits this. */
int store_folder(struct xs_handle *xs, xs_transaction_t t, const char *dir,
		 unsigned owner, unsigned reader);

/* Removes a folder, and those above it that are empty then. */
void store_remove(struct xs_handle *xs, xs_transaction_t t, const char *dir);

/* Changes a folder only if it is still there: -ENOENT. */
int store_update(struct xs_handle *xs, const char *dir, const struct store_node *nodes,
		 unsigned count);

#endif
