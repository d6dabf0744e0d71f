/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files as shared pages, and files on disk that follow them; see store.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../suite/suite.h"
#include "store.h"

struct page {
	unsigned owners;
	bool hashed;
	uint64_t hash;      /* 0: zeroes */
	char data[STORE_PAGE];
};

uint64_t mix(uint64_t hash, uint64_t value)
{
	struct rnd rnd = { hash ^ value * 0x9e3779b97f4a7c15ull };

	return rnd_next(&rnd);
}

static void page_drop(struct page *page)
{
	if (page && --page->owners == 0)
		free(page);
}

static struct page *page_own(struct page **at)
{
	struct page *own = *at;

	if (!own || own->owners > 1) {
		own = calloc(1, sizeof(*own));
		if (*at)
			memcpy(own->data, (*at)->data, STORE_PAGE);
		own->owners = 1;
		page_drop(*at);
		*at = own;
	}
	own->hashed = false;
	return own;
}

static bool all_zero(const char *data, size_t len)
{
	return !data[0] && !memcmp(data, data + 1, len - 1);
}

static uint64_t page_hash(struct page *page)
{
	uint64_t word;

	if (!page || page->hashed)
		return page ? page->hash : 0;
	page->hashed = true;
	page->hash = 0;
	if (all_zero(page->data, STORE_PAGE))
		return 0;
	for (unsigned i = 0; i < STORE_PAGE; i += sizeof(word)) {
		memcpy(&word, page->data + i, sizeof(word));
		page->hash = (page->hash ^ word) * 0x9e3779b97f4a7c15ull;
		page->hash ^= page->hash >> 32;
	}
	page->hash |= 1;
	return page->hash;
}

static void store_room(struct store *store, uint64_t pages)
{
	if (pages <= store->pages)
		return;
	pages = max_u64(pages, store->pages * 2);
	store->page = realloc(store->page, pages * sizeof(*store->page));
	memset(store->page + store->pages, 0, (pages - store->pages) * sizeof(*store->page));
	store->pages = pages;
}

static uint64_t pages_of(uint64_t size)
{
	return (size + STORE_PAGE - 1) / STORE_PAGE;
}

void store_resize(struct store *store, uint64_t size)
{
	uint64_t had = pages_of(store->size), needs = pages_of(size);

	store_room(store, needs);
	if (size < store->size && size % STORE_PAGE && store->page[size / STORE_PAGE])
		memset(page_own(&store->page[size / STORE_PAGE])->data + size % STORE_PAGE, 0,
		       STORE_PAGE - size % STORE_PAGE);
	for (uint64_t i = needs; i < had; i++) {
		page_drop(store->page[i]);
		store->page[i] = NULL;
	}
	store->size = size;
}

void store_copy(struct store *to, const struct store *from)
{
	uint64_t count = pages_of(from->size);

	for (uint64_t i = 0; i < count; i++)
		if (from->page[i])
			from->page[i]->owners++;
	for (uint64_t i = 0; i < pages_of(to->size); i++) {
		page_drop(to->page[i]);
		to->page[i] = NULL;
	}
	store_room(to, count);
	if (count)
		memcpy(to->page, from->page, count * sizeof(*to->page));
	to->size = from->size;
}

void store_free(struct store *store)
{
	store_resize(store, 0);
	free(store->page);
	*store = (struct store){ 0 };
}

void store_write(struct store *store, uint64_t at, const char *data, uint64_t len)
{
	if (at >= store->size)
		return;
	len = min_u64(len, store->size - at);
	while (len) {
		uint64_t skip = at % STORE_PAGE, n = min_u64(len, STORE_PAGE - skip);
		struct page **page = &store->page[at / STORE_PAGE];

		if (*page || !all_zero(data, n))
			memcpy(page_own(page)->data + skip, data, n);
		at += n;
		data += n;
		len -= n;
	}
}

void store_zero(struct store *store, uint64_t at, uint64_t len)
{
	if (at >= store->size)
		return;
	len = min_u64(len, store->size - at);
	while (len) {
		uint64_t skip = at % STORE_PAGE, n = min_u64(len, STORE_PAGE - skip);
		struct page **page = &store->page[at / STORE_PAGE];

		if (*page && n < STORE_PAGE) {
			memset(page_own(page)->data + skip, 0, n);
		} else if (*page) {
			page_drop(*page);
			*page = NULL;
		}
		at += n;
		len -= n;
	}
}

const char *store_page(const struct store *store, uint64_t i)
{
	return i < store->pages && store->page[i] ? store->page[i]->data : NULL;
}

uint64_t store_hash(const struct store *store)
{
	uint64_t hash = mix(1, store->size);

	for (uint64_t i = 0; i < pages_of(store->size); i++) {
		uint64_t page = page_hash(store->page[i]);

		if (page)
			hash += mix(page, i);
	}
	return hash;
}

