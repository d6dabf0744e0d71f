/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passphrases asked for on the terminal, without echo. A run asks once for each image.
 */
#ifndef TOOLS_KEY_H
#define TOOLS_KEY_H

#include "tools/tool.h"

/* td_disk_options.ask_key, with the run as its argument. */
int key_ask(void *run, const char *image, const struct td_key **out);
/* For a new image: twice, and both must be the same. */
int key_ask_new(struct tool_run *run, const char *image, const struct td_key **out);
void keys_forget(struct tool_run *run);

#endif
