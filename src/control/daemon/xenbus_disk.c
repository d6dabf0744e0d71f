/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's disk, from its nodes in xenstore to its tapdisk and back:
 *
 *   NEW -> STARTING -> READY -> CONNECTING -> CONNECTED -> DISCONNECTING
 *             |         ^ ^^                                 |       |
 *             v         | |+--------- CLOSED <---------------+       v
 *           FAILED      v |  front end comes back   online       STOPPING -> NEW
 *                   OPENING of a guest that migrates: xenbus_arrival.c
 *
 * There is one entrance, xenbus_disk_look(): it reads both states and "online"
 * and decides by them and by the phase alone, so that events may come twice, late
 * or in any order, and a new daemon finds its place by looking. While tapdisk is
 * asked for something nothing is decided; its answer looks again.
 */
#include "control/daemon/xenbus_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "control/daemon/vdev.h"
#include "control/daemon/xenbus_nodes.h"

static void set_phase(struct xenbus_disk *disk, enum xenbus_phase phase)
{
	disk->phase = phase;
	if (disk->changed)
		disk->changed(disk->changed_arg, disk);
}

/* ---- failure --------------------------------------------------------------- */

/*
 * The toolstack waits for state 2 before it runs the script that reads
 * hotplug-error: so state 2 it is, and nobody waits for a time-out. That of another
 * domain than ours reads nothing, and would take state 2 for success.
 */
static void disk_failed(struct xenbus_disk *disk, const char *why)
{
	bool read = !strncmp(disk->dir, "/local/domain/0/", 16);
	struct store_node nodes[] = {
		store_node("hotplug-error", "%s", why),
		store_node("state", "%d", XENBUS_INIT_WAIT),
	};

	snprintf(disk->why.text, sizeof(disk->why.text), "%s", why);
	xenbus_write(disk, nodes, read ? ARRAY_SIZE(nodes) : 1);
	set_phase(disk, DISK_FAILED);
}

/* The front end cannot be served as it wishes: it is told to close. */
static void front_refused(struct xenbus_disk *disk, const char *why, enum xenbus_phase phase)
{
	struct store_node nodes[] = {
		store_node("error", "%s", why),
		store_node("state", "%d", XENBUS_CLOSED),
	};

	td_log_limited(&disk->noise, disk->name, LOG_ERR, "%s", why);
	xenbus_write(disk, nodes, ARRAY_SIZE(nodes));
	set_phase(disk, phase);
}

/* ---- the end --------------------------------------------------------------- */

static void disk_over(struct xenbus_disk *disk)
{
	xenbus_write_over(disk);
	xenbus_remove_attached(disk);
	xenbus_forget_frontend(disk);
	td_log(disk->name, LOG_INFO, "closed");
	set_phase(disk, DISK_NEW);
	xenbus_disk_look(disk);
}

static void disk_stopped(void *arg, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (err)
		td_log(disk->name, LOG_ERR, "%s", why);
	if (disk->tap)
		td_tapdisk_kill(disk->tap, disk_stopped, disk); /* it would not end */
	else
		disk_over(disk);
}

static void disk_stop(struct xenbus_disk *disk)
{
	td_timer_cancel(&disk->again);
	if (!disk->tap) {
		disk_over(disk);
		return;
	}
	set_phase(disk, DISK_STOPPING);
	td_tapdisk_stop(disk->tap, disk_stopped, disk);
}

static bool is_over(const struct xenbus_view *view)
{
	return !view->back || !view->front || !view->online;
}

static void disk_offer(struct xenbus_disk *disk)
{
	xenbus_write_offer(disk);
	set_phase(disk, DISK_READY);
	xenbus_disk_look(disk);
}

static void disk_disconnected(void *arg, int err, const char *why, json_t *result)
{
	struct xenbus_disk *disk = arg;
	struct xenbus_view view = xenbus_view(disk);

	if (disk->phase != DISK_DISCONNECTING)
		return; /* its tapdisk died meanwhile */
	if (err)
		td_log_limited(&disk->noise, disk->name, LOG_ERR, "xen-disconnect: %s", why);
	if (is_over(&view)) {
		disk_stop(disk);
		return;
	}
	if (disk->anew) { /* nor does it expect that we close */
		td_log_limited(&disk->noise, disk->name, LOG_INFO,
			       "the front end has begun anew");
		disk_offer(disk);
		return;
	}
	td_log_limited(&disk->noise, disk->name, LOG_INFO, "the front end has disconnected");
	xenbus_write_state(disk, XENBUS_CLOSED);
	set_phase(disk, DISK_CLOSED);
	xenbus_disk_look(disk);
}

