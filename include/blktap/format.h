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
 *   encryption  of the data, sector by sector; LUKS headers
 *
 * A format then says what lies at an offset, and changes entries. docs/formats.md
 * tells the whole; the order in which things reach the disk above all.
 *
 * Everything but td_map_submit_away() is called on the image's home queue. A function
 * that may have to wait takes a park and returns TD_PARKED: then park->go() is called
 * later, and does the same again from its beginning. So what may wait comes before what
 * changes anything.
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

/*
 * A format with a log: what a batch is to write comes into an entry of it first, or
 * into several, one after the other. A page is written to its place when its entry is
 * durable, and an entry begun when all before it is. So one entry is all the log that
 * counts, and pages come to their places as they are in it, whole or not at all.
 */
struct td_log_ops {
	void (*begin)(struct td_image *img);
	/* False: the entry is full. The first page always fits. */
	bool (*add)(struct td_image *img, uint64_t at, const void *page);
	/* What is to be written for it. The memory is left alone until the next one. */
	void (*end)(struct td_image *img, void **entry, size_t *len, uint64_t *at);
};

struct td_cache_config {
	uint32_t page;     /* bytes: a power of two, 512 to 4096 */
	uint64_t size;     /* bytes of pages in memory; 0: 16 MiB */
	struct td_file *data; /* data lie in a file of their own; NULL: in this one */
	unsigned shows;    /* pages of this stage and later show data, or new room:
	                      what td_cache_data() tells of comes before them */
	const struct td_log_ops *log; /* NULL: none */
	/* What has been read of the file is put right: where a log must not be replayed
	 * in it. NULL: nothing is wrong. */
	void (*patch)(struct td_image *img, void *buf, size_t len, uint64_t at);
};

/* Reads the file only, where the image is read-only. */
int td_cache_new(struct td_image *img, struct td_file *file,
		 const struct td_cache_config *config, struct td_cache **out,
		 struct td_why *why);
/* Writes what is dirty, and blocks. If that fails, survivor memory keeps it. */
void td_cache_free(struct td_cache *cache);

/* The bytes at an offset of the file, up to the end of their page. 0, TD_PARKED or
 * -errno. park NULL: nobody waits, and the page is not fetched. */
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
/* Blocking: all that is dirty is durable after it. No batch may be under way. */
int td_cache_sync(struct td_cache *cache);

/*
 * Of a format with a log, once: a page outside the tables that is written when the cache
 * is freed, after all else is durable; by who adopts survivor memory, likewise. It says
 * that the log is empty: what is adopted is newer. was: what the file has there.
 */
void td_cache_last(struct td_cache *cache, uint64_t at, const void *was, const void *becomes);

/* Of room that is nobody's any more; false: not now, something is being written. */
bool td_cache_forget(struct td_cache *cache, uint64_t at, uint64_t len);
/* No more waiting: what would park blocks instead. In open, to begin with, and in
 * close. */
void td_cache_block(struct td_cache *cache, bool block);
bool td_cache_blocks(const struct td_cache *cache);

/* ---- space ----------------------------------------------------------------- */

/*
 * Room in the file that reads as zeroes: at its end, made ahead of need, and what
 * has been freed. Unused room is cut off when the image is closed. On a block device
 * room is zeroed ahead of need, and ends with the device: -ENOSPC.
 */
struct td_space;

/* Room begins at end, at or past the end of the file; on a block device at the end of
 * what is used. Units follow each other there. */
int td_space_new(struct td_image *img, struct td_file *file, struct td_cache *cache,
		 uint32_t unit, uint64_t end, struct td_space **out, struct td_why *why);
void td_space_free(struct td_space *space); /* after td_cache_free() */
/* The format ends with a tail of len bytes; it is at that offset now, the last thing
 * in the file. Before the first request. */
#define TD_TAIL_MAX 512
int td_space_tail(struct td_space *space, const void *tail, uint32_t len, uint64_t at,
		  struct td_why *why);
/* Finds room for least to *len bytes in a row; *len becomes what there is. More than
 * a unit at least is found at the end only. Finding takes nothing: td_space_take()
 * does, before anything else runs. */
int td_space_find(struct td_space *space, struct td_park *park, uint64_t least,
		  uint64_t *len, uint64_t *at);
void td_space_take(struct td_space *space, uint64_t at, uint64_t len);
/* Gives back room that reads as zeroes. */
void td_space_give(struct td_space *space, uint64_t at, uint64_t len);
bool td_space_has_freed(const struct td_space *space);
struct td_file *td_space_file(const struct td_space *space);
/* No room is left before that offset of the file. */
uint64_t td_space_end(const struct td_space *space);

