/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tap-img: makes, looks at, checks, copies and changes disk images of any format
 * that there is a driver for. It knows no format: all that it can do with one is in
 * the driver's table.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "config.h"
#include "drivers/builtin.h"
#include "tools/img/img.h"

static const struct img_command *const commands[] = {
	&img_create, &img_info,   &img_check,   &img_convert, &img_map,
	&img_measure, &img_compare, &img_resize, &img_snapshot, &img_commit,
	&img_rebase, &img_dd,     &img_bench,
};

static int help(void)
{
	puts("Usage: tap-img COMMAND [OPTION]...\n"
	     "Makes, looks at, checks, copies and changes disk images.\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const char *about = commands[i]->tool.about;

		printf("  %-10s %.*s\n", commands[i]->name, (int)strcspn(about, "\n"), about);
	}
	puts("\nAn image is named with its format, -f FORMAT PATH, or as FORMAT:PATH[,key=value...]."
	     "\nFormats:");
	for (const struct td_driver *const *driver = td_builtin_drivers; *driver; driver++)
		printf("  %-10s %s\n", name_of_driver(*driver), (*driver)->summary);
	puts("\ntap-img COMMAND --help tells a command's options.");
	return TOOL_OK;
}

static const struct img_command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static int output(struct img_options *options, const struct tool *tool)
{
	if (!options->output || !strcmp(options->output, "human"))
		return TOOL_OK;
	if (strcmp(options->output, "json")) {
		tool_say(tool, "--output: json or human");
		return tool->usage_code;
	}
	options->json = true;
	return TOOL_OK;
}

static int run_command(const struct img_command *command, char **argv)
{
	AUTO_FREE void *options = calloc(1, command->options_size);
	struct tool_run run;
	int count, code;

	if (!options)
		return TOOL_FAILED;
	count = tool_begin(&command->tool, options, argv);
	code = output(options, &command->tool);
	if (code)
		return code;
	code = tool_start(&command->tool, &run);
	if (!code)
		code = command->run(&run, options, argv + 1, count);
	tool_end(&run);
	if (fflush(stdout) && !code) {
		tool_say(&command->tool, "cannot write the answer");
		code = TOOL_FAILED;
	}
	return code;
}

int main(int argc, char **argv)
{
	const struct img_command *command;

	if (argc < 2) {
		fputs("Usage: tap-img COMMAND [OPTION]...; see tap-img --help\n", stderr);
		return 1;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return help();
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
		return printf("tap-img %s\n", BLKTAP_VERSION) < 0;
	command = find(argv[1]);
	if (!command) {
		fprintf(stderr, "tap-img: no command %s; see tap-img --help\n", argv[1]);
		return 1;
	}
	return run_command(command, argv + 1);
}
