/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The n-th operation on a file fails, for n = 1, 2, 3 ... until a whole run
 * sees no failure; and the same with everything failing from the n-th on, as
 * when a device goes away. Each time:
 *
 *   make an image, write to it, close it       all of that is to stay
 *   open it with the fault, run a workload     every request ends; the one that
 *                                              met the fault says so
 *   lift the fault, write again                succeeds
 *   compare, check, close, open, compare       nothing acknowledged is lost
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "suite.h"

static unsigned count_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Our threads: not those the kernel runs for a ring and ends in its own time. */
static unsigned count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	char path[300], name[32] = "";
	unsigned n = 0;

	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		FILE *comm = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (!comm)
			continue;
		n += fgets(name, sizeof(name), comm) && strncmp(name, "iou-", 4);
		fclose(comm);
	}
	closedir(dir);
	return n;
}

static void *nothing(void *arg)
{
	return arg;
}

/* With the one that a sanitizer starts beside the first of ours. */
static unsigned threads_begin(void)
{
	pthread_t thread;

	require(!pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL),
		"no thread can be made");
	while (count_threads() > 2)
		usleep(1000);
	return count_threads();
}

/* One that has been joined is in the kernel's list for a moment longer. */
static bool threads_end(unsigned expected)
{
	uint64_t began = td_now_ms();

	while (count_threads() != expected)
		if (td_now_ms() - began > DEADLINE_MS)
			return false;
	return true;
}

