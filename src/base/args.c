/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long and short options, in any order with other arguments:
 * --name=VALUE, --name VALUE, -n VALUE, --flag.
 */
#include "base/args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct td_arg *row_find(const struct td_arg *rows, const char *word, size_t len)
{
	for (const struct td_arg *row = rows; row->name; row++) {
		if (len > 2 && strlen(row->name) == len - 2 &&
		    !strncmp(row->name, word + 2, len - 2))
			return row;
		if (len == 2 && row->letter && word[1] == row->letter)
			return row;
	}
	return NULL;
}

static int row_set(const struct td_arg *row, void *into, const char *value, struct td_why *why)
{
	void *at = (char *)into + row->at;

	if (!row->value && value)
		return td_fail(why, -EINVAL, "--%s takes no value", row->name);
	if (row->value && !value)
		return td_fail(why, -EINVAL, "--%s needs a value: %s", row->name, row->value);
	if (row->value)
		*(const char **)at = value;
	else
		*(bool *)at = true;
	return 0;
}

int td_args_parse(const struct td_arg *rows, void *into, char **argv, int *count,
		  struct td_why *why)
{
	int kept = 1, err = 0;

	for (int i = 1; argv[i]; i++) {
		const char *word = argv[i], *equals = strchr(word, '=');
		bool is_long = !strncmp(word, "--", 2);
		const struct td_arg *row;

		if (!strcmp(word, "--")) {
			while (argv[++i])
				argv[kept++] = argv[i];
			break;
		}
		if (word[0] != '-' || !word[1]) {
			argv[kept++] = argv[i];
			continue;
		}
		row = row_find(rows, word, is_long && equals ? (size_t)(equals - word) : strlen(word));
		if (!row)
			return td_fail(why, -EINVAL, "unknown option %s", word);
		if (is_long && equals)
			err = row_set(row, into, equals + 1, why);
		else
			err = row_set(row, into, row->value && argv[i + 1] ? argv[++i] : NULL, why);
		if (err)
			return err;
	}
	argv[kept] = NULL;
	*count = kept - 1;
	return 0;
}

void td_args_help(const struct td_arg *rows)
{
	for (const struct td_arg *row = rows; row->name; row++) {
		char left[60];
		char letter[5] = "    ";

		if (row->letter)
			snprintf(letter, sizeof(letter), "-%c, ", row->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, row->name,
			 row->value ? " " : "", row->value ? row->value : "");
		printf("  %-26s %s\n", left, row->help);
	}
}
