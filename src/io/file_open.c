/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a file: what it is, O_DIRECT, the alignment that asks for, and locks.
 *
 * Locks are QEMU's, so that its tools and ours keep out of each other's images:
 * open-file-description locks on single bytes, one row of bytes for what a
 * holder does with the file and one for what it does not let others do (QEMU,
 * block/file-posix.c). All locks are shared ones; a conflict is found by asking
 * whether somebody holds the opposite byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/guard.h"
#include "io/file_impl.h"
#include "io/survivor.h"

#define LOCK_DOES 100    /* + bit: the holder does this */
#define LOCK_FORBIDS 200 /* + bit: the holder lets nobody else do this */
enum lock_bit { BIT_READ = 0, BIT_WRITE = 1, BIT_RESIZE = 3, BIT_COUNT = 5 };

#define LOCK_TRIES 10
#define LOCK_TRY_US 20000

#define DEFAULT_ALIGN 4096
#define LEAST_ALIGN 512
#define BLOCK_MAX (64 * KiB)

/* ---- locks ------------------------------------------------------------- */

static int lock_byte(int fd, off_t byte)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET,
			      .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

static bool lock_is_held(int fd, off_t byte)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET,
			      .l_start = byte, .l_len = 1 };

	return !fcntl(fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK;
}

static void file_unlock(int fd)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	fcntl(fd, F_OFD_SETLK, &all);
}

/* Takes all bytes first and looks for conflicts then, so that of two who come
 * at once at least one sees the other. */
static int try_lock(int fd, unsigned flags)
{
	unsigned does = 1 << BIT_READ, forbids = 1 << BIT_RESIZE;
	int err = 0;

	if (flags & TD_FILE_WRITE)
		does |= 1 << BIT_WRITE | 1 << BIT_RESIZE;
	if (!(flags & TD_FILE_SHARED))
		forbids |= 1 << BIT_WRITE;
	else
		does &= ~(1u << BIT_RESIZE);
	for (int bit = 0; bit < BIT_COUNT && !err; bit++) {
		if (does & 1 << bit)
			err = lock_byte(fd, LOCK_DOES + bit);
		if (!err && forbids & 1 << bit)
			err = lock_byte(fd, LOCK_FORBIDS + bit);
	}
	if (err == -ENOLCK || err == -EOPNOTSUPP || err == -EINVAL)
		return 0; /* a file system without locks */
	for (int bit = 0; bit < BIT_COUNT && !err; bit++) {
		if ((does & 1 << bit && lock_is_held(fd, LOCK_FORBIDS + bit)) ||
		    (forbids & 1 << bit && lock_is_held(fd, LOCK_DOES + bit)))
			err = -EBUSY;
	}
	return err == -EAGAIN || err == -EACCES ? -EBUSY : err;
}

/* The kernel lets go of the files of a process that was killed with I/O in flight
 * a moment after the process has gone. */
static int file_lock(int fd, unsigned flags)
{
	int err = try_lock(fd, flags);

	for (int tries = 0; err == -EBUSY && tries < LOCK_TRIES; tries++) {
		file_unlock(fd);
		usleep(LOCK_TRY_US);
		err = try_lock(fd, flags);
	}
	return err;
}

/* ---- alignment --------------------------------------------------------- */

/* Kernels before 6.1 do not tell, some file systems never do; then a read that is
 * too short for the device is refused with EINVAL. One that finds nothing to read
 * is not, and says nothing. */
static uint32_t probe_align(int fd)
{
	AUTO_FREE void *buf = NULL;

	if (posix_memalign(&buf, DEFAULT_ALIGN, DEFAULT_ALIGN))
		return DEFAULT_ALIGN;
	for (uint32_t align = LEAST_ALIGN; align < DEFAULT_ALIGN; align *= 2)
		if (pread(fd, buf, align, 0) == (ssize_t)align)
			return align;
	return DEFAULT_ALIGN;
}

