/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to a request once it is taken: its segments and data are copied
 * or mapped, it goes to the disk and comes back, it is answered. Each function
 * moves a slot one stage on; see lane.c for the whole way.
 */
#include "transports/xen/slot.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "core/disk.h"

/*
 * data=auto: requests of more segments than this are mapped. Measured up to 128
 * KiB, the most that Linux sends unless told otherwise: copying cost tapdisk less
 * at every size (docs/xen.md). Larger ones would crowd the pages of the pool.
 */
#define AUTO_COPY_SEGMENTS 32

static void complain(struct xen_lane *lane, const char *what, const struct slot *slot)
{
	td_log_limited(lane->params->noise, td_disk_name(lane->disk), LOG_WARNING,
		       "domain %u, device %u: request %#" PRIx64 " (operation %u): %s",
		       lane->params->domid, lane->params->devid, slot->head.id,
		       slot->head.code, what);
}

/* ---- the batch of grant copies ------------------------------------------- */

static void slot_copied(struct slot *slot, int err);

void slots_copy(struct xen_lane *lane)
{
	struct list batched;

	if (!lane->batch_count)
		return;
	lane->guest->ops->copy(lane->guest, lane->batch, lane->batch_count);
	list_init(&batched);
	list_join(&batched, &lane->batched);
	LIST_FOR_SAFE (struct slot, slot, &batched, link) {
		int err = 0;

		for (unsigned i = 0; i < slot->copies && !err; i++)
			err = lane->batch[slot->copy_at + i].err;
		slot->copies = 0;
		list_del(&slot->link);
		slot_copied(slot, err);
	}
	lane->batch_count = 0;
}

static void batch_enter(struct slot *slot, enum stage stage, unsigned copies)
{
	struct xen_lane *lane = slot->lane;

	if (lane->batch_count + copies > LANE_COPIES)
		slots_copy(lane);
	slot->stage = stage;
	slot->copy_at = lane->batch_count;
	slot->copies = 0;
	list_add(&lane->batched, &slot->link);
}

static void batch_add(struct slot *slot, struct guest_copy copy)
{
	struct xen_lane *lane = slot->lane;

	lane->batch[lane->batch_count++] = copy;
	slot->copies++;
}

/* The data of a request, between its segments and its pages of the pool. */
static void batch_data(struct slot *slot, enum stage stage)
{
	uint8_t *local = slot->memory;

	batch_enter(slot, stage, slot->head.seg_count);
	for (unsigned i = 0; i < slot->head.seg_count; i++) {
		const struct ring_seg *seg = &slot->segs[i];

		batch_add(slot, (struct guest_copy){
			.local = local,
			.gref = seg->gref,
			.offset = seg->offset,
			.len = seg->len,
			.to_guest = stage == COPY_OUT,
		});
		local += seg->len;
	}
}

static void batch_segments(struct slot *slot)
{
	uint8_t *local = (uint8_t *)slot->iov; /* unused as yet, and large enough */
	unsigned left = slot->head.seg_count * 8u;

	static_assert(sizeof(slot->iov) >= TD_XEN_MAX_SEGMENTS * 8, "room for segments");
	batch_enter(slot, COPY_SEGMENTS, RING_INDIRECT_PAGES);
	for (unsigned i = 0; left; i++) {
		unsigned len = (unsigned)min_u64(left, RING_PAGE);

		batch_add(slot, (struct guest_copy){
			.local = local, .gref = slot->head.pages[i], .len = (uint16_t)len,
		});
		local += len;
		left -= len;
	}
}

/* ---- answers ------------------------------------------------------------- */

static void slot_answer(struct slot *slot, enum ring_status status)
{
	slot->status = status;
	list_add(&slot->lane->to_answer, &slot->link);
}

void slot_reject(struct slot *slot, enum ring_status status, const char *what)
{
	count_add(&slot->lane->counts.rejected, 1);
	complain(slot->lane, what, slot);
	slot_answer(slot, status);
}

static void put_kept(struct slot *slot, unsigned count)
{
	struct grants *grants = &slot->lane->grants;
	uint64_t now = td_now_ms();

	for (unsigned i = 0; i < count; i++)
		grants_put(grants, &grants->all[slot->kept[i]], now);
}

void slot_release(struct slot *slot)
{
	struct xen_lane *lane = slot->lane;

	switch (slot->holds) {
	case NOTHING:
		break;
	case PAGES:
		pages_put(&lane->pages, slot->memory, slot->pages);
		break;
	case MAPPED:
		lane->guest->ops->unmap(lane->guest, slot->memory, slot->pages);
		break;
	case KEPT:
		put_kept(slot, slot->head.seg_count);
		break;
	}
	if (lane->barrier == slot)
		lane->barrier = NULL;
	count_add(&lane->counts.released, 1);
	td_pool_put(lane->pool, slot->req);
}

