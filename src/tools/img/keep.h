/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image takes from below and would find different in another image: written
 * into the image itself.
 */
#ifndef TOOLS_KEEP_H
#define TOOLS_KEEP_H

#include "tools/img/img.h"

/* other: what is to lie below; NULL: nothing, all zeroes. Ends with a flush. 0 or -errno,
 * of either; 0 also if it was stopped by a signal. */
int keep_content(struct img_disk *img, struct img_disk *other, bool quiet, uint64_t *written);

#endif
