/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * blktapctrl: starts a tapdisk for each disk, watches over it, and answers
 * tap-ctl. It may end, die or be replaced at any time: the disks go on.
 *
 *   alone? -> socket -> adopt running tapdisks -> xenstore -> ready -> loop
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/args.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "base/std.h"
#include "config.h"
#include "control/daemon/disks.h"
#include "control/daemon/methods.h"
#include "control/daemon/notify.h"
#include "control/daemon/pidfile.h"
#ifdef HAVE_XEN
#include "control/daemon/xenbus.h"
#endif

enum { EXIT_USAGE = 2, EXIT_RUNNING = 3 };

#define XEN_AGAIN_MS 1000
/* An image that was not closed in order is gone through when it is opened: 16 TiB of qcow2
 * has 2 GiB of tables. Ten minutes are enough for a slow store, and not for ever. */
#define START_LIMIT "600"

struct options {
	struct td_args_common common;
	const char *run_dir, *tapdisk, *cgroup, *log, *start_limit;
	bool foreground, verbose, no_xen;
};

static const struct td_arg option_rows[] = {
	{ "foreground", 'f', NULL, offsetof(struct options, foreground),
	  "stay in the foreground, log to stderr" },
	{ "run-dir", 0, "DIR", offsetof(struct options, run_dir),
	  "sockets and pid file (" BLKTAP_RUN_DIR ")" },
	{ "tapdisk", 0, "FILE", offsetof(struct options, tapdisk),
	  "the program to start (" BLKTAP_BINDIR "/tapdisk)" },
	{ "cgroup", 0, "WHERE", offsetof(struct options, cgroup),
	  "cgroups of disks: auto, none, or the folder to make them in (auto)" },
	{ "start-limit", 0, "SECONDS", offsetof(struct options, start_limit),
	  "a tapdisk that opens its images for longer is killed (" START_LIMIT ")" },
	{ "log", 0, "FILE", offsetof(struct options, log),
	  "log of a daemon in the background (/var/log/blktapctrl.log)" },
	{ "no-xen", 0, NULL, offsetof(struct options, no_xen), "leave xenstore alone" },
	{ "verbose", 'v', NULL, offsetof(struct options, verbose), "log debug messages too" },
	TD_ARGS_COMMON(struct options),
};

struct daemon {
	struct options options;
	struct td_loop *loop;
	struct td_watch signals;
	struct td_rpc_server *server;
	struct td_disks *disks;
	struct td_methods methods;
	struct td_xenbus *xenbus;
	struct td_why no_xen; /* why there is no xenbus */
	struct td_timer xen_again;
	char *pid_path, *socket_path;
	char *path[4]; /* options made absolute */
	int pid_fd;
	int waiting; /* the pipe to the process that was started, which ends when
	                we are ready; -1 in the foreground */
	int terminal; /* where a start that fails says so: stderr, till it is the log */
};

/* ---- going to the background ---------------------------------------------------- */

/* It will have another folder. */
static int path_absolute(const char **path, char **copy, struct td_why *why)
{
	AUTO_FREE char *here = NULL;

	if (**path == '/')
		return 0;
	here = getcwd(NULL, 0);
	if (!here || asprintf(copy, "%s/%s", here, *path) < 0)
		return td_fail(why, -errno, "%s: which folder is this? %s", *path,
			       strerror(errno));
	*path = *copy;
	return 0;
}

static int paths_absolute(struct daemon *daemon, struct td_why *why)
{
	struct options *options = &daemon->options;
	int err = path_absolute(&options->run_dir, &daemon->path[0], why);

	if (!err)
		err = path_absolute(&options->log, &daemon->path[1], why);
	if (!err && strchr(options->tapdisk, '/')) /* else it is found in PATH */
		err = path_absolute(&options->tapdisk, &daemon->path[2], why);
	if (!err && strchr(options->cgroup, '/'))
		err = path_absolute(&options->cgroup, &daemon->path[3], why);
	return err;
}

