/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image:
 *
 *   fixed:           the disk | footer
 *   dynamic:         copy of the footer | header | block table | footer
 *   differencing:    likewise, with the parent's locators before the block table
 *
 * The block table comes last, with the footer right behind it: that is where QEMU will
 * put the first block, whatever is there. So there is no batmap, for which XenServer
 * looks behind the table; and the version that we claim, tap 1.1, need not have one.
 *
 * With reserve a dynamic one has all its blocks, and their space, from the start.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "drivers/vhd/vhd.h"

#include "base/guard.h"
#include "base/uuid.h"

#define BLOCK (2 * MiB)
#define CHUNK (64 * KiB)
#define YEAR_2000 946684800

struct plan {
	struct vhd_layout layout;
	struct vhd_parent parent;
	uint64_t locators_at;
	uint64_t end;          /* of the tables */
	uint64_t first;        /* where the first block's bitmap is, with reserve */
	bool reserve;
};

const struct td_option vhd_create_options[] = {
	TD_SUBFORMAT_OPTIONS(struct vhd_create_options, subformat,
			     "fixed or dynamic; default dynamic"),
	{ 0 },
};

static int plan_numbers(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	const struct vhd_create_options *options = make->options;
	struct vhd_layout *layout = &plan->layout;
	uint64_t block = make->cluster ? make->cluster : BLOCK;
	bool fixed;
	int err = td_subformat_plan(make, options ? options->subformat : NULL, &fixed, why);

	if (err)
		return err;
	layout->type = fixed ? VHD_FIXED : make->backing ? VHD_DIFFERENCING : VHD_DYNAMIC;
	layout->size = make->backing && !make->size ? make->backing_size : make->size;
	if (!layout->size || layout->size % 512 || layout->size > VHD_SIZE_MAX)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; a VHD has a multiple of 512 up "
			       "to 2040 GiB", make->path, (unsigned long long)layout->size);
	if (fixed && make->cluster)
		return td_fail(why, -EINVAL, "%s: a fixed VHD has no blocks", make->path);
	if (!is_pow2(block) || block < 4096 || block > VHD_BLOCK_MAX)
		return td_fail(why, -EINVAL, "%s: a block size of %llu is not a power of 2 from 4K to "
			       "128M", make->path, (unsigned long long)block);
	layout->block_bits = __builtin_ctzll(block);
	layout->bitmap = round_up((block / 512 + 7) / 8, 512);
	layout->entries = ((layout->size - 1) >> layout->block_bits) + 1;
	return 0;
}

static int plan_footer(const char *path, struct plan *plan, struct td_why *why)
{
	struct vhd_footer *footer = &plan->layout.footer;
	uint64_t header_at = plan->layout.type == VHD_FIXED ? UINT64_MAX : 512;

	memcpy(footer->cookie, "conectix", 8);
	footer->features = to_be32(2);
	footer->version = to_be32(0x10000);
	footer->header_at = to_be64(header_at);
	footer->timestamp = to_be32(time(NULL) - YEAR_2000);
	memcpy(footer->app, "tap", 4);
	footer->app_version = to_be32(0x10001);
	memcpy(footer->os, "Wi2k", 4);
	footer->original_size = footer->current_size = to_be64(plan->layout.size);
	vhd_geometry(footer, plan->layout.size);
	footer->type = to_be32(plan->layout.type);
	if (td_uuid_make(footer->uuid, TD_UUID_BIG))
		return td_fail(why, -EIO, "%s: no random numbers", path);
	vhd_footer_seal(footer);
	return 0;
}

static int plan_tables(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	struct vhd_layout *layout = &plan->layout;
	struct vhd_header *header = &layout->header;
	int err = 0;

	plan->locators_at = 512 + sizeof(*header);
	memcpy(header->cookie, "cxsparse", 8);
	header->next = to_be64(UINT64_MAX);
	header->version = to_be32(0x10000);
	header->entries = to_be32(layout->entries);
	header->block = to_be32(vhd_block(layout));
	if (make->backing)
		err = vhd_parent_name(make->path, make->backing, make->backing_format, make->files,
				      plan->locators_at, header, &plan->parent, why);
	layout->bat_at = plan->locators_at;
	for (unsigned i = 0; i < plan->parent.count; i++)
		layout->bat_at += round_up(plan->parent.len[i], 512);
	header->bat_at = to_be64(layout->bat_at);
	plan->end = layout->bat_at + vhd_bat_len(layout);
	plan->first = round_up(plan->end + layout->bitmap, VHD_ALIGN) - layout->bitmap;
	if (plan->end + VHD_ALIGN + layout->entries * vhd_stride(layout) > VHD_FILE_MAX)
		return td_fail(why, -EFBIG, "%s: with blocks of %llu bytes the file would become larger "
			       "than 2 TiB", make->path, (unsigned long long)vhd_block(layout));
	vhd_header_seal(header);
	return err;
}

