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

/* Bytes of the UTF-8 character that text begins with; 0: of none, or of a control
 * character. */
static size_t character(const char *text)
{
	static const struct {
		unsigned char first, last; /* the first byte */
		unsigned char from, to;    /* the second one: nothing is written longer than
		                              need be, and half of a pair is no character */
		size_t len;
	} row[] = {
		{ 0xc2, 0xc2, 0xa0, 0xbf, 2 }, /* below: control characters */
		{ 0xc3, 0xdf, 0x80, 0xbf, 2 },
		{ 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 },
		{ 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 },
		{ 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};
	const unsigned char *at = (const unsigned char *)text;

	if (at[0] < 0x80)
		return at[0] >= ' ' && at[0] != 0x7f;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		size_t n = 2;

		if (at[0] < row[i].first || at[0] > row[i].last)
			continue;
		if (at[1] < row[i].from || at[1] > row[i].to)
			return 0;
		while (n < row[i].len && (at[n] & 0xc0) == 0x80)
			n++;
		return n == row[i].len ? n : 0;
	}
	return 0;
}

void td_text_plain(char *text)
{
	while (*text) {
		size_t len = character(text);

		if (!len)
			*text = '?';
		text += len ? len : 1;
	}
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
