/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * commit: writes what an image, and those between, hold into one that lies below it.
 * The image itself stays as it is, and reads as before.
 *
 * Both disks are open at once: the base for writing, and the image with its chain,
 * the base in it. What is copied comes from above the base only, so nothing is read
 * through the chain that is being written.
 *
 * Some formats note what their parent held, so as not to be read over another content.
 * What lies above the base notes it anew then, from the base upward.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "core/queue.h"
#include "tools/img/img.h"

struct options {
	struct img_options img;
	const char *base;
	bool keep;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "base", 'b', "PATH", offsetof(struct options, base),
	  "which image below; default the next one" },
	{ "keep", 'd', NULL, offsetof(struct options, keep), "taken: IMAGE is always kept" },
	IMG_PROGRESS(struct options),
	IMG_QUIET(struct options),
	IMG_CACHE(struct options),
	IMG_COMMON(struct options),
};

struct commit {
	struct tool_run *run;
	const struct options *options;
	struct img_disk img, base;
	uint64_t grow;             /* of img, if the base is smaller */
	unsigned depth;            /* of the base */
	struct name *between;      /* img and the base; what lies at depth 1 is the first */
};

/* Which image of the chain is meant, by its path or by its file. */
static const struct td_image *find_base(const struct commit *commit, unsigned *depth)
{
	const char *path = commit->options->base;
	const struct td_image *img = td_disk_top(commit->img.disk)->below;
	struct stat st, other;

	for (*depth = 1; img; img = img->below, ++*depth) {
		if (!path || !strcmp(path, img->target))
			return img;
		if (!stat(path, &st) && !stat(img->target, &other) && st.st_dev == other.st_dev &&
		    st.st_ino == other.st_ino)
			return img;
	}
	return NULL;
}

static int look_between(struct commit *commit)
{
	const struct td_image *img = td_disk_top(commit->img.disk)->below;
	int code = TOOL_OK;

	commit->between = calloc(commit->depth, sizeof(*commit->between));
	if (!commit->between)
		return img_failed(commit->run, &commit->img, TOOL_FAILED, -ENOMEM, NULL);
	for (unsigned i = 0; i < commit->depth - 1 && !code; i++, img = img->below)
		code = name_parse(commit->run, img->driver->name, NULL, img->target, NULL,
				  &commit->between[i]);
	return code;
}

/* The chain is opened to be looked at, and closed: the base cannot be opened for
 * writing while it is read. */
static int look(struct commit *commit, const char *word)
{
	struct tool_run *run = commit->run;
	const struct td_image *base;
	AUTO_FREE char *keys = NULL;
	int code = img_open(run, commit->options->img.format, "-f", word, true, &commit->img);

	if (code)
		return code;
	base = find_base(commit, &commit->depth);
	keys = base && base->encrypted ? name_key_words(&commit->img.name) : NULL;
	if (base) {
		uint64_t size = td_disk_size(commit->img.disk);

		commit->grow = size > base->size ? size : 0;
		code = name_parse(run, base->driver->name, NULL, base->target,
				  keys && *keys ? keys : NULL, &commit->base.name);
		code = code ? code : look_between(commit);
	} else {
		tool_say(run->tool, commit->options->base ? "%s: %s does not lie below it" :
			 "%s: no image lies below it", name_path(&commit->img.name),
			 commit->options->base);
		code = TOOL_FAILED;
	}
	td_disk_close(commit->img.disk);
	commit->img.disk = NULL;
	return code;
}

/* Whether an image takes the one below it as that is now. */
static bool is_taken(struct commit *commit, const struct name *above)
{
	struct td_disk_options how = { .read_only = true, .keyless = true };
	struct td_disk *disk;
	struct td_why why;

	if (td_disk_open(commit->run->loop, commit->run->registry, above->text, &how, &disk, &why))
		return false;
	td_disk_close(disk);
	return true;
}

