/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of tables in memory. Those of a writable image lie in survivor memory, so
 * a change is safe from a kill once it is stored here; batch.c writes it to the
 * file later. Memory is bounded: a miss takes the page that was unused longest,
 * and pages that are dirty are never more than half.
 */
#include "format/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/rule.h"

#define SIZE_DEFAULT (16 * MiB)
#define SIZE_LIMIT (4 * GiB)
#define LOOKS 256            /* at pages, for one to evict: of a large cache */

/* ---- found by its place --------------------------------------------------- */

static uint32_t *hash_of(struct td_cache *cache, uint64_t at)
{
	return &cache->hash[((at >> cache->page_bits) * 0x9e3779b97f4a7c15ull >> 32) & cache->hash_mask];
}

static uint32_t slot_find(struct td_cache *cache, uint64_t at)
{
	uint32_t i = *hash_of(cache, at);

	while (i != CACHE_NONE && cache->slot[i].at != at)
		i = cache->slot[i].next;
	return i;
}

static void slot_name(struct td_cache *cache, uint32_t i, uint64_t at)
{
	uint32_t *head = hash_of(cache, at);

	cache->slot[i].at = at;
	cache->slot[i].next = *head;
	*head = i;
}

static void slot_forget(struct td_cache *cache, uint32_t i)
{
	uint32_t *link = hash_of(cache, cache->slot[i].at);

	while (*link != i)
		link = &cache->slot[*link].next;
	*link = cache->slot[i].next;
}

/* ---- a slot for another page ------------------------------------------------ */

static bool slot_fresh(struct td_cache *cache, uint32_t *out)
{
	uint32_t i = cache->fresh;

	if (i == cache->count || cache->no_more)
		return false;
	if (cache->survivor && td_survivor_use(cache->survivor, i)) {
		cache->no_more = true;
		return false;
	}
	cache->fresh++;
	list_init(&cache->slot[i].link);
	*out = i;
	return true;
}

/* It is the last to be evicted. */
static void lru_add(struct td_cache *cache, struct cache_slot *slot)
{
	list_add(&cache->lru, &slot->link);
	slot->again = false;
}

/* A page is got much more often than one is evicted: it stays where it is in the list. */
static void touch(struct td_cache *cache, struct cache_slot *slot)
{
	slot->again = true;
	slot->hit = ++cache->hits;
}

/* A step needs several pages at a time, and those of many steps take turns. */
static bool is_recent(const struct td_cache *cache, const struct cache_slot *slot)
{
	return cache->hits - slot->hit < max_u64(cache->fresh / 4, min_u64(cache->fresh / 2, 4));
}

/* The page that was unused longest, more or less: who was got since he came to the end of
 * the list goes there once more, unless too many did. Nobody loses what he has just got. */
static bool evict(struct td_cache *cache, uint32_t *out)
{
	struct list *link;

	for (uint32_t n = 0; n < 2 * cache->fresh && (link = list_pop(&cache->lru)); n++) {
		struct cache_slot *slot = list_item(link, struct cache_slot, link);

		if (!is_recent(cache, slot) && (!slot->again || n >= LOOKS)) {
			*out = slot - cache->slot;
			slot_forget(cache, *out);
			return true;
		}
		lru_add(cache, slot);
	}
	return false;
}

static bool slot_take(struct td_cache *cache, uint32_t *out)
{
	struct list *link = list_pop(&cache->free);

	if (!link)
		return slot_fresh(cache, out) || evict(cache, out);
	*out = list_item(link, struct cache_slot, link) - cache->slot;
	return true;
}

/* Nothing can be evicted: dirty pages are written, so that something can. */
static int wait_for_slot(struct td_cache *cache, struct td_park *park)
{
	if (cache->block)
		return batch_write_all(cache); /* and all can be evicted */
	td_parks_add(&cache->for_slot, park);
	if (cache->dirty)
		batch_now(cache);
	return TD_PARKED;
}

void cache_cleaned(struct td_cache *cache, uint32_t i)
{
	cache->dirty--;
	lru_add(cache, &cache->slot[i]);
}

/* ---- requests ---------------------------------------------------------------- */

static void load_ended(struct td_req *req)
{
	struct cache_req *own = req->user;
	struct td_cache *cache = own->cache;
	struct cache_slot *slot = &cache->slot[own->slot];
	struct td_parks parks = slot->parks;
	int err = req->err;

	if (!err && cache->patch)
		cache->patch(cache->img, cache_page(cache, own->slot), cache->page, slot->at);
	slot->parks = (struct td_parks){ 0 };
	slot->loading = false;
	if (err) {
		slot_forget(cache, own->slot);
		list_add(&cache->free, &slot->link);
	} else {
		lru_add(cache, slot);
	}
	cache_req_put(cache, own);
	td_parks_go(&parks, err);
	td_parks_go(&cache->for_slot, 0);
}

static void load(struct td_cache *cache, struct cache_req *own, uint32_t i)
{
	own->slot = i;
	own->req->user = own;
	own->req->step = load_ended;
	own->req->err = 0;
	td_buffer(own->req, TD_READ, cache_page(cache, i), cache->page);
	td_io(own->req, cache->file, cache->slot[i].at);
}

