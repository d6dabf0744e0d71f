/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's disk, from its nodes in xenstore to its tapdisk and back:
 *
 *   NEW -> STARTING -> READY -> CONNECTING -> CONNECTED -> DISCONNECTING
 *             |          ^                                  |        |
 *             v          +--------- CLOSED <----------------+        v
 *           FAILED      front end comes back   online         STOPPING -> NEW
 *
 * There is one entrance, xenbus_disk_look(): it reads both states and "online"
 * and decides by them and by the phase alone, so that events may come twice, late
 * or in any order, and a new daemon finds its place by looking. While tapdisk is
 * asked for something nothing is decided; its answer looks again.
 *
 * The front end's folder is written by the guest: all in it is doubted.
 */
#include "control/daemon/xenbus_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "control/daemon/vdev.h"
#include "control/daemon/xenbus_store.h"
#include "transports/xen/xen.h"

/* What both ends say now. */
struct view {
	enum xenbus_state back, front;
	bool online;
};

static enum xenbus_state state_of(struct xenbus_disk *disk, const char *dir)
{
	uint64_t state = XENBUS_MISSING;

	if (store_number(disk->xs, dir, "state", XENBUS_CLOSED, &state) != -EINVAL)
		return (enum xenbus_state)state;
	td_log_limited(&disk->complaints, disk->name, LOG_WARNING,
		       "%s/state: no state: ignored", dir);
	return XENBUS_GARBAGE;
}

static struct view view_of(struct xenbus_disk *disk)
{
	uint64_t online = 1;

	store_number(disk->xs, disk->dir, "online", 1, &online);
	return (struct view){
		.back = state_of(disk, disk->dir),
		.front = disk->frontend ? state_of(disk, disk->frontend)
					: XENBUS_INITIALISING,
		.online = online,
	};
}

static void set_phase(struct xenbus_disk *disk, enum xenbus_phase phase)
{
	disk->phase = phase;
	if (disk->changed)
		disk->changed(disk->changed_arg, disk);
}

static void write_nodes(struct xenbus_disk *disk, const struct store_node *nodes,
			unsigned count)
{
	int err = store_update(disk->xs, disk->dir, nodes, count);

	/* It is removed under our hands at times: the watch will tell. */
	if (err && err != -ENOENT)
		td_log(disk->name, LOG_ERR, "%s: cannot be written: %s", disk->dir,
		       strerror(-err));
}

static void write_state(struct xenbus_disk *disk, enum xenbus_state state)
{
	struct store_node n = store_node("state", "%d", state);

	write_nodes(disk, &n, 1);
}

/* ---- failure --------------------------------------------------------------- */

/*
 * The toolstack waits for state 2 before it runs the script that reads
 * hotplug-error: so state 2 it is, and nobody waits for a time-out.
 */
static void disk_failed(struct xenbus_disk *disk, const char *why)
{
	struct store_node nodes[] = {
		store_node("hotplug-error", "%s", why),
		store_node("state", "%d", XENBUS_INIT_WAIT),
	};

	snprintf(disk->why.text, sizeof(disk->why.text), "%s", why);
	write_nodes(disk, nodes, ARRAY_SIZE(nodes));
	set_phase(disk, DISK_FAILED);
}

/* What the front end has published is of no use: it is told to close. */
static void front_refused(struct xenbus_disk *disk, const char *why)
{
	struct store_node nodes[] = {
		store_node("error", "%s", why),
		store_node("state", "%d", XENBUS_CLOSED),
	};

	td_log(disk->name, LOG_ERR, "%s", why);
	write_nodes(disk, nodes, ARRAY_SIZE(nodes));
	set_phase(disk, DISK_CLOSED);
}

/* ---- the end --------------------------------------------------------------- */

static int remove_both(void *arg, xs_transaction_t t)
{
	struct xenbus_disk *disk = arg;
	AUTO_FREE char *ours = store_read(disk->xs, t, disk->dir, XENBUS_ATTACHED);

	if (!ours)
		return -ENOENT;
	if (disk->frontend)
		store_remove(disk->xs, t, disk->frontend);
	store_remove(disk->xs, t, disk->dir);
	return 0;
}

