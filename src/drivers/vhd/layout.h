/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHD on disk (docs/vhd.md): the structures as they lie there, and what is known
 * of an image once they have been checked.
 */
#ifndef VHD_LAYOUT_H
#define VHD_LAYOUT_H

#include <assert.h>
#include <blktap/driver.h>

#include "base/endian.h"
#include "base/num.h"

#define VHD_SIZE_MAX (2040 * GiB)
#define VHD_BLOCK_MAX (128 * MiB)
#define VHD_FILE_MAX (512ull << 32)   /* what a block's place can name */
#define VHD_ALIGN 4096                /* of the blocks that we place */
#define VHD_NO_BLOCK 0xffffffffu
#define VHD_NAME_UNITS 256            /* of 16 bits, in the header */
#define VHD_LOCATORS 8
#define VHD_FIXED_STEP GiB            /* how far a fixed image's footer moves at once */
#define VHD_LOCATOR_MAX 4096          /* bytes of a parent's name */

enum vhd_type {
	VHD_FIXED = 2,
	VHD_DYNAMIC = 3,
	VHD_DIFFERENCING = 4,
};

struct vhd_footer {
	char cookie[8];       /* "conectix" */
	be32 features, version;
	be64 header_at;
	be32 timestamp;       /* seconds since 2000 */
	char app[4];
	be32 app_version;
	char os[4];
	be64 original_size, current_size;
	be16 cylinders;
	uint8_t heads, sectors;
	be32 type, checksum;
	uint8_t uuid[16], saved, hidden, zero[426];
};
static_assert(sizeof(struct vhd_footer) == 512, "see docs/vhd.md");

struct vhd_locator {
	char code[4];
	be32 space, len, zero;
	be64 at;
};

struct vhd_header {
	char cookie[8];       /* "cxsparse" */
	be64 next;            /* all ones */
	be64 bat_at;
	be32 version, entries, block, checksum;
	uint8_t parent_uuid[16];
	be32 parent_timestamp, zero;
	be16 parent_name[VHD_NAME_UNITS];
	struct vhd_locator locator[VHD_LOCATORS];
	uint8_t zeroes[256];
};
static_assert(sizeof(struct vhd_header) == 1024, "see docs/vhd.md");

/* XenServer's map of the blocks of which every sector is there. */
struct vhd_batmap {
	char cookie[8];       /* "tdbatmap" */
	be64 at;
	be32 sectors, version, checksum;
	uint8_t zero[484];
};
static_assert(sizeof(struct vhd_batmap) == 512, "see docs/vhd.md");

/* How an image is chosen to be read where it can be read in two ways. */
struct vhd_choice {
	const char *subformat; /* "fixed", "dynamic" or NULL */
	const char *size;      /* "chs", "current" or NULL: by who made it */
};

struct vhd_layout {
	enum vhd_type type;
	uint64_t size;        /* of the disk */
	struct vhd_footer footer;
	struct vhd_header header;
	uint64_t footer_at;   /* where the one at the end is */
	bool has_footer;      /* ... if it is */
	bool has_copy;        /* the one at the beginning is there, and the same */
	/* dynamic, differencing: */
	uint64_t bat_at, entries;
	unsigned block_bits;
	uint32_t bitmap;      /* bytes of a block's bitmap: whole sectors */
	bool bits_reversed;   /* the lowest bit of a byte is its first sector's */
	uint64_t batmap_at, batmap_len; /* of the bits; 0: there is none */
	bool batmap_wrong;    /* there is one that cannot be relied on */
};

/* Reads and checks the footers and the header: what it returns can be relied on. */
int vhd_layout_read(struct td_file *file, const struct vhd_choice *choice,
		    struct vhd_layout *out, struct td_why *why);
/* Whether there is a sound footer, at either end. */
bool vhd_looks_like(struct td_file *file);

/* The ones' complement of the sum of bytes, which are a footer or a header with 0 in
 * the place of its checksum, or a batmap. */
uint32_t vhd_checksum(const void *data, size_t len);
/* Puts it in its place. */
void vhd_footer_seal(struct vhd_footer *footer);
void vhd_header_seal(struct vhd_header *header);
/* The geometry for a disk of that size, as the specification reckons it. */
void vhd_geometry(struct vhd_footer *footer, uint64_t size);

static inline uint64_t vhd_block(const struct vhd_layout *layout)
{
	return 1ull << layout->block_bits;
}

/* Bytes that a block takes where we place it: its bitmap at the end of the first
 * page, so that its data are aligned. */
static inline uint64_t vhd_stride(const struct vhd_layout *layout)
{
	return round_up(layout->bitmap, VHD_ALIGN) + round_up(vhd_block(layout), VHD_ALIGN);
}

static inline uint64_t vhd_bat_len(const struct vhd_layout *layout)
{
	return round_up(layout->entries * 4, 512);
}

#endif
