/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD client: a server that says what the input has, at the moments at which a server
 * speaks. Whatever that is, the disk opens or is refused in one line, and each request on
 * it ends. An input is
 *
 *     writes or only reads (1), a seed of what is done (4), then steps: kind (1), length (2),
 *     bytes
 *
 * A step is one of bytes that are sent at once (0); of bytes that are sent for the next
 * message of the client, with its option or cookie put in where a reply has it (1); or of
 * none: so many messages are answered as they should be (2). Then the server hangs up.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/num.h"
#include "image.h"
#include "targets.h"
#include "transports/nbd/proto.h"

#define HEAD 5
#define STEPS_MAX 24
#define PATIENCE_MS 20 /* for a client that may wait for more of us */
#define EXPORT_SIZE (4 * MiB)
#define CAN (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | \
	     NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES)

extern const struct td_driver *const td_plugin_driver;

enum kind { SAID, PUT_IN, RIGHT };

/* What the client has said: one message. */
struct message {
	bool is_option;
	uint32_t option;
	uint16_t command;
	uint8_t cookie[8];
	uint64_t offset;
	uint32_t len;
};

struct server {
	int listener, fd;
	const uint8_t *at, *end; /* steps */
	bool greeted, structured;
};

/* ---- hearing --------------------------------------------------------------------- */

static bool hear(struct server *server, void *to, size_t len)
{
	struct pollfd poll_for = { .fd = server->fd, .events = POLLIN };
	uint8_t sink[4096];

	while (len) {
		size_t want = to ? len : min_u64(len, sizeof(sink));
		ssize_t n = poll(&poll_for, 1, PATIENCE_MS) > 0 ?
			    recv(server->fd, to ? to : sink, want, 0) : 0;

		if (n <= 0)
			return false;
		to = to ? (uint8_t *)to + n : NULL;
		len -= n;
	}
	return true;
}

/* What is on its way, until the client has nothing more to say for a moment. */
static void hear_all(struct server *server)
{
	while (hear(server, NULL, 1))
		hear(server, NULL, 4095);
}

static bool hear_message(struct server *server, struct message *out)
{
	uint8_t bytes[sizeof(struct nbd_wire_request)];
	const struct nbd_option_head *option = (void *)bytes;
	const struct nbd_wire_request *request = (void *)bytes;
	be64 magic = to_be64(NBD_OPTION_MAGIC);

	*out = (struct message){ 0 };
	if (!server->greeted && !hear(server, NULL, 4))
		return false;
	server->greeted = true;
	if (!hear(server, bytes, sizeof(*option)))
		return false;
	out->is_option = !memcmp(bytes, &magic, sizeof(magic));
	if (out->is_option) {
		out->option = from_be32(option->option);
		return hear(server, NULL, from_be32(option->len));
	}
	if (!hear(server, bytes + sizeof(*option), sizeof(bytes) - sizeof(*option)))
		return false;
	out->command = from_be16(request->type);
	memcpy(out->cookie, &request->cookie, sizeof(out->cookie));
	out->offset = from_be64(request->offset);
	out->len = from_be32(request->len);
	return out->command != NBD_CMD_WRITE || hear(server, NULL, out->len);
}

/* ---- saying ---------------------------------------------------------------------- */

