/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room in the file that reads as zeroes.
 *
 *        freed ...  end ........ ready ........ target
 *   used | given back | ours to give | being made on a worker thread
 *
 * A worker lengthens the file ahead of need, in steps that grow while anybody has
 * to wait. The file is sparse: it takes blocks when data come. Its new length is
 * made durable by the barrier that goes before the pages that show it; without
 * that a power cut could leave a table that points past the end.
 *
 * What was freed and zeroed is used again first. It is remembered as long as the
 * image is open, up to a number of runs; the rest is free in the image's own
 * tables only.
 *
 * The length is one of whole blocks from before the first request on: where a file
 * ends within a block, the kernel zeroes the rest of that in the page cache when the
 * file gets longer, and what is written to the block at that moment could be lost.
 *
 * A block device has its length, and room there holds whatever somebody left: the
 * worker zeroes it ahead of need instead. Room ends where the device does.
 *
 * Some formats end with a tail. A longer file gets one at its new end before the
 * old one is zeroed, which is room then. So whoever finds the file at any moment
 * finds a tail at its end; after a power cut it may lack.
 */
#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <blktap/format.h>

#include "base/log.h"
#include "base/num.h"
#include "base/rule.h"

#define STEP_MIN (1 * MiB)
#define STEP_MAX (256 * MiB)
#define STEP_MAX_DEVICE (16 * MiB) /* is written */
#define RUNS 1024
#define FILE_BLOCK 4096
#define WORKER_MS 10000

struct run {
	uint64_t at, len;
};

struct td_space {
	struct td_image *img;
	struct td_file *file;
	struct td_cache *cache;
	uint32_t unit;
	uint64_t end;     /* first byte that is nobody's */
	uint64_t home;    /* where the file, or its tail, goes back to if it stays so */
	bool taken;       /* it did not */
	uint64_t ready;   /* the file is this long */
	uint64_t target;  /* what the running work makes it */
	uint64_t need;    /* ... or at least this */
	uint64_t step;
	bool growing;
	atomic_bool at_work;     /* the worker is not done yet */
	bool device;
	bool full;               /* that has been said */
	struct td_parks waiting; /* the running work is for these */
	struct td_parks late;    /* these came when it had begun */
	struct td_work work;
	struct run run[RUNS];    /* freed */
	unsigned runs;
	char tail[TD_TAIL_MAX];  /* what the file ends with, and where it is now */
	uint32_t tail_len;
	uint64_t tail_at;
};

static uint64_t step_max(const struct td_space *space)
{
	return space->device ? STEP_MAX_DEVICE : STEP_MAX;
}

/* Where room ends, so that the file is one of whole blocks. */
static uint64_t whole(const struct td_space *space, uint64_t need)
{
	return round_up(need + space->tail_len, FILE_BLOCK) - space->tail_len;
}

/* The device has room for that much. */
static int device_holds(struct td_space *space, uint64_t to)
{
	if (!space->device || to <= td_file_size(space->file))
		return 0;
	if (!space->full)
		td_say(space->img, LOG_ERR, "%s: no room is left on the device, which has %llu bytes",
		       td_file_path(space->file), (unsigned long long)td_file_size(space->file));
	space->full = true;
	return -ENOSPC;
}

static int lengthen(struct td_space *space, uint64_t to)
{
	static const char zeroes[TD_TAIL_MAX];
	int err;

	if (space->device)
		return space->tail_len ? -ENOTSUP :
					 td_file_zero(space->file, space->ready, to - space->ready);
	err = td_file_truncate(space->file, to + space->tail_len);

	if (err || !space->tail_len || to == space->tail_at)
		return err;
	err = td_file_write(space->file, space->tail, space->tail_len, to);
	if (err) {
		td_file_truncate(space->file, space->tail_at + space->tail_len);
		return err;
	}
	err = td_file_write(space->file, zeroes, space->tail_len, space->tail_at);
	space->tail_at = to;
	return err;
}

static int grow_run(struct td_work *work)
{
	struct td_space *space = container_of(work, struct td_space, work);
	int err = lengthen(space, space->target);

	if (err && space->need < space->target) { /* no room for more than that */
		space->target = space->need;
		err = lengthen(space, space->target);
	}
	space->at_work = false;
	return err;
}

/* A failure is that of those it was begun for. Who came later tries again. */
static void grow_ended(struct td_work *work, int err)
{
	struct td_space *space = container_of(work, struct td_space, work);
	struct td_parks waiting = space->waiting, late = space->late;

	space->waiting = space->late = (struct td_parks){ 0 };
	space->growing = false;
	if (!err)
		space->ready = max_u64(space->ready, space->target);
	td_parks_go(&waiting, err);
	td_parks_go(&late, 0);
}

static void grow(struct td_space *space, uint64_t need)
{
	space->growing = true;
	space->at_work = true;
	space->need = whole(space, need);
	space->target = whole(space, need + space->step);
	if (space->device)
		space->target = min_u64(space->target, td_file_size(space->file));
	td_work_start(space->img->queue, &space->work);
}

