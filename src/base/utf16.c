/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UTF-16, as names lie in images, from and to UTF-8.
 */
#include "base/utf16.h"

#include <stdint.h>
#include <stdlib.h>

static uint32_t unit_at(const uint8_t *from, bool big)
{
	return big ? from[0] << 8 | from[1] : from[1] << 8 | from[0];
}

static char *put_utf8(char *to, uint32_t c)
{
	if (c < 0x80) {
		*to++ = c;
	} else if (c < 0x800) {
		*to++ = 0xc0 | c >> 6;
		*to++ = 0x80 | (c & 63);
	} else if (c < 0x10000) {
		*to++ = 0xe0 | c >> 12;
		*to++ = 0x80 | (c >> 6 & 63);
		*to++ = 0x80 | (c & 63);
	} else {
		*to++ = 0xf0 | c >> 18;
		*to++ = 0x80 | (c >> 12 & 63);
		*to++ = 0x80 | (c >> 6 & 63);
		*to++ = 0x80 | (c & 63);
	}
	return to;
}

char *td_from_utf16(const uint8_t *from, size_t bytes, bool big)
{
	char *text = malloc(bytes / 2 * 3 + 1), *to = text;

	for (size_t i = 0; text && i + 2 <= bytes; i += 2) {
		uint32_t c = unit_at(from + i, big), low;

		if (!c)
			break;
		if (c >= 0xd800 && c < 0xe000) {
			low = i + 4 <= bytes ? unit_at(from + i + 2, big) : 0;
			if (c >= 0xdc00 || low < 0xdc00 || low >= 0xe000) {
				free(text);
				return NULL;
			}
			c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
			i += 2;
		}
		to = put_utf8(to, c);
	}
	if (text)
		*to = 0;
	return text;
}

/* The next letter; 0: the end, or no UTF-8. */
static uint32_t get_utf8(const char **from)
{
	const uint8_t *p = (const uint8_t *)*from;
	unsigned more = *p < 0xc2 ? 0 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : 0;
	uint32_t c = more ? *p & (0x3f >> more) : *p;

	if (!more && *p >= 0x80)
		return 0;
	for (unsigned i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	*from += more + 1;
	return c;
}

size_t td_to_utf16(const char *from, uint8_t *to, size_t room, bool big)
{
	size_t n = 0;

	while (*from) {
		uint32_t c = get_utf8(&from), unit[2] = { c, 0 };
		unsigned units = 1;

		if (!c)
			return 0;
		if (c >= 0x10000) {
			unit[0] = 0xd800 + ((c - 0x10000) >> 10);
			unit[1] = 0xdc00 + (c & 0x3ff);
			units = 2;
		}
		for (unsigned i = 0; i < units; i++, n += 2) {
			if (n + 2 > room)
				return 0;
			to[n] = big ? unit[i] >> 8 : unit[i];
			to[n + 1] = big ? unit[i] : unit[i] >> 8;
		}
	}
	return n;
}
