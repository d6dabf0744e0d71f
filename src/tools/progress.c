/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Progress of a job. The rate is that of the whole job so far, which is steady
 * enough to tell the time left by.
 */
#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"

#define BAR_WIDTH 30
#define REDRAW_MS 100

const char *size_text(uint64_t bytes, char text[16])
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double n = bytes;
	unsigned i = 0;

	for (; n >= 1024 && i < ARRAY_SIZE(unit) - 1; i++)
		n /= 1024;
	snprintf(text, 16, n < 10 && i ? "%.1f %s" : "%.0f %s", n, unit[i]);
	return text;
}

static uint64_t rate(const struct progress *progress, uint64_t now)
{
	return now > progress->began_ms ?
	       (unsigned __int128)progress->done * 1000 / (now - progress->began_ms) : 0;
}

static unsigned percent(const struct progress *progress)
{
	return progress->total ? (unsigned __int128)progress->done * 100 / progress->total : 100;
}

static void left_text(const struct progress *progress, uint64_t now, char text[32])
{
	uint64_t per_s = rate(progress, now), left;

	if (!per_s) {
		strcpy(text, "--:--");
		return;
	}
	left = (progress->total - progress->done) / per_s;
	if (left >= 3600)
		snprintf(text, 32, "%llu:%02llu:%02llu", (unsigned long long)left / 3600,
			 (unsigned long long)left / 60 % 60, (unsigned long long)left % 60);
	else
		snprintf(text, 32, "%llu:%02llu", (unsigned long long)left / 60,
			 (unsigned long long)left % 60);
}

static void draw(struct progress *progress, uint64_t now)
{
	char bar[BAR_WIDTH + 1], total[16], per_s[16], left[32];
	unsigned full = percent(progress) * BAR_WIDTH / 100;

	memset(bar, '-', BAR_WIDTH);
	memset(bar, '#', full);
	bar[BAR_WIDTH] = 0;
	left_text(progress, now, left);
	fprintf(stderr, "\r[%s] %3u%% of %s, %s/s, %s left \033[K", bar, percent(progress),
		size_text(progress->total, total), size_text(rate(progress, now), per_s), left);
	fflush(stderr);
	progress->shown_ms = now;
}

static void tell(struct progress *progress, uint64_t now)
{
	char done[16], total[16], per_s[16];

	progress->tenths = percent(progress) / 10;
	fprintf(stderr, "%s: %u%%, %s of %s, %s/s\n", progress->what, percent(progress),
		size_text(progress->done, done), size_text(progress->total, total),
		size_text(rate(progress, now), per_s));
}

void progress_begin(struct progress *progress, const char *what, uint64_t total, bool quiet)
{
	*progress = (struct progress){
		.what = what, .total = total, .quiet = quiet,
		.bar = isatty(STDERR_FILENO), .began_ms = td_now_ms(),
	};
}

void progress_at(struct progress *progress, uint64_t done)
{
	uint64_t now = td_now_ms();

	progress->done = done;
	if (progress->quiet)
		return;
	if (progress->bar && now - progress->shown_ms >= REDRAW_MS)
		draw(progress, now);
	else if (!progress->bar && percent(progress) / 10 > progress->tenths)
		tell(progress, now);
}

void progress_end(struct progress *progress, const char *text)
{
	uint64_t now = td_now_ms();
	char done[16];

	if (progress->quiet)
		return;
	if (progress->bar) {
		draw(progress, now);
		fputc('\n', stderr);
	}
	fprintf(stderr, "%s: %s, %s in %.1f s\n", progress->what, text,
		size_text(progress->done, done), (now - progress->began_ms) / 1000.0);
}
