/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Data of a map that are encrypted. The memory of a request is the guest's own: what is
 * to be written is copied to a chunk of ours first and encrypted there; what has been
 * read is decrypted where it lies, which a guest that writes there meanwhile turns into
 * noise, and no more: nothing of what is done depends on the bytes.
 *
 *   in place:  sealed_write -> (a chunk) -> chunk_ready -> chunk_written
 *
 * Zeroes of the file decrypt to noise. So a place is never shown before it has been
 * written, whole (grow.c), and no hole is made in one.
 */
#include <string.h>

#include "format/map.h"

static uint64_t sector_of(const struct td_map *map, uint64_t offset, uint64_t at)
{
	return (map->config.crypt_by_disk ? offset : at) / TD_CRYPT_SECTOR;
}

int sealed_encrypt(struct td_map *map, uint64_t offset, uint64_t at, void *buf, uint64_t len)
{
	return td_crypt_encrypt(map->config.crypt, sector_of(map, offset, at), buf, len);
}

int sealed_decrypt(struct td_map *map, uint64_t offset, uint64_t at, void *buf, uint64_t len)
{
	return td_crypt_decrypt(map->config.crypt, sector_of(map, offset, at), buf, len);
}

/* A sector that lies in several pieces of memory. */
static int decrypt_split(struct td_map *map, struct td_crypt *crypt, struct td_req *req,
			 uint64_t pos, uint64_t at)
{
	char sector[TD_CRYPT_SECTOR];
	int err;

	td_req_get(req, pos, sector, sizeof(sector));
	err = td_crypt_decrypt(crypt, sector_of(map, req->offset + pos, at + pos), sector,
			       sizeof(sector));
	td_req_put(req, pos, sector, sizeof(sector));
	return err;
}

int sealed_read_done(struct td_map *map, struct td_crypt *crypt, struct td_req *req, uint64_t at)
{
	const struct iovec *iov = req->iov;
	uint64_t in = 0; /* of this piece of memory, done */
	int err = 0;

	for (uint64_t pos = 0, n; pos < req->len && !err; pos += n, in += n) {
		while (in >= iov->iov_len)
			in -= iov++->iov_len;
		n = round_down(min_u64(iov->iov_len - in, req->len - pos), TD_CRYPT_SECTOR);
		if (n) {
			err = td_crypt_decrypt(crypt, sector_of(map, req->offset + pos, at + pos),
					       (char *)iov->iov_base + in, n);
		} else {
			n = TD_CRYPT_SECTOR;
			err = decrypt_split(map, crypt, req, pos, at);
		}
	}
	return err;
}

/* ---- writes in place ----------------------------------------------------------- */

static void chunk_written(struct td_req *kid)
{
	buffer_put(kid->user);
	piece_io_ended(kid);
}

static void chunk_ready(struct td_park *park, int err)
{
	struct piece *piece = container_of(park, struct piece, park);
	struct td_req *kid = piece->req, *parent = kid->parent;
	char *data;

	if (!piece->buffer && !chunk_get(piece))
		return; /* called again when there is one */
	data = piece->buffer->data;
	if (parent->op == TD_WRITE)
		td_req_get(parent, piece->pos, data, piece->len);
	else
		memset(data, 0, piece->len);
	err = sealed_encrypt(piece->map, parent->offset + piece->pos, piece->at, data, piece->len);
	if (err) {
		buffer_put(piece);
		epoch_leave(piece);
		td_end(kid, err);
		return;
	}
	kid->step = chunk_written;
	td_buffer(kid, TD_WRITE, data, piece->len);
	kid->flags = parent->flags & TD_FUA;
	td_io(kid, piece->map->config.file, piece->at);
}

int sealed_write(struct piece *parent, const struct td_spot *spot, uint64_t *len)
{
	struct piece *piece;

	*len = min_u64(*len, MAP_CHUNK);
	piece = piece_child(parent, *len);
	if (!piece)
		return TD_PARKED;
	piece->at = spot->at;
	piece->park.go = chunk_ready;
	epoch_enter(piece);
	chunk_ready(&piece->park, 0);
	return 0;
}
