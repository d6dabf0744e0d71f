/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes images for behaviours. A driver that creates its images is asked to,
 * over a raw file full of tag 1 if an overlay is wanted. For all others a
 * template says how to name one:
 *
 *     TYPE:%f,option=...     %f: a scratch file of zeroes, a new one each time
 *     TYPE:name,size=%s      %s: the size wanted, in bytes
 *
 * With several %f the size is divided among them. Where images are served by
 * another process a second template is its command, and %u in both is the socket
 * that it listens on. It is killed when the behaviour ends, however it does.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/spec.h"
#include "suite.h"

static void file_make(const char *path, uint64_t size, uint32_t tag)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char *buf = malloc(MiB);

	require(fd >= 0 && !ftruncate(fd, size), "%s: %s", path, strerror(errno));
	for (uint64_t at = 0; tag != TAG_ZERO && at < size; at += MiB) {
		size_t n = min_u64(MiB, size - at);
		tag_fill(buf, at, n, tag);
		require(pwrite(fd, buf, n, at) == (ssize_t)n, "%s: %s", path, strerror(errno));
	}
	free(buf);
	close(fd);
}

static unsigned count_files(const char *template)
{
	unsigned n = 0;

	for (const char *p = template; (p = strstr(p, "%f")); p += 2)
		n++;
	return n;
}

/* What a % and a letter stand for; NULL: for themselves. */
static const char *value_of(struct suite *suite, const char *at, uint64_t size,
			    uint64_t each, struct target *target)
{
	static char number[24];

	if (!strncmp(at, "%f", 2)) {
		snprintf(target->path, sizeof(target->path), "%s/image%u", suite->dir,
			 suite->made++);
		file_make(target->path, each, TAG_ZERO);
		return target->path;
	}
	if (!strncmp(at, "%s", 2)) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)size);
		return number;
	}
	return strncmp(at, "%u", 2) || !suite->server ? NULL : target->socket;
}

static void expand(struct suite *suite, const char *template, uint64_t size,
		   struct target *target, char *out, size_t room)
{
	unsigned files = count_files(template);
	uint64_t each = files > 1 ? round_up((size + files - 1) / files, 4096) : size;
	size_t used = 0;

	for (const char *p = template; *p && used < room - 1; p++) {
		const char *value = value_of(suite, p, size, each, target);

		if (value) {
			used += snprintf(out + used, room - used, "%s", value);
			p++;
		} else {
			out[used++] = *p;
		}
	}
	require(used < room, "the specification is too long");
	out[used] = 0;
}

static bool socket_answers(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool answers;

	snprintf(to.sun_path, sizeof(to.sun_path), "%.107s", path);
	answers = !connect(fd, (struct sockaddr *)&to, sizeof(to));
	close(fd);
	return answers;
}

static void serve(struct suite *suite, uint64_t size, struct target *target)
{
	char command[2048] = "exec ";

	snprintf(target->socket, sizeof(target->socket), "%s/.s%u", suite->dir,
		 suite->made++);
	expand(suite, suite->server, size, target, command + 5, sizeof(command) - 5);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	require(pid > 0, "fork: %s", strerror(errno));
	for (unsigned i = 0; !socket_answers(target->socket); i++) {
		require(i < 6000, "%s: does not listen", command);
		usleep(10000);
	}
}

#define KEY "the suite's key"

