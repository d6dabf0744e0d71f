/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a cut leaves of the files, and what the disk may hold then; see cut.h.
 */
#include "cut.h"

#include <stdio.h>
#include <string.h>

static bool deed_must(const struct deed *deed, const struct cut *cut)
{
	return (cut->kill ? deed->ended : deed->safe) <= cut->at;
}

bool cut_begin(const struct log *log, uint64_t at, bool kill, struct cut *cut)
{
	cut->at = at;
	cut->kill = kill;
	cut->loose = false;
	cut->frees = 0;
	cut->seed = 0;
	for (unsigned i = 0; i < log->deeds && log->deed[i].issued <= at; i++) {
		const struct deed *deed = &log->deed[i];
		if (deed->event == TD_EV_SYNC || deed->err || deed_must(deed, cut))
			continue;
		if (cut->frees == FREE_MAX)
			return false;
		cut->free[cut->frees++] = i;
	}
	cut_set_all(cut, DONE);
	return true;
}

void cut_set_all(struct cut *cut, enum fate fate)
{
	memset(cut->fate, fate, cut->frees);
}

/* ---- the files ----------------------------------------------------------------- */

struct deal {
	struct store *store;
	const struct deed *deed;
	enum fate fate;
	bool must, kill, loose;
	bool *lost_size; /* a change of the file's size was lost */
	struct rnd *rnd;
};

static bool piece_happened(struct rnd *rnd, enum fate fate, uint64_t i, uint64_t edge)
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

/* A drive tears between sectors, a kernel whose caller is killed between pages. */
static void change_bytes(struct deal *deal, const char *data)
{
	const struct deed *deed = deal->deed;
	uint64_t grain = deal->kill ? 4096 : SECTOR, n;
	uint64_t pieces = (deed->offset % grain + deed->len + grain - 1) / grain;
	uint64_t edge = pieces > 1 ? 1 + rnd_below(deal->rnd, pieces - 1) : 0;

	if (deal->fate == DONE && data)
		store_write(deal->store, deed->offset, data, deed->len);
	else if (deal->fate == DONE)
		store_zero(deal->store, deed->offset, deed->len);
	if (deal->fate <= DONE)
		return;
	for (uint64_t i = 0, at = 0; at < deed->len; i++, at += n) {
		n = min_u64(grain - (deed->offset + at) % grain, deed->len - at);
		if (!piece_happened(deal->rnd, deal->fate, i, edge))
			continue;
		if (data)
			store_write(deal->store, deed->offset + at, data + at, n);
		else
			store_zero(deal->store, deed->offset + at, n);
	}
}

static void change_size(struct deal *deal, uint64_t to)
{
	if (deal->fate == LOST)
		*deal->lost_size = true;
	else if (!*deal->lost_size || deal->loose)
		store_resize(deal->store, to);
}

static void deal_with(struct deal *deal)
{
	const struct deed *deed = deal->deed;
	uint64_t end = deed->offset + deed->len;

	if (deal->must)
		*deal->lost_size = false;
	switch (deed->event) {
	case TD_EV_TRUNCATE:
		change_size(deal, deed->offset);
		break;
	case TD_EV_ALLOCATE:
		if (end > deal->store->size)
			change_size(deal, end);
		break;
	case TD_EV_WRITE:
		if (end > deal->store->size)
			change_size(deal, end);
		change_bytes(deal, deed->data);
		break;
	case TD_EV_PUNCH:
	case TD_EV_ZERO:
		change_bytes(deal, NULL);
		break;
	case TD_EV_READ:
	case TD_EV_SYNC:
		break;
	}
}

void rebuild_begin(struct rebuild *rebuild, const struct log *log)
{
	*rebuild = (struct rebuild){ .log = log };
	for (unsigned i = 0; i < log->files; i++)
		store_copy(&rebuild->base[i], &log->file[i].before);
}

static void base_advance(struct rebuild *rebuild, uint64_t at)
{
	const struct log *log = rebuild->log;
	struct rnd rnd = { 0 };
	bool lost_size = false;

	for (; rebuild->first < log->deeds; rebuild->first++) {
		const struct deed *deed = &log->deed[rebuild->first];
		struct deal deal = { &rebuild->base[deed->file], deed, DONE, true, false,
				     false, &lost_size, &rnd };
		if (deed->issued > at)
			break;
		if (deed->err || deed->event == TD_EV_SYNC)
			continue;
		if (deed->safe > at)
			break;
		deal_with(&deal);
	}
}

