/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * New images, see make.h. The keys that every format has are rows of a table, as
 * the drivers' own are; the names are those that users of other tools know.
 */
#include "tools/make.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/key.h"
#include "base/num.h"
#include "tools/key.h"

struct keys {
	char *backing, *backing_format, *reserve, *key_file, *key_fd;
	uint64_t size, cluster;
};

const struct td_option make_keys[] = {
	{ "size", TD_SIZE, offsetof(struct keys, size), "of the disk" },
	{ "cluster_size", TD_SIZE, offsetof(struct keys, cluster), "bytes of a cluster" },
	{ "cluster", TD_SIZE, offsetof(struct keys, cluster), "the same" },
	{ "block_size", TD_SIZE, offsetof(struct keys, cluster), "the same" },
	{ "preallocation", TD_STRING, offsetof(struct keys, reserve),
	  "off, metadata, or falloc or full: all space is taken now" },
	{ "backing_file", TD_STRING, offsetof(struct keys, backing), "the image below" },
	{ "backing_fmt", TD_STRING, offsetof(struct keys, backing_format), "its format" },
	{ "key-file", TD_STRING, offsetof(struct keys, key_file),
	  "file that is the passphrase of an encrypted image, whole" },
	{ "key-fd", TD_STRING, offsetof(struct keys, key_fd),
	  "open descriptor to read it from: a pipe or a file" },
	{ NULL },
};

static bool is_ours(const char *key)
{
	for (const struct td_option *row = make_keys; row->name; row++)
		if (!strcmp(row->name, key))
			return true;
	return false;
}

/* Sorts the pairs: ours to the front. */
static unsigned sort_pairs(struct td_spec *spec)
{
	unsigned ours = 0;

	for (unsigned i = 0; i < spec->pair_count; i++) {
		struct td_spec_pair pair = spec->pairs[i];

		if (!is_ours(pair.key))
			continue;
		memmove(spec->pairs + ours + 1, spec->pairs + ours, (i - ours) * sizeof(pair));
		spec->pairs[ours++] = pair;
	}
	return ours;
}

/* Of a driver that has a row for it. */
static int take_metadata(struct make *make)
{
	const struct td_option *row = make->name.driver->create_options;
	struct td_spec *spec = &make->name.spec;

	while (row && row->name && strcmp(row->name, "metadata"))
		row++;
	for (unsigned i = 0; row && row->name && i < spec->pair_count; i++) {
		struct td_spec_pair *pair = &spec->pairs[i];

		if (strcmp(pair->key, "preallocation") || strcmp(pair->value, "metadata"))
			continue;
		free(pair->key);
		free(pair->value);
		pair->key = strdup("metadata");
		pair->value = strdup("on");
		if (!pair->key || !pair->value)
			return -ENOMEM;
	}
	return 0;
}

/* What others make images with, and we do not: docs/tap-img.md has them. */
static const struct { const char *key, *why; } absent[] = {
	{ "adapter_type", "always ide: a VMM's own configuration says it" },
	{ "hwversion", "always 4: a VMM's own configuration says it" },
	{ "toolsversion", "a VMM notes it when it knows" },
	{ "compat6", "hardware's version is always 4" },
	{ "block_state_zero", "blocks are zeroes over a parent, else not there" },
	{ "force_size", "the size is always that which is asked for" },
	{ "static", "say subformat=fixed" },
	{ "nocow", "a folder's own: chattr +C" },
	{ "extent_size_hint", "a folder's own: xfs_io -c extsize" },
	{ "encrypt.key-secret", "say key-file=PATH or key-fd=N" },
};

static bool has_row(const struct td_option *row, const char *key)
{
	while (row && row->name && strcmp(row->name, key))
		row++;
	return row && row->name;
}

static int absent_key(const struct td_driver *driver, const struct td_spec *spec,
		      struct td_why *why)
{
	for (unsigned i = 0; i < spec->pair_count; i++)
		for (unsigned k = 0; k < ARRAY_SIZE(absent); k++)
			if (!strcmp(spec->pairs[i].key, absent[k].key) &&
			    !has_row(driver->create_options, absent[k].key))
				return td_fail(why, -EINVAL, "%s: the option %s is not there: %s",
					       spec->target, absent[k].key, absent[k].why);
	return 0;
}

static int keys_read(struct make *make, struct keys *keys, struct td_why *why)
{
	const struct td_driver *driver = make->name.driver;
	struct td_spec ours = make->name.spec, rest = make->name.spec;
	int err;

	if (take_metadata(make))
		return td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	ours.pair_count = sort_pairs(&make->name.spec);
	if (ours.pair_count)
		rest.pairs += ours.pair_count;
	rest.pair_count -= ours.pair_count;
	err = td_options_apply(make_keys, &ours, keys, why);
	if (!err)
		err = absent_key(driver, &rest, why);
	if (err)
		return err;
	make->options = calloc(1, driver->create_size + 1);
	if (!make->options)
		return td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	make->create.options = make->options;
	return td_options_apply(driver->create_options, &rest, make->options, why);
}

