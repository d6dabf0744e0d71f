/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: raw deflate, at any byte of the file. New ones begin at a
 * sector, so that none is written twice, one behind the other. What is in the file
 * is never changed in place.
 */
#include "drivers/qcow/qcow.h"
#include "format/deflate.h"

int qcow_unpack(struct td_image *img, const void *from, size_t len, void *to)
{
	const struct qcow *qcow = img->state;

	return td_inflate(from, len, to, qcow_cluster(&qcow->layout));
}

/* An entry cannot tell a length of a whole cluster; of less than a sector's gain there
 * is none. */
int qcow_pack(struct td_image *img, const void *from, void *to, size_t *len)
{
	const struct qcow *qcow = img->state;

	return td_deflate(from, qcow_cluster(&qcow->layout), to, len);
}

int qcow_place_packed(struct td_image *img, struct td_park *park, uint64_t len, uint64_t *at)
{
	struct qcow *qcow = img->state;
	uint64_t cluster = qcow_cluster(&qcow->layout), needs = round_up(len, 512), next;
	int err;

	if (qcow->packed_end - qcow->packed_at < needs) {
		uint64_t room = cluster;

		err = td_space_find(qcow->space, park, cluster, &room, &next);
		if (err)
			return err;
		td_space_take(qcow->space, next, cluster);
		if (next != qcow->packed_end)
			qcow->packed_at = next;
		qcow->packed_end = next + cluster;
	}
	*at = qcow->packed_at;
	qcow->packed_at += needs;
	return 0;
}
