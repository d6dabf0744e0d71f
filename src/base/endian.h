/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Numbers as they lie on disk and on the wire. Each is a struct of bytes, so
 * that one can neither forget to convert it nor misalign it.
 */
#ifndef BASE_ENDIAN_H
#define BASE_ENDIAN_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint8_t b[2]; } be16;
typedef struct { uint8_t b[4]; } be32;
typedef struct { uint8_t b[8]; } be64;
typedef struct { uint8_t b[2]; } le16;
typedef struct { uint8_t b[4]; } le32;
typedef struct { uint8_t b[8]; } le64;

#define ENDIAN_PAIR(type, host, from, to) \
	static inline host from_##type(type x) \
	{ \
		host v; \
		memcpy(&v, x.b, sizeof(v)); \
		return from(v); \
	} \
	static inline type to_##type(host v) \
	{ \
		type x; \
		v = to(v); \
		memcpy(x.b, &v, sizeof(v)); \
		return x; \
	}

ENDIAN_PAIR(be16, uint16_t, be16toh, htobe16)
ENDIAN_PAIR(be32, uint32_t, be32toh, htobe32)
ENDIAN_PAIR(be64, uint64_t, be64toh, htobe64)
ENDIAN_PAIR(le16, uint16_t, le16toh, htole16)
ENDIAN_PAIR(le32, uint32_t, le32toh, htole32)
ENDIAN_PAIR(le64, uint64_t, le64toh, htole64)

#endif
