/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon says where a RAM disk's memory is; tap-img copies, as a process of its
 * caller, with every format it knows:
 *
 *   ram-list -> memory opened -> tap-img convert -> (load) what is behind it zeroed
 */
#include "tools/tap_ctl_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/guard.h"

extern char **environ;

/* ---- what is copied --------------------------------------------------------------- */

static json_t *ram_named(json_t *list, const char *name)
{
	json_t *row;
	size_t i;

	json_array_foreach(json_object_get(list, "ram"), i, row)
		if (!strcmp(json_string_value(json_object_get(row, "name")), name))
			return row;
	fprintf(stderr, "tap-ctl: there is no RAM disk named %s\n", name);
	return NULL;
}

/* A guest keeps in mind what it has read. */
static int refuse_if_used(json_t *ram, const char *name)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(ram, "disks"), i, disk) {
		const char *user = json_string_value(json_object_get(disk, "user"));

		if (!user)
			continue;
		fprintf(stderr, "tap-ctl: RAM disk %s is used by %s, as disk %s: detach it "
			"there, or load it by --force\n", name, user,
			json_string_value(json_object_get(disk, "name")));
		return -EBUSY;
	}
	return 0;
}

/* To be inherited. */
static int memory_open(json_t *ram, const char *name, int *fd)
{
	const char *path = json_string_value(json_object_get(ram, "memory"));
	int seals, err;

	*fd = path ? open(path, O_RDWR) : -1;
	if (*fd < 0) {
		err = path ? -errno : -EPROTO;
		fprintf(stderr, "tap-ctl: memory of RAM disk %s: %s\n", name, strerror(-err));
		return err;
	}
	seals = fcntl(*fd, F_GET_SEALS);
	if (seals >= 0 && seals & F_SEAL_GROW)
		return 0;
	fprintf(stderr, "tap-ctl: RAM disk %s is not ready yet\n", name);
	close(*fd);
	return -EAGAIN;
}

/* ---- tap-img ------------------------------------------------------------------------ */

/* The one beside us. */
static int tap_img_path(char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size - sizeof("tap-img"));
	char *slash;

	if (n < 0)
		return -errno;
	path[n] = '\0';
	slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, "tap-img");
	return 0;
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EIO; /* which it has said */
}

/* Runs it; its answer is to be freed, and NULL if it gives none. */
static int tap_img(const char *const words[], json_t **answer)
{
	posix_spawn_file_actions_t actions;
	char path[PATH_MAX];
	int ends[2], err;
	pid_t pid;

	err = tap_img_path(path, sizeof(path));
	if (err || pipe2(ends, O_CLOEXEC) < 0)
		return err ? err : -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
	err = -posix_spawn(&pid, path, &actions, NULL, (char *const *)words, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	if (err) {
		fprintf(stderr, "tap-ctl: %s: %s\n", path, strerror(-err));
	} else {
		*answer = json_loadfd(ends[0], 0, NULL);
		err = wait_for(pid);
	}
	close(ends[0]);
	return err;
}

/* ---- copying -------------------------------------------------------------------------- */

static int zero_from(int fd, json_t *ram, uint64_t at)
{
	uint64_t size = lseek(fd, 0, SEEK_END);
	uint8_t *map;

	if (at >= size)
		return 0;
	if (!json_integer_value(json_object_get(ram, "huge_page")))
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, size - at) < 0 ?
		       -errno : 0;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* none are given back */
	if (map == MAP_FAILED)
		return -errno;
	memset(map + at, 0, size - at);
	munmap(map, size);
	return 0;
}

static int copy_with(const struct ram_copy *copy, json_t *ram, int fd, const char *memory,
		     json_t **answer)
{
	const char *const words[] = {
		"tap-img", "convert", "--json", copy->load ? "--existing" : "--quiet",
		copy->force && !copy->load ? "--force" : "--quiet", "--",
		copy->load ? copy->image : memory, copy->load ? memory : copy->image, NULL,
	};
	int err = tap_img(words, answer);
	json_t *size = json_object_get(*answer, "virtual-size");

	if (err || !copy->load)
		return err;
	err = size ? zero_from(fd, ram, json_integer_value(size)) : -EPROTO;
	if (err)
		fprintf(stderr, "tap-ctl: RAM disk %s: its end: %s\n", copy->name, strerror(-err));
	return err;
}

int ram_copy(const struct ram_copy *copy, json_t *list)
{
	json_t *ram = ram_named(list, copy->name), *answer = NULL;
	char memory[300];
	int fd, err;

	if (!ram)
		return -ENODEV;
	err = copy->load && !copy->force ? refuse_if_used(ram, copy->name) : 0;
	if (!err)
		err = memory_open(ram, copy->name, &fd);
	if (err)
		return err;
	/* its name is for messages only */
	snprintf(memory, sizeof(memory), "ram:%.200s,fd=%d,beside=on",
		 strpbrk(copy->name, ",\\") ? "memory" : copy->name, fd);
	err = copy_with(copy, ram, fd, memory, &answer);
	close(fd);
	if (!err && copy->json) {
		json_dumpf(answer, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(answer);
	return err;
}
