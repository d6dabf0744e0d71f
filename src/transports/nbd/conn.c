/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The socket side of a connection: bytes come into the staging buffer in as few
 * calls as possible, replies leave gathered, once per turn of the loop.
 *
 *     HELLO --agreed--> SERVE --peer says so, or we stop--> DRAIN --> GONE
 *       any of them --error, hang-up, time--> GONE --nothing in flight--> freed
 *
 * A peer that does not read its replies keeps their requests and buffers busy;
 * when those run out we stop reading from it, and that is all it gets.
 * A connection is freed from its deferred call only, so that whoever is working
 * on it may finish.
 */
#include "transports/nbd/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/disk.h"

#define HELLO_MS 10000
#define GATHER 64 /* replies per call */
/* A peer that is to take its last replies: without taking anything, and in all. */
#define STUCK_MS 3000
#define LAST_MS 30000

static bool conn_idle(const struct nbd_conn *conn)
{
	return !conn->pool || !td_pool_busy(conn->pool);
}

/* Asks the loop for the events that make sense now. */
static void conn_rearm(struct nbd_conn *conn)
{
	uint32_t want = conn->blocked ? EPOLLOUT : 0;

	if (conn->state == NBD_CONN_GONE)
		return;
	if (conn->state == NBD_CONN_HELLO && !conn->hello.out_len)
		want |= EPOLLIN;
	if (conn->state == NBD_CONN_SERVE && !conn->stalled)
		want |= EPOLLIN;
	if (want == conn->watched)
		return;
	conn->watched = want;
	if (td_watch_change(conn->lane->loop, &conn->watch, want) < 0)
		nbd_conn_drop(conn, "cannot be watched");
}

static void conn_run(struct nbd_conn *conn);

/* ---- the end ----------------------------------------------------------- */

static void replies_forget(struct nbd_conn *conn)
{
	struct nbd_slot *slot;

	while ((slot = conn->replies)) {
		conn->replies = slot->next;
		nbd_slot_put(slot);
	}
	conn->replies_end = &conn->replies;
	if (conn->filling)
		nbd_slot_put(conn->filling);
	conn->filling = NULL;
}

void nbd_conn_drop(struct nbd_conn *conn, const char *why)
{
	struct td_nbd *nbd = conn->nbd;
	struct td_loop *loop = conn->lane->loop;

	if (conn->state == NBD_CONN_GONE)
		return;
	if (why)
		td_log_limited(&nbd->noise, td_disk_name(nbd->disk), LOG_WARNING,
			       "NBD: %s: %s", conn->peer, why);
	if (conn->state == NBD_CONN_HELLO)
		nbd->hello_count--;
	else
		nbd->gone_count++;
	conn->state = NBD_CONN_GONE;
	td_timer_cancel(&conn->timer);
	td_watch_stop(loop, &conn->watch);
	close(conn->watch.fd);
	conn->watch.fd = -1;
	list_del(&conn->send_link);
	replies_forget(conn);
	td_loop_defer(loop, &conn->later);
}

static void drain_check(struct nbd_conn *conn)
{
	if (conn->state != NBD_CONN_DRAIN)
		return;
	if (conn_idle(conn))
		nbd_conn_drop(conn, NULL);
}

static void stuck(struct td_timer *timer)
{
	struct nbd_conn *conn = container_of(timer, struct nbd_conn, timer);

	if (conn->blocked) /* else the disk is at it */
		nbd_conn_drop(conn, "does not take its last replies");
}

static void drain_moved(struct nbd_conn *conn)
{
	uint64_t now = td_now_ms();
	uint64_t left = conn->last_ms > now ? conn->last_ms - now : 0;

	td_timer_arm(conn->lane->loop, &conn->timer, min_u64(left, STUCK_MS));
}

void nbd_conn_drain(struct nbd_conn *conn)
{
	if (conn->state == NBD_CONN_HELLO) {
		nbd_conn_drop(conn, NULL);
		return;
	}
	if (conn->state == NBD_CONN_SERVE) {
		conn->state = NBD_CONN_DRAIN;
		conn->last_ms = td_now_ms() + LAST_MS;
		conn->timer.fired = stuck;
		if (conn->blocked)
			drain_moved(conn);
		if (conn->filling)
			nbd_slot_put(conn->filling);
		conn->filling = NULL;
	}
	drain_check(conn);
	conn_rearm(conn);
}

/* ---- sending ----------------------------------------------------------- */

