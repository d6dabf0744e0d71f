/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying a disk. One question at a time runs ahead and asks the source what comes
 * next (EXTENTS); the answers stand in a short line. Data are cut into chunks, each
 * of which has a slot:
 *
 *   idle -> reading -> found in pieces: zeroes, data -> all pieces written -> idle
 *
 * With salvage, a chunk that cannot be read is read again sector by sector; those that
 * cannot be read are zeroes.
 *
 * Zeroes are left out where the target is fresh, else they become WRITE_ZEROES. A
 * short hole between data is read with them, which costs less than to stop for it.
 * Compressed clusters are written in the order of the disk: some formats ask for that,
 * and the others are read faster. Completions only note what has happened; pump() does what comes next, from a
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

#define CHUNK (1 * MiB)
#define ZERO_MAX (64 * MiB) /* one WRITE_ZEROES */
#define HOLE_LEAST (64 * KiB)
#define ASK_MAX GiB
#define AHEAD 64            /* extents in the line */
#define WRITES 4            /* requests to the target for each slot */

enum slot_state { SLOT_IDLE, SLOT_READING, SLOT_SALVAGING, SLOT_WRITING };

struct slot {
	struct copy *copy;
	enum slot_state state;
	char *buf;
	uint64_t offset, len;  /* of the source */
	uint64_t pos;          /* what lies before it is written, or being written */
	uint64_t salvaged;     /* what lies before it is read, of a chunk that cannot be */
	unsigned writes;
	uint64_t turn;         /* of compressed clusters: this one's */
	struct iovec iov;
};

/* A request's own bytes. */
struct sent {
	struct slot *slot;
	struct iovec iov;
};

enum what { DATA, ZEROES, NOTHING };

struct extent {
	uint64_t end;
	enum what what;
};

