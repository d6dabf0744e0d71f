/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One daemon per run folder: a locked file with its process number.
 */
#ifndef DAEMON_PIDFILE_H
#define DAEMON_PIDFILE_H

#include <blktap/driver.h>

/* -EEXIST: another daemon runs; *why says which. *fd holds the lock. */
int td_pidfile_lock(const char *path, int *fd, struct td_why *why);
/* After a fork, by the process that stays. */
int td_pidfile_write(int fd);
void td_pidfile_remove(const char *path, int fd);

#endif
