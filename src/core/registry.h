/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers there are, by name: those built in, and plug-ins found as
 * TYPE.so in the plug-in folder when first named.
 */
#ifndef CORE_REGISTRY_H
#define CORE_REGISTRY_H

#include <blktap/driver.h>

struct td_registry;

/* plugin_dir: NULL for the installed one. Drivers and strings outlive it. */
int td_registry_new(const char *plugin_dir, struct td_registry **out);
void td_registry_free(struct td_registry *registry);

int td_registry_add(struct td_registry *registry, const struct td_driver *driver);
int td_registry_add_alias(struct td_registry *registry, const char *alias,
			  const char *name);
/* Drivers, and pairs of alias and name, both ending with a NULL. */
int td_registry_add_all(struct td_registry *registry,
			const struct td_driver *const *drivers,
			const char *const (*aliases)[2]);
/* Loads a plug-in from a file. */
int td_registry_load(struct td_registry *registry, const char *path,
		     const struct td_driver **out, struct td_why *why);

/* Loads all that are in the plug-in folder, for lists; those that cannot be loaded
 * are left out. */
void td_registry_load_all(struct td_registry *registry);

const struct td_driver *td_registry_find(struct td_registry *registry,
					 const char *type, struct td_why *why);
/* Calls each(arg, driver) for every driver known by now. */
void td_registry_each(const struct td_registry *registry,
		      void (*each)(void *arg, const struct td_driver *driver),
		      void *arg);

#endif
