/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The extents of an image: each is a file, or a part of one, opened and checked, with
 * the map of its stretch of the disk. Files that a descriptor names are opened in its
 * own folder only, wherever links lead, unless anywhere=on.
 */
#include "drivers/vmdk/vmdk.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"

#define PAGE 512 /* a table begins at any sector */
#define CACHE_DEFAULT (16 * MiB)

/* ---- its file ------------------------------------------------------------------ */

static char *folder_of(const char *path)
{
	AUTO_FREE char *copy = strdup(path);

	return copy ? strdup(dirname(copy)) : NULL;
}

/* Whether path, links followed, lies in folder. */
static bool lies_in(const char *folder, const char *path)
{
	AUTO_FREE char *real_folder = realpath(folder, NULL);
	AUTO_FREE char *real_path = realpath(path, NULL);
	size_t n = real_folder ? strlen(real_folder) : 0;

	if (!real_folder)
		return false;
	if (!real_path) /* not there: opening it will say so */
		return errno == ENOENT;
	if (n == 1)
		return true;
	return !strncmp(real_path, real_folder, n) && real_path[n] == '/';
}

static bool goes_up(const char *name)
{
	for (const char *p = name; p; p = strchr(p, '/')) {
		p += *p == '/';
		if (!strncmp(p, "..", 2) && (!p[2] || p[2] == '/'))
			return true;
	}
	return false;
}

int vmdk_extent_path(const struct vmdk *v, const char *name, char **out, struct td_why *why)
{
	const char *own = td_file_path(v->file);
	AUTO_FREE char *folder = folder_of(own);
	AUTO_FREE char *path = NULL;

	if (!folder || (*name == '/' ? !(path = strdup(name)) :
				       asprintf(&path, "%s/%s", folder, name) < 0))
		return td_fail(why, -ENOMEM, "%s: no memory", own);
	if (!v->any_folder && (*name == '/' || goes_up(name) || !lies_in(folder, path)))
		return td_fail(why, -EPERM, "%s: names the extent %s, which is not in its folder "
			       "(anywhere=on allows it)", own, name);
	*out = take(path);
	return 0;
}

static int file_open(struct vmdk *v, struct vmdk_extent *e, const struct vmdk_line *line,
		     struct td_why *why)
{
	unsigned flags = TD_FILE_ZERO_TAIL | (v->img->read_only ? 0 : TD_FILE_WRITE);
	AUTO_FREE char *path = NULL;
	int err = vmdk_extent_path(v, line->name, &path, why);

	return err ? err : td_file_open(v->img->files, path, flags, &e->file, why);
}

/* ---- directories ------------------------------------------------------------------ */

/* A table's number as it is kept, or VMDK_TABLE_BAD. */
static uint32_t table_of(const struct vmdk_extent *e, const char *entry)
{
	const struct vmdk_layout *layout = &e->layout;
	uint64_t size = td_file_size(e->file), len = layout->entries * vmdk_entry_size(layout);
	uint64_t number, at;
	le32 short_one;
	le64 long_one;

	if (layout->kind != VMDK_SESPARSE) {
		memcpy(&short_one, entry, sizeof(short_one));
		number = from_le32(short_one);
		at = number * VMDK_SECTOR;
		return number && (at > size || len > size - at) ? VMDK_TABLE_BAD : number;
	}
	memcpy(&long_one, entry, sizeof(long_one));
	number = from_le64(long_one);
	if (!number)
		return 0;
	if (number >> 32 != 0x10000000 || (uint32_t)number >= VMDK_TABLE_BAD - 1 ||
	    ((number & UINT32_MAX) + 1) * len > layout->tables_len)
		return VMDK_TABLE_BAD;
	return (uint32_t)number + 1;
}

static int directory_read(struct vmdk_extent *e, uint64_t at, uint32_t **out, struct td_why *why)
{
	uint64_t entry = vmdk_entry_size(&e->layout), len = e->layout.tables * entry;
	AUTO_FREE uint32_t *table = calloc(e->layout.tables, sizeof(*table));
	AUTO_FREE char *buf = malloc(len);
	int err = table && buf ? td_file_read(e->file, buf, len, at) : -ENOMEM;

	if (err)
		return td_fail(why, err, "%s: cannot read its grain directory: %s",
			       td_file_path(e->file), strerror(-err));
	for (uint64_t i = 0; i < e->layout.tables; i++)
		table[i] = table_of(e, buf + i * entry);
	*out = take(table);
	return 0;
}

