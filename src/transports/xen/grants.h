/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Grants that stay mapped from one request to the next (blkif's feature-persistent):
 * a guest that has agreed uses the same pages again and again. A bounded number is
 * kept; the one that nobody has used for the longest makes room for another, and what
 * is not used for a while is dropped.
 */
#ifndef TRANSPORTS_XEN_GRANTS_H
#define TRANSPORTS_XEN_GRANTS_H

#include <stdint.h>

#include "base/list.h"
#include "transports/xen/guest.h"

#define GRANTS_MAX 1024u   /* 4 MiB of the guest's memory a ring */
#define GRANTS_HEADS 1024u /* a power of two */

struct grant {
	struct list link;   /* in idle, oldest first, or in free; in none while used */
	struct grant *next; /* of its head */
	uint32_t gref;
	unsigned users;
	uint64_t idle_ms;   /* since when */
	void *page;
};

struct grants {
	struct guest *guest;
	struct grant *all;  /* NULL: nothing is kept */
	struct grant *heads[GRANTS_HEADS];
	struct list idle, free;
	unsigned mapped;
};

int grants_init(struct grants *grants, struct guest *guest);
void grants_fini(struct grants *grants); /* nobody uses any */

/* Maps it for writing, if it is not. NULL, and *err: -EAGAIN, all are used; else the
 * guest has not granted it so. */
struct grant *grants_get(struct grants *grants, uint32_t gref, int *err);
void grants_put(struct grants *grants, struct grant *grant, uint64_t now_ms);
/* Drops those that nobody has used since. */
void grants_drop(struct grants *grants, uint64_t since_ms);

#endif
