/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * xenstore's events, sorted to the disks they are about. Two folders are watched:
 *
 *   backend/vbd3/DOMID/DEVID   ours: the toolstack writes them for us
 *   backend/vbd/DOMID/DEVID    xen-blkback's, but those marked "blktap" (by the
 *                              hotplug script, once it has made blkback let go)
 *
 * An event names a path; the disk it belongs to looks at its nodes itself. What
 * an event leaves open, a look at the whole folder settles.
 */
#include "control/daemon/xenbus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "control/daemon/xenbus_bus.h"
#include "control/daemon/xenbus_store.h"

#define LOG_NAME "xen"
#define EVENTS_AT_ONCE 64

/* ---- the disks ----------------------------------------------------------------- */

struct xenbus_disk *xenbus_disk_find(struct td_xenbus *bus, uint32_t domid,
				     uint32_t devid)
{
	LIST_FOR (struct xenbus_disk, disk, &bus->all, link)
		if (disk->domid == domid && disk->devid == devid && disk->phase != DISK_GONE)
			return disk;
	return NULL;
}

static void disk_changed(void *arg, struct xenbus_disk *disk)
{
	struct td_xenbus *bus = arg;

	xenbus_attach_changed(bus, disk);
	if (disk->phase == DISK_GONE)
		td_loop_defer(bus->loop, &bus->reap);
}

static void reap(struct td_defer *defer)
{
	struct td_xenbus *bus = container_of(defer, struct td_xenbus, reap);

	LIST_FOR_SAFE (struct xenbus_disk, disk, &bus->all, link)
		if (disk->phase == DISK_GONE)
			xenbus_disk_free(disk);
}

struct xenbus_disk *xenbus_disk_get(struct td_xenbus *bus, const char *base,
				    uint32_t domid, uint32_t devid)
{
	struct xenbus_disk *disk = xenbus_disk_find(bus, domid, devid);

	if (disk)
		return disk;
	disk = xenbus_disk_new(bus->xs, bus->disks, base, domid, devid);
	if (!disk)
		return NULL;
	disk->changed = disk_changed;
	disk->changed_arg = bus;
	list_add(&bus->all, &disk->link);
	return disk;
}

/* xen-blkback would answer the toolstack; where it is not loaded we do, so that
 * the script is run at all. */
static void answer_for_blkback(struct td_xenbus *bus, const char *dir)
{
	AUTO_FREE char *driver = NULL;
	AUTO_FREE char *script = store_read(bus->xs, XBT_NULL, dir, "script");
	struct store_node node = store_node("state", "%d", XENBUS_INIT_WAIT);
	const char *name = script ? strrchr(script, '/') : NULL;
	uint64_t state;

	if (!name || strcmp(name, "/block-tap") ||
	    store_number(bus->xs, dir, "state", XENBUS_CLOSED, &state) ||
	    state != XENBUS_INITIALISING)
		return;
	if (asprintf(&driver, "%s/bus/xen-backend/drivers/vbd", bus->sysfs) < 0 ||
	    !access(driver, F_OK))
		return;
	store_update(bus->xs, dir, &node, 1);
}

static bool is_ours(struct td_xenbus *bus, const char *base, const char *dir)
{
	if (!store_exists(bus->xs, dir, "frontend"))
		return false;
	if (base == bus->base[0])
		return true;
	if (store_exists(bus->xs, dir, XENBUS_OURS))
		return true;
	answer_for_blkback(bus, dir);
	return false;
}

static void look_at(struct td_xenbus *bus, const char *base, uint32_t domid,
		    uint32_t devid)
{
	struct xenbus_disk *disk = xenbus_disk_find(bus, domid, devid);
	char dir[128];

	if (!disk) {
		snprintf(dir, sizeof(dir), "%s/%u/%u", base, domid, devid);
		if (!is_ours(bus, base, dir))
			return;
		disk = xenbus_disk_get(bus, base, domid, devid);
	}
	if (disk)
		xenbus_disk_look(disk);
}

/* ---- folders ---------------------------------------------------------------------- */