static void forget_frontend(struct xenbus_disk *disk)
{
	AUTO_FREE char *path = NULL;

	if (disk->watched && asprintf(&path, "%s/state", disk->frontend) >= 0)
		xs_unwatch(disk->xs, path, disk->name);
	disk->watched = false;
	free(disk->frontend);
	disk->frontend = NULL;
}

static void disk_over(struct xenbus_disk *disk)
{
	disk->tap = NULL;
	write_state(disk, XENBUS_CLOSED);
	store_change(disk->xs, remove_both, disk);
	forget_frontend(disk);
	td_log(disk->name, LOG_INFO, "closed");
	set_phase(disk, DISK_NEW);
	xenbus_disk_look(disk);
}

static void disk_stopped(void *arg, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (err)
		td_log(disk->name, LOG_ERR, "%s", why);
	if (td_disks_find(disk->disks, disk->name) == disk->tap)
		td_tapdisk_kill(disk->tap, disk_stopped, disk); /* it would not end */
	else
		disk_over(disk);
}

static void disk_stop(struct xenbus_disk *disk)
{
	if (!disk->tap) {
		disk_over(disk);
		return;
	}
	set_phase(disk, DISK_STOPPING);
	td_tapdisk_stop(disk->tap, disk_stopped, disk);
}

static bool is_over(const struct view *view)
{
	return !view->back || !view->front || !view->online;
}

static void disk_disconnected(void *arg, int err, const char *why, json_t *result)
{
	struct xenbus_disk *disk = arg;
	struct view view = view_of(disk);

	if (disk->phase != DISK_DISCONNECTING)
		return; /* its tapdisk died meanwhile */
	if (err)
		td_log(disk->name, LOG_ERR, "xen-disconnect: %s", why);
	if (is_over(&view)) {
		disk_stop(disk);
		return;
	}
	td_log(disk->name, LOG_INFO, "the front end has disconnected");
	write_state(disk, XENBUS_CLOSED);
	set_phase(disk, DISK_CLOSED);
	xenbus_disk_look(disk);
}

static void disk_disconnect(struct xenbus_disk *disk)
{
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
		disk_disconnect(disk);
}

static void disk_died(void *arg, struct td_tapdisk *tap, const char *cause)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_STOPPING) {
		set_phase(disk, DISK_DEAD);
		xenbus_disk_look(disk);
	}
}

/* ---- connecting -------------------------------------------------------------- */

/* The number of a node of the front end; *why names the node. */
static int front_number(struct xenbus_disk *disk, const char *key, uint64_t max,
			uint64_t *out, struct td_why *why)
{
	AUTO_FREE char *text = store_read(disk->xs, XBT_NULL, disk->frontend, key);

	if (!text)
		return td_fail(why, -errno, "%s/%s: %s", disk->frontend, key,
			       strerror(errno));
	if (store_parse(text, max, out))
		return td_fail(why, -EINVAL, "%s/%s: \"%.32s\" is no number up to %" PRIu64,
			       disk->frontend, key, text, max);
	return 0;
}

static int front_refs(struct xenbus_disk *disk, uint64_t order, json_t *refs,
		      struct td_why *why)
{
	bool one = !order && store_exists(disk->xs, disk->frontend, "ring-ref");

	for (unsigned i = 0; i < 1u << order; i++) {
		char key[16];
		uint64_t ref;
		int err;

		snprintf(key, sizeof(key), one ? "ring-ref" : "ring-ref%u", i);
		err = front_number(disk, key, UINT32_MAX, &ref, why);
		if (err)
			return err;
		json_array_append_new(refs, json_integer((json_int_t)ref));
	}
	return 0;
}

static int front_protocol(struct xenbus_disk *disk, const char **out, struct td_why *why)
{
	static const char *const known[] = { "x86_64-abi", "x86_32-abi", "native" };
	AUTO_FREE char *text = store_read(disk->xs, XBT_NULL, disk->frontend, "protocol");

	*out = "native";
	if (!text)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		if (!strcmp(text, known[i])) {
			*out = known[i];
			return 0;
		}
	}
	return td_fail(why, -EINVAL, "%s/protocol: \"%.32s\" is not known", disk->frontend,
		       text);
}

