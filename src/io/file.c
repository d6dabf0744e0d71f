/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The asynchronous side of a file.
 *
 *   submit -> op_begin -+-> aligned:  engine ------------------------+-> op_end
 *                       |     a short transfer goes on as bounced    |
 *                       +-> bounced:  [read] -> copy -> engine, by chunks
 *                       +-> the rest: a worker thread
 *
 * What writes part of a block has to wait for others (file_order.c) before it starts.
 *
 * Alignment is taken from the whole operation: its offset, its length, and each
 * piece of memory.
 */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "io/file_impl.h"

#define BOUNCE_BUFFERS 8
#define BOUNCE_SIZE (256 * KiB)
#define RETRY_MS 2

struct td_fileio {
	struct td_loop *loop;
	struct td_engine *engine;
	char *bounce;                 /* all buffers */
	char *bounce_free[BOUNCE_BUFFERS];
	unsigned bounce_count;
	struct list bounce_waiting;
	struct list failed;           /* ended before they began */
	struct td_defer fail_later;
	struct list retrying;         /* the kernel said EAGAIN */
	struct td_timer retry;
};

static void op_start(struct td_fileop *op);
static void bounce_next(struct td_fileop *op);

/* ---- ending ------------------------------------------------------------- */

static bool op_changes(const struct td_fileop *op)
{
	return op->op == TD_WRITE || op->op == TD_DISCARD || op->op == TD_WRITE_ZEROES;
}

static void bounce_put(struct td_fileop *op)
{
	struct td_fileio *io = op->io;
	struct list *link;

	if (!op->bounce)
		return;
	io->bounce_free[io->bounce_count++] = op->bounce;
	op->bounce = NULL;
	link = list_pop(&io->bounce_waiting);
	if (link)
		bounce_next(list_item(link, struct td_fileop, link));
}

static bool op_held(struct td_fileop *op, bool ended)
{
	struct td_file_hook *hook = op->file->hook;

	op->ended = ended;
	return hook && hook->hold && hook->hold(hook, op, ended);
}

static void posted_start(struct td_post *post)
{
	op_start(container_of(post, struct td_fileop, post));
}

/* Those that waited for op start, each on its own loop's thread. */
static void start_waiting(struct td_fileop *op)
{
	struct list ready, *link;

	file_order_leave(op, &ready);
	while ((link = list_pop(&ready))) {
		struct td_fileop *next = list_item(link, struct td_fileop, link);

		next->post.run = posted_start;
		if (next->io == op->io)
			op_start(next);
		else
			td_loop_post(next->io->loop, &next->post);
	}
}

/* done() may free op or use it again: it comes last. */
static void op_leave(struct td_fileop *op)
{
	bounce_put(op);
	if (op_changes(op))
		start_waiting(op);
	if (!op_held(op, true))
		op->done(op, op->err);
}

static void op_end(struct td_fileop *op, int err)
{
	op->err = err;
	file_hook_end(op->file, op->hook_id, err);
	op_leave(op);
}

static void failed_run(struct td_defer *defer)
{
	struct td_fileio *io = container_of(defer, struct td_fileio, fail_later);
	struct list *link;

	while ((link = list_pop(&io->failed)))
		op_leave(list_item(link, struct td_fileop, link));
}

/* The hook refused it: it never began. */
static void op_refuse(struct td_fileop *op, int err)
{
	op->err = err;
	list_add(&op->io->failed, &op->link);
	td_loop_defer(op->io->loop, &op->io->fail_later);
}

/* ---- transfers ----------------------------------------------------------- */

static void op_retry_later(struct td_fileop *op)
{
	list_add(&op->io->retrying, &op->link);
	if (!op->io->retry.armed)
		td_timer_arm(op->io->loop, &op->io->retry, RETRY_MS);
}

static void retry_fired(struct td_timer *timer)
{
	struct td_fileio *io = container_of(timer, struct td_fileio, retry);
	struct list *link;

	while ((link = list_pop(&io->retrying)))
		td_engine_rw(io->engine, &list_item(link, struct td_fileop, link)->rw);
}

