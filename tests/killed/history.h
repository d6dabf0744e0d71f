/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each sector of a disk may hold: what was last acknowledged, and, where a
 * killed server left requests unanswered, what these would have written. Reading
 * a sector settles which one it is.
 *
 * Large disks are looked at in a few windows, spread from the disk's begin to its
 * end. Places below are places in these windows, one after the other.
 */
#ifndef KILLED_HISTORY_H
#define KILLED_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "../suite/model.h"

/* Instead of a write's tag: */
#define TAG_FIRST_CONTENT 1u /* what the sector held when all began */
/* TAG_ZERO is zeroes, TAG_FIRST (2) the first tag for writes */

#define MAY_MAX 6

struct sector {
	uint32_t may[MAY_MAX];
	uint8_t count;
};

struct history {
	uint64_t size;     /* bytes of all windows together */
	uint64_t window;   /* bytes of one */
	uint64_t stride;   /* from one to the next on the disk */
	struct sector *sector;
	char *first;       /* what was there when all began */
};

void history_init(struct history *history, uint64_t disk_size);
void history_free(struct history *history);
/* Where a place is on the disk. */
uint64_t history_disk_at(const struct history *history, uint64_t at);
/* Bytes from a place to the end of its window. */
uint64_t history_room(const struct history *history, uint64_t at);

/* [at, at + len) holds tag, or may also hold it. */
void history_set(struct history *history, uint64_t at, uint64_t len, uint32_t tag);
void history_maybe(struct history *history, uint64_t at, uint64_t len, uint32_t tag);
/* Is that what may be there? Settles it; or says in text what is wrong. */
bool history_match(struct history *history, uint64_t at, const char *data, uint64_t len,
		   char *text, size_t size);

#endif
