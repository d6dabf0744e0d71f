/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty pages on their way to the file, in batches:
 *
 *   batch_start   copies all that is dirty, at one instant: so the file goes from
 *                 one whole state of the tables to another
 *   stages_next   a barrier, if something written before must come before this
 *                 stage; then the stage's pages, neighbours together
 *   batch_end     a barrier, if anybody waits for what is durable
 *
 * logged.c has what comes between for a format with a log.
 *
 * A batch is begun by a flush, when a third of the cache is dirty, and a second
 * after the first change. Flushes that come meanwhile share the next one. A page
 * that changes meanwhile stays dirty, and so does one whose write fails: then the
 * flushes of the batch fail, and later ones try again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/rule.h"
#include "format/cache.h"

#define LATER_MS 1000
#define WRITE_MAX (256 * KiB)
#define KEEP_COPIES (1 * MiB)

/* ---- the end ----------------------------------------------------------------- */

static void release_copies(struct td_cache *cache)
{
	if ((size_t)cache->copied * cache->page > KEEP_COPIES)
		madvise(cache->copies, (size_t)cache->copied * cache->page, MADV_DONTNEED);
	cache->copied = 0;
}

/* The pages of a batch that did not change meanwhile are clean, if it went well. */
static void copies_end(struct td_cache *cache, int err)
{
	for (uint32_t i = 0; i < cache->copied; i++) {
		struct cache_slot *slot = &cache->slot[cache->copy[i].slot];

		slot->in_batch = false;
		if (slot->dirty)
			continue;
		if (!err) {
			td_survivor_written(cache->survivor, cache->copy[i].slot, 0, true);
			cache_cleaned(cache, cache->copy[i].slot);
		} else {
			slot->dirty = true;
			list_add(&cache->changed, &slot->link);
		}
	}
	release_copies(cache);
}

void batch_end(struct td_cache *cache, int err)
{
	struct td_parks flush = cache->flush, after = cache->after;

	copies_end(cache, err);
	cache->running = false;
	cache->failed = err;
	cache->flush = cache->after = (struct td_parks){ 0 };
	if (err) /* what comes later must wait on */
		while (after.first) {
			struct td_park *park = after.first;

			after.first = park->next;
			td_parks_add(&cache->after_next, park);
		}
	if (cache->dirty || cache->after_next.first)
		batch_later(cache);
	if (cache->flush_next.first)
		batch_now(cache);
	td_parks_go(&flush, err);
	td_parks_go(&after, 0);
	td_parks_go(&cache->for_slot, cache->dirty == cache->count ? err : 0);
	td_parks_go(&cache->for_room, err);
}

/* ---- barriers, and writes ------------------------------------------------------ */

static void barrier_ended(struct td_req *req)
{
	struct td_cache *cache = req->user;

	if (req->err) {
		cache->data = true; /* nothing is known to be durable */
		cache->unsynced = 0;
		batch_end(cache, req->err);
		return;
	}
	logged_durable(cache);
	batch_next(cache);
}

static void barrier_send(struct td_cache *cache, struct td_file *file, td_step *step)
{
	cache->barrier->user = cache;
	cache->barrier->step = step;
	cache->barrier->err = 0;
	td_buffer(cache->barrier, TD_FLUSH, NULL, 0);
	td_io(cache->barrier, file, 0);
}

/* Data in a file of their own are durable: now the tables' file. */
static void data_synced(struct td_req *req)
{
	struct td_cache *cache = req->user;

	if (req->err)
		barrier_ended(req);
	else
		barrier_send(cache, cache->file, barrier_ended);
}

void batch_barrier(struct td_cache *cache)
{
	cache->data = cache->batch_data = false;
	cache->unsynced = TD_STAGES;
	if (cache->data_file)
		barrier_send(cache, cache->data_file, data_synced);
	else
		barrier_send(cache, cache->file, barrier_ended);
}

static void write_ended(struct td_req *req)
{
	struct cache_req *own = req->user;
	struct td_cache *cache = own->cache;
	int err = req->err;

	for (uint32_t i = own->first; i < own->first + own->count; i++)
		td_survivor_written(cache->survivor, cache->copy[i].slot, err, false);
	if (err)
		cache->failed = err;
	cache->under_way--;
	cache_req_put(cache, own);
	batch_next(cache);
}

