/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Xen side of the daemon: it alone speaks xenstore. It serves the disks that
 * a toolstack has written below backend/vbd3, those below backend/vbd that our
 * hotplug script has marked, and those that tap-ctl xen-attach makes itself.
 */
#ifndef DAEMON_XENBUS_H
#define DAEMON_XENBUS_H

#include <blktap/driver.h>

#include "control/daemon/disks.h"
#include "control/rpc.h"

struct td_xenbus;

struct td_xenbus_options {
	const char *sysfs; /* NULL: /sys */
};

/* Whether this is a Xen host, or was told to be one ($XENSTORED_PATH): then there will
 * be a xenstore, if there is none yet. */
bool td_xenbus_expected(void);

/*
 * Once the tapdisks of an earlier daemon are adopted. Adds xen-attach and
 * xen-detach to server. -ENOENT or -ECONNREFUSED: there is no xenstore here.
 */
int td_xenbus_open(struct td_disks *disks, struct td_rpc_server *server,
		   const struct td_xenbus_options *options, struct td_xenbus **out,
		   struct td_why *why);
/* The daemon ends; guests notice nothing. */
void td_xenbus_close(struct td_xenbus *bus);

#endif
