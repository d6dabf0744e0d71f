/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qcow driver's parts, and what they share.
 *
 *   qcow.c    open, close, submit          layout.c  the header
 *   read.c    READ, EXTENTS                map.c     offset -> place in the file
 *   write.c   WRITE, WRITE_ZEROES, DISCARD table.c   changes of tables, batched
 *   grow.c    clusters that get a place    space.c   room at the end of the file
 *   packed.c  compressed clusters          create.c, check.c
 *
 * The order in which things reach the disk is told at the top of grow.c.
 */
#ifndef QCOW_H
#define QCOW_H

#include <blktap/driver.h>

#include "base/endian.h"
#include "base/list.h"
#include "base/log.h"
#include "base/num.h"
#include "drivers/qcow/layout.h"

struct qcow;
struct qcow_piece;

/* ---- table.c: tables, and changes of them ------------------------------- */

/*
 * A change of some entries of a table: entries [first, first + count) that are
 * to be set get value, value + step, ... in order. It is staged, written
 * together with its neighbours, then shown in the table, then done() is called.
 */
struct qcow_change {
	struct list link;
	uint32_t first, count;
	uint64_t value, step;
	bool empty_only; /* only entries that are 0 are set */
	void (*done)(struct qcow_change *change, int err);
};

/* An L2 table, or about 4 KiB of the L1 table. */
struct qcow_table {
	struct qcow *qcow;
	uint64_t at;     /* in the file */
	be64 *entry;     /* equals the file; changes only when a write has ended */
	uint32_t count;  /* entries */
	uint64_t before, after; /* bytes of the file that memory holds too, before
	                           and after the entries: sectors are written whole */
	bool little;     /* entries are little-endian */
	bool queued;     /* waits for a struct qcow_meta */
	struct list link;
	struct list staged, writing; /* struct qcow_change */
};

/* A request of our own for table I/O, with a buffer as large as an L2 table. */
struct qcow_meta {
	struct td_req *req;
	struct qcow *qcow;
	struct qcow_table *table;
	struct list link;
	char *buf;
};

static inline uint64_t qcow_entry(const struct qcow_table *table, uint32_t i)
{
	uint64_t value = from_be64(table->entry[i]);

	return table->little ? __builtin_bswap64(value) : value;
}

void qcow_table_init(struct qcow_table *table, struct qcow *qcow, uint64_t at, be64 *entry,
		     uint32_t count);
static inline bool qcow_table_idle(const struct qcow_table *table)
{
	return list_empty(&table->staged) && list_empty(&table->writing);
}
void qcow_table_stage(struct qcow_table *table, struct qcow_change *change);
/* Writes what is staged, as far as there are requests for it. */
void qcow_tables_flush(struct qcow *qcow);
struct qcow_meta *qcow_meta_get(struct qcow *qcow); /* NULL: all busy */
void qcow_meta_aim(struct qcow_meta *meta, struct qcow_table *table, td_step *step);
void qcow_meta_put(struct qcow_meta *meta);

/* ---- map.c: where the disk's bytes are ---------------------------------- */

/* An L2 table in memory. */
struct qcow_page {
	struct qcow_table table;
	uint64_t index;       /* of its L1 entry */
	struct list link;     /* idle: in the LRU list; else free or to be loaded */
	unsigned pins;        /* loading, changing: stays in memory */
	bool loading;
	bool linked;          /* its L1 entry is in the file */
	bool linking;         /* ... or on its way there */
	unsigned links;       /* how often that was begun */
	unsigned link_failed; /* the last of these that failed, and how */
	int link_err;
	struct qcow_change link_change;
	struct list waiters;  /* pieces: requests that need it loaded, linked */
	struct list grows;    /* pieces that change it, by grow_link */
	struct list unlinked; /* pieces done but for the L1 entry, by change.link */
};

enum qcow_kind {
	QCOW_HOLE,   /* the image below, or zeroes */
	QCOW_DATA,   /* at */
	QCOW_PACKED_DATA, /* entry; one cluster */
	QCOW_BUSY,   /* busy is about to change it; looked for by writers only */
	QCOW_LOADING,/* the caller has been parked, and will be called again */
	QCOW_BAD,    /* err */
};

