/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * convert: the content of images, one after the other, each with all that lies below
 * it, as another image: a new one, or one that is there (-n, and devices).
 */
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "tools/img/img.h"

#define SOURCES_MAX 64

struct options {
	struct img_options img;
	const char *to, *more, *sparse, *jobs, *snapshot;
	bool compress, existing, zero, force, anyhow, salvage;
};

static const struct td_arg rows[] = {
	{ "format", 'f', "FORMAT", offsetof(struct options, img.format), "of SOURCE" },
	{ "target-format", 'O', "FORMAT", offsetof(struct options, to), "of TARGET" },
	{ "options", 'o', "KEY=VALUE,...", offsetof(struct options, more),
	  "how TARGET is made: see tap-img create" },
	{ "compress", 'c', NULL, offsetof(struct options, compress),
	  "store clusters compressed" },
	{ "snapshot", 'l', "NAME", offsetof(struct options, snapshot),
	  "what SOURCE held then; also snapshot.name=NAME, snapshot.id=ID" },
	{ "salvage", 0, NULL, offsetof(struct options, salvage),
	  "sectors that cannot be read become zeroes" },
	{ "sparse", 'S', "SIZE", offsetof(struct options, sparse),
	  "zeroes in a row that become a hole; 0: none do; default 4K" },
	{ "existing", 'n', NULL, offsetof(struct options, existing),
	  "TARGET is there: write onto it" },
	{ "target-is-zero", 0, NULL, offsetof(struct options, zero),
	  "with -n: TARGET reads as zeroes" },
	{ "parallel", 'm', "N", offsetof(struct options, jobs),
	  "chunks of 1 MiB under way at a time, 1 to 256; default 16" },
	{ "out-of-order", 'W', NULL, offsetof(struct options, anyhow),
	  "taken, and always so" },
	IMG_CACHE(struct options),
	IMG_SOURCE_CACHE(struct options),
	{ "force", 0, NULL, offsetof(struct options, force),
	  "replace TARGET if it is there" },
	IMG_PROGRESS(struct options),
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

static int numbers(struct tool_run *run, const struct options *options, struct copy_options *copy)
{
	uint64_t n = 0;
	int code = TOOL_OK;

	copy->sparse = COPY_SPARSE;
	copy->compress = options->compress;
	copy->salvage = options->salvage;
	if (options->sparse)
		code = tool_size(run->tool, options->sparse, 1, &copy->sparse);
	if (!code && copy->sparse % 512) {
		tool_say(run->tool, "--sparse: a multiple of 512");
		code = TOOL_FAILED;
	}
	if (!code && options->jobs)
		code = tool_size(run->tool, options->jobs, 1, &n);
	if (!code && options->jobs && (n < 1 || n > COPY_JOBS_MAX)) {
		tool_say(run->tool, "--parallel: 1 to %d", COPY_JOBS_MAX);
		code = TOOL_FAILED;
	}
	copy->jobs = n;
	return code;
}

static int onto(struct convert *convert, const struct options *options, const char *word)
{
	struct name to;
	int code = name_parse(convert->run, options->to, "-O", word, NULL, &to);

	if (!code && options->more) {
		tool_say(convert->run->tool, "-o says how an image is made, and none is with -n");
		code = TOOL_FAILED;
	}
	if (!code)
		code = convert_onto(convert, &to, options->zero);
	name_free(&to);
	return code;
}

static int into(struct convert *convert, const struct options *options, const char *word)
{
	struct make make = { .force = options->force };
	struct stat st;
	int code = make_plan(convert->run, options->to, "-O", word, options->more, &make);

	if (!code && name_is_device(&make.name)) {
		code = name_may_write(convert->run, &make.name, options->force, false);
		if (!code)
			code = onto(convert, options, word);
	} else if (!code && make.create.backing) {
		tool_say(convert->run->tool, "a copy lies over no other image");
		code = TOOL_FAILED;
	} else if (!code && !stat(make.create.path, &st) && convert_reads(convert, &st)) {
		tool_say(convert->run->tool, "%s: is what is read", make.create.path);
		code = TOOL_FAILED;
	} else if (!code) {
		code = make_may(convert->run, &make, NULL, false);
		if (!code)
			code = convert_into(convert, &make);
	}
	make_free(&make);
	return code;
}

static int tell(struct tool_run *run, const struct options *options, const struct convert *convert)
{
	uint64_t size = td_disk_size(convert->from);

	if (!options->img.json)
		return TOOL_OK;
	for (unsigned i = 0; i < convert->next_count; i++)
		size += td_disk_size(convert->next[i].disk);
	return img_print_json(run, json_pack("{s:o, s:o, s:o}",
		"virtual-size", img_number(size),
		"data-written", img_number(convert->data),
		"data-lost", img_number(convert->lost)));
}

/* A name, or what others write for one. */
static const char *snapshot_name(const char *word)
{
	static const char *const keys[] = { "snapshot.name=", "snapshot.id=" };

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strncmp(word, keys[i], strlen(keys[i])))
			return word + strlen(keys[i]);
	return word;
}

static int open_source(struct tool_run *run, const struct options *options, const char *word,
		       struct img_disk *out)
{
	if (!options->snapshot)
		return img_open(run, options->img.format, "-f", word, true, out);
	return img_open_then(run, options->img.format, "-f", word,
			     snapshot_name(options->snapshot), out);
}

static int convert_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct convert convert = { .run = run,
				   .quiet = options->img.quiet || !options->img.progress };
	struct img_disk from[SOURCES_MAX] = { 0 };
	struct convert_next next[SOURCES_MAX];
	const char *to = words[count - 1];
	int code = numbers(run, options, &convert.options);

	for (int i = 0; !code && i < count - 1; i++) {
		code = open_source(run, options, words[i], &from[i]);
		next[i] = (struct convert_next){ from[i].disk, name_path(&from[i].name) };
	}
	if (!code) {
		convert.from = next[0].disk;
		convert.from_path = next[0].path;
		convert.next = next + 1;
		convert.next_count = count - 2;
		code = options->existing ? onto(&convert, options, to) :
					   into(&convert, options, to);
	}
	if (!code)
		code = tell(run, options, &convert);
	for (int i = 0; i < count - 1; i++)
		img_close(run, &from[i]);
	return code;
}

const struct img_command img_convert = {
	.name = "convert",
	.tool = {
		.name = "tap-img convert",
		.usage = "SOURCE... TARGET",
		.about = "copies an image's content into another image\n"
			 "Several are put one after the other, all of the format that -f says.\n"
			 "Holes and zeroes take no space in TARGET. It gets its name when it is whole.",
		.rows = rows,
		.min_words = 2,
		.max_words = SOURCES_MAX + 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = convert_run,
};
