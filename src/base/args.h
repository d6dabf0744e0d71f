/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Command lines by table: the parser and --help read the same rows.
 */
#ifndef BASE_ARGS_H
#define BASE_ARGS_H

#include <blktap/driver.h>

struct td_arg {
	const char *name;  /* of --name; NULL ends the table */
	char letter;       /* of -n; 0: none */
	const char *value; /* what stands for its value in --help; NULL: a flag */
	size_t at;         /* offsetof a const char * or, of a flag, a bool */
	const char *help;
};

/* What every program has: a member "common" of its options, and the last rows of
 * its table. */
struct td_args_common {
	bool help, version;
};
#define TD_ARGS_COMMON(options) \
	{ "help", 'h', NULL, offsetof(options, common.help), "print this and end" }, \
	{ "version", 'V', NULL, offsetof(options, common.version), \
	  "print the version and end" }, \
	{ NULL }

/*
 * Sets the options given in argv[1..] in *into and moves the other arguments to
 * argv[1..]; *count is how many these are. "--" ends options. Values are argv's
 * strings. -EINVAL: an option that is not in the table, or lacks its value.
 */
int td_args_parse(const struct td_arg *rows, void *into, char **argv, int *count,
		  struct td_why *why);
/* Whether a word, as it stands, begins an option of the table: --name, --name=VALUE, -n. */
bool td_args_has(const struct td_arg *rows, const char *word);
/* One line a row, on stdout. */
void td_args_help(const struct td_arg *rows);

#endif
