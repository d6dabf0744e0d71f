/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared libraries that few disks need, loaded when one does: a tapdisk at rest has none
 * of their memory, and starts without them. A user lists the functions it calls once:
 *
 *     #define FUNCTIONS(F) F(one_function) F(another)
 *     static struct { FUNCTIONS(TD_POINTER) } lib;
 *     static const char *const names[] = { FUNCTIONS(TD_NAME) NULL };
 *     err = td_library_load("libone.so.3", names, &lib, why);
 *     lib.one_function(...);
 */
#ifndef BASE_LIBRARY_H
#define BASE_LIBRARY_H

#include <blktap/driver.h>

#define TD_POINTER(function) __typeof__(&function) function;
#define TD_NAME(function) #function,

/* pointers: to a struct of as many function pointers as there are names, which end with
 * NULL. Does nothing where the first is set. The library stays for the life of the
 * process. Not for several threads at once. */
int td_library_load(const char *library, const char *const *names, void *pointers,
		    struct td_why *why);

#endif
