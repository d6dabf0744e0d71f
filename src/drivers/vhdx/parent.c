/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image below a differencing one. An item of the metadata has pairs of words in
 * UTF-16; the first of these whose file is there is it:
 *
 *   relative_path        from the image's folder: .\a\b.vhdx
 *   absolute_win32_path  \a\b.vhdx as it is; of one with a drive what follows the last \
 *   volume_path          likewise, beside the image
 *
 * It must have been written last when parent_linkage says, or parent_linkage2: that is the
 * GUID that changes with the first write to it. If that is all zeroes, the image below is
 * a raw one; only this driver makes such.
 */
#include "drivers/vhdx/vhdx.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/path.h"
#include "base/utf16.h"

#define PATHS 3
#define PAIRS_MAX 64
#define LINKAGE_TEXT 40

static const char *const path_keys[PATHS] = {
	"relative_path", "absolute_win32_path", "volume_path",
};

/* ---- what the image says ---------------------------------------------------------- */

/* The value of a key; NULL: it has none. */
static char *value_of(const uint8_t *locator, size_t len, const char *key)
{
	const struct vhdx_locator *head = (const void *)locator;
	unsigned count = min_u64(from_le16(head->count), PAIRS_MAX);

	for (unsigned i = 0; i < count; i++) {
		const struct vhdx_locator_pair *pair = &head->pair[i];
		uint64_t key_at = from_le32(pair->key_at), value_at = from_le32(pair->value_at);
		AUTO_FREE char *name = NULL;

		if (sizeof(*head) + (i + 1) * sizeof(*pair) > len ||
		    key_at + from_le16(pair->key_len) > len ||
		    value_at + from_le16(pair->value_len) > len)
			return NULL;
		name = td_from_utf16(locator + key_at, from_le16(pair->key_len), false);
		if (name && !strcmp(name, key))
			return td_from_utf16(locator + value_at, from_le16(pair->value_len), false);
	}
	return NULL;
}

/* What is read of the metadata. */
struct locator {
	const uint8_t *data;
	size_t len;
};

/* The path that one of the keys says, as one of ours; NULL: none. */
static char *path_of(void *locator_, unsigned nth)
{
	const struct locator *locator = locator_;
	char *path = value_of(locator->data, locator->len, path_keys[nth]);

	if (!path)
		return NULL;
	td_path_replace(path, '\\', '/');
	if (nth && (path[0] != '/' || path[1] == '/' || nth == PATHS - 1))
		td_path_last_part(path);
	return path;
}

static bool same_linkage(const char *text, const struct vhdx_guid *guid)
{
	char own[TD_UUID_TEXT];

	vhdx_guid_text(guid, own);
	return text && strlen(text) == TD_UUID_TEXT + 1 && text[0] == '{' &&
	       !strncasecmp(text + 1, own, TD_UUID_TEXT - 1);
}

static int parent_fits(struct vhdx *vhdx, const uint8_t *locator, size_t len, struct td_why *why)
{
	const struct td_image *below = vhdx->img->below;
	const struct vhdx_layout *parent;
	AUTO_FREE char *linkage = value_of(locator, len, "parent_linkage");
	AUTO_FREE char *second = value_of(locator, len, "parent_linkage2");
	const struct vhdx_guid *guid;

	if (!below || below->driver != vhdx->img->driver)
		return 0;
	parent = &((struct vhdx *)below->state)->layout;
	guid = &parent->header[parent->current].data_write;
	if (!same_linkage(linkage, guid) && !same_linkage(second, guid))
		return td_fail(why, -EINVAL, "%s: its parent %s is not as it was when the image was made "
			       "over it: it has been written to, or is another (tap-img rebase -u if "
			       "its content is right)",
			       td_file_path(vhdx->file), vhdx->parent);
	if (parent->sector_bits != vhdx->layout.sector_bits)
		return td_fail(why, -EINVAL, "%s: its parent %s has sectors of another size",
			       td_file_path(vhdx->file), vhdx->parent);
	return 0;
}

static int open_named(struct vhdx *vhdx, const uint8_t *locator, size_t len, struct td_why *why)
{
	const char *path = td_file_path(vhdx->file), *format = vhdx->backing_format;
	AUTO_FREE char *linkage = value_of(locator, len, "parent_linkage");
	struct td_why below_why;
	int err;

	vhdx->parent = td_path_find(path, path_of, PATHS, &(struct locator){ locator, len });
	if (!vhdx->parent)
		return td_fail(why, -EINVAL, "%s: does not say where its parent is", path);
	if (!format)
		format = same_linkage(linkage, &vhdx_guid_none) ? "aio" : vhdx->img->driver->name;
	err = td_image_open_below(vhdx->img, format, vhdx->parent, path, &below_why);
	if (err)
		return td_fail(why, err, "%s: its parent: %s", path, below_why.text);
	return parent_fits(vhdx, locator, len, why);
}

