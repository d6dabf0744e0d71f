/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections that one queue of the disk serves, on its thread: their replies are
 * gathered at the end of each turn, and idle memory goes back.
 */
#include "core/disk.h"
#include "transports/nbd/conn.h"

#define TRIM_MS 1000

void nbd_sending(struct nbd_conn *conn)
{
	if (!conn->blocked && list_empty(&conn->send_link))
		list_add(&conn->lane->sending, &conn->send_link);
}

static bool send_all(struct td_flush_hook *hook)
{
	struct nbd_lane *lane = container_of(hook, struct nbd_lane, hook);
	struct list *link;

	while ((link = list_pop(&lane->sending)))
		nbd_conn_send(list_item(link, struct nbd_conn, send_link));
	return false; /* what it makes room for comes back as a deferred call */
}

/* Buffers nobody has used for a whole period go back to the system. */
static void trim(struct td_timer *timer)
{
	struct nbd_lane *lane = container_of(timer, struct nbd_lane, trim_timer);
	bool more = false;

	LIST_FOR(struct nbd_conn, conn, &lane->conns, link) {
		bool idle = conn->head == conn->tail &&
			    !(conn->pool && td_pool_busy(conn->pool));

		more |= !nbd_buffers_trim(&conn->buffers, idle);
	}
	if (more)
		td_timer_arm(lane->loop, timer, TRIM_MS);
}

void nbd_touched(struct nbd_lane *lane)
{
	if (!lane->trim_timer.armed && !lane->closing)
		td_timer_arm(lane->loop, &lane->trim_timer, TRIM_MS);
}

/* ---- beginning and end ------------------------------------------------- */

static void lane_begins(struct td_post *post)
{
	struct nbd_lane *lane = container_of(post, struct nbd_lane, begin);

	td_loop_add_flush(lane->loop, &lane->hook);
}

static void lane_ended(struct td_defer *defer)
{
	struct nbd_lane *lane = container_of(defer, struct nbd_lane, ended);

	td_loop_del_flush(&lane->hook);
	lane->end.run = nbd_lane_ended;
	td_loop_post(lane->nbd->loop, &lane->end);
}

static void end_check(struct nbd_lane *lane)
{
	if (lane->closing && list_empty(&lane->conns))
		td_loop_defer(lane->loop, &lane->ended);
}

static void lane_ends(struct td_post *post)
{
	struct nbd_lane *lane = container_of(post, struct nbd_lane, end);

	lane->closing = true;
	td_timer_cancel(&lane->trim_timer);
	LIST_FOR(struct nbd_conn, conn, &lane->conns, link)
		nbd_conn_drain(conn);
	end_check(lane);
}

void nbd_lane_open(struct nbd_lane *lane, struct td_nbd *nbd, struct td_queue *queue)
{
	lane->nbd = nbd;
	lane->queue = queue;
	lane->loop = td_queue_loop(queue);
	list_init(&lane->conns);
	list_init(&lane->sending);
	lane->hook.flush = send_all;
	lane->trim_timer.fired = trim;
	lane->ended.run = lane_ended;
	lane->begin.run = lane_begins;
	td_loop_post(lane->loop, &lane->begin);
}

void nbd_lane_close(struct nbd_lane *lane)
{
	lane->end.run = lane_ends;
	td_loop_post(lane->loop, &lane->end);
}

void nbd_conn_ended(struct nbd_conn *conn)
{
	struct nbd_lane *lane = conn->lane;

	list_del(&conn->link);
	td_loop_undefer(lane->loop, &conn->later);
	td_pool_free(conn->pool);
	nbd_buffers_fini(&conn->buffers);
	conn->post.run = nbd_conn_counted;
	td_loop_post(lane->nbd->loop, &conn->post);
	end_check(lane);
}
