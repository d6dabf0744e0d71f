/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd: a disk that an NBD server serves. "nbd:URI[,connections=N]..."
 *
 * A request becomes one command of the protocol, or several where the server takes
 * less at once. Memory in one piece goes over the wire straight; memory in pieces is
 * gathered in a bounce buffer, unless a piece is large.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <syslog.h>

#include "drivers/nbd/nbd.h"

#define DEFAULT_CONNECTIONS 1
#define DEFAULT_TIMEOUT 60
#define DEFAULT_RECONNECT 60
#define DEFAULT_KEEP (32 * MiB)
#define SECONDS_MAX 1000000

static const struct td_option nbd_options[] = {
	{ "connections", TD_UINT, offsetof(struct nbd, connections),
	  "1 to 16, if the server allows several; default 1" },
	{ "reconnect", TD_STRING, offsetof(struct nbd, reconnect),
	  "seconds that requests wait for a lost server; 0: they fail at once; default 60" },
	{ "timeout", TD_UINT, offsetof(struct nbd, timeout),
	  "seconds until a server that does not answer is given up; default 60" },
	{ "keep", TD_SIZE, offsetof(struct nbd, keep),
	  "memory for writes not flushed yet, to repeat them; from 1M; default 32M" },
	{ "tls-certificates", TD_STRING, offsetof(struct nbd, tls_certificates),
	  "folder of certificates, for nbds: URIs" },
	{ "tls-psk", TD_STRING, offsetof(struct nbd, tls_psk),
	  "file of keys, for nbds: URIs" },
	{ NULL },
};

/* ---- open ------------------------------------------------------------------ */

static int reconnect_parse(struct nbd *nbd, struct td_why *why)
{
	const char *text = nbd->reconnect;
	char *end;
	uint64_t seconds = DEFAULT_RECONNECT;

	if (text) {
		seconds = strtoull(text, &end, 10);
		if (!strchr("0123456789", *text) || end == text || *end ||
		    seconds > SECONDS_MAX)
			return td_fail(why, -EINVAL, "nbd:%s: reconnect=%s: bad value",
				       nbd->img->target, text);
	}
	nbd->reconnect_ms = seconds * 1000;
	return 0;
}

static int options_check(struct nbd *nbd, struct td_why *why)
{
	if (!nbd->connections)
		nbd->connections = DEFAULT_CONNECTIONS;
	if (!nbd->timeout)
		nbd->timeout = DEFAULT_TIMEOUT;
	if (!nbd->keep)
		nbd->keep = DEFAULT_KEEP;
	if (nbd->connections > CONNECTIONS_MAX || nbd->timeout > SECONDS_MAX)
		return td_fail(why, -EINVAL, "nbd:%s: connections= is at most %d, timeout= %d",
			       nbd->img->target, CONNECTIONS_MAX, SECONDS_MAX);
	if (nbd->keep < MiB || nbd->keep > 1024 * MiB)
		return td_fail(why, -EINVAL, "nbd:%s: keep= is 1M to 1G", nbd->img->target);
	nbd->keep = round_up(nbd->keep, 64 * KiB);
	return reconnect_parse(nbd, why);
}

