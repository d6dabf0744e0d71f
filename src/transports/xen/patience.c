/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking at an empty ring: see patience.h. */
#include "transports/xen/patience.h"

#include "base/num.h"

#define LEAST_US 4 /* less than that is not worth it */

bool patience_lasts(struct patience *patience, uint64_t now_us)
{
	if (patience->window_us && !patience->until_us)
		patience->until_us = now_us + patience->window_us;
	if (now_us < patience->until_us)
		return true;
	patience->until_us = 0;
	patience->slept_us = now_us;
	return false;
}

bool patience_pays(struct patience *patience)
{
	bool looking = patience->until_us;

	patience->until_us = 0;
	return looking;
}

void patience_woken(struct patience *patience, uint64_t now_us)
{
	unsigned window = patience->window_us;

	if (!patience->slept_us)
		return; /* one sleep, one lesson */
	if (now_us - patience->slept_us <= patience->limit_us)
		window = (unsigned)min_u64(patience->limit_us, max_u64(2ull * window, LEAST_US));
	else
		window = window / 2 < LEAST_US ? 0 : window / 2;
	patience->window_us = window;
	patience->slept_us = 0;
}
