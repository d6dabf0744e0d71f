/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a request.
 *
 *   td_submit -> root_check -> image_submit -> (driver) -> td_end ... -> root_ended
 *             -> maybe more: zeroes still to write, a flush for FUA -> done()
 *
 * A request ends with its last share. Children come from one pool per image, so
 * a request waits only for what requests deeper in the chain hold, and those can
 * always finish. Requests that wait for a child are called again from a deferred
 * call, never from within the td_end() that freed one.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "core/core_impl.h"
#include "core/trace.h"

struct td_pool {
	struct td_queue *queue;
	td_done *done;           /* NULL: children */
	struct image_core *core; /* of children */
	struct list free;
	unsigned count, busy;
	size_t stride;
	char *slots;
	struct iovec *iovs;      /* TD_IOV_MAX for each slot */
};

/* ---- pools --------------------------------------------------------------- */

static void *map_untouched(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static struct td_slot *pool_slot(const struct td_pool *pool, unsigned i)
{
	return (struct td_slot *)(pool->slots + i * pool->stride);
}

static int pool_new(struct td_queue *queue, unsigned count, size_t user_size,
		    struct td_pool **out)
{
	size_t scratch = queue->disk->scratch + user_size;
	struct td_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pool->queue = queue;
	pool->count = count;
	list_init(&pool->free);
	pool->stride = round_up(sizeof(struct td_slot) + scratch, 64);
	pool->slots = aligned_alloc(64, pool->stride * count);
	pool->iovs = map_untouched(count * TD_IOV_MAX * sizeof(struct iovec));
	if (!pool->slots || !pool->iovs) {
		td_pool_free(pool);
		return -ENOMEM;
	}
	memset(pool->slots, 0, pool->stride * count);
	for (unsigned i = 0; i < count; i++) {
		struct td_slot *slot = pool_slot(pool, i);

		slot->pool = pool;
		slot->many = pool->iovs + i * TD_IOV_MAX;
		slot->req.queue = queue;
		list_add(&pool->free, &slot->link);
	}
	*out = pool;
	return 0;
}

int td_pool_new(struct td_disk *disk, unsigned count, size_t user_size, td_done *done,
		struct td_pool **out)
{
	int err = pool_new(&disk->queue, count, user_size, out);

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
		munmap(pool->iovs, pool->count * TD_IOV_MAX * sizeof(struct iovec));
	free(pool->slots);
	free(pool);
}

/* The one used last is warm: first in, first out of the cache. */
static struct td_slot *slot_take(struct td_pool *pool)
{
	struct list *link = pool->free.prev;
	struct td_slot *slot;

	if (link == &pool->free)
		return NULL;
	list_del(link);
	pool->busy++;
	slot = list_item(link, struct td_slot, link);
	slot->shares = 1;
	slot->passed = false;
	slot->req.err = 0;
	return slot;
}

static void slot_put(struct td_slot *slot)
{
	list_add(&slot->pool->free, &slot->link);
	slot->pool->busy--;
}

struct td_req *td_pool_get(struct td_pool *pool)
{
	struct td_slot *slot = slot_take(pool);

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
	slot_put(slot_of(req));
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

struct td_loop *td_queue_loop(const struct td_queue *queue)
{
	return queue->loop;
}

/* ---- to a driver, and to files -------------------------------------------- */

static void image_submit(struct td_image *img, struct td_req *req)
{
	req->image = img;
	memset(td_scratch(img, req), 0, img->driver->req_size);
	trace_submit(req);
	img->driver->submit(req->queue, img, req);
}

/* The driver may look at its request again when the images below are done. */
static void remember(struct td_slot *slot)
{
	if (slot->passed)
		return;
	slot->passed = true;
	slot->offset = slot->req.offset;
	slot->len = slot->req.len;
	slot->iov = slot->req.iov;
	slot->iov_count = slot->req.iov_count;
	slot->image = slot->req.image;
}

static void restore(struct td_slot *slot)
{
	if (!slot->passed)
		return;
	slot->passed = false;
	slot->req.offset = slot->offset;
	slot->req.len = slot->len;
	slot->req.iov = slot->iov;
	slot->req.iov_count = slot->iov_count;
	slot->req.image = slot->image;
}

static void nothing_below(struct td_req *req)
{
	if (req->op == TD_READ)
		td_req_zero(req, 0, req->len);
	else
		req->extent = (struct td_extent){
			.len = req->len,
			.flags = TD_EXTENT_HOLE | TD_EXTENT_ZERO,
		};
	td_end(req, 0);
}

static void iov_slice(struct td_slot *to, const struct iovec *iov, uint64_t pos,
		      uint64_t len);

void td_pass(struct td_req *req)
{
	struct td_image *below = req->image->below;
	uint64_t len;

	assert(req->op == TD_READ || req->op == TD_EXTENTS);
	if (!below || req->offset >= below->size) {
		nothing_below(req);
		return;
	}
	remember(slot_of(req));
	len = below->size - req->offset;
	if (len < req->len) { /* the rest lies past the end of the image below */
		if (req->op == TD_READ) {
			td_req_zero(req, len, req->len - len);
			iov_slice(slot_of(req), req->iov, 0, len);
		}
		req->len = len;
	}
	image_submit(below, req);
}

static void io_done(struct td_fileop *op, int err)
{
	struct td_slot *slot = container_of(op, struct td_slot, op);

	slot->req.extent = op->extent;
	td_end(&slot->req, err);
}

void td_io(struct td_req *req, struct td_file *file, uint64_t at)
{
	struct td_slot *slot = slot_of(req);

	trace_io(req, file, at);
	slot->op.op = req->op;
	slot->op.flags = req->flags;
	slot->op.offset = at;
	slot->op.len = req->len;
	slot->op.iov = req->iov;
	slot->op.iov_count = req->iov_count;
	slot->op.done = io_done;
	td_fileop_submit(req->queue->io, file, &slot->op);
}

/* ---- children -------------------------------------------------------------- */

int kids_new(struct image_core *core, unsigned count)
{
	int err = pool_new(&core->disk->queue, count, 0, &core->kids);

	if (!err)
		core->kids->core = core;
	return err;
}

void kids_free(struct image_core *core)
{
	td_loop_undefer(core->disk->loop, &core->kick);
	td_pool_free(core->kids);
}

struct td_req *td_child(struct td_req *parent)
{
	struct td_slot *slot = slot_take(core_of(parent->image)->kids);

	assert(!parent->parent);
	if (!slot)
		return NULL;
	slot_of(parent)->shares++;
	slot->req.parent = parent;
	slot->req.image = parent->image;
	slot->req.step = NULL;
	slot->req.user = NULL;
	memset(td_scratch(parent->image, &slot->req), 0,
	       parent->image->driver->req_size);
	return &slot->req;
}

static void kick_waiting(struct td_defer *defer)
{
	struct image_core *core = container_of(defer, struct image_core, kick);
	struct list *link;
	struct list waited;

	list_init(&waited);
	list_join(&waited, &core->waiting);
	while (!list_empty(&core->kids->free) && (link = list_pop(&waited))) {
		struct td_slot *slot = list_item(link, struct td_slot, link);

		slot->again(&slot->req);
	}
	list_join(&waited, &core->waiting); /* new ones behind old ones */
	list_join(&core->waiting, &waited);
}

static void kick_later(struct image_core *core)
{
	core->kick.run = kick_waiting;
	td_loop_defer(core->disk->loop, &core->kick);
}

void td_wait(struct td_req *req, td_step *again)
{
	struct image_core *core = core_of(req->image);
	struct td_slot *slot = slot_of(req);

	slot->again = again;
	list_add(&core->waiting, &slot->link);
	if (!list_empty(&core->kids->free))
		kick_later(core);
}

static void kid_ended(struct td_slot *slot)
{
	struct td_req *parent = slot->req.parent;
	struct image_core *core = slot->pool->core;
	int err = slot->req.err;

	slot_put(slot);
	if (!list_empty(&core->waiting))
		kick_later(core);
	td_end(parent, err);
}

static void root_ended(struct td_slot *slot);

void td_end(struct td_req *req, int err)
{
	struct td_slot *slot = slot_of(req);
	td_step *step = req->step;

	if (err && !req->err)
		req->err = err;
	assert(slot->shares);
	if (--slot->shares)
		return;
	restore(slot);
	trace_end(req);
	if (step) {
		slot->shares = 1;
		req->step = NULL;
		step(req);
	} else if (req->parent) {
		kid_ended(slot);
	} else {
		root_ended(slot);
	}
}

/* ---- aiming ---------------------------------------------------------------- */

/* Makes to's request cover [pos, pos + len) of memory that another describes. */
static void iov_slice(struct td_slot *to, const struct iovec *iov, uint64_t pos,
		      uint64_t len)
{
	struct iovec *out = to->few;
	unsigned count = 0;

	for (; pos >= iov->iov_len; iov++)
		pos -= iov->iov_len;
	while (len) {
		uint64_t n = min_u64(len, iov->iov_len - pos);

		if (count == TD_IOV_FEW && out == to->few) {
			memcpy(to->many, to->few, sizeof(to->few));
			out = to->many;
		}
		out[count++] = (struct iovec){ (char *)iov->iov_base + pos, n };
		len -= n;
		pos = 0;
		iov++;
	}
	to->req.iov = out;
	to->req.iov_count = count;
}

void td_slice(struct td_req *kid, uint64_t pos, uint64_t len)
{
	const struct td_req *parent = kid->parent;

	assert(len && pos + len <= parent->len);
	kid->op = parent->op;
	kid->flags = parent->flags;
	kid->offset = parent->offset + pos;
	kid->len = len;
	kid->iov = NULL;
	kid->iov_count = 0;
	if (parent->op != TD_READ && parent->op != TD_WRITE)
		return;
	if (len == parent->len) {
		kid->iov = parent->iov;
		kid->iov_count = parent->iov_count;
	} else {
		iov_slice(slot_of(kid), parent->iov, pos, len);
	}
}

void td_buffer(struct td_req *kid, enum td_op op, void *buf, uint64_t len)
{
	struct td_slot *slot = slot_of(kid);

	slot->one = (struct iovec){ buf, len };
	kid->op = op;
	kid->flags = 0;
	kid->len = len;
	kid->iov = buf ? &slot->one : NULL;
	kid->iov_count = buf ? 1 : 0;
}

struct td_req *td_req_new(struct td_queue *queue, struct td_image *img)
{
	size_t many = TD_IOV_FEW + 1; /* td_buffer() uses one; slices none */
	struct td_slot *slot;
	size_t size = round_up(sizeof(*slot) + TD_SCRATCH_MAX, 64);

	slot = aligned_alloc(64, round_up(size + many * sizeof(struct iovec), 64));
	if (!slot)
		return NULL;
	memset(slot, 0, size);
	slot->many = (struct iovec *)((char *)slot + size);
	slot->shares = 1;
	slot->req.queue = queue;
	slot->req.image = img;
	return &slot->req;
}

void td_req_free(struct td_req *req)
{
	if (req)
		free(slot_of(req));
}

/* ---- the data of a request --------------------------------------------------- */

/* Calls one for each piece of memory under [pos, pos + len). */
#define FOR_PIECES(req, pos, len, at, n) \
	for (const struct iovec *iov_ = piece_first((req)->iov, &(pos)); \
	     (len) && ((n) = min_u64(len, iov_->iov_len - (pos)), \
		       (at) = (char *)iov_->iov_base + (pos), true); \
	     (len) -= (n), (pos) = 0, iov_++)

static const struct iovec *piece_first(const struct iovec *iov, uint64_t *pos)
{
	for (; *pos && *pos >= iov->iov_len; iov++)
		*pos -= iov->iov_len;
	return iov;
}

void td_req_put(struct td_req *req, uint64_t pos, const void *from, size_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n) {
		memcpy(at, from, n);
		from = (const char *)from + n;
	}
}

void td_req_get(const struct td_req *req, uint64_t pos, void *to, size_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n) {
		memcpy(to, at, n);
		to = (char *)to + n;
	}
}

