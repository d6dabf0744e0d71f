/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small arithmetic. Alignments are powers of two. Sums of numbers from outside
 * use the compiler's __builtin_*_overflow directly.
 */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KiB 1024ull
#define MiB (1024ull * 1024)
#define GiB (1024ull * 1024 * 1024)
#define TiB (1024ull * 1024 * 1024 * 1024)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) \
	((type *)((char *)(ptr) - offsetof(type, member)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t round_down(uint64_t n, uint64_t align)
{
	return n & ~(align - 1);
}

/* Wraps for n within align of 2^64: check n first when it is not ours. */
static inline uint64_t round_up(uint64_t n, uint64_t align)
{
	return round_down(n + align - 1, align);
}

static inline bool is_aligned(uint64_t n, uint64_t align)
{
	return !(n & (align - 1));
}

static inline bool is_pow2(uint64_t n)
{
	return n && !(n & (n - 1));
}

#endif
