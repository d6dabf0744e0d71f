/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image is opened for reading: told about, checked, read, with not one byte of it
 * changed. Then for writing: repaired, written, resized, with snapshots made, as the
 * input says; then checked again. An image that its check called good must be good
 * then, too, and hold what was written.
 */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/num.h"
#include "core/spec.h"
#include "drivers/builtin.h"
#include "sparse.h"

#define BASE_SIZE (64 * KiB)

/* ---- what it is used with ----------------------------------------------------- */

static void file_make(const char *path, uint64_t size)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	demand(fd >= 0 && !ftruncate(fd, size) && pwrite(fd, "below", 5, 512) == 5);
}

struct fuzz_rig *fuzz_rig(void)
{
	static struct fuzz_rig rig;
	char flat[140];

	if (rig.loop)
		return &rig;
	td_log_level(LOG_EMERG);
	snprintf(rig.path, sizeof(rig.path), "%s/image", fuzz_folder());
	snprintf(rig.base, sizeof(rig.base), "%s/base", fuzz_folder());
	snprintf(rig.memory, sizeof(rig.memory), "%s/memory", fuzz_folder());
	snprintf(flat, sizeof(flat), "%s/flat", fuzz_folder());
	snprintf(rig.key, sizeof(rig.key), "%s/key", fuzz_folder());
	demand(!setenv("BLKTAP_SURVIVOR_DIR", rig.memory, 1));
	file_make(rig.base, BASE_SIZE);
	file_make(flat, BASE_SIZE);
	file_make(rig.key, 0);
	demand(!td_registry_new(NULL, &rig.registry));
	demand(!td_registry_add_all(rig.registry, td_builtin_drivers, td_builtin_aliases));
	demand(!td_loop_new(&rig.loop));
	return &rig;
}

void fuzz_memory_forget(void)
{
	DIR *dir = opendir(fuzz_rig()->memory);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
}

/* ---- an image --------------------------------------------------------------------- */

struct content {
	uint8_t *data;
	size_t size;
};

static struct content content_of(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct content content;
	struct stat st;

	demand(fd >= 0 && !fstat(fd, &st));
	content = (struct content){ malloc(st.st_size + 1), st.st_size };
	demand(content.data && read(fd, content.data, content.size + 1) == st.st_size);
	return content;
}

static bool content_same(struct content *before, const char *path)
{
	struct content now = content_of(path);
	bool same = now.size == before->size && !memcmp(now.data, before->data, now.size);

	free(now.data);
	free(before->data);
	return same;
}

static void put(void *arg, const char *key, const char *value)
{
	demand(key && value && *key);
}

static void put_snapshot(void *arg, const struct td_snapshot *snapshot)
{
	demand(snapshot->id && snapshot->name);
}

/* One clear line: what every failure must come with. */
static void look_at(const struct td_why *why)
{
	if (!*why->text || strchr(why->text, '\n'))
		fuzz_demanded("one line that says why", why->text, 0);
}

static struct td_disk *disk_open(const char *spec, bool read_only, bool repair)
{
	struct td_disk_options options = { .read_only = read_only, .repair = repair };
	struct td_why why = { "" };
	struct td_disk *disk;

	if (!td_disk_open(fuzz_rig()->loop, fuzz_rig()->registry, spec, &options, &disk, &why))
		return disk;
	look_at(&why);
	return NULL;
}

static void say(void *arg, const char *text)
{
	if (getenv("FUZZ_TELL"))
		fprintf(stderr, "check: %s\n", text);
}

/* Whether its check finds it good. FUZZ_TELL in the environment: and what is wrong. */
static bool is_good(struct td_disk *disk, enum td_repair repair)
{
	struct td_image *top = td_disk_top(disk);
	struct td_check check = { .repair = repair, .say = say };
	struct td_why why = { "" };
	int err;

	if (!top->driver->check)
		return false;
	err = top->driver->check(top, &check, &why);
	if (err && *why.text)
		look_at(&why);
	return !err && !check.corruptions;
}

static void snapshot(struct td_disk *disk, enum td_snapshot_op op, const char *name)
{
	struct td_image *top = td_disk_top(disk);
	struct td_snapshots ask = { .op = op, .name = name, .put = put_snapshot };
	struct td_why why = { "" };

	if (top->driver->snapshot && top->driver->snapshot(top, &ask, &why))
		look_at(&why);
}

static bool use_read_only(const char *spec, uint32_t script)
{
	struct content before = content_of(fuzz_rig()->path);
	struct td_disk *disk = disk_open(spec, true, false);
	bool good = false;

	if (disk) {
		struct td_image *top = td_disk_top(disk);

		if (top->driver->info)
			top->driver->info(top, put, NULL);
		snapshot(disk, TD_SNAPSHOT_LIST, NULL);
		good = is_good(disk, TD_REPAIR_NOTHING);
		fuzz_use(disk, script, 10, false);
		td_disk_close(disk);
	}
	demand(content_same(&before, fuzz_rig()->path));
	return good;
}

static void repair(const char *spec)
{
	struct td_disk *disk = disk_open(spec, false, true);

	if (!disk)
		return;
	if (td_disk_top(disk)->driver->repairs && !td_disk_read_only(disk))
		is_good(disk, td_disk_top(disk)->driver->repairs);
	td_disk_close(disk);
}

static void change(struct td_disk *disk, uint8_t how)
{
	struct td_image *top = td_disk_top(disk);
	struct td_why why = { "" };

	td_disk_settle(disk);
	if (how & SPARSE_SNAPSHOT) {
		snapshot(disk, TD_SNAPSHOT_MAKE, "fuzz");
		snapshot(disk, TD_SNAPSHOT_APPLY, "fuzz");
		snapshot(disk, TD_SNAPSHOT_DELETE, "fuzz");
	}
	if (how & SPARSE_RESIZE && top->driver->resize && top->size < 1ull << 61 &&
	    top->driver->resize(top, round_up(top->size, 512) + 192 * KiB, &why))
		look_at(&why);
}

