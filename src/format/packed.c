/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Buffers of a unit, and compressed units unpacked into them, on worker threads. A
 * buffer that is given back remembers the unit it holds, since readers come back
 * for its other sectors. Their number is fixed: who finds none waits for one.
 */
#include <string.h>
#include <sys/mman.h>

#include "format/map.h"

static bool pool_get(struct map_pool *pool, struct piece *piece)
{
	struct list *link = list_pop(&pool->free);

	if (!link) {
		td_parks_add(&pool->waiting, &piece->park);
		return false;
	}
	piece->buffer = list_item(link, struct map_buffer, link);
	piece->buffer->key = 0;
	return true;
}

bool buffer_get(struct piece *piece)
{
	return pool_get(&piece->map->units, piece);
}

bool chunk_get(struct piece *piece)
{
	return pool_get(&piece->map->chunks, piece);
}

void buffer_put(struct piece *piece)
{
	struct map_pool *pool;
	struct td_park *park;

	if (!piece->buffer)
		return;
	pool = piece->buffer->pool;
	list_add(&pool->free, &piece->buffer->link);
	piece->buffer = NULL;
	park = pool->waiting.first;
	if (!park)
		return;
	pool->waiting.first = park->next;
	park->go(park, 0);
}

const char *buffer_cached(struct td_map *map, const struct td_spot *spot)
{
	LIST_FOR (struct map_buffer, buffer, &map->units.free, link)
		if (buffer->key == spot->at && buffer->packed_len == spot->packed) {
			list_del(&buffer->link);
			list_add(&map->units.free, &buffer->link);
			return buffer->data;
		}
	return NULL;
}

void buffers_forget(struct td_map *map, uint64_t at, uint64_t len)
{
	for (unsigned i = 0; i < map->buffers; i++)
		if (map->buffer[i].key >= at && map->buffer[i].key < at + len)
			map->buffer[i].key = 0;
}

static int unpack_run(struct td_work *work)
{
	struct map_buffer *buffer = container_of(work, struct map_buffer, work);
	const struct td_map *map = buffer->map;

	return map->config.ops->unpack(map->img, buffer->packed + buffer->piece->old.at % 512,
				       buffer->packed_len, buffer->data);
}

static void unpack_done(struct td_work *work, int err)
{
	struct map_buffer *buffer = container_of(work, struct map_buffer, work);
	struct piece *piece = buffer->piece;

	if (err)
		td_say(buffer->map->img, LOG_ERR, "the compressed data at %llu of the file are "
		       "damaged", (unsigned long long)piece->old.at);
	else
		buffer->key = piece->old.at;
	piece->filled(piece, err);
}

static void packed_read(struct td_req *kid)
{
	struct piece *piece = kid->user;
	struct map_buffer *buffer = piece->buffer;

	if (kid->err) {
		piece->filled(piece, kid->err);
		return;
	}
	buffer->piece = piece;
	buffer->packed_len = piece->old.packed;
	buffer->work.run = unpack_run;
	buffer->work.done = unpack_done;
	td_work_start(kid->queue, &buffer->work);
}

void buffer_unpack(struct piece *piece, const struct td_spot *spot)
{
	uint64_t from = round_down(spot->at, 512), end = round_up(spot->at + spot->packed, 512);
	struct td_req *kid = piece->req;

	kid->step = packed_read;
	td_buffer(kid, TD_READ, piece->buffer->packed, end - from);
	td_io(kid, piece->map->config.file, from);
}

static void buffer_init(struct td_map *map, struct map_buffer *buffer, struct map_pool *pool,
			char *data, char *packed)
{
	buffer->map = map;
	buffer->pool = pool;
	buffer->data = data;
	buffer->packed = packed;
	list_add(&pool->free, &buffer->link);
}

/* Packed bytes take two units at most, and begin and end within sectors. */
int buffers_open(struct td_map *map)
{
	size_t unit = max_u64(map->config.unit, map->config.grain);
	size_t data = round_up(map->config.crypt ? max_u64(unit, MAP_SEALED_RUN) : unit, 4096);
	size_t packed = map->config.ops->unpack ? round_up(2 * unit + 1024, 4096) : 0;
	size_t chunks = map->config.crypt ? MAP_CHUNKS : 0;
	char *at;

	map->buffer_size = data;
	map->buffers = min_u64(max_u64(MAP_BUFFERS_SIZE / (data + packed), 2), MAP_BUFFERS);
	map->arena_size = map->buffers * (data + packed) + chunks * MAP_CHUNK;
	at = mmap(NULL, map->arena_size, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	map->arena = at;
	for (unsigned i = 0; i < map->buffers; i++, at += data + packed)
		buffer_init(map, &map->buffer[i], &map->units, at, at + data);
	for (unsigned i = 0; i < chunks; i++, at += MAP_CHUNK)
		buffer_init(map, &map->chunk[i], &map->chunks, at, NULL);
	return 0;
}

void buffers_close(struct td_map *map)
{
	if (map->arena)
		munmap(map->arena, map->arena_size);
}
