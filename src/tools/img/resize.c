/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * resize: makes an image's disk larger or, if that is said, smaller.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "tools/img/img.h"
#include "tools/progress.h"

#define PIECE (1 * MiB)

struct options {
	struct img_options img;
	const char *reserve;
	bool shrink;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "shrink", 0, NULL, offsetof(struct options, shrink),
	  "allow a smaller size: what lies past it is lost" },
	{ "preallocation", 0, "off|falloc|full", offsetof(struct options, reserve),
	  "of what it becomes larger by: take all space now, by writing zeroes" },
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

static int size_from(struct tool_run *run, const char *word, uint64_t now, uint64_t *out)
{
	char sign = *word == '+' || *word == '-' ? *word : 0;
	uint64_t size;
	int code = tool_size(run->tool, word + !!sign, 1, &size);

	if (code)
		return code;
	if ((sign == '-' && size >= now) || (sign == '+' && size > INT64_MAX - now) ||
	    (!sign && !size)) {
		tool_say(run->tool, "%s: leads to no size", word);
		return TOOL_FAILED;
	}
	*out = sign == '+' ? now + size : sign == '-' ? now - size : size;
	if (!(*out % 512))
		return TOOL_OK;
	tool_say(run->tool, "%s: a disk's size is a multiple of 512", word);
	return TOOL_FAILED;
}

int img_hold_end(struct img_disk *disk)
{
	const struct td_image *top = td_disk_top(disk->disk);
	uint32_t block = td_disk_block_size(disk->disk);
	AUTO_FREE char *buf = aligned_alloc(4096, round_up(block, 4096));
	struct td_extent extent;
	int err;

	if (!top->below || top->below->size <= top->size || top->size % td_disk_cluster(disk->disk) == 0)
		return 0;
	err = img_extent(disk, top->size - block, block, &extent);
	if (err || !td_extent_depth(extent.flags))
		return err;
	err = buf ? img_do(disk, TD_READ, 0, top->size - block, block, buf, NULL) : -ENOMEM;
	if (!err)
		err = img_do(disk, TD_WRITE, 0, top->size - block, block, buf, NULL);
	return err ? err : td_disk_settle(disk->disk);
}

/* A plain file is given blocks; in a format a cluster has a place once it is written. */
static int take_space(struct img_disk *disk, uint64_t at)
{
	bool plain = !img_driver(disk)->check;
	AUTO_FREE char *zeroes = aligned_alloc(4096, PIECE);
	uint64_t size = td_disk_size(disk->disk), piece = plain ? GiB : PIECE;
	int err = zeroes ? 0 : -ENOMEM;

	if (!err)
		memset(zeroes, 0, PIECE);
	for (uint64_t n; !err && at < size && !tool_stopped; at += n) {
		n = min_u64(piece, size - at);
		err = img_do(disk, plain ? TD_WRITE_ZEROES : TD_WRITE, 0, at, n,
			     plain ? NULL : zeroes, NULL);
	}
	return err;
}

static int reserve_mode(struct tool_run *run, const struct options *options, bool *out)
{
	const char *mode = options->reserve ? options->reserve : "off";

	*out = !strcmp(mode, "full") || !strcmp(mode, "falloc");
	if (*out || !strcmp(mode, "off"))
		return TOOL_OK;
	tool_say(run->tool, "--preallocation: off, falloc or full");
	return TOOL_FAILED;
}

static int resize(struct tool_run *run, const struct options *options, struct img_disk *disk,
		  const char *word)
{
	struct td_image *top = td_disk_top(disk->disk);
	struct td_why why = { "" };
	uint64_t size, was = top->size;
	char text[16];
	bool reserve;
	int code = size_from(run, word, was, &size), err;

	if (!code)
		code = reserve_mode(run, options, &reserve);
	if (code)
		return code;
	if (reserve && size <= was) {
		tool_say(run->tool, "--preallocation: it does not become larger");
		return TOOL_FAILED;
	}
	if (size < was && !options->shrink) {
		tool_say(run->tool, "%s: has %llu bytes; --shrink if it is to become smaller",
			 name_path(&disk->name), (unsigned long long)was);
		return TOOL_FAILED;
	}
	err = size > was ? img_hold_end(disk) : 0;
	if (!err && size != was)
		err = img_driver(disk)->resize(top, size, &why);
	if (!err && reserve)
		err = take_space(disk, was);
	if (err)
		return img_failed(run, disk, TOOL_FAILED, err, &why);
	if (tool_stopped)
		return img_stopped(run);
	if (options->img.json)
		return img_print_json(run, json_pack("{s:o, s:o}", "was", img_number(was),
						     "virtual-size", img_number(size)));
	if (!options->img.quiet)
		printf("%s: %s\n", name_path(&disk->name), size_text(size, text));
	return TOOL_OK;
}

static int resize_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct img_disk disk = { 0 };
	int code = name_parse(run, options->img.format, "-f", words[0], NULL, &disk.name), end;

	if (!code && !img_driver(&disk)->resize)
		code = img_cannot(run, &disk, TOOL_FAILED, "images keep the size they have");
	if (!code) {
		disk.disk = name_open(run, &disk.name, false);
		code = disk.disk ? resize(run, options, &disk, words[1]) : TOOL_FAILED;
	}
	end = img_close(run, &disk);
	return code ? code : end;
}

const struct img_command img_resize = {
	.name = "resize",
	.tool = {
		.name = "tap-img resize",
		.usage = "IMAGE [+|-]SIZE",
		.about = "makes an image larger or smaller\n"
			 "With a sign, by SIZE.",
		.rows = rows,
		.min_words = 2,
		.max_words = 2,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = resize_run,
};
