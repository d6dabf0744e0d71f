/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the home queue has found, for the others to see: what they find here they serve
 * themselves, reads and writes in place, and nobody waits for anybody.
 *
 *   home    learns where a request lies that had to be sent there; forgets what is
 *           known of an entry of the map before that changes
 *   others  enter the epoch, look, do the I/O, leave the epoch
 *
 * A run is part of the disk that is alike, and in a row in the file. There is room for one
 * in each small block of the disk, and for one that fills a large block; blocks that are
 * far apart share it. Only home writes runs. Who reads one looks twice at its turn, which
 * is odd while it is written.
 *
 * As on the home queue, I/O under way keeps a unit of the file from being used again, but
 * counted by each queue for itself. Entering comes before looking, and forgetting before
 * the counters are read: one of the two threads sees what the other did. That is what
 * sequential consistency is for here; the rest is acquire and release.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "format/map.h"

#define SMALL_BITS 16
#define LARGE_BITS 22
#define SMALL_RUNS 32768     /* 2 GiB of the disk */
#define LARGE_RUNS 16384     /* 64 GiB */
#define LOOKS 64             /* runs of a small block, for the one that is wanted */

enum known_kind {
	KNOWN_NOTHING,
	KNOWN_ZERO,
	KNOWN_BELOW,         /* the image below has it */
	KNOWN_READ,          /* in the file */
	KNOWN_WRITE,         /* ... and may be written there */
};

struct run {
	uint64_t from, end;  /* of the disk */
	uint64_t at;         /* of from, in the file */
	enum known_kind kind;
};

struct known_run {
	_Atomic uint32_t turn, kind;
	_Atomic uint64_t from, end, at;
};

struct known_queue {
	_Alignas(64) _Atomic uint64_t busy[2];
	struct td_crypt *crypt;      /* of data that are encrypted */
};

struct map_known {
	_Atomic uint8_t side;        /* of the epoch, as map->side */
	bool writes;                 /* writes in place need nothing of home any more */
	unsigned queues;
	struct known_queue *queue;
	struct known_run *small, *large;
};

/* ---- runs -------------------------------------------------------------------------- */

static struct known_run *small_of(const struct map_known *known, uint64_t offset)
{
	return &known->small[(offset >> SMALL_BITS) % SMALL_RUNS];
}

static struct known_run *large_of(const struct map_known *known, uint64_t offset)
{
	return &known->large[(offset >> LARGE_BITS) % LARGE_RUNS];
}

/* False: it is being written, which is as good as nothing. */
static bool run_get(struct known_run *known, struct run *out)
{
	uint32_t turn = atomic_load(&known->turn);

	out->kind = atomic_load_explicit(&known->kind, memory_order_acquire);
	out->from = atomic_load_explicit(&known->from, memory_order_acquire);
	out->end = atomic_load_explicit(&known->end, memory_order_acquire);
	out->at = atomic_load_explicit(&known->at, memory_order_acquire);
	return turn % 2 == 0 && turn == atomic_load_explicit(&known->turn, memory_order_relaxed);
}

static void run_set(struct known_run *known, const struct run *run)
{
	uint32_t turn = atomic_load_explicit(&known->turn, memory_order_relaxed);

	atomic_store_explicit(&known->turn, turn + 1, memory_order_relaxed);
	atomic_store_explicit(&known->kind, run->kind, memory_order_release);
	atomic_store_explicit(&known->from, run->from, memory_order_release);
	atomic_store_explicit(&known->end, run->end, memory_order_release);
	atomic_store_explicit(&known->at, run->at, memory_order_release);
	atomic_store(&known->turn, turn + 2);
}

static bool run_has(const struct run *run, uint64_t offset, uint64_t len)
{
	return run->kind != KNOWN_NOTHING && offset >= run->from && offset < run->end &&
	       len <= run->end - offset;
}

static bool find(struct map_known *known, uint64_t offset, uint64_t len, struct run *out)
{
	return (run_get(large_of(known, offset), out) && run_has(out, offset, len)) ||
	       (run_get(small_of(known, offset), out) && run_has(out, offset, len));
}

/* ---- the epoch, on other queues --------------------------------------------------------- */

static bool enter(struct map_known *known, struct piece *piece)
{
	_Atomic uint64_t *busy = known->queue[td_queue_index(piece->req->queue)].busy;

	piece->side = atomic_load(&known->side);
	atomic_fetch_add(&busy[piece->side], 1);
	if (atomic_load(&known->side) == piece->side)
		return true;
	atomic_fetch_sub(&busy[piece->side], 1); /* it has turned, and may not wait for us */
	return false;
}

static void leave(struct map_known *known, struct piece *piece)
{
	atomic_fetch_sub(&known->queue[td_queue_index(piece->req->queue)].busy[piece->side], 1);
}

void known_turn(struct td_map *map)
{
	if (map->known)
		atomic_store(&map->known->side, map->side);
}

bool known_drained(const struct td_map *map)
{
	const struct map_known *known = map->known;

	for (unsigned i = 0; known && i < known->queues; i++)
		if (atomic_load(&known->queue[i].busy[!map->side]))
			return false;
	return true;
}

/* ---- requests, on other queues ---------------------------------------------------------- */

static void ended(struct td_req *req)
{
	struct piece *piece = td_scratch(req->image, req);
	struct td_crypt *crypt = piece->map->known->queue[td_queue_index(req->queue)].crypt;
	int err = 0;

	leave(piece->map->known, piece);
	if (crypt && !req->err)
		err = sealed_read_done(piece->map, crypt, req, piece->at);
	td_end(req, err);
}

