/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Conversion runs in this process: both images are disks of the core, copied on
 * one loop. A new file has a temporary name beside its own until it is whole and
 * on disk; signals that end the program are noted, and end the copy in order.
 */
#include "tools/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "core/disk.h"
#include "io/loop.h"
#include "tools/copy.h"
#include "tools/progress.h"

static volatile int stop_signal;

static void on_signal(int number)
{
	stop_signal = number;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static struct td_disk *open_disk(struct convert *convert, const char *type, const char *path,
				 bool read_only)
{
	struct td_disk_options options = { .name = path, .read_only = read_only };
	AUTO_FREE char *spec = tool_spec(type, path);
	struct td_disk *disk;
	struct td_why why;

	if (!spec || td_disk_open(convert->loop, convert->registry, spec, &options, &disk, &why)) {
		tool_say(convert->tool, "%s", spec ? why.text : strerror(ENOMEM));
		return NULL;
	}
	return disk;
}

int convert_open(struct convert *convert, const char *type, const char *path)
{
	catch_signals();
	convert->registry = tool_registry();
	if (!convert->registry || td_loop_new(&convert->loop) < 0) {
		tool_say(convert->tool, "cannot start: %s", strerror(errno));
		return TOOL_FAILED;
	}
	convert->from_path = path;
	convert->from = open_disk(convert, type, path, true);
	if (!convert->from)
		return TOOL_FAILED;
	convert->size = td_disk_size(convert->from);
	return TOOL_OK;
}

void convert_close(struct convert *convert)
{
	td_disk_close(convert->from);
	if (convert->loop)
		td_loop_free(convert->loop);
	td_registry_free(convert->registry);
}

static bool is_source(const struct convert *convert, const struct stat *to)
{
	struct stat st;

	for (struct td_image *img = td_disk_top(convert->from); img; img = img->below)
		if (!stat(img->target, &st) &&
		    (S_ISBLK(st.st_mode) ? S_ISBLK(to->st_mode) && st.st_rdev == to->st_rdev :
		     st.st_dev == to->st_dev && st.st_ino == to->st_ino))
			return true;
	return false;
}

int convert_may_replace(struct convert *convert, const char *to)
{
	struct stat st;

	if (stat(to, &st) < 0) {
		if (errno == ENOENT)
			return TOOL_OK;
		tool_say(convert->tool, "%s: %s", to, strerror(errno));
		return TOOL_FAILED;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		tool_say(convert->tool, "%s: is no file or block device", to);
		return TOOL_FAILED;
	}
	if (is_source(convert, &st)) {
		tool_say(convert->tool, "%s: is what is read", to);
		return TOOL_FAILED;
	}
	if (tool_in_use(convert->tool, to))
		return TOOL_FAILED;
	if (!convert->force && !tool_ask("%s is there already. Overwrite it?", to)) {
		tool_say(convert->tool, "%s: is there already (-f to overwrite it)", to);
		return TOOL_FAILED;
	}
	convert->force = true;
	return TOOL_OK;
}

static int copy_onto(struct convert *convert, struct td_disk *to, const char *name, bool fresh)
{
	struct progress progress;
	struct copy_options options = { .fresh = fresh, .progress = &progress,
					.stop = &stop_signal };
	struct copy_result result;
	char text[64], data[16];
	int err;

	progress_begin(&progress, name, convert->size, convert->quiet);
	err = copy_disk(convert->loop, convert->from, to, &options, &result);
	if (!err)
		snprintf(text, sizeof(text), "done, %s of data", size_text(result.data, data));
	else
		strcpy(text, err == -EINTR ? "interrupted" : "failed");
	progress_end(&progress, text);
	if (err == -EINTR)
		return 128 + stop_signal;
	if (err)
		tool_say(convert->tool, "%s: %s near offset %llu: %s",
			 result.reading ? convert->from_path : name,
			 result.reading ? "read" : "write", (unsigned long long)result.at,
			 strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
}

/* name: what the user calls it, where path is a temporary one. */
static int copy_to(struct convert *convert, const char *type, const char *path,
		   const char *name, bool fresh)
{
	struct td_disk *to = open_disk(convert, type, path, false);
	int code, err;

	if (!to)
		return TOOL_FAILED;
	if (td_disk_size(to) < convert->size) {
		tool_say(convert->tool, "%s: too small: it has %llu bytes, the image %llu", name,
			 (unsigned long long)td_disk_size(to),
			 (unsigned long long)convert->size);
		td_disk_close(to);
		return TOOL_FAILED;
	}
	code = copy_onto(convert, to, name, fresh);
	err = td_disk_close(to);
	if (err && code == TOOL_OK) {
		tool_say(convert->tool, "%s: %s", name, strerror(-err));
		code = TOOL_FAILED;
	}
	return code;
}

int convert_copy(struct convert *convert, const char *type, const char *path, bool fresh)
{
	return copy_to(convert, type, path, path, fresh);
}

/* The name is durable when the folder is. */
static int put_in_place(const struct convert *convert, const char *temp, const char *path)
{
	AUTO_FREE char *copy = strdup(path);
	AUTO_CLOSE int dir = -1;

	if (renameat2(AT_FDCWD, temp, AT_FDCWD, path, convert->force ? 0 : RENAME_NOREPLACE) &&
	    (convert->force || errno != EINVAL || rename(temp, path)))
		return -errno;
	dir = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir >= 0 && fsync(dir) < 0 && errno != EINVAL)
		return -errno;
	return 0;
}

int convert_to_file(struct convert *convert, const char *type, const char *path,
		    int (*make)(struct convert *convert, const char *path))
{
	AUTO_FREE char *temp = tool_temp_name(path);
	struct stat st;
	int code, err;

	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		tool_say(convert->tool, "%s: is no file, and is not replaced by one", path);
		return TOOL_FAILED;
	}
	if (!temp) {
		tool_say(convert->tool, "%s", strerror(ENOMEM));
		return TOOL_FAILED;
	}
	code = make(convert, temp);
	if (code)
		return code;
	code = copy_to(convert, type, temp, path, true);
	if (code == TOOL_OK) {
		err = put_in_place(convert, temp, path);
		if (err) {
			tool_say(convert->tool, "%s: %s", path, strerror(-err));
			code = TOOL_FAILED;
		}
	}
	if (code)
		unlink(temp);
	return code;
}
