/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow, version 1: sparse images that stand alone, and overlays that keep what
 * was changed over a raw file or device. docs/qcow.md tells the format and the
 * order of writes; qcow.h names the parts of this driver.
 */
#include <errno.h>
#include <stdio.h>

#include "drivers/qcow/check.h"
#include "drivers/qcow/create.h"
#include "drivers/qcow/qcow.h"

struct qcow_piece *qcow_piece_begin(struct qcow *qcow, struct td_req *req,
				    void (*go)(struct qcow_piece *piece, int err))
{
	struct qcow_piece *piece = td_scratch(qcow->img, req);

	piece->qcow = qcow;
	piece->req = req;
	piece->go = go;
	return piece;
}

struct qcow_piece *qcow_piece_child(struct qcow_piece *parent, uint64_t pos, uint64_t len)
{
	struct td_req *kid = td_child(parent->req);
	struct qcow_piece *piece;

	if (!kid)
		return NULL;
	piece = td_scratch(parent->qcow->img, kid);
	piece->qcow = parent->qcow;
	piece->req = kid;
	piece->pos = pos;
	piece->len = len;
	kid->user = piece;
	return piece;
}

void qcow_piece_retry(struct td_req *req)
{
	struct qcow_piece *piece = td_scratch(req->image, req);

	piece->go(piece, 0);
}

void qcow_again(struct qcow *qcow, struct list *pieces)
{
	if (list_empty(pieces))
		return;
	list_join(&qcow->again, pieces);
	td_defer(qcow->img->queue, &qcow->defer);
}

/* The end of a turn: whoever waits for something that is there now goes on,
 * then one barrier and one write per table go out for all of them. */
static void turn_ends(struct td_defer *defer)
{
	struct qcow *qcow = container_of(defer, struct qcow, defer);
	struct list again, *link;

	list_init(&again);
	list_join(&again, &qcow->again);
	while ((link = list_pop(&again))) {
		struct qcow_piece *piece = list_item(link, struct qcow_piece, link);

		piece->go(piece, 0);
	}
	qcow_barrier_flush(qcow);
	qcow_tables_flush(qcow);
}

static void lists_init(struct qcow *qcow)
{
	struct list *all[] = {
		&qcow->page_lru, &qcow->page_free, &qcow->page_waiters, &qcow->page_loads,
		&qcow->meta_free, &qcow->dirty, &qcow->written, &qcow->syncing,
		&qcow->bounce_free, &qcow->bounce_waiters, &qcow->again, &qcow->space.waiters,
		&qcow->space.late,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		list_init(all[i]);
}

static int open_below(struct qcow *qcow, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	struct td_image *img = qcow->img;
	struct td_why below_why;
	int err;

	if (!layout->backing[0])
		return 0;
	err = td_image_open_below(img, "aio", layout->backing, td_file_path(qcow->file),
				  &below_why);
	if (err)
		return td_fail(why, err, "%s: its backing file: %s", td_file_path(qcow->file),
			       below_why.text);
	if (img->below->size != layout->size && !qcow->resized)
		return td_fail(why, -EINVAL,
			       "%s: has %llu bytes but its backing file %s has %llu "
			       "(resized=on if that is meant)", td_file_path(qcow->file),
			       (unsigned long long)layout->size, layout->backing,
			       (unsigned long long)img->below->size);
	return 0;
}

static void qcow_free(struct qcow *qcow)
{
	td_req_free(qcow->barrier);
	qcow_packed_close(qcow);
	qcow_map_close(qcow);
	td_file_close(qcow->file);
}

static int qcow_open(struct td_image *img, struct td_why *why)
{
	struct qcow *qcow = img->state;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	int err;

	qcow->img = img;
	qcow->defer.run = turn_ends;
	lists_init(qcow);
	err = td_file_open(img->files, img->target, flags, &qcow->file, why);
	if (err)
		return err;
	if (td_file_is_device(qcow->file))
		err = td_fail(why, -ENOTSUP, "%s: a qcow image inside a block device is not "
			      "supported: what lies past its end is not known to be zeroes",
			      td_file_path(qcow->file));
	if (!err)
		err = qcow_layout_read(qcow->file, &qcow->layout, why);
	if (!err)
		err = qcow_map_open(qcow, why);
	if (!err && (qcow_packed_open(qcow) ||
		     !(qcow->barrier = td_req_new(img->queue, img))))
		err = td_fail(why, -ENOMEM, "%s: no memory", td_file_path(qcow->file));
	if (!err)
		err = open_below(qcow, why);
	if (err) {
		qcow_free(qcow);
		return err;
	}
	qcow_space_open(qcow);
	qcow->run = qcow_run(&qcow->layout);
	img->size = qcow->layout.size;
	img->block_size = 512;
	img->cluster = qcow_cluster(&qcow->layout);
	return 0;
}

static void qcow_close(struct td_image *img)
{
	struct qcow *qcow = img->state;

	if (!img->read_only)
		qcow_space_close(qcow);
	if (qcow->barriers)
		td_log(td_file_path(qcow->file), LOG_DEBUG, "%llu first writes shared %llu barriers",
		       (unsigned long long)qcow->barrier_pieces,
		       (unsigned long long)qcow->barriers);
	qcow_free(qcow);
}

static void qcow_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct qcow *qcow = img->state;

	switch (req->op) {
	case TD_READ:         qcow_read(qcow, req);            break;
	case TD_EXTENTS:      qcow_extents(qcow, req);         break;
	case TD_WRITE:
	case TD_WRITE_ZEROES: qcow_write(qcow, req);           break;
	case TD_DISCARD:      qcow_discard(qcow, req);         break;
	case TD_FLUSH:        td_io(req, qcow->file, 0);       break;
	}
}

static int qcow_info(struct td_image *img, td_info_put *put, void *arg)
{
	const struct qcow *qcow = img->state;
	const struct qcow_layout *layout = &qcow->layout;
	char text[64];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)qcow_cluster(layout));
	put(arg, "cluster-size", text);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)qcow_l2_bytes(layout));
	put(arg, "l2-table-size", text);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)layout->l1_count);
	put(arg, "l1-entries", text);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)td_file_size(qcow->file));
	put(arg, "file-length", text);
	if (layout->backing[0])
		put(arg, "backing-file", layout->backing);
	if (layout->xen_len)
		put(arg, "blktap-2006", qcow->l1_part[0].little ? "L1 table little-endian" :
								 "L1 table big-endian");
	return 0;
}

static const struct td_option qcow_options[] = {
	{ "resized", TD_BOOL, offsetof(struct qcow, resized),
	  "accept a backing file of another size than the image (default: off)" },
	{ 0 },
};

const struct td_driver qcow_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "qcow",
	.summary = "qcow version 1: a sparse image, or an overlay over a raw one",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS,
	.state_size = sizeof(struct qcow),
	.req_size = sizeof(struct qcow_piece),
	.options = qcow_options,
	.open = qcow_open,
	.close = qcow_close,
	.submit = qcow_submit,
	.create = qcow_create,
	.check = qcow_check,
	.info = qcow_info,
	.looks_like = qcow_looks_like,
	.measure = qcow_measure,
};
