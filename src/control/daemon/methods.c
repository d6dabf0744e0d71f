/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a client may ask of the daemon. Each method is a function; one that has
 * to wait for a tapdisk hands the call on to the callback that answers it.
 */
#include "control/daemon/methods.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "control/daemon/tapdisk.h"

static const char *const state_name[] = {
	[TAPDISK_STARTING] = "starting",
	[TAPDISK_SERVING] = "serving",
	[TAPDISK_STOPPING] = "stopping",
	[TAPDISK_DEAD] = "dead",
};

static void put_text(json_t *object, const char *key, const char *text)
{
	json_object_set_new(object, key, text ? json_string(text) : json_null());
}

/* What the daemon itself knows about a disk. */
static json_t *disk_json(struct td_tapdisk *tap)
{
	AUTO_FREE char *cgroup = td_cgroups_path(tap->disks->cgroups, tap->name);
	json_t *disk = json_object();

	put_text(disk, "name", tap->name);
	put_text(disk, "state", state_name[tap->state]);
	put_text(disk, "spec", tap->spec);
	json_object_set_new(disk, "read_only", json_boolean(tap->read_only));
	json_object_set_new(disk, "size", json_integer(td_tapdisk_size(tap)));
	json_object_set_new(disk, "pid",
			    tap->process ? json_integer(td_tapdisk_pid(tap)) : json_null());
	put_text(disk, "user", tap->user);
	put_text(disk, "cgroup", cgroup);
	put_text(disk, "cause", tap->state == TAPDISK_DEAD ? tap->cause : NULL);
	json_object_set(disk, "nbd", json_object_get(tap->info, "nbd"));
	return disk;
}

static void method_list(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_methods *methods = arg;
	struct td_tapdisk *tap = NULL;
	json_t *disks;

	if (!td_rpc_params(call, params, "{}"))
		return;
	disks = json_array();
	while ((tap = td_disks_next(methods->disks, tap)))
		json_array_append_new(disks, disk_json(tap));
	td_rpc_answer(call, json_pack("{s:o}", "disks", disks));
}

static json_t *memory_json(struct td_disks *disks, const struct td_memory *memory)
{
	struct td_memory_facts facts;
	struct td_tapdisk *tap = NULL;
	json_t *users = json_array();
	char path[64];

	td_memory_facts(memory, &facts);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), facts.fd);
	while ((tap = td_disks_next(disks, tap)))
		if (tap->memory == memory)
			json_array_append_new(users, disk_json(tap));
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:o}", "name", facts.name, "size",
			 (json_int_t)facts.size, "used", (json_int_t)facts.used, "huge_page",
			 (json_int_t)facts.page, "memory", path, "disks", users);
}

static void method_ram_list(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_disks *disks = ((struct td_methods *)arg)->disks;
	struct td_memory *memory = NULL;
	json_t *all;

	if (!td_rpc_params(call, params, "{}"))
		return;
	all = json_array();
	while ((memory = td_memory_next(&disks->memories, memory)))
		json_array_append_new(all, memory_json(disks, memory));
	td_rpc_answer(call, json_pack("{s:o}", "ram", all));
}

/* The disk that is named, in a state to be asked; NULL: the call is refused. */
static struct td_tapdisk *disk_named(struct td_methods *methods, struct td_rpc_call *call,
				     const char *name, bool serving)
{
	struct td_tapdisk *tap = td_disks_find(methods->disks, name);

	if (!tap) {
		td_rpc_refuse(call, -ENODEV, "there is no disk named %s", name);
		return NULL;
	}
	if (serving && tap->state != TAPDISK_SERVING) {
		td_rpc_refuse(call, -ESRCH, "disk %s is %s%s%s", name, state_name[tap->state],
			      tap->state == TAPDISK_DEAD ? ": its tapdisk was " : "",
			      tap->state == TAPDISK_DEAD ? tap->cause : "");
		return NULL;
	}
	return tap;
}