static bool kernel_tells_align(struct td_file *file)
{
#ifdef STATX_DIOALIGN
	struct statx st;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) < 0 ||
	    !(st.stx_mask & STATX_DIOALIGN) || !st.stx_dio_offset_align)
		return false;
	file->mem_align = st.stx_dio_mem_align;
	file->align = st.stx_dio_offset_align;
	return true;
#else
	return false;
#endif
}

static void find_align(struct td_file *file, bool direct, uint32_t force)
{
	int sector;

	if (!direct) {
		file->mem_align = file->align = 1;
	} else if (!kernel_tells_align(file)) {
		if (file->device && !ioctl(file->fd, BLKSSZGET, &sector))
			file->align = sector;
		else
			file->align = probe_align(file->fd);
		file->mem_align = file->align;
	}
	file->align = max_u64(file->align, force);
	file->mem_align = max_u64(file->mem_align, force);
}

/* Where the page cache is not in between, it is one with what it caches. A network file
 * system calls block what it likes to transfer. */
static void find_block(struct td_file *file, bool direct, const struct stat *st)
{
	uint32_t page = sysconf(_SC_PAGESIZE);

	file->block = file->align;
	if (!direct || file->device || file->in_memory)
		return;
	file->block = max_u64(file->block, page);
	if ((uint64_t)st->st_blksize <= BLOCK_MAX && is_aligned(st->st_blksize, page))
		file->block = max_u64(file->block, st->st_blksize);
}

/* ---- open and close ---------------------------------------------------- */

static bool lives_in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) &&
	       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* O_DIRECT, but for file systems that are the page cache (those refuse it
 * before Linux 6.6), and where the caller asked for buffers. */
static int open_direct(const char *path, int flags, bool buffered, bool *direct,
		       int *out, struct td_why *why)
{
	int fd;

	*direct = !buffered;
	fd = open(path, flags | (buffered ? 0 : O_DIRECT), 0644);
	if (fd < 0 && errno == EINVAL && !buffered) {
		*direct = false;
		fd = open(path, flags & ~O_EXCL, 0644);
		if (fd >= 0 && !lives_in_memory(fd)) {
			close(fd);
			if (flags & O_CREAT)
				unlink(path);
			return td_fail(why, -EINVAL,
				       "%s: its file system has no O_DIRECT", path);
		}
	}
	if (fd < 0 && errno == EBUSY)
		return td_fail(why, -EBUSY, "%s: in use: mounted, or part of another device",
			       path);
	if (fd < 0)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	*out = fd;
	return 0;
}

static int find_size(struct td_file *file, const struct stat *st, struct td_why *why)
{
	uint64_t size = st->st_size;

	if (file->device && ioctl(file->fd, BLKGETSIZE64, &size) < 0)
		return td_fail(why, -errno, "%s: %s", file->path, strerror(errno));
	file->size = size;
	return 0;
}

static bool device_discards(const struct stat *st)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;
	char text[32] = "";

	if (asprintf(&path, "/sys/dev/block/%u:%u/queue/discard_max_bytes",
		     major(st->st_rdev), minor(st->st_rdev)) < 0)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) { /* a partition's queue is its disk's */
		free(path);
		path = NULL;
		if (asprintf(&path, "/sys/dev/block/%u:%u/../queue/discard_max_bytes",
			     major(st->st_rdev), minor(st->st_rdev)) < 0)
			return false;
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && atoll(text) > 0;
}

/* Punching a hole past the end changes nothing and tells whether it works. */
static void find_discard(struct td_file *file, const struct stat *st)
{
	if (!(file->flags & TD_FILE_WRITE))
		return;
	if (file->device)
		file->can_discard = device_discards(st);
	else
		file->can_discard =
			!fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   round_up(file->size, MiB), MiB);
}

static int check_kind(const char *path, const struct stat *st, struct td_why *why)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return td_fail(why, S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL,
		       "%s: %s, neither a file nor a block device", path,
		       S_ISDIR(st->st_mode) ? "a directory" : "special");
}

