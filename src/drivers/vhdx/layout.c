/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front, headers, region table and metadata: read, doubted, and turned into a struct
 * vhdx_layout.
 *
 * There are two headers, of which the sound one with the higher sequence number counts,
 * and two region tables, of which the first sound one does. What a table points to
 * begins at a multiple of 1 MiB, and nothing overlaps.
 */
#include "drivers/vhdx/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/guard.h"
#include "drivers/vhdx/crc32c.h"
#include "drivers/vhdx/log.h"

const struct vhdx_guid vhdx_guid_bat = VHDX_GUID(
	0x2dc27766, 0xf623, 0x4200, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08);
const struct vhdx_guid vhdx_guid_metadata = VHDX_GUID(
	0x8b7ca206, 0x4790, 0x4b9a, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e);
const struct vhdx_guid vhdx_guid_parameters = VHDX_GUID(
	0xcaa16737, 0xfa36, 0x4d43, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b);
const struct vhdx_guid vhdx_guid_size = VHDX_GUID(
	0x2fa54224, 0xcd1b, 0x4876, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8);
const struct vhdx_guid vhdx_guid_disk = VHDX_GUID(
	0xbeca12ab, 0xb2e6, 0x4523, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46);
const struct vhdx_guid vhdx_guid_sector = VHDX_GUID(
	0x8141bf1d, 0xa96f, 0x4709, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f);
const struct vhdx_guid vhdx_guid_physical = VHDX_GUID(
	0xcda348c7, 0x445d, 0x4471, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56);
const struct vhdx_guid vhdx_guid_locator = VHDX_GUID(
	0xa8d35f2d, 0xb30b, 0x454d, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c);
const struct vhdx_guid vhdx_guid_locator_type = VHDX_GUID(
	0xb04aefb7, 0xd19e, 0x4a81, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13);
const struct vhdx_guid vhdx_guid_none;

bool vhdx_guid_make(struct vhdx_guid *guid)
{
	if (getrandom(guid, sizeof(*guid), 0) != sizeof(*guid))
		return false;
	guid->b[7] = (guid->b[7] & 0x0f) | 0x40;
	guid->b[8] = (guid->b[8] & 0x3f) | 0x80;
	return true;
}

void vhdx_guid_text(const struct vhdx_guid *guid, char text[VHDX_GUID_TEXT])
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	for (unsigned i = 0; i < 16; i++)
		text += sprintf(text, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
				guid->b[order[i]]);
}

/* ---- headers ---------------------------------------------------------------------- */

/* Of len bytes with 0 in the place of the checksum, which comes behind the signature. */
static uint32_t sum_of(const void *data, size_t len)
{
	uint32_t sum = crc32c(0, data, 4);

	sum = crc32c(sum, "\0\0\0", 4);
	return crc32c(sum, (const char *)data + 8, len - 8);
}

void vhdx_header_seal(struct vhdx_header *header)
{
	header->checksum = to_le32(sum_of(header, sizeof(*header)));
}

void vhdx_regions_seal(struct vhdx_regions *regions)
{
	regions->checksum = to_le32(sum_of(regions, sizeof(*regions)));
}

static bool front_read(struct td_file *file)
{
	char signature[8];

	return td_file_size(file) >= VHDX_FRONT && !td_file_read(file, signature, 8, 0) &&
	       !memcmp(signature, "vhdxfile", 8);
}

bool vhdx_looks_like(struct td_file *file)
{
	return front_read(file);
}

static bool header_sound(const struct vhdx_header *header)
{
	return !memcmp(header->signature, "head", 4) &&
	       from_le32(header->checksum) == sum_of(header, sizeof(*header));
}

static int header_check(const struct vhdx_header *header, struct vhdx_layout *layout,
			struct td_file *file, struct td_why *why)
{
	const char *path = td_file_path(file);
	struct vhdx_span *log = &layout->log;

