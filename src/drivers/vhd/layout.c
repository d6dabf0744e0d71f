/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Footers and header: read, doubted, and turned into a struct vhd_layout.
 *
 * The footer at the end is the one that counts: the beginning of a fixed image is
 * its guest's. If there is none, the copy at the beginning stands for it, but only
 * for types that have one. Where both are sound and say different types the guest
 * may have written either, so that somebody has to say.
 */
#include "drivers/vhd/layout.h"

#include <blktap/format.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATMAP_MAX (4 * MiB)
#define CHUNK (64 * KiB)
#define TAP_1_1 0x00010001u

struct reading {
	struct td_file *file;
	struct vhd_layout *layout;
	const char *path;
	struct td_why *why;
};

/* ---- sums ------------------------------------------------------------------------ */

static uint32_t sum_of(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return sum;
}

uint32_t vhd_checksum(const void *data, size_t len)
{
	return ~sum_of(data, len);
}

static uint32_t footer_checksum(struct vhd_footer footer)
{
	footer.checksum = to_be32(0);
	return vhd_checksum(&footer, sizeof(footer));
}

void vhd_footer_seal(struct vhd_footer *footer)
{
	footer->checksum = to_be32(footer_checksum(*footer));
}

static uint32_t header_checksum(const struct vhd_header *header)
{
	uint32_t own = sum_of(&header->checksum, sizeof(header->checksum));

	return ~(sum_of(header, sizeof(*header)) - own);
}

void vhd_header_seal(struct vhd_header *header)
{
	header->checksum = to_be32(header_checksum(header));
}

/* ---- the footer ------------------------------------------------------------------- */

static bool by_tap(const struct vhd_footer *footer)
{
	return !memcmp(footer->app, "tap", 4);
}

static bool footer_sound(const struct vhd_footer *footer)
{
	uint32_t checksum = from_be32(footer->checksum), version = from_be32(footer->app_version);
	struct vhd_footer seen = *footer;

	if (memcmp(footer->cookie, "conectix", 8))
		return false;
	if (footer_checksum(*footer) == checksum)
		return true;
	/* early tools of XenServer marked an image hidden and left the checksum */
	seen.hidden = 0;
	return by_tap(footer) && (version == 1 || version == TAP_1_1) &&
	       footer_checksum(seen) == checksum;
}

static bool footer_read(struct td_file *file, uint64_t at, struct vhd_footer *out)
{
	uint64_t size = td_file_size(file);

	/* those of the first versions had 511 bytes */
	memset(out, 0, sizeof(*out));
	if (at >= size || size - at < 511)
		return false;
	return !td_file_read(file, out, min_u64(sizeof(*out), size - at), at) &&
	       footer_sound(out);
}

static uint64_t footer_place(struct td_file *file)
{
	uint64_t size = td_file_size(file);

	if (size < 511)
		return 0;
	return size % 512 == 511 ? size - 511 : round_down(size, 512) - 512;
}

static bool is_sparse(const struct vhd_footer *footer)
{
	uint32_t type = from_be32(footer->type);

	return type == VHD_DYNAMIC || type == VHD_DIFFERENCING;
}

bool vhd_looks_like(struct td_file *file)
{
	struct vhd_footer footer;

	return footer_read(file, footer_place(file), &footer) ||
	       (footer_read(file, 0, &footer) && is_sparse(&footer));
}

/* A fixed image that was growing may have a footer that nothing but zeroes follow; it has no
 * copy. Whoever moves one does so in steps. */
static bool footer_behind_zeroes(struct td_file *file, uint64_t *at, struct vhd_footer *out)
{
	uint64_t size = round_down(td_file_size(file), 512);
	uint64_t least = size > VHD_FIXED_STEP + 512 ? size - VHD_FIXED_STEP - 512 : 0;
	char *buf = malloc(CHUNK);
	bool found = false;

	for (uint64_t end = size, n; buf && end > least && !found; end -= n) {
		n = min_u64(end - least, CHUNK);
		if (td_file_read(file, buf, n, end - n))
			break;
		for (uint64_t pos = n; pos && !found; pos -= 512) {
			found = buf[pos - 512] || memcmp(buf + pos - 512, buf + pos - 511, 511);
			*at = end - n + pos - 512;
		}
	}
	free(buf);
	return found && footer_read(file, *at, out) && !is_sparse(out);
}