/* What the new image is encrypted with; only formats that are will do with it. */
static int key_take(struct tool_run *run, struct make *make, const struct keys *keys)
{
	const struct td_option *row = make->name.driver->create_options;
	struct td_why why = { "" };
	int err = 0;

	if (!keys->key_file && !keys->key_fd)
		return TOOL_OK;
	while (row && row->name && strcmp(row->name, "encryption"))
		row++;
	if (!row || !row->name)
		err = td_fail(&why, -ENOTSUP, "images of type %s cannot be encrypted",
			      name_of_driver(make->name.driver));
	else if (keys->key_file && keys->key_fd)
		err = td_fail(&why, -EINVAL, "key-file and key-fd: one is enough");
	else if (keys->key_file)
		err = key_read(run, "key-file", keys->key_file, &make->keys, &why);
	else
		err = key_read(run, "key-fd", keys->key_fd, &make->keys, &why);
	make->create.key = make->keys;
	if (err)
		tool_say(run->tool, "%s", why.text);
	return err ? TOOL_FAILED : TOOL_OK;
}

static int keys_take(struct tool_run *run, struct make *make, const struct keys *keys)
{
	if (key_take(run, make, keys))
		return TOOL_FAILED;
	if (keys->cluster > UINT32_MAX) {
		tool_say(run->tool, "cluster_size: too large");
		return TOOL_FAILED;
	}
	make->create.size = keys->size;
	make->create.cluster = keys->cluster;
	if (keys->reserve && (!strcmp(keys->reserve, "full") || !strcmp(keys->reserve, "falloc"))) {
		make->create.reserve = true;
	} else if (keys->reserve && strcmp(keys->reserve, "off")) {
		tool_say(run->tool, "preallocation=%s: can be off, falloc or full, or metadata with qcow2", keys->reserve);
		return TOOL_FAILED;
	}
	return keys->backing ? make_over(run, make, keys->backing_format, keys->backing) : TOOL_OK;
}

int make_plan(struct tool_run *run, const char *format, const char *option, const char *word,
	      const char *more, struct make *make)
{
	struct keys keys = { 0 };
	struct td_why why = { "" };
	int code = name_parse(run, format, option, word, more, &make->name);

	if (code)
		return code;
	make->create.path = name_path(&make->name);
	if (!make->name.driver->create) {
		tool_say(run->tool, "%s: images of type %s cannot be made", make->create.path,
			 name_of_driver(make->name.driver));
		return TOOL_FAILED;
	}
	if (keys_read(make, &keys, &why)) {
		tool_say(run->tool, "%s", why.text);
		code = TOOL_FAILED;
	} else {
		code = keys_take(run, make, &keys);
	}
	td_options_free(make_keys, &keys);
	return code;
}

static void say_rows(const struct td_option *row)
{
	for (; row && row->name; row++)
		printf("  %-18s %s\n", row->name, row->help);
}

int make_help(struct tool_run *run, const char *format, const char *option, const char *word)
{
	struct name name;
	int code = name_parse(run, format, option, word, NULL, &name);

	if (!code && !name.driver->create) {
		tool_say(run->tool, "images of type %s cannot be made", name_of_driver(name.driver));
		code = TOOL_FAILED;
	}
	if (!code) {
		printf("Options of new images of type %s:\n", name_of_driver(name.driver));
		say_rows(make_keys);
		say_rows(name.driver->create_options);
	}
	name_free(&name);
	return code;
}

/* The overlay must find it from wherever it is opened. */
static int store_path(struct tool_run *run, struct make *make, const struct name *below)
{
	struct stat st;

	if (stat(name_path(below), &st))
		make->backing = strdup(name_path(below));
	else
		make->backing = realpath(name_path(below), NULL);
	if (!make->backing) {
		tool_say(run->tool, "%s: %s", name_path(below), strerror(errno));
		return TOOL_FAILED;
	}
	make->create.backing = make->backing;
	make->create.backing_format = name_stored_format(below);
	return TOOL_OK;
}

int make_over(struct tool_run *run, struct make *make, const char *format, const char *word)
{
	struct td_disk_options how = { .keyless = true };
	struct td_disk *disk = NULL;
	struct name below;
	int code = name_parse(run, format, "-F", word, NULL, &below);

	if (make->backing) {
		tool_say(run->tool, "two backing images are named");
		code = TOOL_FAILED;
	}
	if (!code && below.spec.pair_count) {
		tool_say(run->tool, "%s: options are not stored with a backing image", word);
		code = TOOL_FAILED;
	}
	if (!code && make->unsafe)
		code = store_path(run, make, &below);
	else if (!code)
		disk = name_open_with(run, &below, true, &how);
	if (disk) {
		make->create.backing_size = td_disk_size(disk);
		if (!make->create.size)
			make->create.size = make->create.backing_size;
		td_disk_close(disk);
		if (!below.driver->looks_like)
			make->below_like = name_guess(run, name_path(&below));
		code = store_path(run, make, &below);
	}
	name_free(&below);
	return disk || make->unsafe ? code : TOOL_FAILED;
}

/* ---- its name -------------------------------------------------------------------- */

