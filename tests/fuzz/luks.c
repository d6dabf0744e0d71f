/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LUKS headers: what is read of one without a key. It is given as it came, and at the front
 * of as much room as key material takes.
 */
#include <string.h>

#include <blktap/format.h>

#include "base/endian.h"
#include "base/num.h"
#include "targets.h"

static void look_at(const void *header, size_t len)
{
	struct td_why why = { "" };
	struct td_luks luks;

	if (td_luks_read(header, len, &luks, &why)) {
		demand(*why.text && !strchr(why.text, '\n'));
		return;
	}
	demand(len >= TD_LUKS_MIN && luks.slots <= 8);
	demand(luks.key_bytes >= 8 && luks.key_bytes <= 512);
	demand(*luks.cipher && strlen(luks.cipher) < sizeof(luks.cipher));
	demand(*luks.mode && strlen(luks.mode) < sizeof(luks.mode));
	demand(*luks.hash && strlen(luks.hash) < sizeof(luks.hash));
	td_crypt_known(luks.cipher, luks.mode, luks.key_bytes);
}

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	static uint8_t room[TD_LUKS_MADE];

	look_at(data, size);
	memset(room, 0, FUZZ_MAX);
	memcpy(room, data, size);
	look_at(room, sizeof(room));
}

static void put_number(uint8_t *out, size_t at, uint32_t number)
{
	be32 wire = to_be32(number);

	memcpy(out + at, &wire, sizeof(wire));
}

/* aes-xts-plain64 with 512 bits; a key in slot 0, and no other. */
static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	if (n)
		return 0;
	memset(out, 0, TD_LUKS_MIN);
	memcpy(out, "LUKS\xba\xbe\0\1", 8);
	strcpy((char *)out + 8, "aes");
	strcpy((char *)out + 40, "xts-plain64");
	strcpy((char *)out + 72, "sha256");
	put_number(out, 104, TD_LUKS_MADE / 512);
	put_number(out, 108, 64);
	put_number(out, 164, 1000);
	strcpy((char *)out + 168, "01234567-89ab-cdef-0123-456789abcdef");
	for (unsigned i = 0; i < 8; i++) {
		put_number(out, 208 + i * 48, i ? 0x0000dead : 0x00ac71f3);
		put_number(out, 212 + i * 48, i ? 0 : 1000);
		put_number(out, 248 + i * 48, 8 + i * 504);
		put_number(out, 252 + i * 48, 4000);
	}
	return TD_LUKS_MIN;
}

const struct fuzz_target fuzz_luks = { .name = "luks", .input = input, .seed = seed };
