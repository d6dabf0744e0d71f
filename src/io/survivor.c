/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Survivor memory: a file on a tmpfs, mapped, one for each file that is open for
 * writing by a driver that keeps tables in memory.
 *
 *     head | a slot header for each page | pages
 *
 * A slot header says where in the file its page belongs, whether it is newer than
 * what the file holds, and in which order pages must be written. It is marked
 * before the page is changed, and each change of a page is one store, so that at
 * every instant the memory and the file together are a whole image. Two checksums
 * tell what the file holds at the page's place: as it was read or last written,
 * and as it is being written. Who finds anything else there knows that another
 * program has written to the file, and keeps out.
 *
 * The memory is removed when its owner ends well. Otherwise whoever opens the file
 * for writing next writes the pages into it, stage by stage, with a barrier in
 * between, and goes on as if nothing had happened.
 */
#include "io/survivor.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "config.h"
#include "io/file_impl.h"
#include "io/survivor_impl.h"

#define PAGE_MAX 4096
#define SLOTS_MAX (1u << 24)
#define CHUNK (64 * KiB)    /* pages are given memory in these steps */
#define FOLDERS 3

#define LOCK_TRIES 25
#define LOCK_TRY_US 20000

/* A slot's word: page number << 8 | stage << 2 | unsure << 1 | dirty. */
#define WORD_DIRTY 1ull
#define WORD_UNSURE 2ull    /* a write failed: the file may hold anything there */

struct slot {
	_Atomic uint64_t word;
	uint64_t is, becomes;   /* checksums of what the file holds */
	uint64_t spare;
};
static_assert(sizeof(struct slot) == 32, "survivor memory is read by other versions");

struct td_survivor {
	struct survivor_head *head;
	struct slot *slot;
	char *pages;
	size_t size, has;       /* of the mapping; bytes that have memory */
	int folder, fd;
	char name[64];
};

static uint64_t rotate(uint64_t n, unsigned by)
{
	return n << by | n >> (64 - by);
}

/* Four lanes, since one multiplication would wait for the other. */
static uint64_t checksum(const void *data, size_t len)
{
	const uint64_t k = 0x9e3779b97f4a7c15ull;
	uint64_t lane[4] = { k, k * 3, k * 5, k * 7 }, word[4], sum = len;

	for (size_t i = 0; i < len; i += sizeof(word)) {
		memcpy(word, (const char *)data + i, sizeof(word));
		for (unsigned j = 0; j < 4; j++)
			lane[j] = rotate(lane[j] ^ word[j], 29) * k;
	}
	for (unsigned j = 0; j < 4; j++)
		sum = (rotate(sum, 31) ^ lane[j] ^ lane[j] >> 32) * k;
	return sum ^ sum >> 29;
}

static size_t pages_at(uint32_t slots)
{
	return round_up(SURVIVOR_HEAD + (size_t)slots * sizeof(struct slot), 4096);
}

/* ---- where it is --------------------------------------------------------- */

/* The folders that may hold it, best first. */
static unsigned folders(char path[FOLDERS][256])
{
	const char *own = getenv("BLKTAP_SURVIVOR_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
	unsigned n = 0;

	if (own && *own == '/') {
		snprintf(path[n++], 256, "%s", own);
		return n;
	}
	if (!geteuid())
		snprintf(path[n++], 256, "%s/survivor", BLKTAP_RUN_DIR);
	if (runtime && *runtime == '/')
		snprintf(path[n++], 256, "%s/blktap/survivor", runtime);
	snprintf(path[n++], 256, "/dev/shm/blktap-%u", (unsigned)geteuid());
	return n;
}

/* A folder that is ours alone; -1 if it is not, or cannot be. */
static int folder_open(const char *path, bool make)
{
	const char *slash = strrchr(path, '/');
	struct stat st;
	char parent[256];
	int fd;

	if (make) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
		mkdir(parent, 0755);
		mkdir(path, 0700);
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 077) {
		close(fd);
		return -1;
	}
	return fd;
}

static void name_of(const struct td_file *file, char name[64])
{
	if (file->device)
		snprintf(name, 64, "device-%u:%u", major(file->dev), minor(file->dev));
	else
		snprintf(name, 64, "file-%u:%u-%llu", major(file->dev), minor(file->dev),
			 (unsigned long long)file->ino);
}

void survivor_boot_id(char out[40])
{
	AUTO_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(out, 0, 40);
	if (fd >= 0 && read(fd, out, 36) != 36)
		memset(out, 0, 40);
}