static int plan_all(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	int err;

	if (!plan)
		return td_fail(why, -ENOMEM, "%s: no memory", make->path);
	plan->reserve = make->reserve;
	err = plan_numbers(make, plan, why);
	if (!err && plan->layout.type != VHD_FIXED)
		err = plan_tables(make, plan, why);
	return err ? err : plan_footer(make->path, plan, why);
}

/* ---- writing ---------------------------------------------------------------------- */

/* The block table: nothing, or with reserve everything in order. */
static int write_bat(struct td_file *file, const struct plan *plan)
{
	const struct vhd_layout *layout = &plan->layout;
	uint64_t count = vhd_bat_len(layout) / 4;
	AUTO_FREE be32 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0, n; !err && i < count; i += n) {
		n = min_u64(count - i, CHUNK / 4);
		for (uint64_t k = 0; k < n; k++)
			buf[k] = to_be32(plan->reserve && i + k < layout->entries ?
					 (plan->first + (i + k) * vhd_stride(layout)) / 512 : VHD_NO_BLOCK);
		err = td_file_write(file, buf, n * 4, layout->bat_at + i * 4);
	}
	return err;
}

static int write_bitmaps(struct td_file *file, const struct plan *plan)
{
	const struct vhd_layout *layout = &plan->layout;
	AUTO_FREE void *bits = malloc(layout->bitmap);
	int err = bits ? 0 : -ENOMEM;

	if (bits)
		memset(bits, 0xff, layout->bitmap);
	for (uint64_t i = 0; i < layout->entries && !err; i++)
		err = td_file_write(file, bits, layout->bitmap,
				    plan->first + i * vhd_stride(layout));
	return err;
}

static int write_locators(struct td_file *file, const struct plan *plan)
{
	uint64_t at = plan->locators_at;
	int err = 0;

	for (unsigned i = 0; i < plan->parent.count && !err; i++) {
		err = td_file_write(file, plan->parent.name[i], plan->parent.len[i], at);
		at += round_up(plan->parent.len[i], 512);
	}
	return err;
}

static int write_sparse(struct td_file *file, const struct plan *plan)
{
	const struct vhd_layout *layout = &plan->layout;
	uint64_t end = plan->end;
	int err;

	if (plan->reserve)
		end = plan->first - round_up(layout->bitmap, VHD_ALIGN) + layout->bitmap +
		      layout->entries * vhd_stride(layout);
	err = plan->reserve ? td_file_allocate(file, 0, end) : td_file_truncate(file, end);
	if (!err)
		err = write_bat(file, plan);
	if (!err && plan->reserve)
		err = write_bitmaps(file, plan);
	if (!err)
		err = write_locators(file, plan);
	if (!err)
		err = td_file_write(file, &layout->header, sizeof(layout->header), 512);
	if (!err)
		err = td_file_write(file, &layout->footer, sizeof(layout->footer), 0);
	return err ? err : td_file_write(file, &layout->footer, sizeof(layout->footer), end);
}

static int write_fixed(struct td_file *file, const struct plan *plan)
{
	uint64_t size = plan->layout.size;
	int err = plan->reserve ? td_file_allocate(file, 0, size) : td_file_truncate(file, size);

	return err ? err : td_file_write(file, &plan->layout.footer, sizeof(struct vhd_footer), size);
}

static int fill(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;

	return plan->layout.type == VHD_FIXED ? write_fixed(file, plan) : write_sparse(file, plan);
}

int vhd_create(const struct td_create *make, struct td_why *why)
{
	AUTO_FREE struct plan *plan = calloc(1, sizeof(*plan));
	int err = plan_all(make, plan, why);

	return err ? err : td_file_make(make->files, make->path, fill, plan, why);
}

int vhd_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	AUTO_FREE struct plan *plan = calloc(1, sizeof(*plan));
	int err = plan_all(make, plan, why);

	if (err)
		return err;
	*out = (struct td_measure){ /* bitmaps end with a page, and so data begin with one */
		.tables = round_up(plan->end, VHD_ALIGN) + 512,
		.unit = vhd_block(&plan->layout),
		.beside = vhd_stride(&plan->layout) - vhd_block(&plan->layout),
	};
	if (plan->layout.type == VHD_FIXED)
		*out = (struct td_measure){ .tables = plan->layout.size + 512 };
	return 0;
}