/* The bytes at pos of a request's memory, to or from a flat buffer. */
static void iov_copy(const struct iovec *iov, uint64_t pos, char *flat, uint64_t len,
		     bool to_iov)
{
	for (; len; iov++) {
		uint64_t n;

		if (pos >= iov->iov_len) {
			pos -= iov->iov_len;
			continue;
		}
		n = min_u64(len, iov->iov_len - pos);
		if (to_iov)
			memcpy((char *)iov->iov_base + pos, flat, n);
		else
			memcpy(flat, (char *)iov->iov_base + pos, n);
		flat += n;
		len -= n;
		pos = 0;
	}
}

/* The blocks around the next chunk, [*from, *end), and what of it is ours. */
static uint64_t bounce_span(const struct td_fileop *op, uint64_t *from, uint64_t *end)
{
	uint64_t align = op->file->align, at = op->offset + op->pos;

	*from = round_down(at, align);
	*end = min_u64(round_up(op->offset + op->len, align), *from + BOUNCE_SIZE);
	return min_u64(op->offset + op->len, *end) - at;
}

static void bounce_transfer(struct td_fileop *op, bool write)
{
	uint64_t from, end;

	bounce_span(op, &from, &end);
	op->vec = (struct iovec){ .iov_base = op->bounce, .iov_len = end - from };
	op->reading = !write;
	op->rw.write = write;
	op->rw.iov = &op->vec;
	op->rw.iov_count = 1;
	op->rw.offset = from;
	td_engine_rw(op->io->engine, &op->rw);
}

static int tail_run(struct td_work *work)
{
	struct td_fileop *op = container_of(work, struct td_fileop, work);
	uint64_t from, end, n = bounce_span(op, &from, &end);
	uint64_t at = op->offset + op->pos;

	return file_tail_write(op->file, op->bounce + (at - from), n, at);
}

static void chunk_done(struct td_fileop *op)
{
	uint64_t from, end;

	op->pos += bounce_span(op, &from, &end);
	if (op->pos < op->len)
		bounce_next(op);
	else
		op_end(op, 0);
}

static void tail_done(struct td_work *work, int err)
{
	struct td_fileop *op = container_of(work, struct td_fileop, work);

	if (err)
		op_end(op, err);
	else
		chunk_done(op);
}

/* The bounce buffer holds the blocks as they are on the file. */
static void chunk_fill_and_write(struct td_fileop *op)
{
	uint64_t from, end, n = bounce_span(op, &from, &end);
	uint64_t at = op->offset + op->pos;

	iov_copy(op->iov, op->pos, op->bounce + (at - from), n, false);
	if (file_needs_tail(op->file, at, n)) {
		op->work.run = tail_run;
		op->work.done = tail_done;
		td_loop_work(op->io->loop, &op->work);
		return;
	}
	bounce_transfer(op, true);
}

static void bounce_next(struct td_fileop *op)
{
	struct td_fileio *io = op->io;
	uint64_t from, end, n;

	if (!op->bounce) {
		if (!io->bounce_count) {
			list_add(&io->bounce_waiting, &op->link);
			return;
		}
		op->bounce = io->bounce_free[--io->bounce_count];
	}
	n = bounce_span(op, &from, &end);
	if (op->op == TD_WRITE && n == end - from)
		chunk_fill_and_write(op);
	else
		bounce_transfer(op, false);
}

/* A read came to the end of the file with *got bytes: zeroes from there on where
 * the file was opened for that. */
static int read_past_end(const struct td_fileop *op, uint64_t got, uint64_t wanted)
{
	if (got >= wanted || op->rmw || op->file->flags & TD_FILE_ZERO_TAIL)
		return 0;
	return -EIO;
}

