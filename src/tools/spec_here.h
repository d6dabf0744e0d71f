/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of files, told to a program that has another folder than we.
 */
#ifndef TOOLS_SPEC_HERE_H
#define TOOLS_SPEC_HERE_H

/*
 * "qcow:img,key-file=k" becomes "qcow:/here/img,key-file=/here/k" where there are such
 * files. What is no file is the driver's to understand. spec may have words behind it
 * that are no key=value, such as ",xvda,w". The caller frees it; NULL: no memory.
 */
char *spec_here(const char *spec);

#endif
