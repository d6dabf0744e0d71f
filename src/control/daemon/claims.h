/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which files a disk uses, and how: so that the daemon can say who holds an
 * image. The locks themselves are tapdisk's; this only finds names for people.
 */
#ifndef DAEMON_CLAIMS_H
#define DAEMON_CLAIMS_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

struct td_claim {
	dev_t dev; /* of a block device: its own number, and ino 0 */
	ino_t ino;
	bool write, shared;
};

struct td_claims {
	struct td_claim *claim;
	unsigned count;
};

/* target: a path, or fd >= 0. What is no file is no claim. */
void td_claims_add(struct td_claims *claims, const char *target, int fd, bool write,
		   bool shared);
/* Adds the images of info's "chain" below the first, which are only read. */
void td_claims_add_parents(struct td_claims *claims, json_t *info);
bool td_claims_conflict(const struct td_claims *a, const struct td_claims *b);
/* Whether a path that the claims hold is in text: "/a: its parent: /b: locked". */
bool td_claims_hold(const struct td_claims *claims, const char *text);
void td_claims_free(struct td_claims *claims);

#endif
