/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs that are commands of tap-img: commit, convert onto an image, resize, snapshot,
 * rebase, check. Images are made and painted with tags, what the command is to make of them is
 * said, and the command runs, in this process, with the log's hook on all its files:
 *
 *     before --(the command, cut short anywhere)--> each sector before's or after's
 *                                    it has ended --> after's, and durable
 *
 * So a command is one request, which changes many sectors and is answered when it ends.
 * An image that lies over the changed one reads the same all the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "explore.h"
#include "tools/img/img.h"

#define LARGEST (DISK_SIZE + 2 * MiB)
#define SECTORS (LARGEST / SECTOR)

/* An image, and what it reads as. */
struct disk {
	struct target target;
	const char *type;
	uint64_t size;
	uint32_t cluster;        /* 0: its format's default */
	uint32_t tag[SECTORS];   /* zeroes past its end */
	bool held[SECTORS];      /* not the image's below: by whole clusters */
};

struct command {
	struct run *run;
	struct rnd *rnd;
	uint32_t tag;            /* the next one to paint with */
};

static void command_commit(struct command *command);
static void command_convert(struct command *command);
static void command_resize(struct command *command);
static void command_snapshot(struct command *command);
static void command_rebase(struct command *command);
static void command_rebase_unsafe(struct command *command);
static void command_check(struct command *command);

const struct format formats[] = {
	{ .name = "commit-raw", .type = "aio", .kills = true, .command = command_commit },
	{ .name = "commit-qcow2", .type = "qcow2", .cluster = 4096, .overlay = true,
	  .kills = true, .qemu = "qcow2", .qemu_checks = true, .command = command_commit },
	{ .name = "commit-qcow", .type = "qcow", .kills = true, .qemu = "qcow",
	  .command = command_commit },
	{ .name = "commit-vhd", .type = "vhd", .kills = true, .command = command_commit },
	{ .name = "commit-vhdx", .type = "vhdx", .cluster = 1 * MiB, .kills = true, .qemu = "vhdx",
	  .qemu_checks = true, .command = command_commit },
	{ .name = "convert-onto-qcow2", .type = "qcow2", .cluster = 4096, .overlay = true,
	  .kills = true, .qemu = "qcow2", .qemu_checks = true, .command = command_convert },
	{ .name = "convert-onto-vmdk", .type = "vmdk", .kills = true, .qemu = "vmdk",
	  .qemu_checks = true, .command = command_convert },
	{ .name = "convert-onto-vdi", .type = "vdi", .kills = true, .command = command_convert },
	{ .name = "convert-onto-vhdx", .type = "vhdx", .cluster = 1 * MiB, .overlay = true,
	  .kills = true, .command = command_convert },
	{ .name = "convert-onto-encrypted-qcow2", .type = "qcow2", .cluster = 4096, .overlay = true,
	  .encrypted = true, .create = "encryption=luks,iter-time=0", .kills = true, .qemu = "qcow2",
	  .qemu_checks = true, .command = command_convert },
	{ .name = "resize-raw", .type = "aio", .kills = true, .command = command_resize },
	{ .name = "resize-qcow2", .type = "qcow2", .cluster = 512, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .command = command_resize },
	{ .name = "resize-qcow2-overlay", .type = "qcow2", .cluster = 4096, .overlay = true,
	  .kills = true, .qemu = "qcow2", .qemu_checks = true, .command = command_resize },
	{ .name = "resize-vhdx", .type = "vhdx", .cluster = 1 * MiB, .overlay = true, .grows_to = LARGEST,
	  .kills = true, .command = command_resize },
	{ .name = "snapshot-qcow2", .type = "qcow2", .cluster = 4096, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .command = command_snapshot },
	{ .name = "snapshot-qcow2-overlay", .type = "qcow2", .cluster = 4096, .overlay = true,
	  .kills = true, .qemu = "qcow2", .qemu_checks = true, .command = command_snapshot },
	{ .name = "rebase-qcow2", .type = "qcow2", .cluster = 4096, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .command = command_rebase },
	{ .name = "rebase-vhdx", .type = "vhdx", .cluster = 1 * MiB, .kills = true,
	  .command = command_rebase },
	{ .name = "rebase-unsafe-qcow2", .type = "qcow2", .cluster = 4096, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .command = command_rebase_unsafe },
	/* the last grains move */
	{ .name = "check-repairs-vmdk", .type = "vmdk", .cluster = 4096, .kills = true,
	  .qemu = "vmdk", .qemu_checks = true, .command = command_check },
	{ 0 },
};

