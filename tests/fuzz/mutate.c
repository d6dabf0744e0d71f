/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz-mutate TARGET [option=value...] [FILE...]: the seeds of a target, then random
 * changes of them, in a process of its own that is watched. FILEs are more seeds.
 *
 *   seconds=S  for so long; else runs=N of them
 *   seed=N     another lot of changes; from=N begins with that run
 *   raw=1      FILEs are images as they lie on disk, not inputs
 *   write=DIR  writes the seeds there, and ends
 *   keep=FILE  writes the input of each run there, before it is run
 *
 * Run n of a seed is always the same. What a run has done wrong is told with the
 * options that repeat it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "fuzz.h"
#include "sparse.h"

#define SEEDS_MAX 64
#define PATIENCE_MS 30000
#define MEMORY_MAX_KIB (1536 * 1024l)

struct seed {
	uint8_t *data;
	size_t size;
};

static struct {
	const struct fuzz_target *target;
	uint64_t seconds, runs, seed, from, raw;
	const char *write, *keep;
	char **files;
	int file_count;
} opt = { .seed = 1 };

static struct seed seeds[SEEDS_MAX];
static unsigned seed_count;
static volatile uint64_t *run; /* the one under way; shared */

static void die(const char *what, const char *why)
{
	fprintf(stderr, "fuzz-mutate: %s: %s\n", what, why);
	exit(2);
}

/* ---- seeds ---------------------------------------------------------------------- */

static void seed_add(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size);

	demand(copy && seed_count < SEEDS_MAX);
	memcpy(copy, data, size);
	seeds[seed_count++] = (struct seed){ copy, size };
}

static size_t file_read(const char *path, uint8_t *out)
{
	FILE *file = fopen(path, "r");
	size_t size = file ? fread(out, 1, FUZZ_MAX, file) : 0;

	if (file)
		fclose(file);
	return size;
}

static void seeds_make(void)
{
	static uint8_t data[FUZZ_MAX];
	size_t size;

	for (int i = 0; i < opt.file_count; i++) {
		size = opt.raw && opt.target->sparse ? sparse_from_file(opt.files[i], 0, data) :
						       file_read(opt.files[i], data);
		if (!size)
			die(opt.files[i], "cannot be read, or has too much in it");
		seed_add(data, size);
	}
	for (unsigned n = 0; (size = opt.target->seed(opt.target, n, data)); n++)
		seed_add(data, size);
}

static void file_write(const char *path, const uint8_t *data, size_t size)
{
	FILE *file = fopen(path, "w");

	if (!file || fwrite(data, 1, size, file) != size || fclose(file))
		die(path, strerror(errno));
}

static void seeds_write(void)
{
	char path[4096];

	for (unsigned i = 0; i < seed_count; i++) {
		snprintf(path, sizeof(path), "%s/%s-%u", opt.write, opt.target->name, i);
		file_write(path, seeds[i].data, seeds[i].size);
	}
}

/* ---- runs ----------------------------------------------------------------------- */

/* Of its own size, so that a read past its end is noticed. */
static void one(uint64_t n)
{
	static uint8_t data[FUZZ_MAX];
	const struct seed *seed = &seeds[n % seed_count];
	size_t size = seed->size;
	struct fuzz_random random;
	uint8_t *exact;

	memcpy(data, seed->data, size);
	if (n >= seed_count) {
		fuzz_random_start(&random, opt.seed, n);
		size = fuzz_mutate(opt.target, &random, data, size, FUZZ_MAX);
	}
	if (opt.keep)
		file_write(opt.keep, data, size);
	exact = malloc(size ? size : 1);
	demand(exact);
	memcpy(exact, data, size);
	opt.target->input(opt.target, exact, size);
	free(exact);
}

static void runs(void)
{
	uint64_t until = td_now_ms() + opt.seconds * 1000, last = opt.from + opt.runs;

	seeds_make();
	if (opt.write) {
		seeds_write();
		return;
	}
	for (*run = opt.from; opt.seconds ? *run < seed_count || td_now_ms() < until : *run < last;
	     ++*run)
		one(*run);
}

/* The child hangs, or ends. */
static int watch(pid_t child)
{
	uint64_t seen = 0, since = td_now_ms();
	struct rusage usage;
	int status;

	while (wait4(child, &status, WNOHANG, &usage) == 0) {
		if (*run != seen) {
			seen = *run;
			since = td_now_ms();
		} else if (td_now_ms() > since + PATIENCE_MS) {
			fprintf(stderr, "%s: it hangs\n", opt.target->name);
			kill(child, SIGABRT);
			since = td_now_ms();
		}
		usleep(5000);
	}
	if (WIFSIGNALED(status))
		fprintf(stderr, "%s: killed by a signal: %s\n", opt.target->name,
			strsignal(WTERMSIG(status)));
	if (usage.ru_maxrss > MEMORY_MAX_KIB) {
		fprintf(stderr, "%s: it took %ld KiB of memory\n", opt.target->name,
			usage.ru_maxrss);
		return 1;
	}
	return status;
}

/* ---- the program ------------------------------------------------------------------ */

static void parse(int argc, char **argv)
{
	uint64_t *const to[] = { &opt.seconds, &opt.runs, &opt.seed, &opt.from, &opt.raw };
	static const char *const name[] = { "seconds=", "runs=", "seed=", "from=", "raw=" };
	int i;

	opt.target = argc > 1 ? fuzz_target_find(argv[1]) : NULL;
	if (!opt.target) {
		for (i = 0; fuzz_targets[i]; i++)
			printf("%s\n", fuzz_targets[i]->name);
		exit(argc > 1 ? 2 : 0);
	}
	for (i = 2; i < argc && strchr(argv[i], '=') && *argv[i] != '/'; i++) {
		unsigned k = 0;

		while (k < ARRAY_SIZE(to) && strncmp(argv[i], name[k], strlen(name[k])))
			k++;
		if (k < ARRAY_SIZE(to))
			*to[k] = strtoull(argv[i] + strlen(name[k]), NULL, 0);
		else if (!strncmp(argv[i], "write=", 6))
			opt.write = argv[i] + 6;
		else if (!strncmp(argv[i], "keep=", 5))
			opt.keep = argv[i] + 5;
		else
			die(argv[i], "unknown");
	}
	opt.files = argv + i;
	opt.file_count = argc - i;
	if (!opt.seconds && !opt.runs)
		opt.runs = 1000;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 1ull << 30, 1ull << 30 };
	int status;
	pid_t child;

	parse(argc, argv);
	run = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	demand((void *)run != MAP_FAILED);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &files);
	child = fork();
	demand(child >= 0);
	if (!child) {
		runs();
		exit(0);
	}
	status = watch(child);
	if (!opt.write)
		printf("%s: %llu runs of seed %llu\n", opt.target->name,
		       (unsigned long long)(*run - opt.from), (unsigned long long)opt.seed);
	if (status) {
		char command[128];
		const char *where = getenv("FUZZ_FOLDER");

		fprintf(stderr, "%s seed=%llu from=%llu runs=1 repeats it\n", opt.target->name,
			(unsigned long long)opt.seed, (unsigned long long)*run);
		snprintf(command, sizeof(command), "rm -rf '%.40s/blktap-fuzz-%d'",
			 where ? where : "/dev/shm", (int)child);
		if (system(command))
			return 2;
	}
	return status ? 1 : 0;
}
