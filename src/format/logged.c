/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Batches of a format with a log. There are no stages, but groups, of as many pages as an
 * entry of the log takes:
 *
 *   group_next    a barrier for all that was written before; an entry of the log that has
 *                 the group's pages, and a barrier for that
 *   logged_next   then the pages, to their places
 *
 * Who waits for what is durable need not wait for these.
 */
#include "base/rule.h"
#include "format/cache.h"

/* With the last entry all that anybody may wait for is durable. */
void logged_durable(struct td_cache *cache)
{
	struct td_parks flush = cache->flush, after = cache->after;

	if (cache->entry_end <= cache->logged)
		return;
	cache->logged = cache->entry_end;
	if (cache->logged < cache->copied)
		return;
	cache->flush = cache->after = (struct td_parks){ 0 };
	td_parks_go(&flush, 0);
	td_parks_go(&after, 0);
}

bool logged_may_begin(const struct td_cache *cache)
{
	return (!cache->batch_data || !td_rule("format-data-before-log")) &&
	       cache->unsynced == TD_STAGES;
}

/* As many pages as it takes go into an entry. Returns which is the first that does not. */
static uint32_t entry_make(struct td_cache *cache, void **entry, size_t *len, uint64_t *at)
{
	uint32_t i = cache->logged, end;

	end = i + min_u64(cache->copied - i, td_limit("format-log-pages", UINT32_MAX));
	cache->log->begin(cache->img);
	while (i < end &&
	       cache->log->add(cache->img, cache->copy[i].at, cache->copies + (size_t)i * cache->page))
		i++;
	cache->log->end(cache->img, entry, len, at);
	return i;
}

int logged_write(struct td_cache *cache)
{
	void *entry;
	size_t len;
	uint64_t at;
	int err;

	cache->logged = entry_make(cache, &entry, &len, &at);
	err = td_file_write(cache->file, entry, len, at);
	return err ? err : td_file_sync(cache->file);
}

/* ---- group after group ------------------------------------------------------------ */

static void entry_ended(struct td_req *req)
{
	struct cache_req *own = req->user;
	struct td_cache *cache = own->cache;
	int err = req->err;

	cache->under_way--;
	cache_req_put(cache, own);
	if (err) {
		batch_end(cache, err);
	} else if (td_rule("format-log-before-places")) {
		batch_barrier(cache);
	} else {
		logged_durable(cache);
		batch_next(cache);
	}
}

static void entry_write(struct td_cache *cache, struct cache_req *own)
{
	size_t len;
	uint64_t at;
	void *entry;

	cache->entry_end = entry_make(cache, &entry, &len, &at);
	cache->last_barrier = false;
	cache->under_way++;
	own->req->user = own;
	own->req->step = entry_ended;
	own->req->err = 0;
	td_buffer(own->req, TD_WRITE, entry, len);
	td_io(own->req, cache->file, at);
}

/* All pages of the group before are in their places, or none. */
static void group_next(struct td_cache *cache)
{
	struct cache_req *own;

	if (cache->under_way)
		return;
	if (cache->failed && cache->sent) {
		batch_end(cache, cache->failed);
	} else if (cache->sent == cache->copied && !cache->last_barrier) {
		batch_end(cache, 0);
	} else if (cache->sent == cache->copied) {
		cache->last_barrier = false;
		batch_barrier(cache);
	} else if (!logged_may_begin(cache)) {
		batch_barrier(cache);
	} else if ((own = cache_req_get(cache))) {
		entry_write(cache, own);
	} else { /* all requests load: come again */
		td_defer(cache->img->queue, &cache->defer);
	}
}

void logged_next(struct td_cache *cache)
{
	struct cache_req *own;

	while (cache->sent < cache->logged && !cache->failed && (own = cache_req_get(cache)))
		batch_write_some(cache, own, cache->logged);
	if (cache->sent < cache->logged && !cache->failed && !cache->under_way)
		td_defer(cache->img->queue, &cache->defer);
	else if (cache->sent == cache->logged || cache->failed)
		group_next(cache);
}
