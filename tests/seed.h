/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where random tests begin: at TEST_SEED of the environment, or at a place of their own.
 * They print it, so that a run can be repeated.
 */
#ifndef TESTS_SEED_H
#define TESTS_SEED_H

#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"

static inline uint64_t test_seed(void)
{
	const char *given = getenv("TEST_SEED");

	return given ? strtoull(given, NULL, 0) : td_now_us() % 1000000000;
}

#endif
