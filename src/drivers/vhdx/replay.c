/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the log holds. It is a ring of sectors of 4 KiB, in which entries follow each
 * other; one is whole if its checksum is right, and if it has the GUID that the header
 * says. An entry tells where the oldest one begins that still counts when it is written:
 * so the newest whole entry, with all from that one on, is what must be replayed.
 *
 * An entry has descriptors of pages, and the pages: in each the first 8 and the last 4
 * bytes make room for numbers that tell whether it was written whole, and are in the
 * descriptor.
 *
 * Whole entries do not lie on each other (one begins with what cannot be within another
 * one), so that all checksums together cost no more than one look at the log.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/log.h"
#include "drivers/vhdx/crc32c.h"
#include "drivers/vhdx/log.h"

#define CHUNK (1 * MiB)

struct entry {
	uint32_t sectors;         /* 0: none begins here */
	uint32_t tail;            /* sector */
	uint64_t sequence;
};

struct replay {
	struct td_file *file;
	struct vhdx_layout *layout;
	struct vhdx_reader *out;
	struct td_why *why;
	const char *path;
	uint8_t *ring;            /* the log twice, so that no entry is cut in two */
	uint32_t sectors;         /* of the log */
	struct entry *entry;      /* for each of them */
	uint32_t head, tail;      /* what must be replayed: sectors */
	bool found;
};

/* ---- finding it ------------------------------------------------------------------- */

static const void *sector_at(const struct replay *r, uint64_t sector)
{
	return r->ring + sector * VHDX_PAGE;
}

/* Sectors of an entry's head and descriptors. */
static uint32_t front_of(uint64_t descriptors)
{
	return (sizeof(struct vhdx_log_entry) + descriptors * sizeof(struct vhdx_log_descriptor) +
		VHDX_PAGE - 1) / VHDX_PAGE;
}

static bool descriptors_sound(const struct vhdx_log_entry *entry, uint32_t sectors)
{
	const struct vhdx_log_descriptor *d = (const void *)(entry + 1);
	uint32_t count = from_le32(entry->descriptors), front = front_of(count), data = 0;
	uint64_t sequence = from_le64(entry->sequence);
	const struct vhdx_log_data *page = (const void *)((const uint8_t *)entry + front * VHDX_PAGE);

	if (front > sectors)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		if (from_le64(d[i].sequence) != sequence ||
		    (memcmp(d[i].signature, "desc", 4) && memcmp(d[i].signature, "zero", 4)))
			return false;
		data += d[i].signature[0] == 'd';
	}
	if (data != sectors - front)
		return false;
	for (uint32_t i = 0; i < data; i++)
		if (memcmp(page[i].signature, "data", 4) ||
		    from_le32(page[i].sequence_high) != sequence >> 32 ||
		    from_le32(page[i].sequence_low) != (uint32_t)sequence)
			return false;
	return true;
}

static bool sum_is_right(const struct vhdx_log_entry *entry, uint32_t sectors)
{
	uint32_t sum = crc32c(0, entry, 4);

	sum = crc32c(sum, "\0\0\0", 4);
	sum = crc32c(sum, (const char *)entry + 8, sectors * VHDX_PAGE - 8);
	return sum == from_le32(entry->checksum);
}

static struct entry entry_at(const struct replay *r, uint32_t sector)
{
	const struct vhdx_log_entry *entry = sector_at(r, sector);
	const struct vhdx_header *header = &r->layout->header[r->layout->current];
	uint32_t len = from_le32(entry->len), tail = from_le32(entry->tail);
	struct entry none = { 0 };

	if (memcmp(entry->signature, "loge", 4) || !vhdx_guid_is(&entry->log, &header->log) ||
	    !len || len % VHDX_PAGE || len / VHDX_PAGE > r->sectors || tail % VHDX_PAGE ||
	    tail / VHDX_PAGE >= r->sectors || !from_le64(entry->sequence) ||
	    from_le32(entry->descriptors) > len / sizeof(struct vhdx_log_descriptor) ||
	    !descriptors_sound(entry, len / VHDX_PAGE) || !sum_is_right(entry, len / VHDX_PAGE))
		return none;
	return (struct entry){ len / VHDX_PAGE, tail / VHDX_PAGE, from_le64(entry->sequence) };
}

/* Whether whole entries lead from an entry's tail to it. */
static bool is_head(const struct replay *r, uint32_t head)
{
	uint32_t at = r->entry[head].tail;
	uint64_t used = 0;

	while (at != head) {
		const struct entry *entry = &r->entry[at];
		uint32_t next = entry->sectors ? (at + entry->sectors) % r->sectors : 0;

		used += entry->sectors;
		if (!entry->sectors || used >= r->sectors || !r->entry[next].sectors ||
		    r->entry[next].sequence != entry->sequence + 1)
			return false;
		at = next;
	}
	return used + r->entry[head].sectors <= r->sectors;
}

