/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow-create: makes an empty qcow image, alone or over a backing file.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/spec.h"
#include "io/file.h"
#include "tools/progress.h"
#include "tools/tool.h"

struct options {
	struct td_args_common common;
	const char *format, *cluster, *backing_format;
	bool reserve, force, quiet;
};

static const struct td_arg rows[] = {
	{ "reserve", 'r', NULL, offsetof(struct options, reserve),
	  "take all space now: no sparse file" },
	{ "format", 'f', "FORMAT", offsetof(struct options, format),
	  "of the new image; default qcow" },
	{ "cluster", 'c', "SIZE", offsetof(struct options, cluster),
	  "of a cluster, 512 to 64K (qcow2: 2M); default 4K (64K)" },
	{ "backing-format", 'b', "FORMAT", offsetof(struct options, backing_format),
	  "of BACKING; default raw; qcow knows no other" },
	{ "force", 'F', NULL, offsetof(struct options, force), "replace FILE if it is there" },
	{ "quiet", 'q', NULL, offsetof(struct options, quiet), "tell of errors only" },
	TD_ARGS_COMMON(struct options),
};

static const struct tool tool = {
	.name = "qcow-create",
	.usage = "SIZE FILE [BACKING]",
	.about = "Makes the empty image FILE of SIZE MiB (or with a suffix: 64K, 10G, 2T).\n"
		 "With BACKING, an image or block device, FILE is an overlay: it has the size\n"
		 "of BACKING, whatever SIZE says, reads as BACKING, and keeps what is written.",
	.rows = rows,
	.min_words = 2,
	.max_words = 3,
};

/* The overlay must find it from wherever it is opened. */
static int look_at_backing(struct td_registry *registry, const char *format, const char *path,
			   char **full, uint64_t *size)
{
	struct td_disk_options read_only = { .read_only = true };
	AUTO_FREE char *spec = NULL;
	struct td_disk *disk;
	struct td_loop *loop;
	struct td_why why;

	*full = realpath(path, NULL);
	if (!*full) {
		tool_say(&tool, "%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	spec = tool_spec(format, *full);
	if (!spec || td_loop_new(&loop) < 0) {
		tool_say(&tool, "%s", strerror(ENOMEM));
		return TOOL_FAILED;
	}
	if (td_disk_open(loop, registry, spec, &read_only, &disk, &why)) {
		tool_say(&tool, "%s", why.text);
		td_loop_free(loop);
		return TOOL_FAILED;
	}
	*size = td_disk_size(disk);
	td_disk_close(disk);
	td_loop_free(loop);
	return TOOL_OK;
}

/* The driver's words, with the name that the user gave. */
static void say_why(const struct td_why *why, const char *temp, const char *path)
{
	const char *at = strstr(why->text, temp);

	if (at)
		tool_say(&tool, "%.*s%s%s", (int)(at - why->text), why->text, path,
			 at + strlen(temp));
	else
		tool_say(&tool, "%s", why->text);
}

static int create(struct td_registry *registry, const struct options *options,
		  struct td_create *make)
{
	struct td_why why;
	const struct td_driver *driver = td_registry_find(registry, options->format, &why);
	AUTO_FREE char *temp = tool_temp_name(make->path);
	const char *path = make->path;
	struct stat st;

	if (!driver || !temp) {
		tool_say(&tool, "%s", temp ? why.text : strerror(ENOMEM));
		return TOOL_FAILED;
	}
	if (!driver->create) {
		tool_say(&tool, "%s: this format cannot be created", options->format);
		return TOOL_FAILED;
	}
	if (!lstat(path, &st) && (!options->force || !S_ISREG(st.st_mode))) {
		tool_say(&tool, S_ISREG(st.st_mode) ? "%s: is there already (-F to replace it)" :
						      "%s: is there already, and is no file", path);
		return TOOL_FAILED;
	}
	if (options->force && tool_in_use(&tool, path))
		return TOOL_FAILED;
	make->path = temp;
	if (driver->create(make, &why)) {
		say_why(&why, temp, path);
		return TOOL_FAILED;
	}
	if (rename(temp, path)) {
		tool_say(&tool, "%s: %s", path, strerror(errno));
		unlink(temp);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

static int run(const struct options *options, char **words, struct td_registry *registry)
{
	const char *path = words[1], *backing = words[2]; /* NULL: none */
	struct td_files files = { 0 };
	struct td_create make = { .path = path, .reserve = options->reserve, .files = &files };
	AUTO_FREE char *full = NULL;
	uint64_t bytes = 0;
	char text[16];
	int code = TOOL_OK;

	if (td_size_parse(words[0], MiB, &make.size) || (!make.size && !backing)) {
		tool_say(&tool, "%s: no size (MiB, or a number with K, M, G or T)", words[0]);
		return TOOL_USAGE;
	}
	if (options->cluster &&
	    (td_size_parse(options->cluster, 1, &bytes) || bytes > 2 * MiB)) {
		tool_say(&tool, "%s: no cluster size", options->cluster);
		return TOOL_USAGE;
	}
	make.cluster = bytes;
	if (backing) {
		code = look_at_backing(registry, options->backing_format, backing, &full, &make.backing_size);
		make.backing = full;
		make.backing_format = options->backing_format;
		make.size = make.backing_size;
	}
	if (!code)
		code = create(registry, options, &make);
	if (!code && !options->quiet)
		printf("%s: %s%s%s\n", path, size_text(make.size, text),
		       backing ? ", over " : "", backing ? full : "");
	return code;
}

int main(int argc, char **argv)
{
	struct options options = { .format = "qcow", .backing_format = "raw" };
	struct td_registry *registry;
	int code;

	tool_begin(&tool, &options, argv);
	registry = tool_registry();
	if (!registry) {
		tool_say(&tool, "%s", strerror(ENOMEM));
		return TOOL_FAILED;
	}
	code = run(&options, argv + 1, registry);
	td_registry_free(registry);
	return code;
}
