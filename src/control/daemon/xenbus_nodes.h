/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The nodes of a disk, read with doubt and written as a whole.
 */
#ifndef DAEMON_XENBUS_NODES_H
#define DAEMON_XENBUS_NODES_H

#include <blktap/driver.h>
#include <jansson.h>

#include "control/daemon/vdev.h"
#include "control/daemon/xenbus_disk.h"
#include "control/daemon/xenbus_store.h"

/* What both ends say now. */
struct xenbus_view {
	enum xenbus_state back, front;
	bool online;
};

struct xenbus_view xenbus_view(struct xenbus_disk *disk);

/* Writes nodes of the back end's folder, if it is still there. */
void xenbus_write(struct xenbus_disk *disk, const struct store_node *nodes, unsigned count);
void xenbus_write_state(struct xenbus_disk *disk, enum xenbus_state state);
/* Closed, for good; but not what the toolstack has put in its place meanwhile. */
void xenbus_write_over(struct xenbus_disk *disk);
/* All that the front end may want to know of disk->tap. */
void xenbus_write_features(struct xenbus_disk *disk);
/* That, once, and state 2: what was offered to a front end is offered again. */
void xenbus_write_offer(struct xenbus_disk *disk);

/* The size of disk->tap, if it is another now, and the state, as it is, again. */
void xenbus_write_size(struct xenbus_disk *disk, enum xenbus_state state);

/* Sets disk->frontend; its state is watched from then on. */
int xenbus_find_frontend(struct xenbus_disk *disk, struct td_why *why);
int xenbus_watch_frontend(struct xenbus_disk *disk, struct td_why *why);
void xenbus_forget_frontend(struct xenbus_disk *disk);
/* Removes both ends' folders if they are ours. */
void xenbus_remove_attached(struct xenbus_disk *disk);

int xenbus_read_mode(struct xenbus_disk *disk, bool *read_only, struct td_why *why);
/* The caller frees out->spec. */
int xenbus_read_params(struct xenbus_disk *disk, struct vdev_params *out, struct td_why *why);
/* Everything the guest has published of its rings, checked, as the parameters of
 * tapdisk's xen-connect. */
int xenbus_read_ring(struct xenbus_disk *disk, json_t **out, struct td_why *why);

#endif
