/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tap-img: a command is a struct tool and a function. What commands share is here.
 */
#ifndef TOOLS_IMG_H
#define TOOLS_IMG_H

#include <jansson.h>

#include "tools/convert.h"

/* All begin so: what every command has. */
struct img_options {
	struct td_args_common common;
	const char *format, *output, *plugins, *cache, *source_cache;
	bool json, quiet, progress;
};
/* Rows that more than one command has. */
#define IMG_FORMAT(type) \
	{ "format", 'f', "FORMAT", offsetof(type, img.format), "of the image" }
#define IMG_QUIET(type) \
	{ "quiet", 'q', NULL, offsetof(type, img.quiet), "tell of errors only" }
#define IMG_PROGRESS(type) \
	{ "progress", 'p', NULL, offsetof(type, img.progress), "show how far it is" }
/* Taken from those who are used to it, and checked: there is one way. */
#define IMG_CACHE(type) \
	{ "cache", 't', "MODE", offsetof(type, img.cache), \
	  "taken: always past the page cache, and flushed at the end" }
#define IMG_SOURCE_CACHE(type) \
	{ "source-cache", 'T', "MODE", offsetof(type, img.source_cache), \
	  "taken: what is read is always read past the page cache" }
#define IMG_COMMON(type) \
	{ "json", 0, NULL, offsetof(type, img.json), "answer in JSON" }, \
	{ "output", 0, "json|human", offsetof(type, img.output), "the same, in other words" }, \
	{ "plugins", 0, "FOLDER", offsetof(type, img.plugins), "where plug-ins are" }, \
	{ "help", 'h', NULL, offsetof(type, img.common.help), "print this and end" }, \
	{ NULL }

struct img_command {
	const char *name;
	struct tool tool;
	size_t options_size; /* of its options, which begin with struct img_options */
	int (*run)(struct tool_run *run, void *options, char **words, int count);
};

extern const struct img_command img_create, img_info, img_check, img_convert, img_map,
	img_measure, img_compare, img_resize, img_dd, img_bench, img_snapshot,
	img_commit, img_rebase;

extern const struct img_command *const img_commands[]; /* ends with NULL */
const struct img_command *img_command_find(const char *name);
/* Why there is no such command, or no such option of one (NULL: of any), that others have;
 * NULL: nobody has it. */
const char *img_absent(const char *command, const char *option);
/* Runs it, argv[0] being its name; ends the program as tool_begin() does, or returns
 * its exit code. hook: on all files of disks; NULL: none. */
int img_command_run(const struct img_command *command, char **argv,
		    struct td_file_hook *hook);

/* One open disk. */
struct img_disk {
	struct name name;
	struct td_disk *disk;
	struct td_pool *pool; /* for img_do(), once it is called */
};
/* An exit code; img_close() in any case. */
int img_open(struct tool_run *run, const char *format, const char *option, const char *word,
	     bool read_only, struct img_disk *out);
/* For reading, as it was at a snapshot. */
int img_open_then(struct tool_run *run, const char *format, const char *option,
		  const char *word, const char *snapshot, struct img_disk *out);
/* For reading, and nothing of an encrypted image's data. */
int img_open_keyless(struct tool_run *run, const char *format, const char *option,
		     const char *word, struct img_disk *out);
int img_close(struct tool_run *run, struct img_disk *disk);

/* Prints and frees it; an exit code. */
int img_print_json(struct tool_run *run, json_t *answer);
json_t *img_number(uint64_t n);

/* Asks for one extent and waits for the answer. */
int img_extent(struct img_disk *disk, uint64_t at, uint64_t len, struct td_extent *out);
/* Likewise any request: 0 or -errno. buf may be NULL for operations without data. */
int img_do(struct img_disk *disk, enum td_op op, unsigned flags, uint64_t at, uint64_t len,
	   void *buf, struct td_extent *extent);
/* Before a disk becomes larger. Over an image that is larger, its last cluster must not be
 * that one's in part: what it has past the end could not be told from it any more. So its
 * last sector is written as it reads. */
int img_hold_end(struct img_disk *disk);

/* The top image's driver, and words for what it lacks: an exit code. */
const struct td_driver *img_driver(const struct img_disk *disk);
int img_cannot(struct tool_run *run, const struct img_disk *disk, int code, const char *what);
/* What was asked of it did not go well: err, and why, if that is known. Returns code. */
int img_failed(struct tool_run *run, const struct img_disk *disk, int code, int err,
	       const struct td_why *why);

/* A signal has come. */
int img_stopped(struct tool_run *run);

#endif
