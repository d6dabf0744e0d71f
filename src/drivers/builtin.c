/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers built in.
 */
#include "drivers/builtin.h"

extern const struct td_driver aio_driver;
extern const struct td_driver qcow_driver;
extern const struct td_driver qcow2_driver;
extern const struct td_driver ram_driver;
extern const struct td_driver vdi_driver;
extern const struct td_driver vhd_driver;
extern const struct td_driver vhdx_driver;
extern const struct td_driver vmdk_driver;

const struct td_driver *const td_builtin_drivers[] = {
	&aio_driver,
	&ram_driver,
	&qcow_driver,
	&qcow2_driver,
	&vdi_driver,
	&vhd_driver,
	&vhdx_driver,
	&vmdk_driver,
	NULL,
};

const char *const td_builtin_aliases[][2] = {
	{ "raw", "aio" },
	{ "sync", "aio" }, /* the synchronous driver of 2006; ours never blocks */
	{ "vpc", "vhd" },  /* as QEMU calls it */
	{ NULL },
};