	if (from_le16(header->version) != 1)
		return td_fail(why, -ENOTSUP, "%s: VHDX version %u; this driver knows 1", path,
			       from_le16(header->version));
	if (from_le16(header->log_version) && !vhdx_guid_is(&header->log, &vhdx_guid_none))
		return td_fail(why, -ENOTSUP, "%s: a log of version %u; this driver knows 0", path,
			       from_le16(header->log_version));
	if (from_le64(header->sequence) > UINT64_MAX - 16)
		return td_fail(why, -EINVAL, "%s: its header cannot be counted on", path);
	log->at = from_le64(header->log_at);
	log->len = from_le32(header->log_len);
	if (log->at < VHDX_FRONT || !is_aligned(log->at, VHDX_ALIGN) || !log->len ||
	    !is_aligned(log->len, VHDX_ALIGN) || log->at > td_file_size(file) ||
	    log->len > td_file_size(file) - log->at)
		return td_fail(why, -EINVAL, "%s: its log, %llu bytes at %llu, cannot be", path,
			       (unsigned long long)log->len, (unsigned long long)log->at);
	return 0;
}

int vhdx_headers_read(struct td_file *file, struct vhdx_layout *out, struct td_why *why)
{
	struct vhdx_header *header = out->header;

	if (!front_read(file))
		return td_fail(why, -EINVAL, "%s: no VHDX image: it does not begin like one",
			       td_file_path(file));
	if (td_file_size(file) > VHDX_FILE_MAX)
		return td_fail(why, -EFBIG, "%s: a file of more than 256 TiB", td_file_path(file));
	for (unsigned i = 0; i < 2; i++) {
		int err = td_file_read(file, &header[i], sizeof(*header), (i + 1) * VHDX_HEADERS_AT);

		if (err)
			return td_fail(why, err, "%s: cannot read its header", td_file_path(file));
		out->sound[i] = header_sound(&header[i]);
	}
	if (!out->sound[0] && !out->sound[1])
		return td_fail(why, -EINVAL, "%s: both of its headers are damaged", td_file_path(file));
	out->current = !out->sound[0] || (out->sound[1] && from_le64(header[1].sequence) >
					  from_le64(header[0].sequence));
	return header_check(&header[out->current], out, file, why);
}

/* ---- regions ---------------------------------------------------------------------- */

struct reading {
	struct vhdx_reader *reader;
	struct vhdx_layout *layout;
	const char *path;
	uint64_t file_size;
	struct td_why *why;
};

static int region_check(struct reading *r, const struct vhdx_region *region,
			struct vhdx_span *out)
{
	uint64_t at = from_le64(region->at), len = from_le32(region->len);

	if (at < VHDX_FRONT || !is_aligned(at, VHDX_ALIGN) || !len || !is_aligned(len, VHDX_ALIGN) ||
	    at > r->file_size || len > r->file_size - at)
		return td_fail(r->why, -EINVAL, "%s: a region of %llu bytes at %llu cannot be", r->path,
			       (unsigned long long)len, (unsigned long long)at);
	*out = (struct vhdx_span){ at, len };
	r->layout->tables_end = max_u64(r->layout->tables_end, at + len);
	return 0;
}

static int region_take(struct reading *r, const struct vhdx_region *region)
{
	struct vhdx_layout *layout = r->layout;
	struct vhdx_span other, *span = &other;
	char text[VHDX_GUID_TEXT];

	if (vhdx_guid_is(&region->guid, &vhdx_guid_bat))
		span = &layout->bat;
	else if (vhdx_guid_is(&region->guid, &vhdx_guid_metadata))
		span = &layout->metadata;
	else if (from_le32(region->required) & 1) {
		vhdx_guid_text(&region->guid, text);
		return td_fail(r->why, -ENOTSUP, "%s: needs a region that this driver does not know: %s",
			       r->path, text);
	}
	if (span != &other && span->len)
		return td_fail(r->why, -EINVAL, "%s: has the same region twice", r->path);
	return region_check(r, region, span);
}

int vhdx_regions_read(struct vhdx_reader *reader, struct vhdx_regions *out)
{
	for (unsigned i = 0; i < 2; i++) {
		int err = vhdx_read(reader, out, sizeof(*out), VHDX_REGIONS_AT + i * VHDX_TABLE);

		if (err)
			return err;
		if (!memcmp(out->signature, "regi", 4) &&
		    from_le32(out->checksum) == sum_of(out, sizeof(*out)) &&
		    from_le32(out->count) <= VHDX_ENTRIES_MAX)
			return 0;
	}
	return -EBADMSG;
}

