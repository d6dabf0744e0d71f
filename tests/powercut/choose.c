/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which cuts of a run are looked at; see cuts_visit() in cut.h.
 */
#include "cut.h"

#define ALL_SUBSETS 4 /* of so many free deeds: 16 */
#define AT_ONE 24     /* about so many cuts of one instant */

struct choice {
	const struct log *log;
	struct rnd *rnd;
	cut_visit *visit;
	void *arg;
	struct cut cut;
	bool enough;
};

static void visit(struct choice *choice)
{
	if (!choice->enough)
		choice->enough = !choice->visit(choice->arg, &choice->cut);
}

static void visit_all_subsets(struct choice *choice)
{
	struct cut *cut = &choice->cut;

	for (unsigned set = 0; set < 1u << cut->frees; set++) {
		for (unsigned i = 0; i < cut->frees; i++)
			cut->fate[i] = set >> i & 1 ? DONE : LOST;
		visit(choice);
	}
}

/* One missing, one only: of those that were issued last, and of any others. */
static unsigned pick_deed(struct choice *choice)
{
	uint64_t frees = choice->cut.frees, last = min_u64(frees, 6);

	return rnd_below(choice->rnd, 2) ? frees - 1 - rnd_below(choice->rnd, last) :
		rnd_below(choice->rnd, frees);
}

static void visit_telling_subsets(struct choice *choice)
{
	struct cut *cut = &choice->cut;

	cut_set_all(cut, LOST);
	visit(choice);
	for (unsigned n = 0; n < 6; n++) {
		cut_set_all(cut, DONE);
		cut->fate[pick_deed(choice)] = LOST;
		visit(choice);
		cut_set_all(cut, LOST);
		cut->fate[pick_deed(choice)] = DONE;
		visit(choice);
	}
	for (unsigned n = 0; n < 6; n++) {
		for (unsigned i = 0; i < cut->frees; i++)
			cut->fate[i] = rnd_below(choice->rnd, 2) ? DONE : LOST;
		visit(choice);
	}
}

static void visit_torn(struct choice *choice)
{
	struct cut *cut = &choice->cut;

	for (unsigned n = 0; n < 4 && cut->frees; n++) {
		cut_set_all(cut, n % 2 ? DONE : LOST);
		cut->seed = rnd_next(choice->rnd);
		for (unsigned i = 0; i < cut->frees; i++)
			if (cut->frees == 1 || !rnd_below(choice->rnd, 2))
				cut->fate[i] = TORN_HEAD + rnd_below(choice->rnd, 3);
		visit(choice);
	}
	cut->seed = 0;
}

static bool sets_size(const struct choice *choice, unsigned i)
{
	enum td_file_event event = choice->log->deed[choice->cut.free[i]].event;

	return event == TD_EV_TRUNCATE || event == TD_EV_ALLOCATE;
}

/* All but the size; then random ones. */
static void visit_loose(struct choice *choice)
{
	struct cut *cut = &choice->cut;
	unsigned sizes = 0;

	for (unsigned i = 0; i < cut->frees; i++) {
		cut->fate[i] = sets_size(choice, i) ? LOST : DONE;
		sizes += cut->fate[i] == LOST;
	}
	if (!sizes)
		return;
	cut->loose = true;
	visit(choice);
	for (unsigned n = 0; n < 2; n++) {
		for (unsigned i = 0; i < cut->frees; i++)
			cut->fate[i] = rnd_below(choice->rnd, 2) ? DONE : LOST;
		visit(choice);
	}
	cut->loose = false;
}

static void visit_many(struct choice *choice)
{
	if (choice->cut.frees <= ALL_SUBSETS)
		visit_all_subsets(choice);
	else
		visit_telling_subsets(choice);
	visit_torn(choice);
	visit_loose(choice);
}

/* What has just been promised is most easily broken now. */
static bool just_promised(const struct log *log, uint64_t at, bool kill)
{
	for (unsigned i = 0; i < log->asks; i++) {
		const struct asked *ask = &log->asked[i];
		if (ask->ended == at)
			return kill || ask->op == TD_FLUSH || ask->flags & TD_FUA;
	}
	return false;
}

/* After a kill more is promised: where that is looked at, the same files after a
 * power cut need not be, unless that takes survivor memory with it. */
static void visit_prefix(struct choice *choice, bool kills, bool kill)
{
	if (kill || !kills || choice->log->survives)
		visit(choice);
}

/* Of a wrong order something that was issued later tells: it happened, and one
 * before it did not, or none. */
static void visit_overtaking(struct choice *choice)
{
	struct cut *cut = &choice->cut;
	unsigned last = cut->frees - 1;

	if (cut->kill || cut->frees < 2 || choice->log->deed[cut->free[last]].issued != cut->at)
		return;
	cut_set_all(cut, DONE);
	cut->fate[rnd_below(choice->rnd, last)] = LOST;
	visit(choice);
	cut_set_all(cut, LOST);
	cut->fate[last] = DONE;
	visit(choice);
}

void cuts_visit(const struct log *log, bool kills, unsigned budget, struct rnd *rnd,
		cut_visit *seen, void *arg)
{
	static struct choice choice;
	uint64_t instants = (log->clock - log->began) * (kills ? 2 : 1), wanted = budget / AT_ONE + 1;

	choice = (struct choice){ .log = log, .rnd = rnd, .visit = seen, .arg = arg };
	for (uint64_t at = log->began + 1; at <= log->clock && !choice.enough; at++) {
		for (unsigned kill = 0; kill <= kills && !choice.enough; kill++) {
			uint64_t chance = just_promised(log, at, kill) ? 3 * wanted : wanted;
			if (kill && log->survives && !log_survivors(log, at))
				continue;
			if (!cut_begin(log, at, kill, &choice.cut))
				continue;
			visit_prefix(&choice, kills, kill);
			visit_overtaking(&choice);
			if (rnd_below(rnd, instants) < chance)
				visit_many(&choice);
		}
	}
}
