/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qcow2 driver's parts, over <blktap/format.h>:
 *
 *   qcow2.c   open, close, info       layout.c  the header
 *   map.c     L1 and L2: what lies where, and changes of it
 *   subs.c    extended L2 entries: subclusters
 *   refs.c    refcounts: who has a cluster; places for new ones
 *   table.c   a longer refcount table; a copy of a table that a snapshot shares
 *   packed.c  compressed clusters     create.c, check.c
 *   reuse.c   what was free already
 *   snapshot.c  snapshots within      change.c  another size
 *   header.c  another backing file     crypt.c   encrypted images
 *   bitmaps.c   persistent bitmaps
 */
#ifndef QCOW2_H
#define QCOW2_H

#include <errno.h>

#include <blktap/format.h>

#include "base/log.h"
#include "drivers/qcow2/layout.h"

/* What reaches the disk before what. */
enum qcow2_stage {
	QCOW2_REFS,    /* refcounts, before */
	QCOW2_TABLE,   /* the refcount table, before */
	QCOW2_L2,      /* what shows clusters, before */
	QCOW2_L1,      /* what shows tables, before */
	QCOW2_HEAD,    /* what shows a new refcount table */
};

/* Work on many pages that one request begins and others wait for. */
struct qcow2_job {
	struct td_park park;
	struct td_parks waiting;
	bool running;
	uint64_t from, to, at, size, pos; /* see table.c */
	uint64_t blocks, clusters, index;
};

/* A cluster with subclusters that is copied, since a snapshot has it too. */
#define QCOW2_COPIES 4
struct qcow2_copy {
	struct td_park park;
	struct td_parks waiting;
	struct qcow2 *q;
	struct td_req *req;
	void *buf;             /* a cluster */
	bool running;
	uint64_t offset;       /* on the disk */
	uint64_t entry;        /* the first half, as it was */
	uint64_t to;           /* its new place; 0: not yet */
};

struct qcow2 {
	char *backing_format;  /* options: */
	char *data_path;
	char *snapshot;
	uint64_t cache_size;

	struct td_image *img;
	struct td_file *file;
	struct td_file *data;  /* NULL: data are in file */
	uint64_t seen_index, seen_table; /* the L1 entry that was looked at last; 0: none. Of
	                                    a read-only image, where it stays so */
	struct td_cache *cache;
	struct qcow2_layout layout;
	uint64_t now_l1_at, now_l1_count; /* snapshot=: the image's own, not that one's;
	                                     else 0 */
	struct td_space *space;
	struct td_map *map;
	struct td_crypt *crypt; /* of the data; NULL: none, or keyless */
	uint32_t page;         /* of the cache */
	uint64_t packed_at, packed_end; /* room behind the last compressed cluster */
	struct qcow2_job longer;  /* the refcount table becomes longer */
	struct qcow2_job reuse;   /* free clusters are looked for, up to that number to */
	struct qcow2_job unshare; /* an L2 table is copied */
	struct qcow2_copy copy[QCOW2_COPIES];
	struct qcow2_bitmap *bitmap; /* those that are kept true */
	unsigned bitmaps;
};

/* One line for an entry that cannot be; -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t at, uint64_t value);
/* Whether a cluster of the file can be at that place, with tables or data in it. */
bool qcow2_place_fits(const struct qcow2 *q, uint64_t at);

/* map.c: see struct td_map_ops */
int qcow2_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
	       struct td_spot *out);
bool qcow2_is_hole(struct td_image *img, uint64_t offset, uint64_t len);
int qcow2_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len);
int qcow2_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at);
int qcow2_clear(struct td_image *img, uint64_t offset, uint64_t len, bool zero);

/* The L2 entry for offset, which is ready; NULL: it cannot be read. */
be64 *qcow2_entry_ready(struct qcow2 *q, uint64_t offset);
int qcow2_packed_spot(struct qcow2 *q, uint64_t offset, uint64_t entry, struct td_spot *out);

/* subs.c */
/* What lies at offset. The entry, and how many there are; own: no snapshot has their
 * table. */
