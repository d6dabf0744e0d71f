/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fuzz entry of the ring, which the ring's test calls too. */
#ifndef TESTS_XEN_FUZZ_RING_H
#define TESTS_XEN_FUZZ_RING_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
