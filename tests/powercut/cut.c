/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a cut leaves of the file, and what the disk may hold then; see cut.h.
 */
#include "cut.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which deeds must have happened ---------------------------------------- */

static bool deed_synced(const struct record *record, const struct deed *deed, uint64_t at)
{
	if (deed->ended == NEVER || deed->ended > at)
		return false;
	if (deed->dsync)
		return true;
	for (unsigned i = 0; i < record->deeds; i++) {
		const struct deed *sync = &record->deed[i];
		if (sync->event == TD_EV_SYNC && sync->issued > deed->ended &&
		    sync->ended <= at && !sync->err)
			return true;
	}
	return false;
}

static bool deed_settled(const struct record *record, const struct deed *deed,
			 const struct cut *cut)
{
	if (cut->kill)
		return deed->ended <= cut->at;
	return deed_synced(record, deed, cut->at);
}

bool cut_begin(const struct record *record, uint64_t at, bool kill, struct cut *cut)
{
	*cut = (struct cut){ .at = at, .kill = kill };
	for (unsigned i = 0; i < record->deeds; i++) {
		const struct deed *deed = &record->deed[i];
		if (deed->issued > at || deed->event == TD_EV_SYNC || deed->err ||
		    deed_settled(record, deed, cut))
			continue;
		if (cut->frees == FREE_MAX)
			return false;
		cut->free[cut->frees++] = i;
	}
	return true;
}

static enum fate fate_of(const struct record *record, const struct cut *cut, unsigned deed)
{
	for (unsigned i = 0; i < cut->frees; i++)
		if (cut->free[i] == deed)
			return cut->fate[i];
	return record->deed[deed].issued <= cut->at ? DONE : LOST;
}

/* ---- the file ---------------------------------------------------------------- */

struct image {
	char *data;
	uint64_t size, room;
	bool size_broken; /* a change of size was lost: so are all later free ones */
};

static void image_resize(struct image *image, uint64_t size)
{
	if (size > image->room) {
		image->room = round_up(size * 2, 4096);
		image->data = realloc(image->data, image->room);
	}
	if (size > image->size)
		memset(image->data + image->size, 0, size - image->size);
	image->size = size;
}

static bool sector_happened(struct rnd *rnd, enum fate fate, uint64_t i, uint64_t edge)
{
	switch (fate) {
	case LOST:      return false;
	case DONE:      return true;
	case TORN_HEAD: return i < edge;
	case TORN_TAIL: return i >= edge;
	case TORN_MIX:  return rnd_next(rnd) & 1;
	}
	return false;
}

static void image_write(struct image *image, const struct deed *deed, enum fate fate,
			struct rnd *rnd)
{
	uint64_t sectors = (deed->len + SECTOR - 1) / SECTOR;
	uint64_t edge = sectors > 1 ? 1 + rnd_below(rnd, sectors - 1) : 0;

	for (uint64_t i = 0; i < sectors; i++) {
		uint64_t from = i * SECTOR, at = deed->offset + from;
		if (at >= image->size || !sector_happened(rnd, fate, i, edge))
			continue;
		memcpy(image->data + at, deed->data + from,
		       min_u64(min_u64(SECTOR, deed->len - from), image->size - at));
	}
}

static void image_zero(struct image *image, uint64_t offset, uint64_t len)
{
	if (offset < image->size)
		memset(image->data + offset, 0, min_u64(len, image->size - offset));
}

/* Does the deed change the size, and may it still? */
static bool size_change(struct image *image, uint64_t to, enum fate fate)
{
	if (fate == LOST)
		image->size_broken = true;
	if (image->size_broken)
		return false;
	image_resize(image, to);
	return true;
}

static void image_apply(struct image *image, const struct deed *deed, enum fate fate,
			bool settled, struct rnd *rnd)
{
	uint64_t end = deed->offset + deed->len;

	if (settled)
		image->size_broken = false;
	switch (deed->event) {
	case TD_EV_TRUNCATE:
		size_change(image, deed->offset, fate);
		break;
	case TD_EV_ALLOCATE:
		if (end > image->size)
			size_change(image, end, fate);
		break;
	case TD_EV_WRITE:
		if (end > image->size)
			size_change(image, end, fate);
		image_write(image, deed, fate, rnd);
		break;
	case TD_EV_PUNCH:
	case TD_EV_ZERO:
		if (fate != LOST)
			image_zero(image, deed->offset, deed->len);
		break;
	case TD_EV_READ:
	case TD_EV_SYNC:
		break;
	}
}

