/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One disk of a guest: the back end's half of the xenbus handshake.
 */
#ifndef DAEMON_XENBUS_DISK_H
#define DAEMON_XENBUS_DISK_H

#include <blktap/driver.h>
#include <xenstore.h>

#include "base/list.h"
#include "base/log.h"
#include "control/daemon/disks.h"
#include "control/daemon/vdev.h"

struct xenbus_disk;

/* The states that both ends write: Xen's public/io/xenbus.h. */
enum xenbus_state {
	XENBUS_MISSING = 0,
	XENBUS_INITIALISING = 1,
	XENBUS_INIT_WAIT = 2,
	XENBUS_INITIALISED = 3,
	XENBUS_CONNECTED = 4,
	XENBUS_CLOSING = 5,
	XENBUS_CLOSED = 6,
	XENBUS_GARBAGE, /* a node that says none of these */
};

/* Below the back end's folder: serve this one (in backend/vbd, which is
 * xen-blkback's else), and: both ends' nodes are ours to remove. */
#define XENBUS_OURS "blktap"
#define XENBUS_ATTACHED "blktap-attached"

enum xenbus_phase {
	DISK_NEW,           /* nothing done yet, or all over */
	DISK_STARTING,      /* tapdisk opens the image, or makes room for one that will */
	DISK_READY,         /* offered; the front end may connect */
	DISK_OPENING,       /* it wants to, and its guest's other disk has to let go first */
	DISK_CONNECTING,
	DISK_CONNECTED,
	DISK_DISCONNECTING,
	DISK_CLOSED,        /* the front end may come back */
	DISK_STOPPING,      /* tapdisk closes the image */
	DISK_FAILED,        /* told why; waits to be removed */
	DISK_DEAD,          /* its tapdisk died or was taken away; waits to be removed */
	DISK_GONE,          /* freed once no one looks */
};

struct xenbus_disk {
	struct list link;
	struct xs_handle *xs;
	struct td_disks *disks;
	uint32_t domid, devid;
	char name[TD_GUEST_NAME_SIZE];
	char dir[128];      /* the back end's folder */
	char *frontend;     /* the front end's, once known */
	bool watched;       /* its state is */
	bool offered;       /* what it was offered once is not taken back */
	bool seen;          /* it has said that it is connected to this ring */
	bool anew;          /* it has begun anew without closing */
	struct vdev_keys keys;  /* of its params node */
	struct td_tapdisk *tap; /* held; NULL: none, or no more */
	enum xenbus_phase phase;
	struct td_why why;  /* of a failure */
	struct td_ratelimit noise; /* of lines that its guest can cause */
	struct td_timer again; /* OPENING: the next try; and how long it may take */
	unsigned patience_ms;
	/* Told of each change of phase, last of DISK_GONE; may be NULL. */
	void (*changed)(void *arg, struct xenbus_disk *disk);
	void *changed_arg;
};

/* base: the folder above DOMID/DEVID. */
struct xenbus_disk *xenbus_disk_new(struct xs_handle *xs, struct td_disks *disks,
				    const char *base, uint32_t domid, uint32_t devid);
/* Forgets it; its tapdisk goes on. */
void xenbus_disk_free(struct xenbus_disk *disk);

/* Starts the tapdisk that the nodes ask for; peek: one that only looks at its image. */
int xenbus_disk_start(struct xenbus_disk *disk, bool peek, td_tapdisk_started *started,
		      struct td_why *why);

/* xenbus_arrival.c: whether its guest comes from elsewhere, where it may still use the
 * image. */
bool xenbus_disk_arrives(struct xenbus_disk *disk);
/* Has the image that was looked at opened for writing, as soon as the guest's other disk
 * has closed it; then calls xenbus_disk_opened(). */
void xenbus_disk_open(struct xenbus_disk *disk);
void xenbus_disk_opened(struct xenbus_disk *disk, int err, const char *why);

/* xenbus_emulated.c: whether QEMU is to show it to the guest, by NBD, until the guest's
 * own driver comes. */
bool xenbus_is_emulated(struct xenbus_disk *disk, bool read_only);
/* Tells the toolstack where, if its tapdisk listens for that. */
void xenbus_write_emulated(struct xenbus_disk *disk);

/* Looks at both ends' nodes and does what is to be done. Called whenever they
 * may have changed. */
void xenbus_disk_look(struct xenbus_disk *disk);

#endif
