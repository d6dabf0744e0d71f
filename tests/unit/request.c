/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the core promises drivers about requests and their children, tried with
 * small drivers made for one promise each. They have no files: a request ends
 * at once, or when the test lets it go.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* before cmocka */
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/registry.h"

#define SLOTS 16
#define TURNS 1000 /* of the loop: more than anything here needs */

/* ---- a disk on a driver of the test's --------------------------------------- */

struct rig {
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_pool *pool;
	unsigned ended;
	int err; /* of the last one */
};

static struct rig rig;

static void done(struct td_req *req)
{
	rig.ended++;
	rig.err = req->err;
	td_pool_put(rig.pool, req);
}

static int rig_open(const char *spec, struct td_disk_options options, struct td_why *why)
{
	int err = td_disk_open(rig.loop, rig.registry, spec, &options, &rig.disk, why);

	if (!err)
		assert_int_equal(td_pool_new(td_disk_queue(rig.disk), SLOTS, 0, done, &rig.pool),
				 0);
	return err;
}

static void rig_submit(enum td_op op, uint64_t offset, uint64_t len, const struct iovec *iov,
		       unsigned iov_count)
{
	struct td_req *req = td_pool_get(rig.pool);

	assert_non_null(req);
	req->op = op;
	req->offset = offset;
	req->len = len;
	req->iov = iov;
	req->iov_count = iov_count;
	td_submit(req);
}

static void rig_turn_until(unsigned ended)
{
	for (int i = 0; i < TURNS && rig.ended < ended; i++)
		td_loop_turn(rig.loop, 10);
	assert_int_equal(rig.ended, ended);
}

static int rig_setup(void **state)
{
	rig = (struct rig){ 0 };
	alarm(60); /* a loop that never comes back */
	return td_loop_new(&rig.loop) || td_registry_new("/nonexistent", &rig.registry);
}

static int rig_teardown(void **state)
{
	td_pool_free(rig.pool);
	td_disk_close(rig.disk);
	td_registry_free(rig.registry);
	td_loop_free(rig.loop);
	return 0;
}

/* ---- requests that the test ends ---------------------------------------------- */

static struct td_req *held[SLOTS * 4];
static unsigned held_count;

static void hold(struct td_req *req)
{
	assert_true(held_count < ARRAY_SIZE(held));
	held[held_count++] = req;
}

/* Ends the one held longest. */
static void let_go(void)
{
	struct td_req *req = held[0];

	assert_true(held_count);
	memmove(held, held + 1, --held_count * sizeof(held[0]));
	td_end(req, 0);
}

static int open_of(struct td_image *img, uint64_t size)
{
	held_count = 0;
	img->size = size;
	return 0;
}

static int small_open(struct td_image *img, struct td_why *why)
{
	return open_of(img, MiB);
}

static int huge_open(struct td_image *img, struct td_why *why)
{
	return open_of(img, TiB);
}

static void nothing_to_close(struct td_image *img)
{
}

static void ends_at_once(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	td_end(req, 0);
}

#define DRIVER(id, how_open, how_submit, what) \
	static const struct td_driver id = { \
		.abi = TD_DRIVER_ABI, .size = sizeof(struct td_driver), \
		.name = #id, .summary = "", .can = what, .req_size = 8, \
		.open = how_open, .close = nothing_to_close, .submit = how_submit, \
	}

/* ---- children --------------------------------------------------------------------- */

static void take_two(struct td_req *req)
{
	struct td_req *a = td_child(req), *b = a ? td_child(req) : NULL;

	if (!b) {
		if (a)
			td_end(a, 0);
		td_wait(req, take_two);
		return;
	}
	hold(a);
	hold(b);
	td_end(req, 0);
}

static void two_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	if (req->op == TD_READ)
		take_two(req);
	else
		td_end(req, 0);
}

DRIVER(two, small_open, two_submit, TD_CAN_WRITE);

/* The child it can have is not enough; the loop must go on all the same. */
static void a_wait_with_children_left_does_not_stop_the_loop(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &two);
	assert_int_equal(rig_open("two:x", (struct td_disk_options){ .depth = 3 }, &why), 0);
	rig_submit(TD_READ, 0, 512, NULL, 0);
	rig_submit(TD_READ, 0, 512, NULL, 0);
	td_loop_turn(rig.loop, 0);
	let_go();
	let_go();
	td_loop_turn(rig.loop, 0);
	td_loop_turn(rig.loop, 0);
	let_go();
	let_go();
	rig_turn_until(2);
}

static void take_one(struct td_req *req)
{
	struct td_req *kid = td_child(req);

	if (!kid) {
		td_wait(req, take_one);
		return;
	}
	kid->user = (void *)(uintptr_t)req->offset;
	hold(kid);
	td_end(req, 0);
}

