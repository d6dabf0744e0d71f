/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2-ops SPEC OP [ARG]...: what a driver does beside requests, by hand.
 *
 *   list | make NAME | apply NAME | delete NAME | resize BYTES |
 *   backing NAME FORMAT | check | repair leaks | repair all | die
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/disk.h"
#include "core/registry.h"
#include "drivers/builtin.h"

static void put(void *arg, const struct td_snapshot *snapshot)
{
	printf("%s %s %llu\n", snapshot->id, snapshot->name, (unsigned long long)snapshot->size);
}

static void say(void *arg, const char *text)
{
	printf("%s\n", text);
}

static int snapshot(struct td_image *img, const char *op, const char *name, struct td_why *why)
{
	struct td_snapshots ask = { .name = name, .put = put };

	ask.op = !strcmp(op, "list")  ? TD_SNAPSHOT_LIST :
		 !strcmp(op, "make")  ? TD_SNAPSHOT_MAKE :
		 !strcmp(op, "apply") ? TD_SNAPSHOT_APPLY : TD_SNAPSHOT_DELETE;
	return img->driver->snapshot(img, &ask, why);
}

static int check(struct td_image *img, const char *repair, struct td_why *why)
{
	struct td_check found = { .say = say };
	int err;

	if (repair)
		found.repair = strcmp(repair, "all") ? TD_REPAIR_LEAKS : TD_REPAIR_ALL;
	err = img->driver->check(img, &found, why);
	printf("%llu corruptions, %llu fixed; %llu leaks, %llu fixed\n",
	       (unsigned long long)found.corruptions,
	       (unsigned long long)found.corruptions_fixed, (unsigned long long)found.leaks,
	       (unsigned long long)found.leaks_fixed);
	return err;
}

static int run(struct td_image *img, char **arg, struct td_why *why)
{
	if (!strcmp(arg[0], "resize"))
		return img->driver->resize(img, strtoull(arg[1], NULL, 0), why);
	if (!strcmp(arg[0], "backing"))
		return img->driver->set_backing(img, arg[1], arg[2], why);
	if (!strcmp(arg[0], "die"))
		raise(SIGKILL);
	if (!strcmp(arg[0], "check"))
		return check(img, NULL, why);
	if (!strcmp(arg[0], "repair"))
		return check(img, arg[1], why);
	return snapshot(img, arg[0], arg[1], why);
}

int main(int argc, char **argv)
{
	struct td_disk_options options = { 0 };
	struct td_registry *registry = NULL;
	struct td_why why = { "" };
	struct td_disk *disk;
	struct td_loop *loop;
	int err;

	if (argc < 3 || td_loop_new(&loop) || td_registry_new(NULL, &registry) ||
	    td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases))
		return 2;
	options.read_only = !strcmp(argv[2], "list") || !strcmp(argv[2], "check");
	err = td_disk_open(loop, registry, argv[1], &options, &disk, &why);
	if (!err) {
		err = run(td_disk_top(disk), argv + 2, &why);
		if (td_disk_close(disk) && !err)
			err = td_fail(&why, -5, "close failed");
	}
	if (err)
		fprintf(stderr, "%s\n", why.text);
	td_registry_free(registry);
	td_loop_free(loop);
	return err ? 1 : 0;
}
