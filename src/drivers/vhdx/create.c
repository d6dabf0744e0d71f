/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image:
 *
 *   front, headers, region tables | log | metadata | block table | bitmaps | blocks
 *
 * There are bitmaps over a parent only: all that the disk needs, as holes of the file.
 * Blocks are there in a fixed one, and with reserve.
 */
#include <stdlib.h>
#include <string.h>

#include "drivers/vhdx/vhdx.h"

#include "base/guard.h"

#define CHUNK (64 * KiB)
#define BLOCK (32 * MiB)
#define BLOCK_OVER_PARENT (2 * MiB)
#define LOG (1 * MiB)
#define LOG_OVER_PARENT (8 * MiB)
#define LOCATOR_AT (VHDX_TABLE + 4096)

struct plan {
	struct vhdx_layout layout;
	uint64_t bitmaps_at, blocks_at, end;
	bool all;              /* blocks are there */
	bool reserve;
	uint8_t locator[VHDX_LOCATOR_MAX];
	uint32_t locator_len;
};

const struct td_option vhdx_create_options[] = {
	TD_SUBFORMAT_OPTIONS(struct vhdx_create_options, subformat,
			     "fixed or dynamic; default dynamic"),
	{ "sector", TD_SIZE, offsetof(struct vhdx_create_options, sector),
	  "of the disk: 512 or 4096; default 512" },
	{ "log", TD_SIZE, offsetof(struct vhdx_create_options, log),
	  "1M to 32M; default 1M, over a parent 8M" },
	{ "log_size", TD_SIZE, offsetof(struct vhdx_create_options, log), "the same" },
	{ 0 },
};

static int plan_numbers(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	static const struct vhdx_create_options none;
	const struct vhdx_create_options *options = make->options ? make->options : &none;
	struct vhdx_layout *layout = &plan->layout;
	uint64_t block = make->cluster ? make->cluster : make->backing ? BLOCK_OVER_PARENT : BLOCK;
	uint64_t sector = options->sector ? options->sector : 512;
	int err = td_subformat_plan(make, options->subformat, &layout->fixed, why);

	if (err)
		return err;
	layout->has_parent = make->backing;
	plan->all = layout->fixed || make->reserve;
	plan->reserve = make->reserve;
	layout->size = make->backing && !make->size ? make->backing_size : make->size;
	layout->log.at = VHDX_FRONT;
	layout->log.len = options->log ? options->log : make->backing ? LOG_OVER_PARENT : LOG;
	if (sector != 512 && sector != 4096)
		return td_fail(why, -EINVAL, "%s: sectors of %llu bytes; there are 512 and 4096",
			       make->path, (unsigned long long)sector);
	if (!layout->size || layout->size % sector || layout->size > VHDX_SIZE_MAX)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes; a VHDX has a multiple of %llu up "
			       "to 64 TiB", make->path, (unsigned long long)layout->size,
			       (unsigned long long)sector);
	if (!is_pow2(block) || block < VHDX_BLOCK_MIN || block > VHDX_BLOCK_MAX)
		return td_fail(why, -EINVAL, "%s: a block size of %llu is not a power of 2 from 1M to "
			       "256M", make->path, (unsigned long long)block);
	if (layout->log.len > VHDX_LOG_MAX || !is_aligned(layout->log.len, VHDX_ALIGN))
		return td_fail(why, -EINVAL, "%s: a log of %llu bytes is not a multiple of 1M up to 32M",
			       make->path, (unsigned long long)layout->log.len);
	layout->sector_bits = __builtin_ctzll(sector);
	layout->block_bits = __builtin_ctzll(block);
	layout->physical = 4096;
	vhdx_layout_count(layout);
	return 0;
}

static int plan_places(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	struct vhdx_layout *layout = &plan->layout;

	layout->metadata = (struct vhdx_span){ layout->log.at + layout->log.len, VHDX_ALIGN };
	layout->bat = (struct vhdx_span){ layout->metadata.at + layout->metadata.len,
					  round_up(layout->entries * 8, VHDX_ALIGN) };
	plan->bitmaps_at = layout->bat.at + layout->bat.len;
	plan->blocks_at = plan->bitmaps_at + (layout->has_parent ? layout->chunks * MiB : 0);
	plan->end = plan->blocks_at + (plan->all ? layout->blocks << layout->block_bits : 0);
	return make->backing ? vhdx_parent_name(make, plan->locator, &plan->locator_len, why) : 0;
}

static int plan_all(const struct td_create *make, struct plan *plan, struct td_why *why)
{
	int err = plan ? plan_numbers(make, plan, why) :
			 td_fail(why, -ENOMEM, "%s: no memory", make->path);

	return err ? err : plan_places(make, plan, why);
}

/* ---- writing ---------------------------------------------------------------------- */

static int write_table(struct td_file *file, const struct plan *plan)
{
	const struct vhdx_layout *layout = &plan->layout;
	uint64_t group = (1ull << layout->ratio_bits) + 1;
	AUTO_FREE le64 *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	if (!plan->all && !layout->has_parent)
		return 0; /* all absent: zeroes */
	for (uint64_t i = 0, n; !err && i < layout->entries; i += n) {
		n = min_u64(layout->entries - i, CHUNK / 8);
		memset(buf, 0, CHUNK);
		for (uint64_t k = 0; k < n; k++) {
			uint64_t chunk = (i + k) / group, block = i + k - chunk;

			if ((i + k) % group == group - 1 && layout->has_parent)
				buf[k] = to_le64((plan->bitmaps_at + chunk * MiB) | VHDX_PRESENT);
			else if ((i + k) % group < group - 1 && plan->all)
				buf[k] = to_le64((plan->blocks_at + (block << layout->block_bits)) |
						 VHDX_PRESENT);
		}
		err = td_file_write(file, buf, n * 8, layout->bat.at + i * 8);
	}
	return err;
}

