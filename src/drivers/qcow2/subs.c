/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Subclusters: extended L2 entries, of 16 bytes. The second half has a bit for each
 * of 32 subclusters that is in the cluster's place and, above these, one for each
 * that reads as zeroes. One that has neither is a hole, place or not.
 *
 * A cluster that a snapshot has too is copied as a whole before any of it is
 * written: its subclusters may be of all kinds, and stay what they are.
 *
 *   qcow2_sub_own -> copy_go -> copy_read -> copy_written -> copy_link
 */
#include <stdlib.h>

#include "drivers/qcow2/qcow2.h"

#define SUBS 32

static uint64_t sub_size(const struct qcow2 *q)
{
	return qcow2_cluster(&q->layout) / SUBS;
}

static enum td_spot_kind sub_kind(uint64_t bits, unsigned i, bool own)
{
	if (bits >> (32 + i) & 1)
		return TD_SPOT_ZERO;
	if (!(bits >> i & 1))
		return TD_SPOT_HOLE;
	return own ? TD_SPOT_DATA : TD_SPOT_SHARED;
}

/* Clusters that go on as a whole, as the one before them. */
static uint64_t sub_run(const struct qcow2 *q, const be64 *entry, uint64_t max, uint64_t len,
			enum td_spot_kind kind)
{
	uint64_t cluster = qcow2_cluster(&q->layout), first = from_be64(entry[0]), total = 0;
	uint64_t bits = kind == TD_SPOT_HOLE ? 0 : kind == TD_SPOT_ZERO ? QCOW2_SUBS << 32 :
									  QCOW2_SUBS;

	if ((kind == TD_SPOT_HOLE || kind == TD_SPOT_ZERO) && first & QCOW2_HOST)
		return 0;
	for (uint64_t i = 1; i < max && total < len; i++, total += cluster)
		if (from_be64(entry[2 * i]) != first + (first & QCOW2_HOST ? i * cluster : 0) ||
		    from_be64(entry[2 * i + 1]) != bits)
			break;
	return total;
}

int qcow2_sub_spot(struct qcow2 *q, const be64 *entry, uint64_t max, uint64_t offset,
		   uint64_t len, bool own, struct td_spot *out)
{
	uint64_t cluster = qcow2_cluster(&q->layout), skip = offset & (cluster - 1);
	uint64_t first = from_be64(entry[0]), bits = from_be64(entry[1]), end;
	unsigned i = skip / sub_size(q), next = i;
	uint64_t host = first & QCOW2_HOST;

	if (first & QCOW2_PACKED) {
		int err = qcow2_packed_spot(q, offset, first, out);

		out->len = cluster - skip;
		return err;
	}
	if (first & (QCOW2_L2_RESERVED | QCOW2_ZERO) || (host && !qcow2_place_fits(q, host)) ||
	    bits & bits >> 32 & QCOW2_SUBS || (!host && bits & QCOW2_SUBS))
		return qcow2_corrupt(q, "the entry of disk offset", offset, first);
	own = own && first & QCOW2_COPIED;
	*out = (struct td_spot){ .kind = sub_kind(bits, i, own), .at = host + skip };
	if (out->kind == TD_SPOT_HOLE || out->kind == TD_SPOT_ZERO)
		out->placed = out->dirty = host && own;
	while (next < SUBS && sub_kind(bits, next, own) == out->kind)
		next++;
	end = next * sub_size(q);
	out->len = end - skip;
	if (next == SUBS && out->len < len)
		out->len += sub_run(q, entry, max, len - out->len, out->kind);
	return 0;
}

void qcow2_sub_set(const struct qcow2 *q, be64 *entry, uint64_t host, uint64_t from, uint64_t to)
{
	uint64_t count = (to - from) / sub_size(q);
	uint64_t mask = (QCOW2_SUBS >> (SUBS - count)) << from / sub_size(q);
	uint64_t bits = from_be64(entry[1]);

	if (from_be64(entry[0]) & QCOW2_PACKED)
		bits = 0;
	bits = (bits | mask) & ~(mask << 32);
	td_set128(entry, htobe64(host | QCOW2_COPIED), htobe64(bits));
}

/* ---- a cluster of one's own --------------------------------------------------------- */

static void copy_end(struct qcow2_copy *copy, int err)
{
	struct td_parks waiting = copy->waiting;

	if (err && copy->to)
		td_map_drop(copy->q->map, copy->to, qcow2_cluster(&copy->q->layout));
	copy->waiting = (struct td_parks){ 0 };
	copy->running = false;
	td_parks_go(&waiting, err);
}

void qcow2_sub_move(struct qcow2 *q, uint64_t offset, uint64_t to)
{
	be64 *entry = qcow2_entry_ready(q, offset);
	uint64_t from = from_be64(entry[0]) & QCOW2_HOST, bits = from_be64(entry[1]);

	td_cache_dirty(q->cache, entry, QCOW2_L2);
	td_set128(entry, htobe64(to | QCOW2_COPIED), htobe64(bits));
	td_map_drop(q->map, from, qcow2_cluster(&q->layout));
}