void td_req_zero(struct td_req *req, uint64_t pos, uint64_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n)
		memset(at, 0, n);
}

/* ---- deferred calls and work --------------------------------------------------- */

void td_defer(struct td_queue *queue, struct td_defer *defer)
{
	td_loop_defer(queue->loop, defer);
}

void td_work_start(struct td_queue *queue, struct td_work *work)
{
	td_loop_work(queue->loop, work);
}

/* ---- a transport's requests ------------------------------------------------------ */

static int root_check(const struct td_disk *disk, const struct td_req *req)
{
	const struct td_image *img = &disk->top->img;
	uint32_t can = td_disk_can(disk);

	if (req->op == TD_FLUSH)
		return req->offset || req->len ? -EINVAL : 0;
	if (!req->len || !is_aligned(req->offset | req->len, img->block_size) ||
	    req->offset > img->size || req->len > img->size - req->offset)
		return -EINVAL;
	if (req->iov_count > TD_IOV_MAX)
		return -EINVAL;
	if (req->op == TD_READ || req->op == TD_EXTENTS)
		return 0;
	if (img->read_only)
		return -EROFS;
	if (req->op == TD_DISCARD && !(can & TD_CAN_DISCARD))
		return -EOPNOTSUPP;
	return 0;
}

static void root_finish(struct td_slot *slot)
{
	struct td_disk *disk = slot->req.queue->disk;
	struct td_op_count *count = &disk->stats.op[slot->asked.op];

	slot->req.op = slot->asked.op;
	slot->req.flags = slot->asked.flags;
	slot->req.offset = slot->asked.offset;
	slot->req.len = slot->asked.len;
	slot->req.iov = slot->asked.iov;
	slot->req.iov_count = slot->asked.iov_count;
	slot->shares = 1;
	count->requests++;
	count->bytes += slot->req.len;
	count->errors += slot->req.err != 0;
	disk->in_flight--;
	trace_done(&slot->req);
	slot->pool->done(&slot->req);
}

