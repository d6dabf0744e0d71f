/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the descriptor. It is a text over several sectors, and must make sense
 * whichever of them have reached the disk. So all lines that count come first, and lie
 * within one sector, before and after. That ends with the beginning of a comment, in
 * which is lost whatever the next one begins with:
 *
 *     CID=... parentCID=... RW ... #          | DDB\n rest
 *
 * Those that count are all but the disk data base at the end. If there are more of them
 * than a sector holds, a descriptor that is a file of its own is written anew, under
 * another name, and takes the old one's place; an image that has it within is not changed.
 */
#include "drivers/vmdk/vmdk.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"

#define EXTENTS "# Extent description"
#define DATA_BASE "\n# The Disk Data Base\n"

struct editing {
	struct vmdk *v;
	struct vmdk_edit *edit;
	char *old, *new;         /* the whole text; new: room for more */
	size_t room, len;        /* of new */
	unsigned extents;        /* lines of them so far */
	uint64_t at, max;        /* of the text in its file */
};

static void add(struct editing *e, const char *text, size_t len)
{
	if (e->len + len < e->room)
		memcpy(e->new + e->len, text, len);
	e->len += len;
}

static void add_text(struct editing *e, const char *text)
{
	add(e, text, strlen(text));
}

static bool has_key(const char *line, const char *key)
{
	size_t n = strlen(key);

	line += strspn(line, " \t");
	return !strncasecmp(line, key, n) && line[n + strspn(line + n, " \t")] == '=';
}

static bool is_extent(const char *line)
{
	line += strspn(line, " \t");
	return !strncasecmp(line, "RW", 2) && strchr(" \t", line[2]);
}

static bool counts(const char *line)
{
	return is_extent(line) || has_key(line, "CID") || has_key(line, "parentCID") ||
	       has_key(line, "createType") || has_key(line, "parentFileNameHint") ||
	       has_key(line, VMDK_PARENT_FORMAT);
}

static const char *line_end(const char *line)
{
	const char *end = strchr(line, '\n');

	return end ? end + 1 : line + strlen(line);
}

/* An empty line, or what an earlier change has filled its sector with. */
static bool is_filler(const char *line)
{
	line += *line == '#';
	return !*line || strchr("\r\n", line[strspn(line, " ")]);
}

static void put_parent(struct editing *e)
{
	char cid[32];

	snprintf(cid, sizeof(cid), "parentCID=%08x\n", e->edit->parent_cid);
	add_text(e, cid);
	if (!e->edit->hint)
		return;
	add_text(e, "parentFileNameHint=\"");
	add_text(e, e->edit->hint);
	add_text(e, "\"\n");
	if (!e->edit->format)
		return;
	add_text(e, VMDK_PARENT_FORMAT " = \"");
	add_text(e, e->edit->format);
	add_text(e, "\"\n");
}

static void end_line(struct editing *e)
{
	if (e->len && e->len < e->room && e->new[e->len - 1] != '\n')
		add(e, "\n", 1);
}

/* The last one: its access, the new size, and the rest; those that follow it now. */
static void put_extent(struct editing *e, const char *line, const char *end)
{
	const char *number = line + strspn(line, " \t") + 2;
	char text[32];

	number += strspn(number, " \t");
	add(e, line, number - line);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)(e->edit->size / VMDK_SECTOR));
	add_text(e, text);
	number += strspn(number, "0123456789");
	add(e, number, end - number);
	end_line(e);
	if (e->edit->lines)
		add_text(e, e->edit->lines);
}

static void put_line(struct editing *e, const char *line, const char *end)
{
	const struct vmdk_edit *edit = e->edit;

	if (edit->parent && has_key(line, "parentCID"))
		put_parent(e);
	else if (edit->parent && (has_key(line, "parentFileNameHint") ||
				  has_key(line, VMDK_PARENT_FORMAT)))
		return;
	else if (edit->size && is_extent(line) && ++e->extents == e->v->text.lines)
		put_extent(e, line, end);
	else
		add(e, line, end - line);
}

/* Makes what counts end where the sector does: spaces, in a comment of their own. */
static void fill(struct editing *e, size_t at)
{
	size_t n = VMDK_SECTOR - e->len;

	if (!n)
		return;
	memmove(e->new + at + n, e->new + at, e->len - at);
	memset(e->new + at, ' ', n);
	if (n > 1)
		e->new[at] = '#';
	e->new[at + n - 1] = '\n';
	e->len = VMDK_SECTOR;
}

/* What counts, up to the data base, and then that. False: it does not fit. */
static bool compose(struct editing *e)
{
	const char *rest = e->old, *line;
	size_t at = 0;           /* of the extents: spaces go before them */

	for (line = e->old; *line; line = line_end(line))
		if (counts(line))
			rest = line_end(line);
	for (line = e->old; line < rest; line = line_end(line)) {
		if (!strncmp(line, EXTENTS, strlen(EXTENTS)) || (!at && is_extent(line)))
			at = e->len;
		if (!is_filler(line))
			put_line(e, line, line_end(line));
	}
	end_line(e);
	add_text(e, DATA_BASE "#");
	if (e->len > VMDK_SECTOR || rest - e->old > (long)VMDK_SECTOR)
		return false;
	fill(e, at);
	while (*rest && (is_filler(rest) || !strncmp(rest, &DATA_BASE[1], strlen(DATA_BASE) - 2) ||
			 !strncmp(rest, "#DDB", 4)))
		rest = line_end(rest);
	add_text(e, "DDB\n\n");
	add_text(e, rest);
	return true;
}

