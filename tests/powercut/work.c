/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workload of a run: random writes with and without FUA, zeroes, discards and
 * flushes, several in flight, of parts of clusters, whole ones and many, mostly
 * in a few hot places so that they meet.
 */
#include <string.h>

#include "explore.h"

#define FLYING_MAX 12

struct flight {
	struct io io;
	unsigned ask;
	bool up, told;
};

struct fleet {
	struct rig *rig;
	struct log *log;
	struct flight flight[FLYING_MAX];
};

void work_draw(struct work *work, const struct run *run, unsigned max_steps, struct rnd *rnd)
{
	work->whole = run->format->whole;
	work->steps = 8 + rnd_below(rnd, max_steps - 7);
	work->flying = 1 + rnd_below(rnd, FLYING_MAX);
	work->flush_every = 1 + rnd_below(rnd, 10);
	work->percent_discard = rnd_below(rnd, 25);
	work->percent_zero = rnd_below(rnd, 20);
	work->percent_flush = rnd_below(rnd, 30);
}

static enum td_op op_pick(const struct work *work, const struct rig *rig, struct rnd *rnd)
{
	uint64_t n = rnd_below(rnd, 100);

	if (n < work->percent_discard)
		return rig->can & TD_CAN_DISCARD ? TD_DISCARD : TD_WRITE;
	if (n < work->percent_discard + work->percent_zero)
		return TD_WRITE_ZEROES;
	return n < 100 - work->percent_flush ? TD_WRITE : TD_FLUSH;
}

static void span_pick(const struct rig *rig, struct rnd *rnd, struct io *io)
{
	static const unsigned sectors[] = { 1, 3, 8, 8, 16, 70, 260 };
	uint64_t hot = rnd_below(rnd, 5) * (rig->size / 5);
	uint64_t at = rnd_below(rnd, 4) ? hot + rnd_below(rnd, 400) * SECTOR :
		rnd_below(rnd, rig->size / SECTOR) * SECTOR;
	uint64_t len = sectors[rnd_below(rnd, ARRAY_SIZE(sectors))] * SECTOR;

	if (rnd_below(rnd, 2))
		at = round_down(at, 4096);
	at = round_down(min_u64(at, rig->size - rig->block), rig->block);
	io->offset = at;
	io->len = min_u64(round_up(len, rig->block), rig->size - at);
}

/* What is freed as a whole is used again. */
static void whole_pick(const struct work *work, const struct rig *rig, struct rnd *rnd, struct io *io)
{
	if (!work->whole || (io->op != TD_DISCARD && io->op != TD_WRITE_ZEROES) || rnd_below(rnd, 2))
		return;
	io->offset = round_down(rnd_below(rnd, rig->size), work->whole);
	io->len = min_u64(work->whole, rig->size - io->offset);
}

static bool overlaps(const struct io *a, const struct io *b)
{
	return a->len && b->len && a->offset < b->offset + b->len &&
	       b->offset < a->offset + a->len;
}

/* The answer counts from when it is seen: in the turn that brings it. */
static void note_answers(struct fleet *fleet)
{
	for (unsigned i = 0; i < FLYING_MAX; i++) {
		struct flight *flight = &fleet->flight[i];
		if (!flight->up || flight->told || !flight->io.ended)
			continue;
		flight->told = true;
		log_answered(fleet->log, flight->ask, flight->io.err);
	}
}

static void turn(struct fleet *fleet)
{
	rig_turn(fleet->rig);
	note_answers(fleet);
}

static void land(struct fleet *fleet, struct flight *one)
{
	if (!one->up)
		return;
	while (!one->io.ended)
		turn(fleet);
	note_answers(fleet);
	int err = io_wait(&one->io);
	require(!err, "the workload met an error: %s", strerror(-err));
	io_free(&one->io);
	one->up = false;
}

static void launch(struct fleet *fleet, struct flight *slot, const struct io *io)
{
	for (unsigned j = 0; j < FLYING_MAX; j++)
		if (fleet->flight[j].up && overlaps(&fleet->flight[j].io, io))
			land(fleet, &fleet->flight[j]);
	land(fleet, slot);
	*slot = (struct flight){ .io = *io, .up = true };
	slot->ask = log_asked(fleet->log, io->op, io->flags, io->offset, io->len, io->tag);
	io_start(fleet->rig, &slot->io);
	note_answers(fleet);
}

void work_do(struct work *work, struct rig *rig, struct log *log, struct rnd *rnd)
{
	struct fleet fleet = { .rig = rig, .log = log };
	unsigned since_flush = 0;

	for (unsigned i = 0; i < work->steps; i++) {
		struct io io = { .op = op_pick(work, rig, rnd), .tag = work->tag++ };
		if (++since_flush > work->flush_every)
			io.op = TD_FLUSH;
		if (io.op == TD_FLUSH)
			since_flush = 0;
		else
			span_pick(rig, rnd, &io);
		whole_pick(work, rig, rnd, &io);
		if ((io.op == TD_WRITE || io.op == TD_WRITE_ZEROES) && !rnd_below(rnd, 9))
			io.flags |= TD_FUA;
		if (io.op == TD_WRITE_ZEROES && rnd_below(rnd, 2))
			io.flags |= TD_MAY_UNMAP;
		launch(&fleet, &fleet.flight[rnd_below(rnd, work->flying)], &io);
		for (uint64_t turns = rnd_below(rnd, 5); turns && rig->in_flight; turns--)
			turn(&fleet);
	}
	for (unsigned j = 0; j < FLYING_MAX; j++)
		land(&fleet, &fleet.flight[j]);
}
