/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tap-ctl: asks blktapctrl, and prints the answer: as a table for people, or
 * with --json as it came. One row of commands[] per command; the parser, --help
 * and the dispatch read the same rows.
 */
#include <blktap/client.h>

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/guard.h"
#include "base/num.h"
#include "config.h"
#include "tools/spec_here.h"
#include "tools/tap_ctl_ram.h"

/* What scripts can rely on; see tap-ctl(8). */
enum {
	EXIT_REFUSED = 1,   /* the daemon says why */
	EXIT_USAGE = 2,
	EXIT_NO_DAEMON = 3,
	EXIT_NO_DISK = 4,   /* no disk, or RAM disk, of that name */
};

#define ANSWER_SECONDS 120 /* unless --timeout says otherwise */

struct options {
	struct td_args_common common;
	const char *socket, *timeout, *name, *nbd, *engine;
	bool json, read_only, force, all;
};

#define OPTION(field) offsetof(struct options, field)
#define COMMON \
	{ "json", 'j', NULL, OPTION(json), "print the answer as JSON" }, \
	{ "socket", 's', "PATH", OPTION(socket), "of the daemon (" TD_CLIENT_SOCKET ")" }, \
	{ "timeout", 't', "SECONDS", OPTION(timeout), "how long to wait for the answer (120)" }, \
	TD_ARGS_COMMON(struct options)

static const struct td_arg common_rows[] = {
	COMMON,
};

#define ATTACH \
	{ "read-only", 'r', NULL, OPTION(read_only), "nothing may be written" }, \
	{ "name", 'n', "NAME", OPTION(name), "of the disk (d1, d2 ...)" }, \
	{ "nbd", 0, "ADDRESS", OPTION(nbd), "serve it there: unix:PATH or tcp:HOST:PORT" }, \
	{ "engine", 0, "NAME", OPTION(engine), "io_uring or libaio (the best there is)" }
#define DETACH \
	{ "force", 'f', NULL, OPTION(force), "kill its tapdisk; also while a guest uses it" }
#define RAM \
	{ "force", 'f', NULL, OPTION(force), "replace the image; load below guests that use it" }
#define STOP \
	{ "all", 'a', NULL, OPTION(all), "detach every disk first" }

static const struct td_arg attach_rows[] = {
	ATTACH,
	COMMON,
};

static const struct td_arg detach_rows[] = {
	DETACH,
	COMMON,
};

static const struct td_arg ram_rows[] = {
	RAM,
	COMMON,
};

static const struct td_arg stop_rows[] = {
	STOP,
	COMMON,
};

/* ---- tables for people --------------------------------------------------------------- */

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

static const char *size_text(json_int_t bytes, char *text, size_t size)
{
	static const char unit[] = "BKMGTP";
	double n = bytes;
	unsigned i = 0;

	for (; n >= 1024 && unit[i + 1]; i++)
		n /= 1024;
	snprintf(text, size, n == (json_int_t)n || !i ? "%.0f%c" : "%.1f%c", n, unit[i]);
	return text;
}

static void print_disk_row(json_t *disk)
{
	json_int_t pid = json_integer_value(json_object_get(disk, "pid"));
	json_t *pid_json = json_object_get(disk, "pid");
	char size[32], pid_text[24] = "-";

	if (json_is_integer(pid_json))
		snprintf(pid_text, sizeof(pid_text), "%lld", (long long)pid);
	printf("%-16s %-9s %7s %7s %-3s %-12s %s\n", text_of(disk, "name"),
	       text_of(disk, "state"), pid_text,
	       size_text(json_integer_value(json_object_get(disk, "size")), size, sizeof(size)),
	       json_is_true(json_object_get(disk, "read_only")) ? "ro" : "rw",
	       text_of(disk, "user"), text_of(disk, "spec"));
}

static void print_list(json_t *answer)
{
	json_t *disks = json_object_get(answer, "disks"), *disk;
	size_t i;

	printf("%-16s %-9s %7s %7s %-3s %-12s %s\n", "NAME", "STATE", "PID", "SIZE", "RW", "USER",
	       "DISK");
	json_array_foreach(disks, i, disk)
		print_disk_row(disk);
}

