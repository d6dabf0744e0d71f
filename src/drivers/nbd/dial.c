/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes all connections to a server: one first, which tells how many it allows. It
 * blocks, so it runs in open, or later on a worker thread; of the rest of the driver
 * it only reads what does not change. All connections are made, or none.
 */
#include <errno.h>

#include "drivers/nbd/nbd.h"

#define DIAL_MS 5000 /* for all together */

static void dial_close(struct dial *dial)
{
	for (unsigned i = 0; i < dial->count; i++)
		nbd_close(dial->handle[i]);
	dial->count = 0;
}

/* What was promised to the guest must still be so. */
static int facts_agree(const struct nbd *nbd, const struct facts *now, struct td_why *why)
{
	const struct facts *was = &nbd->facts;

	if (now->size != was->size)
		return td_fail(why, -EIO, "the export has %llu bytes now, not %llu",
			       (unsigned long long)now->size,
			       (unsigned long long)was->size);
	if (now->block > was->block || now->max < was->max ||
	    (now->read_only && !nbd->img->read_only) || (was->flush && !now->flush) ||
	    (was->fua && !now->fua) || (was->trim && !now->trim) ||
	    (was->zero && !now->zero) || (was->extents && !now->extents))
		return td_fail(why, -EIO, "the server can do less now than it could");
	return 0;
}

int dial_run(struct td_work *work)
{
	struct dial *dial = container_of(work, struct dial, work);
	struct nbd *nbd = dial->nbd;
	uint64_t deadline_ms = nbd_now_ms() + DIAL_MS;
	unsigned wanted = 1;
	int err = 0;

	for (dial->count = 0; dial->count < wanted; dial->count++) {
		err = conn_dial(nbd, deadline_ms, &dial->handle[dial->count], &dial->why);
		if (err)
			break;
		if (dial->count)
			continue;
		err = conn_facts(dial->handle[0], &dial->facts, &dial->why);
		if (!err && nbd->facts.size)
			err = facts_agree(nbd, &dial->facts, &dial->why);
		if (err) {
			dial->count = 1;
			break;
		}
		wanted = dial->facts.multi ? nbd->connections : 1;
	}
	if (err)
		dial_close(dial);
	return err;
}