const struct broken broken_rules[] = {
	{ "rebase-content-before-name", "rebase-qcow2" },
	{ 0 },
};

/* ---- images ------------------------------------------------------------------------ */

static struct disk *disk_new(struct command *command, const char *type, uint64_t size)
{
	struct suite *suite = command->run->suite;
	struct disk *disk = calloc(1, sizeof(*disk));

	require(disk, "no memory");
	disk->type = type;
	disk->size = size;
	snprintf(disk->target.path, sizeof(disk->target.path), "%s/image%u", suite->dir,
		 suite->made++);
	snprintf(disk->target.spec, sizeof(disk->target.spec), "%s:%s", type,
		 disk->target.path);
	return disk;
}

static struct disk *raw_make(struct command *command, uint64_t size)
{
	struct disk *disk = disk_new(command, "aio", size);
	int fd = open(disk->target.path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	require(fd >= 0 && !ftruncate(fd, size), "%s: %s", disk->target.path, strerror(errno));
	close(fd);
	return disk;
}

/* What people call its format. */
static const char *name_of(const struct disk *disk)
{
	return strcmp(disk->type, "aio") ? disk->type : "raw";
}

/* Over below, which may be NULL. */
static struct disk *image_make(struct command *command, const char *type, uint32_t cluster,
			       uint64_t size, const struct disk *below)
{
	struct disk *disk = disk_new(command, type, size);
	struct td_files files = { .force_align = 0 };
	struct td_why why = { "" };
	const struct td_driver *driver = td_registry_find(command->run->suite->registry, type, &why);
	struct suite *suite = command->run->suite;
	bool row = driver == suite->driver;
	char more[400] = "";
	struct td_create make = {
		.path = disk->target.path, .size = size, .cluster = cluster, .files = &files,
		.backing = below ? below->target.path : NULL,
		.backing_size = below ? below->size : 0,
		.backing_format = below ? name_of(below) : NULL,
	};

	disk->cluster = cluster;
	if (row)
		target_options(suite, &make, more, sizeof(more));
	require(driver && !driver->create(&make, &why), "create: %s", why.text);
	if (row)
		target_options_free(suite, &make);
	strcat(disk->target.spec, more);
	if (below)
		memcpy(disk->tag, below->tag, min_u64(size, below->size) / SECTOR * 4);
	return disk;
}

static void note(struct disk *disk, const struct io *io)
{
	uint64_t unit = max_u64(disk->cluster, SECTOR), end = io->offset + io->len;

	for (uint64_t at = io->offset; at < end; at += SECTOR)
		disk->tag[at / SECTOR] = io->tag;
	for (uint64_t at = round_down(io->offset, unit); at < min_u64(end, disk->size); at += unit)
		for (uint64_t i = at; i < min_u64(at + unit, disk->size); i += SECTOR)
			disk->held[i / SECTOR] = true;
}

static void draw(struct command *command, const struct rig *rig, bool zeroes, struct io *io)
{
	static const unsigned sectors[] = { 1, 3, 8, 16, 70, 260, 700 };
	struct rnd *rnd = command->rnd;

	io->op = zeroes && !rnd_below(rnd, 4) ? TD_WRITE_ZEROES : TD_WRITE;
	io->flags = io->op == TD_WRITE_ZEROES && rnd_below(rnd, 2) ? TD_MAY_UNMAP : 0;
	io->tag = io->op == TD_WRITE ? command->tag++ : TAG_ZERO;
	io->offset = round_down(rnd_below(rnd, rig->size), rnd_below(rnd, 2) ? 4096 : rig->block);
	io->len = sectors[rnd_below(rnd, ARRAY_SIZE(sectors))] * SECTOR;
	io->len = min_u64(round_up(io->len, rig->block), rig->size - io->offset);
}

/* Some writes here and there. */
static void paint(struct command *command, struct disk *disk, bool zeroes)
{
	struct rig rig;

	rig_open(&rig, command->run->suite, &disk->target);
	for (uint64_t n = 1 + rnd_below(command->rnd, 10); n; n--) {
		struct io io = { 0 };

		draw(command, &rig, zeroes, &io);
		if (io.op == TD_WRITE)
			rig_write(&rig, io.offset, io.len, io.tag);
		else
			rig_do(&rig, io.op, io.flags, io.offset, io.len);
		note(disk, &io);
	}
	require(!rig_close(&rig), "painting: close");
	rig_end(&rig);
}

static struct disk *raw_painted(struct command *command, uint64_t size)
{
	struct disk *disk = raw_make(command, size);