/* Hosted extents that are written have all tables; so tools make them. */
static int all_tables(const struct vmdk_extent *e, struct td_why *why)
{
	for (unsigned copy = 0; copy < 2 && e->table[copy]; copy++)
		for (uint64_t i = 0; i < e->layout.tables; i++)
			if (!e->table[copy][i] || e->table[copy][i] == VMDK_TABLE_BAD)
				return td_fail(why, -ENOTSUP, "%s: has no grain table %llu: it can "
					       "be read, not written", td_file_path(e->file),
					       (unsigned long long)i);
	return 0;
}

static void directories_free(struct vmdk_extent *e)
{
	free(e->table[0]);
	free(e->table[1]);
	e->table[0] = e->table[1] = NULL;
}

static int directories_open(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	int err = directory_read(e, e->layout.gd_at, &e->table[0], why);

	if (!err && e->layout.rgd_at)
		err = directory_read(e, e->layout.rgd_at, &e->table[1], why);
	if (err || v->img->read_only)
		return err;
	return e->layout.compressed ? vmdk_stream_may(e, why) : all_tables(e, why);
}

/* ---- sparse ------------------------------------------------------------------------- */

static int may_be_written(const struct vmdk *v, const struct vmdk_extent *e, struct td_why *why)
{
	if (e->layout.kind != VMDK_HOSTED)
		return td_fail(why, -ENOTSUP, "%s: extents of ESX's own kinds can be read, not "
			       "written", td_file_path(e->file));
	return td_refuse_device(v->img, e->file, "a sparse extent", why);
}

/* The first place that cannot belong to anything in the file, not even to a grain
 * whose end the file has not got. */
static uint64_t end_of(const struct vmdk_extent *e)
{
	uint64_t size = max_u64(td_file_size(e->file), e->layout.overhead), grain = e->layout.grain;

	return is_aligned(size, grain) ? size : round_up(size + grain, grain);
}

static int map_new(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	struct td_map_config config = {
		.file = e->file, .ops = &vmdk_sparse_ops, .unit = e->layout.grain,
		.grain = e->layout.grain, .zeroes = e->layout.zeroes, .start = e->start,
		.end = e->end, .cache = e->cache, .space = e->space,
	};

	return td_map_new(v->img, &config, &e->map, why);
}

/* Of the memory for tables: one sparse extent's. */
static uint64_t cache_share(const struct vmdk *v)
{
	uint64_t cache = v->cache_size ? v->cache_size : CACHE_DEFAULT, sparse = 0;

	for (unsigned i = 0; i < v->extents; i++)
		sparse += v->extent[i].type == VMDK_SPARSE;
	return cache / max_u64(sparse, 1);
}

static int sparse_map(struct vmdk *v, struct vmdk_extent *e, uint64_t cache, struct td_why *why)
{
	struct td_cache_config cache_config = { .page = PAGE, .size = cache,
						.shows = VMDK_TABLES };
	int err;

	if (e->layout.compressed && !v->img->read_only)
		return vmdk_stream_open(v, e, why);
	err = td_cache_new(v->img, e->file, &cache_config, &e->cache, why);
	if (!err && !v->img->read_only)
		err = td_space_new(v->img, e->file, e->cache, e->layout.grain, end_of(e), &e->space,
				   why);
	return err ? err : map_new(v, e, why);
}

static int mended(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	const char *path = td_file_path(e->file);
	uint64_t fixed = 0, end;
	int err;

	if (v->img->read_only || !e->layout.unclean)
		return 0;
	v->unclean = true;
	err = vmdk_mend(e, &fixed, &end);
	end = round_up(end, e->layout.grain);
	if (!err && end < td_file_size(e->file)) /* room, and data that no entry shows */
		err = td_file_truncate(e->file, end);
	if (err)
		return td_fail(why, err, "%s: was not closed, and cannot be mended: %s", path,
			       strerror(-err));
	e->layout.unclean = false;
	td_log(path, LOG_NOTICE, "was not closed; %llu entries of its second tables were mended",
	       (unsigned long long)fixed);
	return 0;
}

