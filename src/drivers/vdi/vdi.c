/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VDI of VirtualBox: dynamic and fixed. docs/vdi.md tells the format and the order of
 * writes; docs/formats.md what does the work.
 *
 * A map entry is the number of a block's place in the file, in the order in which the
 * places were taken; the header counts these. There is never an image below, so a new
 * block is shown at once: its place reads as zeroes, as the block did.
 */
#include "drivers/vdi/vdi.h"

#include <string.h>

#include "base/uuid.h"

static struct vdi *vdi_of(struct td_image *img)
{
	return img->state;
}

/* ---- the map ---------------------------------------------------------------------- */

static int entry_get(struct vdi *vdi, struct td_park *park, uint64_t block, void **entry)
{
	return td_cache_get(vdi->cache, vdi->layout.map_at + block * 4, park, entry);
}

/* Entries from that one to the end of its page. */
static uint64_t entries_left(const struct vdi *vdi, uint64_t block)
{
	uint64_t at = vdi->layout.map_at + block * 4;

	return min_u64((VDI_PAGE - at % VDI_PAGE) / 4, vdi->layout.blocks - block);
}

static bool is_hole(uint32_t entry)
{
	return entry == VDI_NO_BLOCK || entry == VDI_ZERO_BLOCK;
}

static int spot_of(struct vdi *vdi, uint64_t block, uint64_t skip, uint32_t entry,
		   struct td_spot *out)
{
	*out = (struct td_spot){ .kind = TD_SPOT_HOLE };
	if (is_hole(entry))
		return 0;
	if (entry >= vdi->layout.used) {
		td_say(vdi->img, LOG_ERR, "block %llu has place %u of %llu, which cannot be",
		       (unsigned long long)block, entry, (unsigned long long)vdi->layout.used);
		return -EIO;
	}
	out->kind = TD_SPOT_DATA;
	out->at = vdi_place(&vdi->layout, entry) + skip;
	return 0;
}

static int vdi_find(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t len,
		    struct td_spot *out)
{
	struct vdi *vdi = vdi_of(img);
	uint64_t size = vdi_block(&vdi->layout), skip = offset & (size - 1);
	uint64_t block = offset >> vdi->layout.block_bits, left = entries_left(vdi, block);
	const le32 *entry;
	void *page;
	int err = entry_get(vdi, park, block, &page);

	entry = page;
	if (!err)
		err = spot_of(vdi, block, skip, from_le32(entry[0]), out);
	if (err)
		return err;
	out->len = size - skip;
	for (uint64_t i = 1; i < left && out->len < len; i++, out->len += size) {
		uint32_t next = from_le32(entry[i]);

		if (out->kind == TD_SPOT_HOLE ? !is_hole(next) :
		    next != from_le32(entry[0]) + i || next >= vdi->layout.used)
			break;
	}
	return 0;
}

static int vdi_ready(struct td_image *img, struct td_park *park, uint64_t offset, uint64_t *len)
{
	struct vdi *vdi = vdi_of(img);
	uint64_t block = offset >> vdi->layout.block_bits;
	void *page;

	*len = min_u64(*len, entries_left(vdi, block) << vdi->layout.block_bits);
	return entry_get(vdi, park, block, &page);
}

/* The count comes first: a place that it does not count would be given out again. */
static int vdi_place_new(struct td_image *img, struct td_park *park, uint64_t offset,
			 uint64_t *len, uint64_t *at)
{
	struct vdi *vdi = vdi_of(img);
	struct vdi_layout *layout = &vdi->layout;
	struct vdi_header *header;
	int err = td_cache_get(vdi->cache, 0, park, (void **)&header);

	if (!err)
		err = td_space_find(vdi->space, park, vdi_block(layout), len, at);
	if (err)
		return err;
	*len = round_down(*len, vdi_block(layout));
	td_space_take(vdi->space, *at, *len);
	layout->used += *len >> layout->block_bits;
	assert(*at + *len == vdi_place(layout, layout->used));
	td_cache_dirty(vdi->cache, header, VDI_COUNT);
	td_set32(&header->used, htole32(layout->used));
	return 0;
}

static int vdi_set(struct td_image *img, uint64_t offset, uint64_t len, uint64_t at)
{
	static struct td_park nobody;
	struct vdi *vdi = vdi_of(img);
	uint64_t first = (at - vdi->layout.data_at) >> vdi->layout.block_bits;
	void *entry;
	int err = entry_get(vdi, &nobody, offset >> vdi->layout.block_bits, &entry);

	assert(err != TD_PARKED); /* it is ready */
	if (err)
		return err;
	td_cache_dirty(vdi->cache, entry, VDI_MAP);
	for (uint64_t i = 0; i < len >> vdi->layout.block_bits; i++)
		td_set32((le32 *)entry + i, htole32(first + i));
	return 0;
}

