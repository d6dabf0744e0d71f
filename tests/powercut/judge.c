/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is what a cut has left right? A state is put into the very files of the run,
 * then
 *
 * (after a kill also: what it left in survivor memory; then it is opened for writing
 * at once)
 *
 *   look     opened read-only: nothing is changed by that; the check finds at
 *            most leaks, or the image says that it is dirty; every sector holds
 *            what the promises allow
 *   ask      now and then, somebody else: qemu-img checks and reads it
 *   go on    opened for writing: the check finds at most leaks, dirty or not; it
 *            takes writes here and there, or everywhere in two steps, so that
 *            who shares a place is found out; closed, opened, as it should be
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "explore.h"

#define PIECE (64 * KiB)
#define TAG_AFTER 1000000u

/* ---- what is changed in the files meanwhile --------------------------------------- */

static struct judge *judge_of(struct td_file_hook *base)
{
	return container_of(base, struct judge, base);
}

static struct mirror *mirror_of(struct judge *judge, const char *path)
{
	for (unsigned i = 0; i < judge->log->files; i++)
		if (!strcmp(judge->log->file[i].path, path))
			return &judge->mirror[i];
	fail("%s was never changed before", path);
}

static int judge_begin_op(struct td_file_hook *base, const struct td_file_op_seen *op,
			  uint64_t *id)
{
	struct judge *judge = judge_of(base);

	*id = 0;
	if (op->event == TD_EV_READ || op->event == TD_EV_SYNC)
		return 0;
	require(!judge->read_only, "a read-only open changed %s", td_file_path(op->file));
	struct mirror *mirror = mirror_of(judge, td_file_path(op->file));
	if (op->event != TD_EV_TRUNCATE)
		mirror_changed(mirror, op->offset, op->len);
	else if (op->offset < mirror->is.size)
		mirror_changed(mirror, op->offset, mirror->is.size - op->offset);
	return 0;
}

static void judge_end_op(struct td_file_hook *base, uint64_t id, int err)
{
}

/* ---- opening ------------------------------------------------------------------------ */

/* The first open of a state finds out which of the sizes it has. */
static void settle_size(struct judge *judge, struct rig *rig, struct model *model)
{
	require(rig->size == judge->size[0] || rig->size == judge->size[1],
		"it has %llu bytes, not %llu or %llu", (unsigned long long)rig->size,
		(unsigned long long)judge->size[0], (unsigned long long)judge->size[1]);
	judge->size[0] = judge->size[1] = rig->size;
	model_free(&rig->model); /* of the open's own */
	rig->model = *model;
	rig->model.size = rig->size;
}

static void judge_open(struct judge *judge, struct rig *rig, bool read_only, struct model *model)
{
	struct td_why why = { "" };

	rig_prepare(rig, judge->suite);
	rig->options.read_only = judge->read_only = read_only;
	rig->options.hook = &judge->base;
	rig->options.engine = NULL; /* libaio takes 20 ms to close */
	int err = rig_try_open(rig, judge->target, &why);
	require(!err, "open %s: %s (%s)", read_only ? "read-only" : "for writing", why.text,
		strerror(-err));
	settle_size(judge, rig, model);
}

static void judge_close(struct rig *rig, struct model *model)
{
	int err = rig_close(rig);

	require(!err, "close: %s", strerror(-err));
	*model = rig->model;
}

/* ---- our check ---------------------------------------------------------------------- */

static void say_corruption(void *arg, const char *text)
{
	printf("# check: %s\n", text);
}

static uint64_t corruptions(struct rig *rig, bool tell)
{
	struct td_image *top = td_disk_top(rig->disk);
	struct td_check found = { .say = tell ? say_corruption : NULL };
	struct td_why why = { "" };

	if (!top->driver->check)
		return 0;
	int err = top->driver->check(top, &found, &why);
	require(!err, "check: %s (%s)", why.text, strerror(-err));
	return found.corruptions;
}

static void expect_sound(struct rig *rig, const char *when)
{
	uint64_t found = corruptions(rig, true);

	require(!found, "%s: check found %llu corruptions", when, (unsigned long long)found);
}

