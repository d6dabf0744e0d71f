/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Numbers and structures of the NBD protocol, as they travel: newstyle
 * negotiation, simple and structured replies.
 */
#ifndef NBD_PROTO_H
#define NBD_PROTO_H

#include <assert.h>

#include "base/endian.h"

#define NBD_MAGIC 0x4e42444d41474943ull       /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC 0x0003e889045565a9ull
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_MAGIC 0x67446698u
#define NBD_CHUNK_MAGIC 0x668e33efu

/* Flags of the handshake, both ways. */
#define NBD_FIXED_NEWSTYLE 0x1
#define NBD_NO_ZEROES 0x2

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP 0x80000001u
#define NBD_REP_ERR_POLICY 0x80000002u
#define NBD_REP_ERR_INVALID 0x80000003u
#define NBD_REP_ERR_UNKNOWN 0x80000006u
#define NBD_REP_ERR_TOO_BIG 0x80000009u

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* What an export can do. */
#define NBD_FLAG_HAS_FLAGS (1 << 0)
#define NBD_FLAG_READ_ONLY (1 << 1)
#define NBD_FLAG_SEND_FLUSH (1 << 2)
#define NBD_FLAG_SEND_FUA (1 << 3)
#define NBD_FLAG_SEND_TRIM (1 << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1 << 6)
#define NBD_FLAG_SEND_DF (1 << 7)
#define NBD_FLAG_CAN_MULTI_CONN (1 << 8)

enum nbd_cmd {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA (1 << 0)
#define NBD_CMD_FLAG_NO_HOLE (1 << 1)
#define NBD_CMD_FLAG_DF (1 << 2)
#define NBD_CMD_FLAG_REQ_ONE (1 << 3)

#define NBD_CHUNK_DONE 0x1

enum nbd_chunk_type {
	NBD_CHUNK_NONE = 0,
	NBD_CHUNK_DATA = 1,
	NBD_CHUNK_BLOCK_STATUS = 5,
	NBD_CHUNK_ERROR = 0x8001,
};

enum nbd_error {
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

struct nbd_greeting {
	be64 magic, option_magic;
	be16 flags;
};
static_assert(sizeof(struct nbd_greeting) == 18, "wire format");

struct nbd_option_head {
	be64 magic;
	be32 option, len;
};
static_assert(sizeof(struct nbd_option_head) == 16, "wire format");

struct nbd_option_reply_head {
	be64 magic;
	be32 option, type, len;
};
static_assert(sizeof(struct nbd_option_reply_head) == 20, "wire format");

struct nbd_wire_request {
	be32 magic;
	be16 flags, type;
	be64 cookie, offset;
	be32 len;
};
static_assert(sizeof(struct nbd_wire_request) == 28, "wire format");

struct nbd_wire_simple {
	be32 magic, error;
	be64 cookie;
};
static_assert(sizeof(struct nbd_wire_simple) == 16, "wire format");

struct nbd_wire_chunk {
	be32 magic;
	be16 flags, type;
	be64 cookie;
	be32 len;
};
static_assert(sizeof(struct nbd_wire_chunk) == 20, "wire format");

struct nbd_wire_data {
	struct nbd_wire_chunk chunk;
	be64 offset;
};
static_assert(sizeof(struct nbd_wire_data) == 28, "wire format");

struct nbd_wire_error {
	struct nbd_wire_chunk chunk;
	be32 error;
	be16 text_len;
};
static_assert(sizeof(struct nbd_wire_error) == 26, "wire format");

struct nbd_wire_status {
	struct nbd_wire_chunk chunk;
	be32 context;
};
static_assert(sizeof(struct nbd_wire_status) == 24, "wire format");

struct nbd_wire_extent {
	be32 len, flags;
};
static_assert(sizeof(struct nbd_wire_extent) == 8, "wire format");

#endif
