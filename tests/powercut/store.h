/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a file holds, in memory: pages that copies share until they are written
 * to, and no page where there are zeroes. A copy costs a pointer a page, so that
 * thousands of states of a file are made from one another.
 */
#ifndef POWERCUT_STORE_H
#define POWERCUT_STORE_H

#include <stdbool.h>
#include <stdint.h>

#define STORE_PAGE 4096u

struct page; /* counted; one with several owners never changes */

struct store {
	struct page **page; /* NULL: zeroes */
	uint64_t pages;     /* room in page[]; those past the end are NULL */
	uint64_t size;
};

void store_load(struct store *store, const char *path); /* fails if it cannot */
/* Becomes what the file holds; pages that are equal already stay shared. */
void store_follow(struct store *store, int fd);
void store_copy(struct store *to, const struct store *from); /* what to had is freed */
void store_free(struct store *store);

void store_resize(struct store *store, uint64_t size);
/* What lies past the end is left out. */
void store_write(struct store *store, uint64_t at, const char *data, uint64_t len);
void store_zero(struct store *store, uint64_t at, uint64_t len);

/* The bytes of page number i; NULL: zeroes. */
const char *store_page(const struct store *store, uint64_t i);
/* Stores of equal content, size included, have equal numbers. */
uint64_t store_hash(const struct store *store);

/*
 * A file on disk that is given the content of one store after another: only the
 * pages that differ are written.
 */
struct mirror {
	int fd;
	struct store is;  /* what the file holds ... */
	bool *changed;    /* ... but for these pages: somebody else wrote there */
	uint64_t room;
};

void mirror_open(struct mirror *mirror, const char *path);
void mirror_close(struct mirror *mirror);
void mirror_changed(struct mirror *mirror, uint64_t at, uint64_t len);
void mirror_set(struct mirror *mirror, const struct store *to);
/* Reads it all: it must hold what was set. */
void mirror_expect(struct mirror *mirror, const struct store *to);

uint64_t mix(uint64_t hash, uint64_t value);

#endif