/* True: something was answered. */
bool slots_answer(struct xen_lane *lane)
{
	struct list *link;

	if (list_empty(&lane->to_answer))
		return false;
	while ((link = list_pop(&lane->to_answer))) {
		struct slot *slot = list_item(link, struct slot, link);

		/* The guest has its pages back before it is told so. */
		ring_answer(&lane->ring, slot->head.id, slot->head.code, slot->status);
		slot_release(slot);
	}
	if (ring_push(&lane->ring)) {
		count_add(&lane->counts.notified, 1);
		lane->guest->ops->notify(lane->guest);
	}
	return true;
}

static enum ring_status status_of(int err)
{
	if (!err)
		return RING_OKAY;
	return err == -EOPNOTSUPP ? RING_UNSUPPORTED : RING_ERROR;
}

/* ---- to the disk and back ------------------------------------------------ */

static void slot_submit(struct slot *slot, enum stage stage, enum td_op op, unsigned flags)
{
	struct td_req *req = slot->req;
	bool data = op == TD_READ || op == TD_WRITE;

	slot->stage = stage;
	req->op = op;
	req->flags = flags;
	req->offset = op == TD_FLUSH ? 0 : slot->head.offset;
	req->len = op == TD_FLUSH ? 0 : slot->head.len;
	req->iov = data ? slot->iov : NULL;
	if (!data)
		req->iov_count = 0;
	td_submit(req);
}

static void slot_submit_data(struct slot *slot)
{
	enum td_op op = slot->head.op == RING_READ ? TD_READ : TD_WRITE;

	slot_submit(slot, AT_DISK, op, slot->head.op == RING_BARRIER ? TD_FUA : 0);
}

/* May be called from within td_submit(): the hook goes on from here. */
void slot_ended(struct td_req *req)
{
	struct slot *slot = td_req_user(req);

	list_add(&slot->lane->ended, &slot->link);
}

/* Of data and discards: the image below may have smaller sectors than were offered. */
static bool is_whole_sectors(const struct slot *slot)
{
	unsigned sector = slot->lane->params->offer.sector;

	return is_aligned(slot->head.offset, sector) && is_aligned(slot->head.len, sector);
}

static void slot_feed(struct slot *slot)
{
	if (is_whole_sectors(slot))
		list_add(&slot->lane->hungry, &slot->link);
	else
		slot_reject(slot, RING_ERROR, "it has parts of sectors");
}

static void slot_discard(struct slot *slot)
{
	if (is_whole_sectors(slot))
		slot_submit(slot, AT_DISK, TD_DISCARD, 0);
	else
		slot_reject(slot, RING_ERROR, "it has parts of sectors");
}

static void slot_after_disk(struct slot *slot)
{
	int err = slot->req->err;

	if (slot->stage == FLUSH_FIRST && !err && slot->head.seg_count)
		slot_feed(slot);
	else if (slot->head.op == RING_READ && !err && slot->holds == PAGES)
		batch_data(slot, COPY_OUT);
	else
		slot_answer(slot, status_of(err));
}

bool slots_after_disk(struct xen_lane *lane)
{
	struct list *link;
	bool any = false;

	while ((link = list_pop(&lane->ended))) {
		slot_after_disk(list_item(link, struct slot, link));
		any = true;
	}
	return any;
}

static void slot_copied(struct slot *slot, int err)
{
	const char *what;
	enum ring_status status;

	if (err) {
		slot_reject(slot, RING_ERROR, "a grant cannot be copied");
		return;
	}
	switch (slot->stage) {
	case COPY_SEGMENTS:
		status = ring_indirect(&slot->head, (uint8_t *)slot->iov,
				       slot->indirect, &what);
		if (status)
			slot_reject(slot, status, what);
		else
			slot_feed(slot);
		break;
	case COPY_IN:
		slot_submit_data(slot);
		break;
	case COPY_OUT:
		slot_answer(slot, RING_OKAY);
		break;
	case TAKEN:
	case AT_DISK:
	case FLUSH_FIRST:
		break; /* have no copies */
	}
}

/* ---- memory for the data ------------------------------------------------- */

static bool wants_map(const struct slot *slot)
{
	switch (slot->lane->params->data) {
	case TD_XEN_MAP:
		return true;
	case TD_XEN_COPY:
		return false;
	case TD_XEN_AUTO:
		break;
	}
	return slot->head.seg_count > AUTO_COPY_SEGMENTS;
}

