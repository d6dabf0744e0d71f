/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * compare: whether two images hold the same. Both are asked for their extents; what
 * reads as zeroes on a side is not read there. Chunks are compared many at a time,
 * and the first difference of all is told.
 *
 *   a slot: idle -> reading, one side or both -> compared -> idle
 *
 * What lies past the end of the shorter one counts as zeroes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "core/queue.h"
#include "io/loop.h"
#include "tools/img/img.h"
#include "tools/progress.h"

enum { SAME = 0, DIFFER = 1, NOT_OPENED = 2, NOT_READ = 4 };

#define SLOTS 16
#define CHUNK (1 * MiB)
#define ZERO_MAX (1024 * MiB)
#define ASK_MAX GiB

struct options {
	struct img_options img;
	const char *other;
	bool strict;
};

static const struct td_arg rows[] = {
	{ "format", 'f', "FORMAT", offsetof(struct options, img.format), "of the first" },
	{ "other-format", 'F', "FORMAT", offsetof(struct options, other), "of the second" },
	{ "strict", 's', NULL, offsetof(struct options, strict), "sizes must be the same too" },
	IMG_PROGRESS(struct options),
	IMG_QUIET(struct options),
	IMG_SOURCE_CACHE(struct options),
	IMG_COMMON(struct options),
};

struct slot {
	struct compare *compare;
	uint64_t offset, len;
	unsigned reading;      /* sides under way */
	bool used, zero[2];
	char *buf[2];
	struct iovec iov[2];
};

struct side {
	struct compare *compare;
	struct img_disk img;
	struct td_pool *pool;
	uint64_t size, extent_end; /* what zero says holds from the cursor to there */
	bool zero, asking;
};

/* A request's own. */
struct sent {
	struct side *side;
	struct slot *slot;
};

struct compare {
	struct tool_run *run;
	struct side side[2];
	struct slot slot[SLOTS];
	char *arena;
	uint64_t size, cursor, done;
	uint64_t differ;           /* where first, as far as is known; UINT64_MAX: nowhere */
	unsigned busy;
	int err;
	const struct side *failed;
	uint64_t failed_at;
	struct td_defer pump;
};

static uint64_t first_difference(const struct slot *slot)
{
	for (uint64_t i = 0; i < slot->len; i++) {
		char a = slot->zero[0] ? 0 : slot->buf[0][i], b = slot->zero[1] ? 0 : slot->buf[1][i];

		if (a != b)
			return slot->offset + i;
	}
	return UINT64_MAX;
}

static bool all_zero(const char *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

static void slot_compare(struct compare *compare, struct slot *slot)
{
	bool same = slot->zero[0] ? all_zero(slot->buf[1], slot->len) :
		    slot->zero[1] ? all_zero(slot->buf[0], slot->len) :
				    !memcmp(slot->buf[0], slot->buf[1], slot->len);

	if (!same)
		compare->differ = min_u64(compare->differ, first_difference(slot));
	compare->done += slot->len;
	slot->used = false;
}

static void side_done(struct td_req *req)
{
	struct sent *sent = td_req_user(req);
	struct side *side = sent->side;
	struct compare *compare = side->compare;

	compare->busy--;
	if (req->err && !compare->err) {
		compare->err = req->err;
		compare->failed = side;
		compare->failed_at = req->offset;
	}
	if (req->op == TD_EXTENTS) {
		side->asking = false;
		side->extent_end = min_u64(req->offset + req->extent.len, side->size);
		side->zero = req->extent.flags & TD_EXTENT_ZERO;
	} else if (!--sent->slot->reading && !compare->err) {
		slot_compare(compare, sent->slot);
	}
	td_pool_put(side->pool, req);
	td_loop_defer(compare->run->loop, &compare->pump);
}

static void send(struct side *side, struct slot *slot, enum td_op op, uint64_t at, uint64_t len)
{
	struct td_req *req = td_pool_get(side->pool);
	unsigned i = side - side->compare->side;

	*(struct sent *)td_req_user(req) = (struct sent){ side, slot };
	req->op = op;
	req->offset = at;
	req->len = len;
	req->iov = NULL;
	req->iov_count = 0;
	if (slot) {
		slot->iov[i] = (struct iovec){ slot->buf[i], len };
		req->iov = &slot->iov[i];
		req->iov_count = 1;
	}
	side->compare->busy++;
	td_submit(req);
}

/* Whether it is known what the side has at the cursor; asks if not. */
static bool side_knows(struct side *side)
{
	uint64_t cursor = side->compare->cursor;

	if (cursor < side->extent_end)
		return true;
	if (cursor >= side->size) {
		side->extent_end = side->compare->size;
		side->zero = true;
		return true;
	}
	if (!side->asking) {
		side->asking = true;
		send(side, NULL, TD_EXTENTS, cursor, min_u64(side->size - cursor, ASK_MAX));
	}
	return false;
}

static void slot_start(struct compare *compare, struct slot *slot, uint64_t len)
{
	slot->used = true;
	slot->offset = compare->cursor;
	slot->len = len;
	for (unsigned i = 0; i < 2; i++) {
		slot->zero[i] = compare->side[i].zero;
		slot->reading += !slot->zero[i];
	}
	for (unsigned i = 0; i < 2; i++)
		if (!slot->zero[i])
			send(&compare->side[i], slot, TD_READ, slot->offset, len);
}

static struct slot *slot_free(struct compare *compare)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (!compare->slot[i].used)
			return &compare->slot[i];
	return NULL;
}

