/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC-32C (Castagnoli, reflected): by the processor's own instruction where it has one,
 * else four bits at a time.
 */
#include "drivers/vhdx/crc32c.h"

#include <string.h>

static uint32_t crc_by_table(uint32_t sum, const uint8_t *p, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	while (len--) {
		sum ^= *p++;
		sum = sum >> 4 ^ table[sum & 15];
		sum = sum >> 4 ^ table[sum & 15];
	}
	return sum;
}

#ifdef __x86_64__
__attribute__((target("sse4.2")))
static uint32_t crc_by_processor(uint32_t sum, const uint8_t *p, size_t len)
{
	uint64_t wide = sum, word;

	for (; len >= sizeof(word); len -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		wide = __builtin_ia32_crc32di(wide, word);
	}
	sum = wide;
	while (len--)
		sum = __builtin_ia32_crc32qi(sum, *p++);
	return sum;
}
#endif

uint32_t crc32c(uint32_t sum, const void *data, size_t len)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_by_processor(~sum, data, len);
#endif
	return ~crc_by_table(~sum, data, len);
}
