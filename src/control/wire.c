/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A socket with a buffer on each side.
 *
 *   socket -> in[] -> lines -> message()      until the owner pauses it, or
 *                                             the peer leaves answers unread
 *   socket <- out[] <- td_wire_send()         at once if nothing waits
 *
 * The owner may free the wire from its callbacks: while one runs, freeing only
 * marks it, and whoever called the callback frees it after.
 */
#include "control/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/num.h"

struct td_wire {
	struct td_loop *loop;
	struct td_watch watch;
	const struct td_wire_owner *owner;
	void *arg;
	int fd;
	char *in, *out;
	size_t in_len, in_room;   /* in[0..in_len) has been read */
	size_t out_len, out_room; /* out[0..out_len) waits */
	struct td_defer pump;     /* delivers lines that a pause held back */
	unsigned busy;            /* callbacks that are running */
	bool paused, finishing, broken, told_soft, told_hard, freed;
};

static void wire_release(struct td_wire *wire)
{
	td_loop_undefer(wire->loop, &wire->pump);
	if (!wire->told_hard)
		td_watch_stop(wire->loop, &wire->watch);
	close(wire->fd);
	free(wire->in);
	free(wire->out);
	free(wire);
}

void td_wire_free(struct td_wire *wire)
{
	if (!wire)
		return;
	wire->freed = true;
	if (!wire->busy)
		wire_release(wire);
}

/* Gives up the wire if it was freed meanwhile: true means do not touch it. */
static bool wire_left(struct td_wire *wire)
{
	wire->busy--;
	if (!wire->freed)
		return false;
	if (!wire->busy)
		wire_release(wire);
	return true;
}

static bool may_deliver(const struct td_wire *wire)
{
	/* a peer that leaves its answers unread asks nothing more */
	return !wire->paused && !wire->finishing && !wire->told_soft && !wire->broken &&
	       wire->out_len < 64 * KiB && !wire->freed;
}

static void wire_watch(struct td_wire *wire)
{
	uint32_t events = 0;

	if (wire->told_hard)
		return;
	if (may_deliver(wire))
		events |= EPOLLIN;
	if (wire->out_len)
		events |= EPOLLOUT;
	td_watch_change(wire->loop, &wire->watch, events);
}

/* Tells the owner; true: the wire is gone. */
static bool wire_tell(struct td_wire *wire, bool hard)
{
	bool *told = hard ? &wire->told_hard : &wire->told_soft;

	if (*told || wire->told_hard)
		return false;
	*told = true;
	if (hard)
		td_watch_stop(wire->loop, &wire->watch);
	wire->busy++;
	wire->owner->ended(wire->arg, hard);
	return wire_left(wire);
}

/* ---- out ------------------------------------------------------------------- */

static void wire_write(struct td_wire *wire)
{
	ssize_t n = 1;
	size_t sent = 0;

	while (sent < wire->out_len) {
		n = send(wire->fd, wire->out + sent, wire->out_len - sent,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		sent += n;
	}
	if (n < 0 && errno != EAGAIN)
		wire->broken = true;
	if (sent)
		memmove(wire->out, wire->out + sent, wire->out_len - sent);
	wire->out_len -= sent;
}

static int out_append(const char *text, size_t len, void *arg)
{
	struct td_wire *wire = arg;
	size_t need = wire->out_len + len;

	if (need > wire->owner->queue_max)
		return -1;
	if (need > wire->out_room) {
		size_t room = max_u64(need, wire->out_room * 2);
		char *out = realloc(wire->out, room);

		if (!out)
			return -1;
		wire->out = out;
		wire->out_room = room;
	}
	memcpy(wire->out + wire->out_len, text, len);
	wire->out_len += len;
	return 0;
}

void td_wire_send(struct td_wire *wire, const json_t *value)
{
	bool idle = !wire->out_len;

	if (wire->broken || wire->told_hard)
		return;
	if (json_dump_callback(value, out_append, wire, JSON_COMPACT | JSON_ENCODE_ANY) ||
	    out_append("\n", 1, wire))
		wire->broken = true;
	else if (idle)
		wire_write(wire);
	if (wire->broken)
		td_loop_defer(wire->loop, &wire->pump); /* tells the owner */
	else
		wire_watch(wire);
}

bool td_wire_sent(const struct td_wire *wire)
{
	return !wire->out_len;
}

/* ---- in --------------------------------------------------------------------- */

static int in_grow(struct td_wire *wire)
{
	size_t room = min_u64(max_u64(4096, wire->in_room * 2), wire->owner->line_max);
	char *in;

	if (wire->in_len < wire->in_room)
		return 0;
	if (room == wire->in_room)
		return -EMSGSIZE;
	in = realloc(wire->in, room);
	if (!in)
		return -ENOMEM;
	wire->in = in;
	wire->in_room = room;
	return 0;
}

static void deliver_line(struct td_wire *wire, const char *line, size_t len)
{
	json_error_t error;
	json_t *value = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);

	wire->owner->message(wire->arg, value, value ? NULL : error.text);
	json_decref(value);
}

