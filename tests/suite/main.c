/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * blktap-driver-test: runs the image suite on a driver, built in or a plug-in.
 * Each behaviour runs in a process of its own, so that a crash, an assertion or
 * a leak found at exit is that behaviour's failure.
 */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <blktap/format.h>

#include "base/args.h"
#include "base/log.h"
#include "config.h"
#include "drivers/builtin.h"
#include "suite.h"
#include "tests/seed.h"

struct options {
	struct td_args_common common;
	const char *engine, *align, *cluster, *seed, *rounds, *dir, *behaviour, *plugins,
		*server, *timeout, *queues;
	bool shuffle, overlay, encrypted, packed, exact, forgets, logged, first, list;
};

static const struct td_arg rows[] = {
	{ "engine", 'e', "NAME", offsetof(struct options, engine), "io_uring or libaio" },
	{ "align", 'a', "BYTES", offsetof(struct options, align),
	  "pretend that files demand this alignment" },
	{ "queues", 'q', "N", offsetof(struct options, queues),
	  "threads that serve the disk, 1 to 8 [1]" },
	{ "shuffle", 's', NULL, offsetof(struct options, shuffle),
	  "let file operations overtake each other" },
	{ "overlay", 'o', NULL, offsetof(struct options, overlay),
	  "create images over a raw backing file" },
	{ "cluster", 'c', "BYTES", offsetof(struct options, cluster),
	  "create images with clusters of this size" },
	{ "encrypted", 'E', NULL, offsetof(struct options, encrypted),
	  "create images that are encrypted (LUKS)" },
	{ "packed", 'z', NULL, offsetof(struct options, packed),
	  "images come from qemu-img, with compressed clusters" },
	{ "exact", 'x', NULL, offsetof(struct options, exact),
	  "images have exactly the size asked for" },
	{ "forgets", 'f', NULL, offsetof(struct options, forgets),
	  "the driver keeps nothing across close" },
	{ "logged", 'j', NULL, offsetof(struct options, logged),
	  "the format has a log: a flush need not wait for more" },
	{ "seed", 'S', "N", offsetof(struct options, seed),
	  "of what is random; printed otherwise" },
	{ "rounds", 'n', "N", offsetof(struct options, rounds),
	  "steps of random sequences, 400" },
	{ "dir", 'd', "FOLDER", offsetof(struct options, dir),
	  "for scratch files: /dev/shm, else $TMPDIR or /tmp" },
	{ "behaviour", 'b', "B", offsetof(struct options, behaviour),
	  "only those whose name contains B, or one of B,B..." },
	{ "plugins", 'p', "DIR", offsetof(struct options, plugins),
	  "look for plug-ins there" },
	{ "server", 'u', "COMMAND", offsetof(struct options, server),
	  "run this for each image: it listens on the socket %u" },
	{ "first", '1', NULL, offsetof(struct options, first), "stop at the first that fails" },
	{ "list", 'l', NULL, offsetof(struct options, list), "list the behaviours" },
	{ "timeout", 't', "S", offsetof(struct options, timeout),
	  "seconds for one behaviour, 300" },
	TD_ARGS_COMMON(struct options),
};

/* Exit codes of a behaviour's process. */
enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };

struct tally {
	unsigned passed, failed, skipped;
};

struct run {
	struct suite suite;
	const char *dir;
	const char *only;
	const char *plugins;
	unsigned timeout;
	bool first;
	struct tally tally;
};

/* Shared with the behaviour's process: what it had to say. */
static char *verdict;
#define VERDICT_SIZE 4096

static void say(const char *fmt, va_list args)
{
	vsnprintf(verdict, VERDICT_SIZE, fmt, args);
	fflush(stdout);
}

void fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
	_exit(FAILED);
}

void skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
	_exit(SKIPPED);
}

/* Not this machine's: what others left there would be looked through at each open. */
static void survivors_of_its_own(const struct suite *suite)
{
	char path[sizeof(suite->dir) + 16];

	snprintf(path, sizeof(path), "%s/.survivors", suite->dir);
	setenv("BLKTAP_SURVIVOR_DIR", path, 1);
}