static int regions_read(struct reading *r)
{
	struct vhdx_layout *layout = r->layout;
	AUTO_FREE struct vhdx_regions *regions = malloc(sizeof(*regions));
	int err = regions ? vhdx_regions_read(r->reader, regions) : -ENOMEM;

	if (err == -EBADMSG)
		return td_fail(r->why, -EINVAL, "%s: both of its region tables are damaged", r->path);
	if (err)
		return td_fail(r->why, err, "%s: cannot read its region table", r->path);
	for (unsigned i = 0; i < from_le32(regions->count) && !err; i++)
		err = region_take(r, &regions->region[i]);
	if (err)
		return err;
	if (!layout->bat.len || !layout->metadata.len)
		return td_fail(r->why, -EINVAL, "%s: has no block table, or no metadata", r->path);
	if (vhdx_hits(&layout->bat, layout->metadata.at, layout->metadata.len) ||
	    vhdx_hits(&layout->log, layout->metadata.at, layout->metadata.len) ||
	    vhdx_hits(&layout->log, layout->bat.at, layout->bat.len))
		return td_fail(r->why, -EINVAL, "%s: log, block table and metadata overlap", r->path);
	return 0;
}

/* ---- metadata --------------------------------------------------------------------- */

struct values {
	struct vhdx_parameters parameters;
	le64 size;
	struct vhdx_guid disk;
	le32 sector, physical;
	bool has[5];
};

static int item_read(struct reading *r, const struct vhdx_item *item, void *out, size_t len,
		     bool *has)
{
	if (*has || from_le32(item->len) < len)
		return td_fail(r->why, -EINVAL, "%s: an item of its metadata is there twice, or too "
			       "short", r->path);
	*has = true;
	return vhdx_read(r->reader, out, len, r->layout->metadata.at + from_le32(item->at));
}

static int item_take(struct reading *r, const struct vhdx_item *item, struct values *values)
{
	const struct {
		const struct vhdx_guid *guid;
		void *value;
		size_t len;
	} known[] = {
		{ &vhdx_guid_parameters, &values->parameters, sizeof(values->parameters) },
		{ &vhdx_guid_size, &values->size, sizeof(values->size) },
		{ &vhdx_guid_disk, &values->disk, sizeof(values->disk) },
		{ &vhdx_guid_sector, &values->sector, sizeof(values->sector) },
		{ &vhdx_guid_physical, &values->physical, sizeof(values->physical) },
	};
	uint32_t at = from_le32(item->at), len = from_le32(item->len), flags = from_le32(item->flags);
	char text[VHDX_GUID_TEXT];

	if (len && (at < VHDX_TABLE || at > r->layout->metadata.len ||
		    len > r->layout->metadata.len - at))
		return td_fail(r->why, -EINVAL, "%s: an item of its metadata, %u bytes at %u, does not "
			       "lie in it", r->path, len, at);
	if (vhdx_guid_is(&item->guid, &vhdx_guid_size))
		r->layout->size_at = r->layout->metadata.at + at;
	if (vhdx_guid_is(&item->guid, &vhdx_guid_parameters))
		r->layout->flags_at = r->layout->metadata.at + at +
				      offsetof(struct vhdx_parameters, flags);
	for (unsigned i = 0; i < ARRAY_SIZE(known) && !(flags & VHDX_ITEM_USER); i++)
		if (vhdx_guid_is(&item->guid, known[i].guid))
			return item_read(r, item, known[i].value, known[i].len, &values->has[i]);
	if (!(flags & VHDX_ITEM_USER) && vhdx_guid_is(&item->guid, &vhdx_guid_locator)) {
		r->layout->locator = (struct vhdx_span){ r->layout->metadata.at + at, len };
		return 0;
	}
	if (!(flags & VHDX_ITEM_REQUIRED))
		return 0;
	vhdx_guid_text(&item->guid, text);
	return td_fail(r->why, -ENOTSUP, "%s: needs an item of metadata that this driver does not "
		       "know: %s", r->path, text);
}

