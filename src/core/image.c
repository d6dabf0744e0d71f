/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One image of a chain: made, given its options, opened by its driver, checked.
 * The images below are opened by the driver of the one above, from within its
 * open(), through td_image_open_below().
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/guard.h"
#include "base/path.h"
#include "core/core_impl.h"

#define BLOCK_SIZE_MAX 4096

void td_say(struct td_image *img, int level, const char *fmt, ...)
{
	struct image_core *core = core_of(img);
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	td_log_limited(&core->said, core->disk->name, level, "%s:%s: %s", img->driver->name,
		       core->target, text);
}

/* Which file or device it is, where its target is a path. */
static void find_identity(struct image_core *core)
{
	struct stat st;

	if (stat(core->target, &st) < 0)
		return;
	core->has_identity = true;
	core->dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	core->ino = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
}

static bool same_identity(const struct image_core *a, const struct image_core *b)
{
	return a->has_identity && b->has_identity && a->dev == b->dev && a->ino == b->ino;
}

static bool chain_has(const struct image_core *top, const struct image_core *core)
{
	for (const struct td_image *img = &top->img; img; img = img->below) {
		const struct image_core *other = core_of(img);

		if (other != core && same_identity(other, core))
			return true;
	}
	return false;
}

/* What a driver's open() left must make sense before anybody relies on it. */
static int check_opened(struct image_core *core, struct td_why *why)
{
	struct td_image *img = &core->img;

	if (!img->block_size)
		img->block_size = 512;
	if (img->below)
		img->block_size = max_u64(img->block_size, img->below->block_size);
	if (!img->cluster)
		img->cluster = img->block_size;
	if (!is_pow2(img->block_size) || img->block_size < 512 ||
	    img->block_size > BLOCK_SIZE_MAX)
		return td_fail(why, -EINVAL, "%s: its sector size %u is not supported",
			       core->target, img->block_size);
	if (!(img->can & TD_CAN_WRITE))
		img->read_only = true;
	if (!img->size)
		return td_fail(why, -EINVAL, "%s: its size is 0", core->target);
	if (!is_aligned(img->size, img->block_size) ||
	    img->size > INT64_MAX)
		return td_fail(why, -EINVAL,
			       "%s: its size of %llu bytes is no multiple of its sector "
			       "size %u", core->target,
			       (unsigned long long)img->size, img->block_size);
	return 0;
}

static struct image_core *image_new(struct td_disk *disk, const struct td_driver *driver,
				    const char *target)
{
	struct image_core *core = calloc(1, sizeof(*core) + driver->state_size);

	if (!core)
		return NULL;
	core->disk = disk;
	core->target = strdup(target);
	core->files.hook = disk->options.hook;
	core->files.force_align = disk->options.force_align;
	core->img.driver = driver;
	core->img.target = core->target;
	core->img.files = &core->files;
	core->files.many = disk->queue_count > 1;
	core->img.queue = td_disk_queue(disk);
	core->img.state = core->state;
	core->img.core = core;
	core->img.can = driver->can;
	if (!core->target) {
		free(core);
		return NULL;
	}
	return core;
}

static void image_free(struct image_core *core)
{
	td_options_free(core->img.driver->options, core->state);
	lanes_free(core);
	free(core->target);
	free(core);
}

static int image_fits(struct image_core *core, const struct image_core *above,
		      struct td_why *why)
{
	struct td_disk *disk = core->disk;
	const struct td_driver *driver = core->img.driver;

	if (core->img.shared && !(driver->can & TD_CAN_SHARE))
		return td_fail(why, -EINVAL, "%s: a %s image cannot have several writers",
			       core->target, driver->name);
	find_identity(core);
	core->files.nolock = disk->options.peek || (above && disk->options.beside &&
			     same_identity(core, disk->options.beside->top));
	if (above && chain_has(disk->top, core))
		return td_fail(why, -ELOOP, "%s: the chain of images comes back to it",
			       core->target);
	return 0;
}

