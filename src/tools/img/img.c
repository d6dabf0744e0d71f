/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the commands share: disks by name, single requests, JSON.
 */
#include "tools/img/img.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/guard.h"
#include "core/queue.h"
#include "io/loop.h"

static int img_open_with(struct tool_run *run, const char *format, const char *option,
			 const char *word, bool read_only, struct td_disk_options *how,
			 struct img_disk *out)
{
	int code;

	*out = (struct img_disk){ 0 };
	code = name_parse(run, format, option, word, NULL, &out->name);
	if (code)
		return code;
	out->disk = name_open_with(run, &out->name, read_only, how);
	return out->disk ? TOOL_OK : TOOL_FAILED;
}

int img_open(struct tool_run *run, const char *format, const char *option, const char *word,
	     bool read_only, struct img_disk *out)
{
	struct td_disk_options how = { 0 };

	return img_open_with(run, format, option, word, read_only, &how, out);
}

int img_open_then(struct tool_run *run, const char *format, const char *option,
		  const char *word, const char *snapshot, struct img_disk *out)
{
	AUTO_FREE char *key = name_spec("snapshot", snapshot); /* escaped */
	int code;

	*out = (struct img_disk){ 0 };
	if (!key)
		return img_failed(run, out, TOOL_FAILED, -ENOMEM, NULL);
	*strchr(key, ':') = '=';
	code = name_parse(run, format, option, word, key, &out->name);
	if (code)
		return code;
	out->disk = name_open(run, &out->name, true);
	return out->disk ? TOOL_OK : TOOL_FAILED;
}

int img_open_keyless(struct tool_run *run, const char *format, const char *option,
		     const char *word, struct img_disk *out)
{
	struct td_disk_options how = { .keyless = true };

	return img_open_with(run, format, option, word, true, &how, out);
}

int img_close(struct tool_run *run, struct img_disk *disk)
{
	int code;

	td_pool_free(disk->pool);
	disk->pool = NULL;
	code = disk->disk ? name_close(run, &disk->name, disk->disk) : TOOL_OK;

	name_free(&disk->name);
	disk->disk = NULL;
	return code;
}

const struct td_driver *img_driver(const struct img_disk *disk)
{
	return disk->name.driver;
}

int img_cannot(struct tool_run *run, const struct img_disk *disk, int code, const char *what)
{
	tool_say(run->tool, "%s: %s %s", name_path(&disk->name),
		 name_of_driver(img_driver(disk)), what);
	return code;
}

int img_failed(struct tool_run *run, const struct img_disk *disk, int code, int err,
	       const struct td_why *why)
{
	if (why && why->text[0])
		tool_say(run->tool, "%s", why->text);
	else
		tool_say(run->tool, "%s: %s", name_path(&disk->name), strerror(-err));
	return code;
}

int img_stopped(struct tool_run *run)
{
	tool_say(run->tool, "interrupted");
	return 128 + tool_stopped;
}

/* ---- single requests -------------------------------------------------------------- */

static void done(struct td_req *req)
{
	**(bool **)td_req_user(req) = true;
}

int img_do(struct img_disk *disk, enum td_op op, unsigned flags, uint64_t at, uint64_t len,
	   void *buf, struct td_extent *extent)
{
	struct iovec iov = { buf, len };
	bool ended = false;
	struct td_req *req;
	int err = 0;

	if (!disk->pool)
		err = td_pool_new(td_disk_queue(disk->disk), 1, sizeof(bool *), done, &disk->pool);
	if (err)
		return err;
	req = td_pool_get(disk->pool);
	*(bool **)td_req_user(req) = &ended;
	req->op = op;
	req->flags = flags;
	req->offset = at;
	req->len = len;
	req->iov = buf ? &iov : NULL;
	req->iov_count = buf ? 1 : 0;
	td_submit(req);
	while (!ended)
		td_loop_turn(td_queue_loop(td_disk_queue(disk->disk)), -1);
	err = req->err;
	if (extent)
		*extent = req->extent;
	td_pool_put(disk->pool, req);
	return err;
}

int img_extent(struct img_disk *disk, uint64_t at, uint64_t len, struct td_extent *out)
{
	int err = img_do(disk, TD_EXTENTS, 0, at, len, NULL, out);

	if (!err && out->len > len)
		out->len = len;
	return err;
}

/* ---- JSON --------------------------------------------------------------------------- */

json_t *img_number(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

int img_print_json(struct tool_run *run, json_t *answer)
{
	int err = answer ? json_dumpf(answer, stdout, JSON_INDENT(4) | JSON_ENCODE_ANY) : -1;

	json_decref(answer);
	if (!err) {
		putchar('\n');
		return TOOL_OK;
	}
	tool_say(run->tool, "cannot say it in JSON: a name is no UTF-8, or there is no memory");
	return TOOL_FAILED;
}
