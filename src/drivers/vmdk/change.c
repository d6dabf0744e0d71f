/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the image as a whole: its size, its parent. They block; no request is under
 * way.
 *
 * A sparse extent that needs more tables gets these at the end of its file, with new
 * directories that name them and the old ones. Its header, one sector, then names these
 * and the new size. Of an image that is split, new extents are made if the last one may not
 * become so long. The descriptor comes last. An extent that is larger than the descriptor
 * says is no smaller disk.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/rule.h"

/* ---- a sparse extent --------------------------------------------------------------- */

#define TABLE_LEN (VMDK_ENTRIES * 4ull)

/* Tables whose entries say that all is zeroes, whatever the parent has. */
static int write_zeroed(struct vmdk_extent *e, uint64_t from, uint64_t to)
{
	le32 table[VMDK_ENTRIES];
	int err = 0;

	for (unsigned i = 0; i < VMDK_ENTRIES; i++)
		table[i] = to_le32(1);
	for (; from < to && !err; from += sizeof(table))
		err = td_file_write(e->file, table, sizeof(table), from);
	return err;
}

/* Where a longer directory will be, with its new tables behind it. */
static int write_directory(struct vmdk_extent *e, const uint32_t *old, uint64_t tables, bool hide,
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
	if (!err && hide)
		err = write_zeroed(e, *at + len, table);
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

/* size: of what the extent maps. */
static int grow_file(struct vmdk_extent *e, uint64_t size, bool hide)
{
	uint64_t tables = (size - 1) / vmdk_span(&e->layout) + 1, gd_at = 0, rgd_at = 0;
	uint64_t at = round_up(max_u64(td_file_size(e->file), e->layout.overhead), VMDK_SECTOR);
	int err = 0;

	if (tables > VMDK_TABLES_MAX)
		return -EFBIG;
	if (tables > e->layout.tables) {
		err = write_directory(e, e->table[0], tables, hide, &at, &gd_at);
		if (!err && e->table[1])
			err = write_directory(e, e->table[1], tables, hide, &at, &rgd_at);
		if (!err)
			err = td_file_truncate(e->file, round_up(at, e->layout.grain));
	}
	if (!err && td_rule("vmdk-directory-before-header"))
		err = td_file_sync(e->file);
	return err ? err : write_header(e, size, gd_at, rgd_at);
}

/* Grains that nobody has become grains of zeroes: else the parent would be seen there. */
static int hide_parent(struct vmdk *v, struct vmdk_extent *e, uint64_t from, uint64_t to)
{
	const struct td_map_ops *ops = &vmdk_sparse_ops;
	struct td_park nobody = { 0 };
	int err = vmdk_mark_in_use(v);

	for (uint64_t n; from < to && !err; from += n) {
		struct td_spot spot;

		err = ops->find(v->img, &nobody, from, to - from, &spot);
		n = err ? 0 : min_u64(spot.len, to - from);
		if (err || spot.kind != TD_SPOT_HOLE)
			continue;
		err = td_cache_room(e->cache, &nobody);
		if (!err)
			err = ops->ready(v->img, &nobody, from, &n);
		if (!err)
			err = ops->clear(v->img, from, n, true);
	}
	return err;
}

/* What its grains hold past the end of the disk becomes zeroes, up to that size; with
 * hide also what the parent holds there. */
static int zero_hidden(struct vmdk *v, struct vmdk_extent *e, uint64_t size, bool hide)
{
	uint64_t end = e->end, tables = e->layout.tables * vmdk_span(&e->layout);
	int err;

	e->end = e->start + min_u64(round_up(size, e->layout.grain), tables);
	td_cache_block(e->cache, true);
	err = td_map_zero(e->map, end, e->end);
	if (!err && hide)
		err = hide_parent(v, e, end, e->end);
	e->end = end;
	return err ? err : td_cache_sync(e->cache);
}

static int grow_sparse(struct vmdk *v, struct vmdk_extent *e, uint64_t size, bool hide,
		       struct td_why *why)
{
	const char *path = td_file_path(e->file);
	struct td_why again;
	int err = zero_hidden(v, e, size, hide), end;

	vmdk_extent_close(e);
	if (!err)
		err = td_file_sync(e->file);
	if (!err)
		err = grow_file(e, size, hide);
	if (err)
		td_fail(why, err, "%s: cannot be made %llu bytes: %s", path,
			(unsigned long long)size, strerror(-err));
	end = vmdk_extent_reopen(v, e, err ? &again : why);
	return err ? err : end;
}

static int grow_flat(struct vmdk_extent *e, uint64_t size, struct td_why *why)
{
	uint64_t has = e->at + (e->end - e->start);
	int err = 0;

	if (td_file_is_device(e->file))
		return td_fail(why, -ENOTSUP, "%s: is a device, and has the size it has",
			       td_file_path(e->file));
	if (td_file_size(e->file) > has) /* nothing of this may be seen */
		err = td_file_truncate(e->file, has);
	if (!err)
		err = td_file_truncate(e->file, e->at + size);
	if (!err && td_rule("vmdk-directory-before-header"))
		err = td_file_sync(e->file);
	return err ? td_fail(why, err, "%s: cannot be made %llu bytes: %s", td_file_path(e->file),
			     (unsigned long long)size, strerror(-err)) : 0;
}

/* ---- new extents ----------------------------------------------------------------------- */

/* How a disk of another size is divided: the last extent gets longer, up to where those
 * of its type end, then new ones follow. */
struct division {
	uint64_t last;           /* bytes of the one that is the last now */
	uint64_t each, rest;     /* of new ones */
	bool hide;               /* the parent has something there */
};

static bool is_split(const struct vmdk *v)
{
	return v->text.type && !strncasecmp(v->text.type, "twoGbMaxExtent", 14);
}

static int divide(const struct vmdk *v, uint64_t size, struct division *out, struct td_why *why)
{
	const struct vmdk_extent *e = &v->extent[v->extents - 1];
	uint64_t has = e->end - e->start, wants = size - e->start;

	*out = (struct division){ .last = wants, .each = VMDK_SPLIT };
	if (is_split(v))
		out->last = max_u64(has, min_u64(wants, VMDK_SPLIT));
	out->rest = wants - out->last;
	out->hide = v->img->below && v->img->below->size > v->img->size;
	if (!out->rest)
		return 0;
	if (e->type == VMDK_SPARSE && !is_aligned(out->last, e->layout.grain))
		return td_fail(why, -ENOTSUP, "%s: its last extent, of %llu bytes, does not end with a "
			       "grain: no other one can follow", v->img->target,
			       (unsigned long long)out->last);
	if ((out->rest - 1) / out->each >= VMDK_EXTENTS_MAX - v->extents)
		return td_fail(why, -EFBIG, "%s: would have more than %u extents", v->img->target,
			       VMDK_EXTENTS_MAX);
	return 0;
}

/* The name that follows by n: "disk-s001.vmdk" has "disk-s002.vmdk" ... NULL: none does. */
static char *name_after(const char *name, unsigned n)
{
	size_t end = strlen(name), begin;
	char *out;

	while (end && !strchr("0123456789", name[end - 1]))
		end--;
	for (begin = end; begin && strchr("0123456789", name[begin - 1]);)
		begin--;
	if (begin == end || end - begin > 9 ||
	    asprintf(&out, "%.*s%0*lu%s", (int)begin, name, (int)(end - begin),
		     strtoul(name + begin, NULL, 10) + n, name + end) < 0)
		return NULL;
	return out;
}

/* Its file, and its line of the descriptor. */
static int add_extent(struct vmdk *v, const struct division *how, unsigned n, uint64_t size,
		      char **lines, struct td_why *why)
{
	const struct vmdk_extent *e = &v->extent[v->extents - 1];
	AUTO_FREE char *name = name_after(v->text.line[v->extents - 1].name, n);
	AUTO_FREE char *path = NULL;
	AUTO_FREE char *before = *lines;
	bool sparse = e->type == VMDK_SPARSE;
	int err;

	*lines = NULL;
	if (!name)
		return td_fail(why, -ENOTSUP, "%s: its last extent, %s, has no number in its name that "
			       "another one could follow", v->img->target,
			       v->text.line[v->extents - 1].name);
	err = vmdk_extent_path(v, name, &path, why);
	if (!err)
		err = vmdk_extent_make(v, e, path, size, how->hide, why);
	if (err)
		return err;
	if (asprintf(lines, "%sRW %llu %s \"%s\"%s\n", before ? before : "",
		     (unsigned long long)(size / VMDK_SECTOR), sparse ? "SPARSE" : "FLAT", name,
		     sparse ? "" : " 0") < 0) {
		*lines = NULL;
		return td_fail(why, -ENOMEM, "%s: no memory", v->img->target);
	}
	return 0;
}

static void remove_extents(struct vmdk *v, unsigned count)
{
	for (unsigned n = 1; n <= count; n++) {
		AUTO_FREE char *name = name_after(v->text.line[v->extents - 1].name, n);
		AUTO_FREE char *path = NULL;

		if (name && !vmdk_extent_path(v, name, &path, NULL))
			unlink(path);
	}
}

/* Those that were made are removed again if the descriptor cannot name them all. */
static int add_extents(struct vmdk *v, const struct division *how, struct td_why *why)
{
	struct vmdk_edit edit = { .size = how->last };
	uint64_t rest = how->rest, size;
	char *lines = NULL;
	unsigned made = 0;
	int err = 0;

	for (; rest && !err; rest -= size) {
		size = min_u64(rest, how->each);
		err = add_extent(v, how, made + 1, size, &lines, why);
		made += !err;
	}
	edit.lines = lines;
	if (!err)
		err = vmdk_edit(v, &edit, why);
	if (err && !edit.begun)
		remove_extents(v, made);
	free(lines);
	return err;
}

/* ---- size ----------------------------------------------------------------------------- */

static int may_grow(struct vmdk *v, uint64_t size, struct td_why *why)
{
	const struct td_image *img = v->img;
	const struct vmdk_extent *e = &v->extent[0];

	if (size < img->size)
		return td_fail(why, -ENOTSUP, "%s: a VMDK cannot be made smaller", img->target);
	if (v->stream)
		return td_fail(why, -ENOTSUP, "%s: a stream has the size it has", img->target);
	if (size % 512 || size > INT64_MAX / 4)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512, or too "
			       "large", img->target, (unsigned long long)size);
	if (!img->below || img->below->size <= img->size)
		return 0;
	for (unsigned i = 0; i < v->extents; i++)
		if (!v->extent[i].layout.zeroes)
			return td_fail(why, -ENOTSUP, "%s: its parent is larger than it is, and more of "
				       "that would be seen: without zeroed_grain=on there are no grains "
				       "of zeroes to hide it", img->target);
	if (img->size % e->layout.grain)
		return vmdk_holds_end(v) ? 0 : td_fail(why, -ENOTSUP, "%s: its parent is larger than it "
			"is, and its last grain is the parent's: write to that first", img->target);
	return 0;
}

static int grow(struct vmdk *v, uint64_t size, struct td_why *why)
{
	struct vmdk_extent *e = &v->extent[v->extents - 1];
	uint64_t has = e->end - e->start;
	struct division how;
	int err = divide(v, size, &how, why);

	if (!err && how.last > has && e->type == VMDK_SPARSE)
		err = grow_sparse(v, e, how.last, how.hide, why);
	else if (!err && how.last > has)
		err = grow_flat(e, how.last, why);
	if (!err)
		err = add_extents(v, &how, why);
	if (!err)
		err = vmdk_extent_end(v, e, e->start + how.last, why);
	return err ? err : vmdk_extents_more(v, why);
}

int vmdk_resize(struct td_image *img, uint64_t size, struct td_why *why)
{
	struct vmdk *v = img->state;
	int err = may_grow(v, size, why);

	if (!err)
		err = grow(v, size, why);
	if (!err)
		img->size = size;
	for (unsigned i = 0; i < v->extents; i++)
		v->lost |= !v->stream && !v->extent[i].map;
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
