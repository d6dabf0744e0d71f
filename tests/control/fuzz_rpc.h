/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fuzz entry of the control socket, which the ordinary tests call too.
 */
#ifndef TESTS_CONTROL_FUZZ_RPC_H
#define TESTS_CONTROL_FUZZ_RPC_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
