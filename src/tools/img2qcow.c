/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * img2qcow: makes a qcow image of a raw image or device.
 */
#include <errno.h>
#include <string.h>

#include "io/file.h"
#include "tools/convert.h"

static bool force, quiet;

static const struct tool_option options[] = {
	{ 'f', "force", NULL, "overwrite QCOW without asking", &force },
	{ 'q', "quiet", NULL, "tell of errors only", &quiet },
	{ 0 },
};

static const struct tool tool = {
	.name = "img2qcow",
	.usage = "QCOW SRC",
	.about = "Makes the qcow image QCOW of the raw image or block device SRC.\n"
		 "Blocks of zeroes take no space.",
	.options = options,
	.min_args = 2,
	.max_args = 2,
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
	int arg = tool_begin(&tool, argc, argv);
	struct convert convert = { .tool = &tool, .quiet = quiet, .force = force };
	int code = convert_open(&convert, "aio", argv[arg + 1]);

	if (!code)
		code = convert_may_replace(&convert, argv[arg]);
	if (!code)
		code = convert_to_file(&convert, "qcow", argv[arg], make_qcow);
	convert_close(&convert);
	return code;
}