static void find_head(struct replay *r)
{
	for (uint32_t i = 0; i < r->sectors; i++)
		r->entry[i] = entry_at(r, i);
	for (uint32_t i = 0; i < r->sectors; i++) {
		if (!r->entry[i].sectors || (r->found && r->entry[i].sequence <=
					     r->entry[r->head].sequence) || !is_head(r, i))
			continue;
		r->head = i;
		r->found = true;
	}
	if (r->found)
		r->tail = r->entry[r->head].tail;
}

static int log_read(struct replay *r)
{
	const struct vhdx_span *log = &r->layout->log;
	int err;

	if (log->len > VHDX_LOG_MAX)
		return td_fail(r->why, -ENOTSUP, "%s: a log of %llu MiB has to be replayed; this driver "
			       "takes 32", r->path, (unsigned long long)(log->len / MiB));
	r->sectors = log->len / VHDX_PAGE;
	r->ring = malloc(2 * log->len);
	r->entry = calloc(r->sectors, sizeof(*r->entry));
	if (!r->ring || !r->entry)
		return td_fail(r->why, -ENOMEM, "%s: no memory", r->path);
	err = td_file_read(r->file, r->ring, log->len, log->at);
	if (err)
		return td_fail(r->why, err, "%s: cannot read its log", r->path);
	memcpy(r->ring + log->len, r->ring, log->len);
	return 0;
}

/* ---- bringing it to its places ---------------------------------------------------- */

/* Zeroes, without making blocks of the file where there are none. */
static int zero_now(struct replay *r, uint64_t at, uint64_t len)
{
	AUTO_FREE char *buf = malloc(CHUNK);
	uint64_t end = min_u64(at + len, td_file_size(r->file));
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t n; at < end && !err; at += n) {
		n = min_u64(end - at, CHUNK);
		err = td_file_read(r->file, buf, n, at);
		if (err || (!buf[0] && !memcmp(buf, buf + 1, n - 1)))
			continue;
		memset(buf, 0, n);
		err = td_file_write(r->file, buf, n, at);
	}
	return err;
}

static int change_file(struct replay *r, const struct vhdx_patch *patch)
{
	if (!patch->data)
		return zero_now(r, patch->at, patch->len);
	return td_file_write(r->file, patch->data, patch->len, patch->at);
}

/* For reading only. The reader has room. */
static int change_reader(struct replay *r, const struct vhdx_patch *patch)
{
	struct vhdx_patch *own = &r->out->patch[r->out->patches];

	*own = *patch;
	if (patch->data) {
		own->data = malloc(patch->len);
		if (!own->data)
			return -ENOMEM;
		memcpy(own->data, patch->data, patch->len);
	}
	r->out->patches++;
	return 0;
}

static int apply_one(struct replay *r, const struct vhdx_log_descriptor *d,
		     const struct vhdx_log_data **page, uint64_t last)
{
	struct vhdx_patch patch = { .at = from_le64(d->at), .len = from_le64(d->head) };
	uint8_t data[VHDX_PAGE];
	int err;

	if (d->signature[0] == 'd') {
		memcpy(data, &d->head, VHDX_LOG_HEAD);
		memcpy(data + VHDX_LOG_HEAD, (*page)->middle, sizeof((*page)->middle));
		memcpy(data + VHDX_PAGE - VHDX_LOG_TAIL, &d->tail, VHDX_LOG_TAIL);
		patch.data = data;
		patch.len = VHDX_PAGE;
		++*page;
	}
	if (!is_aligned(patch.at, VHDX_PAGE) || !is_aligned(patch.len, VHDX_PAGE) ||
	    patch.at < VHDX_REGIONS_AT || patch.at > last || patch.len > last - patch.at ||
	    vhdx_hits(&r->layout->log, patch.at, patch.len))
		return td_fail(r->why, -EINVAL, "%s: its log changes %llu bytes at %llu, which cannot be",
			       r->path, (unsigned long long)patch.len, (unsigned long long)patch.at);
	err = r->out->patch ? change_reader(r, &patch) : change_file(r, &patch);
	return err ? td_fail(r->why, err, "%s: cannot replay its log: %s", r->path, strerror(-err)) : 0;
}

static int apply_entry(struct replay *r, uint32_t sector, uint64_t last)
{
	const struct vhdx_log_entry *entry = sector_at(r, sector);
	const struct vhdx_log_descriptor *d = (const void *)(entry + 1);
	uint32_t count = from_le32(entry->descriptors);
	const struct vhdx_log_data *page = sector_at(r, sector + front_of(count));
	int err = 0;

	for (uint32_t i = 0; i < count && !err; i++)
		err = apply_one(r, &d[i], &page, last);
	return err;
}

