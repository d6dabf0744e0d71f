/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image below a differencing one. Its name is kept in the header, and in up to
 * eight locators, each in the way of some system. They are tried in this order, and
 * the first whose file is there is it:
 *
 *   W2ru  relative, of Windows: .\a\b.vhd      MacX  a URL: file://./a/b.vhd
 *   W2ku  absolute, of Windows: what follows the last \ is looked for beside the image
 *   the name in the header, likewise
 *
 * It must have the identity that the header says. If that is all zeroes, the image
 * below is a raw one, as XenServer has it.
 */
#include "drivers/vhd/vhd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/path.h"
#include "base/utf16.h"

#define CODES 3

static const uint8_t no_uuid[16];

/* ---- what the image says ---------------------------------------------------------- */

/* A locator as a path of ours; NULL: it has none. */
static char *locator_path(struct vhd *vhd, const struct vhd_locator *locator)
{
	uint64_t at = from_be64(locator->at);
	uint32_t len = from_be32(locator->len);
	AUTO_FREE uint8_t *data = NULL;
	char *path;

	if (!len || len > VHD_LOCATOR_MAX || at >= td_file_size(vhd->file) ||
	    !(data = calloc(1, len + 1)) || td_file_read(vhd->file, data, len, at))
		return NULL;
	if (!memcmp(locator->code, "MacX", 4))
		return strncmp((char *)data, "file://", 7) ? NULL : strdup((char *)data + 7);
	path = td_from_utf16(data, len, false);
	if (!path)
		return NULL;
	td_path_replace(path, '\\', '/');
	if (!memcmp(locator->code, "W2ku", 4))
		td_path_last_part(path);
	return path;
}

/* The nth place to look, in order; NULL: none. */
static char *path_of(void *vhd_, unsigned n)
{
	static const char codes[CODES][5] = { "W2ru", "MacX", "W2ku" };
	struct vhd *vhd = vhd_;
	const struct vhd_header *header = &vhd->layout.header;
	const struct vhd_locator *locator = &header->locator[n % VHD_LOCATORS];
	char *path;

	if (n < CODES * VHD_LOCATORS)
		return memcmp(locator->code, codes[n / VHD_LOCATORS], 4) ?
		       NULL : locator_path(vhd, locator);
	path = td_from_utf16((const uint8_t *)header->parent_name, sizeof(header->parent_name), true);
	if (!path)
		return NULL;
	td_path_replace(path, '\\', '/');
	td_path_last_part(path);
	return path;
}

int vhd_parent_open(struct vhd *vhd, struct td_why *why)
{
	const uint8_t *wanted = vhd->layout.header.parent_uuid;
	const char *path = td_file_path(vhd->file), *format = vhd->backing_format;
	const struct td_image *below;
	struct td_why below_why;
	int err;

	if (vhd->layout.type != VHD_DIFFERENCING) {
		if (format)
			return td_fail(why, -EINVAL, "%s: backing-format= is given, and it has no "
				       "backing file", path);
		return 0;
	}
	vhd->parent = td_path_find(path, path_of, CODES * VHD_LOCATORS + 1, vhd);
	if (!vhd->parent)
		return td_fail(why, -EINVAL, "%s: does not say where its parent is", path);
	if (!format)
		format = memcmp(wanted, no_uuid, 16) ? vhd->img->driver->name : "aio";
	err = td_image_open_below(vhd->img, format, vhd->parent, path, &below_why);
	if (err)
		return td_fail(why, err, "%s: its parent: %s", path, below_why.text);
	below = vhd->img->below; /* NULL: nobody asks for content */
	if (below && below->driver == vhd->img->driver &&
	    memcmp(((struct vhd *)below->state)->layout.footer.uuid, wanted, 16))
		return td_fail(why, -EINVAL, "%s: its parent %s is not the one it was made over: its "
			       "identity is another", path, vhd->parent);
	return 0;
}

