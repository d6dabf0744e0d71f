/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qcow driver's parts, over <blktap/format.h>:
 *
 *   qcow.c    open, close, info       layout.c  the header
 *   map.c     L1 and L2: what lies where, and changes of it
 *   l1.c      what must be known of tables before they are used
 *   packed.c  compressed clusters     create.c, check.c, resize.c
 */
#ifndef QCOW_H
#define QCOW_H

#include <errno.h>

#include <blktap/format.h>

#include "base/log.h"
#include "base/num.h"
#include "drivers/qcow/layout.h"

/* What reaches the disk before what: tables have no order among themselves, as new
 * room is a table of holes. */
enum qcow_stage {
	QCOW_TABLES,
};

struct qcow {
	bool resized;         /* options */
	uint64_t cache_size;

	struct td_image *img;
	struct td_file *file;
	struct qcow_layout layout;
	bool l1_little;       /* its entries are little-endian */
	uint8_t *l1_bad;      /* a bit for each entry that was wrong at open; NULL: none */
	struct td_cache *cache;
	struct td_space *space;
	struct td_map *map;
	struct td_crypt *crypt; /* of the data; NULL: none, or keyless */
	uint32_t page;        /* of the cache */
	uint64_t run;         /* bytes mapped at once where nothing is below */
	uint64_t packed_at, packed_end; /* room behind the last compressed cluster */
};

/* l1.c: blocking, before the cache is there; sets what begins with l1_, and page. */
int qcow_l1_open(struct qcow *qcow, struct td_why *why);
/* Where room begins: a file ends there, a block device goes on behind what is used. */
int qcow_used_end(struct qcow *qcow, uint64_t *end, struct td_why *why);
/* Whether an L2 table can lie at that place in the file. */
bool qcow_l2_fits(const struct qcow *qcow, uint64_t at);
/* An L1 entry as it lies in the file. */
static inline uint64_t qcow_l1_value(const struct qcow *qcow, be64 entry)
{
	uint64_t value = from_be64(entry);

	return qcow->l1_little ? __builtin_bswap64(value) : value;
}
/* It is wrong, and stays so even if the file grows over the place that it names. */
static inline bool qcow_l1_is_bad(const struct qcow *qcow, uint64_t index)
{
	return qcow->l1_bad && qcow->l1_bad[index / 8] & (1u << index % 8);
}

/* map.c: see struct td_map_ops */
int qcow_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
	      struct td_spot *out);
int qcow_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len);
int qcow_place(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len,
	       uint64_t *at);
int qcow_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at);
int qcow_set_packed(struct td_image *img, uint64_t offset, uint64_t at, uint64_t len);
int qcow_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone);

/* packed.c: likewise */
int qcow_unpack(struct td_image *img, const void *from, size_t len, void *to);
int qcow_pack(struct td_image *img, const void *from, void *to, size_t *len);
int qcow_place_packed(struct td_image *img, struct td_park *park, uint64_t len, uint64_t *at);

struct qcow_create_options {
	char *encryption;
	bool weak;
};
extern const struct td_option qcow_create_options[];
int qcow_create(const struct td_create *make, struct td_why *why);
int qcow_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);
int qcow_resize(struct td_image *img, uint64_t size, struct td_why *why);
int qcow_check(struct td_image *img, struct td_check *check, struct td_why *why);

#endif
