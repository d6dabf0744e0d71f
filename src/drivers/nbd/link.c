/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server as a whole, over its connections.
 *
 *   link_queue -> waiting -> conn_send -> (libnbd) -> ended -> cmd->done
 *
 * All of it happens in link_turn(), which is called at the end of a turn of the loop
 * in which something was queued or answered.
 *
 * One lost connection is taken for the loss of the server: it may have started
 * anew, and another connection, to what is no longer there, may not have noticed.
 *   lost     what other connections still answer in DRAIN_MS counts
 *   dialing  all are closed; a worker connects as many anew
 *   replay   what is kept is written again, in order where it overlaps
 *   up       commands that were not answered are sent again, before new ones
 * A server that leaves a command unanswered on a connection that stands is another
 * case: it may still do it, late, over what was written since. Those commands fail.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <syslog.h>
#include <time.h>

#include "drivers/nbd/nbd.h"

#define DRAIN_MS 200
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 2000
#define FLUSH_AGAIN_MS 1000 /* after one of our own that failed */
#define CUTS_MAX 5          /* of a request, until it fails */
#define PATIENCE 4          /* timeouts, for one while others are answered */
#define TICK_MS 1000        /* while all is well */
#define TICK_LOST_MS 50

uint64_t nbd_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

static unsigned in_flight(const struct nbd *nbd)
{
	unsigned count = 0;

	for (unsigned i = 0; i < nbd->conn_count; i++)
		count += nbd->conn[i].in_flight;
	return count;
}

/* ---- losing it ----------------------------------------------------------- */

static void link_lost(struct nbd *nbd, const char *why)
{
	uint64_t now = nbd_now_ms();

	td_say(nbd->img, LOG_WARNING, "connection lost: %s", why);
	if (nbd->proven)
		nbd->lost_ms = now;
	nbd->proven = false;
	nbd->state = LINK_LOST;
	nbd->backoff_ms = max_u64(nbd->backoff_ms, BACKOFF_MIN_MS);
	nbd->dial_ms = now + max_u64(nbd->backoff_ms, DRAIN_MS);
	nbd->said[0] = '\0';
	td_alarm_set(nbd->tick, TICK_LOST_MS);
}

static void conns_stop(struct nbd *nbd, struct list *unanswered)
{
	for (unsigned i = 0; i < nbd->conn_count; i++)
		conn_stop(&nbd->conn[i], unanswered);
}

/* They come back through ended, as if libnbd had told us. */
static void cut_off(struct nbd *nbd, struct list *unanswered, int err)
{
	LIST_FOR (struct cmd, cmd, unanswered, link)
		cmd->err = err;
	list_join(&nbd->ended, unanswered);
}

static void find_lost(struct nbd *nbd)
{
	struct list unanswered;
	bool lost = false;

	list_init(&unanswered);
	for (unsigned i = 0; i < nbd->conn_count; i++) {
		struct conn *conn = &nbd->conn[i];

		if (!conn->handle || !conn->lost)
			continue;
		lost = true;
		conn_stop(conn, &unanswered);
	}
	cut_off(nbd, &unanswered, -ENOTCONN);
	if (lost && (nbd->state == LINK_UP || nbd->state == LINK_REPLAY))
		link_lost(nbd, "the server hung up, or broke the protocol");
}

/* A queue of large requests may take long on a slow line: then others are answered. */
static bool is_silent(const struct conn *conn, uint64_t now)
{
	uint64_t limit = conn->nbd->timeout * 1000, age;

	if (list_empty(&conn->sent))
		return false;
	age = now - list_item(conn->sent.next, struct cmd, link)->sent_ms;
	return age >= limit * PATIENCE || (age >= limit && now - conn->answered_ms >= limit);
}

static void find_silent(struct nbd *nbd)
{
	struct list unanswered;
	bool silent = false;
	char why[80];

	for (unsigned i = 0; i < nbd->conn_count; i++)
		silent |= is_silent(&nbd->conn[i], nbd_now_ms());
	if (!silent)
		return;
	list_init(&unanswered);
	conns_stop(nbd, &unanswered);
	cut_off(nbd, &unanswered, -EIO);
	snprintf(why, sizeof(why), "no answer for %llu s; requests fail",
		 (unsigned long long)nbd->timeout);
	link_lost(nbd, why);
}