static int metadata_read(struct reading *r, struct values *values)
{
	AUTO_FREE struct vhdx_metadata *table = malloc(sizeof(*table));
	int err = table ? vhdx_read(r->reader, table, sizeof(*table), r->layout->metadata.at) : -ENOMEM;

	if (err)
		return td_fail(r->why, err, "%s: cannot read its metadata", r->path);
	if (memcmp(table->signature, "metadata", 8) || from_le16(table->count) > VHDX_ENTRIES_MAX)
		return td_fail(r->why, -EINVAL, "%s: its metadata is damaged", r->path);
	for (unsigned i = 0; i < from_le16(table->count); i++) {
		r->why->text[0] = 0;
		err = item_take(r, &table->item[i], values);
		if (err)
			return r->why->text[0] ? err : td_fail(r->why, err, "%s: cannot read its metadata",
							       r->path);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(values->has); i++)
		if (!values->has[i])
			return td_fail(r->why, -EINVAL, "%s: its metadata lacks an item that every VHDX "
				       "has", r->path);
	return 0;
}

void vhdx_layout_count(struct vhdx_layout *layout)
{
	layout->ratio_bits = 23 + layout->sector_bits - layout->block_bits;
	layout->blocks = ((layout->size - 1) >> layout->block_bits) + 1;
	layout->chunks = ((layout->blocks - 1) >> layout->ratio_bits) + 1;
	layout->entries = layout->blocks + layout->chunks - 1;
	if (layout->has_parent)
		layout->entries = (layout->chunks << layout->ratio_bits) + layout->chunks;
}

static int values_check(struct reading *r, const struct values *values)
{
	struct vhdx_layout *layout = r->layout;
	uint32_t block = from_le32(values->parameters.block), sector = from_le32(values->sector);
	uint32_t flags = from_le32(values->parameters.flags);

	layout->size = from_le64(values->size);
	layout->physical = from_le32(values->physical);
	layout->disk = values->disk;
	if (sector != 512 && sector != 4096)
		return td_fail(r->why, -EINVAL, "%s: sectors of %u bytes; there are 512 and 4096",
			       r->path, sector);
	if (!is_pow2(block) || block < VHDX_BLOCK_MIN || block > VHDX_BLOCK_MAX)
		return td_fail(r->why, -EINVAL, "%s: blocks of %u bytes are not a power of 2 from 1M to "
			       "256M", r->path, block);
	if (!layout->size || layout->size > VHDX_SIZE_MAX || !is_aligned(layout->size, sector))
		return td_fail(r->why, -EINVAL, "%s: a disk of %llu bytes; a VHDX has whole sectors up "
			       "to 64 TiB", r->path, (unsigned long long)layout->size);
	layout->sector_bits = __builtin_ctz(sector);
	layout->block_bits = __builtin_ctz(block);
	layout->fixed = flags & VHDX_LEAVE_ALLOCATED;
	layout->has_parent = flags & VHDX_HAS_PARENT;
	vhdx_layout_count(layout);
	if (layout->entries > layout->bat.len / 8)
		return td_fail(r->why, -EINVAL, "%s: its block table has %llu entries; a disk of %llu "
			       "bytes needs %llu", r->path, (unsigned long long)layout->bat.len / 8,
			       (unsigned long long)layout->size, (unsigned long long)layout->entries);
	if (layout->has_parent && (!layout->locator.len || layout->locator.len > VHDX_LOCATOR_MAX))
		return td_fail(r->why, -EINVAL, "%s: does not say where its parent is", r->path);
	return 0;
}

int vhdx_tables_read(struct vhdx_reader *reader, struct vhdx_layout *out, struct td_why *why)
{
	struct td_why unasked;
	struct reading r = { .reader = reader, .layout = out, .path = td_file_path(reader->file),
			     .file_size = vhdx_reader_size(reader), .why = why ? why : &unasked };
	struct values values = { 0 };
	int err;

	out->tables_end = max_u64(VHDX_FRONT, out->log.at + out->log.len);
	err = regions_read(&r);
	if (!err)
		err = metadata_read(&r, &values);
	return err ? err : values_check(&r, &values);
}