static bool over(const struct compare *compare)
{
	return compare->err || tool_stopped || compare->differ < UINT64_MAX ||
	       compare->cursor == compare->size;
}

static void pump(struct compare *compare)
{
	struct slot *slot;

	while (!over(compare)) {
		struct side *a = &compare->side[0], *b = &compare->side[1];
		bool known = side_knows(a);
		uint64_t len;

		if (!side_knows(b) || !known)
			return;
		len = min_u64(a->extent_end, b->extent_end) - compare->cursor;
		if (a->zero && b->zero) {
			compare->done += len;
		} else {
			slot = slot_free(compare);
			if (!slot)
				return;
			len = min_u64(len, CHUNK);
			slot_start(compare, slot, len);
		}
		compare->cursor += len;
	}
}

static void pump_deferred(struct td_defer *defer)
{
	pump(container_of(defer, struct compare, pump));
}

static void walk(struct compare *compare, struct progress *progress)
{
	pump(compare);
	while (compare->busy || !over(compare)) {
		td_loop_turn(compare->run->loop, 200);
		pump(compare);
		progress_at(progress, compare->done);
	}
	td_loop_undefer(compare->run->loop, &compare->pump);
}

static int prepare(struct compare *compare)
{
	int err = 0;

	compare->pump.run = pump_deferred;
	compare->differ = UINT64_MAX;
	compare->arena = aligned_alloc(4096, 2 * SLOTS * CHUNK);
	for (unsigned i = 0; i < SLOTS && compare->arena; i++) {
		compare->slot[i].compare = compare;
		compare->slot[i].buf[0] = compare->arena + 2 * i * CHUNK;
		compare->slot[i].buf[1] = compare->slot[i].buf[0] + CHUNK;
	}
	for (unsigned i = 0; i < 2 && !err; i++) {
		struct side *side = &compare->side[i];

		side->compare = compare;
		side->size = td_disk_size(side->img.disk);
		compare->size = max_u64(compare->size, side->size);
		err = td_pool_new(td_disk_queue(side->img.disk), SLOTS + 1, sizeof(struct sent),
				  side_done, &side->pool);
	}
	return compare->arena ? err : -ENOMEM;
}

static int verdict(struct compare *compare, const struct options *options, bool sizes_differ)
{
	bool differ = compare->differ < UINT64_MAX;

	if (options->img.json)
		return img_print_json(compare->run, differ ?
			json_pack("{s:b, s:b, s:o}", "identical", 0, "same-size", !sizes_differ,
				  "first-difference", img_number(compare->differ)) :
			json_pack("{s:b, s:b}", "identical", !(options->strict && sizes_differ),
				  "same-size", !sizes_differ)) ? NOT_READ :
			differ || (options->strict && sizes_differ) ? DIFFER : SAME;
	if (options->img.quiet)
		return differ || (options->strict && sizes_differ) ? DIFFER : SAME;
	if (sizes_differ)
		puts(options->strict ? "Strict: the images have different sizes" :
				       "Warning: the images have different sizes");
	if (differ)
		printf("Content differs at offset %llu\n", (unsigned long long)compare->differ);
	else if (!options->strict || !sizes_differ)
		puts("Images are identical.");
	return differ || (options->strict && sizes_differ) ? DIFFER : SAME;
}

static int compare_disks(struct compare *compare, const struct options *options)
{
	bool sizes_differ;
	struct progress progress;
	int err = prepare(compare);

	if (err)
		return img_failed(compare->run, &compare->side[0].img, NOT_READ, err, NULL);
	sizes_differ = compare->side[0].size != compare->side[1].size;
	if (!(sizes_differ && options->strict)) {
		progress_begin(&progress, "compare", compare->size,
			       options->img.quiet || !options->img.progress);
		walk(compare, &progress);
		progress_end(&progress, compare->err ? "failed" : "done");
	}
	if (tool_stopped)
		return img_stopped(compare->run);
	if (!compare->err)
		return verdict(compare, options, sizes_differ);
	tool_say(compare->run->tool, "%s: read near offset %llu: %s",
		 name_path(&compare->failed->img.name), (unsigned long long)compare->failed_at,
		 strerror(-compare->err));
	return NOT_READ;
}

static int compare_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	const char *other = options->other ? options->other :
			    name_is_spec(words[1]) ? NULL : options->img.format;
	struct compare compare = { .run = run };
	int code;

	if (img_open(run, options->img.format, "-f", words[0], true, &compare.side[0].img) ||
	    img_open(run, other, "-F", words[1], true, &compare.side[1].img))
		code = NOT_OPENED;
	else
		code = compare_disks(&compare, options);
	for (unsigned i = 0; i < 2; i++) {
		td_pool_free(compare.side[i].pool);
		img_close(run, &compare.side[i].img);
	}
	free(compare.arena);
	return code;
}

const struct img_command img_compare = {
	.name = "compare",
	.tool = {
		.name = "tap-img compare",
		.usage = "IMAGE IMAGE",
		.about = "tells whether two images hold the same\n"
			 "Ends with 0: they do; 1: they differ; 2: one cannot be opened; 4: or read.\n"
			 "What lies past the end of the shorter one counts as zeroes. The second has\n"
			 "the format of the first unless -F names another.",
		.rows = rows,
		.min_words = 2,
		.max_words = 2,
		.usage_code = NOT_OPENED,
	},
	.options_size = sizeof(struct options),
	.run = compare_run,
};
