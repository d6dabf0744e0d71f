/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks attached without a toolstack: xen-attach writes the nodes of both ends
 * as xl would, in one transaction, marked as ours; then the same machinery that
 * serves xl's disks serves them, and removes the nodes in the end.
 *
 * A call waits until the disk is connected (or gone), for a bounded time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "control/daemon/vdev.h"
#include "control/daemon/xenbus_bus.h"
#include "control/daemon/xenbus_store.h"

#define CONNECT_MS 8000
#define DETACH_MS 12000
#define FIRST_RESERVED_DOMID 0x7ff0

/* A call that waits for its disk. */
struct waiter {
	struct list link;
	struct td_xenbus *bus;
	struct td_rpc_call *call;
	struct td_timer timer;
	uint32_t domid, devid;
	bool detach;
};

static struct json_t *waiter_result(const struct waiter *waiter, bool connected)
{
	char name[TD_GUEST_NAME_SIZE];

	td_guest_name(name, waiter->domid, waiter->devid);
	return json_pack("{s:s, s:i, s:i, s:b}", "name", name, "domid", (int)waiter->domid,
			 "devid", (int)waiter->devid, "connected", (int)connected);
}

static void waiter_free(struct waiter *waiter)
{
	td_timer_cancel(&waiter->timer);
	list_del(&waiter->link);
	free(waiter);
}

static void waiter_late(struct td_timer *timer)
{
	struct waiter *waiter = container_of(timer, struct waiter, timer);
	struct xenbus_disk *disk = xenbus_disk_find(waiter->bus, waiter->domid, waiter->devid);

	if (waiter->detach && disk && disk->phase == DISK_CONNECTED)
		td_rpc_refuse(waiter->call, -EBUSY, "domain %u still uses device %u; it is "
			      "detached when the guest lets go", waiter->domid, waiter->devid);
	else if (waiter->detach)
		td_rpc_refuse(waiter->call, -EBUSY, "domain %u has let go of device %u, but its "
			      "I/O does not end; it is detached when that does",
			      waiter->domid, waiter->devid);
	else
		td_rpc_answer(waiter->call, waiter_result(waiter, false));
	waiter_free(waiter);
}

static int wait_for(struct td_xenbus *bus, struct td_rpc_call *call, uint32_t domid,
		    uint32_t devid, bool detach)
{
	struct waiter *waiter = calloc(1, sizeof(*waiter));

	if (!waiter)
		return -ENOMEM;
	*waiter = (struct waiter){
		.bus = bus, .call = call, .domid = domid, .devid = devid,
		.detach = detach, .timer.fired = waiter_late,
	};
	list_add(&bus->waiters, &waiter->link);
	td_timer_arm(bus->loop, &waiter->timer, detach ? DETACH_MS : CONNECT_MS);
	return 0;
}

/* What attach made and could not be served goes away again. */
static void give_up(struct xenbus_disk *disk)
{
	struct store_node node = store_node("online", "0");

	store_update(disk->xs, disk->dir, &node, 1);
}

/* True: the waiter has its answer. */
static bool waiter_told(struct waiter *waiter, struct xenbus_disk *disk)
{
	if (waiter->detach) {
		if (disk->phase != DISK_GONE)
			return false;
		td_rpc_answer(waiter->call, waiter_result(waiter, false));
		return true;
	}
	switch (disk->phase) {
	case DISK_CONNECTED:
		td_rpc_answer(waiter->call, waiter_result(waiter, true));
		return true;
	case DISK_FAILED:
		td_rpc_refuse(waiter->call, -EIO, "%s", disk->why.text);
		give_up(disk);
		return true;
	case DISK_GONE:
		td_rpc_refuse(waiter->call, -ECANCELED, "%s: was removed", disk->name);
		return true;
	case DISK_NEW:
	case DISK_STARTING:
	case DISK_READY:
	case DISK_OPENING:
	case DISK_CONNECTING:
	case DISK_DISCONNECTING:
	case DISK_CLOSED:
	case DISK_STOPPING:
	case DISK_DEAD:
		break;
	}
	return false;
}