static int file_setup(struct td_file *file, const char *path, unsigned flags,
		      const struct td_files *files, struct td_why *why)
{
	int how = O_CLOEXEC | (flags & TD_FILE_WRITE ? O_RDWR : O_RDONLY);
	struct stat st;
	bool direct;
	int err;

	/* Looked at before it is opened: opening a pipe would wait. */
	if (flags & TD_FILE_CREATE)
		how |= O_CREAT | O_EXCL;
	else if (stat(path, &st) < 0)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	else if ((err = check_kind(path, &st, why)))
		return err;
	else if (S_ISBLK(st.st_mode) && flags & TD_FILE_WRITE && !(flags & TD_FILE_SHARED))
		how |= O_EXCL; /* of a device: nor may the kernel have it */
	err = open_direct(path, how, files->buffered, &direct, &file->fd, why);
	if (err)
		return err;
	if (fstat(file->fd, &st) < 0)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	err = check_kind(path, &st, why);
	if (err)
		return err;
	file->device = S_ISBLK(st.st_mode);
	file->dev = file->device ? st.st_rdev : st.st_dev;
	file->ino = file->device ? 0 : st.st_ino;
	err = files->nolock ? 0 : file_lock(file->fd, flags);
	if (err)
		return td_fail(why, err, err == -EBUSY ?
			       "%s: in use by another process" : "%s: cannot lock",
			       path);
	err = find_size(file, &st, why);
	if (err)
		return err;
	file->in_memory = !file->device && lives_in_memory(file->fd);
	find_align(file, direct, files->force_align);
	find_block(file, direct, &st);
	find_discard(file, &st);
	return 0;
}

int td_file_open(struct td_files *files, const char *path, unsigned flags,
		 struct td_file **out, struct td_why *why)
{
	struct td_file *file = calloc(1, sizeof(*file));
	int err = -ENOMEM;

	if (!file)
		return err;
	file->fd = -1;
	file->tail_fd = -1;
	file->flags = flags;
	file->hook = files->hook;
	file->many = files->many;
	pthread_mutex_init(&file->lock, NULL);
	list_init(&file->writing);
	list_init(&file->waiting);
	file->path = strdup(path);
	if (file->path)
		err = file_setup(file, path, flags, files, why);
	if (!err && !files->nolock && !(flags & TD_FILE_CREATE))
		err = survivor_adopt(file, why);
	if (err) {
		td_file_close(file);
		return err;
	}
	*out = file;
	return 0;
}

int td_file_make(struct td_files *files, const char *path,
		 int (*fill)(struct td_file *file, const void *plan), const void *plan,
		 struct td_why *why)
{
	struct td_file *file;
	int err = td_file_open(files, path, TD_FILE_CREATE | TD_FILE_WRITE, &file, why);

	if (err)
		return err;
	err = fill(file, plan);
	if (!err)
		err = td_file_sync(file);
	td_file_close(file);
	if (err) {
		unlink(path);
		return td_fail(why, err, "%s: cannot be made: %s", path, strerror(-err));
	}
	return 0;
}

void td_file_close(struct td_file *file)
{
	if (!file)
		return;
	if (file->tail_fd >= 0)
		close(file->tail_fd);
	if (file->fd >= 0) {
		/* not left to close(): the kernel may hold the file of a request
		 * that has ended for a moment longer */
		file_unlock(file->fd);
		close(file->fd);
	}
	pthread_mutex_destroy(&file->lock);
	free(file->path);
	free(file);
}

const char *td_file_path(const struct td_file *file)
{
	return file->path;
}

uint64_t td_file_size(const struct td_file *file)
{
	return file->size;
}

uint32_t td_file_align(const struct td_file *file)
{
	return file->align;
}

bool td_file_is_device(const struct td_file *file)
{
	return file->device;
}

bool td_file_is_removed(const struct td_file *file)
{
	struct stat st;

	return !file->device && !fstat(file->fd, &st) && !st.st_nlink;
}

bool td_file_can_discard(const struct td_file *file)
{
	return file->can_discard;
}

bool td_file_same(const struct td_file *a, const struct td_file *b)
{
	return a->device == b->device && a->dev == b->dev && a->ino == b->ino;
}
