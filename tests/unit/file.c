/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that change while they are open, end early, grow or are full, on both
 * engines; more work than there are buffers; an engine that the kernel refuses.
 * What holds for any transfer is in transfers.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* before cmocka */
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/num.h"
#include "config.h"
#include "io/file.h"
#include "io/loop.h"

#define OPS 256
#define TURNS 20000 /* of the loop */

struct op {
	struct td_fileop op;
	struct iovec iov;
	bool ended;
	int err;
};

static int let_begin(struct td_file_hook *hook, const struct td_file_op_seen *seen, uint64_t *id)
{
	return 0;
}

static void let_end(struct td_file_hook *hook, uint64_t id, int err)
{
}

static struct rig {
	struct td_loop *loop;
	struct td_fileio *io;
	struct td_file *file;
	char path[256];
	char *memory; /* of all operations */
	struct td_file_hook hook;
	unsigned transfers; /* the hook has seen */
	struct op ops[OPS];
	unsigned started, ended;
} rig;

/* ---- one file, one engine ------------------------------------------------------ */

static void file_make(size_t size)
{
	char *bytes = malloc(size + 1);
	int fd = open(rig.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0 && bytes);
	memset(bytes, 'o', size);
	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
	free(bytes);
}

static void file_open(unsigned flags, uint32_t align)
{
	struct td_files files = { .force_align = align, .hook = &rig.hook };
	struct td_why why = { "" };

	if (td_file_open(&files, rig.path, flags, &rig.file, &why))
		fail_msg("%s", why.text);
}

static void rig_make(const char *engine)
{
	const char *dir = getenv("TEST_DIR");
	struct td_why why;

	memset(&rig, 0, sizeof(rig));
	rig.hook.begin = let_begin;
	rig.hook.end = let_end;
	alarm(60);
	snprintf(rig.path, sizeof(rig.path), "%s/unit-file.%ld", dir ? dir : ".", (long)getpid());
	rig.memory = aligned_alloc(4096, OPS * MiB);
	assert_non_null(rig.memory);
	assert_int_equal(td_loop_new(&rig.loop), 0);
	if (td_fileio_new(rig.loop, engine, 32, &rig.io, &why))
		fail_msg("%s", why.text);
}

static int rig_end(void **state)
{
	td_file_close(rig.file);
	td_fileio_free(rig.io);
	td_loop_free(rig.loop);
	free(rig.memory);
	return unlink(rig.path);
}

static void ended(struct td_fileop *fileop, int err)
{
	struct op *op = container_of(fileop, struct op, op);

	assert_false(op->ended);
	op->ended = true;
	op->err = err;
	rig.ended++;
}

/* Memory that is skewed by skew bytes. */
static struct op *op_start(enum td_op what, uint64_t offset, size_t len, size_t skew, int fill)
{
	unsigned i = rig.started++;
	struct op *op = &rig.ops[i];

	assert_true(i < OPS && len + skew <= MiB);
	op->iov = (struct iovec){ rig.memory + i * MiB + skew, len };
	memset(op->iov.iov_base, fill, len);
	op->op = (struct td_fileop){
		.op = what, .offset = offset, .len = len,
		.iov = &op->iov, .iov_count = 1, .done = ended,
	};
	td_fileop_submit(rig.io, rig.file, &op->op);
	return op;
}

/* All that have been started; the first error. */
static int ops_wait(void)
{
	int err = 0;

	for (int i = 0; i < TURNS && rig.ended < rig.started; i++)
		td_loop_turn(rig.loop, 10);
	assert_int_equal(rig.ended, rig.started);
	for (unsigned i = 0; i < rig.started && !err; i++)
		err = rig.ops[i].err;
	return err;
}

static int op_do(enum td_op what, uint64_t offset, size_t len, size_t skew, int fill)
{
	struct op *op = op_start(what, offset, len, skew, fill);

	ops_wait();
	return op->err;
}

static void expect_bytes(uint64_t at, size_t len, int byte)
{
	char *bytes = malloc(len);
	int fd = open(rig.path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, bytes, len, at), len);
	for (size_t i = 0; i < len; i++)
		if (bytes[i] != byte)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)(at + i),
				 bytes[i], byte);
	close(fd);
	free(bytes);
}

static uint64_t size_on_disk(void)
{
	struct stat st;

	assert_int_equal(stat(rig.path, &st), 0);
	return st.st_size;
}

/* ---- what must hold -------------------------------------------------------------- */

