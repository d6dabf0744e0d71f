/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Survivor memory: the changed blocks of a writable file, kept where they outlive
 * the process. The interface that drivers use is in <blktap/driver.h>; this is
 * what opening a file does about what a killed process has left.
 */
#ifndef IO_SURVIVOR_H
#define IO_SURVIVOR_H

#include <blktap/driver.h>

/*
 * Called by td_file_open() with the file open and locked. For writing: writes what
 * a killed process has left into the file, in order. For reading: refuses a file
 * that lacks such blocks, since not one byte of it may be changed.
 */
int survivor_adopt(struct td_file *file, struct td_why *why);

#endif
