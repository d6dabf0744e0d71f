/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --trace: a request's life, line by line, on stderr. Costs one test of a flag
 * where it is off.
 */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include <blktap/driver.h>

#include "core/core_impl.h"

void trace_print_begin(struct td_req *req);
void trace_print_child(struct td_req *kid);
void trace_print_submit(struct td_req *req);
void trace_print_io(struct td_req *req, const struct td_file *file, uint64_t at);
void trace_print_end(struct td_req *req);
void trace_print_done(struct td_req *req);

#define TRACE(name, params, args) \
	static inline void trace_##name params \
	{ \
		if (__builtin_expect(req->queue->disk->options.trace, 0)) \
			trace_print_##name args; \
	}
TRACE(begin, (struct td_req *req), (req))
TRACE(child, (struct td_req *req), (req))
TRACE(submit, (struct td_req *req), (req))
TRACE(io, (struct td_req *req, const struct td_file *file, uint64_t at), (req, file, at))
TRACE(end, (struct td_req *req), (req))
TRACE(done, (struct td_req *req), (req))
#undef TRACE

#endif
