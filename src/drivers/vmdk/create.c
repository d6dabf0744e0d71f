/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes an empty image. A sparse extent:
 *
 *     header | descriptor | directory 2 | its tables | directory 1 | its tables | grains
 *
 * The descriptor lies in it (monolithicSparse), or in a file of its own that is made
 * last. Extents get names from the image's, and lie beside it.
 */
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/path.h"
#include "drivers/vmdk/vmdk.h"

#define GRAIN (64 * KiB)
#define TEXT_AT (VMDK_TEXT_AT / VMDK_SECTOR)
#define TEXT_LEN (VMDK_TEXT_LEN / VMDK_SECTOR)
#define TABLE 4ull
#define CHUNK (64 * KiB)

struct subformat {
	const char *name;
	enum vmdk_extent_type type;
	bool split, embedded;
	const char *line, *suffix; /* of an extent */
	bool stream;
};

static const struct subformat subformats[] = {
	{ "monolithicSparse", VMDK_SPARSE, false, true, "SPARSE", NULL },
	{ "monolithicFlat", VMDK_FLAT, false, false, "FLAT", "-flat" },
	{ "twoGbMaxExtentSparse", VMDK_SPARSE, true, false, "SPARSE", "-s" },
	{ "twoGbMaxExtentFlat", VMDK_FLAT, true, false, "FLAT", "-f" },
	{ "vmfs", VMDK_FLAT, false, false, "VMFS", "-flat" },
	{ "streamOptimized", VMDK_SPARSE, false, true, "SPARSE", NULL, .stream = true },
};

struct plan {
	const struct td_create *make;
	const struct subformat *sub;
	const char *name;       /* that the image will have */
	uint64_t size, grain;
	bool zeroes;
	bool zeroed;            /* ... and all grains are such */
	uint32_t cid, parent_cid;
	unsigned made;          /* extents of their own */
	char text[TEXT_LEN * VMDK_SECTOR * 4]; /* of several extents: longer */
	size_t text_len;
};

/* ---- numbers -------------------------------------------------------------------- */

static int plan_subformat(struct plan *plan, struct td_why *why)
{
	const struct vmdk_create_options *options = plan->make->options;
	const char *name = options && options->subformat ? options->subformat : subformats[0].name;

	for (size_t i = 0; i < ARRAY_SIZE(subformats); i++)
		if (!strcasecmp(name, subformats[i].name))
			plan->sub = &subformats[i];
	if (!plan->sub)
		return td_fail(why, -ENOTSUP, "%s: subformat %s cannot be made", plan->make->path,
			       name);
	plan->zeroes = options && options->zeroed_grain;
	return 0;
}

static int plan_numbers(struct plan *plan, struct td_why *why)
{
	const struct td_create *make = plan->make;
	uint64_t size = make->size, max;

	plan->grain = make->cluster ? make->cluster : GRAIN;
	if (make->backing && !size)
		size = make->backing_size;
	plan->size = size;
	if (!size || size % 512)
		return td_fail(why, -EINVAL, "%s: a disk of %llu bytes is not a multiple of 512 "
			       "above 0", make->path, (unsigned long long)size);
	if (!is_pow2(plan->grain) || plan->grain < VMDK_GRAIN_MIN || plan->grain > MiB)
		return td_fail(why, -EINVAL, "%s: a grain of %llu bytes is not a power of 2 from "
			       "4K to 1M", make->path, (unsigned long long)plan->grain);
	/* some room for tables: of the disk's size, two times 4 bytes a grain */
	max = plan->sub->split ? VMDK_EXTENTS_MAX * VMDK_SPLIT :
	      plan->sub->type == VMDK_FLAT ? INT64_MAX / 4 :
	      (VMDK_FILE_MAX - 64 * MiB) / (plan->grain + 16) * plan->grain;
	if (size > max)
		return td_fail(why, -EFBIG, "%s: %s images have at most %llu bytes", make->path,
			       plan->sub->name, (unsigned long long)max);
	if (make->backing && plan->sub->type != VMDK_SPARSE)
		return td_fail(why, -EINVAL, "%s: a flat image has no parent", make->path);
	if (plan->sub->stream && (make->backing || make->reserve || plan->zeroes))
		return td_fail(why, -EINVAL, "%s: a stream has no parent, no grains of zeroes, and no "
			       "space taken before", make->path);
	if (make->backing && make->reserve)
		return td_fail(why, -EINVAL, "%s: the space of an image over another one cannot be "
			       "taken before: nothing would show through", make->path);
	return 0;
}

