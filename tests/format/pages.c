/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct pages {
	uint64_t cache_size;
	uint64_t page;
	struct td_file *file;
	struct td_cache *cache;
};

struct job {
	struct td_park park;
	struct td_req *req;
	uint64_t pos;
};

static const struct td_option pages_options[] = {
	{ "cache", TD_SIZE, offsetof(struct pages, cache_size), "" },
	{ "page", TD_SIZE, offsetof(struct pages, page), "" },
	{ NULL },
};

static int driver_open(struct td_image *img, struct td_why *why)
{
	struct pages *pages = img->state;
	struct td_cache_config config = { .page = pages->page ? pages->page : 4096,
					  .size = pages->cache_size };
	int err = td_file_open(img->files, img->target, img->read_only ? 0 : TD_FILE_WRITE,
			       &pages->file, why);

	if (err)
		return err;
	err = td_cache_new(img, pages->file, &config, &pages->cache, why);
	if (err)
		td_file_close(pages->file);
	img->size = td_file_size(pages->file);
	return err;
}

static void driver_close(struct td_image *img)
{
	struct pages *pages = img->state;

	td_cache_free(pages->cache);
	td_file_close(pages->file);
}

static void job_go(struct td_park *park, int err)
{
	struct job *job = container_of(park, struct job, park);
	struct td_req *req = job->req;
	struct pages *pages = req->image->state;
	uint64_t value;
	void *at;

	for (; !err && job->pos < req->len; job->pos += UNIT) {
		uint64_t offset = req->offset + job->pos;

		err = req->op == TD_WRITE ? td_cache_room(pages->cache, park) : 0;
		if (!err)
			err = td_cache_get(pages->cache, offset, park, &at);
		if (err == TD_PARKED)
			return;
		if (err)
			break;
		if (req->op == TD_READ) {
			td_req_put(req, job->pos, at, UNIT);
			continue;
		}
		td_req_get(req, job->pos, &value, sizeof(value));
		td_cache_dirty(pages->cache, at, offset / 4096 % PAGES_STAGES);
		td_set64(at, value);
	}
	td_end(req, err);
}

static void flush_ended(struct td_park *park, int err)
{
	td_end(container_of(park, struct job, park)->req, err);
}

static void driver_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct pages *pages = img->state;
	struct job *job = td_scratch(img, req);

	job->req = req;
	job->park.go = req->op == TD_FLUSH ? flush_ended : job_go;
	if (req->op == TD_FLUSH)
		td_cache_flush(pages->cache, &job->park);
	else
		job_go(&job->park, 0);
}

const struct td_driver pages_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "pages",
	.can = TD_CAN_WRITE,
	.state_size = sizeof(struct pages),
	.req_size = sizeof(struct job),
	.options = pages_options,
	.open = driver_open,
	.close = driver_close,
	.submit = driver_submit,
};

/* ---- around it ---------------------------------------------------------------- */

static void ended(struct td_req *req)
{
	struct pages_end *end = *(struct pages_end **)td_req_user(req);

	end->ended = true;
	end->err = req->err;
	td_pool_put(end->pool, req);
}

int pages_open(struct pages_disk *disk, const char *spec, const struct td_disk_options *options,
	       struct td_why *why)
{
	int err;

	if (td_loop_new(&disk->loop) || td_registry_new(NULL, &disk->registry) ||
	    td_registry_add(disk->registry, &pages_driver))
		abort();
	err = td_disk_open(disk->loop, disk->registry, spec, options, &disk->disk, why);
	if (!err && td_pool_new(td_disk_queue(disk->disk), 8, sizeof(void *), ended, &disk->pool))
		abort();
	if (err) {
		td_registry_free(disk->registry);
		td_loop_free(disk->loop);
	}
	return err;
}

int pages_close(struct pages_disk *disk)
{
	int err;

	td_pool_free(disk->pool);
	err = td_disk_close(disk->disk);
	td_registry_free(disk->registry);
	td_loop_free(disk->loop);
	return err;
}

void pages_send(struct pages_disk *disk, enum td_op op, uint64_t offset, struct iovec *iov,
		struct pages_end *end)
{
	struct td_req *req = td_pool_get(disk->pool);

	*(struct pages_end **)td_req_user(req) = end;
	end->pool = disk->pool;
	req->op = op;
	req->offset = offset;
	req->len = iov->iov_len;
	req->iov = iov;
	req->iov_count = 1;
	td_submit(req);
}

int pages_wait(struct pages_disk *disk, const struct pages_end *end)
{
	uint64_t began = td_now_ms();

	while (!end->ended) {
		td_loop_turn(disk->loop, 100);
		if (td_now_ms() - began > 100000)
			abort();
	}
	return end->err;
}

int pages_do(struct pages_disk *disk, enum td_op op, uint64_t offset, void *buf, uint64_t len)
{
	struct pages_end end = { 0 };

	pages_send(disk, op, offset, &(struct iovec){ buf, len }, &end);
	return pages_wait(disk, &end);
}

int pages_store(struct pages_disk *disk, uint64_t unit, uint64_t value)
{
	char buf[UNIT] __attribute__((aligned(8))) = { 0 };

	memcpy(buf, &value, sizeof(value));
	return pages_do(disk, TD_WRITE, unit * UNIT, buf, UNIT);
}

int pages_load(struct pages_disk *disk, uint64_t unit, uint64_t *value)
{
	char buf[UNIT];
	int err = pages_do(disk, TD_READ, unit * UNIT, buf, UNIT);

	memcpy(value, buf, sizeof(*value));
	return err;
}