void batch_write_some(struct td_cache *cache, struct cache_req *own, uint32_t end)
{
	uint32_t first = cache->sent, n = 1, max = WRITE_MAX / cache->page;

	while (n < max && first + n < end &&
	       cache->copy[first + n].stage == cache->copy[first].stage &&
	       cache->copy[first + n].at == cache->copy[first].at + (uint64_t)n * cache->page)
		n++;
	own->first = first;
	own->count = n;
	cache->sent += n;
	cache->under_way++;
	cache->unsynced = min_u64(cache->unsynced, cache->copy[first].stage);
	own->req->user = own;
	own->req->step = write_ended;
	own->req->err = 0;
	td_buffer(own->req, TD_WRITE, cache->copies + (size_t)first * cache->page,
		  (size_t)n * cache->page);
	td_io(own->req, cache->file, cache->copy[first].at);
}

static bool needs_barrier(const struct td_cache *cache, unsigned stage)
{
	return (cache->unsynced < stage && td_rule("format-stages-in-order")) ||
	       (cache->batch_data && stage >= cache->shows &&
		td_rule("format-data-before-entry"));
}

/* ---- stage after stage ----------------------------------------------------------- */

/* Sends what may be sent. Loads have the same requests: one comes back some time. */
static void stages_next(struct td_cache *cache)
{
	unsigned stage = cache->copy[cache->sent].stage;
	struct cache_req *own;

	if (cache->sent && cache->copy[cache->sent - 1].stage != stage && cache->under_way)
		return;
	if (!cache->under_way && needs_barrier(cache, stage)) {
		batch_barrier(cache);
		return;
	}
	while (cache->sent < cache->copied && cache->copy[cache->sent].stage == stage) {
		own = cache_req_get(cache);
		if (!own && cache->under_way)
			return;
		if (!own) { /* all requests load: come again */
			td_defer(cache->img->queue, &cache->defer);
			return;
		}
		batch_write_some(cache, own, cache->copied);
	}
}

void batch_next(struct td_cache *cache)
{
	if (cache->log) {
		logged_next(cache);
	} else if (!(cache->failed && cache->sent) && cache->sent < cache->copied) {
		stages_next(cache);
	} else if (cache->under_way) {
		return;
	} else if (cache->failed && cache->sent) {
		batch_end(cache, cache->failed);
	} else if (cache->last_barrier) {
		cache->last_barrier = false;
		batch_barrier(cache);
	} else {
		batch_end(cache, 0);
	}
}

/* ---- the start ------------------------------------------------------------------- */

static int by_stage_and_place(const void *a_, const void *b_)
{
	const struct cache_copy *a = a_, *b = b_;

	if (a->stage != b->stage)
		return a->stage < b->stage ? -1 : 1;
	return a->at < b->at ? -1 : a->at > b->at;
}

static void copy_dirty(struct td_cache *cache)
{
	struct list *link;

	cache->batch_data = cache->data;
	while ((link = list_pop(&cache->changed))) {
		struct cache_slot *slot = list_item(link, struct cache_slot, link);

		cache->copy[cache->copied++] =
			(struct cache_copy){ slot - cache->slot, slot->stage, slot->at };
	}
	qsort(cache->copy, cache->copied, sizeof(*cache->copy), by_stage_and_place);
	for (uint32_t i = 0; i < cache->copied; i++) {
		uint32_t from = cache->copy[i].slot;
		char *to = cache->copies + (size_t)i * cache->page;

		memcpy(to, cache_page(cache, from), cache->page);
		td_survivor_writing(cache->survivor, from, to);
		cache->slot[from].dirty = false;
		cache->slot[from].in_batch = true;
	}
}

static void batch_start(struct td_cache *cache)
{
	cache->running = true;
	cache->failed = 0;
	cache->sent = cache->copied = cache->under_way = cache->logged = cache->entry_end = 0;
	cache->flush = cache->flush_next;
	cache->after = cache->after_next;
	cache->flush_next = cache->after_next = (struct td_parks){ 0 };
	cache->last_barrier = cache->flush.first || cache->after.first;
	copy_dirty(cache);
	batch_next(cache);
}

/* The only one to start a batch: so the call is not queued while one runs, but by a batch
 * that waits for a request. Else it would go on past a barrier that is under way. */
static void batch_run(struct td_defer *defer)
{
	struct td_cache *cache = container_of(defer, struct td_cache, defer);

	if (cache->running)
		batch_next(cache);
	else
		batch_start(cache);
}

