/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The descriptor: the text that names an image's extents, its content's ID (CID) and
 * its parent.
 */
#ifndef VMDK_TEXT_H
#define VMDK_TEXT_H

#include <blktap/driver.h>

#include "drivers/vmdk/layout.h"

#define VMDK_TEXT_MAX (1 * MiB)
#define VMDK_EXTENTS_MAX 512
#define VMDK_NO_CID 0xffffffffu       /* of a parent: there is none */
#define VMDK_OTHER_CID 0xfffffffeu    /* ... it is of another format */
/* A line of our own: the format of a parent that is no VMDK. */
#define VMDK_PARENT_FORMAT "ddb.parentFormat"

enum vmdk_access { VMDK_RW, VMDK_RDONLY, VMDK_NOACCESS };
enum vmdk_extent_type { VMDK_SPARSE, VMDK_FLAT, VMDK_ZERO };

/* A line of the descriptor. */
struct vmdk_line {
	enum vmdk_access access;
	enum vmdk_extent_type type;
	uint64_t size, at;    /* bytes; at: FLAT, where in the file it begins */
	char *name;           /* NULL: ZERO */
};

struct vmdk_text {
	uint32_t cid, parent_cid;
	uint64_t cid_at;      /* of its digits in the text */
	unsigned cid_digits;  /* 0: it has none */
	char *type, *parent, *parent_format; /* NULL: not told */
	struct vmdk_line *line;
	unsigned lines;
};

/* Reads it from len bytes of a file, up to the first NUL, and checks it. */
int vmdk_text_read(struct td_file *file, uint64_t at, uint64_t len, struct vmdk_text *out,
		   struct td_why *why);
void vmdk_text_free(struct vmdk_text *text);

#endif