static void bounce_read_done(struct td_fileop *op, uint64_t got)
{
	uint64_t from, end, n = bounce_span(op, &from, &end);
	uint64_t skip = op->offset + op->pos - from;
	int err = op->op == TD_READ ? read_past_end(op, got, skip + n) : 0;

	if (err) {
		op_end(op, err);
		return;
	}
	memset(op->bounce + got, 0, end - from - got);
	if (op->op == TD_WRITE) {
		chunk_fill_and_write(op);
		return;
	}
	iov_copy(op->iov, op->pos, op->bounce + skip, n, true);
	chunk_done(op);
}

/* Goes on with a bounced transfer that was cut short at a block's edge. */
static bool bounce_went_on(struct td_fileop *op, uint64_t n)
{
	if (!n || n >= op->vec.iov_len || !is_aligned(n, op->file->align))
		return false;
	op->vec.iov_base = (char *)op->vec.iov_base + n;
	op->vec.iov_len -= n;
	op->rw.offset += n;
	td_engine_rw(op->io->engine, &op->rw);
	return true;
}

static void bounce_rw_done(struct td_fileop *op, uint64_t n)
{
	bool all = n == op->vec.iov_len;

	if (bounce_went_on(op, n))
		return;
	if (op->reading)
		bounce_read_done(op, (char *)op->vec.iov_base + n - op->bounce);
	else if (!all)
		op_end(op, -EIO);
	else {
		file_grown(op->file, op->rw.offset + n);
		chunk_done(op);
	}
}

/* The rest of a transfer that fell short is bounced, from a block's edge on. */
static void direct_rw_done(struct td_fileop *op, uint64_t n)
{
	if (n == op->len) {
		if (op->op == TD_WRITE)
			file_grown(op->file, op->offset + n);
		op_end(op, 0);
		return;
	}
	op->pos = round_down(n, op->file->align);
	bounce_next(op);
}

static void rw_done(struct td_rw *rw, int64_t res)
{
	struct td_fileop *op = container_of(rw, struct td_fileop, rw);
	struct td_file_hook *hook = op->file->hook;

	if (hook && hook->transfer)
		res = hook->transfer(hook, op, res);
	if (res == -EAGAIN || res == -EINTR)
		op_retry_later(op);
	else if (res < 0)
		op_end(op, res);
	else if (op->bounce)
		bounce_rw_done(op, res);
	else
		direct_rw_done(op, res);
}

/* ---- what blocks ---------------------------------------------------------- */

static int work_run(struct td_work *work)
{
	struct td_fileop *op = container_of(work, struct td_fileop, work);

	switch (op->op) {
	case TD_FLUSH:
		return file_fdatasync(op->file);
	case TD_DISCARD:
		return file_discard(op->file, op->offset, op->len);
	case TD_WRITE_ZEROES:
		return file_zero(op->file, op->offset, op->len,
				 op->flags & TD_MAY_UNMAP);
	case TD_EXTENTS:
		return file_extent(op->file, op->offset, op->len, &op->extent);
	case TD_READ:
	case TD_WRITE:
		break;
	}
	return -EINVAL;
}

static void work_done(struct td_work *work, int err)
{
	op_end(container_of(work, struct td_fileop, work), err);
}

/* ---- beginning ------------------------------------------------------------ */

static bool memory_fits(const struct td_fileop *op)
{
	uint64_t mem = op->file->mem_align, align = op->file->align;

	if (op->iov_count > IOV_MAX)
		return false;
	for (unsigned i = 0; i < op->iov_count; i++)
		if (!is_aligned((uintptr_t)op->iov[i].iov_base, mem) ||
		    !is_aligned(op->iov[i].iov_len, align))
			return false;
	return true;
}

