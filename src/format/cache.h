/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cache of table pages: cache.c keeps them, batch.c writes them, with logged.c where
 * the format has a log.
 *
 * A page is free (holds nothing), loading, clean (in the LRU list) or dirty (never
 * evicted). While a batch writes a copy of it, it is in the batch too, and may
 * become dirty again.
 */
#ifndef FORMAT_CACHE_H
#define FORMAT_CACHE_H

#include <blktap/format.h>

#include "base/list.h"
#include "base/log.h"

#define CACHE_REQS 32
#define CACHE_NONE UINT32_MAX
#define CACHE_LEAST 256          /* pages: what works at the same time fits */

struct cache_slot {
	struct list link;        /* in lru, free, changed or to_load */
	uint64_t at;             /* in the file */
	uint32_t next;           /* of the same hash */
	uint32_t hit;            /* when it was got last: which of all hits that was */
	uint8_t stage;
	bool again;              /* it was got since it came to the end of lru */
	bool loading, dirty, in_batch;
	struct td_parks parks;   /* who waits for it to be loaded */
};

/* A request of our own; it loads a page, or writes some. */
struct cache_req {
	struct td_req *req;
	struct td_cache *cache;
	struct list link;
	uint32_t slot;           /* loads it */
	uint32_t first, count;   /* writes these of the batch */
};

/* What a batch writes: sorted by stage and place, copied in that order. */
struct cache_copy {
	uint32_t slot;
	uint8_t stage;
	uint64_t at;
};

struct td_cache {
	struct td_image *img;
	struct td_file *file;
	struct td_file *data_file; /* NULL: data are in file */
	uint32_t page, page_bits, count, shows;
	uint32_t hits;
	const struct td_log_ops *log; /* NULL: none */
	void (*patch)(struct td_image *img, void *buf, size_t len, uint64_t at);
	uint32_t last;           /* its slot is that of td_cache_last() */
	uint64_t last_at;        /* 0: there is none */
	char *pages;
	struct td_survivor *survivor; /* NULL: read-only */
	struct cache_slot *slot;
	uint32_t *hash, hash_mask;
	uint32_t fresh;          /* slots from here on have never been used */
	bool block;              /* nothing parks */
	bool no_more;            /* ... and there is no memory for them */
	struct list free, lru;   /* lru: clean, unused longest first */
	struct list changed;     /* dirty */
	struct cache_req req[CACHE_REQS];
	struct list idle;        /* requests */
	struct list to_load;     /* slots that wait for one */
	struct td_parks for_slot;/* wait for a page to be clean, or free */
	struct td_parks for_room;
	uint32_t dirty;          /* slots that are dirty, or in the batch */

	/* batch.c, logged.c */
	bool running;
	bool data;               /* written since the last barrier began */
	bool batch_data;         /* ... before the running batch */
	unsigned unsynced;       /* lowest stage written since; TD_STAGES: none */
	bool last_barrier;       /* the batch ends with one */
	int failed;              /* the last batch did; 0: it did not */
	struct cache_copy *copy;
	char *copies;
	uint32_t copy_max, copied, sent, under_way;
	uint32_t logged;         /* copies that are in the log, durably */
	uint32_t entry_end;      /* ... that the entry under way makes so; 0: none */
	struct td_req *barrier;
	struct td_parks flush, flush_next, after, after_next;
	struct td_defer defer;
	struct td_alarm *alarm;
};

/* batch.c */
int batch_open(struct td_cache *cache);
void batch_close(struct td_cache *cache);
/* A page has become dirty, or somebody waits for what is. */
void batch_later(struct td_cache *cache);
void batch_now(struct td_cache *cache);
/* Blocking: all that is dirty is in the file, durably. */
int batch_write_all(struct td_cache *cache);
/* What comes next of the running batch. */
void batch_next(struct td_cache *cache);
void batch_barrier(struct td_cache *cache);
/* Sends as many neighbours of one stage, before copy end, as fit a write. */
void batch_write_some(struct td_cache *cache, struct cache_req *own, uint32_t end);
void batch_end(struct td_cache *cache, int err);

/* logged.c */
void logged_next(struct td_cache *cache);
/* All that was written is durable: with it the entry of the log, if there is one. */
void logged_durable(struct td_cache *cache);
/* Whether all that an entry must come after is durable. */
bool logged_may_begin(const struct td_cache *cache);
/* Blocking: the next entry, durably. */
int logged_write(struct td_cache *cache);

/* cache.c: the slot is no longer dirty, nor in the batch. */
void cache_cleaned(struct td_cache *cache, uint32_t i);
/* A request is free. */
void cache_req_put(struct td_cache *cache, struct cache_req *req);
struct cache_req *cache_req_get(struct td_cache *cache);

static inline char *cache_page(const struct td_cache *cache, uint32_t i)
{
	return cache->pages + (size_t)i * cache->page;
}

#endif
