/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The descriptor, read line by line:
 *
 *     CID=25dfd711                                 KEY=VALUE, KEY = "VALUE"
 *     RW 4192256 SPARSE "disk-s001.vmdk"           an extent: access, sectors, type,
 *     RW 20480 FLAT "disk-flat.vmdk" 0             file, first sector there
 *
 * Keys are compared without regard to case. What is not known is passed over, but
 * for extents: a disk without one of them would be another disk.
 */
#include "drivers/vmdk/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SECTORS_MAX (INT64_MAX / 512 / 2)

struct reading {
	const char *path;
	char *buf;
	struct vmdk_text *text;
	struct td_why *why;
	unsigned number; /* of the line */
};

static int wrong(const struct reading *r, const char *what)
{
	return td_fail(r->why, -EINVAL, "%s: line %u of its descriptor: %s", r->path, r->number,
		       what);
}

/* ---- an extent ------------------------------------------------------------------ */

static const struct {
	const char *name;
	enum vmdk_extent_type type;
} types[] = {
	{ "SPARSE", VMDK_SPARSE }, { "VMFSSPARSE", VMDK_SPARSE }, { "SESPARSE", VMDK_SPARSE },
	{ "FLAT", VMDK_FLAT }, { "VMFS", VMDK_FLAT }, { "ZERO", VMDK_ZERO },
};

/* The next word; "": there is none. What follows it is at *rest. */
static char *word(char **rest)
{
	char *begin = *rest + strspn(*rest, " \t"), *end = begin + strcspn(begin, " \t");

	*rest = *end ? end + 1 : end;
	*end = 0;
	return begin;
}

static bool number(const char *text, uint64_t *out)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return !errno && !*end && *out <= SECTORS_MAX;
}

/* Name and offset of an extent, what follows its type. */
static int extent_file(struct reading *r, struct vmdk_line *line, char *rest)
{
	char *begin = strchr(rest, '"'), *end = begin ? strrchr(begin + 1, '"') : NULL;
	char *offset;

	if (line->type == VMDK_ZERO)
		return 0;
	if (!end || end == begin + 1)
		return wrong(r, "an extent without the name of its file");
	*end = 0;
	line->name = strdup(begin + 1);
	if (!line->name)
		return -ENOMEM;
	rest = end + 1;
	offset = word(&rest);
	if (*offset && !number(offset, &line->at))
		return wrong(r, "the offset of an extent is no number");
	line->at *= VMDK_SECTOR;
	return 0;
}

static int extent(struct reading *r, enum vmdk_access access, char *rest)
{
	struct vmdk_text *text = r->text;
	struct vmdk_line *line;
	char *type;

	if (text->lines == VMDK_EXTENTS_MAX)
		return td_fail(r->why, -ENOTSUP, "%s: has more than %u extents", r->path,
			       VMDK_EXTENTS_MAX);
	line = &text->line[text->lines];
	line->access = access;
	if (!number(word(&rest), &line->size) || !line->size)
		return wrong(r, "an extent without a size");
	line->size *= VMDK_SECTOR;
	type = word(&rest);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcasecmp(type, types[i].name)) {
			line->type = types[i].type;
			text->lines++;
			return extent_file(r, line, rest);
		}
	return td_fail(r->why, -ENOTSUP, "%s: extents of type '%.32s' are not supported", r->path,
		       type);
}

/* ---- keys --------------------------------------------------------------------------- */

static int set_string(struct reading *r, char **to, const char *value)
{
	if (*to)
		return wrong(r, "says again what has been said");
	*to = strdup(value);
	return *to ? 0 : -ENOMEM;
}

static int set_cid(struct reading *r, uint32_t *to, const char *value, unsigned *digits)
{
	char *end;

	*digits = strspn(value, "0123456789abcdefABCDEF");
	*to = strtoul(value, &end, 16);
	if (!*digits || *digits > 8 || *end)
		return wrong(r, "a CID that is not one to eight hexadecimal digits");
	return 0;
}