struct qcow_spot {
	enum qcow_kind kind;
	uint64_t len;   /* bytes from the offset asked for, all of this kind and,
	                   for data, contiguous in the file */
	uint64_t at;    /* QCOW_DATA: of that offset, in the file */
	uint64_t entry; /* QCOW_PACKED_DATA: the raw L2 entry */
	struct qcow_page *page;  /* NULL: a hole without a table */
	struct qcow_piece *busy;
	int err;
};

/* l1.c */
int qcow_l1_open(struct qcow *qcow, struct td_why *why);
void qcow_l1_close(struct qcow *qcow);
uint64_t qcow_l1_entry(struct qcow *qcow, uint64_t index);
/* The part that holds L1 entry index, and which of the part's it is. */
struct qcow_table *qcow_l1_part(struct qcow *qcow, uint64_t index, uint32_t *entry);
/* Whether an L2 table can lie at that place in the file. */
bool qcow_l2_fits(const struct qcow *qcow, uint64_t at);

int qcow_map_open(struct qcow *qcow, struct td_why *why);
void qcow_map_close(struct qcow *qcow);
/* Finds what is at offset, for at most len bytes. piece is parked if need be. */
void qcow_map_find(struct qcow *qcow, struct qcow_piece *piece, uint64_t offset,
		   uint64_t len, bool writing, struct qcow_spot *out);
/* The page whose table maps offset, pinned; made if the L1 table has none.
 * NULL: the piece has been parked. */
struct qcow_page *qcow_page_for(struct qcow *qcow, struct qcow_piece *piece,
				uint64_t offset);
void qcow_page_pin(struct qcow_page *page);
void qcow_page_unpin(struct qcow_page *page);
/* Gives a new page its place in the file and starts linking it. */
void qcow_page_place(struct qcow_page *page, uint64_t at);
/* Calls grow->change.done() again when its page is linked. */
void qcow_page_await_link(struct qcow_piece *grow);
/* A meta request is free: go on loading. True: it has been taken. */
bool qcow_page_load_next(struct qcow *qcow, struct qcow_meta *meta);
/* One line for a corrupt entry; -EIO. */
int qcow_corrupt(struct qcow *qcow, const char *what, uint64_t offset, uint64_t value);

/* ---- space.c: room at the end of the file -------------------------------- */

struct qcow_space {
	uint64_t end;     /* first byte that is nobody's */
	uint64_t ready;   /* the file is durably this long */
	uint64_t target;  /* what the running work makes it */
	uint64_t need;    /* ... or at least this */
	uint64_t step;
	bool growing;
	struct list waiters; /* pieces the running work is for */
	struct list late;    /* pieces that came when it had begun */
	struct td_work work;
};

void qcow_space_open(struct qcow *qcow);
void qcow_space_close(struct qcow *qcow);
/* Takes bytes that read as zeroes and whose presence survives a power cut.
 * False: not there yet; wait with qcow_space_wait(). */
bool qcow_space_take(struct qcow *qcow, uint64_t bytes, uint64_t align, uint64_t *at);
void qcow_space_wait(struct qcow *qcow, struct qcow_piece *piece, uint64_t bytes);

/* ---- pieces: what a request or child remembers --------------------------- */

struct qcow_bounce {
	struct list link;
	char *data;    /* a cluster */
	char *packed;  /* a compressed one */
};

struct qcow_piece {
	struct qcow *qcow;
	struct td_req *req;
	struct list link;         /* whatever it waits for */
	void (*go)(struct qcow_piece *piece, int err); /* when that is there */
	uint64_t pos;             /* a request: bytes dealt with; a child: where
	                             its bytes are in the request */
	uint64_t len;             /* a child: its bytes of the request */
	uint64_t entry;           /* the compressed cluster under it, or 0 */
	struct qcow_bounce *bounce;
	void (*filled)(struct qcow_piece *piece, int err);
	/* a child that gives clusters a place: a grow */
	struct qcow_page *page;
	unsigned links;           /* the page's, when this began */
	struct qcow_change change;
	struct list grow_link;    /* in page->grows */
	struct list waiters;      /* requests that need it to be over */
	struct list joined;       /* pieces writing into the place it gives */
	struct qcow_piece *grow;  /* the one this piece has joined */
	unsigned parts;           /* data, map: what must still end */
	int err;
};

