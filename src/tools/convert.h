/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Turning one image into another: what img2qcow and qcow2raw share.
 */
#ifndef TOOLS_CONVERT_H
#define TOOLS_CONVERT_H

#include "tools/tool.h"

struct td_disk;
struct td_loop;

struct convert {
	const struct tool *tool;
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *from;
	const char *from_path;
	uint64_t size;        /* of the source */
	bool quiet, force;
};

/* All return an exit code, and have said what was wrong. */
int convert_open(struct convert *convert, const char *type, const char *path);
/* Whether to may be written: it is not there, or may be replaced, and is no
 * part of the source. */
int convert_may_replace(struct convert *convert, const char *to);
/* Copies the source onto an image that is there; fresh: it reads as zeroes. */
int convert_copy(struct convert *convert, const char *type, const char *path, bool fresh);
/* Makes a new file at path: make() creates it empty under a temporary name, it
 * is filled, then gets its name. Whatever goes wrong, nothing is left. */
int convert_to_file(struct convert *convert, const char *type, const char *path,
		    int (*make)(struct convert *convert, const char *path));
void convert_close(struct convert *convert);

#endif
