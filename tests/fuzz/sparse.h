/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file as a short input: its length and what is in it, so that nearly every byte of
 * the input means something, and an image of many megabytes takes some hundred.
 *
 *     how it is used (1), spare (3), a seed of what is done with it (4), length (4),
 *     then runs: offset (4), length (2), bytes
 *
 * Numbers are little-endian. Any bytes are an input: offsets wrap at SPARSE_MAX, a run
 * that is cut ends early.
 */
#ifndef TESTS_FUZZ_SPARSE_H
#define TESTS_FUZZ_SPARSE_H

#include <stddef.h>
#include <stdint.h>

#include "fuzz.h"

#define SPARSE_HEAD 12
#define SPARSE_MAX (32u << 20)

enum sparse_how {
	SPARSE_OPTION = 7,         /* which of the format's ways to open it */
	SPARSE_AS_IT_IS = 1 << 3,  /* checksums are not put right */
	SPARSE_REPAIR = 1 << 4,
	SPARSE_RESIZE = 1 << 5,
	SPARSE_SNAPSHOT = 1 << 6,
};

struct sparse {
	uint8_t how;
	uint32_t script, length;
	const uint8_t *runs, *end;
};

struct sparse_run {
	uint32_t at;
	uint16_t len;
	const uint8_t *bytes;
};

void sparse_read(struct sparse *sparse, const uint8_t *data, size_t size);
bool sparse_next(struct sparse *sparse, struct sparse_run *run); /* false: no more */

/* The file of that name has this content, and no other. */
void sparse_write_file(struct sparse sparse, const char *path);
/* Returns how many bytes were put into room for FUZZ_MAX; 0: it is too large. */
size_t sparse_from_file(const char *path, uint8_t how, uint8_t *out);

size_t sparse_mutate(struct fuzz_random *random, uint8_t *data, size_t size, size_t max);

#endif
