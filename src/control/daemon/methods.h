/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's JSON-RPC methods for disks; docs/control.md describes them.
 */
#ifndef DAEMON_METHODS_H
#define DAEMON_METHODS_H

#include "control/daemon/disks.h"
#include "control/rpc.h"

struct td_methods {
	struct td_disks *disks;
	struct td_loop *loop;
	bool ending; /* stop has been asked for */
};

/* methods must outlive the server. */
void td_methods_serve(struct td_methods *methods, struct td_rpc_server *server);

#endif