/* "key  value" lines; what is nested follows, indented. */
static void print_value(const char *key, json_t *value, int indent)
{
	const char *inner_key;
	json_t *inner;
	size_t i;

	if (json_is_object(value)) {
		printf("%*s%s\n", indent, "", key);
		json_object_foreach(value, inner_key, inner)
			print_value(inner_key, inner, indent + 2);
	} else if (json_is_array(value)) {
		json_array_foreach(value, i, inner)
			print_value(key, inner, indent);
	} else if (!json_is_null(value)) {
		AUTO_FREE char *text = json_dumps(value, JSON_ENCODE_ANY);

		printf("%*s%-*s %s\n", indent, "", 14 - indent, key,
		       json_is_string(value) ? json_string_value(value) : text);
	}
}

static void print_info(json_t *answer)
{
	const char *key;
	json_t *value;

	json_object_foreach(answer, key, value)
		print_value(key, value, 0);
}

static void print_stats(json_t *answer)
{
	const char *key;
	json_t *op;

	printf("%-14s %12s %16s %8s\n", "", "REQUESTS", "BYTES", "ERRORS");
	json_object_foreach(answer, key, op)
		if (json_object_get(op, "bytes"))
			printf("%-14s %12lld %16lld %8lld\n", key,
			       (long long)json_integer_value(json_object_get(op, "requests")),
			       (long long)json_integer_value(json_object_get(op, "bytes")),
			       (long long)json_integer_value(json_object_get(op, "errors")));
	json_object_foreach(answer, key, op)
		if (!json_object_get(op, "bytes"))
			print_value(key, op, 0);
}

static void print_ram_row(json_t *ram)
{
	json_t *disks = json_object_get(ram, "disks"), *disk;
	char size[32], used[32], page[32];
	size_t i;

	printf("%-16s %7s %7s %5s ", text_of(ram, "name"),
	       size_text(json_integer_value(json_object_get(ram, "size")), size, sizeof(size)),
	       size_text(json_integer_value(json_object_get(ram, "used")), used, sizeof(used)),
	       size_text(json_integer_value(json_object_get(ram, "huge_page")), page,
			 sizeof(page)));
	json_array_foreach(disks, i, disk)
		printf("%s%s", i ? "," : "", text_of(disk, "name"));
	putchar('\n');
}

static void print_ram_list(json_t *answer)
{
	json_t *ram;
	size_t i;

	printf("%-16s %7s %7s %5s %s\n", "NAME", "SIZE", "USED", "HUGE", "DISKS");
	json_array_foreach(json_object_get(answer, "ram"), i, ram)
		print_ram_row(ram);
}

static void print_name(json_t *answer)
{
	puts(text_of(answer, "name"));
}

static void print_connected(json_t *answer)
{
	print_name(answer);
	if (json_is_false(json_object_get(answer, "connected")))
		fprintf(stderr, "tap-ctl: not connected yet: the guest has not taken it so far\n");
}

static void print_nothing(json_t *answer)
{
}

/* ---- parameters ------------------------------------------------------------------------ */

static json_t *params_none(char **words, const struct options *options)
{
	return json_object();
}

static json_t *params_name(char **words, const struct options *options)
{
	return json_pack("{s:s}", "name", words[0]);
}

static json_t *params_attach(char **words, const struct options *options)
{
	AUTO_FREE char *spec = spec_here(words[0]);

	return json_pack("{s:s, s:s*, s:s*, s:s*, s:b}", "spec", spec, "name", options->name,
			 "nbd", options->nbd, "engine", options->engine, "read_only",
			 options->read_only);
}

static json_t *params_detach(char **words, const struct options *options)
{
	return json_pack("{s:s, s:b}", "name", words[0], "force", options->force);
}

static json_t *params_stop(char **words, const struct options *options)
{
	return json_pack("{s:b}", "all", options->all);
}

static json_t *params_nbd(char **words, const struct options *options)
{
	return json_pack("{s:s, s:s}", "name", words[0], "address", words[1]);
}

static json_t *params_resize(char **words, const struct options *options)
{
	return json_pack("{s:s, s:s}", "name", words[0], "size", words[1]);
}