static void look_at_domain(struct td_xenbus *bus, const char *base, uint32_t domid)
{
	AUTO_FREE char **names = NULL;
	char path[96];
	unsigned count = 0;
	uint64_t devid;

	snprintf(path, sizeof(path), "%s/%u", base, domid);
	names = xs_directory(bus->xs, XBT_NULL, path, &count);
	for (unsigned i = 0; names && i < count; i++)
		if (!store_parse(names[i], UINT32_MAX, &devid))
			look_at(bus, base, domid, (uint32_t)devid);
}

static void look_at_all(struct td_xenbus *bus, const char *base)
{
	AUTO_FREE char **names = NULL;
	unsigned count = 0;
	uint64_t domid;

	names = xs_directory(bus->xs, XBT_NULL, base, &count);
	for (unsigned i = 0; names && i < count; i++)
		if (!store_parse(names[i], UINT16_MAX, &domid))
			look_at_domain(bus, base, (uint32_t)domid);
	/* And those that are there no more. */
	LIST_FOR_SAFE (struct xenbus_disk, disk, &bus->all, link)
		if (!strncmp(disk->dir, base, strlen(base)) &&
		    disk->dir[strlen(base)] == '/')
			xenbus_disk_look(disk);
}

/* ---- events ------------------------------------------------------------------------ */

/* "/12/51712/state": what follows base in a path. */
static unsigned tail_numbers(const char *tail, uint32_t *domid, uint32_t *devid)
{
	unsigned long first, second;
	char *end;

	if (*tail != '/' || tail[1] < '0' || tail[1] > '9')
		return 0;
	first = strtoul(tail + 1, &end, 10);
	if (first > UINT16_MAX)
		return 0;
	*domid = (uint32_t)first;
	if (*end != '/' || end[1] < '0' || end[1] > '9')
		return 1;
	second = strtoul(end + 1, &end, 10);
	if (second > UINT32_MAX)
		return 1;
	*devid = (uint32_t)second;
	return 2;
}

static void backend_event(struct td_xenbus *bus, const char *base, const char *path)
{
	uint32_t domid, devid;

	switch (tail_numbers(path + strlen(base), &domid, &devid)) {
	case 2:
		look_at(bus, base, domid, devid);
		break;
	case 1: /* a domain's folder: gone, as a rule */
	default:
		look_at_all(bus, base);
		break;
	}
}

static void frontend_event(struct td_xenbus *bus, const char *token)
{
	LIST_FOR_SAFE (struct xenbus_disk, disk, &bus->all, link)
		if (!strcmp(disk->name, token))
			xenbus_disk_look(disk);
}

static void handle_event(struct td_xenbus *bus, const char *path, const char *token)
{
	for (unsigned i = 0; i < XENBUS_BASES; i++) {
		if (!strcmp(token, bus->base[i])) {
			if (!strncmp(path, token, strlen(token)))
				backend_event(bus, bus->base[i], path);
			return;
		}
	}
	frontend_event(bus, token);
}

static void events_ready(struct td_watch *watch, uint32_t events)
{
	struct td_xenbus *bus = container_of(watch, struct td_xenbus, events);

	for (int i = 0; i < EVENTS_AT_ONCE; i++) {
		AUTO_FREE char **event = xs_check_watch(bus->xs);

		if (!event)
			return;
		handle_event(bus, event[XS_WATCH_PATH], event[XS_WATCH_TOKEN]);
	}
}

/* ---- making ------------------------------------------------------------------------- */

/* A tapdisk of a guest's disk that has no nodes any more. */
static void stop_orphans(struct td_xenbus *bus)
{
	struct td_tapdisk *tap = NULL, *next;
	uint32_t domid, devid;

	for (tap = td_disks_next(bus->disks, NULL); tap; tap = next) {
		next = td_disks_next(bus->disks, tap);
		if (!td_guest_name_parse(td_tapdisk_name(tap), &domid, &devid) ||
		    xenbus_disk_find(bus, domid, devid))
			continue;
		td_log(td_tapdisk_name(tap), LOG_NOTICE, "has no nodes in xenstore: stopped");
		td_tapdisk_stop(tap, NULL, NULL);
	}
}

