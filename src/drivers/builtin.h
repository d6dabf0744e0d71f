/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers built into every program of ours.
 */
#ifndef DRIVERS_BUILTIN_H
#define DRIVERS_BUILTIN_H

#include <blktap/driver.h>

/* Both end with a NULL. */
extern const struct td_driver *const td_builtin_drivers[];
extern const struct td_driver_alias {
	const char *alias, *name;
} td_builtin_aliases[];

#endif
