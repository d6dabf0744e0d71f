/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VDI on disk (docs/vdi.md), what is known of an image once it has been checked, and
 * the driver's parts, over <blktap/format.h>:
 *
 *   vdi.c     open, close, info; the block map: what lies where, and changes of it
 *   layout.c  the header         scan.c  all blocks: check, and what a writer needs
 *   create.c   resize.c
 */
#ifndef VDI_H
#define VDI_H

#include <assert.h>
#include <errno.h>

#include <blktap/format.h>

#include "base/endian.h"
#include "base/log.h"
#include "base/num.h"
#include "base/rule.h"

#define VDI_PAGE 512
#define VDI_SIGNATURE 0xbeda107fu
#define VDI_NO_BLOCK 0xffffffffu
#define VDI_ZERO_BLOCK 0xfffffffeu
#define VDI_BLOCKS_MAX (1ull << 27)
#define VDI_PLACES_MAX (2 * VDI_BLOCKS_MAX) /* some have no owner */
#define VDI_BLOCK_MAX (64 * MiB)
#define VDI_ALIGN 4096                /* of the data that we place */

enum vdi_type {
	VDI_DYNAMIC = 1,
	VDI_FIXED = 2,
};

struct vdi_header {
	char text[64];
	le32 signature, version;
	le32 length, type, flags;
	char comment[256];
	le32 map_at, data_at;
	le32 cylinders, heads, sectors, sector, nothing;
	le64 size;
	le32 block, extra, blocks, used;
	uint8_t uuid[16], uuid_modify[16], uuid_parent[16], uuid_parent_modify[16];
	uint8_t zero[56];
};
static_assert(sizeof(struct vdi_header) == 512, "see docs/vdi.md");
static_assert(offsetof(struct vdi_header, size) == 0x170, "see docs/vdi.md");

struct vdi_layout {
	struct vdi_header header;
	enum vdi_type type;
	uint64_t size;        /* of the disk */
	uint64_t map_at, data_at;
	unsigned block_bits;
	uint64_t blocks;      /* of the map */
	uint64_t used;        /* places in the file that the header counts */
};

/* What reaches the disk before what. */
enum vdi_stage {
	VDI_COUNT,     /* the header's count, before */
	VDI_MAP,       /* what has the places that it counts */
};

struct vdi {
	uint64_t cache_size;  /* option */

	struct td_image *img;
	struct td_file *file;
	struct vdi_layout layout;
	struct td_cache *cache;
	struct td_space *space;
	struct td_map *map;
};

/* layout.c: what it returns can be relied on. */
int vdi_layout_read(struct td_file *file, struct vdi_layout *out, struct td_why *why);
bool vdi_looks_like(struct td_file *file);

/* scan.c: blocks. What a writer must know of the file, and put right. */
int vdi_prepare(struct vdi *vdi, struct td_why *why);
int vdi_check(struct td_image *img, struct td_check *check, struct td_why *why);

/* A block of the file, from place to place. */
int vdi_copy_block(struct vdi *vdi, uint64_t from, uint64_t to);

/* vdi.c: map, cache and space; closing is harmless where nothing is open. */
int vdi_open_map(struct vdi *vdi, struct td_why *why);
void vdi_close_map(struct vdi *vdi);

/* resize.c */
int vdi_resize(struct td_image *img, uint64_t size, struct td_why *why);

/* create.c */
struct vdi_create_options {
	char *subformat;
};
extern const struct td_option vdi_create_options[];
int vdi_create(const struct td_create *make, struct td_why *why);
int vdi_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);

static inline uint64_t vdi_block(const struct vdi_layout *layout)
{
	return 1ull << layout->block_bits;
}

/* Where the file has the n-th place. */
static inline uint64_t vdi_place(const struct vdi_layout *layout, uint64_t n)
{
	return layout->data_at + (n << layout->block_bits);
}

#endif
