/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 on disk (docs/qcow2.md): the header as it lies there, and as it is once it
 * has been checked.
 */
#ifndef QCOW2_LAYOUT_H
#define QCOW2_LAYOUT_H

#include <assert.h>
#include <blktap/driver.h>

#include "base/endian.h"
#include "base/num.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_NAME_MAX 1023
#define QCOW2_HEAD_V2 72
#define QCOW2_HEAD_V3 104

struct qcow2_header {
	be32 magic, version;
	be64 backing_at;
	be32 backing_len, cluster_bits;
	be64 size;
	be32 encryption, l1_count;
	be64 l1_at, table_at;
	be32 table_clusters, snapshots;
	be64 snapshots_at;
	/* version 3: */
	be64 incompatible, compatible, autoclear;
	be32 refcount_order, length;
	uint8_t compression, zero[7];
};
static_assert(sizeof(struct qcow2_header) == 112, "see docs/qcow2.md");

enum qcow2_incompatible {
	QCOW2_DIRTY = 1 << 0,         /* refcounts may be wrong */
	QCOW2_CORRUPT = 1 << 1,
	QCOW2_DATA_FILE = 1 << 2,
	QCOW2_COMPRESSION = 1 << 3,   /* not zlib */
	QCOW2_EXTENDED_L2 = 1 << 4,
};
#define QCOW2_AUTOCLEAR_BITMAPS 1ull
#define QCOW2_AUTOCLEAR_RAW 2ull      /* the data file is a disk by itself */
#define QCOW2_LAZY 1ull               /* compatible: refcounts may be late */

/* Extensions of the header. */
#define QCOW2_EXT_BACKING 0xe2792acau
#define QCOW2_EXT_DATA_FILE 0x44415441u
#define QCOW2_EXT_FEATURES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_LUKS 0x0537be77u
#define QCOW2_LUKS_MAX (16u << 20)

enum qcow2_encryption { QCOW2_PLAIN, QCOW2_AES, QCOW2_LUKS };

/* Entries of L1 and L2. */
#define QCOW2_COPIED (1ull << 63)     /* its refcount is 1 */
#define QCOW2_PACKED (1ull << 62)
#define QCOW2_ZERO 1ull
#define QCOW2_HOST 0x00fffffffffffe00ull
#define QCOW2_SUBS 0xffffffffull      /* of an extended L2 entry's second half */
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull

struct qcow2_layout {
	uint32_t version, cluster_bits, refcount_order;
	uint64_t size;                /* of the disk */
	uint64_t l1_at, l1_count;
	uint64_t table_at, table_clusters; /* the refcount table */
	uint64_t snapshots, snapshots_at;
	uint64_t incompatible, compatible, autoclear;
	uint32_t bitmaps;             /* as their extension has it, which is true if */
	uint64_t bitmaps_at, bitmaps_len; /* the autoclear bit is set: the directory */
	uint32_t encryption;
	uint64_t luks_at, luks_len;   /* the header of that, with its keys; 0: none */
	bool zstd;
	bool extended;                /* L2 entries of 16 bytes: with subclusters */
	bool external;                /* data lie in a file of their own */
	char backing[QCOW2_NAME_MAX + 1];
	char backing_format[32];      /* "" if the image does not say */
	char data_file[QCOW2_NAME_MAX + 1]; /* likewise */
};

/* Reads and checks the header: what it returns can be relied on. */
int qcow2_layout_read(struct td_file *file, struct qcow2_layout *out, struct td_why *why);

bool qcow2_looks_like(struct td_file *file);

static inline uint64_t qcow2_cluster(const struct qcow2_layout *layout)
{
	return 1ull << layout->cluster_bits;
}

/* log2 of the bytes of an L2 entry. */
static inline unsigned qcow2_entry_bits(const struct qcow2_layout *layout)
{
	return layout->extended ? 4 : 3;
}

/* Bytes of the disk that an L2 table maps. */
static inline unsigned qcow2_span_bits(const struct qcow2_layout *layout)
{
	return 2 * layout->cluster_bits - qcow2_entry_bits(layout);
}

/* log2 of the refcounts in a block of them. */
static inline unsigned qcow2_block_bits(const struct qcow2_layout *layout)
{
	return layout->cluster_bits + 3 - layout->refcount_order;
}

static inline uint64_t qcow2_packed_at(const struct qcow2_layout *layout, uint64_t entry)
{
	return entry & ((1ull << (62 - (layout->cluster_bits - 8))) - 1);
}

/* Bytes from there to the end of the last sector that belongs to it. */
static inline uint64_t qcow2_packed_len(const struct qcow2_layout *layout, uint64_t entry)
{
	uint64_t sectors = (entry & (QCOW2_PACKED - 1)) >> (62 - (layout->cluster_bits - 8));

	return (sectors + 1) * 512 - qcow2_packed_at(layout, entry) % 512;
}

#endif