/* Blocking. A worker that is at it comes first. */
static int grow_now(struct td_space *space, uint64_t need)
{
	int err = device_holds(space, need);

	for (unsigned i = 0; space->at_work; i++) {
		if (i == WORKER_MS)
			return -EBUSY;
		usleep(1000);
	}
	if (space->device)
		need = max_u64(need, space->ready);
	else
		need = whole(space, max_u64(need, td_file_size(space->file) - space->tail_len));
	if (!err)
		err = lengthen(space, need);
	if (!err)
		space->ready = need;
	return err;
}

static bool find_freed(struct td_space *space, uint64_t least, uint64_t *len, uint64_t *at)
{
	for (unsigned i = 0; i < space->runs; i++)
		if (space->run[i].len >= least) {
			*at = space->run[i].at;
			*len = min_u64(*len, space->run[i].len);
			return true;
		}
	return false;
}

int td_space_find(struct td_space *space, struct td_park *park, uint64_t least,
		  uint64_t *len, uint64_t *at)
{
	uint64_t has;
	int err;

	if (least <= space->unit && find_freed(space, least, len, at))
		return 0;
	has = space->ready > space->end ? round_down(space->ready - space->end, space->unit) : 0;
	if (has < least && td_cache_blocks(space->cache)) {
		err = grow_now(space, space->end + *len);
		if (err == -ENOSPC && *len > least)
			err = grow_now(space, space->end + (*len = least));
		if (err)
			return err;
		has = *len;
	}
	if (has >= least) {
		*at = space->end;
		*len = min_u64(*len, has);
		return 0;
	}
	if (space->growing) {
		td_parks_add(&space->late, park);
		return TD_PARKED;
	}
	if (space->end > INT64_MAX - least - STEP_MAX)
		return -EFBIG;
	err = device_holds(space, space->end + least);
	if (err)
		return err;
	td_parks_add(&space->waiting, park);
	if (space->step < step_max(space))
		space->step *= 2;
	grow(space, space->end + least);
	return TD_PARKED;
}

void td_space_take(struct td_space *space, uint64_t at, uint64_t len)
{
	if (td_rule("format-room-before-entry"))
		td_cache_data(space->cache);
	for (unsigned i = 0; i < space->runs; i++) {
		struct run *run = &space->run[i];

		if (run->at != at)
			continue;
		run->at += len;
		run->len -= len;
		if (!run->len)
			*run = space->run[--space->runs];
		return;
	}
	space->end = at + len;
	space->taken = true;
	if (!space->growing && !td_cache_blocks(space->cache) &&
	    space->ready < space->end + space->step / 2 &&
	    (!space->device || space->ready < td_file_size(space->file)))
		grow(space, max_u64(space->ready, space->end));
}

void td_space_give(struct td_space *space, uint64_t at, uint64_t len)
{
	for (unsigned i = 0; i < space->runs; i++) {
		struct run *run = &space->run[i];

		if (run->at + run->len == at || at + len == run->at) {
			run->at = min_u64(run->at, at);
			run->len += len;
			return;
		}
	}
	if (space->runs < RUNS)
		space->run[space->runs++] = (struct run){ at, len };
}

bool td_space_has_freed(const struct td_space *space)
{
	return space->runs;
}

struct td_file *td_space_file(const struct td_space *space)
{
	return space->file;
}

uint64_t td_space_end(const struct td_space *space)
{
	return space->end;
}

static int make_whole(struct td_space *space, struct td_why *why)
{
	uint64_t to = whole(space, space->ready);
	int err = space->device || to == space->ready ? 0 : lengthen(space, to);

	if (err)
		return td_fail(why, err, "%s: cannot be made longer: %s",
			       td_file_path(space->file), strerror(-err));
	space->ready = space->device ? space->ready : to;
	return 0;
}

int td_space_new(struct td_image *img, struct td_file *file, struct td_cache *cache,
		 uint32_t unit, uint64_t end, struct td_space **out, struct td_why *why)
{
	struct td_space *space = calloc(1, sizeof(*space));

	if (!space)
		return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(file));
	space->img = img;
	space->file = file;
	space->cache = cache;
	space->unit = unit;
	space->end = end;
	space->device = td_file_is_device(file);
	space->ready = space->device ? end : td_file_size(file);
	space->home = min_u64(space->ready, end);
	space->step = STEP_MIN;
	space->work.run = grow_run;
	space->work.done = grow_ended;
	*out = space;
	return make_whole(space, why);
}

int td_space_tail(struct td_space *space, const void *tail, uint32_t len, uint64_t at,
		  struct td_why *why)
{
	assert(len <= TD_TAIL_MAX);
	memcpy(space->tail, tail, len);
	space->tail_len = len;
	space->tail_at = space->ready = space->home = at;
	return make_whole(space, why);
}

/* What is left over is cut off; after a kill it stays, as a hole. */
static void cut(struct td_space *space)
{
	uint64_t to = space->taken ? space->end : space->home;
	int err = 0;

	if (space->device || space->ready <= to)
		return;
	if (space->tail_len)
		err = td_file_write(space->file, space->tail, space->tail_len, to);
	if (!err)
		err = td_file_truncate(space->file, to + space->tail_len);
	if (!err && space->tail_len)
		td_file_sync(space->file);
}

void td_space_free(struct td_space *space)
{
	if (space)
		cut(space);
	free(space);
}