int image_open(struct td_disk *disk, struct image_core *above, const char *type,
	       const char *target, const struct td_spec *options, bool read_only,
	       bool shared, struct image_core **out, struct td_why *why)
{
	const struct td_driver *driver;
	struct image_core *core;
	int err;

	if (disk->images == TD_CHAIN_MAX)
		return td_fail(why, -ELOOP, "%s: the chain of images is longer than %d",
			       target, TD_CHAIN_MAX);
	driver = td_registry_find(disk->registry, type, why);
	if (!driver)
		return -ENOENT;
	core = image_new(disk, driver, target);
	if (!core)
		return td_fail(why, -ENOMEM, "%s: no memory", target);
	core->depth = disk->images++;
	core->img.scratch_at = disk->scratch;
	core->img.read_only = read_only || !(driver->can & TD_CAN_WRITE);
	core->img.shared = shared;
	core->img.repair = !above && disk->options.repair;
	core->img.keyless = disk->options.keyless;
	disk->scratch += round_up(driver->req_size, 16);
	err = image_fits(core, above, why);
	if (err)
		goto fail;
	/* in the chain before it opens, so that images below it see it */
	if (above)
		above->img.below = &core->img;
	else
		disk->top = core;
	err = options ? td_options_apply(driver->options, options, core->state, why) : 0;
	if (err)
		goto unlink;
	err = driver->open(&core->img, why);
	if (err)
		goto close_below;
	disk->encrypted |= core->img.encrypted;
	err = check_opened(core, why);
	if (!err)
		err = lanes_new(core, disk->options.depth);
	if (err)
		goto close;
	*out = core;
	return 0;
close:
	driver->close(&core->img);
close_below:
	if (core->img.below)
		image_close(core_of(core->img.below));
unlink:
	if (above)
		above->img.below = NULL;
	else
		disk->top = NULL;
fail:
	disk->images--;
	disk->scratch = core->img.scratch_at;
	image_free(core);
	return err;
}

void image_close(struct image_core *core)
{
	struct td_image *below = core->img.below;

	core->img.driver->close(&core->img);
	if (below)
		image_close(core_of(below));
	core->disk->images--;
	image_free(core);
}

static const struct td_key *nth_key(const struct td_key *key, unsigned *nth)
{
	for (; key && *nth; key = key->next)
		--*nth;
	return key;
}

int td_image_key(struct td_image *img, unsigned nth, const struct td_key **out)
{
	const struct image_core *core = core_of(img);
	const struct td_disk_options *options = &core->disk->options;
	const struct td_key *key = nth_key(core->disk->keys, &nth);

	if (!key)
		key = nth_key(options->keys, &nth);
	if (!key && !core->disk->keys && !options->keys && !nth && options->ask_key)
		return options->ask_key(options->ask_arg, core->target, out);
	*out = key;
	return key ? 0 : -ENOKEY;
}

/* SCHEME://... names a place that no folder is a part of. */
static bool is_uri(const char *target)
{
	size_t scheme = strspn(target, "abcdefghijklmnopqrstuvwxyz0123456789+-.");

	return scheme && !strncmp(target + scheme, "://", 3);
}

/* A raw image at a URI is served by somebody, who is asked by another driver. */
static const char *driver_of(const char *type, const char *target)
{
	bool raw = !strcmp(type, "raw") || !strcmp(type, "aio");

	return raw && is_uri(target) && !strncmp(target, "nbd", 3) ? "nbd" : type;
}

int td_image_open_below(struct td_image *img, const char *type, const char *target,
			const char *from_file, struct td_why *why)
{
	AUTO_FREE char *path = td_path_beside(is_uri(target) ? NULL : from_file, target);
	struct image_core *core = core_of(img), *below;

	if (!path)
		return td_fail(why, -ENOMEM, "%s: no memory", target);
	if (core->disk->options.alone)
		return 0;
	if (img->below)
		return td_fail(why, -EINVAL, "%s: an image lies over one other", target);
	return image_open(core->disk, core, driver_of(type, target), path, NULL, true, false,
			  &below, why);
}