/* When the file was made, where the file system knows: an inode's number is given
 * to another file some day. */
static void born(const struct td_file *file, uint64_t *sec, uint64_t *nsec)
{
	struct statx st;

	*sec = *nsec = 0;
	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0 ||
	    !(st.stx_mask & STATX_BTIME))
		return;
	*sec = st.stx_btime.tv_sec;
	*nsec = st.stx_btime.tv_nsec;
}

/* ---- adopting what a killed process has left ------------------------------ */

struct left {
	struct td_file *file;
	int folder, fd;
	char path[400];
	struct survivor_head *head;
	struct slot *slot;
	char *pages;
	size_t size;
	uint32_t dirty;
	char *buf;              /* a page of the file */
};

static void left_close(struct left *left, bool remove)
{
	const char *slash = strrchr(left->path, '/');

	if (remove && left->folder >= 0)
		unlinkat(left->folder, slash + 1, 0);
	if (left->head)
		munmap(left->head, left->size);
	free(left->buf);
	if (left->fd >= 0)
		close(left->fd);
	if (left->folder >= 0)
		close(left->folder);
}

/* Its owner is gone, since we have the image's lock. Where a file system has no
 * locks this one still says so; the kernel may take a moment to let go of it. */
static bool left_lock(const struct left *left)
{
	for (int tries = 0; tries < LOCK_TRIES; tries++) {
		if (!flock(left->fd, LOCK_EX | LOCK_NB))
			return true;
		usleep(LOCK_TRY_US);
	}
	return false;
}

/* Whether it is about this file and this boot of the machine. Without its magic its
 * owner was killed while it made it. */
static bool left_is_ours(const struct left *left)
{
	const struct td_file *file = left->file;
	const struct survivor_head *head = left->head;
	uint64_t sec, nsec;
	char boot[40];

	survivor_boot_id(boot);
	born(file, &sec, &nsec);
	return head->magic == SURVIVOR_MAGIC && !memcmp(boot, head->boot, sizeof(boot)) && head->dev == file->dev &&
	       head->ino == file->ino && head->born_sec == sec && head->born_nsec == nsec;
}

static bool left_fits(const struct left *left)
{
	const struct survivor_head *head = left->head;

	return head->version == SURVIVOR_VERSION && is_pow2(head->page) && head->page >= 512 &&
	       head->page <= PAGE_MAX && head->slots <= SLOTS_MAX &&
	       pages_at(head->slots) + (uint64_t)head->slots * head->page <= left->size;
}

static int makes_no_sense(const struct left *left, struct td_why *why)
{
	return td_fail(why, -EINVAL, "%s: its survivor memory %s makes no sense, or is of another "
		       "version of blktap: remove it to give up what it holds", left->file->path,
		       left->path);
}

static uint64_t slot_at(const struct left *left, uint32_t i)
{
	return (left->slot[i].word >> 8) * left->head->page;
}

static unsigned slot_stage(const struct left *left, uint32_t i)
{
	return left->slot[i].word >> 2 & (TD_STAGES - 1);
}

