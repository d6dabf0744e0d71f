/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is learned about an empty ring, on a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "transports/xen/patience.h"

/* Looks from now on until it would sleep; returns when. */
static uint64_t look(struct patience *patience, uint64_t now)
{
	while (patience_lasts(patience, now))
		now++;
	return now;
}

static void a_ring_at_rest_is_not_looked_at(void **state)
{
	struct patience patience = { .limit_us = 50 };

	assert_false(patience_lasts(&patience, 1000));
	patience_woken(&patience, 1051); /* too late to have been worth it */
	assert_int_equal(patience.window_us, 0);
	for (int i = 0; i < 3; i++)
		assert_false(patience_lasts(&patience, 2000));
}

static void early_requests_teach_patience_up_to_its_limit(void **state)
{
	struct patience patience = { .limit_us = 50 };
	uint64_t now = 1000, before;

	for (int i = 0; i < 10; i++) {
		now = look(&patience, now) + 3;
		patience_woken(&patience, now);
		assert_false(patience_pays(&patience));
	}
	assert_int_equal(patience.window_us, 50);
	for (int i = 0; i < 20; i++) {
		assert_true(patience_lasts(&patience, now));
		now += 10;
		assert_true(patience_lasts(&patience, now));
		assert_true(patience_pays(&patience));
	}
	assert_int_equal(patience.window_us, 50); /* it pays: it stays */
	before = now;
	now = look(&patience, now);
	assert_int_equal(now - before, 50); /* and is bounded */
}

static void looking_in_vain_ends_it(void **state)
{
	struct patience patience = { .limit_us = 64, .window_us = 64 };
	uint64_t now = 1000, spent = 0;

	for (int i = 0; i < 10; i++) {
		uint64_t slept = look(&patience, now);

		spent += slept - now;
		now = slept + 1000;
		patience_woken(&patience, now);
	}
	assert_int_equal(patience.window_us, 0);
	assert_int_equal(spent, 64 + 32 + 16 + 8 + 4);
}

static void one_sleep_teaches_once(void **state)
{
	struct patience patience = { .limit_us = 1000 };

	assert_false(patience_lasts(&patience, 100));
	for (int i = 0; i < 5; i++)
		patience_woken(&patience, 101);
	assert_int_equal(patience.window_us, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ring_at_rest_is_not_looked_at),
		cmocka_unit_test(early_requests_teach_patience_up_to_its_limit),
		cmocka_unit_test(looking_in_vain_ends_it),
		cmocka_unit_test(one_sleep_teaches_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
