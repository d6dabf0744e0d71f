/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection: a handle of libnbd, which speaks the protocol and TLS. It is
 * connected on a worker thread, since names are looked up and peers may be silent;
 * then the loop watches its socket and tells libnbd when it is ready.
 *
 * libnbd holds a lock while it calls back, so callbacks only put a command on the
 * list of those that have ended; link.c looks at it at the end of the loop's turn.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "drivers/nbd/nbd.h"

#define ALLOCATION LIBNBD_CONTEXT_BASE_ALLOCATION

/* ---- connecting ---------------------------------------------------------- */

static int libnbd_fail(struct td_why *why)
{
	int err = nbd_get_errno();

	return td_fail(why, err ? -err : -EIO, "%s",
		       nbd_get_error() ? nbd_get_error() : "libnbd does not say why");
}

static int handle_set(const struct nbd *nbd, struct nbd_handle *handle)
{
	if (nbd_add_meta_context(handle, ALLOCATION) < 0 ||
	    nbd_set_pread_initialize(handle, false) < 0)
		return -1;
	if (nbd->tls_certificates &&
	    nbd_set_tls_certificates(handle, nbd->tls_certificates) < 0)
		return -1;
	if (nbd->tls_psk && nbd_set_tls_psk_file(handle, nbd->tls_psk) < 0)
		return -1;
	/* a URI may come from an image: it can name a server, but no local file */
	return nbd_set_uri_allow_local_file(handle, false);
}

/* A peer that vanished without a word is found out: while something is on its way
 * to it, and while nothing is. These fail on what is no TCP socket. */
static void handle_tune(const struct nbd *nbd, struct nbd_handle *handle)
{
	int fd = nbd_aio_get_fd(handle), on = 1, idle = 15, every = 5, times = 3;
	unsigned patience_ms = nbd->timeout * 500;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof(patience_ms));
}

static int handle_connect(const struct nbd *nbd, struct nbd_handle *handle,
			  uint64_t deadline_ms, struct td_why *why)
{
	if (handle_set(nbd, handle) < 0 || nbd_aio_connect_uri(handle, nbd->img->target) < 0)
		return libnbd_fail(why);
	while (nbd_aio_is_connecting(handle) == 1 || nbd_aio_is_negotiating(handle) == 1) {
		uint64_t now = nbd_now_ms();

		if (now >= deadline_ms)
			return td_fail(why, -ETIMEDOUT, "the server does not answer");
		if (nbd_poll(handle, deadline_ms - now) < 0)
			return libnbd_fail(why);
	}
	if (nbd_aio_is_ready(handle) != 1)
		return td_fail(why, -EIO, "the server hung up");
	handle_tune(nbd, handle);
	return 0;
}

int conn_dial(const struct nbd *nbd, uint64_t deadline_ms, struct nbd_handle **out,
	      struct td_why *why)
{
	struct nbd_handle *handle = nbd_create();
	int err;

	if (!handle)
		return libnbd_fail(why);
	err = handle_connect(nbd, handle, deadline_ms, why);
	if (err) {
		nbd_close(handle);
		return err;
	}
	*out = handle;
	return 0;
}

int conn_facts(struct nbd_handle *handle, struct facts *out, struct td_why *why)
{
	int64_t size = nbd_get_size(handle);
	int64_t min = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
	int64_t preferred = nbd_get_block_size(handle, LIBNBD_SIZE_PREFERRED);
	int64_t max = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return libnbd_fail(why);
	*out = (struct facts){
		.size = size,
		.block = min > 512 ? min : 512,
		.preferred = preferred > 0 ? preferred : 0,
		.max = max > 0 ? min_u64(max, PAYLOAD_MAX) : PAYLOAD_MAX,
		.read_only = nbd_is_read_only(handle) == 1,
		.flush = nbd_can_flush(handle) == 1,
		.fua = nbd_can_fua(handle) == 1,
		.trim = nbd_can_trim(handle) == 1,
		.zero = nbd_can_zero(handle) == 1,
		.extents = nbd_can_meta_context(handle, ALLOCATION) == 1,
		.multi = nbd_can_multi_conn(handle) == 1,
	};
	if (!is_pow2(out->block) || out->block > 4096)
		return td_fail(why, -EINVAL, "the server's block size of %llu bytes is not "
			       "supported", (unsigned long long)out->block);
	out->max = round_down(out->max, out->block);
	if (!out->max)
		return td_fail(why, -EINVAL, "the server takes no request of a block");
	return 0;
}

/* ---- events -------------------------------------------------------------- */

