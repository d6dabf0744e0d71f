/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHDX on disk (docs/vhdx.md): the structures as they lie there, and what is known of
 * an image once they have been checked.
 */
#ifndef VHDX_LAYOUT_H
#define VHDX_LAYOUT_H

#include <assert.h>
#include <blktap/driver.h>

#include "base/endian.h"
#include "base/num.h"
#include "base/uuid.h"

#define VHDX_SIZE_MAX (64 * TiB)
#define VHDX_BLOCK_MIN (1 * MiB)
#define VHDX_BLOCK_MAX (256 * MiB)
#define VHDX_ALIGN MiB               /* of all that headers and tables point to */
#define VHDX_PAGE 4096               /* the log's sectors; pages of tables */
#define VHDX_FILE_MAX (256 * TiB)
#define VHDX_LOG_MAX (32 * MiB)      /* of one that has to be replayed */
#define VHDX_LOCATOR_MAX (64 * KiB)

#define VHDX_HEADERS_AT (64 * KiB)   /* two, this far from each other */
#define VHDX_REGIONS_AT (192 * KiB)  /* likewise */
#define VHDX_FRONT (1 * MiB)
#define VHDX_TABLE (64 * KiB)
#define VHDX_ENTRIES_MAX 2047

struct vhdx_guid {
	uint8_t b[16];
};

struct vhdx_front {
	char signature[8];    /* "vhdxfile" */
	uint8_t creator[512]; /* UTF-16 */
};

struct vhdx_header {
	char signature[4];    /* "head" */
	le32 checksum;
	le64 sequence;
	struct vhdx_guid file_write, data_write;
	struct vhdx_guid log; /* zero: the log is empty */
	le16 log_version, version;
	le32 log_len;
	le64 log_at;
	uint8_t zero[4016];
};
static_assert(sizeof(struct vhdx_header) == 4096, "see docs/vhdx.md");

struct vhdx_region {
	struct vhdx_guid guid;
	le64 at;
	le32 len, required;
};
struct vhdx_regions {
	char signature[4];    /* "regi" */
	le32 checksum, count, zero;
	struct vhdx_region region[VHDX_ENTRIES_MAX];
	uint8_t zeroes[16];
};
static_assert(sizeof(struct vhdx_regions) == VHDX_TABLE, "see docs/vhdx.md");

#define VHDX_ITEM_USER 1u
#define VHDX_ITEM_DISK 2u
#define VHDX_ITEM_REQUIRED 4u
struct vhdx_item {
	struct vhdx_guid guid;
	le32 at;              /* from the beginning of the region */
	le32 len, flags, zero;
};
struct vhdx_metadata {
	char signature[8];    /* "metadata" */
	le16 zero, count;
	uint8_t zeroes[20];
	struct vhdx_item item[VHDX_ENTRIES_MAX];
};
static_assert(sizeof(struct vhdx_metadata) == VHDX_TABLE, "see docs/vhdx.md");

#define VHDX_LEAVE_ALLOCATED 1u
#define VHDX_HAS_PARENT 2u
struct vhdx_parameters {
	le32 block, flags;
};

struct vhdx_locator_pair {
	le32 key_at, value_at; /* from the beginning of the locator; UTF-16 */
	le16 key_len, value_len;
};
struct vhdx_locator {
	struct vhdx_guid type;
	le16 zero, count;
	struct vhdx_locator_pair pair[];
};

struct vhdx_log_entry {
	char signature[4];    /* "loge" */
	le32 checksum, len, tail;
	le64 sequence;
	le32 descriptors, zero;
	struct vhdx_guid log;
	le64 flushed, last;   /* lengths of the file: at least, and at most needed */
};
static_assert(sizeof(struct vhdx_log_entry) == 64, "see docs/vhdx.md");

struct vhdx_log_descriptor {
	char signature[4];    /* "desc" or "zero" */
	le32 tail;            /* desc: the last bytes of the page */
	le64 head;            /* desc: its first bytes; zero: how many */
	le64 at, sequence;
};
static_assert(sizeof(struct vhdx_log_descriptor) == 32, "see docs/vhdx.md");

