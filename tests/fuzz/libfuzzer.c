/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The targets under clang's libFuzzer: FUZZ_TARGET in the environment names one.
 * tests/fuzz/run starts it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static const struct fuzz_target *target;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct rlimit files = { 1ull << 30, 1ull << 30 };
	const char *name = getenv("FUZZ_TARGET");

	target = name ? fuzz_target_find(name) : NULL;
	if (!target) {
		fprintf(stderr, "%s: FUZZ_TARGET names no target\n", (*argv)[0]);
		exit(2);
	}
	/* as on most file systems, there is an end to what a file can be */
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &files);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size <= FUZZ_MAX)
		target->input(target, data, size);
	return 0;
}

/* Sparse inputs would mostly be broken by bytes that come or go. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct fuzz_random random;

	if (!size || seed % 16 == 0 || (!target->sparse && seed % 4))
		return LLVMFuzzerMutate(data, size, max);
	fuzz_random_start(&random, seed, 0);
	return fuzz_mutate(target, &random, data, size, max);
}
