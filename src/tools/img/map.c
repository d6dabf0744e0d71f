/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * map: what is in the disk, range by range, which image of the chain holds it, and
 * where in which file.
 */
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "tools/img/img.h"

#define ASK_MAX GiB

struct options {
	struct img_options img;
	const char *start, *len;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "start-offset", 's', "SIZE", offsetof(struct options, start), "begin there" },
	{ "max-length", 'l', "SIZE", offsetof(struct options, len), "no more than that" },
	IMG_COMMON(struct options),
};

struct map {
	struct tool_run *run;
	struct img_disk disk;
	uint64_t at, end;
	json_t *list;         /* NULL: for people */
};

static const struct td_image *image_at(const struct map *map, unsigned depth)
{
	const struct td_image *img = td_disk_top(map->disk.disk);

	while (depth-- && img->below)
		img = img->below;
	return img;
}

static void row(struct map *map, uint64_t at, const struct td_extent *extent)
{
	unsigned depth = td_extent_depth(extent->flags);
	bool hole = extent->flags & TD_EXTENT_HOLE, zero = extent->flags & TD_EXTENT_ZERO;
	const char *name = extent->file ? td_file_path(extent->file) :
					  image_at(map, depth)->target;
	char place[24] = "-";
	json_t *row;

	if (extent->file)
		snprintf(place, sizeof(place), "0x%llx", (unsigned long long)extent->at);
	if (!map->list && !zero)
		printf("0x%-17llx 0x%-17llx %-19s %-6u %s\n", (unsigned long long)at,
		       (unsigned long long)extent->len, place, depth, name);
	if (!map->list)
		return;
	row = json_pack("{s:o, s:o, s:i, s:b, s:b, s:b}",
		"start", img_number(at), "length", img_number(extent->len),
		"depth", depth, "present", !hole, "zero", zero, "data", !zero);
	if (row && extent->file) {
		json_object_set_new(row, "offset", img_number(extent->at));
		json_object_set_new(row, "filename", json_string(name));
	}
	json_array_append_new(map->list, row);
}

/* Whether next begins where it ends, in the disk and in the file. */
static bool goes_on(const struct td_extent *it, const struct td_extent *next)
{
	return it->flags == next->flags && it->file == next->file &&
	       (!it->file || it->at + it->len == next->at);
}

/* The next row: answers that say the same are one. */
static int next(struct map *map, struct td_extent *out)
{
	struct td_extent extent;
	uint64_t at = map->at;
	int err;

	*out = (struct td_extent){ 0 };
	while (at < map->end && !tool_stopped) {
		err = img_extent(&map->disk, at, min_u64(map->end - at, ASK_MAX), &extent);
		if (err)
			return err;
		if (out->len && !goes_on(out, &extent))
			break;
		if (!out->len)
			*out = extent;
		else
			out->len += extent.len;
		at += extent.len;
	}
	return 0;
}

static int walk(struct map *map)
{
	struct td_extent extent;

	if (!map->list)
		printf("%-19s %-19s %-19s %-6s %s\n", "Offset", "Length", "Mapped to", "Depth",
		       "File");
	while (map->at < map->end) {
		int err = next(map, &extent);

		if (tool_stopped)
			return img_stopped(map->run);
		if (err) {
			tool_say(map->run->tool, "%s: at offset %llu: %s", name_path(&map->disk.name),
				 (unsigned long long)map->at, strerror(-err));
			return TOOL_FAILED;
		}
		row(map, map->at, &extent);
		map->at += extent.len;
	}
	return TOOL_OK;
}

static int range(struct map *map, const struct options *options)
{
	uint64_t len = UINT64_MAX;
	int code = TOOL_OK;

	map->end = td_disk_size(map->disk.disk);
	if (options->start)
		code = tool_size(map->run->tool, options->start, 1, &map->at);
	if (!code && options->len)
		code = tool_size(map->run->tool, options->len, 1, &len);
	if (code)
		return code;
	if (!is_aligned(map->at, td_disk_block_size(map->disk.disk)) || map->at > map->end) {
		tool_say(map->run->tool, "--start-offset: no sector of the disk begins there");
		return TOOL_FAILED;
	}
	len = min_u64(len, map->end - map->at);
	map->end = map->at + round_up(len, td_disk_block_size(map->disk.disk));
	return TOOL_OK;
}

static int map_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct map map = { .run = run, .list = options->img.json ? json_array() : NULL };
	int code = img_open_keyless(run, options->img.format, "-f", words[0], &map.disk);

	if (!code)
		code = range(&map, options);
	if (!code)
		code = walk(&map);
	if (map.list && !code)
		code = img_print_json(run, map.list);
	else
		json_decref(map.list);
	img_close(run, &map.disk);
	return code;
}

const struct img_command img_map = {
	.name = "map",
	.tool = {
		.name = "tap-img map",
		.usage = "IMAGE",
		.about = "tells where there are data, and in which image of a chain\n"
			 "Depth 0 is IMAGE, 1 the image below it. Zeroes are told with --json only.",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = map_run,
};
