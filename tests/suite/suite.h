/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image suite: behaviours that every disk driver must show, run against a
 * driver through the core as a transport would use it. A behaviour is a
 * function; it runs in a process of its own with a folder of its own, and says
 * the first thing that is wrong with fail(), which ends it.
 *
 *   suite    what is tested, and how: driver, engine, alignment, shuffling
 *   target   an image made for one behaviour, with what it should read as
 *   rig      the open disk: loop, pool, hook
 *   io       one request and its memory
 */
#ifndef SUITE_SUITE_H
#define SUITE_SUITE_H

#include <blktap/driver.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/registry.h"
#include "hook.h"
#include "io/loop.h"
#include "model.h"

#define DEADLINE_MS 100000 /* no request may take longer */
#define ASLEEP_MS 15000    /* nor may the loop sleep so long while one is due */

struct suite {
	struct td_registry *registry;
	const struct td_driver *driver;
	const char *spec;     /* a template, see target.c; NULL: driver->create */
	const char *server;   /* a template of what serves an image; NULL: nothing does */
	bool overlay;         /* created images get a backing image */
	uint32_t cluster;     /* of created images; 0: the driver's choice */
	const char *create;   /* options of created images: "key=value,..."; NULL: none */
	uint64_t base_size;   /* of the image below; 0: as the one over it */
	bool encrypted;       /* created images are; the key is the file .key in dir. LUKS,
	                         unless create says something else */
	bool packed;          /* images made by qemu-img, with compressed clusters */
	bool exact;           /* an image has exactly the size asked for */
	bool forgets;         /* content ends with close (RAM) */
	bool logged;          /* tables come to their places after the flush that has brought
	                         them to the log has ended */
	bool shuffle;
	unsigned queues;      /* that serve the disk; requests take turns */
	const char *engine;
	uint32_t align;       /* of the pretended device; 0: the real one's */
	uint64_t seed;
	unsigned rounds;      /* of random sequences */
	char dir[256];        /* the behaviour's own folder */
	unsigned made;        /* files in it, by us */
};

struct behaviour {
	const char *name; /* what holds when it passes */
	void (*run)(struct suite *suite);
	uint32_t needs;   /* enum td_can */
};

/* Ends the behaviour: failed, with the reason; or skipped. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void skip(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define require(cond, ...) \
	do { \
		if (!(cond)) \
			fail(__VA_ARGS__); \
	} while (0)

/* ---- target.c ---- */

struct target {
	char spec[1024];
	char path[512];   /* the image's own file; empty: none */
	char socket[300]; /* of its server */
	uint32_t tag;     /* what a fresh image reads as */
};

/* A fresh image of size bytes, more or less if it is not suite->exact. */
void target_make(struct suite *suite, uint64_t size, struct target *target);
/* What created images get, key included; more: what is then said behind their name to open
 * them. */
void target_options(struct suite *suite, struct td_create *make, char *more, size_t room);
void target_options_free(struct suite *suite, struct td_create *make);
/* A checksum over the names, sizes and content of all files in the folder. */
uint64_t folder_checksum(const char *dir);

/* ---- rig.c ---- */

#define RIG_DEPTH 64
#define RIG_QUEUES 8

struct rig {
	struct suite *suite;
	struct td_loop *loop;
	struct td_disk *disk;
	struct td_pool *pool[RIG_QUEUES];
	unsigned busy[RIG_QUEUES]; /* requests on queues other than home */
	uint64_t started;
	struct hook hook;
	struct td_watch ended; /* an eventfd: a request has ended, do not wait */
	struct td_disk_options options;
	uint64_t size;
	uint32_t block;       /* the disk's block size */
	uint32_t can;
	unsigned in_flight;
	struct list resting;  /* ended requests, not yet back in the pool: one
	                         that ends twice is caught */
	struct model model;
};

struct io {
	enum td_op op;
	unsigned flags;
	uint64_t offset, len;
	uint32_t tag;           /* a WRITE's content */
	struct iovec *iov;      /* built by io_memory() or the behaviour */
	unsigned iov_count;
	int err;
	struct td_extent extent;
	bool ended;
	/* private */
	struct rig *rig;
	unsigned queue;
	struct td_post post;    /* to that queue, and back */
	struct td_req *req;     /* on the home queue */
	char *memory;
	size_t memory_len;
	uint64_t began_ms;
	struct list link;
};

/* Opens target; a failure to open ends the behaviour. */
void rig_open(struct rig *rig, struct suite *suite, const struct target *target);
void rig_open_read_only(struct rig *rig, struct suite *suite, const struct target *target);
/* For hooks that make things fail: prepare, set rig->hook, then try. On failure
 * nothing is left but rig_end(). */
void rig_prepare(struct rig *rig, struct suite *suite);
int rig_try_open(struct rig *rig, const struct target *target, struct td_why *why);
/* Closes the disk; every request must have come back. Keeps the model. */
int rig_close(struct rig *rig);
/* Closes and opens it again; the model stays. */
void rig_reopen(struct rig *rig, const struct target *target);
/* Frees what is left; the model, too. */
void rig_end(struct rig *rig);

/* Starts a request. io->memory is made and filled when io->iov is NULL: in
 * memory whose alignment changes from one to the next. */
void io_start(struct rig *rig, struct io *io);
void io_start_raw(struct rig *rig, struct io *io); /* with the memory it has */
/* Waits for it, checks what can be checked of any request (its memory is intact
 * around the edges, a write's data unchanged) and returns its error. The
 * memory of a READ stays until io_free(). */
int io_wait(struct io *io);
void io_free(struct io *io);
/* Memory for io in pieces of the given lengths (cycled), each misaligned by
 * skew bytes. */
void io_memory(struct io *io, const size_t *piece, unsigned pieces, size_t skew);
/* The bytes of a READ in one run; free() them. */
char *io_bytes(const struct io *io);

/* Whole requests; an error ends the behaviour. */
void rig_write(struct rig *rig, uint64_t offset, uint64_t len, uint32_t tag);
void rig_do(struct rig *rig, enum td_op op, unsigned flags, uint64_t offset, uint64_t len);
int rig_ask(struct rig *rig, enum td_op op, unsigned flags, uint64_t offset, uint64_t len);
/* Reads and compares with the model. */
void rig_expect(struct rig *rig, uint64_t offset, uint64_t len);
void rig_expect_all(struct rig *rig);
/* The driver's own check, where it has one, finds nothing. */
void rig_check(struct rig *rig);
/* One turn of the loop and of the hook. */
void rig_turn(struct rig *rig);
/* Turns for so long, though nothing may be due. */
void rig_turn_for(struct rig *rig, unsigned ms);

/* ---- the behaviours ---- */

extern const struct behaviour basic_behaviours[];
extern const struct behaviour op_behaviours[];
extern const struct behaviour random_behaviours[];
extern const struct behaviour fault_behaviours[];
extern const struct behaviour queue_behaviours[];

#endif