static void put_item(struct vhdx_metadata *table, const struct vhdx_guid *guid, uint32_t at,
		     uint32_t len, uint32_t flags)
{
	unsigned i = from_le16(table->count);

	table->item[i] = (struct vhdx_item){ *guid, to_le32(at), to_le32(len), to_le32(flags),
					     to_le32(0) };
	table->count = to_le16(i + 1);
}

static int write_metadata(struct td_file *file, const struct plan *plan)
{
	const struct vhdx_layout *layout = &plan->layout;
	AUTO_FREE struct vhdx_metadata *table = calloc(1, sizeof(*table));
	struct {
		struct vhdx_parameters parameters;
		le64 size;
		le32 sector, physical;
		struct vhdx_guid disk;
	} values = {
		.parameters = { to_le32(vhdx_block(layout)),
				to_le32((layout->fixed ? VHDX_LEAVE_ALLOCATED : 0) |
					(layout->has_parent ? VHDX_HAS_PARENT : 0)) },
		.size = to_le64(layout->size), .sector = to_le32(1u << layout->sector_bits),
		.physical = to_le32(layout->physical),
	};
	const uint32_t needed = VHDX_ITEM_REQUIRED, of_disk = VHDX_ITEM_REQUIRED | VHDX_ITEM_DISK;
	int err;

	if (!table || vhdx_guid_make(&values.disk))
		return table ? -EIO : -ENOMEM;
	memcpy(table->signature, "metadata", 8);
	put_item(table, &vhdx_guid_parameters, VHDX_TABLE, 8, needed);
	put_item(table, &vhdx_guid_size, VHDX_TABLE + 8, 8, of_disk);
	put_item(table, &vhdx_guid_sector, VHDX_TABLE + 16, 4, of_disk);
	put_item(table, &vhdx_guid_physical, VHDX_TABLE + 20, 4, of_disk);
	put_item(table, &vhdx_guid_disk, VHDX_TABLE + 24, 16, of_disk);
	if (layout->has_parent)
		put_item(table, &vhdx_guid_locator, LOCATOR_AT, plan->locator_len, needed);
	err = td_file_write(file, table, sizeof(*table), layout->metadata.at);
	if (!err)
		err = td_file_write(file, &values, sizeof(values), layout->metadata.at + VHDX_TABLE);
	if (!err && layout->has_parent)
		err = td_file_write(file, plan->locator, plan->locator_len,
				    layout->metadata.at + LOCATOR_AT);
	return err;
}

static int write_regions(struct td_file *file, const struct plan *plan)
{
	const struct vhdx_layout *layout = &plan->layout;
	AUTO_FREE struct vhdx_regions *regions = calloc(1, sizeof(*regions));
	int err;

	if (!regions)
		return -ENOMEM;
	memcpy(regions->signature, "regi", 4);
	regions->count = to_le32(2);
	regions->region[0] = (struct vhdx_region){ vhdx_guid_bat, to_le64(layout->bat.at),
						   to_le32(layout->bat.len), to_le32(1) };
	regions->region[1] = (struct vhdx_region){ vhdx_guid_metadata, to_le64(layout->metadata.at),
						   to_le32(layout->metadata.len), to_le32(1) };
	vhdx_regions_seal(regions);
	err = td_file_write(file, regions, sizeof(*regions), VHDX_REGIONS_AT);
	return err ? err : td_file_write(file, regions, sizeof(*regions), VHDX_REGIONS_AT + VHDX_TABLE);
}

static int write_front(struct td_file *file, const struct plan *plan)
{
	struct vhdx_front front = { .signature = "vhdxfile", .creator = "b\0l\0k\0t\0a\0p" };
	struct vhdx_header header = { .signature = "head", .version = to_le16(1),
				      .log_len = to_le32(plan->layout.log.len),
				      .log_at = to_le64(plan->layout.log.at) };
	int err = 0;

	if (vhdx_guid_make(&header.file_write) || vhdx_guid_make(&header.data_write))
		return -EIO;
	for (unsigned i = 0; i < 2 && !err; i++) {
		header.sequence = to_le64(i + 1);
		vhdx_header_seal(&header);
		err = td_file_write(file, &header, sizeof(header), (i + 1) * VHDX_HEADERS_AT);
	}
	return err ? err : td_file_write(file, &front, sizeof(front), 0);
}

static int fill(struct td_file *file, const void *plan_)
{
	const struct plan *plan = plan_;
	int err = plan->reserve ? td_file_allocate(file, 0, plan->end) :
				  td_file_truncate(file, plan->end);

	if (!err)
		err = write_table(file, plan);
	if (!err)
		err = write_metadata(file, plan);
	if (!err)
		err = write_regions(file, plan);
	return err ? err : write_front(file, plan);
}

int vhdx_create(const struct td_create *make, struct td_why *why)
{
	AUTO_FREE struct plan *plan = calloc(1, sizeof(*plan));
	int err = plan_all(make, plan, why);

	return err ? err : td_file_make(make->files, make->path, fill, plan, why);
}

int vhdx_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	AUTO_FREE struct plan *plan = calloc(1, sizeof(*plan));
	int err = plan_all(make, plan, why);

	if (!err)
		*out = (struct td_measure){ .tables = plan->end,
					    .unit = plan->all ? 0 : vhdx_block(&plan->layout) };
	return err;
}
