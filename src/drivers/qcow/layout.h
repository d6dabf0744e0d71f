/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of a qcow image, version 1: as it lies on disk, and checked, as
 * the rest of the driver knows it. docs/qcow.md draws the whole file.
 */
#ifndef QCOW_LAYOUT_H
#define QCOW_LAYOUT_H

#include <assert.h>
#include <blktap/driver.h>

#include "base/endian.h"
#include "base/num.h"

#define QCOW_MAGIC 0x514649fbu     /* "QFI\xfb" */
#define QCOW_XEN_MAGIC 0x58454efbu /* "XEN\xfb" */
#define QCOW_PACKED (1ull << 63)   /* an L2 entry: the cluster is compressed */
#define QCOW_AES 1                 /* the header: data are encrypted */
#define QCOW_L1_MAX (64ull << 20)  /* bytes */
#define QCOW_NAME_MAX 1023
#define QCOW_RUN (2ull << 20)        /* bytes; no cluster is larger */

struct qcow_header {
	be32 magic, version;
	be64 backing_at;
	be32 backing_len, mtime;
	be64 size;
	uint8_t cluster_bits, l2_bits, pad[2];
	be32 crypt;
	be64 l1_at;
};
static_assert(sizeof(struct qcow_header) == 48, "see docs/qcow.md");

/* Follows the header in images of the blktap of 2006; its first versions had
 * no flags and ended after min_alloc. */
struct qcow_xen_header {
	be32 magic, l1_sum, min_alloc, flags;
};
static_assert(sizeof(struct qcow_xen_header) == 16, "see docs/qcow.md");

enum qcow_xen_flag {
	QCOW_XEN_SPARSE = 1 << 0,
	QCOW_XEN_L1_BIG = 1 << 1, /* L1 entries are big-endian */
};

/* A header that has been checked. */
struct qcow_layout {
	uint64_t size;         /* of the disk */
	unsigned cluster_bits; /* 9..16 */
	unsigned l2_bits;      /* log2 of a table's entries, 6..13 */
	uint64_t head_end;     /* header, extension and backing name */
	uint64_t name_end;     /* of the backing name; 0: none. It may lie elsewhere */
	uint64_t l1_at;
	uint64_t l1_count;
	unsigned xen_len;      /* of the extension of 2006: 0, 12 or 16 */
	uint32_t xen_flags;
	bool encrypted;        /* with AES */
	bool l1_native;        /* L1 may be in its writer's byte order */
	char backing[QCOW_NAME_MAX + 1]; /* "": none */
};

/* Reads and checks the header of file; errors name the file. */
int qcow_layout_read(struct td_file *file, struct qcow_layout *out,
		     struct td_why *why);

/* Whether it has the magic and the version. */
bool qcow_looks_like(struct td_file *file);

/* Bytes of the disk that one L2 table maps. */
static inline uint64_t qcow_span(const struct qcow_layout *layout)
{
	return 1ull << (layout->cluster_bits + layout->l2_bits);
}

static inline uint64_t qcow_cluster(const struct qcow_layout *layout)
{
	return 1ull << layout->cluster_bits;
}

static inline uint64_t qcow_l2_bytes(const struct qcow_layout *layout)
{
	return 8ull << layout->l2_bits;
}

/* The largest page of entries that neither reaches into a cluster nor past the end of
 * a table. */
static inline uint64_t qcow_page(const struct qcow_layout *layout)
{
	return min_u64(min_u64(qcow_cluster(layout), qcow_l2_bytes(layout)), 4096);
}

/* What an image that stands alone maps at once: as much as a page has entries for. */
static inline uint64_t qcow_run(const struct qcow_layout *layout, uint64_t page)
{
	return min_u64(QCOW_RUN, (page / 8) << layout->cluster_bits);
}

/* What the raw L2 entry of a compressed cluster says. */
static inline uint64_t qcow_packed_at(const struct qcow_layout *layout, uint64_t entry)
{
	return entry & ((1ull << (63 - layout->cluster_bits)) - 1);
}

static inline uint64_t qcow_packed_len(const struct qcow_layout *layout, uint64_t entry)
{
	return (entry >> (63 - layout->cluster_bits)) & (qcow_cluster(layout) - 1);
}

/* Whether [at, at + len) touches the header or the L1 table. */
bool qcow_hits_head(const struct qcow_layout *layout, uint64_t at, uint64_t len);

#endif
