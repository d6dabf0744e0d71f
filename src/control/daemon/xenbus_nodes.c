/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The nodes of a disk: what the toolstack and the front end have written, read
 * with doubt, and what we offer. The front end's folder is written by the guest.
 */
#include "control/daemon/xenbus_nodes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "transports/xen/xen.h"

static enum xenbus_state state_of(struct xenbus_disk *disk, const char *dir)
{
	uint64_t state = XENBUS_MISSING;

	if (store_number(disk->xs, dir, "state", XENBUS_CLOSED, &state) != -EINVAL)
		return (enum xenbus_state)state;
	td_log_limited(&disk->noise, disk->name, LOG_WARNING,
		       "%s/state: no state: ignored", dir);
	return XENBUS_GARBAGE;
}

struct xenbus_view xenbus_view(struct xenbus_disk *disk)
{
	uint64_t online = 1;

	store_number(disk->xs, disk->dir, "online", 1, &online);
	return (struct xenbus_view){
		.back = state_of(disk, disk->dir),
		.front = disk->frontend ? state_of(disk, disk->frontend)
					: XENBUS_INITIALISING,
		.online = online,
	};
}

/* It is removed under our hands at times: the watch will tell. */
static void say_unwritten(struct xenbus_disk *disk, int err)
{
	if (err && err != -ENOENT)
		td_log(disk->name, LOG_ERR, "%s: cannot be written: %s", disk->dir,
		       strerror(-err));
}

void xenbus_write(struct xenbus_disk *disk, const struct store_node *nodes, unsigned count)
{
	say_unwritten(disk, store_update(disk->xs, disk->dir, nodes, count));
}

void xenbus_write_state(struct xenbus_disk *disk, enum xenbus_state state)
{
	struct store_node n = store_node("state", "%d", state);

	xenbus_write(disk, &n, 1);
}

/* Written anew since it was looked at: online, and nobody has answered yet. */
static bool is_another(struct xenbus_disk *disk, xs_transaction_t t, const char *state)
{
	AUTO_FREE char *online = store_read(disk->xs, t, disk->dir, "online");
	AUTO_FREE char *frontend = store_read(disk->xs, t, disk->dir, "frontend");
	AUTO_FREE char *front = frontend ? store_read(disk->xs, t, frontend, "state") : NULL;

	return atoi(state) == XENBUS_INITIALISING && online && !strcmp(online, "1") && front;
}

static int write_over(void *arg, xs_transaction_t t)
{
	struct xenbus_disk *disk = arg;
	struct store_node closed = store_node("state", "%d", XENBUS_CLOSED);
	AUTO_FREE char *state = store_read(disk->xs, t, disk->dir, "state");

	if (!state)
		return -errno;
	return is_another(disk, t, state) ? -ENOENT
					  : store_put(disk->xs, t, disk->dir, &closed, 1);
}

void xenbus_write_over(struct xenbus_disk *disk)
{
	say_unwritten(disk, store_change(disk->xs, write_over, disk));
}

/* ---- the two ends -------------------------------------------------------------- */

/* Who is at the other end: the toolstack wrote it, but look. */
int xenbus_find_frontend(struct xenbus_disk *disk, struct td_why *why)
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

int xenbus_watch_frontend(struct xenbus_disk *disk, struct td_why *why)
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

int xenbus_read_mode(struct xenbus_disk *disk, bool *read_only, struct td_why *why)
{
	AUTO_FREE char *mode = store_read(disk->xs, XBT_NULL, disk->dir, "mode");

	if (!mode || (*mode != 'r' && *mode != 'w'))
		return td_fail(why, -EINVAL, "%s/mode: r or w is wanted%s%.8s", disk->dir,
			       mode ? ", not " : "", mode ? mode : "");
	*read_only = *mode == 'r';
	return 0;
}

int xenbus_read_params(struct xenbus_disk *disk, struct vdev_params *out, struct td_why *why)
{
	AUTO_FREE char *params = store_read(disk->xs, XBT_NULL, disk->dir, "params");

	if (!params)
		return td_fail(why, -errno, "%s/params: %s", disk->dir, strerror(errno));
	return vdev_params_parse(params, out, why);
}

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

