/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LUKS headers (version 1) that lie within an image: what they say is read here, since
 * that needs no key and no library; keys are tried, and headers made, by libcryptsetup.
 * It wants a file: it gets one in memory, a copy of the header. No device is made.
 *
 * A header says how often a passphrase is to be hashed. It comes from outside: there is
 * a limit, or an image could keep its opener busy for days.
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <blktap/format.h>

#include "base/endian.h"
#include "base/guard.h"
#include "base/key.h"
#include "base/library.h"
#include "base/log.h"
#include "base/num.h"

#define ITERATIONS_MAX 100000000u /* a minute or so, for each slot */
#define SLOT_USED 0x00ac71f3u
#define SLOTS 8

struct luks_slot {
	be32 state, iterations;
	uint8_t salt[32];
	be32 at, stripes;        /* of the key material, in sectors of 512 bytes */
};

struct luks_header {
	char magic[6];
	be16 version;
	char cipher[32], mode[32], hash[32];
	be32 payload, key_bytes;
	uint8_t digest[20], digest_salt[32];
	be32 digest_iterations;
	char uuid[40];
	struct luks_slot slot[SLOTS];
};
static_assert(sizeof(struct luks_header) == TD_LUKS_MIN, "see docs/encryption.md");

/* ---- what it says ------------------------------------------------------------------- */

/* A name in a field that need not end with a NUL: letters, digits, and what is between. */
static bool name_take(const char *field, char out[33])
{
	memcpy(out, field, 32);
	out[32] = 0;
	return out[0] && !out[strspn(out, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					  "0123456789-:._()")];
}

static int slots_read(const struct luks_header *head, size_t len, struct td_luks *out,
		      struct td_why *why)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct luks_slot *slot = &head->slot[i];
		uint64_t at = from_be32(slot->at) * 512ull;
		uint64_t size = (uint64_t)from_be32(slot->stripes) * out->key_bytes;

		if (from_be32(slot->state) != SLOT_USED)
			continue;
		if (at < sizeof(*head) || at > len || size > len - at)
			return td_fail(why, -EINVAL, "its LUKS header has the key material of slot "
				       "%u past its own end", i);
		if (from_be32(slot->iterations) > ITERATIONS_MAX)
			return td_fail(why, -EINVAL, "its LUKS header wants the key of slot %u "
				       "hashed %u times, which would take too long", i,
				       from_be32(slot->iterations));
		out->slots++;
	}
	return 0;
}

int td_luks_read(const void *header, size_t len, struct td_luks *out, struct td_why *why)
{
	const struct luks_header *head = header;

	*out = (struct td_luks){ 0 };
	if (len < sizeof(*head) || memcmp(head->magic, "LUKS\xba\xbe", 6))
		return td_fail(why, -EINVAL, "its LUKS header is none");
	if (from_be16(head->version) == 2)
		return td_fail(why, -ENOTSUP, "has a LUKS header of version 2; in images it is 1: "
			       "copy the content into a new image, with the program that made it");
	if (from_be16(head->version) != 1)
		return td_fail(why, -ENOTSUP, "has a LUKS header of version %u; 1 is supported",
			       from_be16(head->version));
	if (!name_take(head->cipher, out->cipher) || !name_take(head->mode, out->mode) ||
	    !name_take(head->hash, out->hash))
		return td_fail(why, -EINVAL, "its LUKS header names no cipher that there is");
	out->key_bytes = from_be32(head->key_bytes);
	if (out->key_bytes < 8 || out->key_bytes > 512)
		return td_fail(why, -EINVAL, "its LUKS header says that keys have %u bytes",
			       out->key_bytes);
	if (from_be32(head->digest_iterations) > ITERATIONS_MAX)
		return td_fail(why, -EINVAL, "its LUKS header wants the key hashed %u times, which "
			       "would take too long", from_be32(head->digest_iterations));
	return slots_read(head, len, out, why);
}

#if defined HAVE_LIBCRYPTSETUP && defined HAVE_LIBCRYPTO
#include <libcryptsetup.h>

#define LIBRARY "libcryptsetup.so.12" /* of all versions since 2.0 */
#define FUNCTIONS(F) \
	F(crypt_init) F(crypt_free) F(crypt_load) F(crypt_format) F(crypt_set_log_callback) \
	F(crypt_set_rng_type) F(crypt_set_pbkdf_type) F(crypt_volume_key_get) \
	F(crypt_keyslot_add_by_volume_key) F(crypt_get_data_offset)

static struct { FUNCTIONS(TD_POINTER) } lib;
static const char *const names[] = { FUNCTIONS(TD_NAME) NULL };

/* ---- a file in memory ------------------------------------------------------------------- */

struct luks {
	struct crypt_device *device;
	int fd;
	char said[128];          /* the library's last complaint */
};

static void noted(int level, const char *text, void *arg)
{
	struct luks *luks = arg;

	if (level == CRYPT_LOG_ERROR)
		snprintf(luks->said, sizeof(luks->said), "%.*s", (int)strcspn(text, "\n"), text);
}