	paint(command, disk, false);
	paint(command, disk, true);
	return disk;
}

/* As the row says: over a raw one, if that is said. */
static struct disk *row_image(struct command *command)
{
	const struct format *row = command->run->format;
	struct disk *below = row->overlay ? raw_painted(command, DISK_SIZE) : NULL, *disk;

	if (strcmp(row->type, "aio"))
		disk = image_make(command, row->type, row->cluster, DISK_SIZE, below);
	else
		disk = raw_make(command, DISK_SIZE);
	free(below);
	paint(command, disk, true);
	return disk;
}

/* ---- the command --------------------------------------------------------------------- */

#define WORDS_MAX 16

static void run_words(struct td_file_hook *hook, const char *const *words)
{
	const struct img_command *found = img_command_find(words[0]);
	static const int number[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction kept[ARRAY_SIZE(number)];
	char *argv[WORDS_MAX + 1] = { NULL };

	require(found, "there is no command %s", words[0]);
	for (unsigned i = 0; words[i]; i++)
		argv[i] = (char *)words[i];
	for (unsigned i = 0; i < ARRAY_SIZE(number); i++)
		sigaction(number[i], NULL, &kept[i]);
	int code = img_command_run(found, argv, hook);
	for (unsigned i = 0; i < ARRAY_SIZE(number); i++)
		sigaction(number[i], &kept[i], NULL);
	require(!code, "tap-img %s: exit code %d", words[0], code);
}

#define tap_img(...) run_words(NULL, (const char *const[]){ __VA_ARGS__, NULL })
#define tap_img_recorded(command, before, after, size, ...) \
	record(command, before, after, size, (const char *const[]){ __VA_ARGS__, NULL })

/* Asks for what changes from was (NULL: all) to is, in runs of equal tags. */
static void ask(struct log *log, const uint32_t *was, const uint32_t *is, uint64_t size)
{
	uint64_t end;

	for (uint64_t at = 0; at < size / SECTOR; at = end) {
		end = at + 1;
		if (was && was[at] == is[at])
			continue;
		while (end < size / SECTOR && is[end] == is[at] && !(was && was[end] == is[end]))
			end++;
		log_asked(log, is[at] ? TD_WRITE : TD_WRITE_ZEROES, TD_FUA, at * SECTOR,
			  (end - at) * SECTOR, is[at]);
	}
}

static void answer(struct log *log, unsigned first)
{
	for (unsigned i = first; i < log->asks; i++)
		log_answered(log, i, 0);
}

/* after, and after_size: what the command makes of the disk before. */
static void record(struct command *command, const struct disk *before, const uint32_t *after,
		   uint64_t after_size, const char *const *words)
{
	struct log *log = command->run->log;

	command->run->target = before->target;
	log_init(log, TAG_ZERO, command->run->survivors_in);
	log->disk_size = before->size;
	ask(log, NULL, before->tag, max_u64(before->size, after_size));
	answer(log, 0);
	log_settle(log);
	unsigned first = log->asks;
	struct td_file_hook *hook = log_hook(log);
	if (after_size != before->size)
		log_resize(log, after_size);
	ask(log, before->tag, after, max_u64(before->size, after_size));
	run_words(hook, words);
	if (after_size != before->size)
		log_resized(log);
	answer(log, first);
	log_finish(log);
}

static void beside(struct command *command, const struct disk *disk)
{
	struct model *holds = &command->run->holds;

	command->run->beside = disk->target;
	model_init(holds, disk->size, TAG_ZERO);
	for (uint64_t i = 0; i < disk->size / SECTOR; i++)
		model_set(holds, i * SECTOR, SECTOR, disk->tag[i]);
}

/* ---- each of them ---------------------------------------------------------------------- */

/* Into the next image below, or one below that; it may have to grow. */
static void command_commit(struct command *command)
{
	struct disk *base = row_image(command), *mid = NULL, *top;
	struct td_why why = { "" };
	const struct td_driver *driver = td_registry_find(command->run->suite->registry,
							  base->type, &why);
	uint64_t size = base->size + (driver->resize && !rnd_below(command->rnd, 3) ? 700 * KiB : 0);

	if (rnd_below(command->rnd, 2)) {
		mid = image_make(command, "qcow2", 16 * KiB, base->size, base);
		paint(command, mid, true);
	}
	top = image_make(command, "qcow2", 4096, size, mid ? mid : base);
	paint(command, top, true);
	beside(command, top);
	tap_img_recorded(command, base, top->tag, size, "commit", "-q", "-f", "qcow2", "-b",
			 base->target.path, top->target.path);
	free(top);
	free(mid);
	free(base);
}

static void command_convert(struct command *command)
{
	struct disk *from = raw_painted(command, DISK_SIZE), *to = row_image(command);

	tap_img_recorded(command, to, from->tag, to->size, "convert", "-n", "-q", "-f", "raw",
			 from->target.path, to->target.spec);
	free(from);
	free(to);
}

static void command_resize(struct command *command)
{
	struct disk *disk = row_image(command);
	uint64_t least = command->run->format->grows_to ? DISK_SIZE : 64 * KiB;
	uint64_t size = round_down(least + rnd_below(command->rnd, LARGEST - least), 4096) + 4096;
	uint32_t *after = calloc(SECTORS, sizeof(*after));
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
	memcpy(after, disk->tag, min_u64(size, disk->size) / SECTOR * sizeof(*after));
	tap_img_recorded(command, disk, after, size, "resize", "-q", "--shrink",
			 disk->target.spec, text);
	free(after);
	free(disk);
}

static void command_snapshot(struct command *command)
{
	static const char *const option[] = { "-c", "-a", "-d" };
	struct disk *disk = row_image(command);
	uint32_t *after = calloc(SECTORS, sizeof(*after));
	unsigned what = rnd_below(command->rnd, ARRAY_SIZE(option));

	memcpy(after, disk->tag, sizeof(disk->tag));
	tap_img("snapshot", "-q", "-c", "first", disk->target.spec);
	paint(command, disk, true);
	tap_img("snapshot", "-q", "-c", "second", disk->target.spec);
	if (rnd_below(command->rnd, 2))
		paint(command, disk, true);
	if (what != 1)
		memcpy(after, disk->tag, sizeof(disk->tag));
	tap_img_recorded(command, disk, after, disk->size, "snapshot", "-q", option[what],
			 what ? "first" : "third", disk->target.spec);
	free(after);
	free(disk);
}

/* Another raw file that has much in common with it, longer or shorter; or none. */
static struct disk *other_base(struct command *command, const struct disk *base)
{
	uint64_t size = base->size + (rnd_below(command->rnd, 3) - 1) * 300 * KiB;
	struct disk *other = raw_make(command, size);
	char *data = malloc(SECTOR);
	int fd = open(other->target.path, O_WRONLY | O_CLOEXEC);

	memcpy(other->tag, base->tag, min_u64(size, base->size) / SECTOR * sizeof(*other->tag));
	for (uint64_t i = 0; i < size / SECTOR; i++) {
		tag_fill(data, i * SECTOR, SECTOR, other->tag[i]);
		require(pwrite(fd, data, SECTOR, i * SECTOR) == SECTOR, "%s: %s",
			other->target.path, strerror(errno));
	}
	close(fd);
	free(data);
	paint(command, other, true);
	return other;
}

static void rebase(struct command *command, bool unsafe)
{
	const struct format *row = command->run->format;
	struct disk *base = raw_painted(command, DISK_SIZE), *other = other_base(command, base);
	struct disk *disk = image_make(command, row->type, row->cluster, DISK_SIZE, base);
	uint32_t *after = calloc(SECTORS, sizeof(*after));
	bool none = !unsafe && !rnd_below(command->rnd, 4);

	paint(command, disk, !unsafe);
	memcpy(after, disk->tag, sizeof(disk->tag));
	for (uint64_t i = 0; unsafe && i < disk->size / SECTOR; i++)
		if (!disk->held[i])
			after[i] = other->tag[i];
	tap_img_recorded(command, disk, after, disk->size, "rebase", "-q", unsafe ? "-u" : "-q",
			 "-F", "raw", "-b", none ? "" : other->target.path, disk->target.spec);
	free(after);
	free(disk);
	free(other);
	free(base);
}

static void command_rebase(struct command *command)
{
	rebase(command, false);
}

static void command_rebase_unsafe(struct command *command)
{
	rebase(command, true);
}

/* Leaks are repaired; there are some where zeroes have been written before. */
static void command_check(struct command *command)
{
	struct disk *disk = row_image(command);

	for (unsigned n = 0; n < 4; n++)
		paint(command, disk, true);
	tap_img_recorded(command, disk, disk->tag, disk->size, "check", "-q", "-r", "leaks",
			 disk->target.spec);
	free(disk);
}

void run_record(struct run *run, struct rnd *rnd)
{
	struct command command = { .run = run, .rnd = rnd, .tag = TAG_FIRST };

	run->format->command(&command);
}
