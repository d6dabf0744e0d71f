/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the unit tests share: cmocka in the order it wants to be included, and
 * turning a loop until something has happened, with a bound.
 */
#ifndef UNIT_TEST_H
#define UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "io/loop.h"

#define PATIENCE_MS 60000

/* Turns the loop until cond holds; fails the test after PATIENCE_MS. */
#define turn_until(loop, cond) \
	do { \
		uint64_t turn_began = td_now_ms(); \
		while (!(cond)) { \
			td_loop_turn(loop, 20); \
			if (td_now_ms() - turn_began > PATIENCE_MS) \
				fail_msg("this never came: %s", #cond); \
		} \
	} while (0)

#endif
