/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Words for people, on the paths that open, configure and check.
 */
#include <blktap/driver.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"

int td_fail(struct td_why *why, int err, const char *fmt, ...)
{
	va_list args;

	if (why) {
		va_start(args, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, args);
		va_end(args);
		td_text_plain(why->text);
	}
	return err;
}

#define FOUND_MAX 20 /* lines: what is wrong is wrong in many places */

void td_check_found(struct td_check *check, const char *fmt, ...)
{
	char text[600];
	va_list args;

	if (check->corruptions++ >= FOUND_MAX || !check->say)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	td_text_plain(text);
	check->say(check->arg, text);
}

void td_info_number(td_info_put *put, void *arg, const char *key, uint64_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	put(arg, key, text);
}
