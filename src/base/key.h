/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys of encrypted images, read from files and descriptors: never from a command
 * line, never into a log. Each lies in pages of its own that are locked, left out of
 * core dumps and wiped before they are given back.
 */
#ifndef BASE_KEY_H
#define BASE_KEY_H

#include <blktap/driver.h>

#define TD_KEY_MAX (64 * 1024)

/* Each adds a key to the end of the list. -errno, and why. */
int td_key_from_file(const char *path, struct td_key **list, struct td_why *why);
/* A descriptor of this process, in words: a pipe, which is read to its end, or a file. */
int td_key_from_fd(const char *fd, struct td_key **list, struct td_why *why);
/* Either, by the name of its key in a specification: "key-file" or "key-fd". */
int td_key_from(const char *how, const char *where, struct td_key **list, struct td_why *why);
/* Another one like it, at the end of the list; -ENOMEM. */
int td_key_copy(const struct td_key *key, struct td_key **list);
/* Memory for a key of up to TD_KEY_MAX bytes, whose data and len the caller sets. NULL:
 * there is none. */
struct td_key *td_key_new(void);
void td_key_add(struct td_key **list, struct td_key *key);
void td_keys_free(struct td_key *list); /* NULL is fine */

#endif