void xenbus_attach_changed(struct td_xenbus *bus, struct xenbus_disk *disk)
{
	LIST_FOR_SAFE (struct waiter, waiter, &bus->waiters, link) {
		if (waiter->domid == disk->domid && waiter->devid == disk->devid &&
		    waiter_told(waiter, disk))
			waiter_free(waiter);
	}
}

void xenbus_attach_close(struct td_xenbus *bus)
{
	LIST_FOR_SAFE (struct waiter, waiter, &bus->waiters, link) {
		td_rpc_refuse(waiter->call, -ECANCELED, "the daemon ends");
		waiter_free(waiter);
	}
}

/* ---- which domain ---------------------------------------------------------------- */

static bool domain_there(struct td_xenbus *bus, uint64_t domid)
{
	char dir[40];

	snprintf(dir, sizeof(dir), "/local/domain/%u", (unsigned)domid);
	return store_exists(bus->xs, dir, "domid") || store_exists(bus->xs, dir, "name");
}

static bool domain_named(struct td_xenbus *bus, const char *domid, const char *name)
{
	AUTO_FREE char *dir = NULL;
	AUTO_FREE char *found = NULL;

	if (asprintf(&dir, "/local/domain/%s", domid) < 0)
		return false;
	found = store_read(bus->xs, XBT_NULL, dir, "name");
	return found && !strcmp(found, name);
}

/* By number or by name, as xl takes them. */
static int find_domain(struct td_xenbus *bus, const char *text, uint32_t *out)
{
	AUTO_FREE char **domids = NULL;
	unsigned count = 0;
	uint64_t domid;

	if (!store_parse(text, FIRST_RESERVED_DOMID - 1, &domid)) {
		if (!domain_there(bus, domid))
			return -ENOENT;
		*out = (uint32_t)domid;
		return 0;
	}
	domids = xs_directory(bus->xs, XBT_NULL, "/local/domain", &count);
	for (unsigned i = 0; domids && i < count; i++) {
		if (!store_parse(domids[i], FIRST_RESERVED_DOMID - 1, &domid) &&
		    domain_named(bus, domids[i], text)) {
			*out = (uint32_t)domid;
			return 0;
		}
	}
	return -ENOENT;
}

/* ---- attach ------------------------------------------------------------------------ */

struct both_ends {
	struct td_xenbus *bus;
	const struct vdev_disk *disk;
	uint32_t domid, devid;
	char back[128], front[128];
};

static int make_both_ends(void *arg, xs_transaction_t t)
{
	struct both_ends *ends = arg;
	struct td_xenbus *bus = ends->bus;
	const struct store_node back[] = {
		store_node("frontend", "%s", ends->front),
		store_node("frontend-id", "%u", ends->domid),
		store_node("params", "%s", ends->disk->params),
		store_node("mode", "%s", ends->disk->read_only ? "r" : "w"),
		store_node("dev", "%s", ends->disk->vdev),
		store_node("type", "tap"),
		store_node("device-type", "disk"),
		store_node("removable", "0"),
		store_node("online", "1"),
		store_node(XENBUS_ATTACHED, "1"),
		store_node("state", "%d", XENBUS_INITIALISING),
	};
	const struct store_node front[] = {
		store_node("backend", "%s", ends->back),
		store_node("backend-id", "%u", bus->domid),
		store_node("virtual-device", "%u", ends->devid),
		store_node("device-type", "disk"),
		store_node("state", "%d", XENBUS_INITIALISING),
	};
	AUTO_FREE char *there = store_read(bus->xs, t, ends->front, "state");
	int err;

	if (there)
		return -EEXIST;
	err = store_folder(bus->xs, t, ends->back, bus->domid, ends->domid);
	if (!err)
		err = store_put(bus->xs, t, ends->back, back, ARRAY_SIZE(back));
	if (!err)
		err = store_folder(bus->xs, t, ends->front, ends->domid, bus->domid);
	if (!err)
		err = store_put(bus->xs, t, ends->front, front, ARRAY_SIZE(front));
	return err;
}

