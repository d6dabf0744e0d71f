/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log: replay.c reads what another, or a power cut, has left in it, and brings it
 * to its places: in the file, or only in what is read of it. log.c writes it.
 */
#ifndef VHDX_LOG_H
#define VHDX_LOG_H

#include <blktap/format.h>

#include "drivers/vhdx/layout.h"

/* ---- replay.c ---- */

/* What belongs at a place of the file; data: NULL: zeroes. */
struct vhdx_patch {
	uint64_t at, len;
	uint8_t *data;
};

struct vhdx_reader {
	struct td_file *file;
	uint64_t size;            /* that the file must have */
	struct vhdx_patch *patch; /* in order: later ones on top. None of a file that is
	                             open for writing */
	size_t patches;
	bool unclean;             /* the log was not empty */
};

/* Makes what the log says so. For writing: in the file, and the log is empty then. */
int vhdx_replay(struct td_file *file, bool read_only, struct vhdx_layout *layout,
		struct vhdx_reader *out, struct td_why *why);
void vhdx_reader_free(struct vhdx_reader *reader);
/* Blocking; past the end there are zeroes. */
int vhdx_read(const struct vhdx_reader *reader, void *buf, size_t len, uint64_t at);
void vhdx_patch(const struct vhdx_reader *reader, void *buf, size_t len, uint64_t at);
/* Whether any of it is changed by a patch. */
bool vhdx_patched(const struct vhdx_reader *reader, uint64_t at, uint64_t len);

static inline uint64_t vhdx_reader_size(const struct vhdx_reader *reader)
{
	return max_u64(td_file_size(reader->file), reader->size);
}

/* ---- log.c ---- */

struct vhdx_log {
	struct td_file *file;
	struct vhdx_span place;
	struct vhdx_guid guid;
	uint64_t sequence;
	char *entry;              /* memory for one */
	uint32_t room, pages;     /* that fit; that have been added */
	uint64_t *at;             /* ... of these */
	const void **page;
};

int vhdx_log_new(struct td_file *file, const struct vhdx_layout *layout, struct vhdx_log **out);
void vhdx_log_free(struct vhdx_log *log); /* NULL is fine */
void vhdx_log_begin(struct vhdx_log *log);
/* The page stays until the end; false: there is no room. */
bool vhdx_log_add(struct vhdx_log *log, uint64_t at, const void *page);
/* file_size: what the file has, durably. */
void vhdx_log_end(struct vhdx_log *log, uint64_t file_size, void **entry, size_t *len,
		  uint64_t *at);

/* Blocking: writes the header that does not count, with a higher sequence number, so that
 * it counts, durably. What else is new in it, the caller has put into *next. */
int vhdx_header_write(struct td_file *file, struct vhdx_layout *layout,
		      struct vhdx_header *next);
/* Blocking: the log may be used, and holds nothing; header and file have changed, and
 * with data the disk has too. */
int vhdx_log_open(struct vhdx_log *log, struct vhdx_layout *layout, bool data);
/* Blocking: the log is empty. */
int vhdx_log_close(struct td_file *file, struct vhdx_layout *layout);
/* Blocking: the pages that have been added come to the file through the log. */
int vhdx_log_apply(struct vhdx_log *log, uint64_t file_size);

#endif
