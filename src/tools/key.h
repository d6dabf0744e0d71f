/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys that a run has: those asked for on the terminal, without echo, once for each image;
 * and those read from files and pipes, once too, since a pipe is empty then and a command
 * may open its images several times.
 */
#ifndef TOOLS_KEY_H
#define TOOLS_KEY_H

#include "tools/tool.h"

/* td_disk_options.ask_key, with the run as its argument. */
int key_ask(void *run, const char *image, const struct td_key **out);
/* td_disk_options.read_key, likewise. */
int key_read(void *run, const char *how, const char *where, struct td_key **list,
	     struct td_why *why);
/* For a new image: twice, and both must be the same. */
int key_ask_new(struct tool_run *run, const char *image, const struct td_key **out);
void keys_forget(struct tool_run *run);

#endif
