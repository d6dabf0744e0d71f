/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: raw deflate in a window of 4 KiB, at any byte of the
 * file. They are read into a bounce buffer and inflated into another; the last
 * few inflated ones are kept, since readers come back for their other sectors.
 * What is in the file is never changed in place, so these stay right.
 *
 * Bounce buffers also serve writes of parts of clusters. Their number is fixed:
 * who finds none is called when there is one.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "config.h"
#include "drivers/qcow/qcow.h"

#ifdef HAVE_ZLIB
#include <zlib.h>

static int inflate_cluster(struct qcow *qcow, const void *from, size_t from_len, void *to)
{
	size_t cluster = qcow_cluster(&qcow->layout);
	z_stream z = {
		.next_in = (void *)from, .avail_in = from_len,
		.next_out = to, .avail_out = cluster,
	};
	int ret;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The stored length may be a little long, so the end may be left unsaid. */
	if ((ret != Z_STREAM_END && ret != Z_BUF_ERROR) || z.avail_out)
		return -EIO;
	return 0;
}
#else
static int inflate_cluster(struct qcow *qcow, const void *from, size_t from_len, void *to)
{
	td_log_limited(&qcow->limit, td_file_path(qcow->file), LOG_ERR,
		       "has compressed clusters, and this blktap was built without zlib");
	return -EOPNOTSUPP;
}
#endif

bool qcow_bounce_get(struct qcow *qcow, struct qcow_piece *piece)
{
	struct list *link = list_pop(&qcow->bounce_free);

	if (!link) {
		list_add(&qcow->bounce_waiters, &piece->link);
		return false;
	}
	piece->bounce = list_item(link, struct qcow_bounce, link);
	return true;
}

void qcow_bounce_put(struct qcow *qcow, struct qcow_piece *piece)
{
	if (!piece->bounce)
		return;
	list_add(&qcow->bounce_free, &piece->bounce->link);
	piece->bounce = NULL;
	if (!list_empty(&qcow->bounce_waiters))
		qcow_again(qcow, &qcow->bounce_waiters);
}

static char *inflated_slot(struct qcow *qcow, unsigned i)
{
	return qcow->inflated_data + i * qcow_cluster(&qcow->layout);
}

const char *qcow_packed_cached(struct qcow *qcow, uint64_t entry)
{
	for (unsigned i = 0; i < QCOW_INFLATED; i++)
		if (qcow->inflated[i] == entry)
			return inflated_slot(qcow, i);
	return NULL;
}

static void packed_read_ended(struct td_req *kid)
{
	struct qcow_piece *piece = kid->user;
	struct qcow *qcow = piece->qcow;
	uint64_t entry = piece->entry;
	uint64_t skip = qcow_packed_at(&qcow->layout, entry) % 512;
	uint64_t len = qcow_packed_len(&qcow->layout, entry);
	unsigned slot = qcow->inflated_next;
	int err = kid->err;

	if (!err) {
		qcow->inflated[slot] = 0; /* while it is being filled */
		err = inflate_cluster(qcow, piece->bounce->packed + skip, len,
				      inflated_slot(qcow, slot));
		if (err == -EIO)
			qcow_corrupt(qcow, "compressed", kid->parent->offset + piece->pos, entry);
	}
	if (!err) {
		qcow->inflated[slot] = entry;
		qcow->inflated_next = (slot + 1) % QCOW_INFLATED;
		memcpy(piece->bounce->data, inflated_slot(qcow, slot),
		       qcow_cluster(&qcow->layout));
	}
	piece->filled(piece, err);
}

void qcow_packed_read(struct qcow *qcow, struct qcow_piece *piece)
{
	struct td_req *kid = piece->req;
	const char *cached = qcow_packed_cached(qcow, piece->entry);
	uint64_t at = qcow_packed_at(&qcow->layout, piece->entry);
	uint64_t len = qcow_packed_len(&qcow->layout, piece->entry);
	uint64_t size = td_file_size(qcow->file);
	uint64_t from = round_down(at, 512);

	if (cached) {
		memcpy(piece->bounce->data, cached, qcow_cluster(&qcow->layout));
		piece->filled(piece, 0);
	} else if (!len || at >= size || len > size - at ||
		   qcow_hits_head(&qcow->layout, at, len)) {
		piece->filled(piece, qcow_corrupt(qcow, "compressed",
						  kid->parent->offset + piece->pos, piece->entry));
	} else {
		kid->step = packed_read_ended;
		td_buffer(kid, TD_READ, piece->bounce->packed, round_up(at + len, 512) - from);
		td_io(kid, qcow->file, from);
	}
}

int qcow_packed_open(struct qcow *qcow)
{
	size_t cluster = qcow_cluster(&qcow->layout);
	size_t each = round_up(2 * cluster + 1024, 4096); /* data; packed and its sectors */
	char *at;

	qcow->bounce_room = QCOW_BOUNCES * each + QCOW_INFLATED * cluster;
	at = mmap(NULL, qcow->bounce_room, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	qcow->bounce_arena = at;
	for (unsigned i = 0; i < QCOW_BOUNCES; i++, at += each) {
		qcow->bounce[i].data = at;
		qcow->bounce[i].packed = at + cluster;
		list_add(&qcow->bounce_free, &qcow->bounce[i].link);
	}
	qcow->inflated_data = at;
	return 0;
}

void qcow_packed_close(struct qcow *qcow)
{
	if (qcow->bounce_arena)
		munmap(qcow->bounce_arena, qcow->bounce_room);
}