/* The unsent rest of the first replies. */
static unsigned replies_gather(const struct nbd_conn *conn, struct iovec *iov)
{
	const struct nbd_slot *slot = conn->replies;
	size_t skip = conn->sent;
	unsigned n = 0;

	for (unsigned k = 0; slot && k < GATHER; slot = slot->next, k++) {
		size_t from = min_u64(skip, slot->head_len);

		if (from < slot->head_len)
			iov[n++] = (struct iovec){ (uint8_t *)&slot->head + from,
						   slot->head_len - from };
		from = skip - from;
		if (from < slot->body_len)
			iov[n++] = (struct iovec){ (uint8_t *)slot->buf + from,
						   slot->body_len - from };
		skip = 0;
	}
	return n;
}

static void replies_sent(struct nbd_conn *conn, size_t len)
{
	len += conn->sent;
	while (conn->replies) {
		struct nbd_slot *slot = conn->replies;
		size_t whole = (size_t)slot->head_len + slot->body_len;

		if (len < whole)
			break;
		len -= whole;
		conn->replies = slot->next;
		if (!conn->replies)
			conn->replies_end = &conn->replies;
		nbd_slot_put(slot);
	}
	conn->sent = len;
}

/* Returns what the socket took; 0: nothing just now; < 0: the peer is gone. */
static ssize_t conn_write(struct nbd_conn *conn, struct iovec *iov, unsigned count)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
	ssize_t len;

	do
		len = sendmsg(conn->watch.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (len < 0 && errno == EINTR);
	if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) {
		conn->blocked = true;
		if (conn->state == NBD_CONN_DRAIN && !conn->timer.armed)
			drain_moved(conn);
		return 0;
	}
	if (len < 0)
		nbd_conn_drop(conn, NULL);
	else if (conn->state == NBD_CONN_DRAIN)
		drain_moved(conn);
	return len;
}

void nbd_conn_send(struct nbd_conn *conn)
{
	while (conn->replies && !conn->blocked) {
		struct iovec iov[2 * GATHER];
		unsigned count = replies_gather(conn, iov);
		ssize_t len = conn_write(conn, iov, count);

		if (len < 0)
			return;
		replies_sent(conn, len);
	}
	drain_check(conn);
	conn_rearm(conn);
}

/* ---- negotiating ------------------------------------------------------- */

static void agreed(struct nbd_conn *conn)
{
	td_timer_cancel(&conn->timer);
	conn->nbd->hello_count--;
	conn->nbd->serve_count++;
	conn->served = true;
	conn->state = NBD_CONN_AGREED;
}

/* Sends hello.out, then acts on what the negotiation came to. */
static void hello_send(struct nbd_conn *conn)
{
	struct nbd_hello *hello = &conn->hello;

	while (hello->out_len && !conn->blocked) {
		struct iovec iov = { hello->out + conn->sent,
				     hello->out_len - conn->sent };
		ssize_t len = conn_write(conn, &iov, 1);

		if (len < 0)
			return;
		conn->sent += len;
		if (conn->sent == hello->out_len)
			conn->sent = hello->out_len = 0;
	}
	if (hello->out_len)
		return;
	switch (hello->state) {
	case NBD_HELLO_MORE:
		break;
	case NBD_HELLO_SERVE:
		agreed(conn);
		break;
	case NBD_HELLO_END:
		nbd_conn_drop(conn, NULL);
		break;
	case NBD_HELLO_BAD:
		nbd_conn_drop(conn, hello->error);
		break;
	}
}

static void hello_run(struct nbd_conn *conn)
{
	while (conn->state == NBD_CONN_HELLO) {
		size_t used;

		hello_send(conn);
		if (conn->state != NBD_CONN_HELLO || conn->hello.out_len)
			return;
		used = nbd_hello_step(&conn->hello, conn->buffers.base + conn->head,
				      conn->tail - conn->head);
		conn->head += used;
		if (!used && conn->hello.state == NBD_HELLO_MORE)
			return;
	}
}

static void hello_timeout(struct td_timer *timer)
{
	nbd_conn_drop(container_of(timer, struct nbd_conn, timer),
		      "negotiation takes too long");
}

/* ---- receiving --------------------------------------------------------- */

/* Where the next bytes go: the rest of a payload straight to its buffer, what
 * follows it to the staging buffer. */
static unsigned receive_aim(struct nbd_conn *conn, struct iovec *iov)
{
	struct nbd_slot *slot = conn->filling;
	unsigned n = 0;

	if (conn->head) {
		memmove(conn->buffers.base, conn->buffers.base + conn->head,
			conn->tail - conn->head);
		conn->tail -= conn->head;
		conn->head = 0;
	}
	if (slot && slot->buf)
		iov[n++] = (struct iovec){ (uint8_t *)slot->buf + conn->filled,
					   slot->order.payload - conn->filled };
	iov[n++] = (struct iovec){ conn->buffers.base + conn->tail,
				   NBD_STAGING - conn->tail };
	return n;
}

