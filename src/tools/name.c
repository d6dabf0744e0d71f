/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Naming disks, and opening what was named. Looking at a file to see what it may
 * be serves messages only.
 */
#include "tools/name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "drivers/builtin.h"
#include "tools/key.h"

char *name_spec(const char *type, const char *path)
{
	char *spec = malloc(strlen(type) + 2 * strlen(path) + 2), *to;

	if (!spec)
		return NULL;
	to = spec + sprintf(spec, "%s:", type);
	for (; *path; path++) {
		if (*path == ',' || *path == '\\')
			*to++ = '\\';
		*to++ = *path;
	}
	*to = 0;
	return spec;
}

const char *name_of_driver(const struct td_driver *driver)
{
	for (const char *const(*alias)[2] = td_builtin_aliases; (*alias)[0]; alias++)
		if (!strcmp((*alias)[1], driver->name))
			return (*alias)[0];
	return driver->name;
}

const char *name_stored_format(const struct name *name)
{
	return strcmp(name->driver->name, "nbd") ? name_of_driver(name->driver) : "raw";
}

/* ---- what a file looks like ---------------------------------------------------- */

struct guess {
	struct td_file *file;
	const struct td_driver *found;
};

static void guess_driver(void *arg, const struct td_driver *driver)
{
	struct guess *guess = arg;

	if (!guess->found && driver->looks_like && driver->looks_like(guess->file))
		guess->found = driver;
}

const struct td_driver *name_guess(struct tool_run *run, const char *path)
{
	struct td_files files = { .buffered = true, .nolock = true };
	struct guess guess = { 0 };

	if (td_file_open(&files, path, 0, &guess.file, NULL))
		return NULL;
	td_registry_each(run->registry, guess_driver, &guess);
	td_file_close(guess.file);
	return guess.found;
}

static void say_no_format(struct tool_run *run, const char *option, const char *word)
{
	const struct td_driver *like = name_guess(run, word);
	struct stat st;

	if (like)
		tool_say(run->tool, "%s: no format is named; it looks like %s: say %s %s, or %s:%s",
			 word, name_of_driver(like), option, name_of_driver(like),
			 name_of_driver(like), word);
	else if (!stat(word, &st))
		tool_say(run->tool, "%s: no format is named, and it looks like none known here; "
			 "for a plain disk say %s raw, or raw:%s", word, option, word);
	else
		tool_say(run->tool, "%s: no format is named: say %s FORMAT, or FORMAT:%s", word,
			 option, word);
}

/* ---- names ----------------------------------------------------------------------- */

/* Whether it begins with "type:", as a path does not that has a slash or a dot there. */
bool name_is_spec(const char *word)
{
	size_t len = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return len && word[len] == ':' && word[len + 1];
}

/* The scheme of a URI says who serves it; what is served there is raw. */
static bool is_nbd_uri(const char *word)
{
	static const char *const schemes[] = {
		"nbd://", "nbds://", "nbd+unix://", "nbds+unix://", "nbd+vsock://", "nbds+vsock://",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++)
		if (!strncmp(word, schemes[i], strlen(schemes[i])))
			return true;
	return false;
}

static bool is_raw(const char *format)
{
	return !strcmp(format, "raw") || !strcmp(format, "aio") || !strcmp(format, "nbd");
}

/* Whether it begins with the name of a driver that is always there. */
static bool names_driver(const char *word)
{
	size_t len = strcspn(word, ":");

	for (const struct td_driver *const *it = td_builtin_drivers; *it; it++)
		if (strlen((*it)->name) == len && !strncmp((*it)->name, word, len))
			return true;
	for (const char *const(*alias)[2] = td_builtin_aliases; (*alias)[0]; alias++)
		if (strlen((*alias)[0]) == len && !strncmp((*alias)[0], word, len))
			return true;
	return false;
}

/* Both a format and a specification: what was meant is hardly a file of such a name. */
static bool says_twice(struct tool_run *run, const char *option, const char *word)
{
	struct stat st;

	if (!name_is_spec(word) || !names_driver(word) || !lstat(word, &st))
		return false;
	tool_say(run->tool, "%s: has its format already: leave %s out, or say ./%s if it is a "
		 "file's name", word, option, word);
	return true;
}

/* The specification, without more. */
static char *spec_of(const char *format, const char *word)
{
	char *spec;

	if (is_nbd_uri(word) && !format)
		return asprintf(&spec, "nbd:%s", word) < 0 ? NULL : spec;
	if (is_nbd_uri(word) && is_raw(format))
		return name_spec("nbd", word);
	return format ? name_spec(format, word) : strdup(word);
}

