/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image: by its driver's create(), under a temporary name beside its own,
 * which it gets when it is whole and on disk. Whatever goes wrong, nothing is left.
 *
 *   make_plan -> make_may (is the name free?) -> make_begin -> (it is filled)
 *             -> make_finish, or make_drop
 */
#ifndef TOOLS_MAKE_H
#define TOOLS_MAKE_H

#include "tools/name.h"

struct make {
	struct name name;
	struct td_create create;
	bool force;              /* what has the name may be replaced */
	bool unsafe;             /* the image below is named, and not looked at */
	/* private */
	char *temp, *backing;
	const struct td_driver *below_like; /* what a raw image below looks like */
	struct td_key *keys;
	void *options;
};

/* What is to be made, from its name; the keys of the specification say how: those
 * that every format has (see make_keys), and the format's own. An exit code; to be
 * freed in any case. */
int make_plan(struct tool_run *run, const char *format, const char *option, const char *word,
	      const char *more, struct make *make);
extern const struct td_option make_keys[];
/* Prints the keys that images of this format can be made with. An exit code. */
int make_help(struct tool_run *run, const char *format, const char *option, const char *word);
/* The image below, of that format (or format NULL: a specification); the new image
 * has its size unless it has one already. stored: what is written into the image,
 * an absolute path, if it is there. Not after the backing key has named one. */
int make_over(struct tool_run *run, struct make *make, const char *format, const char *word);
/* Whether the name is free, or may be taken from a file that has it. disk: what is
 * read meanwhile, and must not be replaced; NULL: nothing. ask: on the terminal. */
int make_may(struct tool_run *run, struct make *make, const struct td_disk *disk, bool ask);

int make_begin(struct tool_run *run, struct make *make);
/* The new image, to be filled; NULL: said why not. */
struct td_disk *make_open(struct tool_run *run, const struct make *make);
int make_finish(struct tool_run *run, struct make *make);
void make_drop(struct make *make);
void make_free(struct make *make); /* drops what is not finished */

#endif
