/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Behaviours of reading and writing: sizes, alignments, large requests, odd
 * memory, many requests at once, content that lasts.
 */
#include <stdlib.h>
#include <string.h>

#include "suite.h"

/* One image size, as the options in force allow it. */
static uint64_t fitting(const struct suite *suite, uint64_t size)
{
	if (!suite->exact)
		size = max_u64(size, MiB);
	if (suite->forgets)
		size = min_u64(size, 64 * MiB);
	if (suite->overlay || suite->packed)
		size = min_u64(size, 6 * MiB);
	return size;
}

static void size_is_kept(struct suite *suite)
{
	static const uint64_t sizes[] = { 512, 4096 + 512, MiB - 512, 5 * MiB + 1536, 5 * GiB };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t size = fitting(suite, sizes[i]);
		struct target target;
		struct rig rig;

		target_make(suite, size, &target);
		rig_open(&rig, suite, &target);
		require(!suite->exact || rig.size == size, "made with %llu bytes, opened with %llu",
			(unsigned long long)size, (unsigned long long)rig.size);
		require(is_pow2(rig.block) && rig.block >= 512, "block size %u", rig.block);
		require(rig.size && rig.size % rig.block == 0, "size %llu with blocks of %u",
			(unsigned long long)rig.size, rig.block);
		require(td_disk_cluster(rig.disk) >= rig.block, "cluster %u with blocks of %u",
			td_disk_cluster(rig.disk), rig.block);
		rig_expect(&rig, 0, rig.block);
		rig_expect(&rig, rig.size - rig.block, rig.block);
		rig_close(&rig);
		rig_end(&rig);
	}
}

