/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Newstyle negotiation:
 *     we greet -> the peer's flags -> option, replies, option, replies ...
 * until EXPORT_NAME or GO starts the serving, or ABORT ends it.
 *
 * An option is looked at when all of its data is there. What is too long to be
 * any honest option is skipped and refused. Each option's replies fit `out`,
 * which the caller sends before it asks for the next step: a peer that sends
 * options and never reads makes nothing grow.
 */
#include "transports/nbd/hello.h"

#include <assert.h>
#include <blktap/driver.h>
#include <string.h>

#include "base/num.h"
#include "transports/nbd/proto.h"
#include "transports/nbd/request.h"

#define OPTIONS_MAX 1000

static const char allocation_name[] = "base:allocation";

/* ---- what we send ------------------------------------------------------ */

static void put(struct nbd_hello *hello, const void *from, size_t len)
{
	assert(len <= sizeof(hello->out) - hello->out_len);
	memcpy(hello->out + hello->out_len, from, len);
	hello->out_len += len;
}

static void put_u16(struct nbd_hello *hello, uint16_t value)
{
	be16 wire = to_be16(value);

	put(hello, &wire, sizeof(wire));
}

static void put_u32(struct nbd_hello *hello, uint32_t value)
{
	be32 wire = to_be32(value);

	put(hello, &wire, sizeof(wire));
}

static void put_u64(struct nbd_hello *hello, uint64_t value)
{
	be64 wire = to_be64(value);

	put(hello, &wire, sizeof(wire));
}

static void reply(struct nbd_hello *hello, uint32_t option, uint32_t type, uint32_t len)
{
	struct nbd_option_reply_head head = {
		.magic = to_be64(NBD_OPTION_REPLY_MAGIC),
		.option = to_be32(option),
		.type = to_be32(type),
		.len = to_be32(len),
	};

	put(hello, &head, sizeof(head));
}

static void reply_export(struct nbd_hello *hello, uint32_t option)
{
	reply(hello, option, NBD_REP_INFO, 12);
	put_u16(hello, NBD_INFO_EXPORT);
	put_u64(hello, hello->export->size);
	put_u16(hello, nbd_export_flags(hello->export, hello->structured));
}

static void reply_block_size(struct nbd_hello *hello, uint32_t option)
{
	reply(hello, option, NBD_REP_INFO, 14);
	put_u16(hello, NBD_INFO_BLOCK_SIZE);
	put_u32(hello, hello->export->block_size);
	put_u32(hello, hello->export->preferred);
	put_u32(hello, NBD_MAX_PAYLOAD);
}

/* The export's canonical name is the default one, "". */
static void reply_name(struct nbd_hello *hello, uint32_t option)
{
	reply(hello, option, NBD_REP_INFO, 2);
	put_u16(hello, NBD_INFO_NAME);
}

static void reply_context(struct nbd_hello *hello, uint32_t option, uint32_t id)
{
	size_t len = strlen(allocation_name);

	reply(hello, option, NBD_REP_META_CONTEXT, 4 + len);
	put_u32(hello, id);
	put(hello, allocation_name, len);
}

/* ---- what we take apart ------------------------------------------------ */

/* An option's data, eaten from the front. Taking more than there is sets bad. */
struct bytes {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static const uint8_t *take_bytes(struct bytes *from, size_t len)
{
	const uint8_t *at = from->at;

	if (from->bad || len > from->left) {
		from->bad = true;
		return NULL;
	}
	from->at += len;
	from->left -= len;
	return at;
}

static uint16_t take_u16(struct bytes *from)
{
	const uint8_t *at = take_bytes(from, 2);

	return at ? at[0] << 8 | at[1] : 0;
}

static uint32_t take_u32(struct bytes *from)
{
	uint32_t high = take_u16(from);

	return high << 16 | take_u16(from);
}

/* A string with its length before it. */
static struct bytes take_string(struct bytes *from)
{
	struct bytes string = { .left = take_u32(from) };

