/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server: it accepts connections, bounds their number and spreads them over the
 * queues of the disk.
 *
 * Peers that connect and do not negotiate cannot keep others out: they have ten
 * seconds, and when there are too many of them the oldest makes room.
 */
#include "transports/nbd/nbd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/disk.h"
#include "transports/nbd/conn.h"

#define CONNS_MAX 32   /* that are served */
#define HELLOS_MAX 16  /* that negotiate */
#define ACCEPT_BATCH 16
#define ACCEPT_RETRY_MS 200
#define SEND_BUFFER (1 << 20)

/* ---- connections ------------------------------------------------------- */

unsigned td_nbd_connections(const struct td_nbd *nbd)
{
	return nbd->serve_count;
}

void nbd_export_fill(struct nbd_export *export, const struct td_disk *disk)
{
	uint64_t cluster = td_disk_cluster(disk);

	*export = (struct nbd_export){
		.name = td_disk_name(disk),
		.size = td_disk_size(disk),
		.block_size = td_disk_block_size(disk),
		.can = td_disk_can(disk),
	};
	if (td_disk_read_only(disk))
		export->can &= ~(uint32_t)TD_CAN_WRITE;
	if (!is_pow2(cluster) || cluster > NBD_MAX_PAYLOAD)
		cluster = 0;
	export->preferred = max_u64(max_u64(cluster, 4096), export->block_size);
}

struct nbd_lane *nbd_lane_choose(struct td_nbd *nbd)
{
	struct nbd_lane *idlest = &nbd->lanes[0];

	for (unsigned i = 1; i < nbd->lane_count; i++)
		if (nbd->lanes[i].count < idlest->count)
			idlest = &nbd->lanes[i];
	idlest->count++;
	return idlest;
}

/* ---- accepting --------------------------------------------------------- */

static void hello_evict(struct td_nbd *nbd)
{
	LIST_FOR(struct nbd_conn, conn, &nbd->lanes[0].conns, link) {
		if (conn->state == NBD_CONN_HELLO) {
			nbd_conn_drop(conn, "gives way: too many negotiate");
			return;
		}
	}
}

static void socket_tune(int fd)
{
	int one = 1, size = SEND_BUFFER, domain = 0;
	socklen_t len = sizeof(domain);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	if (domain == AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	} else { /* the kernel sizes TCP's buffers itself */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	}
}

static void peer_take(struct td_nbd *nbd, int fd)
{
	const char *name = td_disk_name(nbd->disk);
	char peer[64];
	int err;

	nbd_socket_name(fd, true, peer, sizeof(peer));
	if (nbd->serve_count >= CONNS_MAX) {
		td_log_limited(&nbd->noise, name, LOG_WARNING,
			       "NBD: %s refused: %d connections are served already",
			       peer, CONNS_MAX);
		close(fd);
		return;
	}
	if (nbd->hello_count >= HELLOS_MAX)
		hello_evict(nbd);
	socket_tune(fd);
	err = nbd_conn_new(nbd, fd, peer);
	if (err)
		td_log_limited(&nbd->noise, name, LOG_WARNING, "NBD: %s refused: %s",
			       peer, strerror(-err));
}

static void listeners_watch(struct td_nbd *nbd, uint32_t events)
{
	for (unsigned i = 0; i < nbd->sockets.count; i++)
		td_watch_change(nbd->loop, &nbd->listener[i].watch, events);
}

static void accept_again(struct td_timer *timer)
{
	listeners_watch(container_of(timer, struct td_nbd, accept_timer), EPOLLIN);
}

/* Who comes while a slow disk keeps connections whose peers are gone waits for
 * one of them to end; it is not told that we are full. */
static bool room_soon(const struct td_nbd *nbd)
{
	return nbd->serve_count >= CONNS_MAX && nbd->gone_count;
}

