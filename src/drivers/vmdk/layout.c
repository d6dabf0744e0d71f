/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Headers of sparse extents: read, doubted, and turned into a struct vmdk_layout.
 * Three kinds: that of hosted products ("KDMV"), ESX's first ("COWD"), and ESX's
 * seSparse. All say where a directory of tables is.
 */
#include "drivers/vmdk/layout.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define SECTORS_MAX (INT64_MAX / 512 / 2)

static bool fits(struct td_file *file, uint64_t at, uint64_t len)
{
	uint64_t size = td_file_size(file);

	return at && at < size && len <= size - at;
}

/* A number of sectors in bytes; what cannot be is past the end of every file. */
static uint64_t bytes(le64 sectors)
{
	uint64_t n = from_le64(sectors);

	return n > SECTORS_MAX ? SECTORS_MAX * VMDK_SECTOR : n * VMDK_SECTOR;
}

/* What the three have in common, once it has been filled in. */
static int check_numbers(struct td_file *file, struct vmdk_layout *layout, struct td_why *why)
{
	const char *path = td_file_path(file);
	uint64_t least = layout->kind == VMDK_HOSTED ? VMDK_GRAIN_MIN : VMDK_SECTOR;

	if (!layout->size || layout->size >= SECTORS_MAX * VMDK_SECTOR)
		return td_fail(why, -EINVAL, "%s: its size, %llu bytes, cannot be", path,
			       (unsigned long long)layout->size);
	if (!is_pow2(layout->grain) || layout->grain < least || layout->grain > VMDK_GRAIN_MAX)
		return td_fail(why, -EINVAL, "%s: grains of %llu bytes are not supported: a power "
			       "of two from %llu to 2M is", path, (unsigned long long)layout->grain,
			       (unsigned long long)least);
	layout->tables = (layout->size - 1) / vmdk_span(layout) + 1;
	if (layout->tables > VMDK_TABLES_MAX)
		return td_fail(why, -EFBIG, "%s: %llu grain tables are more than this driver can "
			       "have in memory", path, (unsigned long long)layout->tables);
	return 0;
}

static int check_directory(struct td_file *file, const struct vmdk_layout *layout, uint64_t at,
			   struct td_why *why)
{
	if (fits(file, at, layout->tables * vmdk_entry_size(layout)))
		return 0;
	return td_fail(why, -EINVAL, "%s: its grain directory, %llu entries at %llu, does not lie "
		       "in the file", td_file_path(file), (unsigned long long)layout->tables,
		       (unsigned long long)at);
}

/* ---- hosted -------------------------------------------------------------------- */

/* A stream has its directory at the end, and a second header that says where. */
static int footer_read(struct td_file *file, struct vmdk_header *head, struct td_why *why)
{
	uint64_t size = td_file_size(file);
	struct vmdk_header footer;
	int err;

	if (size < 4 * VMDK_SECTOR)
		return td_fail(why, -EINVAL, "%s: is too short to have a footer",
			       td_file_path(file));
	err = td_file_read(file, &footer, sizeof(footer),
			   round_down(size, VMDK_SECTOR) - 2 * VMDK_SECTOR);
	if (err)
		return td_fail(why, err, "%s: cannot read its footer", td_file_path(file));
	if (from_le32(footer.magic) != VMDK_MAGIC || from_le64(footer.gd_at) == VMDK_AT_END)
		return td_fail(why, -EINVAL, "%s: has no footer: the stream was cut off",
			       td_file_path(file));
	*head = footer;
	return 0;
}

static int check_version(struct td_file *file, const struct vmdk_header *head, struct td_why *why)
{
	uint32_t version = from_le32(head->version), flags = from_le32(head->flags);
	uint32_t known = VMDK_NEWLINES | VMDK_REDUNDANT | VMDK_ZEROES | VMDK_COMPRESSED |
			 VMDK_MARKERS;
	const char *path = td_file_path(file);

	if (version < 1 || version > 3)
		return td_fail(why, -ENOTSUP, "%s: VMDK version %u; this driver knows 1 to 3", path,
			       version);
	if (flags & ~known & 0xffff)
		return td_fail(why, -ENOTSUP, "%s: has flags %#x, of which some are not known",
			       path, flags);
	if (flags & VMDK_NEWLINES &&
	    (head->newline != '\n' || head->other != ' ' || memcmp(head->newlines, "\r\n", 2)))
		return td_fail(why, -EINVAL, "%s: was damaged by being moved as text", path);
	if (flags & VMDK_COMPRESSED && from_le16(head->compression) != 1)
		return td_fail(why, -ENOTSUP, "%s: compression method %u is not supported", path,
			       from_le16(head->compression));
	if (from_le32(head->entries) != VMDK_ENTRIES)
		return td_fail(why, -EINVAL, "%s: grain tables of %u entries are not supported: "
			       "512 are", path, from_le32(head->entries));
	return 0;
}