static int sparse_open(struct vmdk *v, struct vmdk_extent *e, uint64_t size, bool last,
		       struct td_why *why)
{
	const char *path = td_file_path(e->file);
	int err = vmdk_layout_read(e->file, &e->layout, why);

	if (!err && !v->img->read_only)
		err = may_be_written(v, e, why);
	if (err)
		return err;
	size = size ? size : e->layout.size;
	if (size > e->layout.size)
		return td_fail(why, -EINVAL, "%s: maps %llu bytes, and %llu are asked of it", path,
			       (unsigned long long)e->layout.size, (unsigned long long)size);
	if (e->layout.compressed && v->extents > 1)
		return td_fail(why, -ENOTSUP, "%s: a compressed extent among others is not "
			       "supported",
			       path);
	e->end = e->start + size;
	if (!is_aligned(e->start, e->layout.grain) || (!last && !is_aligned(size, e->layout.grain)))
		return td_fail(why, -ENOTSUP, "%s: its stretch of the disk, %llu bytes at %llu, is "
			       "not one of whole grains", path, (unsigned long long)size,
			       (unsigned long long)e->start);
	err = directories_open(v, e, why);
	return err ? err : mended(v, e, why);
}

/* The maps stand in a row. */
static void join_maps(struct vmdk *v)
{
	for (unsigned i = 1; i < v->extents; i++)
		td_map_append(v->extent[i - 1].map, v->extent[i].map);
}

/* It has the marks of this session, if any: no reason to mend it. */
int vmdk_extent_reopen(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	int err = vmdk_layout_read(e->file, &e->layout, why);

	e->layout.unclean = false;
	directories_free(e);
	if (!err)
		err = directories_open(v, e, why);
	if (!err)
		err = sparse_map(v, e, cache_share(v), why);
	if (!err)
		join_maps(v);
	return err;
}

/* ---- flat, and zeroes ----------------------------------------------------------------- */

static int flat_open(struct vmdk_extent *e, const struct vmdk_line *line, struct td_why *why)
{
	uint64_t has = td_file_size(e->file);

	e->at = line->at;
	e->end = e->start + line->size;
	if (line->at > has || line->size > has - line->at)
		return td_fail(why, -EINVAL, "%s: has %llu bytes, and %llu from %llu on are the "
			       "disk's",
			       td_file_path(e->file), (unsigned long long)has,
			       (unsigned long long)line->size, (unsigned long long)line->at);
	return 0;
}

static int flat_map(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	struct td_map_config config = {
		.file = e->file, .ops = &vmdk_flat_ops, .unit = VMDK_GRAIN_MIN,
		.grain = VMDK_GRAIN_MIN, .start = e->start, .end = e->end,
	};

	return td_map_new(v->img, &config, &e->map, why);
}

/* ---- all of them ------------------------------------------------------------------------ */

static int line_open(struct vmdk *v, unsigned i, struct td_why *why)
{
	const struct vmdk_line *line = &v->text.line[i];
	struct vmdk_extent *e = &v->extent[i];
	const char *path = td_file_path(vmdk_text_file(v));
	int err = 0;

	if (line->access == VMDK_NOACCESS)
		return td_fail(why, -EACCES, "%s: its extent %u may not be used", path, i);
	if (!v->img->read_only && (line->access != VMDK_RW || line->type == VMDK_ZERO))
		return td_fail(why, -EROFS, "%s: its extent %u is %s", path, i,
			       line->type == VMDK_ZERO ? "one of zeroes, which cannot be written" :
							 "to be read only");
	e->type = line->type;
	if (e->type != VMDK_ZERO && !e->file)
		err = file_open(v, e, line, why);
	if (err)
		return err;
	switch (e->type) {
	case VMDK_SPARSE:
		return sparse_open(v, e, line->size, i == v->extents - 1, why);
	case VMDK_FLAT:
		return flat_open(e, line, why);
	case VMDK_ZERO:
		e->end = e->start + line->size;
	}
	return 0;
}

