/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of the explorer. Again and again:
 *
 *   run      random requests on an image, file operations shuffled, written
 *            down (work.c, log.c)
 *   cut      at every instant, what was not safe done, lost or torn (choose.c,
 *            cut.c)
 *   judge    the files that are left: check, content, going on (judge.c)
 *
 * A format is a row of the table in formats.c. powercut-tools is the same program, but
 * its runs are commands of tap-img: tools.c in place of formats.c, run.c and work.c.
 */
#ifndef POWERCUT_EXPLORE_H
#define POWERCUT_EXPLORE_H

#include "cut.h"

#define DISK_SIZE (2 * MiB + 384 * KiB)

struct command;

struct format {
	const char *name;
	const char *type;      /* the driver */
	const char *options;   /* ",key=value..." for every open; NULL: none */
	/* How an image is made: by a template (suite/target.c); by a command, in
	 * which %f is the image, %b a raw backing file of %s bytes; by qemu-img,
	 * compressed (packed); or else by the driver's create(). */
	const char *template;
	const char *make;
	bool overlay;          /* over a raw file */
	bool packed;
	bool encrypted;        /* by create(), under a key of the suite's */
	uint32_t cluster;      /* for create(); 0: its default */
	const char *create;    /* options for it; NULL: none */
	uint64_t base_size;    /* of the raw file below; 0: the disk's */
	uint64_t size;         /* of the disk; 0: DISK_SIZE */
	uint32_t whole;        /* some discards and zeroes are of so many bytes, aligned: of
	                          what the format frees; 0: none */
	const char *limit;     /* one of base/rule.h that is less here; NULL: none */
	uint64_t limit_is;
	uint64_t grows_to;     /* bytes, before or after the requests; 0: does not */
	bool rebases;          /* onto the same content of another name, likewise */
	bool long_names;       /* ... twice, and some are longer than a sector */
	unsigned states;       /* that CI looks at, times 600; 0: 300 */
	bool kills;            /* are looked at too */
	void (*command)(struct command *command); /* of tap-img, see tools.c */
	bool snapshots;        /* are made and deleted before and after requests */
	/* An outside judge: qemu-img's name of the format, and whether its check
	 * knows it. NULL: none. */
	const char *qemu;
	bool qemu_checks;
};

extern const struct format formats[]; /* ends with a row without a name */

/* A rule (base/rule.h), and on which row and how breaking it is noticed. */
struct broken {
	const char *rule, *row;
	unsigned steps;        /* longest run; 0: as always */
};

extern const struct broken broken_rules[]; /* likewise */

/* ---- run.c; for commands of tap-img tools.c, in another program ---- */

/* What is written down, and judged. */
struct run {
	struct suite *suite;
	const struct format *format;
	unsigned steps;           /* requests, at most */
	const char *survivors_in; /* the folder */
	struct log *log;
	/* Made by the run: */
	struct target target;     /* what the cuts are judged by */
	struct target beside;     /* an image over it, that reads the same in every
	                             state; no spec: none */
	struct model holds;       /* what it reads as */
};

/* Makes the image, and uses it. */
void run_record(struct run *run, struct rnd *rnd);

/* ---- work.c ---- */

/* What a run is made of; drawn anew for each. */
struct work {
	unsigned steps;       /* requests */
	unsigned flying;      /* at a time, at most */
	unsigned flush_every; /* requests, at most */
	unsigned percent_discard, percent_zero, percent_flush;
	uint32_t whole;       /* as the format has it */
	uint32_t tag;         /* of the next write */
};

void work_draw(struct work *work, const struct run *run, unsigned max_steps, struct rnd *rnd);
void work_do(struct work *work, struct rig *rig, struct log *log, struct rnd *rnd);

/* ---- judge.c ---- */

struct judge {
	struct td_file_hook base; /* sees what opening and writing change */
	struct suite *suite;
	const struct format *format;
	const struct target *target, *beside;
	const struct model *holds;
	const struct log *log;
	struct mirror mirror[LOG_FILES];
	bool read_only;
	uint64_t size[2];       /* the disk has one of these */
	char survivors_in[300]; /* the folder */
	struct rnd rnd;
	/* states; dirty ones; adopted ones; also by qemu-img */
	unsigned judged, marked, adopted, outside;
	bool no_outside;
};

void judge_begin(struct judge *judge, const struct run *run, uint64_t seed);
/* The state that was rebuilt; fails if it is wrong. survivors: memory that a kill
 * left, or NULL. outside: ask qemu-img too. */
void judge_state(struct judge *judge, const struct rebuild *rebuild,
		 const struct survivors *survivors, const struct model *allowed, bool outside);
void judge_end(struct judge *judge);

#endif