/* A discard may have come before: then nobody needs the copy. */
static int link_it(struct qcow2_copy *copy)
{
	struct qcow2 *q = copy->q;
	uint64_t len = qcow2_cluster(&q->layout);
	be64 *entry;
	int err = td_cache_room(q->cache, &copy->park);

	if (!err)
		err = qcow2_ready(q->img, &copy->park, copy->offset, &len);
	if (err)
		return err;
	entry = qcow2_entry_ready(q, copy->offset);
	if (!entry)
		return -EIO;
	if (from_be64(*entry) != copy->entry)
		td_map_drop(q->map, copy->to, qcow2_cluster(&q->layout));
	else
		qcow2_sub_move(q, copy->offset, copy->to);
	return 0;
}

static void copy_link(struct td_park *park, int err)
{
	struct qcow2_copy *copy = container_of(park, struct qcow2_copy, park);

	if (!err)
		err = link_it(copy);
	if (err != TD_PARKED)
		copy_end(copy, err);
}

static void copy_written(struct td_req *req)
{
	struct qcow2_copy *copy = req->user;

	td_cache_data(copy->q->cache);
	copy->park.go = copy_link;
	copy_link(&copy->park, req->err);
}

static void copy_read(struct td_req *req)
{
	struct qcow2_copy *copy = req->user;

	int err = req->err;

	if (!err)
		err = qcow2_recrypt(copy->q, copy->buf, copy->entry & QCOW2_HOST, copy->to);
	if (err) {
		copy_end(copy, err);
		return;
	}
	req->step = copy_written;
	td_buffer(req, TD_WRITE, copy->buf, qcow2_cluster(&copy->q->layout));
	td_io(req, copy->q->file, copy->to);
}

static void copy_go(struct td_park *park, int err)
{
	struct qcow2_copy *copy = container_of(park, struct qcow2_copy, park);
	struct qcow2 *q = copy->q;
	uint64_t len = qcow2_cluster(&q->layout);
	struct td_req *req = copy->req;

	if (!err)
		err = td_cache_room(q->cache, park);
	if (!err)
		err = qcow2_take(q, park, &len, &copy->to);
	if (err == TD_PARKED)
		return;
	if (err) {
		copy->to = 0;
		copy_end(copy, err);
		return;
	}
	req->user = copy;
	req->step = copy_read;
	req->err = 0;
	td_buffer(req, TD_READ, copy->buf, qcow2_cluster(&q->layout));
	td_io(req, q->file, copy->entry & QCOW2_HOST);
}

static int copy_start(struct qcow2 *q, struct td_park *park, uint64_t offset, uint64_t entry)
{
	struct qcow2_copy *copy = &q->copy[0];

	for (unsigned i = 0; i < QCOW2_COPIES; i++)
		if (q->copy[i].running && q->copy[i].offset == offset) {
			td_parks_add(&q->copy[i].waiting, park);
			return TD_PARKED;
		}
	for (unsigned i = 0; i < QCOW2_COPIES && copy->running; i++)
		copy = &q->copy[i];
	td_parks_add(&copy->waiting, park); /* of another cluster, if all are running */
	if (copy->running)
		return TD_PARKED;
	copy->running = true;
	copy->offset = offset;
	copy->entry = entry;
	copy->to = 0;
	copy->park.go = copy_go;
	copy_go(&copy->park, 0);
	return TD_PARKED;
}

int qcow2_sub_own(struct qcow2 *q, struct td_park *park, uint64_t offset)
{
	be64 *entry = qcow2_entry_ready(q, offset);
	uint64_t first = entry ? from_be64(*entry) : 0;

	if (!entry)
		return -EIO;
	if (!(first & QCOW2_HOST) || first & (QCOW2_PACKED | QCOW2_COPIED))
		return 0;
	return copy_start(q, park, round_down(offset, qcow2_cluster(&q->layout)), first);
}

int qcow2_copies_open(struct qcow2 *q)
{
	for (unsigned i = 0; i < QCOW2_COPIES && q->layout.extended && !q->img->read_only; i++) {
		struct qcow2_copy *copy = &q->copy[i];

		copy->q = q;
		copy->req = td_req_new(q->img->queue, q->img);
		if (!copy->req ||
		    posix_memalign(&copy->buf, 4096, qcow2_cluster(&q->layout)))
			return -ENOMEM;
	}
	return 0;
}

void qcow2_copies_free(struct qcow2 *q)
{
	for (unsigned i = 0; i < QCOW2_COPIES; i++) {
		td_req_free(q->copy[i].req);
		free(q->copy[i].buf);
	}
}
