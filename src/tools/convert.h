/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying a disk into a new image or onto one that is there, with progress, and with
 * words for what went wrong. All return an exit code.
 */
#ifndef TOOLS_CONVERT_H
#define TOOLS_CONVERT_H

#include "tools/copy.h"
#include "tools/make.h"

struct convert_next {
	struct td_disk *disk;
	const char *path;
};

struct convert {
	struct tool_run *run;
	struct td_disk *from;
	const char *from_path;
	const struct convert_next *next; /* disks that follow it in the target */
	unsigned next_count;
	bool quiet;
	struct copy_options options; /* fresh, progress and stop are set here */
	uint64_t data;               /* the answer: bytes written as data */
	uint64_t lost;               /* and that could not be read: options.salvage */
};

/* The new image has the size that make says, or that of what is copied. */
int convert_into(struct convert *convert, struct make *make);
/* Whether that file or device is one that is read. */
bool convert_reads(const struct convert *convert, const struct stat *st);
/* fresh: it is known to read as zeroes. */
int convert_onto(struct convert *convert, const struct name *to, bool fresh);
/* Onto a disk that is open, and stays so. */
int convert_copy(struct convert *convert, const struct name *to, struct td_disk *disk,
		 bool fresh);

#endif
