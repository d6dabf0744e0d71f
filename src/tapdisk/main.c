/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tapdisk: one disk, one process. Opens the images, serves them until it is told
 * to stop, then lets what is in flight end, flushes and closes.
 *
 * This is the one place that names every part.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/args.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/std.h"
#include "config.h"
#include "core/disk.h"
#include "drivers/builtin.h"
#include "tapdisk/control.h"
#include "tapdisk/serve.h"

struct options {
	struct td_args_common common;
	const char *disk, *name, *nbd, *engine, *plugins, *control, *ready_fd;
	bool read_only, peek, trace, verbose;
};

static const struct td_arg rows[] = {
	{ "disk", 'd', "SPEC", offsetof(struct options, disk),
	  "the disk: type:target[,key=value...]" },
	{ "read-only", 'r', NULL, offsetof(struct options, read_only),
	  "change not one byte of any file" },
	{ "peek", 0, NULL, offsetof(struct options, peek),
	  "take no locks: read-only, for its size alone, while another writes it" },
	{ "nbd", 'n', "ADDRESS", offsetof(struct options, nbd),
	  "serve NBD on unix:PATH or tcp:HOST:PORT" },
	{ "name", 0, "NAME", offsetof(struct options, name),
	  "the disk's name in messages; default: its target" },
	{ "engine", 0, "NAME", offsetof(struct options, engine),
	  "io_uring or libaio; default: the best there is" },
	{ "plugins", 0, "FOLDER", offsetof(struct options, plugins),
	  "where drivers that are not built in are found" },
	{ "control", 0, "PATH", offsetof(struct options, control),
	  "answer control requests on this socket" },
	{ "ready-fd", 0, "N", offsetof(struct options, ready_fd),
	  "say on this descriptor, in a line of JSON, how the start went" },
	{ "trace", 0, NULL, offsetof(struct options, trace),
	  "print the life of each request, line by line" },
	{ "verbose", 'v', NULL, offsetof(struct options, verbose),
	  "more messages" },
	TD_ARGS_COMMON(struct options),
};

struct tapdisk {
	struct td_loop *loop;
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_serve *serve;
	struct td_control *control;
	struct td_watch signals;
	int ready_fd; /* -1: nobody waits for us to be ready */
	bool ending;
};

static void say_keys(const struct td_option *key)
{
	for (; key && key->name; key++)
		printf("      %-16s %s\n", key->name, key->help);
}

static void say_driver(void *arg, const struct td_driver *driver)
{
	printf("  %-10s %s\n", driver->name, driver->summary);
	say_keys(driver->options);
}

static void print_help(struct td_registry *registry)
{
	puts("Usage: tapdisk --disk SPEC [--read-only] [--nbd ADDRESS]\n\n"
	     "Serves one disk image. Options:");
	td_args_help(rows);
	puts("\nDrivers, and the keys they take:");
	td_registry_load_all(registry);
	td_registry_each(registry, say_driver, NULL);
	puts("  all");
	say_keys(td_disk_keys);
	puts("\nA comma in a target is written \\, . See tapdisk(8).");
}

/* ---- serving --------------------------------------------------------------- */

static void served(void *arg)
{
	struct tapdisk *tapdisk = arg;

	td_loop_stop(tapdisk->loop);
}

static void end(void *arg)
{
	struct tapdisk *tapdisk = arg;

	if (tapdisk->ending)
		return;
	tapdisk->ending = true;
	td_serve_end(tapdisk->serve, served, tapdisk);
}

static void signal_ready(struct td_watch *watch, uint32_t events)
{
	struct tapdisk *tapdisk = container_of(watch, struct tapdisk, signals);
	struct signalfd_siginfo info;

	if (read(watch->fd, &info, sizeof(info)) < 0)
		return;
	td_log(td_disk_name(tapdisk->disk), LOG_INFO, "ending: %s",
	       strsignal(info.ssi_signo));
	end(tapdisk);
}

/* Blocked before any thread starts, so that all threads have them blocked. */
static int signals_block(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	return sigprocmask(SIG_BLOCK, set, NULL) < 0 ? -errno : 0;
}

static int signals_watch(struct tapdisk *tapdisk, const sigset_t *set)
{
	int fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	tapdisk->signals.ready = signal_ready;
	return td_watch_start(tapdisk->loop, &tapdisk->signals, fd, EPOLLIN);
}