/* Which of the two counts. */
static int choose_footer(struct reading *r, const struct vhd_choice *choice)
{
	struct vhd_layout *layout = r->layout;
	struct vhd_footer end, copy;
	bool has_copy = footer_read(r->file, 0, &copy) && is_sparse(&copy);
	bool fixed;
	int err = td_subformat_parse(r->path, choice->subformat, &fixed, r->why);

	if (err)
		return err;
	layout->footer_at = footer_place(r->file);
	layout->has_footer = layout->footer_at && footer_read(r->file, layout->footer_at, &end);
	if (!layout->has_footer && !has_copy)
		layout->has_footer = footer_behind_zeroes(r->file, &layout->footer_at, &end);
	if (!layout->has_footer && !has_copy)
		return td_fail(r->why, -EINVAL, "%s: no VHD image: no sound footer at its end, and no "
			       "copy of one at its beginning", r->path);
	if (layout->has_footer && has_copy && !is_sparse(&end) && !choice->subformat)
		return td_fail(r->why, -EINVAL, "%s: is a fixed image by its end and a dynamic one by "
			       "its beginning: say subformat=fixed or =dynamic", r->path);
	if (layout->has_footer && choice->subformat && !fixed && !is_sparse(&end))
		layout->has_footer = false;
	layout->footer = layout->has_footer ? end : copy;
	layout->has_copy = has_copy &&
			   (!layout->has_footer || !memcmp(&end, &copy, sizeof(end)));
	if (choice->subformat && fixed == is_sparse(&layout->footer))
		return td_fail(r->why, -EINVAL, "%s: is not %s, as subformat= says", r->path,
			       choice->subformat);
	return 0;
}

/* Virtual PC and QEMU go by the geometry, all others by the current size. */
static bool goes_by_geometry(const struct vhd_footer *footer)
{
	static const char apps[][5] = { "vpc ", "vs  ", "qemu" };

	for (unsigned i = 0; i < ARRAY_SIZE(apps); i++)
		if (!memcmp(footer->app, apps[i], 4))
			return true;
	return false;
}

static int read_size(struct reading *r, const struct vhd_choice *choice)
{
	struct vhd_layout *layout = r->layout;
	const struct vhd_footer *footer = &layout->footer;
	uint64_t current = from_be64(footer->current_size);
	uint64_t chs = 512ull * from_be16(footer->cylinders) * footer->heads * footer->sectors;
	bool by_chs = goes_by_geometry(footer) && chs < 65535ull * 16 * 255 * 512;

	if (choice->size && !strcmp(choice->size, "chs"))
		by_chs = true;
	else if (choice->size && !strcmp(choice->size, "current"))
		by_chs = false;
	else if (choice->size)
		return td_fail(r->why, -EINVAL, "%s: size-from=%s is neither chs nor current",
			       r->path, choice->size);
	layout->size = by_chs ? chs : round_down(current, 512);
	if (!layout->size || layout->size > VHD_SIZE_MAX)
		return td_fail(r->why, -EINVAL, "%s: a disk of %llu bytes; a VHD has 512 to 2040 GiB",
			       r->path, (unsigned long long)layout->size);
	return 0;
}

static int read_footer(struct reading *r, const struct vhd_choice *choice)
{
	struct vhd_layout *layout = r->layout;
	int err = choose_footer(r, choice);

	if (err)
		return err;
	layout->type = from_be32(layout->footer.type);
	if (layout->type != VHD_FIXED && !is_sparse(&layout->footer))
		return td_fail(r->why, -ENOTSUP, "%s: a VHD of type %u; this driver knows 2 (fixed), 3 "
			       "(dynamic) and 4 (differencing)", r->path, layout->type);
	if (from_be32(layout->footer.version) >> 16 != 1)
		return td_fail(r->why, -ENOTSUP, "%s: VHD version %u; this driver knows 1", r->path,
			       from_be32(layout->footer.version) >> 16);
	if (layout->footer.saved)
		return td_fail(r->why, -ENOTSUP, "%s: belongs to a machine that is suspended", r->path);
	return read_size(r, choice);
}

/* ---- the header ------------------------------------------------------------------- */

static bool fits(const struct reading *r, uint64_t at, uint64_t len)
{
	uint64_t end = r->layout->has_footer ? r->layout->footer_at : td_file_size(r->file);

	return at <= end && len <= end - at;
}