/* WRITE_ZEROES for a driver without: writes from one shared piece of zeroes. */
static void root_send_zeroes(struct td_slot *slot)
{
	struct td_queue *queue = slot->req.queue;
	struct td_req *req = &slot->req;
	uint64_t piece = queue->zero_iov[0].iov_len;

	req->op = TD_WRITE;
	req->offset = slot->asked.offset + slot->asked.len - slot->zero_left;
	req->len = min_u64(slot->zero_left, piece * ARRAY_SIZE(queue->zero_iov));
	slot->zero_left -= req->len;
	if (req->len < piece) {
		slot->one = (struct iovec){ queue->zeroes, req->len };
		req->iov = &slot->one;
		req->iov_count = 1;
	} else {
		req->len = round_down(req->len, piece);
		slot->zero_left = slot->asked.offset + slot->asked.len -
				  (req->offset + req->len);
		req->iov = queue->zero_iov;
		req->iov_count = req->len / piece;
	}
	image_submit(&queue->disk->top->img, req);
}

static void root_send_flush(struct td_slot *slot)
{
	slot->flush_after = false;
	slot->req.op = TD_FLUSH;
	slot->req.flags = 0;
	slot->req.offset = slot->req.len = 0;
	slot->req.iov = NULL;
	slot->req.iov_count = 0;
	image_submit(&slot->req.queue->disk->top->img, &slot->req);
}