/* A name that a descriptor can hold. */
static int check_name(const char *name, struct td_why *why)
{
	if (!strpbrk(name, "\"\n\r"))
		return 0;
	return td_fail(why, -EINVAL, "%s: a VMDK descriptor cannot hold this name", name);
}

/* ---- the parent's CID -------------------------------------------------------------- */

static int text_of(struct td_file *file, struct vmdk_text *text, struct td_why *why)
{
	struct vmdk_layout layout;
	int err;

	switch (vmdk_file_kind(file)) {
	case VMDK_FILE_TEXT:
		return vmdk_text_read(file, 0, td_file_size(file), text, why);
	case VMDK_FILE_SPARSE:
		err = vmdk_layout_read(file, &layout, why);
		if (!err && layout.text_len)
			return vmdk_text_read(file, layout.text_at, layout.text_len, text, why);
		if (err)
			return err;
		break;
	case VMDK_FILE_UNKNOWN:
		break;
	}
	return td_fail(why, -EINVAL, "%s: has no VMDK descriptor", td_file_path(file));
}

int vmdk_parent_cid(struct td_files *files, const char *image, const char *backing,
		    const char *format, uint32_t *cid, struct td_why *why)
{
	AUTO_FREE char *path = td_path_beside(image, backing);
	struct vmdk_text text;
	struct td_file *file;
	int err;

	*cid = VMDK_OTHER_CID;
	if (format && strcmp(format, "vmdk"))
		return 0;
	if (!path)
		return td_fail(why, -ENOMEM, "%s: no memory", image);
	err = td_file_open(files, path, 0, &file, why);
	if (err)
		return err;
	err = text_of(file, &text, why);
	td_file_close(file);
	if (err)
		return err;
	*cid = text.cid;
	vmdk_text_free(&text);
	return 0;
}

static int plan_parent(struct plan *plan, struct td_why *why)
{
	const struct td_create *make = plan->make;
	int err;

	plan->parent_cid = VMDK_NO_CID;
	if (!make->backing)
		return 0;
	err = check_name(make->backing, why);
	if (!err && make->backing_format)
		err = check_name(make->backing_format, why);
	return err ? err : vmdk_parent_cid(make->files, make->path, make->backing,
					   make->backing_format, &plan->parent_cid, why);
}

/* ---- a sparse extent ------------------------------------------------------------------ */

struct sparse {
	uint64_t tables, directory, rgd, rtables, gd, gtables, overhead; /* sectors */
};

static struct sparse sparse_plan(const struct plan *plan, uint64_t size)
{
	struct sparse s;
	uint64_t at = TEXT_AT + TEXT_LEN;

	s.tables = (size - 1) / (plan->grain * VMDK_ENTRIES) + 1;
	s.directory = (s.tables * 4 - 1) / VMDK_SECTOR + 1;
	s.rgd = at;
	s.rtables = s.rgd + s.directory;
	s.gd = s.rtables + s.tables * TABLE;
	s.gtables = s.gd + s.directory;
	s.overhead = round_up(s.gtables + s.tables * TABLE, plan->grain / VMDK_SECTOR);
	return s;
}

/* value, value + step ... : count entries from at (sectors) on. */
static int write_entries(struct td_file *file, uint64_t at, uint64_t value, uint64_t step,
			 uint64_t count)
{
	AUTO_FREE le32 *buf = malloc(CHUNK);
	uint64_t pos = at * VMDK_SECTOR;
	int err = buf ? 0 : -ENOMEM;

	while (!err && count) {
		uint64_t n = min_u64(count, CHUNK / 4);

		for (uint64_t i = 0; i < n; i++, value += step)
			buf[i] = to_le32(value);
		err = td_file_write(file, buf, n * 4, pos);
		pos += n * 4;
		count -= n;
	}
	return err;
}

