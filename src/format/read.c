/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * READ and EXTENTS. A read is cut where the file is not contiguous; holes are for
 * the image below; compressed units are unpacked and copied.
 *
 *   packed:  read_packed -> (a buffer) -> packed_start -> packed_filled
 */
#include "format/map.h"

#define EXTENT_LOOK (64 * MiB)

static void packed_filled(struct piece *piece, int err)
{
	struct td_req *parent = piece->req->parent;
	uint64_t skip = (parent->offset + piece->pos) % piece->map->config.unit;

	if (!err)
		td_req_put(parent, piece->pos, piece->buffer->data + skip, piece->len);
	buffer_put(piece);
	epoch_leave(piece);
	td_end(piece->req, err);
}

static void packed_start(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);

	if (piece->buffer || buffer_get(piece))
		buffer_unpack(piece, &piece->old);
}

static int read_packed(struct piece *parent, const struct td_spot *spot, uint64_t len)
{
	struct td_map *map = parent->map;
	const char *cached = buffer_cached(map, spot);
	struct piece *piece;

	if (cached) {
		uint64_t skip = (parent->req->offset + parent->pos) % map->config.unit;

		td_req_put(parent->req, parent->pos, cached + skip, len);
		return 0;
	}
	piece = piece_child(parent, len);
	if (!piece)
		return TD_PARKED;
	piece->old = *spot;
	piece->filled = packed_filled;
	piece->park.go = packed_start;
	epoch_enter(piece);
	packed_start(&piece->park, 0);
	return 0;
}

/* The step of a child: what it has read is decrypted. */
static void sealed_read(struct td_req *kid)
{
	struct piece *piece = kid->user;

	if (!kid->err)
		kid->err = sealed_read_done(piece->map, piece->map->config.crypt, kid, piece->at);
	piece_io_ended(kid);
}

static int read_plain(struct piece *parent, const struct td_spot *spot, uint64_t len)
{
	struct piece *piece = piece_child(parent, len);

	if (!piece)
		return TD_PARKED;
	td_slice(piece->req, parent->pos, len);
	if (spot->kind == TD_SPOT_HOLE) {
		td_pass(piece->req);
		return 0;
	}
	epoch_enter(piece);
	piece->at = spot->at;
	piece->req->step = piece->map->config.crypt ? sealed_read : piece_io_ended;
	td_io(piece->req, parent->map->config.file, spot->at);
	return 0;
}

static void whole_read_ended(struct td_req *req)
{
	struct piece *piece = td_scratch(req->image, req);
	int err = 0;

	epoch_leave(piece);
	if (!req->err && piece->map->config.crypt)
		err = sealed_read_done(piece->map, piece->map->config.crypt, req, piece->at);
	td_end(req, err);
}

/* All of the request is alike: no child is needed. */
static void read_whole(struct piece *piece, const struct td_spot *spot)
{
	if (spot->kind == TD_SPOT_HOLE) {
		td_pass(piece->req);
		return;
	}
	epoch_enter(piece);
	piece->at = spot->at;
	td_io_step(piece->req, piece->map->config.file, spot->at, whole_read_ended);
}

static void read_go(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);
	struct td_req *req = piece->req;
	struct td_spot spot;

	while (!err && piece->pos < req->len) {
		uint64_t offset = req->offset + piece->pos, left = req->len - piece->pos, n;
		struct td_map *map = piece->map = map_at(piece->map, offset);

		left = min_u64(left, map->config.end - offset);
		err = map->config.ops->find(map->img, park, offset, left, &spot);
		if (err)
			break;
		n = min_u64(spot.len, left);
		if (reads_zero(map, &spot)) {
			td_req_zero(req, piece->pos, n);
		} else if (spot.kind == TD_SPOT_PACKED) {
			err = read_packed(piece, &spot, n);
		} else if (n == req->len) {
			read_whole(piece, &spot);
			return;
		} else {
			err = read_plain(piece, &spot, n);
		}
		if (!err)
			piece->pos += n;
	}
	if (err != TD_PARKED)
		piece_end(piece, err);
}

bool td_map_is_hole(struct td_map *map, uint64_t offset, uint64_t len)
{
	struct td_spot spot;

	map = map_at(map, offset);
	return len <= map->config.end - offset &&
	       !map->config.ops->find(map->img, NULL, offset, len, &spot) &&
	       spot.kind == TD_SPOT_HOLE && spot.len >= len;
}

void map_read(struct td_map *map, struct td_req *req)
{
	read_go(&piece_begin(map, req, read_go)->park, 0);
}

/* ---- extents ------------------------------------------------------------------ */

/* The file or the image below has said what it has; no farther than our spot. */
static void extent_told(struct td_req *kid)
{
	struct piece *piece = kid->user;

	if (!kid->err) {
		kid->parent->extent = kid->extent;
		kid->parent->extent.len = min_u64(kid->extent.len, piece->len);
		if (piece->map->img->encrypted && piece->old.kind != TD_SPOT_HOLE)
			kid->parent->extent.flags = 0; /* a hole there reads as noise */
	}
	td_end(kid, 0);
}

static void ask_extent(struct piece *parent, const struct td_spot *spot)
{
	struct td_req *req = parent->req;
	struct piece *piece = piece_child(parent, spot->len);

	if (!piece)
		return;
	piece->old = *spot;
	piece->req->step = extent_told;
	td_slice(piece->req, 0, min_u64(spot->len, req->len));
	if (spot->kind == TD_SPOT_HOLE)
		td_pass(piece->req);
	else
		td_io(piece->req, parent->map->config.file, spot->at);
	td_end(req, 0);
}

static void extents_go(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);
	struct td_req *req = piece->req;
	struct td_map *map = piece->map = map_at(piece->map, req->offset);
	uint64_t end = min_u64(map->config.end, map->img->size);
	uint64_t len = min_u64(max_u64(req->len, EXTENT_LOOK), end - req->offset);
	struct td_spot spot = { 0 };

	if (!err)
		err = map->config.ops->find(map->img, park, req->offset, len, &spot);
	if (err == TD_PARKED)
		return;
	if (err) {
		td_end(req, err);
		return;
	}
	spot.len = min_u64(spot.len, end - req->offset);
	if (!reads_zero(map, &spot) && spot.kind != TD_SPOT_PACKED) {
		ask_extent(piece, &spot);
		return;
	}
	req->extent.len = spot.len;
	req->extent.flags = 0;
	if (spot.kind != TD_SPOT_PACKED)
		req->extent.flags = TD_EXTENT_ZERO | TD_EXTENT_HOLE;
	td_end(req, 0);
}

void map_extents(struct td_map *map, struct td_req *req)
{
	extents_go(&piece_begin(map, req, extents_go)->park, 0);
}
