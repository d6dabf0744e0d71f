/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking for damage in a qcow image. */
#ifndef QCOW_CHECK_H
#define QCOW_CHECK_H

#include <blktap/driver.h>

int qcow_check(struct td_image *img, struct td_check *check, struct td_why *why);

#endif