static void one_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	if (req->op == TD_READ)
		take_one(req);
	else
		td_end(req, 0);
}

DRIVER(one, small_open, one_submit, TD_CAN_WRITE);

static void who_waits_for_a_child_comes_before_who_asks_later(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &one);
	assert_int_equal(rig_open("one:x", (struct td_disk_options){ .depth = 1 }, &why), 0);
	rig_submit(TD_READ, 0, 512, NULL, 0);
	rig_submit(TD_READ, 512, 512, NULL, 0);
	let_go();
	rig_submit(TD_READ, 1024, 512, NULL, 0);
	td_loop_turn(rig.loop, 0);
	assert_int_equal(held_count, 1);
	assert_int_equal((uintptr_t)held[0]->user, 512);
	let_go();
	td_loop_turn(rig.loop, 0);
	assert_int_equal((uintptr_t)held[0]->user, 1024);
	let_go();
	rig_turn_until(3);
}

/* ---- chains ------------------------------------------------------------------------ */

static const char *below_name;

static int over_open(struct td_image *img, struct td_why *why)
{
	img->size = 8 * KiB;
	return td_image_open_below(img, below_name, "y", NULL, why);
}

static bool memory_is_whole;

static void over_piece_read(struct td_req *kid)
{
	uint64_t len = 0;

	for (unsigned i = 0; i < kid->iov_count; i++)
		len += kid->iov[i].iov_len;
	memory_is_whole = len == kid->len && kid->len == 6 * KiB && kid->offset == 2 * KiB;
	td_end(kid, 0);
}

static void over_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct td_req *kid;

	if (req->op != TD_READ) {
		td_end(req, 0);
		return;
	}
	kid = td_child(req);
	assert_non_null(kid);
	kid->step = over_piece_read;
	td_slice(kid, 2 * KiB, 6 * KiB);
	td_pass(kid);
	td_end(req, 0);
}

DRIVER(over, over_open, over_submit, TD_CAN_WRITE);

static int short_open(struct td_image *img, struct td_why *why)
{
	return open_of(img, 6 * KiB);
}

static void fill_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	char bytes[4 * KiB];

	memset(bytes, 'b', sizeof(bytes));
	assert_true(req->len <= sizeof(bytes));
	td_req_put(req, 0, bytes, req->len);
	td_end(req, 0);
}

DRIVER(fill, short_open, fill_submit, 0);
DRIVER(split, short_open, one_submit, 0);

static char memory[8 * KiB];
static const struct iovec halves[] = {
	{ memory, 4 * KiB }, { memory + 4 * KiB, 4 * KiB },
};

static void over_read(const char *below, const struct td_driver *driver, bool trace)
{
	struct td_disk_options options = { .depth = 4, .trace = trace };
	struct td_why why = { "" };

	below_name = below;
	td_registry_add(rig.registry, &over);
	td_registry_add(rig.registry, driver);
	if (rig_open("over:x", options, &why))
		fail_msg("%s", why.text);
	memory_is_whole = false;
	memset(memory, 'a', sizeof(memory));
	rig_submit(TD_READ, 0, 8 * KiB, halves, 2);
}

static void a_child_passed_to_a_shorter_image_keeps_its_memory(void **state)
{
	over_read("fill", &fill, false);
	rig_turn_until(1);
	assert_true(memory_is_whole);
	assert_int_equal(memory[2 * KiB - 1], 'a');
	assert_int_equal(memory[2 * KiB], 'b');
	assert_int_equal(memory[6 * KiB - 1], 'b');
	assert_int_equal(memory[6 * KiB], 0);
	assert_int_equal(memory[8 * KiB - 1], 0);
}

static void an_image_below_may_have_children_of_a_child(void **state)
{
	over_read("split", &split, false);
	assert_int_equal(held_count, 1);
	assert_int_equal(rig.ended, 0);
	let_go();
	rig_turn_until(1);
	assert_int_equal(rig.err, 0);
	assert_true(memory_is_whole);
}

/* A child of the second image, a child of the first, the request. */
static void a_trace_numbers_children_within_their_request(void **state)
{
	static char text[4096];
	FILE *trace = tmpfile();
	int stderr_fd = dup(STDERR_FILENO);
	size_t len;

	dup2(fileno(trace), STDERR_FILENO);
	over_read("split", &split, true);
	let_go();
	dup2(stderr_fd, STDERR_FILENO);
	close(stderr_fd);
	rewind(trace);
	len = fread(text, 1, sizeof(text) - 1, trace);
	text[len] = '\0';
	fclose(trace);
	assert_non_null(strstr(text, "x: #1 read 0+8192\n"));
	assert_non_null(strstr(text, "x: #1.1 split:y read 2048+4096\n"));
	assert_non_null(strstr(text, "x: #1.1.1 ended ok\nx: #1.1 ok\n"
				     "x: #1.1 ended ok\nx: #1 done ok "));
}

