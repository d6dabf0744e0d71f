/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of survivor memory; see survivors.h.
 */
#include "survivors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../suite/suite.h"

static const struct store *store_before(const struct survivors *before, const char *name)
{
	for (unsigned i = 0; before && i < before->count; i++)
		if (!strcmp(before->file[i].name, name))
			return &before->file[i].store;
	return NULL;
}

void survivors_take(struct survivors *now, const struct survivors *before, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	require(d, "%s: %s", dir, strerror(errno));
	*now = (struct survivors){ 0 };
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		require(now->count < SURVIVORS_MAX && strlen(entry->d_name) < 64,
			"%s: too many files", dir);
		const struct store *was = store_before(before, entry->d_name);
		struct store *is = &now->file[now->count].store;
		strcpy(now->file[now->count++].name, entry->d_name);
		if (was)
			store_copy(is, was);
		int fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_CLOEXEC);
		require(fd >= 0, "%s/%s: %s", dir, entry->d_name, strerror(errno));
		store_follow(is, fd);
		close(fd);
	}
	closedir(d);
}

void survivors_free(struct survivors *survivors)
{
	for (unsigned i = 0; i < survivors->count; i++)
		store_free(&survivors->file[i].store);
}

static void folder_clear(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	require(d, "%s: %s", dir, strerror(errno));
	while ((entry = readdir(d)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(d), entry->d_name, 0);
	closedir(d);
}

void survivors_put(const struct survivors *survivors, const char *dir)
{
	char path[512];

	folder_clear(dir);
	for (unsigned i = 0; survivors && i < survivors->count; i++) {
		struct mirror mirror;

		snprintf(path, sizeof(path), "%s/%s", dir, survivors->file[i].name);
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		require(fd >= 0, "%s: %s", path, strerror(errno));
		close(fd);
		mirror_open(&mirror, path);
		mirror_set(&mirror, &survivors->file[i].store);
		mirror_close(&mirror);
	}
}
