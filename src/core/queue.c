/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queues of a disk. The first, its home, is the thread and loop of whoever opens
 * the disk; each other one is a thread of its own with a loop and an I/O engine.
 *
 * A driver that can serve every queue (TD_CAN_ANY_QUEUE) is called on the one that a
 * request came from. Any other lives at home: its requests are sent there, and back
 * when they have ended, so that it never meets another thread.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/core_impl.h"

struct start {
	struct td_queue *queue;
	struct td_why *why;
	int err;
	sem_t said;
};

static int queue_open(struct td_queue *queue, struct td_why *why)
{
	const struct td_disk_options *options = &queue->disk->options;

	return td_fileio_new(queue->loop, options->engine, options->depth, &queue->io, why);
}

/* The engine is made and freed by the thread that uses it: a ring has one user. */
static void *queue_main(void *arg)
{
	struct start *start = arg;
	struct td_queue *queue = start->queue;
	int err = queue_open(queue, start->why);

	start->err = err;
	sem_post(&start->said); /* start is gone */
	if (!err)
		td_loop_run(queue->loop);
	td_fileio_free(queue->io);
	return NULL;
}

/* Signals are for the home thread. */
static int thread_start(struct start *start)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&start->queue->thread, NULL, queue_main, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

static int queue_start(struct td_queue *queue, struct td_why *why)
{
	struct start start = { .queue = queue, .why = why };
	int err = td_loop_new(&queue->loop);

	if (err)
		return err;
	sem_init(&start.said, 0, 0);
	err = thread_start(&start);
	if (!err) {
		while (sem_wait(&start.said) < 0)
			;
		err = start.err;
		if (err)
			pthread_join(queue->thread, NULL);
	}
	sem_destroy(&start.said);
	queue->runs = !err;
	return err;
}

int queues_open(struct td_disk *disk, unsigned count, struct td_why *why)
{
	int err;

	disk->queues = aligned_alloc(64, count * sizeof(*disk->queues));
	if (!disk->queues)
		return -ENOMEM;
	memset(disk->queues, 0, count * sizeof(*disk->queues));
	for (unsigned i = 0; i < count; i++) {
		disk->queues[i].disk = disk;
		disk->queues[i].index = i;
		list_init(&disk->queues[i].parked);
	}
	disk->queues[0].loop = disk->loop;
	err = queue_open(&disk->queues[0], why);
	for (disk->queue_count = 1; !err && disk->queue_count < count; disk->queue_count++)
		err = queue_start(&disk->queues[disk->queue_count], why);
	if (err)
		queues_close(disk);
	return err;
}

void queues_stop(struct td_disk *disk)
{
	for (unsigned i = 1; i < disk->queue_count; i++) {
		struct td_queue *queue = &disk->queues[i];

		if (!queue->runs)
			continue;
		td_loop_stop(queue->loop);
		pthread_join(queue->thread, NULL);
		queue->runs = false;
	}
}

void queues_close(struct td_disk *disk)
{
	if (!disk->queues)
		return;
	queues_stop(disk);
	for (unsigned i = 1; i < disk->queue_count; i++)
		td_loop_free(disk->queues[i].loop);
	td_fileio_free(disk->queues[0].io);
	free(disk->queues);
	disk->queues = NULL;
}

struct td_loop *td_queue_loop(const struct td_queue *queue)
{
	return queue->loop;
}

unsigned td_queue_index(const struct td_queue *queue)
{
	return queue->index;
}

unsigned td_queue_count(const struct td_queue *queue)
{
	return queue->disk->queue_count;
}

unsigned td_disk_queues(const struct td_disk *disk)
{
	return disk->queue_count;
}

struct td_queue *td_disk_queue_at(const struct td_disk *disk, unsigned index)
{
	return &disk->queues[index];
}

struct td_queue *td_disk_queue(const struct td_disk *disk)
{
	return &disk->queues[0];
}
