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

/*
 * Sets the options given in argv[1..] in *into and moves the other arguments to
 * argv[1..]; *count is how many these are. "--" ends options.
 */
int td_args_parse(const struct td_arg *rows, void *into, char **argv, int *count,
		  struct td_why *why);
/* One line a row, on stdout. */
void td_args_help(const struct td_arg *rows);

#endif
