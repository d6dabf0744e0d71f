/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cgroup for each tapdisk, so that an administrator can limit and account for
 * one disk alone.
 */
#ifndef DAEMON_CGROUP_H
#define DAEMON_CGROUP_H

#include <blktap/driver.h>

struct td_cgroups;

/* where: "auto", "none", or the folder in which a group per disk is made. */
int td_cgroups_open(const char *where, struct td_cgroups **out, struct td_why *why);
void td_cgroups_free(struct td_cgroups *groups);

/* Makes the disk's group; *join_fd is its list of processes, or -1 where groups
 * are not made by ourselves. */
int td_cgroups_make(struct td_cgroups *groups, const char *disk, int *join_fd);
/* -EBUSY: something is still in it. */
int td_cgroups_remove(struct td_cgroups *groups, const char *disk);
/* Words to put before a command line to have it run in the disk's group, as
 * many as returned (at most 16), each to be freed. */
unsigned td_cgroups_command(struct td_cgroups *groups, const char *disk, char **words);
/* Where the disk's group is, to be freed; NULL: there are none. */
char *td_cgroups_path(const struct td_cgroups *groups, const char *disk);

#endif