static int apply_all(struct replay *r)
{
	uint64_t last = max_u64(r->out->size, td_file_size(r->file));
	uint32_t at = r->tail;
	int err;

	while (!(err = apply_entry(r, at, last)) && at != r->head)
		at = (at + r->entry[at].sectors) % r->sectors;
	return err;
}

/* Room for all of them, where the file must not be changed. */
static int room_for_patches(struct replay *r)
{
	size_t count = 1;
	uint32_t at = r->tail;

	for (;;) {
		const struct vhdx_log_entry *entry = sector_at(r, at);

		count += from_le32(entry->descriptors);
		if (at == r->head)
			break;
		at = (at + r->entry[at].sectors) % r->sectors;
	}
	r->out->patch = calloc(count, sizeof(*r->out->patch));
	return r->out->patch ? 0 : td_fail(r->why, -ENOMEM, "%s: no memory", r->path);
}

static int check_size(struct replay *r)
{
	const struct vhdx_log_entry *head = sector_at(r, r->head);
	uint64_t flushed = from_le64(head->flushed);

	r->out->size = from_le64(head->last);
	if (flushed > td_file_size(r->file))
		return td_fail(r->why, -EINVAL, "%s: had %llu bytes when its log was written, and has "
			       "%llu: it has been cut off", r->path, (unsigned long long)flushed,
			       (unsigned long long)td_file_size(r->file));
	if (r->out->size > VHDX_FILE_MAX)
		return td_fail(r->why, -EFBIG, "%s: its log wants a file of more than 256 TiB", r->path);
	return 0;
}

static int replay(struct replay *r, bool read_only)
{
	int err = log_read(r);

	if (err)
		return err;
	find_head(r);
	/* none is whole: the writer had not come so far as to change anything */
	if (!r->found)
		return 0;
	err = check_size(r);
	if (!err && read_only)
		err = room_for_patches(r);
	if (!err && !read_only && r->out->size > td_file_size(r->file)) {
		err = td_file_truncate(r->file, r->out->size);
		if (err)
			td_fail(r->why, err, "%s: cannot make it longer: %s", r->path, strerror(-err));
	}
	return err ? err : apply_all(r);
}

int vhdx_replay(struct td_file *file, bool read_only, struct vhdx_layout *layout,
		struct vhdx_reader *out, struct td_why *why)
{
	struct replay r = { .file = file, .layout = layout, .out = out, .why = why,
			    .path = td_file_path(file) };
	int err = 0;

	*out = (struct vhdx_reader){ .file = file };
	if (vhdx_guid_is(&layout->header[layout->current].log, &vhdx_guid_none))
		return 0;
	out->unclean = true;
	err = replay(&r, read_only);
	if (!err && !read_only) {
		err = td_file_sync(file);
		if (!err)
			err = vhdx_log_close(file, layout);
		if (err)
			td_fail(why, err, "%s: cannot replay its log: %s", r.path, strerror(-err));
		else
			td_log(r.path, LOG_NOTICE, "its log has been replayed");
	}
	free(r.ring);
	free(r.entry);
	return err;
}

void vhdx_reader_free(struct vhdx_reader *reader)
{
	for (size_t i = 0; i < reader->patches; i++)
		free(reader->patch[i].data);
	free(reader->patch);
	reader->patch = NULL;
	reader->patches = 0;
}

/* ---- reading with it -------------------------------------------------------------- */

void vhdx_patch(const struct vhdx_reader *reader, void *buf, size_t len, uint64_t at)
{
	for (size_t i = 0; i < reader->patches; i++) {
		const struct vhdx_patch *patch = &reader->patch[i];
		uint64_t from = max_u64(at, patch->at), end = min_u64(at + len, patch->at + patch->len);

		if (from >= end)
			continue;
		if (patch->data)
			memcpy((char *)buf + (from - at), patch->data + (from - patch->at), end - from);
		else
			memset((char *)buf + (from - at), 0, end - from);
	}
}

bool vhdx_patched(const struct vhdx_reader *reader, uint64_t at, uint64_t len)
{
	for (size_t i = 0; i < reader->patches; i++)
		if (reader->patch[i].at < at + len && at < reader->patch[i].at + reader->patch[i].len)
			return true;
	return false;
}

int vhdx_read(const struct vhdx_reader *reader, void *buf, size_t len, uint64_t at)
{
	int err = td_file_read(reader->file, buf, len, at);

	if (!err)
		vhdx_patch(reader, buf, len, at);
	return err;
}
