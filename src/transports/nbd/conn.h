/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One NBD connection, and what the server and its connections share.
 */
#ifndef NBD_CONN_H
#define NBD_CONN_H

#include <stdatomic.h>

#include "base/list.h"
#include "base/log.h"
#include "core/queue.h"
#include "io/loop.h"
#include "transports/nbd/buffers.h"
#include "transports/nbd/hello.h"
#include "transports/nbd/listen.h"
#include "transports/nbd/request.h"

/* What is served on one of the disk's queues, and touched by its thread only. */
struct nbd_lane {
	struct td_nbd *nbd;
	struct td_queue *queue;
	struct td_loop *loop;
	unsigned count;                /* connections it was given; kept at home */
	struct list conns;             /* oldest first */
	struct list sending;           /* those with something to send */
	struct td_flush_hook hook;
	struct td_timer trim_timer;    /* gives idle memory back */
	bool closing;
	struct td_defer ended;
	struct td_post begin, end;
};

/* Connections are accepted, negotiate and are counted on the home queue. */
struct td_nbd {
	struct td_disk *disk;
	struct td_loop *loop;
	struct nbd_lane *lanes;        /* of each queue; the first is at home */
	unsigned lane_count, lanes_open;
	struct nbd_listener {
		struct td_watch watch;
		struct td_nbd *nbd;
	} listener[NBD_SOCKETS_MAX];
	struct nbd_sockets sockets;
	unsigned hello_count;          /* that negotiate */
	unsigned serve_count;          /* that hold memory for requests */
	_Atomic unsigned gone_count;   /* of them: their peers are gone */
	bool full;                     /* nobody is accepted before one ends */
	struct td_timer accept_timer;  /* out of descriptors: tries again */
	struct td_ratelimit noise;     /* what peers can make us log */
	bool closing;
	void (*closed)(void *arg);
	void *closed_arg;
};

enum nbd_conn_state {
	NBD_CONN_HELLO, /* negotiating, under a timer */
	NBD_CONN_AGREED, /* ... and done with that: on its way to its lane */
	NBD_CONN_SERVE, /* requests are taken */
	NBD_CONN_DRAIN, /* no more are taken; replies still go out; then closed */
	NBD_CONN_GONE,  /* no peer any more: only I/O in flight keeps us */
};

struct nbd_slot;

struct nbd_conn {
	struct td_nbd *nbd;
	struct nbd_lane *lane;         /* at home until it has negotiated */
	struct list link;              /* in lane->conns */
	struct td_post post;           /* to its lane, and home at last */
	bool served;                   /* is counted as one that is */
	struct td_watch watch;         /* fd < 0 once closed */
	enum nbd_conn_state state;
	struct td_timer timer;         /* of the negotiation, and of the end */
	uint64_t last_ms;              /* until when the end may take */
	struct td_defer later;
	struct nbd_export export;      /* as it was told: the disk may grow since */
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
	struct list send_link;         /* in lane->sending */

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

/* lane.c */
void nbd_lane_open(struct nbd_lane *lane, struct td_nbd *nbd, struct td_queue *queue);
void nbd_lane_close(struct nbd_lane *lane);  /* then nbd_lane_ended() */
void nbd_conn_ended(struct nbd_conn *conn);  /* then nbd_conn_counted() */
void nbd_sending(struct nbd_conn *conn);     /* it has something to send */
void nbd_touched(struct nbd_lane *lane);     /* memory is in use again */

/* nbd.c: at home */
void nbd_export_fill(struct nbd_export *export, const struct td_disk *disk);
struct nbd_lane *nbd_lane_choose(struct td_nbd *nbd); /* for one more */
void nbd_conn_counted(struct td_post *post);          /* frees it */
void nbd_lane_ended(struct td_post *post);

#endif
