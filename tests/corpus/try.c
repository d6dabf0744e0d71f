/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * corpus-try TYPE FILE...: each image in a process of its own. It is refused, with
 * one line that names it, or a file beside it; or it opens: then it is checked and
 * read, which changes nothing, repaired where it is damaged, and written. Lines about
 * it name it, too. Time and memory are bounded.
 *
 * Says "FILE refused|damaged|good MS KIB" for each on stdout; damaged: its check finds
 * something, or a read fails. What must not happen is told on stderr, and the end
 * is 1 then.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../fuzz/image.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "core/queue.h"

#define TIME_MAX_S 20
#define MEMORY_MAX_KIB (400 * 1024l) /* with what the sanitizers take */
#define LINES_MAX 40
#define READ_MAX (8 * MiB)
#define CHUNK (256 * KiB)

enum verdict { REFUSED = 3, DAMAGED, GOOD }; /* exit codes */
static const char *const verdict_name[] = {
	[REFUSED] = "refused", [DAMAGED] = "damaged", [GOOD] = "good",
};

static struct td_disk *disk_open(const char *spec, bool read_only)
{
	struct td_disk_options options = { .read_only = read_only };
	struct td_disk *disk;
	struct td_why why = { "" };

	if (!td_disk_open(fuzz_rig()->loop, fuzz_rig()->registry, spec, &options, &disk, &why))
		return disk;
	fprintf(stderr, "%s\n", why.text);
	return NULL;
}

static int *read_err(struct td_req *req)
{
	return *(int **)td_req_user(req);
}

static void read_done(struct td_req *req)
{
	*read_err(req) = req->err;
}

/* The first bytes of the disk, and the last ones; false: some cannot be read. */
static bool read_all(struct td_disk *disk)
{
	static _Alignas(4096) char memory[CHUNK];
	uint64_t size = td_disk_size(disk);
	struct td_pool *pool;
	bool good = true;

	demand(!td_pool_new(td_disk_queue(disk), 1, sizeof(int *), read_done, &pool));
	for (uint64_t at = 0; at < size;) {
		uint64_t n = min_u64(size - at, CHUNK);
		struct iovec iov = { memory, n };
		struct td_req *req = td_pool_get(pool);
		int err = 1;

		req->op = TD_READ;
		req->offset = at;
		req->len = n;
		req->iov = &iov;
		req->iov_count = 1;
		*(int **)td_req_user(req) = &err;
		td_submit(req);
		while (err == 1)
			td_loop_turn(fuzz_rig()->loop, 1000);
		td_pool_put(pool, req);
		good = good && !err;
		at += n;
		if (at >= READ_MAX && size - at > READ_MAX)
			at = size - round_down(READ_MAX, CHUNK);
	}
	td_pool_free(pool);
	return good;
}

static void put(void *arg, const char *key, const char *value)
{
	demand(*key && value);
}

static enum verdict look(const char *spec)
{
	struct td_disk *disk = disk_open(spec, true);
	struct td_check check = { 0 };
	struct td_image *top;
	struct td_why why;
	bool good;

	if (!disk)
		return REFUSED;
	top = td_disk_top(disk);
	if (top->driver->info)
		top->driver->info(top, put, NULL);
	good = !top->driver->check || !top->driver->check(top, &check, &why);
	good = read_all(disk) && good && !check.corruptions;
	td_disk_close(disk);
	return good ? GOOD : DAMAGED;
}

static void repair(const char *spec)
{
	struct td_disk_options options = { .repair = true };
	struct td_disk *disk;
	struct td_image *top;
	struct td_why why;

	if (td_disk_open(fuzz_rig()->loop, fuzz_rig()->registry, spec, &options, &disk, &why))
		return;
	top = td_disk_top(disk);
	if (top->driver->repairs && !td_disk_read_only(disk)) {
		struct td_check check = { .repair = top->driver->repairs };

		top->driver->check(top, &check, &why);
	}
	td_disk_close(disk);
}

