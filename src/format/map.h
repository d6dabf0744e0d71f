/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map's parts, and what they share.
 *
 *   map.c    open, close, and which operation goes where
 *   read.c   READ, EXTENTS         packed.c  compressed units, and buffers
 *   write.c  WRITE, WRITE_ZEROES, DISCARD: the walk from spot to spot
 *   grow.c   first writes that must be filled or must not be seen early
 *   pack.c   units to be compressed
 *   sealed.c data that are encrypted
 *   drop.c   units of the file that nobody shows any more
 *   known.c  what queues other than home serve
 */
#ifndef FORMAT_MAP_H
#define FORMAT_MAP_H

#include <assert.h>
#include <errno.h>

#include <blktap/format.h>

#include "base/list.h"
#include "base/log.h"

#define MAP_BUFFERS 32
#define MAP_BUFFERS_SIZE (32 * MiB)
#define MAP_DROPS 2048
#define MAP_CHUNKS 32
#define MAP_CHUNK (128 * KiB)
#define MAP_SEALED_RUN (64 * KiB) /* grains that are written for the first time at once */

/* What a request or a child of one remembers. */
struct piece {
	struct td_park park;
	struct td_map *map;
	struct td_req *req;
	uint64_t pos;            /* a request: bytes dealt with; a child: where its
	                            bytes are in the request */
	uint64_t len;            /* a child: its bytes of the request */
	struct td_req *spare;    /* a request: a child that has not been used yet */
	struct map_buffer *buffer;
	void (*filled)(struct piece *piece, int err); /* its buffer has been */
	uint8_t side;            /* of the epoch */
	bool inside;             /* is in it */
	/* a child that gives grains a place: a grow */
	struct td_spot old;      /* what was there */
	uint64_t from, size;     /* the grains, on the disk */
	uint64_t at;             /* their place; of a sealed write or read, the data's */
	struct list link;        /* in map->grows */
	struct td_parks waiters; /* writers of the same grains */
};
static_assert(sizeof(struct piece) <= TD_MAP_REQ_SIZE, "told to drivers");

struct map_pool {
	struct list free;
	struct td_parks waiting;
};

/* Memory for a unit, and for what it is unpacked from; free ones remember what they
 * hold. Or a chunk, for what is encrypted on its way to the file. */
struct map_buffer {
	struct list link;
	struct td_map *map;
	struct map_pool *pool;
	char *data, *packed;
	uint64_t key;            /* where the packed bytes are; 0: no unit */
	uint32_t packed_len;
	struct piece *piece;
	struct td_work work;
};

struct map_run {
	uint64_t at, len;
};

struct map_drops {
	struct td_park durable, page, hurry;
	bool hurrying;
	struct td_defer defer;
	struct map_run *next, *now; /* to be released; being released */
	unsigned nexts, nows;
	bool running, is_durable, is_drained;
	unsigned run;            /* of now: how far it is */
	uint64_t pos;
	struct map_run gone;     /* a run that has no owner, to be punched */
	struct td_req *punch;
	struct td_parks waiting; /* for room in next */
	struct td_alarm *look;   /* whether the I/O of other queues has ended */
};

struct td_map {
	struct td_image *img;
	struct td_map_config config;
	struct td_map *next;     /* of what follows on the disk; NULL: nothing */
	struct list grows;
	struct map_buffer buffer[MAP_BUFFERS], chunk[MAP_CHUNKS];
	unsigned buffers;
	uint64_t buffer_size;    /* of data: a unit or more */
	struct map_pool units, chunks;
	char *arena;
	size_t arena_size;
	/* I/O under way that saw the map: before the last turn of the epoch, and since */
	uint64_t busy[2];
	uint8_t side;
	struct map_drops drops;
	struct map_known *known; /* NULL: there is no other queue */
};

static inline struct piece *piece_of(struct td_map *map, struct td_req *req)
{
	return td_scratch(map->img, req);
}

struct piece *piece_begin(struct td_map *map, struct td_req *req,
			  void (*go)(struct td_park *park, int err));