/* A discard and zeroing of parts of blocks beside writes of the other parts. */
static void parts_zeroed_beside_parts_written(void)
{
	file_make(64 * KiB);
	file_open(TD_FILE_WRITE, 4096);
	for (unsigned i = 0; i < 64; i++) {
		op_start(TD_WRITE, i * 1024, 512, 0, 'w');
		op_start(TD_WRITE_ZEROES, i * 1024 + 512, 512, 0, 0);
	}
	assert_int_equal(ops_wait(), 0);
	for (unsigned i = 0; i < 64; i++) {
		expect_bytes(i * 1024, 512, 'w');
		expect_bytes(i * 1024 + 512, 512, 0);
	}
}

static void more_unaligned_transfers_than_buffers(void)
{
	enum { COUNT = 60, LEN = 700 * 1024 };

	file_make(COUNT * LEN);
	file_open(TD_FILE_WRITE, 0);
	for (unsigned i = 0; i < COUNT; i++)
		op_start(TD_WRITE, i * LEN, LEN, 1, i);
	assert_int_equal(ops_wait(), 0);
	for (unsigned i = 0; i < COUNT; i++)
		op_start(TD_READ, i * LEN, LEN, 3, 0xee);
	assert_int_equal(ops_wait(), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		const char *got = rig.ops[COUNT + i].iov.iov_base;

		for (unsigned k = 0; k < LEN; k++)
			if (got[k] != (char)i)
				fail_msg("read %u has %d at %u", i, got[k], k);
	}
}

/* The kernel writes up to the limit and says how much that was. */
static void what_a_short_write_left_is_tried_and_its_error_told(void)
{
	struct rlimit old, limit;

	signal(SIGXFSZ, SIG_IGN);
	file_make(64 * KiB);
	file_open(TD_FILE_WRITE, 0);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){ 256 * KiB, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &limit);
	assert_int_equal(op_do(TD_WRITE, 0, 512 * KiB, 0, 's'), -EFBIG);
	assert_int_equal(op_do(TD_WRITE, 0, 512 * KiB, 1, 't'), -EFBIG);
	assert_int_equal(td_file_allocate(rig.file, 256 * KiB, MiB), -EFBIG);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(size_on_disk(), 256 * KiB);
	expect_bytes(0, 256 * KiB, 't');
	assert_int_equal(op_do(TD_WRITE, 0, 512 * KiB, 0, 'u'), 0);
	expect_bytes(0, 512 * KiB, 'u');
}

/* Two of three transfers are refused. */
static int64_t say_again(struct td_file_hook *hook, const struct td_fileop *op, int64_t res)
{
	static const int64_t said[] = { -EAGAIN, -EINTR };
	unsigned turn = rig.transfers++ % 3;

	return turn < 2 ? said[turn] : res;
}

/* Only the first half of each, in whole sectors, is said to be done. */
static int64_t say_half(struct td_file_hook *hook, const struct td_fileop *op, int64_t res)
{
	rig.transfers++;
	return res <= 512 ? res : (int64_t)round_down(res / 2, 512);
}

static void written_and_read_back(int fill, unsigned transfers_at_least)
{
	for (size_t skew = 0; skew < 2; skew++) {
		rig.transfers = 0;
		assert_int_equal(op_do(TD_WRITE, 4096, 64 * KiB, skew, fill + skew), 0);
		expect_bytes(4096, 64 * KiB, fill + skew);
		assert_int_equal(op_do(TD_READ, 4096, 64 * KiB, skew, 'x'), 0);
		for (unsigned i = 0; i < 64 * KiB; i++)
			assert_int_equal(rig.memory[(rig.started - 1) * MiB + skew + i],
					 fill + skew);
		assert_true(rig.transfers >= transfers_at_least);
	}
	expect_bytes(0, 4096, 'o');
	expect_bytes(68 * KiB, 4096, 'o');
}

static void a_transfer_the_kernel_wants_later_is_repeated(void)
{
	file_make(128 * KiB);
	file_open(TD_FILE_WRITE, 0);
	rig.hook.transfer = say_again;
	written_and_read_back('a', 6);
}

static void a_transfer_that_falls_short_goes_on(void)
{
	file_make(128 * KiB);
	file_open(TD_FILE_WRITE, 0);
	rig.hook.transfer = say_half;
	written_and_read_back('h', 4);
}

