/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How disks are named and found: specifications, options, sizes, the registry,
 * chains of images, and what a request is checked for.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/queue.h"
#include "core/spec.h"

/* ---- specifications ---------------------------------------------------------- */

static void expect_spec(const char *text, const char *type, const char *target,
			const char *pairs)
{
	struct td_spec spec;
	struct td_why why = { "" };
	char found[200] = "";

	if (td_spec_parse(text, &spec, &why))
		fail_msg("%s: %s", text, why.text);
	assert_string_equal(spec.type, type);
	assert_string_equal(spec.target, target);
	for (unsigned i = 0; i < spec.pair_count; i++)
		snprintf(found + strlen(found), sizeof(found) - strlen(found), "[%s|%s]",
			 spec.pairs[i].key, spec.pairs[i].value);
	assert_string_equal(found, pairs);
	td_spec_free(&spec);
	td_spec_free(&spec); /* harmless */
}

static void specifications_are_taken_apart(void **state)
{
	expect_spec("aio:/img", "aio", "/img", "");
	expect_spec("aio:/with:colon", "aio", "/with:colon", "");
	expect_spec("qcow:/a b,read-only=on,x=", "qcow", "/a b", "[read-only|on][x|]");
	expect_spec("aio:/a\\,b\\\\c,k=v\\,w", "aio", "/a,b\\c", "[k|v,w]");
	expect_spec("aio:/back\\slash", "aio", "/back\\slash", "");
	expect_spec("x:y,k=a=b", "x", "y", "[k|a=b]");
	expect_spec("aio:/img,", "aio", "/img", "");
}

static void bad_specifications_are_told(void **state)
{
	static const char *const bad[] = {
		"", "aio", ":", ":/img", "aio:", "aio:,k=v", "aio:/img,k", "aio:/img,=v",
		"aio:/img,,k=v",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct td_spec spec;
		struct td_why why = { "" };
		if (td_spec_parse(bad[i], &spec, &why) != -EINVAL)
			fail_msg("\"%s\" was accepted", bad[i]);
		assert_true(why.text[0]);
	}
}

static void sizes_are_exact(void **state)
{
	static const struct { const char *text; uint64_t unit, size; } good[] = {
		{ "64", 1, 64 }, { "64", MiB, 64 * MiB }, { "64K", MiB, 64 * KiB },
		{ "1.5G", 1, 3 * GiB / 2 }, { "2T", 1, 2 * TiB }, { "0", 1, 0 },
		{ "8m", 1, 8 * MiB }, { "512b", MiB, 512 },
	};
	static const char *const bad[] = {
		"", "-1", "+1", "x", "1x", "1KK", "0.3", "1e400", "nan", "inf", "16E", "9999999P",
		"1 K", " 1",
	};
	uint64_t size;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(td_size_parse(good[i].text, good[i].unit, &size), 0);
		assert_true(size == good[i].size);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!td_size_parse(bad[i], 1, &size))
			fail_msg("\"%s\" was accepted", bad[i]);
}

/* ---- options ------------------------------------------------------------------- */

struct knobs {
	char *name;
	bool on;
	uint64_t count, size;
};

static const struct td_option knob_rows[] = {
	{ "name", TD_STRING, offsetof(struct knobs, name), "a name" },
	{ "on", TD_BOOL, offsetof(struct knobs, on), "on or off" },
	{ "count", TD_UINT, offsetof(struct knobs, count), "a number" },
	{ "size", TD_SIZE, offsetof(struct knobs, size), "bytes" },
	{ NULL },
};

static int apply(const char *text, struct knobs *knobs, struct td_why *why)
{
	struct td_spec spec;
	int err;

	assert_int_equal(td_spec_parse(text, &spec, why), 0);
	err = td_options_apply(knob_rows, &spec, knobs, why);
	td_spec_free(&spec);
	return err;
}

static void options_are_set_by_their_rows(void **state)
{
	struct knobs knobs = { 0 };
	struct td_why why;

	assert_int_equal(apply("x:y,name=a,on=yes,count=7,size=4K,name=b", &knobs, &why), 0);
	assert_string_equal(knobs.name, "b");
	assert_true(knobs.on);
	assert_int_equal(knobs.count, 7);
	assert_int_equal(knobs.size, 4096);
	assert_int_equal(apply("x:y,on=off", &knobs, &why), 0);
	assert_false(knobs.on);
	td_options_free(knob_rows, &knobs);
	assert_null(knobs.name);
}

static void unknown_options_and_bad_values_are_told(void **state)
{
	static const struct { const char *text, *word; } bad[] = {
		{ "x:y,nmae=a", "nmae" }, { "x:y,on=maybe", "maybe" }, { "x:y,count=-1", "count" },
		{ "x:y,count=1K", "count" }, { "x:y,size=4Q", "4Q" },
		{ "x:y,count=99999999999999999999", "count" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct knobs knobs = { 0 };
		struct td_why why = { "" };
		if (apply(bad[i].text, &knobs, &why) != -EINVAL)
			fail_msg("%s was accepted", bad[i].text);
		if (!strstr(why.text, bad[i].word))
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, why.text,
				 bad[i].word);
		td_options_free(knob_rows, &knobs);
	}
}

