/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * WRITE, WRITE_ZEROES, DISCARD: each walks its request from spot to spot. What has
 * a place in the file is done there; the rest is grow.c's. A walk that must wait is
 * parked, remembers how far it is, and looks again at what is there.
 */
#include "format/map.h"

#define CLEAR_UNITS 512 /* at a time */

static void whole_ended(struct td_req *req)
{
	epoch_leave(td_scratch(req->image, req));
	td_end(req, 0);
}

/* 0: *done bytes are begun, all but where they are encrypted; the request itself may be
 * gone then, if all of it was alike: *whole. */
static int in_place(struct piece *piece, const struct td_spot *spot, uint64_t *done, bool *whole)
{
	uint64_t len = *done;
	struct piece *kid;

	if (piece->map->config.crypt)
		return sealed_write(piece, spot, done);
	if (len == piece->req->len && !piece->spare) {
		*whole = true;
		epoch_enter(piece);
		td_io_step(piece->req, piece->map->config.file, spot->at, whole_ended);
		return 0;
	}
	kid = piece_child(piece, len);
	if (!kid)
		return TD_PARKED;
	td_slice(kid->req, piece->pos, len);
	epoch_enter(kid);
	kid->req->step = piece_io_ended;
	td_io(kid->req, piece->map->config.file, spot->at);
	return 0;
}

/* The whole units within len bytes from offset on, if it begins one, and if units can
 * be cleared. */
static uint64_t whole_units(const struct td_map *map, uint64_t offset, uint64_t len)
{
	uint64_t unit = map->config.unit;

	if (offset % unit || !map->config.ops->clear)
		return 0;
	if (offset + len == map->img->size) /* the last one may be cut short */
		len = round_up(len, unit);
	return min_u64(round_down(len, unit), CLEAR_UNITS * unit);
}

/* What of it lies before the next unit, if it does not begin one. */
static uint64_t part_before(const struct td_map *map, uint64_t offset, uint64_t len)
{
	uint64_t unit = map->config.unit, skip = offset % unit;

	return skip ? min_u64(len, unit - skip) : len;
}

/* Units stop being shown. *done: bytes of the disk. */
static int clear(struct piece *piece, uint64_t offset, uint64_t len, uint64_t left, bool zero,
		 uint64_t *done)
{
	struct td_map *map = piece->map;
	const struct td_map_ops *ops = map->config.ops;
	int err = td_cache_room(map->config.cache, &piece->park);

	if (!err)
		err = drops_room(map, &piece->park);
	if (!err)
		err = ops->ready(map->img, &piece->park, offset, &len);
	if (!err) {
		known_forget(map, offset, len);
		err = ops->clear(map->img, offset, len, zero);
	}
	*done = min_u64(len, left);
	return err;
}

static int discard_spot(struct piece *piece, const struct td_spot *spot, uint64_t len,
			uint64_t *done, bool *whole)
{
	struct td_map *map = piece->map;
	uint64_t offset = piece->req->offset + piece->pos, units = whole_units(map, offset, len);
	bool below = map->img->below;

	*done = len;
	if (spot->kind == TD_SPOT_HOLE || spot->kind == TD_SPOT_ZERO)
		return 0;
	if (units && (!below || map->config.zeroes))
		return clear(piece, offset, units, len, below, done);
	*done = part_before(map, offset, len);
	/* a hole in what is encrypted would read as noise */
	return spot->kind == TD_SPOT_DATA && !map->config.crypt ?
	       in_place(piece, spot, done, whole) : 0;
}

static int zero_spot(struct piece *piece, const struct td_spot *spot, uint64_t len,
		     uint64_t *done, bool *whole)
{
	struct td_map *map = piece->map;
	uint64_t offset = piece->req->offset + piece->pos, units = whole_units(map, offset, len);
	bool below = map->img->below;

	*done = len;
	if (reads_zero(map, spot))
		return 0;
	if (units && (!below || map->config.zeroes) &&
	    (spot->kind != TD_SPOT_DATA || piece->req->flags & TD_MAY_UNMAP))
		return clear(piece, offset, units, len, below, done);
	if (piece->req->flags & TD_MAY_UNMAP)
		*done = len = part_before(map, offset, len);
	if (spot->kind == TD_SPOT_DATA)
		return in_place(piece, spot, done, whole);
	return grow_start(piece, spot, len, done);
}

/* Deals with *done bytes from the piece's pos on. */
static int change_spot(struct piece *piece, uint64_t *done, bool *whole)
{
	struct td_req *req = piece->req;
	uint64_t offset = req->offset + piece->pos, len = req->len - piece->pos;
	struct td_map *map = piece->map = map_at(piece->map, offset);
	struct td_spot spot;
	struct piece *grow;
	int err;

	len = min_u64(len, map->config.end - offset);
	grow = grow_find(map, offset, len);
	if (grow && grow_begins(grow) <= offset) {
		td_parks_add(&grow->waiters, &piece->park);
		return TD_PARKED;
	}
	if (grow)
		len = grow_begins(grow) - offset;
	err = map->config.ops->find(map->img, &piece->park, offset, len, &spot);
	if (err)
		return err;
	*done = len = min_u64(len, spot.len);
	if (req->op == TD_DISCARD)
		return discard_spot(piece, &spot, len, done, whole);
	if (req->op == TD_WRITE_ZEROES)
		return zero_spot(piece, &spot, len, done, whole);
	if (spot.kind == TD_SPOT_DATA)
		return in_place(piece, &spot, done, whole);
	return grow_start(piece, &spot, len, done);
}

static void write_go(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);
	uint64_t done = 0;
	bool whole = false;

	while (!err && piece->pos < piece->req->len) {
		err = change_spot(piece, &done, &whole);
		if (whole || err == TD_PARKED)
			return;
		if (!err)
			piece->pos += done;
	}
	piece_end(piece, err);
}

void map_write(struct td_map *map, struct td_req *req)
{
	write_go(&piece_begin(map, req, write_go)->park, 0);
}
