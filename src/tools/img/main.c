/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tap-img: makes, looks at, checks, copies and changes disk images of any format
 * that there is a driver for. It knows no format: all that it can do with one is in
 * the driver's table.
 */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "drivers/builtin.h"
#include "tools/img/img.h"

static int help(void)
{
	puts("Usage: tap-img COMMAND [OPTION]...\n"
	     "Makes, looks at, checks, copies and changes disk images.\n");
	for (const struct img_command *const *it = img_commands; *it; it++) {
		const char *about = (*it)->tool.about;

		printf("  %-10s %.*s\n", (*it)->name, (int)strcspn(about, "\n"), about);
	}
	puts("\nAn image is named with its format, -f FORMAT PATH, or as FORMAT:PATH[,key=value...]."
	     "\nFormats:");
	for (const struct td_driver *const *driver = td_builtin_drivers; *driver; driver++)
		printf("  %-10s %s\n", name_of_driver(*driver), (*driver)->summary);
	puts("\ntap-img COMMAND --help tells a command's options.");
	return TOOL_OK;
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
	command = img_command_find(argv[1]);
	if (!command && img_absent(argv[1], NULL)) {
		fprintf(stderr, "tap-img: %s is not there: %s\n", argv[1], img_absent(argv[1], NULL));
		return 1;
	}
	if (!command) {
		fprintf(stderr, "tap-img: no command %s; see tap-img --help\n", argv[1]);
		return 1;
	}
	return img_command_run(command, argv + 1, NULL);
}