static int hosted_read(struct td_file *file, struct vmdk_header *head, struct vmdk_layout *out,
		       struct td_why *why)
{
	int err = check_version(file, head, why);
	uint32_t flags;

	if (err)
		return err;
	out->text_at = bytes(head->text_at);
	out->text_len = out->text_at ? bytes(head->text_len) : 0;
	if (out->text_len && !fits(file, out->text_at, out->text_len))
		return td_fail(why, -EINVAL, "%s: its descriptor, %llu bytes at %llu, does not lie "
			       "in the file", td_file_path(file), (unsigned long long)out->text_len,
			       (unsigned long long)out->text_at);
	if (from_le64(head->gd_at) == VMDK_AT_END) {
		err = footer_read(file, head, why);
		if (!err)
			err = check_version(file, head, why);
		if (err)
			return err;
		out->stream = from_le32(head->flags) & VMDK_COMPRESSED &&
			      from_le32(head->flags) & VMDK_MARKERS;
	}
	flags = from_le32(head->flags);
	out->version = from_le32(head->version);
	out->size = bytes(head->capacity);
	out->grain = bytes(head->grain);
	out->entries = VMDK_ENTRIES;
	out->gd_at = bytes(head->gd_at);
	out->rgd_at = flags & VMDK_REDUNDANT ? bytes(head->rgd_at) : 0;
	out->compressed = flags & VMDK_COMPRESSED;
	out->markers = flags & VMDK_MARKERS;
	out->zeroes = flags & VMDK_ZEROES;
	out->unclean = head->unclean;
	out->overhead = max_u64(bytes(head->overhead), VMDK_SECTOR);
	err = check_numbers(file, out, why);
	if (!err)
		err = check_directory(file, out, out->gd_at, why);
	if (err || out->compressed) { /* its tables are written once: one copy will do */
		out->rgd_at = 0;
		return err;
	}
	return out->rgd_at ? check_directory(file, out, out->rgd_at, why) : 0;
}

/* ---- ESX ------------------------------------------------------------------------- */

static int cowd_read(struct td_file *file, const void *sector, struct vmdk_layout *out,
		     struct td_why *why)
{
	struct vmdk_cowd_header head;
	int err;

	memcpy(&head, sector, sizeof(head));
	if (from_le32(head.version) != 1)
		return td_fail(why, -ENOTSUP, "%s: COWD version %u; this driver knows 1",
			       td_file_path(file), from_le32(head.version));
	out->kind = VMDK_COWD;
	out->version = 1;
	out->size = from_le32(head.capacity) * VMDK_SECTOR;
	out->grain = from_le32(head.grain) * VMDK_SECTOR;
	out->gd_at = from_le32(head.gd_at) * VMDK_SECTOR;
	out->entries = VMDK_COWD_ENTRIES;
	out->overhead = 4 * VMDK_SECTOR;
	err = check_numbers(file, out, why);
	if (!err && out->tables > from_le32(head.gd_entries))
		err = td_fail(why, -EINVAL, "%s: its grain directory of %u entries is too short",
			      td_file_path(file), from_le32(head.gd_entries));
	return err ? err : check_directory(file, out, out->gd_at, why);
}

static int sesparse_volatile(struct td_file *file, uint64_t at, struct td_why *why)
{
	struct vmdk_se_volatile head;
	int err = fits(file, at, sizeof(head)) ? td_file_read(file, &head, sizeof(head), at) :
						 -EINVAL;

	if (err || from_le64(head.magic) != VMDK_SE_VOLATILE)
		return td_fail(why, err ? err : -EINVAL, "%s: has no volatile header at %llu",
			       td_file_path(file), (unsigned long long)at);
	if (from_le64(head.replay))
		return td_fail(why, -ENOTSUP, "%s: its journal is to be replayed: ESX has to close "
			       "it first", td_file_path(file));
	return 0;
}

