/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long and short options, in any order with other arguments:
 * --name=VALUE, --name VALUE, --flag, -n VALUE, -nVALUE, -abc.
 */
#include "base/args.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct td_arg *row_of_name(const struct td_arg *rows, const char *name, size_t len)
{
	for (; rows->name; rows++)
		if (strlen(rows->name) == len && !memcmp(rows->name, name, len))
			return rows;
	return NULL;
}

static const struct td_arg *row_of_letter(const struct td_arg *rows, char letter)
{
	for (; rows->name; rows++)
		if (rows->letter == letter)
			return rows;
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

/* --name; *next is the argument behind it, and moves on if it is the value. */
static int name_set(const struct td_arg *rows, void *into, const char *word, char ***next,
		    struct td_why *why)
{
	const char *name = word + 2, *equals = strchr(name, '=');
	const struct td_arg *row =
		row_of_name(rows, name, equals ? (size_t)(equals - name) : strlen(name));

	if (!row)
		return td_fail(why, -EINVAL, "unknown option %s", word);
	if (equals)
		return row_set(row, into, equals + 1, why);
	return row_set(row, into, row->value && **next ? *(*next)++ : NULL, why);
}

/* -abc: flags, and perhaps one that takes what is left of the word. */
static int letters_set(const struct td_arg *rows, void *into, const char *word, char ***next,
		       struct td_why *why)
{
	int err = 0;

	for (const char *letter = word + 1; *letter && !err; letter++) {
		const struct td_arg *row = row_of_letter(rows, *letter);

		if (!row)
			return td_fail(why, -EINVAL, "unknown option -%c", *letter);
		if (row->value && letter[1])
			return row_set(row, into, letter + 1, why);
		err = row_set(row, into, row->value && **next ? *(*next)++ : NULL, why);
	}
	return err;
}

/* "-" alone is a word, and so is a number with a sign where no option is one. */
static bool is_option(const struct td_arg *rows, const char *word)
{
	if (word[0] != '-' || !word[1])
		return false;
	return !isdigit((unsigned char)word[1]) || row_of_letter(rows, word[1]);
}

int td_args_parse(const struct td_arg *rows, void *into, char **argv, int *count,
		  struct td_why *why)
{
	char **next = argv + 1, **kept = argv + 1;
	int err = 0;

	while (*next && !err) {
		char *word = *next++;

		if (!strcmp(word, "--")) {
			while (*next)
				*kept++ = *next++;
		} else if (!is_option(rows, word)) {
			*kept++ = word;
		} else if (word[1] == '-') {
			err = name_set(rows, into, word, &next, why);
		} else {
			err = letters_set(rows, into, word, &next, why);
		}
	}
	if (err)
		return err;
	*kept = NULL;
	*count = kept - (argv + 1);
	return 0;
}

bool td_args_has(const struct td_arg *rows, const char *word)
{
	if (word[0] != '-' || !word[1])
		return false;
	if (word[1] == '-')
		return row_of_name(rows, word + 2, strcspn(word + 2, "="));
	return row_of_letter(rows, word[1]);
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