/* The piece of a request that submit() has just been given. */
struct qcow_piece *qcow_piece_begin(struct qcow *qcow, struct td_req *req,
				    void (*go)(struct qcow_piece *piece, int err));
/* A child of it for [pos, pos + len) of its data; NULL: none is free, answer
 * with td_wait(). The child's user is its piece. */
struct qcow_piece *qcow_piece_child(struct qcow_piece *parent, uint64_t pos, uint64_t len);
/* td_wait()'s again(): calls go. */
void qcow_piece_retry(struct td_req *req);
/* Calls go of each of these at the end of the turn. */
void qcow_again(struct qcow *qcow, struct list *pieces);

/* read.c, write.c */
void qcow_read(struct qcow *qcow, struct td_req *req);
void qcow_extents(struct qcow *qcow, struct td_req *req);
void qcow_write(struct qcow *qcow, struct td_req *req);
void qcow_discard(struct qcow *qcow, struct td_req *req);

/* ---- grow.c: clusters that get a place ------------------------------------ */

/* Writes what it can of parent from parent->pos on into a new place; returns
 * the bytes taken care of, or 0: parent has been parked. */
uint64_t qcow_grow(struct qcow_piece *parent, const struct qcow_spot *spot);
/* The same into a place that spot->busy is giving. */
uint64_t qcow_grow_join(struct qcow_piece *parent, const struct qcow_spot *spot);
/* Starts a barrier for what has been written, unless one is under way. */
void qcow_barrier_flush(struct qcow *qcow);

/* ---- packed.c ------------------------------------------------------------ */

int qcow_packed_open(struct qcow *qcow);
void qcow_packed_close(struct qcow *qcow);
/* Gives piece a bounce buffer; false: piece->go is called when there is one. */
bool qcow_bounce_get(struct qcow *qcow, struct qcow_piece *piece);
void qcow_bounce_put(struct qcow *qcow, struct qcow_piece *piece);
/* The inflated cluster, if it is at hand. */
const char *qcow_packed_cached(struct qcow *qcow, uint64_t entry);
/* Fills piece->bounce->data with cluster piece->entry, then piece->filled(). */
void qcow_packed_read(struct qcow *qcow, struct qcow_piece *piece);

/* ---- the image ------------------------------------------------------------ */

#define QCOW_METAS 32
#define QCOW_BOUNCES 32
#define QCOW_INFLATED 8

struct qcow {
	bool resized; /* option */
	struct td_image *img;
	struct td_file *file;
	struct qcow_layout layout;
	struct td_ratelimit limit;

	/* map.c */
	be64 *l1;
	size_t l1_room;
	struct qcow_table *l1_part;    /* 512 entries each */
	uint32_t l1_parts;
	struct qcow_page **page_at;    /* by L1 index */
	struct qcow_page *pages;       /* the cache */
	uint32_t page_count, page_used;
	char *page_arena;
	size_t page_room;
	struct list page_lru;          /* idle, oldest first */
	struct list page_free;         /* never used, or dropped */
	struct list page_waiters;      /* pieces: all pages are busy */
	struct list page_loads;        /* pages: no meta request was free */

	/* table.c */
	struct qcow_meta meta[QCOW_METAS];
	struct list meta_free;
	struct list dirty;             /* tables with staged changes */
	char *meta_arena;
	size_t meta_room;

	/* grow.c */
	uint64_t run;                  /* bytes mapped at once where nothing is below */
	struct list written;           /* pieces whose data wait for a barrier */
	struct list syncing;           /* ... and are in the one under way */
	struct td_req *barrier;
	uint64_t barriers, barrier_pieces;

	/* packed.c */
	struct qcow_bounce bounce[QCOW_BOUNCES];
	struct list bounce_free, bounce_waiters;
	char *bounce_arena;
	size_t bounce_room;
	uint64_t inflated[QCOW_INFLATED]; /* their entries */
	char *inflated_data;
	unsigned inflated_next;

	struct qcow_space space;
	struct list again;             /* pieces to be called */
	struct td_defer defer;
};

extern const struct td_driver qcow_driver;

#endif