static void close_terminal(struct daemon *daemon)
{
	int log = open(daemon->options.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (log < 0)
		td_log(NULL, LOG_WARNING, "%s: %s: nothing will be logged", daemon->options.log,
		       strerror(errno));
	daemon->terminal = fcntl(2, F_DUPFD_CLOEXEC, 3);
	dup2(null, 0);
	dup2(null, 1);
	dup2(log >= 0 ? log : null, 2);
	close(null);
	if (log >= 0)
		close(log);
}

/* The first process stays until the daemon is ready, and ends as that says. */
static void leave_foreground(struct daemon *daemon)
{
	int ends[2];
	char ready = 0;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	pid = fork();
	if (pid > 0) {
		close(ends[1]);
		exit(read(ends[0], &ready, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	close(ends[0]);
	daemon->waiting = ends[1];
	setsid();
	close_terminal(daemon);
	if (chdir("/") < 0) /* it holds no file system up that somebody wants to unmount */
		td_log(NULL, LOG_WARNING, "/: %s", strerror(errno));
}

/* ---- signals ------------------------------------------------------------------------ */

static void signal_arrived(struct td_watch *watch, uint32_t events)
{
	struct daemon *daemon = container_of(watch, struct daemon, signals);
	struct signalfd_siginfo info;

	if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
		return;
	td_log(NULL, LOG_INFO, "ends by signal %u; the disks go on", info.ssi_signo);
	td_loop_stop(daemon->loop);
}

static int signals_open(struct daemon *daemon)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	daemon->signals.ready = signal_arrived;
	return td_watch_start(daemon->loop, &daemon->signals, fd, EPOLLIN);
}

/* ---- without Xen ----------------------------------------------------------------------- */

static void no_xen(void *arg, struct td_rpc_call *call, json_t *params)
{
	td_rpc_refuse(call, -EOPNOTSUPP,
		      "this blktapctrl serves no Xen guests: %s", (const char *)arg);
}

static const struct td_rpc_row no_xen_rows[] = {
	{ "xen-attach", no_xen },
	{ "xen-detach", no_xen },
	{ NULL, NULL },
};

static int xen_open(struct daemon *daemon, struct td_why *why)
{
	if (daemon->options.no_xen)
		return td_fail(why, -EOPNOTSUPP, "it was started with --no-xen");
#ifdef HAVE_XEN
	return td_xenbus_open(daemon->disks, daemon->server, NULL, &daemon->xenbus, why);
#else
	return td_fail(why, -EOPNOTSUPP, "it was built without the Xen libraries");
#endif
}

static bool xen_may_come(struct daemon *daemon)
{
#ifdef HAVE_XEN
	return !daemon->options.no_xen && td_xenbus_expected();
#else
	return false;
#endif
}

/* A Xen host's store may start after us. */
static void xen_try_again(struct td_timer *timer)
{
	struct daemon *daemon = container_of(timer, struct daemon, xen_again);

	if (xen_open(daemon, &daemon->no_xen))
		td_timer_arm(daemon->loop, &daemon->xen_again, XEN_AGAIN_MS);
	else
		td_log(NULL, LOG_NOTICE, "xenstore is there: Xen guests are served");
}

static void xen_up(struct daemon *daemon)
{
	if (!xen_open(daemon, &daemon->no_xen))
		return;
	td_rpc_serve(daemon->server, no_xen_rows, daemon->no_xen.text);
	if (daemon->options.no_xen)
		return;
	td_log(NULL, LOG_NOTICE, "no Xen guests%s: %s", xen_may_come(daemon) ? " yet" : "",
	       daemon->no_xen.text);
	if (xen_may_come(daemon)) {
		daemon->xen_again.fired = xen_try_again;
		td_timer_arm(daemon->loop, &daemon->xen_again, XEN_AGAIN_MS);
	}
}

/* ---- up and down ---------------------------------------------------------------------- */

static void ready(void *arg)
{
	struct daemon *daemon = arg;

	xen_up(daemon);
	td_methods_serve(&daemon->methods, daemon->server);
	td_log(NULL, LOG_INFO, "ready: %s", daemon->socket_path);
	td_notify("READY=1");
	if (daemon->waiting >= 0) {
		close(take_fd(&daemon->terminal));
		if (write(daemon->waiting, "r", 1) != 1)
			td_log(NULL, LOG_WARNING, "nobody waits for us any more");
		close(daemon->waiting);
		daemon->waiting = -1;
	}
}

static int alone(struct daemon *daemon, struct td_why *why)
{
	const char *dir = daemon->options.run_dir;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return td_fail(why, -errno, "%s: %s", dir, strerror(errno));
	if (asprintf(&daemon->pid_path, "%s/blktapctrl.pid", dir) < 0 ||
	    asprintf(&daemon->socket_path, "%s/control", dir) < 0)
		return td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	return td_pidfile_lock(daemon->pid_path, &daemon->pid_fd, why);
}

static int daemon_up(struct daemon *daemon, struct td_why *why)
{
	struct td_disks_options options = {
		.run_dir = daemon->options.run_dir,
		.tapdisk = daemon->options.tapdisk,
		.cgroup = daemon->options.cgroup,
	};
	int err = td_pidfile_write(daemon->pid_fd);

	options.start_limit_s = atoi(daemon->options.start_limit);
	if (err)
		return td_fail(why, err, "%s: cannot be written", daemon->pid_path);
	err = td_loop_new(&daemon->loop);
	if (!err)
		err = signals_open(daemon);
	if (err)
		return td_fail(why, err, "event loop: %s", strerror(-err));
	err = td_disks_new(daemon->loop, &options, &daemon->disks, why);
	if (!err)
		err = td_rpc_listen(daemon->loop, daemon->socket_path, &daemon->server, why);
	if (err)
		return err;
	daemon->methods = (struct td_methods){ .disks = daemon->disks, .loop = daemon->loop };
	td_disks_adopt(daemon->disks, ready, daemon);
	return 0;
}

static void daemon_down(struct daemon *daemon)
{
	td_notify("STOPPING=1");
	td_timer_cancel(&daemon->xen_again);
#ifdef HAVE_XEN
	if (daemon->xenbus)
		td_xenbus_close(daemon->xenbus);
#endif
	td_rpc_close(daemon->server);
	td_disks_free(daemon->disks);
	if (daemon->signals.fd >= 0) {
		td_watch_stop(daemon->loop, &daemon->signals);
		close(daemon->signals.fd);
	}
	td_loop_free(daemon->loop);
	if (daemon->pid_fd >= 0) {
		td_pidfile_remove(daemon->pid_path, daemon->pid_fd);
		rmdir(daemon->options.run_dir); /* fails while disks have sockets there */
	}
	for (unsigned i = 0; i < ARRAY_SIZE(daemon->path); i++)
		free(daemon->path[i]);
	free(daemon->pid_path);
	free(daemon->socket_path);
}

static int run(struct daemon *daemon)
{
	struct td_why why;
	int err = daemon->options.foreground ? 0 : paths_absolute(daemon, &why);

	if (!err)
		err = alone(daemon, &why);
	if (!err && !daemon->options.foreground)
		leave_foreground(daemon);
	if (!err)
		err = daemon_up(daemon, &why);
	if (err)
		dprintf(daemon->terminal >= 0 ? daemon->terminal : 2, "blktapctrl: %s\n", why.text);
	else
		td_loop_run(daemon->loop);
	daemon_down(daemon);
	return err == -EEXIST ? EXIT_RUNNING : err ? EXIT_FAILURE : EXIT_SUCCESS;
}

static bool start_limit_wrong(const char *text)
{
	char *end;
	unsigned long seconds = strtoul(text, &end, 10);

	return *text < '0' || *text > '9' || *end || !seconds || seconds > 24 * 60 * 60;
}

/* A disk takes a handful of descriptors, and the usual limit is some thousand. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	struct daemon daemon = {
		.options = { .run_dir = BLKTAP_RUN_DIR,
			     .tapdisk = BLKTAP_BINDIR "/tapdisk",
			     .cgroup = "auto",
			     .start_limit = START_LIMIT,
			     .log = "/var/log/blktapctrl.log" },
		.signals.fd = -1,
		.pid_fd = -1,
		.waiting = -1,
		.terminal = -1,
	};
	struct td_why why;
	int extra = 0;

	td_std_open();
	if (td_args_parse(option_rows, &daemon.options, argv, &extra, &why) || extra) {
		fprintf(stderr, "blktapctrl: %s%s\n", extra ? "unexpected argument " : why.text,
			extra ? argv[1] : "");
		return EXIT_USAGE;
	}
	if (daemon.options.common.help) {
		printf("Usage: blktapctrl [option]...\n"
		       "Serves disks to virtual machines, one tapdisk process each.\n\n");
		td_args_help(option_rows);
		return EXIT_SUCCESS;
	}
	if (daemon.options.common.version) {
		puts("blktapctrl " BLKTAP_VERSION);
		return EXIT_SUCCESS;
	}
	if (start_limit_wrong(daemon.options.start_limit)) {
		fprintf(stderr, "blktapctrl: --start-limit: a number of seconds, 1 to 86400\n");
		return EXIT_USAGE;
	}
	if (daemon.options.verbose)
		td_log_level(LOG_DEBUG);
	allow_descriptors();
	return run(&daemon);
}
