/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Behaviours of a disk's queues other than home, and of what they have under way while
 * home changes things.
 */
#include "suite.h"

#include <stdlib.h>
#include <string.h>

#define LOOK 4096
#define TRIES 32

static void io_on(struct rig *rig, unsigned queue, struct io *io)
{
	rig->started = queue;
	io_start(rig, io);
}

static void read_on(struct rig *rig, unsigned queue, uint64_t offset)
{
	rig->started = queue;
	rig_expect(rig, offset, LOOK);
}

/* Whether a request that touches what is there already needs the home queue no more. */
static bool needs_home(struct rig *rig, enum td_op op, uint64_t offset)
{
	struct io io = { .op = op, .offset = offset, .len = LOOK, .tag = TAG_FIRST + 1 };
	uint64_t before = rig->hook.at_home;
	int err;

	io_on(rig, 1, &io);
	err = io_wait(&io);
	io_free(&io);
	require(!err, "a request on the second queue: %s", strerror(-err));
	if (op == TD_WRITE)
		model_set(&rig->model, offset, LOOK, TAG_FIRST + 1);
	return rig->hook.at_home != before;
}

static void what_is_there_is_served_on_any_queue(struct suite *suite)
{
	uint32_t tried = 0, home = 0;
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	if (suite->queues < 2)
		skip("the disk has one queue");
	if (!(suite->driver->can & TD_CAN_ANY_QUEUE || suite->driver->submit_away))
		skip("its requests are served on the home queue");
	target_make(suite, 4 * MiB, &target);
	rig_open(&rig, suite, &target);
	for (uint64_t at = 0; at + 256 * KiB <= rig.size; at += 256 * KiB)
		rig_write(&rig, at, 256 * KiB, TAG_FIRST);
	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t at = rnd_below(&rnd, rig.size / LOOK) * LOOK;

		read_on(&rig, 1, at); /* tables may come into memory for it ... */
		read_on(&rig, 1, at); /* ... and now it is known */
		home += needs_home(&rig, TD_READ, at);
		tried++;
		if (suite->encrypted)
			continue; /* writes of which need the home queue's memory */
		needs_home(&rig, TD_WRITE, at);
		home += needs_home(&rig, TD_WRITE, at);
		tried++;
	}
	/* some lie where the file is not in a row, and in the same block as others */
	require(home <= tried / 4, "%u of %u requests went home", home, tried);
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/* Of what was there, or zeroes, but of nothing that was written elsewhere since. */
static void expect_no_other(const struct io *io)
{
	char *bytes = io_bytes(io), text[128];

	for (uint64_t pos = 0; pos < io->len; pos += SECTOR) {
		tag_describe(bytes + pos, text, sizeof(text));
		require(tag_matches(bytes + pos, io->offset + pos, TAG_FIRST) ||
			tag_matches(bytes + pos, io->offset + pos, TAG_ZERO),
			"a read that was under way before a discard got %s", text);
	}
	free(bytes);
}

/* What was discarded while it is being read is not used for anything else meanwhile. */
static void discarded_while_read(struct suite *suite, unsigned queue)
{
	struct io io = { .op = TD_READ, .len = LOOK };
	struct target target;
	struct rig rig;
	uint64_t cluster;

	target_make(suite, 8 * MiB, &target);
	rig_open(&rig, suite, &target);
	cluster = max_u64(td_disk_cluster(rig.disk), 64 * KiB);
	if (rig.size < 4 * cluster)
		skip("clusters of %llu bytes", (unsigned long long)cluster);
	rig_write(&rig, 0, cluster, TAG_FIRST);
	rig_do(&rig, TD_FLUSH, 0, 0, 0);
	read_on(&rig, queue, LOOK);
	read_on(&rig, queue, LOOK);
	io.offset = LOOK;
	hook_keep_next(&rig.hook);
	io_on(&rig, queue, &io);
	for (unsigned i = 0; i < 1000 && !hook_keeps(&rig.hook); i++)
		rig_turn_for(&rig, 10);
	require(hook_keeps(&rig.hook), "the read did not reach the file");
	rig_do(&rig, TD_DISCARD, 0, 0, cluster);
	for (unsigned i = 0; i < 4; i++) {
		rig_do(&rig, TD_FLUSH, 0, 0, 0); /* now it could be used again */
		rig_turn_for(&rig, 10);
		rig_write(&rig, cluster + i * cluster / 2, cluster / 2, TAG_FIRST + 1 + i);
	}
	hook_let_go(&rig.hook);
	require(!io_wait(&io), "the read: %s", strerror(-io.err));
	expect_no_other(&io);
	io_free(&io);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

static void a_read_outlasts_a_discard(struct suite *suite)
{
	if (suite->forgets || suite->server)
		skip("the driver keeps nothing in files");
	for (unsigned i = 0; i < min_u64(suite->queues, 2); i++)
		discarded_while_read(suite, i);
}

const struct behaviour queue_behaviours[] = {
	{ "what-is-there-is-served-on-any-queue", what_is_there_is_served_on_any_queue,
	  TD_CAN_WRITE },
	{ "a-read-outlasts-a-discard", a_read_outlasts_a_discard, TD_CAN_DISCARD },
	{ NULL },
};
