/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmdk-create FILE SIZE SUBFORMAT [cluster=N] [zeroes] [reserve] [backing=PATH]
 *             [format=TYPE]: an image with options that qcow-create does not have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/vmdk/vmdk.h"
#include "io/file.h"

extern const struct td_driver vmdk_driver;

int main(int argc, char **argv)
{
	struct td_files files = { 0 };
	struct vmdk_create_options options = { 0 };
	struct td_create make = { .files = &files, .options = &options };
	struct td_why why;

	if (argc < 4)
		return 2;
	make.path = argv[1];
	make.size = strtoull(argv[2], NULL, 0);
	options.subformat = argv[3];
	for (int i = 4; i < argc; i++) {
		if (!strncmp(argv[i], "cluster=", 8))
			make.cluster = strtoull(argv[i] + 8, NULL, 0);
		else if (!strncmp(argv[i], "backing=", 8))
			make.backing = argv[i] + 8;
		else if (!strncmp(argv[i], "format=", 7))
			make.backing_format = argv[i] + 7;
		options.zeroed_grain |= !strcmp(argv[i], "zeroes");
		make.reserve |= !strcmp(argv[i], "reserve");
	}
	if (!vmdk_driver.create(&make, &why))
		return 0;
	fprintf(stderr, "%s\n", why.text);
	return 1;
}