static int twice_open(struct td_image *img, struct td_why *why)
{
	int err;

	img->size = 8 * KiB;
	err = td_image_open_below(img, "fill", "y", NULL, why);
	return err ? err : td_image_open_below(img, "fill", "z", NULL, why);
}

DRIVER(twice, twice_open, ends_at_once, 0);

static void an_image_has_one_image_below(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &twice);
	td_registry_add(rig.registry, &fill);
	assert_int_equal(rig_open("twice:x", (struct td_disk_options){ 0 }, &why), -EINVAL);
}

/* ---- what the core does for drivers ---------------------------------------------------- */

DRIVER(now, huge_open, ends_at_once, TD_CAN_WRITE);

/* Half a million writes, one after the other: not one within the other. */
static void zeroes_for_a_driver_that_ends_at_once_take_no_stack(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &now);
	assert_int_equal(rig_open("now:x", (struct td_disk_options){ 0 }, &why), 0);
	rig_submit(TD_WRITE_ZEROES, 0, TiB, NULL, 0);
	rig_turn_until(1);
	assert_int_equal(rig.err, 0);
}

static uint64_t zeroed;
static unsigned flushes;

static void count_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	assert_int_equal(req->flags, 0);
	if (req->op == TD_FLUSH) {
		flushes++;
		td_end(req, 0); /* closing waits for one, too */
		return;
	}
	assert_int_equal(req->op, TD_WRITE);
	assert_int_equal(req->offset, 512 + zeroed);
	for (unsigned i = 0; i < req->iov_count; i++)
		zeroed += req->iov[i].iov_len;
	assert_int_equal(req->offset + req->len, 512 + zeroed);
	hold(req);
}

DRIVER(count, huge_open, count_submit, TD_CAN_WRITE);

/* More than one batch of the core's zeroes, and odd ends. */
static void zeroes_are_written_once_and_flushed_for_fua(void **state)
{
	uint64_t len = 5 * MiB + 3 * 512;
	struct td_why why;
	struct td_req *req;

	zeroed = flushes = 0;
	td_registry_add(rig.registry, &count);
	assert_int_equal(rig_open("count:x", (struct td_disk_options){ 0 }, &why), 0);
	req = td_pool_get(rig.pool);
	req->op = TD_WRITE_ZEROES;
	req->flags = TD_FUA | TD_MAY_UNMAP;
	req->offset = 512;
	req->len = len;
	req->iov = NULL;
	req->iov_count = 0;
	td_submit(req);
	while (held_count)
		let_go();
	assert_int_equal(rig.ended, 1);
	assert_int_equal(rig.err, 0);
	assert_int_equal(zeroed, len);
	assert_int_equal(flushes, 1);
}

static int unwritable_open(struct td_image *img, struct td_why *why)
{
	img->can &= ~TD_CAN_WRITE;
	return open_of(img, MiB);
}

DRIVER(unwritable, unwritable_open, ends_at_once, TD_CAN_WRITE | TD_CAN_DISCARD);

static void an_image_that_opened_without_writing_is_read_only(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &unwritable);
	assert_int_equal(rig_open("unwritable:x", (struct td_disk_options){ 0 }, &why), 0);
	assert_true(td_disk_read_only(rig.disk));
	assert_int_equal(td_disk_can(rig.disk), 0);
	rig_submit(TD_WRITE, 0, 512, halves, 1);
	assert_int_equal(rig.err, -EROFS);
}

static int mute_open(struct td_image *img, struct td_why *why)
{
	return -ENOMEDIUM;
}

DRIVER(mute, mute_open, ends_at_once, TD_CAN_WRITE);

static void a_failure_without_words_is_told_by_its_number(void **state)
{
	struct td_why why;

	td_registry_add(rig.registry, &mute);
	assert_int_equal(rig_open("mute:x", (struct td_disk_options){ 0 }, &why), -ENOMEDIUM);
	assert_string_equal(why.text, "mute:x: No medium found");
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_wait_with_children_left_does_not_stop_the_loop),
		TEST(who_waits_for_a_child_comes_before_who_asks_later),
		TEST(a_child_passed_to_a_shorter_image_keeps_its_memory),
		TEST(an_image_below_may_have_children_of_a_child),
		TEST(a_trace_numbers_children_within_their_request),
		TEST(an_image_has_one_image_below),
		TEST(zeroes_for_a_driver_that_ends_at_once_take_no_stack),
		TEST(zeroes_are_written_once_and_flushed_for_fua),
		TEST(an_image_that_opened_without_writing_is_read_only),
		TEST(a_failure_without_words_is_told_by_its_number),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
