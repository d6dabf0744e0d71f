/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of the NBD client, top first:
 *
 *   nbd.c    the driver's table; a guest's request becomes one command or several
 *   link.c   the server as a whole: commands wait, are sent, are repeated when
 *            connections are lost, or fail when it is gone for too long
 *   dial.c   makes the connections, on a worker thread
 *   conn.c   one connection: a handle of libnbd, driven by our loop
 *   kept.c   writes that the server has acknowledged but not flushed yet
 *
 * A command is queued by link_queue() and comes back by its done(), once.
 */
#ifndef DRIVERS_NBD_H
#define DRIVERS_NBD_H

#include <blktap/driver.h>
#include <libnbd.h>

#include "base/list.h"
#include "base/num.h"

#define CONNECTIONS_MAX 16
#define REPLAY_WINDOW 16          /* kept writes repeated at once */
#define BOUNCE_SIZE (256 * KiB)   /* memory in pieces is gathered in these */
#define BOUNCE_COUNT 32
#define PAYLOAD_MAX (32 * MiB)    /* of a command, if the server takes so much */
#define EFFECT_MAX (256 * MiB)    /* of one that carries no data */

struct nbd;
struct conn;

struct cmd {
	struct list link;         /* in a queue of struct nbd, or sent on conn */
	struct nbd *nbd;
	struct conn *conn;        /* NULL: not sent */
	struct td_req *req;       /* NULL: our own */
	void (*done)(struct cmd *cmd, int err);
	enum td_op op;
	unsigned flags;           /* enum td_flag */
	uint64_t offset, len;
	void *buf;                /* of READ and WRITE; NULL: none yet */
	bool bounced;             /* buf is a bounce buffer */
	bool reserved;            /* there is room to keep it */
	uint64_t mark;            /* FLUSH: what is kept before that is durable then */
	uint64_t sent_ms;
	unsigned cuts;            /* connections that broke with it */
	int err;
};

static inline bool cmd_changes(const struct cmd *cmd)
{
	return cmd->op == TD_WRITE || cmd->op == TD_DISCARD || cmd->op == TD_WRITE_ZEROES;
}

/* ---- kept.c -------------------------------------------------------------- */

/*
 * A ring of memory. Positions only grow; [head, tail) is kept. Writes are appended
 * as they are acknowledged, which is the order in which they are to be repeated.
 */
struct kept {
	char *ring;
	uint64_t size;
	uint64_t head, tail;
	uint64_t reserved;        /* for writes on their way */
	bool used;                /* memory has been touched since kept_rest() */
};

struct kept_entry {
	uint64_t offset, len, room; /* room: bytes of the ring */
	uint32_t op, flags;
	bool filler;              /* only keeps the next one in one piece */
	_Alignas(64) char data[];
};

int kept_init(struct kept *kept, uint64_t size);
void kept_free(struct kept *kept);
/* The longest write that may be kept. */
uint64_t kept_max(const struct kept *kept);
/* Sets room aside; false: there is none before a flush. */
bool kept_reserve(struct kept *kept, const struct cmd *cmd);
void kept_unreserve(struct kept *kept, const struct cmd *cmd);
/* cmd, which has been reserved for, is acknowledged. */
void kept_add(struct kept *kept, const struct cmd *cmd);
/* All that was added before mark, a former tail, is durable. */
void kept_flushed(struct kept *kept, uint64_t mark);
bool kept_half_full(const struct kept *kept);
/* The first one at or after *at; *at moves behind it. NULL: none. */
struct kept_entry *kept_next(const struct kept *kept, uint64_t *at);
/* Gives memory back that is not used. */
void kept_rest(struct kept *kept);

/* ---- conn.c -------------------------------------------------------------- */

struct conn {
	struct nbd *nbd;
	struct nbd_handle *handle; /* NULL: none */
	struct td_watch watch;
	struct list sent;          /* commands, in order */
	unsigned in_flight;
	uint64_t answered_ms;      /* the last time */
	bool lost;
};

/* What a server says of an export. */
struct facts {
	uint64_t size, block, preferred, max;
	bool read_only, flush, fua, trim, zero, extents, multi;
};

/* Connects and negotiates. May block, until deadline_ms at most. */
int conn_dial(const struct nbd *nbd, uint64_t deadline_ms, struct nbd_handle **out,
	      struct td_why *why);
int conn_facts(struct nbd_handle *handle, struct facts *out, struct td_why *why);
int conn_start(struct conn *conn, struct nbd_handle *handle);
/* What was sent and not answered goes to list. */
void conn_stop(struct conn *conn, struct list *unanswered);
/* It comes back through nbd->ended; maybe at once. */
void conn_send(struct conn *conn, struct cmd *cmd);
/* Waits for what libnbd wants to do next. */
void conn_rewatch(struct conn *conn);

/* ---- link.c -------------------------------------------------------------- */

enum link_state {
	LINK_UP,
	LINK_REPLAY,  /* connected again; what was kept is being repeated */
	LINK_LOST,    /* waiting for another try */
	LINK_DIALING, /* a worker is at it */
};

struct dial {
	struct td_work work;
	struct nbd *nbd;
	struct nbd_handle *handle[CONNECTIONS_MAX];
	unsigned count;
	struct facts facts;
	struct td_why why;
};

struct nbd {
	/* the options */
	uint64_t connections, timeout, keep;
	char *reconnect, *tls_certificates, *tls_psk;
	uint64_t reconnect_ms;

	struct td_image *img;
	struct facts facts;
	uint64_t read_max, write_max;
	bool keeps;               /* the server flushes, so what it has not is kept */
	bool never_flushed;       /* what an earlier process wrote may not be durable */
	struct kept kept;
	char *bounces;
	void *bounce[BOUNCE_COUNT];
	unsigned bounce_count;    /* free ones */
	bool bounces_used;        /* since the last rest */

	enum link_state state;
	struct conn conn[CONNECTIONS_MAX];
	unsigned conn_count;
	struct list waiting;      /* commands to be sent */
	struct list ended;        /* answered, or cut off: -ENOTCONN */
	struct td_defer turn;
	struct td_alarm *tick;
	struct cmd own_flush;     /* makes room in kept */
	uint64_t flush_ms;        /* not before */
	struct dial dial;
	uint64_t lost_ms, dial_ms;
	unsigned backoff_ms;
	bool proven;              /* it has answered since we connected */
	bool gone;                /* for so long that requests fail */
	char said[sizeof(((struct td_why *)0)->text)];
	uint64_t replay_at;
	struct cmd replay[REPLAY_WINDOW];
	unsigned replaying;
};

uint64_t nbd_now_ms(void);

/* dial.c: fills struct dial. Blocks. */
int dial_run(struct td_work *work);

int link_open(struct nbd *nbd, struct td_why *why);
void link_close(struct nbd *nbd);
void link_queue(struct nbd *nbd, struct cmd *cmd);

/* nbd.c: gives cmd its memory, if it needs any; false: none is free just now. */
bool cmd_prepare(struct cmd *cmd);

#endif
