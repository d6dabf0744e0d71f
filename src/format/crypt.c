/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encryption of sectors: AES in XTS or CBC mode, through libcrypto. Each sector of 512
 * bytes is encrypted on its own, with an initialization vector that follows from its
 * number:
 *
 *     plain, plain64   the number, of 32 or 64 bits, little-endian, then zeroes
 *     essiv:sha256     that, encrypted with AES under the key's SHA-256
 *
 * So a sector is what can be written whole, and what a power cut leaves whole.
 *
 * It is done on the loop's thread: a core that has instructions for it does some 2 GB
 * a second, two microseconds for 4 KiB, which is less than a worker thread and the way
 * there and back would cost. A context belongs to one thread.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <blktap/format.h>

#include "base/endian.h"
#include "base/library.h"
#include "base/log.h"
#include "base/num.h"

#define AES_KEY 16 /* of the old scheme */

#ifdef HAVE_LIBCRYPTO
#include <openssl/evp.h>

#ifdef OPENSSL_SHLIB_VERSION
#define STRING_OF(number) #number
#define STRING(number) STRING_OF(number)
#define LIBRARY "libcrypto.so." STRING(OPENSSL_SHLIB_VERSION)
#else
#define LIBRARY "libcrypto.so." SHLIB_VERSION_NUMBER
#endif
#define FUNCTIONS(F) \
	F(EVP_CIPHER_CTX_new) F(EVP_CIPHER_CTX_free) F(EVP_CIPHER_CTX_copy) \
	F(EVP_CIPHER_CTX_set_padding) \
	F(EVP_CipherInit_ex) F(EVP_CipherUpdate) F(EVP_Digest) F(EVP_sha256) \
	F(EVP_aes_128_xts) F(EVP_aes_256_xts) F(EVP_aes_128_cbc) F(EVP_aes_192_cbc) \
	F(EVP_aes_256_cbc) F(EVP_aes_256_ecb)

static struct { FUNCTIONS(TD_POINTER) } lib;
static const char *const names[] = { FUNCTIONS(TD_NAME) NULL };

enum vector { PLAIN, PLAIN64, ESSIV };

struct td_crypt {
	EVP_CIPHER_CTX *encrypt, *decrypt, *essiv;
	enum vector vector;
};

typedef const EVP_CIPHER *get_cipher(void);

static const struct { const char *chain; size_t key; get_cipher **get; } ciphers[] = {
	{ "xts", 32, &lib.EVP_aes_128_xts }, { "xts", 64, &lib.EVP_aes_256_xts },
	{ "cbc", 16, &lib.EVP_aes_128_cbc }, { "cbc", 24, &lib.EVP_aes_192_cbc },
	{ "cbc", 32, &lib.EVP_aes_256_cbc },
};

static const struct { const char *name; enum vector vector; } vectors[] = {
	{ "plain64", PLAIN64 }, { "plain", PLAIN }, { "essiv:sha256", ESSIV },
};

/* NULL: not known. What it points to is there once the library is loaded. */
static get_cipher **cipher_of(const char *cipher, const char *mode, size_t key,
			      enum vector *vector)
{
	size_t chain = strcspn(mode, "-");

	if (strcmp(cipher, "aes") || !mode[chain])
		return NULL;
	for (size_t v = 0; v < ARRAY_SIZE(vectors); v++)
		for (size_t c = 0; c < ARRAY_SIZE(ciphers); c++)
			if (!strcmp(mode + chain + 1, vectors[v].name) && ciphers[c].key == key &&
			    strlen(ciphers[c].chain) == chain &&
			    !strncmp(mode, ciphers[c].chain, chain)) {
				*vector = vectors[v].vector;
				return ciphers[c].get;
			}
	return NULL;
}

bool td_crypt_known(const char *cipher, const char *mode, size_t key)
{
	enum vector vector;

	return cipher_of(cipher, mode, key, &vector) != NULL;
}

static EVP_CIPHER_CTX *context(const EVP_CIPHER *cipher, const void *key, int encrypt)
{
	EVP_CIPHER_CTX *ctx = lib.EVP_CIPHER_CTX_new();

	if (ctx && lib.EVP_CipherInit_ex(ctx, cipher, NULL, key, NULL, encrypt) == 1 &&
	    lib.EVP_CIPHER_CTX_set_padding(ctx, 0) == 1)
		return ctx;
	lib.EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

static EVP_CIPHER_CTX *essiv_context(const void *key, size_t len)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	EVP_CIPHER_CTX *ctx = NULL;

	if (lib.EVP_Digest(key, len, hash, NULL, lib.EVP_sha256(), NULL) == 1)
		ctx = context(lib.EVP_aes_256_ecb(), hash, 1);
	explicit_bzero(hash, sizeof(hash));
	return ctx;
}

int td_crypt_new(const char *cipher, const char *mode, const void *key, size_t len,
		 struct td_crypt **out, struct td_why *why)
{
	struct td_crypt *crypt = calloc(1, sizeof(*crypt));
	get_cipher **get;
	int err;