int qcow2_sub_spot(struct qcow2 *q, const be64 *entry, uint64_t max, uint64_t offset,
		   uint64_t len, bool own, struct td_spot *out);
/* Bytes [from, to) of a cluster are in its place at host now. */
void qcow2_sub_set(const struct qcow2 *q, be64 *entry, uint64_t host, uint64_t from, uint64_t to);
/* Ready: the cluster at offset is at another place now, each subcluster as it was. */
void qcow2_sub_move(struct qcow2 *q, uint64_t offset, uint64_t to);
/* Ready: sees to it that no snapshot has the cluster at offset, by copying it. */
int qcow2_sub_own(struct qcow2 *q, struct td_park *park, uint64_t offset);
int qcow2_copies_open(struct qcow2 *q);
void qcow2_copies_free(struct qcow2 *q);

/* refs.c */
int qcow2_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
		uint64_t *at);
int qcow2_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone);
/* Takes up to *len bytes of new clusters in a row; their refcounts are 1 then. */
int qcow2_take(struct qcow2 *q, struct td_park *park, uint64_t *len, uint64_t *at);
/* by: -1, 0 or 1 owners more; *left: how many there are then. -EOVERFLOW: too many. */
int qcow2_ref_add(struct qcow2 *q, struct td_park *park, uint64_t at, int by, uint64_t *left);
uint64_t qcow2_ref_max(const struct qcow2 *q);
/* A refcount within its block's bytes; bit_at: of its first bit. */
uint64_t qcow2_ref_get(const struct qcow2_layout *layout, const void *block, uint64_t index);
void qcow2_ref_set(const struct qcow2_layout *layout, void *block, uint64_t index, uint64_t value);

/* Blocking: the end of the last cluster that has a refcount. */
int qcow2_refs_end(struct qcow2 *q, uint64_t *end);
/* The page with a cluster's refcount, NULL if there is no block of it, and how many
 * clusters from it on have theirs there; which of the page's it is. */
int qcow2_refs_page(struct qcow2 *q, struct td_park *park, uint64_t cluster, void **page,
		    uint64_t *left);
uint64_t qcow2_ref_index(const struct qcow2 *q, uint64_t cluster);

/* reuse.c: looks for free clusters, if none are known. */
void qcow2_reuse(struct qcow2 *q);

/* table.c */
int qcow2_table_longer(struct qcow2 *q, struct td_park *park);
int qcow2_l2_unshare(struct qcow2 *q, struct td_park *park, uint64_t index, uint64_t from);

/* packed.c */
int qcow2_pack(struct td_image *img, const void *from, void *to, size_t *len);
int qcow2_place_packed(struct td_image *img, struct td_park *park, uint64_t len, uint64_t *at);
int qcow2_set_packed(struct td_image *img, uint64_t offset, uint64_t at, uint64_t len);
int qcow2_unpack(struct td_image *img, const void *from, size_t len, void *to);

/* crypt.c */
int qcow2_crypt_open(struct qcow2 *q, struct td_why *why);
void qcow2_crypt_info(const struct qcow2 *q, td_info_put *put, void *arg);
/* A cluster that lay at from is to lie at to; 0: it is plain there. */
int qcow2_recrypt(struct qcow2 *q, void *buf, uint64_t from, uint64_t to);
struct qcow2_create_options;
int qcow2_crypt_plan(const struct td_create *make, const struct qcow2_create_options *options,
		     struct qcow2_layout *layout, struct td_why *why);
/* The LUKS header of a new image, to be freed, and its length; NULL: it needs none. */
int qcow2_crypt_make(const struct td_create *make, const struct qcow2_create_options *options,
		     struct qcow2_layout *layout, void **header, struct td_why *why);

/* create.c */
struct qcow2_create_options {
	bool extended_l2, metadata, lazy_refcounts, data_file_raw;
	uint64_t refcount_bits;
	char *compat, *data_file, *compression, *encryption, *iter_time;
};
extern const struct td_option qcow2_create_options[];
int qcow2_create(const struct td_create *make, struct td_why *why);
int qcow2_check(struct td_image *img, struct td_check *check, struct td_why *why);
/* Bits 63 of the image's own tables become as the refcounts have it; or those that are
 * missing come, which costs nobody anything. */