static int bounces_make(struct nbd *nbd)
{
	void *at = mmap(NULL, BOUNCE_SIZE * BOUNCE_COUNT, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return -errno;
	nbd->bounces = at;
	for (unsigned i = 0; i < BOUNCE_COUNT; i++)
		nbd->bounce[i] = nbd->bounces + i * BOUNCE_SIZE;
	nbd->bounce_count = BOUNCE_COUNT;
	return 0;
}

static void memory_free(struct nbd *nbd)
{
	if (nbd->bounces)
		munmap(nbd->bounces, BOUNCE_SIZE * BOUNCE_COUNT);
	kept_free(&nbd->kept);
}

/* What the server can do is what the disk can. */
static void image_set(struct nbd *nbd)
{
	const struct facts *facts = &nbd->facts;
	struct td_image *img = nbd->img;

	img->size = facts->size;
	img->block_size = facts->block;
	if (is_pow2(facts->preferred) && facts->preferred > facts->block)
		img->cluster = facts->preferred;
	img->can &= ~((facts->read_only ? TD_CAN_WRITE : 0) | (facts->fua ? 0 : TD_CAN_FUA) |
		      (facts->trim ? 0 : TD_CAN_DISCARD) |
		      (facts->zero ? 0 : TD_CAN_WRITE_ZEROES) |
		      (facts->extents ? 0 : TD_CAN_EXTENTS));
	if (facts->read_only && !img->read_only)
		td_say(img, LOG_NOTICE, "the server lets it only be read");
	img->read_only |= facts->read_only;
	if (!img->read_only && !facts->flush)
		td_say(img, LOG_WARNING, "the server cannot flush: nothing that is written is "
		       "known to be safe from a power cut there");
	nbd->keeps = !img->read_only && facts->flush;
	nbd->never_flushed = nbd->keeps;
}

static int nbd_open(struct td_image *img, struct td_why *why)
{
	struct nbd *nbd = img->state;
	int err;

	nbd->img = img;
	err = options_check(nbd, why);
	if (err)
		return err;
	err = bounces_make(nbd);
	if (!err)
		err = kept_init(&nbd->kept, nbd->keep);
	if (err) {
		td_fail(why, err, "nbd:%s: memory: %s", img->target, strerror(-err));
		goto fail;
	}
	err = link_open(nbd, why);
	if (err)
		goto fail;
	image_set(nbd);
	nbd->read_max = nbd->write_max = nbd->facts.max;
	if (nbd->keeps)
		nbd->write_max = round_down(min_u64(nbd->write_max, kept_max(&nbd->kept)),
					    nbd->facts.block);
	return 0;
fail:
	memory_free(nbd);
	return err;
}

static void nbd_shut(struct td_image *img)
{
	struct nbd *nbd = img->state;

	link_close(nbd);
	memory_free(nbd);
}

/* ---- commands --------------------------------------------------------------- */

/* How much memory of req follows pos in one piece. */
static uint64_t memory_run(const struct td_req *req, uint64_t pos, void **at)
{
	const struct iovec *iov = req->iov, *end = req->iov + req->iov_count;
	uint64_t run;

	for (; pos >= iov->iov_len; iov++)
		pos -= iov->iov_len;
	*at = (char *)iov->iov_base + pos;
	run = iov->iov_len - pos;
	for (iov++; iov < end && (char *)*at + run == iov->iov_base; iov++)
		run += iov->iov_len;
	return run;
}

bool cmd_prepare(struct cmd *cmd)
{
	struct nbd *nbd = cmd->nbd;
	void *at;

	if (cmd->buf || (cmd->op != TD_READ && cmd->op != TD_WRITE))
		return true;
	if (memory_run(cmd->req, 0, &at) >= cmd->len) {
		cmd->buf = at;
		return true;
	}
	if (!nbd->bounce_count)
		return false;
	cmd->buf = nbd->bounce[--nbd->bounce_count];
	cmd->bounced = nbd->bounces_used = true;
	if (cmd->op == TD_WRITE)
		td_req_get(cmd->req, 0, cmd->buf, cmd->len);
	return true;
}

static void guest_flushed(struct nbd *nbd, uint64_t mark)
{
	nbd->never_flushed = false;
	kept_flushed(&nbd->kept, mark);
}

static void guest_done(struct cmd *cmd, int err)
{
	struct nbd *nbd = cmd->nbd;
	struct td_req *req = cmd->req;

	if (!err && cmd->op == TD_READ && cmd->bounced)
		td_req_put(req, 0, cmd->buf, cmd->len);
	if (!err && cmd->op == TD_FLUSH)
		guest_flushed(nbd, cmd->mark);
	if (!err && cmd->op == TD_EXTENTS && !req->extent.len)
		err = -EPROTO;
	if (cmd->reserved && !err)
		kept_add(&nbd->kept, cmd);
	else if (cmd->reserved)
		kept_unreserve(&nbd->kept, cmd);
	if (cmd->bounced)
		nbd->bounce[nbd->bounce_count++] = cmd->buf;
	td_end(req, err);
}

static void guest_queue(struct nbd *nbd, struct td_req *req)
{
	struct cmd *cmd = td_scratch(nbd->img, req);

	*cmd = (struct cmd){
		.nbd = nbd, .req = req, .done = guest_done, .op = req->op,
		.flags = req->flags, .offset = req->offset,
		.len = req->op == TD_EXTENTS ? min_u64(req->len, EFFECT_MAX) : req->len,
	};
	link_queue(nbd, cmd);
}

/* ---- requests --------------------------------------------------------------- */

/* How much of req's rest one command takes. */
static uint64_t piece_len(const struct nbd *nbd, const struct td_req *req, uint64_t pos)
{
	uint64_t left = req->len - pos, most, straight;
	void *at;

	if (req->op != TD_READ && req->op != TD_WRITE)
		return min_u64(left, EFFECT_MAX);
	most = min_u64(left, req->op == TD_READ ? nbd->read_max : nbd->write_max);
	straight = round_down(min_u64(memory_run(req, pos, &at), most), nbd->facts.block);
	return max_u64(straight, min_u64(most, BOUNCE_SIZE));
}

static void nbd_split(struct td_req *req)
{
	struct nbd *nbd = req->image->state;
	uint64_t *pos = td_scratch(req->image, req), len;

	for (; *pos < req->len; *pos += len) {
		struct td_req *kid = td_child(req);

		if (!kid) {
			td_wait(req, nbd_split);
			return;
		}
		len = piece_len(nbd, req, *pos);
		td_slice(kid, *pos, len);
		guest_queue(nbd, kid);
	}
	td_end(req, 0); /* our own share: all pieces are queued */
}

/* There is nothing that a flush would make durable. */
static bool flush_is_idle(const struct nbd *nbd)
{
	return !nbd->facts.flush ||
	       (!nbd->never_flushed && nbd->kept.head == nbd->kept.tail);
}

static void nbd_submit(struct td_queue *queue, struct td_image *img, struct td_req *req)
{
	struct nbd *nbd = img->state;

	if (req->op == TD_FLUSH && flush_is_idle(nbd))
		td_end(req, 0);
	else if (req->op == TD_FLUSH || req->op == TD_EXTENTS ||
		 piece_len(nbd, req, 0) == req->len)
		guest_queue(nbd, req);
	else
		nbd_split(req);
}

static const struct td_driver nbd_driver = {
	.abi = TD_DRIVER_ABI,
	.size = sizeof(struct td_driver),
	.name = "nbd",
	.summary = "what an NBD server serves: nbd:URI",
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES |
	       TD_CAN_EXTENTS,
	.state_size = sizeof(struct nbd),
	.req_size = sizeof(struct cmd),
	.options = nbd_options,
	.open = nbd_open,
	.close = nbd_shut,
	.submit = nbd_submit,
};

TD_PLUGIN(nbd_driver);
