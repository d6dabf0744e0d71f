/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VHDX driver's parts; what maps blocks is over <blktap/format.h>:
 *
 *   vhdx.c    open, close, info        layout.c  headers, regions, metadata
 *   map.c     block table and bitmaps: what lies where, and changes of it
 *   replay.c  the log as it was found  log.c     the log as it is written
 *   parent.c  where the image below is, and how its name is kept
 *   scan.c    all blocks together: what check and open need to know
 *   change.c  another size, another parent
 *   create.c
 */
#ifndef VHDX_H
#define VHDX_H

#include <errno.h>

#include <blktap/format.h>

#include "base/log.h"
#include "drivers/vhdx/layout.h"
#include "drivers/vhdx/log.h"

/* What survivor memory brings to the file before what, as it has no log. */
enum vhdx_stage {
	VHDX_BITMAP,
	VHDX_TABLE_STAGE,
};

struct vhdx {
	char *backing_format;   /* options: */
	uint64_t cache_size;

	struct td_image *img;
	struct td_file *file;
	struct vhdx_layout layout;
	struct vhdx_reader reader;
	struct vhdx_log *log;   /* NULL: read-only */
	struct td_cache *cache;
	struct td_space *space;
	struct td_map *map;
	char *parent;           /* as it was found; NULL: none */
	struct vhdx_span *freed; /* whole blocks of the file that nobody has, in runs */
	unsigned freed_count;

	/* the first change: the headers must say so before */
	bool marked, marking;
	struct td_work work;
	struct td_parks waiting;
};

/* map.c: see struct td_map_ops */
extern const struct td_map_ops vhdx_ops, vhdx_fixed_ops;

/* parent.c */
/* Opens the image below. */
int vhdx_parent_open(struct vhdx *vhdx, struct td_why *why);
/* Fills *len bytes of a locator that names a parent. */
int vhdx_parent_name(const struct td_create *make, uint8_t locator[VHDX_LOCATOR_MAX],
		     uint32_t *len, struct td_why *why);

/* scan.c */
/* What a writer must know of the file, and put right, before anything else: vhdx->freed,
 * and *end: where room begins. Blocks. */
int vhdx_prepare(struct vhdx *vhdx, uint64_t *end, struct td_why *why);
/* Refuses an image that is read with a log that is not replayed, if that changes data. */
int vhdx_log_spares_data(struct vhdx *vhdx, struct td_why *why);
int vhdx_check(struct td_image *img, struct td_check *check, struct td_why *why);

/* vhdx.c */
/* What the file says: all of vhdx->layout. Its log is replayed. */
int vhdx_read_file(struct vhdx *vhdx, struct td_why *why);
int vhdx_open_map(struct vhdx *vhdx, struct td_why *why);
void vhdx_close_map(struct vhdx *vhdx);
/* Blocking: the headers say that there will be changes. */
int vhdx_mark_now(struct vhdx *vhdx);

/* change.c: see struct td_driver */
int vhdx_resize(struct td_image *img, uint64_t size, struct td_why *why);
int vhdx_set_backing(struct td_image *img, const char *backing, const char *format,
		     struct td_why *why);

/* create.c */
struct vhdx_create_options {
	char *subformat;
	uint64_t sector, log;
};
extern const struct td_option vhdx_create_options[];
int vhdx_create(const struct td_create *make, struct td_why *why);
int vhdx_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);

#endif
