/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image:
 *
 *     header | block map | data
 *
 * A fixed one, or one with reserve, has all blocks from the start, in order; with
 * reserve their space too.
 */
#include <stdlib.h>

#include "drivers/vdi/vdi.h"

#include "base/guard.h"
#include "base/uuid.h"

#define BLOCK (1 * MiB)
#define CHUNK (64 * KiB)

struct plan {
	struct vdi_layout layout;
	bool reserve;
};

const struct td_option vdi_create_options[] = {
	TD_SUBFORMAT_OPTIONS(struct vdi_create_options, subformat,
			     "fixed or dynamic; default dynamic"),
	{ 0 },
};

static int plan_layout(const struct td_create *make, struct vdi_layout *layout,
		       struct td_why *why)
{
	const struct vdi_create_options *options = make->options;
	uint64_t block = make->cluster ? make->cluster : BLOCK;
	bool fixed;
	int err;

	if (make->backing)
		return td_fail(why, -EINVAL, "%s: a VDI does not name an image that it lies over",
			       make->path);
	err = td_subformat_plan(make, options ? options->subformat : NULL, &fixed, why);
	if (err)
		return err;
	if (!is_pow2(block) || block < 4096 || block > VDI_BLOCK_MAX)
		return td_fail(why, -EINVAL, "%s: a block size of %llu is not a power of 2 from 4K to "
			       "64M", make->path, (unsigned long long)block);
	if (!make->size || make->size % 512 || make->size > VDI_BLOCKS_MAX * block)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; a VDI with blocks of %llu has a "
			       "multiple of 512 up to %llu", make->path,
			       (unsigned long long)make->size, (unsigned long long)block,
			       (unsigned long long)(VDI_BLOCKS_MAX * block));
	layout->size = make->size;
	layout->block_bits = __builtin_ctzll(block);
	layout->blocks = ((make->size - 1) >> layout->block_bits) + 1;
	layout->type = fixed ? VDI_FIXED : VDI_DYNAMIC;
	layout->used = fixed || make->reserve ? layout->blocks : 0;
	layout->map_at = sizeof(struct vdi_header);
	layout->data_at = round_up(layout->map_at + layout->blocks * 4, VDI_ALIGN);
	return 0;
}

static int write_header(struct td_file *file, const struct vdi_layout *layout)
{
	struct vdi_header header = {
		.text = "<<< blktap VirtualBox Disk Image >>>\n",
		.signature = to_le32(VDI_SIGNATURE),
		.version = to_le32(0x10001),
		.length = to_le32(0x190),
		.type = to_le32(layout->type),
		.map_at = to_le32(layout->map_at),
		.data_at = to_le32(layout->data_at),
		.sector = to_le32(512),
		.size = to_le64(layout->size),
		.block = to_le32(vdi_block(layout)),
		.blocks = to_le32(layout->blocks),
		.used = to_le32(layout->used),
	};
	int err = td_uuid_make(header.uuid, TD_UUID_LITTLE);

	if (!err)
		err = td_uuid_make(header.uuid_modify, TD_UUID_LITTLE);
	return err ? err : td_file_write(file, &header, sizeof(header), 0);
}

static int write_map(struct td_file *file, const struct vdi_layout *layout)
{
	uint64_t count = (layout->data_at - layout->map_at) / 4;
	AUTO_FREE le32 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0, n; !err && i < count; i += n) {
		n = min_u64(count - i, CHUNK / 4);
		for (uint64_t k = 0; k < n; k++)
			buf[k] = to_le32(i + k < layout->used ? i + k : VDI_NO_BLOCK);
		err = td_file_write(file, buf, n * 4, layout->map_at + i * 4);
	}
	return err;
}

static int fill(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;
	const struct vdi_layout *layout = &plan->layout;
	uint64_t end = vdi_place(layout, layout->used);
	int err = plan->reserve ? td_file_allocate(file, 0, end) : td_file_truncate(file, end);

	if (!err)
		err = write_map(file, layout);
	return err ? err : write_header(file, layout);
}

int vdi_create(const struct td_create *make, struct td_why *why)
{
	struct plan plan = { .reserve = make->reserve };
	int err = plan_layout(make, &plan.layout, why);

	return err ? err : td_file_make(make->files, make->path, fill, &plan, why);
}

int vdi_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	struct vdi_layout layout = { 0 };
	int err = plan_layout(make, &layout, why);

	if (err)
		return err;
	*out = (struct td_measure){ .tables = vdi_place(&layout, layout.used),
				    .unit = layout.used ? 0 : vdi_block(&layout) };
	return 0;
}
