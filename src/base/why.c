/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Words for people, on the paths that open and configure.
 */
#include <blktap/driver.h>
#include <stdarg.h>
#include <stdio.h>

int td_fail(struct td_why *why, int err, const char *fmt, ...)
{
	va_list args;

	if (why) {
		va_start(args, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, args);
		va_end(args);
	}
	return err;
}
