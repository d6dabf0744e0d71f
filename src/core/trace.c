/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What --trace prints. A request has a number, its children #number.kid:
 *
 *     #7 write 8192+4096
 *     #7 qcow:/img write 8192+4096
 *     #7.1 file /img write at 1048576+4096
 *     #7.1 ended ok
 *     #7 done ok 112 us
 */
#include "core/trace.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

static const char *const op_name[] = {
	[TD_READ] = "read",       [TD_WRITE] = "write",
	[TD_FLUSH] = "flush",     [TD_DISCARD] = "discard",
	[TD_EXTENTS] = "extents", [TD_WRITE_ZEROES] = "write-zeroes",
};

struct words {
	char text[160];
};

static const char *name_of(const struct td_req *req)
{
	return req->queue->disk->name;
}

/* #7, its second child #7.2, that one's first child in the image below #7.2.1;
 * a driver's own requests by the order they were made in: #qcow-1. */
static struct words number_of(const struct td_req *req)
{
	const struct td_slot *slot = slot_of(req);
	struct words words;

	if (req->parent)
		snprintf(words.text, sizeof(words.text), "%.100s.%llu",
			 number_of(req->parent).text, (unsigned long long)slot->id);
	else
		snprintf(words.text, sizeof(words.text), "#%.40s%s%llu",
			 slot->pool ? "" : req->image->driver->name, slot->pool ? "" : "-",
			 (unsigned long long)slot->id);
	return words;
}

static struct words span_of(const struct td_req *req)
{
	struct words words;

	snprintf(words.text, sizeof(words.text), "%s %llu+%llu%s%s", op_name[req->op],
		 (unsigned long long)req->offset, (unsigned long long)req->len,
		 req->flags & TD_FUA ? " fua" : "",
		 req->flags & TD_MAY_UNMAP ? " may-unmap" : "");
	return words;
}

void trace_print_begin(struct td_req *req)
{
	struct td_slot *slot = slot_of(req);

	slot->id = ++req->queue->disk->traced;
	slot->kids = 0;
	slot->since_us = td_now_us();
	td_log(name_of(req), LOG_INFO, "%s %s", number_of(req).text, span_of(req).text);
}

void trace_print_child(struct td_req *kid)
{
	slot_of(kid)->id = ++slot_of(kid->parent)->kids;
	slot_of(kid)->kids = 0;
}

void trace_print_submit(struct td_req *req)
{
	td_log(name_of(req), LOG_INFO, "%s %s:%s %s", number_of(req).text,
	       req->image->driver->name, req->image->target, span_of(req).text);
}

void trace_print_io(struct td_req *req, const struct td_file *file, uint64_t at)
{
	td_log(name_of(req), LOG_INFO, "%s file %s %s at %llu+%llu",
	       number_of(req).text, td_file_path(file), op_name[req->op],
	       (unsigned long long)at, (unsigned long long)req->len);
}

/* A child with a step is not over: the driver has it again. */
void trace_print_end(struct td_req *req)
{
	if (req->parent || !slot_of(req)->pool)
		td_log(name_of(req), LOG_INFO, "%s %s%s", number_of(req).text,
		       req->step ? "" : "ended ", req->err ? strerror(-req->err) : "ok");
}

void trace_print_done(struct td_req *req)
{
	td_log(name_of(req), LOG_INFO, "%s done %s %llu us", number_of(req).text,
	       req->err ? strerror(-req->err) : "ok",
	       (unsigned long long)(td_now_us() - slot_of(req)->since_us));
}