static void disk_disconnect(struct xenbus_disk *disk, bool anew)
{
	disk->anew = anew;
	set_phase(disk, DISK_DISCONNECTING);
	td_tapdisk_call(disk->tap, "xen-disconnect", NULL, disk_disconnected, disk);
}

/* The ring has come to its end: by us, or by the guest's doing. */
static void disk_waited(void *arg, int err, const char *why, json_t *result)
{
	struct xenbus_disk *disk = arg;

	if (err || !json_is_true(json_object_get(result, "broken")))
		return;
	if (disk->phase == DISK_CONNECTED)
		disk_disconnect(disk, false);
}

static void disk_died(void *arg, const char *cause)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_STOPPING) {
		set_phase(disk, DISK_DEAD);
		xenbus_disk_look(disk);
	}
}

static void disk_gone(void *arg)
{
	struct xenbus_disk *disk = arg;

	disk->tap = NULL;
	if (disk->phase == DISK_STARTING || disk->phase == DISK_OPENING ||
	    disk->phase == DISK_STOPPING)
		return; /* an answer is on its way */
	td_log(disk->name, LOG_WARNING, "its tapdisk was taken away; the guest's I/O stalls "
	       "until it is detached");
	set_phase(disk, DISK_DEAD);
	xenbus_disk_look(disk);
}

/* A front end that is connected looks at the size when state 4 is written again. */
static void disk_changed(void *arg)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase == DISK_CONNECTED)
		xenbus_write_size(disk, XENBUS_CONNECTED);
	else if (disk->phase == DISK_READY)
		xenbus_write_size(disk, XENBUS_INIT_WAIT);
}

static const struct td_tapdisk_holder disk_holds = {
	.died = disk_died,
	.changed = disk_changed,
	.gone = disk_gone,
};

/* ---- connecting -------------------------------------------------------------- */

static void disk_is_connected(struct xenbus_disk *disk)
{
	disk->seen = false;
	set_phase(disk, DISK_CONNECTED);
	td_tapdisk_await(disk->tap, "xen-wait", NULL, disk_waited, disk);
	xenbus_disk_look(disk);
}

static void disk_connected(void *arg, int err, const char *why, json_t *result)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_CONNECTING)
		return; /* its tapdisk died meanwhile */
	if (err) {
		front_refused(disk, why, DISK_CLOSED);
		xenbus_disk_look(disk);
		return;
	}
	xenbus_write_state(disk, XENBUS_CONNECTED);
	td_log_limited(&disk->noise, disk->name, LOG_INFO, "connected to domain %u",
		       disk->domid);
	disk_is_connected(disk);
}

static void disk_connect(struct xenbus_disk *disk)
{
	struct td_why why;
	json_t *params;

	if (xenbus_read_ring(disk, &params, &why)) {
		front_refused(disk, why.text, DISK_CLOSED);
		return;
	}
	set_phase(disk, DISK_CONNECTING);
	td_tapdisk_call(disk->tap, "xen-connect", params, disk_connected, disk);
}

/* What was looked at is open for writing, and may differ from what was seen. */
void xenbus_disk_opened(struct xenbus_disk *disk, int err, const char *why)
{
	if (err) {
		front_refused(disk, why, DISK_FAILED);
	} else {
		xenbus_write_features(disk);
		set_phase(disk, DISK_READY);
	}
	xenbus_disk_look(disk);
}

/* ---- starting ------------------------------------------------------------------- */

static void disk_started(void *arg, struct td_tapdisk *tap, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_STARTING)
		return; /* it is over, and the tapdisk killed for it */
	if (err) {
		disk_failed(disk, why);
		xenbus_disk_look(disk);
	} else {
		disk_offer(disk);
	}
}

int xenbus_disk_start(struct xenbus_disk *disk, bool peek, td_tapdisk_started *started,
		      struct td_why *why)
{
	struct vdev_params parsed;
	bool read_only = false;
	char user[32];
	int err = xenbus_read_mode(disk, &read_only, why);

	if (!err)
		err = xenbus_read_params(disk, &parsed, why);
	if (err)
		return err;
	snprintf(user, sizeof(user), "domain %u", disk->domid);
	disk->keys = parsed.keys;
	disk->tap = td_tapdisk_start(disk->disks, &(struct td_tapdisk_want){
		.spec = parsed.spec, .name = disk->name, .user = user,
		.read_only = read_only, .peek = peek,
		.beside = !peek && xenbus_is_emulated(disk, read_only),
	}, started, disk, &err, why);
	free(parsed.spec);
	if (!disk->tap)
		return err;
	td_tapdisk_hold(disk->tap, &disk_holds, disk);
	return 0;
}

