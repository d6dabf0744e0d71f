/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests and their replies. A request takes a td_req and, for data, a buffer;
 * where one of them is missing the connection stalls until one comes back.
 *
 *     take -> fill (the payload of a write) -> go -> done -> answer -> sent
 *
 * A write's payload is copied once, from the staging buffer to a page-aligned
 * one, or received there at once where it is long. A read's data is sent from
 * the buffer it was read into.
 * Block status asks the disk for one extent after the other, up to a bound; a
 * trim with FUA is a discard and then a flush.
 */
#include <errno.h>
#include <string.h>

#include "transports/nbd/conn.h"

#define EXTENTS_MAX 1024 /* in one reply */
#define EXTENT_STEPS 1024 /* questions to the disk for one reply */

/* ---- replies ----------------------------------------------------------- */

void nbd_slot_put(struct nbd_slot *slot)
{
	struct nbd_conn *conn = slot->conn;

	if (slot->buf)
		nbd_buffers_put(&conn->buffers, slot->buf);
	td_pool_put(conn->pool, slot->req);
	if (conn->stalled || conn->state == NBD_CONN_GONE) {
		conn->stalled = false;
		td_loop_defer(conn->lane->loop, &conn->later);
	}
}

static struct nbd_wire_chunk chunk(const struct nbd_slot *slot,
				   enum nbd_chunk_type type, uint64_t len)
{
	return (struct nbd_wire_chunk){
		.magic = to_be32(NBD_CHUNK_MAGIC),
		.flags = to_be16(NBD_CHUNK_DONE),
		.type = to_be16(type),
		.cookie = slot->order.cookie,
		.len = to_be32(len),
	};
}

static void head_simple(struct nbd_slot *slot, uint32_t error)
{
	slot->head.simple = (struct nbd_wire_simple){
		.magic = to_be32(NBD_SIMPLE_MAGIC),
		.error = to_be32(error),
		.cookie = slot->order.cookie,
	};
	slot->head_len = sizeof(slot->head.simple);
}

static void head_chunk(struct nbd_slot *slot, uint32_t error)
{
	if (error) {
		slot->head.error.chunk = chunk(slot, NBD_CHUNK_ERROR, 6);
		slot->head.error.error = to_be32(error);
		slot->head.error.text_len = to_be16(0);
		slot->head_len = sizeof(slot->head.error);
	} else if (slot->order.op == TD_EXTENTS) {
		slot->head.status.chunk = chunk(slot, NBD_CHUNK_BLOCK_STATUS,
						4 + slot->body_len);
		slot->head.status.context = to_be32(NBD_CONTEXT_ALLOCATION);
		slot->head_len = sizeof(slot->head.status);
	} else if (slot->body_len) {
		slot->head.data.chunk = chunk(slot, NBD_CHUNK_DATA,
					      8 + slot->body_len);
		slot->head.data.offset = to_be64(slot->order.offset);
		slot->head_len = sizeof(slot->head.data);
	} else {
		slot->head.data.chunk = chunk(slot, NBD_CHUNK_NONE, 0);
		slot->head_len = sizeof(slot->head.data.chunk);
	}
}

static void answer(struct nbd_slot *slot, int err)
{
	struct nbd_conn *conn = slot->conn;
	enum td_op op = slot->order.op;
	uint32_t error = nbd_error(err);

	if (conn->state == NBD_CONN_GONE) {
		nbd_slot_put(slot);
		return;
	}
	slot->body_len = 0;
	if (!error && op == TD_READ)
		slot->body_len = slot->order.len;
	else if (!error && op == TD_EXTENTS)
		slot->body_len = slot->extent_count * sizeof(struct nbd_wire_extent);
	if (conn->hello.structured && (op == TD_READ || op == TD_EXTENTS))
		head_chunk(slot, error);
	else
		head_simple(slot, error);
	slot->next = NULL;
	*conn->replies_end = slot;
	conn->replies_end = &slot->next;
	nbd_sending(conn);
}

/* ---- block status ------------------------------------------------------ */

/* Takes the extent found; says whether to ask for the next one. */
static bool extent_take(struct nbd_slot *slot)
{
	struct nbd_wire_extent *found = slot->buf;
	uint64_t rest = slot->order.len - slot->extent_done;
	uint64_t len = min_u64(slot->req->extent.len, rest);
	uint32_t flags = slot->req->extent.flags & (TD_EXTENT_HOLE | TD_EXTENT_ZERO);
	struct nbd_wire_extent *last = found + slot->extent_count - 1;

	if (slot->extent_count && from_be32(last->flags) == flags)
		last->len = to_be32(from_be32(last->len) + len);
	else
		found[slot->extent_count++] = (struct nbd_wire_extent){
			.len = to_be32(len), .flags = to_be32(flags) };
	slot->extent_done += len;
	slot->extent_steps++;
	return len < rest && !slot->order.one_extent &&
	       slot->extent_count < EXTENTS_MAX && slot->extent_steps < EXTENT_STEPS;
}