/* ---- a driver whose images say, in a line, what lies below them ------------------ */

static int pile_open(struct td_image *img, struct td_why *why)
{
	char below[256] = "";
	AUTO_CLOSE int fd = open(img->target, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return td_fail(why, -errno, "%s: %s", img->target, strerror(errno));
	if (read(fd, below, sizeof(below) - 1) < 0)
		return -errno;
	img->size = 64 * KiB;
	return below[0] ? td_image_open_below(img, "pile", below, img->target, why) : 0;
}

static void pile_close(struct td_image *img)
{
}

static void pile_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	if (req->op == TD_READ || req->op == TD_EXTENTS)
		td_pass(req);
	else
		td_end(req, 0);
}

#define PILE \
	.abi = TD_DRIVER_ABI, .size = sizeof(struct td_driver), .name = "pile", \
	.can = TD_CAN_WRITE | TD_CAN_EXTENTS, .open = pile_open, .close = pile_close, \
	.submit = pile_submit

static const struct td_driver pile = { PILE };

struct place {
	struct td_loop *loop;
	struct td_registry *registry;
	char dir[64];
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	snprintf(p->dir, sizeof(p->dir), "%s/blktap-names.XXXXXX", getenv("TMPDIR") ?: "/tmp");
	assert_non_null(mkdtemp(p->dir));
	assert_int_equal(td_loop_new(&p->loop), 0);
	assert_int_equal(td_registry_new(p->dir, &p->registry), 0);
	assert_int_equal(td_registry_add(p->registry, &pile), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	char command[128];

	td_registry_free(p->registry);
	td_loop_free(p->loop);
	snprintf(command, sizeof(command), "rm -rf %s", p->dir);
	assert_int_equal(system(command), 0);
	free(p);
	return 0;
}

static void put_line(struct place *p, const char *name, const char *below)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, below, strlen(below)) == (ssize_t)strlen(below));
	close(fd);
}

static int open_pile(struct place *p, const char *name, struct td_disk **disk,
		     struct td_why *why)
{
	char spec[128];

	snprintf(spec, sizeof(spec), "pile:%s/%s", p->dir, name);
	return td_disk_open(p->loop, p->registry, spec, NULL, disk, why);
}

static void refused(struct place *p, const char *name, int err, const char *word)
{
	struct td_why why = { "" };
	struct td_disk *disk;
	int found = open_pile(p, name, &disk, &why);

	if (found != err || !strstr(why.text, word))
		fail_msg("%s: %s (%s), should be %s and say %s", name, strerror(-found), why.text,
			 strerror(-err), word);
}

static void chains_come_to_an_end(void **state)
{
	struct place *p = *state;
	struct td_disk *disk;
	struct td_why why = { "" };
	char name[16], below[16];

	put_line(p, "self", "self");
	refused(p, "self", -ELOOP, "self");
	put_line(p, "a", "b");
	put_line(p, "b", "c");
	put_line(p, "c", "./b");
	refused(p, "a", -ELOOP, "b");
	assert_int_equal(symlink("a", (snprintf(why.text, 128, "%s/link", p->dir), why.text)), 0);
	put_line(p, "c", "link");
	refused(p, "a", -ELOOP, "link");
	put_line(p, "c", "gone");
	refused(p, "a", -ENOENT, "gone");
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "%d", i);
		snprintf(below, sizeof(below), "%d", i - 1);
		put_line(p, name, i ? below : "");
	}
	assert_int_equal(open_pile(p, "31", &disk, &why), 0); /* 32 images */
	assert_int_equal(td_disk_close(disk), 0);
	refused(p, "32", -ELOOP, "32");
	refused(p, "39", -ELOOP, "32");
}

static void the_core_has_keys_of_its_own(void **state)
{
	static const struct { const char *options, *word; } bad[] = {
		{ ",read-only=perhaps", "read-only" }, { ",shared=on", "writers" }, { ",x=y", "x" },
	};
	struct place *p = *state;
	struct td_disk *disk;
	struct td_why why;

	put_line(p, "one", "");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char spec[160];
		snprintf(spec, sizeof(spec), "pile:%s/one%s", p->dir, bad[i].options);
		assert_int_equal(td_disk_open(p->loop, p->registry, spec, NULL, &disk, &why), -EINVAL);
		if (!strstr(why.text, bad[i].word))
			fail_msg("%s: %s", spec, why.text);
	}
	assert_int_equal(open_pile(p, "one,read-only=on", &disk, &why), 0);
	assert_true(td_disk_read_only(disk));
	assert_int_equal(td_disk_close(disk), 0);
}

