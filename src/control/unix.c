/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening Unix stream sockets: both ends take a path, and none is left open to
 * other users for an instant.
 */
#include "control/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int unix_socket(const char *path, struct sockaddr_un *at, int *fd)
{
	if (strlen(path) >= sizeof(at->sun_path))
		return -ENAMETOOLONG;
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(at->sun_path, path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return *fd < 0 ? -errno : 0;
}

int td_unix_connect(const char *path, bool wait, int *fd)
{
	struct sockaddr_un at;
	int sock, err = unix_socket(path, &at, &sock);

	if (err)
		return err;
	if (!wait && fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
		err = -errno;
	if (!err && connect(sock, (struct sockaddr *)&at, sizeof(at)) < 0)
		err = -errno;
	if (!err && fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
		err = -errno;
	if (err)
		close(sock);
	else
		*fd = sock;
	return err;
}

/* Removes a socket that nobody listens at; leaves anything else alone. */
static void remove_dead_socket(const char *path)
{
	int fd, err;
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	err = td_unix_connect(path, false, &fd);
	if (err == -ECONNREFUSED)
		unlink(path);
	else if (!err)
		close(fd);
}

int td_unix_listen(const char *path, int *fd)
{
	struct sockaddr_un at;
	int sock, err = unix_socket(path, &at, &sock);

	if (err)
		return err;
	remove_dead_socket(path);
	/* bind() makes the file with this mode; umask() could race with threads */
	if (fchmod(sock, 0600) < 0 || fcntl(sock, F_SETFL, O_NONBLOCK) < 0 ||
	    bind(sock, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(sock, 64) < 0) {
		err = -errno;
		close(sock);
		return err;
	}
	*fd = sock;
	return 0;
}