/* Everything the guest has published, checked, as tapdisk wants it. */
static int front_read(struct xenbus_disk *disk, json_t **out, struct td_why *why)
{
	uint64_t order = 0, channel, queues = 1;
	const char *protocol;
	json_t *refs;
	int err;

	if (store_exists(disk->xs, disk->frontend, "multi-queue-num-queues")) {
		err = front_number(disk, "multi-queue-num-queues", UINT32_MAX, &queues, why);
		if (err)
			return err;
		if (queues != 1)
			return td_fail(why, -EINVAL, "%s/multi-queue-num-queues: %" PRIu64
				       " queues were not offered", disk->frontend, queues);
	}
	if (store_exists(disk->xs, disk->frontend, "ring-page-order")) {
		err = front_number(disk, "ring-page-order", TD_XEN_MAX_RING_ORDER, &order,
				   why);
		if (err)
			return err;
	}
	err = front_number(disk, "event-channel", INT32_MAX, &channel, why);
	if (!err)
		err = front_protocol(disk, &protocol, why);
	if (err)
		return err;
	refs = json_array();
	err = front_refs(disk, order, refs, why);
	if (err) {
		json_decref(refs);
		return err;
	}
	*out = json_pack("{s:i, s:i, s:i, s:o, s:I, s:s, s:s}", "domid", (int)disk->domid,
			 "devid", (int)disk->devid, "ring-order", (int)order,
			 "ring-refs", refs, "event-channel", (json_int_t)channel,
			 "protocol", protocol, "data", disk->data);
	return *out ? 0 : td_fail(why, -ENOMEM, "no memory");
}

static void disk_is_connected(struct xenbus_disk *disk)
{
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
		front_refused(disk, why);
		xenbus_disk_look(disk);
		return;
	}
	write_state(disk, XENBUS_CONNECTED);
	td_log(disk->name, LOG_INFO, "connected to domain %u", disk->domid);
	disk_is_connected(disk);
}

static void disk_connect(struct xenbus_disk *disk)
{
	struct td_why why;
	json_t *params;

	if (front_read(disk, &params, &why)) {
		front_refused(disk, why.text);
		return;
	}
	set_phase(disk, DISK_CONNECTING);
	td_tapdisk_call(disk->tap, "xen-connect", params, disk_connected, disk);
}

/* ---- the offer ----------------------------------------------------------------- */

static bool tap_can(struct td_tapdisk *tap, const char *what)
{
	json_t *can = json_object_get(td_tapdisk_info(tap), "can"), *item;
	size_t i;

	json_array_foreach(can, i, item) {
		if (json_is_string(item) && !strcmp(json_string_value(item), what))
			return true;
	}
	return false;
}

static uint64_t granularity(struct td_tapdisk *tap)
{
	json_t *cluster = json_object_get(td_tapdisk_info(tap), "cluster");

	return max_u64((uint64_t)json_integer_value(cluster), td_tapdisk_block_size(tap));
}

static bool wants_discard(struct xenbus_disk *disk)
{
	uint64_t enable = 1;

	store_number(disk->xs, disk->dir, "discard-enable", 1, &enable);
	return enable && tap_can(disk->tap, "discard");
}

static unsigned info_bits(struct xenbus_disk *disk)
{
	AUTO_FREE char *type = store_read(disk->xs, XBT_NULL, disk->dir, "device-type");

	return (type && !strcmp(type, "cdrom") ? 1 : 0) |
	       (td_tapdisk_read_only(disk->tap) ? 4 : 0);
}

