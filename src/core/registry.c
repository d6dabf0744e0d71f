/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drivers by name, and plug-ins loaded when they are first named. A plug-in
 * stays loaded for the life of the process: its code may still be on the stack
 * of a worker when the registry goes.
 */
#include "core/registry.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "config.h"
#include "core/core_impl.h"

struct alias {
	const char *alias, *name;
};

struct td_registry {
	const char *plugin_dir;
	const struct td_driver **drivers;
	struct alias *aliases;
	unsigned driver_count, alias_count;
};

int td_registry_new(const char *plugin_dir, struct td_registry **out)
{
	struct td_registry *registry = calloc(1, sizeof(*registry));

	if (!registry)
		return -ENOMEM;
	registry->plugin_dir = plugin_dir ? plugin_dir : BLKTAP_PLUGIN_DIR;
	*out = registry;
	return 0;
}

void td_registry_free(struct td_registry *registry)
{
	if (!registry)
		return;
	free(registry->drivers);
	free(registry->aliases);
	free(registry);
}

static bool name_is_good(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return len && len < 32 && !name[len];
}

static bool driver_is_whole(const struct td_driver *driver)
{
	return driver->name && name_is_good(driver->name) && driver->open &&
	       driver->close && driver->submit && driver->req_size <= TD_REQ_SIZE_MAX;
}

int td_registry_add(struct td_registry *registry, const struct td_driver *driver)
{
	const struct td_driver **drivers;

	if (driver->abi != TD_DRIVER_ABI || driver->size != sizeof(*driver))
		return -ENOEXEC;
	if (!driver_is_whole(driver))
		return -EINVAL;
	drivers = realloc(registry->drivers,
			  (registry->driver_count + 1) * sizeof(*drivers));
	if (!drivers)
		return -ENOMEM;
	registry->drivers = drivers;
	drivers[registry->driver_count++] = driver;
	return 0;
}

int td_registry_add_alias(struct td_registry *registry, const char *alias,
			  const char *name)
{
	struct alias *aliases = realloc(registry->aliases,
					(registry->alias_count + 1) * sizeof(*aliases));

	if (!aliases)
		return -ENOMEM;
	registry->aliases = aliases;
	aliases[registry->alias_count++] = (struct alias){ alias, name };
	return 0;
}

int td_registry_add_all(struct td_registry *registry,
			const struct td_driver *const *drivers,
			const char *const (*aliases)[2])
{
	int err = 0;

	for (; *drivers && !err; drivers++)
		err = td_registry_add(registry, *drivers);
	for (; **aliases && !err; aliases++)
		err = td_registry_add_alias(registry, (*aliases)[0], (*aliases)[1]);
	return err;
}

static const struct td_driver *driver_known(const struct td_registry *registry,
					    const char *type)
{
	for (unsigned i = 0; i < registry->alias_count; i++)
		if (!strcmp(registry->aliases[i].alias, type))
			type = registry->aliases[i].name;
	for (unsigned i = 0; i < registry->driver_count; i++)
		if (!strcmp(registry->drivers[i]->name, type))
			return registry->drivers[i];
	return NULL;
}

int td_registry_load(struct td_registry *registry, const char *path,
		     const struct td_driver **out, struct td_why *why)
{
	const struct td_driver *const *symbol;
	void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int err;

	if (!plugin)
		return td_fail(why, -ENOEXEC, "%s", dlerror());
	symbol = dlsym(plugin, TD_PLUGIN_SYMBOL);
	if (!symbol || !*symbol) {
		err = td_fail(why, -ENOEXEC, "%s: no blktap driver: it has no %s", path,
			      TD_PLUGIN_SYMBOL);
		goto unload;
	}
	err = td_registry_add(registry, *symbol);
	if (err == -ENOEXEC)
		td_fail(why, err, "%s: built for driver interface %u, this is %u", path,
			(*symbol)->abi, TD_DRIVER_ABI);
	else if (err)
		td_fail(why, err, "%s: its driver table is incomplete", path);
	if (err)
		goto unload;
	*out = *symbol;
	return 0;
unload:
	dlclose(plugin);
	return err;
}

const struct td_driver *td_registry_find(struct td_registry *registry, const char *type,
					 struct td_why *why)
{
	const struct td_driver *driver = driver_known(registry, type);
	AUTO_FREE char *path = NULL;

	if (driver)
		return driver;
	if (!name_is_good(type) ||
	    asprintf(&path, "%s/%s.so", registry->plugin_dir, type) < 0) {
		path = NULL;
		td_fail(why, -ENOENT, "no driver is called \"%.64s\"", type);
		return NULL;
	}
	if (access(path, F_OK)) {
		td_fail(why, -ENOENT, "no driver is called \"%s\", and there is no %s",
			type, path);
		return NULL;
	}
	if (td_registry_load(registry, path, &driver, why))
		return NULL;
	if (strcmp(driver->name, type)) {
		td_fail(why, -EINVAL, "%s: its driver is called \"%s\"", path,
			driver->name);
		return NULL;
	}
	return driver;
}

void td_registry_load_all(struct td_registry *registry)
{
	DIR *dir = opendir(registry->plugin_dir);
	struct td_why why;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		AUTO_FREE char *type = strdup(entry->d_name);
		char *end = type ? strstr(type, ".so") : NULL;

		if (!end || end[3])
			continue;
		*end = '\0';
		td_registry_find(registry, type, &why);
	}
	if (dir)
		closedir(dir);
}

void td_registry_each(const struct td_registry *registry,
		      void (*each)(void *arg, const struct td_driver *driver), void *arg)
{
	for (unsigned i = 0; i < registry->driver_count; i++)
		each(arg, registry->drivers[i]);
}