static void remove_tree(const char *dir)
{
	char command[400];

	snprintf(command, sizeof(command), "rm -rf -- '%s'", dir);
	if (system(command))
		fprintf(stderr, "%s: not removed\n", dir);
}

static void judge(struct run *run, const struct behaviour *b, int status, uint64_t ms)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == PASSED) {
		run->tally.passed++;
		printf("ok - %s (%llu ms)\n", b->name, (unsigned long long)ms);
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		run->tally.skipped++;
		printf("ok - %s # SKIP %s\n", b->name, verdict);
	} else {
		run->tally.failed++;
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
			snprintf(verdict, VERDICT_SIZE, "not done after %u s", run->timeout);
		else if (WIFSIGNALED(status))
			snprintf(verdict, VERDICT_SIZE, "%s", strsignal(WTERMSIG(status)));
		else if (!verdict[0])
			snprintf(verdict, VERDICT_SIZE, "exit code %d", WEXITSTATUS(status));
		printf("not ok - %s: %s\n", b->name, verdict);
	}
	fflush(stdout);
}

static void run_one(struct run *run, const struct behaviour *b)
{
	struct suite *suite = &run->suite;
	uint64_t began = td_now_ms();
	int status;

	if (b->needs & ~suite->driver->can) {
		run->tally.skipped++;
		printf("ok - %s # SKIP %s cannot do it\n", b->name, suite->driver->name);
		return;
	}
	snprintf(suite->dir, sizeof(suite->dir), "%s/blktap-suite.XXXXXX", run->dir);
	if (!mkdtemp(suite->dir)) {
		fprintf(stderr, "%s: %s\n", suite->dir, strerror(errno));
		exit(2);
	}
	verdict[0] = 0;
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(run->timeout);
		survivors_of_its_own(suite);
		b->run(suite);
		exit(PASSED);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0) {
		perror("fork");
		exit(2);
	}
	remove_tree(suite->dir);
	judge(run, b, status, td_now_ms() - began);
}

static const struct behaviour *const all[] = {
	basic_behaviours, op_behaviours, random_behaviours, fault_behaviours, queue_behaviours,
};

static bool is_wanted(const struct run *run, const struct behaviour *b)
{
	char *words = strdup(run->only ? run->only : ""), *rest = words, *word;
	bool wanted = !run->only;

	while (!wanted && (word = strsep(&rest, ",")))
		wanted = strstr(b->name, word);
	free(words);
	return wanted;
}

static void run_all(struct run *run)
{
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		for (const struct behaviour *b = all[i]; b->name; b++)
			if (is_wanted(run, b) &&
			    !(run->first && run->tally.failed))
				run_one(run, b);
}

static int list_all(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		for (const struct behaviour *b = all[i]; b->name; b++)
			puts(b->name);
	return 0;
}

static const char *scratch_folder(void)
{
	if (!access("/dev/shm", W_OK))
		return "/dev/shm";
	return getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
}

static int find_driver(struct suite *suite, const char *name, struct td_why *why)
{
	if (!strchr(name, '/') && !strstr(name, ".so")) {
		suite->driver = td_registry_find(suite->registry, name, why);
		return suite->driver ? 0 : -ENOENT;
	}
	return td_registry_load(suite->registry, name, &suite->driver, why);
}

/* A forced engine that this machine does not have is no driver's fault. */
static void need_engine(const char *engine)
{
	struct td_loop *loop;
	struct td_fileio *io;
	struct td_why why = { "" };

	if (!engine || td_loop_new(&loop))
		return;
	if (td_fileio_new(loop, engine, 8, &io, &why)) {
		printf("skipped: %s\n", why.text);
		exit(SKIPPED);
	}
	td_fileio_free(io);
	td_loop_free(loop);
}

/* libcryptsetup opens two descriptors when it is first used, and keeps them. */
static void need_luks(void)
{
	static const struct td_key key = { .data = "key", .len = 3 };
	struct td_why why = { "" };
	void *header;
	size_t len;

	if (td_luks_make(&key, 0, &header, &len, &why)) {
		printf("skipped: %s\n", why.text);
		exit(SKIPPED);
	}
	free(header);
}

