/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk: opened from its specification, asked what it is, closed.
 */
#include "core/disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/key.h"
#include "core/core_impl.h"

#define DEFAULT_DEPTH 128
#define ZERO_PIECE (64 * KiB)

/* The core's own keys, taken out of the driver's. */
struct core_options {
	bool read_only, shared;
	char *key_file, *key_fd;
	uint64_t queues;
};

const struct td_option td_disk_keys[] = {
	{ "read-only", TD_BOOL, offsetof(struct core_options, read_only),
	  "on or off: no byte of any file is changed; default off" },
	{ "shared", TD_BOOL, offsetof(struct core_options, shared),
	  "on or off: other disks write it too, for cluster file systems; default off" },
	{ "key-file", TD_STRING, offsetof(struct core_options, key_file),
	  "file that is the key of an encrypted image, whole; may be given several times" },
	{ "key-fd", TD_STRING, offsetof(struct core_options, key_fd),
	  "open descriptor to read the key from: a pipe or a file" },
	{ "queues", TD_UINT, offsetof(struct core_options, queues),
	  "threads that serve it, 1 to 32; default 1" },
	{ NULL },
};

static bool is_core_key(const char *key)
{
	for (const struct td_option *row = td_disk_keys; row->name; row++)
		if (!strcmp(row->name, key))
			return true;
	return false;
}

/* Sorts the pairs: the driver's stay in spec, the core's go to own. */
static void split_pairs(struct td_spec *spec, struct td_spec *own)
{
	unsigned kept = 0;

	*own = (struct td_spec){ .type = spec->type, .target = spec->target };
	own->pairs = calloc(spec->pair_count + 1, sizeof(*own->pairs));
	if (!own->pairs)
		return;
	for (unsigned i = 0; i < spec->pair_count; i++) {
		if (is_core_key(spec->pairs[i].key))
			own->pairs[own->pair_count++] = spec->pairs[i];
		else
			spec->pairs[kept++] = spec->pairs[i];
	}
	spec->pair_count = kept;
}

/* All keys that are named: each image takes the one that fits. */
static int keys_read(struct td_disk *disk, const struct td_spec *own, struct td_why *why)
{
	const struct td_disk_options *options = &disk->options;
	int err = 0;

	for (unsigned i = 0; i < own->pair_count && !err; i++) {
		const struct td_spec_pair *pair = &own->pairs[i];

		if (strcmp(pair->key, "key-file") && strcmp(pair->key, "key-fd"))
			continue;
		if (options->read_key)
			err = options->read_key(options->ask_arg, pair->key, pair->value,
						&disk->keys, why);
		else
			err = td_key_from(pair->key, pair->value, &disk->keys, why);
	}
	return err;
}

static int chain_open(struct td_disk *disk, struct td_why *why)
{
	struct core_options options = { .queues = 1 };
	struct td_spec spec, own;
	struct image_core *top;
	int err;

	err = td_spec_parse(disk->spec, &spec, why);
	if (err)
		return err;
	split_pairs(&spec, &own);
	err = own.pairs ? td_options_apply(td_disk_keys, &own, &options, why) : -ENOMEM;
	if (!err && (!options.queues || options.queues > TD_QUEUES_MAX))
		err = td_fail(why, -EINVAL, "%s: queues=%llu: 1 to %d are possible",
			      spec.target, (unsigned long long)options.queues, TD_QUEUES_MAX);
	if (!err)
		err = queues_open(disk, options.queues, why);
	if (!err)
		err = keys_read(disk, &own, why);
	if (!err)
		err = image_open(disk, NULL, spec.type, spec.target, &spec,
				 disk->options.read_only || options.read_only,
				 options.shared, &top, why);
	if (!err && disk->keys && !disk->encrypted && !disk->options.alone)
		td_log(disk->name, LOG_WARNING, "a key is given, and it is not encrypted");
	else if (!err && disk->encrypted && !top->img.encrypted && !top->img.read_only)
		td_log(disk->name, LOG_WARNING, "is not encrypted itself: nothing that is written "
		       "to it will be");
	td_options_free(td_disk_keys, &options);
	for (unsigned i = 0; i < own.pair_count; i++) {
		free(own.pairs[i].key);
		free(own.pairs[i].value);
	}
	free(own.pairs);
	td_spec_free(&spec);
	return err;
}

static int zeroes_new(struct td_disk *disk)
{
	disk->zeroes = aligned_alloc(4096, ZERO_PIECE);
	if (!disk->zeroes)
		return -ENOMEM;
	memset(disk->zeroes, 0, ZERO_PIECE);
	for (size_t i = 0; i < ARRAY_SIZE(disk->zero_iov); i++)
		disk->zero_iov[i] = (struct iovec){ disk->zeroes, ZERO_PIECE };
	return 0;
}

