/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * img2qcow: makes a qcow image of a raw image or device.
 */
#include "tools/convert.h"

struct options {
	struct td_args_common common;
	bool force, quiet;
};

static const struct td_arg rows[] = {
	{ "force", 'f', NULL, offsetof(struct options, force), "overwrite QCOW without asking" },
	{ "quiet", 'q', NULL, offsetof(struct options, quiet), "tell of errors only" },
	TD_ARGS_COMMON(struct options),
};

static const struct tool tool = {
	.name = "img2qcow",
	.usage = "QCOW SRC",
	.about = "Makes the qcow image QCOW of the raw image or block device SRC.\n"
		 "Blocks of zeroes take no space.",
	.rows = rows,
	.min_words = 2,
	.max_words = 2,
};

static int work(struct tool_run *run, const void *options_, char **words)
{
	const struct options *options = options_;
	struct convert convert = { .run = run, .quiet = options->quiet, .from_path = words[1],
				   .options.sparse = COPY_SPARSE };
	struct make make = { .force = options->force };
	struct name from;
	int code = name_parse(run, "aio", NULL, words[1], NULL, &from);

	if (!code)
		convert.from = name_open(run, &from, true);
	if (convert.from)
		code = make_plan(run, "qcow", NULL, words[0], NULL, &make);
	if (convert.from && !code)
		code = make_may(run, &make, convert.from, true);
	if (convert.from && !code)
		code = convert_into(&convert, &make);
	code = convert.from ? code : TOOL_FAILED;
	td_disk_close(convert.from);
	make_free(&make);
	name_free(&from);
	return code;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };

	return tool_main(&tool, &options, argv, work);
}
