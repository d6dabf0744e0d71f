/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a run down; see log.h.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

void log_init(struct log *log, uint32_t tag, const char *survivors_in)
{
	*log = (struct log){ .tag = tag, .survivors_in = survivors_in };
	pthread_mutex_init(&log->lock, NULL);
}

void log_free(struct log *log)
{
	for (unsigned i = 0; i < log->deeds; i++)
		free(log->deed[i].data);
	for (unsigned i = 0; i < log->files; i++)
		store_free(&log->file[i].before);
	for (unsigned i = 0; i < log->taken; i++)
		survivors_free(&log->survivors[i]);
	free(log->survivors);
	free(log->deed);
	free(log->asked);
	pthread_mutex_destroy(&log->lock);
}

/* ---- survivor memory --------------------------------------------------------- */

/* The clock has ticked; with the lock held, so that no other thread moves it on. */
static void survivors_note(struct log *log)
{
	const struct survivors *before;

	if (!log->survivors_in || !log->base.begin || !pthread_equal(log->loop, pthread_self()))
		return;
	if (log->taken == log->taken_room) {
		log->taken_room = log->taken_room * 2 + 64;
		log->survivors = realloc(log->survivors,
					 log->taken_room * sizeof(*log->survivors));
	}
	before = log->taken ? &log->survivors[log->taken - 1] : NULL;
	struct survivors *now = &log->survivors[log->taken++];
	survivors_take(now, before, log->survivors_in);
	now->at = log->clock;
	log->survives |= now->count > 0;
}

const struct survivors *log_survivors(const struct log *log, uint64_t at)
{
	for (unsigned i = 0; i < log->taken; i++)
		if (log->survivors[i].at == at)
			return &log->survivors[i];
	return NULL;
}

/* ---- deeds ------------------------------------------------------------------- */

static unsigned file_find(struct log *log, const char *path)
{
	unsigned i = 0;

	while (i < log->files && strcmp(log->file[i].path, path))
		i++;
	if (i < log->files)
		return i;
	require(i < LOG_FILES && strlen(path) < sizeof(log->file[i].path), "%s: too many files",
		path);
	strcpy(log->file[i].path, path);
	store_load(&log->file[i].before, path);
	return log->files++;
}

unsigned log_deed(struct log *log, const char *path, const struct deed *deed)
{
	pthread_mutex_lock(&log->lock);
	if (log->deeds == log->deeds_room) {
		log->deeds_room = log->deeds_room * 2 + 256;
		log->deed = realloc(log->deed, log->deeds_room * sizeof(*log->deed));
	}
	unsigned i = log->deeds++;
	log->deed[i] = *deed;
	log->deed[i].file = file_find(log, path);
	log->deed[i].issued = ++log->clock;
	log->deed[i].ended = NEVER;
	survivors_note(log);
	pthread_mutex_unlock(&log->lock);
	return i;
}

void log_deed_ended(struct log *log, unsigned deed, int err)
{
	pthread_mutex_lock(&log->lock);
	log->deed[deed].ended = ++log->clock;
	log->deed[deed].err = err;
	survivors_note(log);
	pthread_mutex_unlock(&log->lock);
}

static struct log *log_of(struct td_file_hook *base)
{
	return container_of(base, struct log, base);
}

static char *gather(const struct td_file_op_seen *op)
{
	char *data = malloc(op->len), *at = data;

	for (unsigned i = 0; i < op->iov_count; i++) {
		memcpy(at, op->iov[i].iov_base, op->iov[i].iov_len);
		at += op->iov[i].iov_len;
	}
	return data;
}

/* The hook's ids are the deeds' numbers from 1; 0 for what is not written down. */
static int log_begin(struct td_file_hook *base, const struct td_file_op_seen *op, uint64_t *id)
{
	struct deed deed = {
		.event = op->event, .offset = op->offset, .len = op->len, .dsync = op->dsync,
	};

	*id = 0;
	if (op->event == TD_EV_READ)
		return 0;
	if (op->event == TD_EV_WRITE)
		deed.data = gather(op);
	*id = log_deed(log_of(base), td_file_path(op->file), &deed) + 1;
	return 0;
}

static void log_end(struct td_file_hook *base, uint64_t id, int err)
{
	if (id)
		log_deed_ended(log_of(base), id - 1, err);
}

static bool log_hold(struct td_file_hook *base, struct td_fileop *op, bool ended)
{
	struct log *log = log_of(base);

	return log->next->base.hold(&log->next->base, op, ended);
}

