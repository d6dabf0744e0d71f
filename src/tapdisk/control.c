/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The methods of a tapdisk. What changes how it is served answers with all that
 * info tells, so that the daemon's picture of it is never old.
 *
 * quit is answered last of all: when everything is drained and the image closed,
 * with the result of the last flush.
 */
#include "tapdisk/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "control/rpc.h"
#include "core/disk.h"
#include "core/spec.h"

#define MAX_QUITTERS 8

struct td_control {
	struct td_serve *serve;
	struct td_rpc_server *server;
	void (*quit)(void *arg);
	void *arg;
	struct td_rpc_call *quitter[MAX_QUITTERS];
	unsigned quitters;
	struct td_rpc_call *xen_waiter; /* wants to know if the ring breaks */
	bool xen_broken, xen_closing;
};

/* ---- info, stats ------------------------------------------------------------------- */

static const char *const op_name[TD_OPS] = {
	[TD_READ] = "read",	    [TD_WRITE] = "write",
	[TD_FLUSH] = "flush",	    [TD_DISCARD] = "discard",
	[TD_WRITE_ZEROES] = "write_zeroes", [TD_EXTENTS] = "extents",
};

static const struct {
	enum td_can can;
	const char *name;
} can_names[] = {
	{ TD_CAN_WRITE, "write" },
	{ TD_CAN_FUA, "fua" },
	{ TD_CAN_DISCARD, "discard" },
	{ TD_CAN_WRITE_ZEROES, "write-zeroes" },
	{ TD_CAN_EXTENTS, "extents" },
};

static const char *const protocol_name[] = {
	[TD_XEN_NATIVE] = "native",
	[TD_XEN_X86_32] = "x86_32-abi",
	[TD_XEN_X86_64] = "x86_64-abi",
};

static const char *const data_name[] = {
	[TD_XEN_AUTO] = "auto",
	[TD_XEN_MAP] = "map",
	[TD_XEN_COPY] = "copy",
};

static json_t *can_json(uint32_t can)
{
	json_t *names = json_array();

	for (unsigned i = 0; i < ARRAY_SIZE(can_names); i++)
		if (can & can_names[i].can)
			json_array_append_new(names, json_string(can_names[i].name));
	return names;
}

/* A path may be any bytes; JSON is UTF-8. */
static json_t *text_json(const char *text)
{
	json_t *string = json_string(text);

	return string ? string : json_string("(not UTF-8)");
}

static json_t *chain_json(struct td_image *top)
{
	json_t *chain = json_array();

	for (struct td_image *img = top; img; img = img->below)
		json_array_append_new(chain,
				      json_pack("{s:s, s:o, s:I}", "type", img->driver->name,
						"target", text_json(img->target), "size",
						(json_int_t)img->size));
	return chain;
}

static void add_listener(void *arg, const char *address, unsigned connections)
{
	json_array_append_new(arg, json_pack("{s:o, s:i}", "address", text_json(address),
					     "connections", (int)connections));
}

static json_t *xen_json(const struct td_serve *serve)
{
	const struct td_xen_params *params = td_serve_xen_params(serve);
	struct td_xen_stats stats;

	if (!params)
		return json_null();
	td_serve_xen_stats(serve, &stats);
	return json_pack("{s:i, s:i, s:i, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I,"
			 " s:I, s:b}", "domid", (int)params->domid, "devid", (int)params->devid, "rings",
			 (int)params->ring_count, "ring_order", (int)params->ring_order,
			 "protocol", protocol_name[params->protocol], "data",
			 data_name[params->data], "requests", (json_int_t)stats.requests,
			 "segments", (json_int_t)stats.segments, "indirect",
			 (json_int_t)stats.indirect, "mapped", (json_int_t)stats.mapped,
			 "copied", (json_int_t)stats.copied, "kept", (json_int_t)stats.kept,
			 "notified", (json_int_t)stats.notified, "polled", (json_int_t)stats.polled,
			 "rejected", (json_int_t)stats.rejected,
			 "broken", stats.broken);
}