/* As a file, for every open; a new image takes it at once. */
static const char *key_file(struct suite *suite, struct td_create *make, char path[300])
{
	static const struct td_key key = { .data = KEY, .len = sizeof(KEY) - 1 };
	int fd;

	snprintf(path, 300, "%s/.key", suite->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	require(fd >= 0 && write(fd, KEY, sizeof(KEY) - 1) == sizeof(KEY) - 1, "%s: %s", path,
		strerror(errno));
	close(fd);
	make->key = &key;
	return path;
}

void target_options(struct suite *suite, struct td_create *make, char *more, size_t room)
{
	const struct td_driver *driver = suite->driver;
	const char *text = suite->create ? suite->create : "encryption=luks,iter-time=0";
	struct td_why why = { "" };
	struct td_spec spec;
	char words[200], path[300];
	void *options;

	if (!suite->create && !suite->encrypted)
		return;
	options = calloc(1, driver->create_size + 1);
	snprintf(words, sizeof(words), "new:image,%s", text);
	require(!td_spec_parse(words, &spec, &why) &&
		!td_options_apply(driver->create_options, &spec, options, &why), "%s", why.text);
	td_spec_free(&spec);
	make->options = options;
	if (suite->encrypted)
		snprintf(more, room, ",key-file=%s", key_file(suite, make, path));
}

void target_options_free(struct suite *suite, struct td_create *make)
{
	if (make->options)
		td_options_free(suite->driver->create_options, (void *)make->options);
	free((void *)make->options);
	make->options = NULL;
}

static void create(struct suite *suite, uint64_t size, struct target *target)
{
	struct td_files files = { .force_align = 0 };
	struct td_why why = { "" };
	char backing[300], more[400] = "";
	struct td_create make = { .path = target->path, .size = size, .files = &files,
				  .cluster = suite->cluster };
	int err;

	snprintf(target->path, sizeof(target->path), "%s/image%u", suite->dir, suite->made);
	if (suite->overlay) {
		snprintf(backing, sizeof(backing), "%s/base%u", suite->dir, suite->made);
		make.backing_size = suite->base_size ? suite->base_size : size;
		file_make(backing, make.backing_size, TAG_BASE);
		target->tag = TAG_BASE;
		make.backing = backing;
		make.backing_format = "raw";
	}
	suite->made++;
	target_options(suite, &make, more, sizeof(more));
	err = suite->driver->create(&make, &why);
	require(!err, "create: %s (%s)", why.text, strerror(-err));
	snprintf(target->spec, sizeof(target->spec), "%s:%s%s", suite->driver->name,
		 target->path, more);
	target_options_free(suite, &make);
}

/* qemu-img is the only one that makes compressed clusters. (7.2 does so, and then
 * ends with 1 and no word: what it made is compared instead.) */
static void pack(struct suite *suite, uint64_t size, struct target *target)
{
	char raw[300], command[2200];

	target->tag = TAG_PACKED;
	snprintf(raw, sizeof(raw), "%s/raw%u", suite->dir, suite->made);
	snprintf(target->path, sizeof(target->path), "%s/image%u", suite->dir, suite->made++);
	file_make(raw, size, target->tag);
	snprintf(command, sizeof(command),
		 "qemu-img convert -q -c -f raw -O %s '%s' '%s'; "
		 "qemu-img compare -q -f raw -F %s '%s' '%s'", suite->driver->name, raw,
		 target->path, suite->driver->name, raw, target->path);
	if (system(command))
		skip("qemu-img makes no compressed image of this type");
	unlink(raw);
	snprintf(target->spec, sizeof(target->spec), "%s:%s", suite->driver->name, target->path);
}

void target_make(struct suite *suite, uint64_t size, struct target *target)
{
	*target = (struct target){ .tag = TAG_ZERO };
	if (suite->server)
		serve(suite, size, target);
	if (suite->spec)
		expand(suite, suite->spec, size, target, target->spec, sizeof(target->spec));
	else if (suite->packed)
		pack(suite, size, target);
	else
		create(suite, size, target);
}

static uint64_t hash(uint64_t h, const void *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211ull;
	return h;
}

static uint64_t file_checksum(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *buf = malloc(MiB);
	uint64_t h = 14695981039346656037ull;
	struct stat st;
	ssize_t n;

	require(fd >= 0 && !fstat(fd, &st), "%s: %s", path, strerror(errno));
	h = hash(h, &st.st_size, sizeof(st.st_size));
	h = hash(h, &st.st_mtim, sizeof(st.st_mtim));
	while ((n = read(fd, buf, MiB)) > 0)
		h = hash(h, buf, n);
	free(buf);
	close(fd);
	return h;
}

/* A sum, so that the order of the folder does not matter. */
uint64_t folder_checksum(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	char path[600];
	uint64_t sum = 0;

	require(d, "%s: %s", dir, strerror(errno));
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		sum += hash(file_checksum(path), path, strlen(path));
	}
	closedir(d);
	return sum;
}
