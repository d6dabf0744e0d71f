/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check: whether an image's tables make sense, and repair of those that do not.
 * Exit codes are those of other tools that check images.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/img/img.h"

enum { SOUND = 0, NOT_CHECKED = 1, CORRUPT = 2, LEAKS = 3, NO_CHECK = 63 };

struct options {
	struct img_options img;
	const char *repair;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "repair", 'r', "leaks|all", offsetof(struct options, repair),
	  "free what is leaked; all: put right what is corrupt too" },
	IMG_QUIET(struct options),
	IMG_SOURCE_CACHE(struct options),
	IMG_COMMON(struct options),
};

static void say(void *arg, const char *text)
{
	fprintf(stderr, "%s\n", text);
}

static int ask(struct tool_run *run, const char *word, enum td_repair *out)
{
	if (!word) {
		*out = TD_REPAIR_NOTHING;
	} else if (!strcmp(word, "leaks")) {
		*out = TD_REPAIR_LEAKS;
	} else if (!strcmp(word, "all")) {
		*out = TD_REPAIR_ALL;
	} else {
		tool_say(run->tool, "--repair: leaks or all");
		return NOT_CHECKED;
	}
	return 0;
}

static void print(const struct td_check *found, uint64_t corrupt, uint64_t leaks)
{
	if (found->corruptions_fixed || found->leaks_fixed)
		printf("Repaired: %llu errors, %llu leaks\n",
		       (unsigned long long)found->corruptions_fixed,
		       (unsigned long long)found->leaks_fixed);
	if (corrupt)
		printf("%llu errors were found: data may be wrong, and writing may make it worse\n",
		       (unsigned long long)corrupt);
	if (leaks)
		printf("%llu leaked clusters were found: space is wasted, no data is harmed\n",
		       (unsigned long long)leaks);
	if (!corrupt && !leaks)
		puts("No errors were found on the image.");
	if (found->total)
		printf("%llu/%llu = %.2f%% allocated, %llu compressed\n",
		       (unsigned long long)found->allocated, (unsigned long long)found->total,
		       100.0 * found->allocated / found->total,
		       (unsigned long long)found->compressed);
}

static int tell(struct tool_run *run, const struct options *options, const struct img_disk *disk,
		const struct td_check *found)
{
	uint64_t corrupt = found->corruptions - found->corruptions_fixed;
	uint64_t leaks = found->leaks - found->leaks_fixed;
	int code = corrupt ? CORRUPT : leaks ? LEAKS : SOUND;

	if (options->img.json)
		code = img_print_json(run, json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i}",
			"filename", name_path(&disk->name),
			"format", name_of_driver(img_driver(disk)),
			"corruptions", img_number(corrupt), "leaks", img_number(leaks),
			"corruptions-fixed", img_number(found->corruptions_fixed),
			"leaks-fixed", img_number(found->leaks_fixed),
			"total-clusters", img_number(found->total),
			"allocated-clusters", img_number(found->allocated),
			"compressed-clusters", img_number(found->compressed),
			"check-errors", 0)) ? NOT_CHECKED : code;
	else if (!options->img.quiet)
		print(found, corrupt, leaks);
	return code;
}

static int check(struct tool_run *run, const struct options *options, struct img_disk *disk,
		 enum td_repair repair)
{
	struct td_check found = { .say = options->img.quiet ? NULL : say, .repair = repair };
	struct td_why why = { "" };
	int err = img_driver(disk)->check(td_disk_top(disk->disk), &found, &why);

	if (err)
		return img_failed(run, disk, NOT_CHECKED, err, &why);
	return tell(run, options, disk, &found);
}

/* A format that repairs less than is asked is opened for writing all the same: that puts in
 * order what a killed process has left. Then it is only bad if something is found. */
static int check_and_repair(struct tool_run *run, const struct options *options,
			    struct img_disk *disk, enum td_repair repair)
{
	enum td_repair able = img_driver(disk)->repairs;
	int code = check(run, options, disk, repair < able ? repair : able);
	bool left = code == CORRUPT ? repair == TD_REPAIR_ALL : code == LEAKS;

	if (repair <= able || !left)
		return code;
	return img_cannot(run, disk, NO_CHECK, code == CORRUPT ? "repairs no errors" :
			  "repairs no leaks");
}

static int check_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct td_disk_options how = { 0 };
	struct img_disk disk = { 0 };
	enum td_repair repair;
	int code = ask(run, options->repair, &repair);

	if (!code)
		code = name_parse(run, options->img.format, "-f", words[0], NULL, &disk.name);
	if (!code && !img_driver(&disk)->check)
		code = img_cannot(run, &disk, NO_CHECK, "has nothing that could be checked");
	if (!code) {
		how.repair = repair && img_driver(&disk)->repairs;
		how.keyless = true;
		disk.disk = name_open_with(run, &disk.name, !repair, &how);
		code = disk.disk ? check_and_repair(run, options, &disk, repair) : NOT_CHECKED;
	}
	if (img_close(run, &disk) && code == SOUND)
		code = NOT_CHECKED;
	return code;
}

const struct img_command img_check = {
	.name = "check",
	.tool = {
		.name = "tap-img check",
		.usage = "IMAGE",
		.about = "looks for errors and leaks in an image, and repairs it\n"
			 "Ends with 0: sound; 1: could not be checked; 2: errors; 3: leaks only;\n"
			 "63: this format cannot be checked, or what was found not repaired.",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = NOT_CHECKED,
	},
	.options_size = sizeof(struct options),
	.run = check_run,
};