/* ---- encryption -------------------------------------------------------------- */

/*
 * Sectors of 512 bytes, each encrypted on its own, by its number. A map that has one
 * writes from memory of its own, never a request's, and decrypts what it has read where
 * it lies. Compressed units are not encrypted.
 */
#define TD_CRYPT_SECTOR 512
struct td_crypt;

/* cipher and mode: as LUKS names them, "aes" and "xts-plain64". key: copied. */
bool td_crypt_known(const char *cipher, const char *mode, size_t key);
int td_crypt_new(const char *cipher, const char *mode, const void *key, size_t len,
		 struct td_crypt **out, struct td_why *why);
/* The same key, for another thread. NULL: no memory. */
struct td_crypt *td_crypt_copy(const struct td_crypt *crypt);
void td_crypt_free(struct td_crypt *crypt); /* NULL is fine */
/* Whole sectors, the first of that number, in place. */
int td_crypt_encrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len);
int td_crypt_decrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len);

/* In open: the old scheme of qcow and qcow2, under the disk's one key. Its sectors are
 * numbered as on the disk. */
int td_aes_open(struct td_image *img, struct td_crypt **out, struct td_why *why);

/* What a LUKS header says; needs no key. Messages of these and td_crypt_new() follow
 * an image's name: "has a LUKS header of version 7 ...". */
#define TD_LUKS_MIN 592
struct td_luks {
	char cipher[33], mode[33], hash[33];
	uint32_t key_bytes;
	unsigned slots;          /* in use */
};
int td_luks_read(const void *header, size_t len, struct td_luks *out, struct td_why *why);
/* In open: with the first of the disk's keys that fits it. header: with its key material,
 * of len bytes. */
int td_luks_open(struct td_image *img, const void *header, size_t len, struct td_crypt **out,
		 struct td_why *why);
/* A new one, to be freed with free(): aes-xts-plain64 with a new key of 512 bits, under the
 * passphrase, which is hashed for so long (0: as short as can be). */
#define TD_LUKS_MADE 2068480 /* bytes */
int td_luks_make(const struct td_key *key, uint64_t iter_ms, void **header, size_t *len,
		 struct td_why *why);

/* ---- the map ----------------------------------------------------------------- */

/*
 * Disks are mapped in units (clusters, grains, blocks), each of which has one place
 * in the file. A format whose units are valid in parts says how small these are:
 * the grain; else it is the unit.
 */
enum td_spot_kind {
	TD_SPOT_HOLE,   /* the image below, or zeroes */
	TD_SPOT_ZERO,   /* zeroes, whatever is below */
	TD_SPOT_DATA,   /* in the file, and may be written there */
	TD_SPOT_SHARED, /* in the file, but writes must go elsewhere */
	TD_SPOT_PACKED, /* a compressed unit */
};

struct td_spot {
	enum td_spot_kind kind;
	uint64_t len;   /* from the offset asked for: alike and, if in the file, in a
	                   row there; may pass the end of what was asked for */
	uint64_t at;    /* of that offset, in the file; PACKED: of the packed bytes */
	uint32_t packed;/* PACKED: bytes there, at most two units */
	bool placed;    /* HOLE, ZERO: at is its place already; writes go there */
	bool dirty;     /* ... and may hold anything, not zeroes */
};

/* Each returns 0, TD_PARKED or -errno. Where it says "ready", pages that have just
 * been got are still there: it does not park. */
struct td_map_ops {
	/* park NULL: only if all that it needs is in memory. */
	int (*find)(struct td_image *img, struct td_park *park, uint64_t offset,
		    uint64_t len, struct td_spot *out);
	/* Sees to it that entries for offset can be changed; shortens *len to those
	 * that can at once. What is ready once stays so for the same range. */
	int (*ready)(struct td_image *img, struct td_park *park, uint64_t offset,
		     uint64_t *len);
	/* Takes a place for the units of [offset, offset + *len), or fewer. */
	int (*place)(struct td_image *img, struct td_park *park, uint64_t offset,
		     uint64_t *len, uint64_t *at);
	/* Ready: maps grains to their place; what was there is dropped. */
	int (*set)(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at);
	/* Ready: whole units become holes or, with zero, zeroes. NULL: units keep their
	 * place, and discards punch holes there. */
	int (*clear)(struct td_image *img, uint64_t offset, uint64_t len, bool zero);
	/* One owner less of the unit of the file at that place; *gone: it has none. */
	int (*release)(struct td_image *img, struct td_park *park, uint64_t at, bool *gone);
	/* On a worker thread: unpacks one unit. */
	int (*unpack)(struct td_image *img, const void *from, size_t len, void *to);
	/* For TD_COMPRESS; NULL: without. On a worker thread: packs a unit into at most
	 * *len bytes, which becomes what it took; an error if it takes more. */
	int (*pack)(struct td_image *img, const void *from, void *to, size_t *len);
	/* Room for so many packed bytes, in whole sectors. */
	int (*place_packed)(struct td_image *img, struct td_park *park, uint64_t len,
			    uint64_t *at);
	/* Ready: maps a unit to them. */
	int (*set_packed)(struct td_image *img, uint64_t offset, uint64_t at, uint64_t len);
};

