/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * img2qcow: makes a qcow image of a raw image or device.
 */
#include <errno.h>
#include <string.h>

#include "io/file.h"
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

static int make_qcow(struct convert *convert, const char *path)
{
	struct td_files files = { 0 };
	struct td_create make = { .path = path, .size = convert->size, .files = &files };
	struct td_why why;
	const struct td_driver *qcow = td_registry_find(convert->registry, "qcow", &why);

	if (!qcow || qcow->create(&make, &why)) {
		tool_say(&tool, "%s", why.text);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct convert convert = { .tool = &tool };
	int code;

	tool_begin(&tool, &options, argv);
	convert.quiet = options.quiet;
	convert.force = options.force;
	code = convert_open(&convert, "aio", argv[2]);
	if (!code)
		code = convert_may_replace(&convert, argv[1]);
	if (!code)
		code = convert_to_file(&convert, "qcow", argv[1], make_qcow);
	convert_close(&convert);
	return code;
}
