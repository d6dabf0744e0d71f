/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Log lines on stderr, one write each so that threads and processes do not mix
 * theirs. journald sets JOURNAL_STREAM and reads a "<n>" priority prefix.
 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WINDOW_MS 10000
#define WINDOW_MESSAGES 10

static int log_level = LOG_INFO;

void td_log_level(int level)
{
	log_level = level;
}

static void log_line(const char *name, int level, const char *fmt, va_list args)
{
	char line[1024];
	size_t room = sizeof(line) - 1, at = 0;

	if (getenv("JOURNAL_STREAM"))
		at += snprintf(line + at, room - at, "<%d>", level);
	if (name)
		at += snprintf(line + at, room - at, "%.256s: ", name);
	at += vsnprintf(line + at, room - at, fmt, args);
	if (at > room - 1)
		at = room - 1;
	line[at] = '\0';
	td_text_plain(line);
	line[at++] = '\n';
	if (write(STDERR_FILENO, line, at) < 0)
		return; /* nobody to tell */
}

void td_log(const char *name, int level, const char *fmt, ...)
{
	va_list args;

	if (level > log_level)
		return;
	va_start(args, fmt);
	log_line(name, level, fmt, args);
	va_end(args);
}

/* Takes a place in the window; *dropped: how many found none in the last one. */
static bool window_enter(struct td_ratelimit *limit, unsigned *dropped)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	uint64_t now = td_now_ms();
	bool room;

	*dropped = 0;
	pthread_mutex_lock(&lock);
	if (now - limit->window_ms >= WINDOW_MS || !limit->window_ms) {
		*dropped = limit->dropped;
		*limit = (struct td_ratelimit){ .window_ms = now };
	}
	room = limit->count < WINDOW_MESSAGES;
	if (room)
		limit->count++;
	else
		limit->dropped++;
	pthread_mutex_unlock(&lock);
	return room;
}

void td_log_limited(struct td_ratelimit *limit, const char *name, int level,
		    const char *fmt, ...)
{
	unsigned dropped;
	va_list args;

	if (level > log_level || !window_enter(limit, &dropped))
		return;
	if (dropped)
		td_log(name, level, "%u more messages like this were dropped", dropped);
	va_start(args, fmt);
	log_line(name, level, fmt, args);
	va_end(args);
}

void td_text_plain(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

uint64_t td_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

uint64_t td_now_ms(void)
{
	return td_now_us() / 1000;
}