static int write_header(struct td_file *file, const struct plan *plan, const struct sparse *s,
			uint64_t size)
{
	struct vmdk_header head = {
		.magic = to_le32(VMDK_MAGIC),
		.version = to_le32(plan->zeroes ? 2 : 1),
		.flags = to_le32(VMDK_NEWLINES | VMDK_REDUNDANT | (plan->zeroes ? VMDK_ZEROES : 0)),
		.capacity = to_le64(size / VMDK_SECTOR),
		.grain = to_le64(plan->grain / VMDK_SECTOR),
		.entries = to_le32(VMDK_ENTRIES),
		.rgd_at = to_le64(s->rgd),
		.gd_at = to_le64(s->gd),
		.overhead = to_le64(s->overhead),
		.newline = '\n', .other = ' ', .newlines = { '\r', '\n' },
	};

	if (plan->sub->embedded) {
		head.text_at = to_le64(TEXT_AT);
		head.text_len = to_le64(TEXT_LEN);
	}
	return td_file_write(file, &head, sizeof(head), 0);
}

static int sparse_fill(struct td_file *file, const struct plan *plan, uint64_t size)
{
	struct sparse s = sparse_plan(plan, size);
	uint64_t grains = (size - 1) / plan->grain + 1, step = plan->grain / VMDK_SECTOR;
	uint64_t end = s.overhead * VMDK_SECTOR + (plan->make->reserve ? grains * plan->grain : 0);
	int err = plan->make->reserve ? td_file_allocate(file, 0, end) :
					td_file_truncate(file, end);

	if (!err)
		err = write_entries(file, s.rgd, s.rtables, TABLE, s.tables);
	if (!err)
		err = write_entries(file, s.gd, s.gtables, TABLE, s.tables);
	if (!err && plan->zeroed)
		err = write_entries(file, s.rtables, 1, 0, s.tables * VMDK_ENTRIES);
	if (!err && plan->zeroed)
		err = write_entries(file, s.gtables, 1, 0, s.tables * VMDK_ENTRIES);
	if (!err && plan->make->reserve)
		err = write_entries(file, s.rtables, s.overhead, step, grains);
	if (!err && plan->make->reserve)
		err = write_entries(file, s.gtables, s.overhead, step, grains);
	if (!err && plan->sub->embedded)
		err = td_file_write(file, plan->text, plan->text_len, TEXT_AT * VMDK_SECTOR);
	return err ? err : write_header(file, plan, &s, size);
}

/* An empty stream is whole: it may be read, or written once. */
static int stream_fill(struct td_file *file, const struct plan *plan, uint64_t size)
{
	struct vmdk_layout layout = {
		.size = size, .grain = plan->grain, .entries = VMDK_ENTRIES,
		.text_at = VMDK_TEXT_AT, .text_len = VMDK_TEXT_LEN,
		.tables = (size - 1) / (plan->grain * VMDK_ENTRIES) + 1,
		.overhead = round_up(VMDK_TEXT_AT + VMDK_TEXT_LEN, GRAIN),
	};
	struct vmdk_header head = vmdk_stream_header(&layout, VMDK_AT_END);
	AUTO_FREE uint32_t *table = calloc(layout.tables, sizeof(*table));
	int err = table ? td_file_truncate(file, layout.overhead) : -ENOMEM;

	if (!err)
		err = td_file_write(file, plan->text, plan->text_len, VMDK_TEXT_AT);
	if (!err)
		err = td_file_write(file, &head, sizeof(head), 0);
	return err ? err : vmdk_stream_tail(file, &layout, table, layout.overhead);
}

/* ---- files ------------------------------------------------------------------------------- */

/* One of the files: an extent, or (size 0) the descriptor. */
struct part {
	const struct plan *plan;
	uint64_t size;
};

static int fill(struct td_file *file, const void *part_)
{
	const struct part *part = part_;
	const struct plan *plan = part->plan;

	if (!part->size)
		return td_file_write(file, plan->text, plan->text_len, 0);
	if (plan->sub->stream)
		return stream_fill(file, plan, part->size);
	if (plan->sub->type == VMDK_SPARSE)
		return sparse_fill(file, plan, part->size);
	return plan->make->reserve ? td_file_allocate(file, 0, part->size) :
				     td_file_truncate(file, part->size);
}