struct td_file_hook *log_hook(struct log *log)
{
	log->base = (struct td_file_hook){ .begin = log_begin, .end = log_end };
	log->loop = pthread_self();
	return &log->base;
}

void log_attach(struct log *log, struct rig *rig)
{
	rig->options.hook = log_hook(log);
	log->base.hold = log_hold;
	log->next = &rig->hook;
}

static int ignore_begin(struct td_file_hook *base, const struct td_file_op_seen *op,
			uint64_t *id)
{
	*id = 0;
	return 0;
}

void log_detach(struct log *log, struct rig *rig)
{
	pthread_mutex_lock(&log->lock);
	log->base.begin = ignore_begin;
	log->survivors_in = NULL;
	pthread_mutex_unlock(&log->lock);
}

/* ---- requests ---------------------------------------------------------------- */

unsigned log_asked(struct log *log, enum td_op op, unsigned flags, uint64_t offset,
		   uint64_t len, uint32_t tag)
{
	if (log->asks == log->asks_room) {
		log->asks_room = log->asks_room * 2 + 64;
		log->asked = realloc(log->asked, log->asks_room * sizeof(*log->asked));
	}
	pthread_mutex_lock(&log->lock);
	log->asked[log->asks] = (struct asked){
		.op = op, .flags = flags, .offset = offset, .len = len,
		.tag = op == TD_WRITE ? tag : TAG_ZERO,
		.issued = ++log->clock, .ended = NEVER, .safe = NEVER,
	};
	pthread_mutex_unlock(&log->lock);
	return log->asks++;
}

void log_answered(struct log *log, unsigned ask, int err)
{
	pthread_mutex_lock(&log->lock);
	log->asked[ask].ended = ++log->clock;
	log->asked[ask].err = err;
	survivors_note(log);
	pthread_mutex_unlock(&log->lock);
}

void log_resize(struct log *log, uint64_t to)
{
	log->old_size = log->disk_size;
	log->disk_size = to;
	log->resize_began = ++log->clock;
	log->resize_ended = NEVER;
}

void log_resized(struct log *log)
{
	log->resize_ended = ++log->clock;
}

void log_settle(struct log *log)
{
	for (unsigned i = 0; i < log->asks; i++)
		log->asked[i].safe = log->asked[i].ended;
	log->began = log->clock;
}

/* ---- what can be said when the run is over ------------------------------------ */

static uint64_t deed_safe(const struct log *log, const struct deed *deed)
{
	uint64_t safe = deed->dsync ? deed->ended : NEVER;

	for (unsigned i = 0; i < log->deeds; i++) {
		const struct deed *sync = &log->deed[i];
		if (sync->event == TD_EV_SYNC && sync->file == deed->file && !sync->err &&
		    deed->ended != NEVER && sync->issued > deed->ended)
			safe = min_u64(safe, sync->ended);
	}
	return safe;
}

static uint64_t ask_safe(const struct log *log, const struct asked *ask)
{
	uint64_t safe = ask->flags & TD_FUA ? ask->ended : NEVER;

	for (unsigned i = 0; i < log->asks; i++) {
		const struct asked *flush = &log->asked[i];
		if (flush->op == TD_FLUSH && !flush->err && ask->ended != NEVER &&
		    flush->issued > ask->ended)
			safe = min_u64(safe, flush->ended);
	}
	return safe;
}

static bool changes_bytes(const struct deed *deed)
{
	return deed->event == TD_EV_WRITE || deed->event == TD_EV_ZERO ||
	       deed->event == TD_EV_PUNCH;
}

static void expect_no_race(const struct deed *a, const struct deed *b)
{
	if (!changes_bytes(a) || !changes_bytes(b) || a->file != b->file)
		return;
	require(b->issued > a->ended || a->offset >= b->offset + b->len ||
		b->offset >= a->offset + a->len,
		"a %s of %llu+%llu and a %s of %llu+%llu were in flight together",
		hook_event_name(a->event), (unsigned long long)a->offset,
		(unsigned long long)a->len, hook_event_name(b->event),
		(unsigned long long)b->offset, (unsigned long long)b->len);
}

void log_finish(struct log *log)
{
	for (unsigned i = 0; i < log->deeds; i++) {
		log->deed[i].safe = deed_safe(log, &log->deed[i]);
		for (unsigned j = 0; j < i; j++)
			expect_no_race(&log->deed[j], &log->deed[i]);
	}
	for (unsigned i = 0; i < log->asks; i++)
		if (log->asked[i].safe == NEVER)
			log->asked[i].safe = ask_safe(log, &log->asked[i]);
}
