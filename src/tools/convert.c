/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Conversion runs in this process: both images are disks of the core, copied on one
 * loop. Signals that end the program are noted, and end the copy in order.
 */
#include "tools/convert.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "tools/progress.h"

static uint64_t copied_size(const struct convert *convert)
{
	uint64_t size = convert->options.len ? convert->options.len :
				      td_disk_size(convert->from) - convert->options.offset;

	for (unsigned i = 0; i < convert->next_count; i++)
		size += td_disk_size(convert->next[i].disk);
	return size;
}

/* One after the other; *path: which failed. */
static int copy_all(struct convert *convert, struct td_disk *to, struct copy_options *options,
		    struct copy_result *result, const char **path)
{
	struct td_loop *loop = convert->run->loop;
	uint64_t data;
	int err;

	*path = convert->from_path;
	err = copy_disk(loop, convert->from, to, options, result);
	convert->lost = result->lost;
	options->to = td_disk_size(convert->from);
	for (unsigned i = 0; !err && i < convert->next_count; i++) {
		data = result->data;
		*path = convert->next[i].path;
		err = copy_disk(loop, convert->next[i].disk, to, options, result);
		options->to += td_disk_size(convert->next[i].disk);
		result->data += data;
		convert->lost += result->lost;
	}
	return err;
}

static int copy_with_progress(struct convert *convert, struct td_disk *to, const char *name,
			      bool fresh)
{
	struct progress progress;
	struct copy_options options = convert->options;
	struct copy_result result;
	char text[64], data[16];
	const char *from;
	int err;

	options.fresh = fresh;
	options.progress = &progress;
	options.stop = &tool_stopped;
	progress_begin(&progress, name, copied_size(convert), convert->quiet);
	err = copy_all(convert, to, &options, &result, &from);
	if (!err)
		snprintf(text, sizeof(text), "done, %s of data", size_text(result.data, data));
	else
		strcpy(text, err == -EINTR ? "interrupted" : "failed");
	progress_end(&progress, text);
	convert->data = result.data;
	if (convert->lost)
		tool_say(convert->run->tool, "%s: %llu bytes could not be read, and are zeroes in %s",
			 convert->from_path, (unsigned long long)convert->lost, name);
	if (err == -EINTR) {
		tool_say(convert->run->tool, "interrupted");
		return 128 + tool_stopped;
	}
	if (err)
		tool_say(convert->run->tool, "%s: %s near offset %llu: %s",
			 result.reading ? from : name,
			 result.reading ? "read" : "write", (unsigned long long)result.at,
			 strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
}

/* Compressed clusters are whole ones, of one source. */
static int may_join(struct convert *convert, struct td_disk *to)
{
	const char *path = convert->from_path;
	uint64_t size = td_disk_size(convert->from);

	for (unsigned i = 0; i < convert->next_count; i++) {
		if (!is_aligned(size, td_disk_cluster(to))) {
			tool_say(convert->run->tool, "%s: what is to be compressed ends with a "
				 "whole cluster of %u bytes, unless it is the last", path,
				 td_disk_cluster(to));
			return TOOL_FAILED;
		}
		size = td_disk_size(convert->next[i].disk);
		path = convert->next[i].path;
	}
	return TOOL_OK;
}

static int may_copy(struct convert *convert, struct td_disk *to, const char *name,
		    const struct td_driver *driver)
{
	uint64_t size = copied_size(convert);

	if (td_disk_size(to) < size) {
		tool_say(convert->run->tool, "%s: too small: it has %llu bytes, the image %llu",
			 name, (unsigned long long)td_disk_size(to), (unsigned long long)size);
		return TOOL_FAILED;
	}
	if (!is_aligned(size, td_disk_block_size(to))) {
		tool_say(convert->run->tool, "%s: its sectors have %u bytes, which %llu is no "
			 "multiple of", name, td_disk_block_size(to), (unsigned long long)size);
		return TOOL_FAILED;
	}
	if (convert->options.compress && !(td_disk_can(to) & TD_CAN_COMPRESS)) {
		tool_say(convert->run->tool, "%s: %s does not write compressed clusters%s", name,
			 name_of_driver(driver), td_disk_top(to)->encrypted ? " into an encrypted image" :
			 "");
		return TOOL_FAILED;
	}
	return convert->options.compress ? may_join(convert, to) : TOOL_OK;
}

static int may_and_copy(struct convert *convert, struct td_disk *to, const char *name,
			const struct td_driver *driver, bool fresh)
{
	int code;

	if (td_disk_can(to) & TD_CAN_STREAM) /* nothing else will do, and it is empty */
		convert->options.compress = fresh = true;
	code = may_copy(convert, to, name, driver);
	return code ? code : copy_with_progress(convert, to, name, fresh);
}

/* What comes of the copy, and of closing its target. */
static int close_target(struct convert *convert, struct td_disk *to, const char *name, int code)
{
	int err = td_disk_close(to);

	if (!err || code)
		return code;
	tool_say(convert->run->tool, "%s: %s", name, strerror(-err));
	return TOOL_FAILED;
}

int convert_into(struct convert *convert, struct make *make)
{
	struct td_disk *to;
	int code;

	if (!make->create.size)
		make->create.size = copied_size(convert);
	code = make_begin(convert->run, make);
	if (code)
		return code;
	to = make_open(convert->run, make);
	if (!to) {
		make_drop(make);
		return TOOL_FAILED;
	}
	code = may_and_copy(convert, to, make->create.path, make->name.driver,
			    !make->create.backing);
	if (code) /* before it is closed: its tables need not be written any more */
		make_drop(make);
	code = close_target(convert, to, make->create.path, code);
	if (!code)
		return make_finish(convert->run, make);
	make_drop(make);
	return code;
}

bool convert_reads(const struct convert *convert, const struct stat *st)
{
	bool reads = name_is_part(convert->from, st);

	for (unsigned i = 0; i < convert->next_count; i++)
		reads |= name_is_part(convert->next[i].disk, st);
	return reads;
}

int convert_onto(struct convert *convert, const struct name *to, bool fresh)
{
	struct td_disk *disk;
	struct stat st;

	if (!stat(name_path(to), &st) && convert_reads(convert, &st)) {
		tool_say(convert->run->tool, "%s: is what is read", name_path(to));
		return TOOL_FAILED;
	}
	disk = name_open(convert->run, to, false);
	if (!disk)
		return TOOL_FAILED;
	return close_target(convert, disk, name_path(to),
			    may_and_copy(convert, disk, name_path(to), to->driver, fresh));
}

int convert_copy(struct convert *convert, const struct name *to, struct td_disk *disk,
		 bool fresh)
{
	return may_and_copy(convert, disk, name_path(to), to->driver, fresh);
}