static int file_make(const struct plan *plan, const char *path, uint64_t size, struct td_why *why)
{
	struct part part = { plan, size };

	return td_file_make(plan->make->files, path, fill, &part, why);
}

int vmdk_extent_make(struct vmdk *v, const struct vmdk_extent *like, const char *path,
		     uint64_t size, bool zeroed, struct td_why *why)
{
	struct td_create make = { .path = path, .files = v->img->files };
	struct subformat sub = { .type = like->type };
	struct plan *plan = calloc(1, sizeof(*plan));
	int err;

	if (!plan)
		return td_fail(why, -ENOMEM, "%s: no memory", path);
	plan->make = &make;
	plan->sub = &sub;
	plan->grain = like->layout.grain;
	plan->zeroes = like->layout.zeroes;
	plan->zeroed = zeroed;
	err = file_make(plan, path, size, why);
	free(plan);
	return err;
}

/* The name of extent i: "disk.vmdk" has "disk-flat.vmdk", or "disk-s001.vmdk" ... */
static char *extent_name(const struct plan *plan, unsigned i)
{
	const char *name = plan->name, *dot = strrchr(name, '.');
	int stem = dot && !strcasecmp(dot, ".vmdk") ? dot - name : (int)strlen(name);
	char *out = NULL;

	if (plan->sub->embedded)
		return strdup(name);
	if (plan->sub->split)
		return asprintf(&out, "%.*s%s%03u.vmdk", stem, name, plan->sub->suffix, i + 1) < 0 ?
		       NULL : out;
	return asprintf(&out, "%.*s%s.vmdk", stem, name, plan->sub->suffix) < 0 ? NULL : out;
}

static uint64_t extent_size(const struct plan *plan, unsigned i)
{
	if (!plan->sub->split)
		return plan->size;
	return min_u64(plan->size - i * VMDK_SPLIT, VMDK_SPLIT);
}

static unsigned extents(const struct plan *plan)
{
	return plan->sub->split ? (plan->size - 1) / VMDK_SPLIT + 1 : 1;
}

static void extents_unmake(struct plan *plan)
{
	while (plan->made) {
		AUTO_FREE char *path = extent_name(plan, --plan->made);

		if (path)
			unlink(path);
	}
}

static int extents_make(struct plan *plan, struct td_why *why)
{
	int err = 0;

	for (unsigned i = 0; i < extents(plan) && !err; i++) {
		AUTO_FREE char *path = extent_name(plan, i);

		err = path ? file_make(plan, path, extent_size(plan, i), why) : -ENOMEM;
		plan->made += !err;
	}
	return err;
}

/* ---- the descriptor -------------------------------------------------------------------------- */