static void find_dirty(void *arg, const char *key, const char *value)
{
	if (!strcmp(key, "dirty") && !strcmp(value, "yes"))
		*(bool *)arg = true;
}

/* An image that says so may be inconsistent until it is opened for writing. */
static bool marked_dirty(struct rig *rig)
{
	struct td_image *top = td_disk_top(rig->disk);
	bool dirty = false;

	if (top->driver->info)
		top->driver->info(top, find_dirty, &dirty);
	return dirty;
}

static bool look(struct judge *judge, struct model *model)
{
	struct rig rig;

	judge_open(judge, &rig, true, model);
	bool dirty = marked_dirty(&rig);
	if (!dirty)
		expect_sound(&rig, "after the cut");
	rig_expect_all(&rig);
	judge_close(&rig, model);
	return dirty;
}

/* ---- somebody else's ------------------------------------------------------------------ */

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char command[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	int status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect_raw(const char *path, struct model *model, const char *who)
{
	FILE *file = fopen(path, "re");
	char *data = malloc(MiB), text[512];

	require(file, "%s: %s", path, strerror(errno));
	for (uint64_t at = 0; at < model->size; at += MiB) {
		size_t n = min_u64(MiB, model->size - at);
		require(fread(data, 1, n, file) == n, "%s: too short", path);
		require(model_match(model, at, data, n, text, sizeof(text)), "read by %s: %s",
			who, text);
	}
	free(data);
	fclose(file);
}

static void ask_qemu(struct judge *judge, struct model *model)
{
	const char *type = judge->format->qemu, *path = judge->target->path, *dir = judge->suite->dir;
	char raw[600], image[1600];

	if (judge->format->encrypted)
		snprintf(image, sizeof(image), "--object secret,id=key,file='%s/.key' --image-opts "
			 "'driver=%s,file.filename=%s,encrypt.key-secret=key'", dir, type, path);
	else
		snprintf(image, sizeof(image), "-f %s '%s'", type, path);

	snprintf(raw, sizeof(raw), "%s/outside.raw", dir);
	if (judge->format->qemu_checks) {
		int code = run("timeout 300 qemu-img check %s >'%s' 2>&1", image, raw);
		if (code && code != 3) /* 3: leaks */
			run("sed 's/^/# /' '%s'", raw);
		require(!code || code == 3, "qemu-img check: exit code %d", code);
	}
	require(!run("timeout 300 qemu-img convert -O raw %s '%s'", image, raw),
		"qemu-img convert cannot read it");
	expect_raw(raw, model, "qemu-img");
	unlink(raw);
	judge->outside++;
}

static bool qemu_there(struct judge *judge)
{
	if (!judge->format->qemu || judge->no_outside)
		return false;
	if (!run("command -v qemu-img >/dev/null"))
		return true;
	judge->no_outside = true;
	return false;
}

/* ---- going on --------------------------------------------------------------------------- */

static void write_out(struct rig *rig, struct io *io, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		io_start(rig, &io[i]);
	for (unsigned i = 0; i < count; i++) {
		int err = io_wait(&io[i]);
		require(!err, "write after the cut: %s", strerror(-err));
		model_set(&rig->model, io[i].offset, io[i].len, io[i].tag);
		io_free(&io[i]);
	}
}

/* Every second piece, then all others. */
static void write_everywhere(struct rig *rig)
{
	unsigned count = rig->size / PIECE / 2 + 1;
	struct io *io = calloc(count, sizeof(*io));

	for (unsigned odd = 0; odd < 2; odd++) {
		unsigned n = 0;
		for (uint64_t at = odd * PIECE; at < rig->size; at += 2 * PIECE)
			io[n++] = (struct io){ .op = TD_WRITE, .offset = at, .tag = TAG_AFTER,
					       .len = min_u64(PIECE, rig->size - at) };
		write_out(rig, io, n);
		rig_expect_all(rig);
	}
	free(io);
}

static void write_somewhere(struct judge *judge, struct rig *rig)
{
	struct io io[6] = { { 0 } };
	uint64_t slice = rig->size / ARRAY_SIZE(io), block = rig->block;

	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		uint64_t skip = rnd_below(&judge->rnd, slice / block / 2) * block;
		uint64_t len = (1 + rnd_below(&judge->rnd, 40)) * block;
		io[i] = (struct io){
			.op = TD_WRITE, .offset = round_down(i * slice, block) + skip,
			.len = min_u64(len, round_down(slice / 2, block)), .tag = TAG_AFTER + i,
		};
	}
	write_out(rig, io, ARRAY_SIZE(io));
	rig_expect_all(rig);
}

