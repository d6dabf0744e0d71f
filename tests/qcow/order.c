/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a request waits for, shown one file operation at a time: all that are
 * begun are held back, and the test lets them go one by one.
 *
 * The images are new: 4 KiB clusters, the L1 table at 4096, the first L2 table
 * at 8192 (below the clusters), 2 MiB to a table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "drivers/builtin.h"

#define DISK_SIZE (8 * MiB)
#define L1_AT 4096
#define L2_AT 8192

enum what { READ, DATA, TABLES, BARRIER, OTHER };

struct io {
	struct td_req *req;
	bool ended;
	int err;
	struct iovec iov;
};

static struct rig {
	struct td_file_hook hook;
	struct td_files files;
	char dir[128], path[160], base[160];
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_pool *pool;
	struct list held;
	bool holding;
	atomic_uint under_way; /* operations begun, on any thread */
	char buf[16 * KiB] __attribute__((aligned(4096)));
} rig;

/* The clock stands still: a second after they were changed tables are written by themselves,
 * on a slow machine in the middle of a test. */
uint64_t __wrap_td_now_ms(void);
uint64_t __wrap_td_now_ms(void)
{
	return 1000000;
}

static int begin(struct td_file_hook *hook, const struct td_file_op_seen *op, uint64_t *id)
{
	rig.under_way++;
	return 0;
}

static void end(struct td_file_hook *hook, uint64_t id, int err)
{
	rig.under_way--;
}

static bool hold(struct td_file_hook *hook, struct td_fileop *op, bool ended)
{
	if (!rig.holding || ended)
		return false;
	list_add(&rig.held, &op->hook_link);
	return true;
}

static enum what what_is(const struct td_fileop *op)
{
	if (op->op == TD_FLUSH)
		return BARRIER;
	if (op->op == TD_READ)
		return READ;
	if (op->op != TD_WRITE)
		return OTHER;
	if (op->offset > L2_AT)
		return DATA;
	return op->offset >= L1_AT ? TABLES : OTHER;
}

static void done(struct td_req *req)
{
	struct io *io = *(struct io **)td_req_user(req);

	io->ended = true;
	io->err = req->err;
}

/* Until nothing happens any more, but for what is held. */
static void settle(void)
{
	for (unsigned quiet = 0; quiet < 5; quiet++) {
		td_loop_turn(rig.loop, 2);
		if (rig.under_way || td_loop_working(rig.loop))
			quiet = 0;
	}
}

static unsigned held(enum what what)
{
	unsigned n = 0;

	LIST_FOR (struct td_fileop, op, &rig.held, hook_link)
		n += what_is(op) == what;
	return n;
}

static unsigned held_in_all(void)
{
	unsigned n = 0;

	LIST_FOR (struct td_fileop, op, &rig.held, hook_link)
		n++;
	return n;
}

/* Lets all of one kind go that are held now. */
static void let_go(enum what what)
{
	LIST_FOR_SAFE (struct td_fileop, op, &rig.held, hook_link)
		if (what_is(op) == what) {
			list_del(&op->hook_link);
			td_fileop_release(op);
		}
	settle();
}

static void io_start(struct io *io, enum td_op op, uint64_t offset, uint64_t len)
{
	struct td_req *req = td_pool_get(rig.pool);

	*io = (struct io){ .req = req, .iov = { rig.buf, len } };
	*(struct io **)td_req_user(req) = io;
	req->op = op;
	req->offset = offset;
	req->len = len;
	req->iov = &io->iov;
	req->iov_count = 1;
	td_submit(req);
	settle();
}

static void io_ended_well(struct io *io)
{
	assert_true(io->ended);
	assert_int_equal(io->err, 0);
	td_pool_put(rig.pool, io->req);
}

static void open_image(bool overlay)
{
	struct td_disk_options options = { .hook = &rig.hook };
	struct td_create make = { .path = rig.path, .size = DISK_SIZE, .files = &rig.files };
	const struct td_driver *qcow;
	struct io l1;
	char spec[192];
	struct td_why why;

	memset(&rig, 0, sizeof(rig));
	rig.hook = (struct td_file_hook){ begin, end, hold };
	snprintf(rig.dir, sizeof(rig.dir), "%s/qcow-order.XXXXXX", getenv("TMPDIR") ?: "/tmp");
	list_init(&rig.held);
	assert_non_null(mkdtemp(rig.dir));
	snprintf(rig.path, sizeof(rig.path), "%s/image", rig.dir);
	snprintf(rig.base, sizeof(rig.base), "%s/base", rig.dir);
	assert_int_equal(td_loop_new(&rig.loop), 0);
	assert_int_equal(td_registry_new(NULL, &rig.registry), 0);
	for (unsigned i = 0; td_builtin_drivers[i]; i++)
		td_registry_add(rig.registry, td_builtin_drivers[i]);
	if (overlay) {
		int fd = open(rig.base, O_CREAT | O_RDWR, 0600);

		assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
		close(fd);
		make.backing = rig.base;
		make.backing_size = DISK_SIZE;
	}
	qcow = td_registry_find(rig.registry, "qcow", &why);
	assert_int_equal(qcow->create(&make, &why), 0);
	snprintf(spec, sizeof(spec), "qcow:%s", rig.path);
	assert_int_equal(td_disk_open(rig.loop, rig.registry, spec, &options, &rig.disk, &why), 0);
	assert_int_equal(td_pool_new(td_disk_queue(rig.disk), 8, sizeof(struct io *), done,
				     &rig.pool), 0);
	io_start(&l1, TD_READ, 0, 512); /* brings the L1 table into memory */
	io_ended_well(&l1);
	rig.holding = true;
}