static int add(struct plan *plan, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int add(struct plan *plan, const char *fmt, ...)
{
	size_t room = sizeof(plan->text) - plan->text_len;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(plan->text + plan->text_len, room, fmt, args);
	va_end(args);
	if (n < 0 || (size_t)n >= room)
		return -ENAMETOOLONG;
	plan->text_len += n;
	return 0;
}

static int add_extents(struct plan *plan, struct td_why *why)
{
	int err = add(plan, "\n# Extent description\n");

	for (unsigned i = 0; i < extents(plan) && !err; i++) {
		AUTO_FREE char *path = extent_name(plan, i);

		if (!path)
			return td_fail(why, -ENOMEM, "%s: no memory", plan->make->path);
		err = check_name(basename(path), why);
		if (err)
			return err;
		err = add(plan, "RW %llu %s \"%s\"%s\n",
			  (unsigned long long)extent_size(plan, i) / 512, plan->sub->line,
			  basename(path), plan->sub->line[0] == 'F' ? " 0" : "");
	}
	return err;
}

static int add_database(struct plan *plan)
{
	uint64_t cylinders = min_u64(plan->size / (16 * 63 * 512), 65535);
	int err = add(plan, "\n# The Disk Data Base\n#DDB\n\n"
		      "ddb.virtualHWVersion = \"4\"\n"
		      "ddb.geometry.cylinders = \"%llu\"\n"
		      "ddb.geometry.heads = \"16\"\n"
		      "ddb.geometry.sectors = \"63\"\n"
		      "ddb.adapterType = \"ide\"\n", (unsigned long long)cylinders);

	if (!err && plan->parent_cid == VMDK_OTHER_CID)
		err = add(plan, VMDK_PARENT_FORMAT " = \"%s\"\n", plan->make->backing_format);
	return err;
}

static int plan_text(struct plan *plan, struct td_why *why)
{
	int err;

	if (getrandom(&plan->cid, sizeof(plan->cid), GRND_NONBLOCK) < 0)
		plan->cid = td_now_us();
	if (plan->cid >= VMDK_OTHER_CID)
		plan->cid = 0;
	err = add(plan, "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n"
		  "createType=\"%s\"\n", plan->cid, plan->parent_cid, plan->sub->name);
	if (!err && plan->make->backing)
		err = add(plan, "parentFileNameHint=\"%s\"\n", plan->make->backing);
	if (!err) {
		err = add_extents(plan, why);
		if (err && err != -ENAMETOOLONG)
			return err;
	}
	if (!err)
		err = add_database(plan);
	if (!err && plan->sub->embedded && plan->text_len > TEXT_LEN * VMDK_SECTOR)
		err = -ENAMETOOLONG;
	return err ? td_fail(why, err, "%s: its descriptor becomes too long", plan->make->path) : 0;
}

int vmdk_create(const struct td_create *make, struct td_why *why)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	int err;

	if (!plan)
		return td_fail(why, -ENOMEM, "%s: no memory", make->path);
	plan->make = make;
	plan->name = make->name ? make->name : make->path;
	err = plan_subformat(plan, why);
	if (!err)
		err = plan_numbers(plan, why);
	if (!err)
		err = plan_parent(plan, why);
	if (!err)
		err = plan_text(plan, why);
	if (!err && plan->sub->embedded) {
		err = file_make(plan, make->path, plan->size, why);
	} else if (!err) {
		err = extents_make(plan, why);
		if (!err)
			err = file_make(plan, make->path, 0, why);
		if (err)
			extents_unmake(plan);
	}
	free(plan);
	return err;
}

void vmdk_unmake(const struct td_create *make)
{
	struct plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return;
	plan->make = make;
	plan->name = make->name ? make->name : make->path;
	if (!plan_subformat(plan, NULL) && !plan_numbers(plan, NULL) && !plan->sub->embedded) {
		plan->made = extents(plan);
		extents_unmake(plan);
	}
	free(plan);
}

/* What a stream has behind its tables' place: each grain a sector for its marker and what
 * does not become smaller, each table and the end their markers. */
static void measure_stream(const struct sparse *s, struct td_measure *out)
{
	out->beside = VMDK_SECTOR;
	out->tables += (s->tables * (TABLE + 1) + s->directory + 8) * VMDK_SECTOR;
}

static void measure_plan(const struct plan *plan, struct td_measure *out)
{
	*out = (struct td_measure){ 0 };
	if (!plan->sub->embedded) /* a text that names each extent, with its longest name */
		out->tables = 1024 + (uint64_t)extents(plan) * (64 + NAME_MAX);
	if (plan->sub->type == VMDK_FLAT) {
		out->tables += plan->size;
		return;
	}
	out->unit = plan->grain;
	for (unsigned i = 0; i < extents(plan); i++) {
		struct sparse s = sparse_plan(plan, extent_size(plan, i));

		out->tables += s.overhead * VMDK_SECTOR;
		if (plan->sub->stream)
			measure_stream(&s, out);
	}
}

int vmdk_measure(const struct td_create *make, struct td_measure *out, struct td_why *why)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	int err = plan ? 0 : td_fail(why, -ENOMEM, "%s: no memory", make->path);

	if (!err) {
		plan->make = make;
		err = plan_subformat(plan, why);
	}
	if (!err)
		err = plan_numbers(plan, why);
	if (!err)
		measure_plan(plan, out);
	free(plan);
	return err;
}
