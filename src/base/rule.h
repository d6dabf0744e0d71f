/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules that a test breaks on purpose, to see that breaking them is noticed:
 *
 *     if (td_rule("format-data-before-entry"))
 *             wait_for_barrier();
 *     else
 *             write_entry();
 *
 * A rule holds, and costs nothing, in every program but the power-cut explorer:
 * its build compiles the files that have rules (ruled_sources in meson) once
 * more, with TD_BREAK_RULES, and can then break one of them by name. A rule that
 * no test breaks is an error of the test "powercut-rules-are-all-broken".
 *
 * td_limit() is how much of something there may be at once. A row of the explorer has
 * less of it, where an image large enough to come to the limit would take too long.
 */
#ifndef BASE_RULE_H
#define BASE_RULE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef TD_BREAK_RULES

struct td_rule {
	const char *name;
};

/* Whoever builds with TD_BREAK_RULES defines it. */
bool td_rule_holds(const struct td_rule *rule);
uint64_t td_limit(const char *name, uint64_t value);

/* All rules of the program lie in one section, so that they can be listed. */
#define td_rule(text) \
	({ \
		static const struct td_rule rule_here \
			__attribute__((section("td_rules"), used)) = { text }; \
		td_rule_holds(&rule_here); \
	})

#else
#define td_rule(text) true
#define td_limit(name, value) (value)
#endif

#endif