	if (!crypt)
		return td_fail(why, -ENOMEM, "no memory");
	get = cipher_of(cipher, mode, len, &crypt->vector);
	err = get ? td_library_load(LIBRARY, names, &lib, why) : -ENOTSUP;
	if (err) {
		free(crypt);
		return get ? err : td_fail(why, -ENOTSUP, "is encrypted with %s-%s and a key of %zu bits, which "
			       "is not supported", cipher, mode, len * 8);
	}
	crypt->encrypt = context((*get)(), key, 1);
	crypt->decrypt = context((*get)(), key, 0);
	if (crypt->vector == ESSIV)
		crypt->essiv = essiv_context(key, len);
	if (!crypt->encrypt || !crypt->decrypt || (crypt->vector == ESSIV && !crypt->essiv)) {
		td_crypt_free(crypt);
		return td_fail(why, -EIO, "libcrypto does not take its key for %s-%s", cipher, mode);
	}
	*out = crypt;
	return 0;
}

static EVP_CIPHER_CTX *context_copy(const EVP_CIPHER_CTX *of)
{
	EVP_CIPHER_CTX *ctx = lib.EVP_CIPHER_CTX_new();

	if (ctx && lib.EVP_CIPHER_CTX_copy(ctx, of) == 1)
		return ctx;
	lib.EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

struct td_crypt *td_crypt_copy(const struct td_crypt *crypt)
{
	struct td_crypt *copy = calloc(1, sizeof(*copy));

	if (!copy)
		return NULL;
	copy->vector = crypt->vector;
	copy->encrypt = context_copy(crypt->encrypt);
	copy->decrypt = context_copy(crypt->decrypt);
	if (crypt->essiv)
		copy->essiv = context_copy(crypt->essiv);
	if (copy->encrypt && copy->decrypt && !copy->essiv == !crypt->essiv)
		return copy;
	td_crypt_free(copy);
	return NULL;
}

/* libcrypto wipes what it frees. */
void td_crypt_free(struct td_crypt *crypt)
{
	if (!crypt)
		return;
	lib.EVP_CIPHER_CTX_free(crypt->encrypt);
	lib.EVP_CIPHER_CTX_free(crypt->decrypt);
	lib.EVP_CIPHER_CTX_free(crypt->essiv);
	free(crypt);
}

static bool vector_of(struct td_crypt *crypt, uint64_t sector, unsigned char iv[16])
{
	le64 number = to_le64(crypt->vector == PLAIN ? (uint32_t)sector : sector);
	int n;

	memset(iv, 0, 16);
	memcpy(iv, &number, sizeof(number));
	return crypt->vector != ESSIV || lib.EVP_CipherUpdate(crypt->essiv, iv, &n, iv, 16) == 1;
}

static int run(struct td_crypt *crypt, EVP_CIPHER_CTX *ctx, uint64_t sector, unsigned char *buf,
	       size_t len)
{
	for (; len; len -= TD_CRYPT_SECTOR, buf += TD_CRYPT_SECTOR, sector++) {
		unsigned char iv[16];
		int n;

		if (!vector_of(crypt, sector, iv) ||
		    lib.EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, -1) != 1 ||
		    lib.EVP_CipherUpdate(ctx, buf, &n, buf, TD_CRYPT_SECTOR) != 1)
			return -EIO;
	}
	return 0;
}

int td_crypt_encrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len)
{
	return run(crypt, crypt->encrypt, sector, buf, len);
}

int td_crypt_decrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len)
{
	return run(crypt, crypt->decrypt, sector, buf, len);
}

#else /* without libcrypto nothing is known */

bool td_crypt_known(const char *cipher, const char *mode, size_t key)
{
	return false;
}

int td_crypt_new(const char *cipher, const char *mode, const void *key, size_t len,
		 struct td_crypt **out, struct td_why *why)
{
	return td_fail(why, -ENOTSUP, "is encrypted, and this program was built without libcrypto");
}

struct td_crypt *td_crypt_copy(const struct td_crypt *crypt)
{
	return NULL;
}

void td_crypt_free(struct td_crypt *crypt)
{
}

int td_crypt_encrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len)
{
	return -ENOTSUP;
}

int td_crypt_decrypt(struct td_crypt *crypt, uint64_t sector, void *buf, size_t len)
{
	return -ENOTSUP;
}
#endif

/* Any key seems to fit, so there must be no choice. */
int td_aes_open(struct td_image *img, struct td_crypt **out, struct td_why *why)
{
	char bytes[AES_KEY] = { 0 };
	const struct td_key *key, *other;
	int err;

	if (td_image_key(img, 0, &key))
		return td_fail(why, -ENOKEY, "is encrypted (AES): say key-file=PATH or key-fd=N for "
			       "its key");
	if (!td_image_key(img, 1, &other))
		return td_fail(why, -EINVAL, "cannot tell which of several keys is its own: give one");
	memcpy(bytes, key->data, min_u64(key->len, AES_KEY));
	err = td_crypt_new("aes", "cbc-plain64", bytes, AES_KEY, out, why);
	explicit_bzero(bytes, sizeof(bytes));
	td_say(img, LOG_WARNING, "its encryption is weak, and a wrong key is not noticed: "
	       "convert it to a new image");
	return err;
}
