/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that migrates has its disk twice for a while: where it goes the toolstack
 * attaches the disk before where it comes from lets go of it. So at first only the
 * image's size is looked at, while the other side still writes:
 *
 *   attached --> tapdisk --peek: no lock, no map --> offered, READY
 *   front end Initialised: the guest runs here --> the peeking tapdisk ends
 *     --> its disk there is closed? --> a new tapdisk opens for writing --> connected
 *             ^ no: again, until the start limit is over
 *
 * Nothing that was read before the other side had closed is kept.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "control/daemon/xenbus_nodes.h"

#define AGAIN_MS 100
#define AGAIN_ELSEWHERE_MS 1000 /* a try is a process then */
#define INCOMING "--incoming"   /* xl's word for a domain that migrates to here */

/* ---- who arrives ------------------------------------------------------------------ */

static char *domain_node(struct xenbus_disk *disk, uint32_t domid, const char *key)
{
	char dir[40];

	snprintf(dir, sizeof(dir), "/local/domain/%u", domid);
	return store_read(disk->xs, XBT_NULL, dir, key);
}

/* Two domains are one guest if they have the same UUID, which "vm" ends with. */
static bool same_guest(struct xenbus_disk *disk, uint32_t other)
{
	AUTO_FREE char *ours = domain_node(disk, disk->domid, "vm");
	AUTO_FREE char *theirs = domain_node(disk, other, "vm");

	return other != disk->domid && ours && theirs && *ours && !strcmp(ours, theirs);
}

static bool is_incoming(struct xenbus_disk *disk)
{
	AUTO_FREE char *name = domain_node(disk, disk->domid, "name");
	size_t len = name ? strlen(name) : 0, tail = strlen(INCOMING);

	return len > tail && !strcmp(name + len - tail, INCOMING);
}

/* The disk of this host that keeps the image from being written; NULL: none does. */
static struct td_tapdisk *in_the_way(struct xenbus_disk *disk)
{
	struct vdev_params params;
	struct td_tapdisk *other;
	struct td_why why;

	if (xenbus_read_params(disk, &params, &why))
		return NULL;
	other = td_disks_in_the_way(disk->disks, params.spec);
	free(params.spec);
	return other;
}

bool xenbus_disk_arrives(struct xenbus_disk *disk)
{
	uint32_t domid, devid;
	struct td_tapdisk *other;
	struct td_why why;
	bool read_only;

	if (xenbus_read_mode(disk, &read_only, &why) || read_only)
		return false;
	other = in_the_way(disk);
	if (!other)
		return is_incoming(disk);
	return td_guest_name_parse(td_tapdisk_name(other), &domid, &devid) &&
	       same_guest(disk, domid);
}

/* ---- opening for writing ------------------------------------------------------------ */

static void open_now(struct xenbus_disk *disk);

static void fired(struct td_timer *timer)
{
	open_now(container_of(timer, struct xenbus_disk, again));
}

static void try_again(struct xenbus_disk *disk, unsigned ms, const char *why)
{
	char late[sizeof(((struct td_why *)0)->text) + 64];

	if (disk->patience_ms < ms) {
		snprintf(late, sizeof(late), "%s: not closed there in %u s", why,
			 td_disks_start_limit(disk->disks));
		xenbus_disk_opened(disk, -EBUSY, late);
		return;
	}
	disk->patience_ms -= ms;
	disk->again.fired = fired;
	td_timer_arm(td_disks_loop(disk->disks), &disk->again, ms);
}

static bool is_in_use(int err)
{
	return err == -EBUSY || err == -EAGAIN;
}

static void started(void *arg, struct td_tapdisk *tap, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_OPENING)
		return; /* it is over */
	if (is_in_use(err))
		try_again(disk, AGAIN_ELSEWHERE_MS, why);
	else
		xenbus_disk_opened(disk, err, why);
}

static void open_now(struct xenbus_disk *disk)
{
	struct td_tapdisk *other = in_the_way(disk);
	struct td_why why;
	int err;

	if (other) {
		td_fail(&why, -EBUSY, "%s is in use by disk %s", td_tapdisk_spec(other),
			td_tapdisk_name(other));
		try_again(disk, AGAIN_MS, why.text);
		return;
	}
	err = xenbus_disk_start(disk, false, started, &why);
	if (is_in_use(err))
		try_again(disk, AGAIN_ELSEWHERE_MS, why.text);
	else if (err)
		xenbus_disk_opened(disk, err, why.text);
}

static void peeked(void *arg, int err, const char *why)
{
	struct xenbus_disk *disk = arg;

	if (disk->phase != DISK_OPENING)
		return;
	if (disk->tap)
		td_tapdisk_kill(disk->tap, peeked, disk); /* it would not end */
	else
		open_now(disk);
}

void xenbus_disk_open(struct xenbus_disk *disk)
{
	disk->patience_ms = td_disks_start_limit(disk->disks) * 1000;
	td_tapdisk_stop(disk->tap, peeked, disk);
}
