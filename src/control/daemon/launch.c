/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a tapdisk is run: its command line, the pipe on which it says that it is
 * ready, the memory it shares, and the cgroup it is in before its first step.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "control/daemon/tapdisk.h"

/* RAM disks are told by an option which descriptor their memory is. */
static char *spec_to_run(const struct td_tapdisk *tap)
{
	char *spec;

	if (!tap->memory)
		return strdup(tap->spec);
	return asprintf(&spec, "%s,fd=%d", tap->spec, td_memory_fd(tap->memory)) < 0 ? NULL
										     : spec;
}

static int launch_with(struct td_tapdisk *tap, const struct td_tapdisk_want *want, int ready_fd,
		       int join_fd)
{
	AUTO_FREE char *spec = spec_to_run(tap);
	char ready_text[16], *words[40];
	int keep[2] = { ready_fd, tap->memory ? td_memory_fd(tap->memory) : -1 };
	unsigned prefix = td_cgroups_command(tap->disks->cgroups, tap->name, words), n = prefix;
	int err;

	snprintf(ready_text, sizeof(ready_text), "%d", ready_fd);
	words[n++] = tap->disks->program;
	words[n++] = (char *)"--disk";
	words[n++] = spec;
	words[n++] = (char *)"--name";
	words[n++] = tap->name;
	words[n++] = (char *)"--control";
	words[n++] = tap->socket;
	words[n++] = (char *)"--ready-fd";
	words[n++] = ready_text;
	if (want->read_only)
		words[n++] = (char *)"--read-only";
	if (want->peek)
		words[n++] = (char *)"--peek";
	if (want->nbd || want->beside) {
		words[n++] = (char *)"--nbd";
		words[n++] = want->beside ? tap->beside : (char *)want->nbd;
	}
	if (want->engine) {
		words[n++] = (char *)"--engine";
		words[n++] = (char *)want->engine;
	}
	words[n] = NULL;
	err = td_process_run(tap->disks->loop,
			     &(struct td_process_start){ .argv = words,
							 .join_fd = join_fd,
							 .keep = keep,
							 .keep_count = tap->memory ? 2 : 1 },
			     td_tapdisk_ended, tap, &tap->process);
	while (prefix)
		free(words[--prefix]);
	return err;
}

int td_tapdisk_launch(struct td_tapdisk *tap, const struct td_tapdisk_want *want,
		      struct td_why *why)
{
	AUTO_CLOSE int join_fd = -1;
	AUTO_CLOSE int ready_fd = -1;
	int ends[2], err;

	err = td_cgroups_make(tap->disks->cgroups, tap->name, &join_fd);
	if (err)
		td_log(tap->name, LOG_WARNING, "no cgroup of its own: %s", strerror(-err));
	if (pipe2(ends, O_CLOEXEC) < 0) {
		err = -errno;
		goto failed;
	}
	ready_fd = ends[1];
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	err = td_watch_start(tap->disks->loop, &tap->ready, ends[0], EPOLLIN);
	if (err) {
		close(ends[0]);
		tap->ready.fd = -1;
		goto failed;
	}
	err = launch_with(tap, want, ready_fd, join_fd);
	if (!err) {
		td_timer_arm(tap->disks->loop, &tap->patience, tap->disks->start_limit_s * 1000);
		return 0;
	}
failed:
	td_cgroups_remove(tap->disks->cgroups, tap->name);
	return td_fail(why, err, "%s: %s", tap->disks->program, strerror(-err));
}
