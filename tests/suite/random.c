/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random sequences against the model, one request after the other and many at
 * once. The seed is printed by main.c; --seed repeats a run.
 */
#include <stdlib.h>
#include <string.h>

#include "suite.h"

static enum td_op op_pick(struct rig *rig, struct rnd *rnd)
{
	uint64_t n = rnd_below(rnd, 100);

	if (n < 45)
		return TD_WRITE;
	if (n < 75)
		return TD_READ;
	if (n < 85 && rig->can & TD_CAN_DISCARD)
		return TD_DISCARD;
	if (n < 95)
		return TD_WRITE_ZEROES;
	return TD_FLUSH;
}

/* Mostly small, now and then large; a third near what was used before. */
static void span_random(struct rig *rig, struct rnd *rnd, uint64_t *at, uint64_t *len)
{
	static const unsigned most[] = { 1, 4, 9, 40, 300 };
	uint64_t blocks = rig->size / rig->block;
	uint64_t n = 1 + rnd_below(rnd, most[rnd_below(rnd, ARRAY_SIZE(most))]);
	uint64_t first = rnd_below(rnd, 3) ? rnd_below(rnd, blocks) : rnd_below(rnd, blocks / 16);

	*at = first * rig->block;
	*len = min_u64(n, blocks - first) * rig->block;
}

static void model_did(struct model *model, const struct io *io)
{
	if (io->op == TD_WRITE)
		model_set(model, io->offset, io->len, io->tag);
	else if (io->op == TD_WRITE_ZEROES)
		model_set(model, io->offset, io->len, TAG_ZERO);
	else if (io->op == TD_DISCARD)
		model_maybe(model, io->offset, io->len, TAG_ZERO);
}

static void random_sequence_agrees_with_model(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	target_make(suite, 5 * MiB + 4096 * rnd_below(&rnd, 99), &target);
	rig_open(&rig, suite, &target);
	for (unsigned i = 0; i < suite->rounds; i++) {
		struct io io = { .op = op_pick(&rig, &rnd), .tag = TAG_FIRST + i };
		if (io.op != TD_FLUSH)
			span_random(&rig, &rnd, &io.offset, &io.len);
		if (io.op == TD_WRITE && !rnd_below(&rnd, 10))
			io.flags = TD_FUA;
		if (io.op == TD_WRITE_ZEROES && rnd_below(&rnd, 2))
			io.flags = TD_MAY_UNMAP;
		if (io.op == TD_READ) {
			rig_expect(&rig, io.offset, io.len);
			continue;
		}
		io_start(&rig, &io);
		int err = io_wait(&io);
		require(!err, "request %u, operation %u: %s", i, io.op, strerror(-err));
		model_did(&rig.model, &io);
		io_free(&io);
		if (i % 256 == 255 && !suite->forgets) {
			rig_reopen(&rig, &target);
			rig_check(&rig);
		}
	}
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

#define FLYING 24

static bool overlaps(const struct io *a, const struct io *b)
{
	return a->offset < b->offset + b->len && b->offset < a->offset + a->len;
}

/* Takes io back when it has ended (or waits), and brings the model up to date. */
static void land(struct rig *rig, struct io *io)
{
	char text[512];
	int err = io_wait(io);

	require(!err, "operation %u of %llu bytes at %llu: %s", io->op,
		(unsigned long long)io->len, (unsigned long long)io->offset, strerror(-err));
	if (io->op == TD_READ) {
		char *bytes = io_bytes(io);
		require(model_match(&rig->model, io->offset, bytes, io->len, text, sizeof(text)),
			"%s", text);
		free(bytes);
	}
	model_did(&rig->model, io);
	io_free(io);
	io->rig = NULL;
}

/* Requests that touch no common block, but common clusters and tables. */
static void random_crowd_agrees_with_model(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { ~suite->seed };
	static struct io io[FLYING];

	target_make(suite, 5 * MiB + 4096 * rnd_below(&rnd, 99), &target);
	rig_open(&rig, suite, &target);
	for (unsigned i = 0; i < suite->rounds * 2; i++) {
		struct io next = { .op = op_pick(&rig, &rnd), .tag = TAG_FIRST + i };
		if (next.op != TD_FLUSH)
			span_random(&rig, &rnd, &next.offset, &next.len);
		if (next.op == TD_WRITE && !rnd_below(&rnd, 10))
			next.flags = TD_FUA;
		for (unsigned j = 0; j < FLYING; j++)
			if (io[j].rig && (io[j].ended || overlaps(&io[j], &next)))
				land(&rig, &io[j]);
		unsigned slot = rnd_below(&rnd, FLYING);
		if (io[slot].rig)
			land(&rig, &io[slot]);
		io[slot] = next;
		io_start(&rig, &io[slot]);
		if (!rnd_below(&rnd, 3))
			rig_turn(&rig);
	}
	for (unsigned j = 0; j < FLYING; j++)
		if (io[j].rig)
			land(&rig, &io[j]);
	rig_expect_all(&rig);
	rig_check(&rig);
	if (!suite->forgets) {
		rig_reopen(&rig, &target);
		rig_expect_all(&rig);
	}
	rig_close(&rig);
	rig_end(&rig);
}

const struct behaviour random_behaviours[] = {
	{ "random-sequence-agrees-with-model", random_sequence_agrees_with_model, TD_CAN_WRITE },
	{ "random-crowd-agrees-with-model", random_crowd_agrees_with_model, TD_CAN_WRITE },
	{ NULL },
};