void xenbus_forget_frontend(struct xenbus_disk *disk)
{
	AUTO_FREE char *path = NULL;

	if (disk->watched && asprintf(&path, "%s/state", disk->frontend) >= 0)
		xs_unwatch(disk->xs, path, disk->name);
	disk->watched = false;
	free(disk->frontend);
	disk->frontend = NULL;
}

void xenbus_remove_attached(struct xenbus_disk *disk)
{
	store_change(disk->xs, remove_both, disk);
}

/* ---- the rings, as the guest has published them ---------------------------------- */

/* The number of a node of a folder of the front end's; *why names the node. */
static int front_number(struct xenbus_disk *disk, const char *dir, const char *key, uint64_t max,
			uint64_t *out, struct td_why *why)
{
	AUTO_FREE char *text = store_read(disk->xs, XBT_NULL, dir, key);

	if (!text)
		return td_fail(why, -errno, "%s/%s: %s", dir, key, strerror(errno));
	if (store_parse(text, max, out))
		return td_fail(why, -EINVAL, "%s/%s: \"%.32s\" is no number up to %" PRIu64,
			       dir, key, text, max);
	return 0;
}

/* Likewise, but it may be missing: then *out stays as it is. */
static int front_option(struct xenbus_disk *disk, const char *key, uint64_t max, uint64_t *out,
			struct td_why *why)
{
	if (!store_exists(disk->xs, disk->frontend, key))
		return 0;
	return front_number(disk, disk->frontend, key, max, out, why);
}

/* What we, or a back end before us, have offered: this is what the guest may ask for. */
static uint64_t offered(struct xenbus_disk *disk, const char *key, uint64_t max, uint64_t otherwise)
{
	uint64_t value = otherwise;

	store_number(disk->xs, disk->dir, key, UINT32_MAX, &value);
	return min_u64(value, max);
}

/* Pages of each ring: by today's node, or by the one that some older front ends use. */
static int front_order(struct xenbus_disk *disk, uint64_t *order, struct td_why *why)
{
	uint64_t max = offered(disk, "max-ring-page-order", TD_XEN_MAX_RING_ORDER, 0);
	uint64_t pages = 1;
	int err;

	*order = 0;
	if (store_exists(disk->xs, disk->frontend, "ring-page-order"))
		return front_option(disk, "ring-page-order", max, order, why);
	err = front_option(disk, "num-ring-pages", 1u << max, &pages, why);
	if (err)
		return err;
	if (!is_pow2(pages))
		return td_fail(why, -EINVAL, "%s/num-ring-pages: %" PRIu64 " is no power of two",
			       disk->frontend, pages);
	while (1u << *order < pages)
		++*order;
	return 0;
}

static int front_refs(struct xenbus_disk *disk, const char *dir, uint64_t order, json_t *refs,
		      struct td_why *why)
{
	bool one = !order && store_exists(disk->xs, dir, "ring-ref");

	for (unsigned i = 0; i < 1u << order; i++) {
		char key[16];
		uint64_t ref;
		int err;

		snprintf(key, sizeof(key), one ? "ring-ref" : "ring-ref%u", i);
		err = front_number(disk, dir, key, UINT32_MAX, &ref, why);
		if (err)
			return err;
		json_array_append_new(refs, json_integer((json_int_t)ref));
	}
	return 0;
}

/* One ring, from its folder, to the end of rings. */
static int front_ring(struct xenbus_disk *disk, const char *dir, uint64_t order, json_t *rings,
		      struct td_why *why)
{
	json_t *refs = json_array();
	uint64_t channel;
	int err = front_number(disk, dir, "event-channel", INT32_MAX, &channel, why);

	if (!err)
		err = front_refs(disk, dir, order, refs, why);
	if (!err)
		json_array_append_new(rings, json_pack("{s:O, s:I}", "ring-refs", refs,
						       "event-channel", (json_int_t)channel));
	json_decref(refs);
	return err;
}

