/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files: all alignments of memory, offset and length against one that demands
 * more, on both engines; writes that share a block; transfers that fall short;
 * ends of files; errors and faults; locks.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "io/file.h"

static const char *engine; /* of the group that runs */

struct bench {
	struct td_loop *loop;
	struct td_fileio *io;
	struct td_files files;
	char dir[64], path[96];
	struct td_file *file;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct td_why why;

	snprintf(b->dir, sizeof(b->dir), "%s/blktap-file.XXXXXX",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/file", b->dir);
	assert_int_equal(td_loop_new(&b->loop), 0);
	assert_int_equal(td_fileio_new(b->loop, engine, 32, &b->io, &why), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	td_file_close(b->file);
	td_fileio_free(b->io);
	td_loop_free(b->loop);
	unlink(b->path);
	rmdir(b->dir);
	free(b);
	return 0;
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (seed + i) * 2654435761u >> 23;
}

/* A file of that size and content, open. */
static void have_file(struct bench *b, uint64_t size, const uint8_t *content, uint32_t align,
		      unsigned flags)
{
	struct td_why why;
	int fd = open(b->path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0 && !ftruncate(fd, size));
	if (content)
		assert_int_equal(pwrite(fd, content, size, 0), size);
	close(fd);
	b->files.force_align = align;
	assert_int_equal(td_file_open(&b->files, b->path, flags, &b->file, &why), 0);
	if (align)
		assert_int_equal(td_file_align(b->file), align);
}

struct op {
	struct td_fileop op;
	struct iovec iov[4];
	bool ended;
	int err;
};

static void op_done(struct td_fileop *op, int err)
{
	struct op *o = container_of(op, struct op, op);

	assert_false(o->ended);
	o->ended = true;
	o->err = err;
}

static void start(struct bench *b, struct op *o, enum td_op what, uint64_t at, void *buf,
		  uint64_t len)
{
	o->iov[0] = (struct iovec){ buf, len };
	o->op.op = what;
	o->op.offset = at;
	o->op.len = len;
	o->op.iov = buf ? o->iov : NULL;
	o->op.iov_count = buf ? 1 : 0;
	o->op.done = op_done;
	o->ended = false;
	td_fileop_submit(b->io, b->file, &o->op);
	assert_false(o->ended); /* never from within submit */
}

static int do_op(struct bench *b, enum td_op what, unsigned flags, uint64_t at, void *buf,
		 uint64_t len)
{
	struct op o = { .op.flags = flags };

	start(b, &o, what, at, buf, len);
	turn_until(b->loop, o.ended);
	return o.err;
}

static void expect_file(struct bench *b, const uint8_t *content, size_t size)
{
	uint8_t *found = malloc(size + 1);
	int fd = open(b->path, O_RDONLY);

	assert_int_equal(read(fd, found, size + 1), size);
	for (size_t i = 0; i < size; i++)
		if (found[i] != content[i])
			fail_msg("byte %zu is %#x, should be %#x", i, found[i], content[i]);
	close(fd);
	free(found);
}

static void every_alignment_reads_and_writes(void **state)
{
	enum { SIZE = 5 * 65536 };
	static const struct { uint32_t at, len; } span[] = {
		{ 0, 4096 }, { 0, 512 }, { 512, 512 }, { 3584, 1024 }, { 4096, 8192 }, { 1, 1 },
		{ 4095, 2 }, { 1000, 70000 }, { 65536, 65536 }, { 65535, 65538 }, { 100, 300000 },
		{ SIZE - 512, 512 }, { SIZE - 1, 1 },
	};
	static const unsigned skew[] = { 0, 1, 4, 512, 3000 };
	struct bench *b = *state;
	uint8_t *model = malloc(SIZE), *buf = aligned_alloc(4096, SIZE + 8192);

	fill(model, SIZE, 1);
	have_file(b, SIZE, model, 4096, TD_FILE_WRITE);
	for (size_t i = 0; i < ARRAY_SIZE(span); i++) {
		for (size_t s = 0; s < ARRAY_SIZE(skew); s++) {
			uint8_t *at = buf + skew[s];
			fill(at, span[i].len, i * 10 + s);
			memcpy(model + span[i].at, at, span[i].len);
			assert_int_equal(do_op(b, TD_WRITE, s % 2 ? TD_FUA : 0, span[i].at, at,
					       span[i].len), 0);
			memset(buf, 0xee, SIZE + 8192);
			assert_int_equal(do_op(b, TD_READ, 0, span[i].at, at, span[i].len), 0);
			assert_memory_equal(at, model + span[i].at, span[i].len);
			assert_int_equal(at[span[i].len], 0xee);
			if (skew[s])
				assert_int_equal(at[-1], 0xee);
		}
	}
	expect_file(b, model, SIZE);
	free(model);
	free(buf);
}

static void small_writes_into_one_block_all_survive(void **state)
{
	enum { BLOCKS = 4, COUNT = BLOCKS * 8 };
	struct bench *b = *state;
	static uint8_t model[BLOCKS * 4096], data[COUNT][512];
	static struct op op[COUNT];

	for (unsigned round = 0; round < 20; round++) {
		have_file(b, sizeof(model), NULL, 4096, TD_FILE_WRITE);
		for (unsigned i = 0; i < COUNT; i++) {
			unsigned slot = (i * 13 + round) % COUNT;
			fill(data[slot], 512, slot + round);
			memcpy(model + slot * 512, data[slot], 512);
			memset(&op[slot], 0, sizeof(op[slot]));
			start(b, &op[slot], TD_WRITE, slot * 512, data[slot], 512);
		}
		for (unsigned i = 0; i < COUNT; i++) {
			turn_until(b->loop, op[i].ended);
			assert_int_equal(op[i].err, 0);
		}
		expect_file(b, model, sizeof(model));
		td_file_close(b->file);
		b->file = NULL;
	}
}

static void a_small_write_waits_for_a_whole_one_and_a_discard(void **state)
{
	static uint8_t whole[8192] __attribute__((aligned(4096))), small[512], model[8192];
	struct bench *b = *state;
	struct op a = { 0 }, c = { 0 }, d = { 0 };

	have_file(b, 8192, NULL, 4096, TD_FILE_WRITE);
	memset(whole, 1, sizeof(whole));
	memset(small, 2, sizeof(small));
	start(b, &a, TD_WRITE, 0, whole, 8192);
	start(b, &c, TD_WRITE, 512, small, 512);
	start(b, &d, TD_WRITE_ZEROES, 4096 + 512, NULL, 512);
	turn_until(b->loop, a.ended && c.ended && d.ended);
	assert_int_equal(a.err | c.err | d.err, 0);
	memset(model, 1, sizeof(model));
	memset(model + 512, 2, 512);
	memset(model + 4096 + 512, 0, 512);
	expect_file(b, model, sizeof(model));
}

static void overlapping_reads_do_not_wait(void **state)
{
	enum { COUNT = 40 };
	static uint8_t content[65536], buf[COUNT][20000];
	static struct op op[COUNT];
	struct bench *b = *state;

	fill(content, sizeof(content), 3);
	have_file(b, sizeof(content), content, 4096, 0);
	for (unsigned i = 0; i < COUNT; i++)
		start(b, &op[i], TD_READ, i * 1000 + i % 3, buf[i], 20000);
	for (unsigned i = 0; i < COUNT; i++) {
		turn_until(b->loop, op[i].ended);
		assert_int_equal(op[i].err, 0);
		assert_memory_equal(buf[i], content + i * 1000 + i % 3, 20000);
	}
}

/* The kernel moves at most 2 GiB less a page at once. */
static void a_short_read_is_continued(void **state)
{
	enum { PIECE = 4 * MiB };
	const uint64_t len = 2 * GiB + PIECE, marked = len - 4096;
	struct bench *b = *state;
	uint8_t *buf = aligned_alloc(4096, PIECE);
	struct iovec *iov = calloc(len / PIECE, sizeof(*iov));
	struct op o = { 0 };
	int fd;

	have_file(b, len, NULL, 0, 0);
	fd = open(b->path, O_RDWR);
	assert_int_equal(pwrite(fd, "here", 4, marked), 4);
	close(fd);
	memset(buf, 0xee, PIECE);
	for (unsigned i = 0; i < len / PIECE; i++)
		iov[i] = (struct iovec){ buf, PIECE }; /* the last one wins */
	o.op = (struct td_fileop){ .op = TD_READ, .len = len, .iov = iov,
				   .iov_count = len / PIECE, .done = op_done };
	td_fileop_submit(b->io, b->file, &o.op);
	turn_until(b->loop, o.ended);
	assert_int_equal(o.err, 0);
	assert_memory_equal(buf + PIECE - 4096, "here", 4);
	assert_int_equal(buf[0], 0);
	free(iov);
	free(buf);
}

/* A limit cuts the write short; what is continued then meets the error. */
static void a_short_write_that_cannot_go_on_is_an_error(void **state)
{
	struct bench *b = *state;
	uint8_t *buf = aligned_alloc(4096, 65536);
	struct rlimit was, limit;

	have_file(b, MiB + 65536, NULL, 0, TD_FILE_WRITE);
	getrlimit(RLIMIT_FSIZE, &was);
	limit = was;
	limit.rlim_cur = MiB + 8192;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	memset(buf, 7, 65536);
	int err = do_op(b, TD_WRITE, 0, MiB, buf, 65536);
	setrlimit(RLIMIT_FSIZE, &was);
	assert_true(err < 0);
	assert_int_equal(do_op(b, TD_WRITE, 0, MiB, buf, 65536), 0);
	free(buf);
}

static void past_the_end_is_an_error_or_zeroes(void **state)
{
	static uint8_t buf[8192] __attribute__((aligned(4096)));
	struct bench *b = *state;

	have_file(b, 5000, NULL, 0, TD_FILE_WRITE);
	assert_int_equal(do_op(b, TD_READ, 0, 4096, buf, 512), 0);
	assert_int_equal(do_op(b, TD_READ, 0, 4096, buf, 4096), -EIO);
	assert_int_equal(do_op(b, TD_READ, 0, 1 << 20, buf, 4096), -EIO);
	assert_int_equal(td_file_read(b->file, buf, 4096, 4096), -EIO);
	td_file_close(b->file);
	have_file(b, 5000, NULL, 4096, TD_FILE_WRITE | TD_FILE_ZERO_TAIL);
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(do_op(b, TD_READ, 0, 0, buf, 8192), 0);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(do_op(b, TD_READ, 0, 1 << 20, buf, 8192), 0);
	assert_int_equal(buf[0] | buf[8191], 0);
}

static void an_odd_end_of_file_does_not_grow(void **state)
{
	static uint8_t buf[5120], model[5120];
	struct bench *b = *state;

	have_file(b, sizeof(model), NULL, 4096, TD_FILE_WRITE);
	fill(buf, sizeof(buf), 9);
	memcpy(model, buf, sizeof(model));
	assert_int_equal(do_op(b, TD_WRITE, 0, 0, buf, sizeof(buf)), 0);
	assert_int_equal(td_file_size(b->file), sizeof(model));
	expect_file(b, model, sizeof(model));
	fill(buf, 512, 77);
	memcpy(model + 4608, buf, 512);
	assert_int_equal(do_op(b, TD_WRITE, 0, 4608, buf, 512), 0);
	expect_file(b, model, sizeof(model));
	assert_int_equal(td_file_write(b->file, buf, 100, 5000), 0);
	memcpy(model + 5000, buf, 100);
	expect_file(b, model, sizeof(model));
}

static void blocking_forms_take_any_alignment(void **state)
{
	enum { SIZE = 3 << 20 };
	struct bench *b = *state;
	uint8_t *model = malloc(SIZE), *buf = malloc(SIZE);
	static const struct { uint32_t at, len; } span[] = {
		{ 0, SIZE }, { 1, 5 }, { 4095, 2 }, { 511, 2 << 20 }, { SIZE - 3, 3 },
		{ 8192, 4096 }, { 1048575, 1048578 },
	};

	fill(model, SIZE, 5);
	have_file(b, SIZE, model, 4096, TD_FILE_WRITE);
	for (size_t i = 0; i < ARRAY_SIZE(span); i++) {
		fill(model + span[i].at, span[i].len, i + 100);
		assert_int_equal(td_file_write(b->file, model + span[i].at, span[i].len,
					       span[i].at), 0);
		assert_int_equal(td_file_read(b->file, buf, span[i].len, span[i].at), 0);
		assert_memory_equal(buf, model + span[i].at, span[i].len);
	}
	expect_file(b, model, SIZE);
	free(model);
	free(buf);
}

static void sizes_change_and_new_space_reads_as_zeroes(void **state)
{
	static uint8_t buf[4096], zero[4096];
	struct bench *b = *state;

	have_file(b, 0, NULL, 0, TD_FILE_WRITE);
	assert_int_equal(td_file_allocate(b->file, 0, 65536), 0);
	assert_int_equal(td_file_size(b->file), 65536);
	assert_int_equal(td_file_read(b->file, buf, 4096, 61440), 0);
	assert_memory_equal(buf, zero, 4096);
	memset(buf, 1, 4096);
	assert_int_equal(td_file_write(b->file, buf, 4096, 61440), 0);
	assert_int_equal(td_file_truncate(b->file, 61440), 0);
	assert_int_equal(td_file_truncate(b->file, 65536), 0);
	assert_int_equal(td_file_read(b->file, buf, 4096, 61440), 0);
	assert_memory_equal(buf, zero, 4096);
	assert_int_equal(td_file_sync(b->file), 0);
}

/* ---- faults, through the hook ------------------------------------------------ */

struct fault {
	struct td_file_hook hook;
	enum td_file_event event;
	int err;
	unsigned begun, ended;
};

static int fault_begin(struct td_file_hook *hook, const struct td_file_op_seen *op, uint64_t *id)
{
	struct fault *f = container_of(hook, struct fault, hook);

	f->begun++;
	return op->event == f->event ? f->err : 0;
}

static void fault_end(struct td_file_hook *hook, uint64_t id, int err)
{
	container_of(hook, struct fault, hook)->ended++;
}

static void a_refused_operation_is_an_error_and_not_done(void **state)
{
	static const struct { enum td_op op; enum td_file_event event; } kind[] = {
		{ TD_READ, TD_EV_READ }, { TD_WRITE, TD_EV_WRITE }, { TD_FLUSH, TD_EV_SYNC },
		{ TD_DISCARD, TD_EV_PUNCH }, { TD_WRITE_ZEROES, TD_EV_ZERO },
	};
	static uint8_t content[8192], buf[8192];
	struct bench *b = *state;

	memset(content, 5, sizeof(content));
	for (size_t i = 0; i < ARRAY_SIZE(kind); i++) {
		struct fault f = { { fault_begin, fault_end }, kind[i].event, -ENOSPC };
		bool data = kind[i].op == TD_READ || kind[i].op == TD_WRITE;
		uint64_t len = kind[i].op == TD_FLUSH ? 0 : 512;

		b->files.hook = &f.hook;
		have_file(b, sizeof(content), content, 4096, TD_FILE_WRITE);
		f.begun = f.ended = 0; /* opening may read */
		memset(buf, 9, sizeof(buf));
		assert_int_equal(do_op(b, kind[i].op, 0, 0, data ? buf : NULL, len), -ENOSPC);
		assert_int_equal(f.begun, 1);
		assert_int_equal(f.ended, 0);
		expect_file(b, content, sizeof(content));
		f.err = 0;
		assert_int_equal(do_op(b, TD_WRITE, 0, 0, content, 512), 0);
		assert_int_equal(f.begun, 2);
		assert_int_equal(f.ended, 1);
		td_file_close(b->file);
		b->file = NULL;
		b->files.hook = NULL;
	}
}

static void more_transfers_than_the_engine_takes_wait(void **state)
{
	enum { COUNT = 500 };
	static uint8_t buf[COUNT][512] __attribute__((aligned(4096)));
	static uint8_t model[COUNT * 512];
	static struct op op[COUNT];
	struct bench *b = *state;

	have_file(b, sizeof(model), NULL, 0, TD_FILE_WRITE);
	fill(model, sizeof(model), 8);
	for (unsigned i = 0; i < COUNT; i++) {
		memcpy(buf[i], model + i * 512, 512);
		memset(&op[i], 0, sizeof(op[i]));
		start(b, &op[i], TD_WRITE, i * 512, buf[i], 512);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		turn_until(b->loop, op[i].ended);
		assert_int_equal(op[i].err, 0);
	}
	expect_file(b, model, sizeof(model));
}

static void writers_exclude_everybody_and_readers_do_not(void **state)
{
	struct bench *b = *state;
	struct td_file *second = NULL, *third = NULL;
	struct td_why why = { "" };

	have_file(b, 4096, NULL, 0, TD_FILE_WRITE);
	assert_true(td_file_open(&b->files, b->path, 0, &second, &why) < 0);
	assert_non_null(strstr(why.text, b->path));
	assert_true(td_file_open(&b->files, b->path, TD_FILE_WRITE, &second, &why) < 0);
	td_file_close(b->file);
	b->file = NULL;
	assert_int_equal(td_file_open(&b->files, b->path, 0, &second, &why), 0);
	assert_int_equal(td_file_open(&b->files, b->path, 0, &third, &why), 0);
	assert_true(td_file_same(second, third));
	assert_true(td_file_open(&b->files, b->path, TD_FILE_WRITE, &b->file, &why) < 0);
	td_file_close(second);
	td_file_close(third);
	assert_int_equal(td_file_open(&b->files, b->path, TD_FILE_WRITE | TD_FILE_SHARED, &second,
				      &why), 0);
	assert_int_equal(td_file_open(&b->files, b->path, TD_FILE_WRITE | TD_FILE_SHARED, &third,
				      &why), 0);
	assert_true(td_file_open(&b->files, b->path, TD_FILE_WRITE, &b->file, &why) < 0);
	td_file_close(second);
	td_file_close(third);
}

static void what_cannot_be_opened_is_named(void **state)
{
	struct bench *b = *state;
	struct td_file *file = NULL;
	struct td_why why = { "" };

	assert_int_equal(td_file_open(&b->files, b->path, 0, &file, &why), -ENOENT);
	assert_non_null(strstr(why.text, b->path));
	assert_true(td_file_open(&b->files, b->dir, 0, &file, &why) < 0);
	assert_non_null(strstr(why.text, b->dir));
	assert_true(td_file_open(&b->files, "/dev/null", 0, &file, &why) < 0);
	assert_non_null(strstr(why.text, "/dev/null"));
	have_file(b, 0, NULL, 0, 0);
	assert_int_equal(td_file_open(&b->files, b->path, TD_FILE_WRITE | TD_FILE_CREATE, &file,
				      &why), -EEXIST);
	assert_null(file);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(every_alignment_reads_and_writes),
		TEST(small_writes_into_one_block_all_survive),
		TEST(a_small_write_waits_for_a_whole_one_and_a_discard),
		TEST(overlapping_reads_do_not_wait),
		TEST(a_short_read_is_continued),
		TEST(a_short_write_that_cannot_go_on_is_an_error),
		TEST(past_the_end_is_an_error_or_zeroes),
		TEST(an_odd_end_of_file_does_not_grow),
		TEST(blocking_forms_take_any_alignment),
		TEST(sizes_change_and_new_space_reads_as_zeroes),
		TEST(a_refused_operation_is_an_error_and_not_done),
		TEST(more_transfers_than_the_engine_takes_wait),
		TEST(writers_exclude_everybody_and_readers_do_not),
		TEST(what_cannot_be_opened_is_named),
	};
	struct td_loop *loop;
	struct td_fileio *io;
	struct td_why why;

	engine = argc > 1 ? argv[1] : NULL;
	if (td_loop_new(&loop))
		return 1;
	if (td_fileio_new(loop, engine, 8, &io, &why)) {
		printf("skipped: %s\n", why.text);
		return 77;
	}
	td_fileio_free(io);
	td_loop_free(loop);
	return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