static bool serve(struct piece *piece, const struct run *run)
{
	struct td_req *req = piece->req;

	if (req->op == TD_WRITE && run->kind != KNOWN_WRITE)
		return false;
	switch (run->kind) {
	case KNOWN_ZERO:
		leave(piece->map->known, piece);
		td_req_zero(req, 0, req->len);
		td_end(req, 0);
		return true;
	case KNOWN_BELOW:
		leave(piece->map->known, piece); /* what is there stays */
		td_pass(req);
		return true;
	case KNOWN_READ:
	case KNOWN_WRITE:
		piece->at = run->at + (req->offset - run->from);
		td_io_step(req, piece->map->config.file, piece->at, ended);
		return true;
	default:
		return false;
	}
}

bool td_map_submit_away(struct td_map *map, struct td_req *req)
{
	struct piece *piece;
	struct run run;

	map = map_at(map, req->offset);
	if (!map->known)
		return false;
	piece = piece_begin(map, req, NULL);
	if (!enter(map->known, piece))
		return false;
	if (find(map->known, req->offset, req->len, &run) && serve(piece, &run))
		return true;
	leave(map->known, piece);
	return false;
}

/* ---- at home ---------------------------------------------------------------------------- */

static enum known_kind kind_of(const struct td_map *map, const struct td_spot *spot)
{
	if (reads_zero(map, spot))
		return KNOWN_ZERO;
	if (spot->kind == TD_SPOT_HOLE)
		return KNOWN_BELOW;
	if (spot->kind == TD_SPOT_PACKED)
		return KNOWN_NOTHING;
	return spot->kind == TD_SPOT_DATA && map->known->writes ? KNOWN_WRITE : KNOWN_READ;
}

/* The run at offset, which ends with the block at the latest. */
static bool look(struct td_map *map, uint64_t offset, uint64_t end, struct run *run)
{
	struct td_spot spot;

	if (map->config.ops->find(map->img, NULL, offset, end - offset, &spot) || !spot.len)
		return false;
	run->from = offset;
	run->end = offset + min_u64(spot.len, end - offset);
	run->at = spot.at;
	run->kind = kind_of(map, &spot);
	return true;
}

/* What part of the block at offset is the map's, and on the disk. */
static void block_at(const struct td_map *map, uint64_t offset, unsigned bits, uint64_t *from,
		     uint64_t *end)
{
	uint64_t size = 1ull << bits;

	*from = max_u64(round_down(offset, size), map->config.start);
	*end = min_u64(round_down(offset, size) + size,
		       min_u64(map->config.end, map->img->size));
}

void known_learn(struct td_map *map, const struct td_req *req)
{
	struct map_known *known = map->known;
	uint64_t from, end;
	struct run run;

	known->writes |= req->op == TD_WRITE && !map->config.notes_writes && !map->config.crypt;
	block_at(map, req->offset, LARGE_BITS, &from, &end);
	if (look(map, from, end, &run) && run.end == end && run.kind) {
		run_set(large_of(known, from), &run);
		return;
	}
	block_at(map, req->offset, SMALL_BITS, &from, &end);
	for (unsigned n = 0; n < LOOKS && look(map, from, end, &run); n++) {
		if (run.end > req->offset) {
			run_set(small_of(known, from), &run);
			return;
		}
		from = run.end;
	}
}

static void forget(struct known_run *known, uint64_t from, uint64_t end)
{
	struct run run;

	run_get(known, &run); /* we are its only writer */
	if (run.kind != KNOWN_NOTHING && run.from < end && from < run.end)
		run_set(known, &(struct run){ .kind = KNOWN_NOTHING });
}

void known_forget(struct td_map *map, uint64_t offset, uint64_t len)
{
	uint64_t unit = map->config.unit, from = round_down(offset, unit);
	uint64_t end = round_up(offset + len, unit);

	if (!map->known)
		return;
	for (uint64_t at = from >> LARGE_BITS; at <= (end - 1) >> LARGE_BITS; at++)
		forget(large_of(map->known, at << LARGE_BITS), from, end);
	for (uint64_t at = from >> SMALL_BITS; at <= (end - 1) >> SMALL_BITS; at++)
		forget(small_of(map->known, at << SMALL_BITS), from, end);
}

/* ---- open and close --------------------------------------------------------------------- */

int known_open(struct td_map *map)
{
	struct map_known *known;
	unsigned queues = td_queue_count(map->img->queue);

	if (queues == 1)
		return 0;
	known = map->known = calloc(1, sizeof(*known));
	if (!known)
		return -ENOMEM;
	known->queues = queues;
	known->queue = aligned_alloc(64, queues * sizeof(*known->queue));
	if (known->queue)
		memset(known->queue, 0, queues * sizeof(*known->queue));
	known->small = calloc(SMALL_RUNS, sizeof(*known->small));
	known->large = calloc(LARGE_RUNS, sizeof(*known->large));
	if (!known->queue || !known->small || !known->large)
		return -ENOMEM;
	for (unsigned i = 0; i < queues && map->config.crypt; i++) {
		known->queue[i].crypt = td_crypt_copy(map->config.crypt);
		if (!known->queue[i].crypt)
			return -ENOMEM;
	}
	return 0;
}

void known_close(struct td_map *map)
{
	if (!map->known)
		return;
	for (unsigned i = 0; map->known->queue && i < map->known->queues; i++)
		td_crypt_free(map->known->queue[i].crypt);
	free(map->known->queue);
	free(map->known->small);
	free(map->known->large);
	free(map->known);
}