static void listener_ready(struct td_watch *watch, uint32_t events)
{
	struct nbd_listener *listener = container_of(watch, struct nbd_listener, watch);
	struct td_nbd *nbd = listener->nbd;

	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		int fd;

		if (room_soon(nbd)) {
			nbd->full = true;
			listeners_watch(nbd, 0);
			return;
		}
		fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			peer_take(nbd, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
		    errno == ENOBUFS) {
			td_log_limited(&nbd->noise, td_disk_name(nbd->disk), LOG_WARNING,
				       "NBD: no room for a connection: %s",
				       strerror(errno));
			listeners_watch(nbd, 0);
			td_timer_arm(nbd->loop, &nbd->accept_timer, ACCEPT_RETRY_MS);
		}
		return; /* none left, or one that went away meanwhile */
	}
}

static void listeners_stop(struct td_nbd *nbd, unsigned count)
{
	while (count--)
		td_watch_stop(nbd->loop, &nbd->listener[count].watch);
	nbd_sockets_close(&nbd->sockets);
}

static int listeners_start(struct td_nbd *nbd, struct td_why *why)
{
	for (unsigned i = 0; i < nbd->sockets.count; i++) {
		struct nbd_listener *listener = &nbd->listener[i];
		int err;

		listener->nbd = nbd;
		listener->watch.ready = listener_ready;
		err = td_watch_start(nbd->loop, &listener->watch, nbd->sockets.fd[i],
				     EPOLLIN);
		if (err) {
			listeners_stop(nbd, i);
			return td_fail(why, err, "NBD: cannot watch a socket: %s",
				       strerror(-err));
		}
	}
	return 0;
}

/* ---- beginning and end ------------------------------------------------- */

int td_nbd_listen(struct td_disk *disk, const char *address, struct td_nbd **out,
		  struct td_why *why)
{
	struct td_nbd *nbd = calloc(1, sizeof(*nbd));
	char where[128];
	int err;

	if (!nbd)
		return td_fail(why, -ENOMEM, "NBD: no memory");
	nbd->disk = disk;
	nbd->loop = td_queue_loop(td_disk_queue(disk));
	nbd->lane_count = td_disk_queues(disk);
	nbd->lanes = calloc(nbd->lane_count, sizeof(*nbd->lanes));
	if (!nbd->lanes) {
		free(nbd);
		return td_fail(why, -ENOMEM, "NBD: no memory");
	}
	nbd->accept_timer.fired = accept_again;
	err = nbd_sockets_open(address, &nbd->sockets, why);
	if (err)
		goto free_nbd;
	nbd_socket_name(nbd->sockets.fd[0], false, where, sizeof(where));
	err = listeners_start(nbd, why);
	if (err)
		goto free_nbd;
	for (; nbd->lanes_open < nbd->lane_count; nbd->lanes_open++)
		nbd_lane_open(&nbd->lanes[nbd->lanes_open], nbd,
			      td_disk_queue_at(disk, nbd->lanes_open));
	td_log(td_disk_name(disk), LOG_INFO, "NBD: listening on %s", where);
	*out = nbd;
	return 0;
free_nbd:
	free(nbd->lanes);
	free(nbd);
	return err;
}

void nbd_lane_ended(struct td_post *post)
{
	struct td_nbd *nbd = container_of(post, struct nbd_lane, end)->nbd;
	void (*done)(void *arg) = nbd->closed;
	void *arg = nbd->closed_arg;

	if (--nbd->lanes_open)
		return;
	free(nbd->lanes);
	free(nbd);
	done(arg);
}

void nbd_conn_counted(struct td_post *post)
{
	struct nbd_conn *conn = container_of(post, struct nbd_conn, post);
	struct td_nbd *nbd = conn->nbd;

	if (conn->served) {
		nbd->serve_count--;
		nbd->gone_count--;
		conn->lane->count--;
	}
	free(conn);
	if (nbd->full && !nbd->closing) {
		nbd->full = false;
		listeners_watch(nbd, EPOLLIN);
	}
}

void td_nbd_close(struct td_nbd *nbd, void (*done)(void *arg), void *arg)
{
	nbd->closing = true;
	nbd->closed = done;
	nbd->closed_arg = arg;
	td_timer_cancel(&nbd->accept_timer);
	listeners_stop(nbd, nbd->sockets.count);
	for (unsigned i = 0; i < nbd->lane_count; i++)
		nbd_lane_close(&nbd->lanes[i]);
}
