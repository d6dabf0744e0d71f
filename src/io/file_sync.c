/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocking operations on a file: for setting up, for tools and for the worker
 * threads of the asynchronous side. Any alignment: what does not fit goes
 * through a buffer that does, and a write of part of a block reads the rest.
 *
 * A write that ends behind the last whole block of a file would, under
 * O_DIRECT, lengthen the file. Such a tail is written through a second,
 * buffered descriptor and synced out at once.
 *
 * Part of a file system's block is zeroed by writing, never by fallocate(): that
 * would do it in the page cache, and what direct writes do meanwhile to the rest of
 * the block could be lost when the page is written out.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/guard.h"
#include "io/file_impl.h"

#define CHUNK (1 * MiB)

/* ---- the hook ---------------------------------------------------------- */

int file_hook_begin(struct td_file *file, enum td_file_event event, uint64_t offset,
		    uint64_t len, const struct iovec *iov, unsigned iov_count,
		    bool dsync, uint64_t *id)
{
	struct td_file_op_seen seen = {
		.event = event, .file = file, .offset = offset, .len = len,
		.iov = iov, .iov_count = iov_count, .dsync = dsync,
	};

	*id = 0;
	return file->hook ? file->hook->begin(file->hook, &seen, id) : 0;
}

void file_hook_end(struct td_file *file, uint64_t id, int err)
{
	if (file->hook)
		file->hook->end(file->hook, id, err);
}

/* ---- transfers --------------------------------------------------------- */

/* Aligned reads; what lies past the end of the file is zeroed. *end: bytes
 * that the file has. */
static int read_aligned(struct td_file *file, char *buf, size_t len, uint64_t at,
			size_t *end)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(file->fd, buf + done, len - done, at + done);

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return -errno;
		done += n;
		/* not a whole block: the end, and no aligned way to go on */
		if (!n || !is_aligned(done, file->align))
			break;
	}
	memset(buf + done, 0, len - done);
	*end = done;
	return 0;
}

static int write_aligned(struct td_file *file, const char *buf, size_t len, uint64_t at)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(file->fd, buf + done, len - done, at + done);

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += round_down(n, file->align);
		if ((size_t)n < file->align)
			return -EIO;
	}
	file_grown(file, at + len);
	return 0;
}

/* The whole blocks around [at, at + len), at most CHUNK of them. */
static void blocks_around(const struct td_file *file, uint64_t at, size_t len,
			  uint64_t *from, size_t *size)
{
	*from = round_down(at, file->align);
	*size = min_u64(round_up(at + len, file->align) - *from,
			max_u64(CHUNK, file->align));
}

int file_pread(struct td_file *file, char *buf, size_t len, uint64_t at)
{
	AUTO_FREE void *bounce = NULL;
	uint64_t from;
	size_t size, n, end;
	int err;

	blocks_around(file, at, len, &from, &size);
	if (posix_memalign(&bounce, max_u64(file->mem_align, 4096), size))
		return -ENOMEM;
	for (; len; buf += n, at += n, len -= n) {
		blocks_around(file, at, len, &from, &size);
		err = read_aligned(file, bounce, size, from, &end);
		if (err)
			return err;
		n = min_u64(len, from + size - at);
		if (from + end < at + n && !(file->flags & TD_FILE_ZERO_TAIL))
			return -EIO;
		memcpy(buf, (char *)bounce + (at - from), n);
	}
	return 0;
}

bool file_needs_tail(const struct td_file *file, uint64_t at, uint64_t len)
{
	return !file->device && !is_aligned(at + len, file->align) &&
	       round_up(at + len, file->align) > file->size;
}

/* Two workers may come here at once: the first one's descriptor stays. */
static int tail_open(struct td_file *file)
{
	char path[64];
	int none = -1, fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!atomic_compare_exchange_strong(&file->tail_fd, &none, fd))
		close(fd);
	return 0;
}

