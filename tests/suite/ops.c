/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Behaviours of flush, FUA, discard, write zeroes and extents, and of what must
 * be refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

static void open_fresh(struct rig *rig, struct suite *suite, uint64_t size,
		       struct target *target)
{
	target_make(suite, size, target);
	rig_open(rig, suite, target);
}

static void done_with(struct rig *rig)
{
	rig_check(rig);
	int err = rig_close(rig);
	require(!err, "close: %s", strerror(-err));
	rig_end(rig);
}

/* After a flush, or a write with FUA, that was sent after hook_mark(). */
static unsigned unsynced(struct rig *rig)
{
	struct suite *suite = rig->suite;

	return suite->logged && suite->queues > 1 ? hook_unsynced_entries(&rig->hook) :
						    hook_unsynced(&rig->hook);
}

/* What the disk holds it holds when it is opened again, too. */
static void kept(struct rig *rig, const struct target *target)
{
	rig_expect_all(rig);
	if (!rig->suite->forgets) {
		rig_reopen(rig, target);
		rig_expect_all(rig);
	}
	done_with(rig);
}

static void flush_syncs_what_was_written(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	open_fresh(&rig, suite, 8 * MiB, &target);
	rig_do(&rig, TD_FLUSH, 0, 0, 0);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t blocks = rig.size / rig.block;
		uint64_t n = 1 + rnd_below(&rnd, 40);
		rig_write(&rig, rnd_below(&rnd, blocks - n) * rig.block, n * rig.block,
			  TAG_FIRST + i);
		if (i % 3)
			continue;
		hook_mark(&rig.hook);
		rig_do(&rig, TD_FLUSH, 0, 0, 0);
		require(unsynced(&rig) == 0,
			"a flush ended while %u files have unsynced writes", unsynced(&rig));
	}
	rig_expect_all(&rig);
	done_with(&rig);
}

static void fua_is_durable_when_it_ends(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	open_fresh(&rig, suite, 8 * MiB, &target);
	require(rig.can & TD_CAN_FUA, "a writable disk does not offer FUA");
	for (unsigned i = 0; i < 30; i++) {
		uint64_t blocks = rig.size / rig.block;
		uint64_t n = 1 + rnd_below(&rnd, 30);
		struct io io = { .op = TD_WRITE, .flags = TD_FUA, .tag = TAG_FIRST + i,
				 .offset = rnd_below(&rnd, blocks - n) * rig.block,
				 .len = n * rig.block };
		hook_mark(&rig.hook);
		io_start(&rig, &io);
		int err = io_wait(&io);
		require(!err, "FUA write: %s", strerror(-err));
		model_set(&rig.model, io.offset, io.len, io.tag);
		io_free(&io);
		require(unsynced(&rig) == 0,
			"a FUA write ended while %u files have unsynced writes", unsynced(&rig));
	}
	hook_mark(&rig.hook);
	rig_do(&rig, TD_WRITE_ZEROES, TD_FUA, 0, 64 * KiB);
	model_set(&rig.model, 0, 64 * KiB, TAG_ZERO);
	require(unsynced(&rig) == 0, "FUA write zeroes left unsynced writes");
	rig_expect_all(&rig);
	done_with(&rig);
}

/* The spans that discard and write-zeroes are tried on: parts of clusters,
 * whole ones, many, the end, and the whole image. */
static uint64_t span_pick(struct rig *rig, struct rnd *rnd, unsigned i, uint64_t *len)
{
	uint64_t cluster = td_disk_cluster(rig->disk), block = rig->block;
	uint64_t blocks = rig->size / block, at;

	switch (i % 6) {
	case 0:
		*len = block;
		return rnd_below(rnd, blocks) * block;
	case 1:
		at = round_down(rnd_below(rnd, rig->size), cluster);
		*len = min_u64(cluster, rig->size - at);
		return at;
	case 2:
		at = rnd_below(rnd, blocks - 8) * block;
		*len = (1 + rnd_below(rnd, 8)) * block;
		return at;
	case 3:
		at = rnd_below(rnd, blocks) * block;
		*len = (1 + rnd_below(rnd, min_u64(blocks - at / block, 700))) * block;
		return at;
	case 4:
		*len = min_u64(3 * cluster + block, rig->size);
		return rig->size - *len;
	}
	*len = i == 11 ? rig->size : 5 * block;
	return i == 11 ? 0 : rnd_below(rnd, blocks - 5) * block;
}

