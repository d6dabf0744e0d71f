/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers built into every program of ours.
 */
#ifndef DRIVERS_BUILTIN_H
#define DRIVERS_BUILTIN_H

#include <blktap/driver.h>

/* Both end with a NULL; for td_registry_add_all(). */
extern const struct td_driver *const td_builtin_drivers[];
extern const char *const td_builtin_aliases[][2]; /* alias, name */

#endif