/* Of this size it is not resident before it is used. */
static int skips_new(struct td_disk *disk)
{
	disk->skips = calloc(TD_SKIPS, sizeof(*disk->skips));
	return disk->skips ? 0 : -ENOMEM;
}

static void disk_free(struct td_disk *disk)
{
	queues_close(disk);
	free(disk->skips);
	free(disk->zeroes);
	td_keys_free(disk->keys);
	free(disk->name);
	free(disk->spec);
	free(disk);
}

int td_disk_open(struct td_loop *loop, struct td_registry *registry, const char *spec,
		 const struct td_disk_options *options, struct td_disk **out,
		 struct td_why *why)
{
	static const struct td_disk_options defaults;
	struct td_disk *disk = calloc(1, sizeof(*disk));
	const char *colon = strchr(spec, ':');
	int err = -ENOMEM;

	if (!disk)
		return err;
	disk->loop = loop;
	disk->registry = registry;
	disk->options = options ? *options : defaults;
	if (!disk->options.depth)
		disk->options.depth = DEFAULT_DEPTH;
	disk->spec = strdup(spec);
	disk->name = strdup(disk->options.name ? disk->options.name :
			    colon ? colon + 1 : spec);
	if (!disk->spec || !disk->name)
		goto fail;
	why->text[0] = '\0';
	err = zeroes_new(disk);
	if (!err)
		err = skips_new(disk);
	if (!err)
		err = chain_open(disk, why);
	if (err)
		goto fail;
	td_keys_free(disk->keys);
	disk->keys = NULL;
	*out = disk;
	return 0;
fail:
	if (!why->text[0])
		td_fail(why, err, "%s: %s", spec, strerror(-err));
	disk_free(disk);
	return err;
}

static void last_flush_done(struct td_req *req)
{
	int *err = *(int **)td_req_user(req);

	*err = req->err;
}

/* The loop does not run any more: it is turned here until the flush has ended. */
static int last_flush(struct td_disk *disk)
{
	struct td_pool *pool;
	struct td_req *req;
	int err = td_pool_new(td_disk_queue(disk), 1, sizeof(int *), last_flush_done, &pool);

	if (err)
		return err;
	req = td_pool_get(pool);
	req->op = TD_FLUSH;
	req->offset = req->len = 0;
	req->iov = NULL;
	req->iov_count = 0;
	*(int **)td_req_user(req) = &err;
	err = 1;
	td_submit(req);
	while (err == 1)
		td_loop_turn(disk->loop, -1);
	td_pool_put(pool, req);
	td_pool_free(pool);
	return err;
}

int td_disk_settle(struct td_disk *disk)
{
	int err = 0;

	if (!disk->top->img.read_only)
		err = last_flush(disk);
	/* what drivers do on their own behalf: metadata, space ahead of need */
	while (td_loop_working(disk->loop) || td_disk_queue(disk)->file_io)
		td_loop_turn(disk->loop, -1);
	return err;
}

int td_disk_close(struct td_disk *disk)
{
	int err;

	if (!disk)
		return 0;
	err = td_disk_settle(disk);
	queues_stop(disk);
	image_close(disk->top);
	disk_free(disk);
	return err;
}

const char *td_disk_name(const struct td_disk *disk)
{
	return disk->name;
}

const char *td_disk_spec(const struct td_disk *disk)
{
	return disk->spec;
}

uint64_t td_disk_size(const struct td_disk *disk)
{
	return disk->top->img.size;
}

uint32_t td_disk_block_size(const struct td_disk *disk)
{
	return disk->top->img.block_size;
}

uint32_t td_disk_cluster(const struct td_disk *disk)
{
	return disk->top->img.cluster;
}

uint32_t td_disk_can(const struct td_disk *disk)
{
	uint32_t changes = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD |
			   TD_CAN_WRITE_ZEROES | TD_CAN_COMPRESS;
	const struct td_image *img = &disk->top->img;

	if (img->read_only)
		return img->can & ~changes;
	return img->can | TD_CAN_FUA | TD_CAN_WRITE_ZEROES;
}

bool td_disk_read_only(const struct td_disk *disk)
{
	return disk->top->img.read_only;
}

void td_disk_stats(const struct td_disk *disk, struct td_disk_stats *out)
{
	*out = (struct td_disk_stats){ 0 };
	for (unsigned i = 0; i < disk->queue_count; i++) {
		const struct td_queue *queue = &disk->queues[i];

		for (int op = 0; op < TD_OPS; op++) {
			out->op[op].requests += queue->counts[op].requests;
			out->op[op].bytes += queue->counts[op].bytes;
			out->op[op].errors += queue->counts[op].errors;
		}
		out->in_flight += queue->in_flight;
	}
}

struct td_image *td_disk_top(const struct td_disk *disk)
{
	return (struct td_image *)&disk->top->img;
}

const char *td_disk_engine(const struct td_disk *disk)
{
	return td_fileio_engine(td_disk_queue(disk)->io);
}
