/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create: an empty image, alone or over another.
 */
#include <stdio.h>
#include <string.h>

#include "tools/img/img.h"
#include "tools/progress.h"

struct options {
	struct img_options img;
	const char *backing, *backing_format, *more;
	bool force, unsafe;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "options", 'o', "KEY=VALUE,...", offsetof(struct options, more),
	  "how: size, cluster_size, preallocation=off|metadata|falloc|full, and the format's own;\n"
	  "help: lists them" },
	{ "backing", 'b', "IMAGE", offsetof(struct options, backing),
	  "make an overlay over IMAGE" },
	{ "backing-format", 'F', "FORMAT", offsetof(struct options, backing_format),
	  "of the backing image" },
	{ "unsafe", 'u', NULL, offsetof(struct options, unsafe),
	  "only name the backing image: it need not be there, and SIZE is needed" },
	{ "force", 0, NULL, offsetof(struct options, force), "replace the file if it is there" },
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

static int tell(struct tool_run *run, const struct options *options, const struct make *make)
{
	const struct td_create *create = &make->create;
	char text[16];

	if (options->img.json)
		return img_print_json(run, json_pack("{s:s, s:s, s:o, s:s*}",
			"filename", create->path, "format", name_of_driver(make->name.driver),
			"virtual-size", img_number(create->size),
			"backing-filename", create->backing));
	if (!options->img.quiet)
		printf("%s: %s, %s%s%s\n", create->path, name_of_driver(make->name.driver),
		       size_text(create->size, text), create->backing ? ", over " : "",
		       create->backing ? create->backing : "");
	return TOOL_OK;
}

static int create_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct make make = { .force = options->force, .unsafe = options->unsafe };
	uint64_t size = 0;
	int code;

	if (options->more && !strcmp(options->more, "help"))
		return make_help(run, options->img.format, "-f", count ? words[0] : "IMAGE");
	if (!count) {
		tool_say(run->tool, "which image?");
		return TOOL_FAILED;
	}
	code = make_plan(run, options->img.format, "-f", words[0], options->more, &make);
	if (!code && words[1])
		code = tool_size(run->tool, words[1], 1, &size);
	if (!code && size)
		make.create.size = size;
	if (!code && options->backing)
		code = make_over(run, &make, options->backing_format, options->backing);
	if (!code && !make.create.size) {
		tool_say(run->tool, "%s: no size is given", make.create.path);
		code = TOOL_FAILED;
	}
	if (!code)
		code = make_may(run, &make, NULL, false);
	if (!code)
		code = make_begin(run, &make);
	if (!code)
		code = tool_stopped ? img_stopped(run) : make_finish(run, &make);
	if (!code)
		code = tell(run, options, &make);
	make_free(&make);
	return code;
}

const struct img_command img_create = {
	.name = "create",
	.tool = {
		.name = "tap-img create",
		.usage = "IMAGE [SIZE]",
		.about = "makes an empty image\n"
			 "SIZE is in bytes, or has a suffix: 64K, 10G, 2T. An overlay has the size of\n"
			 "the image below it unless another is given.",
		.rows = rows,
		.min_words = 0, /* for -o help */
		.max_words = 2,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = create_run,
};
