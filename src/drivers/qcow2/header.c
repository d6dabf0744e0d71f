/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another backing file. The header, its extensions and, where it fits, the name lie
 * in the first sector, which is written at once: a power cut leaves the old or the
 * new. A longer name is written first, to a part of the first cluster that the old
 * header does not use, and is durable before the sector names it.
 *
 *   header | format | other extensions | names of features | end | the name
 *
 * Names of features are for words to people only: what does not fit is left out.
 */
#include <stdlib.h>
#include <string.h>

#include "drivers/qcow2/qcow2.h"

#define SECTOR 512
#define END 8                 /* the mark at the end of extensions */
#define FEATURE 48            /* a row of names */
#define FIRST_MAX (64 * KiB)  /* of the first cluster, what is looked at */

struct composing {
	const char *old;      /* the first cluster */
	size_t old_len;
	size_t length;        /* of the header without extensions */
	size_t used;          /* the old header, extensions and their end */
	const char *features;
	size_t features_len;
	char sector[SECTOR];
	size_t pos;
	uint64_t name_at;
};

static bool put(struct composing *c, uint32_t type, const void *data, size_t len)
{
	be32 head[2] = { to_be32(type), to_be32(len) };

	if (len > SECTOR || c->pos + sizeof(head) + round_up(len, 8) + END > SECTOR)
		return false;
	memcpy(c->sector + c->pos, head, sizeof(head));
	memcpy(c->sector + c->pos + sizeof(head), data, len);
	c->pos += sizeof(head) + round_up(len, 8);
	return true;
}

/* All but the format of the backing file, and but names of features, which are found. */
static bool put_others(struct composing *c)
{
	uint64_t name_at = from_be64(((struct qcow2_header *)c->old)->backing_at);
	size_t pos = c->length, end = c->old_len;

	if (name_at >= pos && name_at < end)
		end = name_at;
	while (pos + END <= end) {
		uint32_t type = from_be32(*(be32 *)(c->old + pos));
		uint64_t len = from_be32(*(be32 *)(c->old + pos + 4));
		const char *data = c->old + pos + 8;

		if (!type || len > end - pos - 8)
			break;
		if (type == QCOW2_EXT_FEATURES) {
			c->features = data;
			c->features_len = len;
		} else if (type != QCOW2_EXT_BACKING && !put(c, type, data, len)) {
			return false;
		}
		pos = min_u64(pos + 8 + round_up(len, 8), end);
	}
	c->used = min_u64(pos + END, c->old_len);
	return true;
}

/* As many as leave that much room. */
static void put_features(struct composing *c, size_t room)
{
	size_t has = SECTOR - c->pos, rows;

	if (!c->features || has < room + END + 8)
		return;
	rows = min_u64((has - room - END - 8) / FEATURE, c->features_len / FEATURE);
	if (rows)
		put(c, QCOW2_EXT_FEATURES, c->features, rows * FEATURE);
}

/* A place for a name that is too long for the sector; 0: there is none. */
static uint64_t name_place(const struct composing *c, size_t len)
{
	const struct qcow2_header *head = (const struct qcow2_header *)c->old;
	uint64_t old_at = from_be64(head->backing_at), old_len = from_be32(head->backing_len);
	uint64_t at = round_up(max_u64(c->used, SECTOR), 8);

	if (old_at && at < old_at + old_len && old_at < at + len)
		at = round_up(old_at + old_len, 8);
	return at + len <= c->old_len ? at : 0;
}

/* c->name_at: where the name goes; within the sector it is there already. */
static int compose(struct composing *c, const char *backing, const char *format)
{
	struct qcow2_header *head = (struct qcow2_header *)c->sector;
	size_t name = backing ? strlen(backing) : 0;

	if (c->length + END > SECTOR)
		return -ENAMETOOLONG;
	memcpy(c->sector, c->old, c->length);
	c->pos = c->length;
	if ((backing && !put(c, QCOW2_EXT_BACKING, format, strlen(format))) || !put_others(c))
		return -ENAMETOOLONG;
	put_features(c, c->pos + END + name <= SECTOR ? name : 0);
	c->pos += END;
	if (name && c->pos + name <= SECTOR) {
		c->name_at = c->pos;
		memcpy(c->sector + c->pos, backing, name);
	} else if (name) {
		c->name_at = name_place(c, name);
		if (!c->name_at)
			return -ENAMETOOLONG;
	}
	head->backing_at = to_be64(c->name_at);
	head->backing_len = to_be32(name);
	return 0;
}

static int set_backing(struct qcow2 *q, struct composing *c, const char *backing,
		       const char *format)
{
	char *old = calloc(1, FIRST_MAX);
	int err = old ? td_cache_sync(q->cache) : -ENOMEM;

	c->old = old;
	c->old_len = min_u64(qcow2_cluster(&q->layout), FIRST_MAX);
	if (!err)
		err = td_file_read(q->file, old, c->old_len, 0);
	if (!err) {
		c->length = q->layout.version < 3 ? QCOW2_HEAD_V2 :
						    from_be32(((struct qcow2_header *)old)->length);
		err = compose(c, backing, format);
	}
	if (!err && c->name_at >= SECTOR)
		err = td_file_write(q->file, backing, strlen(backing), c->name_at);
	if (!err) /* what was written is durable before */
		err = qcow2_head_write(q, c->sector, SECTOR, 0);
	free(old);
	return err;
}

int qcow2_set_backing(struct td_image *img, const char *backing, const char *format,
		      struct td_why *why)
{
	struct qcow2 *q = img->state;
	const char *path = td_file_path(q->file);
	struct composing c = { 0 };
	int err = 0;

	if (format && !strcmp(format, "aio"))
		format = "raw";
	if (backing && (!*backing || strlen(backing) > QCOW2_NAME_MAX || !format || !*format ||
			strlen(format) >= sizeof(q->layout.backing_format)))
		err = -EINVAL;
	if (!err)
		err = set_backing(q, &c, backing, format);
	if (err)
		td_fail(why, err, "%s: cannot name %s as its backing file: %s", path,
			backing ? backing : "none",
			err == -ENAMETOOLONG ? "its first cluster has no room for the name" :
					       strerror(-err));
	return err;
}
