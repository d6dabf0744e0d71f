/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counters of one thread that others may read: no lock, and no locked instruction.
 */
#ifndef BASE_COUNT_H
#define BASE_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

/* Counted on one thread, read on any. */
typedef _Atomic uint64_t count_t;

static inline void count_add(count_t *count, uint64_t n)
{
	atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline uint64_t count_read(const count_t *count)
{
	return atomic_load_explicit(count, memory_order_relaxed);
}

#endif
