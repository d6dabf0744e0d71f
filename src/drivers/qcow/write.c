/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * WRITE, WRITE_ZEROES, DISCARD: each walks its request from spot to spot. What
 * has a place in the file is done there; the rest is grow.c's. A walk that must
 * wait is parked, remembers how far it is, and goes on from there.
 */
#include "drivers/qcow/qcow.h"

/* False: parked. */
static bool in_place(struct qcow_piece *piece, const struct qcow_spot *spot)
{
	struct qcow_piece *kid = qcow_piece_child(piece, piece->pos, spot->len);

	if (!kid) {
		td_wait(piece->req, qcow_piece_retry);
		return false;
	}
	td_slice(kid->req, piece->pos, spot->len);
	td_io(kid->req, piece->qcow->file, spot->at);
	return true;
}

/* Bytes dealt with; 0: parked or ended. */
static uint64_t write_spot(struct qcow_piece *piece, const struct qcow_spot *spot)
{
	struct td_req *req = piece->req;

	switch (spot->kind) {
	case QCOW_DATA:
		return in_place(piece, spot) ? spot->len : 0;
	case QCOW_HOLE:
		if (req->op == TD_WRITE_ZEROES && !piece->qcow->img->below)
			return spot->len;
		return qcow_grow(piece, spot);
	case QCOW_PACKED_DATA:
		return qcow_grow(piece, spot);
	case QCOW_BUSY:
		return qcow_grow_join(piece, spot);
	case QCOW_BAD:
		td_end(req, spot->err);
		return 0;
	case QCOW_LOADING:
		return 0;
	}
	return 0;
}

static void write_more(struct qcow_piece *piece, int err)
{
	struct td_req *req = piece->req;
	struct qcow_spot spot;

	while (!err && piece->pos < req->len) {
		uint64_t left = req->len - piece->pos, done;

		qcow_map_find(piece->qcow, piece, req->offset + piece->pos, left, true, &spot);
		if (spot.kind == QCOW_DATA && spot.len == req->len) {
			td_io(req, piece->qcow->file, spot.at);
			return;
		}
		done = write_spot(piece, &spot);
		if (!done)
			return;
		piece->pos += done;
	}
	td_end(req, err);
}

void qcow_write(struct qcow *qcow, struct td_req *req)
{
	write_more(qcow_piece_begin(qcow, req, write_more), 0);
}

/* The space is given back, the cluster keeps its place. */
static void discard_more(struct qcow_piece *piece, int err)
{
	struct td_req *req = piece->req;
	struct qcow_spot spot;

	while (!err && piece->pos < req->len) {
		qcow_map_find(piece->qcow, piece, req->offset + piece->pos,
			      req->len - piece->pos, false, &spot);
		if (spot.kind == QCOW_LOADING)
			return;
		if (spot.kind == QCOW_BAD)
			err = spot.err;
		else if (spot.kind == QCOW_DATA && !in_place(piece, &spot))
			return;
		piece->pos += spot.len;
	}
	td_end(req, err);
}

void qcow_discard(struct qcow *qcow, struct td_req *req)
{
	discard_more(qcow_piece_begin(qcow, req, discard_more), 0);
}