#define VHDX_LOG_HEAD 8
#define VHDX_LOG_TAIL 4
struct vhdx_log_data {
	char signature[4];    /* "data" */
	le32 sequence_high;
	uint8_t middle[VHDX_PAGE - VHDX_LOG_HEAD - VHDX_LOG_TAIL];
	le32 sequence_low;
};
static_assert(sizeof(struct vhdx_log_data) == VHDX_PAGE, "see docs/vhdx.md");

/* What the three low bits of an entry of the block table say. */
enum vhdx_state {
	VHDX_ABSENT = 0,      /* the image below, or zeroes */
	VHDX_UNDEFINED = 1,
	VHDX_ZERO = 2,
	VHDX_UNMAPPED = 3,
	VHDX_PRESENT = 6,
	VHDX_PARTIAL = 7,     /* bitmaps say which sectors are there */
};

static inline enum vhdx_state vhdx_state(uint64_t entry)
{
	return entry & 7;
}

static inline uint64_t vhdx_place(uint64_t entry)
{
	return entry >> 20 << 20;
}

struct vhdx_span {
	uint64_t at, len;
};

struct vhdx_layout {
	struct vhdx_header header[2];
	bool sound[2];        /* of these */
	unsigned current;     /* which counts */
	struct vhdx_span log, bat, metadata;
	uint64_t tables_end;  /* all regions lie before, and the log */
	uint64_t size;        /* of the disk */
	unsigned block_bits, sector_bits, ratio_bits; /* blocks for each bitmap */
	uint32_t physical;    /* sector */
	bool fixed, has_parent;
	uint64_t blocks, chunks, entries;
	struct vhdx_guid disk;
	struct vhdx_span locator;
	uint64_t size_at, flags_at; /* in the file */
};

struct vhdx_reader; /* reads the file with its log replayed */

/* The front and the headers. */
int vhdx_headers_read(struct td_file *file, struct vhdx_layout *out, struct td_why *why);
/* The rest: what they return can be relied on. */
int vhdx_tables_read(struct vhdx_reader *reader, struct vhdx_layout *out, struct td_why *why);
/* The region table that counts. */
int vhdx_regions_read(struct vhdx_reader *reader, struct vhdx_regions *out);
bool vhdx_looks_like(struct td_file *file);

void vhdx_header_seal(struct vhdx_header *header);
void vhdx_regions_seal(struct vhdx_regions *regions);
/* How many entries of which kind a disk needs: from size and bits. */
void vhdx_layout_count(struct vhdx_layout *layout);

/* What GUIDs mean. */
extern const struct vhdx_guid vhdx_guid_bat, vhdx_guid_metadata, vhdx_guid_parameters,
	vhdx_guid_size, vhdx_guid_disk, vhdx_guid_sector, vhdx_guid_physical, vhdx_guid_locator,
	vhdx_guid_locator_type, vhdx_guid_none;

static inline bool vhdx_guid_is(const struct vhdx_guid *a, const struct vhdx_guid *b)
{
	return !memcmp(a, b, sizeof(*a));
}

/* A new one. */
static inline int vhdx_guid_make(struct vhdx_guid *guid)
{
	return td_uuid_make(guid->b, TD_UUID_LITTLE);
}

static inline void vhdx_guid_text(const struct vhdx_guid *guid, char text[TD_UUID_TEXT])
{
	td_uuid_text(guid->b, TD_UUID_LITTLE, text);
}

static inline uint64_t vhdx_block(const struct vhdx_layout *layout)
{
	return 1ull << layout->block_bits;
}

static inline bool vhdx_hits(const struct vhdx_span *span, uint64_t at, uint64_t len)
{
	return at < span->at + span->len && span->at < at + len;
}

static inline bool vhdx_hits_tables(const struct vhdx_layout *layout, uint64_t at, uint64_t len)
{
	return at < VHDX_FRONT || vhdx_hits(&layout->log, at, len) ||
	       vhdx_hits(&layout->bat, at, len) || vhdx_hits(&layout->metadata, at, len);
}

/* Where the entry of a block is in the file; and of the bitmap of a chunk of blocks. */
static inline uint64_t vhdx_entry_at(const struct vhdx_layout *layout, uint64_t block)
{
	return layout->bat.at + (block + (block >> layout->ratio_bits)) * 8;
}

static inline uint64_t vhdx_bitmap_entry_at(const struct vhdx_layout *layout, uint64_t chunk)
{
	return layout->bat.at + (((chunk + 1) << layout->ratio_bits) + chunk) * 8;
}

#endif
