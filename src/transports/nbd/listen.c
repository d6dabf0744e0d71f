/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A socket file is made with mode 0600: who may use it is the administrator's
 * decision, by the folder or chmod. One left behind by a server that died is
 * recognised by nobody answering there, and replaced. A host name may stand for
 * several addresses; all of them are listened on.
 */
#include "transports/nbd/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/guard.h"

#define BACKLOG 64
#define SOCKET_FLAGS (SOCK_CLOEXEC | SOCK_NONBLOCK)

/* ---- unix -------------------------------------------------------------- */

/* Makes room at path: 0, or why there is none. */
static int path_clear(const char *path, const struct sockaddr_un *at, struct td_why *why)
{
	AUTO_CLOSE int fd = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : td_fail(why, -errno, "%s: %s", path,
						     strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return td_fail(why, -EEXIST, "%s: exists and is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCKET_FLAGS, 0);
	if (fd < 0)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	if (connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 ||
	    errno != ECONNREFUSED)
		return td_fail(why, -EADDRINUSE, "%s: another server listens there", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	return 0;
}

static int unix_bind(int fd, const char *path, const struct sockaddr_un *at,
		     struct nbd_sockets *out)
{
	struct stat st;

	/* A socket's own mode is what bind gives its file: no moment in which
	 * others might connect. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)at, sizeof(*at)) < 0)
		return -errno;
	if (listen(fd, BACKLOG) < 0 || lstat(path, &st) < 0) {
		int err = -errno;

		unlink(path);
		return err;
	}
	out->dev = st.st_dev;
	out->ino = st.st_ino;
	return 0;
}

static int unix_open(const char *path, struct nbd_sockets *out, struct td_why *why)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	AUTO_FREE char *copy = strdup(path);
	AUTO_CLOSE int fd = -1;
	int err;

	if (!copy)
		return td_fail(why, -ENOMEM, "%s: no memory", path);
	if (!*path || strlen(path) >= sizeof(at.sun_path))
		return td_fail(why, -EINVAL, "unix:%s: the path of a socket has 1 to %zu bytes",
			       path, sizeof(at.sun_path) - 1);
	strcpy(at.sun_path, path);
	err = path_clear(path, &at, why);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCKET_FLAGS, 0);
	err = fd < 0 ? -errno : unix_bind(fd, path, &at, out);
	if (err)
		return td_fail(why, err, "unix:%s: %s", path, strerror(-err));
	out->path = take(copy);
	out->fd[out->count++] = take_fd(&fd);
	return 0;
}

/* ---- tcp --------------------------------------------------------------- */

static int tcp_bind(const struct addrinfo *info, struct nbd_sockets *out)
{
	AUTO_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCKET_FLAGS, 0);
	int one = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (info->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	out->fd[out->count++] = take_fd(&fd);
	return 0;
}

/* "HOST:PORT", an IPv6 host in brackets: cuts text in place. */
static int host_split(char *text, char **host, char **port)
{
	char *colon = strrchr(text, ':');
	size_t len;

	if (!colon || colon == text || !colon[1])
		return -EINVAL;
	*colon = 0;
	len = strlen(text);
	if (*text == '[') {
		if (len < 3 || text[len - 1] != ']')
			return -EINVAL;
		text[len - 1] = 0;
		text++;
	} else if (strchr(text, ':')) {
		return -EINVAL;
	}
	*host = text;
	*port = colon + 1;
	return 0;
}

static int tcp_open(const char *address, struct nbd_sockets *out, struct td_why *why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list;
	AUTO_FREE char *text = strdup(address);
	char *host, *port;
	int err;

	if (!text)
		return td_fail(why, -ENOMEM, "tcp:%s: no memory", address);
	if (host_split(text, &host, &port))
		return td_fail(why, -EINVAL, "tcp:%s: wanted tcp:HOST:PORT, an IPv6 "
			       "host in brackets", address);
	/* of a number too large the resolver takes what 16 bits can hold */
	if (strspn(port, "0123456789") == strlen(port) &&
	    (strlen(port) > 5 || atoi(port) > UINT16_MAX))
		return td_fail(why, -EINVAL, "tcp:%s: a port is at most 65535", address);
	err = getaddrinfo(host, port, &hints, &list);
	if (err)
		return td_fail(why, -EINVAL, "tcp:%s: %s", address, gai_strerror(err));
	for (struct addrinfo *at = list; at && out->count < NBD_SOCKETS_MAX;
	     at = at->ai_next) {
		err = tcp_bind(at, out);
		if (err)
			break;
	}
	freeaddrinfo(list);
	if (err) {
		nbd_sockets_close(out);
		return td_fail(why, err, "tcp:%s: %s", address, strerror(-err));
	}
	return 0;
}

/* ---- both -------------------------------------------------------------- */

int nbd_sockets_open(const char *address, struct nbd_sockets *out, struct td_why *why)
{
	*out = (struct nbd_sockets){ 0 };
	if (!strncmp(address, "unix:", 5))
		return unix_open(address + 5, out, why);
	if (!strncmp(address, "tcp:", 4))
		return tcp_open(address + 4, out, why);
	return td_fail(why, -EINVAL, "%s: wanted unix:PATH or tcp:HOST:PORT", address);
}

void nbd_sockets_close(struct nbd_sockets *sockets)
{
	struct stat st;

	if (sockets->path && lstat(sockets->path, &st) == 0 &&
	    st.st_dev == sockets->dev && st.st_ino == sockets->ino)
		unlink(sockets->path);
	while (sockets->count)
		close(sockets->fd[--sockets->count]);
	free(sockets->path);
	sockets->path = NULL;
}

void nbd_socket_name(int fd, bool peer, char *buf, size_t len)
{
	struct sockaddr_storage at;
	socklen_t at_len = sizeof(at);
	struct ucred cred;
	socklen_t cred_len = sizeof(cred);
	char host[INET6_ADDRSTRLEN], port[8];
	int err = peer ? getpeername(fd, (struct sockaddr *)&at, &at_len)
		       : getsockname(fd, (struct sockaddr *)&at, &at_len);

	snprintf(buf, len, "a peer");
	if (err)
		return;
	if (at.ss_family == AF_UNIX) {
		if (!peer)
			snprintf(buf, len, "unix:%s", ((struct sockaddr_un *)&at)->sun_path);
		else if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len))
			snprintf(buf, len, "process %d", (int)cred.pid);
	} else if (!getnameinfo((struct sockaddr *)&at, at_len, host, sizeof(host), port,
				sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV)) {
		snprintf(buf, len, at.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s",
			 host, port);
	}
}
