/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sparse extents on disk (docs/vmdk.md): the headers of the three kinds as they lie
 * there, and what is left of them once they have been checked.
 */
#ifndef VMDK_LAYOUT_H
#define VMDK_LAYOUT_H

#include <assert.h>
#include <blktap/driver.h>

#include "base/endian.h"
#include "base/num.h"

#define VMDK_SECTOR 512ull
#define VMDK_MAGIC 0x564d444bu        /* "KDMV" */
#define VMDK_COWD_MAGIC 0x44574f43u   /* "COWD" */
#define VMDK_SE_MAGIC 0xcafebabeull
#define VMDK_SE_VOLATILE 0xcafecafeull
#define VMDK_AT_END UINT64_MAX        /* of gd_at: see the footer */
#define VMDK_TEXT_AT VMDK_SECTOR      /* where images of ours have their descriptor, */
#define VMDK_TEXT_LEN (20 * VMDK_SECTOR) /* if it lies within */
#define VMDK_ENTRIES 512              /* of a grain table */
#define VMDK_COWD_ENTRIES 4096
#define VMDK_TABLES_MAX (4 * MiB)     /* of an extent; the directory is in memory */
#define VMDK_GRAIN_MIN (4 * KiB)
#define VMDK_GRAIN_MAX (2 * MiB)
#define VMDK_SPLIT (4192256 * VMDK_SECTOR) /* of an extent of a split image: 2047 MiB */
#define VMDK_FILE_MAX (2 * TiB)       /* what 32 bits of sectors can name */

struct vmdk_header {
	le32 magic, version, flags;
	le64 capacity, grain, text_at, text_len; /* sectors */
	le32 entries;
	le64 rgd_at, gd_at, overhead;
	uint8_t unclean;
	char newline, other, newlines[2];
	le16 compression;
	uint8_t zero[433];
};
static_assert(sizeof(struct vmdk_header) == 512, "see docs/vmdk.md");

enum vmdk_flag {
	VMDK_NEWLINES = 1 << 0,   /* the bytes that tell a transfer as text */
	VMDK_REDUNDANT = 1 << 1,  /* a second directory, with tables of its own */
	VMDK_ZEROES = 1 << 2,     /* entry 1 is a grain of zeroes */
	VMDK_COMPRESSED = 1 << 16,
	VMDK_MARKERS = 1 << 17,
};

/* Before the bytes of a compressed grain, where the extent has markers. */
struct vmdk_grain_marker {
	le64 sector; /* of the disk */
	le32 size;   /* bytes that follow */
};
static_assert(sizeof(struct vmdk_grain_marker) == 12, "see docs/vmdk.md");

struct vmdk_cowd_header {
	le32 magic, version, flags, capacity, grain, gd_at, gd_entries, free_at;
};

struct vmdk_se_header {
	le64 magic, version, capacity, grain, table, flags, reserved[4];
	le64 volatile_at, volatile_len, journal_head_at, journal_head_len;
	le64 journal_at, journal_len, gd_at, gd_len, tables_at, tables_len;
	le64 free_at, free_len, back_at, back_len, grains_at, grains_len;
};
static_assert(sizeof(struct vmdk_se_header) == 26 * 8, "see docs/vmdk.md");

struct vmdk_se_volatile {
	le64 magic, free_table, next_transaction, replay;
};

enum vmdk_kind { VMDK_HOSTED, VMDK_COWD, VMDK_SESPARSE };

/* Bytes throughout. */
struct vmdk_layout {
	enum vmdk_kind kind;
	uint64_t size;             /* of the disk that it maps */
	uint64_t grain;            /* a power of two */
	uint64_t gd_at, rgd_at;    /* rgd_at 0: there is no second one */
	uint64_t tables;           /* entries of the directory */
	uint64_t entries;          /* of a table; a power of two */
	uint64_t overhead;         /* no data lie before it */
	uint64_t text_at, text_len; /* of the descriptor within; 0: none */
	uint64_t tables_at, tables_len, grains_at, grains_len; /* seSparse */
	uint32_t version;
	bool compressed, markers, zeroes, unclean;
	bool stream;               /* its directory is found through a footer */
};

/* What the first bytes of a file say that it is. */
enum vmdk_file { VMDK_FILE_UNKNOWN, VMDK_FILE_TEXT, VMDK_FILE_SPARSE };
enum vmdk_file vmdk_file_kind(struct td_file *file);

/* Reads and checks a header: what it returns can be relied on. */
int vmdk_layout_read(struct td_file *file, struct vmdk_layout *out, struct td_why *why);

/* Bytes of an entry of a table. */
static inline uint64_t vmdk_entry_size(const struct vmdk_layout *layout)
{
	return layout->kind == VMDK_SESPARSE ? 8 : 4;
}

/* Bytes of the disk that a table maps. */
static inline uint64_t vmdk_span(const struct vmdk_layout *layout)
{
	return layout->grain * layout->entries;
}

#endif