/* From extent i on. */
static int maps_open(struct vmdk *v, unsigned i, struct td_why *why)
{
	int err = 0;

	for (; i < v->extents && !err; i++) {
		struct vmdk_extent *e = &v->extent[i];

		err = e->type == VMDK_SPARSE ? sparse_map(v, e, cache_share(v), why) :
					       flat_map(v, e, why);
	}
	if (!err)
		join_maps(v);
	return err;
}

/* What the descriptor's lines from i on name. */
static int lines_open(struct vmdk *v, unsigned i, struct td_why *why)
{
	uint64_t end = i ? v->extent[i - 1].end : 0;
	int err = 0;

	for (; i < v->text.lines && !err; i++) {
		v->extent[i].start = end;
		if (v->text.line[i].size > INT64_MAX / 2 - end)
			return td_fail(why, -EINVAL, "%s: its extents are larger than any disk",
				       v->img->target);
		err = line_open(v, i, why);
		end = v->extent[i].end;
	}
	return err;
}

int vmdk_extents_open(struct vmdk *v, struct td_why *why)
{
	int err = 0;

	if (!v->text.lines) { /* opened by itself */
		v->extent[0].type = VMDK_SPARSE;
		err = sparse_open(v, &v->extent[0], 0, true, why);
	}
	if (!err)
		err = lines_open(v, 0, why);
	v->img->size = v->extent[v->extents - 1].end;
	return err ? err : maps_open(v, 0, why);
}

int vmdk_extents_more(struct vmdk *v, struct td_why *why)
{
	unsigned had = v->extents;
	int err;

	if (had == v->text.lines)
		return 0;
	v->extents = v->text.lines;
	err = lines_open(v, had, why);
	if (!err)
		err = maps_open(v, had, why);
	if (!err && v->marked)
		err = vmdk_mark_in_use(v);
	return err;
}

void vmdk_extent_close(struct vmdk_extent *e)
{
	td_map_free(e->map);
	td_cache_free(e->cache);
	td_space_free(e->space);
	e->map = NULL;
	e->cache = NULL;
	e->space = NULL;
}

int vmdk_extent_end(struct vmdk *v, struct vmdk_extent *e, uint64_t end, struct td_why *why)
{
	int err;

	e->end = end;
	td_map_free(e->map);
	e->map = NULL;
	err = e->type == VMDK_SPARSE ? map_new(v, e, why) : flat_map(v, e, why);
	if (!err)
		join_maps(v);
	return err;
}

bool vmdk_holds_end(struct vmdk *v)
{
	struct td_cache *cache = v->extent[v->extents - 1].cache;
	struct td_park nobody = { 0 };
	bool was = td_cache_blocks(cache);
	struct td_spot spot;
	int err;

	td_cache_block(cache, true);
	err = vmdk_sparse_ops.find(v->img, &nobody, v->img->size - VMDK_SECTOR, VMDK_SECTOR, &spot);
	td_cache_block(cache, was);
	return !err && spot.kind != TD_SPOT_HOLE;
}

void vmdk_extents_close(struct vmdk *v)
{
	bool sound = true;

	vmdk_stream_close(v->stream);
	for (unsigned i = 0; i < v->extents; i++) {
		struct vmdk_extent *e = &v->extent[i];

		td_map_free(e->map);
		e->map = NULL;
		if (e->cache && e->space && td_cache_sync(e->cache))
			sound = false;
		vmdk_extent_close(e);
	}
	if (sound)
		vmdk_unmark(v);
	for (unsigned i = 0; i < v->extents; i++) {
		directories_free(&v->extent[i]);
		td_file_close(v->extent[i].file);
	}
	free(v->extent);
}

struct vmdk_extent *vmdk_extent_at(struct vmdk *v, uint64_t offset)
{
	unsigned low = 0, high = v->extents - 1;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (offset < v->extent[middle].end)
			high = middle;
		else
			low = middle + 1;
	}
	return &v->extent[low];
}