static json_t *params_xen_attach(char **words, const struct options *options)
{
	const char *disk = words[1];
	AUTO_FREE char *spec = NULL;

	if (!strncmp(disk, "tap:", 4)) /* of old; it would hide the type */
		disk += 4;
	spec = spec_here(disk);
	return json_pack("{s:s, s:s}", "domain", words[0], "disk", spec);
}

static json_t *params_xen_detach(char **words, const struct options *options)
{
	return json_pack("{s:s, s:s}", "domain", words[0], "vdev", words[1]);
}

/* ---- what follows the answer ------------------------------------------------------------- */

static int ram_copied(char **words, const struct options *options, json_t *answer, bool load)
{
	int err = ram_copy(&(struct ram_copy){ .name = words[0], .image = words[1], .load = load,
					       .force = options->force, .json = options->json },
			   answer);

	return !err ? EXIT_SUCCESS : err == -ENODEV ? EXIT_NO_DISK : EXIT_REFUSED;
}

static int ram_save(char **words, const struct options *options, json_t *answer)
{
	return ram_copied(words, options, answer, false);
}

static int ram_load(char **words, const struct options *options, json_t *answer)
{
	return ram_copied(words, options, answer, true);
}

/* ---- commands ----------------------------------------------------------------------------- */

static const struct command {
	const char *name, *words;
	int word_count;
	const struct td_arg *rows;
	json_t *(*params)(char **words, const struct options *options);
	void (*print)(json_t *answer);
	const char *help;
	const char *method; /* of the daemon; NULL: it has the same name */
	/* the rest of the work, with the answer; NULL: it is printed */
	int (*then)(char **words, const struct options *options, json_t *answer);
} commands[] = {
	{ "list", "", 0, common_rows, params_none, print_list, "all disks" },
	{ "info", "NAME", 1, common_rows, params_name, print_info, "all about one disk" },
	{ "stats", "NAME", 1, common_rows, params_name, print_stats,
	  "what a disk has served so far" },
	{ "attach", "TYPE:TARGET[,KEY=VALUE...]", 1, attach_rows, params_attach, print_name,
	  "open an image and serve it; prints the disk's name" },
	{ "detach", "NAME", 1, detach_rows, params_detach, print_nothing,
	  "drain and close a disk" },
	{ "resize", "NAME SIZE", 2, common_rows, params_resize, print_nothing,
	  "make a disk larger while it is used" },
	{ "nbd-listen", "NAME ADDRESS", 2, common_rows, params_nbd, print_nothing,
	  "serve a disk at unix:PATH or tcp:HOST:PORT, too" },
	{ "nbd-close", "NAME ADDRESS", 2, common_rows, params_nbd, print_nothing,
	  "serve it there no longer" },
	{ "ram-list", "", 0, common_rows, params_none, print_ram_list, "all RAM disks" },
	{ "ram-save", "NAME TYPE:TARGET", 2, ram_rows, params_none, NULL,
	  "copy a RAM disk into a new image", "ram-list", ram_save },
	{ "ram-load", "NAME TYPE:TARGET", 2, ram_rows, params_none, NULL,
	  "copy an image into a RAM disk; what is behind it is zeroed", "ram-list", ram_load },
	{ "xen-attach", "DOMAIN tap:TYPE:TARGET,VDEV,MODE", 2, common_rows, params_xen_attach,
	  print_connected, "give a Xen guest a disk, without xl" },
	{ "xen-detach", "DOMAIN VDEV", 2, common_rows, params_xen_detach, print_nothing,
	  "take it away again" },
	{ "stop", "", 0, stop_rows, params_stop, print_nothing,
	  "end the daemon; disks go on unless --all" },
};

static const struct command *command_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* The first word that is no option's value; options may come before it. */
static const char *first_word(char **argv, int argc)
{
	static const struct td_arg all_rows[] = {
		ATTACH,
		DETACH,
		STOP,
		COMMON,
	};
	AUTO_FREE char **copy = calloc(argc + 1, sizeof(*copy));
	struct options ignored = { 0 };
	struct td_why why;
	int count;

	if (!copy)
		return NULL;
	memcpy(copy, argv, argc * sizeof(*copy));
	return td_args_parse(all_rows, &ignored, copy, &count, &why) ? argv[1] : copy[1];
}