/* After a discard: zeroes or what was there, settled by the first look. */
static void discard_gives_zeroes_or_what_was_there(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	open_fresh(&rig, suite, 6 * MiB, &target);
	rig_write(&rig, 0, 4 * MiB, TAG_FIRST);
	for (unsigned i = 0; i < 24; i++) {
		uint64_t len, at = span_pick(&rig, &rnd, i, &len);
		rig_do(&rig, TD_DISCARD, 0, at, len);
		model_maybe(&rig.model, at, len, TAG_ZERO);
		rig_expect_all(&rig);
		at = span_pick(&rig, &rnd, i + 2, &len);
		rig_write(&rig, at, min_u64(len, MiB), TAG_FIRST + 1 + i);
	}
	kept(&rig, &target);
}

static void write_zeroes_reads_as_zeroes(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	open_fresh(&rig, suite, 6 * MiB, &target);
	require(rig.can & TD_CAN_WRITE_ZEROES, "a writable disk does not offer write zeroes");
	rig_write(&rig, MiB, 2 * MiB, TAG_FIRST);
	for (unsigned i = 0; i < 24; i++) {
		uint64_t len, at = span_pick(&rig, &rnd, i, &len);
		rig_do(&rig, TD_WRITE_ZEROES, i % 2 ? TD_MAY_UNMAP : 0, at, len);
		model_set(&rig.model, at, len, TAG_ZERO);
		rig_expect_all(&rig);
		at = span_pick(&rig, &rnd, i + 3, &len);
		rig_write(&rig, at, min_u64(len, MiB), TAG_FIRST + 1 + i);
	}
	kept(&rig, &target);
}

/* Walks the image; what is said to read as zeroes does. Returns the bytes said
 * to be zeroes. */
static uint64_t extents_walk(struct rig *rig)
{
	uint64_t zeroes = 0, steps = 0;
	struct model model = { 0 };

	model_init(&model, rig->size, TAG_ZERO);
	for (uint64_t at = 0; at < rig->size;) {
		struct io io = { .op = TD_EXTENTS, .offset = at, .len = rig->size - at };
		io_start(rig, &io);
		int err = io_wait(&io);
		require(!err, "extents at %llu: %s", (unsigned long long)at, strerror(-err));
		io_free(&io);
		require(io.extent.len > 0, "an extent of no length at %llu", (unsigned long long)at);
		uint64_t len = round_down(min_u64(io.extent.len, rig->size - at), rig->block);
		require(len > 0, "an extent of %llu bytes at %llu",
			(unsigned long long)io.extent.len, (unsigned long long)at);
		if (io.extent.flags & TD_EXTENT_ZERO) {
			struct model real = rig->model;
			rig->model = model;
			rig_expect(rig, at, len);
			rig->model = real;
			zeroes += len;
		}
		at += len;
		require(++steps < 100000, "extents make no progress");
	}
	model_free(&model);
	return zeroes;
}

static void extents_agree_with_content(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	open_fresh(&rig, suite, 6 * MiB, &target);
	uint64_t fresh = extents_walk(&rig);
	if (rig.can & TD_CAN_EXTENTS && target.tag == TAG_ZERO && !suite->forgets)
		require(fresh == rig.size, "only %llu bytes of a fresh image are said to be zeroes",
			(unsigned long long)fresh);
	for (unsigned i = 0; i < 12; i++) {
		uint64_t len, at = span_pick(&rig, &rnd, i % 5, &len);
		if (i % 4 == 3) {
			rig_do(&rig, TD_WRITE_ZEROES, TD_MAY_UNMAP, at, len);
			model_set(&rig.model, at, len, TAG_ZERO);
		} else {
			rig_write(&rig, at, min_u64(len, 256 * KiB), TAG_FIRST + i);
		}
		extents_walk(&rig);
	}
	rig_expect_all(&rig);
	done_with(&rig);
}