struct td_map;

struct td_map_config {
	struct td_file *file;    /* of the data */
	struct td_cache *cache;  /* NULL: every write is one in place */
	struct td_space *space;  /* NULL: read-only, or no cache */
	const struct td_map_ops *ops;
	uint32_t unit, grain;
	bool grains_apart;       /* place() maps the unit too, with no grain of it valid: so
	                            several grains may be written for the first time at
	                            once, and the place of a unit is never dropped */
	bool zeroes;             /* clear() can make zeroes over an image below */
	uint64_t start, end;     /* bytes of the disk that it maps; 0, 0: all */
	struct td_crypt *crypt;  /* data are encrypted; NULL: not. The driver's */
	bool crypt_by_disk;      /* sectors are numbered as on the disk; else as in the file */
	bool notes_writes;       /* the driver is to see every write, and on the home queue */
};

#define TD_MAP_REQ_SIZE 256 /* a driver's req_size */
#define TD_MAP_OPTION_CACHE(type, member) \
	{ "cache", TD_SIZE, offsetof(type, member), \
	  "memory for tables; default 16M" }

int td_map_new(struct td_image *img, const struct td_map_config *config, struct td_map **out,
	       struct td_why *why);
/* Blocks; before td_cache_free(). */
void td_map_free(struct td_map *map);
/* An image of several files has a map of each, in a row: next begins where map ends,
 * at a multiple of its unit, if it has tables. Requests are given to the first. */
void td_map_append(struct td_map *map, struct td_map *next);
/* The driver's submit: every operation. */
void td_map_submit(struct td_map *map, struct td_req *req);
/* The driver's submit_away: where the home queue has found data, or that there are none,
 * and nothing has changed since. */
bool td_map_submit_away(struct td_map *map, struct td_req *req);
/* The driver's is_hole. */
bool td_map_is_hole(struct td_map *map, uint64_t offset, uint64_t len);
/*
 * Whole units of the file that entries do not show any more: each loses an owner,
 * and is used again, once that is durable and all I/O that saw it has ended.
 */
void td_map_drop(struct td_map *map, uint64_t at, uint64_t len);
/* Whether anything has been dropped that has not come to space yet. */
bool td_map_drops(const struct td_map *map);

/* Blocking, before the disk grows: what of [from, to) lies in the file becomes zeroes
 * there. The cache blocks. */
int td_map_zero(struct td_map *map, uint64_t from, uint64_t to);

/* ---- what is refused alike ------------------------------------------------------ */

/* In open: a writer needs room that reads as zeroes, which a device's may not.
 * what: "a VDI image". */
int td_refuse_device(const struct td_image *img, const struct td_file *file, const char *what,
		     struct td_why *why);

/* Of a format whose images are fixed or dynamic: rows of its options for a char *. */
#define TD_SUBFORMAT_OPTIONS(type, member, help) \
	{ "subformat", TD_STRING, offsetof(type, member), help }, \
	{ "kind", TD_STRING, offsetof(type, member), "the same" }
/* What was said there; NULL: not fixed. */
int td_subformat_parse(const char *path, const char *subformat, bool *fixed, struct td_why *why);
/* Likewise, for create; over another image there must be holes. */
int td_subformat_plan(const struct td_create *make, const char *subformat, bool *fixed,
		      struct td_why *why);

/* ---- entries ------------------------------------------------------------------ */

/* Stores of entries that a kill cannot halve. value is as it lies on disk. */
static inline void td_set64(void *at, uint64_t value)
{
	__atomic_store_n((uint64_t *)at, value, __ATOMIC_SEQ_CST);
}
/* 16 bytes, aligned: one instruction, which a kill comes before or after. */
static inline void td_set128(void *at, uint64_t first, uint64_t second)
{
	typedef uint64_t pair __attribute__((vector_size(16)));

	*(volatile pair *)at = (pair){ first, second };
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
