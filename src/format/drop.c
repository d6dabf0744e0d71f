/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Units of the file that no entry shows any more. Each loses an owner, but only
 *
 *   after the change of the entry is durable: a power cut could bring it back;
 *   after all I/O has ended that saw it: an epoch of two sides, of which new I/O
 *   enters one and the other drains.
 *
 * Then those without an owner are zeroed and given to space. One round of that at
 * a time; what is dropped meanwhile is for the next.
 *
 *   td_map_drop -> round_start -> durable, drained -> release -> punched -> ...
 */
#include <stdlib.h>

#include "base/rule.h"
#include "format/map.h"

#define LOOK_MS 1

static void release(struct td_park *park, int err);
static void round_start(struct td_map *map);

static struct td_map *map_of_drops(struct map_drops *drops)
{
	return container_of(drops, struct td_map, drops);
}

static void round_end(struct td_map *map)
{
	struct map_drops *drops = &map->drops;

	drops->running = false;
	drops->nows = 0;
	if (drops->nexts)
		td_defer(map->img->queue, &drops->defer);
	td_parks_go(&drops->waiting, 0);
}

/* ---- what has no owner ----------------------------------------------------------- */

static void punched(struct td_req *req)
{
	struct td_map *map = req->user;
	struct map_drops *drops = &map->drops;

	if (!req->err)
		td_space_give(map->config.space, drops->gone.at, drops->gone.len);
	drops->gone.len = 0;
	release(&drops->page, 0);
}

static void punch(struct td_map *map)
{
	struct td_req *req = map->drops.punch;

	req->user = map;
	req->step = punched;
	req->err = 0;
	td_buffer(req, TD_WRITE_ZEROES, NULL, map->drops.gone.len);
	req->flags = TD_MAY_UNMAP;
	td_io(req, td_space_file(map->config.space), map->drops.gone.at);
}

/* Adds the unit to the run that is to be punched; false: it does not follow. */
static bool gone_add(struct map_drops *drops, uint64_t at, uint64_t unit)
{
	if (drops->gone.len && drops->gone.at + drops->gone.len != at)
		return false;
	if (!drops->gone.len)
		drops->gone.at = at;
	drops->gone.len += unit;
	return true;
}

static void release(struct td_park *park, int err)
{
	struct map_drops *drops = container_of(park, struct map_drops, page);
	struct td_map *map = map_of_drops(drops);
	uint64_t unit = map->config.unit;

	for (; drops->run < drops->nows; drops->run++, drops->pos = 0) {
		const struct map_run *run = &drops->now[drops->run];

		for (; drops->pos < run->len; drops->pos += unit) {
			uint64_t at = run->at + drops->pos;
			bool gone = false;

			if (drops->gone.len && drops->gone.at + drops->gone.len != at) {
				punch(map);
				return;
			}
			if (!err)
				err = map->config.ops->release(map->img, park, at, &gone);
			if (err == TD_PARKED)
				return;
			err = 0; /* space has leaked; that was said where it was found */
			if (gone && td_cache_forget(map->config.cache, at, unit))
				gone_add(drops, at, unit);
		}
	}
	if (drops->gone.len)
		punch(map);
	else
		round_end(map);
}

/* ---- the round ------------------------------------------------------------------- */

static void go_on(struct map_drops *drops)
{
	if (!drops->is_durable || !drops->is_drained)
		return;
	release(&drops->page, 0);
}

static void became_durable(struct td_park *park, int err)
{
	struct map_drops *drops = container_of(park, struct map_drops, durable);

	drops->is_durable = true;
	go_on(drops);
}

void drops_drained(struct td_map *map)
{
	struct map_drops *drops = &map->drops;

	if (!drops->running || drops->is_drained)
		return;
	drops->is_drained = known_drained(map);
	if (drops->is_drained)
		go_on(drops);
	else
		td_alarm_set(drops->look, LOOK_MS);
}

/* Nobody tells us when the I/O of other queues ends. */
static void look(void *arg)
{
	struct td_map *map = arg;

	if (!map->busy[!map->side])
		drops_drained(map);
}