	string.at = take_bytes(from, string.left);
	return string;
}

static bool string_is(struct bytes string, const char *text)
{
	return string.left == strlen(text) && !memcmp(string.at, text, string.left);
}

static bool name_known(const struct nbd_hello *hello, struct bytes name)
{
	return !name.left || string_is(name, hello->export->name);
}

/* ---- the options ------------------------------------------------------- */

static void hang_up(struct nbd_hello *hello, const char *error)
{
	hello->state = NBD_HELLO_BAD;
	hello->error = error;
}

/* The one option without a reply: what follows is the export, or the end. */
static void option_export_name(struct nbd_hello *hello, struct bytes name)
{
	static const uint8_t zeroes[124];

	if (!name_known(hello, name)) {
		hang_up(hello, "asked for an unknown export");
		return;
	}
	put_u64(hello, hello->export->size);
	put_u16(hello, nbd_export_flags(hello->export, hello->structured));
	if (!hello->no_zeroes)
		put(hello, zeroes, sizeof(zeroes));
	hello->state = NBD_HELLO_SERVE;
}

static void option_list(struct nbd_hello *hello, struct bytes data)
{
	if (data.left) {
		reply(hello, NBD_OPT_LIST, NBD_REP_ERR_INVALID, 0);
		return;
	}
	reply(hello, NBD_OPT_LIST, NBD_REP_SERVER, 4);
	put_u32(hello, 0);
	reply(hello, NBD_OPT_LIST, NBD_REP_ACK, 0);
}

static void option_info(struct nbd_hello *hello, uint32_t option, struct bytes data)
{
	struct bytes name = take_string(&data);
	unsigned count = take_u16(&data);
	bool want_name = false;

	for (unsigned i = 0; i < count && !data.bad; i++)
		want_name |= take_u16(&data) == NBD_INFO_NAME;
	if (data.bad || data.left) {
		reply(hello, option, NBD_REP_ERR_INVALID, 0);
		return;
	}
	if (!name_known(hello, name)) {
		reply(hello, option, NBD_REP_ERR_UNKNOWN, 0);
		return;
	}
	reply_export(hello, option);
	reply_block_size(hello, option);
	if (want_name)
		reply_name(hello, option);
	reply(hello, option, NBD_REP_ACK, 0);
	if (option == NBD_OPT_GO)
		hello->state = NBD_HELLO_SERVE;
}

static void option_structured(struct nbd_hello *hello, struct bytes data)
{
	if (data.left) {
		reply(hello, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID, 0);
		return;
	}
	hello->structured = true;
	reply(hello, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, 0);
}

/* Lists take the name of a namespace for all that is in it. */
static bool query_matches(uint32_t option, struct bytes query)
{
	if (option == NBD_OPT_LIST_META_CONTEXT && string_is(query, "base:"))
		return true;
	return string_is(query, allocation_name);
}

static void option_contexts(struct nbd_hello *hello, uint32_t option, struct bytes data)
{
	bool set = option == NBD_OPT_SET_META_CONTEXT;
	struct bytes name = take_string(&data);
	uint32_t count = take_u32(&data);
	bool found = !set && count == 0;

	if (set)
		hello->allocation = false;
	for (uint32_t i = 0; i < count && !data.bad; i++) {
		struct bytes query = take_string(&data);

		found |= !data.bad && query_matches(option, query);
	}
	if (data.bad || data.left || !hello->structured) {
		reply(hello, option, NBD_REP_ERR_INVALID, 0);
		return;
	}
	if (!name_known(hello, name)) {
		reply(hello, option, NBD_REP_ERR_UNKNOWN, 0);
		return;
	}
	if (found)
		reply_context(hello, option, set ? NBD_CONTEXT_ALLOCATION : 0);
	if (set)
		hello->allocation = found;
	reply(hello, option, NBD_REP_ACK, 0);
}

static void option_take(struct nbd_hello *hello, uint32_t option, struct bytes data)
{
	if (!hello->fixed && option != NBD_OPT_EXPORT_NAME) {
		hang_up(hello, "sent an option without fixed newstyle");
		return;
	}
	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		option_export_name(hello, data);
		break;
	case NBD_OPT_ABORT:
		reply(hello, option, NBD_REP_ACK, 0);
		hello->state = NBD_HELLO_END;
		break;
	case NBD_OPT_LIST:
		option_list(hello, data);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		option_info(hello, option, data);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		option_structured(hello, data);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		option_contexts(hello, option, data);
		break;
	default: /* STARTTLS among them: the peer decides whether to go on */
		reply(hello, option, NBD_REP_ERR_UNSUP, 0);
		break;
	}
}

/* ---- the steps --------------------------------------------------------- */

void nbd_hello_start(struct nbd_hello *hello, const struct nbd_export *export)
{
	struct nbd_greeting greeting = {
		.magic = to_be64(NBD_MAGIC),
		.option_magic = to_be64(NBD_OPTION_MAGIC),
		.flags = to_be16(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES),
	};

	*hello = (struct nbd_hello){ .export = export };
	put(hello, &greeting, sizeof(greeting));
}

static size_t step_flags(struct nbd_hello *hello, const uint8_t *in, size_t len)
{
	be32 wire;
	uint32_t flags;

	if (len < sizeof(wire))
		return 0;
	memcpy(&wire, in, sizeof(wire));
	flags = from_be32(wire);
	if (flags & ~(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
		hang_up(hello, "sent unknown flags");
	hello->fixed = flags & NBD_FIXED_NEWSTYLE;
	hello->no_zeroes = flags & NBD_NO_ZEROES;
	hello->flags_seen = true;
	return sizeof(wire);
}

static size_t step_skip(struct nbd_hello *hello, size_t len)
{
	size_t used = min_u64(hello->skip, len);

	hello->skip -= used;
	return used;
}

static size_t step_option(struct nbd_hello *hello, const uint8_t *in, size_t len)
{
	struct nbd_option_head head;
	uint32_t option, data_len;

	if (len < sizeof(head))
		return 0;
	memcpy(&head, in, sizeof(head));
	option = from_be32(head.option);
	data_len = from_be32(head.len);
	if (from_be64(head.magic) != NBD_OPTION_MAGIC) {
		hang_up(hello, "sent no option where one was due");
		return 0;
	}
	if (++hello->options > OPTIONS_MAX) {
		hang_up(hello, "sent too many options");
		return 0;
	}
	if (data_len > NBD_OPTION_MAX) {
		if (!hello->fixed || option == NBD_OPT_EXPORT_NAME) {
			hang_up(hello, "sent a name that is too long");
			return 0;
		}
		reply(hello, option, NBD_REP_ERR_TOO_BIG, 0);
		hello->skip = data_len;
		return sizeof(head);
	}
	if (len - sizeof(head) < data_len) {
		hello->options--;
		return 0;
	}
	option_take(hello, option,
		    (struct bytes){ .at = in + sizeof(head), .left = data_len });
	return sizeof(head) + data_len;
}

size_t nbd_hello_step(struct nbd_hello *hello, const uint8_t *in, size_t len)
{
	assert(!hello->out_len && hello->state == NBD_HELLO_MORE);
	if (!hello->flags_seen)
		return step_flags(hello, in, len);
	if (hello->skip)
		return step_skip(hello, len);
	return step_option(hello, in, len);
}
