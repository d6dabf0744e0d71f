/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map: which byte of the disk lies where in the file. L1 is in memory whole
 * (l1.c); of the L2 tables a bounded number is, each in a page:
 *
 *   L1 entry -> page: L2 table -> cluster
 *
 * A page is loaded when first needed, with the requests that need it parked on
 * it; is pinned while somebody changes it; and otherwise waits in the LRU list
 * to be used for another table. A table that is not in the file yet begins as a
 * page of zeroes, gets a place (which reads as zeroes) and is then linked: its
 * L1 entry is written. Writes through it end when that is done too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "drivers/qcow/qcow.h"

#define CACHE_BYTES (16 * MiB)
#define CACHE_MIN 256 /* above what all children of an image can pin */
#define CACHE_MAX 8192

/* Instead of a page: the L1 entry was wrong when the image was opened. It stays
 * wrong, even if the file grows over the place it names. */
static struct qcow_page *const bad_page = (struct qcow_page *)-1;

int qcow_corrupt(struct qcow *qcow, const char *what, uint64_t offset, uint64_t value)
{
	td_log_limited(&qcow->limit, td_file_path(qcow->file), LOG_ERR,
		       "corrupt qcow %s entry 0x%llx for disk offset %llu", what,
		       (unsigned long long)value, (unsigned long long)offset);
	return -EIO;
}

/* ---- pages ---------------------------------------------------------------- */

void qcow_page_pin(struct qcow_page *page)
{
	if (page->pins++ == 0)
		list_del(&page->link);
}

static void page_drop(struct qcow_page *page)
{
	struct qcow *qcow = page->table.qcow;

	qcow->page_at[page->index] = NULL;
	list_add(&qcow->page_free, &page->link);
	qcow_again(qcow, &page->waiters);
}

void qcow_page_unpin(struct qcow_page *page)
{
	struct qcow *qcow = page->table.qcow;

	if (--page->pins)
		return;
	if (page->linked)
		list_add(&qcow->page_lru, &page->link);
	else
		page_drop(page);
	qcow_again(qcow, &qcow->page_waiters);
}

/* A page for table index, pinned once; NULL: piece waits for one. */
static struct qcow_page *page_new(struct qcow *qcow, struct qcow_piece *piece, uint64_t index)
{
	size_t bytes = qcow_l2_bytes(&qcow->layout);
	struct qcow_page *page;
	struct list *link;

	if ((link = list_pop(&qcow->page_free))) {
		page = list_item(link, struct qcow_page, link);
	} else if (qcow->page_used < qcow->page_count) {
		page = &qcow->pages[qcow->page_used++];
	} else if ((link = list_pop(&qcow->page_lru))) {
		page = list_item(link, struct qcow_page, link);
		qcow->page_at[page->index] = NULL;
	} else {
		list_add(&qcow->page_waiters, &piece->link);
		return NULL;
	}
	*page = (struct qcow_page){ .index = index, .pins = 1 };
	qcow_table_init(&page->table, qcow, 0,
			(be64 *)(qcow->page_arena + (page - qcow->pages) * bytes),
			1u << qcow->layout.l2_bits);
	list_init(&page->link);
	list_init(&page->waiters);
	list_init(&page->grows);
	list_init(&page->unlinked);
	qcow->page_at[index] = page;
	return page;
}

/* ---- loading -------------------------------------------------------------- */

static void load_ended(struct td_req *req)
{
	struct qcow_meta *meta = req->user;
	struct qcow_page *page = container_of(meta->table, struct qcow_page, table);
	struct list waiters, *link;
	int err = req->err;

	qcow_meta_put(meta);
	list_init(&waiters);
	list_join(&waiters, &page->waiters);
	page->loading = false;
	page->linked = !err;
	while ((link = list_pop(&waiters))) {
		struct qcow_piece *piece = list_item(link, struct qcow_piece, link);

		piece->go(piece, err);
	}
	qcow_page_unpin(page);
}

static void load_start(struct qcow_page *page, struct qcow_meta *meta)
{
	uint64_t bytes = page->table.count * 8ull;

	qcow_meta_aim(meta, &page->table, load_ended);
	td_buffer(meta->req, TD_READ, page->table.entry, bytes);
	td_io(meta->req, meta->qcow->file, page->table.at);
}

bool qcow_page_load_next(struct qcow *qcow, struct qcow_meta *meta)
{
	struct list *link = list_pop(&qcow->page_loads);

	if (!link)
		return false;
	load_start(list_item(link, struct qcow_page, link), meta);
	return true;
}

static void load(struct qcow *qcow, struct qcow_piece *piece, uint64_t index, uint64_t at)
{
	struct qcow_page *page = page_new(qcow, piece, index);
	struct qcow_meta *meta;

	if (!page)
		return;
	page->table.at = at;
	page->loading = true;
	list_add(&page->waiters, &piece->link);
	meta = qcow_meta_get(qcow);
	if (meta)
		load_start(page, meta);
	else
		list_add(&qcow->page_loads, &page->link);
}

