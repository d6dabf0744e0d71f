/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One line an event, with the name of whom it is about, on stderr; with
 * priorities that journald understands when it is stderr's reader.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>
#include <syslog.h> /* LOG_ERR ... LOG_DEBUG */

/* Messages above this level are dropped; LOG_INFO at first. */
void td_log_level(int level);

/* name (may be NULL) is the disk, guest or file it is about. Thread-safe. */
void td_log(const char *name, int level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* For messages that a guest or peer can cause: at most 10 in 10 seconds.
 * Thread-safe. */
struct td_ratelimit {
	uint64_t window_ms; /* start of the current window */
	unsigned count, dropped;
};
void td_log_limited(struct td_ratelimit *limit, const char *name, int level,
		    const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Control characters, and bytes that are no UTF-8, become '?': names come from images,
 * guests and peers, and a line about them stays one line, which does nothing to a
 * terminal and which JSON and the journal take. */
void td_text_plain(char *text);

/* Milliseconds and microseconds of a clock that never steps. */
uint64_t td_now_ms(void);
uint64_t td_now_us(void);

#endif