static void say(struct server *server, const void *what, size_t len)
{
	while (len) {
		ssize_t n = send(server->fd, what, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		what = (const uint8_t *)what + n;
		len -= n;
	}
}

struct words {
	uint8_t bytes[128 * KiB + 64];
	size_t len;
};

static void put(struct words *words, const void *what, size_t len)
{
	memcpy(words->bytes + words->len, what, len);
	words->len += len;
}

static void put_be(struct words *words, uint64_t number, unsigned bytes)
{
	while (bytes--) {
		uint8_t byte = number >> 8 * bytes;

		put(words, &byte, 1);
	}
}

static void put_option_reply(struct words *words, uint32_t option, uint32_t kind, uint32_t len)
{
	put_be(words, NBD_OPTION_REPLY_MAGIC, 8);
	put_be(words, option, 4);
	put_be(words, kind, 4);
	put_be(words, len, 4);
}

static void answer_option(struct server *server, const struct message *message, struct words *words)
{
	uint32_t option = message->option;

	server->structured |= option == NBD_OPT_STRUCTURED_REPLY;
	if (option == NBD_OPT_SET_META_CONTEXT) {
		put_option_reply(words, option, NBD_REP_META_CONTEXT, 4 + 15);
		put_be(words, 1, 4);
		put(words, "base:allocation", 15);
	} else if (option == NBD_OPT_GO) {
		put_option_reply(words, option, NBD_REP_INFO, 12);
		put_be(words, NBD_INFO_EXPORT, 2);
		put_be(words, EXPORT_SIZE, 8);
		put_be(words, CAN, 2);
	} else if (option != NBD_OPT_STRUCTURED_REPLY) {
		put_option_reply(words, option, NBD_REP_ERR_UNSUP, 0);
		return;
	}
	put_option_reply(words, option, NBD_REP_ACK, 0);
}

static void put_chunk(struct words *words, const struct message *message, uint16_t type, uint32_t len)
{
	put_be(words, NBD_CHUNK_MAGIC, 4);
	put_be(words, NBD_CHUNK_DONE, 2);
	put_be(words, type, 2);
	put(words, message->cookie, 8);
	put_be(words, len, 4);
}

static void answer_request(struct server *server, const struct message *message,
			   struct words *words)
{
	static const uint8_t zeroes[128 * KiB];
	uint32_t len = min_u64(message->len, sizeof(zeroes));

	if (message->command == NBD_CMD_READ && server->structured) {
		put_chunk(words, message, NBD_CHUNK_DATA, 8 + len);
		put_be(words, message->offset, 8);
		put(words, zeroes, len);
	} else if (message->command == NBD_CMD_BLOCK_STATUS) {
		put_chunk(words, message, NBD_CHUNK_BLOCK_STATUS, 12);
		put_be(words, 1, 4);
		put_be(words, message->len, 4);
		put_be(words, 3, 4);
	} else {
		put_be(words, NBD_SIMPLE_MAGIC, 4);
		put_be(words, 0, 4);
		put(words, message->cookie, 8);
		put(words, zeroes, message->command == NBD_CMD_READ ? len : 0);
	}
}

static void answer(struct server *server, unsigned count)
{
	static struct words words;
	struct message message;

	while (count-- && hear_message(server, &message)) {
		words.len = 0;
		if (message.is_option)
			answer_option(server, &message, &words);
		else if (message.command != NBD_CMD_DISC)
			answer_request(server, &message, &words);
		say(server, words.bytes, words.len);
	}
}

/* Every reply in it is one to that message. */
static void put_in(const struct message *message, uint8_t *bytes, size_t len)
{
	be64 magic = to_be64(NBD_OPTION_REPLY_MAGIC);
	be32 option = to_be32(message->option);

	for (size_t i = 0; i + 16 <= len; i++) {
		bool simple = !memcmp(bytes + i, "\x67\x44\x66\x98", 4);

		if (message->is_option && !memcmp(bytes + i, &magic, 8))
			memcpy(bytes + i + 8, &option, 4);
		else if (!message->is_option && (simple || !memcmp(bytes + i, "\x66\x8e\x33\xef", 4)))
			memcpy(bytes + i + 8, message->cookie, 8);
	}
}

/* ---- the server ------------------------------------------------------------------ */

static bool step(struct server *server)
{
	static uint8_t bytes[UINT16_MAX];
	struct message message;
	uint8_t kind;
	size_t len;

	if (server->end - server->at < 3)
		return false;
	kind = server->at[0] % 3;
	len = server->at[1] | server->at[2] << 8;
	server->at += 3;
	if (kind == RIGHT) {
		answer(server, min_u64(len, 64));
		return true;
	}
	len = min_u64(len, server->end - server->at);
	memcpy(bytes, server->at, len);
	server->at += len;
	if (kind == PUT_IN && hear_message(server, &message))
		put_in(&message, bytes, len);
	say(server, bytes, len);
	return true;
}

/* One connection; who comes again finds nobody. */
static void *serve(void *arg)
{
	struct timeval patience = { .tv_usec = 200000 };
	struct server *server = arg;
	int fd = accept(server->listener, NULL, NULL);

	if (fd < 0)
		return NULL;
	shutdown(server->listener, SHUT_RDWR);
	server->fd = fd;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	for (unsigned i = 0; i < STEPS_MAX && step(server); i++)
		;
	hear_all(server);
	close(fd);
	return NULL;
}

static void listen_at(struct server *server, struct sockaddr_un *at)
{
	snprintf(at->sun_path, sizeof(at->sun_path), "%.60s/server", fuzz_folder());
	unlink(at->sun_path);
	server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	demand(server->listener >= 0 &&
	       !bind(server->listener, (struct sockaddr *)at, sizeof(*at)) &&
	       !listen(server->listener, 4));
}

/* ---- the client ------------------------------------------------------------------- */

static void use(const char *path, bool write, uint32_t script)
{
	static bool known;
	struct fuzz_rig *rig = fuzz_rig();
	struct td_disk_options options = { 0 };
	struct td_why why = { "" };
	struct td_disk *disk;
	char spec[160];

	if (!known)
		demand(!td_registry_add(rig->registry, td_plugin_driver));
	known = true;
	snprintf(spec, sizeof(spec), "nbd:nbd+unix:///?socket=%s,reconnect=0,timeout=1", path);
	if (td_disk_open(rig->loop, rig->registry, spec, &options, &disk, &why)) {
		demand(*why.text && !strchr(why.text, '\n'));
		return;
	}
	demand(is_pow2(td_disk_block_size(disk)) && td_disk_block_size(disk) <= 4096);
	if (td_disk_size(disk) >= td_disk_block_size(disk))
		fuzz_use(disk, script, 8, write);
	td_disk_close(disk);
}

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct server server = { .fd = -1 };
	uint32_t script;
	pthread_t thread;

	if (size < HEAD)
		return;
	memcpy(&script, data + 1, sizeof(script));
	server.at = data + HEAD;
	server.end = data + size;
	listen_at(&server, &at);
	demand(!pthread_create(&thread, NULL, serve, &server));
	use(at.sun_path, data[0] & 1, script);
	shutdown(server.listener, SHUT_RDWR); /* nobody came, or whoever did is gone */
	pthread_join(thread, NULL);
	close(server.listener);
}