/* ---- linking -------------------------------------------------------------- */

/* A failure is that of the grows that had begun when the write did; the others
 * have it written again. */
static void link_ended(struct qcow_change *change, int err)
{
	struct qcow_page *page = container_of(change, struct qcow_page, link_change);
	struct qcow *qcow = page->table.qcow;
	struct list pieces, *link;

	page->linked = !err;
	page->linking = false;
	if (err) {
		page->link_failed = page->links;
		page->link_err = err;
	}
	list_init(&pieces);
	list_join(&pieces, &page->unlinked);
	while ((link = list_pop(&pieces))) {
		change = list_item(link, struct qcow_change, link);
		change->done(change, 0);
	}
	qcow_again(qcow, &page->waiters);
	qcow_page_unpin(page);
}

static void link_start(struct qcow_page *page)
{
	struct qcow_table *part;

	page->linking = true;
	page->links++;
	page->link_change = (struct qcow_change){
		.count = 1, .value = page->table.at, .done = link_ended,
	};
	part = qcow_l1_part(page->table.qcow, page->index, &page->link_change.first);
	qcow_page_pin(page);
	qcow_table_stage(part, &page->link_change);
}

void qcow_page_place(struct qcow_page *page, uint64_t at)
{
	page->table.at = at;
	link_start(page);
}

void qcow_page_await_link(struct qcow_piece *grow)
{
	struct qcow_page *page = grow->page;

	list_add(&page->unlinked, &grow->change.link);
	if (!page->linking)
		link_start(page);
}

struct qcow_page *qcow_page_for(struct qcow *qcow, struct qcow_piece *piece, uint64_t offset)
{
	uint64_t index = offset / qcow_span(&qcow->layout);
	struct qcow_page *page = qcow->page_at[index];

	if (page) {
		qcow_page_pin(page);
		return page;
	}
	page = page_new(qcow, piece, index);
	if (page)
		memset(page->table.entry, 0, page->table.count * 8ull);
	return page;
}

/* ---- looking up ----------------------------------------------------------- */

/* Nothing is mapped from offset on, for as far as L1 entries are empty. */
static void find_absent(struct qcow *qcow, uint64_t offset, uint64_t len, bool writing,
			struct qcow_spot *out)
{
	uint64_t span = qcow_span(&qcow->layout);
	uint64_t index = offset / span;
	uint64_t end = round_down(offset, span) + span;

	while (!writing && end < offset + len && !qcow->page_at[index + 1] &&
	       !qcow_l1_entry(qcow, index + 1)) {
		index++;
		end += span;
	}
	out->kind = QCOW_HOLE;
	out->len = min_u64(len, end - offset);
}

/* A hole, for writers as far as nobody is filling it. */
static void find_hole(struct qcow_page *page, uint32_t first, uint32_t max, bool writing,
		      struct qcow_spot *out, uint32_t *clusters)
{
	uint32_t n = 1;

	while (n < max && !qcow_entry(&page->table, first + n))
		n++;
	out->kind = QCOW_HOLE;
	if (writing)
		LIST_FOR(struct qcow_piece, grow, &page->grows, grow_link) {
			uint32_t from = grow->change.first, to = from + grow->change.count;

			if (from <= first && first < to) {
				out->kind = QCOW_BUSY;
				out->busy = grow;
				n = min_u64(n, to - first);
			} else if (from > first) {
				n = min_u64(n, from - first);
			}
		}
	*clusters = n;
}

static void find_packed(struct qcow_page *page, uint32_t first, uint64_t entry, bool writing,
			struct qcow_spot *out)
{
	out->kind = QCOW_PACKED_DATA;
	out->entry = entry;
	if (writing)
		LIST_FOR(struct qcow_piece, grow, &page->grows, grow_link)
			if (!grow->change.empty_only && grow->change.first <= first &&
			    first < grow->change.first + grow->change.count) {
				out->kind = QCOW_BUSY;
				out->busy = grow;
			}
}

static void find_data(struct qcow *qcow, struct qcow_page *page, uint32_t first, uint32_t max,
		      uint64_t offset, struct qcow_spot *out, uint32_t *clusters)
{
	uint64_t cluster = qcow_cluster(&qcow->layout);
	uint64_t at = qcow_entry(&page->table, first);
	uint64_t size = td_file_size(qcow->file);
	uint32_t n = 1;

	while (n < max && qcow_entry(&page->table, first + n) == at + n * cluster)
		n++;
	if (at % cluster || at >= size || size - at <= (n - 1) * cluster ||
	    qcow_hits_head(&qcow->layout, at, n * cluster)) {
		out->kind = QCOW_BAD;
		out->err = qcow_corrupt(qcow, "L2", offset, at);
		return;
	}
	out->kind = QCOW_DATA;
	out->at = at + offset % cluster;
	*clusters = n;
}

