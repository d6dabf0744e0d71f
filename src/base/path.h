/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Paths as images name each other: what is relative begins in the folder of the image
 * that says it. Strings returned are the caller's; NULL: no memory.
 */
#ifndef BASE_PATH_H
#define BASE_PATH_H

/* Where path is for the file own (NULL: it is as it is). */
char *td_path_beside(const char *own, const char *path);

/*
 * Of an image that names another one in several ways: the first of these whose file is
 * there; else the first that says anything; NULL: none does. name(): the nth, which
 * becomes ours; NULL or "": there is no such.
 */
char *td_path_find(const char *own, char *(*name)(void *arg, unsigned nth), unsigned count,
		   void *arg);

/* In place. */
void td_path_replace(char *path, char what, char with);
/* What follows the last slash is all that stays. */
void td_path_last_part(char *path);

#endif
