/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One NBD connection, and what the server and its connections share.
 */
#ifndef NBD_CONN_H
#define NBD_CONN_H

#include "base/list.h"
#include "base/log.h"
#include "core/queue.h"
#include "io/loop.h"
#include "transports/nbd/buffers.h"
#include "transports/nbd/hello.h"
#include "transports/nbd/listen.h"
#include "transports/nbd/request.h"

struct td_nbd {
	struct td_disk *disk;
	struct td_loop *loop;
	struct nbd_export export;
	struct nbd_listener {
		struct td_watch watch;
		struct td_nbd *nbd;
	} listener[NBD_SOCKETS_MAX];
	struct nbd_sockets sockets;
	struct list conns;             /* oldest first */
	unsigned hello_count;          /* that negotiate */
	unsigned serve_count;          /* that hold memory for requests */
	unsigned gone_count;           /* of them: their peers are gone */
	bool full;                     /* nobody is accepted before one ends */
	struct list sending;           /* connections with something to send */
	struct td_flush_hook hook;
	struct td_timer trim_timer;    /* gives idle memory back */
	struct td_timer accept_timer;  /* out of descriptors: tries again */
	struct td_ratelimit noise;     /* what peers can make us log */
	bool closing;
	void (*closed)(void *arg);
	void *closed_arg;
	struct td_defer closed_later;
};

enum nbd_conn_state {
	NBD_CONN_HELLO, /* negotiating, under a timer */
	NBD_CONN_SERVE, /* requests are taken */
	NBD_CONN_DRAIN, /* no more are taken; replies still go out; then closed */
	NBD_CONN_GONE,  /* no peer any more: only I/O in flight keeps us */
};

struct nbd_slot;

struct nbd_conn {
	struct td_nbd *nbd;
	struct list link;
	struct td_watch watch;         /* fd < 0 once closed */
	enum nbd_conn_state state;
	struct td_timer timer;         /* of the negotiation, and of the end */
	uint64_t last_ms;              /* until when the end may take */
	struct td_defer later;
	struct nbd_hello hello;
	struct nbd_buffers buffers;
	struct td_pool *pool;          /* from SERVE on */
	uint32_t watched;              /* the events asked for */
	char peer[64];

	/* received and not taken apart yet: staging[head, tail) */
	size_t head, tail;
	bool stalled;                  /* for want of a request or a buffer */
	struct nbd_slot *filling;      /* its payload is being received */
	uint32_t filled;

	/* answered and not sent yet, in order */
	struct nbd_slot *replies, **replies_end;
	size_t sent;                   /* of the first one, or of hello.out */
	bool blocked;                  /* the socket takes no more just now */
	struct list send_link;         /* in nbd->sending */

	struct nbd_slot *again;        /* requests with another step to go */
};

/* One request of a connection: the transport's part of its td_req. */
struct nbd_slot {
	struct td_req *req;
	struct nbd_conn *conn;
	struct nbd_order order;
	struct nbd_slot *next;
	void *buf;                     /* page-aligned; NULL: no data */
	struct iovec iov;              /* of the disk's request */
	uint32_t extent_count;         /* block status: found so far, in buf */
	uint32_t extent_steps;
	uint64_t extent_done;          /* bytes they cover */
	uint32_t head_len, body_len;   /* of the reply: head, then buf */
	union {
		struct nbd_wire_simple simple;
		struct nbd_wire_data data;
		struct nbd_wire_error error;
		struct nbd_wire_status status;
	} head;
};

/* Takes over fd. */
int nbd_conn_new(struct td_nbd *nbd, int fd, const char *peer);
/* Hangs up; what is in flight ends first. why (may be NULL) is for the log. */
void nbd_conn_drop(struct nbd_conn *conn, const char *why);
/* No more requests; replies due are sent if the socket takes them. */
void nbd_conn_drain(struct nbd_conn *conn);
/* Sends what is due; from the flush hook. */
void nbd_conn_send(struct nbd_conn *conn);

/* serve.c: requests and their replies */
void nbd_serve(struct nbd_conn *conn);       /* takes apart what was received */
void nbd_serve_again(struct nbd_conn *conn); /* next steps of several-step ones */
td_done nbd_serve_done;
void nbd_slot_put(struct nbd_slot *slot);

/* nbd.c */
void nbd_conn_ended(struct nbd_conn *conn);  /* frees it */
void nbd_sending(struct nbd_conn *conn);     /* it has something to send */
void nbd_touched(struct td_nbd *nbd);        /* memory is in use again */

#endif