int file_tail_write(struct td_file *file, const char *buf, size_t len, uint64_t at)
{
	int err = file->tail_fd < 0 ? tail_open(file) : 0;
	int fd = file->tail_fd;

	if (err)
		return err;
	while (len) {
		ssize_t n = pwrite(fd, buf, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		buf += n;
		at += n;
		len -= n;
	}
	file_grown(file, at);
	return fdatasync(fd) < 0 ? -errno : 0;
}

/* What of [at, at + len) the loop below can write in one go. */
static int write_blocks(struct td_file *file, char *bounce, const char *buf, size_t n,
			uint64_t at, uint64_t from, size_t size)
{
	size_t end;
	int err;

	if (file_needs_tail(file, at, n))
		return file_tail_write(file, buf, n, at);
	if (at != from || n != size) {
		err = read_aligned(file, bounce, size, from, &end);
		if (err)
			return err;
	}
	memcpy(bounce + (at - from), buf, n);
	return write_aligned(file, bounce, size, from);
}

int file_pwrite(struct td_file *file, const char *buf, size_t len, uint64_t at)
{
	AUTO_FREE void *bounce = NULL;
	uint64_t from;
	size_t size, n;
	int err;

	blocks_around(file, at, len, &from, &size);
	if (posix_memalign(&bounce, max_u64(file->mem_align, 4096), size))
		return -ENOMEM;
	for (; len; buf += n, at += n, len -= n) {
		blocks_around(file, at, len, &from, &size);
		n = min_u64(len, from + size - at);
		err = write_blocks(file, bounce, buf, n, at, from, size);
		if (err)
			return err;
	}
	return 0;
}

int td_file_read(struct td_file *file, void *buf, size_t len, uint64_t at)
{
	uint64_t id;
	int err = file_hook_begin(file, TD_EV_READ, at, len, NULL, 0, false, &id);

	if (err)
		return err;
	err = file_pread(file, buf, len, at);
	file_hook_end(file, id, err);
	return err;
}

int td_file_write(struct td_file *file, const void *buf, size_t len, uint64_t at)
{
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = len };
	uint64_t id;
	int err = file_hook_begin(file, TD_EV_WRITE, at, len, &iov, 1, false, &id);

	if (err)
		return err;
	err = file_pwrite(file, buf, len, at);
	file_hook_end(file, id, err);
	return err;
}

/* ---- everything else --------------------------------------------------- */

int file_fdatasync(struct td_file *file)
{
	return fdatasync(file->fd) < 0 ? -errno : 0;
}

int td_file_sync(struct td_file *file)
{
	uint64_t id;
	int err = file_hook_begin(file, TD_EV_SYNC, 0, 0, NULL, 0, false, &id);

	if (err)
		return err;
	err = file_fdatasync(file);
	file_hook_end(file, id, err);
	return err;
}

static void file_punched(struct td_file *file)
{
	file->punched++;
	file->data_end = 0;
}

/* A length within a block has had the rest of it zeroed, in the page cache. */
static int write_out_block(struct td_file *file, uint64_t size)
{
	uint64_t from = round_down(size, file->block);

	if (file->block == file->align || from == size)
		return 0;
	if (sync_file_range(file->fd, from, file->block,
			    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			    SYNC_FILE_RANGE_WAIT_AFTER) < 0 && errno != ENOSYS)
		return -errno;
	posix_fadvise(file->fd, from, file->block, POSIX_FADV_DONTNEED);
	return 0;
}

int td_file_truncate(struct td_file *file, uint64_t size)
{
	uint64_t id, had = file->size;
	int err = file_hook_begin(file, TD_EV_TRUNCATE, size, 0, NULL, 0, false, &id);

	if (err)
		return err;
	err = ftruncate(file->fd, size) < 0 ? -errno : 0;
	file_punched(file);
	if (!err)
		file->size = size;
	if (!err)
		err = write_out_block(file, min_u64(had, size));
	file_hook_end(file, id, err);
	return err;
}

/* A reservation that fails half way may have lengthened the file. */
static int file_allocate(struct td_file *file, uint64_t at, uint64_t len)
{
	int err;

	do {
		err = fallocate(file->fd, 0, at, len) < 0 ? -errno : 0;
	} while (err == -EINTR);
	if (err == -EOPNOTSUPP)
		err = ftruncate(file->fd, at + len) < 0 ? -errno : 0;
	else if (err && ftruncate(file->fd, file->size) < 0)
		return -errno;
	if (!err)
		file_grown(file, at + len);
	return err;
}

int td_file_allocate(struct td_file *file, uint64_t at, uint64_t len)
{
	uint64_t id;
	int err = file_hook_begin(file, TD_EV_ALLOCATE, at, len, NULL, 0, false, &id);

	if (err)
		return err;
	err = file_allocate(file, at, len);
	file_hook_end(file, id, err);
	return err;
}

void file_discard_span(const struct td_file *file, uint64_t *at, uint64_t *len)
{
	uint64_t from = round_up(*at, file->block), end = round_down(*at + *len, file->block);

	*at = from;
	*len = end > from ? end - from : 0;
}

/* Advisory: whole blocks, and no error where it cannot be done. */
int file_discard(struct td_file *file, uint64_t at, uint64_t len)
{
	int err;

	file_discard_span(file, &at, &len);
	if (!len)
		return 0;
	if (file->device)
		err = ioctl(file->fd, BLKDISCARD, (uint64_t[]){ at, len });
	else
		err = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
	file_punched(file);
	if (err < 0 && errno != EOPNOTSUPP && errno != ENOTTY && errno != EINVAL)
		return -errno;
	return 0;
}

