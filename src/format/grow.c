/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * First writes: grains that get a place in the file.
 *
 * Where zeroes were, and the place reads as zeroes, the entry is set at once: the
 * grain reads as before until the data come, whatever happens in between. Then the
 * write is one in place, like any other.
 *
 * Elsewhere the data come first, and then the entry that shows them:
 *
 *   grow_start -> [fill -> filled] -> written -> mapped
 *
 * Whole grains are written from the request's memory. One that is written in part
 * is filled up with what was there: from below, from the place it shares, or
 * unpacked. While that is under way other writers of the grain wait.
 *
 * Where data are encrypted all go the second way, through a buffer: no place reads as
 * zeroes before it has been written.
 */
#include <string.h>

#include "format/map.h"

static uint64_t unit_up(const struct td_map *map, uint64_t n)
{
	return round_up(n, map->config.unit);
}

/* What is one grow's alone is a multiple of this. */
static uint64_t alone(const struct td_map *map)
{
	return map->config.grains_apart ? map->config.grain : map->config.unit;
}

uint64_t grow_begins(const struct piece *grow)
{
	return round_down(grow->from, alone(grow->map));
}

struct piece *grow_find(struct td_map *map, uint64_t offset, uint64_t len)
{
	struct piece *first = NULL;

	LIST_FOR (struct piece, grow, &map->grows, link)
		if (grow_begins(grow) < offset + len &&
		    offset < round_up(grow->from + grow->size, alone(map)) &&
		    (!first || grow->from < first->from))
			first = grow;
	return first;
}

static struct piece *grow_of(struct td_park *park)
{
	return container_of(park, struct piece, park);
}

/* ---- the end ---------------------------------------------------------------- */

static void over(struct piece *grow, int err)
{
	struct td_map *map = grow->map;
	struct td_parks waiters = grow->waiters;

	list_del(&grow->link);
	buffer_put(grow);
	if (err && !grow->old.placed && !map->config.grains_apart) {
		uint64_t from = grow_begins(grow);

		td_map_drop(map, grow->at - (grow->from - from),
			    unit_up(map, grow->from + grow->size) - from);
	}
	epoch_leave(grow);
	td_end(grow->req, err);
	td_parks_go(&waiters, 0);
}

static void map_it(struct td_park *park, int err)
{
	struct piece *grow = grow_of(park);
	const struct td_map_ops *ops = grow->map->config.ops;
	struct td_image *img = grow->map->img;
	uint64_t len = grow->size;

	epoch_leave(grow); /* nothing of the old place is read any more */
	if (!err)
		err = td_cache_room(grow->map->config.cache, park);
	if (!err)
		err = drops_room(grow->map, park);
	if (!err)
		err = ops->ready(img, park, grow->from, &len);
	if (!err) {
		known_forget(grow->map, grow->from, grow->size);
		err = ops->set(img, grow->from, grow->size, grow->at);
	}
	if (err != TD_PARKED)
		over(grow, err);
}

static void written(struct td_req *kid)
{
	struct piece *grow = kid->user;

	td_cache_data(grow->map->config.cache);
	buffer_put(grow);
	grow->park.go = map_it;
	if (kid->err)
		over(grow, kid->err);
	else
		map_it(&grow->park, 0);
}

/* ---- a grain written in part -------------------------------------------------- */

/* The buffer has the old content: put the new on top. */
static void filled(struct piece *grow, int err)
{
	struct td_req *kid = grow->req, *parent = kid->parent;
	char *to = grow->buffer->data + (parent->offset + grow->pos - grow->from);

	grow->buffer->key = 0;
	if (err) {
		over(grow, err);
		return;
	}
	if (parent->op == TD_WRITE)
		td_req_get(parent, grow->pos, to, grow->len);
	else
		memset(to, 0, grow->len);
	if (grow->map->config.crypt)
		err = sealed_encrypt(grow->map, grow->from, grow->at, grow->buffer->data,
				     grow->size);
	if (err) {
		over(grow, err);
		return;
	}
	kid->step = written;
	td_buffer(kid, TD_WRITE, grow->buffer->data, grow->size);
	td_io(kid, grow->map->config.file, grow->at);
}

/* What lies below has been decrypted there. */
static void old_read(struct td_req *kid)
{
	struct piece *grow = kid->user;
	struct td_map *map = grow->map;
	uint64_t skip = kid->parent->offset + grow->pos - grow->from;
	int err = kid->err;

	if (!err && map->config.crypt && grow->old.kind != TD_SPOT_HOLE)
		err = sealed_decrypt(map, grow->from, grow->old.at - skip, grow->buffer->data,
				     grow->size);
	filled(grow, err);
}

