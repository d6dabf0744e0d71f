/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What all targets use: numbers from a seed, changes of plain bytes, a folder. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "fuzz.h"
#include "sparse.h"

void fuzz_demanded(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
	abort();
}

static char folder[64];

static void folder_remove(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command))
		fprintf(stderr, "%s: left\n", folder);
}

const char *fuzz_folder(void)
{
	if (!*folder) {
		const char *where = getenv("FUZZ_FOLDER");

		snprintf(folder, sizeof(folder), "%.40s/blktap-fuzz-%d",
			 where ? where : "/dev/shm", (int)getpid());
		demand(!mkdir(folder, 0700) || errno == EEXIST);
		atexit(folder_remove);
	}
	return folder;
}

/* ---- numbers ----------------------------------------------------------------- */

void fuzz_random_start(struct fuzz_random *random, uint64_t seed, uint64_t run)
{
	random->state = (seed * 0x9e3779b97f4a7c15ull ^ run * 0xd1342543de82ef95ull) | 1;
	for (int i = 0; i < 4; i++)
		fuzz_below(random, 2);
}

uint64_t fuzz_below(struct fuzz_random *random, uint64_t below)
{
	random->state ^= random->state << 13;
	random->state ^= random->state >> 7;
	random->state ^= random->state << 17;
	return (random->state * 0x2545f4914f6cdd1dull >> 11) % below;
}

/* ---- changes ------------------------------------------------------------------ */

static size_t bytes_insert(struct fuzz_random *random, uint8_t *data, size_t size, size_t max)
{
	size_t at = fuzz_below(random, size + 1), n = 1 + fuzz_below(random, 16);
	size_t from = fuzz_below(random, size + 1);
	uint8_t copy[16];

	if (size + n > max)
		return size;
	for (size_t i = 0; i < n; i++)
		copy[i] = from + i < size ? data[from + i] : fuzz_below(random, 256);
	memmove(data + at + n, data + at, size - at);
	memcpy(data + at, copy, n);
	return size + n;
}

static size_t bytes_remove(struct fuzz_random *random, uint8_t *data, size_t size)
{
	size_t at = fuzz_below(random, size);
	size_t n = min_u64(1 + fuzz_below(random, 16), size - at);

	memmove(data + at, data + at + n, size - at - n);
	return size - n;
}

static void bytes_change(struct fuzz_random *random, uint8_t *data, size_t size)
{
	static const uint8_t odd[] = { 0, 1, 2, 0x7f, 0x80, 0xff, '"', '\\', ',', '=', '{', '[' };
	size_t at = fuzz_below(random, size);

	if (fuzz_below(random, 3) == 0)
		data[at] = odd[fuzz_below(random, sizeof(odd))];
	else if (fuzz_below(random, 2))
		data[at] ^= 1 << fuzz_below(random, 8);
	else
		data[at] = fuzz_below(random, 256);
}

size_t fuzz_mutate(const struct fuzz_target *target, struct fuzz_random *random, uint8_t *data,
		   size_t size, size_t max)
{
	if (target->sparse)
		return sparse_mutate(random, data, size, max);
	for (unsigned n = 1 + fuzz_below(random, 5); n && size; n--) {
		switch (fuzz_below(random, 8)) {
		case 0: size = bytes_insert(random, data, size, max); break;
		case 1: size = bytes_remove(random, data, size); break;
		case 2: size = fuzz_below(random, 4) ? size : fuzz_below(random, size + 1); break;
		default: bytes_change(random, data, size);
		}
	}
	return size;
}