static void fail_waiting(struct nbd *nbd, int err)
{
	struct list waiting;

	list_init(&waiting);
	list_join(&waiting, &nbd->waiting);
	cut_off(nbd, &waiting, err);
}

static void find_gone(struct nbd *nbd)
{
	if (nbd->state == LINK_UP || nbd_now_ms() - nbd->lost_ms < nbd->reconnect_ms)
		return;
	if (!nbd->gone)
		td_say(nbd->img, LOG_ERR, "no server for %s s: requests fail until it is back",
		       nbd->reconnect ? nbd->reconnect : "60");
	nbd->gone = true;
	fail_waiting(nbd, -EIO);
}

/* ---- finding it again ---------------------------------------------------- */

static int adopt(struct nbd *nbd)
{
	struct dial *dial = &nbd->dial;
	int err = 0;

	nbd->conn_count = dial->count;
	for (unsigned i = 0; i < dial->count; i++) {
		int one = conn_start(&nbd->conn[i], dial->handle[i]);

		err = err ? err : one;
	}
	dial->count = 0;
	return err;
}

static void dial_done(struct td_work *work, int err)
{
	struct nbd *nbd = container_of(work, struct nbd, dial.work);
	struct list none;

	list_init(&none);
	if (!err) {
		err = adopt(nbd);
		if (err)
			conns_stop(nbd, &none);
	}
	if (err) {
		if (strcmp(nbd->said, nbd->dial.why.text))
			td_say(nbd->img, LOG_WARNING, "not yet: %s", nbd->dial.why.text);
		snprintf(nbd->said, sizeof(nbd->said), "%s", nbd->dial.why.text);
		nbd->state = LINK_LOST;
		nbd->backoff_ms = min_u64(2 * nbd->backoff_ms, BACKOFF_MAX_MS);
		nbd->dial_ms = nbd_now_ms() + nbd->backoff_ms;
	} else {
		nbd->state = LINK_REPLAY;
		nbd->replay_at = nbd->kept.head;
	}
	td_defer(nbd->img->queue, &nbd->turn);
}

static void dial_start(struct nbd *nbd)
{
	struct list unanswered;

	list_init(&unanswered);
	conns_stop(nbd, &unanswered);
	cut_off(nbd, &unanswered, -ENOTCONN);
	nbd->state = LINK_DIALING;
	nbd->dial.why.text[0] = '\0';
	td_work_start(nbd->img->queue, &nbd->dial.work);
}

/* ---- repeating what is kept ------------------------------------------------ */

static void replay_done(struct cmd *cmd, int err)
{
	struct nbd *nbd = cmd->nbd;
	char why[80];

	nbd->replaying--;
	cmd->buf = NULL;
	cmd->len = 0;
	if (!err || nbd->state != LINK_REPLAY)
		return;
	snprintf(why, sizeof(why), "it does not take again what it had taken: %s",
		 strerror(-err));
	link_lost(nbd, why);
}

/* A free one; NULL if there is none, or entry overlaps what is on its way. */
static struct cmd *replay_find(struct nbd *nbd, const struct kept_entry *entry)
{
	struct cmd *free = NULL;

	for (unsigned i = 0; i < REPLAY_WINDOW; i++) {
		struct cmd *cmd = &nbd->replay[i];

		if (!cmd->len)
			free = cmd;
		else if (cmd->offset < entry->offset + entry->len &&
			 entry->offset < cmd->offset + cmd->len)
			return NULL;
	}
	return free;
}

static struct conn *least_busy(struct nbd *nbd)
{
	struct conn *best = NULL;

	for (unsigned i = 0; i < nbd->conn_count; i++) {
		struct conn *conn = &nbd->conn[i];

		if (conn->handle && !conn->lost &&
		    (!best || conn->in_flight < best->in_flight))
			best = conn;
	}
	return best;
}

