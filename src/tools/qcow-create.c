/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow-create: makes an empty qcow image, alone or over a backing file.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "core/disk.h"
#include "core/spec.h"
#include "io/file.h"
#include "tools/progress.h"
#include "tools/tool.h"

static bool reserve, force, quiet;
static const char *format = "qcow", *cluster;

static const struct tool_option options[] = {
	{ 'r', "reserve", NULL, "take all space now: no sparse file", &reserve },
	{ 'f', "format", "FORMAT", "of the new image; default qcow", &format },
	{ 'c', "cluster", "SIZE", "of a cluster, 512 to 64K; default 4K", &cluster },
	{ 'F', "force", NULL, "replace FILE if it is there", &force },
	{ 'q', "quiet", NULL, "tell of errors only", &quiet },
	{ 0 },
};

static const struct tool tool = {
	.name = "qcow-create",
	.usage = "SIZE FILE [BACKING]",
	.about = "Makes the empty image FILE of SIZE MiB (or with a suffix: 64K, 10G, 2T).\n"
		 "With BACKING, a raw file or block device, FILE is an overlay: it has the size\n"
		 "of BACKING, whatever SIZE says, reads as BACKING, and keeps what is written.",
	.options = options,
	.min_args = 2,
	.max_args = 3,
};

/* The overlay must find it from wherever it is opened. */
static int look_at_backing(struct td_registry *registry, const char *path, char **full,
			   uint64_t *size)
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
	spec = tool_spec("aio", *full);
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

static int create(struct td_registry *registry, struct td_create *make)
{
	struct td_why why;
	const struct td_driver *driver = td_registry_find(registry, format, &why);
	AUTO_FREE char *temp = tool_temp_name(make->path);
	const char *path = make->path;

	if (!driver || !temp) {
		tool_say(&tool, "%s", temp ? why.text : strerror(ENOMEM));
		return TOOL_FAILED;
	}
	if (!driver->create) {
		tool_say(&tool, "%s: this format cannot be created", format);
		return TOOL_FAILED;
	}
	if (!force && access(path, F_OK) == 0) {
		tool_say(&tool, "%s: is there already (-F to replace it)", path);
		return TOOL_FAILED;
	}
	make->path = temp;
	if (driver->create(make, &why)) {
		tool_say(&tool, "%s", why.text);
		return TOOL_FAILED;
	}
	if (rename(temp, path)) {
		tool_say(&tool, "%s: %s", path, strerror(errno));
		unlink(temp);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

static int run(const char *size_arg, const char *path, const char *backing,
	       struct td_registry *registry)
{
	struct td_files files = { 0 };
	struct td_create make = { .path = path, .reserve = reserve, .files = &files };
	AUTO_FREE char *full = NULL;
	uint64_t bytes = 0;
	char text[16];
	int code = TOOL_OK;

	if (td_size_parse(size_arg, MiB, &make.size) || (!make.size && !backing)) {
		tool_say(&tool, "%s: no size (MiB, or a number with K, M, G or T)", size_arg);
		return TOOL_USAGE;
	}
	if (cluster && (td_size_parse(cluster, 1, &bytes) || bytes > 64 * KiB)) {
		tool_say(&tool, "%s: no cluster size", cluster);
		return TOOL_USAGE;
	}
	make.cluster = bytes;
	if (backing) {
		code = look_at_backing(registry, backing, &full, &make.backing_size);
		make.backing = full;
		make.size = make.backing_size;
	}
	if (!code)
		code = create(registry, &make);
	if (!code && !quiet)
		printf("%s: %s%s%s\n", path, size_text(make.size, text),
		       backing ? ", over " : "", backing ? full : "");
	return code;
}

int main(int argc, char **argv)
{
	int arg = tool_begin(&tool, argc, argv);
	struct td_registry *registry = tool_registry();
	int code;

	if (!registry) {
		tool_say(&tool, "%s", strerror(ENOMEM));
		return TOOL_FAILED;
	}
	code = run(argv[arg], argv[arg + 1], arg + 2 < argc ? argv[arg + 2] : NULL, registry);
	td_registry_free(registry);
	return code;
}
