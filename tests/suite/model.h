/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a disk should hold. Content is made of tags: a sector written under tag
 * 7 holds bytes that follow from 7 and the sector's number, so that data in the
 * wrong place, of the wrong time or half of each is recognised and named.
 * Tag 0 is zeroes; tag 1 is what a backing image was filled with.
 *
 * A sector may have several acceptable tags: after a discard, a failed write or
 * a power cut. Reading it settles which one it is.
 */
#ifndef SUITE_MODEL_H
#define SUITE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR 512u
#define TAG_ZERO 0u
#define TAG_BASE 1u
#define TAG_PACKED 0x80000001u /* likewise, and easily compressed */
#define TAG_FIRST 2u /* the first one for writes */

#define MODEL_CANDIDATES 24

struct cell {
	uint32_t tag[MODEL_CANDIDATES];
	uint8_t  count; /* 0: as the model began, so that large ones are cheap */
};

struct model {
	uint64_t     size; /* bytes */
	uint32_t     tag;  /* of what was never touched */
	struct cell *cell; /* one per sector */
};

/* Fills len bytes at buf as written at offset under tag. */
void tag_fill(void *buf, uint64_t offset, uint64_t len, uint32_t tag);
/* Does this sector hold this tag's content? */
bool tag_matches(const void *sector, uint64_t offset, uint32_t tag);
/* "tag 7 of sector 12", "zeroes", "bytes of no tag: 0011..." */
void tag_describe(const void *sector, char *text, size_t size);

/* All of it holds tag. */
void model_init(struct model *model, uint64_t size, uint32_t tag);
void model_copy(struct model *to, const struct model *from);
void model_free(struct model *model);

/* Bytes [offset, offset + len) hold tag, and nothing else. */
void model_set(struct model *model, uint64_t offset, uint64_t len, uint32_t tag);
/* They may hold tag now as well. */
void model_maybe(struct model *model, uint64_t offset, uint64_t len, uint32_t tag);

/*
 * Compares what was read at offset. false: text says where and how it differs.
 * true: what was uncertain is settled.
 */
bool model_match(struct model *model, uint64_t offset, const void *buf,
		 uint64_t len, char *text, size_t size);

/* A small generator, so that a printed seed repeats a run anywhere. */
struct rnd {
	uint64_t s;
};
uint64_t rnd_next(struct rnd *rnd);
/* Uniform enough in [0, n). */
uint64_t rnd_below(struct rnd *rnd, uint64_t n);

#endif
