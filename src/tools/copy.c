/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying a disk. One request at a time asks the source what comes next
 * (EXTENTS); data are cut into chunks, each of which has a slot:
 *
 *   idle -> reading -> read: look for zero blocks -> writing, run by run -> idle
 *
 * Zeroes are left out where the target is fresh, else they become WRITE_ZEROES.
 * Completions only note what has happened; pump() does what comes next, from a
 * deferred call or after a turn.
 */
#include "tools/copy.h"

#include <blktap/driver.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "io/loop.h"
#include "tools/progress.h"

#define SLOTS 16
#define CHUNK (1 * MiB)
#define ZERO_MAX (64 * MiB) /* one WRITE_ZEROES */
#define BLOCK 4096u         /* what is looked at for zeroes */

enum slot_state { SLOT_IDLE, SLOT_READING, SLOT_READ, SLOT_WRITING, SLOT_WRITTEN };

struct slot {
	struct copy *copy;
	enum slot_state state;
	char *buf;           /* NULL content: this slot clears a range */
	uint64_t offset, len, pos;
	bool clear;
	struct iovec iov;
};

struct copy {
	struct td_loop *loop;
	struct td_disk *from, *to;
	const struct copy_options *options;
	struct copy_result *result;
	struct td_pool *readers, *writers;
	struct slot slot[SLOTS];
	char *arena;
	uint64_t size;
	uint64_t cursor;      /* all before it is in slots or done */
	uint64_t extent_end;  /* what the source said of [cursor, extent_end) */
	unsigned extent_flags;
	bool asking, flushing, flushed;
	unsigned busy;
	uint64_t done;
	int err;
	struct td_defer pump;
};

static void fail(struct copy *copy, int err, uint64_t at, bool reading)
{
	if (copy->err)
		return;
	copy->err = err;
	copy->result->at = at;
	copy->result->reading = reading;
}

static struct td_req *request(struct copy *copy, struct td_pool *pool, enum td_op op,
			      struct slot *slot, uint64_t offset, uint64_t len, char *buf)
{
	struct td_req *req = td_pool_get(pool);

	*(struct slot **)td_req_user(req) = slot;
	req->op = op;
	req->flags = 0;
	req->offset = offset;
	req->len = len;
	req->iov = NULL;
	req->iov_count = 0;
	if (buf) {
		slot->iov = (struct iovec){ buf, len };
		req->iov = &slot->iov;
		req->iov_count = 1;
	}
	copy->busy++;
	return req;
}

static void read_done(struct td_req *req)
{
	struct slot *slot = *(struct slot **)td_req_user(req);
	struct copy *copy = slot->copy;

	copy->busy--;
	if (req->err)
		fail(copy, req->err, req->offset, true);
	if (req->op == TD_EXTENTS) {
		copy->asking = false;
		if (!req->err) {
			copy->extent_end = min_u64(req->offset + req->extent.len, copy->size);
			copy->extent_flags = req->extent.flags;
		}
	} else {
		slot->state = SLOT_READ;
	}
	td_pool_put(copy->readers, req);
	td_loop_defer(copy->loop, &copy->pump);
}

static void write_done(struct td_req *req)
{
	struct slot *slot = *(struct slot **)td_req_user(req);
	struct copy *copy = slot->copy;

	copy->busy--;
	if (req->err)
		fail(copy, req->err, req->offset, false);
	if (req->op == TD_FLUSH)
		copy->flushed = true;
	else
		slot->state = SLOT_WRITTEN;
	td_pool_put(copy->writers, req);
	td_loop_defer(copy->loop, &copy->pump);
}

