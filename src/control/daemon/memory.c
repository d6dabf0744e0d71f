/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One memfd per name, counted. The daemon never looks into it: the first
 * tapdisk to open it gives it its size and content.
 */
#include "control/daemon/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct td_memory {
	struct list link;
	unsigned users;
	int fd;
	char name[];
};

static struct td_memory *memory_find(struct list *all, const char *name)
{
	LIST_FOR(struct td_memory, memory, all, link)
		if (!strcmp(memory->name, name))
			return memory;
	return NULL;
}

/* fd belongs to the memory then. */
static int memory_add(struct list *all, const char *name, int fd, struct td_memory **out)
{
	struct td_memory *memory;

	if (fd < 0)
		return -errno;
	memory = calloc(1, sizeof(*memory) + strlen(name) + 1);
	if (!memory) {
		close(fd);
		return -ENOMEM;
	}
	strcpy(memory->name, name);
	memory->users = 1;
	memory->fd = fd;
	list_add(all, &memory->link);
	*out = memory;
	return 0;
}

static int memory_share(struct td_memory *memory, struct td_memory **out)
{
	memory->users++;
	*out = memory;
	return 0;
}

int td_memory_get(struct list *all, const char *name, struct td_memory **out)
{
	struct td_memory *memory = memory_find(all, name);

	if (memory)
		return memory_share(memory, out);
	return memory_add(all, name, memfd_create("blktap-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING),
			  out);
}

int td_memory_adopt(struct list *all, const char *name, pid_t pid, int fd,
		    struct td_memory **out)
{
	struct td_memory *memory = memory_find(all, name);
	char path[64];

	if (memory)
		return memory_share(memory, out);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	return memory_add(all, name, open(path, O_RDWR | O_CLOEXEC), out);
}

void td_memory_put(struct td_memory *memory)
{
	if (!memory || --memory->users)
		return;
	list_del(&memory->link);
	close(memory->fd);
	free(memory);
}

int td_memory_fd(const struct td_memory *memory)
{
	return memory->fd;
}
