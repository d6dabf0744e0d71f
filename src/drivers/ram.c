/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A RAM disk: "ram:NAME,size=64M[,image=PATH][,huge=on][,shared=on]".
 *
 * The disk is a memfd, mapped. blktapctrl holds one for each NAME and hands it to
 * the tapdisk of every disk of that name; without the daemon it is private. Who
 * finds it new gives it its size and, from image=, its content, and seals the
 * size: a sealed memory is a ready one, and its mapping can never fault.
 *
 * Locks on a descriptor of our own keep second writers out, as for files. What
 * was never written, or was discarded, is a hole, and takes no memory; but huge
 * pages are taken whole and at once, and kept.
 *
 * A block is never a mix of two writes: mutexes keep the threads of a tapdisk apart,
 * and where several tapdisks write, locks on the file keep these apart. The kernel
 * lets those go with whoever is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <syslog.h>
#include <unistd.h>

#include <blktap/driver.h>

#include "base/guard.h"
#include "base/num.h"

#define BLOCK 512
#define PIECE (64 * KiB) /* copied under one lock */
#define LOCKS 64
#define PAGE 4096ull
/* Who holds a lock on this byte, which no disk has, makes the memory ready. */
#define READY_AT (1ll << 62)

struct ram {
	uint64_t size;   /* the options: */
	char    *image;
	bool     huge;
	uint64_t fd;     /* the daemon's memory; 0: none */
	bool     beside;

	int      memory; /* our own descriptor of it */
	uint64_t page;   /* of huge ones; 0: of the usual size */
	uint8_t *map;
	bool     many;   /* other tapdisks may write it, too */
	pthread_mutex_t lock[LOCKS]; /* each for every LOCKS-th piece */
};

/* A request that discards or zeroes, on a worker thread. */
struct punch {
	struct td_work work;
	struct td_req *req;
	int            memory;
};

static const struct td_option ram_options[] = {
	{ "size", TD_SIZE, offsetof(struct ram, size), "of the disk; default: the image's" },
	{ "image", TD_STRING, offsetof(struct ram, image), "raw file to fill a new RAM disk from" },
	{ "huge", TD_BOOL, offsetof(struct ram, huge), "a new RAM disk is made of huge pages" },
	{ "fd", TD_UINT, offsetof(struct ram, fd), "memory that blktapctrl shares (its own use)" },
	{ "beside", TD_BOOL, offsetof(struct ram, beside),
	  "do not mind who has it (tap-ctl's own use)" },
	{ NULL },
};

/* ---- open ------------------------------------------------------------------ */

static int ram_map(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	void *map = mmap(NULL, ram->size, PROT_READ | PROT_WRITE, MAP_SHARED, ram->memory, 0);

	if (map == MAP_FAILED)
		return td_fail(why, -errno, "ram:%s: %s%s", img->target, strerror(errno),
			       ram->page ? ": not enough free huge pages "
					   "(/proc/sys/vm/nr_hugepages)" : "");
	ram->map = map;
	return 0;
}

static void ram_unmap(struct ram *ram)
{
	if (ram->map)
		munmap(ram->map, ram->size);
}

/* Copies the image, but not its zeroes: they stay holes. */
static int ram_fill(struct ram *ram, struct td_file *file)
{
	static const uint8_t zeroes[64 * KiB];
	AUTO_FREE uint8_t *block = malloc(sizeof(zeroes));
	uint64_t end = min_u64(ram->size, td_file_size(file));
	int err = block ? 0 : -ENOMEM;

	for (uint64_t at = 0, n; at < end && !err; at += n) {
		n = min_u64(sizeof(zeroes), end - at);
		err = td_file_read(file, block, n, at);
		if (!err && memcmp(block, zeroes, n))
			memcpy(ram->map + at, block, n);
	}
	return err;
}

/* Also right for memory that somebody has failed to make. */
static int ram_size(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct ram *ram = img->state;
	uint64_t unit = ram->page ? ram->page : BLOCK;

	if (!size || size % unit)
		return td_fail(why, -EINVAL, "ram:%s: size= must be a multiple of %llu, not 0",
			       img->target, (unsigned long long)unit);
	ram->size = size;
	if (ftruncate(ram->memory, 0) < 0 || ftruncate(ram->memory, size) < 0)
		return td_fail(why, -errno, "ram:%s: %s", img->target, strerror(errno));
	return 0;
}