static json_t *info_json(const struct td_control *control)
{
	struct td_disk *disk = td_serve_disk(control->serve);
	json_t *nbd = json_array();

	td_serve_nbd_each(control->serve, add_listener, nbd);
	return json_pack("{s:o, s:o, s:i, s:I, s:i, s:i, s:I, s:b, s:o, s:s, s:o, s:o, s:o}", "name",
			 text_json(td_disk_name(disk)), "spec", text_json(td_disk_spec(disk)), "pid",
			 (int)getpid(), "size", (json_int_t)td_disk_size(disk), "block_size",
			 (int)td_disk_block_size(disk), "queues", (int)td_disk_queues(disk), "cluster",
			 (json_int_t)td_disk_cluster(disk), "read_only",
			 td_disk_read_only(disk), "can", can_json(td_disk_can(disk)), "engine",
			 td_disk_engine(disk), "chain", chain_json(td_disk_top(disk)), "nbd",
			 nbd, "xen", xen_json(control->serve));
}

static void method_info(void *arg, struct td_rpc_call *call, json_t *params)
{
	if (td_rpc_params(call, params, "{}"))
		td_rpc_answer(call, info_json(arg));
}

static void method_stats(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;
	struct td_disk_stats stats;
	json_t *all;

	if (!td_rpc_params(call, params, "{}"))
		return;
	td_disk_stats(td_serve_disk(control->serve), &stats);
	all = json_object();
	for (unsigned op = 0; op < TD_OPS; op++)
		json_object_set_new(all, op_name[op],
				    json_pack("{s:I, s:I, s:I}", "requests",
					      (json_int_t)stats.op[op].requests, "bytes",
					      (json_int_t)stats.op[op].bytes, "errors",
					      (json_int_t)stats.op[op].errors));
	json_object_set_new(all, "in_flight", json_integer(stats.in_flight));
	json_object_set_new(all, "xen", xen_json(control->serve));
	td_rpc_answer(call, all);
}

/* ---- another size ----------------------------------------------------------------------- */

struct resizing {
	struct td_control *control;
	struct td_rpc_call *call;
};

static void resized(void *arg, int err, const char *why)
{
	struct resizing *resizing = arg;

	if (err)
		td_rpc_refuse(resizing->call, err, "%s", why);
	else
		td_rpc_answer(resizing->call, info_json(resizing->control));
	free(resizing);
}

static void method_resize(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;
	struct resizing *resizing;
	struct td_why why;
	const char *text;
	uint64_t size;
	int err;

	if (!td_rpc_params(call, params, "{s:s}", "size", &text))
		return;
	if (td_size_parse(text, 1, &size)) {
		td_rpc_refuse(call, -EINVAL, "%s: no size, such as 20G", text);
		return;
	}
	resizing = malloc(sizeof(*resizing));
	if (!resizing) {
		td_rpc_refuse(call, -ENOMEM, "%s", strerror(ENOMEM));
		return;
	}
	*resizing = (struct resizing){ control, call };
	err = td_disk_resize(td_serve_disk(control->serve), size, resized, resizing, &why);
	if (!err)
		return;
	td_rpc_refuse(call, err, "%s", why.text);
	free(resizing);
}

/* ---- NBD ------------------------------------------------------------------------------- */

static void method_nbd_listen(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;
	const char *address;
	struct td_why why;
	int err;

	if (!td_rpc_params(call, params, "{s:s}", "address", &address))
		return;
	err = td_serve_nbd(control->serve, address, &why);
	if (err)
		td_rpc_refuse(call, err, "%s", why.text);
	else
		td_rpc_answer(call, info_json(control));
}

/* A call that waits for a transport to be closed. */
struct closing {
	struct td_control *control;
	struct td_rpc_call *call;
};

static struct closing *closing_new(struct td_control *control, struct td_rpc_call *call)
{
	struct closing *closing = malloc(sizeof(*closing));

	if (closing)
		*closing = (struct closing){ control, call };
	else
		td_rpc_refuse(call, -ENOMEM, "%s", strerror(ENOMEM));
	return closing;
}

static void transport_closed(void *arg)
{
	struct closing *closing = arg;

	td_rpc_answer(closing->call, info_json(closing->control));
	free(closing);
}

