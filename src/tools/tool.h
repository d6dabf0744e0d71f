/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every tool needs: a command line, the drivers, names of disks, and files
 * that appear whole or not at all.
 */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

#include <blktap/driver.h>

#include "base/args.h"
#include "core/registry.h"

struct td_file_hook;
struct td_loop;

enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

struct tool {
	const char *name;
	const char *usage;  /* what follows the options */
	const char *about;  /* lines for --help */
	const struct td_arg *rows;
	int min_words, max_words;
	int usage_code;     /* of a wrong command line; 0: TOOL_USAGE */
};

/* Sets *options, of which td_args_common is the first member; returns how many words
 * are left, in argv[1..]. Ends the program after --help and --version (0), and on
 * errors (TOOL_USAGE). */
int tool_begin(const struct tool *tool, void *options, char **argv);

/* One line on stderr, led by the tool's name. */
void tool_say(const struct tool *tool, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* What a run works with. */
struct tool_run {
	const struct tool *tool;
	struct td_registry *registry; /* the built-in drivers, and plug-ins */
	struct td_loop *loop;
	struct td_file_hook *hook;    /* sees what is done to files of disks; NULL: none */
	struct tool_asked *asked;     /* passphrases: see key.h */
};
/* An exit code; it has been said. plugins: their folder; NULL: the installed one. From
 * here on signals that end a program are only noted: tool_stopped is their number. One that
 * comes a second later ends it at once: what it waits for may take long, or never come. */
int tool_start(const struct tool *tool, const char *plugins, struct tool_run *run);
void tool_end(struct tool_run *run); /* of a run that did not start, too */
extern volatile int tool_stopped;
/* The file that is to be removed then; NULL: none. It stays the caller's. */
void tool_part(const char *path);

/* All of it, for a tool of one command. */
int tool_main(const struct tool *tool, void *options, char **argv,
	      int (*work)(struct tool_run *run, const void *options, char **words));

/* A count of bytes, of unit where the text has no suffix; said if it is none. */
int tool_size(const struct tool *tool, const char *text, uint64_t unit, uint64_t *out);

/* A name in the folder of path, for a file that is to become path; free() it. */
char *tool_temp_name(const char *path);

/* Removes such files of the same name that killed processes have left. */
void tool_temp_sweep(const char *path);

/* Whether somebody uses the file: then a new one must not take its name. It has
 * been said. */
bool tool_in_use(const struct tool *tool, const char *path);

/* Asks on the terminal; false without one. */
bool tool_ask(const char *question, const char *about);

#endif
