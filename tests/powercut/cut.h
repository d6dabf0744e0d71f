/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cut: the instant at which the power fails, or the process is killed, and
 * which of the deeds that were free to have happened did.
 *
 * What must have happened: after a power cut, the deeds that were safe (log.h);
 * after a kill, those that had ended. All others that were issued are free: each
 * may have happened, not, or in part (any of its sectors; after a kill, pages).
 *
 * Sizes: a file system changes the size of a file in order, so once a free
 * change of it is lost the later free ones are too, and what was written past
 * the end is lost with them. A loose cut takes each change by itself: a write
 * beyond an end that was not moved moves it.
 */
#ifndef POWERCUT_CUT_H
#define POWERCUT_CUT_H

#include "log.h"

#define FREE_MAX 512

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
	bool loose;              /* sizes */
	unsigned free[FREE_MAX]; /* deeds that are free, by number, rising */
	uint8_t fate[FREE_MAX];  /* enum fate of each */
	unsigned frees;
	uint64_t seed;           /* for where deeds are torn */
};

/* Finds what is free at that instant; all of it done. False: too much is. */
bool cut_begin(const struct log *log, uint64_t at, bool kill, struct cut *cut);
void cut_set_all(struct cut *cut, enum fate fate);
/* One line a deed that was free, and the requests in flight. */
void cut_print(const struct log *log, const struct cut *cut);

/* The files after one cut after another, at instants that rise. */
struct rebuild {
	const struct log *log;
	unsigned first;                 /* deeds before it are safe, and in base */
	struct store base[LOG_FILES];
	struct store now[LOG_FILES];    /* after the last cut */
};

void rebuild_begin(struct rebuild *rebuild, const struct log *log);
void rebuild_cut(struct rebuild *rebuild, const struct cut *cut);
uint64_t rebuild_hash(const struct rebuild *rebuild); /* of now[] */
void rebuild_end(struct rebuild *rebuild);

/* What the disk may hold after a cut at that instant. Its size is that of the log, or
 * the old one until it has been resized: cut_sizes(). */
void cut_model(const struct log *log, uint64_t at, bool kill, struct model *model);
void cut_sizes(const struct log *log, uint64_t at, uint64_t size[2]);
/* Instants of equal numbers allow the same content. */
uint64_t cut_model_hash(const struct log *log, uint64_t at, bool kill);

/*
 * Calls visit() for cuts of a finished log, instants rising, until it says
 * false: every prefix (all that was issued has happened), and at some instants,
 * above all those just after a promise, all subsets of what is free where these
 * are few, and where not the telling ones (none, one missing, one only) and
 * random ones; torn ones; loose ones. About budget cuts in all.
 */
typedef bool cut_visit(void *arg, const struct cut *cut);
void cuts_visit(const struct log *log, bool kills, unsigned budget, struct rnd *rnd,
		cut_visit *visit, void *arg);

#endif
