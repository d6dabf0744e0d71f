/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disk specifications: "type:target[,key=value...]". A comma or backslash in a
 * target is written "\,", "\\". read-only and shared are the core's own keys,
 * all others the driver's.
 */
#ifndef CORE_SPEC_H
#define CORE_SPEC_H

#include <blktap/driver.h>

struct td_spec_pair {
	char *key, *value;
};

struct td_spec {
	char *type, *target;
	struct td_spec_pair *pairs;
	unsigned pair_count;
};

int td_spec_parse(const char *text, struct td_spec *out, struct td_why *why);
void td_spec_free(struct td_spec *spec);
/* Whether the key, one of kind TD_BOOL, is given and says yes (the last one counts). */
bool td_spec_flag(const struct td_spec *spec, const char *key);

/* Sets the driver's options in state; unknown keys and bad values are errors. */
int td_options_apply(const struct td_option *rows, const struct td_spec *spec,
		     void *state, struct td_why *why);
void td_options_free(const struct td_option *rows, void *state);

/* "64", "64K", "1.5G": bytes; powers of 1024. */
int td_size_parse(const char *text, uint64_t unit, uint64_t *out);

#endif
