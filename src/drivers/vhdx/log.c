/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes the log, and the headers that say whether it counts.
 *
 * When an entry is written all before it is in its place, durably: so it alone counts,
 * and says that by naming itself as the oldest one. Entries go into the two halves of
 * the log in turn, for the last one must stay whole until the next is.
 *
 *   header, log empty -> an entry without pages -> header with the log's GUID -> entries
 *   and pages ... -> header, log empty
 */
#include "drivers/vhdx/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/rule.h"
#include "drivers/vhdx/crc32c.h"

#define ENTRY_MAX (4 * MiB)

/* Sectors of an entry's head and descriptors. */
static uint32_t front_of(uint32_t pages)
{
	return (sizeof(struct vhdx_log_entry) + pages * sizeof(struct vhdx_log_descriptor) +
		VHDX_PAGE - 1) / VHDX_PAGE;
}

int vhdx_log_new(struct td_file *file, const struct vhdx_layout *layout, struct vhdx_log **out)
{
	struct vhdx_log *log = calloc(1, sizeof(*log));
	size_t len = min_u64(layout->log.len / 2, ENTRY_MAX);

	if (!log)
		return -ENOMEM;
	log->file = file;
	log->place = layout->log;
	log->room = len / VHDX_PAGE;
	while (front_of(log->room) + log->room > len / VHDX_PAGE)
		log->room--;
	log->entry = aligned_alloc(VHDX_PAGE, len);
	log->at = calloc(log->room, sizeof(*log->at));
	log->page = calloc(log->room, sizeof(*log->page));
	if (!log->entry || !log->at || !log->page) {
		vhdx_log_free(log);
		return -ENOMEM;
	}
	*out = log;
	return 0;
}

void vhdx_log_free(struct vhdx_log *log)
{
	if (!log)
		return;
	free(log->entry);
	free(log->at);
	free(log->page);
	free(log);
}

/* ---- entries ---------------------------------------------------------------------- */

void vhdx_log_begin(struct vhdx_log *log)
{
	log->pages = 0;
}

bool vhdx_log_add(struct vhdx_log *log, uint64_t at, const void *page)
{
	if (log->pages == log->room)
		return false;
	log->at[log->pages] = at;
	log->page[log->pages++] = page;
	return true;
}

static void put_page(struct vhdx_log *log, uint32_t i)
{
	struct vhdx_log_descriptor *d =
		(void *)(log->entry + sizeof(struct vhdx_log_entry) + i * sizeof(*d));
	struct vhdx_log_data *data = (void *)(log->entry + (front_of(log->pages) + i) * VHDX_PAGE);
	const uint8_t *page = log->page[i];

	memcpy(d->signature, "desc", 4);
	memcpy(&d->tail, page + VHDX_PAGE - VHDX_LOG_TAIL, VHDX_LOG_TAIL);
	memcpy(&d->head, page, VHDX_LOG_HEAD);
	d->at = to_le64(log->at[i]);
	d->sequence = to_le64(log->sequence);
	memcpy(data->signature, "data", 4);
	data->sequence_high = to_le32(log->sequence >> 32);
	memcpy(data->middle, page + VHDX_LOG_HEAD, sizeof(data->middle));
	data->sequence_low = to_le32(log->sequence);
}

void vhdx_log_end(struct vhdx_log *log, uint64_t file_size, void **entry, size_t *len,
		  uint64_t *at)
{
	struct vhdx_log_entry *head = (void *)log->entry;
	uint64_t skip = ++log->sequence % 2 ? 0 : log->place.len / 2;

	*len = (front_of(log->pages) + log->pages) * VHDX_PAGE;
	*at = log->place.at + skip;
	*entry = log->entry;
	memset(log->entry, 0, front_of(log->pages) * VHDX_PAGE);
	memcpy(head->signature, "loge", 4);
	head->len = to_le32(*len);
	head->tail = to_le32(skip);
	head->sequence = to_le64(log->sequence);
	head->descriptors = to_le32(log->pages);
	head->log = log->guid;
	head->flushed = head->last = to_le64(file_size);
	for (uint32_t i = 0; i < log->pages; i++)
		put_page(log, i);
	head->checksum = to_le32(crc32c(0, log->entry, *len));
}

int vhdx_log_apply(struct vhdx_log *log, uint64_t file_size)
{
	void *entry;
	size_t len;
	uint64_t at;
	int err;

	vhdx_log_end(log, file_size, &entry, &len, &at);
	err = td_file_write(log->file, entry, len, at);
	if (!err)
		err = td_file_sync(log->file);
	for (uint32_t i = 0; i < log->pages && !err; i++)
		err = td_file_write(log->file, log->page[i], VHDX_PAGE, log->at[i]);
	return err ? err : td_file_sync(log->file);
}

/* ---- headers ---------------------------------------------------------------------- */

int vhdx_header_write(struct td_file *file, struct vhdx_layout *layout, struct vhdx_header *next)
{
	unsigned other = !layout->current;
	int err;

	next->sequence = to_le64(from_le64(layout->header[layout->current].sequence) + 1);
	vhdx_header_seal(next);
	err = td_file_write(file, next, sizeof(*next), (other + 1) * VHDX_HEADERS_AT);
	if (!err)
		err = td_file_sync(file);
	if (err)
		return err;
	layout->header[other] = *next;
	layout->sound[other] = true;
	layout->current = other;
	return 0;
}

int vhdx_log_open(struct vhdx_log *log, struct vhdx_layout *layout, bool data)
{
	struct vhdx_header next = layout->header[layout->current];
	int err;

	log->sequence = 0;
	if (vhdx_guid_make(&log->guid) || vhdx_guid_make(&next.file_write) ||
	    (data && vhdx_guid_make(&next.data_write)))
		return -EIO;
	next.log = log->guid;
	vhdx_log_begin(log);
	err = vhdx_log_apply(log, td_file_size(log->file));
	if (err || !td_rule("vhdx-log-open-before-entries"))
		return err;
	return vhdx_header_write(log->file, layout, &next);
}

int vhdx_log_close(struct td_file *file, struct vhdx_layout *layout)
{
	struct vhdx_header next = layout->header[layout->current];
	int err = vhdx_guid_make(&next.file_write);

	next.log = vhdx_guid_none;
	return err ? err : vhdx_header_write(file, layout, &next);
}
