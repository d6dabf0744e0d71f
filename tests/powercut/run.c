/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A run on an image: it is made as its row says, gets random requests, file
 * operations shuffled, and all is written down.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "explore.h"

/* ---- images made by a command --------------------------------------------------- */

static void base_make(const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char *data = malloc(size);

	tag_fill(data, 0, size, TAG_BASE);
	require(fd >= 0 && write(fd, data, size) == (ssize_t)size, "%s: %s", path,
		strerror(errno));
	close(fd);
	free(data);
}

static void command_make(const char *template, const char *file, const char *base,
			 uint64_t size, char *out, size_t room)
{
	size_t at = 0;

	for (const char *p = template; *p && at + 1 < room; p++) {
		if (p[0] != '%')
			out[at++] = *p;
		else if (*++p == 'f')
			at += snprintf(out + at, room - at, "'%s'", file);
		else if (*p == 'b')
			at += snprintf(out + at, room - at, "'%s'", base);
		else
			at += snprintf(out + at, room - at, "%llu", (unsigned long long)size);
	}
	require(at + 1 < room, "too long: %s", template);
	out[at] = 0;
}

static void made_by_command(const struct format *format, struct suite *suite, uint64_t size,
			    struct target *target)
{
	char command[2048], base[300];

	*target = (struct target){ .tag = format->overlay ? TAG_BASE : TAG_ZERO };
	snprintf(target->path, sizeof(target->path), "%s/image%u", suite->dir, suite->made);
	snprintf(base, sizeof(base), "%s/base%u", suite->dir, suite->made++);
	if (format->overlay)
		base_make(base, size);
	command_make(format->make, target->path, base, size, command, sizeof(command));
	require(!system(command), "%s: failed", command);
	snprintf(target->spec, sizeof(target->spec), "%s:%s", format->type, target->path);
}

static void image_make(struct run *run)
{
	const struct format *format = run->format;
	struct target *target = &run->target;
	uint64_t size = format->size ? format->size : DISK_SIZE;
	size_t at;

	if (format->make)
		made_by_command(format, run->suite, size, target);
	else
		target_make(run->suite, size, target);
	at = strlen(target->spec);
	if (format->options)
		snprintf(target->spec + at, sizeof(target->spec) - at, "%s", format->options);
}

/* ---- what is done to it ---------------------------------------------------------- */

static void rig_open_for(struct run *run, struct rig *rig, bool logged)
{
	struct td_why why = { "" };

	rig_prepare(rig, run->suite);
	if (logged)
		log_attach(run->log, rig);
	int err = rig_try_open(rig, &run->target, &why);
	require(!err, "open: %s (%s)", why.text, strerror(-err));
	run->log->disk_size = rig->size;
}

static void rig_over(struct rig *rig)
{
	int err = rig_close(rig);

	require(!err, "close: %s", strerror(-err));
	rig_end(rig);
}

/* As in open, nothing may be held back by the hook meanwhile. */
static void grow(struct run *run, struct rig *rig)
{
	struct td_image *top = td_disk_top(rig->disk);
	bool shuffle = rig->hook.shuffle;
	struct td_why why = { "" };

	hook_calm(&rig->hook);
	require(!td_disk_settle(rig->disk), "a flush failed");
	log_resize(run->log, run->format->grows_to);
	int err = top->driver->resize(top, run->format->grows_to, &why);
	require(!err, "resize: %s (%s)", why.text, strerror(-err));
	log_resized(run->log);
	rig->hook.shuffle = shuffle;
	rig->size = td_disk_size(rig->disk);
}

/* Over the same file under another name: content stays as it is. */
static void rebase(const struct run *run, struct rig *rig, struct rnd *rnd)
{
	struct td_image *top = td_disk_top(rig->disk);
	const char *path = run->target.path, *name = strrchr(path, '/') + 1;
	const char *number = name + strlen("image");
	bool shuffle = rig->hook.shuffle;
	char base[400], other[1100], dots[601] = "";
	struct td_why why = { "" };

	snprintf(base, sizeof(base), "%.*sbase%s", (int)(name - path), path, number);
	if (run->format->long_names)
		for (uint64_t n = rnd_below(rnd, 2) ? 300 : rnd_below(rnd, 8); n; n--)
			strcat(dots, "./");
	snprintf(other, sizeof(other), "%.*s%sanother-base%s", (int)(name - path), path, dots, number);
	require(!link(base, other) || errno == EEXIST, "%s: %s", other, strerror(errno));
	hook_calm(&rig->hook);
	require(!td_disk_settle(rig->disk), "a flush failed");
	int err = top->driver->set_backing(top, other, "raw", &why);
	rig->hook.shuffle = shuffle;
	require(!err, "rebase: %s (%s)", why.text, strerror(-err));
}

/* Content stays as it is: what is applied has just been made. As in open, nothing may
 * be held back by the hook meanwhile. */
static void snapshot(struct rig *rig, enum td_snapshot_op op, const char *name)
{
	struct td_image *top = td_disk_top(rig->disk);
	struct td_snapshots ask = { .op = op, .name = name };
	bool shuffle = rig->hook.shuffle;
	struct td_why why = { "" };

	hook_calm(&rig->hook);
	require(!td_disk_settle(rig->disk), "a flush failed");
	int err = top->driver->snapshot(top, &ask, &why);
	rig->hook.shuffle = shuffle;
	require(!err, "snapshot %s: %s (%s)", name, why.text, strerror(-err));
}

static void snapshots_after(struct rig *rig, struct rnd *rnd)
{
	switch (rnd_below(rnd, 3)) {
	case 0:
		snapshot(rig, TD_SNAPSHOT_DELETE, "before");
		break;
	case 1:
		snapshot(rig, TD_SNAPSHOT_MAKE, "after");
		snapshot(rig, TD_SNAPSHOT_APPLY, "after");
		break;
	case 2:
		snapshot(rig, TD_SNAPSHOT_MAKE, "after");
		snapshot(rig, TD_SNAPSHOT_DELETE, "before");
		break;
	}
}

/* In half of the runs the image has been used before, and in half of them its
 * closing is part of the run. */
void run_record(struct run *run, struct rnd *rnd)
{
	struct work work = { .tag = TAG_FIRST };
	struct rig rig;

	image_make(run);
	run->suite->shuffle = true;
	log_init(run->log, run->target.tag, run->survivors_in);
	if (rnd_below(rnd, 2)) {
		work_draw(&work, run, run->steps, rnd);
		rig_open_for(run, &rig, false);
		work_do(&work, &rig, run->log, rnd);
		rig_over(&rig);
		log_settle(run->log);
	}
	work_draw(&work, run, run->steps, rnd);
	rig_open_for(run, &rig, true);
	bool first = rnd_below(rnd, 2);
	if (run->format->grows_to && first)
		grow(run, &rig);
	if (run->format->rebases && first)
		rebase(run, &rig, rnd);
	if (run->format->snapshots)
		snapshot(&rig, TD_SNAPSHOT_MAKE, "before");
	work_do(&work, &rig, run->log, rnd);
	if (run->format->snapshots)
		snapshots_after(&rig, rnd);
	if (run->format->grows_to && !first) { /* between requests */
		grow(run, &rig);
		work_draw(&work, run, run->steps / 2 + 8, rnd);
		work_do(&work, &rig, run->log, rnd);
	}
	if (run->format->rebases && (!first || run->format->long_names))
		rebase(run, &rig, rnd);
	if (rnd_below(rnd, 2))
		log_detach(run->log, &rig);
	rig_over(&rig);
	run->suite->shuffle = false;
	log_finish(run->log);
}