int qcow2_flags_mend(struct qcow2 *q, uint64_t *changed);
int qcow2_flags_come(struct qcow2 *q, uint64_t *changed);

/* snapshot.c */
struct qcow2_snapshot {
	uint64_t index, at, len;     /* of its row in the snapshot table */
	uint64_t l1_at, l1_count, size, made_s, state_size;
	char id[256], name[256];     /* cut short if they are longer */
};
/* Blocking. *at: of the next row, the table's beginning at first. */
int qcow2_snapshot_read(struct qcow2 *q, uint64_t *at, struct qcow2_snapshot *out);
int qcow2_snapshot_find(struct qcow2 *q, const char *name, struct qcow2_snapshot *out,
			struct td_why *why);
int qcow2_snapshot(struct td_image *img, const struct td_snapshots *ask, struct td_why *why);

/* change.c: blocking */
/* Clusters in a row, which hold nothing yet. */
int qcow2_take_run(struct qcow2 *q, uint64_t bytes, uint64_t *at);
/* Clusters lose an owner each. */
void qcow2_give_run(struct qcow2 *q, uint64_t at, uint64_t bytes);
/* Writes a part of the header, within a sector: at once, and durably. */
int qcow2_head_write(struct qcow2 *q, const void *part, size_t len, size_t at);
/* A copy of an L1 table, with entries for count, in clusters of its own; shared: what it
 * shows has other owners, whatever bits 63 say. */
int qcow2_l1_copy(struct qcow2 *q, uint64_t from, uint64_t has, uint64_t count, bool shared,
		  uint64_t *at);
int qcow2_resize(struct td_image *img, uint64_t size, struct td_why *why);
/* header.c: blocking */
int qcow2_set_backing(struct td_image *img, const char *backing, const char *format,
		      struct td_why *why);

/* bitmaps.c: blocking, but for note */
enum qcow2_bitmap_flag {
	QCOW2_BITMAP_IN_USE = 1 << 0,   /* not true */
	QCOW2_BITMAP_AUTO = 1 << 1,     /* follows the disk */
	QCOW2_BITMAP_EXTRA_OK = 1 << 2, /* what nobody knows of it does not matter */
};

struct qcow2_bitmap_row {
	uint64_t at, len;            /* of the row, in the file */
	uint64_t table_at, count;
	uint32_t flags;
	unsigned grain_bits;         /* log2 of a bit's bytes of the disk */
	bool known;                  /* its kind */
	char name[1024];
};
typedef int qcow2_bitmap_fn(void *arg, const struct qcow2_bitmap_row *row);
/* Rows of bitmaps, if the image says that these are true. -EINVAL: they cannot be. */
int qcow2_bitmap_each(struct qcow2 *q, qcow2_bitmap_fn *each, void *arg);
/* Those that follow the disk are marked as in use, and kept true from now on. */
int qcow2_bitmaps_open(struct qcow2 *q);
/* Bytes of the disk change. */
void qcow2_bitmaps_note(struct qcow2 *q, uint64_t offset, uint64_t len);
/* Before and after the disk gets another size: of all bitmaps. */
int qcow2_bitmaps_take_all(struct qcow2 *q);
int qcow2_bitmaps_resize(struct qcow2 *q, uint64_t old, uint64_t size);
void qcow2_bitmaps_close(struct qcow2 *q);
void qcow2_bitmaps_free(struct qcow2 *q);

void qcow2_unmake(const struct td_create *make);
int qcow2_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);
/* Blocking, in open: the end of the last cluster that tables show. */
int qcow2_shown_end(struct qcow2 *q, uint64_t *end);
/* Blocking, in open: writes refcounts anew, as the tables have it. */
int qcow2_rebuild(struct qcow2 *q, struct td_why *why);

#endif