static void change(const char *spec)
{
	struct td_disk *disk = disk_open(spec, false);

	if (!disk)
		return;
	fuzz_use(disk, 1, 20, true);
	td_disk_close(disk);
}

static uint64_t sum_of(const char *path)
{
	static uint64_t memory[MiB / 8];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t sum = 0;
	ssize_t n;

	demand(fd >= 0);
	while ((n = read(fd, memory, sizeof(memory))) > 0) {
		memset((char *)memory + n, 0, -n & 7);
		for (ssize_t i = 0; i < (n + 7) / 8; i++)
			sum = (sum ^ memory[i]) * 0x9e3779b97f4a7c15ull + n;
	}
	close(fd);
	return sum;
}

static void child(const char *type, const char *path)
{
	struct rlimit files = { 1ull << 30, 1ull << 30 };
	uint64_t before = sum_of(path);
	enum verdict verdict;
	char spec[4096];

	alarm(TIME_MAX_S);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &files);
	fuzz_rig();
	td_log_level(LOG_WARNING);
	snprintf(spec, sizeof(spec), "%s:%s", type, path);
	verdict = look(spec);
	demand(sum_of(path) == before);
	if (verdict != REFUSED) {
		fputs("\n", stderr); /* an empty line: now it is written */
		if (verdict == DAMAGED)
			repair(spec);
		change(spec);
	}
	exit(verdict);
}

/* What it said is few lines that name the image; a refusal is one of them. */
static bool words_fit(char *said, const char *path, int status)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	AUTO_FREE char *folder = strndup(path, name - path);
	unsigned lines = 0, first = 0;
	bool reading = true;
	char *rest = said, *line;

	while ((line = strsep(&rest, "\n")) && rest) {
		if (!*line) {
			reading = false;
			continue;
		}
		lines++;
		first += reading;
		if (!strstr(line, name) && !(*folder && strstr(line, folder)))
			return false;
	}
	if (line && *line) /* not a whole line */
		return false;
	return WEXITSTATUS(status) == REFUSED ? first == 1 : lines <= LINES_MAX;
}

static size_t hear(int fd, char *said, size_t room)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, said + len, room - 1 - len)) > 0)
		len += n;
	said[len] = '\0';
	return len;
}

static bool try(const char *type, const char *path)
{
	static char said[1 << 16], copy[1 << 16];
	uint64_t began = td_now_ms();
	struct rusage usage;
	int ends[2], status;
	bool fits;
	pid_t pid;

	demand(!pipe(ends));
	fflush(stdout);
	pid = fork();
	demand(pid >= 0);
	if (!pid) {
		dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		child(type, path);
	}
	close(ends[1]);
	hear(ends[0], said, sizeof(said));
	close(ends[0]);
	demand(wait4(pid, &status, 0, &usage) == pid);
	memcpy(copy, said, sizeof(said));
	fits = WIFEXITED(status) && WEXITSTATUS(status) >= REFUSED &&
	       WEXITSTATUS(status) <= GOOD && words_fit(copy, path, status) &&
	       usage.ru_maxrss <= MEMORY_MAX_KIB;
	if (fits)
		printf("%s %s %llu %ld\n", path, verdict_name[WEXITSTATUS(status)],
		       (unsigned long long)(td_now_ms() - began), usage.ru_maxrss);
	else
		fprintf(stderr, "%s:%s: %s %d, %ld KiB; it said:\n%.4000s\n", type, path,
			WIFSIGNALED(status) ? "signal" : "exit",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
			usage.ru_maxrss, said);
	return fits;
}

int main(int argc, char **argv)
{
	int bad = 0;

	if (argc < 3)
		return 2;
	for (int i = 2; i < argc; i++)
		bad += !try(argv[1], argv[i]);
	return bad ? 1 : 0;
}
