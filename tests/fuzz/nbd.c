/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server: the bytes of a peer, first through the negotiation, then as
 * requests. What comes out must be something the disk may be asked.
 */
#include <string.h>

#include "base/num.h"
#include "targets.h"
#include "transports/nbd/proto.h"
#include "transports/nbd/request.h"

static const struct nbd_export export = {
	.name = "disk",
	.size = 64 * MiB,
	.block_size = 512,
	.preferred = 4096,
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES,
};

static void order_try(const struct nbd_hello *hello, const struct nbd_order *order)
{
	demand(order->payload <= NBD_MAX_PAYLOAD);
	if (order->done)
		return;
	demand(!order->err);
	if (order->op == TD_FLUSH) {
		demand(!order->offset && !order->len);
		return;
	}
	demand(order->len && is_aligned(order->offset | order->len, 512));
	demand(order->offset <= export.size && order->len <= export.size - order->offset);
	demand(order->op != TD_READ || order->len <= NBD_MAX_PAYLOAD);
	demand(order->op != TD_EXTENTS || hello->allocation);
	demand(order->op != TD_WRITE || order->payload == order->len);
}

static void requests_try(const struct nbd_hello *hello, const uint8_t *data, size_t size)
{
	struct nbd_wire_request wire;
	struct nbd_order order;

	while (size >= sizeof(wire)) {
		memcpy(&wire, data, sizeof(wire));
		if (nbd_order_read(hello, &wire, &order) != NBD_TAKE)
			return;
		order_try(hello, &order);
		data += sizeof(wire);
		size -= sizeof(wire);
		if (order.payload > size)
			return;
		data += order.payload;
		size -= order.payload;
	}
}

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	struct nbd_hello hello;

	nbd_hello_start(&hello, &export);
	while (hello.state == NBD_HELLO_MORE) {
		size_t used;

		hello.out_len = 0;
		used = nbd_hello_step(&hello, data, size);
		demand(used <= size && hello.out_len <= sizeof(hello.out));
		if (!used && hello.state == NBD_HELLO_MORE)
			return;
		data += used;
		size -= used;
	}
	demand(!hello.allocation || hello.structured);
	if (hello.state == NBD_HELLO_SERVE)
		requests_try(&hello, data, size);
}

/* ---- seeds ------------------------------------------------------------------- */

struct talk {
	uint8_t *bytes;
	size_t len;
};

static void say(struct talk *talk, const void *what, size_t len)
{
	memcpy(talk->bytes + talk->len, what, len);
	talk->len += len;
}

static void say_u32(struct talk *talk, uint32_t value)
{
	be32 wire = to_be32(value);

	say(talk, &wire, sizeof(wire));
}

static void say_option(struct talk *talk, uint32_t option, const void *data, uint32_t len)
{
	struct nbd_option_head head = { to_be64(NBD_OPTION_MAGIC), to_be32(option),
					to_be32(len) };

	say(talk, &head, sizeof(head));
	say(talk, data, len);
}

static void say_request(struct talk *talk, enum nbd_cmd cmd, uint32_t len)
{
	static const uint8_t payload[512];
	struct nbd_wire_request wire = {
		.magic = to_be32(NBD_REQUEST_MAGIC),
		.type = to_be16(cmd),
		.offset = to_be64(4096),
		.len = to_be32(len),
	};

	say(talk, &wire, sizeof(wire));
	if (cmd == NBD_CMD_WRITE)
		say(talk, payload, len);
}

/* A whole conversation of a client. */
static void converse(struct talk *talk)
{
	static const uint8_t contexts[] = "\0\0\0\0\0\0\0\1\0\0\0\17base:allocation";
	static const uint8_t info[] = "\0\0\0\4disk\0\2\0\1\0\3";

	say_u32(talk, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
	say_option(talk, NBD_OPT_LIST, "", 0);
	say_option(talk, NBD_OPT_STRUCTURED_REPLY, "", 0);
	say_option(talk, NBD_OPT_LIST_META_CONTEXT, contexts, sizeof(contexts) - 1);
	say_option(talk, NBD_OPT_SET_META_CONTEXT, contexts, sizeof(contexts) - 1);
	say_option(talk, NBD_OPT_INFO, info, sizeof(info) - 1);
	say_option(talk, NBD_OPT_GO, info, sizeof(info) - 1);
	for (enum nbd_cmd cmd = NBD_CMD_READ; cmd <= NBD_CMD_BLOCK_STATUS; cmd++)
		if (cmd != NBD_CMD_DISC)
			say_request(talk, cmd, 512);
}

static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	struct talk talk = { out };

	if (n)
		return 0;
	converse(&talk);
	return talk.len;
}

const struct fuzz_target fuzz_nbd = { .name = "nbd", .input = input, .seed = seed };
