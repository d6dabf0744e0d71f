/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest for tests: its pages are those of a memfd, a grant is the number of a
 * page. What the transport maps read-only is read-only, and what it maps and does
 * not unmap is counted.
 */
#ifndef TESTS_XEN_SIM_H
#define TESTS_XEN_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "transports/xen/guest.h"

#define SIM_PAGES 16384u

struct sim {
	struct guest guest;
	int memfd;
	uint8_t *pages;           /* all of the guest's memory */
	uint8_t bad[SIM_PAGES];   /* grants that are refused */
	unsigned mapped;          /* pages mapped now */
	unsigned maps, writable_maps, copies, copy_calls, notified;
	unsigned freed;
};

void sim_open(struct sim *sim);
void sim_close(struct sim *sim);
void sim_kick(struct sim *sim); /* the guest notifies us */

static inline uint8_t *sim_page(struct sim *sim, uint32_t gref)
{
	return sim->pages + gref * 4096ul;
}

#endif
