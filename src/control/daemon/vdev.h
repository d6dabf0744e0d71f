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

/*
 * What a disk's specification says to Xen's side alone. Most keys are named as the
 * nodes that they set, by which the guest is offered what we can do.
 */
struct vdev_keys {
	const char *data;            /* "auto", "map", "copy" */
	unsigned flush, barrier, discard, persistent; /* 0, 1 */
	unsigned segments;           /* of an indirect request; 0: none are offered */
	unsigned ring_order;
	unsigned rings;              /* 0: as many as the disk has queues */
	unsigned sector, physical;   /* bytes; 0: the image's */
	unsigned poll_us;
};

extern const struct vdev_keys vdev_default_keys;

struct vdev_params {
	char *spec;       /* for tapdisk */
	struct vdev_keys keys;
};

/*
 * Reads the params node of a disk: "TYPE:TARGET[,key=value...]", with "aio:" in
 * front when xl wrote it for format=raw, and with "tap:" or "tap2:" as of old.
 * The keys above are taken out: they are not the driver's. The caller frees
 * out->spec.
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
