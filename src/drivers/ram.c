/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A RAM disk: "ram:NAME,size=64M[,image=PATH][,shared=on]".
 *
 * The disk is a memfd, mapped. blktapctrl holds one for each NAME and hands it to
 * the tapdisk of every disk of that name; without the daemon it is private. Who
 * finds it new gives it its size and, from image=, its content, and seals the
 * size: a sealed memory is a ready one, and its mapping can never fault.
 *
 * Locks on a descriptor of our own keep second writers out, as for files. What
 * was never written, or was discarded, is a hole, and takes no memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <syslog.h>
#include <unistd.h>

#include <blktap/driver.h>

#include "base/guard.h"
#include "base/num.h"

#define BLOCK 512
#define PIECE (64 * KiB) /* copied under one lock */
#define LOCKS 64
#define PAGE 4096ull

struct ram {
	uint64_t size;   /* the options: */
	char    *image;
	uint64_t fd;     /* the daemon's memory + 0; 0: none */

	int      memory; /* our own descriptor of it */
	uint8_t *map;
	/* Several queues copy at the same time: no block is to be a mix of two writes.
	 * Each lock is for every LOCKS-th piece. */
	pthread_mutex_t lock[LOCKS];
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
	{ "fd", TD_UINT, offsetof(struct ram, fd), "memory that blktapctrl shares (its own use)" },
	{ NULL },
};

/* ---- open ------------------------------------------------------------------ */

/* Copies the image, but not its zeroes: they stay holes. */
static int fill_from(struct ram *ram, struct td_file *file)
{
	static const uint8_t zeroes[64 * KiB];
	AUTO_FREE uint8_t *block = malloc(sizeof(zeroes));
	uint64_t end = min_u64(ram->size, td_file_size(file));
	int err = block ? 0 : -ENOMEM;

	for (uint64_t at = 0, n; at < end && !err; at += n) {
		n = min_u64(sizeof(zeroes), end - at);
		err = td_file_read(file, block, n, at);
		if (!err && memcmp(block, zeroes, n) &&
		    pwrite(ram->memory, block, n, at) != (ssize_t)n)
			err = -ENOSPC;
	}
	return err;
}

static int ram_fill(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	struct td_file *file;
	int err = td_file_open(img->files, ram->image, 0, &file, why);

	if (err)
		return err;
	if (!ram->size)
		ram->size = round_up(td_file_size(file), BLOCK);
	if (ram->size < td_file_size(file))
		err = td_fail(why, -EFBIG, "%s: does not fit into size=%llu", ram->image,
			      (unsigned long long)ram->size);
	if (!err && (err = fill_from(ram, file)))
		td_fail(why, err, "%s: %s", ram->image, strerror(-err));
	td_file_close(file);
	return err;
}

/* Gives new memory its content and size, which is final. */
static int ram_make(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	int err = ram->image ? ram_fill(img, why) : 0;

	if (err)
		return err;
	if (!ram->size || ram->size % BLOCK)
		return td_fail(why, -EINVAL, "ram:%s: size= must be a multiple of %d, not 0",
			       img->target, BLOCK);
	if (ftruncate(ram->memory, ram->size) < 0 ||
	    fcntl(ram->memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return td_fail(why, -errno, "ram:%s: %s", img->target, strerror(errno));
	td_say(img, LOG_NOTICE, "%llu bytes of memory: volatile, lost with the last user",
	       (unsigned long long)ram->size);
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
	ram->size = size;
	return 0;
}

static int ram_ready(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	struct flock one = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
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

	if (flock(ram->memory, (alone ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
		return td_fail(why, -EBUSY, "ram:%s: in use by another disk; several writers need "
			       "shared=on in each", img->target);
	return 0;
}

static int ram_map(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	int access = img->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	void *map = mmap(NULL, ram->size, access, MAP_SHARED, ram->memory, 0);

	if (map == MAP_FAILED)
		return td_fail(why, -errno, "ram:%s: %s", img->target, strerror(errno));
	ram->map = map;
	return 0;
}

/* A descriptor of our own: locks are between descriptions, not descriptors. */
static int ram_memory(const struct ram *ram)
{
	char path[40];

	if (!ram->fd)
		return memfd_create("blktap-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	snprintf(path, sizeof(path), "/proc/self/fd/%u", (unsigned)ram->fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

static int ram_open(struct td_image *img, struct td_why *why)
{
	struct ram *ram = img->state;
	int err;

	ram->memory = ram_memory(ram);
	if (ram->memory < 0)
		return td_fail(why, -errno, "ram:%s: memory: %s", img->target, strerror(errno));
	err = ram_lock(img, why);
	if (!err)
		err = ram_ready(img, why);
	if (!err)
		err = ram_map(img, why);
	if (err) {
		close(ram->memory);
		return err;
	}
	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&ram->lock[i], NULL);
	img->size = ram->size;
	img->cluster = PAGE;
	return 0;
}

static void ram_close(struct td_image *img)
{
	struct ram *ram = img->state;

	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_destroy(&ram->lock[i]);
	munmap(ram->map, ram->size);
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

static void ram_copy(struct ram *ram, struct td_req *req)
{
	for (uint64_t pos = 0, n; pos < req->len; pos += n) {
		uint64_t at = req->offset + pos;
		pthread_mutex_t *lock = &ram->lock[at / PIECE % LOCKS];

		n = min_u64(req->len - pos, PIECE - at % PIECE);
		pthread_mutex_lock(lock);
		if (req->op == TD_READ)
			td_req_put(req, pos, ram->map + at, n);
		else
			td_req_get(req, pos, ram->map + at, n);
		pthread_mutex_unlock(lock);
	}
	td_end(req, 0);
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