static void a_file_cut_short_is_an_error_not_stale_bytes(void)
{
	file_make(MiB);
	file_open(0, 0);
	assert_int_equal(truncate(rig.path, 512 * KiB + 700), 0);
	assert_int_equal(op_do(TD_READ, 0, MiB, 0, 'x'), -EIO);
	assert_int_equal(op_do(TD_READ, 0, MiB - 4, 1, 'x'), -EIO);
	assert_int_equal(op_do(TD_READ, 768 * KiB, 4096, 0, 'x'), -EIO);
	assert_int_equal(op_do(TD_READ, 0, 512 * KiB, 0, 'x'), 0);
}

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* Each write ends past the end of the file and within a block. */
static void a_file_that_many_lengthen_at_once_has_the_last_length(void)
{
	unsigned before, i;

	for (unsigned round = 0; round < 20; round++) {
		file_make(0);
		before = open_files();
		file_open(TD_FILE_WRITE, 4096);
		rig.started = rig.ended = 0;
		memset(rig.ops, 0, sizeof(rig.ops));
		for (i = 0; i < 8; i++)
			op_start(TD_WRITE, (7 - i) * 8192, 5000, 0, 'w');
		assert_int_equal(ops_wait(), 0);
		assert_int_equal(td_file_size(rig.file), 7 * 8192 + 5000);
		assert_int_equal(size_on_disk(), 7 * 8192 + 5000);
		for (i = 0; i < 8; i++)
			expect_bytes(i * 8192, 5000, 'w');
		td_file_close(rig.file);
		rig.file = NULL;
		assert_int_equal(open_files(), before);
	}
}

static void extents_tell_holes(void)
{
	struct op *op;

	file_make(0);
	assert_int_equal(truncate(rig.path, MiB), 0);
	file_open(TD_FILE_WRITE, 0);
	assert_int_equal(op_do(TD_WRITE, 256 * KiB, 64 * KiB, 0, 'd'), 0);
	op = op_start(TD_EXTENTS, 0, MiB, 0, 0);
	assert_int_equal(ops_wait(), 0);
	assert_int_equal(op->op.extent.len, 256 * KiB);
	assert_int_equal(op->op.extent.flags, TD_EXTENT_HOLE | TD_EXTENT_ZERO);
	op = op_start(TD_EXTENTS, 256 * KiB, 256 * KiB, 0, 0);
	assert_int_equal(ops_wait(), 0);
	assert_int_equal(op->op.extent.len, 64 * KiB);
	assert_int_equal(op->op.extent.flags, 0);
}

/* Pages of the file that the page cache has. */
static unsigned pages_cached(size_t len)
{
	unsigned char in[MiB / 4096];
	unsigned pages = 0;
	void *map;
	int fd = open(rig.path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0 && len <= MiB);
	map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mincore(map, len, in), 0);
	for (size_t i = 0; i < (len + 4095) / 4096; i++)
		pages += in[i] & 1;
	munmap(map, len);
	close(fd);
	return pages;
}

/* A page that is changed there while direct writes go to the same block of the file is
 * written over them, or makes the next fsync fail. */