/* All that the front end may want to know, and state 2, at once. */
static void disk_offer(struct xenbus_disk *disk)
{
	bool write = !td_tapdisk_read_only(disk->tap);
	bool discard = write && wants_discard(disk);
	struct store_node nodes[] = {
		store_node("feature-flush-cache", "%d", write),
		store_node("feature-barrier", "%d", write),
		store_node("feature-discard", "%d", discard),
		store_node("discard-secure", "0"),
		store_node("discard-alignment", "0"),
		store_node("discard-granularity", "%" PRIu64, granularity(disk->tap)),
		store_node("feature-persistent", "0"),
		store_node("feature-max-indirect-segments", "%d", TD_XEN_MAX_SEGMENTS),
		store_node("max-ring-page-order", "%d", TD_XEN_MAX_RING_ORDER),
		store_node("multi-queue-max-queues", "1"),
		/* In units of 512 bytes whatever sector-size says. */
		store_node("sectors", "%" PRIu64, td_tapdisk_size(disk->tap) / 512),
		store_node("sector-size", "%u", td_tapdisk_block_size(disk->tap)),
		store_node("physical-sector-size", "%u", td_tapdisk_block_size(disk->tap)),
		store_node("info", "%u", info_bits(disk)),
		store_node("hotplug-status", "connected"),
		store_node("state", "%d", XENBUS_INIT_WAIT),
	};

	write_nodes(disk, nodes, ARRAY_SIZE(nodes));
	set_phase(disk, DISK_READY);
	xenbus_disk_look(disk);
}

static void disk_started(void *arg, struct td_tapdisk *tap, int err, const char *why)
{
	struct xenbus_disk *disk = arg;
	struct view view = view_of(disk);

	if (err) {
		disk->tap = NULL;
		disk_failed(disk, why);
		xenbus_disk_look(disk);
		return;
	}
	td_tapdisk_on_death(tap, disk_died, disk);
	if (!view.back || !view.online) /* changed their mind */
		disk_stop(disk);
	else
		disk_offer(disk);
}

static int disk_start(struct xenbus_disk *disk, const char *params, bool read_only,
		      struct td_why *why)
{
	struct vdev_params parsed;
	char user[32];
	int err = vdev_params_parse(params, &parsed, why);

	if (err)
		return err;
	snprintf(user, sizeof(user), "domain %u", disk->domid);
	snprintf(disk->data, sizeof(disk->data), "%s", parsed.data);
	set_phase(disk, DISK_STARTING);
	disk->tap = td_tapdisk_start(disk->disks, &(struct td_tapdisk_want){
		.spec = parsed.spec, .name = disk->name, .user = user,
		.read_only = read_only,
	}, disk_started, disk, &err, why);
	free(parsed.spec);
	return disk->tap ? 0 : err;
}

/* ---- a new one ------------------------------------------------------------------ */

/* Who is at the other end: the toolstack wrote it, but look. */
static int find_frontend(struct xenbus_disk *disk, struct td_why *why)
{
	AUTO_FREE char *frontend = store_read(disk->xs, XBT_NULL, disk->dir, "frontend");
	char prefix[40];
	uint64_t domid;

	if (!frontend)
		return td_fail(why, -errno, "%s/frontend: %s", disk->dir, strerror(errno));
	if (store_number(disk->xs, disk->dir, "frontend-id", 0x7fef, &domid) ||
	    domid != disk->domid)
		return td_fail(why, -EINVAL, "%s/frontend-id: %u is wanted", disk->dir,
			       disk->domid);
	snprintf(prefix, sizeof(prefix), "/local/domain/%u/", disk->domid);
	if (strncmp(frontend, prefix, strlen(prefix)))
		return td_fail(why, -EINVAL, "%s/frontend: %.64s does not belong to domain %u",
			       disk->dir, frontend, disk->domid);
	disk->frontend = take(frontend);
	return 0;
}

static int watch_frontend(struct xenbus_disk *disk, struct td_why *why)
{
	AUTO_FREE char *path = NULL;

	if (asprintf(&path, "%s/state", disk->frontend) < 0)
		return td_fail(why, -ENOMEM, "no memory");
	if (!xs_watch(disk->xs, path, disk->name))
		return td_fail(why, -errno, "%s: cannot be watched: %s", path,
			       strerror(errno));
	disk->watched = true;
	return 0;
}

static int read_mode(struct xenbus_disk *disk, bool *read_only, struct td_why *why)
{
	AUTO_FREE char *mode = store_read(disk->xs, XBT_NULL, disk->dir, "mode");

	if (!mode || (*mode != 'r' && *mode != 'w'))
		return td_fail(why, -EINVAL, "%s/mode: r or w is wanted%s%.8s", disk->dir,
			       mode ? ", not " : "", mode ? mode : "");
	*read_only = *mode == 'r';
	return 0;
}

