/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench: requests of one size, so many at a time, at a step or at random; and how
 * long they took.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/num.h"
#include "core/queue.h"
#include "io/loop.h"
#include "tools/img/img.h"
#include "tools/progress.h"

#define DEPTH_MAX 1024

struct options {
	struct img_options img;
	const char *count, *depth, *size, *step, *offset, *flush, *pattern;
	bool write, random;
};

static const struct td_arg rows[] = {
	IMG_FORMAT(struct options),
	{ "count", 'c', "N", offsetof(struct options, count), "requests; default 75000" },
	{ "depth", 'd', "N", offsetof(struct options, depth), "at a time; default 64" },
	{ "buffer-size", 's', "SIZE", offsetof(struct options, size), "of each; default 4K" },
	{ "step", 'S', "SIZE", offsetof(struct options, step),
	  "from one to the next; default the buffer's size" },
	{ "offset", 'o', "SIZE", offsetof(struct options, offset), "of the first; default 0" },
	{ "random", 'R', NULL, offsetof(struct options, random), "anywhere instead" },
	{ "write", 'w', NULL, offsetof(struct options, write),
	  "write: the image's content is lost" },
	{ "pattern", 0, "BYTE", offsetof(struct options, pattern), "what is written; default 0" },
	{ "flush-interval", 0, "N", offsetof(struct options, flush),
	  "flush after so many writes" },
	IMG_QUIET(struct options),
	IMG_COMMON(struct options),
};

struct bench {
	struct tool_run *run;
	struct img_disk img;
	struct td_pool *pool;
	uint64_t count, depth, size, step, offset, flush, pattern;
	uint64_t sent, ended, at, seed;
	bool write, random;
	unsigned busy;
	int err;
	char *buf;
	struct iovec iov;      /* all of buf */
	struct td_defer pump;
};

static void bench_done(struct td_req *req)
{
	struct bench *bench = *(struct bench **)td_req_user(req);

	bench->busy--;
	bench->ended += req->op != TD_FLUSH;
	if (req->err && !bench->err)
		bench->err = req->err;
	td_pool_put(bench->pool, req);
	td_loop_defer(bench->run->loop, &bench->pump);
}

/* xorshift: the same places in each run */
static uint64_t next_random(struct bench *bench)
{
	bench->seed ^= bench->seed << 13;
	bench->seed ^= bench->seed >> 7;
	bench->seed ^= bench->seed << 17;
	return bench->seed;
}

static uint64_t next_place(struct bench *bench)
{
	uint64_t room = td_disk_size(bench->img.disk) - bench->size, at = bench->at;

	if (bench->random)
		return next_random(bench) % (room / bench->size + 1) * bench->size;
	bench->at = bench->step <= room && at <= room - bench->step ? at + bench->step : 0;
	return at;
}

static void send(struct bench *bench, enum td_op op)
{
	struct td_req *req = td_pool_get(bench->pool);

	*(struct bench **)td_req_user(req) = bench;
	req->op = op;
	req->offset = op == TD_FLUSH ? 0 : next_place(bench);
	req->len = op == TD_FLUSH ? 0 : bench->size;
	req->iov = op == TD_FLUSH ? NULL : &bench->iov;
	req->iov_count = op == TD_FLUSH ? 0 : 1;
	bench->busy++;
	td_submit(req);
}

static bool over(const struct bench *bench)
{
	return bench->sent == bench->count || bench->err || tool_stopped;
}

static void pump(struct bench *bench)
{
	while (!over(bench) && bench->busy < bench->depth) {
		send(bench, bench->write ? TD_WRITE : TD_READ);
		bench->sent++;
		if (bench->flush && bench->sent % bench->flush == 0)
			send(bench, TD_FLUSH);
	}
}

static void pump_deferred(struct td_defer *defer)
{
	pump(container_of(defer, struct bench, pump));
}

static int tell(struct bench *bench, const struct options *options, uint64_t us)
{
	double s = (us ? us : 1) / 1e6;
	char rate[16];

	if (options->img.json)
		return img_print_json(bench->run, json_pack("{s:o, s:o, s:f, s:f, s:f}",
			"requests", img_number(bench->ended), "buffer-size", img_number(bench->size),
			"seconds", s, "requests-per-second", bench->ended / s,
			"bytes-per-second", bench->ended * bench->size / s));
	if (options->img.quiet)
		return TOOL_OK;
	printf("Run completed in %.3f seconds: %.0f requests/s, %s/s\n", s, bench->ended / s,
	       size_text(bench->ended * bench->size / s, rate));
	return TOOL_OK;
}

