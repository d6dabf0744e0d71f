/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an open file is, shared by its set-up (file_open.c), its blocking side
 * (file_sync.c), its asynchronous side (file.c) and the order of its writes
 * (file_order.c).
 */
#ifndef IO_FILE_IMPL_H
#define IO_FILE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "io/file.h"

struct td_file {
	char *path;
	int fd;
	_Atomic int tail_fd;  /* buffered twin, see file_sync.c; -1: not yet */
	unsigned flags;       /* enum td_file_flag */
	bool device;          /* block device */
	bool can_discard;
	bool in_memory;       /* on a tmpfs */
	uint32_t mem_align;   /* of memory, for a transfer without a copy */
	uint32_t align;       /* of offsets and lengths */
	uint32_t block;       /* the file system's: see file_sync.c */
	_Atomic uint64_t size;
	/* What SEEK_HOLE last found to be data, since to find the end of it may take
	 * long; and how often space was given back, which makes that untrue. */
	_Atomic uint64_t data_from, data_end;
	_Atomic unsigned punched;
	dev_t dev;            /* whose (dev, ino), or rdev for a device */
	ino_t ino;
	struct td_file_hook *hook;
	bool many;            /* loops use it: lock guards what follows */
	pthread_mutex_t lock;
	/* Asynchronous writes in progress and those that must wait for one that
	 * rewrites a block around what it was asked to write. */
	struct list writing, waiting;
	unsigned rmw_writing;
};

/* A file that grew by being written to, by the loop's thread or a worker. */
static inline void file_grown(struct td_file *file, uint64_t end)
{
	uint64_t size = file->size;

	while (end > size && !atomic_compare_exchange_weak(&file->size, &size, end))
		;
}

int file_hook_begin(struct td_file *file, enum td_file_event event, uint64_t offset,
		    uint64_t len, const struct iovec *iov, unsigned iov_count,
		    bool dsync, uint64_t *id);
void file_hook_end(struct td_file *file, uint64_t id, int err);

/* The blocking operations themselves, without the hook. */
int file_pread(struct td_file *file, char *buf, size_t len, uint64_t at);
int file_pwrite(struct td_file *file, const char *buf, size_t len, uint64_t at);
int file_fdatasync(struct td_file *file);
/* What of [*at, *at + *len) can be given back: *len may become 0. */
void file_discard_span(const struct td_file *file, uint64_t *at, uint64_t *len);
int file_discard(struct td_file *file, uint64_t at, uint64_t len);
int file_zero(struct td_file *file, uint64_t at, uint64_t len, bool may_unmap);
int file_extent(struct td_file *file, uint64_t at, uint64_t len,
		struct td_extent *out);

/* Writes that end past an unaligned end of file: O_DIRECT would lengthen it. */
bool file_needs_tail(const struct td_file *file, uint64_t at, uint64_t len);
int file_tail_write(struct td_file *file, const char *buf, size_t len, uint64_t at);

/* Called for each operation that writes before it starts. False: it has to wait. */
bool file_order_enter(struct td_fileop *op);
/* Called when it has ended: those that need not wait any more are put on ready, by link,
 * each to be started on its own loop's thread. */
void file_order_leave(struct td_fileop *op, struct list *ready);

#endif
