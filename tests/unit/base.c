/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Endian types, lists and small arithmetic.
 */
#include "test.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/list.h"
#include "base/log.h"

static void bytes_lie_in_the_named_order(void **state)
{
	be16 b16 = to_be16(0x0102);
	be32 b32 = to_be32(0x01020304);
	be64 b64 = to_be64(0x0102030405060708);
	le16 l16 = to_le16(0x0102);
	le32 l32 = to_le32(0x01020304);
	le64 l64 = to_le64(0x0102030405060708);

	assert_memory_equal(b16.b, "\1\2", 2);
	assert_memory_equal(b32.b, "\1\2\3\4", 4);
	assert_memory_equal(b64.b, "\1\2\3\4\5\6\7\10", 8);
	assert_memory_equal(l16.b, "\2\1", 2);
	assert_memory_equal(l32.b, "\4\3\2\1", 4);
	assert_memory_equal(l64.b, "\10\7\6\5\4\3\2\1", 8);
}

static void numbers_come_back(void **state)
{
	static const uint64_t n[] = { 0, 1, 0x80, 0xffff, 0x80000000, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(n); i++) {
		assert_int_equal(from_be16(to_be16(n[i])), (uint16_t)n[i]);
		assert_int_equal(from_be32(to_be32(n[i])), (uint32_t)n[i]);
		assert_true(from_be64(to_be64(n[i])) == n[i]);
		assert_int_equal(from_le16(to_le16(n[i])), (uint16_t)n[i]);
		assert_int_equal(from_le32(to_le32(n[i])), (uint32_t)n[i]);
		assert_true(from_le64(to_le64(n[i])) == n[i]);
	}
	assert_int_equal(sizeof(be64), 8);
	assert_int_equal(_Alignof(be64), 1);
}

struct item {
	int value;
	struct list link;
};

static void expect_values(struct list *all, const char *values)
{
	LIST_FOR (struct item, item, all, link) {
		assert_true(*values);
		assert_int_equal(item->value, *values++ - '0');
	}
	assert_int_equal(*values, 0);
}

static void a_list_keeps_its_order(void **state)
{
	struct item item[5];
	struct list all, more;

	list_init(&all);
	list_init(&more);
	assert_true(list_empty(&all));
	assert_null(list_pop(&all));
	for (int i = 0; i < 5; i++) {
		item[i].value = i;
		list_add(i < 3 ? &all : &more, &item[i].link);
	}
	expect_values(&all, "012");
	list_del(&item[1].link);
	list_del(&item[1].link); /* harmless */
	expect_values(&all, "02");
	list_join(&all, &more);
	expect_values(&all, "0234");
	assert_true(list_empty(&more));
	list_join(&all, &more);
	expect_values(&all, "0234");
	LIST_FOR_SAFE (struct item, i, &all, link)
		if (i->value % 2 == 0)
			list_del(&i->link);
	expect_values(&all, "3");
	assert_ptr_equal(list_pop(&all), &item[3].link);
	assert_true(list_empty(&all));
}

static void rounding_is_exact(void **state)
{
	assert_int_equal(round_down(4095, 4096), 0);
	assert_int_equal(round_down(4096, 4096), 4096);
	assert_int_equal(round_up(0, 4096), 0);
	assert_int_equal(round_up(1, 4096), 4096);
	assert_int_equal(round_up(4096, 4096), 4096);
	assert_true(is_aligned(8192, 4096) && !is_aligned(8193, 4096));
	assert_true(is_pow2(1) && is_pow2(1ull << 63) && !is_pow2(0) && !is_pow2(6));
	assert_true(min_u64(1, 2) == 1 && max_u64(1, 2) == 2);
}

static void td_fail_fills_and_returns(void **state)
{
	struct td_why why;
	char big[2000];

	assert_int_equal(td_fail(&why, -EIO, "%s: %d", "file", 7), -EIO);
	assert_string_equal(why.text, "file: 7");
	assert_int_equal(td_fail(NULL, -EINVAL, "nobody listens"), -EINVAL);
	/* names in images may hold anything */
	td_fail(&why, -EIO, "%s: gone", "a\nb\x1b[2J");
	assert_string_equal(why.text, "a?b?[2J: gone");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	td_fail(&why, -EIO, "%s", big);
	assert_int_equal(strlen(why.text), sizeof(why.text) - 1);
}

/* Whatever a name holds, a line about it is UTF-8 and does nothing to a terminal. */
static void text_becomes_plain(void **state)
{
	static const char *const text[][2] = {
		{ "", "" },
		{ "plain / \xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xbe", NULL },
		{ "\xc2\xa0\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf", NULL },
		{ "a\tb\x7f\xc2\x9b", "a?b???" },         /* control characters */
		{ "\xffz\xfe\x80\xc0\xaf", "?z????" },     /* no first bytes */
		{ "\xe0\x9f\xbf\xf0\x8f\xbf\xbf", "???????" }, /* longer than need be */
		{ "\xed\xa0\x80\xf4\x90\x80\x80", "???????" }, /* half of a pair; too large */
		{ "\xe2\x82", "??" },                      /* cut off */
		{ "\xf0\x9f\x92z\xc3", "???z?" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
		char copy[64];

		strcpy(copy, text[i][0]);
		td_text_plain(copy);
		assert_string_equal(copy, text[i][1] ? text[i][1] : text[i][0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_lie_in_the_named_order),
		cmocka_unit_test(numbers_come_back),
		cmocka_unit_test(a_list_keeps_its_order),
		cmocka_unit_test(rounding_is_exact),
		cmocka_unit_test(td_fail_fills_and_returns),
		cmocka_unit_test(text_becomes_plain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
