/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: raw deflate in a window of 4 KiB, or a zstd frame. The
 * length that an entry tells is that of whole sectors: something may follow.
 *
 * New ones begin at a sector, so that none is written twice, one behind the other:
 * each cluster of the file that has a part of one counts it as an owner.
 */
#include "config.h"
#include "drivers/qcow2/qcow2.h"
#include "format/deflate.h"

#ifdef HAVE_ZSTD
#include <zstd.h>

static int unpack_zstd(const void *from, size_t len, void *to, size_t cluster)
{
	ZSTD_inBuffer in = { from, len, 0 };
	ZSTD_outBuffer out = { to, cluster, 0 };
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t ret = 1;

	if (!ctx)
		return -ENOMEM;
	while (ret && !ZSTD_isError(ret) && in.pos < in.size && out.pos < out.size)
		ret = ZSTD_decompressStream(ctx, &out, &in);
	ZSTD_freeDCtx(ctx);
	return !ZSTD_isError(ret) && out.pos == cluster ? 0 : -EIO;
}

static int pack_zstd(const void *from, size_t cluster, void *to, size_t *len)
{
	size_t ret = ZSTD_compress(to, *len, from, cluster, ZSTD_CLEVEL_DEFAULT);

	if (ZSTD_isError(ret))
		return -E2BIG;
	*len = ret;
	return 0;
}
#else
static int pack_zstd(const void *from, size_t cluster, void *to, size_t *len)
{
	return -EOPNOTSUPP;
}

static int unpack_zstd(const void *from, size_t len, void *to, size_t cluster)
{
	return -EOPNOTSUPP;
}
#endif

int qcow2_unpack(struct td_image *img, const void *from, size_t len, void *to)
{
	const struct qcow2 *q = img->state;
	size_t cluster = qcow2_cluster(&q->layout);

	return q->layout.zstd ? unpack_zstd(from, len, to, cluster) :
				td_inflate(from, len, to, cluster);
}

int qcow2_pack(struct td_image *img, const void *from, void *to, size_t *len)
{
	const struct qcow2 *q = img->state;
	size_t cluster = qcow2_cluster(&q->layout);

	if (q->layout.external || cluster <= 512)
		return -EOPNOTSUPP;
	return q->layout.zstd ? pack_zstd(from, cluster, to, len) :
				td_deflate(from, cluster, to, len);
}

/* It fits behind the last one. */
static int place_behind(struct qcow2 *q, struct td_park *park, uint64_t needs, uint64_t *at)
{
	uint64_t left, cluster = qcow2_cluster(&q->layout);
	int err = qcow2_ref_add(q, park, round_down(q->packed_at, cluster), 1, &left);

	if (err)
		return err;
	*at = q->packed_at;
	q->packed_at += needs;
	return 0;
}

int qcow2_place_packed(struct td_image *img, struct td_park *park, uint64_t len, uint64_t *at)
{
	struct qcow2 *q = img->state;
	uint64_t cluster = qcow2_cluster(&q->layout), needs = round_up(len, 512), next, left = 0;
	uint64_t room = q->packed_at ? q->packed_end - q->packed_at : 0, take = cluster;
	int err = 0;

	if (room) /* and so that its page is there, below */
		err = qcow2_ref_add(q, park, round_down(q->packed_at, cluster), 0, &left);
	if (err)
		return err;
	if (left == qcow2_ref_max(q)) /* it cannot have another owner */
		room = 0;
	if (room >= needs)
		return place_behind(q, park, needs, at);
	err = qcow2_take(q, park, &take, &next);
	if (err)
		return err;
	if (room && next == q->packed_end && !place_behind(q, park, room, at)) {
		q->packed_at = next + needs - room;
	} else {
		*at = next;
		q->packed_at = next + needs;
	}
	q->packed_end = next + cluster;
	return 0;
}