static void round_start(struct td_map *map)
{
	struct map_drops *drops = &map->drops;
	struct map_run *swap = drops->now;

	drops->running = true;
	drops->now = drops->next;
	drops->nows = drops->nexts;
	drops->run = 0;
	drops->pos = 0;
	drops->next = swap;
	drops->nexts = 0;
	drops->is_durable = false;
	drops->is_drained = false;
	map->side = !map->side;
	known_turn(map);
	if (!map->busy[!map->side])
		drops_drained(map);
	if (td_rule("format-drops-after-entries"))
		td_cache_after(map->config.cache, &drops->durable);
	else
		became_durable(&drops->durable, 0);
}

static void drops_run(struct td_defer *defer)
{
	struct map_drops *drops = container_of(defer, struct map_drops, defer);

	if (!drops->running && drops->nexts)
		round_start(map_of_drops(drops));
}

void td_map_drop(struct td_map *map, uint64_t at, uint64_t len)
{
	struct map_drops *drops = &map->drops;
	struct map_run *last = drops->nexts ? &drops->next[drops->nexts - 1] : NULL;

	buffers_forget(map, at, len);
	if (last && last->at + last->len == at)
		last->len += len;
	else if (drops->nexts < MAP_DROPS)
		drops->next[drops->nexts++] = (struct map_run){ at, len };
	else
		td_say(map->img, LOG_WARNING, "%llu bytes of the file are lost to it until it is "
		       "checked", (unsigned long long)len);
	if (!drops->running)
		td_defer(map->img->queue, &drops->defer);
}

bool td_map_drops(const struct td_map *map)
{
	return map->drops.running || map->drops.nexts;
}

static void hurried(struct td_park *park, int err)
{
	container_of(park, struct map_drops, hurry)->hurrying = false;
}

int drops_room(struct td_map *map, struct td_park *park)
{
	struct map_drops *drops = &map->drops;

	if (drops->nexts < MAP_DROPS / 2)
		return 0;
	td_parks_add(&drops->waiting, park);
	if (drops->running && !drops->is_durable && !drops->hurrying) {
		drops->hurrying = true; /* not only after a second */
		drops->hurry.go = hurried;
		td_cache_flush(map->config.cache, &drops->hurry);
	}
	return TD_PARKED;
}

/* ---- open and close ----------------------------------------------------------------- */

int drops_open(struct td_map *map)
{
	struct map_drops *drops = &map->drops;

	drops->durable.go = became_durable;
	drops->page.go = release;
	drops->defer.run = drops_run;
	if (!map->config.space)
		return 0;
	drops->next = calloc(MAP_DROPS, sizeof(*drops->next));
	drops->now = calloc(MAP_DROPS, sizeof(*drops->now));
	drops->punch = td_req_new(map->img->queue, map->img);
	drops->look = td_alarm_new(map->img->queue, look, map);
	return drops->next && drops->now && drops->punch && drops->look ? 0 : -ENOMEM;
}

static void release_now(struct td_map *map, const struct map_run *run, uint64_t pos)
{
	struct td_park nobody = { 0 }; /* nothing parks */

	for (; pos < run->len; pos += map->config.unit) {
		bool gone = false;

		if (!map->config.ops->release(map->img, &nobody, run->at + pos, &gone) && gone)
			td_file_punch(td_space_file(map->config.space), run->at + pos,
				      map->config.unit);
	}
}

/* All I/O has ended. What waits to be released is, once the tables are durable. */
void drops_close(struct td_map *map)
{
	struct map_drops *drops = &map->drops;

	if (drops->next && (drops->nexts || drops->nows)) {
		td_cache_block(map->config.cache, true);
		if (!td_cache_sync(map->config.cache)) {
			for (; drops->run < drops->nows; drops->run++, drops->pos = 0)
				release_now(map, &drops->now[drops->run], drops->pos);
			for (unsigned i = 0; i < drops->nexts; i++)
				release_now(map, &drops->next[i], 0);
		}
	}
	td_undefer(map->img->queue, &drops->defer);
	td_req_free(drops->punch);
	td_alarm_free(drops->look);
	free(drops->next);
	free(drops->now);
}