static void run_spec(struct run *run, const char *spec)
{
	struct suite *suite = &run->suite;

	suite->spec = spec;
	printf("# %s, engine %s, align %u%s%s, seed %llu\n",
	       spec ? spec : suite->driver->name, suite->engine ? suite->engine : "chosen",
	       suite->align, suite->overlay ? ", overlay" : "",
	       suite->shuffle ? ", shuffled" : "", (unsigned long long)suite->seed);
	run_all(run);
}

static int help(void)
{
	puts("Usage: blktap-driver-test [OPTION]... DRIVER.so|TYPE [SPEC]...\n"
	     "Runs the image suite on a disk driver: a plug-in, or one that is built in.\n\n"
	     "SPEC says how to name a disk of it: %f stands for a scratch file of zeroes (a\n"
	     "new one each time), %s for the wanted size in bytes. Without SPEC the driver's\n"
	     "create function makes the images. With --server %u is a socket.\n"
	     "    blktap-driver-test ./stripe.so 'stripe:%f,and=%f'\n");
	td_args_help(rows);
	return 0;
}

static int usage(const char *text)
{
	fprintf(stderr, "blktap-driver-test: %s (see blktap-driver-test --help)\n", text);
	return 2;
}

static uint64_t number(const char *text, uint64_t otherwise)
{
	return text ? strtoull(text, NULL, 0) : otherwise;
}

static void run_set(struct run *run, const struct options *options)
{
	*run = (struct run){
		.suite = {
			.engine = options->engine,
			.server = options->server,
			.align = number(options->align, 0),
			.cluster = number(options->cluster, 0),
			.shuffle = options->shuffle,
			.queues = min_u64(number(options->queues, 1), RIG_QUEUES),
			.overlay = options->overlay,
			.encrypted = options->encrypted,
			.packed = options->packed,
			.exact = options->exact,
			.forgets = options->forgets,
			.logged = options->logged,
			.seed = number(options->seed, test_seed()),
			.rounds = number(options->rounds, 400),
		},
		.dir = options->dir ? options->dir : scratch_folder(),
		.only = options->behaviour,
		.plugins = options->plugins,
		.timeout = number(options->timeout, 300),
		.first = options->first,
	};
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct td_why why = { "" };
	struct suite *suite;
	struct run run;
	int count;

	/* buffers of a request are used again, not mapped anew */
	mallopt(M_MMAP_THRESHOLD, 32 * MiB);
	mallopt(M_TRIM_THRESHOLD, 256 * MiB);
	if (td_args_parse(rows, &options, argv, &count, &why))
		return usage(why.text);
	if (options.common.help)
		return help();
	if (options.common.version)
		return puts("blktap-driver-test " BLKTAP_VERSION) < 0;
	if (options.list)
		return list_all();
	if (!count)
		return usage("which driver?");
	run_set(&run, &options);
	suite = &run.suite;
	verdict = mmap(NULL, VERDICT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (verdict == MAP_FAILED || td_registry_new(run.plugins, &suite->registry) ||
	    td_registry_add_all(suite->registry, td_builtin_drivers, td_builtin_aliases))
		abort();
	if (find_driver(suite, argv[1], &why)) {
		fprintf(stderr, "blktap-driver-test: %s\n", why.text);
		return 2;
	}
	need_engine(suite->engine);
	if (suite->encrypted)
		need_luks();
	if (count > 1)
		for (int i = 2; i <= count; i++)
			run_spec(&run, argv[i]);
	else if (suite->driver->create)
		run_spec(&run, NULL);
	else {
		fprintf(stderr, "blktap-driver-test: %s does not create images: give a SPEC\n",
			suite->driver->name);
		return 2;
	}
	td_registry_free(suite->registry);
	printf("# %u passed, %u failed, %u skipped\n", run.tally.passed, run.tally.failed,
	       run.tally.skipped);
	return run.tally.failed ? 1 : 0;
}