static int attach(struct td_xenbus *bus, uint32_t domid, const struct vdev_disk *disk,
		  uint32_t *devid, struct td_why *why)
{
	struct both_ends ends = { .bus = bus, .disk = disk, .domid = domid };
	struct vdev_params params;
	int err = vdev_params_parse(disk->params, &params, why);

	if (err)
		return err;
	free(params.spec); /* its form is right */
	if (strlen(disk->params) >= sizeof(((struct store_node *)0)->value))
		return td_fail(why, -ENAMETOOLONG, "%s: too long", disk->params);
	if (vdev_number(disk->vdev, &ends.devid))
		return td_fail(why, -EINVAL, "%s: no name of a device", disk->vdev);
	snprintf(ends.back, sizeof(ends.back), "%s/%u/%u", bus->base[0], domid, ends.devid);
	snprintf(ends.front, sizeof(ends.front), "/local/domain/%u/device/vbd/%u", domid,
		 ends.devid);
	if (xenbus_disk_find(bus, domid, ends.devid))
		return td_fail(why, -EEXIST, "domain %u has a %s already", domid, disk->vdev);
	err = store_change(bus->xs, make_both_ends, &ends);
	if (err == -EEXIST)
		return td_fail(why, err, "domain %u has a %s already", domid, disk->vdev);
	if (err)
		return td_fail(why, err, "%s: cannot be made: %s", ends.back, strerror(-err));
	*devid = ends.devid;
	return 0;
}

static void run_attach(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_xenbus *bus = arg;
	struct vdev_disk disk;
	struct td_why why;
	const char *domain, *text;
	uint32_t domid, devid = 0;
	int err;

	if (!td_rpc_params(call, params, "{s:s, s:s}", "domain", &domain, "disk", &text))
		return;
	err = find_domain(bus, domain, &domid);
	if (err) {
		td_rpc_refuse(call, err, "%s: no such domain", domain);
		return;
	}
	err = vdev_disk_parse(text, &disk, &why);
	if (err) {
		td_rpc_refuse(call, err, "%s", why.text);
		return;
	}
	err = attach(bus, domid, &disk, &devid, &why);
	vdev_disk_free(&disk);
	if (!err && wait_for(bus, call, domid, devid, false))
		err = td_fail(&why, -ENOMEM, "no memory to wait for the disk");
	if (err)
		td_rpc_refuse(call, err, "%s", why.text);
}

/* ---- detach -------------------------------------------------------------------------- */

static void run_detach(void *arg, struct td_rpc_call *call, json_t *params)
{
	const struct store_node closing[] = {
		store_node("online", "0"), store_node("state", "%d", XENBUS_CLOSING),
	};
	struct td_xenbus *bus = arg;
	struct xenbus_disk *disk;
	const char *domain, *vdev;
	uint32_t domid, devid;

	if (!td_rpc_params(call, params, "{s:s, s:s}", "domain", &domain, "vdev", &vdev))
		return;
	if (find_domain(bus, domain, &domid)) {
		td_rpc_refuse(call, -ENOENT, "%s: no such domain", domain);
		return;
	}
	if (vdev_number(vdev, &devid)) {
		td_rpc_refuse(call, -EINVAL, "%s: no name of a device", vdev);
		return;
	}
	disk = xenbus_disk_find(bus, domid, devid);
	if (!disk) {
		td_rpc_refuse(call, -ENOENT, "domain %s has no %s of ours", domain, vdev);
		return;
	}
	if (!store_exists(bus->xs, disk->dir, XENBUS_ATTACHED)) {
		td_rpc_refuse(call, -EPERM, "%s of domain %s was attached by the toolstack: "
			      "xl block-detach %s %s", vdev, domain, domain, vdev);
		return;
	}
	if (wait_for(bus, call, domid, devid, true)) {
		td_rpc_refuse(call, -ENOMEM, "no memory to wait for the disk");
		return;
	}
	store_update(bus->xs, disk->dir, closing, ARRAY_SIZE(closing));
}

const struct td_rpc_row xenbus_attach_rows[] = {
	{ "xen-attach", run_attach },
	{ "xen-detach", run_detach },
	{ NULL, NULL },
};