static void op_start(struct td_fileop *op)
{
	static const enum td_file_event event[] = {
		[TD_READ] = TD_EV_READ,       [TD_WRITE] = TD_EV_WRITE,
		[TD_FLUSH] = TD_EV_SYNC,      [TD_DISCARD] = TD_EV_PUNCH,
		[TD_EXTENTS] = TD_EV_READ,    [TD_WRITE_ZEROES] = TD_EV_ZERO,
	};
	bool data = op->op == TD_READ || op->op == TD_WRITE;
	uint64_t at = op->offset, len = op->len;
	int err;

	if (op->op == TD_DISCARD)
		file_discard_span(op->file, &at, &len);
	err = file_hook_begin(op->file, event[op->op], at, len, op->iov,
			      data ? op->iov_count : 0, op->flags & TD_FUA, &op->hook_id);
	if (err) {
		op_refuse(op, err);
		return;
	}
	if (!data) {
		op->work.run = work_run;
		op->work.done = work_done;
		td_loop_work(op->io->loop, &op->work);
		return;
	}
	op->rw = (struct td_rw){
		.fd = op->file->fd,
		.write = op->op == TD_WRITE,
		.dsync = op->op == TD_WRITE && op->flags & TD_FUA,
		.in_memory = op->file->in_memory,
		.iov = op->iov,
		.iov_count = op->iov_count,
		.offset = op->offset,
		.done = rw_done,
	};
	if (is_aligned(op->offset | op->len, op->file->align) && memory_fits(op))
		td_engine_rw(op->io->engine, &op->rw);
	else
		bounce_next(op);
}

static void op_enter(struct td_fileop *op)
{
	assert(!op_changes(op) || op->file->flags & TD_FILE_WRITE);
	if (!op_changes(op) || file_order_enter(op))
		op_start(op);
}

void td_fileop_submit(struct td_fileio *io, struct td_file *file, struct td_fileop *op)
{
	op->io = io;
	op->file = file;
	op->bounce = NULL;
	op->pos = 0;
	op->rmw = (op->op == TD_WRITE || op->op == TD_WRITE_ZEROES) &&
		  !is_aligned(op->offset | op->len, file->align);
	if (!op_held(op, false))
		op_enter(op);
}

static void op_go_on(struct td_fileop *op)
{
	if (op->ended)
		op->done(op, op->err);
	else
		op_enter(op);
}

static void posted_go_on(struct td_post *post)
{
	op_go_on(container_of(post, struct td_fileop, post));
}

void td_fileop_release(struct td_fileop *op)
{
	if (!op->file->many) {
		op_go_on(op);
		return;
	}
	op->post.run = posted_go_on;
	td_loop_post(op->io->loop, &op->post);
}

/* ---- the loop's side ------------------------------------------------------ */

int td_fileio_new(struct td_loop *loop, const char *engine, unsigned depth,
		  struct td_fileio **out, struct td_why *why)
{
	struct td_fileio *io = calloc(1, sizeof(*io));
	int err = -ENOMEM;

	if (!io)
		return err;
	io->loop = loop;
	list_init(&io->bounce_waiting);
	list_init(&io->failed);
	list_init(&io->retrying);
	io->fail_later.run = failed_run;
	io->retry.fired = retry_fired;
	/* not touched, and so not resident, until the first bounce */
	io->bounce = mmap(NULL, BOUNCE_BUFFERS * BOUNCE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (io->bounce == MAP_FAILED) {
		io->bounce = NULL;
		goto fail;
	}
	for (; io->bounce_count < BOUNCE_BUFFERS; io->bounce_count++)
		io->bounce_free[io->bounce_count] =
			io->bounce + io->bounce_count * BOUNCE_SIZE;
	err = td_engine_open(loop, engine, depth, &io->engine, why);
	if (err)
		goto fail;
	*out = io;
	return 0;
fail:
	td_fileio_free(io);
	return err;
}

void td_fileio_free(struct td_fileio *io)
{
	if (!io)
		return;
	td_timer_cancel(&io->retry);
	td_loop_undefer(io->loop, &io->fail_later);
	td_engine_close(io->engine);
	if (io->bounce)
		munmap(io->bounce, BOUNCE_BUFFERS * BOUNCE_SIZE);
	free(io);
}

const char *td_fileio_engine(const struct td_fileio *io)
{
	return td_engine_name(io->engine);
}
