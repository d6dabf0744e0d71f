/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of RAM disks, by name: it lives as long as a disk of that name does,
 * and the daemon holds it for them.
 */
#ifndef DAEMON_MEMORY_H
#define DAEMON_MEMORY_H

#include <sys/types.h>

#include "base/list.h"

struct td_memory; /* of one name */

/* One more user of the memory called name; it is made, empty, for the first. */
int td_memory_get(struct list *all, const char *name, struct td_memory **out);
/* The same for a tapdisk that an earlier daemon started: what it holds as fd. */
int td_memory_adopt(struct list *all, const char *name, pid_t pid, int fd,
		    struct td_memory **out);
/* One user less; NULL is fine. */
void td_memory_put(struct td_memory *memory);
int td_memory_fd(const struct td_memory *memory);

#endif