static bool zero_block(const char *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

/* The next run of the chunk that is alike; false: the chunk is done. */
static bool next_run(struct slot *slot, uint64_t *len, bool *zero)
{
	uint64_t end = slot->pos;

	if (slot->pos == slot->len)
		return false;
	while (end < slot->len) {
		uint64_t n = min_u64(BLOCK, slot->len - end);
		bool is_zero = zero_block(slot->buf + end, n);

		if (end == slot->pos)
			*zero = is_zero;
		else if (is_zero != *zero)
			break;
		end += n;
	}
	*len = end - slot->pos;
	return true;
}

static void slot_ends(struct copy *copy, struct slot *slot)
{
	slot->state = SLOT_IDLE;
	copy->done += slot->len;
}

static void clear_range(struct copy *copy, struct slot *slot, uint64_t offset, uint64_t len)
{
	struct td_req *req = request(copy, copy->writers, TD_WRITE_ZEROES, slot, offset, len, NULL);

	req->flags = TD_MAY_UNMAP;
	slot->state = SLOT_WRITING;
	td_submit(req);
}

static void write_next(struct copy *copy, struct slot *slot)
{
	uint64_t len, at;
	bool zero;

	while (next_run(slot, &len, &zero)) {
		at = slot->pos;
		slot->pos += len;
		if (zero && copy->options->fresh)
			continue;
		if (zero) {
			clear_range(copy, slot, slot->offset + at, len);
			return;
		}
		copy->result->data += len;
		slot->state = SLOT_WRITING;
		td_submit(request(copy, copy->writers, TD_WRITE, slot, slot->offset + at, len,
				  slot->buf + at));
		return;
	}
	slot_ends(copy, slot);
}

static void start(struct copy *copy, struct slot *slot)
{
	bool zero = copy->extent_flags & TD_EXTENT_ZERO;
	uint64_t left = copy->extent_end - copy->cursor;

	slot->offset = copy->cursor;
	slot->len = min_u64(left, zero ? ZERO_MAX : CHUNK);
	slot->pos = 0;
	copy->cursor += slot->len;
	if (!zero) {
		slot->state = SLOT_READING;
		td_submit(request(copy, copy->readers, TD_READ, slot, slot->offset, slot->len,
				  slot->buf));
	} else if (copy->options->fresh) {
		slot_ends(copy, slot);
	} else {
		slot->pos = slot->len;
		clear_range(copy, slot, slot->offset, slot->len);
	}
}

static void ask(struct copy *copy)
{
	copy->asking = true;
	td_submit(request(copy, copy->readers, TD_EXTENTS, &copy->slot[0], copy->cursor,
			  min_u64(copy->size - copy->cursor, GiB), NULL));
}

static void pump_slot(struct copy *copy, struct slot *slot)
{
	if (slot->state == SLOT_READ || slot->state == SLOT_WRITTEN)
		write_next(copy, slot);
	while (slot->state == SLOT_IDLE && copy->cursor < copy->extent_end)
		start(copy, slot);
}

static bool more(const struct copy *copy)
{
	return copy->busy || (!copy->err && !copy->flushed);
}

static void pump(struct copy *copy)
{
	if (copy->options->stop && *copy->options->stop)
		fail(copy, -EINTR, copy->cursor, false);
	if (copy->err)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		pump_slot(copy, &copy->slot[i]);
	if (copy->cursor == copy->extent_end && copy->cursor < copy->size && !copy->asking)
		ask(copy);
	if (copy->cursor == copy->size && !copy->busy && !copy->flushing) {
		copy->flushing = true;
		td_submit(request(copy, copy->writers, TD_FLUSH, &copy->slot[0], 0, 0, NULL));
	}
	if (copy->options->progress)
		progress_at(copy->options->progress, copy->done);
}

static void pump_deferred(struct td_defer *defer)
{
	pump(container_of(defer, struct copy, pump));
}

int copy_disk(struct td_loop *loop, struct td_disk *from, struct td_disk *to,
	      const struct copy_options *options, struct copy_result *out)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int err = -ENOMEM;

	*out = (struct copy_result){ 0 };
	if (!copy)
		return -ENOMEM;
	*copy = (struct copy){
		.loop = loop, .from = from, .to = to, .options = options, .result = out,
		.size = td_disk_size(from), .pump.run = pump_deferred,
	};
	copy->arena = aligned_alloc(4096, SLOTS * CHUNK);
	if (!copy->arena)
		goto out;
	for (unsigned i = 0; i < SLOTS; i++) {
		copy->slot[i].copy = copy;
		copy->slot[i].buf = copy->arena + i * CHUNK;
	}
	err = td_pool_new(from, SLOTS + 1, sizeof(struct slot *), read_done, &copy->readers);
	if (!err)
		err = td_pool_new(to, SLOTS + 1, sizeof(struct slot *), write_done,
				  &copy->writers);
	if (err)
		goto out;
	pump(copy);
	while (more(copy)) {
		td_loop_turn(loop, 200);
		pump(copy);
	}
	err = copy->err;
	td_loop_undefer(loop, &copy->pump);
out:
	td_pool_free(copy->readers);
	td_pool_free(copy->writers);
	free(copy->arena);
	free(copy);
	return err;
}