static int help_all(void)
{
	printf("Usage: tap-ctl COMMAND [word]... [option]...\n"
	       "Asks blktapctrl about disks.\n\nCommands:\n");
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %s %s\n      %s\n", commands[i].name, commands[i].words,
		       commands[i].help);
	printf("\nOptions of every command:\n");
	td_args_help(common_rows);
	printf("\ntap-ctl COMMAND --help tells more. Exit status: 0 done, 1 refused or failed,\n"
	       "2 usage, 3 no daemon, 4 no such disk.\n");
	return EXIT_SUCCESS;
}

static int help_command(const struct command *command)
{
	printf("Usage: tap-ctl %s %s%s[option]...\n%s\n\n", command->name, command->words,
	       *command->words ? " " : "", command->help);
	td_args_help(command->rows);
	return EXIT_SUCCESS;
}

static int complain(int status, const char *text)
{
	fprintf(stderr, "tap-ctl: %s\n", text);
	return status;
}

static int no_daemon(int err, const char *text)
{
	bool absent = err == -ENOENT || err == -ECONNREFUSED;

	fprintf(stderr, "tap-ctl: %s%s\n", text, absent ? ": is blktapctrl running?" : "");
	return EXIT_NO_DAEMON;
}

static int use_answer(const struct command *command, const struct options *options, char **words,
		      const char *text)
{
	json_t *answer = json_loads(text, JSON_DECODE_ANY, NULL);
	int code;

	if (command->then) {
		code = command->then(words, options, answer);
		json_decref(answer);
		return code;
	}
	if (options->json) {
		json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		putchar('\n');
	} else {
		command->print(answer);
	}
	json_decref(answer);
	return fflush(stdout) ? complain(EXIT_REFUSED, "cannot write the answer") : EXIT_SUCCESS;
}

/* -EINVAL: no number of seconds from 1 to a day. */
static int timeout_ms(const struct options *options, int *out)
{
	char *end;
	unsigned long seconds = ANSWER_SECONDS;

	if (options->timeout) {
		seconds = strtoul(options->timeout, &end, 10);
		if (*options->timeout < '0' || *options->timeout > '9' || *end || !seconds ||
		    seconds > 24 * 60 * 60)
			return -EINVAL;
	}
	*out = (int)seconds * 1000;
	return 0;
}

static int run(const struct command *command, const struct options *options, char **words)
{
	json_t *params = command->params(words, options);
	AUTO_FREE char *text = params ? json_dumps(params, JSON_COMPACT) : NULL;
	AUTO_FREE char *answer = NULL;
	struct td_client_error error;
	struct td_client *client;
	int err, limit;

	json_decref(params);
	if (!text)
		return complain(EXIT_USAGE, "arguments must be UTF-8");
	if (timeout_ms(options, &limit))
		return complain(EXIT_USAGE, "--timeout: a number of seconds, 1 to 86400");
	err = td_client_open(options->socket, &client, &error);
	if (err)
		return no_daemon(err, error.text);
	err = td_client_call(client, command->method ? command->method : command->name, text, limit,
			     &answer, &error);
	td_client_close(client);
	if (err == -ETIME)
		return complain(EXIT_NO_DAEMON, error.text);
	if (err)
		return complain(err == -ENODEV ? EXIT_NO_DISK : EXIT_REFUSED, error.text);
	return use_answer(command, options, words, answer);
}

int main(int argc, char **argv)
{
	const char *word = first_word(argv, argc);
	const struct command *command = word ? command_find(word) : NULL;
	struct options options = { 0 };
	struct td_why why;
	int count;

	if (td_args_parse(command ? command->rows : common_rows, &options, argv, &count, &why))
		return complain(EXIT_USAGE, why.text);
	if (options.common.version)
		return printf("tap-ctl %s\n", BLKTAP_VERSION) < 0;
	if (options.common.help)
		return command ? help_command(command) : help_all();
	if (!command) {
		fprintf(stderr, "tap-ctl: %s%s; see tap-ctl --help\n",
			count ? "no command " : "which command?", count ? argv[1] : "");
		return EXIT_USAGE;
	}
	if (count - 1 != command->word_count) {
		fprintf(stderr, "Usage: tap-ctl %s %s\n", command->name, command->words);
		return EXIT_USAGE;
	}
	return run(command, &options, argv + 2);
}
