/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of an image: requests come in here, and pieces of them are kept.
 */
#include "format/map.h"

#include <stdlib.h>

struct piece *piece_begin(struct td_map *map, struct td_req *req,
			  void (*go)(struct td_park *park, int err))
{
	struct piece *piece = piece_of(map, req);

	piece->map = map;
	piece->req = req;
	piece->park.go = go;
	return piece;
}

void piece_retry(struct td_req *req)
{
	struct piece *piece = td_scratch(req->image, req);

	piece->park.go(&piece->park, 0);
}

struct piece *piece_child(struct piece *parent, uint64_t len)
{
	struct td_req *kid = parent->spare ? parent->spare : td_child(parent->req);
	struct piece *piece;

	parent->spare = NULL;
	if (!kid) {
		td_wait(parent->req, piece_retry);
		return NULL;
	}
	piece = piece_of(parent->map, kid);
	piece->map = parent->map;
	piece->req = kid;
	piece->pos = parent->pos;
	piece->len = len;
	kid->user = piece;
	return piece;
}

void piece_end(struct piece *piece, int err)
{
	struct td_req *spare = piece->spare;

	if (spare) {
		piece->spare = NULL;
		td_end(spare, 0);
	}
	td_end(piece->req, err);
}

void epoch_enter(struct piece *piece)
{
	piece->inside = true;
	piece->side = piece->map->side;
	piece->map->busy[piece->side]++;
}

void epoch_leave(struct piece *piece)
{
	struct td_map *map = piece->map;

	if (!piece->inside)
		return;
	piece->inside = false;
	if (!--map->busy[piece->side] && piece->side != map->side)
		drops_drained(map);
}

void piece_io_ended(struct td_req *kid)
{
	epoch_leave(kid->user);
	td_end(kid, 0);
}

/* ---- flush: the maps of a row in turn --------------------------------------------- */

static void flush_go(struct td_park *park, int err);

static void file_flushed(struct td_req *req)
{
	struct piece *piece = td_scratch(req->image, req);

	flush_go(&piece->park, req->err);
}

static void flush_go(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);
	struct td_map *map = piece->map;

	if (err || !map) {
		td_end(piece->req, err);
		return;
	}
	piece->map = map->next;
	if (map->config.cache)
		td_cache_flush(map->config.cache, park);
	else if (map->config.file)
		td_io_step(piece->req, map->config.file, 0, file_flushed);
	else
		flush_go(park, 0);
}

void td_map_submit(struct td_map *map, struct td_req *req)
{
	switch (req->op) {
	case TD_READ:
		known_note(map, req);
		map_read(map, req);
		break;
	case TD_EXTENTS:
		map_extents(map, req);
		break;
	case TD_WRITE:
		known_note(map, req);
		if (req->flags & TD_COMPRESS && map_pack(map, req))
			break;
		req->flags &= ~TD_COMPRESS;
		map_write(map, req);
		break;
	case TD_WRITE_ZEROES:
	case TD_DISCARD:
		map_write(map, req);
		break;
	case TD_FLUSH:
		flush_go(&piece_begin(map, req, flush_go)->park, 0);
		break;
	}
}

int td_map_new(struct td_image *img, const struct td_map_config *config, struct td_map **out,
	       struct td_why *why)
{
	struct td_map *map = calloc(1, sizeof(*map));

	if (!map)
		return td_fail(why, -ENOMEM, "%s: no memory", img->target);
	map->img = img;
	map->config = *config;
	if (!map->config.end)
		map->config.end = UINT64_MAX;
	list_init(&map->grows);
	list_init(&map->units.free);
	list_init(&map->chunks.free);
	if (buffers_open(map) || drops_open(map) || known_open(map)) {
		td_map_free(map);
		return td_fail(why, -ENOMEM, "%s: no memory", img->target);
	}
	*out = map;
	return 0;
}

void td_map_append(struct td_map *map, struct td_map *next)
{
	map->next = next;
}

void td_map_free(struct td_map *map)
{
	if (!map)
		return;
	drops_close(map);
	known_close(map);
	buffers_close(map);
	free(map);
}