static void root_ended(struct td_slot *slot)
{
	slot->shares = 1;
	if (!slot->req.err && slot->zero_left)
		root_send_zeroes(slot);
	else if (!slot->req.err && slot->flush_after)
		root_send_flush(slot);
	else
		root_finish(slot);
}

void td_submit(struct td_req *req)
{
	struct td_disk *disk = req->queue->disk;
	struct td_image *img = &disk->top->img;
	struct td_slot *slot = slot_of(req);

	slot->asked = *req;
	slot->zero_left = 0;
	slot->flush_after = false;
	req->err = root_check(disk, req);
	disk->in_flight++;
	trace_begin(req);
	if (req->err || (req->op == TD_FLUSH && img->read_only)) {
		root_finish(slot);
		return;
	}
	if (req->op == TD_EXTENTS && !(img->can & TD_CAN_EXTENTS)) {
		req->extent = (struct td_extent){ .len = req->len };
		root_finish(slot);
		return;
	}
	if (req->flags & TD_FUA &&
	    (req->op != TD_WRITE || !(img->can & TD_CAN_FUA))) {
		req->flags &= ~TD_FUA;
		slot->flush_after = req->op == TD_WRITE || req->op == TD_WRITE_ZEROES;
	}
	if (req->op == TD_WRITE_ZEROES && !(img->can & TD_CAN_WRITE_ZEROES)) {
		slot->zero_left = req->len;
		root_send_zeroes(slot);
		return;
	}
	image_submit(img, req);
}