static void receive(struct nbd_conn *conn)
{
	struct iovec iov[2];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = receive_aim(conn, iov) };
	ssize_t len = recvmsg(conn->watch.fd, &msg, MSG_DONTWAIT);

	if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return;
	if (len <= 0) {
		nbd_conn_drop(conn, conn->state == NBD_CONN_SERVE && conn->filling
					    ? "hung up within a request" : NULL);
		return;
	}
	if (msg.msg_iovlen == 2) {
		size_t direct = min_u64(len, iov[0].iov_len);

		conn->filled += direct;
		len -= direct;
	}
	conn->tail += len;
}

/* On its lane's thread. */
static void serve_start(struct nbd_conn *conn)
{
	conn->state = NBD_CONN_SERVE;
	if (td_pool_new(conn->lane->queue, NBD_REQUESTS, sizeof(struct nbd_slot), nbd_serve_done,
			&conn->pool))
		nbd_conn_drop(conn, "no memory for its requests");
}

static void arrived(struct td_post *post)
{
	struct nbd_conn *conn = container_of(post, struct nbd_conn, post);

	list_add(&conn->lane->conns, &conn->link);
	conn->watched = EPOLLIN;
	if (td_watch_start(conn->lane->loop, &conn->watch, conn->watch.fd, EPOLLIN) < 0)
		nbd_conn_drop(conn, "cannot be watched");
	else
		serve_start(conn);
	conn_run(conn);
}

/* To the lane that is to serve it; true: that is another one, and it is gone. */
static bool moved(struct nbd_conn *conn)
{
	struct nbd_lane *lane = nbd_lane_choose(conn->nbd);

	if (lane == conn->lane) {
		serve_start(conn);
		return false;
	}
	td_watch_stop(conn->lane->loop, &conn->watch);
	td_loop_undefer(conn->lane->loop, &conn->later);
	list_del(&conn->link);
	conn->lane = lane;
	conn->post.run = arrived;
	td_loop_post(lane->loop, &conn->post);
	return true;
}

/* Takes apart what is in the staging buffer, in whatever state we are. */
static void conn_run(struct nbd_conn *conn)
{
	if (conn->state == NBD_CONN_HELLO)
		hello_run(conn);
	if (conn->state == NBD_CONN_AGREED && moved(conn))
		return;
	if (conn->state == NBD_CONN_SERVE)
		nbd_serve(conn);
	conn_rearm(conn);
}

static void conn_ready(struct td_watch *watch, uint32_t events)
{
	struct nbd_conn *conn = container_of(watch, struct nbd_conn, watch);

	if (events & EPOLLOUT) {
		conn->blocked = false;
		if (conn->replies)
			nbd_sending(conn);
	}
	if (events & EPOLLIN)
		receive(conn);
	else if (events & (EPOLLHUP | EPOLLERR))
		nbd_conn_drop(conn, NULL);
	conn_run(conn);
}

static void conn_later(struct td_defer *defer)
{
	struct nbd_conn *conn = container_of(defer, struct nbd_conn, later);

	nbd_serve_again(conn);
	if (conn->state != NBD_CONN_GONE)
		conn_run(conn);
	else if (conn_idle(conn))
		nbd_conn_ended(conn);
}

/* ---- the beginning ----------------------------------------------------- */

int nbd_conn_new(struct td_nbd *nbd, int fd, const char *peer)
{
	struct nbd_conn *conn = calloc(1, sizeof(*conn));
	int err = -ENOMEM;

	if (!conn)
		goto close_fd;
	conn->nbd = nbd;
	conn->lane = &nbd->lanes[0];
	conn->timer.fired = hello_timeout;
	conn->later.run = conn_later;
	conn->watch.ready = conn_ready;
	conn->replies_end = &conn->replies;
	list_init(&conn->send_link);
	snprintf(conn->peer, sizeof(conn->peer), "%s", peer);
	nbd_export_fill(&conn->export, nbd->disk);
	nbd_hello_start(&conn->hello, &conn->export);
	err = nbd_buffers_init(&conn->buffers);
	if (err)
		goto free_conn;
	conn->watched = EPOLLIN;
	err = td_watch_start(nbd->loop, &conn->watch, fd, EPOLLIN);
	if (err)
		goto free_buffers;
	list_add(&conn->lane->conns, &conn->link);
	nbd->hello_count++;
	td_timer_arm(nbd->loop, &conn->timer, HELLO_MS);
	conn_run(conn);
	return 0;
free_buffers:
	nbd_buffers_fini(&conn->buffers);
free_conn:
	free(conn);
close_fd:
	close(fd);
	return err;
}
