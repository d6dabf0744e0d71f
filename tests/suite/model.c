/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tagged content, and the model of a disk made of it; see model.h.
 *
 * A sector is 64 words: the tag with a magic, the sector's number, then a
 * sequence that follows from both.
 */
#include "model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

#define WORDS (SECTOR / 8)
#define MAGIC 0x7461676700000000ull /* "tagg", and the tag below */

static void sector_make(uint64_t word[WORDS], uint64_t sector, uint32_t tag)
{
	if (tag == TAG_ZERO) {
		memset(word, 0, SECTOR);
		return;
	}
	word[0] = MAGIC | tag;
	word[1] = sector;
	uint64_t x = (word[0] ^ sector * 0x9e3779b97f4a7c15ull) | 1;
	uint64_t step = tag < TAG_PACKED ? x * 6364136223846793005ull : 0;
	for (unsigned i = 2; i < WORDS; i++)
		word[i] = x += step;
}

void tag_fill(void *buf, uint64_t offset, uint64_t len, uint32_t tag)
{
	uint64_t word[WORDS];

	assert(offset % SECTOR == 0 && len % SECTOR == 0);
	for (uint64_t pos = 0; pos < len; pos += SECTOR) {
		sector_make(word, (offset + pos) / SECTOR, tag);
		memcpy((char *)buf + pos, word, SECTOR);
	}
}

bool tag_matches(const void *sector, uint64_t offset, uint32_t tag)
{
	static const uint64_t zeroes[WORDS];
	uint64_t word[WORDS];

	if (tag == TAG_ZERO)
		return !memcmp(sector, zeroes, SECTOR);
	word[0] = MAGIC | tag;
	if (memcmp(sector, word, sizeof(word[0])))
		return false;
	sector_make(word, offset / SECTOR, tag);
	return !memcmp(sector, word, SECTOR);
}

void tag_describe(const void *sector, char *text, size_t size)
{
	uint64_t word[WORDS], made[WORDS];

	memcpy(word, sector, SECTOR);
	uint32_t tag = (uint32_t)word[0];
	sector_make(made, word[1], tag);
	if (tag != TAG_ZERO && !memcmp(word, made, SECTOR)) {
		snprintf(text, size, "tag %u of sector %llu", tag, (unsigned long long)word[1]);
		return;
	}
	memset(made, 0, SECTOR);
	if (!memcmp(word, made, SECTOR))
		snprintf(text, size, "zeroes");
	else
		snprintf(text, size, "bytes of no tag: %016llx %016llx ... %016llx",
			 (unsigned long long)word[0], (unsigned long long)word[1],
			 (unsigned long long)word[WORDS - 1]);
}

void model_init(struct model *model, uint64_t size, uint32_t tag)
{
	model->size = size;
	model->tag = tag;
	model->cell = calloc(size / SECTOR + 1, sizeof(*model->cell));
	if (!model->cell)
		abort();
}

static struct cell *cell_at(struct model *model, uint64_t offset)
{
	struct cell *cell = &model->cell[offset / SECTOR];

	if (!cell->count) {
		cell->tag[0] = model->tag;
		cell->count = 1;
	}
	return cell;
}

void model_copy(struct model *to, const struct model *from)
{
	if (!to->cell || to->size != from->size) {
		model_free(to);
		model_init(to, from->size, from->tag);
	}
	to->tag = from->tag;
	memcpy(to->cell, from->cell, from->size / SECTOR * sizeof(*to->cell));
}

void model_free(struct model *model)
{
	free(model->cell);
	model->cell = NULL;
}

void model_set(struct model *model, uint64_t offset, uint64_t len, uint32_t tag)
{
	assert(offset + len <= model->size);
	for (uint64_t s = offset / SECTOR; s < (offset + len) / SECTOR; s++) {
		model->cell[s].tag[0] = tag;
		model->cell[s].count = 1;
	}
}

static bool cell_has(const struct cell *cell, uint32_t tag)
{
	for (unsigned i = 0; i < cell->count; i++)
		if (cell->tag[i] == tag)
			return true;
	return false;
}

void model_maybe(struct model *model, uint64_t offset, uint64_t len, uint32_t tag)
{
	assert(offset + len <= model->size);
	for (uint64_t s = offset / SECTOR; s < (offset + len) / SECTOR; s++) {
		struct cell *cell = cell_at(model, s * SECTOR);
		if (cell_has(cell, tag))
			continue;
		assert(cell->count < MODEL_CANDIDATES);
		cell->tag[cell->count++] = tag;
	}
}

static void cell_describe(const struct cell *cell, char *text, size_t size)
{
	size_t at = 0;

	for (unsigned i = 0; i < cell->count && at < size; i++)
		at += snprintf(text + at, size - at, "%s%u", i ? " or " : "", cell->tag[i]);
}

static bool cell_match(struct cell *cell, uint64_t offset, const void *sector)
{
	for (unsigned i = 0; i < cell->count; i++) {
		if (!tag_matches(sector, offset, cell->tag[i]))
			continue;
		cell->tag[0] = cell->tag[i];
		cell->count = 1;
		return true;
	}
	return false;
}

bool model_match(struct model *model, uint64_t offset, const void *buf,
		 uint64_t len, char *text, size_t size)
{
	char found[128], wanted[128];

	assert(offset + len <= model->size);
	for (uint64_t pos = 0; pos < len; pos += SECTOR) {
		struct cell *cell = cell_at(model, offset + pos);
		const char *sector = (const char *)buf + pos;
		if (cell_match(cell, offset + pos, sector))
			continue;
		cell_describe(cell, wanted, sizeof(wanted));
		tag_describe(sector, found, sizeof(found));
		snprintf(text, size, "sector %llu (byte %llu) should hold tag %s, holds %s",
			 (unsigned long long)((offset + pos) / SECTOR),
			 (unsigned long long)(offset + pos), wanted, found);
		return false;
	}
	return true;
}

uint64_t rnd_next(struct rnd *rnd)
{
	uint64_t z = rnd->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint64_t rnd_below(struct rnd *rnd, uint64_t n)
{
	return n ? rnd_next(rnd) % n : 0;
}
