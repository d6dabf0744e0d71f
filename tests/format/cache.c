/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cache of table pages, and the memory that survives a kill.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "io/file.h"
#include "pages.h"

#define DISK_SIZE (4 * MiB)
#define UNITS (DISK_SIZE / UNIT)

static char dir[64], path[96], spec[160], memory[96];
static uint64_t rng = 88172645463325252ull;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

static int set_up(void **state)
{
	int fd;

	snprintf(dir, sizeof(dir), "/dev/shm/blktap-cache.XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	snprintf(memory, sizeof(memory), "%s/memory", dir);
	setenv("BLKTAP_SURVIVOR_DIR", memory, 1);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "pages:%s,cache=1M", path);
	return 0;
}

static unsigned memories(bool remove)
{
	DIR *folder = opendir(memory);
	struct dirent *entry;
	unsigned n = 0;

	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] != '.') {
			n++;
			if (remove)
				unlinkat(dirfd(folder), entry->d_name, 0);
		}
	if (folder)
		closedir(folder);
	return n;
}

static int tear_down(void **state)
{
	memories(true);
	rmdir(memory);
	unlink(path);
	rmdir(dir);
	return 0;
}

static void opened(struct pages_disk *disk, const struct td_disk_options *options)
{
	struct td_why why = { "" };

	if (pages_open(disk, spec, options, &why))
		fail_msg("%s", why.text);
}

static uint64_t in_file(uint64_t unit)
{
	uint64_t value;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, &value, sizeof(value), unit * UNIT), sizeof(value));
	close(fd);
	return value;
}

static void more_pages_than_memory_are_kept_right(void **state)
{
	static uint64_t model[UNITS];
	struct pages_disk disk;
	uint64_t value;

	memset(model, 0, sizeof(model));
	for (unsigned page = 512; page <= 4096; page *= 8) {
		snprintf(spec, sizeof(spec), "pages:%s,cache=128K,page=%u", path, page);
		opened(&disk, NULL);
		for (unsigned i = 1; i < 6000; i++) {
			uint64_t unit = rnd(UNITS);

			if (i % 2) {
				model[unit] = page + i;
				assert_int_equal(pages_store(&disk, unit, page + i), 0);
			} else {
				assert_int_equal(pages_load(&disk, unit, &value), 0);
				assert_int_equal(value, model[unit]);
			}
			if (i % 1000 == 0)
				assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), 0);
		}
		assert_int_equal(pages_close(&disk), 0);
		assert_int_equal(memories(false), 0);
		for (uint64_t unit = 0; unit < UNITS; unit++)
			assert_int_equal(in_file(unit), model[unit]);
	}
}

static void a_change_is_written_after_a_second(void **state)
{
	struct pages_disk disk;

	opened(&disk, NULL);
	assert_int_equal(pages_store(&disk, 9, 99), 0);
	assert_int_equal(in_file(9), 0);
	for (unsigned i = 0; i < 6000 && in_file(9) != 99; i++)
		td_loop_turn(disk.loop, 10);
	assert_int_equal(in_file(9), 99);
	assert_int_equal(pages_close(&disk), 0);
}

/* ---- order ---------------------------------------------------------------------- */

