/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files under O_DIRECT. What the kernel wants aligned and the caller has not is
 * copied through a bounce buffer; writes of less than a block read, modify and
 * write it, one after the other where they overlap. Short transfers are
 * continued. fdatasync, fallocate and the like run on worker threads.
 *
 * Every transfer and every change of a file passes one hook, which tests use to
 * record what a power cut could have left, and to make the n-th of them fail.
 */
#ifndef IO_FILE_H
#define IO_FILE_H

#include <blktap/driver.h>

#include "base/list.h"
#include "io/engine.h"
#include "io/loop.h"

/* What is done to a file, as the hook sees it. */
enum td_file_event {
	TD_EV_READ,
	TD_EV_WRITE,
	TD_EV_SYNC,
	TD_EV_TRUNCATE,   /* offset: the new size */
	TD_EV_ALLOCATE,   /* [offset, offset + len) becomes part of the file */
	TD_EV_PUNCH,      /* reads as zeroes */
	TD_EV_ZERO,       /* reads as zeroes */
};

struct td_file_op_seen {
	enum td_file_event event;
	struct td_file *file;
	uint64_t offset, len;
	const struct iovec *iov; /* WRITE: the data, while begin() runs */
	unsigned iov_count;
	bool dsync;
};

struct td_fileop;

/*
 * begin() is called before an operation is issued: it returns 0 to let it
 * happen, or -errno to make it fail so without being done; *id is handed to
 * end(), called when the kernel has completed it. Called on the thread that
 * issues or reaps: worker threads too.
 */
struct td_file_hook {
	int  (*begin)(struct td_file_hook *hook, const struct td_file_op_seen *op,
		      uint64_t *id);
	void (*end)(struct td_file_hook *hook, uint64_t id, int err);
	/* May be NULL. Asked for every asynchronous operation, on its loop's
	 * thread, before it is begun and again (ended) before its done() is
	 * called: true keeps it back until td_fileop_release(). So a test lets
	 * operations overtake each other. */
	bool (*hold)(struct td_file_hook *hook, struct td_fileop *op, bool ended);
	/* May be NULL. Told what the kernel said of each transfer of a READ or
	 * WRITE, bytes or -errno; what it returns is believed instead. */
	int64_t (*transfer)(struct td_file_hook *hook, const struct td_fileop *op, int64_t res);
};

/* The policy under which a disk's images open their files. */
struct td_files {
	struct td_file_hook *hook; /* NULL: none */
	bool buffered;             /* no O_DIRECT: tools on odd file systems */
	bool nolock;               /* the caller holds the lock already */
	bool many;                 /* several loops use them */
	uint32_t force_align;      /* tests: pretend the device wants this */
};

/* One asynchronous operation on a file. */
struct td_fileop {
	enum td_op op;
	unsigned flags;            /* TD_FUA, TD_MAY_UNMAP */
	uint64_t offset, len;
	const struct iovec *iov;   /* stays until done */
	unsigned iov_count;
	struct td_extent extent;   /* EXTENTS: the answer */
	void (*done)(struct td_fileop *op, int err); /* never from within submit */
	/* private */
	struct td_file *file;
	struct td_fileio *io;
	struct td_rw rw;
	struct td_work work;
	struct td_post post;       /* to its own loop */
	struct list link;          /* in the one line it waits in */
	struct list range;         /* among the file's writes in progress */
	struct iovec vec;          /* of a bounced transfer */
	char *bounce;
	uint64_t pos;              /* done so far */
	uint64_t hook_id;
	bool rmw, reading, ended;
	int err;
	struct list hook_link;     /* the hook's, while it holds the operation */
	uint64_t hook_turn;        /* likewise */
};

/* The asynchronous side of a loop: its engine and its bounce buffers. */
struct td_fileio;
int td_fileio_new(struct td_loop *loop, const char *engine, unsigned depth,
		  struct td_fileio **out, struct td_why *why);
void td_fileio_free(struct td_fileio *io);
const char *td_fileio_engine(const struct td_fileio *io);

void td_fileop_submit(struct td_fileio *io, struct td_file *file,
		      struct td_fileop *op);
/* Lets an operation go on that the hook has held back: from its loop's thread, or
 * any where td_files.many is set. */
void td_fileop_release(struct td_fileop *op);

#endif