static void read_only_changes_not_one_byte(struct suite *suite)
{
	struct target target;
	struct rig rig;

	target_make(suite, 3 * MiB, &target);
	struct model model = { 0 };
	if (!suite->forgets && suite->driver->can & TD_CAN_WRITE) {
		rig_open(&rig, suite, &target);
		rig_write(&rig, 64 * KiB, 300 * KiB, TAG_FIRST);
		model_copy(&model, &rig.model);
		done_with(&rig);
	}
	uint64_t before = folder_checksum(suite->dir);
	rig_prepare(&rig, suite);
	rig.options.read_only = true;
	rig.model = model;
	struct td_why why = { "" };
	int err = rig_try_open(&rig, &target, &why);
	require(!err, "open read-only: %s (%s)", why.text, strerror(-err));
	require(td_disk_read_only(rig.disk), "the disk does not say that it is read-only");
	require(!(rig.can & (TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES)),
		"a read-only disk offers to change things: can = %#x", rig.can);
	static const struct { enum td_op op; unsigned flags; } tries[] = {
		{ TD_WRITE, 0 }, { TD_WRITE, TD_FUA }, { TD_DISCARD, 0 },
		{ TD_WRITE_ZEROES, 0 }, { TD_WRITE_ZEROES, TD_MAY_UNMAP },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
		err = rig_ask(&rig, tries[i].op, tries[i].flags, 8192, 8192);
		require(err == -EROFS || err == -EOPNOTSUPP,
			"operation %u on a read-only disk: %s", tries[i].op, strerror(-err));
	}
	rig_do(&rig, TD_FLUSH, 0, 0, 0);
	rig_expect_all(&rig);
	extents_walk(&rig);
	rig_check(&rig);
	require(rig.hook.changes == 0, "%llu changes of files were issued",
		(unsigned long long)rig.hook.changes);
	rig_close(&rig);
	rig_end(&rig);
	require(folder_checksum(suite->dir) == before, "files have changed");
}

static void requests_out_of_range_are_refused(struct suite *suite)
{
	struct target target;
	struct rig rig;

	open_fresh(&rig, suite, 2 * MiB, &target);
	uint64_t size = rig.size, block = rig.block;
	const struct { uint64_t offset, len; } bad[] = {
		{ size, block }, { size - block, 2 * block }, { size + block, block },
		{ UINT64_MAX - block + 1, block }, { UINT64_MAX - block + 1, 2 * block },
		{ 1ull << 62, block }, { 0, size + block },
		{ 1, block }, { block / 2, block }, { 0, block / 2 }, { block, block + 1 },
	};
	static const enum td_op ops[] = { TD_READ, TD_WRITE, TD_DISCARD, TD_WRITE_ZEROES };
	static char memory[8192];
	for (unsigned o = 0; o < ARRAY_SIZE(ops); o++) {
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
			/* No memory is made: it must not be touched. */
			struct iovec none = { memory, min_u64(bad[i].len, sizeof(memory)) };
			struct io io = { .op = ops[o], .offset = bad[i].offset,
					 .len = bad[i].len, .iov = &none, .iov_count = 1 };
			io_start_raw(&rig, &io);
			while (!io.ended)
				rig_turn(&rig);
			require(io.err == -EINVAL || io.err == -EOPNOTSUPP || io.err == -EROFS,
				"operation %u of %llu bytes at %llu: %s", ops[o],
				(unsigned long long)bad[i].len, (unsigned long long)bad[i].offset,
				io.err ? strerror(-io.err) : "accepted");
			io_free(&io);
		}
	}
	rig_expect_all(&rig);
	done_with(&rig);
}

const struct behaviour op_behaviours[] = {
	{ "flush-syncs-what-was-written", flush_syncs_what_was_written, TD_CAN_WRITE },
	{ "fua-is-durable-when-it-ends", fua_is_durable_when_it_ends, TD_CAN_WRITE },
	{ "discard-gives-zeroes-or-what-was-there", discard_gives_zeroes_or_what_was_there,
	  TD_CAN_WRITE | TD_CAN_DISCARD },
	{ "write-zeroes-reads-as-zeroes", write_zeroes_reads_as_zeroes, TD_CAN_WRITE },
	{ "extents-agree-with-content", extents_agree_with_content, TD_CAN_WRITE },
	{ "read-only-changes-not-one-byte", read_only_changes_not_one_byte, 0 },
	{ "requests-out-of-range-are-refused", requests_out_of_range_are_refused, 0 },
	{ NULL },
};
