/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Survivor memory (src/io/survivor.c) at the instants of a run: the files in its
 * folder, which a kill leaves as they are and a power cut takes away. They change
 * on the thread of the loop only, so what is copied there is of one instant.
 */
#ifndef POWERCUT_SURVIVORS_H
#define POWERCUT_SURVIVORS_H

#include "store.h"

#define SURVIVORS_MAX 8

struct survivors {
	uint64_t at;        /* clock */
	unsigned count;
	struct {
		char name[64];
		struct store store;
	} file[SURVIVORS_MAX];
};

/* As they are now; before (may be NULL): what they were, to share pages with. */
void survivors_take(struct survivors *now, const struct survivors *before, const char *dir);
void survivors_free(struct survivors *survivors);
/* Makes the folder as it was; NULL: as it is after a power cut. */
void survivors_put(const struct survivors *survivors, const char *dir);

#endif
