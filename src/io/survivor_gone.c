/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a killed process leaves is adopted by who opens the image next. If the image was
 * removed instead nobody will, and the memory would be lost until the next boot. So who
 * makes survivor memory looks at what else lies in its folder.
 *
 * An image may have been renamed, so a name that is not there tells nothing; nor does its
 * inode number, which somebody else may have by now. The kernel's handle of it does: it
 * opens what it was made of, or says that this is no more. Only root may open by a handle,
 * not all file systems have any, and of those across the network a handle may fail for
 * other reasons; then all stays as it is.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "io/survivor_impl.h"

/* Room for a handle, as the system calls want it. */
union handle {
	struct file_handle head;
	char room[sizeof(struct file_handle) + SURVIVOR_HANDLE];
};

void survivor_handle_fill(struct survivor_head *head, int fd)
{
	union handle handle = { .head.handle_bytes = SURVIVOR_HANDLE };
	int mount;

	head->handle_bytes = 0;
	if (name_to_handle_at(fd, "", &handle.head, &mount, AT_EMPTY_PATH) < 0)
		return;
	head->handle_bytes = handle.head.handle_bytes;
	head->handle_type = handle.head.handle_type;
	memcpy(head->handle, handle.head.f_handle, handle.head.handle_bytes);
}

/* ---- the file system ---------------------------------------------------------------- */

static int open_on(const char *path, uint64_t dev)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_dev != dev)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Any folder on it; -1: none is known. */
static int open_file_system(const struct survivor_head *head)
{
	AUTO_FREE char *path = strndup(head->path, sizeof(head->path));
	AUTO_FREE char *line = NULL;
	unsigned first, second;
	size_t room = 0;
	char at[4096];
	FILE *mounts;
	int fd = path ? open_on(dirname(path), head->dev) : -1;

	if (fd >= 0)
		return fd;
	mounts = fopen("/proc/self/mountinfo", "re");
	while (mounts && fd < 0 && getline(&line, &room, mounts) > 0)
		if (sscanf(line, "%*u %*u %u:%u %*s %4095s", &first, &second, at) == 3 &&
		    makedev(first, second) == head->dev)
			fd = open_on(at, head->dev);
	if (mounts)
		fclose(mounts);
	return fd;
}

/* Whether one that says that there is no such file is right. */
static bool knows_its_files(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	switch (fs.f_type) {
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case TMPFS_MAGIC:
		return true;
	}
	return false;
}

/* ---- one of them -------------------------------------------------------------------- */

static bool image_is_gone(const struct survivor_head *head)
{
	union handle handle = { .head = { head->handle_bytes, head->handle_type } };
	AUTO_CLOSE int on = -1, fd = -1;
	char boot[40];

	survivor_boot_id(boot);
	if (head->magic != SURVIVOR_MAGIC || head->version != SURVIVOR_VERSION ||
	    memcmp(boot, head->boot, sizeof(boot)) || !head->handle_bytes ||
	    head->handle_bytes > SURVIVOR_HANDLE)
		return false;
	memcpy(handle.head.f_handle, head->handle, head->handle_bytes);
	on = open_file_system(head);
	if (on < 0 || !knows_its_files(on))
		return false;
	fd = open_by_handle_at(on, &handle.head, O_PATH | O_CLOEXEC);
	return fd < 0 && errno == ESTALE;
}

static void look_at(int folder, const char *name)
{
	AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct survivor_head head;

	/* whoever uses it has it locked */
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 ||
	    pread(fd, &head, sizeof(head), 0) != sizeof(head) || !image_is_gone(&head))
		return;
	if (!unlinkat(folder, name, 0))
		td_log(name, LOG_NOTICE, "the image of this survivor memory, %.*s, was removed: so is "
		       "the memory", (int)sizeof(head.path), head.path);
}

void survivor_forget_gone(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir && fd >= 0)
		close(fd);
	while (dir && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "file-", 5))
			look_at(folder, entry->d_name);
	if (dir)
		closedir(dir);
}
