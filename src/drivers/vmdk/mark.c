/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image says of itself, and must say before its first change: a new CID, by
 * which images over it see that they fit no longer; and that its sparse extents are
 * in use, so that whoever finds them so looks at both copies of the tables. That is
 * durable before anything else is written; requests wait for it.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/rule.h"

static int write_cid(struct vmdk *v)
{
	struct td_file *file = vmdk_text_file(v);
	char digits[16];
	int err;

	snprintf(digits, sizeof(digits), "%0*x", (int)v->text.cid_digits, v->next_cid);
	err = td_file_write(file, digits, v->text.cid_digits, v->text.cid_at);
	return err ? err : td_file_sync(file);
}

static int write_unclean(struct vmdk *v, uint8_t unclean)
{
	int err = 0;

	for (unsigned i = 0; i < v->extents && !err; i++) {
		struct vmdk_extent *e = &v->extent[i];

		if (e->type != VMDK_SPARSE)
			continue;
		err = td_file_write(e->file, &unclean, 1, offsetof(struct vmdk_header, unclean));
		if (!err)
			err = td_file_sync(e->file);
	}
	return err;
}

int vmdk_mark_in_use(struct vmdk *v)
{
	v->unclean = true;
	return write_unclean(v, 1);
}

static int mark_run(struct td_work *work)
{
	struct vmdk *v = container_of(work, struct vmdk, work);
	int err = write_cid(v);

	if (err || !td_rule("vmdk-marked-before-tables"))
		return err;
	return write_unclean(v, 1);
}

static void mark_done(struct td_work *work, int err)
{
	struct vmdk *v = container_of(work, struct vmdk, work);
	struct td_parks waiting = v->waiting;

	v->waiting = (struct td_parks){ 0 };
	v->marking = false;
	v->unclean = true;
	v->marked = !err;
	if (!err)
		v->text.cid = v->next_cid;
	td_parks_go(&waiting, err);
}

/* Another one, of as many digits, that means nothing else. */
static uint32_t new_cid(const struct vmdk *v)
{
	uint32_t mask = v->text.cid_digits < 8 ? (1u << 4 * v->text.cid_digits) - 1 : UINT32_MAX;
	uint32_t cid = 0;

	if (getrandom(&cid, sizeof(cid), GRND_NONBLOCK) < 0)
		cid = td_now_us();
	cid &= mask;
	while (cid == v->text.cid || cid >= VMDK_OTHER_CID)
		cid = (cid + 1) & mask;
	return cid;
}

int vmdk_mark(struct vmdk *v, struct td_park *park)
{
	if (v->marked)
		return 0;
	td_parks_add(&v->waiting, park);
	if (v->marking)
		return TD_PARKED;
	v->marking = true;
	v->next_cid = new_cid(v);
	v->work.run = mark_run;
	v->work.done = mark_done;
	td_work_start(v->img->queue, &v->work);
	return TD_PARKED;
}

void vmdk_unmark(struct vmdk *v)
{
	int err = v->unclean ? write_unclean(v, 0) : 0;

	if (err)
		td_say(v->img, LOG_WARNING, "%s: stays marked as in use: %s", v->img->target,
		       strerror(-err));
}
