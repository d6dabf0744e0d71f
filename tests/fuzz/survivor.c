/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Survivor memory: the bytes are the file that a killed tapdisk has left of a qcow2
 * image, which is then opened. Mostly it is made to be about that image: else it
 * would only be thrown away. A reader changes neither of the two.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/num.h"
#include "image.h"
#include "sparse.h"
#include "targets.h"

#define WHOSE_AT 24  /* of the head: device, inode, time of birth, boot */
#define WHOSE_LEN 72

static struct {
	char spec[160], path[400];
	uint8_t *image;      /* as it was when memory was left */
	size_t size;
	uint8_t left[FUZZ_MAX];
	size_t left_size;
	uint8_t whose[WHOSE_LEN];
} was;

static uint8_t *file_read(const char *path, size_t *size)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = lseek(fd, 0, SEEK_END);
	uint8_t *data = malloc(end + 1);

	demand(fd >= 0 && data && pread(fd, data, end, 0) == end);
	*size = end;
	return data;
}

static void file_write(const char *path, const uint8_t *data, size_t size)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	demand(fd >= 0 && write(fd, data, size) == (ssize_t)size);
}

/* The one file in the folder of survivor memory. */
static void memory_find(char *path, size_t room)
{
	DIR *dir = opendir(fuzz_rig()->memory);
	struct dirent *entry;

	demand(dir);
	while ((entry = readdir(dir)))
		if (*entry->d_name != '.')
			snprintf(path, room, "%s/%s", fuzz_rig()->memory, entry->d_name);
	closedir(dir);
}

/* An image, changed, and what its memory held before it was closed. */
static void leave(void)
{
	struct fuzz_rig *rig = fuzz_rig();
	struct td_files files = { 0 };
	struct td_create make = { .path = rig->path, .size = 4 * MiB, .cluster = 4096,
				  .files = &files };
	const struct td_driver *driver = td_registry_find(rig->registry, "qcow2", NULL);
	struct td_disk_options options = { 0 };
	struct td_disk *disk;
	struct td_why why;

	unlink(rig->path);
	demand(!driver->create(&make, &why));
	snprintf(was.spec, sizeof(was.spec), "qcow2:%s,cache=64K", rig->path);
	demand(!td_disk_open(rig->loop, rig->registry, was.spec, &options, &disk, &why));
	fuzz_use(disk, 1, 3, true);
	memory_find(was.path, sizeof(was.path));
	fuzz_use(disk, 9, 2, true);
	fuzz_keeps(disk, 7); /* not flushed */
	was.image = file_read(rig->path, &was.size);
	was.left_size = sparse_from_file(was.path, 0, was.left);
	demand(was.left_size);
	size_t size;
	AUTO_FREE uint8_t *memory = file_read(was.path, &size);
	demand(size > WHOSE_AT + WHOSE_LEN);
	memcpy(was.whose, memory + WHOSE_AT, WHOSE_LEN);
	td_disk_close(disk);
}

static void put_back(const struct sparse *sparse)
{
	file_write(fuzz_rig()->path, was.image, was.size);
	sparse_write_file(*sparse, was.path);
	if (!(sparse->how & SPARSE_AS_IT_IS) && sparse->length >= WHOSE_AT + WHOSE_LEN) {
		AUTO_CLOSE int fd = open(was.path, O_WRONLY | O_CLOEXEC);

		demand(pwrite(fd, was.whose, WHOSE_LEN, WHOSE_AT) == WHOSE_LEN);
	}
}

static void open_and_use(bool read_only, uint32_t script)
{
	struct td_disk_options options = { .read_only = read_only };
	struct fuzz_rig *rig = fuzz_rig();
	struct td_why why = { "" };
	struct td_disk *disk;

	if (td_disk_open(rig->loop, rig->registry, was.spec, &options, &disk, &why)) {
		demand(*why.text && !strchr(why.text, '\n'));
		return;
	}
	fuzz_use(disk, script, 4, !read_only);
	td_disk_close(disk);
}

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	size_t image_size, memory_size, now_size;
	struct sparse sparse;

	if (!was.image)
		leave();
	sparse_read(&sparse, data, size);
	put_back(&sparse);
	AUTO_FREE uint8_t *memory = file_read(was.path, &memory_size);
	open_and_use(true, sparse.script);
	AUTO_FREE uint8_t *image = file_read(fuzz_rig()->path, &image_size);
	demand(image_size == was.size && !memcmp(image, was.image, was.size));
	AUTO_FREE uint8_t *now = file_read(was.path, &now_size);
	demand(now_size == memory_size && !memcmp(now, memory, now_size));
	open_and_use(false, sparse.script);
	open_and_use(true, sparse.script);
	fuzz_memory_forget();
}

static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	if (n)
		return 0;
	leave();
	memcpy(out, was.left, was.left_size);
	return was.left_size;
}

const struct fuzz_target fuzz_survivor = { .name = "survivor", .input = input, .seed = seed,
					   .sparse = true };