/* ---- asking the tapdisk ---------------------------------------------------------- */

static void forward_answered(void *arg, int err, const char *why, json_t *result)
{
	if (err)
		td_rpc_refuse(arg, err, "%s", why);
	else
		td_rpc_answer(arg, json_incref(result));
}

static void method_stats(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_tapdisk *tap;
	const char *name;

	if (!td_rpc_params(call, params, "{s:s}", "name", &name))
		return;
	tap = disk_named(arg, call, name, true);
	if (tap)
		td_tapdisk_call(tap, "stats", NULL, forward_answered, call);
}

/* Methods that change or tell what a tapdisk says of itself answer with that. */
struct info_call {
	struct td_methods *methods;
	struct td_rpc_call *call;
	char name[];
};

static void info_answered(void *arg, int err, const char *why, json_t *info)
{
	struct info_call *asked = arg;
	struct td_tapdisk *tap = td_disks_find(asked->methods->disks, asked->name);
	json_t *answer;

	if (err || !tap) {
		td_rpc_refuse(asked->call, err ? err : -ENODEV, "%s",
			      err ? why : "the disk is gone");
	} else {
		json_decref(tap->info);
		tap->info = json_incref(info);
		if (tap->holder && tap->holder->changed)
			tap->holder->changed(tap->holder_arg);
		answer = json_copy(info);
		json_object_update_new(answer, disk_json(tap));
		td_rpc_answer(asked->call, answer);
	}
	free(asked);
}

static void ask_info(struct td_methods *methods, struct td_rpc_call *call, const char *name,
		     const char *method, json_t *params)
{
	struct td_tapdisk *tap = disk_named(methods, call, name, true);
	struct info_call *asked = tap ? malloc(sizeof(*asked) + strlen(name) + 1) : NULL;

	if (!asked) {
		json_decref(params);
		if (tap)
			td_rpc_refuse(call, -ENOMEM, "%s", strerror(ENOMEM));
		return;
	}
	asked->methods = methods;
	asked->call = call;
	strcpy(asked->name, name);
	td_tapdisk_call(tap, method, params, info_answered, asked);
}

static void method_info(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_methods *methods = arg;
	struct td_tapdisk *tap;
	const char *name;

	if (!td_rpc_params(call, params, "{s:s}", "name", &name))
		return;
	tap = td_disks_find(methods->disks, name);
	if (tap && tap->state != TAPDISK_SERVING)
		td_rpc_answer(call, disk_json(tap));
	else
		ask_info(methods, call, name, "info", NULL);
}

static void method_nbd_listen(void *arg, struct td_rpc_call *call, json_t *params)
{
	const char *name, *address;

	if (td_rpc_params(call, params, "{s:s, s:s}", "name", &name, "address", &address))
		ask_info(arg, call, name, "nbd-listen",
			 json_pack("{s:s}", "address", address));
}

static void method_nbd_close(void *arg, struct td_rpc_call *call, json_t *params)
{
	const char *name, *address;

	if (td_rpc_params(call, params, "{s:s, s:s}", "name", &name, "address", &address))
		ask_info(arg, call, name, "nbd-close",
			 json_pack("{s:s}", "address", address));
}

static void method_resize(void *arg, struct td_rpc_call *call, json_t *params)
{
	const char *name, *size;

	if (td_rpc_params(call, params, "{s:s, s:s}", "name", &name, "size", &size))
		ask_info(arg, call, name, "resize", json_pack("{s:s}", "size", size));
}

/* ---- attach, detach ------------------------------------------------------------------ */

static void attach_started(void *arg, struct td_tapdisk *tap, int err, const char *why)
{
	if (err)
		td_rpc_refuse(arg, err, "%s", why);
	else
		td_rpc_answer(arg, disk_json(tap));
}

