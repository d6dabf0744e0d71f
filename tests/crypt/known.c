/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Known answers of the ciphers: XTS from IEEE 1619; the others are what openssl says of
 * the same key and vector.
 */
#include "../unit/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <blktap/format.h>

static void from_hex(const char *hex, unsigned char *out)
{
	for (; *hex; hex += 2)
		sscanf(hex, "%2hhx", out++);
}

static void answer(const char *mode, const char *key_hex, uint64_t sector, const char *begins)
{
	unsigned char key[64], wanted[32], plain[TD_CRYPT_SECTOR], buf[TD_CRYPT_SECTOR];
	size_t len = strlen(key_hex) / 2;
	struct td_crypt *crypt;
	struct td_why why = { "" };

	for (int i = 0; i < TD_CRYPT_SECTOR; i++)
		plain[i] = i;
	from_hex(key_hex, key);
	from_hex(begins, wanted);
	memcpy(buf, plain, sizeof(buf));
	assert_int_equal(td_crypt_new("aes", mode, key, len, &crypt, &why), 0);
	assert_int_equal(td_crypt_encrypt(crypt, sector, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, wanted, strlen(begins) / 2);
	assert_int_equal(td_crypt_decrypt(crypt, sector, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, plain, sizeof(buf));
	td_crypt_free(crypt);
}

static void the_standards_answers_come_out(void **state)
{
	answer("xts-plain64", "27182818284590452353602874713526"
	       "31415926535897932384626433832795", 0,
	       "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c");
	answer("xts-plain64", "2718281828459045235360287471352662497757247093699959574966967627"
	       "3141592653589793238462643383279502884197169399375105820974944592", 0xff,
	       "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
}

/* Each sector has its own vector: many at once are the same as one by one. */
static void sectors_are_numbered(void **state)
{
	static const char *const modes[] = { "xts-plain64", "cbc-plain64", "cbc-plain",
					     "cbc-essiv:sha256" };

	for (size_t m = 0; m < 4; m++) {
		unsigned char key[32], many[4 * TD_CRYPT_SECTOR] = { 0 }, one[TD_CRYPT_SECTOR];
		uint64_t first = 0xfffffffeull;
		struct td_crypt *crypt;

		for (int i = 0; i < 32; i++)
			key[i] = 3 * i;
		assert_int_equal(td_crypt_new("aes", modes[m], key, 32, &crypt, NULL), 0);
		assert_int_equal(td_crypt_encrypt(crypt, first, many, sizeof(many)), 0);
		for (unsigned i = 0; i < 4; i++) {
			memset(one, 0, sizeof(one));
			td_crypt_encrypt(crypt, modes[m][4] == 'p' && !modes[m][9] ?
						(uint32_t)(first + i) : first + i, one, sizeof(one));
			assert_memory_equal(one, many + i * sizeof(one), sizeof(one));
			for (unsigned j = 0; j < i; j++)
				assert_memory_not_equal(one, many + j * sizeof(one), sizeof(one));
		}
		td_crypt_free(crypt);
	}
}

static void what_is_not_known_is_refused_by_name(void **state)
{
	struct td_crypt *crypt;
	struct td_why why;
	char key[64] = { 0 };

	assert_int_equal(td_crypt_new("serpent", "xts-plain64", key, 64, &crypt, &why), -ENOTSUP);
	assert_non_null(strstr(why.text, "serpent-xts-plain64 and a key of 512 bits"));
	assert_int_equal(td_crypt_new("aes", "xts-plain64", key, 48, &crypt, &why), -ENOTSUP);
	assert_int_equal(td_crypt_new("aes", "cbc-essiv:sha1", key, 32, &crypt, &why), -ENOTSUP);
	assert_int_equal(td_crypt_new("aes", "xts", key, 32, &crypt, &why), -ENOTSUP);
	assert_int_equal(td_crypt_new("aes", "ecb-", key, 32, &crypt, &why), -ENOTSUP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_standards_answers_come_out),
		cmocka_unit_test(sectors_are_numbered),
		cmocka_unit_test(what_is_not_known_is_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
