/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header: read, doubted, and turned into a struct vdi_layout.
 */
#include "drivers/vdi/vdi.h"

#include <string.h>

#define HEADER_LEAST 0x180 /* of version 1.1, from its length on */

bool vdi_looks_like(struct td_file *file)
{
	struct vdi_header header;

	return td_file_size(file) >= sizeof(header) &&
	       !td_file_read(file, &header, sizeof(header), 0) &&
	       from_le32(header.signature) == VDI_SIGNATURE;
}

static int check_kind(const char *path, struct vdi_layout *layout, struct td_why *why)
{
	const struct vdi_header *header = &layout->header;
	uint32_t version = from_le32(header->version);

	if (from_le32(header->signature) != VDI_SIGNATURE)
		return td_fail(why, -EINVAL, "%s: no VDI image", path);
	if (version >> 16 != 1 || from_le32(header->length) < HEADER_LEAST)
		return td_fail(why, -ENOTSUP, "%s: VDI version %u.%u with a header of %u bytes; this "
			       "driver knows 1.1", path, version >> 16, version & 0xffff,
			       from_le32(header->length));
	layout->type = from_le32(header->type);
	if (layout->type == 3 || layout->type == 4)
		return td_fail(why, -ENOTSUP, "%s: is %s image: VDI does not name the image that it "
			       "lies over", path, layout->type == 3 ? "an undo" : "a differencing");
	if (layout->type != VDI_DYNAMIC && layout->type != VDI_FIXED)
		return td_fail(why, -ENOTSUP, "%s: a VDI of type %u; this driver knows 1 (dynamic) and 2 "
			       "(fixed)", path, layout->type);
	if (from_le32(header->sector) != 512)
		return td_fail(why, -ENOTSUP, "%s: sectors of %u bytes are not supported", path,
			       from_le32(header->sector));
	if (from_le32(header->extra))
		return td_fail(why, -ENOTSUP, "%s: blocks with %u bytes of their own are not supported",
			       path, from_le32(header->extra));
	return 0;
}

static int check_numbers(struct td_file *file, struct vdi_layout *layout, struct td_why *why)
{
	const struct vdi_header *header = &layout->header;
	const char *path = td_file_path(file);
	uint32_t block = from_le32(header->block);
	uint64_t map_len, file_size = td_file_size(file);

	if (!is_pow2(block) || block < 4096 || block > VDI_BLOCK_MAX)
		return td_fail(why, -EINVAL, "%s: blocks of %u bytes are not a power of 2 from 4K to "
			       "64M", path, block);
	layout->block_bits = __builtin_ctz(block);
	layout->blocks = from_le32(header->blocks);
	layout->used = from_le32(header->used);
	layout->size = from_le64(header->size);
	if (!layout->size || layout->size > VDI_BLOCKS_MAX * block)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes cannot be", path,
			       (unsigned long long)layout->size);
	layout->size = round_up(layout->size, 512);
	if (layout->blocks > VDI_BLOCKS_MAX ||
	    layout->blocks < ((layout->size - 1) >> layout->block_bits) + 1)
		return td_fail(why, -EINVAL, "%s: %llu blocks of %u bytes for a disk of %llu cannot be",
			       path, (unsigned long long)layout->blocks, block,
			       (unsigned long long)layout->size);
	if (layout->used > VDI_PLACES_MAX)
		return td_fail(why, -EINVAL, "%s: %llu places are in use, which cannot be", path,
			       (unsigned long long)layout->used);
	layout->map_at = from_le32(header->map_at);
	layout->data_at = from_le32(header->data_at);
	map_len = layout->blocks * 4;
	if (layout->map_at < sizeof(*header) || !is_aligned(layout->map_at, 512) ||
	    layout->map_at > file_size || map_len > file_size - layout->map_at)
		return td_fail(why, -EINVAL, "%s: its block map, %llu entries at %llu, cannot be", path,
			       (unsigned long long)layout->blocks,
			       (unsigned long long)layout->map_at);
	if (layout->data_at < layout->map_at + map_len || !is_aligned(layout->data_at, 512))
		return td_fail(why, -EINVAL, "%s: its data, at %llu, cannot be there", path,
			       (unsigned long long)layout->data_at);
	return 0;
}

int vdi_layout_read(struct td_file *file, struct vdi_layout *out, struct td_why *why)
{
	const char *path = td_file_path(file);
	int err;

	if (td_file_size(file) < sizeof(out->header))
		return td_fail(why, -EINVAL, "%s: no VDI image: it is too short", path);
	err = td_file_read(file, &out->header, sizeof(out->header), 0);
	if (err)
		return td_fail(why, err, "%s: cannot read its header", path);
	err = check_kind(path, out, why);
	return err ? err : check_numbers(file, out, why);
}
