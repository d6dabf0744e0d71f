/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scope guards, for set-up code, tools and tests; never on the data path.
 * take() hands the value out of its guard.
 */
#ifndef BASE_GUARD_H
#define BASE_GUARD_H

#include <stdlib.h>
#include <unistd.h>

static inline void guard_free(void *pp)
{
	free(*(void **)pp);
}

static inline void guard_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define AUTO_FREE __attribute__((cleanup(guard_free)))
#define AUTO_CLOSE __attribute__((cleanup(guard_close)))

#define take(p) \
	({ \
		__auto_type taken = (p); \
		(p) = NULL; \
		taken; \
	})

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
