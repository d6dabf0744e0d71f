/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fuzz entry of qcow images, which the mutants' test calls too. */
#ifndef TESTS_QCOW_FUZZ_IMAGE_H
#define TESTS_QCOW_FUZZ_IMAGE_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