static void conn_look(struct conn *conn)
{
	if (nbd_aio_is_dead(conn->handle) || nbd_aio_is_closed(conn->handle))
		conn->lost = true;
}

static void conn_ready(struct td_watch *watch, uint32_t events)
{
	struct conn *conn = container_of(watch, struct conn, watch);
	struct nbd_handle *handle = conn->handle;

	if (events & ~EPOLLOUT && nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(handle);
	if (events & EPOLLOUT && nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(handle);
	conn_look(conn);
	td_defer(conn->nbd->img->queue, &conn->nbd->turn);
}

static uint32_t conn_wants(const struct conn *conn)
{
	unsigned direction = nbd_aio_get_direction(conn->handle);

	return (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0);
}

void conn_rewatch(struct conn *conn)
{
	uint32_t wants = conn->lost ? 0 : conn_wants(conn);

	if (td_watch(conn->nbd->img->queue, &conn->watch, wants))
		conn->lost = true; /* what we cannot watch is of no use */
}

int conn_start(struct conn *conn, struct nbd_handle *handle)
{
	conn->handle = handle;
	conn->lost = false;
	conn->watch.fd = nbd_aio_get_fd(handle);
	conn->watch.ready = conn_ready;
	return td_watch(conn->nbd->img->queue, &conn->watch, conn_wants(conn));
}

void conn_stop(struct conn *conn, struct list *unanswered)
{
	if (!conn->handle)
		return;
	LIST_FOR (struct cmd, cmd, &conn->sent, link)
		cmd->conn = NULL; /* closing tells us nothing of it any more */
	list_join(unanswered, &conn->sent);
	conn->in_flight = 0;
	td_watch(conn->nbd->img->queue, &conn->watch, 0);
	nbd_close(conn->handle);
	conn->handle = NULL;
}

/* ---- commands ------------------------------------------------------------ */

static void cmd_ended(struct cmd *cmd, int err)
{
	struct nbd *nbd = cmd->nbd;

	cmd->err = err;
	cmd->conn->answered_ms = nbd_now_ms();
	cmd->conn->in_flight--;
	cmd->conn = NULL;
	list_del(&cmd->link);
	list_add(&nbd->ended, &cmd->link);
}

static int cmd_completed(void *arg, int *error)
{
	struct cmd *cmd = arg;

	if (cmd->conn)
		cmd_ended(cmd, -*error);
	return 1; /* libnbd forgets it */
}

static int cmd_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
		       size_t count, int *error)
{
	struct cmd *cmd = arg;

	if (!cmd->conn || strcmp(context, ALLOCATION) || offset != cmd->offset || count < 2)
		return 0;
	cmd->req->extent = (struct td_extent){
		.len = entries[0],
		.flags = (entries[1] & LIBNBD_STATE_HOLE ? TD_EXTENT_HOLE : 0) |
			 (entries[1] & LIBNBD_STATE_ZERO ? TD_EXTENT_ZERO : 0),
	};
	return 0;
}

static int64_t conn_issue(struct nbd_handle *handle, struct cmd *cmd)
{
	nbd_completion_callback done = { .callback = cmd_completed, .user_data = cmd };
	nbd_extent_callback extents = { .callback = cmd_extents, .user_data = cmd };

	switch (cmd->op) {
	case TD_READ:
		return nbd_aio_pread(handle, cmd->buf, cmd->len, cmd->offset, done, 0);
	case TD_WRITE:
		return nbd_aio_pwrite(handle, cmd->buf, cmd->len, cmd->offset, done,
				      cmd->flags & TD_FUA ? LIBNBD_CMD_FLAG_FUA : 0);
	case TD_FLUSH:
		return nbd_aio_flush(handle, done, 0);
	case TD_DISCARD:
		return nbd_aio_trim(handle, cmd->len, cmd->offset, done, 0);
	case TD_WRITE_ZEROES:
		return nbd_aio_zero(handle, cmd->len, cmd->offset, done,
				    cmd->flags & TD_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
	case TD_EXTENTS:
		return nbd_aio_block_status(handle, cmd->len, cmd->offset, extents, done,
					    LIBNBD_CMD_FLAG_REQ_ONE);
	}
	return -1;
}

void conn_send(struct conn *conn, struct cmd *cmd)
{
	cmd->conn = conn;
	cmd->sent_ms = nbd_now_ms();
	list_add(&conn->sent, &cmd->link);
	conn->in_flight++;
	if (conn_issue(conn->handle, cmd) < 0 && cmd->conn) {
		int err = nbd_get_errno();

		conn_look(conn);
		cmd_ended(cmd, conn->lost ? -ENOTCONN : err ? -err : -EIO);
	}
	conn_look(conn);
}