static int key_value(struct reading *r, const char *key, char *value)
{
	struct vmdk_text *text = r->text;
	unsigned digits;

	if (!strcasecmp(key, "CID")) {
		if (text->cid_digits)
			return wrong(r, "says again what has been said");
		text->cid_at = value - r->buf;
		return set_cid(r, &text->cid, value, &text->cid_digits);
	}
	if (!strcasecmp(key, "parentCID"))
		return set_cid(r, &text->parent_cid, value, &digits);
	if (!strcasecmp(key, "createType"))
		return set_string(r, &text->type, value);
	if (!strcasecmp(key, "parentFileNameHint"))
		return set_string(r, &text->parent, value);
	if (!strcasecmp(key, VMDK_PARENT_FORMAT))
		return set_string(r, &text->parent_format, value);
	return 0;
}

static char *trimmed(char *text)
{
	char *end;

	text += strspn(text, " \t");
	end = text + strlen(text);
	while (end > text && isspace((unsigned char)end[-1]))
		*--end = 0;
	return text;
}

static int one_line(struct reading *r, char *line)
{
	static const char *const access[] = { "RW", "RDONLY", "NOACCESS" };
	char *value, *end;
	size_t first;

	line = trimmed(line);
	if (!*line || *line == '#')
		return 0;
	first = strcspn(line, " \t");
	for (unsigned i = 0; i < ARRAY_SIZE(access); i++)
		if (first == strlen(access[i]) && !strncasecmp(line, access[i], first))
			return extent(r, i, line + first);
	value = strchr(line, '=');
	if (!value)
		return 0;
	*value++ = 0;
	value += strspn(value, " \t");
	end = strrchr(value, '"');
	if (*value == '"' && end != value) {
		value++;
		*end = 0;
	}
	return key_value(r, trimmed(line), value);
}

/* ---- the whole ------------------------------------------------------------------------ */

static int all_lines(struct reading *r, char *at)
{
	int err = 0;

	while (!err && at) {
		char *end = strchr(at, '\n');

		r->number++;
		if (end)
			*end++ = 0;
		err = one_line(r, at);
		at = end;
	}
	return err;
}

static int complete(const struct reading *r)
{
	const struct vmdk_text *text = r->text;

	if (!text->lines)
		return td_fail(r->why, -EINVAL, "%s: its descriptor names no extent", r->path);
	if (!text->cid_digits)
		return td_fail(r->why, -EINVAL, "%s: its descriptor has no CID", r->path);
	if (text->parent_cid != VMDK_NO_CID && !text->parent)
		return td_fail(r->why, -EINVAL, "%s: has a parent, but its descriptor does not say "
			       "where", r->path);
	return 0;
}

int vmdk_text_read(struct td_file *file, uint64_t at, uint64_t len, struct vmdk_text *out,
		   struct td_why *why)
{
	struct reading r = { .path = td_file_path(file), .text = out, .why = why };
	int err;

	*out = (struct vmdk_text){ .parent_cid = VMDK_NO_CID };
	if (len > VMDK_TEXT_MAX)
		return td_fail(why, -EFBIG, "%s: a descriptor of %llu bytes is too long", r.path,
			       (unsigned long long)len);
	r.buf = calloc(1, len + 1);
	out->line = calloc(VMDK_EXTENTS_MAX, sizeof(*out->line));
	err = r.buf && out->line ? td_file_read(file, r.buf, len, at) : -ENOMEM;
	if (err)
		td_fail(why, err, "%s: cannot read its descriptor: %s", r.path, strerror(-err));
	else
		err = all_lines(&r, r.buf);
	if (err == -ENOMEM)
		td_fail(why, err, "%s: no memory", r.path);
	if (!err)
		err = complete(&r);
	free(r.buf);
	out->cid_at += at;
	if (err)
		vmdk_text_free(out);
	return err;
}

void vmdk_text_free(struct vmdk_text *text)
{
	for (unsigned i = 0; text->line && i < VMDK_EXTENTS_MAX; i++)
		free(text->line[i].name);
	free(text->line);
	free(text->type);
	free(text->parent);
	free(text->parent_format);
	*text = (struct vmdk_text){ 0 };
}
