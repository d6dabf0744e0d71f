/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: raw deflate in a window of 4 KiB, or a zstd frame. The
 * length that an entry tells is that of whole sectors: something may follow.
 */
#include "config.h"
#include "drivers/qcow2/qcow2.h"

#ifdef HAVE_ZLIB
#include <zlib.h>

static int unpack_zlib(const void *from, size_t len, void *to, size_t cluster)
{
	z_stream z = {
		.next_in = (void *)from, .avail_in = len,
		.next_out = to, .avail_out = cluster,
	};
	int ret;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}
#else
static int unpack_zlib(const void *from, size_t len, void *to, size_t cluster)
{
	return -EOPNOTSUPP;
}
#endif

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
#else
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
				unpack_zlib(from, len, to, cluster);
}
