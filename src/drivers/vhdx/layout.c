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

#include "base/guard.h"
#include "drivers/vhdx/crc32c.h"
#include "drivers/vhdx/log.h"

/* As they lie in the file: the first three numbers are little-endian. */
#define GUID(name, a, b, c, d, e) \
	const struct vhdx_guid vhdx_guid_##name = { { \
		(a) & 255, (a) >> 8 & 255, (a) >> 16 & 255, (a) >> 24, (b) & 255, (b) >> 8, \
		(c) & 255, (c) >> 8, (d) >> 8, (d) & 255, (e) >> 40 & 255, (e) >> 32 & 255, \
		(e) >> 24 & 255, (e) >> 16 & 255, (e) >> 8 & 255, (e) & 255 } }

GUID(bat,          0x2dc27766, 0xf623, 0x4200, 0x9d64, 0x115e9bfd4a08);
GUID(metadata,     0x8b7ca206, 0x4790, 0x4b9a, 0xb8fe, 0x575f050f886e);
GUID(parameters,   0xcaa16737, 0xfa36, 0x4d43, 0xb3b6, 0x33f0aa44e76b);
GUID(size,         0x2fa54224, 0xcd1b, 0x4876, 0xb211, 0x5dbed83bf4b8);
GUID(disk,         0xbeca12ab, 0xb2e6, 0x4523, 0x93ef, 0xc309e000c746);
GUID(sector,       0x8141bf1d, 0xa96f, 0x4709, 0xba47, 0xf233a8faab5f);
GUID(physical,     0xcda348c7, 0x445d, 0x4471, 0x9cc9, 0xe9885251c556);
GUID(locator,      0xa8d35f2d, 0xb30b, 0x454d, 0xabf7, 0xd3d84834ab0c);
GUID(locator_type, 0xb04aefb7, 0xd19e, 0x4a81, 0xb789, 0x25b8e9445913);
const struct vhdx_guid vhdx_guid_none;

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
	char text[TD_UUID_TEXT];

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
	char text[TD_UUID_TEXT];

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
