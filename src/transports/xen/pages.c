/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of pages out of a bitmap: see pages.h. */
#include "transports/xen/pages.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "transports/xen/ring.h"

int pages_init(struct pages *pages)
{
	void *memory = mmap(NULL, PAGES_COUNT * RING_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	*pages = (struct pages){ .memory = memory };
	return 0;
}

void pages_fini(struct pages *pages)
{
	if (pages->memory)
		munmap(pages->memory, PAGES_COUNT * RING_PAGE);
	pages->memory = NULL;
}

static bool taken(const struct pages *pages, unsigned page)
{
	return pages->used[page / 64] >> (page % 64) & 1;
}

static void mark(struct pages *pages, unsigned first, unsigned count)
{
	for (unsigned page = first; page < first + count; page++)
		pages->used[page / 64] ^= 1ull << (page % 64);
}

void *pages_get(struct pages *pages, unsigned count)
{
	unsigned run = 0;

	for (unsigned page = 0; page < PAGES_COUNT; page++) {
		if (!run && page % 64 == 0 && pages->used[page / 64] == UINT64_MAX) {
			page += 63;
			continue;
		}
		run = taken(pages, page) ? 0 : run + 1;
		if (run == count) {
			mark(pages, page + 1 - count, count);
			return pages->memory + (page + 1 - count) * (size_t)RING_PAGE;
		}
	}
	return NULL;
}

void pages_put(struct pages *pages, void *run, unsigned count)
{
	size_t first = (size_t)((uint8_t *)run - pages->memory) / RING_PAGE;

	mark(pages, (unsigned)first, count);
}
