/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * <blktap/format.h>: for drivers of image formats, beside <blktap/driver.h>.
 *
 * Every image format is a map from offsets of the disk to places in a file, kept
 * in tables that lie in the same file. What all of them need is here:
 *
 *   the cache   pages of the tables, in survivor memory: changed at once, written
 *               later, in order
 *   space       room at the end of the file, and what has been freed
 *   the map     requests walked from spot to spot: reads, writes in place, first
 *               writes, copies of what is shared, discards
 *
 * A format then says what lies at an offset, and changes entries. docs/formats.md
 * tells the whole; the order in which things reach the disk above all.
 *
 * Everything is called on the image's home queue. A function that may have to wait
 * takes a park and returns TD_PARKED: then park->go() is called later, and does the
 * same again from its beginning. So what may wait comes before what changes
 * anything.
 */
#ifndef BLKTAP_FORMAT_H
#define BLKTAP_FORMAT_H

#include <blktap/driver.h>

#define TD_PARKED 1

/* Who waits. go() gets an error if what it waits for cannot be had. */
struct td_park {
	void           (*go)(struct td_park *park, int err);
	struct td_park  *next; /* private */
};

/* Those who wait for one thing, first come first. Zeroed: nobody. */
struct td_parks {
	struct td_park *first, *last;
};
void td_parks_add(struct td_parks *parks, struct td_park *park);
/* Calls go(err) of all who wait now. */
void td_parks_go(struct td_parks *parks, int err);

/* ---- the cache ----------------------------------------------------------- */

/*
 * Pages are aligned blocks of the file, of one size, that hold nothing but tables.
 * Memory returned stays where it is while the caller runs, but no longer: after a
 * wait it is got again.
 */
struct td_cache;

struct td_cache_config {
	uint32_t page;     /* bytes: a power of two, 512 to 4096 */
	uint64_t size;     /* bytes of pages in memory; 0: 16 MiB */
	unsigned shows;    /* pages of this stage and later show data, or new room:
	                      what td_cache_data() tells of comes before them */
};

/* Reads the file only, where the image is read-only. */
int td_cache_new(struct td_image *img, struct td_file *file,
		 const struct td_cache_config *config, struct td_cache **out,
		 struct td_why *why);
/* Writes what is dirty, and blocks. If that fails, survivor memory keeps it. */
void td_cache_free(struct td_cache *cache);

/* The bytes at an offset of the file, up to the end of their page. 0, TD_PARKED or
 * -errno. */
int td_cache_get(struct td_cache *cache, uint64_t at, struct td_park *park, void **out);
/* The same for a page of new room, which is known to be zeroes and is not read. */
int td_cache_get_new(struct td_cache *cache, uint64_t at, struct td_park *park, void **out);
/* Whether there is room for changes: before the first of a request. 0, TD_PARKED,
 * or why pages cannot be written. */
int td_cache_room(struct td_cache *cache, struct td_park *park);
/*
 * Before the page at is changed. stage: pages of a lower one reach the file, and
 * stay, before those of a higher one. A page keeps its stage.
 */
void td_cache_dirty(struct td_cache *cache, void *at, unsigned stage);
/* Data have been written, or room made, that pages changed later may show. */
void td_cache_data(struct td_cache *cache);
/* park->go() when all that is dirty now, and all data, are durable. */
void td_cache_flush(struct td_cache *cache, struct td_park *park);
/* The same with the next flush, or after a second: for what must come later. It is
 * not called with an error, but later. */
void td_cache_after(struct td_cache *cache, struct td_park *park);
/* Blocking: what the tables hold now, whether the file does or not. For check,
 * info and open. */
int td_cache_read(struct td_cache *cache, void *buf, size_t len, uint64_t at);

/* Stores of entries that a kill cannot halve. value is as it lies on disk. */
static inline void td_set64(void *at, uint64_t value)
{
	__atomic_store_n((uint64_t *)at, value, __ATOMIC_SEQ_CST);
}
static inline void td_set32(void *at, uint32_t value)
{
	__atomic_store_n((uint32_t *)at, value, __ATOMIC_SEQ_CST);
}
static inline void td_set16(void *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)at, value, __ATOMIC_SEQ_CST);
}
static inline void td_set8(void *at, uint8_t value)
{
	__atomic_store_n((uint8_t *)at, value, __ATOMIC_SEQ_CST);
}

#endif
