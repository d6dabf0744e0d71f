/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The checks of a request, in the order of the specification: is it one, do we
 * know it and its flags, may it, is it inside the disk, is it aligned. Only what
 * leaves us not knowing where the next request starts ends the connection; all
 * else is an error that the peer is told.
 */
#include "transports/nbd/request.h"

#include <errno.h>

#include "base/num.h"

uint16_t nbd_export_flags(const struct nbd_export *export, bool structured)
{
	/* All connections are one disk: a flush on any covers all. */
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN;

	if (structured)
		flags |= NBD_FLAG_SEND_DF;
	if (!(export->can & TD_CAN_WRITE))
		return flags | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH;
	flags |= NBD_FLAG_SEND_FLUSH;
	if (export->can & TD_CAN_FUA)
		flags |= NBD_FLAG_SEND_FUA;
	if (export->can & TD_CAN_DISCARD)
		flags |= NBD_FLAG_SEND_TRIM;
	if (export->can & TD_CAN_WRITE_ZEROES)
		flags |= NBD_FLAG_SEND_WRITE_ZEROES;
	return flags;
}

/* One row per command: what it is called here and which flags it may carry. */
static const struct command {
	bool known;
	enum td_op op;
	uint16_t flags;
	bool changes;      /* refused on a read-only disk */
	uint32_t needs;    /* enum td_can */
	int beyond;        /* the error past the end */
} commands[] = {
	[NBD_CMD_READ] = { true, TD_READ, NBD_CMD_FLAG_DF, false, 0, -EINVAL },
	[NBD_CMD_WRITE] = { true, TD_WRITE, 0, true, TD_CAN_WRITE, -ENOSPC },
	[NBD_CMD_FLUSH] = { true, TD_FLUSH, 0, false, 0, -EINVAL },
	[NBD_CMD_TRIM] = { true, TD_DISCARD, 0, true, TD_CAN_DISCARD, -EINVAL },
	[NBD_CMD_WRITE_ZEROES] = { true, TD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, true,
				   TD_CAN_WRITE_ZEROES, -ENOSPC },
	[NBD_CMD_BLOCK_STATUS] = { true, TD_EXTENTS, NBD_CMD_FLAG_REQ_ONE, false, 0,
				   -EINVAL },
};

/* FUA may stand on any command and means nothing on one that writes nothing. */
static int flags_check(const struct nbd_hello *hello, const struct command *command,
		       uint16_t flags)
{
	uint32_t can = hello->export->can;

	if (flags & ~(command->flags | NBD_CMD_FLAG_FUA))
		return -EINVAL;
	if (flags & NBD_CMD_FLAG_FUA && can & TD_CAN_WRITE && !(can & TD_CAN_FUA))
		return -EINVAL;
	if (flags & NBD_CMD_FLAG_DF && !hello->structured)
		return -EINVAL;
	return 0;
}

static int span_check(const struct nbd_export *export, const struct command *command,
		      const struct nbd_order *order)
{
	if (order->offset > export->size || order->len > export->size - order->offset)
		return command->beyond;
	if (!is_aligned(order->offset | order->len, export->block_size))
		return -EINVAL;
	if (command->op == TD_READ && order->len > NBD_MAX_PAYLOAD)
		return -EINVAL;
	return 0;
}

static int order_check(const struct nbd_hello *hello, const struct command *command,
		       uint16_t flags, const struct nbd_order *order)
{
	const struct nbd_export *export = hello->export;
	int err = flags_check(hello, command, flags);

	if (err)
		return err;
	if (command->changes && !(export->can & TD_CAN_WRITE))
		return -EPERM;
	if (command->needs & ~export->can)
		return -EINVAL;
	if (command->op == TD_FLUSH)
		return 0;
	if (command->op == TD_EXTENTS && (!hello->allocation || !order->len))
		return -EINVAL;
	return span_check(export, command, order);
}

static unsigned order_flags(const struct command *command, uint16_t flags)
{
	unsigned out = 0;

	if (flags & NBD_CMD_FLAG_FUA &&
	    (command->op == TD_WRITE || command->op == TD_WRITE_ZEROES))
		out |= TD_FUA;
	if (command->op == TD_WRITE_ZEROES && !(flags & NBD_CMD_FLAG_NO_HOLE))
		out |= TD_MAY_UNMAP;
	return out;
}

enum nbd_verdict nbd_order_read(const struct nbd_hello *hello,
				const struct nbd_wire_request *wire,
				struct nbd_order *out)
{
	uint16_t type = from_be16(wire->type);
	uint16_t flags = from_be16(wire->flags);
	const struct command *command;

	*out = (struct nbd_order){
		.cookie = wire->cookie,
		.offset = from_be64(wire->offset),
		.len = from_be32(wire->len),
	};
	if (from_be32(wire->magic) != NBD_REQUEST_MAGIC)
		return NBD_BAD;
	if (type == NBD_CMD_DISC)
		return NBD_BYE;
	if (type >= ARRAY_SIZE(commands) || !commands[type].known) {
		out->done = true;
		out->err = -EINVAL;
		return NBD_TAKE;
	}
	command = &commands[type];
	out->op = command->op;
	if (command->op == TD_WRITE) {
		if (out->len > NBD_MAX_PAYLOAD)
			return NBD_BAD;
		out->payload = out->len;
	}
	out->err = order_check(hello, command, flags, out);
	out->done = out->err || (!out->len && command->op != TD_FLUSH);
	out->flags = order_flags(command, flags);
	out->one_extent = flags & NBD_CMD_FLAG_REQ_ONE;
	out->then_flush = command->op == TD_DISCARD && flags & NBD_CMD_FLAG_FUA;
	if (command->op == TD_FLUSH) {
		out->offset = 0;
		out->len = 0;
	}
	return NBD_TAKE;
}

uint32_t nbd_error(int err)
{
	switch (-err) {
	case 0:
		return 0;
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}