static int luks_begin(struct luks *luks, const void *header, size_t len, uint64_t size)
{
	char path[32];
	int err;

	*luks = (struct luks){ .fd = memfd_create("luks", MFD_CLOEXEC) };
	if (luks->fd < 0)
		return -errno;
	if (ftruncate(luks->fd, size) || (len && pwrite(luks->fd, header, len, 0) != (ssize_t)len)) {
		close(luks->fd);
		return -ENOMEM;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", luks->fd);
	err = lib.crypt_init(&luks->device, path);
	if (err) {
		close(luks->fd);
		return err;
	}
	lib.crypt_set_log_callback(luks->device, noted, luks);
	lib.crypt_set_rng_type(luks->device, CRYPT_RNG_URANDOM);
	return 0;
}

static void luks_end(struct luks *luks)
{
	lib.crypt_free(luks->device);
	close(luks->fd);
}

/* ---- to open one -------------------------------------------------------------------- */

/* -EPERM: the key fits no slot. */
static int unlock(struct luks *luks, const struct td_luks *head, const struct td_key *key,
		  struct td_crypt **out, struct td_why *why)
{
	struct td_key *volume = td_key_new();
	size_t len = head->key_bytes;
	int err;

	if (!volume)
		return td_fail(why, -ENOMEM, "no memory");
	err = lib.crypt_volume_key_get(luks->device, CRYPT_ANY_SLOT, (char *)volume->data, &len,
				   key->data, key->len);
	if (err >= 0)
		err = td_crypt_new(head->cipher, head->mode, volume->data, len, out, why);
	else if (err != -EPERM)
		td_fail(why, err, "its LUKS header: %s", luks->said[0] ? luks->said : strerror(-err));
	td_keys_free(volume);
	return err;
}

int td_luks_open(struct td_image *img, const void *header, size_t len, struct td_crypt **out,
		 struct td_why *why)
{
	const struct luks_header *on_disk = header;
	const struct td_key *key;
	struct td_luks head;
	struct luks luks;
	unsigned nth = 0;
	int err = td_luks_read(header, len, &head, why);

	if (err)
		return err;
	if (!td_crypt_known(head.cipher, head.mode, head.key_bytes))
		return td_fail(why, -ENOTSUP, "is encrypted with %s-%s and a key of %u bits, which is "
			       "not supported", head.cipher, head.mode, head.key_bytes * 8);
	if (td_image_key(img, 0, &key))
		return td_fail(why, -ENOKEY, "is encrypted (LUKS): say key-file=PATH or key-fd=N for "
			       "its passphrase");
	err = td_library_load(LIBRARY, names, &lib, why);
	if (err)
		return err;
	err = luks_begin(&luks, header, len,
			 max_u64(len, from_be32(on_disk->payload) * 512ull) + 4096);
	if (err)
		return td_fail(why, err, "its LUKS header cannot be looked at: %s", strerror(-err));
	err = lib.crypt_load(luks.device, CRYPT_LUKS1, NULL);
	if (err)
		td_fail(why, err, "its LUKS header is not taken by libcryptsetup: %s",
			luks.said[0] ? luks.said : strerror(-err));
	else
		err = -EPERM;
	for (; err == -EPERM && !td_image_key(img, nth, &key); nth++)
		err = unlock(&luks, &head, key, out, why);
	luks_end(&luks);
	return err == -EPERM ? td_fail(why, err, "its passphrase is another one: the key that is "
				       "given opens none of its %u slots", head.slots) : err;
}

/* ---- to make one ------------------------------------------------------------------- */

#define MAKE_SIZE (4 * MiB) /* more than a header takes */
#define MAKE_KEY 64
#define MAKE_ITERATIONS 1000 /* the least that LUKS allows */

static int make(struct luks *luks, const struct td_key *key, uint64_t iter_ms, size_t *len)
{
	struct crypt_params_luks1 params = { .hash = "sha256", .data_alignment = 8 };
	struct crypt_pbkdf_type pbkdf = { .type = CRYPT_KDF_PBKDF2, .hash = "sha256" };
	int err;

	if (iter_ms) {
		pbkdf.time_ms = min_u64(iter_ms, 60000);
	} else {
		pbkdf.iterations = MAKE_ITERATIONS;
		pbkdf.flags = CRYPT_PBKDF_NO_BENCHMARK;
	}
	err = lib.crypt_set_pbkdf_type(luks->device, &pbkdf);
	if (!err)
		err = lib.crypt_format(luks->device, CRYPT_LUKS1, "aes", "xts-plain64", NULL, NULL,
				   MAKE_KEY, &params);
	if (!err)
		err = lib.crypt_keyslot_add_by_volume_key(luks->device, 0, NULL, 0, key->data, key->len);
	*len = lib.crypt_get_data_offset(luks->device) * 512;
	return err < 0 ? err : 0;
}

int td_luks_make(const struct td_key *key, uint64_t iter_ms, void **header, size_t *len,
		 struct td_why *why)
{
	struct luks luks;
	void *copy = NULL;
	int err = td_library_load(LIBRARY, names, &lib, why);

	if (err)
		return err;
	err = luks_begin(&luks, NULL, 0, MAKE_SIZE);
	if (err)
		return td_fail(why, err, "no LUKS header can be made: %s", strerror(-err));
	err = make(&luks, key, iter_ms, len);
	if (err) {
		td_fail(why, err, "no LUKS header can be made: %s",
			luks.said[0] ? luks.said : strerror(-err));
	} else {
		copy = malloc(*len);
		if (!copy || pread(luks.fd, copy, *len, 0) != (ssize_t)*len)
			err = td_fail(why, -ENOMEM, "no LUKS header can be made: no memory");
	}
	luks_end(&luks);
	if (err) {
		free(copy);
		return err;
	}
	*header = copy;
	return 0;
}

#else

int td_luks_open(struct td_image *img, const void *header, size_t len, struct td_crypt **out,
		 struct td_why *why)
{
	return td_fail(why, -ENOTSUP, "is encrypted (LUKS), and this program was built without "
		       "libcryptsetup or libcrypto");
}

int td_luks_make(const struct td_key *key, uint64_t iter_ms, void **header, size_t *len,
		 struct td_why *why)
{
	return td_fail(why, -ENOTSUP, "no LUKS header can be made: this program was built without "
		       "libcryptsetup or libcrypto");
}
#endif