static int disk_begin(struct xenbus_disk *disk, struct td_why *why)
{
	AUTO_FREE char *params = store_read(disk->xs, XBT_NULL, disk->dir, "params");
	bool read_only = false;
	int err;

	if (!params)
		return td_fail(why, -errno, "%s/params: %s", disk->dir, strerror(errno));
	err = find_frontend(disk, why);
	if (!err)
		err = watch_frontend(disk, why);
	if (!err)
		err = read_mode(disk, &read_only, why);
	if (!err)
		err = disk_start(disk, params, read_only, why);
	return err;
}

/* A tapdisk serves it already: an earlier daemon started it. */
static int disk_adopt(struct xenbus_disk *disk, const struct view *view, struct td_why *why)
{
	json_t *xen = json_object_get(td_tapdisk_info(disk->tap), "xen");
	const char *data = json_string_value(json_object_get(xen, "data"));
	int err = find_frontend(disk, why);

	if (!err)
		err = watch_frontend(disk, why);
	if (err)
		return err;
	snprintf(disk->data, sizeof(disk->data), "%s", data ? data : "auto");
	td_tapdisk_on_death(disk->tap, disk_died, disk);
	td_log(disk->name, LOG_INFO, "taken over from an earlier daemon");
	if (json_is_object(xen)) {
		if (view->back == XENBUS_INIT_WAIT)
			write_state(disk, XENBUS_CONNECTED);
		disk_is_connected(disk);
	} else if (view->back == XENBUS_INITIALISING) {
		disk_offer(disk);
	} else {
		set_phase(disk, view->back == XENBUS_CLOSED ? DISK_CLOSED : DISK_READY);
		xenbus_disk_look(disk);
	}
	return 0;
}

static void look_new(struct xenbus_disk *disk, const struct view *view)
{
	struct td_why why;
	int err;

	if (!view->back) {
		set_phase(disk, DISK_GONE);
		return;
	}
	disk->tap = td_disks_find(disk->disks, disk->name);
	if (disk->tap) {
		err = disk_adopt(disk, view, &why);
	} else if (!view->online) {
		if (view->back != XENBUS_CLOSED)
			write_state(disk, XENBUS_CLOSED);
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

static void look_ready(struct xenbus_disk *disk, const struct view *view)
{
	if (is_over(view))
		disk_stop(disk);
	else if (view->front == XENBUS_INITIALISED || view->front == XENBUS_CONNECTED)
		disk_connect(disk);
	else if (view->front == XENBUS_CLOSED && view->back == XENBUS_CLOSING)
		disk_stop(disk);
}

static void look_connected(struct xenbus_disk *disk, const struct view *view)
{
	if (!view->back || view->front == XENBUS_MISSING || view->front == XENBUS_CLOSED)
		disk_disconnect(disk);
	else if (view->front == XENBUS_INITIALISING) /* begins anew without a word */
		disk_disconnect(disk);
	else if (view->front == XENBUS_CLOSING && view->back == XENBUS_CONNECTED)
		write_state(disk, XENBUS_CLOSING);
}

static void look_closed(struct xenbus_disk *disk, const struct view *view)
{
	if (is_over(view))
		disk_stop(disk);
	else if (view->front == XENBUS_INITIALISING)
		disk_offer(disk);
}

/* Failed or dead: nothing to drain, and only its removal is awaited. */
static void look_lost(struct xenbus_disk *disk, const struct view *view)
{
	if (is_over(view) || view->front == XENBUS_CLOSED || view->back == XENBUS_CLOSING)
		disk_stop(disk);
}

void xenbus_disk_look(struct xenbus_disk *disk)
{
	struct view view = view_of(disk);

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
	snprintf(disk->name, sizeof(disk->name), "vbd-%u-%u", domid, devid);
	snprintf(disk->dir, sizeof(disk->dir), "%s/%u/%u", base, domid, devid);
	snprintf(disk->data, sizeof(disk->data), "auto");
	return disk;
}

void xenbus_disk_free(struct xenbus_disk *disk)
{
	if (!disk)
		return;
	list_del(&disk->link);
	forget_frontend(disk);
	if (disk->tap) {
		td_tapdisk_on_death(disk->tap, NULL, NULL);
		td_tapdisk_forget(disk->tap, disk);
	}
	free(disk);
}
