/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling the service manager about our state (systemd's sd_notify(3) protocol).
 */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

/* state: "READY=1", "STOPPING=1". Does nothing where nobody wants to know. */
void td_notify(const char *state);

#endif