/* A child for len bytes from parent->pos on; NULL: parent waits. */
struct piece *piece_child(struct piece *parent, uint64_t len);
/* td_wait()'s again(). */
void piece_retry(struct td_req *req);
/* The request ends. */
void piece_end(struct piece *piece, int err);

/* The epoch: between these a unit of the file that the piece has seen stays. Who is
 * inside must not wait for drops: they wait for it. Leaving twice is harmless. */
void epoch_enter(struct piece *piece);
void epoch_leave(struct piece *piece);
/* The step of a child whose I/O saw the map: that is over. */
void piece_io_ended(struct td_req *kid);

/* The map of that offset of the disk, in the row that begins with map. */
static inline struct td_map *map_at(struct td_map *map, uint64_t offset)
{
	while (offset >= map->config.end)
		map = map->next;
	return map;
}

void map_read(struct td_map *map, struct td_req *req);
void map_extents(struct td_map *map, struct td_req *req);
void map_write(struct td_map *map, struct td_req *req);

/* What a spot reads as where it has no data of its own. */
static inline bool reads_zero(const struct td_map *map, const struct td_spot *spot)
{
	return spot->kind == TD_SPOT_ZERO ||
	       (spot->kind == TD_SPOT_HOLE && !map->img->below);
}

/* grow.c: the grow that touches units of [offset, offset + len) first; NULL: none. A
 * unit is one grow's alone, whichever of its grains that is about, unless grains are
 * apart: then it is about these. */
uint64_t grow_begins(const struct piece *grow);
struct piece *grow_find(struct td_map *map, uint64_t offset, uint64_t len);
/* A place for what the piece writes at its pos. 0: *done bytes are taken care of. */
int grow_start(struct piece *piece, const struct td_spot *spot, uint64_t left, uint64_t *done);

/* pack.c: stores a request compressed; false: it cannot be. */
bool map_pack(struct td_map *map, struct td_req *req);

/* packed.c */
int buffers_open(struct td_map *map);
void buffers_close(struct td_map *map);
/* False: piece->park.go() is called when there is one. */
bool buffer_get(struct piece *piece);
/* The same for a chunk, of a map that is encrypted. */
bool chunk_get(struct piece *piece);
void buffer_put(struct piece *piece);
/* The unit, if a free buffer still has it. */
const char *buffer_cached(struct td_map *map, const struct td_spot *spot);
/* Unpacks spot into the piece's buffer, then calls piece->filled(). The piece's
 * request is a child. */
void buffer_unpack(struct piece *piece, const struct td_spot *spot);
void buffers_forget(struct td_map *map, uint64_t at, uint64_t len);

/* sealed.c: of [offset, ...) of the disk, at that place of the file */
int sealed_encrypt(struct td_map *map, uint64_t offset, uint64_t at, void *buf, uint64_t len);
int sealed_decrypt(struct td_map *map, uint64_t offset, uint64_t at, void *buf, uint64_t len);
/* What a request has read from that place. */
int sealed_read_done(struct td_map *map, struct td_crypt *crypt, struct td_req *req, uint64_t at);
/* Writes up to *len bytes at the piece's pos in place, or zeroes; *len: what was begun.
 * 0 or TD_PARKED. */
int sealed_write(struct piece *parent, const struct td_spot *spot, uint64_t *len);

/* drop.c */
int drops_open(struct td_map *map);
void drops_close(struct td_map *map);
/* Before something is dropped. 0 or TD_PARKED. */
int drops_room(struct td_map *map, struct td_park *park);
void drops_drained(struct td_map *map);

/* known.c. At home: where the request lies; that of [offset, ...) nothing is known, before
 * an entry there changes; the epoch has turned; nobody is left on its other side. */
int known_open(struct td_map *map);
void known_close(struct td_map *map);
void known_learn(struct td_map *map, const struct td_req *req);
void known_forget(struct td_map *map, uint64_t offset, uint64_t len);
void known_turn(struct td_map *map);
bool known_drained(const struct td_map *map);

/* A request has come in at home. */
static inline void known_note(struct td_map *map, const struct td_req *req)
{
	map = map_at(map, req->offset);
	if (__builtin_expect(map->known != NULL, 0) && td_req_was_sent(req))
		known_learn(map, req);
}

#endif