static int read_header(struct reading *r)
{
	struct vhd_layout *layout = r->layout;
	struct vhd_header *header = &layout->header;
	uint64_t at = from_be64(layout->footer.header_at);
	uint32_t block;
	int err;

	if (at < 512 || !is_aligned(at, 512) || !fits(r, at, sizeof(*header)))
		return td_fail(r->why, -EINVAL, "%s: its header, at %llu, does not lie in the file",
			       r->path, (unsigned long long)at);
	err = td_file_read(r->file, header, sizeof(*header), at);
	if (err)
		return td_fail(r->why, err, "%s: cannot read its header", r->path);
	if (memcmp(header->cookie, "cxsparse", 8) ||
	    header_checksum(header) != from_be32(header->checksum))
		return td_fail(r->why, -EINVAL, "%s: its header, at %llu, is damaged", r->path,
			       (unsigned long long)at);
	if (from_be32(header->version) >> 16 != 1)
		return td_fail(r->why, -ENOTSUP, "%s: a header of version %u; this driver knows 1",
			       r->path, from_be32(header->version) >> 16);
	block = from_be32(header->block);
	if (!is_pow2(block) || block < 512 || block > VHD_BLOCK_MAX)
		return td_fail(r->why, -EINVAL, "%s: blocks of %u bytes are not a power of 2 from 512 "
			       "to 128M", r->path, block);
	layout->block_bits = __builtin_ctz(block);
	layout->bitmap = round_up((block / 512 + 7) / 8, 512);
	layout->entries = from_be32(header->entries);
	layout->bat_at = from_be64(header->bat_at);
	if (layout->entries < ((layout->size - 1) >> layout->block_bits) + 1)
		return td_fail(r->why, -EINVAL, "%s: %llu blocks of %u bytes are not enough for a disk "
			       "of %llu", r->path, (unsigned long long)layout->entries, block,
			       (unsigned long long)layout->size);
	if (layout->bat_at < 512 || !is_aligned(layout->bat_at, 512) ||
	    !fits(r, layout->bat_at, layout->entries * 4) ||
	    (layout->bat_at < at + sizeof(*header) &&
	     at < layout->bat_at + vhd_bat_len(layout)))
		return td_fail(r->why, -EINVAL, "%s: its block table, %llu entries at %llu, cannot be",
			       r->path, (unsigned long long)layout->entries,
			       (unsigned long long)layout->bat_at);
	layout->bits_reversed = by_tap(&layout->footer) &&
				from_be32(layout->footer.app_version) == 1;
	return 0;
}

/* ---- the batmap ------------------------------------------------------------------- */

static uint32_t batmap_checksum(const int8_t *bits, uint64_t len, uint32_t version)
{
	uint32_t sum = 0;

	if (version != TAP_1_1)
		return vhd_checksum(bits, len);
	for (uint64_t i = 0; i < len; i++)
		sum += bits[i];
	return ~sum;
}

static int read_batmap(struct reading *r)
{
	struct vhd_layout *layout = r->layout;
	uint64_t at = layout->bat_at + vhd_bat_len(layout), len;
	struct vhd_batmap head;
	void *bits;
	int err;

	if (!by_tap(&layout->footer) || from_be32(layout->footer.app_version) < TAP_1_1 ||
	    !fits(r, at, sizeof(head)))
		return 0;
	err = td_file_read(r->file, &head, sizeof(head), at);
	if (err)
		return td_fail(r->why, err, "%s: cannot read its batmap", r->path);
	if (memcmp(head.cookie, "tdbatmap", 8))
		return 0;
	len = from_be32(head.sectors) * 512ull;
	layout->batmap_wrong = true;
	if (!len || len > BATMAP_MAX || len < (layout->entries + 7) / 8 ||
	    !is_aligned(from_be64(head.at), 512) || from_be64(head.at) < at + sizeof(head) ||
	    !fits(r, from_be64(head.at), len))
		return 0;
	bits = malloc(len);
	err = bits ? td_file_read(r->file, bits, len, from_be64(head.at)) : -ENOMEM;
	if (!err) {
		layout->batmap_at = from_be64(head.at);
		layout->batmap_len = len;
		layout->batmap_wrong = batmap_checksum(bits, len, from_be32(head.version)) !=
				       from_be32(head.checksum);
	}
	free(bits);
	return err ? td_fail(r->why, err, "%s: cannot read its batmap", r->path) : 0;
}

int vhd_layout_read(struct td_file *file, const struct vhd_choice *choice,
		    struct vhd_layout *out, struct td_why *why)
{
	struct reading r = { .file = file, .layout = out, .path = td_file_path(file), .why = why };
	int err = read_footer(&r, choice);

	if (err)
		return err;
	if (out->type == VHD_FIXED) {
		if (out->size > out->footer_at)
			return td_fail(why, -EINVAL, "%s: a fixed image of a disk of %llu bytes has but "
				       "%llu before its footer", r.path, (unsigned long long)out->size,
				       (unsigned long long)out->footer_at);
		return 0;
	}
	err = read_header(&r);
	return err ? err : read_batmap(&r);
}

/* ---- geometry ---------------------------------------------------------------------- */

void vhd_geometry(struct vhd_footer *footer, uint64_t size)
{
	uint64_t sectors = min_u64(size / 512, 65535ull * 16 * 255), heads = 16, track = 255, left;

	left = sectors / track;
	if (sectors < 65535 * 16 * 63) {
		track = 17;
		left = sectors / track;
		heads = max_u64((left + 1023) / 1024, 4);
		if (left >= heads * 1024 || heads > 16) {
			track = 31;
			heads = 16;
			left = sectors / track;
		}
		if (left >= heads * 1024) {
			track = 63;
			heads = 16;
			left = sectors / track;
		}
	}
	footer->cylinders = to_be16(left / heads);
	footer->heads = heads;
	footer->sectors = track;
}
