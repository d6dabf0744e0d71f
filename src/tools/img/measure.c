/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * measure: how large a file of a format must be to hold an image's data, or a disk
 * of a size. The format says what its tables take and in which units it stores data;
 * the units that have some are counted here.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "tools/img/img.h"
#include "tools/progress.h"

#define ASK_MAX GiB

struct options {
	struct img_options img;
	const char *to, *more, *size;
};

static const struct td_arg rows[] = {
	{ "format", 'f', "FORMAT", offsetof(struct options, img.format), "of IMAGE" },
	{ "target-format", 'O', "FORMAT", offsetof(struct options, to), "to be measured" },
	{ "options", 'o', "KEY=VALUE,...", offsetof(struct options, more),
	  "how it would be made: see tap-img create" },
	{ "size", 0, "SIZE", offsetof(struct options, size), "of an empty disk, instead of IMAGE" },
	IMG_COMMON(struct options),
};

/* Bytes of the units that have data. */
static int count_data(struct img_disk *disk, uint64_t unit, uint64_t *out)
{
	uint64_t size = td_disk_size(disk->disk), counted = 0, bytes = 0; /* counted: up to there */
	struct td_extent extent;

	for (uint64_t at = 0; at < size && !tool_stopped; at += extent.len) {
		int err = img_extent(disk, at, min_u64(size - at, ASK_MAX), &extent);

		if (err)
			return err;
		if (extent.flags & TD_EXTENT_ZERO)
			continue;
		uint64_t from = max_u64(at / unit * unit, counted);

		counted = max_u64(counted, (at + extent.len + unit - 1) / unit * unit);
		bytes += counted - min_u64(from, counted);
	}
	*out = bytes;
	return tool_stopped ? -EINTR : 0;
}

static int tell(struct tool_run *run, const struct options *options, uint64_t needed,
		uint64_t most)
{
	char text[16];

	if (options->img.json)
		return img_print_json(run, json_pack("{s:o, s:o}", "required", img_number(needed),
						     "fully-allocated", img_number(most)));
	printf("required size: %llu (%s)\n", (unsigned long long)needed, size_text(needed, text));
	printf("fully allocated size: %llu (%s)\n", (unsigned long long)most,
	       size_text(most, text));
	return TOOL_OK;
}

static int measure(struct tool_run *run, const struct options *options, struct make *make,
		   struct img_disk *disk)
{
	struct td_measure measured;
	struct td_why why = { "" };
	uint64_t data = 0, unit, units, all;
	int err = make->name.driver->measure(&make->create, &measured, &why);

	if (err) {
		tool_say(run->tool, "%s", why.text);
		return TOOL_FAILED;
	}
	unit = measured.unit;
	if (disk && unit)
		err = count_data(disk, unit, &data);
	if (err) {
		tool_say(run->tool, "cannot read the image's tables: %s", strerror(-err));
		return TOOL_FAILED;
	}
	all = unit ? (make->create.size + unit - 1) / unit : 0;
	units = make->create.reserve ? all : unit ? data / unit : 0;
	return tell(run, options, measured.tables + units * (unit + measured.beside),
		    measured.tables + all * (unit + measured.beside));
}

static int plan(struct tool_run *run, const struct options *options, struct make *make)
{
	uint64_t size = 0;
	int code;

	if (!options->to) {
		tool_say(run->tool, "which format? -O FORMAT");
		return TOOL_FAILED;
	}
	code = make_plan(run, options->to, "-O", "(to be measured)", options->more, make);
	if (!code && !make->name.driver->measure) {
		tool_say(run->tool, "%s cannot be measured", options->to);
		code = TOOL_FAILED;
	}
	if (!code && options->size)
		code = tool_size(run->tool, options->size, 1, &size);
	if (!code && size)
		make->create.size = size;
	return code;
}

static int measure_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct img_disk disk = { 0 };
	struct make make = { 0 };
	int code = plan(run, options, &make);

	if (!code && !count == !make.create.size) {
		tool_say(run->tool, "give an image, or --size");
		code = TOOL_FAILED;
	}
	if (!code && count) {
		code = img_open_keyless(run, options->img.format, "-f", words[0], &disk);
		if (!code)
			make.create.size = td_disk_size(disk.disk);
	}
	if (!code)
		code = measure(run, options, &make, count ? &disk : NULL);
	make_free(&make);
	img_close(run, &disk);
	return code;
}

const struct img_command img_measure = {
	.name = "measure",
	.tool = {
		.name = "tap-img measure",
		.usage = "[IMAGE]",
		.about = "tells how large a file of a format must be for an image's data",
		.rows = rows,
		.min_words = 0,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = measure_run,
};
