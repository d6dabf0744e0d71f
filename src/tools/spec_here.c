/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fields are kept as they were written, escapes and all; only the folder, escaped, is
 * put before those that name a file by a relative path.
 */
#include "tools/spec_here.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"

/* Of a field: up to a comma that is not escaped, or the end. */
static size_t field_length(const char *field)
{
	size_t n = 0;

	for (; field[n] && field[n] != ','; n++)
		if (field[n] == '\\' && (field[n + 1] == ',' || field[n + 1] == '\\'))
			n++;
	return n;
}

static bool is_file(const char *path, size_t len)
{
	char plain[PATH_MAX];
	size_t n = 0;

	for (size_t i = 0; i < len && n < sizeof(plain) - 1; i++) {
		if (path[i] == '\\' && i + 1 < len && (path[i + 1] == ',' || path[i + 1] == '\\'))
			i++;
		plain[n++] = path[i];
	}
	plain[n] = '\0';
	return !access(plain, F_OK);
}

static void put_folder(FILE *out)
{
	char here[PATH_MAX];

	if (!getcwd(here, sizeof(here)))
		return;
	for (const char *c = here; *c; c++) {
		if (*c == ',' || *c == '\\')
			fputc('\\', out);
		fputc(*c, out);
	}
	if (here[1]) /* else it is "/" */
		fputc('/', out);
}

static void put_path(FILE *out, const char *path, size_t len)
{
	if (*path != '/' && is_file(path, len))
		put_folder(out);
	fwrite(path, 1, len, out);
}

static bool is_one_of(const char *word, size_t len, const char *const *words, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (strlen(words[i]) == len && !strncmp(word, words[i], len))
			return true;
	return false;
}

/* "key=value", or a word. */
static void put_pair(FILE *out, const char *pair, size_t len)
{
	static const char *const paths[] = { "data-file", "image", "key-file",
					     "tls-certificates", "tls-psk" };
	const char *equals = memchr(pair, '=', len);
	size_t key = equals ? (size_t)(equals - pair) : len;

	if (equals && is_one_of(pair, key, paths, ARRAY_SIZE(paths))) {
		fwrite(pair, 1, key + 1, out);
		put_path(out, equals + 1, len - key - 1);
	} else {
		fwrite(pair, 1, len, out);
	}
}

char *spec_here(const char *spec)
{
	static const char *const no_paths[] = { "nbd", "ram" }; /* a server's, a memory's name */
	const char *colon = strchr(spec, ':'), *field;
	size_t type = colon ? (size_t)(colon - spec) : 0, len, size;
	char *text = NULL;
	FILE *out;

	if (!colon)
		return strdup(spec);
	out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	fwrite(spec, 1, type + 1, out);
	field = colon + 1;
	len = field_length(field);
	if (is_one_of(spec, type, no_paths, ARRAY_SIZE(no_paths)))
		fwrite(field, 1, len, out);
	else
		put_path(out, field, len);
	while (field[len]) {
		fputc(',', out);
		field += len + 1;
		len = field_length(field);
		put_pair(out, field, len);
	}
	fclose(out);
	return text;
}
