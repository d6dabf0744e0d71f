/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pools of requests: those of a transport, and the children of an image. Their memory
 * is there when the pool is, but is not touched, and so not resident, before a request
 * is first used: a long chain of images has many. An empty pool makes its users wait.
 * The long list of pieces of memory that a request may need lies apart from it, for the
 * same reason.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/core_impl.h"

static void *map_untouched(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static size_t slots_size(const struct td_pool *pool)
{
	return pool->count * pool->stride;
}

static size_t iovs_size(const struct td_pool *pool)
{
	return 2 * pool->count * TD_IOV_MAX * sizeof(struct iovec);
}

static struct td_slot *pool_slot(const struct td_pool *pool, unsigned i)
{
	return (struct td_slot *)(pool->slots + i * pool->stride);
}

int pool_new(struct td_queue *queue, unsigned count, size_t user_size, struct td_pool **out)
{
	size_t scratch = queue->disk->scratch + user_size;
	struct td_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pool->queue = queue;
	pool->count = count;
	list_init(&pool->free);
	pool->stride = round_up(sizeof(struct td_slot) + scratch, 64);
	pool->slots = map_untouched(slots_size(pool));
	pool->iovs = map_untouched(iovs_size(pool));
	if (!pool->slots || !pool->iovs) {
		td_pool_free(pool);
		return -ENOMEM;
	}
	*out = pool;
	return 0;
}

int td_pool_new(struct td_queue *queue, unsigned count, size_t user_size, td_done *done,
		struct td_pool **out)
{
	int err = pool_new(queue, count, user_size, out);

	if (!err)
		(*out)->done = done;
	return err;
}

void td_pool_free(struct td_pool *pool)
{
	if (!pool)
		return;
	assert(!pool->busy);
	if (pool->iovs)
		munmap(pool->iovs, iovs_size(pool));
	if (pool->slots)
		munmap(pool->slots, slots_size(pool));
	free(pool);
}

bool pool_has(const struct td_pool *pool)
{
	return pool->busy < pool->count;
}

static struct td_slot *slot_begin(struct td_pool *pool, unsigned i)
{
	struct td_slot *slot = pool_slot(pool, i);

	slot->pool = pool;
	slot->many = pool->iovs + 2 * i * TD_IOV_MAX;
	slot->passing = slot->many + TD_IOV_MAX;
	slot->req.queue = pool->queue;
	list_init(&slot->link);
	return slot;
}

/* The one used last is warm: first in, first out of the cache. */
struct td_slot *pool_take(struct td_pool *pool)
{
	struct list *link = pool->free.prev;
	struct td_slot *slot;

	if (!pool_has(pool))
		return NULL;
	pool->busy++;
	if (link == &pool->free) {
		slot = slot_begin(pool, pool->fresh++);
	} else {
		list_del(link);
		slot = list_item(link, struct td_slot, link);
	}
	slot->shares = 1;
	slot->passed = false;
	slot->req.err = 0;
	slot->from = NULL;
	return slot;
}

void pool_put(struct td_slot *slot)
{
	list_add(&slot->pool->free, &slot->link);
	slot->pool->busy--;
}

struct td_req *td_pool_get(struct td_pool *pool)
{
	struct td_slot *slot = pool_take(pool);

	if (!slot)
		return NULL;
	slot->req.parent = NULL;
	slot->req.step = NULL;
	slot->req.flags = 0;
	return &slot->req;
}

void td_pool_put(struct td_pool *pool, struct td_req *req)
{
	assert(slot_of(req)->pool == pool);
	pool_put(slot_of(req));
}

unsigned td_pool_busy(const struct td_pool *pool)
{
	return pool->busy;
}

void *td_req_user(const struct td_req *req)
{
	return slot_of(req)->scratch + req->queue->disk->scratch;
}

void *td_scratch(const struct td_image *img, const struct td_req *req)
{
	return slot_of(req)->scratch + img->scratch_at;
}
