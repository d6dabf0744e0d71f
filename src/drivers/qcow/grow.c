/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * First writes: clusters that get a place in the file. What must reach the disk
 * before what, and nothing else:
 *
 *   room       before  any entry that points into it      (space.c)
 *   data       before  the L2 entry that shows them, where something else shows
 *                      until then: an image below, or a compressed cluster
 *
 * Not ordered: an L1 entry and the table it names, since new room reads as a
 * table of holes; data and entry of an image that stands alone, since new room
 * reads as the zeroes that were there. A request ends when data, L2 entry and L1
 * entry have all been written, so a killed process loses none that has ended.
 *
 * Something below:  place -> fill -> written -> barrier -> mapped -> over
 *   One barrier serves all that has been written by then; the entries of one
 *   table go out in one write. Parts of clusters are filled up from below.
 * Nothing below:    place -> data and entries at once -> over
 *   All empty entries of a 2 MiB run are mapped together, so that the run is
 *   contiguous in the file, and the run's other writes find their place made.
 *
 * While a grow is under way its clusters are its own: other writers wait for it,
 * or join it where the place is known and reads as zeroes. A place whose grow
 * failed is never given to anybody else: space leaks, data do not.
 */
#include <errno.h>
#include <string.h>

#include "base/rule.h"
#include "drivers/qcow/qcow.h"

static void part_ended(struct qcow_piece *piece, int err)
{
	if (err && !piece->err)
		piece->err = err;
	if (--piece->parts == 0)
		td_end(piece->req, piece->err);
}

static void data_ended(struct td_req *kid)
{
	part_ended(kid->user, kid->err);
}

/* ---- the end of a grow ----------------------------------------------------- */

static void over(struct qcow_piece *grow, int err)
{
	struct list *link;

	list_del(&grow->grow_link);
	while ((link = list_pop(&grow->joined)))
		part_ended(list_item(link, struct qcow_piece, link), err);
	qcow_again(grow->qcow, &grow->waiters);
	qcow_bounce_put(grow->qcow, grow);
	qcow_page_unpin(grow->page);
	part_ended(grow, err);
}

/* The entries are in the file; the page itself may have to be linked yet. */
static void mapped(struct qcow_change *change, int err)
{
	struct qcow_piece *grow = container_of(change, struct qcow_piece, change);

	if (!err && grow->links < grow->page->link_failed)
		err = grow->page->link_err;
	if (!err && !grow->page->linked && td_rule("qcow-table-linked-before-answer"))
		qcow_page_await_link(grow);
	else
		over(grow, err);
}

/* ---- something below: data, barrier, entry --------------------------------- */

static void barrier_ended(struct td_req *req)
{
	struct qcow *qcow = req->user;
	int err = req->err;
	struct list done, *link;

	list_init(&done);
	list_join(&done, &qcow->syncing);
	while ((link = list_pop(&done))) {
		struct qcow_piece *grow = list_item(link, struct qcow_piece, link);

		if (err)
			over(grow, err);
		else
			qcow_table_stage(&grow->page->table, &grow->change);
	}
	if (!list_empty(&qcow->written))
		td_defer(qcow->img->queue, &qcow->defer);
}

void qcow_barrier_flush(struct qcow *qcow)
{
	struct td_req *req = qcow->barrier;

	if (list_empty(&qcow->written) || !list_empty(&qcow->syncing))
		return;
	list_join(&qcow->syncing, &qcow->written);
	qcow->barriers++;
	req->user = qcow;
	req->step = barrier_ended;
	req->err = 0;
	td_buffer(req, TD_FLUSH, NULL, 0);
	td_io(req, qcow->file, 0);
}