static int serve(struct tapdisk *tapdisk, const struct options *options,
		 struct td_why *why)
{
	struct td_disk *disk = tapdisk->disk;
	int err = td_serve_new(disk, &tapdisk->serve);

	if (!err && options->nbd)
		err = td_serve_nbd(tapdisk->serve, options->nbd, why);
	if (!err && options->control)
		err = td_control_open(tapdisk->loop, tapdisk->serve, options->control, end,
				      tapdisk, &tapdisk->control, why);
	if (err)
		return err;
	td_log(td_disk_name(disk), LOG_INFO, "%s: %llu bytes, %s, %s",
	       td_disk_spec(disk), (unsigned long long)td_disk_size(disk),
	       td_disk_read_only(disk) ? "read-only" : "writable",
	       td_disk_engine(disk));
	err = td_control_tell(take_fd(&tapdisk->ready_fd), 0, NULL);
	if (err)
		return td_fail(why, err, "whoever started it is gone: %s", strerror(-err));
	td_loop_run(tapdisk->loop);
	return 0;
}

/* It cannot serve: says why, and closes what is open already. */
static void refused(struct tapdisk *tapdisk, int err, const char *why)
{
	td_log("tapdisk", LOG_ERR, "%s", why);
	td_control_tell(take_fd(&tapdisk->ready_fd), err, why);
	if (!tapdisk->serve)
		return;
	end(tapdisk);
	td_loop_run(tapdisk->loop);
}

static int run(struct tapdisk *tapdisk, const struct options *options)
{
	struct td_disk_options how = {
		.name = options->name,
		.read_only = options->read_only || options->peek,
		.peek = options->peek,
		.engine = options->engine,
		.trace = options->trace,
	};
	struct td_why why = { "" };
	sigset_t signals;
	int err, closed;

	err = signals_block(&signals);
	if (!err)
		err = td_loop_new(&tapdisk->loop);
	if (!err)
		err = signals_watch(tapdisk, &signals);
	if (!err)
		err = td_disk_open(tapdisk->loop, tapdisk->registry, options->disk,
				   &how, &tapdisk->disk, &why);
	if (!err)
		err = serve(tapdisk, options, &why);
	if (err)
		refused(tapdisk, err, why.text[0] ? why.text : strerror(-err));
	closed = td_disk_close(tapdisk->disk);
	if (closed)
		td_log(options->disk, LOG_ERR, "last flush: %s", strerror(-closed));
	td_control_close(tapdisk->control, closed);
	td_serve_free(tapdisk->serve);
	if (tapdisk->signals.fd > 0)
		close(tapdisk->signals.fd);
	td_loop_free(tapdisk->loop);
	return err ? err : closed;
}

static int fd_parse(const char *text, int *out)
{
	char *end;
	long fd = strtol(text, &end, 10);

	if (end == text || *end || fd < 0 || fd > INT_MAX || fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	*out = fd;
	return 0;
}

static int usage(const char *text)
{
	fprintf(stderr, "tapdisk: %s (see tapdisk --help)\n", text);
	return 2;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct tapdisk tapdisk = { .ready_fd = -1 };
	struct td_why why;
	int count, err;

	td_std_open();
	if (td_args_parse(rows, &options, argv, &count, &why))
		return usage(why.text);
	if (options.common.version) {
		puts("tapdisk " BLKTAP_VERSION);
		return 0;
	}
	if (td_registry_new(options.plugins, &tapdisk.registry) ||
	    td_registry_add_all(tapdisk.registry, td_builtin_drivers, td_builtin_aliases))
		return usage("no memory");
	if (options.common.help) {
		print_help(tapdisk.registry);
		err = 0;
	} else if (count) {
		err = usage("it takes options only");
	} else if (!options.disk) {
		err = usage("--disk is missing");
	} else if (options.ready_fd && fd_parse(options.ready_fd, &tapdisk.ready_fd)) {
		err = usage("--ready-fd: no descriptor that is open");
	} else {
		td_log_level(options.verbose ? LOG_DEBUG : LOG_INFO);
		err = run(&tapdisk, &options) ? 1 : 0;
	}
	td_registry_free(tapdisk.registry);
	return err;
}