/* Nothing is dropped. */
static int vdi_release(struct td_image *img, struct td_park *park, uint64_t at, bool *gone)
{
	return 0;
}

static const struct td_map_ops ops = {
	.find = vdi_find,
	.ready = vdi_ready,
	.place = vdi_place_new,
	.set = vdi_set,
	.release = vdi_release,
};

/* ---- open and close ------------------------------------------------------------------ */

static int open_file(struct vdi *vdi, struct td_why *why)
{
	struct td_image *img = vdi->img;
	unsigned flags = TD_FILE_ZERO_TAIL | (img->read_only ? 0 : TD_FILE_WRITE);
	int err = td_file_open(img->files, img->target, flags, &vdi->file, why);

	if (!err)
		err = vdi_layout_read(vdi->file, &vdi->layout, why);
	return err ? err : td_refuse_device(img, vdi->file, "a VDI image", why);
}

int vdi_open_map(struct vdi *vdi, struct td_why *why)
{
	uint32_t block = vdi_block(&vdi->layout);
	struct td_cache_config cache = { .page = VDI_PAGE, .size = vdi->cache_size,
					 .shows = VDI_MAP };
	struct td_map_config config = { .file = vdi->file, .ops = &ops, .unit = block,
					.grain = block };
	int err = 0;

	if (!vdi->img->read_only)
		err = vdi_prepare(vdi, why);
	if (!err)
		err = td_cache_new(vdi->img, vdi->file, &cache, &vdi->cache, why);
	if (!err && !vdi->img->read_only)
		err = td_space_new(vdi->img, vdi->file, vdi->cache, block,
				   vdi_place(&vdi->layout, vdi->layout.used), &vdi->space, why);
	config.cache = vdi->cache;
	config.space = vdi->space;
	return err ? err : td_map_new(vdi->img, &config, &vdi->map, why);
}

void vdi_close_map(struct vdi *vdi)
{
	td_map_free(vdi->map);
	td_cache_free(vdi->cache);
	td_space_free(vdi->space);
	vdi->map = NULL;
	vdi->cache = NULL;
	vdi->space = NULL;
}

static void vdi_close(struct td_image *img)
{
	struct vdi *vdi = vdi_of(img);

	vdi_close_map(vdi);
	td_file_close(vdi->file);
}

static int vdi_open(struct td_image *img, struct td_why *why)
{
	struct vdi *vdi = vdi_of(img);
	int err;

	vdi->img = img;
	err = open_file(vdi, why);
	if (!err)
		err = vdi_open_map(vdi, why);
	if (err) {
		vdi_close(img);
		return err;
	}
	img->size = vdi->layout.size;
	img->block_size = 512;
	img->cluster = min_u64(vdi_block(&vdi->layout), 64 * KiB);
	return 0;
}

static void vdi_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct td_map *map = vdi_of(img)->map;

	if (map)
		td_map_submit(map, req);
	else
		td_end(req, -EIO); /* its size could not be changed */
}

static bool vdi_submit_away(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct td_map *map = vdi_of(img)->map;

	return map && td_map_submit_away(map, req);
}

/* ---- info ------------------------------------------------------------------------ */

static int vdi_info(struct td_image *img, td_info_put *put, void *arg)
{
	const struct vdi *vdi = vdi_of(img);
	const struct vdi_layout *layout = &vdi->layout;
	char identity[TD_UUID_TEXT];

	td_uuid_text(layout->header.uuid, TD_UUID_LITTLE, identity);
	put(arg, "subformat", layout->type == VDI_FIXED ? "fixed" : "dynamic");
	td_info_number(put, arg, "block-size", vdi_block(layout));
	td_info_number(put, arg, "blocks", layout->blocks);
	td_info_number(put, arg, "blocks-in-use", layout->used);
	td_info_number(put, arg, "file-length", td_file_size(vdi->file));
	put(arg, "identity", identity);
	return 0;
}

static const struct td_option options[] = {
	TD_MAP_OPTION_CACHE(struct vdi, cache_size),
	{ 0 },
};

extern const struct td_driver vdi_driver;
const struct td_driver vdi_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "vdi",
	.summary = "VDI of VirtualBox: dynamic or fixed",
	.can = TD_CAN_WRITE | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES | TD_CAN_EXTENTS,
	.state_size = sizeof(struct vdi),
	.req_size = TD_MAP_REQ_SIZE,
	.options = options,
	.open = vdi_open,
	.close = vdi_close,
	.submit = vdi_submit,
	.create = vdi_create,
	.check = vdi_check,
	.info = vdi_info,
	.looks_like = vdi_looks_like,
	.create_options = vdi_create_options,
	.create_size = sizeof(struct vdi_create_options),
	.measure = vdi_measure,
	.repairs = TD_REPAIR_LEAKS, /* when it is opened for writing */
	.resize = vdi_resize,
	.submit_away = vdi_submit_away,
};