int td_file_punch(struct td_file *file, uint64_t at, uint64_t len)
{
	uint64_t id;
	int err;

	file_discard_span(file, &at, &len);
	err = file_hook_begin(file, TD_EV_PUNCH, at, len, NULL, 0, false, &id);
	if (err)
		return err;
	err = file_discard(file, at, len);
	file_hook_end(file, id, err);
	return err;
}

static int write_zeroes(struct td_file *file, uint64_t at, uint64_t len)
{
	AUTO_FREE char *zeroes = calloc(1, min_u64(len, CHUNK));
	int err;

	if (!zeroes)
		return -ENOMEM;
	while (len) {
		/* the first piece ends aligned, so that the others fit */
		size_t n = min_u64(len, CHUNK - (at & (CHUNK - 1)));

		err = file_pwrite(file, zeroes, n, at);
		if (err)
			return err;
		at += n;
		len -= n;
	}
	return 0;
}

/* Whole blocks. -EOPNOTSUPP: they have to be written. */
static int zero_blocks(struct td_file *file, uint64_t at, uint64_t len, bool may_unmap)
{
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

	if (may_unmap && !fallocate(file->fd, punch, at, len))
		return 0;
	if (!fallocate(file->fd, zero, at, len))
		return 0;
	return errno == EINVAL || errno == ENOTTY ? -EOPNOTSUPP : -errno;
}

/* Part of a block; what lies past the end of the file is zero, as a hole is. */
static int zero_part(struct td_file *file, uint64_t at, uint64_t len)
{
	uint64_t size = file->size;
	off_t data;

	if (!len || at >= size)
		return 0;
	len = min_u64(len, size - at);
	data = file->device ? (off_t)at : lseek(file->fd, at, SEEK_DATA);
	if (data < 0 ? errno == ENXIO : (uint64_t)data >= at + len)
		return 0;
	return write_zeroes(file, at, len);
}

static int zero_range(struct td_file *file, uint64_t at, uint64_t len, bool may_unmap)
{
	uint64_t from = at, whole = len, end;
	int err;

	file_discard_span(file, &from, &whole);
	if (!whole)
		return zero_part(file, at, len);
	err = zero_blocks(file, from, whole, may_unmap);
	if (err == -EOPNOTSUPP)
		err = write_zeroes(file, from, whole);
	end = from + whole;
	if (!err)
		err = zero_part(file, at, from - at);
	return err ? err : zero_part(file, end, at + len - end);
}

int file_zero(struct td_file *file, uint64_t at, uint64_t len, bool may_unmap)
{
	int err = zero_range(file, at, len, may_unmap);

	file_punched(file);
	return err;
}

int td_file_zero(struct td_file *file, uint64_t at, uint64_t len)
{
	uint64_t id;
	int err = file_hook_begin(file, TD_EV_ZERO, at, len, NULL, 0, false, &id);

	if (err)
		return err;
	err = file_zero(file, at, len, false);
	file_hook_end(file, id, err);
	return err;
}

/* Where the data that at lies in end, 0 if that cannot be told. Kept only if no hole
 * was made meanwhile. */
static uint64_t find_data_end(struct td_file *file, uint64_t at)
{
	unsigned punched = file->punched;
	off_t hole;

	if (at >= file->data_from && at < file->data_end)
		return file->data_end;
	hole = lseek(file->fd, at, SEEK_HOLE);
	if (hole <= (off_t)at)
		return 0;
	file->data_from = at;
	file->data_end = hole;
	if (punched != file->punched)
		file->data_end = 0;
	return hole;
}

/* SEEK_DATA and SEEK_HOLE tell what is at this moment: who writes meanwhile asked
 * for either answer. */
int file_extent(struct td_file *file, uint64_t at, uint64_t len, struct td_extent *out)
{
	uint64_t end;
	off_t data;

	*out = (struct td_extent){ .len = len };
	if (file->device)
		return 0;
	data = lseek(file->fd, at, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return 0; /* cannot tell: data */
	if (data < 0 || (uint64_t)data >= at + len) {
		out->flags = TD_EXTENT_HOLE | TD_EXTENT_ZERO;
	} else if ((uint64_t)data > at) {
		out->flags = TD_EXTENT_HOLE | TD_EXTENT_ZERO;
		out->len = data - at;
	} else {
		end = find_data_end(file, at);
		if (end && end < at + len)
			out->len = end - at;
	}
	return 0;
}
