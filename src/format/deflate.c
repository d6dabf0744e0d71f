/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deflate as qcow and qcow2 have it. Without zlib neither way can be gone.
 */
#include "format/deflate.h"

#include <errno.h>

#include "config.h"

#ifdef HAVE_ZLIB
#include <zlib.h>

#define WINDOW_BITS (-12) /* negative: no header around it */
#define MEMORY_LEVEL 9

/* The length that an entry tells may be a little long, so the end of the stream may
 * be left unsaid. */
int td_inflate(const void *from, size_t len, void *to, size_t size)
{
	z_stream z = {
		.next_in = (void *)from, .avail_in = len, .next_out = to, .avail_out = size,
	};
	int ret;

	if (inflateInit2(&z, WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

int td_deflate(const void *from, size_t size, void *to, size_t *len)
{
	z_stream z = {
		.next_in = (void *)from, .avail_in = size, .next_out = to, .avail_out = *len,
	};
	int ret;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	ret = deflate(&z, Z_FINISH);
	*len -= z.avail_out;
	deflateEnd(&z);
	return ret == Z_STREAM_END ? 0 : -E2BIG;
}
#else
int td_inflate(const void *from, size_t len, void *to, size_t size)
{
	return -EOPNOTSUPP;
}

int td_deflate(const void *from, size_t size, void *to, size_t *len)
{
	return -EOPNOTSUPP;
}
#endif