/* ---- a new one ------------------------------------------------------------------ */

static int disk_begin(struct xenbus_disk *disk, struct td_why *why)
{
	int err = xenbus_find_frontend(disk, why);

	if (!err)
		err = xenbus_watch_frontend(disk, why);
	if (err)
		return err;
	disk->offered = false;
	set_phase(disk, DISK_STARTING);
	return xenbus_disk_start(disk, xenbus_disk_arrives(disk), disk_started, why);
}

static void disk_look_anew(struct xenbus_disk *disk)
{
	set_phase(disk, DISK_NEW);
	xenbus_disk_look(disk);
}

/* The tapdisk of an earlier daemon has answered at last, or is no more. */
static void disk_answered(void *arg, struct td_tapdisk *tap, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase == DISK_STARTING)
		disk_look_anew(disk);
}

/* What served other nodes has made room. */
static void disk_made_room(void *arg, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (err)
		td_log(disk->name, LOG_ERR, "%s", why);
	if (disk->phase != DISK_STARTING)
		return;
	if (disk->tap)
		td_tapdisk_kill(disk->tap, disk_made_room, disk); /* it would not end */
	else
		disk_look_anew(disk);
}

/* Whether the tapdisk of that name serves what the nodes name now: the disk may have
 * been replaced while no daemon looked. */
static bool serves_the_nodes(struct xenbus_disk *disk)
{
	struct vdev_params parsed;
	struct td_why why;
	bool read_only, same;

	if (xenbus_read_mode(disk, &read_only, &why) || xenbus_read_params(disk, &parsed, &why))
		return true; /* nothing better is known */
	same = td_tapdisk_serves_as(disk->tap, parsed.spec, read_only);
	free(parsed.spec);
	return same;
}

/*
 * There is a tapdisk of its name: an earlier daemon started it. True: it is asked, or
 * ended, and the nodes are looked at again afterwards. Whose guest is connected keeps
 * what it is connected to: nobody replaces a disk under a guest.
 */
static bool disk_must_wait(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	if (td_tapdisk_state(disk->tap) == TAPDISK_STARTING) {
		td_tapdisk_on_start(disk->tap, disk_answered, disk);
	} else if (td_tapdisk_state(disk->tap) != TAPDISK_SERVING ||
		   (view->back != XENBUS_CONNECTED && !serves_the_nodes(disk))) {
		td_log(disk->name, LOG_NOTICE, "%s is served no more: stopped",
		       td_tapdisk_spec(disk->tap));
		td_tapdisk_stop(disk->tap, disk_made_room, disk);
	} else {
		return false;
	}
	set_phase(disk, DISK_STARTING);
	return true;
}

/* What its params node says to us; the spec in it is served already. */
static void read_keys(struct xenbus_disk *disk)
{
	struct vdev_params parsed;
	struct td_why why;

	if (xenbus_read_params(disk, &parsed, &why))
		return;
	disk->keys = parsed.keys;
	free(parsed.spec);
}

/* A tapdisk serves it already. */
static int disk_adopt(struct xenbus_disk *disk, const struct xenbus_view *view, struct td_why *why)
{
	json_t *xen = json_object_get(td_tapdisk_info(disk->tap), "xen");
	int err = xenbus_find_frontend(disk, why);

	if (!err)
		err = xenbus_watch_frontend(disk, why);
	if (err)
		return err;
	read_keys(disk);
	td_log(disk->name, LOG_INFO, "taken over from an earlier daemon");
	disk->offered = store_exists(disk->xs, disk->dir, "hotplug-status");
	if (json_is_object(xen)) {
		if (view->back == XENBUS_INIT_WAIT)
			xenbus_write_state(disk, XENBUS_CONNECTED);
		disk_is_connected(disk);
	} else if (view->back == XENBUS_INITIALISING || !disk->offered) {
		disk_offer(disk);
	} else {
		set_phase(disk, view->back == XENBUS_CLOSED ? DISK_CLOSED : DISK_READY);
		xenbus_disk_look(disk);
	}
	return 0;
}