static void replay(struct nbd *nbd)
{
	uint64_t next = nbd->replay_at;
	struct kept_entry *entry;
	struct conn *conn;
	struct cmd *cmd;

	while ((entry = kept_next(&nbd->kept, &next))) {
		cmd = replay_find(nbd, entry);
		conn = least_busy(nbd);
		if (!cmd || !conn)
			return;
		nbd->replay_at = next;
		*cmd = (struct cmd){
			.nbd = nbd, .done = replay_done, .op = entry->op,
			.flags = entry->flags, .offset = entry->offset, .len = entry->len,
			.buf = entry->data,
		};
		nbd->replaying++;
		conn_send(conn, cmd);
	}
	if (nbd->replaying)
		return;
	nbd->state = LINK_UP;
	td_say(nbd->img, LOG_NOTICE, "connected again after %.1f s",
	       (nbd_now_ms() - nbd->lost_ms) / 1000.0);
}

/* ---- sending --------------------------------------------------------------- */

static void own_flush_done(struct cmd *cmd, int err)
{
	struct nbd *nbd = cmd->nbd;

	cmd->len = 0;
	if (!err) {
		kept_flushed(&nbd->kept, cmd->mark);
	} else if (nbd->state == LINK_UP) {
		td_say(nbd->img, LOG_ERR, "flush: %s", strerror(-err));
		nbd->flush_ms = nbd_now_ms() + FLUSH_AGAIN_MS;
		fail_waiting(nbd, err); /* some wait for the room that it did not make */
	}
}

static void flush_kept(struct nbd *nbd)
{
	struct cmd *cmd = &nbd->own_flush;
	struct conn *conn = least_busy(nbd);

	if (cmd->len || !conn || nbd->kept.head == nbd->kept.tail ||
	    nbd_now_ms() < nbd->flush_ms)
		return;
	*cmd = (struct cmd){
		.nbd = nbd, .done = own_flush_done, .op = TD_FLUSH,
		.len = 1, /* it is on its way */
		.mark = nbd->kept.tail,
	};
	conn_send(conn, cmd);
}

static void send_waiting(struct nbd *nbd)
{
	while (!list_empty(&nbd->waiting)) {
		struct cmd *cmd = list_item(nbd->waiting.next, struct cmd, link);
		struct conn *conn = least_busy(nbd);

		if (!conn || !cmd_prepare(cmd))
			break;
		if (nbd->keeps && cmd_changes(cmd) && !cmd->reserved) {
			if (!kept_reserve(&nbd->kept, cmd))
				break;
			cmd->reserved = true;
		}
		if (cmd->op == TD_FLUSH)
			cmd->mark = nbd->kept.tail;
		list_del(&cmd->link);
		conn_send(conn, cmd);
	}
	if (nbd->keeps && kept_half_full(&nbd->kept))
		flush_kept(nbd);
}

/* A server is back when it has answered: one that only hangs up stays lost. */
static void link_proven(struct nbd *nbd)
{
	nbd->proven = true;
	nbd->gone = false;
	nbd->backoff_ms = 0;
}

/* Cut off, to be sent again? Not if it is what breaks the connection each time. */
static bool is_cut(struct cmd *cmd)
{
	if (cmd->err != -ENOTCONN && cmd->err != -ESHUTDOWN)
		return false;
	if (!cmd->req || ++cmd->cuts < CUTS_MAX)
		return true;
	cmd->err = -EIO;
	return false;
}

/* Answered ones are done; those of guests that were cut off come first again. */
static void end_ended(struct nbd *nbd)
{
	struct list again, *link;

	list_init(&again);
	while ((link = list_pop(&nbd->ended))) {
		struct cmd *cmd = list_item(link, struct cmd, link);

		if (cmd->err == -ESHUTDOWN && nbd->state == LINK_UP)
			link_lost(nbd, "the server ends");
		else if (nbd->state == LINK_UP && cmd->err != -ENOTCONN)
			link_proven(nbd);
		if (is_cut(cmd) && cmd->req)
			list_add(&again, &cmd->link);
		else
			cmd->done(cmd, cmd->err);
	}
	list_join(&again, &nbd->waiting);
	list_join(&nbd->waiting, &again);
}