void rebuild_cut(struct rebuild *rebuild, const struct cut *cut)
{
	const struct log *log = rebuild->log;
	bool lost_size[LOG_FILES] = { false };
	struct rnd rnd = { cut->seed };
	unsigned free = 0;

	base_advance(rebuild, cut->at);
	for (unsigned i = 0; i < log->files; i++)
		store_copy(&rebuild->now[i], &rebuild->base[i]);
	for (unsigned i = rebuild->first; i < log->deeds && log->deed[i].issued <= cut->at; i++) {
		const struct deed *deed = &log->deed[i];
		bool is_free;
		if (deed->err)
			continue;
		while (free < cut->frees && cut->free[free] < i)
			free++;
		is_free = free < cut->frees && cut->free[free] == i;
		struct deal deal = {
			&rebuild->now[deed->file], deed, is_free ? cut->fate[free] : DONE,
			!is_free, cut->kill, cut->loose, &lost_size[deed->file], &rnd,
		};
		deal_with(&deal);
	}
}

uint64_t rebuild_hash(const struct rebuild *rebuild)
{
	uint64_t hash = 0;

	for (unsigned i = 0; i < rebuild->log->files; i++)
		hash = mix(hash, store_hash(&rebuild->now[i]));
	return hash;
}

void rebuild_end(struct rebuild *rebuild)
{
	for (unsigned i = 0; i < rebuild->log->files; i++) {
		store_free(&rebuild->base[i]);
		store_free(&rebuild->now[i]);
	}
}

/* ---- the disk -------------------------------------------------------------------- */

static bool changes_disk(const struct asked *ask)
{
	return ask->op == TD_WRITE || ask->op == TD_WRITE_ZEROES || ask->op == TD_DISCARD;
}

/* Is what the request wrote to stay? */
static bool ask_kept(const struct asked *ask, uint64_t at, bool kill)
{
	return !ask->err && (kill ? min_u64(ask->ended, ask->safe) : ask->safe) <= at;
}

/* Requests in flight together touch no common sector: their order is that in
 * which they were sent. */
void cut_model(const struct log *log, uint64_t at, bool kill, struct model *model)
{
	model_init(model, max_u64(log->disk_size, log->old_size), log->tag);
	if (log->old_size && log->old_size < log->disk_size)
		model_set(model, log->old_size, log->disk_size - log->old_size, TAG_ZERO);
	for (unsigned i = 0; i < log->asks; i++) {
		const struct asked *ask = &log->asked[i];
		if (ask->issued > at || !changes_disk(ask))
			continue;
		if (ask->op != TD_DISCARD && ask_kept(ask, at, kill))
			model_set(model, ask->offset, ask->len, ask->tag);
		else
			model_maybe(model, ask->offset, ask->len, ask->tag);
	}
}

void cut_sizes(const struct log *log, uint64_t at, uint64_t size[2])
{
	size[0] = size[1] = log->disk_size;
	if (log->old_size && at < log->resize_ended)
		size[0] = log->old_size;
	if (log->old_size && at < log->resize_began)
		size[1] = log->old_size;
}

uint64_t cut_model_hash(const struct log *log, uint64_t at, bool kill)
{
	uint64_t size[2], hash = 0;

	cut_sizes(log, at, size);
	hash = mix(size[0], size[1]);

	for (unsigned i = 0; i < log->asks && log->asked[i].issued <= at; i++)
		if (changes_disk(&log->asked[i]))
			hash = mix(hash, 2 * i + ask_kept(&log->asked[i], at, kill));
	return hash;
}

/* ---- words ------------------------------------------------------------------------ */

void cut_print(const struct log *log, const struct cut *cut)
{
	static const char *const word[] = {
		[LOST] = "lost", [DONE] = "done", [TORN_HEAD] = "torn, head kept",
		[TORN_TAIL] = "torn, tail kept", [TORN_MIX] = "torn, mixed",
	};

	printf("# %s at %llu of %llu%s; what was free then:\n", cut->kill ? "kill" : "power cut",
	       (unsigned long long)cut->at, (unsigned long long)log->clock,
	       cut->loose ? ", sizes loose" : "");
	for (unsigned i = 0; i < cut->frees; i++) {
		const struct deed *deed = &log->deed[cut->free[i]];
		const char *name = strrchr(log->file[deed->file].path, '/');
		printf("#   %s %s %llu+%llu issued %llu: %s\n", name ? name + 1 : "",
		       hook_event_name(deed->event), (unsigned long long)deed->offset,
		       (unsigned long long)deed->len, (unsigned long long)deed->issued,
		       word[cut->fate[i]]);
	}
	for (unsigned i = 0; i < log->asks; i++) {
		const struct asked *ask = &log->asked[i];
		if (ask->issued <= cut->at && ask->ended > cut->at)
			printf("#   request %u of %llu+%llu was in flight\n", ask->op,
			       (unsigned long long)ask->offset, (unsigned long long)ask->len);
	}
}