char *cut_file(const struct record *record, const struct cut *cut, uint64_t *size)
{
	struct image image = { 0 };
	struct rnd rnd = { cut->seed };

	image_resize(&image, record->before_size);
	memcpy(image.data, record->before, record->before_size);
	for (unsigned i = 0; i < record->deeds; i++) {
		const struct deed *deed = &record->deed[i];
		if (deed->issued > cut->at || deed->err)
			continue;
		image_apply(&image, deed, fate_of(record, cut, i),
			    deed_settled(record, deed, cut), &rnd);
	}
	*size = image.size;
	return image.data;
}

/* ---- the disk ------------------------------------------------------------------ */

/* Is what the request wrote to stay? */
static bool ask_kept(const struct record *record, const struct asked *ask,
		     const struct cut *cut)
{
	if (ask->ended > cut->at || ask->err)
		return false;
	if (cut->kill || ask->flags & TD_FUA)
		return true;
	for (unsigned i = 0; i < record->asks; i++) {
		const struct asked *flush = &record->asked[i];
		if (flush->op == TD_FLUSH && flush->issued > ask->ended &&
		    flush->ended <= cut->at && !flush->err)
			return true;
	}
	return false;
}

/* Requests in flight together touch no common sector: their order is that in
 * which they were sent. */
void cut_model(const struct record *record, const struct cut *cut, struct model *model)
{
	model_init(model, record->disk_size, record->tag);
	for (unsigned i = 0; i < record->asks; i++) {
		const struct asked *ask = &record->asked[i];
		if (ask->issued > cut->at)
			continue;
		if (ask->op == TD_DISCARD)
			model_maybe(model, ask->offset, ask->len, TAG_ZERO);
		else if (ask->op != TD_WRITE && ask->op != TD_WRITE_ZEROES)
			continue;
		else if (ask_kept(record, ask, cut))
			model_set(model, ask->offset, ask->len, ask->tag);
		else
			model_maybe(model, ask->offset, ask->len, ask->tag);
	}
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	struct rnd rnd = { hash ^ value * 0x9e3779b97f4a7c15ull };

	return rnd_next(&rnd);
}

uint64_t cut_hash(const struct record *record, const struct cut *cut)
{
	uint64_t hash = cut->kill;

	for (unsigned i = 0; i < record->deeds && record->deed[i].issued <= cut->at; i++)
		if (fate_of(record, cut, i) != LOST)
			hash = mix(hash, i * 8 + fate_of(record, cut, i));
	for (unsigned i = 0; i < record->asks; i++)
		if (ask_kept(record, &record->asked[i], cut))
			hash = mix(hash, 0x100000 + i);
	for (unsigned i = 0; i < cut->frees; i++)
		if (cut->fate[i] > DONE)
			hash = mix(hash, cut->seed);
	return hash;
}

void cut_print(const struct record *record, const struct cut *cut)
{
	static const char *const word[] = {
		[LOST] = "lost", [DONE] = "done", [TORN_HEAD] = "torn, head kept",
		[TORN_TAIL] = "torn, tail kept", [TORN_MIX] = "torn, mixed",
	};

	printf("# %s at %llu of %llu; what was free then:\n", cut->kill ? "kill" : "power cut",
	       (unsigned long long)cut->at, (unsigned long long)record->clock);
	for (unsigned i = 0; i < cut->frees; i++) {
		const struct deed *deed = &record->deed[cut->free[i]];
		printf("#   %s %llu+%llu issued %llu: %s\n", hook_event_name(deed->event),
		       (unsigned long long)deed->offset, (unsigned long long)deed->len,
		       (unsigned long long)deed->issued, word[cut->fate[i]]);
	}
	for (unsigned i = 0; i < record->asks; i++) {
		const struct asked *ask = &record->asked[i];
		if (ask->issued <= cut->at && ask->ended > cut->at)
			printf("#   request %u of %llu+%llu was in flight\n", ask->op,
			       (unsigned long long)ask->offset, (unsigned long long)ask->len);
	}
}
