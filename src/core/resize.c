/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk becomes larger while it is used:
 *
 *   hold -> drained -> flushed -> quiet -> the driver's resize() -> go on
 *
 * Each queue parks what is submitted from then on, and tells when its last request has
 * ended; so the driver finds what resize() wants, an image that nobody uses. All of it
 * is short, and a guest sees slow requests and no error.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/core_impl.h"

#define QUIET_MS 1 /* between two looks whether the driver still works */

struct td_resizing {
	struct td_disk *disk;
	uint64_t size;
	td_resized *done;
	void *arg;
	unsigned busy;         /* queues that are not drained yet */
	struct td_pool *pool;  /* of the flush */
	struct td_req *flush;
	struct td_timer look;
	struct td_why why;
};

static void go_on(struct td_post *post)
{
	struct td_queue *queue = container_of(post, struct td_queue, go);
	struct list parked, *link;

	queue->held = false;
	list_init(&parked);
	list_join(&parked, &queue->parked);
	while ((link = list_pop(&parked)))
		td_submit(&list_item(link, struct td_slot, link)->req);
}

static void resizing_ends(struct td_resizing *resizing, int err)
{
	struct td_disk *disk = resizing->disk;

	for (unsigned i = 0; i < disk->queue_count; i++) {
		disk->queues[i].go.run = go_on;
		td_loop_post(disk->queues[i].loop, &disk->queues[i].go);
	}
	if (resizing->flush)
		td_pool_put(resizing->pool, resizing->flush);
	td_pool_free(resizing->pool);
	disk->resizing = NULL;
	if (err && !resizing->why.text[0])
		td_fail(&resizing->why, err, "%s: cannot get another size: %s", disk->name,
			strerror(-err));
	resizing->done(resizing->arg, err, err ? resizing->why.text : NULL);
	free(resizing);
}

static void look(struct td_timer *timer)
{
	struct td_resizing *resizing = container_of(timer, struct td_resizing, look);
	struct td_disk *disk = resizing->disk;
	struct td_image *top = &disk->top->img;

	if (td_loop_working(disk->loop) || td_disk_queue(disk)->file_io) {
		td_timer_arm(disk->loop, timer, QUIET_MS);
		return;
	}
	resizing_ends(resizing, top->driver->resize(top, resizing->size, &resizing->why));
}

/* May be called from within the submission. */
static void flushed(struct td_req *req)
{
	struct td_resizing *resizing = *(struct td_resizing **)td_req_user(req);

	if (req->err)
		td_fail(&resizing->why, req->err, "%s: its flush failed: %s",
			resizing->disk->name, strerror(-req->err));
	td_timer_arm(resizing->disk->loop, &resizing->look, 0);
}

static void look_at_flush(struct td_timer *timer)
{
	struct td_resizing *resizing = container_of(timer, struct td_resizing, look);

	if (resizing->flush->err) {
		resizing_ends(resizing, resizing->flush->err);
		return;
	}
	timer->fired = look;
	look(timer);
}

static void queue_drained(struct td_post *post)
{
	struct td_queue *queue = container_of(post, struct td_queue, hold);
	struct td_resizing *resizing = queue->disk->resizing;
	struct td_req *req = resizing->flush;

	if (--resizing->busy)
		return;
	req->op = TD_FLUSH;
	req->offset = req->len = 0;
	req->iov = NULL;
	req->iov_count = 0;
	*(struct td_resizing **)td_req_user(req) = resizing;
	resizing->look.fired = look_at_flush;
	root_submit(req);
}

void queue_ended_one(struct td_queue *queue)
{
	if (!queue->held || queue->told || queue->in_flight)
		return;
	queue->told = true;
	queue->hold.run = queue_drained;
	td_loop_post(queue->disk->loop, &queue->hold);
}

static void hold(struct td_post *post)
{
	struct td_queue *queue = container_of(post, struct td_queue, hold);

	queue->held = true;
	queue->told = false;
	queue_ended_one(queue);
}

static int may_resize(const struct td_disk *disk, uint64_t size, struct td_why *why)
{
	const struct td_image *top = &disk->top->img;

	if (disk->resizing)
		return td_fail(why, -EALREADY, "%s: is about to get another size", disk->name);
	if (top->read_only)
		return td_fail(why, -EROFS, "%s: is read-only", disk->name);
	if (top->shared)
		return td_fail(why, -EBUSY, "%s: other disks may use it, and would not know",
			       disk->name);
	if (!top->driver->resize)
		return td_fail(why, -EOPNOTSUPP, "%s: %s images keep the size they have",
			       disk->name, top->driver->name);
	if (size <= top->size || !is_aligned(size, top->block_size))
		return td_fail(why, -EINVAL, "%s: %llu bytes: a multiple of %u above its %llu is "
			       "wanted while it is used", disk->name, (unsigned long long)size,
			       top->block_size, (unsigned long long)top->size);
	return 0;
}

int td_disk_resize(struct td_disk *disk, uint64_t size, td_resized *done, void *arg,
		   struct td_why *why)
{
	struct td_resizing *resizing;
	int err = may_resize(disk, size, why);

	if (err)
		return err;
	resizing = calloc(1, sizeof(*resizing));
	if (!resizing)
		return td_fail(why, -ENOMEM, "no memory");
	*resizing = (struct td_resizing){
		.disk = disk, .size = size, .done = done, .arg = arg,
		.busy = disk->queue_count,
	};
	err = td_pool_new(td_disk_queue(disk), 1, sizeof(struct td_resizing *), flushed,
			  &resizing->pool);
	if (err) {
		free(resizing);
		return td_fail(why, err, "%s", strerror(-err));
	}
	resizing->flush = td_pool_get(resizing->pool);
	disk->resizing = resizing;
	for (unsigned i = 0; i < disk->queue_count; i++) {
		disk->queues[i].hold.run = hold;
		td_loop_post(disk->queues[i].loop, &disk->queues[i].hold);
	}
	return 0;
}