static int left_map(struct left *left, struct td_why *why)
{
	struct stat st;
	void *map;

	if (fstat(left->fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
		return td_fail(why, -EPERM, "%s: %s is in the way of its survivor memory",
			       left->file->path, left->path);
	left->size = st.st_size;
	if (left->size < SURVIVOR_HEAD)
		return 0; /* its owner was killed while it made this */
	map = mmap(NULL, left->size, PROT_READ | PROT_WRITE,
		   left->file->flags & TD_FILE_WRITE ? MAP_SHARED : MAP_PRIVATE, left->fd, 0);
	if (map == MAP_FAILED)
		return td_fail(why, -errno, "%s: %s: %s", left->file->path, left->path,
			       strerror(errno));
	left->head = map;
	if (!left_is_ours(left))
		return 0;
	if (!left_fits(left))
		return makes_no_sense(left, why);
	left->slot = (struct slot *)((char *)map + SURVIVOR_HEAD);
	left->pages = (char *)map + pages_at(left->head->slots);
	for (uint32_t i = 0; i < left->head->slots; i++)
		left->dirty += left->slot[i].word & WORD_DIRTY;
	return 0;
}

/* What the file holds there; past its end: zeroes. */
static int read_page(struct left *left, uint64_t at)
{
	uint64_t size = td_file_size(left->file), page = left->head->page;
	size_t n = at < size ? min_u64(page, size - at) : 0;

	memset(left->buf + n, 0, page - n);
	return n ? td_file_read(left->file, left->buf, n, at) : 0;
}

static int check_page(struct left *left, uint32_t i, struct td_why *why)
{
	const struct slot *slot = &left->slot[i];
	uint64_t at = slot_at(left, i), sum;
	int err;

	if (at > INT64_MAX - PAGE_MAX || (left->file->device && at >= left->file->size))
		return makes_no_sense(left, why);
	err = read_page(left, at);
	if (err)
		return td_fail(why, err, "%s: cannot read it at %llu", left->file->path,
			       (unsigned long long)at);
	sum = checksum(left->buf, left->head->page);
	if (sum == slot->is || sum == slot->becomes || slot->word & WORD_UNSURE)
		return 0;
	return td_fail(why, -EUCLEAN, "%s: another program has written to it since a tapdisk was "
		       "killed; what that one had not written yet is in %s: remove it to give "
		       "that up", left->file->path, left->path);
}

static int write_stage(struct left *left, unsigned stage)
{
	uint32_t page = left->head->page, written = 0;

	for (uint32_t i = 0; i < left->head->slots; i++) {
		struct slot *slot = &left->slot[i];
		const char *data = left->pages + (size_t)i * page;
		int err;

		if (!(slot->word & WORD_DIRTY) || slot_stage(left, i) != stage)
			continue;
		slot->becomes = checksum(data, page);
		err = td_file_write(left->file, data, page, slot_at(left, i));
		if (err)
			return err;
		written++;
	}
	return written ? td_file_sync(left->file) : 0;
}

static int left_write(struct left *left, struct td_why *why)
{
	struct td_file *file = left->file;
	int err = 0;

	if (!(file->flags & TD_FILE_WRITE))
		return td_fail(why, -EUCLEAN, "%s: a tapdisk that was killed has left %u pages in "
			       "%s that belong into it: open it for writing once", file->path,
			       left->dirty, left->path);
	left->buf = aligned_alloc(4096, PAGE_MAX);
	if (!left->buf)
		return td_fail(why, -ENOMEM, "%s: no memory", file->path);
	for (uint32_t i = 0; i < left->head->slots && !err; i++)
		if (left->slot[i].word & WORD_DIRTY)
			err = check_page(left, i, why);
	if (err)
		return err;
	for (unsigned stage = 0; stage < TD_STAGES && !err; stage++)
		err = write_stage(left, stage);
	if (err)
		return td_fail(why, err, "%s: cannot write what a killed tapdisk has left: %s",
			       file->path, strerror(-err));
	td_log(file->path, LOG_NOTICE,
	       "%u pages of metadata recovered from a tapdisk that was killed", left->dirty);
	return 0;
}

static int adopt_from(struct td_file *file, const char *folder, struct td_why *why)
{
	bool write = file->flags & TD_FILE_WRITE;
	struct left left = { .file = file, .fd = -1, .folder = folder_open(folder, false) };
	char name[64];
	int err = 0;

	if (left.folder < 0)
		return 0;
	name_of(file, name);
	snprintf(left.path, sizeof(left.path), "%s/%s", folder, name);
	left.fd = openat(left.folder, name, (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
	if (left.fd < 0) {
		if (errno != ENOENT)
			err = td_fail(why, -errno, "%s: %s: %s", file->path, left.path,
				      strerror(errno));
		left_close(&left, false);
		return err;
	}
	if (write && !left_lock(&left))
		err = td_fail(why, -EBUSY, "%s: in use by another process, which holds %s",
			      file->path, left.path);
	if (!err)
		err = left_map(&left, why);
	if (!err && left.dirty)
		err = left_write(&left, why);
	left_close(&left, write && !err);
	return err;
}

int survivor_adopt(struct td_file *file, struct td_why *why)
{
	char path[FOLDERS][256];
	unsigned n = folders(path);
	int err = 0;

	for (unsigned i = 0; i < n && !err; i++)
		err = adopt_from(file, path[i], why);
	return err;
}

/* ---- making it, and using it ------------------------------------------------ */

static int give_memory(struct td_survivor *survivor, size_t to)
{
	int err;

	to = min_u64(round_up(to, CHUNK), survivor->size);
	if (to <= survivor->has)
		return 0;
	do {
		err = posix_fallocate(survivor->fd, survivor->has, to - survivor->has);
	} while (err == EINTR);
	if (!err)
		survivor->has = to;
	return -err;
}

static void head_fill(struct td_survivor *survivor, const struct td_file *file, uint32_t page,
		      uint32_t slots)
{
	struct survivor_head *head = survivor->head;

	head->version = SURVIVOR_VERSION;
	head->page = page;
	head->slots = slots;
	head->dev = file->dev;
	head->ino = file->ino;
	born(file, &head->born_sec, &head->born_nsec);
	survivor_boot_id(head->boot);
	snprintf(head->path, sizeof(head->path), "%s", file->path);
	if (!file->device)
		survivor_handle_fill(head, file->fd);
	atomic_thread_fence(memory_order_seq_cst);
	head->magic = SURVIVOR_MAGIC;
}

static int make_in(struct td_survivor *survivor, const char *folder, struct td_file *file,
		   uint32_t page, uint32_t slots)
{
	void *map = MAP_FAILED;
	int err;

	survivor->folder = folder_open(folder, true);
	if (survivor->folder < 0)
		return -EACCES;
	survivor_forget_gone(survivor->folder);
	survivor->fd = openat(survivor->folder, survivor->name,
			      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	err = survivor->fd < 0 ? -errno : 0;
	if (err)
		goto close_folder;
	survivor->size = pages_at(slots) + (size_t)slots * page;
	survivor->has = 0;
	if (flock(survivor->fd, LOCK_EX | LOCK_NB) < 0 ||
	    ftruncate(survivor->fd, survivor->size) < 0)
		err = -errno;
	if (!err)
		err = give_memory(survivor, pages_at(slots) + 1);
	if (!err) {
		map = mmap(NULL, survivor->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			   survivor->fd, 0);
		err = map == MAP_FAILED ? -errno : 0;
	}
	if (err)
		goto remove;
	survivor->head = map;
	survivor->slot = (struct slot *)((char *)map + SURVIVOR_HEAD);
	survivor->pages = (char *)map + pages_at(slots);
	head_fill(survivor, file, page, slots);
	return 0;
remove:
	unlinkat(survivor->folder, survivor->name, 0);
	close(survivor->fd);
close_folder:
	close(survivor->folder);
	return err;
}

int td_survivor_new(struct td_file *file, uint32_t page, uint32_t count,
		    struct td_survivor **out, struct td_why *why)
{
	struct td_survivor *survivor = calloc(1, sizeof(*survivor));
	char path[FOLDERS][256];
	unsigned n = folders(path);
	int err = -EACCES;

	if (!survivor)
		return td_fail(why, -ENOMEM, "%s: no memory", file->path);
	name_of(file, survivor->name);
	for (unsigned i = 0; i < n && err; i++)
		err = make_in(survivor, path[i], file, page, count);
	if (err) {
		free(survivor);
		return td_fail(why, err, "%s: no survivor memory in %s or another folder: %s",
			       file->path, path[0], strerror(-err));
	}
	*out = survivor;
	return 0;
}

void td_survivor_free(struct td_survivor *survivor, bool keep)
{
	if (!survivor)
		return;
	munmap(survivor->head, survivor->size);
	if (!keep)
		unlinkat(survivor->folder, survivor->name, 0);
	close(survivor->fd);
	close(survivor->folder);
	free(survivor);
}

void *td_survivor_pages(const struct td_survivor *survivor)
{
	return survivor->pages;
}

int td_survivor_use(struct td_survivor *survivor, uint32_t slot)
{
	uint32_t page = survivor->head->page;

	return give_memory(survivor, survivor->pages - (char *)survivor->head +
				     ((size_t)slot + 1) * page);
}

void td_survivor_dirty(struct td_survivor *survivor, uint32_t i, uint64_t at, unsigned stage)
{
	struct slot *slot = &survivor->slot[i];
	uint32_t page = survivor->head->page;

	if (slot->word)
		return;
	slot->is = slot->becomes = checksum(survivor->pages + (size_t)i * page, page);
	slot->word = at / page << 8 | stage << 2 | WORD_DIRTY;
}

void td_survivor_writing(struct td_survivor *survivor, uint32_t i, const void *copy)
{
	struct slot *slot = &survivor->slot[i];

	slot->becomes = checksum(copy, survivor->head->page);
	atomic_thread_fence(memory_order_seq_cst);
}

void td_survivor_written(struct td_survivor *survivor, uint32_t i, int err, bool clean)
{
	struct slot *slot = &survivor->slot[i];

	if (err) {
		slot->word |= WORD_UNSURE;
		return;
	}
	slot->is = slot->becomes;
	slot->word = clean ? 0 : slot->word & ~WORD_UNSURE;
}
