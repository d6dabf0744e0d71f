/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors 0 to 2 of a program that may have been started without them.
 */
#ifndef BASE_STD_H
#define BASE_STD_H

/* First of all: opens what is missing, or what is opened later would be taken for it. */
void td_std_open(void);

#endif