/* In a file of its own it has its length only: longer first, shorter last. */
static int write_text(struct editing *e)
{
	struct td_file *file = vmdk_text_file(e->v);
	bool own = e->v->file;
	uint64_t was = own ? td_file_size(file) : e->max;
	int err = 0;

	e->edit->begun = true;
	if (own && e->len > was) {
		err = td_file_truncate(file, e->len);
		if (!err)
			err = td_file_sync(file);
	}
	if (!err) /* up to the end of what was there: zeroes */
		err = td_file_write(file, e->new, max_u64(was, e->len), e->at);
	if (!err)
		err = td_file_sync(file);
	if (!err && own && e->len < was)
		err = td_file_truncate(file, e->len);
	return err ? err : td_file_sync(file);
}

/* ---- a file that takes another one's place ------------------------------------------ */

static void compose_freely(struct editing *e)
{
	e->len = e->extents = 0;
	memset(e->new, 0, e->room);
	for (const char *line = e->old; *line; line = line_end(line))
		put_line(e, line, line_end(line));
}

/* Whoever may use the one may use the other. */
static int take_rights(const char *from, const char *to)
{
	struct stat st;

	if (stat(from, &st) || chmod(to, st.st_mode & 07777))
		return -errno;
	return !st.st_uid && !st.st_gid ? 0 : chown(to, st.st_uid, st.st_gid) ? -errno : 0;
}

static int sync_folder(const char *path)
{
	AUTO_FREE char *copy = strdup(path);
	AUTO_CLOSE int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd < 0 || fsync(fd) ? -errno : 0;
}

/* The new one is locked before it can be found. */
static int replace(struct editing *e, const char *path, const char *beside, struct td_why *why)
{
	struct vmdk *v = e->v;
	struct td_file *file;
	int err = td_file_open(v->img->files, beside, TD_FILE_CREATE | TD_FILE_WRITE | TD_FILE_ZERO_TAIL,
			       &file, why);

	if (err)
		return err;
	err = td_file_write(file, e->new, e->len, 0);
	if (!err)
		err = td_file_sync(file);
	if (!err)
		err = take_rights(path, beside);
	if (!err && rename(beside, path))
		err = -errno;
	if (err) {
		unlink(beside);
		td_file_close(file);
		return td_fail(why, err, "%s: cannot take its place: %s", beside, strerror(-err));
	}
	e->edit->begun = true;
	td_file_close(v->file);
	v->file = file;
	if (sync_folder(path))
		td_say(v->img, LOG_WARNING, "%s: its folder cannot be synced: a power cut may bring "
		       "back what it was", path);
	return 0;
}

static int replace_text(struct editing *e, struct td_why *why)
{
	AUTO_FREE char *path = realpath(td_file_path(e->v->file), NULL);
	AUTO_FREE char *beside = NULL;

	compose_freely(e);
	if (!path || asprintf(&beside, "%s.new", path) < 0 || e->len >= e->room)
		return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(e->v->file));
	return replace(e, path, beside, why);
}

/* ---- either ------------------------------------------------------------------------- */

static int edit_text(struct editing *e, struct td_why *why)
{
	const char *path = td_file_path(vmdk_text_file(e->v));
	int err = td_file_read(vmdk_text_file(e->v), e->old, e->max, e->at);
	bool is_short;

	if (err)
		return td_fail(why, err, "%s: cannot read its descriptor: %s", path, strerror(-err));
	is_short = compose(e);
	if (!is_short && !e->v->file)
		return td_fail(why, -ENAMETOOLONG, "%s: the names in its descriptor would be too long "
			       "to be changed at once", path);
	if (is_short && e->len >= e->room)
		return td_fail(why, -ENOSPC, "%s: its descriptor has no room", path);
	err = is_short ? write_text(e) : replace_text(e, why);
	if (err && is_short)
		td_fail(why, err, "%s: cannot write its descriptor: %s", path, strerror(-err));
	if (err)
		return err;
	vmdk_text_free(&e->v->text);
	return vmdk_text_read(vmdk_text_file(e->v), e->at, e->v->file ? e->len : e->max,
			      &e->v->text, why);
}

int vmdk_edit(struct vmdk *v, struct vmdk_edit *edit, struct td_why *why)
{
	const struct vmdk_layout *layout = &v->extent[0].layout;
	struct editing e = { .v = v, .edit = edit };
	AUTO_FREE char *old = NULL;
	AUTO_FREE char *new = NULL;

	if (edit->hint && strpbrk(edit->hint, "\"\n\r"))
		return td_fail(why, -EINVAL, "%s: a VMDK descriptor cannot hold this name", edit->hint);
	e.at = v->file ? 0 : layout->text_at;
	e.max = v->file ? td_file_size(v->file) : layout->text_len;
	e.room = e.max;
	if (v->file)
		e.room += 2 * VMDK_SECTOR + strlen(edit->hint ? edit->hint : "") +
			  strlen(edit->lines ? edit->lines : "");
	e.old = old = calloc(1, e.max + 1);
	e.new = new = calloc(1, e.room + VMDK_SECTOR);
	if (!old || !new || e.room <= VMDK_SECTOR)
		return td_fail(why, -ENOMEM, "%s: no memory, or no room", v->img->target);
	return edit_text(&e, why);
}
