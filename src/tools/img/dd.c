/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dd: a part of an image's content as a new image. Words are those of dd(1).
 */
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "tools/img/img.h"

struct options {
	struct img_options img;
	const char *to;
	bool force;
};

static const struct td_arg rows[] = {
	{ "format", 'f', "FORMAT", offsetof(struct options, img.format), "of if=" },
	{ "target-format", 'O', "FORMAT", offsetof(struct options, to), "of of=" },
	{ "force", 0, NULL, offsetof(struct options, force), "replace of= if it is there" },
	IMG_PROGRESS(struct options),
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

struct words {
	const char *from, *to, *bs, *count, *skip;
};

static int words_read(struct tool_run *run, char **argv, struct words *out)
{
	static const struct {
		const char *key;
		size_t at;
	} keys[] = {
		{ "if=", offsetof(struct words, from) }, { "of=", offsetof(struct words, to) },
		{ "bs=", offsetof(struct words, bs) }, { "count=", offsetof(struct words, count) },
		{ "skip=", offsetof(struct words, skip) },
	};
	size_t i;

	for (; *argv; argv++) {
		for (i = 0; i < ARRAY_SIZE(keys); i++)
			if (!strncmp(*argv, keys[i].key, strlen(keys[i].key)))
				break;
		if (i == ARRAY_SIZE(keys)) {
			tool_say(run->tool, "%s: can be if=, of=, bs=, count= or skip=", *argv);
			return TOOL_FAILED;
		}
		*(const char **)((char *)out + keys[i].at) = *argv + strlen(keys[i].key);
	}
	if (out->from && out->to)
		return TOOL_OK;
	tool_say(run->tool, "if= and of= are needed");
	return TOOL_FAILED;
}

/* Which bytes: whole blocks of bs, no farther than the disk. */
static int range(struct tool_run *run, const struct words *words, const struct td_disk *disk,
		 struct copy_options *copy)
{
	uint64_t bs = 512, count = 0, skip = 0, size = td_disk_size(disk), len;
	int code = TOOL_OK;

	if (words->bs)
		code = tool_size(run->tool, words->bs, 1, &bs);
	if (!code && words->count)
		code = tool_size(run->tool, words->count, 1, &count);
	if (!code && words->skip)
		code = tool_size(run->tool, words->skip, 1, &skip);
	if (code)
		return code;
	if (!bs || bs % 512) {
		tool_say(run->tool, "bs=: a multiple of 512");
		return TOOL_FAILED;
	}
	if (__builtin_mul_overflow(bs, skip, &copy->offset) || copy->offset >= size ||
	    (words->count && !count)) {
		tool_say(run->tool, "if=%s: nothing is left to copy of %llu bytes",
			 words->from, (unsigned long long)size);
		return TOOL_FAILED;
	}
	copy->len = size - copy->offset;
	if (words->count && !__builtin_mul_overflow(bs, count, &len))
		copy->len = min_u64(copy->len, len);
	return TOOL_OK;
}

static int copy(struct convert *convert, const struct options *options, const char *word)
{
	struct make make = { .force = options->force };
	int code = make_plan(convert->run, options->to, "-O", word, NULL, &make);

	if (!code)
		code = make_may(convert->run, &make, convert->from, false);
	if (!code)
		code = convert_into(convert, &make);
	if (!code && options->img.json)
		code = img_print_json(convert->run, json_pack("{s:o, s:o}",
			"virtual-size", img_number(make.create.size),
			"data-written", img_number(convert->data)));
	make_free(&make);
	return code;
}

static int dd_run(struct tool_run *run, void *arg, char **argv, int count)
{
	const struct options *options = arg;
	struct convert convert = { .run = run, .options.sparse = COPY_SPARSE,
				   .quiet = options->img.quiet || !options->img.progress };
	struct img_disk from = { 0 };
	struct words words = { 0 };
	int code = words_read(run, argv, &words);

	if (!code)
		code = img_open(run, options->img.format, "-f", words.from, true, &from);
	convert.from = from.disk;
	convert.from_path = words.from;
	if (!code)
		code = range(run, &words, from.disk, &convert.options);
	if (!code)
		code = copy(&convert, options, words.to);
	img_close(run, &from);
	return code;
}

const struct img_command img_dd = {
	.name = "dd",
	.tool = {
		.name = "tap-img dd",
		.usage = "if=IMAGE of=IMAGE [bs=SIZE] [count=N] [skip=N]",
		.about = "copies a part of an image's content into a new image\n"
			 "count and skip are in blocks of bs, 512 bytes unless said.",
		.rows = rows,
		.min_words = 2,
		.max_words = 5,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = dd_run,
};