static void page_follow(struct store *store, int fd, uint64_t i)
{
	uint64_t n = min_u64(STORE_PAGE, store->size - i * STORE_PAGE);
	const char *is = store_page(store, i);
	char data[STORE_PAGE];

	require(pread(fd, data, n, i * STORE_PAGE) == (ssize_t)n, "cannot read: %s",
		strerror(errno));
	if (!is || memcmp(is, data, n))
		store_write(store, i * STORE_PAGE, data, n);
}

void store_follow(struct store *store, int fd)
{
	uint64_t at = 0;
	struct stat st;

	require(!fstat(fd, &st), "fstat: %s", strerror(errno));
	store_resize(store, st.st_size);
	while (at < store->size) {
		off_t data = lseek(fd, at, SEEK_DATA), end;
		if (data < 0)
			data = store->size;
		store_zero(store, at, round_down(data, STORE_PAGE) - at);
		end = (uint64_t)data < store->size ? lseek(fd, data, SEEK_HOLE) : data;
		for (at = round_down(data, STORE_PAGE); at < (uint64_t)end; at += STORE_PAGE)
			page_follow(store, fd, at / STORE_PAGE);
	}
}

void store_load(struct store *store, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	require(fd >= 0, "%s: %s", path, strerror(errno));
	*store = (struct store){ 0 };
	store_follow(store, fd);
	close(fd);
}

/* ---- a file that follows -------------------------------------------------------- */

void mirror_open(struct mirror *mirror, const char *path)
{
	*mirror = (struct mirror){ .fd = open(path, O_RDWR | O_CLOEXEC) };
	require(mirror->fd >= 0, "%s: %s", path, strerror(errno));
	store_load(&mirror->is, path);
}

void mirror_close(struct mirror *mirror)
{
	close(mirror->fd);
	store_free(&mirror->is);
	free(mirror->changed);
}

static void mirror_room(struct mirror *mirror, uint64_t pages)
{
	if (pages <= mirror->room)
		return;
	pages = max_u64(pages, mirror->room * 2);
	mirror->changed = realloc(mirror->changed, pages * sizeof(bool));
	memset(mirror->changed + mirror->room, 0, pages - mirror->room);
	mirror->room = pages;
}

void mirror_changed(struct mirror *mirror, uint64_t at, uint64_t len)
{
	mirror_room(mirror, pages_of(at + len));
	for (uint64_t i = at / STORE_PAGE; i < pages_of(at + len); i++)
		mirror->changed[i] = true;
}

/* The file may have become shorter or longer meanwhile. What is cut off is gone,
 * and what is added is zeroes. */
static void mirror_resize(struct mirror *mirror, uint64_t size)
{
	struct stat st;

	require(!fstat(mirror->fd, &st), "fstat: %s", strerror(errno));
	if ((uint64_t)st.st_size < mirror->is.size)
		store_resize(&mirror->is, st.st_size);
	require((uint64_t)st.st_size == size || !ftruncate(mirror->fd, size), "ftruncate: %s",
		strerror(errno));
	store_resize(&mirror->is, size);
	mirror_room(mirror, max_u64(pages_of(size), pages_of(st.st_size)));
}

static void mirror_page(struct mirror *mirror, uint64_t i, struct page *page, uint64_t size)
{
	uint64_t at = i * STORE_PAGE, n = min_u64(STORE_PAGE, size - at);
	int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (page)
		require(pwrite(mirror->fd, page->data, n, at) == (ssize_t)n, "pwrite: %s",
			strerror(errno));
	else
		require(!fallocate(mirror->fd, hole, at, STORE_PAGE), "fallocate: %s",
			strerror(errno));
}

void mirror_set(struct mirror *mirror, const struct store *to)
{
	mirror_resize(mirror, to->size);
	for (uint64_t i = 0; i < pages_of(to->size); i++)
		if (mirror->changed[i] || mirror->is.page[i] != to->page[i])
			mirror_page(mirror, i, to->page[i], to->size);
	memset(mirror->changed, 0, mirror->room);
	store_copy(&mirror->is, to);
}

void mirror_expect(struct mirror *mirror, const struct store *to)
{
	static const char zeroes[STORE_PAGE];
	char data[STORE_PAGE];

	for (uint64_t i = 0; i < pages_of(to->size); i++) {
		uint64_t n = min_u64(STORE_PAGE, to->size - i * STORE_PAGE);
		const char *page = store_page(to, i);

		require(pread(mirror->fd, data, STORE_PAGE, i * STORE_PAGE) == (ssize_t)n &&
			!memcmp(data, page ? page : zeroes, n),
			"page %llu of a state is not what was put there: something writes "
			"past the hook", (unsigned long long)i);
	}
}
