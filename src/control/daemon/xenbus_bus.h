/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the Xen side share. */
#ifndef DAEMON_XENBUS_BUS_H
#define DAEMON_XENBUS_BUS_H

#include "control/daemon/xenbus.h"
#include "control/daemon/xenbus_disk.h"
#include "io/loop.h"

struct td_xenbus {
	struct td_disks *disks;
	struct td_rpc_server *server;
	struct td_loop *loop;
	struct xs_handle *xs;
	struct td_watch events;
	struct td_defer reap;     /* frees disks that are gone */
	char sysfs[128];
	unsigned domid;           /* our own domain's */
	char base[2][64];         /* .../backend/vbd3, .../backend/vbd */
	struct list all;          /* of struct xenbus_disk */
	struct list waiters;      /* attach and detach calls that wait */
};

#define XENBUS_BASES 2

/* The disk of these nodes, made if it is not known yet; NULL: no memory. */
struct xenbus_disk *xenbus_disk_get(struct td_xenbus *bus, const char *base,
				    uint32_t domid, uint32_t devid);
struct xenbus_disk *xenbus_disk_find(struct td_xenbus *bus, uint32_t domid,
				     uint32_t devid);

/* xenbus_attach.c: methods of the daemon, and what they wait for. */
extern const struct td_rpc_row xenbus_attach_rows[];
void xenbus_attach_changed(struct td_xenbus *bus, struct xenbus_disk *disk);
void xenbus_attach_close(struct td_xenbus *bus);

#endif
