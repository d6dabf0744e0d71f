/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that the daemon started, or found: how it ends, whatever its end.
 */
#ifndef DAEMON_PROCESS_H
#define DAEMON_PROCESS_H

#include <sys/types.h>

#include "io/loop.h"

struct td_process;

/* clean: it exited with 0, or it is none of our children and just ended. cause:
 * words such as "killed by signal 9 (Killed)". The process is freed by then. */
typedef void td_process_ended(void *arg, bool clean, const char *cause);

struct td_process_start {
	char *const *argv;  /* argv[0] is a path, or found in PATH */
	int join_fd;        /* a cgroup's list of processes to join; -1: none */
	const int *keep;    /* descriptors that it inherits beside stderr */
	unsigned keep_count;
};

int td_process_run(struct td_loop *loop, const struct td_process_start *start,
		   td_process_ended *ended, void *arg, struct td_process **out);
/* Watches a process that an earlier daemon started. -ESRCH: there is none. */
int td_process_adopt(struct td_loop *loop, pid_t pid, td_process_ended *ended, void *arg,
		     struct td_process **out);
pid_t td_process_pid(const struct td_process *process);
void td_process_kill(struct td_process *process, int signal);
/* Looks away; the process lives on. NULL is fine. */
void td_process_free(struct td_process *process);

#endif