int vhdx_parent_open(struct vhdx *vhdx, struct td_why *why)
{
	const struct vhdx_span *place = &vhdx->layout.locator;
	const char *path = td_file_path(vhdx->file);
	AUTO_FREE uint8_t *locator = NULL;
	int err;

	if (!vhdx->layout.has_parent) {
		if (vhdx->backing_format)
			return td_fail(why, -EINVAL, "%s: backing-format= is given, and it has no "
				       "backing file", path);
		return 0;
	}
	locator = malloc(place->len);
	err = locator ? vhdx_read(&vhdx->reader, locator, place->len, place->at) : -ENOMEM;
	if (err)
		return td_fail(why, err, "%s: cannot read where its parent is", path);
	if (place->len < sizeof(struct vhdx_locator) ||
	    !vhdx_guid_is(&((struct vhdx_locator *)locator)->type, &vhdx_guid_locator_type))
		return td_fail(why, -ENOTSUP, "%s: names its parent in a way that this driver does not "
			       "know", path);
	return open_named(vhdx, locator, place->len, why);
}

/* ---- what a new image says -------------------------------------------------------- */

/* When the parent was written last: all zeroes if it is raw. */
static int read_linkage(const struct td_create *make, char text[LINKAGE_TEXT], struct td_why *why)
{
	AUTO_FREE struct vhdx_layout *layout = calloc(1, sizeof(*layout));
	AUTO_FREE char *full = td_path_beside(make->path, make->backing);
	const char *format = make->backing_format;
	char guid[TD_UUID_TEXT];
	struct td_file *file;
	int err;

	vhdx_guid_text(&vhdx_guid_none, guid);
	if (!format || (strcmp(format, "vhdx") && strcmp(format, "aio") && strcmp(format, "raw")))
		return td_fail(why, -ENOTSUP, "%s: a VHDX lies over a vhdx or a raw image: it cannot "
			       "name another format", make->path);
	if (!layout || !full)
		return td_fail(why, -ENOMEM, "%s: no memory", make->path);
	if (!strcmp(format, "vhdx")) {
		err = td_file_open(make->files, full, 0, &file, why);
		if (err)
			return err;
		err = vhdx_headers_read(file, layout, why);
		td_file_close(file);
		if (err)
			return err;
		vhdx_guid_text(&layout->header[layout->current].data_write, guid);
	}
	snprintf(text, LINKAGE_TEXT, "{%s}", guid);
	return 0;
}

/* From the folder of path to the file, both made plain; NULL: they cannot be. */
static char *relative_path(const char *path, const char *to)
{
	const char *slash = strrchr(path, '/'), *rest;
	AUTO_FREE char *folder = slash ? strndup(path, slash + 1 - path) : strdup(".");
	AUTO_FREE char *from = folder ? realpath(folder, NULL) : NULL;
	AUTO_FREE char *plain = realpath(to, NULL);
	size_t same = 0, up = 0;
	char *out, *end;

	if (!from || !plain)
		return NULL;
	for (size_t i = 0; from[i] && from[i] == plain[i]; i++)
		if (plain[i] == '/')
			same = i;
	if (!strncmp(from, plain, strlen(from)) && plain[strlen(from)] == '/')
		same = strlen(from); /* it lies below the folder */
	rest = plain + same + 1;
	for (const char *p = from + same; *p; p++)
		up += *p == '/' && p[1];
	out = end = malloc(3 * up + strlen(rest) + 3);
	if (!out)
		return NULL;
	if (!up)
		end = stpcpy(end, "./");
	while (up--)
		end = stpcpy(end, "../");
	strcpy(end, rest);
	return out;
}

static int put_text(uint8_t *locator, uint32_t *len, const char *text, le32 *at, le16 *text_len)
{
	size_t n = td_to_utf16(text, locator + *len, VHDX_LOCATOR_MAX / 2 - *len, false);

	*at = to_le32(*len);
	*text_len = to_le16(n);
	*len += n;
	return n ? 0 : -ENAMETOOLONG;
}

int vhdx_parent_name(const struct td_create *make, uint8_t locator[VHDX_LOCATOR_MAX],
		     uint32_t *len, struct td_why *why)
{
	struct vhdx_locator *head = (void *)locator;
	AUTO_FREE char *full = td_path_beside(make->path, make->backing);
	AUTO_FREE char *relative = full ? relative_path(make->path, full) : NULL;
	AUTO_FREE char *absolute = full ? realpath(full, NULL) : NULL;
	char linkage[LINKAGE_TEXT];
	const char *pair[3][2] = {
		{ "parent_linkage", linkage }, { path_keys[0], relative },
		{ path_keys[1], absolute },
	};
	int err = read_linkage(make, linkage, why);

	if (err)
		return err;
	if (!relative || !absolute)
		return td_fail(why, -ENOENT, "%s: its parent %s is not there", make->path, make->backing);
	td_path_replace(relative, '/', '\\');
	td_path_replace(absolute, '/', '\\');
	memset(locator, 0, VHDX_LOCATOR_MAX);
	head->type = vhdx_guid_locator_type;
	head->count = to_le16(ARRAY_SIZE(pair));
	*len = sizeof(*head) + sizeof(head->pair[0]) * ARRAY_SIZE(pair);
	for (unsigned i = 0; i < ARRAY_SIZE(pair) && !err; i++) {
		err = put_text(locator, len, pair[i][0], &head->pair[i].key_at, &head->pair[i].key_len);
		if (!err)
			err = put_text(locator, len, pair[i][1], &head->pair[i].value_at,
				       &head->pair[i].value_len);
	}
	return err ? td_fail(why, err, "%s: the parent's name is too long, or no UTF-8", make->path) : 0;
}