static void written(struct td_req *kid)
{
	struct qcow_piece *grow = kid->user;
	struct qcow *qcow = grow->qcow;

	qcow_bounce_put(qcow, grow);
	if (kid->err) {
		over(grow, kid->err);
		return;
	}
	if (!td_rule("qcow-data-before-entry")) {
		qcow_table_stage(&grow->page->table, &grow->change);
		return;
	}
	qcow->barrier_pieces++;
	list_add(&qcow->written, &grow->link);
	td_defer(qcow->img->queue, &qcow->defer);
}

/* The bounce buffer has the old content of the cluster: put the new on top. */
static void filled(struct qcow_piece *grow, int err)
{
	struct td_req *kid = grow->req, *parent = kid->parent;
	uint64_t cluster = qcow_cluster(&grow->qcow->layout);
	char *to = grow->bounce->data + (parent->offset + grow->pos) % cluster;

	if (err) {
		over(grow, err);
		return;
	}
	if (parent->op == TD_WRITE)
		td_req_get(parent, grow->pos, to, grow->len);
	else
		memset(to, 0, grow->len);
	kid->step = written;
	td_buffer(kid, TD_WRITE, grow->bounce->data, cluster);
	td_io(kid, grow->qcow->file, grow->change.value);
}

static void below_read(struct td_req *kid)
{
	filled(kid->user, kid->err);
}

static void fill(struct qcow_piece *grow, int err)
{
	struct td_req *kid = grow->req;
	uint64_t cluster = qcow_cluster(&grow->qcow->layout);

	if (err) {
		over(grow, err);
	} else if (!grow->bounce && !qcow_bounce_get(grow->qcow, grow)) {
		return; /* called again when there is one */
	} else if (grow->entry) {
		grow->filled = filled;
		qcow_packed_read(grow->qcow, grow);
	} else {
		kid->step = below_read;
		td_buffer(kid, TD_READ, grow->bounce->data, cluster);
		kid->offset = round_down(kid->parent->offset + grow->pos, cluster);
		td_pass(kid);
	}
}

static void write_over_old(struct qcow_piece *grow)
{
	struct td_req *kid = grow->req;

	if (grow->len < qcow_cluster(&grow->qcow->layout)) {
		grow->go = fill;
		fill(grow, 0);
	} else if (kid->parent->op == TD_WRITE_ZEROES) {
		qcow_table_stage(&grow->page->table, &grow->change); /* room is zeroes */
	} else {
		kid->step = written;
		td_slice(kid, grow->pos, grow->len);
		td_io(kid, grow->qcow->file, grow->change.value);
	}
}

/* ---- nothing below: data and entries at once ------------------------------- */

/* Where the change will put the cluster with that index of its page. */
static uint64_t place_of(const struct qcow_piece *grow, uint32_t index)
{
	uint64_t at = grow->change.value;

	for (uint32_t i = grow->change.first; i < index; i++)
		if (!qcow_entry(&grow->page->table, i))
			at += grow->change.step;
	return at;
}

static void write_into(struct qcow_piece *piece, const struct qcow_piece *grow)
{
	struct td_req *kid = piece->req;
	const struct qcow_layout *layout = &grow->qcow->layout;
	uint64_t offset = kid->parent->offset + piece->pos;
	uint32_t index = (offset >> layout->cluster_bits) & (grow->page->table.count - 1);

	piece->parts = 2;
	kid->step = data_ended;
	td_slice(kid, piece->pos, piece->len);
	td_io(kid, grow->qcow->file,
	      place_of(grow, index) + offset % qcow_cluster(layout));
}

uint64_t qcow_grow_join(struct qcow_piece *parent, const struct qcow_spot *spot)
{
	struct qcow_piece *grow = spot->busy, *piece;

	if (!grow->change.empty_only || !grow->change.value || parent->req->op != TD_WRITE) {
		list_add(&grow->waiters, &parent->link);
		return 0;
	}
	piece = qcow_piece_child(parent, parent->pos, spot->len);
	if (!piece) {
		td_wait(parent->req, qcow_piece_retry);
		return 0;
	}
	list_add(&grow->joined, &piece->link);
	write_into(piece, grow);
	return spot->len;
}

