/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counting, failing, shuffling and watching file operations; see hook.h.
 *
 * An id given to end() is the clock at begin() with the file and the kind of
 * operation in the low bits, so that nothing is allocated per operation.
 */
#include "hook.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>

static const char *const event_name[] = {
	[TD_EV_READ]     = "read",     [TD_EV_WRITE] = "write",
	[TD_EV_SYNC]     = "sync",     [TD_EV_TRUNCATE] = "truncate",
	[TD_EV_ALLOCATE] = "allocate", [TD_EV_PUNCH] = "punch",
	[TD_EV_ZERO]     = "zero",
};

const char *hook_event_name(enum td_file_event event)
{
	return event_name[event];
}

enum mark {
	MARK_OTHER,
	MARK_WRITE,
	MARK_SYNC,
};

static struct hook *hook_of(struct td_file_hook *base)
{
	return container_of(base, struct hook, base);
}

static unsigned file_index(struct hook *hook, struct td_file *file)
{
	for (unsigned i = 0; i < HOOK_FILES; i++) {
		if (!hook->file[i].file)
			hook->file[i].file = file;
		if (hook->file[i].file == file)
			return i;
	}
	assert(!"more files than HOOK_FILES");
	return 0;
}

static bool must_fail(struct hook *hook)
{
	if (!hook->fail_at || hook->count < hook->fail_at)
		return false;
	return hook->count == hook->fail_at || hook->fail_on;
}

static int hook_begin(struct td_file_hook *base, const struct td_file_op_seen *op,
		      uint64_t *id)
{
	struct hook *hook = hook_of(base);
	enum mark mark = MARK_OTHER;
	int err = 0;

	pthread_mutex_lock(&hook->lock);
	hook->count++;
	hook->at_home += pthread_equal(pthread_self(), hook->home) != 0;
	hook->clock++;
	if (op->event != TD_EV_READ && op->event != TD_EV_SYNC)
		hook->changes++;
	if (op->event == TD_EV_WRITE && !op->dsync)
		mark = MARK_WRITE;
	if (op->event == TD_EV_SYNC)
		mark = MARK_SYNC;
	*id = hook->clock << 8 | file_index(hook, op->file) << 2 | mark;
	if (must_fail(hook)) {
		if (!hook->failed++) {
			hook->failed_event = op->event;
			hook->failed_aside = !pthread_equal(pthread_self(), hook->home);
		}
		err = hook->fail_err;
	}
	pthread_mutex_unlock(&hook->lock);
	return err;
}

static void hook_end(struct td_file_hook *base, uint64_t id, int err)
{
	struct hook *hook = hook_of(base);
	struct hook_file *file = &hook->file[id >> 2 & 63];
	uint64_t begun = id >> 8;

	pthread_mutex_lock(&hook->lock);
	hook->clock++;
	if (!err && (id & 3) == MARK_WRITE) {
		file->written = hook->clock;
		file->first = file->first ? file->first : hook->clock;
	}
	if (!err && (id & 3) == MARK_SYNC && begun > file->synced)
		file->synced = begun;
	pthread_mutex_unlock(&hook->lock);
}

/* The turn at which an operation may go on; a few are kept long, so that all
 * that could overtake them does. */
static uint64_t release_turn(struct hook *hook)
{
	uint64_t wait = rnd_below(&hook->rnd, 8) ? rnd_below(&hook->rnd, 4) : 40;

	return hook->turn + wait;
}

static bool keeps(struct hook *hook, struct td_fileop *op, bool ended)
{
	bool keep;

	pthread_mutex_lock(&hook->lock);
	keep = hook->keep && op->op == TD_READ && !ended;
	if (keep) {
		hook->keep = false;
		hook->kept = op;
	}
	pthread_mutex_unlock(&hook->lock);
	return keep;
}

static bool hook_hold(struct td_file_hook *base, struct td_fileop *op, bool ended)
{
	struct hook *hook = hook_of(base);

	if (keeps(hook, op, ended))
		return true;
	if (!hook->shuffle)
		return false;
	pthread_mutex_lock(&hook->lock);
	op->hook_turn = release_turn(hook);
	list_add(&hook->held, &op->hook_link);
	pthread_mutex_unlock(&hook->lock);
	eventfd_write(hook->wake, 1);
	return true;
}

void hook_init(struct hook *hook, uint64_t seed, bool shuffle)
{
	*hook = (struct hook){
		.base = { .begin = hook_begin, .end = hook_end, .hold = hook_hold },
		.rnd = { seed },
		.shuffle = shuffle,
		.fail_err = -EIO,
		.home = pthread_self(),
	};
	pthread_mutex_init(&hook->lock, NULL);
	list_init(&hook->held);
}

void hook_free(struct hook *hook)
{
	assert(list_empty(&hook->held));
	pthread_mutex_destroy(&hook->lock);
}

void hook_keep_next(struct hook *hook)
{
	pthread_mutex_lock(&hook->lock);
	hook->keep = true;
	pthread_mutex_unlock(&hook->lock);
}

bool hook_keeps(struct hook *hook)
{
	bool keeps;

	pthread_mutex_lock(&hook->lock);
	keeps = hook->kept;
	pthread_mutex_unlock(&hook->lock);
	return keeps;
}

void hook_let_go(struct hook *hook)
{
	td_fileop_release(hook->kept);
	hook->kept = NULL;
}

bool hook_holds(struct hook *hook)
{
	bool holds;

	pthread_mutex_lock(&hook->lock);
	holds = !list_empty(&hook->held);
	pthread_mutex_unlock(&hook->lock);
	return holds;
}

/* Releasing may make the driver issue more, which is held anew: take one at a
 * time, from a random place. */
static struct td_fileop *hook_pick(struct hook *hook)
{
	struct td_fileop *picked = NULL;
	unsigned ready = 0;

	pthread_mutex_lock(&hook->lock);
	LIST_FOR(struct td_fileop, op, &hook->held, hook_link)
		if ((op->hook_turn <= hook->turn || !hook->shuffle) &&
		    rnd_below(&hook->rnd, ++ready) == 0)
			picked = op;
	if (picked)
		list_del(&picked->hook_link);
	pthread_mutex_unlock(&hook->lock);
	return picked;
}

void hook_turn(struct hook *hook)
{
	struct td_fileop *op;

	pthread_mutex_lock(&hook->lock);
	hook->turn++;
	pthread_mutex_unlock(&hook->lock);
	while ((op = hook_pick(hook)))
		td_fileop_release(op);
}

void hook_calm(struct hook *hook)
{
	hook->shuffle = false;
	hook_turn(hook);
}

unsigned hook_unsynced(struct hook *hook)
{
	unsigned files = 0;

	pthread_mutex_lock(&hook->lock);
	for (unsigned i = 0; i < HOOK_FILES; i++)
		files += hook->file[i].written > hook->file[i].synced;
	pthread_mutex_unlock(&hook->lock);
	return files;
}

void hook_mark(struct hook *hook)
{
	pthread_mutex_lock(&hook->lock);
	for (unsigned i = 0; i < HOOK_FILES; i++) {
		hook->file[i].before = hook->file[i].written;
		hook->file[i].first = 0;
	}
	pthread_mutex_unlock(&hook->lock);
}

unsigned hook_unsynced_entries(struct hook *hook)
{
	unsigned files = 0;

	pthread_mutex_lock(&hook->lock);
	for (unsigned i = 0; i < HOOK_FILES; i++)
		files += max_u64(hook->file[i].before, hook->file[i].first) > hook->file[i].synced;
	pthread_mutex_unlock(&hook->lock);
	return files;
}