/* The parts of the mapped pages; neighbours become one. */
static unsigned slot_iovecs(struct slot *slot)
{
	unsigned count = 0;

	for (unsigned i = 0; i < slot->head.seg_count; i++) {
		const struct ring_seg *seg = &slot->segs[i];
		uint8_t *base = (uint8_t *)slot->memory + i * RING_PAGE + seg->offset;
		struct iovec *last = count ? &slot->iov[count - 1] : NULL;

		if (last && (uint8_t *)last->iov_base + last->iov_len == base)
			last->iov_len += seg->len;
		else
			slot->iov[count++] = (struct iovec){ base, seg->len };
	}
	return count;
}

static void slot_map(struct slot *slot)
{
	struct xen_lane *lane = slot->lane;
	uint32_t grefs[TD_XEN_MAX_SEGMENTS];
	unsigned count = slot->head.seg_count;

	for (unsigned i = 0; i < count; i++)
		grefs[i] = slot->segs[i].gref;
	slot->memory = lane->guest->ops->map(lane->guest, grefs, count,
					    slot->head.op == RING_READ);
	if (!slot->memory) {
		slot_reject(slot, RING_ERROR, "a grant cannot be mapped");
		return;
	}
	slot->holds = MAPPED;
	slot->pages = count;
	slot->req->iov_count = slot_iovecs(slot);
	count_add(&lane->counts.mapped, 1);
	slot_submit_data(slot);
}

/* True: the request is on its way, or refused. False: all grants that may be kept are
 * in use, and its data are to be reached otherwise. */
static bool slot_keep(struct slot *slot)
{
	struct grants *grants = &slot->lane->grants;

	for (unsigned i = 0; i < slot->head.seg_count; i++) {
		const struct ring_seg *seg = &slot->segs[i];
		int err = 0;
		struct grant *grant = grants_get(grants, seg->gref, &err);

		if (!grant) {
			put_kept(slot, i);
			if (err == -EAGAIN)
				return false;
			list_del(&slot->link);
			slot_reject(slot, RING_ERROR, "a grant cannot be mapped for writing");
			return true;
		}
		slot->kept[i] = (uint16_t)(grant - grants->all);
		slot->iov[i] = (struct iovec){ (uint8_t *)grant->page + seg->offset, seg->len };
	}
	list_del(&slot->link);
	slot->holds = KEPT;
	slot->req->iov_count = slot->head.seg_count;
	count_add(&slot->lane->counts.kept, 1);
	xen_lane_keeps(slot->lane);
	slot_submit_data(slot);
	return true;
}

/* False: no memory now. */
static bool slot_copy(struct slot *slot)
{
	struct xen_lane *lane = slot->lane;
	unsigned pages = (unsigned)(round_up(slot->head.len, RING_PAGE) / RING_PAGE);

	slot->memory = pages_get(&lane->pages, pages);
	if (!slot->memory)
		return false;
	list_del(&slot->link);
	slot->holds = PAGES;
	slot->pages = pages;
	slot->iov[0] = (struct iovec){ slot->memory, slot->head.len };
	slot->req->iov_count = 1;
	count_add(&lane->counts.copied, 1);
	if (slot->head.op == RING_READ)
		slot_submit_data(slot);
	else
		batch_data(slot, COPY_IN);
	return true;
}

void slots_feed(struct xen_lane *lane)
{
	lane->starved = false;
	LIST_FOR_SAFE (struct slot, slot, &lane->hungry, link) {
		slot->segs = slot->head.indirect ? slot->indirect : slot->head.segs;
		if (lane->params->offer.persistent && slot_keep(slot)) {
			/* nothing is to be mapped or copied */
		} else if (wants_map(slot)) {
			list_del(&slot->link);
			slot_map(slot);
		} else if (!slot_copy(slot)) {
			lane->starved = true;
			return;
		}
		count_add(&lane->counts.segments, slot->head.seg_count);
	}
}

/* ---- beginning ------------------------------------------------------------ */

/* FLUSH with data means: flush, then write. */
static bool is_barrier(const struct ring_req *head)
{
	return head->op == RING_BARRIER || (head->op == RING_FLUSH && head->seg_count);
}

void slot_start(struct slot *slot)
{
	if (slot->head.indirect)
		batch_segments(slot);
	else if (is_barrier(&slot->head))
		slot->lane->barrier = slot;
	else if (slot->head.op == RING_FLUSH)
		slot_submit(slot, AT_DISK, TD_FLUSH, 0);
	else if (slot->head.op == RING_DISCARD)
		slot_discard(slot);
	else
		slot_feed(slot);
}

void slot_start_barrier(struct slot *slot)
{
	slot_submit(slot, FLUSH_FIRST, TD_FLUSH, 0);
}
