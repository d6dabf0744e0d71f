/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Words of a guest's configuration, turned into what xenstore and we use. Plain
 * functions on text, no xenstore.
 */
#ifndef DAEMON_VDEV_H
#define DAEMON_VDEV_H

#include <blktap/driver.h>

/*
 * The virtual-device number of a name: xvdb, xvdq17, sda1, hdc3, d5, d5p2, or a
 * number (51712, 0xca00). Numbering: Xen's docs/man/xen-vbd-interface.7.
 * "/dev/" in front is ignored.
 */
int vdev_number(const char *name, uint32_t *out);

/* How a disk is named to the guest, and by whom it is served. */
struct vdev_params {
	char *spec;       /* for tapdisk */
	const char *data; /* "auto", "map", "copy" */
};

/*
 * Reads the params node of a disk: "TYPE:TARGET[,key=value...]", with "aio:" in
 * front when xl wrote it for format=raw, and with "tap:" or "tap2:" as of old.
 * The key data=auto|map|copy is taken out: it is not the driver's. The caller
 * frees out->spec.
 */
int vdev_params_parse(const char *params, struct vdev_params *out, struct td_why *why);

/* "tap:qcow:/img,xvdb,w": params, name of the device, mode r or w (w if not
 * given). Takes it apart from the end: a target may hold commas. */
struct vdev_disk {
	char *params;
	char *vdev;
	bool read_only;
};

int vdev_disk_parse(const char *text, struct vdev_disk *out, struct td_why *why);
void vdev_disk_free(struct vdev_disk *disk);

#endif