static void fresh_image_reads_as_it_should(struct suite *suite)
{
	struct target target;
	struct rig rig;

	target_make(suite, 5 * MiB + 12288, &target);
	rig_open(&rig, suite, &target);
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/*
 * Around the edges of clusters, tables and the image: every start and length
 * in a few blocks, each followed by a look at what lies beside it.
 */
static void write_read_at_every_alignment(struct suite *suite)
{
	struct target target;
	struct rig rig;
	uint32_t tag = TAG_FIRST;

	target_make(suite, 9 * MiB + 8192, &target);
	rig_open(&rig, suite, &target);
	uint64_t edges[] = { 0, 4096, 65536, 2 * MiB, 8 * MiB, rig.size };
	uint64_t step = rig.block;
	for (unsigned e = 0; e < ARRAY_SIZE(edges); e++) {
		uint64_t edge = round_down(edges[e], step);
		for (uint64_t before = 0; before <= 3; before++) {
			for (uint64_t after = 0; after <= 9; after += 1 + after / 3) {
				if (before * step > edge || edge + after * step > rig.size ||
				    before + after == 0)
					continue;
				uint64_t at = edge - before * step;
				uint64_t len = (before + after) * step;
				rig_write(&rig, at, len, tag++);
				uint64_t from = at > 8192 ? round_down(at - 8192, step) : 0;
				rig_expect(&rig, from, min_u64(rig.size - from, len + 16384));
			}
		}
	}
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

static void with_pieces(struct rig *rig, enum td_op op, uint64_t offset, uint64_t len,
			const size_t *piece, unsigned pieces, size_t skew, uint32_t tag)
{
	struct io io = { .op = op, .offset = offset, .len = len, .tag = tag };
	char text[512];

	io_memory(&io, piece, pieces, skew);
	io_start(rig, &io);
	int err = io_wait(&io);
	require(!err, "%u pieces at skew %zu: %s", io.iov_count, skew, strerror(-err));
	if (op == TD_WRITE) {
		model_set(&rig->model, offset, len, tag);
	} else {
		char *bytes = io_bytes(&io);
		require(model_match(&rig->model, offset, bytes, len, text, sizeof(text)),
			"%u pieces at skew %zu: %s", io.iov_count, skew, text);
		free(bytes);
	}
	io_free(&io);
}

static void large_requests_work(struct suite *suite)
{
	static const size_t page[] = { 32768 }, mixed[] = { 4096, 131072, 8192, 1048576 },
			    whole[] = { 32 * MiB }, half[] = { 512, 3584 };
	struct target target;
	struct rig rig;

	target_make(suite, 34 * MiB, &target);
	rig_open(&rig, suite, &target);
	uint64_t at = 8 * rig.block;
	with_pieces(&rig, TD_READ, 0, 32 * MiB, mixed, ARRAY_SIZE(mixed), 0, 0);
	with_pieces(&rig, TD_WRITE, at, 32 * MiB, page, 1, 0, TAG_FIRST);
	with_pieces(&rig, TD_READ, at, 32 * MiB, whole, 1, 0, 0);
	with_pieces(&rig, TD_WRITE, 0, 32 * MiB, whole, 1, 0, TAG_FIRST + 1);
	with_pieces(&rig, TD_READ, 0, 32 * MiB, page, 1, 0, 0);
	with_pieces(&rig, TD_WRITE, at, 2 * MiB, half, 2, 0, TAG_FIRST + 2);
	with_pieces(&rig, TD_READ, 0, 16 * MiB, mixed, ARRAY_SIZE(mixed), 512, 0);
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

static void odd_memory_works(struct suite *suite)
{
	static const size_t sector[] = { 512 }, odd[] = { 1, 511, 7, 4096, 13, 1011 },
			    big[] = { 12288, 512, 65536 + 512 };
	static const size_t skews[] = { 0, 512, 2, 1, 4095, 1536 };
	struct target target;
	struct rig rig;
	uint32_t tag = TAG_FIRST;

	target_make(suite, 4 * MiB, &target);
	rig_open(&rig, suite, &target);
	for (unsigned i = 0; i < ARRAY_SIZE(skews); i++) {
		uint64_t at = i * 300 * KiB + i * rig.block, len = 256 * KiB + rig.block;
		with_pieces(&rig, TD_WRITE, at, len, sector, 1, skews[i], tag++);
		with_pieces(&rig, TD_READ, at, len, odd, ARRAY_SIZE(odd), skews[i], 0);
		with_pieces(&rig, TD_WRITE, at + rig.block, len, odd, ARRAY_SIZE(odd),
			    skews[i], tag++);
		with_pieces(&rig, TD_READ, at, len, sector, 1, skews[i], 0);
		with_pieces(&rig, TD_WRITE, at, rig.block, big, ARRAY_SIZE(big), skews[i], tag++);
		with_pieces(&rig, TD_READ, at, len, big, ARRAY_SIZE(big), skews[i], 0);
	}
	rig_expect_all(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/* Several writers of neighbouring blocks at once: each block of each cluster
 * by a request of its own, in an order that looks random. */
static void neighbours_in_flight_all_arrive(struct suite *suite)
{
	enum { COUNT = 256 };
	struct target target;
	struct rig rig;
	static struct io io[COUNT];

	target_make(suite, 4 * MiB, &target);
	rig_open(&rig, suite, &target);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t from = round * MiB + round * rig.block;
		for (unsigned i = 0; i < COUNT; i++) {
			unsigned slot = i * 37 % COUNT;
			io[i] = (struct io){ .op = TD_WRITE, .offset = from + slot * rig.block,
					     .len = rig.block, .tag = TAG_FIRST + slot };
			io_start(&rig, &io[i]);
		}
		for (unsigned i = 0; i < COUNT; i++) {
			int err = io_wait(&io[i]);
			require(!err, "write %u of %u: %s", i, COUNT, strerror(-err));
			model_set(&rig.model, io[i].offset, io[i].len, io[i].tag);
			io_free(&io[i]);
		}
	}
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/* What several requests in flight over the same blocks leave is one of what
 * they wrote, block by block, and nothing else. */
static void overlapping_in_flight_leave_one_of_them(struct suite *suite)
{
	enum { COUNT = 12 };
	struct target target;
	struct rig rig;
	static struct io io[2 * COUNT];
	struct rnd rnd = { suite->seed };

	target_make(suite, 2 * MiB, &target);
	rig_open(&rig, suite, &target);
	for (unsigned round = 0; round < 12; round++) {
		uint64_t span = 48, from = round * 100 * KiB / rig.block * rig.block;
		if (from + span * rig.block > rig.size)
			break;
		for (unsigned i = 0; i < 2 * COUNT; i++) {
			uint64_t first = rnd_below(&rnd, span - 1);
			uint64_t n = 1 + rnd_below(&rnd, span - first);
			io[i] = (struct io){ .op = i % 2 ? TD_READ : TD_WRITE,
					     .offset = from + first * rig.block,
					     .len = n * rig.block,
					     .tag = TAG_FIRST + round * COUNT + i / 2 };
			io_start(&rig, &io[i]);
		}
		struct model over = { 0 };
		model_copy(&over, &rig.model);
		for (unsigned i = 0; i < 2 * COUNT; i += 2)
			model_maybe(&over, io[i].offset, io[i].len, io[i].tag);
		for (unsigned i = 0; i < 2 * COUNT; i++) {
			int err = io_wait(&io[i]);
			require(!err, "request %u: %s", i, strerror(-err));
			char text[512], *bytes = io_bytes(&io[i]);
			struct model seen = { 0 };
			model_copy(&seen, &over); /* a read settles nothing here */
			require(io[i].op == TD_WRITE ||
				model_match(&seen, io[i].offset, bytes, io[i].len, text,
					    sizeof(text)), "read meanwhile: %s", text);
			model_free(&seen);
			free(bytes);
			io_free(&io[i]);
		}
		/* What was written over may not come back. */
		for (unsigned i = 0; i < 2 * COUNT; i += 2)
			model_set(&rig.model, io[i].offset, io[i].len, io[i].tag);
		for (unsigned i = 0; i < 2 * COUNT; i += 2)
			model_maybe(&rig.model, io[i].offset, io[i].len, io[i].tag);
		model_free(&over);
		rig_expect(&rig, from, span * rig.block);
	}
	rig_expect_all(&rig); /* it stays what it was read as */
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/* More requests, each over many clusters, than there can be children for. */
static void a_crowd_of_requests_all_end(struct suite *suite)
{
	enum { COUNT = 60 };
	struct target target;
	struct rig rig;
	static struct io io[COUNT];
	struct td_why why = { "" };

	target_make(suite, 16 * MiB, &target);
	rig_prepare(&rig, suite);
	rig.options.depth = 4;
	int err = rig_try_open(&rig, &target, &why);
	require(!err, "open with depth 4: %s", why.text);
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t len = 220 * KiB / rig.block * rig.block;
		io[i] = (struct io){ .op = TD_WRITE, .offset = i * len, .len = len,
				     .tag = TAG_FIRST + i };
		io_start(&rig, &io[i]);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		err = io_wait(&io[i]);
		require(!err, "write %u of %u: %s", i, COUNT, strerror(-err));
		model_set(&rig.model, io[i].offset, io[i].len, io[i].tag);
		io_free(&io[i]);
	}
	rig_expect_all(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

static void reopen_keeps_content(struct suite *suite)
{
	struct target target;
	struct rig rig;
	struct rnd rnd = { suite->seed };

	if (suite->forgets)
		skip("the driver keeps nothing across close");
	target_make(suite, 6 * MiB, &target);
	rig_open(&rig, suite, &target);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 12; i++) {
			uint64_t blocks = rig.size / rig.block;
			uint64_t first = rnd_below(&rnd, blocks);
			uint64_t n = 1 + rnd_below(&rnd, min_u64(blocks - first, 200));
			rig_write(&rig, first * rig.block, n * rig.block,
				  TAG_FIRST + round * 12 + i);
		}
		rig_reopen(&rig, &target);
		rig_expect_all(&rig);
		rig_check(&rig);
	}
	rig_close(&rig);
	rig_end(&rig);
}

const struct behaviour basic_behaviours[] = {
	{ "size-is-kept", size_is_kept, 0 },
	{ "fresh-image-reads-as-it-should", fresh_image_reads_as_it_should, 0 },
	{ "write-read-at-every-alignment", write_read_at_every_alignment, TD_CAN_WRITE },
	{ "large-requests-work", large_requests_work, TD_CAN_WRITE },
	{ "odd-memory-works", odd_memory_works, TD_CAN_WRITE },
	{ "neighbours-in-flight-all-arrive", neighbours_in_flight_all_arrive, TD_CAN_WRITE },
	{ "overlapping-in-flight-leave-one-of-them", overlapping_in_flight_leave_one_of_them,
	  TD_CAN_WRITE },
	{ "a-crowd-of-requests-all-end", a_crowd_of_requests_all_end, TD_CAN_WRITE },
	{ "reopen-keeps-content", reopen_keeps_content, TD_CAN_WRITE },
	{ NULL },
};