static void a_registry_takes_only_whole_drivers(void **state)
{
	struct place *p = *state;
	struct td_driver d = { PILE };
	struct td_why why = { "" };

	d.abi++;
	assert_int_equal(td_registry_add(p->registry, &d), -ENOEXEC);
	d = pile;
	d.size--;
	assert_int_equal(td_registry_add(p->registry, &d), -ENOEXEC);
	d = pile;
	d.submit = NULL;
	assert_int_equal(td_registry_add(p->registry, &d), -EINVAL);
	d = pile;
	d.name = "Pile/..";
	assert_int_equal(td_registry_add(p->registry, &d), -EINVAL);
	assert_int_equal(td_registry_add_alias(p->registry, "heap", "pile"), 0);
	assert_ptr_equal(td_registry_find(p->registry, "heap", &why), &pile);
	assert_null(td_registry_find(p->registry, "../pile", &why));
	assert_non_null(strstr(why.text, "../pile"));
	assert_null(td_registry_find(p->registry, "absent", &why));
	assert_non_null(strstr(why.text, "absent"));
}

/* ---- requests --------------------------------------------------------------------- */

static void count_done(struct td_req *req)
{
	++*(unsigned *)td_req_user(req);
}

static void requests_are_checked_before_a_driver_sees_them(void **state)
{
	const uint64_t size = 64 * KiB;
	const struct { enum td_op op; uint64_t offset, len; int err; } ask[] = {
		{ TD_READ, 0, size, 0 }, { TD_READ, size - 512, 512, 0 },
		{ TD_READ, size, 512, -EINVAL }, { TD_READ, size - 512, 1024, -EINVAL },
		{ TD_READ, UINT64_MAX - 511, 512, -EINVAL },
		{ TD_READ, UINT64_MAX - 511, 1024, -EINVAL },
		{ TD_READ, 0, UINT64_MAX - 511, -EINVAL }, { TD_READ, 1, 512, -EINVAL },
		{ TD_READ, 0, 100, -EINVAL }, { TD_READ, 0, 0, -EINVAL },
		{ TD_FLUSH, 0, 0, 0 }, { TD_FLUSH, 512, 0, -EINVAL }, { TD_FLUSH, 0, 512, -EINVAL },
		{ TD_DISCARD, 0, 512, -EOPNOTSUPP }, { TD_DISCARD, size, 512, -EINVAL },
		{ TD_EXTENTS, 0, size, 0 }, { TD_EXTENTS, 512, size, -EINVAL },
		{ TD_WRITE, 0, 512, 0 }, { TD_WRITE_ZEROES, size - 512, 512, 0 },
		{ TD_WRITE_ZEROES, size, 512, -EINVAL },
	};
	static char memory[64 * 1024];
	struct place *p = *state;
	struct td_disk *disk;
	struct td_disk_stats stats;
	struct td_pool *pool;
	struct td_why why;
	struct iovec iov = { memory, sizeof(memory) };

	put_line(p, "one", "");
	assert_int_equal(open_pile(p, "one", &disk, &why), 0);
	assert_int_equal(td_pool_new(td_disk_queue(disk), 2, sizeof(unsigned), count_done,
				     &pool), 0);
	for (size_t i = 0; i < ARRAY_SIZE(ask); i++) {
		struct td_req *req = td_pool_get(pool);
		unsigned *ended = td_req_user(req);

		*ended = 0;
		req->op = ask[i].op;
		req->offset = ask[i].offset;
		req->len = ask[i].len;
		iov.iov_len = ask[i].len;
		req->iov = &iov;
		req->iov_count = 1;
		td_submit(req);
		turn_until(p->loop, *ended);
		if (req->err != ask[i].err)
			fail_msg("row %zu: %d, should be %d", i, req->err, ask[i].err);
		assert_int_equal(*ended, 1);
		assert_true(req->op == ask[i].op && req->len == ask[i].len);
		td_pool_put(pool, req);
	}
	assert_int_equal(td_pool_busy(pool), 0);
	td_disk_stats(disk, &stats);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.op[TD_READ].requests, 10);
	assert_int_equal(stats.op[TD_READ].errors, 8);
	td_pool_free(pool);
	assert_int_equal(td_disk_close(disk), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(specifications_are_taken_apart),
		cmocka_unit_test(bad_specifications_are_told),
		cmocka_unit_test(sizes_are_exact),
		cmocka_unit_test(options_are_set_by_their_rows),
		cmocka_unit_test(unknown_options_and_bad_values_are_told),
		TEST(chains_come_to_an_end),
		TEST(the_core_has_keys_of_its_own),
		TEST(a_registry_takes_only_whole_drivers),
		TEST(requests_are_checked_before_a_driver_sees_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