/* A front end of one ring has its nodes in its own folder, one of several in a folder
 * for each: queue-0, queue-1 ... */
static int front_rings(struct xenbus_disk *disk, uint64_t order, json_t *rings,
		       struct td_why *why)
{
	uint64_t max = offered(disk, "multi-queue-max-queues", TD_XEN_MAX_RINGS, 1), count = 1;
	int err = front_option(disk, "multi-queue-num-queues", max, &count, why);

	if (!err && !count)
		err = td_fail(why, -EINVAL, "%s/multi-queue-num-queues: 0", disk->frontend);
	if (!err && count == 1)
		return front_ring(disk, disk->frontend, order, rings, why);
	for (uint64_t i = 0; !err && i < count; i++) {
		AUTO_FREE char *dir = NULL;

		if (asprintf(&dir, "%s/queue-%" PRIu64, disk->frontend, i) < 0)
			return td_fail(why, -ENOMEM, "no memory");
		err = front_ring(disk, dir, order, rings, why);
	}
	return err;
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

/* Both ends must want it, and a guest that does not say so does not. */
static int front_persistent(struct xenbus_disk *disk, uint64_t *persistent, struct td_why *why)
{
	*persistent = 0;
	if (!offered(disk, "feature-persistent", 1, 0))
		return 0;
	return front_option(disk, "feature-persistent", 1, persistent, why);
}

/* Everything the guest has published, checked, as tapdisk wants it; and what it was
 * offered, so that it gets nothing else. */
int xenbus_read_ring(struct xenbus_disk *disk, json_t **out, struct td_why *why)
{
	const char *protocol;
	uint64_t order, persistent;
	json_t *rings;
	int err = front_order(disk, &order, why);

	if (!err)
		err = front_protocol(disk, &protocol, why);
	if (!err)
		err = front_persistent(disk, &persistent, why);
	if (err)
		return err;
	rings = json_array();
	err = front_rings(disk, order, rings, why);
	if (err) {
		json_decref(rings);
		return err;
	}
	*out = json_pack("{s:i, s:i, s:i, s:o, s:s, s:s, s:b, s:b, s:b, s:b, s:i, s:i, s:i}",
			 "domid", (int)disk->domid, "devid", (int)disk->devid,
			 "ring-order", (int)order, "rings", rings, "protocol", protocol,
			 "data", disk->keys.data,
			 "flush-cache", (int)offered(disk, "feature-flush-cache", 1, 0),
			 "barrier", (int)offered(disk, "feature-barrier", 1, 0),
			 "discard", (int)offered(disk, "feature-discard", 1, 0),
			 "persistent", (int)persistent,
			 "indirect", (int)offered(disk, "feature-max-indirect-segments",
						  TD_XEN_MAX_SEGMENTS, 0),
			 "sector-size", (int)offered(disk, "sector-size", 65536, 512),
			 "poll", (int)disk->keys.poll_us);
	return *out ? 0 : td_fail(why, -ENOMEM, "no memory");
}

/* ---- the offer ------------------------------------------------------------------ */

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

/* ---- sectors: the image's, or larger ones that the disk's specification wants */

static uint64_t sector_size(struct xenbus_disk *disk)
{
	return max_u64(disk->keys.sector, td_tapdisk_block_size(disk->tap));
}

static uint64_t whole_size(struct xenbus_disk *disk)
{
	return round_down(td_tapdisk_size(disk->tap), sector_size(disk));
}

/* blkif wants a disk to have whole physical sectors. */
static uint64_t physical_size(struct xenbus_disk *disk)
{
	uint64_t physical = max_u64(disk->keys.physical, sector_size(disk));

	return is_aligned(whole_size(disk), physical) ? physical : sector_size(disk);
}

static uint64_t granularity(struct xenbus_disk *disk)
{
	json_t *cluster = json_object_get(td_tapdisk_info(disk->tap), "cluster");

	return max_u64((uint64_t)json_integer_value(cluster), sector_size(disk));
}

/* As many rings as the disk has queues, if nothing else is said. More may have been
 * offered already: by xen-blkback, to a guest that has chosen by it; that is not taken
 * away. */
static uint64_t max_rings(struct xenbus_disk *disk)
{
	json_t *queues = json_object_get(td_tapdisk_info(disk->tap), "queues");
	uint64_t own = disk->keys.rings ? disk->keys.rings
					: max_u64((uint64_t)json_integer_value(queues), 1);

	return max_u64(min_u64(own, TD_XEN_MAX_RINGS),
		       offered(disk, "multi-queue-max-queues", TD_XEN_MAX_RINGS, 1));
}

static bool wants_discard(struct xenbus_disk *disk)
{
	uint64_t enable = 1;

	store_number(disk->xs, disk->dir, "discard-enable", 1, &enable);
	return enable && disk->keys.discard && tap_can(disk->tap, "discard");
}

/* Bits of the node info, as blkif.h has them. */
#define INFO_CDROM 1
#define INFO_REMOVABLE 2
#define INFO_READ_ONLY 4

static unsigned info_bits(struct xenbus_disk *disk)
{
	AUTO_FREE char *type = store_read(disk->xs, XBT_NULL, disk->dir, "device-type");
	uint64_t removable = 0;

	store_number(disk->xs, disk->dir, "removable", 1, &removable);
	return (type && !strcmp(type, "cdrom") ? INFO_CDROM : 0) |
	       (removable ? INFO_REMOVABLE : 0) |
	       (td_tapdisk_read_only(disk->tap) ? INFO_READ_ONLY : 0);
}

void xenbus_write_features(struct xenbus_disk *disk)
{
	bool write = !td_tapdisk_read_only(disk->tap);
	bool discard = write && wants_discard(disk);
	struct store_node nodes[] = {
		store_node("feature-flush-cache", "%d", write && disk->keys.flush),
		store_node("feature-barrier", "%d", write && disk->keys.barrier),
		store_node("feature-discard", "%d", discard),
		store_node("discard-secure", "0"),
		store_node("discard-alignment", "0"),
		store_node("discard-granularity", "%" PRIu64, granularity(disk)),
		store_node("feature-persistent", "%u", disk->keys.persistent),
		store_node("feature-max-indirect-segments", "%u", disk->keys.segments),
		store_node("max-ring-page-order", "%u", disk->keys.ring_order),
		store_node("max-ring-pages", "%u", 1u << disk->keys.ring_order),
		store_node("multi-queue-max-queues", "%" PRIu64, max_rings(disk)),
		store_node("sector-size", "%" PRIu64, sector_size(disk)),
		store_node("physical-sector-size", "%" PRIu64, physical_size(disk)),
		store_node("info", "%u", info_bits(disk)),
		/* In units of 512 bytes whatever sector-size says. */
		store_node("sectors", "%" PRIu64, whole_size(disk) / 512),
		store_node("hotplug-status", "connected"),
	};

	xenbus_write_emulated(disk); /* is read once hotplug-status says connected */
	xenbus_write(disk, nodes, ARRAY_SIZE(nodes));
	disk->offered = true;
}

void xenbus_write_offer(struct xenbus_disk *disk)
{
	struct store_node nodes[] = {
		store_node("sectors", "%" PRIu64, whole_size(disk) / 512),
		store_node("state", "%d", XENBUS_INIT_WAIT),
	};

	if (!disk->offered)
		xenbus_write_features(disk);
	xenbus_write(disk, nodes, ARRAY_SIZE(nodes));
}

void xenbus_write_size(struct xenbus_disk *disk, enum xenbus_state state)
{
	AUTO_FREE char *now = store_read(disk->xs, XBT_NULL, disk->dir, "sectors");
	struct store_node nodes[] = {
		store_node("sectors", "%" PRIu64, whole_size(disk) / 512),
		store_node("state", "%d", state),
	};

	if (!now || strcmp(now, nodes[0].value))
		xenbus_write(disk, nodes, ARRAY_SIZE(nodes));
}
