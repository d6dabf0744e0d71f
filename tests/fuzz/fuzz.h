/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz targets: parsers, and images opened, read and written, that are given any
 * bytes. One table of them serves two programs:
 *
 *   fuzz-mutate  seeds and random changes of them, each known by two numbers; with
 *                any compiler; a second of it for each target is a test
 *   fuzz         the same targets under clang's libFuzzer: "make fuzz"
 *
 * A target aborts where something holds no more that must, whatever the bytes.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FUZZ_MAX 65536 /* bytes of an input */

struct fuzz_format;

struct fuzz_target {
	const char *name;
	void (*input)(const struct fuzz_target *target, const uint8_t *data, size_t size);
	/* Puts the n-th seed into room for FUZZ_MAX bytes; 0: there are no more. */
	size_t (*seed)(const struct fuzz_target *target, unsigned n, uint8_t *out);
	bool sparse; /* inputs are as in sparse.h */
	const struct fuzz_format *format; /* of an image */
};

extern const struct fuzz_target *const fuzz_targets[]; /* NULL: the end */
const struct fuzz_target *fuzz_target_find(const char *name);

#define demand(holds) \
	((holds) ? (void)0 : fuzz_demanded(#holds, __FILE__, __LINE__))
void fuzz_demanded(const char *what, const char *file, int line) __attribute__((noreturn));

/* A folder on a tmpfs of this process alone, made when first asked for. */
const char *fuzz_folder(void);

/* Numbers that follow from a seed. */
struct fuzz_random {
	uint64_t state;
};
void fuzz_random_start(struct fuzz_random *random, uint64_t seed, uint64_t run);
uint64_t fuzz_below(struct fuzz_random *random, uint64_t below);

/* Changes an input; returns its new size, at most max. */
size_t fuzz_mutate(const struct fuzz_target *target, struct fuzz_random *random, uint8_t *data,
		   size_t size, size_t max);

#endif
