/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot: those kept within an image: listed, made, applied, deleted.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/num.h"
#include "tools/img/img.h"
#include "tools/progress.h"

struct options {
	struct img_options img;
	const char *make, *apply, *delete;
	bool list;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "list", 'l', NULL, offsetof(struct options, list), "list them; also without an option" },
	{ "create", 'c', "NAME", offsetof(struct options, make), "make one of what the disk holds" },
	{ "apply", 'a', "NAME", offsetof(struct options, apply),
	  "the disk holds again what it held then" },
	{ "delete", 'd', "NAME", offsetof(struct options, delete), "delete one" },
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

static void put(void *list, const struct td_snapshot *it)
{
	json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o, s:o}", "id", it->id, "name",
		it->name, "virtual-size", img_number(it->size), "date-sec",
		img_number(it->made_s), "vm-state-size", img_number(it->state_size)));
}

static void print_list(const json_t *list)
{
	char size[16], made[32];
	const json_t *it;
	size_t i;

	if (json_array_size(list))
		printf("%-8s %-24s %-10s %s\n", "ID", "NAME", "SIZE", "DATE");
	json_array_foreach(list, i, it) {
		time_t when = json_integer_value(json_object_get(it, "date-sec"));
		struct tm tm;

		strftime(made, sizeof(made), "%F %T", localtime_r(&when, &tm));
		printf("%-8s %-24s %-10s %s\n", json_string_value(json_object_get(it, "id")),
		       json_string_value(json_object_get(it, "name")),
		       size_text(json_integer_value(json_object_get(it, "virtual-size")), size),
		       made);
	}
}

static int ask_for(struct tool_run *run, const struct options *options, struct td_snapshots *ask)
{
	const struct td_snapshots asks[] = {
		{ TD_SNAPSHOT_MAKE, options->make }, { TD_SNAPSHOT_APPLY, options->apply },
		{ TD_SNAPSHOT_DELETE, options->delete },
	};
	unsigned count = options->list;

	*ask = (struct td_snapshots){ .op = TD_SNAPSHOT_LIST };
	for (size_t i = 0; i < ARRAY_SIZE(asks); i++) {
		if (asks[i].name)
			*ask = asks[i];
		count += !!asks[i].name;
	}
	if (count <= 1)
		return TOOL_OK;
	tool_say(run->tool, "one of -l, -c, -a and -d at a time");
	return TOOL_FAILED;
}

static int snapshot(struct tool_run *run, const struct options *options, struct img_disk *disk,
		    struct td_snapshots *ask)
{
	json_t *list = json_array();
	struct td_why why = { "" };
	int err;

	ask->put = put;
	ask->arg = list;
	err = img_driver(disk)->snapshot(td_disk_top(disk->disk), ask, &why);
	if (err) {
		img_failed(run, disk, TOOL_FAILED, err, &why);
	} else if (ask->op == TD_SNAPSHOT_LIST && options->img.json) {
		return img_print_json(run, list);
	} else if (ask->op == TD_SNAPSHOT_LIST) {
		print_list(list);
	}
	json_decref(list);
	return err ? TOOL_FAILED : TOOL_OK;
}

static int snapshot_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct td_disk_options how = { .keyless = true };
	struct img_disk disk = { 0 };
	struct td_snapshots ask;
	int code = ask_for(run, options, &ask), end;

	if (!code)
		code = name_parse(run, options->img.format, "-f", words[0], NULL, &disk.name);
	if (!code && !img_driver(&disk)->snapshot)
		code = img_cannot(run, &disk, TOOL_FAILED, "has no snapshots");
	if (!code) {
		disk.disk = name_open_with(run, &disk.name, ask.op == TD_SNAPSHOT_LIST, &how);
		code = disk.disk ? snapshot(run, options, &disk, &ask) : TOOL_FAILED;
	}
	end = img_close(run, &disk);
	return code ? code : end;
}

const struct img_command img_snapshot = {
	.name = "snapshot",
	.tool = {
		.name = "tap-img snapshot",
		.usage = "IMAGE",
		.about = "lists, makes, applies and deletes snapshots within an image",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = snapshot_run,
};
