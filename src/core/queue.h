/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where requests come from. A transport makes a pool per connection or ring,
 * takes requests from it, fills them and submits them to the disk.
 */
#ifndef CORE_QUEUE_H
#define CORE_QUEUE_H

#include <blktap/driver.h>

struct td_loop;
struct td_pool;

/* done: called once for each submitted request, maybe from within td_submit().
 * It may put the request back; it must not submit another one, but note that
 * there is room and do so from a deferred call or an event. */
typedef void td_done(struct td_req *req);

/* count requests, each with user_size zeroed bytes of the transport's own. They are
 * submitted on the queue's thread, and done() is called there. */
int td_pool_new(struct td_queue *queue, unsigned count, size_t user_size, td_done *done,
		struct td_pool **out);
void td_pool_free(struct td_pool *pool); /* all requests are back */

struct td_req *td_pool_get(struct td_pool *pool); /* NULL: none free */
void td_pool_put(struct td_pool *pool, struct td_req *req);
unsigned td_pool_busy(const struct td_pool *pool);
void *td_req_user(const struct td_req *req); /* the user_size bytes */

/*
 * Sends a request to the disk. The caller has set op, flags, offset, len, iov
 * and iov_count; iov and the memory stay until done, which finds the result in
 * req->err. Range, alignment to the block size, read-only and capabilities are
 * checked here: -EINVAL (beyond the end, or unaligned), -EROFS, -EOPNOTSUPP.
 */
void td_submit(struct td_req *req);

/* What a queue's pools and requests are used by is the thread of its loop only. */
struct td_loop *td_queue_loop(const struct td_queue *queue);

#endif
