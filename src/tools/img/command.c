/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of tap-img by name, and running one: its command line, the drivers,
 * the command, its exit code. The program does nothing else; a test that calls this
 * sees what a command does to files.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "tools/img/img.h"

const struct img_command *const img_commands[] = {
	&img_create, &img_info,   &img_check,   &img_convert, &img_map,
	&img_measure, &img_compare, &img_resize, &img_snapshot, &img_commit,
	&img_rebase, &img_dd,     &img_bench,   NULL,
};

const struct img_command *img_command_find(const char *name)
{
	for (const struct img_command *const *it = img_commands; *it; it++)
		if (!strcmp((*it)->name, name))
			return *it;
	return NULL;
}

static bool is_cache_mode(const char *word)
{
	static const char *const modes[] = {
		"none", "directsync", "writethrough", "writeback", "unsafe",
	};

	for (unsigned i = 0; word && i < ARRAY_SIZE(modes); i++)
		if (!strcmp(word, modes[i]))
			return true;
	return !word;
}

static int common_words(struct img_options *options, const struct tool *tool)
{
	if (!is_cache_mode(options->cache) || !is_cache_mode(options->source_cache)) {
		tool_say(tool, "%s: none, directsync, writethrough, writeback or unsafe",
			 is_cache_mode(options->cache) ? "-T" : "-t");
		return tool->usage_code;
	}
	if (!options->output || !strcmp(options->output, "human"))
		return TOOL_OK;
	if (strcmp(options->output, "json")) {
		tool_say(tool, "--output: json or human");
		return tool->usage_code;
	}
	options->json = true;
	return TOOL_OK;
}

/* Words that are options of others, and none of ours. */
static int refuse_absent(const struct img_command *command, char **argv)
{
	for (char **word = argv + 1; *word && strcmp(*word, "--"); word++) {
		const char *why = **word == '-' && !td_args_has(command->tool.rows, *word) ?
				  img_absent(command->name, *word) : NULL;

		if (!why)
			continue;
		tool_say(&command->tool, "%s is not there: %s", *word, why);
		return command->tool.usage_code;
	}
	return TOOL_OK;
}

int img_command_run(const struct img_command *command, char **argv,
		    struct td_file_hook *hook)
{
	AUTO_FREE struct img_options *options = calloc(1, command->options_size);
	struct tool_run run;
	int count, code;

	if (!options)
		return TOOL_FAILED;
	code = refuse_absent(command, argv);
	if (code)
		return code;
	count = tool_begin(&command->tool, options, argv);
	code = common_words(options, &command->tool);
	if (code)
		return code;
	code = tool_start(&command->tool, options->plugins, &run);
	run.hook = hook;
	if (!code)
		code = command->run(&run, options, argv + 1, count);
	tool_end(&run);
	if (fflush(stdout) && !code) {
		tool_say(&command->tool, "cannot write the answer");
		code = TOOL_FAILED;
	}
	return code;
}
