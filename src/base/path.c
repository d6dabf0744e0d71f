/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/path.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"

char *td_path_beside(const char *own, const char *path)
{
	const char *slash = own ? strrchr(own, '/') : NULL;
	int folder = *path != '/' && slash ? slash + 1 - own : 0;
	char *full;

	return asprintf(&full, "%.*s%s", folder, folder ? own : "", path) < 0 ? NULL : full;
}

static bool is_there(const char *own, const char *path)
{
	AUTO_FREE char *full = td_path_beside(own, path);

	return full && !access(full, F_OK);
}

char *td_path_find(const char *own, char *(*name)(void *arg, unsigned nth), unsigned count,
		   void *arg)
{
	char *first = NULL;

	for (unsigned nth = 0; nth < count; nth++) {
		char *path = name(arg, nth);

		if (path && path[0] && is_there(own, path)) {
			free(first);
			return path;
		}
		if (path && path[0] && !first)
			first = path;
		else
			free(path);
	}
	return first;
}

void td_path_replace(char *path, char what, char with)
{
	for (; *path; path++)
		if (*path == what)
			*path = with;
}

void td_path_last_part(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash)
		memmove(path, slash + 1, strlen(slash));
}
