/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Identities of images. In text a UUID is five numbers; images have them as bytes, the
 * first three numbers big-endian (VHD) or, as Windows keeps them, little-endian (VHDX, VDI).
 */
#ifndef BASE_UUID_H
#define BASE_UUID_H

#include <stdint.h>

enum td_uuid_order {
	TD_UUID_BIG,
	TD_UUID_LITTLE,
};

#define TD_UUID_TEXT 37

/* A random one; -EIO: the kernel has no random numbers yet. */
int td_uuid_make(uint8_t uuid[16], enum td_uuid_order order);
void td_uuid_text(const uint8_t uuid[16], enum td_uuid_order order, char text[TD_UUID_TEXT]);

#endif
