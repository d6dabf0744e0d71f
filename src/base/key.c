/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys in locked memory.
 */
#include "base/key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"

/* The key's bytes follow it. */
#define MAP_SIZE (sizeof(struct td_key) + TD_KEY_MAX)

struct td_key *td_key_new(void)
{
	struct td_key *key = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (key == MAP_FAILED)
		return NULL;
	madvise(key, MAP_SIZE, MADV_DONTDUMP);
	if (mlock(key, MAP_SIZE)) /* a limit: then it may be swapped */
		td_log(NULL, LOG_DEBUG, "a key's memory cannot be locked: %s", strerror(errno));
	key->data = key + 1;
	return key;
}

void td_key_add(struct td_key **list, struct td_key *key)
{
	while (*list)
		list = &(*list)->next;
	*list = key;
}

void td_keys_free(struct td_key *list)
{
	while (list) {
		struct td_key *key = list;

		list = key->next;
		explicit_bzero(key, MAP_SIZE);
		munmap(key, MAP_SIZE);
	}
}

/* To its end, and a byte more than there may be. A file from its beginning. */
static ssize_t read_all(int fd, bool file, char *to, size_t room)
{
	size_t done = 0;

	while (done < room) {
		ssize_t n = file ? pread(fd, to + done, room - done, done) :
				   read(fd, to + done, room - done);

		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += n;
	}
	return done;
}

static int key_read(int fd, const char *name, struct td_key **list, struct td_why *why)
{
	struct td_key *key;
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return td_fail(why, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
		return td_fail(why, -EINVAL, "%s: a key comes from a file or a pipe, and this is "
			       "neither", name);
	if (S_ISREG(st.st_mode) && st.st_mode & (S_IRGRP | S_IROTH))
		td_log(name, LOG_WARNING, "this key can be read by others: its mode is %03o",
		       st.st_mode & 0777);
	key = td_key_new();
	if (!key)
		return td_fail(why, -ENOMEM, "%s: no memory", name);
	n = read_all(fd, S_ISREG(st.st_mode), (char *)key->data, TD_KEY_MAX);
	if (n > 0 && n < TD_KEY_MAX) {
		key->len = n;
		td_key_add(list, key);
		return 0;
	}
	td_keys_free(key);
	if (n < 0)
		return td_fail(why, n, "%s: %s", name, strerror(-n));
	return td_fail(why, -EINVAL, n ? "%s: a key of 64 KiB or more cannot be" :
					 "%s: there is no key in it", name);
}

int td_key_from_file(const char *path, struct td_key **list, struct td_why *why)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return td_fail(why, -errno, "%s: %s", path, strerror(errno));
	return key_read(fd, path, list, why);
}

int td_key_from_fd(const char *text, struct td_key **list, struct td_why *why)
{
	char name[32] = "key-fd=", *end;
	unsigned long fd = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || fd > INT16_MAX)
		return td_fail(why, -EINVAL, "key-fd=%.32s: is no number of a descriptor", text);
	strcat(name, text);
	return key_read(fd, name, list, why);
}

int td_key_from(const char *how, const char *where, struct td_key **list, struct td_why *why)
{
	return strcmp(how, "key-fd") ? td_key_from_file(where, list, why) :
				       td_key_from_fd(where, list, why);
}

int td_key_copy(const struct td_key *key, struct td_key **list)
{
	struct td_key *copy = td_key_new();

	if (!copy)
		return -ENOMEM;
	memcpy((void *)copy->data, key->data, key->len);
	copy->len = key->len;
	td_key_add(list, copy);
	return 0;
}
