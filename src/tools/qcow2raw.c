/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2raw: writes the disk that a qcow image holds, with what it takes from its
 * backing file, as a raw image.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
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

static int make_raw(struct convert *convert, const char *path)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	if (fd < 0 || ftruncate(fd, convert->size) < 0) {
		tool_say(&tool, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			unlink(path);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

static bool is_device(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct convert convert = { .tool = &tool };
	const char *to;
	int code;

	tool_begin(&tool, &options, argv);
	to = argv[1];
	convert.quiet = options.quiet;
	convert.force = options.force;
	code = convert_open(&convert, "qcow", argv[2]);
	if (!code)
		code = convert_may_replace(&convert, to);
	if (!code && is_device(to))
		code = convert_copy(&convert, "aio", to, false);
	else if (!code)
		code = convert_to_file(&convert, "aio", to, make_raw);
	convert_close(&convert);
	return code;
}
