/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the image as a whole: its size, its parent. They block; no request is under
 * way.
 *
 * A sparse extent that needs more tables gets these at the end of its file, with new
 * directories that name them and the old ones. Its header, one sector, then names these
 * and the new size; the descriptor comes last. An extent that is larger than the
 * descriptor says is no smaller disk.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/rule.h"

/* ---- a sparse extent --------------------------------------------------------------- */

#define TABLE_LEN (VMDK_ENTRIES * 4ull)

/* Where a longer directory will be, with its new tables behind it. */
static int write_directory(struct vmdk_extent *e, const uint32_t *old, uint64_t tables,
			   uint64_t *at, uint64_t *directory)
{
	uint64_t len = round_up(tables * 4, VMDK_SECTOR);
	AUTO_FREE le32 *entry = calloc(1, len);
	uint64_t table = *at + len;
	int err = entry ? 0 : -ENOMEM;

	for (uint64_t i = 0; entry && i < tables; i++) {
		uint64_t sector = i < e->layout.tables ? old[i] : table / VMDK_SECTOR;

		if (i >= e->layout.tables)
			table += TABLE_LEN;
		entry[i] = to_le32(sector);
	}
	if (table > VMDK_FILE_MAX)
		err = -EFBIG;
	if (!err)
		err = td_file_truncate(e->file, table); /* tables of zeroes */
	if (!err)
		err = td_file_write(e->file, entry, len, *at);
	*directory = *at;
	*at = table;
	return err;
}

static int write_header(struct vmdk_extent *e, uint64_t size, uint64_t gd_at, uint64_t rgd_at)
{
	struct vmdk_header head;
	int err = td_file_read(e->file, &head, sizeof(head), 0);

	head.capacity = to_le64(size / VMDK_SECTOR);
	if (gd_at)
		head.gd_at = to_le64(gd_at / VMDK_SECTOR);
	if (rgd_at)
		head.rgd_at = to_le64(rgd_at / VMDK_SECTOR);
	if (!err)
		err = td_file_write(e->file, &head, sizeof(head), 0);
	return err ? err : td_file_sync(e->file);
}

static int grow_file(struct vmdk_extent *e, uint64_t size)
{
	uint64_t tables = (size - 1) / vmdk_span(&e->layout) + 1, gd_at = 0, rgd_at = 0;
	uint64_t at = round_up(max_u64(td_file_size(e->file), e->layout.overhead), VMDK_SECTOR);
	int err = 0;

	if (tables > VMDK_TABLES_MAX)
		return -EFBIG;
	if (tables > e->layout.tables) {
		err = write_directory(e, e->table[0], tables, &at, &gd_at);
		if (!err && e->table[1])
			err = write_directory(e, e->table[1], tables, &at, &rgd_at);
		if (!err)
			err = td_file_truncate(e->file, round_up(at, e->layout.grain));
	}
	if (!err && td_rule("vmdk-directory-before-header"))
		err = td_file_sync(e->file);
	return err ? err : write_header(e, size, gd_at, rgd_at);
}

/* What its grains hold past the end of the disk becomes zeroes, up to that size. */
static int zero_hidden(struct vmdk_extent *e, uint64_t size)
{
	uint64_t end = e->end;
	int err;

	e->end = min_u64(round_up(size, e->layout.grain), e->layout.tables * vmdk_span(&e->layout));
	td_cache_block(e->cache, true);
	err = td_map_zero(e->map, end, e->end);
	e->end = end;
	return err ? err : td_cache_sync(e->cache);
}

static int grow_sparse(struct vmdk *v, struct vmdk_extent *e, uint64_t size, struct td_why *why)
{
	const char *path = td_file_path(e->file);
	struct td_why again;
	int err = zero_hidden(e, size), end;

	vmdk_extent_close(e);
	if (!err)
		err = td_file_sync(e->file);
	if (!err)
		err = grow_file(e, size);
	if (err)
		td_fail(why, err, "%s: cannot be made %llu bytes: %s", path,
			(unsigned long long)size, strerror(-err));
	end = vmdk_extent_reopen(v, e, err ? &again : why);
	return err ? err : end;
}

static int grow_flat(struct vmdk_extent *e, uint64_t size, struct td_why *why)
{
	int err = 0;

	if (td_file_is_device(e->file))
		return td_fail(why, -ENOTSUP, "%s: is a device, and has the size it has",
			       td_file_path(e->file));
	if (td_file_size(e->file) > e->at + e->end) /* nothing of this may be seen */
		err = td_file_truncate(e->file, e->at + e->end);
	if (!err)
		err = td_file_truncate(e->file, e->at + size);
	if (!err && td_rule("vmdk-directory-before-header"))
		err = td_file_sync(e->file);
	return err ? td_fail(why, err, "%s: cannot be made %llu bytes: %s", td_file_path(e->file),
			     (unsigned long long)size, strerror(-err)) : 0;
}

/* ---- size ----------------------------------------------------------------------------- */

static int may_grow(struct vmdk *v, uint64_t size, struct td_why *why)
{
	const struct td_image *img = v->img;

	if (size < img->size)
		return td_fail(why, -ENOTSUP, "%s: a VMDK cannot be made smaller", img->target);
	if (v->stream || v->text.lines != 1 || v->extent[0].type == VMDK_ZERO)
		return td_fail(why, -ENOTSUP, "%s: only images of one extent, no streams, can be made "
			       "larger", img->target);
	if (img->below && img->below->size > img->size)
		return td_fail(why, -ENOTSUP, "%s: its parent is larger than it is, and more of that "
			       "would be seen", img->target);
	if (size % 512 || size > INT64_MAX / 4)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512, or too "
			       "large", img->target, (unsigned long long)size);
	return 0;
}

int vmdk_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct vmdk *v = img->state;
	struct vmdk_extent *e = &v->extent[0];
	struct vmdk_edit edit = { .size = size };
	int err = may_grow(v, size, why);

	if (!err && e->type == VMDK_SPARSE)
		err = grow_sparse(v, e, size, why);
	else if (!err)
		err = grow_flat(e, size, why);
	if (!err)
		err = vmdk_edit(v, &edit, why);
	if (err)
		return err;
	err = vmdk_extent_end(v, e, size, why);
	if (!err)
		img->size = size;
	return err;
}

/* ---- the parent -------------------------------------------------------------------------- */

int vmdk_set_backing(struct td_image *img, const char *backing, const char *format,
		     struct td_why *why)
{
	struct vmdk *v = img->state;
	struct vmdk_edit edit = { .parent = true, .hint = backing, .parent_cid = VMDK_NO_CID };
	int err;

	if (v->stream)
		return td_fail(why, -ENOTSUP, "%s: a stream has no parent", img->target);
	for (unsigned i = 0; i < v->extents && backing; i++)
		if (v->extent[i].type != VMDK_SPARSE)
			return td_fail(why, -ENOTSUP, "%s: a flat image has no parent", img->target);
	if (!backing)
		return vmdk_edit(v, &edit, why);
	if (!format || !*format || strpbrk(format, "\"\n\r"))
		return td_fail(why, -EINVAL, "%s: of which format is %s?", img->target, backing);
	err = vmdk_parent_cid(img->files, td_file_path(vmdk_text_file(v)), backing, format,
			      &edit.parent_cid, why);
	if (edit.parent_cid == VMDK_OTHER_CID)
		edit.format = strcmp(format, "aio") ? format : "raw";
	return err ? err : vmdk_edit(v, &edit, why);
}
