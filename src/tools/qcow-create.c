/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow-create: makes an empty qcow image, alone or over a backing file.
 */
#include <stdio.h>

#include "base/num.h"
#include "tools/make.h"
#include "tools/progress.h"

struct options {
	struct td_args_common common;
	const char *format, *cluster, *below;
	bool reserve, force, quiet;
};

static const struct td_arg rows[] = {
	{ "reserve", 'r', NULL, offsetof(struct options, reserve),
	  "take all space now: no sparse file" },
	{ "format", 'f', "FORMAT", offsetof(struct options, format),
	  "of the new image; default qcow" },
	{ "cluster", 'c', "SIZE", offsetof(struct options, cluster),
	  "of a cluster, block or grain; default 4K, qcow2 and vmdk 64K" },
	{ "backing-format", 'b', "FORMAT", offsetof(struct options, below),
	  "of BACKING; default raw; qcow knows no other" },
	{ "force", 'F', NULL, offsetof(struct options, force), "replace FILE if it is there" },
	{ "quiet", 'q', NULL, offsetof(struct options, quiet), "tell of errors only" },
	TD_ARGS_COMMON(struct options),
};

static const struct tool tool = {
	.name = "qcow-create",
	.usage = "SIZE FILE [BACKING]",
	.about = "Makes the empty image FILE of SIZE MiB (or with a suffix: 64K, 10G, 2T).\n"
		 "With BACKING, a raw file or block device, FILE is an overlay: it has the size\n"
		 "of BACKING, whatever SIZE says, reads as BACKING, and keeps what is written.",
	.rows = rows,
	.min_words = 2,
	.max_words = 3,
};

static int plan(struct tool_run *run, const struct options *options, char **words,
		struct make *make)
{
	uint64_t size, cluster = 0;
	int code = make_plan(run, options->format, NULL, words[1], NULL, make);

	if (!code)
		code = tool_size(run->tool, words[0], MiB, &size);
	if (!code && !size && !words[2]) {
		tool_say(run->tool, "%s: no size (MiB, or a number with K, M, G or T)", words[0]);
		code = TOOL_USAGE;
	}
	if (!code && options->cluster)
		code = tool_size(run->tool, options->cluster, 1, &cluster);
	if (!code && cluster > UINT32_MAX) {
		tool_say(run->tool, "%s: no cluster size", options->cluster);
		code = TOOL_USAGE;
	}
	if (!code && words[2])
		code = make_over(run, make, options->below, words[2]);
	if (code)
		return code;
	if (!words[2])
		make->create.size = size;
	make->create.cluster = cluster;
	make->create.reserve = options->reserve;
	return make_may(run, make, NULL, false);
}

static int work(struct tool_run *run, const void *options_, char **words)
{
	const struct options *options = options_;
	struct make make = { .force = options->force };
	const struct td_create *create = &make.create;
	char text[16];
	int code = plan(run, options, words, &make);

	if (!code)
		code = make_begin(run, &make);
	if (!code)
		code = make_finish(run, &make);
	if (!code && !options->quiet)
		printf("%s: %s%s%s\n", create->path, size_text(create->size, text),
		       create->backing ? ", over " : "", create->backing ? create->backing : "");
	make_free(&make);
	return code;
}

int main(int argc, char **argv)
{
	struct options options = { .format = "qcow", .below = "aio" };

	return tool_main(&tool, &options, argv, work);
}
