/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of RAM disks' memory, by name: it lives as long as a disk of that name
 * does, and the daemon holds it for them.
 */
#ifndef DAEMON_MEMORY_H
#define DAEMON_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

struct td_memory; /* of one name */

struct td_memory_facts {
	const char *name;
	int fd;
	uint64_t size; /* bytes; 0: the first tapdisk is about to make it */
	uint64_t used; /* of them */
	uint64_t page; /* of huge ones; 0: of the usual size */
};

/* NULL: there is none of that name. */
struct td_memory *td_memory_find(struct list *all, const char *name);
/* One more user of the memory called name; it is made, empty, for the first, of huge
 * pages if these are asked for. */
int td_memory_get(struct list *all, const char *name, bool huge, struct td_memory **out);
/* The same for a tapdisk that an earlier daemon started: what it holds as fd. */
int td_memory_adopt(struct list *all, const char *name, pid_t pid, int fd,
		    struct td_memory **out);
/* One user less; NULL is fine. */
void td_memory_put(struct td_memory *memory);
int td_memory_fd(const struct td_memory *memory);
/* NULL: the first; returns NULL after the last. */
struct td_memory *td_memory_next(struct list *all, struct td_memory *memory);
void td_memory_facts(const struct td_memory *memory, struct td_memory_facts *out);

#endif
