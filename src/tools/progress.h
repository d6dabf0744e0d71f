/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a long job is: a bar with rate and time left on a terminal, a plain
 * line every tenth of the way elsewhere. On stderr.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what; /* of whom it is told */
	uint64_t total, done;
	uint64_t began_ms, shown_ms;
	unsigned tenths;
	bool bar, quiet;
};

void progress_begin(struct progress *progress, const char *what, uint64_t total, bool quiet);
/* Call it as often as you like. */
void progress_at(struct progress *progress, uint64_t done);
/* The last words; text says what became of the job ("done", an error). */
void progress_end(struct progress *progress, const char *text);

/* "1.5 GiB" in a buffer of the caller's. */
const char *size_text(uint64_t bytes, char text[16]);

#endif
