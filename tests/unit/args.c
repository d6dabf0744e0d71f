/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Command lines by table: what users have typed since 2006, and what they get
 * wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* before cmocka */
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/num.h"

struct options {
	struct td_args_common common;
	const char *format, *name;
	bool reserve, quiet;
};

static const struct td_arg rows[] = {
	{ "format", 'f', "FORMAT", offsetof(struct options, format), "" },
	{ "form", 0, NULL, offsetof(struct options, quiet), "" },
	{ "name", 0, "NAME", offsetof(struct options, name), "" },
	{ "reserve", 'r', NULL, offsetof(struct options, reserve), "" },
	TD_ARGS_COMMON(struct options),
};

static struct options got;
static char *argv[16], text[256];
static int count;
static struct td_why why;

/* Parses a command line; words are parted by spaces. */
static int parse(const char *line)
{
	int argc = 1;

	got = (struct options){ 0 };
	argv[0] = text; /* not looked at */
	strcpy(text, line);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	count = -1;
	return td_args_parse(rows, &got, argv, &count, &why);
}

static void options_and_words_come_in_any_order(void **state)
{
	assert_int_equal(parse("10 -r file --format qcow - base"), 0);
	assert_true(got.reserve);
	assert_string_equal(got.format, "qcow");
	assert_int_equal(count, 4);
	assert_string_equal(argv[1], "10");
	assert_string_equal(argv[2], "file");
	assert_string_equal(argv[3], "-");
	assert_string_equal(argv[4], "base");
	assert_null(argv[5]);
}

static void letters_come_together_and_with_their_value(void **state)
{
	assert_int_equal(parse("-rf qcow"), 0);
	assert_true(got.reserve);
	assert_string_equal(got.format, "qcow");
	assert_int_equal(parse("-rfqcow x"), 0);
	assert_true(got.reserve);
	assert_string_equal(got.format, "qcow");
	assert_int_equal(count, 1);
	assert_int_equal(parse("-hV"), 0);
	assert_true(got.common.help && got.common.version);
}

static void a_name_is_taken_whole(void **state)
{
	assert_int_equal(parse("--form"), 0);
	assert_true(got.quiet);
	assert_null(got.format);
	assert_int_equal(parse("--format=a=b"), 0);
	assert_string_equal(got.format, "a=b");
	assert_int_equal(parse("--format="), 0);
	assert_string_equal(got.format, "");
}

static void two_dashes_end_the_options(void **state)
{
	assert_int_equal(parse("-r -- -f --what"), 0);
	assert_int_equal(count, 2);
	assert_string_equal(argv[1], "-f");
	assert_string_equal(argv[2], "--what");
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *line, *text;
	} wrong[] = {
		{ "--what", "unknown option --what" },
		{ "--for", "unknown option --for" },
		{ "-rx", "unknown option -x" },
		{ "word --format", "--format needs a value: FORMAT" },
		{ "-f", "--format needs a value: FORMAT" },
		{ "--reserve=yes", "--reserve takes no value" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(parse(wrong[i].line), -EINVAL);
		assert_string_equal(why.text, wrong[i].text);
		assert_int_equal(count, -1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_and_words_come_in_any_order),
		cmocka_unit_test(letters_come_together_and_with_their_value),
		cmocka_unit_test(a_name_is_taken_whole),
		cmocka_unit_test(two_dashes_end_the_options),
		cmocka_unit_test(what_is_wrong_is_named),
	};

	return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
