/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files as short inputs: see sparse.h. */
#include "sparse.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/guard.h"
#include "base/num.h"

#define RUN_HEAD 6
#define GAP 12      /* zeroes between two runs, at least */
#define RUNS_MAX 512

static uint32_t get32(const uint8_t *at)
{
	le32 n;

	memcpy(&n, at, sizeof(n));
	return from_le32(n);
}

static void put32(uint8_t *at, uint32_t value)
{
	le32 n = to_le32(value);

	memcpy(at, &n, sizeof(n));
}

static uint16_t get16(const uint8_t *at)
{
	return at[0] | at[1] << 8;
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = value;
	at[1] = value >> 8;
}

void sparse_read(struct sparse *sparse, const uint8_t *data, size_t size)
{
	*sparse = (struct sparse){ .runs = data + size, .end = data + size };
	if (size < SPARSE_HEAD)
		return;
	sparse->how = data[0];
	sparse->script = get32(data + 4);
	sparse->length = get32(data + 8) % (SPARSE_MAX + 1);
	sparse->runs = data + SPARSE_HEAD;
}

bool sparse_next(struct sparse *sparse, struct sparse_run *run)
{
	const uint8_t *at = sparse->runs;
	size_t left = sparse->end - at;

	if (left < RUN_HEAD)
		return false;
	run->at = get32(at) % SPARSE_MAX;
	run->bytes = at + RUN_HEAD;
	run->len = min_u64(get16(at + 4), left - RUN_HEAD);
	run->len = run->at < sparse->length ? min_u64(run->len, sparse->length - run->at) : 0;
	sparse->runs += RUN_HEAD + min_u64(get16(at + 4), left - RUN_HEAD);
	return true;
}

void sparse_write_file(struct sparse sparse, const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct sparse_run run;

	demand(fd >= 0 && !ftruncate(fd, sparse.length));
	while (sparse_next(&sparse, &run))
		demand(pwrite(fd, run.bytes, run.len, run.at) == run.len);
}

/* The bytes from at on up to GAP zeroes, or the end. */
static size_t run_length(const uint8_t *data, size_t at, size_t size)
{
	size_t end = at, zeroes = 0;

	for (size_t i = at; i < size && zeroes < GAP && i - at < UINT16_MAX; i++) {
		zeroes = data[i] ? 0 : zeroes + 1;
		end = data[i] ? i + 1 : end;
	}
	return end - at;
}

static size_t encode(const uint8_t *data, size_t size, uint8_t how, uint8_t *out)
{
	size_t used = SPARSE_HEAD, len;

	memset(out, 0, SPARSE_HEAD);
	out[0] = how;
	put32(out + 8, size);
	for (size_t at = 0; at < size; at += len) {
		if (!data[at]) {
			len = 1;
			continue;
		}
		len = run_length(data, at, size);
		if (used + RUN_HEAD + len > FUZZ_MAX)
			return 0;
		put32(out + used, at);
		put16(out + used + 4, len);
		memcpy(out + used + RUN_HEAD, data + at, len);
		used += RUN_HEAD + len;
	}
	return used;
}

size_t sparse_from_file(const char *path, uint8_t how, uint8_t *out)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	AUTO_FREE uint8_t *data = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || st.st_size > SPARSE_MAX)
		return 0;
	data = malloc(st.st_size + 1);
	if (!data || read(fd, data, st.st_size) != st.st_size)
		return 0;
	return encode(data, st.st_size, how, out);
}

/* ---- changes --------------------------------------------------------------- */

static unsigned runs_find(const uint8_t *data, size_t size, uint32_t *at)
{
	unsigned count = 0;

	for (size_t pos = SPARSE_HEAD; pos + RUN_HEAD < size && count < RUNS_MAX;) {
		at[count++] = pos;
		pos += RUN_HEAD + get16(data + pos + 4);
	}
	return count;
}

/* A number that means something in this file. */
static uint64_t telling(struct fuzz_random *random, const uint8_t *data, const uint32_t *runs,
			unsigned count)
{
	static const uint64_t odd[] = { 0, 1, 2, 3, 7, 8, 9, 16, 21, 22, 32, 63, 64, 512, 4096,
					65536, 1 << 20, INT32_MAX, UINT32_MAX, INT64_MAX };
	uint64_t n;

	switch (fuzz_below(random, 4)) {
	case 0:
		n = odd[fuzz_below(random, ARRAY_SIZE(odd))];
		break;
	case 1:
		n = get32(data + runs[fuzz_below(random, count)]);
		n = fuzz_below(random, 2) ? n : n / 512;
		break;
	case 2:
		n = get32(data + 8);
		n = fuzz_below(random, 2) ? n : n / 512;
		break;
	default:
		n = 1ull << fuzz_below(random, 64);
	}
	return n + (fuzz_below(random, 4) ? 0 : fuzz_below(random, 2) ? 1 : -1ull);
}