static int sesparse_read(struct td_file *file, const void *sector, struct vmdk_layout *out,
			 struct td_why *why)
{
	const char *path = td_file_path(file);
	struct vmdk_se_header head;
	uint64_t table;
	int err;

	memcpy(&head, sector, sizeof(head));
	if (from_le64(head.version) != 0x200000001ull)
		return td_fail(why, -ENOTSUP, "%s: seSparse version %#llx; this driver knows 2.1",
			       path, (unsigned long long)from_le64(head.version));
	out->kind = VMDK_SESPARSE;
	out->version = 2;
	out->size = bytes(head.capacity);
	out->grain = bytes(head.grain);
	table = bytes(head.table);
	out->entries = table / 8;
	out->gd_at = bytes(head.gd_at);
	out->tables_at = bytes(head.tables_at);
	out->tables_len = bytes(head.tables_len);
	out->grains_at = bytes(head.grains_at);
	out->grains_len = bytes(head.grains_len);
	out->overhead = out->grains_at;
	if (!is_pow2(out->entries) || table < VMDK_SECTOR || table > MiB)
		return td_fail(why, -EINVAL, "%s: grain tables of %llu bytes cannot be", path,
			       (unsigned long long)table);
	if (!out->tables_at || !out->grains_at)
		return td_fail(why, -EINVAL, "%s: does not say where its tables and grains are",
			       path);
	err = check_numbers(file, out, why);
	if (!err && bytes(head.gd_len) / 8 < out->tables)
		err = td_fail(why, -EINVAL, "%s: its grain directory of %llu bytes is too short",
			      path, (unsigned long long)bytes(head.gd_len));
	if (!err)
		err = check_directory(file, out, out->gd_at, why);
	return err ? err : sesparse_volatile(file, bytes(head.volatile_at), why);
}

/* ---- any ---------------------------------------------------------------------------- */

static int sector_read(struct td_file *file, char sector[512])
{
	uint64_t size = td_file_size(file);

	memset(sector, 0, 512);
	return size ? td_file_read(file, sector, min_u64(size, 512), 0) : -EINVAL;
}

static uint32_t magic_of(const char *sector)
{
	le32 magic;

	memcpy(&magic, sector, sizeof(magic));
	return from_le32(magic);
}

enum vmdk_file vmdk_file_kind(struct td_file *file)
{
	static const char text[] = "disk descriptorfile";
	char sector[512];
	uint32_t magic;

	if (sector_read(file, sector))
		return VMDK_FILE_UNKNOWN;
	magic = magic_of(sector);
	if (magic == VMDK_MAGIC || magic == VMDK_COWD_MAGIC || magic == VMDK_SE_MAGIC)
		return VMDK_FILE_SPARSE;
	if (sector[0] != '#')
		return VMDK_FILE_UNKNOWN;
	for (const char *p = sector + 1; p < sector + 64 && *p && *p != '\n'; p++)
		if (!strncasecmp(p, text, sizeof(text) - 1))
			return VMDK_FILE_TEXT;
	return VMDK_FILE_UNKNOWN;
}

int vmdk_layout_read(struct td_file *file, struct vmdk_layout *out, struct td_why *why)
{
	struct vmdk_header head;
	char sector[512];
	int err = sector_read(file, sector);

	*out = (struct vmdk_layout){ .kind = VMDK_HOSTED };
	if (err || td_file_size(file) < 512)
		return td_fail(why, err ? err : -EINVAL, "%s: no VMDK extent: it is too short",
			       td_file_path(file));
	switch (magic_of(sector)) {
	case VMDK_MAGIC:
		memcpy(&head, sector, sizeof(head));
		return hosted_read(file, &head, out, why);
	case VMDK_COWD_MAGIC:
		return cowd_read(file, sector, out, why);
	case (uint32_t)VMDK_SE_MAGIC:
		return sesparse_read(file, sector, out, why);
	}
	return td_fail(why, -EINVAL, "%s: no sparse VMDK extent", td_file_path(file));
}