/* ---- what a new image says -------------------------------------------------------- */

/* What we need of a parent that is a VHD: its identity, and when it was changed. */
static int look_at_parent(const char *path, const char *backing, struct td_files *files,
			  struct vhd_header *header, struct td_why *why)
{
	AUTO_FREE struct vhd_layout *layout = calloc(1, sizeof(*layout));
	AUTO_FREE char *full = td_path_beside(path, backing);
	struct vhd_choice choice = { 0 };
	struct td_file *file;
	int err;

	if (!layout || !full)
		return td_fail(why, -ENOMEM, "%s: no memory", path);
	err = td_file_open(files, full, 0, &file, why);
	if (err)
		return err;
	err = vhd_layout_read(file, &choice, layout, why);
	td_file_close(file);
	if (err)
		return err;
	memcpy(header->parent_uuid, layout->footer.uuid, sizeof(header->parent_uuid));
	header->parent_timestamp = layout->footer.timestamp;
	return 0;
}

static void locator_put(struct vhd_header *header, struct vhd_parent *out, const char *code,
			uint32_t len, uint64_t *at)
{
	struct vhd_locator *locator = &header->locator[out->count];

	memcpy(locator->code, code, 4);
	locator->space = to_be32(round_up(len, 512));
	locator->len = to_be32(len);
	locator->at = to_be64(*at);
	out->len[out->count++] = len;
	*at += round_up(len, 512);
}

void vhd_parent_clear(struct vhd_header *header)
{
	memset(header->parent_uuid, 0, sizeof(header->parent_uuid));
	header->parent_timestamp = to_be32(0);
	memset(header->parent_name, 0, sizeof(header->parent_name));
	memset(header->locator, 0, sizeof(header->locator));
}

int vhd_parent_name(const char *path, const char *backing, const char *format,
		    struct td_files *files, uint64_t locators_at, struct vhd_header *header,
		    struct vhd_parent *out, struct td_why *why)
{
	const char *slash = strrchr(backing, '/'), *last = slash ? slash + 1 : backing;
	bool absolute = *backing == '/', is_vhd;
	char windows[VHD_LOCATOR_MAX / 2], *url = out->name[0];
	uint64_t at = locators_at;
	size_t len;
	int n;

	is_vhd = format && (!strcmp(format, "vhd") || !strcmp(format, "vpc"));
	memset(out, 0, sizeof(*out));
	vhd_parent_clear(header);
	if (!is_vhd && (!format || (strcmp(format, "aio") && strcmp(format, "raw"))))
		return td_fail(why, -ENOTSUP, "%s: a VHD lies over a vhd or a raw image: it cannot "
			       "name another format", path);
	if (strstr(backing, "://"))
		return td_fail(why, -ENOTSUP, "%s: a VHD names its parent as a file, which %s is not",
			       path, backing);
	n = snprintf(url, VHD_LOCATOR_MAX, "file://%s%s", absolute ? "" : "./", backing);
	if (n < 0 || n >= VHD_LOCATOR_MAX / 2 || !*last)
		return td_fail(why, -ENAMETOOLONG, "%s: the parent's name is too long, or empty", path);
	locator_put(header, out, "MacX", n, &at);
	snprintf(windows, sizeof(windows), "%s%s", absolute ? "" : "./", backing);
	td_path_replace(windows, '/', '\\');
	len = td_to_utf16(windows, (uint8_t *)out->name[1], VHD_LOCATOR_MAX, false);
	if (!len || !td_to_utf16(last, (uint8_t *)header->parent_name,
			      sizeof(header->parent_name) - 2, true))
		return td_fail(why, -ENAMETOOLONG, "%s: the parent's name is too long, or no UTF-8",
			       path);
	locator_put(header, out, absolute ? "W2ku" : "W2ru", len, &at);
	return is_vhd ? look_at_parent(path, backing, files, header, why) : 0;
}