/* Delivers the lines there are while the owner wants them. Called with busy
 * held: a callback may have freed the wire, which its caller finds out. */
static void deliver_lines(struct td_wire *wire)
{
	size_t at = 0;

	while (at < wire->in_len && may_deliver(wire)) {
		char *line = wire->in + at;
		char *end = memchr(line, '\n', wire->in_len - at);

		if (!end)
			break;
		at += end + 1 - line;
		deliver_line(wire, line, end - line);
	}
	if (at) {
		memmove(wire->in, wire->in + at, wire->in_len - at);
		wire->in_len -= at;
	}
}

/* Returns 0, -EAGAIN when there is no more now, -EPIPE at the end. */
static int wire_read(struct td_wire *wire)
{
	int err = in_grow(wire);
	ssize_t n;

	if (err)
		return err;
	n = recv(wire->fd, wire->in + wire->in_len, wire->in_room - wire->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (!n)
		return -EPIPE;
	wire->in_len += n;
	return 0;
}

static void wire_pump(struct td_wire *wire)
{
	int err = 0;

	wire->busy++;
	deliver_lines(wire);
	while (!err && may_deliver(wire)) {
		err = wire_read(wire);
		if (err == -EMSGSIZE) {
			wire->owner->message(wire->arg, NULL, "the line is too long");
			wire->finishing = true;
		}
		deliver_lines(wire);
	}
	if (wire_left(wire))
		return;
	if (err == -EPIPE && wire_tell(wire, false))
		return;
	if (err && err != -EAGAIN && err != -EPIPE && err != -EMSGSIZE)
		wire->broken = true;
	if (wire->finishing && !wire->out_len)
		wire->broken = true;
	if (wire->broken)
		wire_tell(wire, true);
	else
		wire_watch(wire);
}

static void wire_ready(struct td_watch *watch, uint32_t events)
{
	struct td_wire *wire = container_of(watch, struct td_wire, watch);

	if (events & EPOLLOUT)
		wire_write(wire);
	if (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN))
		wire->broken = true;
	wire_pump(wire);
}

static void wire_pump_later(struct td_defer *defer)
{
	wire_pump(container_of(defer, struct td_wire, pump));
}

void td_wire_pause(struct td_wire *wire, bool on)
{
	if (wire->paused == on)
		return;
	wire->paused = on;
	td_loop_defer(wire->loop, &wire->pump);
}

void td_wire_finish(struct td_wire *wire)
{
	wire->finishing = true;
	td_loop_defer(wire->loop, &wire->pump);
}

int td_wire_new(struct td_loop *loop, int fd, const struct td_wire_owner *owner,
		void *arg, struct td_wire **out)
{
	struct td_wire *wire = calloc(1, sizeof(*wire));
	int err;

	if (!wire) {
		close(fd);
		return -ENOMEM;
	}
	*wire = (struct td_wire){ .loop = loop, .owner = owner, .arg = arg, .fd = fd };
	wire->watch.ready = wire_ready;
	wire->pump.run = wire_pump_later;
	err = td_watch_start(loop, &wire->watch, fd, EPOLLIN);
	if (err) {
		close(fd);
		free(wire);
		return err;
	}
	*out = wire;
	return 0;
}
