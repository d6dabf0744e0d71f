/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The targets that are no images, each in the file of its name. */
#ifndef TESTS_FUZZ_TARGETS_H
#define TESTS_FUZZ_TARGETS_H

#include "fuzz.h"

extern const struct fuzz_target fuzz_luks, fuzz_nbd, fuzz_nbd_client, fuzz_ring, fuzz_rpc,
	fuzz_spec, fuzz_survivor;

#endif
