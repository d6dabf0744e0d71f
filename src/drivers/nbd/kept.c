/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that the server has acknowledged and may still lose: it promises to keep
 * them only after a flush. When the connection breaks nobody tells whether the
 * server lost power meanwhile, so they are repeated before anything else, and the
 * next flush covers them again. That makes a flush after a reconnect as good as
 * one before it.
 *
 * They lie in a ring, each in one piece: an entry that would wrap is preceded by a
 * filler. A flush that has ended frees all that was added before it was sent.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "drivers/nbd/nbd.h"

#define PART 8 /* no entry takes more than a part of the ring */

static uint64_t entry_room(const struct cmd *cmd)
{
	uint64_t data = cmd->op == TD_WRITE ? cmd->len : 0;

	return sizeof(struct kept_entry) + round_up(data, sizeof(struct kept_entry));
}

static struct kept_entry *entry_at(const struct kept *kept, uint64_t at)
{
	return (struct kept_entry *)(kept->ring + at % kept->size);
}

int kept_init(struct kept *kept, uint64_t size)
{
	static_assert(sizeof(struct kept_entry) == 64, "entries are multiples of it");
	void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (ring == MAP_FAILED)
		return -errno;
	*kept = (struct kept){ .ring = ring, .size = size };
	return 0;
}

void kept_free(struct kept *kept)
{
	if (kept->ring)
		munmap(kept->ring, kept->size);
	kept->ring = NULL;
}

uint64_t kept_max(const struct kept *kept)
{
	return kept->size / PART - sizeof(struct kept_entry);
}

/* A part stays free: the filler at the end of the ring, of which there is one. */
bool kept_reserve(struct kept *kept, const struct cmd *cmd)
{
	uint64_t room = entry_room(cmd);

	if (kept->tail - kept->head + kept->reserved + room > kept->size - kept->size / PART)
		return false;
	kept->reserved += room;
	return true;
}

void kept_unreserve(struct kept *kept, const struct cmd *cmd)
{
	kept->reserved -= entry_room(cmd);
}

void kept_add(struct kept *kept, const struct cmd *cmd)
{
	uint64_t room = entry_room(cmd), to_end = kept->size - kept->tail % kept->size;
	struct kept_entry *entry = entry_at(kept, kept->tail);

	kept->reserved -= room;
	kept->used = true;
	if (to_end < room) {
		*entry = (struct kept_entry){ .room = to_end, .filler = true };
		kept->tail += to_end;
		entry = entry_at(kept, kept->tail);
	}
	*entry = (struct kept_entry){
		.offset = cmd->offset, .len = cmd->len, .room = room,
		.op = cmd->op, .flags = cmd->flags,
	};
	if (cmd->op == TD_WRITE)
		memcpy(entry->data, cmd->buf, cmd->len);
	kept->tail += room;
}

void kept_flushed(struct kept *kept, uint64_t mark)
{
	if (mark <= kept->head)
		return;
	kept->head = mark;
	if (kept->head == kept->tail) /* the memory used last is warm */
		kept->head = kept->tail = (kept->tail / kept->size + 1) * kept->size;
}

bool kept_half_full(const struct kept *kept)
{
	return kept->tail - kept->head + kept->reserved > kept->size / 2;
}

struct kept_entry *kept_next(const struct kept *kept, uint64_t *at)
{
	while (*at != kept->tail) {
		struct kept_entry *entry = entry_at(kept, *at);

		*at += entry->room;
		if (!entry->filler)
			return entry;
	}
	return NULL;
}

void kept_rest(struct kept *kept)
{
	if (!kept->used || kept->head != kept->tail)
		return;
	madvise(kept->ring, kept->size, MADV_DONTNEED);
	kept->used = false;
}