/* A field of 1 to 8 bytes, in either order of bytes, at an offset that suits it. */
static void change_field(struct fuzz_random *random, uint8_t *data, size_t size,
			 const uint32_t *runs, unsigned count)
{
	const uint8_t *run = data + runs[fuzz_below(random, count)];
	size_t len = min_u64(get16(run + 4), data + size - run - RUN_HEAD);
	size_t width = 1u << fuzz_below(random, 4);
	uint32_t from = get32(run);
	uint8_t *bytes = (uint8_t *)run + RUN_HEAD, field[8];
	uint64_t n = telling(random, data, runs, count);
	size_t at;

	if (len < width)
		return;
	at = fuzz_below(random, len - width + 1);
	at -= (from + at) % width <= at ? (from + at) % width : 0;
	for (size_t i = 0; i < width; i++)
		field[i] = n >> 8 * i;
	if (fuzz_below(random, 2))
		for (size_t i = 0; i < width; i++)
			bytes[at + i] = field[i];
	else
		for (size_t i = 0; i < width; i++)
			bytes[at + i] = field[width - 1 - i];
}

static void change_byte(struct fuzz_random *random, uint8_t *data, size_t size)
{
	uint8_t *at = data + fuzz_below(random, size);

	switch (fuzz_below(random, 3)) {
	case 0: *at ^= 1 << fuzz_below(random, 8); break;
	case 1: *at = fuzz_below(random, 256); break;
	case 2: *at += fuzz_below(random, 2) ? 1 : -1; break;
	}
}

/* Copies a part of one run over a part of another: entries of tables, above all. */
static void change_copy(struct fuzz_random *random, uint8_t *data, size_t size,
			const uint32_t *runs, unsigned count)
{
	size_t from = runs[fuzz_below(random, count)] + RUN_HEAD;
	size_t to = runs[fuzz_below(random, count)] + RUN_HEAD;
	size_t len = 1u << fuzz_below(random, 7);

	from += fuzz_below(random, max_u64(get16(data + from - 2), 1));
	to += fuzz_below(random, max_u64(get16(data + to - 2), 1));
	if (from + len <= size && to + len <= size)
		memmove(data + to, data + from, len);
}

static size_t run_add(struct fuzz_random *random, uint8_t *data, size_t size, size_t max)
{
	size_t len = 1u << fuzz_below(random, 6);

	if (size + RUN_HEAD + len > max)
		return size;
	put32(data + size, fuzz_below(random, max_u64(get32(data + 8), 1)));
	put16(data + size + 4, len);
	for (size_t i = 0; i < len; i++)
		data[size + RUN_HEAD + i] = fuzz_below(random, 256);
	return size + RUN_HEAD + len;
}

static size_t run_drop(uint8_t *data, size_t size, size_t at)
{
	size_t len = min_u64(RUN_HEAD + get16(data + at + 4), size - at);

	memmove(data + at, data + at + len, size - at - len);
	return size - len;
}

/* Text becomes longer or shorter: what follows in the file stays where it is. */
static size_t run_stretch(struct fuzz_random *random, uint8_t *data, size_t size, size_t max,
			  size_t run)
{
	size_t len = get16(data + run + 4), pos = run + RUN_HEAD;
	size_t n = 1 + fuzz_below(random, 8), at = pos + fuzz_below(random, len + 1);

	if (pos + len > size)
		return size;
	if (fuzz_below(random, 2) && size + n <= max && len + n < UINT16_MAX) {
		memmove(data + at + n, data + at, size - at);
		put16(data + run + 4, len + n);
		return size + n;
	}
	n = min_u64(n, pos + len - at);
	memmove(data + at, data + at + n, size - at - n);
	put16(data + run + 4, len - n);
	return size - n;
}

size_t sparse_mutate(struct fuzz_random *random, uint8_t *data, size_t size, size_t max)
{
	unsigned changes = 1 + fuzz_below(random, 4);
	uint32_t runs[RUNS_MAX];

	while (changes--) {
		unsigned count = runs_find(data, size, runs);

		if (!count)
			return size;
		switch (fuzz_below(random, 16)) {
		case 0: change_byte(random, data, size); break;
		case 1: put32(data + 8, telling(random, data, runs, count)); break;
		case 2: put32(data + 8, fuzz_below(random, get32(data + 8) + 1ull)); break;
		case 3: put32(data + runs[fuzz_below(random, count)],
			      telling(random, data, runs, count)); break;
		case 4: data[0] = fuzz_below(random, 256); break;
		case 5: put32(data + 4, fuzz_below(random, UINT32_MAX)); break;
		case 6: size = run_add(random, data, size, max); break;
		case 7: size = run_drop(data, size, runs[fuzz_below(random, count)]); break;
		case 8: size = run_stretch(random, data, size, max,
					   runs[fuzz_below(random, count)]); break;
		case 9:
		case 10: change_copy(random, data, size, runs, count); break;
		default: change_field(random, data, size, runs, count);
		}
	}
	return size;
}
