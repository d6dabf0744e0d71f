/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a command line names a disk: a format and a path, or a specification
 * "type:target[,key=value...]". Formats are never guessed: where none is named,
 * what the file looks like is said, and how to say it.
 */
#ifndef TOOLS_NAME_H
#define TOOLS_NAME_H

#include <sys/stat.h>

#include "core/disk.h"
#include "core/spec.h"
#include "tools/tool.h"

struct name {
	const struct td_driver *driver;
	struct td_spec spec;
	char *text;          /* the specification, whole */
	bool is_path;        /* the format was named beside it */
};

/* The word, of that format, or (format NULL) a specification. option is how one
 * says the format: "-f". more: "key=value,..." added to it; NULL: none. An exit
 * code; *out is to be freed in any case. */
int name_parse(struct tool_run *run, const char *format, const char *option, const char *word,
	       const char *more, struct name *out);
/* Whether it begins with "type:". */
bool name_is_spec(const char *word);
void name_free(struct name *name);
const char *name_path(const struct name *name);

/* What an image that lies over it says of its format: what a server serves is raw. */
const char *name_stored_format(const struct name *name);
/* What people call the driver. */
const char *name_of_driver(const struct td_driver *driver);
/* The driver whose format the file looks like; NULL: none, or it cannot be read. */
const struct td_driver *name_guess(struct tool_run *run, const char *path);
/* "type:path" with the path's commas and backslashes escaped; free() it. */
char *name_spec(const char *type, const char *path);

/* "key-file=PATH,...", as it has them, or ""; free() it. */
char *name_key_words(const struct name *name);

/* Opens it; NULL: it has been said why not. */
struct td_disk *name_open(struct tool_run *run, const struct name *name, bool read_only);
/* Likewise, with more said of how. options->name and read_only are set here. */
struct td_disk *name_open_with(struct tool_run *run, const struct name *name, bool read_only,
			       struct td_disk_options *options);
/* Closes it; an exit code, TOOL_FAILED if what was written did not reach it. */
int name_close(struct tool_run *run, const struct name *name, struct td_disk *disk);

bool name_is_device(const struct name *name);
/* Whether a device may be written over: force, or yes on the terminal (ask). */
int name_may_write(struct tool_run *run, const struct name *name, bool force, bool ask);

/* Whether st is of a file or device that one of the disk's images lies in. */
bool name_is_part(const struct td_disk *disk, const struct stat *st);

#endif