static void alarm_rang(void *arg)
{
	struct td_cache *cache = arg;

	if (cache->dirty || cache->after_next.first)
		batch_now(cache);
}

void batch_now(struct td_cache *cache)
{
	if (!cache->running)
		td_defer(cache->img->queue, &cache->defer);
}

void batch_later(struct td_cache *cache)
{
	if (!td_alarm_is_set(cache->alarm))
		td_alarm_set(cache->alarm, LATER_MS);
}

void td_cache_data(struct td_cache *cache)
{
	cache->data = true;
}

void td_cache_flush(struct td_cache *cache, struct td_park *park)
{
	td_parks_add(&cache->flush_next, park);
	batch_now(cache);
}

void td_cache_after(struct td_cache *cache, struct td_park *park)
{
	td_parks_add(&cache->after_next, park);
	batch_later(cache);
}

/* ---- open and close ----------------------------------------------------------------- */

int batch_open(struct td_cache *cache)
{
	size_t size;

	cache->copy_max = cache->count;
	cache->unsynced = TD_STAGES;
	cache->defer.run = batch_run;
	cache->alarm = td_alarm_new(cache->img->queue, alarm_rang, cache);
	cache->barrier = td_req_new(cache->img->queue, cache->img);
	cache->copy = calloc(cache->copy_max, sizeof(*cache->copy));
	if (!cache->alarm || !cache->barrier || !cache->copy)
		return -ENOMEM;
	size = (size_t)cache->copy_max * cache->page;
	cache->copies = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (cache->copies == MAP_FAILED) {
		cache->copies = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int sync_all(struct td_cache *cache)
{
	int err = cache->data_file ? td_file_sync(cache->data_file) : 0;

	return err ? err : td_file_sync(cache->file);
}

/* What comes before copy i. */
static int sync_before(struct td_cache *cache, uint32_t i)
{
	int err = 0;

	if (cache->log ? i == cache->logged && !logged_may_begin(cache) :
			 needs_barrier(cache, cache->copy[i].stage)) {
		err = sync_all(cache);
		cache->data = cache->batch_data = false;
		cache->unsynced = TD_STAGES;
	}
	return err || !cache->log || i < cache->logged ? err : logged_write(cache);
}

int batch_write_all(struct td_cache *cache)
{
	int err = 0;

	copy_dirty(cache);
	cache->logged = 0;
	for (uint32_t i = 0; i < cache->copied && !err; i++) {
		const struct cache_copy *copy = &cache->copy[i];

		err = sync_before(cache, i);
		if (err)
			break;
		cache->unsynced = min_u64(cache->unsynced, copy->stage);
		err = td_file_write(cache->file, cache->copies + (size_t)i * cache->page,
				    cache->page, copy->at);
		td_survivor_written(cache->survivor, copy->slot, err, false);
	}
	if (!err)
		err = sync_all(cache);
	cache->data = err;
	cache->unsynced = err ? 0 : TD_STAGES;
	copies_end(cache, err);
	return err;
}

/* The page that must come after all others, which are durable. */
static int write_last(struct td_cache *cache)
{
	void *page = cache_page(cache, cache->last);
	int err;

	if (!cache->last_at)
		return 0;
	td_survivor_writing(cache->survivor, cache->last, page);
	err = td_file_write(cache->file, page, cache->page, cache->last_at);
	if (!err)
		err = td_file_sync(cache->file);
	td_survivor_written(cache->survivor, cache->last, err, true);
	if (!err)
		cache->last_at = 0;
	return err;
}

void batch_close(struct td_cache *cache)
{
	int err = 0;

	if (td_file_is_removed(cache->file))
		cache->dirty = cache->last_at = 0;
	if (cache->survivor && (cache->dirty || cache->last_at)) {
		err = batch_write_all(cache);
		if (!err)
			err = write_last(cache);
		if (err)
			td_say(cache->img, LOG_ERR, "tables are not in the file: %s; survivor memory "
			       "keeps them for the next who opens it", strerror(-err));
	}
	if (cache->defer.run)
		td_undefer(cache->img->queue, &cache->defer);
	td_alarm_free(cache->alarm);
	td_req_free(cache->barrier);
	if (cache->copies)
		munmap(cache->copies, (size_t)cache->copy_max * cache->page);
	free(cache->copy);
}
