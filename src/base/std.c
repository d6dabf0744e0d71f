/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See std.h. */
#include "base/std.h"

#include <fcntl.h>
#include <unistd.h>

void td_std_open(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd >= 0)
		close(fd);
}
