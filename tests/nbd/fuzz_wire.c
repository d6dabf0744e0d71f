/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fuzz entry: the bytes of a peer, first through the negotiation, then as
 * requests. What comes out must be something the disk may be asked.
 */
#include <assert.h>
#include <string.h>

#include "base/num.h"
#include "transports/nbd/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct nbd_export export = {
	.name = "disk",
	.size = 64 * MiB,
	.block_size = 512,
	.preferred = 4096,
	.can = TD_CAN_WRITE | TD_CAN_FUA | TD_CAN_DISCARD | TD_CAN_WRITE_ZEROES,
};

static void order_try(const struct nbd_hello *hello, const struct nbd_order *order)
{
	assert(order->payload <= NBD_MAX_PAYLOAD);
	if (order->done)
		return;
	assert(!order->err);
	if (order->op == TD_FLUSH) {
		assert(!order->offset && !order->len);
		return;
	}
	assert(order->len && is_aligned(order->offset | order->len, 512));
	assert(order->offset <= export.size && order->len <= export.size - order->offset);
	assert(order->op != TD_READ || order->len <= NBD_MAX_PAYLOAD);
	assert(order->op != TD_EXTENTS || hello->allocation);
	assert(order->op != TD_WRITE || order->payload == order->len);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_hello hello;

	nbd_hello_start(&hello, &export);
	while (hello.state == NBD_HELLO_MORE) {
		size_t used;

		hello.out_len = 0;
		used = nbd_hello_step(&hello, data, size);
		assert(used <= size && hello.out_len <= sizeof(hello.out));
		if (!used && hello.state == NBD_HELLO_MORE)
			return 0;
		data += used;
		size -= used;
	}
	assert(!hello.allocation || hello.structured);
	if (hello.state == NBD_HELLO_SERVE)
		requests_try(&hello, data, size);
	return 0;
}
