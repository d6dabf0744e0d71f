/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One memfd per name, counted. The daemon never looks into it: the first
 * tapdisk to open it gives it its size and content.
 */
#include "control/daemon/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

struct td_memory {
	struct list link;
	unsigned users;
	int fd;
	char name[];
};

struct td_memory *td_memory_find(struct list *all, const char *name)
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

int td_memory_get(struct list *all, const char *name, bool huge, struct td_memory **out)
{
	struct td_memory *memory = td_memory_find(all, name);
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0);

	if (memory)
		return memory_share(memory, out);
	return memory_add(all, name, memfd_create("blktap-ram", flags), out);
}

int td_memory_adopt(struct list *all, const char *name, pid_t pid, int fd,
		    struct td_memory **out)
{
	struct td_memory *memory = td_memory_find(all, name);
	struct stat ours, its;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	if (!memory)
		return memory_add(all, name, open(path, O_RDWR | O_CLOEXEC), out);
	if (fstat(memory->fd, &ours) < 0 || stat(path, &its) < 0)
		return -errno;
	if (ours.st_dev != its.st_dev || ours.st_ino != its.st_ino)
		return -EEXIST;
	return memory_share(memory, out);
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

struct td_memory *td_memory_next(struct list *all, struct td_memory *memory)
{
	struct list *next = memory ? memory->link.next : all->next;

	return next == all ? NULL : list_item(next, struct td_memory, link);
}

void td_memory_facts(const struct td_memory *memory, struct td_memory_facts *out)
{
	struct statfs fs;
	struct stat st;

	*out = (struct td_memory_facts){ .name = memory->name, .fd = memory->fd };
	if (!fstat(memory->fd, &st)) {
		out->size = st.st_size;
		out->used = st.st_blocks * 512ull;
	}
	if (!fstatfs(memory->fd, &fs) && fs.f_type == HUGETLBFS_MAGIC)
		out->page = fs.f_bsize;
}