static void method_nbd_close(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;
	struct closing *closing;
	const char *address;
	struct td_why why;
	int err;

	if (!td_rpc_params(call, params, "{s:s}", "address", &address))
		return;
	closing = closing_new(control, call);
	if (!closing)
		return;
	err = td_serve_nbd_close(control->serve, address, transport_closed, closing, &why);
	if (err) {
		td_rpc_refuse(call, err, "%s", why.text);
		free(closing);
	}
}

/* ---- Xen --------------------------------------------------------------------------------- */

/* The place of word among words, which end with count; -1: it is none of them. */
static int word_at(const char *const words[], unsigned count, const char *word)
{
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(words[i], word))
			return i;
	return -1;
}

static bool ring_parse(json_t *from, unsigned pages, struct td_xen_ring *to)
{
	json_t *refs = json_object_get(from, "ring-refs");
	json_int_t channel = json_integer_value(json_object_get(from, "event-channel"));

	if (json_array_size(refs) != pages || channel <= 0 || channel > INT32_MAX)
		return false;
	to->event_channel = channel;
	for (unsigned i = 0; i < pages; i++) {
		json_int_t ref = json_integer_value(json_array_get(refs, i));

		if (!json_is_integer(json_array_get(refs, i)) || ref < 0 || ref > UINT32_MAX)
			return false;
		to->refs[i] = ref;
	}
	return true;
}

static bool rings_parse(json_t *rings, struct td_xen_params *to)
{
	to->ring_count = json_array_size(rings);
	if (to->ring_order > TD_XEN_MAX_RING_ORDER || !to->ring_count ||
	    to->ring_count > TD_XEN_MAX_RINGS)
		return false;
	for (unsigned i = 0; i < to->ring_count; i++)
		if (!ring_parse(json_array_get(rings, i), 1u << to->ring_order, &to->rings[i]))
			return false;
	return true;
}

static void answer_xen_waiter(struct td_control *control, bool broken)
{
	if (control->xen_waiter)
		td_rpc_answer(take(control->xen_waiter), json_pack("{s:b}", "broken", broken));
}

static void xen_broken(void *arg)
{
	struct td_control *control = arg;

	control->xen_broken = true;
	answer_xen_waiter(control, true);
}

static bool xen_params(struct td_control *control, struct td_rpc_call *call, json_t *params,
		       struct td_xen_params *out)
{
	const char *protocol = "native", *data = "auto";
	int flush = 1, barrier = 1, discard = 1, persistent = 0;
	int indirect = TD_XEN_MAX_SEGMENTS, sector = 512, poll = 0;
	int domid, devid, order = 0, layout, how;
	json_t *rings;

	if (!td_rpc_params(call, params, "{s:i, s:i, s?i, s:o, s?s, s?s, s?b, s?b, s?b, s?b, s?i,"
			   " s?i, s?i}", "domid", &domid, "devid", &devid, "ring-order", &order,
			   "rings", &rings, "protocol", &protocol, "data", &data, "flush-cache",
			   &flush, "barrier", &barrier, "discard", &discard, "persistent",
			   &persistent, "indirect", &indirect, "sector-size", &sector, "poll",
			   &poll))
		return false;
	layout = word_at(protocol_name, ARRAY_SIZE(protocol_name), protocol);
	how = word_at(data_name, ARRAY_SIZE(data_name), data);
	*out = (struct td_xen_params){
		.domid = domid, .devid = devid, .ring_order = order, .protocol = layout,
		.data = how, .poll_us = poll, .broken = xen_broken, .arg = control,
		.offer = { .flush = flush, .barrier = barrier, .discard = discard,
			   .persistent = persistent, .segments = indirect, .sector = sector },
	};
	if (domid < 0 || domid > UINT16_MAX || devid < 0 || layout < 0 || how < 0 ||
	    order < 0 || indirect < 0 || indirect > TD_XEN_MAX_SEGMENTS || sector < 512 ||
	    !is_pow2(sector) || poll < 0 || !rings_parse(rings, out)) {
		td_rpc_refuse(call, -EINVAL, "these are no parameters of a guest's rings");
		return false;
	}
	return true;
}

