/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest for tests: its pages are those of a memfd, a grant is the number of a
 * page. What the transport maps read-only is read-only, and what it maps and does
 * not unmap is counted. Its rings may be served by a thread each.
 */
#ifndef TESTS_XEN_SIM_H
#define TESTS_XEN_SIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transports/xen/guest.h"

#define SIM_PAGES 16384u

struct sim;

struct sim_ring {
	struct guest guest;
	struct sim *sim;
	uint8_t *back;            /* the guest's memory, as this ring's server copies it:
	                             what the guest or another ring does there meanwhile is
	                             no race of ours */
	pthread_t thread;         /* that copied for it last */
};

struct sim {
	struct sim_ring ring[TD_XEN_MAX_RINGS];
	int memfd;
	uint8_t *pages;           /* all of the guest's memory */
	atomic_uchar bad[SIM_PAGES]; /* grants that are refused */
	atomic_uint mapped;       /* pages mapped now */
	atomic_uint maps, writable_maps, copies, copy_calls, notified;
	atomic_uint freed;
};

void sim_open(struct sim *sim);
void sim_close(struct sim *sim);
void sim_kick(struct sim *sim, unsigned ring); /* the guest notifies us */

static inline uint8_t *sim_page(struct sim *sim, uint32_t gref)
{
	return sim->pages + gref * 4096ul;
}

#endif
