/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is done with an image that opened: requests of every kind, of which four are
 * under way at a time. Each must end, with or without an error, in reasonable time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "core/queue.h"
#include "image.h"

#define DEPTH 4
#define CHUNK (128 * KiB)
#define PATIENCE_MS 20000

/* One that may be under way, and its memory. */
struct slot {
	struct use *use;
	struct iovec iov;
	bool busy;
	_Alignas(4096) char memory[CHUNK];
};

struct use {
	struct td_disk *disk;
	struct td_pool *pool;
	struct fuzz_random random;
	int err; /* of the last request */
};

static struct slot slots[DEPTH];

static void done(struct td_req *req)
{
	struct slot **slot = td_req_user(req);
	struct use *use = (*slot)->use;

	use->err = req->err;
	(*slot)->busy = false;
	td_pool_put(use->pool, req);
}

static void wait_for(struct use *use, unsigned busy)
{
	uint64_t until = td_now_ms() + PATIENCE_MS;

	while (td_pool_busy(use->pool) > busy) {
		td_loop_turn(fuzz_rig()->loop, 100);
		demand(td_now_ms() < until);
	}
}

static struct slot *slot_get(struct use *use)
{
	unsigned i = 0;

	wait_for(use, DEPTH - 1);
	while (slots[i].busy)
		i++;
	slots[i].use = use;
	slots[i].busy = true;
	return &slots[i];
}

static void submit(struct slot *slot, enum td_op op, unsigned flags, uint64_t offset, uint64_t len)
{
	struct td_req *req = td_pool_get(slot->use->pool);

	*(struct slot **)td_req_user(req) = slot;
	slot->iov = (struct iovec){ slot->memory, len };
	req->op = op;
	req->flags = flags;
	req->offset = offset;
	req->len = len;
	req->iov = op == TD_READ || op == TD_WRITE ? &slot->iov : NULL;
	req->iov_count = req->iov ? 1 : 0;
	td_submit(req);
}

/* The ends, the middle, and everywhere; short and long. */
static void choose(struct use *use, uint64_t *offset, uint64_t *len)
{
	uint64_t size = td_disk_size(use->disk), block = td_disk_block_size(use->disk);
	uint64_t most = min_u64(size, CHUNK) / block;

	*len = (1 + fuzz_below(&use->random, fuzz_below(&use->random, 2) ? most : 1)) * block;
	switch (fuzz_below(&use->random, 5)) {
	case 0: *offset = 0; break;
	case 1: *offset = size - *len; break;
	case 2: *offset = round_down(size / 2, block); break;
	case 3: *offset = fuzz_below(&use->random, min_u64(size, MiB)); break;
	default: *offset = fuzz_below(&use->random, size); break;
	}
	*offset = min_u64(round_down(*offset, block), size - *len);
}

/* A whole cluster, to be compressed. */
static void pack(struct use *use)
{
	uint64_t unit = td_disk_cluster(use->disk), size = td_disk_size(use->disk);
	struct slot *slot;

	if (!(td_disk_can(use->disk) & TD_CAN_COMPRESS) || unit > CHUNK || size < unit)
		return;
	slot = slot_get(use);
	memset(slot->memory, fuzz_below(&use->random, 256), unit);
	submit(slot, TD_WRITE, TD_COMPRESS,
	       fuzz_below(&use->random, min_u64(size / unit, 64)) * unit, unit);
}

static void one(struct use *use, bool write)
{
	static const enum td_op reads[] = { TD_READ, TD_READ, TD_EXTENTS };
	static const enum td_op writes[] = { TD_WRITE, TD_WRITE, TD_WRITE, TD_READ, TD_DISCARD,
					     TD_WRITE_ZEROES, TD_FLUSH };
	enum td_op op = write ? writes[fuzz_below(&use->random, ARRAY_SIZE(writes))] :
				reads[fuzz_below(&use->random, ARRAY_SIZE(reads))];
	uint64_t offset = 0, len = 0;
	unsigned flags = 0;
	struct slot *slot;

	if (op == TD_WRITE && !fuzz_below(&use->random, 8)) {
		pack(use);
		return;
	}
	if (op == TD_WRITE_ZEROES)
		flags = fuzz_below(&use->random, 2) ? TD_MAY_UNMAP : 0;
	if (op != TD_FLUSH)
		choose(use, &offset, &len);
	slot = slot_get(use);
	if (op == TD_WRITE) {
		memset(slot->memory, 0, len);
		memset(slot->memory, fuzz_below(&use->random, 256), min_u64(len, 600));
	}
	submit(slot, op, flags, offset, len);
}

static void start(struct use *use, uint32_t script, unsigned part)
{
	fuzz_random_start(&use->random, script, part);
	demand(!td_pool_new(td_disk_queue(use->disk), DEPTH, sizeof(struct slot *), done,
			    &use->pool));
}

void fuzz_use(struct td_disk *disk, uint32_t script, unsigned count, bool write)
{
	struct use use = { .disk = disk };

	start(&use, script, write);
	while (count--)
		one(&use, write);
	submit(slot_get(&use), TD_FLUSH, 0, 0, 0);
	wait_for(&use, 0);
	td_pool_free(use.pool);
}

bool fuzz_keeps(struct td_disk *disk, uint32_t script)
{
	static const uint8_t wrote[CHUNK] = { [0] = 1, [511] = 2, [4000] = 3, [CHUNK - 512] = 4 };
	struct use use = { .disk = disk };
	struct slot *slot;
	uint64_t offset, len;
	bool same = true;

	start(&use, script, 2);
	choose(&use, &offset, &len);
	slot = slot_get(&use);
	memcpy(slot->memory, wrote, len);
	submit(slot, TD_WRITE, 0, offset, len);
	wait_for(&use, 0);
	if (!use.err) {
		slot = slot_get(&use);
		submit(slot, TD_READ, 0, offset, len);
		wait_for(&use, 0);
		same = use.err || !memcmp(slot->memory, wrote, len);
	}
	td_pool_free(use.pool);
	return same;
}
