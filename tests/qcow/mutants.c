/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow-mutants ROUNDS SEED IMAGE...: changes a few bytes of an image, mostly in
 * its header and tables, hands it to the fuzz entry, and does so again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_image.h"

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng * 0x2545f4914f6cdd1dull >> 11) % below;
}

static void mutate(uint8_t *data, size_t *size)
{
	static const uint8_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, 9, 12, 13, 16 };
	unsigned changes = 1 + rnd(4);

	while (changes--) {
		size_t span = rnd(2) ? 64 : rnd(2) ? 12288 : *size;
		size_t at = rnd(span < *size ? span : *size);

		data[at] = rnd(2) ? odd[rnd(sizeof(odd))] : rnd(256);
	}
	if (rnd(20) == 0)
		*size = rnd(*size);
}

int main(int argc, char **argv)
{
	static uint8_t image[8 << 20], mutant[8 << 20];
	unsigned rounds;

	if (argc < 4)
		return 2;
	rounds = atoi(argv[1]);
	rng = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15ull | 1;
	for (unsigned i = 0; i < rounds; i++) {
		FILE *file = fopen(argv[3 + i % (argc - 3)], "r");
		size_t size = file ? fread(image, 1, sizeof(image), file) : 0;

		if (!size)
			return 2;
		fclose(file);
		memcpy(mutant, image, size);
		mutate(mutant, &size);
		LLVMFuzzerTestOneInput(mutant, size);
	}
	return 0;
}