static int ram_make_from(struct td_image *img, struct td_file *file, struct td_why *why)
{
	struct ram *ram = img->state;
	uint64_t bytes = td_file_size(file);
	int err;

	if (!ram->size)
		ram->size = round_up(bytes, ram->page ? ram->page : BLOCK);
	if (ram->size < bytes)
		return td_fail(why, -EFBIG, "%s: does not fit into size=%llu", ram->image,
			       (unsigned long long)ram->size);
	err = ram_size(img, ram->size, why);
	if (!err)
		err = ram_map(img, why);
	if (err)
		return err;
	err = ram_fill(ram, file);
	return err ? td_fail(why, err, "%s: %s", ram->image, strerror(-err)) : 0;
}

/* Gives new memory its size, which is final, and its content. */
static int ram_make(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	struct td_file *file = NULL;
	int err = ram->image ? td_file_open(img->files, ram->image, 0, &file, why) : 0;

	if (err)
		return err;
	if (file) {
		err = ram_make_from(img, file, why);
	} else {
		err = ram_size(img, ram->size, why);
		if (!err)
			err = ram_map(img, why);
	}
	td_file_close(file);
	if (err)
		return err;
	if (fcntl(ram->memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return td_fail(why, -errno, "ram:%s: %s", img->target, strerror(errno));
	td_say(img, LOG_NOTICE, "%llu bytes of memory%s: volatile, lost with the last user",
	       (unsigned long long)ram->size, ram->page ? " in huge pages" : "");
	return 0;
}

/* Takes over memory that is ready; its size is what it is. */
static int ram_join(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	uint64_t size = lseek(ram->memory, 0, SEEK_END);

	if (ram->size && ram->size != size)
		return td_fail(why, -EINVAL, "ram:%s: has %llu bytes already, not size=%llu",
			       img->target, (unsigned long long)size,
			       (unsigned long long)ram->size);
	if (ram->huge && !ram->page)
		return td_fail(why, -EINVAL, "ram:%s: is there already, and not of huge pages",
			       img->target);
	ram->size = size;
	return ram_map(img, why);
}

static int ram_ready(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	struct flock one = { .l_type = F_WRLCK, .l_start = READY_AT, .l_len = 1 };
	int seals, err;

	/* one after the other: the first may take a while to fill it */
	if (fcntl(ram->memory, F_OFD_SETLKW, &one) < 0)
		return td_fail(why, -errno, "ram:%s: %s", img->target, strerror(errno));
	seals = fcntl(ram->memory, F_GET_SEALS);
	if (seals < 0)
		err = td_fail(why, -errno, "ram:%s: fd= is no RAM disk's memory", img->target);
	else if (seals & F_SEAL_GROW)
		err = ram_join(img, why);
	else
		err = ram_make(img, why);
	one.l_type = F_UNLCK;
	fcntl(ram->memory, F_OFD_SETLK, &one);
	return err;
}

static int ram_lock(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	bool alone = !img->read_only && !img->shared;

	if (ram->beside)
		return 0;
	if (flock(ram->memory, (alone ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
		return td_fail(why, -EBUSY, "ram:%s: in use by another disk; several writers need "
			       "shared=on in each", img->target);
	return 0;
}

/* A descriptor of our own: locks are between descriptions, not descriptors. */
static int ram_memory(const struct ram *ram)
{
	char path[40];

	if (!ram->fd)
		return memfd_create("blktap-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING |
						  (ram->huge ? MFD_HUGETLB : 0));
	snprintf(path, sizeof(path), "/proc/self/fd/%u", (unsigned)ram->fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* Huge pages are not given back before the disk is: who got one again later might
 * find none free, which is not an error then but a signal. */
static void look_for_huge(struct td_image *img)
{
	struct ram *ram = img->state;
	struct statfs fs;

	if (fstatfs(ram->memory, &fs) < 0 || fs.f_type != HUGETLBFS_MAGIC)
		return;
	ram->page = fs.f_bsize;
	img->can &= ~(TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS);
}

static int ram_open(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	int err;

	ram->memory = ram_memory(ram);
	if (ram->memory < 0)
		return td_fail(why, -errno, "ram:%s: %s: %s", img->target,
			       ram->huge ? "no huge pages here" : "memory", strerror(errno));
	look_for_huge(img);
	err = ram_lock(img, why);
	if (!err)
		err = ram_ready(img, why);
	if (!err && img->read_only)
		mprotect(ram->map, ram->size, PROT_READ);
	if (err) {
		ram_unmap(ram);
		close(ram->memory);
		return err;
	}
	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&ram->lock[i], NULL);
	ram->many = img->shared || ram->beside;
	img->size = ram->size;
	img->cluster = PAGE;
	return 0;
}

static void ram_close(struct td_image *img)
{
	struct ram *ram = img->state;

	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_destroy(&ram->lock[i]);
	ram_unmap(ram);
	close(ram->memory);
}

/* ---- requests --------------------------------------------------------------- */

static int punch_run(struct td_work *work)
{
	struct punch *punch = container_of(work, struct punch, work);

	return fallocate(punch->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 punch->req->offset, punch->req->len) < 0 ? -errno : 0;
}

static void punch_done(struct td_work *work, int err)
{
	td_end(container_of(work, struct punch, work)->req, err);
}

/* Against other tapdisks; our own threads are one and the same to such a lock. */
static int piece_lock(struct ram *ram, short type, uint64_t at, uint64_t len)
{
	struct flock range = { .l_type = type, .l_start = at, .l_len = len };

	if (!ram->many)
		return 0;
	while (fcntl(ram->memory, F_OFD_SETLKW, &range) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int piece_copy(struct ram *ram, struct td_req *req, uint64_t pos, uint64_t len)
{
	uint64_t at = req->offset + pos;
	int err = piece_lock(ram, req->op == TD_READ ? F_RDLCK : F_WRLCK, at, len);

	if (err)
		return err;
	if (req->op == TD_READ)
		td_req_put(req, pos, ram->map + at, len);
	else
		td_req_get(req, pos, ram->map + at, len);
	return piece_lock(ram, F_UNLCK, at, len);
}

static void ram_copy(struct ram *ram, struct td_req *req)
{
	int err = 0;

	for (uint64_t pos = 0, n; pos < req->len && !err; pos += n) {
		uint64_t at = req->offset + pos;
		pthread_mutex_t *lock = &ram->lock[at / PIECE % LOCKS];

		n = min_u64(req->len - pos, PIECE - at % PIECE);
		pthread_mutex_lock(lock);
		err = piece_copy(ram, req, pos, n);
		pthread_mutex_unlock(lock);
	}
	td_end(req, err);
}

/* DISCARD and WRITE_ZEROES are one: a hole reads as zeroes. */
static void ram_punch(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct punch *punch = td_scratch(img, req);

	punch->req = req;
	punch->memory = ((struct ram *)img->state)->memory;
	punch->work.run = punch_run;
	punch->work.done = punch_done;
	td_work_start(queue, &punch->work);
}

static void ram_extents(struct ram *ram, struct td_req *req)
{
	off_t data = lseek(ram->memory, req->offset, SEEK_DATA);
	off_t end = ram->size;

	req->extent.flags = 0;
	if (data == (off_t)req->offset) {
		end = lseek(ram->memory, data, SEEK_HOLE);
	} else {
		req->extent.flags = TD_EXTENT_HOLE | TD_EXTENT_ZERO;
		if (data > 0)
			end = data;
	}
	req->extent.len = end - req->offset;
	td_end(req, 0);
}

static void ram_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct ram *ram = img->state;

	switch (req->op) {
	case TD_READ:
	case TD_WRITE:
		ram_copy(ram, req);
		break;
	case TD_FLUSH:
		td_end(req, 0);
		break;
	case TD_DISCARD:
	case TD_WRITE_ZEROES:
		ram_punch(queue, img, req);
		break;
	case TD_EXTENTS:
		ram_extents(ram, req);
		break;
	}
}

extern const struct td_driver ram_driver;
const struct td_driver ram_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "ram",
	.summary = "a named RAM disk; volatile",
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES |
	       TD_CAN_EXTENTS | TD_CAN_SHARE | TD_CAN_ANY_QUEUE,
	.state_size = sizeof(struct ram),
	.req_size = sizeof(struct punch),
	.options = ram_options,
	.open = ram_open,
	.close = ram_close,
	.submit = ram_submit,
};
