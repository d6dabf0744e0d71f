/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fuzz entry without a fuzzer: good conversations with some bytes changed,
 * and cut short. Each run of one seed is the same; under the sanitizers it is
 * what CI does. SEED and COUNT in the environment change it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "transports/nbd/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct talk {
	uint8_t bytes[4096];
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

static uint64_t number_from(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

int main(void)
{
	static struct talk good;
	uint64_t seed = number_from("SEED", 1), count = number_from("COUNT", 200000);

	printf("SEED=%llu COUNT=%llu\n", (unsigned long long)seed, (unsigned long long)count);
	srandom(seed);
	converse(&good);
	LLVMFuzzerTestOneInput(good.bytes, good.len);
	for (uint64_t i = 0; i < count; i++) {
		/* of its own size, so that a read past it is noticed */
		size_t len = random() % 4 ? good.len : (size_t)random() % (good.len + 1);
		uint8_t *bad = malloc(len ? len : 1);

		if (!bad)
			return 1;
		memcpy(bad, good.bytes, len);
		for (int k = random() % 4; k >= 0 && len; k--)
			bad[random() % len] = random() % 3 ? random() : 255;
		LLVMFuzzerTestOneInput(bad, len);
		free(bad);
	}
	return 0;
}