/* ---- seeds ------------------------------------------------------------------------ */

static void put_step(struct words *words, enum kind kind, const void *bytes, uint16_t len)
{
	uint8_t head[3] = { kind, len & 0xff, len >> 8 };

	put(words, head, sizeof(head));
	if (kind != RIGHT)
		put(words, bytes, len);
}

static void greet(struct words *words)
{
	put_step(words, SAID, "NBDMAGICIHAVEOPT\0\3", 18);
}

/* All options but the last are answered as they should be; that one with a size. */
static void go(struct words *words, uint64_t size, uint32_t least, uint32_t most)
{
	struct words reply = { .len = 0 };

	put_option_reply(&reply, 0, NBD_REP_INFO, 12);
	put_be(&reply, NBD_INFO_EXPORT, 2);
	put_be(&reply, size, 8);
	put_be(&reply, CAN | NBD_FLAG_CAN_MULTI_CONN, 2);
	put_option_reply(&reply, 0, NBD_REP_INFO, 14);
	put_be(&reply, NBD_INFO_BLOCK_SIZE, 2);
	put_be(&reply, least, 4);
	put_be(&reply, 4096, 4);
	put_be(&reply, most, 4);
	put_option_reply(&reply, 0, NBD_REP_ACK, 0);
	put_step(words, PUT_IN, reply.bytes, reply.len);
}

/* The fourth request gets that. */
static void reply(struct words *words, const void *bytes, uint16_t len)
{
	greet(words);
	put_step(words, RIGHT, NULL, 6);
	put_step(words, PUT_IN, bytes, len);
	put_step(words, RIGHT, NULL, 64);
}

static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	static struct words words;

	words.len = 0;
	put_be(&words, n % 2, 1);
	put_be(&words, n * 77 + 1, 4);
	switch (n) {
	case 0:
	case 1: /* all is well */
		greet(&words);
		put_step(&words, RIGHT, NULL, 64);
		break;
	case 2: /* sizes of blocks */
		greet(&words);
		put_step(&words, RIGHT, NULL, 2);
		go(&words, 1 << 20, 4096, 8192);
		put_step(&words, RIGHT, NULL, 64);
		break;
	case 3: /* an error */
		reply(&words, "\x67\x44\x66\x98\0\0\0\x1c........", 16);
		break;
	case 4: /* data of a read, and a hole */
		reply(&words, "\x66\x8e\x33\xef\0\0\0\1........\0\0\0\20\0\0\0\0\0\0\0\0datadata"
			      "\x66\x8e\x33\xef\0\1\0\2........\0\0\0\14\0\0\0\0\0\0\2\0\0\0\2\0", 68);
		break;
	case 5: /* an error in a chunk, with words, and where */
		reply(&words, "\x66\x8e\x33\xef\0\1\x80\2........\0\0\0\21\0\0\0\5\0\3no!\0\0\0\0\0\0\2\0",
		      37);
		break;
	case 6: /* extents that come to nothing */
		reply(&words, "\x66\x8e\x33\xef\0\1\0\5........\0\0\0\24\0\0\0\1\0\0\0\0\0\0\0\3"
			      "\0\0\2\0\0\0\0\0", 40);
		break;
	default:
		return 0;
	}
	memcpy(out, words.bytes, words.len);
	return words.len;
}

const struct fuzz_target fuzz_nbd_client = { .name = "nbd-client", .input = input, .seed = seed };
