/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The explorer itself, on logs written by hand.
 *
 * The format made up for it has two sectors of a file: the first points to the
 * second (it says "X") or not. Data must be there when they are pointed to.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail
#undef skip

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cut.h"

static char path[128];
static bool failure_wanted, failed;
static jmp_buf failure;

void fail(const char *fmt, ...)
{
	va_list args;

	failed = true;
	if (failure_wanted)
		longjmp(failure, 1);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	abort();
}

void skip(const char *fmt, ...)
{
	abort();
}

/* ---- a log by hand ------------------------------------------------------------- */

static struct log log_;

static unsigned begin(enum td_file_event event, uint64_t at, uint64_t len, char fill)
{
	struct deed deed = { .event = event, .offset = at, .len = len };

	if (event == TD_EV_WRITE) {
		deed.data = malloc(len);
		memset(deed.data, fill, len);
	}
	return log_deed(&log_, path, &deed);
}

static void end(unsigned deed)
{
	log_deed_ended(&log_, deed, 0);
}

static void do_write(uint64_t at, uint64_t len, char fill)
{
	end(begin(TD_EV_WRITE, at, len, fill));
}

static void do_sync(void)
{
	end(begin(TD_EV_SYNC, 0, 0, 0));
}

static void file_is(uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static void make_file(void)
{
	snprintf(path, sizeof(path), "%s/powercut-unit.XXXXXX", getenv("TMPDIR") ?: "/tmp");
	close(mkstemp(path));
}

static int setup(void **state)
{
	make_file();
	file_is(8192);
	log_init(&log_, TAG_ZERO, NULL);
	log_.disk_size = 8192;
	failed = false;
	return 0;
}

static int teardown(void **state)
{
	log_free(&log_);
	unlink(path);
	return 0;
}

/* ---- what the cuts of it leave --------------------------------------------------- */

struct found {
	struct rebuild rebuild;
	bool (*wrong)(const struct store *file);
	unsigned cuts, wrongs;
};

static bool count_wrong(void *arg, const struct cut *cut)
{
	struct found *found = arg;

	rebuild_cut(&found->rebuild, cut);
	found->cuts++;
	found->wrongs += found->wrong(&found->rebuild.now[0]);
	return true;
}

/* The states that are wrong, of all cuts. */
static unsigned wrong_states(bool (*wrong)(const struct store *file))
{
	struct found found = { .wrong = wrong };
	struct rnd rnd = { 1 };

	log_finish(&log_);
	rebuild_begin(&found.rebuild, &log_);
	cuts_visit(&log_, false, 1000000, &rnd, count_wrong, &found);
	rebuild_end(&found.rebuild);
	assert_true(found.cuts > 0);
	return found.wrongs;
}

static char byte_of(const struct store *file, uint64_t at)
{
	const char *page = at < file->size ? store_page(file, at / STORE_PAGE) : NULL;

	return page ? page[at % STORE_PAGE] : 0;
}

/* The made-up format's check: it points to data that are not all there. */
static bool points_to_nothing(const struct store *file)
{
	return byte_of(file, 0) == 'X' &&
	       (byte_of(file, 4096) != 'd' || byte_of(file, 4096 + 1023) != 'd');
}

static void pointer_without_a_barrier_is_found_too_early(void **state)
{
	do_write(4096, 1024, 'd');
	do_write(0, 512, 'X');
	do_sync();
	assert_true(wrong_states(points_to_nothing) > 0);
}

static void pointer_after_a_barrier_never_is(void **state)
{
	do_write(4096, 1024, 'd');
	do_sync();
	do_write(0, 512, 'X');
	do_sync();
	assert_int_equal(wrong_states(points_to_nothing), 0);
}

/* The barrier began before the data had been written. */
static void barrier_begun_too_early_is_none(void **state)
{
	unsigned data = begin(TD_EV_WRITE, 4096, 1024, 'd');
	unsigned sync = begin(TD_EV_SYNC, 0, 0, 0);

	end(data);
	end(sync);
	do_write(0, 512, 'X');
	do_sync();
	assert_true(wrong_states(points_to_nothing) > 0);
}

/* The pointer went out while the barrier was still under way. */
static void pointer_beside_a_barrier_is_found_too_early(void **state)
{
	do_write(4096, 1024, 'd');
	unsigned sync = begin(TD_EV_SYNC, 0, 0, 0);
	do_write(0, 512, 'X');
	end(sync);
	assert_true(wrong_states(points_to_nothing) > 0);
}

static void barrier_of_another_file_is_none(void **state)
{
	char other[sizeof(path)], mine[sizeof(path)];

	strcpy(mine, path);
	do_write(4096, 1024, 'd');
	make_file();
	do_sync();
	strcpy(other, path);
	strcpy(path, mine);
	do_write(0, 512, 'X');
	do_sync();
	assert_true(wrong_states(points_to_nothing) > 0);
	unlink(other);
}

static bool half_pointed(const struct store *file)
{
	return byte_of(file, 0) == 'X' && byte_of(file, 1023) != 'X';
}

static bool tail_only(const struct store *file)
{
	return byte_of(file, 0) != 'X' && byte_of(file, 1023) == 'X';
}

static bool torn_within_a_sector(const struct store *file)
{
	return byte_of(file, 0) != byte_of(file, 511) ||
	       byte_of(file, 512) != byte_of(file, 1023);
}

static void writes_are_torn_between_sectors(void **state)
{
	do_write(0, 1024, 'X');
	assert_true(wrong_states(half_pointed) > 0);
}

static void writes_are_torn_at_either_end(void **state)
{
	do_write(0, 1024, 'X');
	assert_true(wrong_states(tail_only) > 0);
}

static void writes_are_never_torn_within_a_sector(void **state)
{
	do_write(0, 1024, 'X');
	assert_int_equal(wrong_states(torn_within_a_sector), 0);
}

/* ---- sizes ------------------------------------------------------------------------- */

static bool is_short_with_pointer(const struct store *file)
{
	return byte_of(file, 0) == 'X' && file->size < 16384;
}

static bool has_grown_by_data_only(const struct store *file)
{
	return file->size > 8192 && file->size < 16384;
}

static void length_may_be_lost_though_a_later_write_is_not(void **state)
{
	end(begin(TD_EV_TRUNCATE, 16384, 0, 0));
	do_write(0, 512, 'X');
	assert_true(wrong_states(is_short_with_pointer) > 0);
}

static void length_that_was_synced_stays(void **state)
{
	end(begin(TD_EV_TRUNCATE, 16384, 0, 0));
	do_sync();
	do_write(0, 512, 'X');
	assert_int_equal(wrong_states(is_short_with_pointer), 0);
}

static void write_past_an_end_that_was_lost_moves_it(void **state)
{
	end(begin(TD_EV_TRUNCATE, 16384, 0, 0));
	do_write(12288 - 512, 512, 'X');
	assert_true(wrong_states(has_grown_by_data_only) > 0);
}

static bool old_bytes_came_back(const struct store *file)
{
	return file->size == 8192 && byte_of(file, 4096) == 'd';
}

/* Cut off and made longer again, both safe: zeroes, whatever was there. */
static void what_is_cut_off_does_not_come_back(void **state)
{
	do_write(4096, 1024, 'd');
	do_sync();
	log_.began = log_.clock;
	end(begin(TD_EV_TRUNCATE, 4096, 0, 0));
	do_sync();
	end(begin(TD_EV_TRUNCATE, 8192, 0, 0));
	do_sync();
	log_finish(&log_);
	struct rebuild rebuild;
	struct cut cut;
	rebuild_begin(&rebuild, &log_);
	assert_true(cut_begin(&log_, log_.clock, false, &cut));
	assert_int_equal(cut.frees, 0);
	rebuild_cut(&rebuild, &cut);
	assert_false(old_bytes_came_back(&rebuild.now[0]));
	rebuild_end(&rebuild);
}

/* ---- races --------------------------------------------------------------------------- */

static bool finish_fails(void)
{
	failure_wanted = true;
	if (!setjmp(failure))
		log_finish(&log_);
	failure_wanted = false;
	return failed;
}

static void two_writes_of_a_sector_in_flight_are_refused(void **state)
{
	unsigned one = begin(TD_EV_WRITE, 0, 1024, 'a'), two = begin(TD_EV_WRITE, 512, 512, 'b');

	end(one);
	end(two);
	assert_true(finish_fails());
}

static void two_writes_side_by_side_are_not(void **state)
{
	unsigned one = begin(TD_EV_WRITE, 0, 512, 'a'), two = begin(TD_EV_WRITE, 512, 512, 'b');

	end(one);
	end(two);
	do_write(0, 512, 'c');
	assert_false(finish_fails());
}

/* ---- what the disk may hold --------------------------------------------------------------- */

static bool may_hold(uint64_t at, bool kill, uint64_t offset, uint32_t tag)
{
	struct model model;
	char sector[SECTOR], text[512];

	cut_model(&log_, at, kill, &model);
	tag_fill(sector, offset, SECTOR, tag);
	bool match = model_match(&model, offset, sector, SECTOR, text, sizeof(text));
	model_free(&model);
	return match;
}

static uint64_t ask(enum td_op op, unsigned flags, uint32_t tag)
{
	unsigned i = log_asked(&log_, op, flags, 0, op == TD_FLUSH ? 0 : SECTOR, tag);

	log_answered(&log_, i, 0);
	return log_.clock;
}

static void unflushed_write_is_old_or_new_and_nothing_else(void **state)
{
	uint64_t at = ask(TD_WRITE, 0, 5);

	log_finish(&log_);
	assert_true(may_hold(at, false, 0, TAG_ZERO));
	assert_true(may_hold(at, false, 0, 5));
	assert_false(may_hold(at, false, 0, 6));
	assert_false(may_hold(at, false, SECTOR, 5));
}

static void flushed_write_must_be_there(void **state)
{
	uint64_t at = ask(TD_WRITE, 0, 5), flushed = ask(TD_FLUSH, 0, 0);

	log_finish(&log_);
	assert_true(may_hold(at, false, 0, TAG_ZERO));
	assert_false(may_hold(flushed, false, 0, TAG_ZERO));
	assert_true(may_hold(flushed, false, 0, 5));
}

static void flush_covers_what_was_answered_before_it(void **state)
{
	unsigned write = log_asked(&log_, TD_WRITE, 0, 0, SECTOR, 5);
	unsigned flush = log_asked(&log_, TD_FLUSH, 0, 0, 0, 0);

	log_answered(&log_, write, 0);
	log_answered(&log_, flush, 0);
	log_finish(&log_);
	assert_true(may_hold(log_.clock, false, 0, TAG_ZERO));
}

static void fua_and_kills_promise_more(void **state)
{
	uint64_t plain = ask(TD_WRITE, 0, 5), fua = ask(TD_WRITE, TD_FUA, 6);

	log_finish(&log_);
	assert_true(may_hold(plain, false, 0, TAG_ZERO));
	assert_false(may_hold(plain, true, 0, TAG_ZERO));
	assert_false(may_hold(fua, false, 0, 5));
	assert_true(may_hold(fua, false, 0, 6));
}

static void discarded_sector_is_old_or_zero(void **state)
{
	ask(TD_WRITE, TD_FUA, 5);
	uint64_t at = ask(TD_DISCARD, 0, 0);

	log_finish(&log_);
	assert_true(may_hold(at, true, 0, TAG_ZERO));
	assert_true(may_hold(at, true, 0, 5));
}

/* ---- stores ----------------------------------------------------------------------------------- */

static void copies_of_a_store_are_independent(void **state)
{
	struct store a, b = { 0 };

	store_load(&a, path);
	store_write(&a, 100, "old", 3);
	store_copy(&b, &a);
	assert_int_equal(store_hash(&a), store_hash(&b));
	store_write(&b, 100, "new", 3);
	assert_int_equal(byte_of(&a, 100), 'o');
	assert_int_equal(byte_of(&b, 100), 'n');
	assert_int_not_equal(store_hash(&a), store_hash(&b));
	store_zero(&a, 0, 8192);
	store_zero(&b, 100, 3);
	assert_int_equal(store_hash(&a), store_hash(&b)); /* a hole, and zeroes */
	store_resize(&b, 8191);
	assert_int_not_equal(store_hash(&a), store_hash(&b));
	store_free(&a);
	store_free(&b);
}

static void store_that_shrinks_forgets(void **state)
{
	struct store a;

	store_load(&a, path);
	store_write(&a, 4090, "abcdefgh", 8);
	store_resize(&a, 4093);
	store_resize(&a, 8192);
	assert_int_equal(byte_of(&a, 4092), 'c');
	assert_int_equal(byte_of(&a, 4093), 0);
	assert_int_equal(byte_of(&a, 4096), 0);
	store_free(&a);
}

static void mirror_follows_what_others_did_too(void **state)
{
	struct mirror mirror;
	struct store want = { 0 };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	mirror_open(&mirror, path);
	store_copy(&want, &mirror.is);
	store_write(&want, 4090, "abcdefgh", 8);
	mirror_set(&mirror, &want);
	mirror_expect(&mirror, &want);
	assert_int_equal(pwrite(fd, "xyz", 3, 5000), 3);
	mirror_changed(&mirror, 5000, 3);
	assert_int_equal(ftruncate(fd, 20000), 0);
	store_resize(&want, 12000);
	mirror_set(&mirror, &want);
	mirror_expect(&mirror, &want);
	close(fd);
	store_free(&want);
	mirror_close(&mirror);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(pointer_without_a_barrier_is_found_too_early),
		CASE(pointer_after_a_barrier_never_is),
		CASE(barrier_begun_too_early_is_none),
		CASE(pointer_beside_a_barrier_is_found_too_early),
		CASE(barrier_of_another_file_is_none),
		CASE(writes_are_torn_between_sectors),
		CASE(writes_are_torn_at_either_end),
		CASE(writes_are_never_torn_within_a_sector),
		CASE(length_may_be_lost_though_a_later_write_is_not),
		CASE(length_that_was_synced_stays),
		CASE(write_past_an_end_that_was_lost_moves_it),
		CASE(what_is_cut_off_does_not_come_back),
		CASE(two_writes_of_a_sector_in_flight_are_refused),
		CASE(two_writes_side_by_side_are_not),
		CASE(unflushed_write_is_old_or_new_and_nothing_else),
		CASE(flushed_write_must_be_there),
		CASE(flush_covers_what_was_answered_before_it),
		CASE(fua_and_kills_promise_more),
		CASE(discarded_sector_is_old_or_zero),
		CASE(copies_of_a_store_are_independent),
		CASE(store_that_shrinks_forgets),
		CASE(mirror_follows_what_others_did_too),
	};

	return cmocka_run_group_tests_name("powercut", tests, NULL, NULL);
}