int make_may(struct tool_run *run, struct make *make, const struct td_disk *disk, bool ask)
{
	const char *path = make->create.path;
	struct stat st;

	if (lstat(path, &st) < 0) {
		if (errno == ENOENT)
			return TOOL_OK;
		tool_say(run->tool, "%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	if (disk && name_is_part(disk, &st)) {
		tool_say(run->tool, "%s: is what is read", path);
		return TOOL_FAILED;
	}
	if (!S_ISREG(st.st_mode)) {
		tool_say(run->tool, "%s: is there already, and is no file", path);
		return TOOL_FAILED;
	}
	if (tool_in_use(run->tool, path))
		return TOOL_FAILED;
	if (!make->force && (!ask || !tool_ask("%s is there already. Overwrite it?", path))) {
		tool_say(run->tool, "%s: is there already (--force to replace it)", path);
		return TOOL_FAILED;
	}
	make->force = true;
	return TOOL_OK;
}

/* The driver's words, with the name that the user gave. */
static void say_why(struct tool_run *run, const struct td_why *why, const char *temp,
		    const char *path)
{
	const char *at = strstr(why->text, temp);

	if (at)
		tool_say(run->tool, "%.*s%s%s", (int)(at - why->text), why->text, path,
			 at + strlen(temp));
	else
		tool_say(run->tool, "%s", why->text);
}

static void temp_free(struct make *make)
{
	tool_part(NULL);
	free(take(make->temp));
}

int make_begin(struct tool_run *run, struct make *make)
{
	struct td_files files = { .hook = run->hook };
	struct td_create create = make->create;
	struct td_why why = { "" };
	int err;

	tool_temp_sweep(make->create.path);
	make->temp = tool_temp_name(make->create.path);
	if (!make->temp) {
		tool_say(run->tool, "%s: %s", make->create.path, strerror(ENOMEM));
		return TOOL_FAILED;
	}
	tool_part(make->temp);
	create.name = make->create.path;
	create.path = make->temp;
	create.files = &files;
	err = make->name.driver->create(&create, &why);
	if (err == -ENOKEY && !key_ask_new(run, make->create.path, &make->create.key)) {
		create.key = make->create.key;
		err = make->name.driver->create(&create, &why);
	}
	if (!err)
		return TOOL_OK;
	say_why(run, &why, make->temp, make->create.path);
	temp_free(make);
	return TOOL_FAILED;
}

/* Its data may be in a file beside it, which was made with it. */
static char *spec_of_new(const struct make *make)
{
	AUTO_FREE char *plain = name_spec(make->name.spec.type, make->temp);
	char *spec = NULL;

	for (unsigned i = 0; plain && i < make->name.spec.pair_count; i++)
		if (!strcmp(make->name.spec.pairs[i].key, "data_file"))
			return asprintf(&spec, "%s,data-file=on", plain) < 0 ? NULL : spec;
	return take(plain);
}

struct td_disk *make_open(struct tool_run *run, const struct make *make)
{
	struct td_disk_options options = { .keys = make->create.key, .name = make->create.path, .hook = run->hook };
	AUTO_FREE char *spec = spec_of_new(make);
	struct td_disk *disk;
	struct td_why why;

	if (!spec) {
		tool_say(run->tool, "%s: %s", make->create.path, strerror(ENOMEM));
		return NULL;
	}
	if (td_disk_open(run->loop, run->registry, spec, &options, &disk, &why)) {
		say_why(run, &why, make->temp, make->create.path);
		return NULL;
	}
	return disk;
}

/* The name is durable when the folder is. */
static int put_in_place(const struct make *make)
{
	const char *path = make->create.path;
	AUTO_FREE char *copy = strdup(path);
	AUTO_CLOSE int dir = -1;

	if (renameat2(AT_FDCWD, make->temp, AT_FDCWD, path,
		      make->force ? 0 : RENAME_NOREPLACE) &&
	    (make->force || errno != EINVAL || rename(make->temp, path)))
		return -errno;
	dir = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir >= 0 && fsync(dir) < 0 && errno != EINVAL)
		return -errno;
	return 0;
}

int make_finish(struct tool_run *run, struct make *make)
{
	int err = put_in_place(make);

	if (err) {
		tool_say(run->tool, "%s: %s", make->create.path, strerror(-err));
		make_drop(make);
		return TOOL_FAILED;
	}
	temp_free(make);
	/* an overlay over the bytes of an image is hardly ever meant */
	if (make->below_like)
		tool_say(run->tool, "%s: taken as raw, as it was named; it looks like %s",
			 make->create.backing, name_of_driver(make->below_like));
	return TOOL_OK;
}

void make_drop(struct make *make)
{
	const struct td_driver *driver = make->name.driver;
	struct td_create create = make->create;

	create.name = make->create.path;
	create.path = make->temp;
	if (make->temp && driver->unmake)
		driver->unmake(&create);
	if (make->temp)
		unlink(make->temp);
	temp_free(make);
}

void make_free(struct make *make)
{
	make_drop(make);
	if (make->options)
		td_options_free(make->name.driver->create_options, make->options);
	free(take(make->options));
	free(take(make->backing));
	name_free(&make->name);
	td_keys_free(take(make->keys));
}
