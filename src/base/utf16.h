/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UTF-16, as names lie in images, from and to UTF-8.
 */
#ifndef BASE_UTF16_H
#define BASE_UTF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The caller's; ends at a 0. NULL: no memory, or no UTF-16. */
char *td_from_utf16(const uint8_t *from, size_t bytes, bool big);
/* Bytes, without a 0 at the end; 0: it does not fit, or is no UTF-8. */
size_t td_to_utf16(const char *from, uint8_t *to, size_t room, bool big);

#endif
