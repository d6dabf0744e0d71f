/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The head of survivor memory, as it lies in its file: survivor.c makes and adopts it,
 * survivor_gone.c asks whether the image that it is of is still there.
 */
#ifndef IO_SURVIVOR_IMPL_H
#define IO_SURVIVOR_IMPL_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define SURVIVOR_MAGIC 0x7669767275736274ull /* "tbsurviv" */
#define SURVIVOR_VERSION 1
#define SURVIVOR_HEAD 4096
#define SURVIVOR_HANDLE 128

struct survivor_head {
	uint64_t magic;         /* set last */
	uint32_t version, page, slots, spare;
	uint64_t dev, ino;      /* whose pages: as in struct td_file */
	uint64_t born_sec, born_nsec;
	char boot[40];
	char path[2048];        /* as it was opened: for messages */
	/* by which the kernel finds the image if it is there, whatever its name: of
	 * name_to_handle_at(); no bytes: there is none */
	uint32_t handle_bytes;
	int32_t handle_type;
	uint8_t handle[SURVIVOR_HANDLE];
};
static_assert(sizeof(struct survivor_head) <= SURVIVOR_HEAD, "the head is a page");

void survivor_boot_id(char out[40]);

/* ---- survivor_gone.c ---- */

/* Of an open file. */
void survivor_handle_fill(struct survivor_head *head, int fd);
/* Removes from the folder what killed processes have left of images that were removed
 * since. Anything that is not known for certain stays. */
void survivor_forget_gone(int folder);

#endif