static void tick_set(struct nbd *nbd)
{
	bool idle = !in_flight(nbd) && list_empty(&nbd->waiting) && !nbd->kept.used &&
		    !nbd->bounces_used;

	if (td_alarm_is_set(nbd->tick))
		return;
	if (nbd->state != LINK_UP)
		td_alarm_set(nbd->tick, TICK_LOST_MS);
	else if (!idle)
		td_alarm_set(nbd->tick, TICK_MS);
}

static void link_turn(struct td_defer *defer)
{
	struct nbd *nbd = container_of(defer, struct nbd, turn);

	find_lost(nbd);
	find_gone(nbd);
	end_ended(nbd);
	if (nbd->state == LINK_REPLAY)
		replay(nbd);
	if (nbd->state == LINK_UP)
		send_waiting(nbd);
	for (unsigned i = 0; i < nbd->conn_count; i++) {
		if (!nbd->conn[i].handle)
			continue;
		conn_rewatch(&nbd->conn[i]);
		if (nbd->conn[i].lost)
			td_defer(nbd->img->queue, &nbd->turn);
	}
	if (!list_empty(&nbd->ended))
		td_defer(nbd->img->queue, &nbd->turn);
	tick_set(nbd);
}

/* A second without anything to do: memory goes back, and what is kept is flushed, so
 * that it can. */
static void rest(struct nbd *nbd)
{
	flush_kept(nbd);
	kept_rest(&nbd->kept);
	if (nbd->bounces_used)
		madvise(nbd->bounces, BOUNCE_SIZE * BOUNCE_COUNT, MADV_DONTNEED);
	nbd->bounces_used = false;
}

static void tick(void *arg)
{
	struct nbd *nbd = arg;

	if (nbd->state == LINK_UP || nbd->state == LINK_REPLAY)
		find_silent(nbd);
	if (nbd->state == LINK_LOST && nbd_now_ms() >= nbd->dial_ms)
		dial_start(nbd);
	if (nbd->state == LINK_UP && !in_flight(nbd))
		rest(nbd);
	td_defer(nbd->img->queue, &nbd->turn);
}

void link_queue(struct nbd *nbd, struct cmd *cmd)
{
	list_add(&nbd->waiting, &cmd->link);
	td_defer(nbd->img->queue, &nbd->turn);
}

/* ---- the beginning and the end --------------------------------------------- */

int link_open(struct nbd *nbd, struct td_why *why)
{
	int err;

	list_init(&nbd->waiting);
	list_init(&nbd->ended);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		nbd->conn[i].nbd = nbd;
		list_init(&nbd->conn[i].sent);
	}
	nbd->turn.run = link_turn;
	nbd->dial.nbd = nbd;
	nbd->dial.work.run = dial_run;
	nbd->dial.work.done = dial_done;
	nbd->tick = td_alarm_new(nbd->img->queue, tick, nbd);
	if (!nbd->tick)
		return -ENOMEM;
	err = dial_run(&nbd->dial.work);
	if (err) {
		td_alarm_free(nbd->tick);
		return td_fail(why, err, "nbd:%s: %s", nbd->img->target, nbd->dial.why.text);
	}
	nbd->facts = nbd->dial.facts;
	nbd->proven = true;
	err = adopt(nbd);
	if (err)
		link_close(nbd);
	return err;
}

void link_close(struct nbd *nbd)
{
	struct list none;

	list_init(&none);
	for (unsigned i = 0; i < nbd->conn_count; i++)
		if (nbd->conn[i].handle && !nbd->conn[i].lost)
			nbd_aio_disconnect(nbd->conn[i].handle, 0);
	conns_stop(nbd, &none);
	td_undefer(nbd->img->queue, &nbd->turn);
	td_alarm_free(nbd->tick);
}
