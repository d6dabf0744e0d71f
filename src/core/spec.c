/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disk specifications and the options in them.
 */
#include "core/spec.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/num.h"

/* Copies up to an unescaped comma or the end; *text moves behind it. */
static char *field_take(const char **text)
{
	const char *from = *text;
	char *field = malloc(strlen(from) + 1), *to = field;

	if (!field)
		return NULL;
	for (; *from && *from != ','; from++) {
		if (*from == '\\' && (from[1] == ',' || from[1] == '\\'))
			from++;
		*to++ = *from;
	}
	*to = '\0';
	*text = *from ? from + 1 : from;
	return field;
}

static int pair_add(struct td_spec *spec, char *field, struct td_why *why)
{
	char *equals = strchr(field, '=');
	struct td_spec_pair *pairs;

	if (!equals || equals == field)
		return td_fail(why, -EINVAL, "\"%s\" is no key=value", field);
	pairs = realloc(spec->pairs, (spec->pair_count + 1) * sizeof(*pairs));
	if (!pairs)
		return -ENOMEM;
	spec->pairs = pairs;
	*equals = '\0';
	pairs[spec->pair_count] = (struct td_spec_pair){
		.key = strdup(field), .value = strdup(equals + 1),
	};
	spec->pair_count++;
	pairs += spec->pair_count - 1;
	return pairs->key && pairs->value ? 0 : -ENOMEM;
}

static int spec_fill(struct td_spec *spec, const char *text, struct td_why *why)
{
	const char *colon = strchr(text, ':');
	char *field;
	int err;

	if (!colon || colon == text)
		return td_fail(why, -EINVAL,
			       "\"%s\": a disk is named as type:target[,key=value...]",
			       text);
	spec->type = strndup(text, colon - text);
	text = colon + 1;
	spec->target = field_take(&text);
	if (!spec->type || !spec->target)
		return -ENOMEM;
	if (!*spec->target)
		return td_fail(why, -EINVAL, "\"%s:\" names no target", spec->type);
	while (*text) {
		field = field_take(&text);
		if (!field)
			return -ENOMEM;
		err = pair_add(spec, field, why);
		free(field);
		if (err)
			return err;
	}
	return 0;
}

int td_spec_parse(const char *text, struct td_spec *out, struct td_why *why)
{
	struct td_spec spec = { 0 };
	int err = spec_fill(&spec, text, why);

	if (err) {
		td_spec_free(&spec);
		return err;
	}
	*out = spec;
	return 0;
}

void td_spec_free(struct td_spec *spec)
{
	for (unsigned i = 0; i < spec->pair_count; i++) {
		free(spec->pairs[i].key);
		free(spec->pairs[i].value);
	}
	free(spec->pairs);
	free(spec->type);
	free(spec->target);
	*spec = (struct td_spec){ 0 };
}

/* ---- values ------------------------------------------------------------- */

int td_size_parse(const char *text, uint64_t unit, uint64_t *out)
{
	static const char suffixes[] = "bkmgtp";
	const char *suffix;
	long double value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	value = strtold(text, &end);
	if (*end) {
		suffix = strchr(suffixes, tolower((unsigned char)*end));
		if (!suffix)
			return -EINVAL;
		unit = 1ull << (10 * (suffix - suffixes));
		end++;
		if (!strcasecmp(end, "ib") || (!strcasecmp(end, "b") && unit > 1))
			end += strlen(end);
		if (*end)
			return -EINVAL;
	}
	value *= unit;
	if (!isfinite(value) || value >= 0x1p63l || value != floorl(value))
		return -EINVAL;
	*out = value;
	return 0;
}

static int bool_parse(const char *text, bool *out)
{
	static const char *const words[][2] = {
		{ "off", "on" }, { "no", "yes" }, { "false", "true" }, { "0", "1" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		for (int value = 0; value < 2; value++) {
			if (!strcasecmp(text, words[i][value])) {
				*out = value;
				return 0;
			}
		}
	}
	return -EINVAL;
}

bool td_spec_flag(const struct td_spec *spec, const char *key)
{
	bool flag = false;

	for (unsigned i = 0; i < spec->pair_count; i++)
		if (!strcmp(spec->pairs[i].key, key))
			bool_parse(spec->pairs[i].value, &flag);
	return flag;
}

static int uint_parse(const char *text, uint64_t *out)
{
	unsigned long long value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end)
		return -EINVAL;
	*out = value;
	return 0;
}

/* ---- options ------------------------------------------------------------ */

static int option_set(const struct td_option *row, const char *value, void *state)
{
	void *at = (char *)state + row->at;
	char *copy;

	switch (row->kind) {
	case TD_STRING:
		copy = strdup(value);
		if (!copy)
			return -ENOMEM;
		free(*(char **)at);
		*(char **)at = copy;
		return 0;
	case TD_BOOL:
		return bool_parse(value, at);
	case TD_UINT:
		return uint_parse(value, at);
	case TD_SIZE:
		return td_size_parse(value, 1, at);
	}
	return -EINVAL;
}

static const struct td_option *option_find(const struct td_option *rows, const char *key)
{
	for (; rows && rows->name; rows++)
		if (!strcmp(rows->name, key))
			return rows;
	return NULL;
}

int td_options_apply(const struct td_option *rows, const struct td_spec *spec,
		     void *state, struct td_why *why)
{
	for (unsigned i = 0; i < spec->pair_count; i++) {
		const struct td_spec_pair *pair = &spec->pairs[i];
		const struct td_option *row = option_find(rows, pair->key);
		int err;

		if (!row)
			return td_fail(why, -EINVAL, "%s:%s: unknown option \"%s\"",
				       spec->type, spec->target, pair->key);
		err = option_set(row, pair->value, state);
		if (err)
			return td_fail(why, err, "%s:%s: %s=%s: bad value (%s)",
				       spec->type, spec->target, pair->key,
				       pair->value, row->help);
	}
	return 0;
}

void td_options_free(const struct td_option *rows, void *state)
{
	for (; rows && rows->name; rows++) {
		char **at = (char **)((char *)state + rows->at);

		if (rows->kind != TD_STRING)
			continue;
		free(*at);
		*at = NULL;
	}
}