static void go_on(struct judge *judge, struct model *model, bool looked)
{
	struct rig rig;

	judge_open(judge, &rig, false, model);
	expect_sound(&rig, "opened for writing after the cut");
	if (!looked)
		rig_expect_all(&rig);
	if (rnd_below(&judge->rnd, 6))
		write_somewhere(judge, &rig);
	else
		write_everywhere(&rig);
	rig_do(&rig, TD_FLUSH, 0, 0, 0);
	expect_sound(&rig, "written to after the cut");
	judge_close(&rig, model);
	if (rnd_below(&judge->rnd, 4))
		return;
	require(!look(judge, model), "closed after the cut, it is marked dirty");
}

void judge_begin(struct judge *judge, const struct run *run, uint64_t seed)
{
	judge->base = (struct td_file_hook){ .begin = judge_begin_op, .end = judge_end_op };
	judge->suite = run->suite;
	judge->format = run->format;
	judge->target = &run->target;
	judge->beside = run->beside.spec[0] ? &run->beside : NULL;
	judge->holds = &run->holds;
	judge->log = run->log;
	judge->rnd.s = seed;
	snprintf(judge->survivors_in, sizeof(judge->survivors_in), "%s/survivors",
		 run->suite->dir);
	for (unsigned i = 0; i < run->log->files; i++)
		mirror_open(&judge->mirror[i], run->log->file[i].path);
}

void judge_end(struct judge *judge)
{
	for (unsigned i = 0; i < judge->log->files; i++)
		mirror_close(&judge->mirror[i]);
}

/* Whoever opens it for writing gets what a kill left in memory into the files. */
static void adopt(struct judge *judge, struct model *model)
{
	struct rig rig;

	judge_open(judge, &rig, false, model);
	judge_close(&rig, model);
}

/* What lies over the image reads as ever. */
static void look_beside(struct judge *judge)
{
	struct td_why why = { "" };
	struct rig rig;

	rig_prepare(&rig, judge->suite);
	rig.options.read_only = judge->read_only = true;
	rig.options.hook = &judge->base;
	model_copy(&rig.model, judge->holds);
	int err = rig_try_open(&rig, judge->beside, &why);
	require(!err, "open what lies over it: %s (%s)", why.text, strerror(-err));
	rig_expect_all(&rig);
	err = rig_close(&rig);
	require(!err, "close what lies over it: %s", strerror(-err));
	model_free(&rig.model);
}

/* What a kill left in memory is for the next who writes: only he sees all. */
static void judge_opened(struct judge *judge, struct model *model, bool survives, bool outside)
{
	bool dirty = false;

	if (survives)
		judge->adopted++;
	if (survives && judge->beside)
		adopt(judge, model);
	if (!survives)
		dirty = look(judge, model);
	if (judge->beside)
		look_beside(judge);
	judge->marked += dirty;
	if (outside && !dirty && !survives)
		ask_qemu(judge, model);
	go_on(judge, model, !survives);
	if (outside)
		ask_qemu(judge, model);
}

void judge_state(struct judge *judge, const struct rebuild *rebuild,
		 const struct survivors *survivors, const struct model *allowed, bool outside)
{
	bool survives = survivors && survivors->count;
	struct model model = { 0 };

	for (unsigned i = 0; i < judge->log->files; i++) {
		mirror_set(&judge->mirror[i], &rebuild->now[i]);
		if (judge->judged % 64 == 0)
			mirror_expect(&judge->mirror[i], &rebuild->now[i]);
	}
	survivors_put(survivors, judge->survivors_in);
	model_copy(&model, allowed);
	judge_opened(judge, &model, survives, outside && qemu_there(judge));
	model_free(&model);
	judge->judged++;
}
