/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk: a chain of images, the queues that serve it, and what it counts.
 * Opened from a specification "type:target[,key=value...]".
 */
#ifndef CORE_DISK_H
#define CORE_DISK_H

#include <blktap/driver.h>

#include "core/registry.h"
#include "io/file.h"
#include "io/loop.h"

struct td_disk;

struct td_disk_options {
	const char *name;      /* in logs; NULL: the target */
	bool read_only;
	const char *engine;    /* "io_uring", "libaio"; NULL: the best */
	unsigned depth;        /* children per image; 0: 128 */
	bool trace;            /* a request's life on stderr */
	struct td_file_hook *hook;
	uint32_t force_align;  /* tests */
	/* Images below the top one are not opened: for who changes what an image says
	 * of them, and asks for no content. The driver must have set_backing. */
	bool alone;
	bool repair;           /* the top image is to be repaired, and not used */
	/* No locks are taken: somebody else may write it, so that only what does not
	 * change, above all its size, is to be relied on. With read_only. */
	bool peek;
	/* Another disk of this process: its top image may be one of this disk's too,
	 * below the top, and is not locked again. Neither is then to read what the
	 * other writes. */
	const struct td_disk *beside;
	/* Opened for what needs no key: encrypted images have no data then. */
	bool keyless;
	/* Keys beside those that the specification names; they stay the caller's. And
	 * how to ask for one that is needed: 0, or -ENOKEY; NULL: nobody can be asked. */
	const struct td_key *keys;
	int (*ask_key)(void *arg, const char *image, const struct td_key **out);
	/* Adds the key of "key-file=WHERE" or "key-fd=WHERE" to the list; NULL: it is just
	 * read, which a pipe can be once only. */
	int (*read_key)(void *arg, const char *how, const char *where, struct td_key **list,
			struct td_why *why);
	void *ask_arg;
};

struct td_op_count {
	uint64_t requests, bytes, errors;
};

struct td_disk_stats {
	struct td_op_count op[TD_OPS];
	uint64_t in_flight;
};

/* The keys of a specification that are the core's, for every driver. */
extern const struct td_option td_disk_keys[];

/* The loop, registry and strings must outlive the disk. The loop's thread is the home
 * queue's, and the one that calls everything here. */
int td_disk_open(struct td_loop *loop, struct td_registry *registry,
		 const char *spec, const struct td_disk_options *options,
		 struct td_disk **out, struct td_why *why);
/*
 * No request in flight. Flushes, and turns the loop until nothing is under way that
 * the drivers do on their own behalf: after requests, and before a driver's check(),
 * resize(), snapshot() or set_backing(), which block. Returns the flush's error.
 */
int td_disk_settle(struct td_disk *disk);
/* Settles it first, and returns the error of that; the disk is closed all the same. */
int td_disk_close(struct td_disk *disk);

/*
 * Makes the disk larger, while it is used. Requests that are under way end first, and
 * those that come meanwhile wait. done(arg, 0, NULL), or with an error and the reason,
 * comes from the home loop; what can be refused at once is.
 */
typedef void td_resized(void *arg, int err, const char *why);
int td_disk_resize(struct td_disk *disk, uint64_t size, td_resized *done, void *arg,
		   struct td_why *why);

const char *td_disk_name(const struct td_disk *disk);
const char *td_disk_spec(const struct td_disk *disk);
uint64_t td_disk_size(const struct td_disk *disk);       /* bytes */
uint32_t td_disk_block_size(const struct td_disk *disk); /* logical sector */
uint32_t td_disk_cluster(const struct td_disk *disk);    /* discard granularity */
/* What a transport may offer: the top image's, with what the core adds (FUA,
 * WRITE_ZEROES) and without what read-only takes away. enum td_can. */
uint32_t td_disk_can(const struct td_disk *disk);
bool td_disk_read_only(const struct td_disk *disk);
void td_disk_stats(const struct td_disk *disk, struct td_disk_stats *out);
struct td_queue *td_disk_queue(const struct td_disk *disk); /* its home */
unsigned td_disk_queues(const struct td_disk *disk);        /* with its home; 1 to 32 */
struct td_queue *td_disk_queue_at(const struct td_disk *disk, unsigned index); /* 0: home */
struct td_image *td_disk_top(const struct td_disk *disk);
const char *td_disk_engine(const struct td_disk *disk);

#endif
