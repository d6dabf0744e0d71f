/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The content of a RAM disk into an image, and back.
 */
#ifndef TOOLS_TAP_CTL_RAM_H
#define TOOLS_TAP_CTL_RAM_H

#include <jansson.h>
#include <stdbool.h>

struct ram_copy {
	const char *name;  /* of the RAM disk */
	const char *image; /* type:target */
	bool load;         /* into the RAM disk; else into the image */
	bool force;        /* even if the image is there, or guests have the RAM disk */
	bool json;         /* say what was copied */
};

/* list: what ram-list answers. 0; -ENODEV: there is no such RAM disk; else another
 * error. It has been said. */
int ram_copy(const struct ram_copy *copy, json_t *list);

#endif