static struct watch {
	struct td_file_hook hook;
	pthread_mutex_t lock;
	unsigned highest;     /* stage written since the last sync, plus 1 */
	unsigned writes, syncs, wrong;
	unsigned reads, firsts; /* of pages; of the first */
	int fail_writes, fail_syncs;
	bool synced;          /* the last operation was a sync */
	unsigned syncing;     /* that have not ended */
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int watch_begin(struct td_file_hook *hook, const struct td_file_op_seen *op, uint64_t *id)
{
	unsigned stage = op->offset / 4096 % PAGES_STAGES;
	int err = 0;

	pthread_mutex_lock(&watch.lock);
	if (op->event == TD_EV_SYNC) {
		watch.syncs++;
		watch.highest = 0;
		err = watch.fail_syncs;
		watch.syncing += !err;
	} else if (op->event == TD_EV_WRITE) {
		watch.writes++;
		if (watch.syncing || (watch.highest && watch.highest != stage + 1))
			watch.wrong++;
		watch.highest = stage + 1;
		err = watch.fail_writes;
	}
	watch.reads += op->event == TD_EV_READ;
	watch.firsts += op->event == TD_EV_READ && !op->offset;
	watch.synced = op->event == TD_EV_SYNC;
	*id = op->event;
	pthread_mutex_unlock(&watch.lock);
	return err;
}

static void watch_end(struct td_file_hook *hook, uint64_t id, int err)
{
	pthread_mutex_lock(&watch.lock);
	watch.syncing -= id == TD_EV_SYNC;
	pthread_mutex_unlock(&watch.lock);
}

static void watch_start(void)
{
	watch.hook = (struct td_file_hook){ .begin = watch_begin, .end = watch_end };
	watch.highest = watch.writes = watch.syncs = watch.wrong = 0;
	watch.reads = watch.firsts = 0;
	watch.fail_writes = watch.fail_syncs = 0;
}

static void a_page_that_is_used_between_others_stays(void **state)
{
	struct td_disk_options options = { .hook = &watch.hook };
	uint64_t value, pages = DISK_SIZE / 4096;
	struct pages_disk disk;

	watch_start();
	opened(&disk, &options); /* memory for a quarter of them */
	for (uint64_t i = 1; i < 3 * pages; i++) {
		assert_int_equal(pages_load(&disk, i % pages * (4096 / UNIT), &value), 0);
		assert_int_equal(pages_load(&disk, 0, &value), 0);
	}
	assert_int_equal(watch.firsts, 1);
	assert_int_equal(watch.reads, 1 + 3 * (pages - 1));
	assert_int_equal(pages_close(&disk), 0);
}

static void stages_are_kept_apart_by_barriers(void **state)
{
	struct td_disk_options options = { .hook = &watch.hook };
	struct pages_disk disk;

	watch_start();
	opened(&disk, &options);
	assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(watch.syncs, 1); /* nothing dirty: one barrier */
	for (unsigned i = 0; i < 20; i++) {
		for (unsigned n = 0; n < 30; n++)
			assert_int_equal(pages_store(&disk, rnd(UNITS), i + 1), 0);
		watch.syncs = 0;
		assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(watch.syncs, PAGES_STAGES);
		assert_true(watch.synced);
	}
	assert_int_equal(watch.wrong, 0);
	assert_int_equal(pages_close(&disk), 0);
}

/* The second after the first change is over in the very turn in which somebody flushes. */

static struct flusher {
	struct td_timer timer;
	struct pages_disk *disk;
	struct iovec none;
	struct pages_end end;
} flusher;

static void flush_now(struct td_timer *timer)
{
	pages_send(flusher.disk, TD_FLUSH, 0, &flusher.none, &flusher.end);
}

static void a_flush_and_the_alarm_begin_one_batch(void **state)
{
	struct td_disk_options options = { .hook = &watch.hook };
	struct pages_disk disk;

	watch_start();
	opened(&disk, &options);
	for (unsigned n = 0; n < 30; n++)
		assert_int_equal(pages_store(&disk, n * 40, 80 + n), 0);
	watch.fail_syncs = -EIO; /* nothing is known to be durable: a barrier comes first */
	assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), -EIO);
	watch.fail_syncs = 0;
	flusher = (struct flusher){ .timer.fired = flush_now, .disk = &disk };
	td_timer_arm(disk.loop, &flusher.timer, 1);
	usleep(1500 * 1000);
	assert_int_equal(pages_wait(&disk, &flusher.end), 0);
	assert_int_equal(watch.wrong, 0);
	for (unsigned n = 0; n < 30; n++)
		assert_int_equal(in_file(n * 40), 80 + n);
	assert_int_equal(pages_close(&disk), 0);
}