struct cache_req *cache_req_get(struct td_cache *cache)
{
	struct list *link = list_pop(&cache->idle);

	return link ? list_item(link, struct cache_req, link) : NULL;
}

void cache_req_put(struct td_cache *cache, struct cache_req *own)
{
	struct list *link = list_pop(&cache->to_load);

	if (link)
		load(cache, own, list_item(link, struct cache_slot, link) - cache->slot);
	else
		list_add(&cache->idle, &own->link);
}

/* ---- getting, and changing ----------------------------------------------------- */

/* Blocking. */
static int load_now(struct td_cache *cache, uint64_t at)
{
	uint64_t size = td_file_size(cache->file), n = at < size ? min_u64(size - at, cache->page) : 0;
	uint32_t i;
	int err = 0;

	if (!slot_take(cache, &i)) {
		err = batch_write_all(cache);
		if (err || !slot_take(cache, &i))
			return err ? err : -ENOMEM;
	}
	memset(cache_page(cache, i) + n, 0, cache->page - n);
	if (n)
		err = td_file_read(cache->file, cache_page(cache, i), n, at);
	if (err) {
		list_add(&cache->free, &cache->slot[i].link);
		return err;
	}
	if (cache->patch)
		cache->patch(cache->img, cache_page(cache, i), cache->page, at);
	slot_name(cache, i, at);
	lru_add(cache, &cache->slot[i]);
	return 0;
}

static void *hit(struct td_cache *cache, uint32_t i, uint64_t at)
{
	touch(cache, &cache->slot[i]);
	return cache_page(cache, i) + (at & (cache->page - 1));
}

static int __attribute__((noinline)) get(struct td_cache *cache, uint64_t at,
					 struct td_park *park, void **out)
{
	uint64_t page = round_down(at, cache->page);
	uint32_t i = slot_find(cache, page);
	struct cache_req *own;

	if (i == CACHE_NONE && cache->block) {
		int err = load_now(cache, page);

		if (err)
			return err;
		i = slot_find(cache, page);
	}
	if (i != CACHE_NONE && !cache->slot[i].loading) {
		*out = hit(cache, i, at);
		return 0;
	}
	if (!park)
		return TD_PARKED;
	if (i == CACHE_NONE) {
		if (!slot_take(cache, &i))
			return wait_for_slot(cache, park);
		slot_name(cache, i, page);
		cache->slot[i].loading = true;
		own = cache_req_get(cache);
		if (own)
			load(cache, own, i);
		else
			list_add(&cache->to_load, &cache->slot[i].link);
	}
	td_parks_add(&cache->slot[i].parks, park);
	return TD_PARKED;
}

int td_cache_get(struct td_cache *cache, uint64_t at, struct td_park *park, void **out)
{
	uint64_t page = round_down(at, cache->page);
	uint32_t i = *hash_of(cache, page);

	/* most are here, and the first of their hash */
	if (i == CACHE_NONE || cache->slot[i].at != page || cache->slot[i].loading)
		return get(cache, at, park, out);
	*out = hit(cache, i, at);
	return 0;
}

int td_cache_get_new(struct td_cache *cache, uint64_t at, struct td_park *park, void **out)
{
	uint64_t page = round_down(at, cache->page);
	uint32_t i = slot_find(cache, page);

	if (i != CACHE_NONE)
		return td_cache_get(cache, at, park, out);
	if (!slot_take(cache, &i)) {
		int err = wait_for_slot(cache, park);

		if (err)
			return err;
		if (!slot_take(cache, &i))
			return -ENOMEM;
	}
	slot_name(cache, i, page);
	memset(cache_page(cache, i), 0, cache->page);
	lru_add(cache, &cache->slot[i]);
	touch(cache, &cache->slot[i]);
	*out = cache_page(cache, i) + (at & (cache->page - 1));
	return 0;
}

int td_cache_room(struct td_cache *cache, struct td_park *park)
{
	uint32_t has = cache->no_more ? cache->fresh : cache->count;

	if (cache->dirty >= has / 3 && !cache->running && !cache->failed)
		batch_now(cache);
	if (cache->dirty < has / 2)
		return 0;
	if (cache->block)
		return batch_write_all(cache);
	if (cache->failed) {
		batch_later(cache);
		return cache->failed;
	}
	td_parks_add(&cache->for_room, park);
	return TD_PARKED;
}

void td_cache_dirty(struct td_cache *cache, void *at, unsigned stage)
{
	uint32_t i = (size_t)((char *)at - cache->pages) >> cache->page_bits;
	struct cache_slot *slot = &cache->slot[i];

	if (slot->dirty)
		return;
	list_del(&slot->link);
	list_add(&cache->changed, &slot->link);
	if (!slot->in_batch) {
		slot->stage = stage;
		cache->dirty++;
		if (td_rule("format-page-marked-before-change"))
			td_survivor_dirty(cache->survivor, i, slot->at, stage);
	}
	slot->dirty = true;
	batch_later(cache);
}

