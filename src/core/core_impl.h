/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of this folder share, and nobody else sees.
 */
#ifndef CORE_IMPL_H
#define CORE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/count.h"
#include "base/list.h"
#include "base/log.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/spec.h"
#include "io/file.h"

#define TD_CHAIN_MAX 32
#define TD_REQ_SIZE_MAX 256            /* a driver's bytes in a request */
#define TD_SCRATCH_MAX (TD_CHAIN_MAX * TD_REQ_SIZE_MAX)
#define TD_IOV_MAX 1024                /* pieces of memory of one request */
#define TD_IOV_FEW 4
#define TD_QUEUES_MAX 32
#define TD_SKIP_IMAGES 4               /* a chain so long is worth it: request.c */
#define TD_SKIP_BLOCK (64 * KiB)
#define TD_SKIPS 16384                 /* 1 GiB of the disk, and 256 KiB if that is read */

struct td_queue {
	_Alignas(64) struct td_disk *disk;
	unsigned index;                /* 0: the home queue */
	struct td_loop *loop;
	struct td_fileio *io;
	pthread_t thread;              /* not of the home queue */
	bool runs;
	uint64_t file_io;              /* operations on files under way */
	struct {
		count_t requests, bytes, errors;
	} counts[TD_OPS];
	count_t in_flight;
	/* while the disk gets another size: resize.c */
	bool held, told;               /* parks what comes; has said that it is drained */
	struct list parked;            /* slots */
	struct td_post hold, go;
};

/* An image on one queue. Those of a driver that lives at home have one lane. */
struct lane {
	struct td_queue *queue;
	struct td_pool *kids;
	struct list waiting;           /* slots, by td_wait() */
	struct td_defer kick;
};

/* What the core keeps about an image. img->core points here. */
struct image_core {
	struct td_image img;
	struct td_disk *disk;
	struct lane *lanes;            /* of each queue */
	struct td_files files;
	char *target;
	unsigned depth;                /* 0: the top */
	struct td_ratelimit said;
	bool has_identity;
	dev_t dev;
	ino_t ino;
	_Alignas(16) char state[];
};

struct td_disk {
	char *name, *spec;
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk_options options;
	struct td_queue *queues;       /* the first is the home queue */
	unsigned queue_count;
	struct image_core *top;
	unsigned images;
	struct skip *skips;            /* TD_SKIPS, by block; of a long chain */
	size_t scratch;                /* of a request, all images' together */
	_Atomic uint64_t traced, own;  /* numbers given to requests */
	struct td_key *keys;           /* that the specification names; while it is opened */
	bool encrypted;                /* one of its images is */
	struct td_resizing *resizing;  /* NULL: it is not */
	char *zeroes;                  /* what WRITE_ZEROES writes where it must */
	struct iovec zero_iov[32];
};

/* All images between the top and this one are holes in that block of the disk, and reach
 * beyond it. That stays so: nobody writes them. */
struct skip {
	uint64_t block;                /* plus 1; 0: nothing is known */
	struct td_image *to;           /* NULL: all of them are */
};

/* A request as the core sees it. */
struct td_slot {
	struct td_req req;
	struct td_pool *pool;          /* NULL: td_req_new()'s */
	struct list link;              /* free, or waiting */
	unsigned shares;
	td_step *again;                /* td_wait() */
	td_step *io_step;              /* td_io_step() */
	struct td_fileop op;
	struct td_queue *from;         /* td_pass() sent it home from there */
	struct td_post post;           /* on its way from queue to queue */
	/* what td_pass() changed, to be put back at the end */
	bool passed;
	unsigned depth;                /* images it was passed down */
	uint64_t offset, len;
	const struct iovec *iov;
	unsigned iov_count;
	struct td_image *image;
	/* a transport's request */
	struct td_req asked;           /* as it came */
	bool flush_after;
	uint64_t zero_left;
	uint64_t id, kids, since_us;   /* tracing */
	struct iovec one, few[TD_IOV_FEW];
	/* TD_IOV_MAX each, untouched until needed: for what few cannot hold, and
	 * for what td_pass() cuts off, since a slice is to be found whole again */
	struct iovec *many, *passing;
	_Alignas(16) char scratch[];   /* then the transport's user_size bytes */
};

/* Requests of a transport, or the children of an image. */
struct td_pool {
	struct td_queue *queue;  /* where its requests begin and end */
	td_done *done;           /* NULL: children */
	struct image_core *core; /* of children */
	struct list free;
	unsigned count, fresh, busy; /* slots from fresh on have not been used yet */
	size_t stride;
	char *slots;
	struct iovec *iovs;      /* of each slot: many, passing */
};

static inline struct td_slot *slot_of(const struct td_req *req)
{
	return container_of(req, struct td_slot, req);
}

static inline struct image_core *core_of(const struct td_image *img)
{
	return container_of(img, struct image_core, img);
}

/* Is img's driver to be called on another queue than the one req is on? */
static inline bool lives_elsewhere(const struct td_image *img, const struct td_req *req)
{
	return req->queue != img->queue && !(img->can & TD_CAN_ANY_QUEUE);
}

/* queue.c. The threads stop before images are closed, which need the queues. */
int queues_open(struct td_disk *disk, unsigned count, struct td_why *why);
void queues_stop(struct td_disk *disk);
void queues_close(struct td_disk *disk);

/* pool.c */
int pool_new(struct td_queue *queue, unsigned count, size_t user_size, struct td_pool **out);
bool pool_has(const struct td_pool *pool);       /* one that is free */
struct td_slot *pool_take(struct td_pool *pool); /* NULL: none is */
void pool_put(struct td_slot *slot);

/* memory.c: describes [pos, pos + len) of iov's memory in out; returns the number
 * of pieces, 0 if they are more than max. out may be iov where pos is 0. */
unsigned iov_cut(struct iovec *out, unsigned max, const struct iovec *iov, uint64_t pos,
		 uint64_t len);

/* request.c */
void image_submit(struct td_image *img, struct td_req *req);
/* On a queue where the image does not live. False: the request has to be sent home. */
bool image_submit_away(struct td_image *img, struct td_req *req);

/* submit.c: a request without a parent has given back its last share. */
void root_ended(struct td_slot *slot);
/* td_submit(), even while the queue parks requests. */
void root_submit(struct td_req *req);

/* resize.c: a request of the queue has ended. */
void queue_ended_one(struct td_queue *queue);

/* Children of an image, on the queues that its driver serves: once it is open. */
int lanes_new(struct image_core *core, unsigned kids);
void lanes_free(struct image_core *core);

/* Opens the image of a specification; below: what it lies on top of, or NULL. */
int image_open(struct td_disk *disk, struct image_core *above, const char *type,
	       const char *target, const struct td_spec *options, bool read_only,
	       bool shared, struct image_core **out, struct td_why *why);
void image_close(struct image_core *core);

#endif
