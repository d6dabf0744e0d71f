/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

/* Where the bytes of the text lie. */
static const uint8_t place[2][16] = {
	[TD_UUID_BIG]    = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	[TD_UUID_LITTLE] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 },
};

int td_uuid_make(uint8_t uuid[16], enum td_uuid_order order)
{
	uint8_t *version = &uuid[place[order][6]];

	if (getrandom(uuid, 16, 0) != 16)
		return -EIO;
	*version = (*version & 0x0f) | 0x40; /* 4: random */
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
	return 0;
}

void td_uuid_text(const uint8_t uuid[16], enum td_uuid_order order, char text[TD_UUID_TEXT])
{
	for (unsigned i = 0; i < 16; i++)
		text += sprintf(text, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
				uuid[place[order][i]]);
}
