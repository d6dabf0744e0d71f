/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C, the checksum of VHDX. */
#ifndef VHDX_CRC32C_H
#define VHDX_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of data that goes on where a sum ended: begin with 0. */
uint32_t crc32c(uint32_t sum, const void *data, size_t len);

#endif
