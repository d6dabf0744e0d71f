/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bounded pool of page-aligned memory, given out in runs of adjacent pages.
 * First fit, from the low end: pages that a quiet disk has never used cost
 * nothing. A run that does not fit now does once the others are back.
 */
#ifndef TRANSPORTS_XEN_PAGES_H
#define TRANSPORTS_XEN_PAGES_H

#include <stdint.h>

#define PAGES_COUNT 1024u /* 4 MiB */

struct pages {
	uint8_t *memory;
	uint64_t used[PAGES_COUNT / 64]; /* a bit a page */
};

int pages_init(struct pages *pages);
void pages_fini(struct pages *pages);

void *pages_get(struct pages *pages, unsigned count); /* NULL: not now */
void pages_put(struct pages *pages, void *run, unsigned count);

#endif