static void fill(struct td_park *park, int err)
{
	struct piece *grow = grow_of(park);
	struct td_req *kid = grow->req;
	uint64_t skip = kid->parent->offset + grow->pos - grow->from;

	if (!grow->buffer && !buffer_get(grow))
		return; /* called again when there is one */
	grow->filled = filled;
	if (grow->len == grow->size) {
		filled(grow, 0); /* nothing of it is left */
	} else if (reads_zero(grow->map, &grow->old)) {
		memset(grow->buffer->data, 0, grow->size);
		filled(grow, 0);
	} else if (grow->old.kind == TD_SPOT_PACKED) {
		buffer_unpack(grow, &grow->old);
	} else {
		kid->step = old_read;
		td_buffer(kid, TD_READ, grow->buffer->data, grow->size);
		kid->offset = grow->from;
		if (grow->old.kind == TD_SPOT_HOLE)
			td_pass(kid);
		else
			td_io(kid, grow->map->config.file, grow->old.at - skip);
	}
}

static void begin(struct piece *grow)
{
	struct td_req *kid = grow->req;

	epoch_enter(grow);
	list_add(&grow->map->grows, &grow->link);
	if (grow->len < grow->size || grow->map->config.crypt) {
		grow->park.go = fill;
		fill(&grow->park, 0);
	} else if (kid->parent->op == TD_WRITE_ZEROES && !(grow->old.placed && grow->old.dirty)) {
		grow->park.go = map_it;
		map_it(&grow->park, 0); /* its place reads as zeroes */
	} else {
		kid->step = written;
		td_slice(kid, grow->pos, grow->len);
		td_io(kid, grow->map->config.file, grow->at);
	}
}

/* ---- the start ------------------------------------------------------------------ */

/* Takes the place for grains [from, from + *size). */
static int take_place(struct piece *piece, const struct td_spot *spot, uint64_t from,
		      uint64_t *size, uint64_t *at)
{
	struct td_map *map = piece->map;
	const struct td_map_ops *ops = map->config.ops;
	uint64_t offset = piece->req->offset + piece->pos;
	uint64_t first = round_down(from, map->config.unit), len = unit_up(map, from + *size) - first;
	int err = ops->ready(map->img, &piece->park, first, &len);

	if (err)
		return err;
	if (spot->placed) {
		*at = spot->at - (offset - from);
	} else {
		err = ops->place(map->img, &piece->park, first, &len, at);
		if (err)
			return err;
		*at += from - first;
	}
	*size = min_u64(*size, first + len - from);
	return 0;
}

/* Zeroes were there, and zeroes are in its place. What is there is looked at again
 * then: it is data. */
static int grow_at_once(struct piece *piece, const struct td_spot *spot, uint64_t len,
			uint64_t *done)
{
	struct td_map *map = piece->map;
	uint64_t offset = piece->req->offset + piece->pos;
	uint64_t from = round_down(offset, map->config.grain);
	uint64_t size = round_up(offset + len, map->config.grain) - from, at;
	int err = take_place(piece, spot, from, &size, &at);

	*done = 0;
	if (err)
		return err;
	known_forget(map, from, size);
	return map->config.ops->set(map->img, from, size, at);
}

/* The grains for what is at offset: one in part, or whole ones. */
static uint64_t aim(const struct td_map *map, const struct td_spot *spot, uint64_t offset,
		    uint64_t left, uint64_t *from, uint64_t *size)
{
	uint64_t grain = spot->kind == TD_SPOT_PACKED ? map->config.unit : map->config.grain;
	uint64_t skip = offset % grain;

	*from = offset - skip;
	*size = grain;
	if (skip || left < grain)
		return min_u64(left, grain - skip);
	if (spot->kind != TD_SPOT_PACKED)
		*size = round_down(map->config.crypt ? min_u64(left, map->buffer_size) : left, grain);
	return *size;
}

int grow_start(struct piece *piece, const struct td_spot *spot, uint64_t left, uint64_t *done)
{
	struct td_map *map = piece->map;
	uint64_t offset = piece->req->offset + piece->pos, from, size, len, at;
	struct piece *grow;
	int err = td_cache_room(map->config.cache, &piece->park);

	if (!err)
		err = drops_room(map, &piece->park);
	if (err)
		return err;
	if (reads_zero(map, spot) && !(spot->placed && spot->dirty) && !map->config.crypt)
		return grow_at_once(piece, spot, left, done);
	len = aim(map, spot, offset, left, &from, &size);
	if (!piece->spare && !(piece->spare = td_child(piece->req)))
		return piece_child(piece, 0) ? -EINVAL : TD_PARKED;
	err = take_place(piece, spot, from, &size, &at);
	if (err)
		return err;
	len = min_u64(len, from + size - offset);
	grow = piece_child(piece, len);
	grow->old = *spot;
	grow->from = from;
	grow->size = size;
	grow->at = at;
	begin(grow);
	*done = len;
	return 0;
}