static int alone(void **state)
{
	open_image(false);
	return 0;
}

static int overlay(void **state)
{
	open_image(true);
	return 0;
}

static int close_image(void **state)
{
	rig.holding = false;
	while (held_in_all())
		for (enum what what = READ; what <= OTHER; what++)
			let_go(what);
	if (!td_pool_busy(rig.pool)) /* a test that failed leaves requests */
		td_pool_free(rig.pool);
	td_disk_close(rig.disk);
	td_registry_free(rig.registry);
	td_loop_free(rig.loop);
	unlink(rig.path);
	unlink(rig.base);
	rmdir(rig.dir);
	return 0;
}

/* A flush when there is something in the tables that the file has not. */
static void flush_with_tables(void)
{
	struct io flush;

	io_start(&flush, TD_FLUSH, 0, 0);
	assert_int_equal(held_in_all(), 1);
	let_go(BARRIER);
	assert_int_equal(held(TABLES), held_in_all());
	assert_true(held(TABLES));
	let_go(TABLES);
	assert_false(flush.ended);
	assert_int_equal(held_in_all(), 1);
	let_go(BARRIER);
	io_ended_well(&flush);
}

static void flush_without_tables(void)
{
	struct io flush;

	io_start(&flush, TD_FLUSH, 0, 0);
	assert_int_equal(held_in_all(), 1);
	let_go(BARRIER);
	io_ended_well(&flush);
}

static void first_write_ends_with_its_data(void **state)
{
	struct io a;

	io_start(&a, TD_WRITE, 0, 4096);
	assert_int_equal(held(DATA), 1);
	assert_int_equal(held_in_all(), 1);
	let_go(DATA);
	io_ended_well(&a);
	assert_int_equal(held_in_all(), 0);
	flush_with_tables();
	flush_without_tables();
}

static void other_writes_to_a_run_find_their_place(void **state)
{
	struct io a, b;

	io_start(&a, TD_WRITE, 0, 4096);
	io_start(&b, TD_WRITE, MiB, 512);
	assert_int_equal(held(DATA), 2);
	assert_int_equal(held_in_all(), 2);
	let_go(DATA);
	io_ended_well(&a);
	io_ended_well(&b);
	flush_with_tables();
	io_start(&a, TD_WRITE, 2 * MiB - 4096, 4096);
	let_go(DATA);
	io_ended_well(&a);
	flush_without_tables();
}

static void overlays_write_ends_with_its_data(void **state)
{
	struct io io[4];

	for (unsigned i = 0; i < 4; i++)
		io_start(&io[i], TD_WRITE, i * 64 * KiB, 4096);
	assert_int_equal(held(DATA), 4);
	assert_int_equal(held_in_all(), 4);
	let_go(DATA);
	for (unsigned i = 0; i < 4; i++)
		io_ended_well(&io[i]);
	flush_with_tables();
	flush_without_tables();
}

static void entry_is_not_stored_before_its_data(void **state)
{
	struct io a, b;

	io_start(&a, TD_WRITE, 0, 4096);
	assert_int_equal(held(DATA), 1);
	io_start(&b, TD_READ, 0, 4096);
	assert_int_equal(held(READ), 1); /* of the image below */
	let_go(READ);
	io_ended_well(&b);
	let_go(DATA);
	io_ended_well(&a);
}

static void part_of_a_cluster_is_filled_from_below(void **state)
{
	struct io a, b;

	io_start(&a, TD_WRITE, 512, 512);
	assert_int_equal(held(READ), 1);
	/* its neighbour in the cluster waits, and then is in place */
	io_start(&b, TD_WRITE, 1024, 512);
	assert_int_equal(held(READ), 1);
	let_go(READ);
	assert_int_equal(held(DATA), 1);
	let_go(DATA);
	io_ended_well(&a);
	assert_int_equal(held(DATA), 1);
	let_go(DATA);
	io_ended_well(&b);
}

static void zeroed_clusters_need_no_data(void **state)
{
	struct io a;

	io_start(&a, TD_WRITE_ZEROES, 0, 16 * KiB);
	assert_int_equal(held_in_all(), 0);
	io_ended_well(&a);
	flush_with_tables();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define ALONE(f) cmocka_unit_test_setup_teardown(f, alone, close_image)
#define OVERLAY(f) cmocka_unit_test_setup_teardown(f, overlay, close_image)
		ALONE(first_write_ends_with_its_data),
		ALONE(other_writes_to_a_run_find_their_place),
		OVERLAY(overlays_write_ends_with_its_data),
		OVERLAY(entry_is_not_stored_before_its_data),
		OVERLAY(part_of_a_cluster_is_filled_from_below),
		OVERLAY(zeroed_clusters_need_no_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
