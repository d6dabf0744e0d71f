/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encrypted images. LUKS: the header lies in clusters of its own, and sectors are
 * numbered by their place in the file. The older AES scheme, which is read only: the
 * key is the passphrase itself, sectors are numbered by their place on the disk.
 * Tables are never encrypted, nor are compressed clusters.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/qcow2/qcow2.h"

static int luks_header(const struct qcow2 *q, void **out)
{
	void *header = malloc(q->layout.luks_len);
	int err = header ? td_file_read(q->file, header, q->layout.luks_len, q->layout.luks_at) :
			   -ENOMEM;

	if (err)
		free(header);
	else
		*out = header;
	return err;
}

static int open_luks(struct qcow2 *q, struct td_why *why)
{
	void *header;
	int err = luks_header(q, &header);

	if (err)
		return td_fail(why, err, "its LUKS header cannot be read: %s", strerror(-err));
	err = td_luks_open(q->img, header, q->layout.luks_len, &q->crypt, why);
	free(header);
	return err;
}

int qcow2_crypt_open(struct qcow2 *q, struct td_why *why)
{
	const char *path = td_file_path(q->file);
	struct td_why inner = { "" };
	int err;

	if (q->layout.encryption == QCOW2_PLAIN)
		return 0;
	q->img->encrypted = true;
	q->img->can &= ~TD_CAN_COMPRESS;
	if (q->layout.encryption == QCOW2_AES && !q->img->read_only)
		return td_fail(why, -ENOTSUP, "%s: is encrypted with the old AES scheme, and can be "
			       "read only: it is weak", path);
	if (q->img->keyless)
		return 0;
	err = q->layout.encryption == QCOW2_AES ? td_aes_open(q->img, &q->crypt, &inner) :
						  open_luks(q, &inner);
	return err ? td_fail(why, err, "%s: %s", path, inner.text) : 0;
}

int qcow2_recrypt(struct qcow2 *q, void *buf, uint64_t from, uint64_t to)
{
	uint64_t cluster = qcow2_cluster(&q->layout);
	int err = 0;

	if (q->crypt && from)
		err = td_crypt_decrypt(q->crypt, from / TD_CRYPT_SECTOR, buf, cluster);
	if (q->crypt && to && !err)
		err = td_crypt_encrypt(q->crypt, to / TD_CRYPT_SECTOR, buf, cluster);
	return err;
}

void qcow2_crypt_info(const struct qcow2 *q, td_info_put *put, void *arg)
{
	struct td_luks luks;
	char text[128];
	void *header;
	int err;

	if (q->layout.encryption == QCOW2_AES)
		put(arg, "encryption", "aes, old and weak");
	if (q->layout.encryption != QCOW2_LUKS)
		return;
	put(arg, "encryption", "luks");
	snprintf(text, sizeof(text), "%llu", (unsigned long long)q->layout.luks_at);
	put(arg, "luks-header", text);
	if (luks_header(q, &header))
		return;
	err = td_luks_read(header, q->layout.luks_len, &luks, NULL);
	free(header);
	if (err)
		return;
	snprintf(text, sizeof(text), "%s-%s, %u bits", luks.cipher, luks.mode, luks.key_bytes * 8);
	put(arg, "cipher", text);
	put(arg, "key-hash", luks.hash);
	snprintf(text, sizeof(text), "%u", luks.slots);
	put(arg, "key-slots", text);
}

/* ---- a new image ---------------------------------------------------------------------- */

int qcow2_crypt_plan(const struct td_create *make, const struct qcow2_create_options *options,
		     struct qcow2_layout *layout, struct td_why *why)
{
	if (!options->encryption) {
		if (make->key || options->iter_time)
			return td_fail(why, -EINVAL, "%s: a key is given, and it is not to be "
				       "encrypted: say encryption=luks", make->path);
		return 0;
	}
	if (strcmp(options->encryption, "luks"))
		return td_fail(why, -EINVAL, "%s: encryption can be luks, not %s", make->path,
			       options->encryption);
	if (options->data_file_raw)
		return td_fail(why, -EINVAL, "%s: data_file_raw and encryption contradict each other",
			       make->path);
	layout->encryption = QCOW2_LUKS;
	layout->luks_len = TD_LUKS_MADE;
	return 0;
}

int qcow2_crypt_make(const struct td_create *make, const struct qcow2_create_options *options,
		     struct qcow2_layout *layout, void **header, struct td_why *why)
{
	uint64_t ms = 2000;
	struct td_why inner;
	size_t len;
	int err;

	if (layout->encryption != QCOW2_LUKS)
		return 0;
	if (!make->key)
		return td_fail(why, -ENOKEY, "%s: is to be encrypted: say key-file=PATH or key-fd=N "
			       "for its passphrase", make->path);
	if (options->iter_time) {
		char *end;

		ms = strtoul(options->iter_time, &end, 10);
		if (!*options->iter_time || *end || ms > 60000)
			return td_fail(why, -EINVAL, "%s: iter-time is in milliseconds, 0 to 60000",
				       make->path);
	}
	err = td_luks_make(make->key, ms, header, &len, &inner);
	if (err)
		return td_fail(why, err, "%s: %s", make->path, inner.text);
	layout->luks_len = len;
	return 0;
}
