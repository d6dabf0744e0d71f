/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * info: what an image is. Without a format it says what the file looks like, and
 * opens it as that to say more: nothing is done with it.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/img/img.h"
#include "tools/progress.h"

struct options {
	struct img_options img;
	bool chain, share;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "backing-chain", 0, NULL, offsetof(struct options, chain),
	  "tell of the images below too" },
	{ "force-share", 'U', NULL, offsetof(struct options, share),
	  "also if somebody writes it: what is told may be old, or from two moments" },
	IMG_COMMON(struct options),
};

static void put_specific(void *arg, const char *key, const char *value)
{
	json_object_set_new(arg, key, json_string(value));
}

static json_t *image_json(struct td_image *img, bool guessed)
{
	json_t *specific = json_object();
	json_t *out = json_pack("{s:s, s:s, s:o, s:b, s:b}", "filename", img->target,
				"format", name_of_driver(img->driver), "virtual-size",
				img_number(img->size), "read-only", !(img->can & TD_CAN_WRITE),
				"guessed", guessed);
	struct stat st;

	if (!stat(img->target, &st))
		json_object_set_new(out, "actual-size", img_number(st.st_blocks * 512ull));
	if (img->encrypted)
		json_object_set_new(out, "encrypted", json_true());
	json_object_set_new(out, "block-size", img_number(img->block_size));
	if (img->below) {
		json_object_set_new(out, "backing-filename", json_string(img->below->target));
		json_object_set_new(out, "backing-filename-format",
				    json_string(name_of_driver(img->below->driver)));
	}
	if (img->driver->info)
		img->driver->info(img, put_specific, specific);
	if (!img->below) /* and it says that something should be */
		json_object_set(out, "backing-filename", json_object_get(specific, "backing-file"));
	json_object_set_new(out, "format-specific", specific);
	return out;
}

static void print_image(const json_t *image)
{
	const json_t *size = json_object_get(image, "actual-size");
	uint64_t disk = json_integer_value(json_object_get(image, "virtual-size"));
	const char *below = json_string_value(json_object_get(image, "backing-filename"));
	const char *format = json_string_value(json_object_get(image, "backing-filename-format"));
	json_t *value;
	const char *key;
	char text[16];

	printf("image: %s\n", json_string_value(json_object_get(image, "filename")));
	printf("file format: %s%s\n", json_string_value(json_object_get(image, "format")),
	       json_is_true(json_object_get(image, "guessed")) ? " (it looks like it)" : "");
	printf("virtual size: %s (%llu bytes)\n", size_text(disk, text),
	       (unsigned long long)disk);
	if (size)
		printf("disk size: %s\n", size_text(json_integer_value(size), text));
	if (json_is_true(json_object_get(image, "encrypted")))
		printf("encrypted: yes\n");
	if (below)
		printf("backing file: %s (%s)\n", below, format ? format : "not opened");
	json_object_foreach(json_object_get(image, "format-specific"), key, value) {
		printf("%s: %s\n", key, json_string_value(value));
	}
}

static int tell(struct tool_run *run, const struct options *options, struct td_disk *disk,
		bool guessed)
{
	json_t *list = json_array();
	size_t i;
	json_t *image;

	for (struct td_image *img = td_disk_top(disk); img; img = img->below) {
		json_array_append_new(list, image_json(img, guessed && img == td_disk_top(disk)));
		if (!options->chain)
			break;
	}
	if (options->img.json && options->chain)
		return img_print_json(run, list);
	if (options->img.json) {
		image = json_incref(json_array_get(list, 0));
		json_decref(list);
		return img_print_json(run, image);
	}
	json_array_foreach(list, i, image) {
		if (i)
			putchar('\n');
		print_image(image);
	}
	json_decref(list);
	return TOOL_OK;
}

/* A path alone is looked at: as what it looks like, else as a plain disk would be. */
static const char *format_of(struct tool_run *run, const struct options *options,
			     const char *word, bool *guessed)
{
	const struct td_driver *like;

	*guessed = false;
	if (options->img.format || name_is_spec(word))
		return options->img.format;
	like = name_guess(run, word);
	*guessed = like;
	return like ? name_of_driver(like) : NULL;
}

static bool open_so(struct tool_run *run, const struct options *options, bool alone,
		    struct img_disk *disk)
{
	struct td_disk_options how = { .keyless = true, .peek = options->share, .alone = alone };

	disk->disk = name_open_with(run, &disk->name, true, &how);
	return disk->disk;
}

/* With what lies below it or, if that cannot be had and is not asked for, alone: what it
 * should lie over is what one may want to know. */
static int open_it(struct tool_run *run, const struct options *options, const char *format,
		   const char *word, struct img_disk *out)
{
	bool alone;
	int code;

	*out = (struct img_disk){ 0 };
	code = name_parse(run, format, "-f", word, NULL, &out->name);
	if (code)
		return code;
	alone = img_driver(out)->set_backing && !options->chain;
	if (alone && !open_so(run, options, true, out))
		return TOOL_FAILED;
	td_disk_close(out->disk);
	if (open_so(run, options, false, out) || (alone && open_so(run, options, true, out)))
		return TOOL_OK;
	return TOOL_FAILED;
}

static int info_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct img_disk disk;
	bool guessed;
	const char *format = format_of(run, options, words[0], &guessed);
	int code = open_it(run, options, format, words[0], &disk);

	if (!code)
		code = tell(run, options, disk.disk, guessed);
	img_close(run, &disk);
	return code;
}

const struct img_command img_info = {
	.name = "info",
	.tool = {
		.name = "tap-img info",
		.usage = "IMAGE",
		.about = "tells what an image is\n"
			 "Without a format, as what the file looks like.",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = info_run,
};
