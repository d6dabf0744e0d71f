/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before its own driver runs, an HVM guest sees its disk as QEMU emulates it: its
 * firmware boots from it so. QEMU reads and writes the image by NBD, at a socket of the
 * disk's tapdisk, and the toolstack finds that socket in a node when it starts QEMU:
 *
 *   attached --> tapdisk listens --> physical-device-path --> QEMU is started with it
 *   the guest's driver: unplugs what QEMU emulates, which hangs up; then its ring
 *
 * A disk that comes when QEMU runs already is never emulated, nor is one in a guest
 * without QEMU. Of a guest that migrates the image is not open when QEMU is started
 * where it goes: its own driver must have taken over before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "control/daemon/xenbus_nodes.h"

#define OURS "/local/domain/0/backend/" /* QEMU opens nothing of other domains */

static bool node_is(struct xenbus_disk *disk, const char *dir, const char *key, const char *value)
{
	AUTO_FREE char *text = store_read(disk->xs, XBT_NULL, dir, key);

	return text && !strcmp(text, value);
}

static bool is_hvm(struct xenbus_disk *disk)
{
	char dir[40];

	snprintf(dir, sizeof(dir), "/libxl/%u", disk->domid);
	return node_is(disk, dir, "type", "hvm");
}

static bool has_device_model(struct xenbus_disk *disk)
{
	char dir[60];

	snprintf(dir, sizeof(dir), "/local/domain/0/device-model/%u", disk->domid);
	return store_exists(disk->xs, dir, "state");
}

/*
 * The toolstack refuses a guest with an IDE disk that is read-only, and leaves a disk
 * that it finds no way to out of the emulated ones: better so. SCSI's may be read-only.
 */
static bool can_be_emulated(struct xenbus_disk *disk, bool read_only)
{
	AUTO_FREE char *vdev = store_read(disk->xs, XBT_NULL, disk->dir, "dev");

	return !read_only || (vdev && !strncmp(vdev, "sd", 2)) ||
	       node_is(disk, disk->dir, "device-type", "cdrom");
}

bool xenbus_is_emulated(struct xenbus_disk *disk, bool read_only)
{
	return !strncmp(disk->dir, OURS, strlen(OURS)) && is_hvm(disk) &&
	       !has_device_model(disk) && can_be_emulated(disk, read_only);
}

/* Of backend/vbd3 the toolstack knows that the path is an NBD server's; what else it
 * finds it gives to QEMU as it is. */
void xenbus_write_emulated(struct xenbus_disk *disk)
{
	const char *path = td_tapdisk_beside(disk->tap);
	bool knows = !strncmp(disk->dir, OURS "vbd3/", strlen(OURS "vbd3/"));
	struct store_node node;

	if (!path)
		return;
	node = store_node("physical-device-path", "%s%s", knows ? "" : "nbd+unix:///?socket=",
			  path);
	xenbus_write(disk, &node, 1);
}