static void parts_of_blocks_never_pass_the_page_cache(void)
{
	struct statfs fs;
	int fd;

	file_make(MiB - 512);
	assert_int_equal(statfs(rig.path, &fs), 0);
	if (fs.f_type == TMPFS_MAGIC)
		skip();
	file_open(TD_FILE_WRITE, 0);
	fd = open(rig.path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
	assert_int_equal(pages_cached(MiB - 512), 0);
	op_start(TD_WRITE_ZEROES, 512, 512, 0, 0);
	op_start(TD_WRITE_ZEROES, 8192 + 512, 16384, 0, 0);
	op_start(TD_DISCARD, 65536 + 512, 512, 0, 0);
	op_start(TD_DISCARD, 131072 + 512, 16384, 0, 0);
	assert_int_equal(ops_wait(), 0);
	assert_int_equal(pages_cached(MiB - 512), 0);
	assert_int_equal(td_file_truncate(rig.file, MiB), 0);
	assert_int_equal(pages_cached(MiB), 0);
	expect_bytes(0, 512, 'o');
	expect_bytes(512, 512, 0);
	expect_bytes(1024, 7680, 'o');
	expect_bytes(8704, 16384, 0);
	expect_bytes(25088, 40960, 'o');
	expect_bytes(66048, 65536, 'o');
	expect_bytes(MiB - 512, 512, 0);
}

/* An alignment that has been guessed from a read that found nothing to read. */
static void a_file_too_short_to_tell_is_taken_as_4096(void)
{
	struct statx st = { 0 };

	file_make(0);
#ifdef STATX_DIOALIGN
	statx(AT_FDCWD, rig.path, 0, STATX_DIOALIGN, &st);
	if (st.stx_mask & STATX_DIOALIGN)
		skip();
#endif
	file_open(TD_FILE_WRITE, 0);
	assert_int_equal(td_file_align(rig.file), 4096);
}

static void a_refused_file_leaves_nothing_open(void)
{
	struct td_files files = { 0 };
	struct td_file *second;
	struct td_why why;
	unsigned before;

	file_make(4096);
	file_open(TD_FILE_WRITE, 0);
	before = open_files();
	assert_int_equal(td_file_open(&files, rig.path, 0, &second, &why), -EBUSY);
	assert_non_null(strstr(why.text, rig.path));
	assert_int_equal(td_file_open(&files, rig.path, TD_FILE_WRITE, &second, &why), -EBUSY);
	assert_int_equal(td_file_open(&files, "/", 0, &second, &why), -EISDIR);
	assert_int_equal(td_file_open(&files, "/dev/null", 0, &second, &why), -EINVAL);
	assert_int_equal(td_file_open(&files, "./none", 0, &second, &why), -ENOENT);
	assert_int_equal(open_files(), before);
	td_file_close(rig.file);
	file_open(0, 0);
	assert_int_equal(td_file_open(&files, rig.path, 0, &second, &why), 0);
	td_file_close(second);
	assert_int_equal(td_file_open(&files, rig.path, TD_FILE_WRITE, &second, &why), -EBUSY);
}

/* ---- engines ----------------------------------------------------------------------- */

#if defined(HAVE_URING) && defined(HAVE_AIO)
/* As a container's policy or sysctl kernel.io_uring_disabled does. */
static int forbid_io_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int engine_without_io_uring(const char *asked)
{
	struct td_fileio *io;
	struct td_loop *loop;
	struct td_why why;

	if (forbid_io_uring())
		return 77;
	if (td_loop_new(&loop))
		return 1;
	if (td_fileio_new(loop, asked, 8, &io, &why))
		return strstr(why.text, "io_uring: Operation not permitted") ? 2 : 3;
	return strcmp(td_fileio_engine(io), "libaio") ? 4 : 0;
}

static int in_child(const char *asked)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(engine_without_io_uring(asked));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void libaio_serves_where_io_uring_is_forbidden(void **state)
{
	int status = in_child(NULL);

	if (status == 77)
		skip();
	assert_int_equal(status, 0);
	assert_int_equal(in_child("libaio"), 0);
	assert_int_equal(in_child("io_uring"), 2);
}
#endif

static void an_engine_nobody_knows_is_refused_by_name(void **state)
{
	struct td_fileio *io;
	struct td_loop *loop;
	struct td_why why;

	assert_int_equal(td_loop_new(&loop), 0);
	assert_int_equal(td_fileio_new(loop, "steam", 8, &io, &why), -ENOENT);
	assert_string_equal(why.text, "no I/O engine is called \"steam\"");
	td_loop_free(loop);
}

/* Each promise, on one engine. */
#define ON(engine, name, promise) \
	static void name(void **state) \
	{ \
		rig_make(engine); \
		promise(); \
	}
#define PROMISE(promise) \
	ON("io_uring", promise##_uring, promise) \
	ON("libaio", promise##_aio, promise)

PROMISE(parts_zeroed_beside_parts_written)
PROMISE(more_unaligned_transfers_than_buffers)
PROMISE(what_a_short_write_left_is_tried_and_its_error_told)
PROMISE(a_transfer_the_kernel_wants_later_is_repeated)
PROMISE(a_transfer_that_falls_short_goes_on)
PROMISE(a_file_cut_short_is_an_error_not_stale_bytes)
PROMISE(a_file_that_many_lengthen_at_once_has_the_last_length)
PROMISE(extents_tell_holes)
PROMISE(parts_of_blocks_never_pass_the_page_cache)
PROMISE(a_file_too_short_to_tell_is_taken_as_4096)
PROMISE(a_refused_file_leaves_nothing_open)

int main(int argc, char **argv)
{
#ifdef HAVE_URING
#define URING(promise) cmocka_unit_test_teardown(promise##_uring, rig_end),
#else
#define URING(promise)
#endif
#ifdef HAVE_AIO
#define AIO(promise) cmocka_unit_test_teardown(promise##_aio, rig_end),
#else
#define AIO(promise)
#endif
#define BOTH(promise) URING(promise) AIO(promise)
	const struct CMUnitTest tests[] = {
		BOTH(parts_zeroed_beside_parts_written)
		BOTH(more_unaligned_transfers_than_buffers)
		BOTH(what_a_short_write_left_is_tried_and_its_error_told)
		BOTH(a_transfer_the_kernel_wants_later_is_repeated)
		BOTH(a_transfer_that_falls_short_goes_on)
		BOTH(a_file_cut_short_is_an_error_not_stale_bytes)
		BOTH(a_file_that_many_lengthen_at_once_has_the_last_length)
		BOTH(extents_tell_holes)
		BOTH(parts_of_blocks_never_pass_the_page_cache)
		BOTH(a_file_too_short_to_tell_is_taken_as_4096)
		BOTH(a_refused_file_leaves_nothing_open)
#if defined(HAVE_URING) && defined(HAVE_AIO)
		cmocka_unit_test(libaio_serves_where_io_uring_is_forbidden),
#endif
		cmocka_unit_test(an_engine_nobody_knows_is_refused_by_name),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
