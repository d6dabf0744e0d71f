/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making an empty qcow image. */
#ifndef QCOW_CREATE_H
#define QCOW_CREATE_H

#include <blktap/driver.h>

int qcow_create(const struct td_create *make, struct td_why *why);
int qcow_measure(const struct td_create *make, struct td_measure *out, struct td_why *why);

#endif