bool td_xenbus_expected(void)
{
	char type[8] = "";
	FILE *file;

	if (getenv("XENSTORED_PATH") || !access("/proc/xen", F_OK))
		return true;
	file = fopen("/sys/hypervisor/type", "re");
	if (!file)
		return false;
	if (!fgets(type, sizeof(type), file))
		*type = '\0';
	fclose(file);
	return !strncmp(type, "xen", 3);
}

/*
 * The host's own xenstored is met at its socket. The kernel's device would be opened
 * before that runs, and hold whoever asks until it does.
 */
static unsigned long how_to_open(void)
{
	char words[64] = "";
	FILE *file = fopen("/proc/xen/capabilities", "re");

	if (!file)
		return 0;
	if (!fgets(words, sizeof(words), file))
		*words = '\0';
	fclose(file);
	return strstr(words, "control_d") ? XS_OPEN_SOCKETONLY : 0;
}

static int find_ourselves(struct td_xenbus *bus, struct td_why *why)
{
	static const char *const folder[XENBUS_BASES] = { "vbd3", "vbd" };
	uint64_t domid = 0;

	if (store_number(bus->xs, "domid", NULL, UINT16_MAX, &domid) == -EINVAL)
		return td_fail(why, -EINVAL, "xenstore: domid: no number");
	bus->domid = (unsigned)domid;
	for (unsigned i = 0; i < XENBUS_BASES; i++)
		snprintf(bus->base[i], sizeof(bus->base[i]), "/local/domain/%u/backend/%s",
			 bus->domid, folder[i]);
	return 0;
}

static int watch_all(struct td_xenbus *bus, struct td_why *why)
{
	int err;

	for (unsigned i = 0; i < XENBUS_BASES; i++)
		if (!xs_watch(bus->xs, bus->base[i], bus->base[i]))
			return td_fail(why, -errno, "%s: cannot be watched: %s", bus->base[i],
				       strerror(errno));
	bus->events.ready = events_ready;
	err = td_watch_start(bus->loop, &bus->events, xs_fileno(bus->xs), EPOLLIN);
	if (err)
		return td_fail(why, err, "xenstore: %s", strerror(-err));
	return 0;
}

int td_xenbus_open(struct td_disks *disks, struct td_rpc_server *server,
		   const struct td_xenbus_options *options, struct td_xenbus **out,
		   struct td_why *why)
{
	struct td_xenbus *bus = calloc(1, sizeof(*bus));
	int err;

	if (!bus)
		return td_fail(why, -ENOMEM, "no memory");
	bus->disks = disks;
	bus->server = server;
	bus->loop = td_disks_loop(disks);
	bus->reap.run = reap;
	snprintf(bus->sysfs, sizeof(bus->sysfs), "%s",
		 options && options->sysfs ? options->sysfs : "/sys");
	list_init(&bus->all);
	list_init(&bus->waiters);
	bus->xs = xs_open(how_to_open());
	if (!bus->xs) {
		err = td_fail(why, -errno, "xenstore: %s", strerror(errno));
		free(bus);
		return err;
	}
	err = find_ourselves(bus, why);
	if (!err)
		err = watch_all(bus, why);
	if (err) {
		xs_close(bus->xs);
		free(bus);
		return err;
	}
	for (unsigned i = 0; i < XENBUS_BASES; i++)
		look_at_all(bus, bus->base[i]);
	stop_orphans(bus);
	td_rpc_serve(server, xenbus_attach_rows, bus);
	*out = bus;
	return 0;
}

void td_xenbus_close(struct td_xenbus *bus)
{
	if (!bus)
		return;
	xenbus_attach_close(bus);
	LIST_FOR_SAFE (struct xenbus_disk, disk, &bus->all, link)
		xenbus_disk_free(disk);
	td_loop_undefer(bus->loop, &bus->reap);
	td_watch_stop(bus->loop, &bus->events);
	xs_close(bus->xs);
	free(bus);
}
