/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VHD driver's parts; what maps blocks is over <blktap/format.h>:
 *
 *   vhd.c     open, close, info        layout.c  footers and header
 *   map.c     block table and bitmaps: what lies where, and changes of it
 *   parent.c  where the image below is, and how its name is kept
 *   scan.c    blocks in the order of the file: what check and open need to know
 *   change.c  another size, another parent
 *   create.c
 */
#ifndef VHD_H
#define VHD_H

#include <errno.h>

#include <blktap/format.h>

#include "base/log.h"
#include "drivers/vhd/layout.h"

#define VHD_PAGE 512

/* What reaches the disk before what. Full bitmaps of new blocks show nothing: they need
 * not wait for data. */
enum vhd_stage {
	VHD_FULL,      /* bitmaps of new blocks without an image below, before */
	VHD_SHOWS,     /* all others, and the block table */
};

struct vhd {
	char *subformat, *size_from, *backing_format; /* options: */
	uint64_t cache_size;

	struct td_image *img;
	struct td_file *file;
	struct vhd_layout layout;
	struct td_cache *cache; /* these three: NULL if it is fixed */
	struct td_space *space;
	struct td_map *map;
	uint8_t *full;          /* the batmap, a bit for each block; NULL: none */
	char *parent;           /* as it was found; NULL: none */
};

/* vhd.c: map, cache and space; closing is harmless where nothing is open. */
int vhd_open_map(struct vhd *vhd, struct td_why *why);
void vhd_close_map(struct vhd *vhd);

/* map.c: see struct td_map_ops */
extern const struct td_map_ops vhd_ops;
/* The bit of a sector, in the byte of a bitmap that has it. */
static inline uint8_t vhd_bit(const struct vhd_layout *layout, uint64_t sector)
{
	return layout->bits_reversed ? 1u << (sector % 8) : 0x80u >> (sector % 8);
}
/* Whether XenServer says that every sector of the block is there. */
static inline bool vhd_is_full(const struct vhd *vhd, uint64_t block)
{
	return vhd->full && vhd->full[block / 8] & (0x80u >> (block % 8));
}

/* parent.c */
/* Opens the image below. */
int vhd_parent_open(struct vhd *vhd, struct td_why *why);
/* A parent, as header and locators will name it. */
struct vhd_parent {
	char name[2][VHD_LOCATOR_MAX]; /* what the locators hold */
	uint32_t len[2], count;
};
/* Fills what header has of a parent; locators are to lie at locators_at, each taking
 * whole sectors. */
int vhd_parent_name(const char *path, const char *backing, const char *format,
		    struct td_files *files, uint64_t locators_at, struct vhd_header *header,
		    struct vhd_parent *out, struct td_why *why);

/* The header names no parent. */
void vhd_parent_clear(struct vhd_header *header);

/* change.c */
/* Nothing follows the footer of a fixed image any more. */
int vhd_end_fixed(struct vhd *vhd, struct td_why *why);
int vhd_resize(struct td_image *img, uint64_t size, struct td_why *why);
int vhd_set_backing(struct td_image *img, const char *backing, const char *format,
		    struct td_why *why);

/* scan.c */
/* What a writer must know of the file, and put right, before anything else. *end: where
 * room begins. Blocks. */
int vhd_prepare(struct vhd *vhd, uint64_t *end, struct td_why *why);
int vhd_check(struct td_image *img, struct td_check *check, struct td_why *why);

/* create.c */
struct vhd_create_options {
	char *subformat;
};
extern const struct td_option vhd_create_options[];
int vhd_create(const struct td_create *make, struct td_why *why);
int vhd_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);

#endif
