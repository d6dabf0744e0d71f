/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A unit that is to be stored compressed: TD_COMPRESS, from tools. What does not get
 * smaller is written like any other.
 *
 *   pack_start -> (a buffer) -> packing, on a worker -> placed -> written -> mapped
 *
 * While that goes on the unit is its own, as with a grow.
 */
#include <string.h>

#include "format/map.h"

static void over(struct piece *piece, int err)
{
	struct td_parks waiters = piece->waiters;

	piece->waiters = (struct td_parks){ 0 };
	list_del(&piece->link);
	buffer_put(piece);
	piece_end(piece, err);
	td_parks_go(&waiters, 0);
}

static struct piece *piece_parked(struct td_park *park)
{
	return container_of(park, struct piece, park);
}

static void map_it(struct td_park *park, int err)
{
	struct piece *piece = piece_parked(park);
	struct td_map *map = piece->map;
	const struct td_map_ops *ops = map->config.ops;
	uint64_t len = map->config.unit;

	if (!err)
		err = td_cache_room(map->config.cache, park);
	if (!err)
		err = drops_room(map, park);
	if (!err)
		err = ops->ready(map->img, park, piece->from, &len);
	if (!err) {
		known_forget(map, piece->from, len);
		err = ops->set_packed(map->img, piece->from, piece->at, piece->size);
	}
	if (err != TD_PARKED)
		over(piece, err);
}

/* If it failed its room is lost until the image is checked: others share it. */
static void written(struct td_req *kid)
{
	struct piece *piece = kid->user;
	int err = kid->err;

	td_cache_data(piece->map->config.cache);
	buffer_put(piece);
	piece->park.go = map_it;
	td_end(kid, 0);
	map_it(&piece->park, err);
}

static void place(struct td_park *park, int err)
{
	struct piece *piece = piece_parked(park);
	struct td_map *map = piece->map;
	struct td_req *kid = piece->spare;

	if (!err)
		err = td_cache_room(map->config.cache, park);
	if (!err)
		err = map->config.ops->place_packed(map->img, park, piece->size, &piece->at);
	if (err == TD_PARKED)
		return;
	if (err) {
		over(piece, err);
		return;
	}
	piece->spare = NULL;
	kid->user = piece;
	kid->step = written;
	memset(piece->buffer->packed + piece->size, 0, round_up(piece->size, 512) - piece->size);
	td_buffer(kid, TD_WRITE, piece->buffer->packed, round_up(piece->size, 512));
	td_io(kid, map->config.file, piece->at);
}

static int pack_run(struct td_work *work)
{
	struct map_buffer *buffer = container_of(work, struct map_buffer, work);
	const struct td_map *map = buffer->map;
	size_t len = map->config.unit - 512;
	int err = map->config.ops->pack(map->img, buffer->data, buffer->packed, &len);

	buffer->packed_len = len;
	return err;
}

/* Not smaller: like any other write, which looks again at what is there. */
static void write_plain(struct piece *piece)
{
	struct td_parks waiters = piece->waiters;

	piece->waiters = (struct td_parks){ 0 };
	list_del(&piece->link);
	buffer_put(piece);
	piece->req->flags &= ~TD_COMPRESS;
	map_write(piece->map, piece->req);
	td_parks_go(&waiters, 0);
}

static void packed(struct td_work *work, int err)
{
	struct map_buffer *buffer = container_of(work, struct map_buffer, work);
	struct piece *piece = buffer->piece;

	if (err) {
		write_plain(piece);
		return;
	}
	piece->size = buffer->packed_len; /* still within the unit: it stays its own */
	piece->park.go = place;
	place(&piece->park, 0);
}

static void pack(struct td_park *park, int err)
{
	struct piece *piece = piece_parked(park);
	struct td_map *map = piece->map;
	struct td_req *req = piece->req;

	/* readers have a child and wait for a buffer: who has one must not wait for a
	 * child, nor for drops, which wait for readers */
	if (!piece->spare && !(piece->spare = td_child(req))) {
		td_wait(req, piece_retry);
		return;
	}
	if (!piece->buffer && !buffer_get(piece))
		return; /* called again when there is one */
	td_req_get(req, 0, piece->buffer->data, req->len);
	memset(piece->buffer->data + req->len, 0, map->config.unit - req->len);
	piece->buffer->piece = piece;
	piece->buffer->work.run = pack_run;
	piece->buffer->work.done = packed;
	td_work_start(req->queue, &piece->buffer->work);
}

static void pack_start(struct td_park *park, int err)
{
	struct piece *piece = piece_parked(park), *grow;

	grow = grow_find(piece->map, piece->req->offset, piece->map->config.unit);
	if (grow) {
		td_parks_add(&grow->waiters, park);
		return;
	}
	piece->from = piece->req->offset;
	piece->size = piece->map->config.unit;
	list_add(&piece->map->grows, &piece->link);
	piece->park.go = pack;
	pack(park, 0);
}

bool map_pack(struct td_map *map, struct td_req *req)
{
	uint64_t unit = map->config.unit;
	bool whole = req->offset % unit == 0 &&
		     (req->len == unit || (req->len < unit &&
					   req->offset + req->len == map->img->size));

	if (!whole || !map->config.ops->pack || map->config.crypt)
		return false;
	pack_start(&piece_begin(map, req, pack_start)->park, 0);
	return true;
}
