/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each sector may hold; see history.h.
 */
#include "history.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

#define WINDOWS 8
#define WINDOW_MAX (4 * MiB)

void history_init(struct history *history, uint64_t disk_size)
{
	bool small = disk_size <= WINDOWS * WINDOW_MAX;

	history->window = small ? disk_size : WINDOW_MAX;
	history->stride = small ? 0 :
		round_down((disk_size - WINDOW_MAX) / (WINDOWS - 1), 4096);
	history->size = small ? disk_size : WINDOWS * WINDOW_MAX;
	history->sector = calloc(history->size / SECTOR, sizeof(*history->sector));
	history->first = calloc(1, history->size);
	if (!history->sector || !history->first)
		abort();
	history_set(history, 0, history->size, TAG_FIRST_CONTENT);
}

void history_free(struct history *history)
{
	free(history->sector);
	free(history->first);
}

uint64_t history_disk_at(const struct history *history, uint64_t at)
{
	return at / history->window * history->stride + at % history->window;
}

uint64_t history_room(const struct history *history, uint64_t at)
{
	return history->window - at % history->window;
}

void history_set(struct history *history, uint64_t at, uint64_t len, uint32_t tag)
{
	for (uint64_t i = at / SECTOR; i < (at + len) / SECTOR; i++) {
		history->sector[i].may[0] = tag;
		history->sector[i].count = 1;
	}
}

void history_maybe(struct history *history, uint64_t at, uint64_t len, uint32_t tag)
{
	for (uint64_t i = at / SECTOR; i < (at + len) / SECTOR; i++) {
		struct sector *sector = &history->sector[i];
		bool has = false;

		for (unsigned j = 0; j < sector->count; j++)
			has |= sector->may[j] == tag;
		if (has)
			continue;
		assert(sector->count < MAY_MAX);
		sector->may[sector->count++] = tag;
	}
}

static bool holds(const struct history *history, uint64_t at, const char *data, uint32_t tag)
{
	if (tag == TAG_FIRST_CONTENT)
		return !memcmp(data, history->first + at, SECTOR);
	return tag_matches(data, at, tag);
}

static bool sector_match(struct history *history, uint64_t at, const char *data)
{
	struct sector *sector = &history->sector[at / SECTOR];

	for (unsigned j = 0; j < sector->count; j++)
		if (holds(history, at, data, sector->may[j])) {
			sector->may[0] = sector->may[j];
			sector->count = 1;
			return true;
		}
	return false;
}

static void describe(const struct history *history, uint64_t at, const char *data, char *text,
		     size_t size)
{
	const struct sector *sector = &history->sector[at / SECTOR];
	char found[128], wanted[128] = "";
	size_t n = 0;

	if (holds(history, at, data, TAG_FIRST_CONTENT))
		snprintf(found, sizeof(found), "what was there at first");
	else
		tag_describe(data, found, sizeof(found));
	for (unsigned j = 0; j < sector->count; j++)
		n += snprintf(wanted + n, sizeof(wanted) - n, "%s%u", j ? " or " : "",
			      sector->may[j]);
	snprintf(text, size, "byte %llu of the disk should hold tag %s (0: zeroes, 1: what was "
		 "there at first), holds %s",
		 (unsigned long long)history_disk_at(history, at), wanted, found);
}

bool history_match(struct history *history, uint64_t at, const char *data, uint64_t len,
		   char *text, size_t size)
{
	for (uint64_t pos = 0; pos < len; pos += SECTOR) {
		if (sector_match(history, at + pos, data + pos))
			continue;
		describe(history, at + pos, data + pos, text, size);
		return false;
	}
	return true;
}