static int numbers(struct bench *bench, const struct options *options)
{
	const struct {
		const char *text;
		uint64_t *to;
	} all[] = {
		{ options->count, &bench->count }, { options->depth, &bench->depth },
		{ options->size, &bench->size },   { options->step, &bench->step },
		{ options->offset, &bench->offset }, { options->flush, &bench->flush },
		{ options->pattern, &bench->pattern },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].text && tool_size(bench->run->tool, all[i].text, 1, all[i].to))
			return TOOL_FAILED;
	if (!bench->step)
		bench->step = bench->size;
	bench->write = options->write;
	bench->random = options->random;
	return TOOL_OK;
}

static int sense(const struct bench *bench)
{
	uint32_t block = td_disk_block_size(bench->img.disk);
	const char *wrong = NULL;

	if (!bench->count || !bench->depth || bench->depth > DEPTH_MAX)
		wrong = "--count: 1 or more; --depth: 1 to 1024";
	else if (!bench->size || bench->size > 64 * MiB || bench->pattern > 255)
		wrong = "--buffer-size: up to 64M; --pattern: 0 to 255";
	else if (!is_aligned(bench->size | bench->step | bench->offset, block))
		wrong = "--buffer-size, --step, --offset: multiples of the disk's sectors";
	else if (bench->size > td_disk_size(bench->img.disk) ||
		 bench->offset > td_disk_size(bench->img.disk) - bench->size)
		wrong = "--offset, --buffer-size: past the end of the disk";
	else if (bench->flush && !bench->write)
		wrong = "--flush-interval goes with -w";
	if (wrong)
		tool_say(bench->run->tool, "%s", wrong);
	return wrong ? TOOL_FAILED : TOOL_OK;
}

static int run_bench(struct bench *bench, const struct options *options)
{
	uint64_t began;
	int code = sense(bench), err;

	if (code)
		return code;
	bench->buf = aligned_alloc(4096, round_up(bench->size, 4096));
	err = bench->buf ? td_pool_new(td_disk_queue(bench->img.disk), 2 * bench->depth,
				       sizeof(struct bench *), bench_done, &bench->pool) : -ENOMEM;
	if (err)
		return img_failed(bench->run, &bench->img, TOOL_FAILED, err, NULL);
	bench->iov = (struct iovec){ bench->buf, bench->size };
	memset(bench->buf, bench->pattern, bench->size);
	if (!options->img.quiet && !options->img.json)
		printf("Sending %llu %s requests, %llu bytes each, %llu in parallel\n",
		       (unsigned long long)bench->count, bench->write ? "write" : "read",
		       (unsigned long long)bench->size, (unsigned long long)bench->depth);
	began = td_now_us();
	bench->at = bench->offset;
	for (pump(bench); bench->busy || !over(bench); pump(bench))
		td_loop_turn(bench->run->loop, 200);
	td_loop_undefer(bench->run->loop, &bench->pump);
	if (!bench->err)
		return tell(bench, options, td_now_us() - began);
	tool_say(bench->run->tool, "%s: %s", name_path(&bench->img.name), strerror(-bench->err));
	return TOOL_FAILED;
}

static int bench_run(struct tool_run *run, void *arg, char **words, int count)
{
	const struct options *options = arg;
	struct bench bench = { .run = run, .count = 75000, .depth = 64, .size = 4096,
			       .seed = 0x9e3779b97f4a7c15, .pump.run = pump_deferred };
	int code = numbers(&bench, options), end;

	if (!code)
		code = img_open(run, options->img.format, "-f", words[0], !options->write,
				&bench.img);
	if (!code)
		code = run_bench(&bench, options);
	td_pool_free(bench.pool);
	end = img_close(run, &bench.img);
	free(bench.buf);
	return code ? code : end;
}

const struct img_command img_bench = {
	.name = "bench",
	.tool = {
		.name = "tap-img bench",
		.usage = "IMAGE",
		.about = "measures how fast an image is read or written",
		.rows = rows,
		.min_words = 1,
		.max_words = 1,
		.usage_code = 1,
	},
	.options_size = sizeof(struct options),
	.run = bench_run,
};
