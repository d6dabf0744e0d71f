/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of a request: what of it a child covers, and copies of it.
 */
#include <assert.h>
#include <string.h>

#include "core/core_impl.h"

unsigned iov_cut(struct iovec *out, unsigned max, const struct iovec *iov, uint64_t pos,
		 uint64_t len)
{
	unsigned count = 0;

	for (; pos >= iov->iov_len; iov++)
		pos -= iov->iov_len;
	for (; len && count < max; iov++, pos = 0) {
		uint64_t n = min_u64(len, iov->iov_len - pos);

		out[count++] = (struct iovec){ (char *)iov->iov_base + pos, n };
		len -= n;
	}
	return len ? 0 : count;
}

void td_slice(struct td_req *kid, uint64_t pos, uint64_t len)
{
	const struct td_req *parent = kid->parent;
	struct td_slot *slot = slot_of(kid);

	assert(len && pos + len <= parent->len);
	kid->op = parent->op;
	kid->flags = parent->flags;
	kid->offset = parent->offset + pos;
	kid->len = len;
	kid->iov = NULL;
	kid->iov_count = 0;
	if (parent->op != TD_READ && parent->op != TD_WRITE)
		return;
	if (len == parent->len) {
		kid->iov = parent->iov;
		kid->iov_count = parent->iov_count;
		return;
	}
	kid->iov = slot->few;
	kid->iov_count = iov_cut(slot->few, TD_IOV_FEW, parent->iov, pos, len);
	if (!kid->iov_count) {
		kid->iov = slot->many;
		kid->iov_count = iov_cut(slot->many, TD_IOV_MAX, parent->iov, pos, len);
	}
}

void td_buffer(struct td_req *kid, enum td_op op, void *buf, uint64_t len)
{
	struct td_slot *slot = slot_of(kid);

	slot->one = (struct iovec){ buf, len };
	kid->op = op;
	kid->flags = 0;
	kid->len = len;
	kid->iov = buf ? &slot->one : NULL;
	kid->iov_count = buf ? 1 : 0;
}

/* ---- the data of a request --------------------------------------------------- */

/* Calls one for each piece of memory under [pos, pos + len). */
#define FOR_PIECES(req, pos, len, at, n) \
	for (const struct iovec *iov_ = piece_first((req)->iov, &(pos)); \
	     (len) && ((n) = min_u64(len, iov_->iov_len - (pos)), \
		       (at) = (char *)iov_->iov_base + (pos), true); \
	     (len) -= (n), (pos) = 0, iov_++)

static const struct iovec *piece_first(const struct iovec *iov, uint64_t *pos)
{
	for (; *pos && *pos >= iov->iov_len; iov++)
		*pos -= iov->iov_len;
	return iov;
}

void td_req_put(struct td_req *req, uint64_t pos, const void *from, size_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n) {
		memcpy(at, from, n);
		from = (const char *)from + n;
	}
}

void td_req_get(const struct td_req *req, uint64_t pos, void *to, size_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n) {
		memcpy(to, at, n);
		to = (char *)to + n;
	}
}

void td_req_zero(struct td_req *req, uint64_t pos, uint64_t len)
{
	uint64_t n;
	char *at;

	FOR_PIECES (req, pos, len, at, n)
		memset(at, 0, n);
}
