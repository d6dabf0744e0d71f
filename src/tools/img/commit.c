/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * commit: writes what an image, and those between, hold into one that lies below it.
 * The image itself stays as it is, and reads as before.
 *
 * Both disks are open at once: the base for writing, and the image with its chain,
 * the base in it. What is copied comes from above the base only, so nothing is read
 * through the chain that is being written.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/guard.h"
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
	IMG_COMMON(struct options),
};

struct commit {
	struct tool_run *run;
	const struct options *options;
	struct img_disk img, base;
	unsigned depth;            /* of the base */
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
		code = name_parse(run, base->driver->name, NULL, base->target,
				  keys && *keys ? keys : NULL, &commit->base.name);
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

static int open_both(struct commit *commit)
{
	struct td_disk_options beside = { 0 };

	commit->base.disk = name_open(commit->run, &commit->base.name, false);
	beside.beside = commit->base.disk;
	if (commit->base.disk)
		commit->img.disk = name_open_with(commit->run, &commit->img.name, true, &beside);
	return commit->img.disk ? TOOL_OK : TOOL_FAILED;
}

static int make_room(struct commit *commit)
{
	uint64_t size = td_disk_size(commit->img.disk);
	const struct td_driver *driver = img_driver(&commit->base);
	struct td_why why = { "" };

	if (size <= td_disk_size(commit->base.disk))
		return TOOL_OK;
	if (!driver->resize)
		return img_cannot(commit->run, &commit->base, TOOL_FAILED,
				  "images keep the size they have, and this one is smaller");
	if (!driver->resize(td_disk_top(commit->base.disk), size, &why))
		return TOOL_OK;
	tool_say(commit->run->tool, "%s", why.text);
	return TOOL_FAILED;
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
		code = open_both(&commit);
	if (!code)
		code = make_room(&commit);
	convert.from = commit.img.disk;
	convert.options.above = commit.depth;
	if (!code)
		code = convert_copy(&convert, &commit.base.name, commit.base.disk, false);
	if (!code && options->img.json)
		code = img_print_json(run, json_pack("{s:s, s:o}", "base",
			name_path(&commit.base.name), "data-written", img_number(convert.data)));
	else if (!code && !options->img.quiet)
		printf("Committed to %s\n", name_path(&commit.base.name));
	img_close(run, &commit.img);
	end = img_close(run, &commit.base);
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