static void find_in_page(struct qcow *qcow, struct qcow_page *page, uint64_t offset,
			 uint64_t len, bool writing, struct qcow_spot *out)
{
	unsigned bits = qcow->layout.cluster_bits;
	uint32_t first = (offset >> bits) & (page->table.count - 1);
	uint64_t skip = offset & (qcow_cluster(&qcow->layout) - 1);
	uint32_t max = min_u64((skip + len - 1) >> bits, page->table.count - 1 - first) + 1;
	uint32_t clusters = 1;
	uint64_t entry = qcow_entry(&page->table, first);

	if (!entry)
		find_hole(page, first, max, writing, out, &clusters);
	else if (entry & QCOW_PACKED)
		find_packed(page, first, entry, writing, out);
	else
		find_data(qcow, page, first, max, offset, out, &clusters);
	out->page = page;
	out->len = min_u64(len, ((uint64_t)clusters << bits) - skip);
}

void qcow_map_find(struct qcow *qcow, struct qcow_piece *piece, uint64_t offset, uint64_t len,
		   bool writing, struct qcow_spot *out)
{
	uint64_t index = offset / qcow_span(&qcow->layout);
	struct qcow_page *page = qcow->page_at[index];

	*out = (struct qcow_spot){ .kind = QCOW_LOADING };
	if (!page) {
		uint64_t at = qcow_l1_entry(qcow, index);

		if (at)
			load(qcow, piece, index, at);
		else
			find_absent(qcow, offset, len, writing, out);
	} else if (page == bad_page) {
		out->kind = QCOW_BAD;
		out->err = qcow_corrupt(qcow, "L1", offset, qcow_l1_entry(qcow, index));
	} else if (page->loading) {
		list_add(&page->waiters, &piece->link);
	} else {
		if (!page->pins) { /* now the one used last */
			list_del(&page->link);
			list_add(&qcow->page_lru, &page->link);
		}
		find_in_page(qcow, page, offset, len, writing, out);
		if (writing && out->kind == QCOW_DATA && !page->linked) {
			/* written in place now, it would be lost with us */
			out->kind = QCOW_LOADING;
			list_add(&page->waiters, &piece->link);
		}
	}
}

/* ---- open and close ------------------------------------------------------- */

static void *arena(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static int open_cache(struct qcow *qcow)
{
	uint64_t bytes = qcow_l2_bytes(&qcow->layout);
	uint64_t count = min_u64(max_u64(CACHE_BYTES / bytes, CACHE_MIN), CACHE_MAX);

	qcow->page_count = min_u64(count, qcow->layout.l1_count);
	qcow->page_room = qcow->page_count * bytes;
	qcow->page_at = calloc(qcow->layout.l1_count, sizeof(*qcow->page_at));
	qcow->pages = calloc(qcow->page_count, sizeof(*qcow->pages));
	qcow->page_arena = arena(qcow->page_room);
	if (!qcow->page_at || !qcow->pages || !qcow->page_arena)
		return -ENOMEM;
	for (uint64_t i = 0; i < qcow->layout.l1_count; i++) {
		uint64_t at = qcow_l1_entry(qcow, i);

		if (at && !qcow_l2_fits(qcow, at))
			qcow->page_at[i] = bad_page;
	}
	return 0;
}

static int open_metas(struct qcow *qcow)
{
	size_t bytes = max_u64(qcow_l2_bytes(&qcow->layout), 4096);

	qcow->meta_room = QCOW_METAS * bytes;
	qcow->meta_arena = arena(qcow->meta_room);
	if (!qcow->meta_arena)
		return -ENOMEM;
	for (unsigned i = 0; i < QCOW_METAS; i++) {
		struct qcow_meta *meta = &qcow->meta[i];

		meta->qcow = qcow;
		meta->buf = qcow->meta_arena + i * bytes;
		meta->req = td_req_new(qcow->img->queue, qcow->img);
		if (!meta->req)
			return -ENOMEM;
		list_add(&qcow->meta_free, &meta->link);
	}
	return 0;
}

int qcow_map_open(struct qcow *qcow, struct td_why *why)
{
	int err = qcow_l1_open(qcow, why);

	if (err)
		return err;
	err = open_cache(qcow);
	if (!err)
		err = open_metas(qcow);
	if (err)
		td_fail(why, err, "%s: no memory for its map", td_file_path(qcow->file));
	return err;
}

void qcow_map_close(struct qcow *qcow)
{
	for (unsigned i = 0; i < QCOW_METAS; i++)
		if (qcow->meta[i].req)
			td_req_free(qcow->meta[i].req);
	if (qcow->meta_arena)
		munmap(qcow->meta_arena, qcow->meta_room);
	if (qcow->page_arena)
		munmap(qcow->page_arena, qcow->page_room);
	free(qcow->pages);
	free(qcow->page_at);
	qcow_l1_close(qcow);
}