static int note_one(struct commit *commit, const struct name *name, const struct name *below)
{
	struct img_disk img = { .name = *name }; /* which stays the caller's */
	AUTO_FREE char *path = realpath(name_path(below), NULL);
	struct td_disk_options how = { .alone = true };
	struct td_why why = { "" };
	int err, code = TOOL_OK;

	if (!path || !name->driver->set_backing || is_taken(commit, name))
		return TOOL_OK;
	img.disk = name_open_with(commit->run, name, false, &how);
	if (!img.disk)
		return TOOL_FAILED;
	err = name->driver->set_backing(td_disk_top(img.disk), path, name_stored_format(below),
					&why);
	if (err)
		code = img_failed(commit->run, &img, TOOL_FAILED, err, &why);
	err = name_close(commit->run, name, img.disk);
	return code ? code : err;
}

/* Also after a failure: it may have come when the base was changed already. */
static int note_base(struct commit *commit)
{
	const struct name *below = &commit->base.name, *name;
	int code = TOOL_OK;

	for (unsigned i = commit->depth; i-- > 0 && !code; below = name) {
		name = i ? &commit->between[i - 1] : &commit->img.name;
		code = note_one(commit, name, below);
	}
	return code;
}

static int close_base(struct commit *commit)
{
	int code;

	if (!commit->base.disk)
		return TOOL_OK;
	td_pool_free(commit->base.pool);
	code = name_close(commit->run, &commit->base.name, commit->base.disk);
	commit->base.pool = NULL;
	commit->base.disk = NULL;
	return note_base(commit) || code ? TOOL_FAILED : TOOL_OK;
}

/* Done, and closed, before the image is opened: what it saw of the base's tables would
 * not be true any more. */
static int make_room(struct commit *commit)
{
	struct img_disk *base = &commit->base;
	const struct td_driver *driver = img_driver(base);
	struct td_why why = { "" };
	int err, code = TOOL_OK;

	if (!commit->grow)
		return TOOL_OK;
	if (!driver->resize)
		return img_cannot(commit->run, base, TOOL_FAILED,
				  "images keep the size they have, and this one is smaller");
	base->disk = name_open(commit->run, &base->name, false);
	if (!base->disk)
		return TOOL_FAILED;
	err = img_hold_end(base);
	if (!err)
		err = driver->resize(td_disk_top(base->disk), commit->grow, &why);
	if (err)
		code = img_failed(commit->run, base, TOOL_FAILED, err, &why);
	return close_base(commit) || code ? TOOL_FAILED : TOOL_OK;
}

static int open_both(struct commit *commit)
{
	struct td_disk_options beside = { 0 };

	commit->base.disk = name_open(commit->run, &commit->base.name, false);
	beside.beside = commit->base.disk;
	if (commit->base.disk)
		commit->img.disk = name_open_with(commit->run, &commit->img.name, true, &beside);
	return commit->img.disk ? TOOL_OK : TOOL_FAILED;
}

/* Names are needed until the end. */
static int close_both(struct commit *commit)
{
	int code;

	if (commit->img.disk)
		name_close(commit->run, &commit->img.name, commit->img.disk);
	commit->img.disk = NULL;
	code = close_base(commit);
	for (unsigned i = 0; commit->between && i < commit->depth - 1; i++)
		name_free(&commit->between[i]);
	free(take(commit->between));
	img_close(commit->run, &commit->img);
	img_close(commit->run, &commit->base);
	return code;
}

static int commit_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct commit commit = { .run = run, .options = options };
	struct convert convert = { .run = run, .from_path = words[0],
				   .quiet = options->img.quiet || !options->img.progress,
				   .options.sparse = COPY_SPARSE };
	int code = look(&commit, words[0]), end;

	if (!code)
		code = make_room(&commit);
	if (!code)
		code = open_both(&commit);
	convert.from = commit.img.disk;
	convert.options.above = commit.depth;
	if (!code)
		code = convert_copy(&convert, &commit.base.name, commit.base.disk, false);
	if (!code && options->img.json)
		code = img_print_json(run, json_pack("{s:s, s:o}", "base",
			name_path(&commit.base.name), "data-written", img_number(convert.data)));
	else if (!code && !options->img.quiet)
		printf("Committed to %s\n", name_path(&commit.base.name));
	end = close_both(&commit);
	return code ? code : end;
}

const struct img_command img_commit = {
	.name = "commit",
	.tool = {
		.name = "tap-img commit",
		.usage = "IMAGE",
		.about = "writes an image's changes into an image below it\n"
			 "IMAGE stays as it is. Other images over the changed one become wrong.",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = commit_run,
};
