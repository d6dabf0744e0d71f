/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * READ and EXTENTS. A read is cut where the file is not contiguous; holes are
 * for the image below; compressed clusters are inflated and copied.
 *
 *   packed:  read_packed -> (a buffer) -> packed_start -> packed_filled
 */
#include "drivers/qcow/qcow.h"

static void packed_filled(struct qcow_piece *piece, int err)
{
	struct td_req *parent = piece->req->parent;
	uint64_t skip = (parent->offset + piece->pos) % qcow_cluster(&piece->qcow->layout);

	if (!err)
		td_req_put(parent, piece->pos, piece->bounce->data + skip, piece->len);
	qcow_bounce_put(piece->qcow, piece);
	td_end(piece->req, err);
}

static void packed_start(struct qcow_piece *piece, int err)
{
	if (err)
		td_end(piece->req, err);
	else if (piece->bounce || qcow_bounce_get(piece->qcow, piece))
		qcow_packed_read(piece->qcow, piece);
}

static bool read_packed(struct qcow_piece *parent, const struct qcow_spot *spot)
{
	struct qcow *qcow = parent->qcow;
	const char *cached = qcow_packed_cached(qcow, spot->entry);
	struct qcow_piece *piece;

	if (cached) {
		uint64_t skip = (parent->req->offset + parent->pos) %
				qcow_cluster(&qcow->layout);

		td_req_put(parent->req, parent->pos, cached + skip, spot->len);
		return true;
	}
	piece = qcow_piece_child(parent, parent->pos, spot->len);
	if (!piece) {
		td_wait(parent->req, qcow_piece_retry);
		return false;
	}
	piece->entry = spot->entry;
	piece->filled = packed_filled;
	piece->go = packed_start;
	packed_start(piece, 0);
	return true;
}

static bool read_plain(struct qcow_piece *parent, const struct qcow_spot *spot)
{
	struct qcow_piece *piece = qcow_piece_child(parent, parent->pos, spot->len);

	if (!piece) {
		td_wait(parent->req, qcow_piece_retry);
		return false;
	}
	td_slice(piece->req, parent->pos, spot->len);
	if (spot->kind == QCOW_HOLE)
		td_pass(piece->req);
	else
		td_io(piece->req, parent->qcow->file, spot->at);
	return true;
}

static void read_more(struct qcow_piece *piece, int err)
{
	struct td_req *req = piece->req;
	struct qcow_spot spot;

	while (!err && piece->pos < req->len) {
		qcow_map_find(piece->qcow, piece, req->offset + piece->pos,
			      req->len - piece->pos, false, &spot);
		if (spot.kind == QCOW_LOADING)
			return;
		if (spot.kind == QCOW_BAD) {
			err = spot.err;
		} else if (spot.kind == QCOW_PACKED_DATA) {
			if (!read_packed(piece, &spot))
				return;
		} else if (spot.len < req->len) {
			if (!read_plain(piece, &spot))
				return;
		} else if (spot.kind == QCOW_HOLE) { /* all of it is alike */
			td_pass(req);
			return;
		} else {
			td_io(req, piece->qcow->file, spot.at);
			return;
		}
		piece->pos += spot.len;
	}
	td_end(req, err);
}

void qcow_read(struct qcow *qcow, struct td_req *req)
{
	read_more(qcow_piece_begin(qcow, req, read_more), 0);
}

/* The file or the image below has said what it has; no farther than our spot. */
static void extent_told(struct td_req *kid)
{
	struct qcow_piece *piece = kid->user;

	if (!kid->err) {
		kid->parent->extent = kid->extent;
		kid->parent->extent.len = min_u64(kid->extent.len, piece->len);
	}
	td_end(kid, 0);
}

static void ask_extent(struct qcow_piece *parent, const struct qcow_spot *spot)
{
	struct qcow_piece *piece = qcow_piece_child(parent, 0, spot->len);
	struct td_req *req = parent->req;

	if (!piece) {
		td_wait(req, qcow_piece_retry);
		return;
	}
	piece->req->step = extent_told;
	td_slice(piece->req, 0, min_u64(spot->len, req->len));
	if (spot->kind == QCOW_HOLE)
		td_pass(piece->req);
	else
		td_io(piece->req, parent->qcow->file, spot->at);
	td_end(req, 0);
}

static void extents(struct qcow_piece *piece, int err)
{
	struct qcow *qcow = piece->qcow;
	struct td_req *req = piece->req;
	uint64_t len = min_u64(max_u64(req->len, 64 * MiB), qcow->layout.size - req->offset);
	struct qcow_spot spot = { 0 };

	if (!err)
		qcow_map_find(qcow, piece, req->offset, len, false, &spot);
	if (err || spot.kind == QCOW_BAD) {
		td_end(req, err ? err : spot.err);
	} else if (spot.kind == QCOW_DATA || (spot.kind == QCOW_HOLE && qcow->img->below)) {
		ask_extent(piece, &spot);
	} else if (spot.kind != QCOW_LOADING) {
		req->extent.len = spot.len;
		req->extent.flags = spot.kind == QCOW_HOLE ? TD_EXTENT_HOLE | TD_EXTENT_ZERO : 0;
		td_end(req, 0);
	}
}

void qcow_extents(struct qcow *qcow, struct td_req *req)
{
	extents(qcow_piece_begin(qcow, req, extents), 0);
}