int td_cache_read(struct td_cache *cache, void *buf, size_t len, uint64_t at)
{
	while (len) {
		uint64_t page = round_down(at, cache->page);
		size_t n = min_u64(len, page + cache->page - at);
		uint32_t i = slot_find(cache, page);
		int err = 0;

		if (i != CACHE_NONE && !cache->slot[i].loading)
			memcpy(buf, cache_page(cache, i) + (at - page), n);
		else
			err = td_file_read(cache->file, buf, n, at);
		if (err)
			return err;
		if (cache->patch)
			cache->patch(cache->img, buf, n, at);
		buf = (char *)buf + n;
		at += n;
		len -= n;
	}
	return 0;
}

bool td_cache_forget(struct td_cache *cache, uint64_t at, uint64_t len)
{
	bool all = true;

	for (uint64_t end = at + len; at < end; at += cache->page) {
		uint32_t i = slot_find(cache, at);
		struct cache_slot *slot = &cache->slot[i];

		if (i == CACHE_NONE)
			continue;
		if (slot->loading || slot->dirty || slot->in_batch) {
			all = false;
			continue;
		}
		list_del(&slot->link);
		slot_forget(cache, i);
		list_add(&cache->free, &slot->link);
	}
	return all;
}

/* Not one store; but as long as it is not whole, nothing else is dirty. */
void td_cache_last(struct td_cache *cache, uint64_t at, const void *was, const void *becomes)
{
	void *page = cache_page(cache, cache->last);

	memcpy(page, was, cache->page);
	td_survivor_dirty(cache->survivor, cache->last, at, TD_STAGES - 1);
	memcpy(page, becomes, cache->page);
	cache->last_at = at;
}

int td_cache_sync(struct td_cache *cache)
{
	return batch_write_all(cache);
}

bool td_cache_blocks(const struct td_cache *cache)
{
	return cache->block;
}

void td_cache_block(struct td_cache *cache, bool block)
{
	cache->block = block;
}

/* ---- open and close -------------------------------------------------------------- */

static int arena_open(struct td_cache *cache, struct td_why *why)
{
	size_t size = (size_t)cache->count * cache->page;

	if (!cache->img->read_only) {
		int err = td_survivor_new(cache->file, cache->page, cache->count,
					  &cache->survivor, why);

		if (!err)
			cache->pages = td_survivor_pages(cache->survivor);
		return err;
	}
	cache->pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (cache->pages == MAP_FAILED) {
		cache->pages = NULL;
		return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(cache->file));
	}
	return 0;
}

/* calloc() of this size is memory that is not resident before it is used. */
static int tables_open(struct td_cache *cache)
{
	uint32_t buckets = 1;

	while (buckets < 2 * cache->count)
		buckets *= 2;
	cache->hash_mask = buckets - 1;
	cache->hash = malloc(buckets * sizeof(*cache->hash));
	cache->slot = calloc(cache->count, sizeof(*cache->slot));
	if (!cache->hash || !cache->slot)
		return -ENOMEM;
	memset(cache->hash, 0xff, buckets * sizeof(*cache->hash));
	for (unsigned i = 0; i < CACHE_REQS; i++) {
		struct cache_req *own = &cache->req[i];

		own->cache = cache;
		own->req = td_req_new(cache->img->queue, cache->img);
		if (!own->req)
			return -ENOMEM;
		list_add(&cache->idle, &own->link);
	}
	return batch_open(cache);
}

int td_cache_new(struct td_image *img, struct td_file *file,
		 const struct td_cache_config *config, struct td_cache **out,
		 struct td_why *why)
{
	struct td_cache *cache = calloc(1, sizeof(*cache));
	uint64_t size = config->size ? config->size : SIZE_DEFAULT;
	int err;

	if (!cache)
		return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(file));
	cache->img = img;
	cache->file = file;
	cache->page = config->page;
	cache->page_bits = __builtin_ctz(config->page);
	cache->shows = config->shows;
	cache->data_file = config->data;
	cache->count = max_u64(min_u64(size, SIZE_LIMIT) / config->page, CACHE_LEAST);
	list_init(&cache->free);
	list_init(&cache->lru);
	list_init(&cache->changed);
	list_init(&cache->idle);
	list_init(&cache->to_load);
	cache->log = img->read_only ? NULL : config->log;
	cache->patch = config->patch;
	err = tables_open(cache);
	if (err)
		td_fail(why, err, "%s: no memory", td_file_path(file));
	else
		err = arena_open(cache, why);
	if (!err && cache->log && !slot_fresh(cache, &cache->last))
		err = td_fail(why, -ENOSPC, "%s: no survivor memory", td_file_path(file));
	if (err) {
		td_cache_free(cache);
		return err;
	}
	*out = cache;
	return 0;
}

void td_cache_free(struct td_cache *cache)
{
	if (!cache)
		return;
	batch_close(cache);
	for (unsigned i = 0; i < CACHE_REQS; i++)
		td_req_free(cache->req[i].req);
	if (cache->survivor)
		td_survivor_free(cache->survivor, cache->dirty || cache->last_at);
	else if (cache->pages)
		munmap(cache->pages, (size_t)cache->count * cache->page);
	free(cache->slot);
	free(cache->hash);
	free(cache);
}
