/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files are told apart by device and inode, so that links and detours in a path
 * do not hide that two disks mean the same image.
 */
#include "control/daemon/claims.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/guard.h"

void td_claims_add(struct td_claims *claims, const char *target, int fd, bool write,
		   bool shared)
{
	struct td_claim *grown;
	struct stat st;

	if (fd >= 0 ? fstat(fd, &st) < 0 : stat(target, &st) < 0)
		return;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return;
	grown = reallocarray(claims->claim, claims->count + 1, sizeof(*grown));
	if (!grown)
		return;
	claims->claim = grown;
	grown[claims->count++] = (struct td_claim){
		.dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev,
		.ino = S_ISBLK(st.st_mode) ? 0 : st.st_ino,
		.write = write,
		.shared = shared,
	};
}

void td_claims_add_parents(struct td_claims *claims, json_t *info)
{
	json_t *chain = json_object_get(info, "chain");

	for (size_t i = 1; i < json_array_size(chain); i++) {
		json_t *image = json_array_get(chain, i);
		const char *target = json_string_value(json_object_get(image, "target"));

		if (target)
			td_claims_add(claims, target, -1, false, false);
	}
}

static bool claim_conflict(const struct td_claim *a, const struct td_claim *b)
{
	return a->dev == b->dev && a->ino == b->ino && (a->write || b->write) &&
	       !(a->shared && b->shared);
}

bool td_claims_conflict(const struct td_claims *a, const struct td_claims *b)
{
	for (unsigned i = 0; i < a->count; i++)
		for (unsigned k = 0; k < b->count; k++)
			if (claim_conflict(&a->claim[i], &b->claim[k]))
				return true;
	return false;
}

bool td_claims_hold(const struct td_claims *claims, const char *text)
{
	AUTO_FREE char *words = strdup(text);
	struct td_claims named = { 0 };
	char *rest = words, *word;
	bool held;

	while ((word = strsep(&rest, ":"))) {
		word += strspn(word, " ");
		if (word[0] == '/')
			td_claims_add(&named, word, -1, true, false);
	}
	held = td_claims_conflict(&named, claims);
	td_claims_free(&named);
	return held;
}

void td_claims_free(struct td_claims *claims)
{
	free(claims->claim);
	*claims = (struct td_claims){ 0 };
}
