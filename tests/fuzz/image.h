/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as inputs: a row for each format says how they are opened, which checksums
 * are put right, and which images of ours are the seeds.
 */
#ifndef TESTS_FUZZ_IMAGE_H
#define TESTS_FUZZ_IMAGE_H

#include "core/disk.h"
#include "fuzz.h"

struct fuzz_image {
	const char *create;  /* "key=value,key=value" for create() */
	uint32_t cluster;
	bool overlay, packed;
	bool running;        /* as it lies on disk while it is open for writing */
	uint8_t how;         /* enum sparse_how */
};

struct fuzz_format {
	const char *type;
	const char *options[8];   /* by SPARSE_OPTION; NULL: the first */
	void (*seal)(int fd, uint64_t size);
	const struct fuzz_image *images; /* the end: one without a cluster */
	const char *text;         /* a descriptor that is a file of its own */
};

extern const struct fuzz_format fuzz_formats[];

void fuzz_image_input(const struct fuzz_target *target, const uint8_t *data, size_t size);
size_t fuzz_image_seed(const struct fuzz_target *target, unsigned n, uint8_t *out);

/* What an image is used with; made once. */
struct fuzz_rig {
	struct td_loop *loop;
	struct td_registry *registry;
	char path[128], base[128], memory[128], key[128];
};
struct fuzz_rig *fuzz_rig(void);
void fuzz_memory_forget(void); /* survivor memory */

/* Random requests, several at a time, that follow from a number; ends when all have. */
void fuzz_use(struct td_disk *disk, uint32_t script, unsigned count, bool write);
/* The last block written, read back: false if it is not what was written. */
bool fuzz_keeps(struct td_disk *disk, uint32_t script);

#endif
