/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common face of the tools: one table gives getopt its letters and --help
 * its lines.
 */
#include "tools/tool.h"

#include <getopt.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/guard.h"
#include "config.h"
#include "drivers/builtin.h"

#define OPTIONS_MAX 16

static void help(const struct tool *tool)
{
	printf("Usage: %s [OPTION]... %s\n%s\n\n", tool->name, tool->usage, tool->about);
	for (const struct tool_option *o = tool->options; o->letter; o++) {
		char left[40];

		snprintf(left, sizeof(left), "-%c, --%s%s%s", o->letter, o->name,
			 o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-24s %s\n", left, o->help);
	}
	printf("  %-24s %s\n  %-24s %s\n", "-h, --help", "this text", "    --version",
	       "the version");
}

static const struct tool_option *find(const struct tool *tool, int letter)
{
	for (const struct tool_option *o = tool->options; o->letter; o++)
		if (o->letter == letter)
			return o;
	return NULL;
}

int tool_begin(const struct tool *tool, int argc, char **argv)
{
	struct option longs[OPTIONS_MAX] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
	};
	char letters[2 * OPTIONS_MAX] = "h";
	unsigned n = 2;
	int c;

	for (const struct tool_option *o = tool->options; o->letter; o++) {
		size_t len = strlen(letters);

		longs[n++] = (struct option){ o->name, o->arg ? required_argument : no_argument,
					      NULL, o->letter };
		letters[len] = o->letter;
		if (o->arg)
			letters[len + 1] = ':';
	}
	while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		const struct tool_option *o = find(tool, c);

		if (c == 'h') {
			help(tool);
			exit(TOOL_OK);
		} else if (c == 'V') {
			printf("%s %s\n", tool->name, BLKTAP_VERSION);
			exit(TOOL_OK);
		} else if (!o) {
			exit(TOOL_USAGE); /* getopt has said why */
		} else if (o->arg) {
			*(const char **)o->to = optarg;
		} else {
			*(bool *)o->to = true;
		}
	}
	if (argc - optind < tool->min_args || argc - optind > tool->max_args) {
		fprintf(stderr, "Usage: %s [OPTION]... %s\n", tool->name, tool->usage);
		exit(TOOL_USAGE);
	}
	return optind;
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
	for (unsigned i = 0; td_builtin_drivers[i]; i++)
		td_registry_add(registry, td_builtin_drivers[i]);
	for (unsigned i = 0; td_builtin_aliases[i].alias; i++)
		td_registry_add_alias(registry, td_builtin_aliases[i].alias,
				      td_builtin_aliases[i].name);
	return registry;
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

bool tool_ask(const char *question, const char *about)
{
	char line[16];

	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return false;
	fprintf(stderr, question, about);
	fputs(" [y/N] ", stderr);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}
