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
#include "base/num.h"
#include "base/rule.h"
#include "tools/img/img.h"
#include "tools/progress.h"

#define CHUNK (1 * MiB)
#define ASK_MAX GiB
#define BLOCK 4096

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
	IMG_COMMON(struct options),
};

struct rebase {
	struct tool_run *run;
	struct img_disk img, below; /* below.disk NULL: none, all zeroes */
	uint64_t written;
	char *old, *new;
	struct progress progress;
};

static int read_new(struct rebase *rebase, uint64_t at, uint64_t len)
{
	uint64_t size = rebase->below.disk ? td_disk_size(rebase->below.disk) : 0;
	uint64_t n = at < size ? min_u64(len, size - at) : 0;

	memset(rebase->new + n, 0, len - n);
	return n ? img_do(&rebase->below, TD_READ, 0, at, n, rebase->new, NULL) : 0;
}

/* Blocks that differ are written, as many in a row as there are. */
static int write_different(struct rebase *rebase, uint64_t at, uint64_t len)
{
	uint64_t from = 0, to;
	int err = 0;

	while (!err && from < len) {
		for (to = from; to < len; to += min_u64(BLOCK, len - to))
			if (!memcmp(rebase->old + to, rebase->new + to, min_u64(BLOCK, len - to)))
				break;
		if (to > from) {
			err = img_do(&rebase->img, TD_WRITE, 0, at + from, to - from,
				     rebase->old + from, NULL);
			rebase->written += to - from;
			from = to;
		} else {
			from += min_u64(BLOCK, len - from);
		}
	}
	return err;
}

/* A range that the image does not hold itself. */
static int keep_range(struct rebase *rebase, uint64_t at, uint64_t end)
{
	int err = 0;

	while (!err && at < end && !tool_stopped) {
		uint64_t len = min_u64(CHUNK, end - at);

		err = img_do(&rebase->img, TD_READ, 0, at, len, rebase->old, NULL);
		if (!err)
			err = read_new(rebase, at, len);
		if (!err)
			err = write_different(rebase, at, len);
		at += len;
		progress_at(&rebase->progress, at);
	}
	return err;
}

/* How far from at the new image below reads as zeroes. */
static int zero_in_new(struct rebase *rebase, uint64_t at, uint64_t len, uint64_t *out)
{
	uint64_t size = rebase->below.disk ? td_disk_size(rebase->below.disk) : 0;
	struct td_extent extent;
	int err;

	*out = len;
	if (at >= size)
		return 0;
	err = img_extent(&rebase->below, at, min_u64(len, size - at), &extent);
	*out = !err && extent.flags & TD_EXTENT_ZERO ? extent.len : 0;
	return err;
}

static int keep_content(struct rebase *rebase)
{
	uint64_t size = td_disk_size(rebase->img.disk), zero = 0;
	struct td_extent extent;
	int err = 0;

	for (uint64_t at = 0; !err && at < size && !tool_stopped; at += extent.len) {
		progress_at(&rebase->progress, at);
		err = img_extent(&rebase->img, at, min_u64(size - at, ASK_MAX), &extent);
		if (err || !td_extent_depth(extent.flags))
			continue;
		if (extent.flags & TD_EXTENT_ZERO) {
			err = zero_in_new(rebase, at, extent.len, &zero);
			if (!err && zero) {
				extent.len = zero;
				continue;
			}
		}
		if (!err)
			err = keep_range(rebase, at, at + extent.len);
	}
	return err ? err : img_do(&rebase->img, TD_FLUSH, 0, 0, 0, NULL, NULL);
}

static int keep(struct rebase *rebase, const struct options *options)
{
	AUTO_FREE char *old = aligned_alloc(4096, CHUNK);
	AUTO_FREE char *new = aligned_alloc(4096, CHUNK);
	int err;

	rebase->old = old;
	rebase->new = new;
	progress_begin(&rebase->progress, name_path(&rebase->img.name),
		       td_disk_size(rebase->img.disk),
		       options->img.quiet || !options->img.progress);
	err = old && new ? keep_content(rebase) : -ENOMEM;
	progress_end(&rebase->progress, err ? "failed" : "done");
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
	int err = img_driver(&rebase->img)->set_backing(td_disk_top(rebase->img.disk), path,
		path ? name_of_driver(below->driver) : NULL, &why);

	if (err)
		tool_say(rebase->run->tool, "%s", why.text[0] ? why.text : strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
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