static void folder_clear(struct suite *suite)
{
	DIR *dir = opendir(suite->dir);
	struct dirent *entry;

	while ((entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
}

struct step {
	enum td_op op;
	unsigned flags;
	uint64_t offset, len; /* KiB */
};

/* Made so that it meets allocation, overwriting, partial clusters, table
 * growth, flushes and frees. All multiples of 4 KiB. */
static const struct step workload[] = {
	{ TD_WRITE, 0, 4, 4 },
	{ TD_READ, 0, 0, 64 },
	{ TD_WRITE, 0, 1024, 4 },
	{ TD_WRITE, 0, 1028, 200 },
	{ TD_FLUSH },
	{ TD_WRITE, TD_FUA, 2044, 12 },
	{ TD_WRITE_ZEROES, 0, 1100, 36 },
	{ TD_DISCARD, 0, 96, 128 },
	{ TD_EXTENTS, 0, 0, 3072 },
	{ TD_WRITE, 0, 100, 8 },
	{ TD_WRITE_ZEROES, TD_MAY_UNMAP, 2500, 64 },
	{ TD_READ, 0, 900, 600 },
	{ TD_FLUSH },
	/* from here on all at once */
	{ TD_WRITE, 0, 1500, 4 },
	{ TD_WRITE, 0, 1504, 4 },
	{ TD_WRITE, 0, 1508, 4 },
	{ TD_READ, 0, 1600, 32 },
	{ TD_WRITE, 0, 2800, 128 },
	{ TD_WRITE_ZEROES, 0, 40, 8 },
	{ TD_FLUSH },
	{ TD_WRITE, TD_FUA, 2928, 8 },
};
#define ALONE 13 /* steps that run alone */
#define STEPS ARRAY_SIZE(workload)

static struct io io_of(const struct step *step, unsigned i)
{
	return (struct io){ .op = step->op, .flags = step->flags, .tag = TAG_FIRST + 100 + i,
			    .offset = step->offset * KiB, .len = step->len * KiB };
}

/* What an ended request means for what the disk may hold. */
static void model_did(struct rig *rig, struct io *io)
{
	uint32_t tag = io->op == TD_WRITE ? io->tag : TAG_ZERO;
	char text[512];

	switch (io->op) {
	case TD_WRITE:
	case TD_WRITE_ZEROES:
		if (io->err)
			model_maybe(&rig->model, io->offset, io->len, tag);
		else
			model_set(&rig->model, io->offset, io->len, tag);
		break;
	case TD_DISCARD:
		model_maybe(&rig->model, io->offset, io->len, TAG_ZERO);
		break;
	case TD_READ:
		if (!io->err) {
			char *bytes = io_bytes(io);
			require(model_match(&rig->model, io->offset, bytes, io->len, text,
					    sizeof(text)), "a read that succeeded: %s", text);
			free(bytes);
		}
		break;
	case TD_FLUSH:
	case TD_EXTENTS:
		break;
	}
}

/* A format writes its tables of its own accord when a second has passed since they were
 * changed: on a slow machine in the middle of a run, and what fails then may be of no
 * request. */
#define AT_REST_MS 900
static uint64_t opened_ms;

static bool at_rest_meanwhile(void)
{
	return td_now_ms() - opened_ms > AT_REST_MS;
}

/* A request alone that met the fault must not claim success. A discard is
 * advice; what only makes room may be done in another way; and a write may have
 * had something read ahead of need: what it wrote is looked at in the end. So is what a
 * format with a log writes. */
static void check_honest(struct rig *rig, const struct io *io, unsigned step)
{
	enum td_file_event event = rig->hook.failed_event;
	bool matters = (event == TD_EV_READ && io->op == TD_READ) ||
		(event == TD_EV_WRITE && !rig->hook.failed_aside) ||
		(event == TD_EV_SYNC && io->op != TD_READ);

	if (!matters || io->op == TD_DISCARD || io->op == TD_EXTENTS || at_rest_meanwhile())
		return;
	if (rig->suite->logged && event == TD_EV_WRITE)
		return; /* of a table, perhaps, that a flush before has left behind */
	require(io->err, "step %u claims success though its %s failed", step,
		hook_event_name(event));
}

static void run_alone(struct rig *rig, int *errs)
{
	for (unsigned i = 0; i < ALONE; i++) {
		struct io io = io_of(&workload[i], i);
		uint64_t failed = rig->hook.failed;
		if (io.op == TD_DISCARD && !(rig->can & TD_CAN_DISCARD))
			continue;
		io_start(rig, &io);
		errs[i] = io_wait(&io);
		model_did(rig, &io);
		if (rig->hook.failed > failed)
			check_honest(rig, &io, i);
		else
			require(!io.err, "step %u failed without a fault: %s", i,
				strerror(-io.err));
		io_free(&io);
	}
}

static void run_together(struct rig *rig, int *errs)
{
	struct io io[STEPS];

	for (unsigned i = ALONE; i < STEPS; i++) {
		io[i] = io_of(&workload[i], i);
		io_start(rig, &io[i]);
	}
	for (unsigned i = ALONE; i < STEPS; i++) {
		errs[i] = io_wait(&io[i]);
		model_did(rig, &io[i]);
		io_free(&io[i]);
	}
}

/* Once there is room again, what failed works; perhaps not the first time: it may
 * have joined work that began, and failed, before. */
static void run_again(struct rig *rig, const int *errs)
{
	for (unsigned i = 0; i < STEPS; i++) {
		struct io io = io_of(&workload[i], i);
		if (!errs[i] || io.op == TD_FLUSH)
			continue;
		int err = -EAGAIN;
		for (unsigned tries = 0; err && tries < 3; tries++) {
			io_free(&io);
			io_start(rig, &io);
			err = io_wait(&io);
		}
		require(!err, "step %u fails after the fault is gone: %s", i, strerror(-err));
		model_did(rig, &io);
		io_free(&io);
	}
}

static void prefill(struct suite *suite, struct target *target, struct model *model)
{
	struct rig rig;

	target_make(suite, 3 * MiB, target);
	rig_open(&rig, suite, target);
	rig.hook.shuffle = false;
	rig_write(&rig, 0, 256 * KiB, TAG_FIRST);
	rig_write(&rig, 1200 * KiB, 16 * KiB, TAG_FIRST + 1);
	rig_do(&rig, TD_FLUSH, 0, 0, 0);
	*model = rig.model;
	int err = rig_close(&rig);
	require(!err, "close: %s", strerror(-err));
}

static void look_after(struct suite *suite, struct target *target, struct model *model)
{
	struct rig rig;
	struct td_why why = { "" };

	rig_prepare(&rig, suite);
	rig.model = *model;
	int err = rig_try_open(&rig, target, &why);
	require(!err, "open after the fault: %s (%s)", why.text, strerror(-err));
	rig_check(&rig);
	rig_expect_all(&rig);
	for (uint64_t at = 0; at < rig.size; at += 512 * KiB)
		rig_write(&rig, at, min_u64(512 * KiB, rig.size - at), TAG_FIRST + 7);
	rig_expect_all(&rig);
	rig_check(&rig);
	rig_close(&rig);
	rig_end(&rig);
}

/* Returns false when the run met no fault any more. */
static bool run_with_fault(struct suite *suite, uint64_t n, bool on)
{
	struct target target;
	struct model model;
	struct rig rig;
	struct td_why why = { "" };
	int errs[STEPS] = { 0 };

	prefill(suite, &target, &model);
	rig_prepare(&rig, suite);
	rig.model = model;
	rig.hook.fail_at = n;
	rig.hook.fail_on = on;
	rig.hook.fail_err = n % 2 ? -EIO : -ENOSPC;
	opened_ms = td_now_ms();
	int err = rig_try_open(&rig, &target, &why);
	if (err) {
		require(rig.hook.failed, "open failed without a fault: %s", why.text);
		require(why.text[0], "open failed (%s) and does not say why", strerror(-err));
		model = rig.model;
		rig.model.cell = NULL;
		rig_end(&rig);
		look_after(suite, &target, &model);
		folder_clear(suite);
		return true;
	}
	run_alone(&rig, errs);
	run_together(&rig, errs);
	bool met = rig.hook.failed;
	rig.hook.fail_at = 0;
	run_again(&rig, errs);
	rig_expect_all(&rig);
	rig_check(&rig);
	model = rig.model;
	rig_close(&rig);
	look_after(suite, &target, &model);
	folder_clear(suite);
	return met;
}

static void every_fault(struct suite *suite, bool on)
{
	unsigned files = count_files();
	unsigned threads = threads_begin();
	uint64_t n = 1;

	if (suite->forgets || suite->server)
		skip("the driver keeps nothing in files");
	while (run_with_fault(suite, n, on)) {
		require(count_files() == files,
			"with operation %llu failing a descriptor leaks", (unsigned long long)n);
		n += 1 + (n > 60 ? n / 30 : 0) + (suite->packed ? n / 6 : 0); /* slow to make */
	}
	require(n > 1, "the hook has seen no operation on a file");
	require(threads_end(threads), "a thread is left behind");
	printf("# faults at up to %llu operations\n", (unsigned long long)n - 1);
}

static void a_failed_operation_is_an_error_and_loses_nothing(struct suite *suite)
{
	every_fault(suite, false);
}

static void a_lost_device_is_an_error_and_loses_nothing(struct suite *suite)
{
	every_fault(suite, true);
}

static void closing_frees_everything(struct suite *suite)
{
	unsigned files = count_files();
	unsigned threads = threads_begin();
	struct target target;
	struct rig rig;

	target_make(suite, 3 * MiB, &target);
	for (unsigned i = 0; i < 4; i++) {
		rig_open(&rig, suite, &target);
		if (rig.can & TD_CAN_WRITE) {
			rig_write(&rig, i * 64 * KiB, 64 * KiB, TAG_FIRST + i);
			rig_do(&rig, TD_FLUSH, 0, 0, 0);
		}
		rig_close(&rig);
		rig_end(&rig);
	}
	require(count_files() == files, "descriptors: %u before, %u after",
		files, count_files());
	require(threads_end(threads), "threads: %u before, %u after",
		threads, count_threads());
}

const struct behaviour fault_behaviours[] = {
	{ "closing-frees-everything", closing_frees_everything, 0 },
	{ "a-failed-operation-is-an-error-and-loses-nothing",
	  a_failed_operation_is_an_error_and_loses_nothing, TD_CAN_WRITE },
	{ "a-lost-device-is-an-error-and-loses-nothing",
	  a_lost_device_is_an_error_and_loses_nothing, TD_CAN_WRITE },
	{ NULL },
};
