/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common face of the tools.
 */
#include "tools/tool.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/guard.h"
#include "config.h"
#include "core/spec.h"
#include "drivers/builtin.h"
#include "io/file.h"
#include "io/loop.h"
#include "tools/key.h"

int tool_begin(const struct tool *tool, void *options, char **argv)
{
	const struct td_args_common *common = options;
	struct td_why why;
	int count;

	if (td_args_parse(tool->rows, options, argv, &count, &why)) {
		tool_say(tool, "%s (see %s --help)", why.text, tool->name);
		exit(tool->usage_code ? tool->usage_code : TOOL_USAGE);
	}
	if (common->help) {
		printf("Usage: %s [OPTION]... %s\n%s\n\n", tool->name, tool->usage,
		       tool->about);
		td_args_help(tool->rows);
		exit(TOOL_OK);
	}
	if (common->version) {
		printf("%s %s\n", tool->name, BLKTAP_VERSION);
		exit(TOOL_OK);
	}
	if (count < tool->min_words || count > tool->max_words) {
		fprintf(stderr, "Usage: %s [OPTION]... %s\n", tool->name, tool->usage);
		exit(tool->usage_code ? tool->usage_code : TOOL_USAGE);
	}
	return count;
}

void tool_say(const struct tool *tool, const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", tool->name);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

/* ---- a run ----------------------------------------------------------------- */

volatile int tool_stopped;
static const char *volatile unfinished;
static volatile time_t stopped_at;

void tool_part(const char *path)
{
	unfinished = path;
}

/* Ended at once is as killed: images are made for that. */
static void on_signal(int number)
{
	const char *path = unfinished;
	time_t now = time(NULL);

	if (tool_stopped && now > stopped_at + 1) {
		if (path)
			unlink(path);
		_exit(128 + number);
	}
	if (tool_stopped)
		return;
	stopped_at = now;
	tool_stopped = number;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int tool_start(const struct tool *tool, const char *plugins, struct tool_run *run)
{
	int err;

	*run = (struct tool_run){ .tool = tool };
	catch_signals();
	err = td_registry_new(plugins, &run->registry);
	if (!err)
		err = td_registry_add_all(run->registry, td_builtin_drivers, td_builtin_aliases);
	if (!err)
		err = td_loop_new(&run->loop);
	if (err)
		tool_say(tool, "cannot start: %s", strerror(-err));
	return err ? TOOL_FAILED : TOOL_OK;
}

void tool_end(struct tool_run *run)
{
	if (run->loop)
		td_loop_free(run->loop);
	td_registry_free(run->registry);
	keys_forget(run);
}

int tool_main(const struct tool *tool, void *options, char **argv,
	      int (*work)(struct tool_run *run, const void *options, char **words))
{
	struct tool_run run;
	int code;

	tool_begin(tool, options, argv);
	code = tool_start(tool, NULL, &run);
	if (!code)
		code = work(&run, options, argv + 1);
	tool_end(&run);
	return code;
}

int tool_size(const struct tool *tool, const char *text, uint64_t unit, uint64_t *out)
{
	if (!td_size_parse(text, unit, out))
		return TOOL_OK;
	tool_say(tool, "%s: no size (a number, or one with K, M, G or T)", text);
	return tool->usage_code ? tool->usage_code : TOOL_USAGE;
}

/* ---- files ----------------------------------------------------------------- */

char *tool_temp_name(const char *path)
{
	AUTO_FREE char *for_dir = strdup(path);
	AUTO_FREE char *for_base = strdup(path);
	char *name;

	if (!for_dir || !for_base ||
	    asprintf(&name, "%s/.%s.%ld.part", dirname(for_dir), basename(for_base),
		     (long)getpid()) < 0)
		return NULL;
	return name;
}

/* The process that a part's name tells of; 0: it is no part of that file. */
static long part_owner(const char *name, const char *base)
{
	size_t len = strlen(base);
	char *end;
	long pid;

	if (name[0] != '.' || strncmp(name + 1, base, len) || name[len + 1] != '.')
		return 0;
	pid = strtol(name + len + 2, &end, 10);
	return pid > 0 && !strcmp(end, ".part") ? pid : 0;
}

/* Nobody writes it: its process is gone, and nobody has locked it (a process of another
 * host or container may have). */
static bool part_left(const char *path, long pid)
{
	struct td_files files = { .buffered = true };
	struct td_file *file;

	if (!kill(pid, 0) || errno != ESRCH || td_file_open(&files, path, TD_FILE_WRITE, &file, NULL))
		return false;
	td_file_close(file);
	return true;
}

void tool_temp_sweep(const char *path)
{
	AUTO_FREE char *for_dir = strdup(path);
	AUTO_FREE char *for_base = strdup(path);
	const char *dir = for_dir ? dirname(for_dir) : NULL;
	const char *base = for_base ? basename(for_base) : NULL;
	DIR *entries = dir && base ? opendir(dir) : NULL;
	struct dirent *entry;

	while (entries && (entry = readdir(entries))) {
		long pid = part_owner(entry->d_name, base);
		AUTO_FREE char *part = NULL;

		if (!pid || asprintf(&part, "%s/%s", dir, entry->d_name) < 0)
			part = NULL;
		else if (part_left(part, pid))
			unlink(part);
	}
	if (entries)
		closedir(entries);
}

bool tool_in_use(const struct tool *tool, const char *path)
{
	struct td_files files = { .buffered = true };
	struct td_file *file;
	struct td_why why;
	int err = td_file_open(&files, path, TD_FILE_WRITE, &file, &why);

	if (!err)
		td_file_close(file);
	else if (err == -EBUSY)
		tool_say(tool, "%s", why.text);
	return err == -EBUSY;
}

bool tool_ask(const char *question, const char *about)
{
	char line[16];

	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return false;
	fprintf(stderr, question, about);
	fputs(" [y/N] ", stderr);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}
