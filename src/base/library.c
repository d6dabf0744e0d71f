/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int td_library_load(const char *library, const char *const *names, void *pointers,
		    struct td_why *why)
{
	char *at = pointers;
	void *first, *handle;

	memcpy(&first, at, sizeof(first));
	if (first)
		return 0;
	handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!handle)
		return td_fail(why, -ENOTSUP, "needs a library: %s", dlerror());
	for (size_t count = 0; names[count]; count++) {
		void *symbol = dlsym(handle, names[count]);

		if (!symbol) {
			memset(pointers, 0, count * sizeof(symbol));
			dlclose(handle);
			return td_fail(why, -ENOTSUP, "needs %s of %s, which it has not",
				       names[count], library);
		}
		memcpy(at + count * sizeof(symbol), &symbol, sizeof(symbol));
	}
	return 0;
}
