/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2raw: writes the disk that a qcow image holds, with what it takes from its
 * backing file, as a raw image.
 */
#include <string.h>

#include "tools/convert.h"

struct options {
	struct td_args_common common;
	bool force, quiet;
};

static const struct td_arg rows[] = {
	{ "force", 'f', NULL, offsetof(struct options, force), "overwrite DEST without asking" },
	{ "quiet", 'q', NULL, offsetof(struct options, quiet), "tell of errors only" },
	TD_ARGS_COMMON(struct options),
};

static const struct tool tool = {
	.name = "qcow2raw",
	.usage = "DEST QCOW",
	.about = "Writes the content of the qcow image QCOW to DEST, a file or a block device\n"
		 "that is large enough. Blocks of zeroes take no space in a file.",
	.rows = rows,
	.min_words = 2,
	.max_words = 2,
};

static int write_to(struct convert *convert, const struct options *options, const char *path)
{
	struct make make = { .force = options->force };
	int code;

	if (!strcmp(path, "-")) {
		tool_say(convert->run->tool, "DEST is a file or a device, written in no order; "
			 "a file of the name - is ./-");
		return TOOL_FAILED;
	}
	code = make_plan(convert->run, "aio", NULL, path, NULL, &make);

	if (!code && name_is_device(&make.name)) {
		code = name_may_write(convert->run, &make.name, options->force, true);
		if (!code)
			code = convert_onto(convert, &make.name, false);
	} else if (!code) {
		code = make_may(convert->run, &make, convert->from, true);
		if (!code)
			code = convert_into(convert, &make);
	}
	make_free(&make);
	return code;
}

static int work(struct tool_run *run, const void *options_, char **words)
{
	const struct options *options = options_;
	struct convert convert = { .run = run, .quiet = options->quiet, .from_path = words[1],
				   .options.sparse = COPY_SPARSE };
	struct name from;
	int code = name_parse(run, "qcow", NULL, words[1], NULL, &from);

	if (!code)
		convert.from = name_open(run, &from, true);
	code = convert.from ? write_to(&convert, options, words[0]) : TOOL_FAILED;
	td_disk_close(convert.from);
	name_free(&from);
	return code;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };

	return tool_main(&tool, &options, argv, work);
}
