/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw deflate streams with a window of 4 KiB: compressed units of qcow and qcow2. */
#ifndef FORMAT_DEFLATE_H
#define FORMAT_DEFLATE_H

#include <stddef.h>

/* Fills size bytes; from may have more than the stream. -EIO: it is damaged. */
int td_inflate(const void *from, size_t len, void *to, size_t size);
/* Into at most *len bytes, which becomes what it took; -E2BIG: that is too few. */
int td_deflate(const void *from, size_t size, void *to, size_t *len);

#endif
