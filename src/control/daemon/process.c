/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes by descriptor (pidfd): it becomes readable when the process has
 * ended, is never mistaken for another one that got the same number, and works
 * for the daemon's own children and for those of an earlier daemon alike. Only
 * our own tell their status.
 */
#include "control/daemon/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/num.h"

struct td_process {
	struct td_loop *loop;
	struct td_watch watch; /* its pidfd */
	pid_t pid;
	bool child;
	td_process_ended *ended;
	void *arg;
};

void td_process_free(struct td_process *process)
{
	if (!process)
		return;
	td_watch_stop(process->loop, &process->watch);
	close(process->watch.fd);
	free(process);
}

/* Reaps it; returns whether it ended well. */
static bool child_cause(struct td_process *process, char *cause, size_t size)
{
	siginfo_t info = { 0 };

	if (waitid(P_PIDFD, process->watch.fd, &info, WEXITED) < 0) {
		snprintf(cause, size, "ended, status unknown: %s", strerror(errno));
		return false;
	}
	if (info.si_code == CLD_EXITED)
		snprintf(cause, size, "exited with status %d", info.si_status);
	else
		snprintf(cause, size, "killed by signal %d (%s)", info.si_status,
			 strsignal(info.si_status));
	return info.si_code == CLD_EXITED && !info.si_status;
}

static void process_ready(struct td_watch *watch, uint32_t events)
{
	struct td_process *process = container_of(watch, struct td_process, watch);
	td_process_ended *ended = process->ended;
	void *arg = process->arg;
	char cause[100] = "ended (started by an earlier daemon: status unknown)";
	bool clean = true;

	if (process->child)
		clean = child_cause(process, cause, sizeof(cause));
	td_process_free(process);
	ended(arg, clean, cause);
}

static int process_watch(struct td_loop *loop, pid_t pid, bool child, td_process_ended *ended,
			 void *arg, struct td_process **out)
{
	struct td_process *process = calloc(1, sizeof(*process));
	int fd = pidfd_open(pid, 0), err;

	if (!process || fd < 0) {
		err = process ? -errno : -ENOMEM;
		goto failed;
	}
	*process = (struct td_process){ .loop = loop, .pid = pid, .child = child,
					.ended = ended, .arg = arg };
	process->watch.ready = process_ready;
	err = td_watch_start(loop, &process->watch, fd, EPOLLIN);
	if (err)
		goto failed;
	*out = process;
	return 0;
failed:
	if (fd >= 0)
		close(fd);
	free(process);
	return err;
}

int td_process_adopt(struct td_loop *loop, pid_t pid, td_process_ended *ended, void *arg,
		     struct td_process **out)
{
	return process_watch(loop, pid, false, ended, arg, out);
}

/* Between fork and exec: system calls only. */
static void child_exec(const struct td_process_start *start)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid(); /* a ^C for the daemon is none for the disks */
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
	}
	/* what the daemon itself was started with is none of a disk's business */
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	for (unsigned i = 0; i < start->keep_count; i++)
		fcntl(start->keep[i], F_SETFD, 0);
	/* a disk without a cgroup serves better than no disk */
	if (start->join_fd >= 0 && write(start->join_fd, "0", 1) < 0)
		dprintf(2, "<4>%s: cannot join its cgroup\n", start->argv[0]);
	execvp(start->argv[0], start->argv);
	dprintf(2, "<3>%s: cannot be run: errno %d\n", start->argv[0], errno);
	_exit(127);
}

int td_process_run(struct td_loop *loop, const struct td_process_start *start,
		   td_process_ended *ended, void *arg, struct td_process **out)
{
	pid_t pid = fork();
	int err;

	if (pid < 0)
		return -errno;
	if (!pid)
		child_exec(start);
	err = process_watch(loop, pid, true, ended, arg, out);
	if (err) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return err;
}

pid_t td_process_pid(const struct td_process *process)
{
	return process->pid;
}

void td_process_kill(struct td_process *process, int signal)
{
	pidfd_send_signal(process->watch.fd, signal, NULL, 0);
}
