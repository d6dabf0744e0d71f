/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMDK driver's parts, over <blktap/format.h>:
 *
 *   vmdk.c    open, close, info        text.c    the descriptor
 *   extent.c  the files of an image    layout.c  headers of sparse extents
 *   map.c     grain tables: what lies where, and changes of it; both copies
 *   mark.c    what is written before the first write, and after the last
 *   stream.c  streams, while tools write them
 *   change.c  another size, another parent    edit.c  of the descriptor
 *   create.c, check.c
 *
 * Each extent has a map of its own, and those with tables a cache and space. The
 * maps stand in a row: a request walks from one to the next.
 */
#ifndef VMDK_H
#define VMDK_H

#include <errno.h>

#include <blktap/format.h>

#include "base/log.h"
#include "drivers/vmdk/layout.h"
#include "drivers/vmdk/text.h"

/* All entries are of one stage: data come before them (docs/vmdk.md). */
#define VMDK_TABLES 0

#define VMDK_TABLE_BAD UINT32_MAX

struct vmdk_extent {
	enum vmdk_extent_type type;
	uint64_t start, end;     /* on the disk */
	struct td_file *file;    /* NULL: ZERO */
	struct td_map *map;
	uint64_t at;             /* FLAT: where in the file */
	/* sparse ones: */
	struct vmdk_layout layout;
	uint32_t *table[2];      /* the directories: sectors, or numbers plus one of
	                            seSparse; 0: no table; [1] NULL: no second one */
	struct td_cache *cache;
	struct td_space *space;  /* NULL: read-only */
};

struct vmdk {
	char *backing_format;    /* options: */
	uint64_t cache_size;
	bool any_folder, stale_parent;

	struct td_image *img;
	struct td_file *file;    /* of the descriptor; NULL: it is in extent[0] */
	struct vmdk_text text;   /* no line: an extent was opened by itself */
	struct vmdk_extent *extent;
	unsigned extents;
	struct vmdk_stream *stream; /* being written; NULL: no stream, or to be read */
	/* mark.c */
	bool marked, unclean;
	bool lost;               /* an extent could not be opened again: requests fail */
	struct td_work work;
	struct td_parks waiting;
	bool marking;
	uint32_t next_cid;
};

static inline struct vmdk *vmdk_of(const struct td_image *img)
{
	return img->state;
}

/* The extent that has that offset of the disk. */
struct vmdk_extent *vmdk_extent_at(struct vmdk *v, uint64_t offset);
/* The file that has the descriptor. */
static inline struct td_file *vmdk_text_file(const struct vmdk *v)
{
	return v->file ? v->file : v->extent[0].file;
}

/* extent.c */
int vmdk_extents_open(struct vmdk *v, struct td_why *why);
void vmdk_extents_close(struct vmdk *v);
/* Map, cache and space of an extent, whose file has been changed meanwhile. */
void vmdk_extent_close(struct vmdk_extent *e);
int vmdk_extent_reopen(struct vmdk *v, struct vmdk_extent *e, struct td_why *why);
/* The last extent ends there now. */
int vmdk_extent_end(struct vmdk *v, struct vmdk_extent *e, uint64_t end, struct td_why *why);
/* Opens those that the descriptor has got since. */
int vmdk_extents_more(struct vmdk *v, struct td_why *why);
/* Where the file of that name is; refused if it may not be there. */
int vmdk_extent_path(const struct vmdk *v, const char *name, char **out, struct td_why *why);
/* Whether the disk's last sector is in the image itself. Blocks. */
bool vmdk_holds_end(struct vmdk *v);
extern const struct td_map_ops vmdk_sparse_ops, vmdk_flat_ops;

/* map.c: makes what entry (as it lies in a table) says a spot; no len. */
int vmdk_spot(const struct vmdk_extent *e, const void *entry, struct td_spot *out);
/* Where the file has a table; 0: there is none. */
uint64_t vmdk_table_at(const struct vmdk_extent *e, uint32_t number);
int vmdk_corrupt(struct vmdk *v, const struct vmdk_extent *e, const char *what, uint64_t at,
		 uint64_t value);

/* mark.c: 0, or TD_PARKED: park->go() is called when all is marked. */
int vmdk_mark(struct vmdk *v, struct td_park *park);
/* Blocking, in close, with all tables in their files. */
void vmdk_unmark(struct vmdk *v);
/* Blocking: the extents are in use, and what they hold stays the same. */
int vmdk_mark_in_use(struct vmdk *v);

/* check.c: blocking; what the second directory's tables have becomes what the first
 * one's have. *fixed: entries; *end: what follows is nobody's. */
int vmdk_mend(struct vmdk_extent *e, uint64_t *fixed, uint64_t *end);
/* compact.c: blocking, with the extent closed: no grain lies behind a place that nobody
 * has. used: a bit for each sector. */
int vmdk_compact(struct vmdk_extent *e, uint8_t *used, uint64_t sectors);
int vmdk_check(struct td_image *img, struct td_check *check, struct td_why *why);

/* stream.c */
/* Whether a stream can be written: it is empty. */
int vmdk_stream_may(const struct vmdk_extent *e, struct td_why *why);
/* Sets v->stream, which is closed in any case. */
int vmdk_stream_open(struct vmdk *v, struct vmdk_extent *e, struct td_why *why);
void vmdk_stream_close(struct vmdk_stream *s); /* NULL is fine */
void vmdk_stream_submit(struct vmdk_stream *s, struct td_req *req);
/* gd_at: bytes, or VMDK_AT_END. */
struct vmdk_header vmdk_stream_header(const struct vmdk_layout *layout, uint64_t gd_at);
/* Blocking: directory, footer and end, from at on, and a sync. */
int vmdk_stream_tail(struct td_file *file, const struct vmdk_layout *layout,
		     const uint32_t *table, uint64_t at);

/* edit.c */
struct vmdk_edit {
	uint64_t size;           /* of the last extent; 0: as it is */
	const char *lines;       /* that follow it; NULL: none */
	bool parent;             /* it gets what follows: */
	uint32_t parent_cid;
	const char *hint, *format; /* NULL: none; of a VMDK */
	bool begun;              /* out: the descriptor may have changed */
};
int vmdk_edit(struct vmdk *v, struct vmdk_edit *edit, struct td_why *why);

/* change.c */
int vmdk_resize(struct td_image *img, uint64_t size, struct td_why *why);
int vmdk_set_backing(struct td_image *img, const char *backing, const char *format,
		     struct td_why *why);

struct vmdk_create_options {
	char *subformat;
	bool zeroed_grain;
};
int vmdk_create(const struct td_create *make, struct td_why *why);
void vmdk_unmake(const struct td_create *make);
/* The file of a new extent, like one that there is; zeroed: all its grains are zeroes. */
int vmdk_extent_make(struct vmdk *v, const struct vmdk_extent *like, const char *path,
		     uint64_t size, bool zeroed, struct td_why *why);
/* The CID that an image at path is to expect of its parent. */
int vmdk_parent_cid(struct td_files *files, const char *path, const char *backing,
		    const char *format, uint32_t *cid, struct td_why *why);
int vmdk_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);

#endif