/* ---- the disk's side --------------------------------------------------- */

static void submit(struct nbd_slot *slot)
{
	const struct nbd_order *order = &slot->order;
	struct td_req *req = slot->req;

	req->op = order->op;
	req->flags = order->flags;
	req->offset = order->offset + slot->extent_done;
	req->len = order->len - slot->extent_done;
	req->iov = NULL;
	req->iov_count = 0;
	if (order->op == TD_READ || order->op == TD_WRITE) {
		slot->iov = (struct iovec){ slot->buf, order->len };
		req->iov = &slot->iov;
		req->iov_count = 1;
	}
	td_submit(req);
}

static void go(struct nbd_slot *slot)
{
	if (slot->order.done)
		answer(slot, slot->order.err);
	else
		submit(slot);
}

/* Whether the request has another step to go, set up in its order. */
static bool next_step(struct nbd_slot *slot)
{
	if (slot->order.op == TD_EXTENTS)
		return extent_take(slot);
	if (!slot->order.then_flush)
		return false;
	slot->order.then_flush = false;
	slot->order.op = TD_FLUSH;
	slot->order.flags = 0;
	slot->order.offset = 0;
	slot->order.len = 0;
	return true;
}

void nbd_serve_done(struct td_req *req)
{
	struct nbd_slot *slot = td_req_user(req);
	struct nbd_conn *conn = slot->conn;

	if (req->err || conn->state == NBD_CONN_GONE || !next_step(slot)) {
		answer(slot, req->err);
		return;
	}
	slot->next = conn->again;
	conn->again = slot;
	td_loop_defer(conn->lane->loop, &conn->later);
}

void nbd_serve_again(struct nbd_conn *conn)
{
	struct nbd_slot *slot = conn->again;

	conn->again = NULL;
	while (slot) {
		struct nbd_slot *next = slot->next;

		submit(slot);
		slot = next;
	}
}

/* ---- the peer's side --------------------------------------------------- */

static size_t buffer_need(const struct nbd_order *order)
{
	if (order->done)
		return 0;
	if (order->op == TD_READ || order->op == TD_WRITE)
		return order->len;
	if (order->op == TD_EXTENTS)
		return EXTENTS_MAX * sizeof(struct nbd_wire_extent);
	return 0;
}

static struct nbd_slot *slot_get(struct nbd_conn *conn, const struct nbd_order *order)
{
	size_t need = buffer_need(order);
	struct td_req *req = td_pool_get(conn->pool);
	struct nbd_slot *slot;
	void *buf = NULL;

	if (!req)
		return NULL;
	if (need) {
		buf = nbd_buffers_get(&conn->buffers, need);
		if (!buf) {
			td_pool_put(conn->pool, req);
			return NULL;
		}
	}
	slot = td_req_user(req);
	slot->req = req;
	slot->conn = conn;
	slot->order = *order;
	slot->buf = buf;
	slot->extent_count = slot->extent_steps = 0;
	slot->extent_done = 0;
	return slot;
}

/* Takes the request at the head of the staging buffer; false: not now. */
static bool take(struct nbd_conn *conn)
{
	struct nbd_wire_request wire;
	struct nbd_order order;
	struct nbd_slot *slot;

	if (conn->tail - conn->head < sizeof(wire))
		return false;
	memcpy(&wire, conn->buffers.base + conn->head, sizeof(wire));
	switch (nbd_order_read(&conn->hello, &wire, &order)) {
	case NBD_TAKE:
		break;
	case NBD_BYE:
		nbd_conn_drain(conn);
		return false;
	case NBD_BAD:
		nbd_conn_drop(conn, "sent no request where one was due");
		return false;
	}
	slot = slot_get(conn, &order);
	if (!slot) {
		conn->stalled = true;
		return false;
	}
	conn->head += sizeof(wire);
	if (order.payload) {
		conn->filling = slot;
		conn->filled = 0;
	} else {
		go(slot);
	}
	return true;
}

/* Moves what there is of the payload; false: more must be received. */
static bool fill(struct nbd_conn *conn)
{
	struct nbd_slot *slot = conn->filling;
	uint32_t left = slot->order.payload - conn->filled;
	size_t len = min_u64(left, conn->tail - conn->head);

	if (slot->buf) /* else the request is refused already: drop it */
		memcpy((uint8_t *)slot->buf + conn->filled,
		       conn->buffers.base + conn->head, len);
	conn->head += len;
	conn->filled += len;
	if (len < left)
		return false;
	conn->filling = NULL;
	go(slot);
	return true;
}

void nbd_serve(struct nbd_conn *conn)
{
	while (conn->state == NBD_CONN_SERVE && !conn->stalled)
		if (!(conn->filling ? fill(conn) : take(conn)))
			break;
	nbd_touched(conn->lane);
}
