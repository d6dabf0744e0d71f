/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common face of the tools.
 */
#include "tools/tool.h"

#include <errno.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "config.h"
#include "drivers/builtin.h"
#include "io/file.h"

int tool_begin(const struct tool *tool, void *options, char **argv)
{
	const struct td_args_common *common = options;
	struct td_why why;
	int count;

	if (td_args_parse(tool->rows, options, argv, &count, &why)) {
		tool_say(tool, "%s (see %s --help)", why.text, tool->name);
		exit(TOOL_USAGE);
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
		exit(TOOL_USAGE);
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

struct td_registry *tool_registry(void)
{
	struct td_registry *registry;

	if (td_registry_new(NULL, &registry) < 0)
		return NULL;
	if (!td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases))
		return registry;
	td_registry_free(registry);
	return NULL;
}

char *tool_spec(const char *type, const char *path)
{
	char *spec = malloc(strlen(type) + 2 * strlen(path) + 2), *to;

	if (!spec)
		return NULL;
	to = spec + sprintf(spec, "%s:", type);
	for (; *path; path++) {
		if (*path == ',' || *path == '\\')
			*to++ = '\\';
		*to++ = *path;
	}
	*to = 0;
	return spec;
}

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