static void what_could_not_be_written_stays(void **state)
{
	struct td_disk_options options = { .hook = &watch.hook };
	struct pages_disk disk;

	watch_start();
	opened(&disk, &options);
	for (unsigned what = 0; what < 2; what++) {
		for (unsigned n = 0; n < 30; n++)
			assert_int_equal(pages_store(&disk, n * 40, 70 + what), 0);
		*(what ? &watch.fail_syncs : &watch.fail_writes) = -EIO;
		assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), -EIO);
		assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), -EIO);
		watch.fail_syncs = watch.fail_writes = 0;
		assert_int_equal(pages_do(&disk, TD_FLUSH, 0, NULL, 0), 0);
		for (unsigned n = 0; n < 30; n++)
			assert_int_equal(in_file(n * 40), 70 + what);
	}
	/* and nothing can be written at close: the next to open it does that */
	assert_int_equal(pages_store(&disk, 7, 1234), 0);
	watch.fail_writes = -EIO;
	assert_int_equal(pages_close(&disk), -EIO);
	assert_int_equal(memories(false), 1);
	opened(&disk, NULL);
	assert_int_equal(in_file(7), 1234);
	assert_int_equal(pages_close(&disk), 0);
	assert_int_equal(memories(false), 0);
}

/* ---- kills ------------------------------------------------------------------------ */

/* Stores numbers until it is killed, with a flush now and then if asked; tells what has
 * ended. */
static void store_on(uint64_t *ended, bool flushes)
{
	struct pages_disk disk;
	struct td_why why;

	if (pages_open(&disk, spec, NULL, &why))
		_exit(1);
	for (uint64_t n = 1;; n++) {
		uint64_t unit = rnd(UNITS);

		ended[UNITS] = unit; /* under way */
		if (pages_store(&disk, unit, ended[unit] + 1))
			_exit(2);
		ended[unit]++;
		ended[UNITS] = UNITS;
		ended[UNITS + 1]++;
		if (flushes && n % 500 == 0 && pages_do(&disk, TD_FLUSH, 0, NULL, 0))
			_exit(3);
	}
}

