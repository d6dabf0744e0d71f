/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long an empty ring is looked at before its server sleeps and the guest has to
 * notify it. That time is learned, each time the guest does so: it grows, up to a
 * limit, when that was soon after, and shrinks, down to not looking at all, when it
 * was not. A ring at rest is looked at once after its last request, and no more.
 */
#ifndef TRANSPORTS_XEN_PATIENCE_H
#define TRANSPORTS_XEN_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

struct patience {
	unsigned limit_us;  /* 0: none at all */
	unsigned window_us; /* learned */
	uint64_t until_us;  /* 0: not looking */
	uint64_t slept_us;  /* since when */
};

/* The ring is empty. True: look again; false: sleep. */
bool patience_lasts(struct patience *patience, uint64_t now_us);
/* There is a request. True: it was found by looking. */
bool patience_pays(struct patience *patience);
/* The guest has notified us. */
void patience_woken(struct patience *patience, uint64_t now_us);

#endif
