/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rebase: puts an image over another one. What it took from the old chain and would
 * find different in the new one is first written into the image itself; then its
 * header names the new one. A run that is cut short leaves an image that reads as
 * before.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/rule.h"
#include "tools/img/img.h"
#include "tools/img/keep.h"

struct options {
	struct img_options img;
	const char *backing, *backing_format;
	bool unsafe;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "backing", 'b', "IMAGE", offsetof(struct options, backing),
	  "the new image below; \"\": none" },
	{ "backing-format", 'F', "FORMAT", offsetof(struct options, backing_format),
	  "of the new image below" },
	{ "unsafe", 'u', NULL, offsetof(struct options, unsafe),
	  "only change the name: what IMAGE does not hold is taken from the new one" },
	IMG_PROGRESS(struct options),
	IMG_QUIET(struct options),
	IMG_CACHE(struct options),
	IMG_SOURCE_CACHE(struct options),
	IMG_COMMON(struct options),
};

struct rebase {
	struct tool_run *run;
	struct img_disk img, below; /* below.disk NULL: none, all zeroes */
	uint64_t written;
};

static int keep(struct rebase *rebase, const struct options *options)
{
	int err = keep_content(&rebase->img, rebase->below.disk ? &rebase->below : NULL,
			       !options->img.progress || options->img.quiet, &rebase->written);

	if (tool_stopped)
		return img_stopped(rebase->run);
	if (err)
		tool_say(rebase->run->tool, "%s: %s", name_path(&rebase->img.name),
			 strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
}

static int open_below(struct rebase *rebase, const struct options *options)
{
	int code = name_parse(rebase->run, options->backing_format, "-F", options->backing, NULL,
			      &rebase->below.name);

	if (code || options->unsafe)
		return code;
	rebase->below.disk = name_open(rebase->run, &rebase->below.name, true);
	return rebase->below.disk ? TOOL_OK : TOOL_FAILED;
}

static int name_it(struct rebase *rebase)
{
	const struct name *below = &rebase->below.name;
	AUTO_FREE char *full = below->text ? realpath(name_path(below), NULL) : NULL;
	const char *path = full ? full : below->text ? name_path(below) : NULL;
	struct td_why why = { "" };
	int err = td_disk_settle(rebase->img.disk); /* it must be at rest */

	if (!err)
		err = img_driver(&rebase->img)->set_backing(td_disk_top(rebase->img.disk), path,
			path ? name_stored_format(below) : NULL, &why);
	return err ? img_failed(rebase->run, &rebase->img, TOOL_FAILED, err, &why) : TOOL_OK;
}

static int rebase_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct td_disk_options how = { .alone = options->unsafe };
	struct rebase rebase = { .run = run };
	int code = TOOL_OK, end;

	if (!options->backing) {
		tool_say(run->tool, "over which image? -b IMAGE (-b \"\" for none)");
		code = TOOL_FAILED;
	}
	if (!code)
		code = name_parse(run, options->img.format, "-f", words[0], NULL, &rebase.img.name);
	if (!code && !img_driver(&rebase.img)->set_backing)
		code = img_cannot(run, &rebase.img, TOOL_FAILED, "images stay where they lie");
	if (!code && options->backing[0])
		code = open_below(&rebase, options);
	if (!code) {
		rebase.img.disk = name_open_with(run, &rebase.img.name, false, &how);
		code = rebase.img.disk ? TOOL_OK : TOOL_FAILED;
	}
	if (!code && !td_rule("rebase-content-before-name"))
		code = name_it(&rebase);
	if (!code && !options->unsafe)
		code = keep(&rebase, options);
	if (!code)
		code = name_it(&rebase);
	if (!code && options->img.json)
		code = img_print_json(run, json_pack("{s:o}", "data-written",
						     img_number(rebase.written)));
	end = img_close(run, &rebase.img);
	img_close(run, &rebase.below);
	return code ? code : end;
}

const struct img_command img_rebase = {
	.name = "rebase",
	.tool = {
		.name = "tap-img rebase",
		.usage = "-b IMAGE IMAGE",
		.about = "puts an image over another one\n"
			 "Its content stays, unless --unsafe says that only the name is to change.",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = rebase_run,
};