/* ---- the start of a grow --------------------------------------------------- */

static bool alone(const struct qcow_piece *grow)
{
	return grow->change.empty_only;
}

static uint64_t room_wanted(const struct qcow_piece *grow)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < grow->change.count; i++)
		if (!alone(grow) || !qcow_entry(&grow->page->table, grow->change.first + i))
			count++;
	return count * qcow_cluster(&grow->qcow->layout);
}

/* Takes room for the table, if it is new, and for the clusters. */
static bool take_room(struct qcow_piece *grow)
{
	struct qcow *qcow = grow->qcow;
	struct qcow_page *page = grow->page;
	uint64_t cluster = qcow_cluster(&qcow->layout);
	uint64_t table = qcow_l2_bytes(&qcow->layout), data = room_wanted(grow), at;

	if (!page->table.at) {
		if (!qcow_space_take(qcow, table, max_u64(cluster, 4096), &at)) {
			qcow_space_wait(qcow, grow, table + data + 128 * KiB);
			return false;
		}
		qcow_page_place(page, at);
	}
	if (!qcow_space_take(qcow, data, alone(grow) ? max_u64(cluster, 4096) : cluster, &at)) {
		qcow_space_wait(qcow, grow, data + 64 * KiB);
		return false;
	}
	grow->change.value = at;
	return true;
}

static void place(struct qcow_piece *grow, int err)
{
	if (err) {
		over(grow, err);
	} else if (!take_room(grow)) {
		return; /* called again when there is room */
	} else if (alone(grow)) {
		struct qcow_page *page = grow->page;

		write_into(grow, grow);
		qcow_table_stage(&page->table, &grow->change);
	} else {
		write_over_old(grow);
	}
}

/* The entries to set for what is at offset: the rest of a run, one cluster in
 * part, or whole ones. Returns the bytes of the request that are dealt with. */
static uint64_t aim(struct qcow *qcow, uint64_t offset, const struct qcow_spot *spot,
		    bool run, uint32_t entries, struct qcow_change *change)
{
	uint64_t cluster = qcow_cluster(&qcow->layout);
	uint64_t skip = offset % cluster, len = spot->len;
	uint32_t index = (offset / cluster) & (entries - 1);

	change->first = index;
	change->step = cluster;
	change->empty_only = run;
	change->done = mapped;
	if (run) {
		uint64_t from = round_down(offset, qcow->run);
		uint64_t to = min_u64(from + qcow->run, round_up(qcow->layout.size, cluster));

		change->first = (from / cluster) & (entries - 1);
		change->count = (to - from) / cluster;
		return min_u64(len, to - offset);
	}
	if (skip || len < cluster) {
		change->count = 1;
		return min_u64(len, cluster - skip);
	}
	change->count = len / cluster;
	return change->count * cluster;
}

uint64_t qcow_grow(struct qcow_piece *parent, const struct qcow_spot *spot)
{
	struct qcow *qcow = parent->qcow;
	struct td_req *req = parent->req;
	uint64_t offset = req->offset + parent->pos, len;
	bool run = !qcow->img->below && spot->kind == QCOW_HOLE;
	struct qcow_page *page = qcow_page_for(qcow, parent, offset);
	struct qcow_change change = { 0 };
	struct qcow_piece *grow;

	if (!page)
		return 0;
	len = aim(qcow, offset, spot, run, page->table.count, &change);
	grow = qcow_piece_child(parent, parent->pos, len);
	if (!grow) {
		qcow_page_unpin(page);
		td_wait(req, qcow_piece_retry);
		return 0;
	}
	grow->page = page;
	grow->links = page->links;
	grow->change = change;
	grow->entry = spot->entry;
	grow->parts = 1;
	grow->go = place;
	list_init(&grow->waiters);
	list_init(&grow->joined);
	list_add(&page->grows, &grow->grow_link);
	place(grow, 0);
	return len;
}
