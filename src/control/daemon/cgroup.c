/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a disk's cgroup comes from, best first:
 *
 *   systemd      a scope blktap-DISK.scope in blktap.slice, made by systemd-run.
 *                The hierarchy is systemd's; in a scope of its own a tapdisk
 *                also outlives the daemon's unit, whatever stops that.
 *   cgroup v2    a folder blktap/DISK where the io controller is
 *   blkio (v1)   the same in the older hierarchy
 *   cgroup v2    without the io controller: for accounting
 */
#include "control/daemon/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"

struct td_cgroups {
	char *folder; /* NULL: not by folders */
	bool systemd;
};

static bool write_word(const char *folder, const char *file, const char *word)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;

	if (asprintf(&path, "%s/%s", folder, file) < 0)
		return false;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, word, strlen(word)) == (ssize_t)strlen(word);
}

static bool has_word(const char *folder, const char *file, const char *word)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;
	char text[512], *rest = text, *found;
	ssize_t len;

	if (asprintf(&path, "%s/%s", folder, file) < 0)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[len < 0 ? 0 : len] = 0;
	while ((found = strsep(&rest, " \n")))
		if (!strcmp(found, word))
			return true;
	return false;
}

/* The folder of the first mount of type that has option (NULL: any). */
static char *mount_folder(const char *type, const char *option)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *mount;
	char *folder = NULL;

	while (mounts && !folder && (mount = getmntent(mounts)))
		if (!strcmp(mount->mnt_type, type) && (!option || hasmntopt(mount, option)))
			folder = strdup(mount->mnt_dir);
	if (mounts)
		endmntent(mounts);
	return folder;
}

static bool systemd_is_here(void)
{
	return !access("/run/systemd/system", F_OK) && !access("/usr/bin/systemd-run", X_OK);
}

static char *folder_in(const char *mount)
{
	char *folder;

	return mount && asprintf(&folder, "%s/blktap", mount) >= 0 ? folder : NULL;
}

static void find_best(struct td_cgroups *groups)
{
	AUTO_FREE char *v2 = mount_folder("cgroup2", NULL);
	AUTO_FREE char *v1 = mount_folder("cgroup", "blkio");
	bool v2_io = v2 && has_word(v2, "cgroup.controllers", "io");

	groups->systemd = systemd_is_here();
	if (!groups->systemd)
		groups->folder = folder_in(!v2_io && v1 ? v1 : v2);
}

/* rmdir() of a group fails while anything lives in it: what is left of disks
 * that ended while no daemon was there goes, all else stays. */
static void remove_left_over(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	if (dir)
		closedir(dir);
}

static int prepare_folder(const char *folder)
{
	AUTO_FREE char *parent = strdup(folder);
	char *slash = parent ? strrchr(parent, '/') : NULL;

	if (!slash)
		return -EINVAL;
	*slash = 0;
	write_word(parent, "cgroup.subtree_control", "+io");
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return -errno;
	/* v2 only; where there is no io controller, limits are not to be had */
	write_word(folder, "cgroup.subtree_control", "+io");
	remove_left_over(folder);
	return 0;
}

int td_cgroups_open(const char *where, struct td_cgroups **out, struct td_why *why)
{
	struct td_cgroups *groups = calloc(1, sizeof(*groups));
	bool automatic = !strcmp(where, "auto");
	int err = 0;

	if (!groups)
		return -ENOMEM;
	if (automatic)
		find_best(groups);
	else if (strcmp(where, "none"))
		groups->folder = strdup(where);
	if (groups->folder)
		err = prepare_folder(groups->folder);
	if (err && !automatic) {
		td_fail(why, err, "%s: cgroups: %s", where, strerror(-err));
		td_cgroups_free(groups);
		return err;
	}
	if (err)
		free(take(groups->folder));
	td_log(NULL, LOG_INFO, "cgroups of disks: %s",
	       groups->systemd ? "scopes in blktap.slice" : groups->folder ? groups->folder : "none");
	*out = groups;
	return 0;
}

void td_cgroups_free(struct td_cgroups *groups)
{
	if (!groups)
		return;
	if (groups->folder)
		rmdir(groups->folder); /* fails while there are disks */
	free(groups->folder);
	free(groups);
}

char *td_cgroups_path(const struct td_cgroups *groups, const char *disk)
{
	char *path = NULL;

	if (groups->systemd && asprintf(&path, "blktap-%s.scope", disk) < 0)
		return NULL;
	if (groups->folder && asprintf(&path, "%s/%s", groups->folder, disk) < 0)
		return NULL;
	return path;
}

int td_cgroups_make(struct td_cgroups *groups, const char *disk, int *join_fd)
{
	AUTO_FREE char *path = groups->folder ? td_cgroups_path(groups, disk) : NULL;
	AUTO_FREE char *procs = NULL;

	*join_fd = -1;
	if (!path)
		return 0;
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return -errno;
	if (asprintf(&procs, "%s/cgroup.procs", path) < 0)
		return -ENOMEM;
	*join_fd = open(procs, O_WRONLY | O_CLOEXEC);
	return *join_fd < 0 ? -errno : 0;
}

int td_cgroups_remove(struct td_cgroups *groups, const char *disk)
{
	AUTO_FREE char *path = groups->folder ? td_cgroups_path(groups, disk) : NULL;

	return path && rmdir(path) < 0 ? -errno : 0;
}

unsigned td_cgroups_command(struct td_cgroups *groups, const char *disk, char **words)
{
	static const char *const command[] = {
		"/usr/bin/systemd-run",
		"--scope",
		"--quiet",
		"--collect",
		"--slice=blktap.slice",
		"--property=IOAccounting=yes",
		/* at shutdown: after the guests, and before what holds the images */
		"--property=Before=xendomains.service",
		"--property=After=local-fs.target remote-fs.target",
		"--description=blktap disk",
	};
	unsigned n = 0;

	if (!groups->systemd)
		return 0;
	for (; n < ARRAY_SIZE(command); n++)
		words[n] = strdup(command[n]);
	if (asprintf(&words[n], "--unit=blktap-%s.scope", disk) < 0)
		words[n] = NULL;
	words[n + 1] = strdup("--");
	return n + 2;
}