static void look_new(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	struct td_why why;
	int err;

	if (!view->back) {
		set_phase(disk, DISK_GONE);
		return;
	}
	disk->tap = td_disks_find(disk->disks, disk->name);
	if (disk->tap) {
		td_tapdisk_hold(disk->tap, &disk_holds, disk);
		if (disk_must_wait(disk, view))
			return;
		err = disk_adopt(disk, view, &why);
	} else if (!view->online) {
		if (view->back != XENBUS_CLOSED)
			xenbus_write_over(disk);
		return;
	} else if (view->back == XENBUS_INITIALISING || view->back == XENBUS_INIT_WAIT) {
		err = disk_begin(disk, &why);
	} else if (view->back == XENBUS_CONNECTED) {
		err = td_fail(&why, -ESRCH, "%s: connected, but its tapdisk is gone", disk->dir);
	} else {
		return; /* over; the toolstack removes it */
	}
	if (err) {
		td_log(disk->name, LOG_ERR, "%s", why.text);
		disk_failed(disk, why.text);
	}
}

/* ---- deciding --------------------------------------------------------------------- */

static void look_ready(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	if (is_over(view)) {
		disk_stop(disk);
	} else if (view->front == XENBUS_INITIALISED || view->front == XENBUS_CONNECTED) {
		if (td_tapdisk_peeks(disk->tap)) {
			set_phase(disk, DISK_OPENING);
			xenbus_disk_open(disk);
		} else {
			disk_connect(disk);
		}
	} else if (view->front == XENBUS_CLOSED && view->back == XENBUS_CLOSING) {
		disk_stop(disk);
	}
}

static void look_connected(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	disk->seen |= view->front == XENBUS_CONNECTED;
	if (!view->back || view->front == XENBUS_MISSING || view->front == XENBUS_CLOSED)
		disk_disconnect(disk, false);
	else if (view->front == XENBUS_INITIALISING ||
		 (view->front == XENBUS_INITIALISED && disk->seen))
		disk_disconnect(disk, true); /* it begins anew without a word */
	else if (view->front == XENBUS_CLOSING && view->back == XENBUS_CONNECTED)
		xenbus_write_state(disk, XENBUS_CLOSING);
}

static void look_closed(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	if (is_over(view))
		disk_stop(disk);
	else if (view->front == XENBUS_INITIALISING)
		disk_offer(disk);
}

/* Failed or dead: nothing to drain, and only its removal is awaited. */
static void look_lost(struct xenbus_disk *disk, const struct xenbus_view *view)
{
	if (is_over(view) || view->front == XENBUS_CLOSED || view->back == XENBUS_CLOSING)
		disk_stop(disk);
}

void xenbus_disk_look(struct xenbus_disk *disk)
{
	struct xenbus_view view = xenbus_view(disk);

	switch (disk->phase) {
	case DISK_NEW:
		look_new(disk, &view);
		break;
	case DISK_READY:
		look_ready(disk, &view);
		break;
	case DISK_CONNECTED:
		look_connected(disk, &view);
		break;
	case DISK_CLOSED:
		look_closed(disk, &view);
		break;
	case DISK_FAILED:
	case DISK_DEAD:
		look_lost(disk, &view);
		break;
	case DISK_STARTING:
	case DISK_OPENING:
		if (is_over(&view)) /* opening may take long, or for ever */
			disk_stop(disk);
		break;
	case DISK_CONNECTING:
	case DISK_DISCONNECTING:
	case DISK_STOPPING:
	case DISK_GONE:
		break; /* an answer is awaited, and looks again */
	}
}

/* ---- making ------------------------------------------------------------------------- */

struct xenbus_disk *xenbus_disk_new(struct xs_handle *xs, struct td_disks *disks,
				    const char *base, uint32_t domid, uint32_t devid)
{
	struct xenbus_disk *disk = calloc(1, sizeof(*disk));

	if (!disk)
		return NULL;
	list_init(&disk->link);
	disk->xs = xs;
	disk->disks = disks;
	disk->domid = domid;
	disk->devid = devid;
	td_guest_name(disk->name, domid, devid);
	snprintf(disk->dir, sizeof(disk->dir), "%s/%u/%u", base, domid, devid);
	disk->keys = vdev_default_keys;
	return disk;
}

void xenbus_disk_free(struct xenbus_disk *disk)
{
	if (!disk)
		return;
	list_del(&disk->link);
	td_timer_cancel(&disk->again);
	xenbus_forget_frontend(disk);
	if (disk->tap)
		td_tapdisk_forget(disk->tap, disk);
	free(disk);
}