int name_parse(struct tool_run *run, const char *format, const char *option, const char *word,
	       const char *more, struct name *out)
{
	AUTO_FREE char *base = NULL;
	struct td_why why = { "" };

	*out = (struct name){ .is_path = format };
	if (!format && !name_is_spec(word) && !is_nbd_uri(word)) {
		say_no_format(run, option, word);
		return TOOL_FAILED;
	}
	if (format && option && says_twice(run, option, word))
		return TOOL_FAILED;
	base = spec_of(format, word);
	if (!base || asprintf(&out->text, "%s%s%s", base, more ? "," : "", more ? more : "") < 0) {
		out->text = NULL;
		tool_say(run->tool, "%s: %s", word, strerror(ENOMEM));
		return TOOL_FAILED;
	}
	if (!td_spec_parse(out->text, &out->spec, &why))
		out->driver = td_registry_find(run->registry, out->spec.type, &why);
	if (!out->driver)
		tool_say(run->tool, "%s", why.text[0] ? why.text : strerror(ENOMEM));
	return out->driver ? TOOL_OK : TOOL_FAILED;
}

void name_free(struct name *name)
{
	td_spec_free(&name->spec);
	free(name->text);
	*name = (struct name){ 0 };
}

const char *name_path(const struct name *name)
{
	return name->spec.target;
}

/* The words of its specification that are about keys, as a specification has them. */
char *name_key_words(const struct name *name)
{
	char *words = strdup("");

	for (unsigned i = 0; words && i < name->spec.pair_count; i++) {
		const struct td_spec_pair *pair = &name->spec.pairs[i];
		AUTO_FREE char *before = words;
		AUTO_FREE char *value = name_spec("", pair->value); /* led by a colon */

		if (strcmp(pair->key, "key-file") && strcmp(pair->key, "key-fd")) {
			take(before);
			continue;
		}
		if (!value || asprintf(&words, "%s%s%s=%s", before, *before ? "," : "", pair->key,
				       value + 1) < 0)
			words = NULL;
	}
	return words;
}

/* ---- opening ---------------------------------------------------------------------- */

/* A wrong format is the likeliest mistake: what the file looks like helps. */
static void say_why_not(struct tool_run *run, const struct name *name, const struct td_why *why)
{
	const struct td_driver *like = name->driver->looks_like ?
				       name_guess(run, name_path(name)) : NULL;
	const char *comma = strchr(name_path(name), ',');
	struct stat st;

	if (name->is_path && comma && strchr(comma, '=') && stat(name_path(name), &st))
		tool_say(run->tool, "%s (beside its format a name is a path; with options, say "
			 "%s:%s)", why->text, name_of_driver(name->driver), name_path(name));
	else if (like && like != name->driver)
		tool_say(run->tool, "%s (it looks like %s)", why->text, name_of_driver(like));
	else
		tool_say(run->tool, "%s", why->text);
}

struct td_disk *name_open(struct tool_run *run, const struct name *name, bool read_only)
{
	struct td_disk_options options = { 0 };

	return name_open_with(run, name, read_only, &options);
}

struct td_disk *name_open_with(struct tool_run *run, const struct name *name, bool read_only,
			       struct td_disk_options *options)
{
	struct td_disk *disk;
	struct td_why why;

	options->name = name_path(name);
	options->ask_key = key_ask;
	options->read_key = key_read;
	options->ask_arg = run;
	options->read_only = read_only;
	options->hook = run->hook;
	if (td_disk_open(run->loop, run->registry, name->text, options, &disk, &why)) {
		say_why_not(run, name, &why);
		return NULL;
	}
	if (read_only || !td_disk_read_only(disk))
		return disk;
	tool_say(run->tool, "%s: cannot be written", name_path(name));
	td_disk_close(disk);
	return NULL;
}

int name_close(struct tool_run *run, const struct name *name, struct td_disk *disk)
{
	int err = td_disk_close(disk);

	if (err)
		tool_say(run->tool, "%s: %s", name_path(name), strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
}

bool name_is_device(const struct name *name)
{
	struct stat st;

	return !stat(name_path(name), &st) && S_ISBLK(st.st_mode);
}

int name_may_write(struct tool_run *run, const struct name *name, bool force, bool ask)
{
	if (force || (ask && tool_ask("%s is there already. Overwrite it?", name_path(name))))
		return TOOL_OK;
	tool_say(run->tool, "%s: is there already (--force to overwrite it)", name_path(name));
	return TOOL_FAILED;
}

bool name_is_part(const struct td_disk *disk, const struct stat *of)
{
	struct stat st;

	for (struct td_image *img = td_disk_top(disk); img; img = img->below)
		if (!stat(img->target, &st) &&
		    (S_ISBLK(st.st_mode) ? S_ISBLK(of->st_mode) && st.st_rdev == of->st_rdev :
					   st.st_dev == of->st_dev && st.st_ino == of->st_ino))
			return true;
	return false;
}
