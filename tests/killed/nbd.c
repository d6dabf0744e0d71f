/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small NBD client; see nbd.h.
 */
#include "nbd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"

#define FIXED_NEWSTYLE 1
#define NO_ZEROES 2
#define OPT_EXPORT_NAME 1

struct hello {
	char magic[8], option[8];
	be16 flags;
};

struct option {
	char magic[8];
	be32 option, len;
};

struct export {
	be64 size;
	be16 flags;
};

struct request {
	be32 magic;
	be16 flags, command;
	be64 cookie, offset;
	be32 len;
};

struct reply {
	be32 magic, err;
	be64 cookie;
};

static bool put(struct nbd *nbd, const void *data, uint64_t len)
{
	while (len) {
		ssize_t n = send(nbd->fd, data, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data = (const char *)data + n;
		len -= n;
	}
	return true;
}

bool nbd_get(struct nbd *nbd, void *data, uint64_t len)
{
	while (len) {
		ssize_t n = recv(nbd->fd, data, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data = (char *)data + n;
		len -= n;
	}
	return true;
}

static bool greet(struct nbd *nbd)
{
	struct hello hello;
	be32 flags = to_be32(FIXED_NEWSTYLE | NO_ZEROES);
	struct option option = { .option = to_be32(OPT_EXPORT_NAME) };
	struct export export;

	memcpy(option.magic, "IHAVEOPT", 8);
	if (!nbd_get(nbd, &hello, sizeof(hello)) || memcmp(hello.magic, "NBDMAGIC", 8) ||
	    !put(nbd, &flags, sizeof(flags)) || !put(nbd, &option, sizeof(option)) ||
	    !nbd_get(nbd, &export, sizeof(export)))
		return false;
	nbd->size = from_be64(export.size);
	nbd->can = from_be16(export.flags);
	return true;
}

bool nbd_connect(struct nbd *nbd, const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 30 }; /* no reply takes longer */

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
	nbd->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(nbd->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(nbd->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (!connect(nbd->fd, (struct sockaddr *)&to, sizeof(to)) && greet(nbd))
		return true;
	nbd_close(nbd);
	return false;
}

void nbd_close(struct nbd *nbd)
{
	close(nbd->fd);
}

bool nbd_send(struct nbd *nbd, enum nbd_command command, unsigned flags, uint64_t cookie,
	      uint64_t offset, uint32_t len, const void *data)
{
	struct request request = {
		.magic = to_be32(0x25609513), .flags = to_be16(flags),
		.command = to_be16(command), .cookie = to_be64(cookie),
		.offset = to_be64(offset), .len = to_be32(len),
	};

	return put(nbd, &request, sizeof(request)) && (!data || put(nbd, data, len));
}

bool nbd_reply(struct nbd *nbd, uint64_t *cookie, uint32_t *err)
{
	struct reply reply;

	if (!nbd_get(nbd, &reply, sizeof(reply)) || from_be32(reply.magic) != 0x67446698)
		return false;
	*cookie = from_be64(reply.cookie);
	*err = from_be32(reply.err);
	return true;
}