struct copy {
	struct td_loop *loop;
	struct td_disk *to;
	struct copy_options options;
	struct copy_result *result;
	struct td_pool *readers, *writers;
	struct slot *slot;
	char *arena;
	uint64_t end;         /* of the source's range */
	uint64_t chunk, block, sector;
	uint64_t turns, turn; /* given to slots; whose it is */
	uint64_t cursor;      /* all before it is in slots or done */
	struct extent line[AHEAD];
	unsigned first, count;
	uint64_t asked;       /* the line reaches so far */
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

static bool stopped(const struct copy *copy)
{
	return copy->options.stop && *copy->options.stop;
}

static void send(struct copy *copy, struct td_req *req, struct slot *slot, enum td_op op,
		 uint64_t offset, uint64_t len, char *buf)
{
	struct sent *sent = td_req_user(req);

	sent->slot = slot;
	sent->iov = (struct iovec){ buf, len };
	req->op = op;
	req->offset = offset;
	req->len = len;
	req->iov = buf ? &sent->iov : NULL;
	req->iov_count = buf ? 1 : 0;
	copy->busy++;
	td_submit(req);
}

/* ---- what the source has ------------------------------------------------------------ */

static struct extent *line_last(struct copy *copy)
{
	return copy->count ? &copy->line[(copy->first + copy->count - 1) % AHEAD] : NULL;
}

static enum what what_it_is(const struct copy *copy, unsigned flags)
{
	if (copy->options.above && td_extent_depth(flags) >= copy->options.above)
		return NOTHING;
	return flags & TD_EXTENT_ZERO && copy->options.sparse ? ZEROES : DATA;
}

static void line_add(struct copy *copy, uint64_t end, unsigned flags)
{
	struct extent *last = line_last(copy);
	enum what what = what_it_is(copy, flags);
	uint64_t len = end - copy->asked;

	copy->asked = end;
	if (last && (last->what == what ||
		     (last->what == DATA && what == ZEROES && len < HOLE_LEAST))) {
		last->end = end;
		return;
	}
	copy->line[(copy->first + copy->count++) % AHEAD] = (struct extent){ end, what };
}

static void ask(struct copy *copy)
{
	if (copy->asking || copy->count == AHEAD || copy->asked == copy->end)
		return;
	copy->asking = true;
	send(copy, td_pool_get(copy->readers), &copy->slot[0], TD_EXTENTS, copy->asked,
	     min_u64(copy->end - copy->asked, ASK_MAX), NULL);
}

static void asked(struct copy *copy, const struct td_req *req)
{
	uint64_t end = min_u64(req->offset + (req->err ? req->len : req->extent.len), copy->end);

	copy->asking = false;
	if (!req->err)
		line_add(copy, end, req->extent.flags);
	else if (copy->options.salvage) /* reading tells which of it is there */
		line_add(copy, end, 0);
	else
		fail(copy, req->err, req->offset, true);
}

static bool wants_sector(const struct slot *slot)
{
	return slot->salvaged < slot->len && slot->state == SLOT_SALVAGING;
}

/* What a chunk's read, or a sector's, has come to. */
static void got(struct copy *copy, struct slot *slot, const struct td_req *req)
{
	if (req->err && !copy->options.salvage)
		fail(copy, req->err, req->offset, true);
	if (slot->state == SLOT_SALVAGING) {
		if (req->err) {
			memset(slot->buf + slot->salvaged, 0, req->len);
			copy->result->lost += req->len;
		}
		slot->salvaged += req->len;
	} else if (req->err) {
		slot->state = SLOT_SALVAGING;
		slot->salvaged = 0;
	}
	if (!wants_sector(slot))
		slot->state = SLOT_WRITING;
}

static void read_done(struct td_req *req)
{
	struct slot *slot = ((struct sent *)td_req_user(req))->slot;
	struct copy *copy = slot->copy;

	copy->busy--;
	if (req->op == TD_EXTENTS)
		asked(copy, req);
	else
		got(copy, slot, req);
	td_pool_put(copy->readers, req);
	if (req->op != TD_EXTENTS && wants_sector(slot) && !copy->err && !stopped(copy))
		send(copy, td_pool_get(copy->readers), slot, TD_READ, slot->offset + slot->salvaged,
		     min_u64(copy->sector, slot->len - slot->salvaged),
		     slot->buf + slot->salvaged);
	td_loop_defer(copy->loop, &copy->pump);
}

/* ---- writing a chunk ------------------------------------------------------------------ */

static void write_done(struct td_req *req)
{
	struct slot *slot = ((struct sent *)td_req_user(req))->slot;
	struct copy *copy = slot->copy;

	copy->busy--;
	if (req->err)
		fail(copy, req->err, req->offset, false);
	if (req->op == TD_FLUSH)
		copy->flushed = true;
	else
		slot->writes--;
	td_pool_put(copy->writers, req);
	td_loop_defer(copy->loop, &copy->pump);
}

static bool zero_block(const char *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

/* How many bytes from pos on are zero, by blocks; or are not, up to a row of zeroes
 * that is long enough to be left out. */
static uint64_t zero_run(const struct copy *copy, const struct slot *slot, uint64_t pos)
{
	uint64_t end = pos;

	while (end < slot->len) {
		uint64_t n = min_u64(copy->block, slot->len - end);

		if (!zero_block(slot->buf + end, n))
			break;
		end += n;
	}
	return end - pos;
}

static uint64_t data_run(const struct copy *copy, const struct slot *slot, uint64_t pos)
{
	uint64_t end = pos;

	while (end < slot->len) {
		uint64_t zeroes = zero_run(copy, slot, end);

		if (zeroes >= copy->options.sparse || (zeroes && end + zeroes == slot->len))
			break;
		end += zeroes ? zeroes : min_u64(copy->block, slot->len - end);
	}
	return end - pos;
}

/* A whole cluster or nothing. */
static uint64_t packed_run(const struct copy *copy, const struct slot *slot, bool *zero)
{
	*zero = zero_run(copy, slot, 0) == slot->len;
	return slot->len;
}

static uint64_t next_run(const struct copy *copy, const struct slot *slot, bool *zero)
{
	uint64_t len;

	*zero = false;
	if (!copy->options.sparse)
		return slot->len - slot->pos;
	if (copy->options.compress)
		return packed_run(copy, slot, zero);
	len = data_run(copy, slot, slot->pos);
	if (len)
		return len;
	*zero = true;
	return zero_run(copy, slot, slot->pos);
}

static void write_run(struct copy *copy, struct slot *slot, uint64_t len, bool zero)
{
	uint64_t at = slot->offset - copy->options.offset + copy->options.to + slot->pos;
	struct td_req *req = td_pool_get(copy->writers);

	slot->writes++;
	if (zero) {
		req->flags = TD_MAY_UNMAP;
		send(copy, req, slot, TD_WRITE_ZEROES, at, len, NULL);
		return;
	}
	copy->result->data += len;
	req->flags = copy->options.compress ? TD_COMPRESS : 0;
	send(copy, req, slot, TD_WRITE, at, len, slot->buf + slot->pos);
}

static bool its_turn(const struct copy *copy, const struct slot *slot)
{
	return !copy->options.compress || slot->turn == copy->turn || slot->pos;
}

static void write_slot(struct copy *copy, struct slot *slot)
{
	bool begins = !slot->pos;

	if (!its_turn(copy, slot))
		return;
	copy->turn += begins && copy->options.compress;
	while (slot->pos < slot->len && slot->writes < WRITES) {
		bool zero;
		uint64_t len = next_run(copy, slot, &zero);

		if (!zero || !copy->options.fresh)
			write_run(copy, slot, len, zero);
		slot->pos += len;
	}
	if (slot->pos < slot->len || slot->writes)
		return;
	slot->state = SLOT_IDLE;
	copy->done += slot->len;
}

/* ---- what comes next -------------------------------------------------------------------- */

static void skip_to(struct copy *copy, uint64_t cursor)
{
	copy->cursor = cursor;
	while (copy->count && copy->line[copy->first].end <= cursor) {
		copy->first = (copy->first + 1) % AHEAD;
		copy->count--;
	}
	copy->asked = max_u64(copy->asked, cursor);
}

/* Compressed clusters are whole ones: what is not all zeroes is data. */
static void fit_to_chunk(const struct copy *copy, uint64_t end, enum what *what, uint64_t *len)
{
	uint64_t chunk = copy->chunk, rest = copy->end - copy->cursor;

	if (*what != DATA && end - copy->cursor < min_u64(chunk, rest))
		*what = DATA;
	if (*what == DATA)
		*len = min_u64(chunk, rest);
	else if (*len < rest)
		*len = *len / chunk * chunk;
}

/* Takes the next piece of the line; false: nothing of it is known. */
static bool start(struct copy *copy, struct slot *slot)
{
	const struct extent *extent = &copy->line[copy->first];
	enum what what;

	if (!copy->count)
		return false;
	what = extent->what;
	slot->offset = copy->cursor;
	slot->pos = 0;
	slot->writes = 0;
	slot->len = min_u64(extent->end - copy->cursor, what == DATA ? copy->chunk : ZERO_MAX);
	if (copy->options.compress)
		fit_to_chunk(copy, extent->end, &what, &slot->len);
	skip_to(copy, copy->cursor + slot->len);
	if (what == DATA) {
		slot->state = SLOT_READING;
		slot->turn = copy->turns++;
		send(copy, td_pool_get(copy->readers), slot, TD_READ, slot->offset, slot->len,
		     slot->buf);
	} else if (what == NOTHING || copy->options.fresh) {
		copy->done += slot->len;
	} else {
		slot->state = SLOT_WRITING;
		write_run(copy, slot, slot->len, true);
		slot->pos = slot->len;
	}
	return true;
}

static void flush(struct copy *copy)
{
	if (copy->cursor < copy->end || copy->busy || copy->flushing)
		return;
	copy->flushing = true;
	send(copy, td_pool_get(copy->writers), &copy->slot[0], TD_FLUSH, 0, 0, NULL);
}

/* What each slot can do now. */
static void pump_slots(struct copy *copy)
{
	for (unsigned i = 0; i < copy->options.jobs; i++) {
		struct slot *slot = &copy->slot[i];

		if (slot->state == SLOT_WRITING)
			write_slot(copy, slot);
		while (slot->state == SLOT_IDLE && start(copy, slot))
			;
	}
}

static void pump(struct copy *copy)
{
	uint64_t turn;

	if (stopped(copy))
		fail(copy, -EINTR, copy->cursor, false);
	if (copy->err)
		return;
	do {
		turn = copy->turn;
		pump_slots(copy);
	} while (copy->turn != turn);
	ask(copy);
	flush(copy);
	if (copy->options.progress)
		progress_at(copy->options.progress, copy->options.to + copy->done);
}

static void pump_deferred(struct td_defer *defer)
{
	pump(container_of(defer, struct copy, pump));
}

/* ---- begin and end ------------------------------------------------------------------------ */

static int copy_open(struct copy *copy, struct td_disk *from)
{
	unsigned jobs = copy->options.jobs;
	int err;

	copy->slot = calloc(jobs, sizeof(*copy->slot));
	copy->arena = aligned_alloc(4096, round_up(jobs * copy->chunk, 4096));
	if (!copy->slot || !copy->arena)
		return -ENOMEM;
	for (unsigned i = 0; i < jobs; i++) {
		copy->slot[i].copy = copy;
		copy->slot[i].buf = copy->arena + i * copy->chunk;
	}
	err = td_pool_new(td_disk_queue(from), jobs + 1, sizeof(struct sent), read_done,
			  &copy->readers);
	if (err)
		return err;
	return td_pool_new(td_disk_queue(copy->to), jobs * WRITES + 1, sizeof(struct sent),
			   write_done, &copy->writers);
}

static void copy_run(struct copy *copy)
{
	pump(copy);
	while (copy->busy || (!copy->err && !copy->flushed)) {
		td_loop_turn(copy->loop, 200);
		pump(copy);
	}
	td_loop_undefer(copy->loop, &copy->pump);
}

static void options_default(struct copy *copy, struct td_disk *from)
{
	struct copy_options *options = &copy->options;

	options->jobs = options->jobs ? min_u64(options->jobs, COPY_JOBS_MAX) : COPY_JOBS;
	copy->chunk = options->compress ? td_disk_cluster(copy->to) : CHUNK;
	copy->block = options->sparse && options->sparse < 4096 ? 512 : 4096;
	copy->sector = td_disk_block_size(from);
	copy->cursor = copy->asked = options->offset;
	copy->end = options->len ? options->offset + options->len : td_disk_size(from);
}

int copy_disk(struct td_loop *loop, struct td_disk *from, struct td_disk *to,
	      const struct copy_options *options, struct copy_result *out)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int err;

	*out = (struct copy_result){ 0 };
	if (!copy)
		return -ENOMEM;
	*copy = (struct copy){
		.loop = loop, .to = to, .options = *options, .result = out,
		.pump.run = pump_deferred,
	};
	options_default(copy, from);
	err = copy_open(copy, from);
	if (!err) {
		copy_run(copy);
		err = copy->err;
	}
	td_pool_free(copy->readers);
	td_pool_free(copy->writers);
	free(copy->arena);
	free(copy->slot);
	free(copy);
	return err;
}
