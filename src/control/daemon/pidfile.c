/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock is what counts; it goes with the process, however that ends. The
 * number in the file is for people and scripts.
 */
#include "control/daemon/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether path still is the file that fd is: its last owner may have removed it
 * between our open and our lock. */
static bool still_there(const char *path, int fd)
{
	struct stat by_path, by_fd;

	return !stat(path, &by_path) && !fstat(fd, &by_fd) && by_path.st_ino == by_fd.st_ino;
}

int td_pidfile_lock(const char *path, int *out, struct td_why *why)
{
	for (;;) {
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		char text[32] = "";
		ssize_t len;

		if (fd < 0)
			return td_fail(why, -errno, "%s: %s", path, strerror(errno));
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			len = pread(fd, text, sizeof(text) - 1, 0);
			close(fd);
			return td_fail(why, -EEXIST, "%s: another blktapctrl runs: process %d",
				       path, len > 0 ? atoi(text) : 0);
		}
		if (still_there(path, fd)) {
			*out = fd;
			return 0;
		}
		close(fd);
	}
}

int td_pidfile_write(int fd)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	return ftruncate(fd, 0) < 0 || pwrite(fd, text, len, 0) != len ? -EIO : 0;
}

void td_pidfile_remove(const char *path, int fd)
{
	unlink(path);
	close(fd);
}
