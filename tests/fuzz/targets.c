/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of targets. */
#include <string.h>

#include "base/num.h"
#include "config.h"
#include "image.h"
#include "targets.h"

#define IMAGE(title, row) \
	static const struct fuzz_target image_##row = { \
		.name = title, .input = fuzz_image_input, .seed = fuzz_image_seed, \
		.sparse = true, .format = &fuzz_formats[row], \
	}

/* By the rows of fuzz_formats. */
IMAGE("qcow", 0);
IMAGE("qcow2", 1);
IMAGE("vhd", 2);
IMAGE("vdi", 3);
IMAGE("vmdk", 4);
IMAGE("vmdk-text", 5);
IMAGE("vhdx", 6);

const struct fuzz_target *const fuzz_targets[] = {
	&image_0, &image_1, &image_2, &image_3, &image_4, &image_5, &image_6,
	&fuzz_luks, &fuzz_survivor, &fuzz_spec, &fuzz_nbd, &fuzz_ring,
#ifdef HAVE_LIBNBD
	&fuzz_nbd_client,
#endif
#ifdef HAVE_CONTROL
	&fuzz_rpc,
#endif
	NULL,
};

const struct fuzz_target *fuzz_target_find(const char *name)
{
	for (unsigned i = 0; fuzz_targets[i]; i++)
		if (!strcmp(fuzz_targets[i]->name, name))
			return fuzz_targets[i];
	return NULL;
}