static void method_xen_connect(void *arg, struct td_rpc_call *call, json_t *json)
{
	struct td_control *control = arg;
	struct td_xen_params params;
	struct td_why why;
	int err;

	if (!xen_params(control, call, json, &params))
		return;
	control->xen_broken = false;
	err = td_serve_xen(control->serve, &params, &why);
	if (err)
		td_rpc_refuse(call, err, "%s", why.text);
	else
		td_rpc_answer(call, info_json(control));
}

static void xen_closed(void *arg)
{
	struct closing *closing = arg;

	closing->control->xen_closing = false;
	answer_xen_waiter(closing->control, false);
	transport_closed(closing);
}

static void method_xen_disconnect(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;
	struct closing *closing;

	if (!td_rpc_params(call, params, "{}"))
		return;
	if (control->xen_closing) {
		td_rpc_refuse(call, -EALREADY, "the ring is about to be disconnected");
		return;
	}
	closing = closing_new(control, call);
	if (!closing)
		return;
	control->xen_closing = true;
	td_serve_xen_close(control->serve, xen_closed, closing);
}

/* Answered when the ring breaks or is disconnected: one at a time may wait. */
static void method_xen_wait(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;

	if (!td_rpc_params(call, params, "{}"))
		return;
	answer_xen_waiter(control, false);
	control->xen_waiter = call;
	if (control->xen_broken || !td_serve_xen_params(control->serve))
		answer_xen_waiter(control, control->xen_broken);
}

/* ---- the end ------------------------------------------------------------------------------- */

static void method_quit(void *arg, struct td_rpc_call *call, json_t *params)
{
	struct td_control *control = arg;

	if (!td_rpc_params(call, params, "{}"))
		return;
	if (control->quitters == MAX_QUITTERS) {
		td_rpc_refuse(call, -EALREADY, "it is about to end");
		return;
	}
	control->quitter[control->quitters++] = call;
	if (control->quitters == 1)
		control->quit(control->arg);
}

static const struct td_rpc_row methods[] = {
	{ "info", method_info },
	{ "stats", method_stats },
	{ "resize", method_resize },
	{ "nbd-listen", method_nbd_listen },
	{ "nbd-close", method_nbd_close },
	{ "xen-connect", method_xen_connect },
	{ "xen-disconnect", method_xen_disconnect },
	{ "xen-wait", method_xen_wait },
	{ "quit", method_quit },
	{ NULL },
};

int td_control_open(struct td_loop *loop, struct td_serve *serve, const char *path,
		    void (*quit)(void *arg), void *arg, struct td_control **out,
		    struct td_why *why)
{
	struct td_control *control = calloc(1, sizeof(*control));
	int err;

	if (!control)
		return td_fail(why, -ENOMEM, "%s: %s", path, strerror(ENOMEM));
	*control = (struct td_control){ .serve = serve, .quit = quit, .arg = arg };
	err = td_rpc_listen(loop, path, &control->server, why);
	if (err) {
		free(control);
		return err;
	}
	td_rpc_serve(control->server, methods, control);
	*out = control;
	return 0;
}

void td_control_close(struct td_control *control, int err)
{
	if (!control)
		return;
	answer_xen_waiter(control, false);
	for (unsigned i = 0; i < control->quitters; i++) {
		if (err)
			td_rpc_refuse(control->quitter[i], err, "the last flush failed: %s",
				      strerror(-err));
		else
			td_rpc_answer(control->quitter[i], NULL);
	}
	td_rpc_close(control->server);
	free(control);
}

int td_control_tell(int fd, int err, const char *why)
{
	json_t *line = err ? json_pack("{s:s, s:i}", "error", why, "errno", -err)
			   : json_pack("{s:b}", "ready", true);
	AUTO_FREE char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

	int told = 0;

	json_decref(line);
	if (fd < 0)
		return 0;
	if (text && dprintf(fd, "%s\n", text) < 0)
		told = -errno;
	close(fd);
	return told;
}
