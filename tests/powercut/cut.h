/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cut: the instant at which the power fails, or the process is killed, and
 * which of the operations that were free to have happened did.
 *
 * What must have happened: after a power cut, what ended before a sync began
 * that has ended; a write with FUA that has ended. After a kill, what has ended.
 * All other operations issued before are free: each may have happened, wholly,
 * in part (a write: any of its sectors), or not. Changes of the file's size
 * happen in their order, so of those that are free the first few have happened.
 * A write past the size that the file has is lost.
 */
#ifndef POWERCUT_CUT_H
#define POWERCUT_CUT_H

#include "record.h"

#define FREE_MAX 64

enum fate {
	LOST,
	DONE,
	TORN_HEAD,  /* the first sectors only */
	TORN_TAIL,  /* the last ones */
	TORN_MIX,   /* any of them */
};

struct cut {
	uint64_t at;             /* clock: what was issued by then */
	bool kill;               /* the process ends, the machine goes on */
	unsigned free[FREE_MAX]; /* deeds that are free, by number */
	uint8_t fate[FREE_MAX];  /* enum fate of each */
	unsigned frees;
	uint64_t seed;           /* for where writes are torn */
};

/* Finds what is free at that instant; all of it lost. False: too much is. */
bool cut_begin(const struct record *record, uint64_t at, bool kill, struct cut *cut);
/* What the file holds: malloc'ed bytes. */
char *cut_file(const struct record *record, const struct cut *cut, uint64_t *size);
/* What the disk may hold. */
void cut_model(const struct record *record, const struct cut *cut, struct model *model);
/* Cuts with equal numbers leave the same file and allow the same content. */
uint64_t cut_hash(const struct record *record, const struct cut *cut);
/* One line a deed that was free. */
void cut_print(const struct record *record, const struct cut *cut);

#endif