static void method_attach(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_methods *methods = arg;
	struct td_tapdisk_want want = { 0 };
	uint32_t domid, devid;
	int read_only = 0, err;
	struct td_why why;

	if (!td_rpc_params(call, params, "{s:s, s?s, s?s, s?s, s?b}", "spec", &want.spec, "name",
			   &want.name, "nbd", &want.nbd, "engine", &want.engine, "read_only",
			   &read_only))
		return;
	want.read_only = read_only;
	if (methods->ending)
		td_rpc_refuse(call, -ESHUTDOWN, "the daemon is about to end");
	else if (want.name && td_guest_name_parse(want.name, &domid, &devid))
		td_rpc_refuse(call, -EINVAL, "'%s' is a name for a guest's disk", want.name);
	else if (!td_tapdisk_start(methods->disks, &want, attach_started, call, &err, &why))
		td_rpc_refuse(call, err, "%s", why.text);
}

static void detach_stopped(void *arg, int err, const char *why)
{
	if (err)
		td_rpc_refuse(arg, err, "%s", why);
	else
		td_rpc_answer(arg, NULL);
}

static void method_detach(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_tapdisk *tap;
	const char *name;
	int force = 0;

	if (!td_rpc_params(call, params, "{s:s, s?b}", "name", &name, "force", &force))
		return;
	tap = disk_named(arg, call, name, false);
	if (!tap)
		return;
	if (tap->user && tap->state != TAPDISK_DEAD && !force)
		td_rpc_refuse(call, -EBUSY, "disk %s is used by %s: detach it there, or by force",
			      name, tap->user);
	else if (force)
		td_tapdisk_kill(tap, detach_stopped, call);
	else
		td_tapdisk_stop(tap, detach_stopped, call);
}

/* ---- the end of the daemon ------------------------------------------------------------- */

struct stop_all {
	struct td_methods *methods;
	struct td_rpc_call *call;
	unsigned left, failed;
};

static void stop_all_one(void *arg, int err, const char *why)
{
	struct stop_all *all = arg;

	if (err)
		all->failed++;
	if (--all->left)
		return;
	if (all->failed) {
		all->methods->ending = false;
		td_rpc_refuse(all->call, -EBUSY, "%u disks could not be detached", all->failed);
	} else {
		td_rpc_answer(all->call, NULL);
		td_loop_stop(all->methods->loop);
	}
	free(all);
}

/* Detaches every disk first when all is set; else they go on serving. */
static void method_stop(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_methods *methods = arg;
	struct td_tapdisk *tap = NULL;
	struct stop_all *all;
	int detach = 0;

	if (!td_rpc_params(call, params, "{s?b}", "all", &detach))
		return;
	while (detach && (tap = td_disks_next(methods->disks, tap))) {
		if (!tap->user || tap->state == TAPDISK_DEAD)
			continue;
		td_rpc_refuse(call, -EBUSY, "disk %s is used by %s: detach it there first",
			      tap->name, tap->user);
		return;
	}
	all = calloc(1, sizeof(*all));
	if (!all) {
		td_rpc_refuse(call, -ENOMEM, "%s", strerror(ENOMEM));
		return;
	}
	*all = (struct stop_all){ .methods = methods, .call = call, .left = 1 };
	methods->ending = true;
	while (detach && (tap = td_disks_next(methods->disks, tap))) {
		all->left++;
		td_tapdisk_stop(tap, stop_all_one, all);
	}
	stop_all_one(all, 0, NULL);
}

static const struct td_rpc_row disk_methods[] = {
	{ "list", method_list },
	{ "ram-list", method_ram_list },
	{ "info", method_info },
	{ "stats", method_stats },
	{ "attach", method_attach },
	{ "detach", method_detach },
	{ "resize", method_resize },
	{ "nbd-listen", method_nbd_listen },
	{ "nbd-close", method_nbd_close },
	{ "stop", method_stop },
	{ NULL },
};

void td_methods_serve(struct td_methods *methods, struct td_rpc_server *server)
{
	td_rpc_serve(server, disk_methods, methods);
}