static uint64_t *ended_new(void)
{
	uint64_t *ended = mmap(NULL, (UNITS + 2) * sizeof(*ended), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(ended != MAP_FAILED);
	return ended;
}

static void store_then_kill(uint64_t *ended, bool flushes, unsigned ms)
{
	struct timespec wait = { 0, ms * 1000000 };
	uint64_t before = ended[UNITS + 1];
	pid_t pid;

	rnd(2);
	pid = fork();
	if (!pid)
		store_on(ended, flushes);
	for (unsigned i = 0; i < 1000 && __atomic_load_n(&ended[UNITS + 1], __ATOMIC_SEQ_CST) == before; i++)
		usleep(10000); /* it has begun, however busy the machine is */
	nanosleep(&wait, NULL);
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* There is always something that the file has not: no flush has just ended. */
static void store_and_kill(uint64_t *ended, unsigned ms)
{
	store_then_kill(ended, false, ms);
}

static void a_killed_process_loses_no_change_that_has_ended(void **state)
{
	uint64_t *ended = ended_new(), most = 0;

	for (unsigned round = 0; round < 12; round++) {
		struct pages_disk disk;

		store_then_kill(ended, true, 20 + rnd(150));
		opened(&disk, NULL);
		for (uint64_t unit = 0; unit < UNITS; unit++) {
			uint64_t value;

			assert_int_equal(pages_load(&disk, unit, &value), 0);
			assert_int_equal(in_file(unit), value);
			if (value != ended[unit] &&
			    (ended[UNITS] != unit || value != ended[unit] + 1))
				fail_msg("unit %llu holds %llu, %llu had ended",
					 (unsigned long long)unit, (unsigned long long)value,
					 (unsigned long long)ended[unit]);
			ended[unit] = value;
			most = max_u64(most, value);
		}
		assert_int_equal(pages_close(&disk), 0);
		assert_int_equal(memories(false), 0);
	}
	assert_true(most > 1);
	munmap(ended, (UNITS + 2) * sizeof(*ended));
}

static void refused(bool read_only, const char *what)
{
	struct td_disk_options options = { .read_only = read_only };
	struct td_why why = { "" };
	struct pages_disk disk;

	if (!pages_open(&disk, spec, &options, &why))
		fail_msg("it was opened");
	if (!strstr(why.text, what) || !strstr(why.text, path) || !strstr(why.text, memory))
		fail_msg("'%s' does not say '%s' and name both files", why.text, what);
	assert_int_equal(memories(false), 1);
}

static void a_reader_is_refused_what_is_not_whole(void **state)
{
	uint64_t *ended = ended_new();
	struct td_disk_options options = { .read_only = true };
	struct pages_disk disk;

	store_and_kill(ended, 60);
	refused(true, "open it for writing once");
	opened(&disk, NULL);
	assert_int_equal(pages_close(&disk), 0);
	opened(&disk, &options);
	assert_int_equal(pages_close(&disk), 0);
	munmap(ended, (UNITS + 2) * sizeof(*ended));
}

static void another_writer_since_the_kill_is_noticed(void **state)
{
	uint64_t *ended = ended_new();
	static const char junk[DISK_SIZE] = "junk";
	struct pages_disk disk;
	char all[DISK_SIZE / 64];
	int fd;

	store_and_kill(ended, 60);
	memset(all, 'x', sizeof(all));
	fd = open(path, O_RDWR | O_CLOEXEC);
	for (uint64_t at = 0; at < DISK_SIZE; at += sizeof(all))
		assert_int_equal(pwrite(fd, all, sizeof(all), at), sizeof(all));
	refused(false, "another program has written");
	for (uint64_t at = 0; at < DISK_SIZE; at += sizeof(all))
		assert_int_equal(pread(fd, all, sizeof(all), at), sizeof(all));
	assert_int_equal(all[5], 'x'); /* it has been left alone */
	assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
	close(fd);
	memories(true); /* what the message says */
	opened(&disk, NULL);
	assert_int_equal(pages_close(&disk), 0);
	munmap(ended, (UNITS + 2) * sizeof(*ended));
}

/* What another version left is not thrown away. */
static void memory_of_another_version_is_kept(void **state)
{
	uint64_t *ended = ended_new();
	uint32_t version = 99;
	struct dirent *entry;
	char name[400] = "";
	DIR *folder;
	int fd;

	store_and_kill(ended, 20);
	folder = opendir(memory);
	assert_non_null(folder);
	while ((entry = readdir(folder)))
		if (entry->d_name[0] != '.')
			snprintf(name, sizeof(name), "%s/%s", memory, entry->d_name);
	closedir(folder);
	fd = open(name, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &version, sizeof(version), 8), sizeof(version));
	close(fd);
	refused(false, "another version");
	refused(true, "another version");
	munmap(ended, (UNITS + 2) * sizeof(*ended));
}

/* Whatever is in the memory's file, opening ends, and well or with a reason. */
static void damaged_memory_harms_nobody(void **state)
{
	uint64_t *ended = ended_new();

	for (unsigned round = 0; round < 40; round++) {
		struct td_why why = { "" };
		struct pages_disk disk;
		struct dirent *entry;
		DIR *folder;
		char name[400] = "";
		int fd, err;

		store_and_kill(ended, 15);
		folder = opendir(memory);
		assert_non_null(folder);
		while ((entry = readdir(folder)))
			if (entry->d_name[0] != '.')
				snprintf(name, sizeof(name), "%s/%s", memory, entry->d_name);
		closedir(folder);
		fd = open(name, O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0);
		for (unsigned n = 0; n < 20; n++) {
			uint64_t bits = rnd(3) ? rng : rnd(1 << 20);

			assert_int_equal(pwrite(fd, &bits, 1 + rnd(8), rnd(round % 2 ? 64 : 8192)) > 0, 1);
		}
		if (round % 5 == 0)
			assert_int_equal(ftruncate(fd, rnd(70000)), 0);
		close(fd);
		err = pages_open(&disk, spec, NULL, &why);
		if (err)
			assert_true(why.text[0]);
		else
			assert_int_equal(pages_close(&disk), 0);
		memories(true);
		assert_int_equal(truncate(path, DISK_SIZE), 0);
	}
	munmap(ended, (UNITS + 2) * sizeof(*ended));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(more_pages_than_memory_are_kept_right),
		TEST(a_change_is_written_after_a_second),
		TEST(a_page_that_is_used_between_others_stays),
		TEST(stages_are_kept_apart_by_barriers),
		TEST(a_flush_and_the_alarm_begin_one_batch),
		TEST(what_could_not_be_written_stays),
		TEST(a_killed_process_loses_no_change_that_has_ended),
		TEST(a_reader_is_refused_what_is_not_whole),
		TEST(another_writer_since_the_kill_is_noticed),
		TEST(memory_of_another_version_is_kept),
		TEST(damaged_memory_harms_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