static void use_writable(const char *spec, const struct sparse *sparse, bool good)
{
	struct td_disk *disk;
	bool kept = true;

	if (sparse->how & SPARSE_REPAIR)
		repair(spec);
	disk = disk_open(spec, false, false);
	if (!disk)
		return;
	fuzz_use(disk, sparse->script, 16, true);
	if (good && !td_disk_read_only(disk))
		kept = fuzz_keeps(disk, sparse->script);
	if (!td_disk_read_only(disk))
		change(disk, sparse->how);
	td_disk_close(disk);
	demand(kept);
	disk = disk_open(spec, true, false);
	if (!disk)
		return;
	good = !good || is_good(disk, TD_REPAIR_NOTHING);
	td_disk_close(disk);
	demand(good);
}

static void spec_of(const struct fuzz_format *format, uint8_t how, char *spec, size_t room)
{
	const char *options = format->options[how & SPARSE_OPTION];

	options = options ? options : format->options[0] ? format->options[0] : "";
	const char *key = *options && options[strlen(options) - 1] == '=' ? fuzz_rig()->key : "";

	demand(snprintf(spec, room, "%s:%s%s%s", format->type, fuzz_rig()->path, options, key) < (int)room);
}

void fuzz_image_input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	const struct fuzz_format *format = target->format;
	struct fuzz_rig *rig = fuzz_rig();
	struct sparse sparse;
	char spec[512];
	bool good;

	sparse_read(&sparse, data, size);
	sparse_write_file(sparse, rig->path);
	if (format->seal && !(sparse.how & SPARSE_AS_IT_IS)) {
		AUTO_CLOSE int fd = open(rig->path, O_RDWR | O_CLOEXEC);

		format->seal(fd, sparse.length);
	}
	spec_of(format, sparse.how, spec, sizeof(spec));
	good = use_read_only(spec, sparse.script);
	use_writable(spec, &sparse, good);
	fuzz_memory_forget();
	unlink(rig->path);
}

/* ---- seeds ------------------------------------------------------------------------ */

static void *create_options(const struct td_driver *driver, const char *text)
{
	void *options = calloc(1, driver->create_size + 1);
	struct td_spec spec;
	char words[256];
	struct td_why why;

	demand(options);
	if (!text || !driver->create_options)
		return options;
	snprintf(words, sizeof(words), "%s:x,%s", driver->name, text);
	demand(!td_spec_parse(words, &spec, &why));
	if (td_options_apply(driver->create_options, &spec, options, &why))
		fuzz_demanded(why.text, __FILE__, __LINE__);
	td_spec_free(&spec);
	return options;
}

static void image_make(const struct fuzz_format *format, const struct fuzz_image *image)
{
	struct fuzz_rig *rig = fuzz_rig();
	const struct td_driver *driver = td_registry_find(rig->registry, format->type, NULL);
	struct td_files files = { 0 };
	static const uint8_t zeroes[16]; /* what the key's file begins with */
	static const struct td_key key = { .data = zeroes, .len = sizeof(zeroes) };
	void *options = create_options(driver, image->create);
	struct td_create make = { .path = rig->path, .size = 4 * MiB, .files = &files,
				  .cluster = image->cluster > 1 ? image->cluster : 0,
				  .options = options };
	struct td_why why;

	if (image->create && strstr(image->create, "encryption"))
		make.key = &key;
	if (image->overlay) {
		make.backing = "base";
		make.backing_format = "raw";
		make.backing_size = make.size;
	}
	unlink(rig->path);
	if (driver->create(&make, &why))
		fuzz_demanded(why.text, __FILE__, __LINE__);
	if (driver->create_options)
		td_options_free(driver->create_options, options);
	free(options);
}

/* Something in it: a few writes, and what the seed is to be used with. Returns the
 * size of the seed. */
static size_t image_fill(const struct fuzz_format *format, const struct fuzz_image *image,
			 uint8_t *out)
{
	char spec[512];
	struct td_disk *disk;
	size_t size = 0;

	spec_of(format, image->how, spec, sizeof(spec));
	disk = disk_open(spec, false, false);
	if (!disk) /* such are there to be read */
		return sparse_from_file(fuzz_rig()->path, image->how, out);
	fuzz_use(disk, image->packed ? 8 : 3, image->packed ? 24 : 6, true);
	td_disk_settle(disk);
	if (image->how & SPARSE_SNAPSHOT)
		snapshot(disk, TD_SNAPSHOT_MAKE, "one");
	fuzz_use(disk, 5, 2, true);
	if (image->running)
		size = sparse_from_file(fuzz_rig()->path, image->how, out);
	td_disk_close(disk);
	return image->running ? size : sparse_from_file(fuzz_rig()->path, image->how, out);
}

static size_t text_seed(const char *text, uint8_t *out)
{
	struct fuzz_rig *rig = fuzz_rig();
	AUTO_CLOSE int fd = open(rig->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	demand(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	return sparse_from_file(rig->path, 0, out);
}

size_t fuzz_image_seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	const struct fuzz_format *format = target->format;
	const struct fuzz_image *image = format->images;
	size_t size;

	for (unsigned i = 0; i < n && image && image->cluster; i++)
		image++;
	if (!image || !image->cluster)
		return !n && format->text ? text_seed(format->text, out) : 0;
	image_make(format, image);
	size = image_fill(format, image, out);
	demand(size);
	return size;
}
