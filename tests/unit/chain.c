/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests on their way down a chain: images that say that they have nothing are not
 * asked. The chain is of layers, numbered from the lowest; each has bytes of its own, and
 * is a hole or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* before cmocka */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/registry.h"

#define LAYERS 6
#define SIZE (128 * KiB)

static struct {
	uint64_t size;
	bool hole;
	unsigned asked, looked_at;
} layer[LAYERS];

static unsigned layer_of(const struct td_image *img)
{
	return atoi(img->target);
}

static int layer_open(struct td_image *img, struct td_why *why)
{
	unsigned n = layer_of(img);
	char below[16];

	img->size = layer[n].size;
	snprintf(below, sizeof(below), "%u", n - 1);
	return n ? td_image_open_below(img, "layer", below, NULL, why) : 0;
}

static void layer_close(struct td_image *img)
{
}

static void layer_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	unsigned n = layer_of(img);
	static char bytes[SIZE];

	layer[n].asked++;
	if (layer[n].hole && (req->op == TD_READ || req->op == TD_EXTENTS)) {
		td_pass(req);
		return;
	}
	memset(bytes, 'a' + n, sizeof(bytes));
	if (req->op == TD_READ)
		td_req_put(req, 0, bytes, req->len);
	req->extent = (struct td_extent){ .len = req->len };
	td_end(req, 0);
}

static bool layer_is_hole(struct td_image *img, uint64_t offset, uint64_t len)
{
	assert_true(offset + len <= img->size);
	layer[layer_of(img)].looked_at++;
	return layer[layer_of(img)].hole;
}

static const struct td_driver driver = {
	.abi = TD_DRIVER_ABI, .size = sizeof(struct td_driver), .name = "layer", .summary = "",
	.can = TD_CAN_EXTENTS, .req_size = 8, .open = layer_open, .close = layer_close,
	.submit = layer_submit, .is_hole = layer_is_hole,
};

static struct td_loop *loop;
static struct td_registry *registry;
static struct td_disk *disk;
static struct td_pool *pool;
static char memory[SIZE];
static struct iovec iov = { memory, SIZE };
static struct td_extent extent;
static unsigned ended;

static void done(struct td_req *req)
{
	ended += !req->err;
	extent = req->extent;
	td_pool_put(pool, req);
}

static int set_up(void **state)
{
	alarm(60);
	memset(layer, 0, sizeof(layer));
	for (unsigned n = 0; n < LAYERS; n++)
		layer[n].size = SIZE;
	ended = 0;
	return td_loop_new(&loop) || td_registry_new("/nonexistent", &registry) ||
	       td_registry_add(registry, &driver);
}

static int tear_down(void **state)
{
	td_pool_free(pool);
	td_disk_close(disk);
	td_registry_free(registry);
	td_loop_free(loop);
	return 0;
}

static void open_it(void)
{
	struct td_why why = { "" };
	char spec[16];

	snprintf(spec, sizeof(spec), "layer:%d", LAYERS - 1);
	if (td_disk_open(loop, registry, spec, NULL, &disk, &why))
		fail_msg("%s", why.text);
	assert_int_equal(td_pool_new(td_disk_queue(disk), 1, 0, done, &pool), 0);
}

static void ask_for(enum td_op op, uint64_t offset, uint64_t len)
{
	struct td_req *req = td_pool_get(pool);
	unsigned before = ended;

	memset(memory, '?', sizeof(memory));
	iov.iov_len = len;
	req->op = op;
	req->offset = offset;
	req->len = len;
	req->iov = op == TD_READ ? &iov : NULL;
	req->iov_count = op == TD_READ;
	td_submit(req);
	for (unsigned i = 0; i < 1000 && ended == before; i++)
		td_loop_turn(loop, 10);
	assert_int_equal(ended, before + 1);
}

static void ask(enum td_op op)
{
	open_it();
	ask_for(op, 0, SIZE);
}

static void holes_from(unsigned lowest)
{
	for (unsigned n = lowest; n < LAYERS; n++)
		layer[n].hole = true;
}

static void who_has_nothing_is_not_asked(void **state)
{
	holes_from(2);
	ask(TD_READ);
	assert_int_equal(layer[LAYERS - 1].asked, 1); /* the disk itself */
	for (unsigned n = 2; n < LAYERS - 1; n++)
		assert_int_equal(layer[n].asked, 0);
	assert_int_equal(layer[1].asked, 1);
	assert_int_equal(layer[0].asked, 0);
	assert_int_equal(memory[0], 'b');
	assert_int_equal(memory[SIZE - 1], 'b');
}

static void what_lies_past_a_shorter_one_is_zeroes(void **state)
{
	holes_from(1);
	layer[3].size = 96 * KiB;
	layer[2].size = 80 * KiB;
	ask(TD_READ);
	assert_int_equal(layer[0].asked, 1);
	assert_int_equal(memory[80 * KiB - 1], 'a');
	assert_int_equal(memory[80 * KiB], 0);
	assert_int_equal(memory[SIZE - 1], 0);
}

static void what_nobody_has_is_zeroes(void **state)
{
	holes_from(0);
	ask(TD_READ);
	assert_int_equal(layer[0].asked, 0);
	assert_int_equal(memory[0], 0);
	assert_int_equal(memory[SIZE - 1], 0);
}

static void extents_say_how_deep_they_lie(void **state)
{
	holes_from(2);
	ask(TD_EXTENTS);
	assert_int_equal(td_extent_depth(extent.flags), LAYERS - 2);
	assert_int_equal(layer[3].asked, 1);
}

static void what_has_been_told_is_remembered(void **state)
{
	unsigned before;

	holes_from(2);
	layer[3].size = 80 * KiB;
	open_it();
	ask_for(TD_READ, 4 * KiB, 4 * KiB);
	before = layer[3].looked_at;
	ask_for(TD_READ, 8 * KiB, 4 * KiB);
	assert_int_equal(memory[0], 'b');
	assert_int_equal(layer[3].looked_at, before);
	assert_int_equal(layer[1].asked, 2);
	/* of the other block layer 3 has only a part */
	ask_for(TD_READ, 68 * KiB, 4 * KiB);
	assert_int_equal(memory[0], 'b');
	ask_for(TD_READ, 96 * KiB, 4 * KiB);
	assert_int_equal(memory[0], 0);
	ask_for(TD_READ, 76 * KiB, 8 * KiB);
	assert_int_equal(memory[4 * KiB - 1], 'b');
	assert_int_equal(memory[4 * KiB], 0);
	assert_int_equal(layer[1].asked, 4);
}

static void nobody_s_block_is_remembered_too(void **state)
{
	unsigned before;

	holes_from(0);
	open_it();
	ask_for(TD_READ, 0, 4 * KiB);
	before = layer[0].looked_at;
	ask_for(TD_READ, 4 * KiB, 4 * KiB);
	assert_int_equal(memory[4 * KiB - 1], 0);
	assert_int_equal(layer[0].looked_at, before);
	assert_int_equal(layer[0].asked, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(who_has_nothing_is_not_asked),
		TEST(what_lies_past_a_shorter_one_is_zeroes),
		TEST(what_nobody_has_is_zeroes),
		TEST(extents_say_how_deep_they_lie),
		TEST(what_has_been_told_is_remembered),
		TEST(nobody_s_block_is_remembered_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
