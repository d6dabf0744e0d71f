/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of virtual devices, and params nodes: see vdev.h.
 *
 *   xvd  disk < 16, partition < 16:  202 << 8 | disk << 4 | partition
 *        else                        1 << 28 | disk << 8 | partition
 *   sd   disk < 16, partition < 16:  8 << 8 | disk << 4 | partition
 *   hd   disk < 2,  partition < 64:  3 << 8 | disk << 6 | partition
 *        disk < 4                    22 << 8 | (disk - 2) << 6 | partition
 *   d    as xvd, the disk written as a number: d0, d26p3
 */
#include "control/daemon/vdev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/num.h"
#include "transports/xen/xen.h"

#define DISKS_MAX (1u << 20)
#define PARTITIONS_MAX 256u

/* Digits at *text, below limit. */
static bool digits(const char **text, uint32_t limit, uint32_t *out)
{
	const char *at = *text;
	uint64_t value = 0;

	if (*at < '0' || *at > '9' || (*at == '0' && at[1] >= '0' && at[1] <= '9'))
		return false;
	for (; *at >= '0' && *at <= '9'; at++) {
		value = value * 10 + (unsigned)(*at - '0');
		if (value >= limit)
			return false;
	}
	*text = at;
	*out = (uint32_t)value;
	return true;
}

/* a ... z, aa ... zz, aaa ...: 0 and up. */
static bool letters(const char **text, uint32_t *out)
{
	const char *at = *text;
	uint64_t value = 0;

	for (; *at >= 'a' && *at <= 'z'; at++) {
		value = value * 26 + (unsigned)(*at - 'a') + 1;
		if (value > DISKS_MAX)
			return false;
	}
	if (at == *text)
		return false;
	*text = at;
	*out = (uint32_t)value - 1;
	return true;
}

static bool xvd_number(uint32_t disk, uint32_t partition, uint32_t *out)
{
	if (disk < 16 && partition < 16)
		*out = 202u << 8 | disk << 4 | partition;
	else
		*out = 1u << 28 | disk << 8 | partition;
	return true;
}

static bool sd_number(uint32_t disk, uint32_t partition, uint32_t *out)
{
	*out = 8u << 8 | disk << 4 | partition;
	return disk < 16 && partition < 16;
}

static bool hd_number(uint32_t disk, uint32_t partition, uint32_t *out)
{
	*out = (disk < 2 ? 3u << 8 : 22u << 8) | (disk & 1) << 6 | partition;
	return disk < 4 && partition < 64;
}

static bool plain_number(const char *name, uint32_t *out)
{
	char *end;
	unsigned long value;

	if (*name < '0' || *name > '9')
		return false;
	errno = 0;
	value = strtoul(name, &end, 0);
	if (errno || *end || value >= 1u << 29)
		return false;
	*out = (uint32_t)value;
	return true;
}

static bool lettered(const char *name, const char *prefix,
		     bool (*number)(uint32_t, uint32_t, uint32_t *), uint32_t *out)
{
	size_t skip = strlen(prefix);
	uint32_t disk, partition = 0;

	if (strncmp(name, prefix, skip))
		return false;
	name += skip;
	if (!letters(&name, &disk) || disk >= DISKS_MAX)
		return false;
	if (*name && (!digits(&name, PARTITIONS_MAX, &partition) || !partition))
		return false;
	return !*name && number(disk, partition, out);
}

static bool numbered(const char *name, uint32_t *out)
{
	uint32_t disk, partition = 0;

	if (*name++ != 'd' || !digits(&name, DISKS_MAX, &disk))
		return false;
	if (*name == 'p') {
		name++;
		if (!digits(&name, PARTITIONS_MAX, &partition))
			return false;
	}
	return !*name && xvd_number(disk, partition, out);
}

int vdev_number(const char *name, uint32_t *out)
{
	uint32_t number;

	if (!strncmp(name, "/dev/", 5))
		name += 5;
	if (plain_number(name, &number) || numbered(name, &number) ||
	    lettered(name, "xvd", xvd_number, &number) ||
	    lettered(name, "sd", sd_number, &number) ||
	    lettered(name, "hd", hd_number, &number)) {
		*out = number;
		return 0;
	}
	return -EINVAL;
}

/* ---- params ---------------------------------------------------------------- */

static bool type_ahead(const char *text)
{
	size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return n && text[n] == ':';
}

/* What xl and old habits put in front of TYPE:TARGET. */
static const char *strip(const char *params)
{
	static const char *const in_front[] = { "tap:", "tap2:", "aio:" };

	for (unsigned i = 0; i < ARRAY_SIZE(in_front); i++) {
		size_t n = strlen(in_front[i]);

		if (!strncmp(params, in_front[i], n) && type_ahead(params + n))
			params += n;
	}
	return params;
}

/* The comma or end that ends the word at text; "\," does not. */
static const char *word_end(const char *text)
{
	for (; *text && *text != ','; text++)
		if (*text == '\\' && text[1])
			text++;
	return text;
}

const struct vdev_keys vdev_default_keys = {
	.data = "auto", .flush = 1, .barrier = 1, .discard = 1,
	.segments = TD_XEN_MAX_SEGMENTS, .ring_order = TD_XEN_MAX_RING_ORDER,
};

/* Keys whose values are numbers; on and off are 1 and 0. */
static const struct number_key {
	const char *name;
	size_t at;           /* of an unsigned in struct vdev_keys */
	unsigned min, max;
	bool power;          /* of two */
	const char *wants;
} number_keys[] = {
	{ "feature-flush-cache", offsetof(struct vdev_keys, flush), 0, 1, false, "on or off" },
	{ "feature-barrier", offsetof(struct vdev_keys, barrier), 0, 1, false, "on or off" },
	{ "feature-discard", offsetof(struct vdev_keys, discard), 0, 1, false, "on or off" },
	{ "feature-persistent", offsetof(struct vdev_keys, persistent), 0, 1, false, "on or off" },
	{ "feature-max-indirect-segments", offsetof(struct vdev_keys, segments), 0,
	  TD_XEN_MAX_SEGMENTS, false, "0 to 256" },
	{ "max-ring-page-order", offsetof(struct vdev_keys, ring_order), 0,
	  TD_XEN_MAX_RING_ORDER, false, "0 to 4" },
	{ "multi-queue-max-queues", offsetof(struct vdev_keys, rings), 1, TD_XEN_MAX_RINGS,
	  false, "1 to 16" },
	{ "sector-size", offsetof(struct vdev_keys, sector), 512, 4096, true,
	  "512, 1024, 2048 or 4096" },
	{ "physical-sector-size", offsetof(struct vdev_keys, physical), 512, 65536, true,
	  "a power of two from 512 to 65536" },
	{ "poll", offsetof(struct vdev_keys, poll_us), 0, 1000, false, "0 to 1000 microseconds" },
};

static bool number_value(const struct number_key *key, const char *text, unsigned *out)
{
	char *end;
	unsigned long value;

	if (key->max == 1 && (!strcmp(text, "on") || !strcmp(text, "off"))) {
		*out = !strcmp(text, "on");
		return true;
	}
	if (*text < '0' || *text > '9')
		return false;
	value = strtoul(text, &end, 10);
	*out = (unsigned)value;
	return !*end && value >= key->min && value <= key->max &&
	       (!key->power || is_pow2(value));
}

/* 0: it is one of ours and taken; -ENOENT: it is not ours. */
static int key_take(const char *name, const char *value, struct vdev_keys *keys,
		    struct td_why *why)
{
	static const char *const data[] = { "auto", "map", "copy" };

	for (unsigned i = 0; i < ARRAY_SIZE(number_keys); i++) {
		const struct number_key *key = &number_keys[i];

		if (strcmp(key->name, name))
			continue;
		if (number_value(key, value, (unsigned *)((char *)keys + key->at)))
			return 0;
		return td_fail(why, -EINVAL, "%s=%s: %s is wanted", name, value, key->wants);
	}
	if (strcmp(name, "data"))
		return -ENOENT;
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		if (!strcmp(data[i], value)) {
			keys->data = data[i];
			return 0;
		}
	}
	return td_fail(why, -EINVAL, "data=%s: auto, map or copy is wanted", value);
}

/* A word that may be one of our keys. */
static int word_take(const char *word, size_t len, struct vdev_keys *keys, struct td_why *why)
{
	AUTO_FREE char *name = strndup(word, len);
	char *equals = name ? strchr(name, '=') : NULL;

	if (!name)
		return td_fail(why, -ENOMEM, "no memory");
	if (!equals)
		return -ENOENT;
	*equals = '\0';
	return key_take(name, equals + 1, keys, why);
}

int vdev_params_parse(const char *params, struct vdev_params *out, struct td_why *why)
{
	struct vdev_keys keys = vdev_default_keys;
	AUTO_FREE char *spec = NULL;
	const char *from = strip(params), *end;
	char *to;

	if (!type_ahead(from))
		return td_fail(why, -EINVAL, "\"%s\": no disk type: TYPE:TARGET is wanted, "
			       "such as qcow:/img", params);
	spec = malloc(strlen(from) + 1);
	if (!spec)
		return td_fail(why, -ENOMEM, "no memory");
	to = spec;
	for (bool first = true;; first = false) {
		int err = -ENOENT;

		end = word_end(from);
		if (!first)
			err = word_take(from, (size_t)(end - from), &keys, why);
		if (err && err != -ENOENT)
			return err;
		if (err) {
			if (!first)
				*to++ = ',';
			memcpy(to, from, (size_t)(end - from));
			to += end - from;
		}
		if (!*end)
			break;
		from = end + 1;
	}
	*to = '\0';
	*out = (struct vdev_params){ .spec = take(spec), .keys = keys };
	return 0;
}

/* ---- "tap:qcow:/img,xvdb,w" ------------------------------------------------- */

static bool mode_named(const char *word, bool *read_only)
{
	*read_only = !strcmp(word, "r") || !strcmp(word, "ro");
	return *read_only || !strcmp(word, "w") || !strcmp(word, "rw");
}

int vdev_disk_parse(const char *text, struct vdev_disk *out, struct td_why *why)
{
	AUTO_FREE char *params = strdup(text);
	AUTO_FREE char *vdev = NULL;
	bool read_only = false;
	uint32_t number;
	char *comma;

	if (!params)
		return td_fail(why, -ENOMEM, "no memory");
	comma = strrchr(params, ',');
	if (comma && mode_named(comma + 1, &read_only)) {
		*comma = '\0';
		comma = strrchr(params, ',');
	}
	if (!comma || comma == params || vdev_number(comma + 1, &number))
		return td_fail(why, -EINVAL, "\"%s\": TYPE:TARGET,VDEV[,r|w] is wanted, such as "
			       "tap:qcow:/img,xvdb,w", text);
	vdev = strdup(comma + 1);
	if (!vdev)
		return td_fail(why, -ENOMEM, "no memory");
	*comma = '\0';
	*out = (struct vdev_disk){
		.params = take(params), .vdev = take(vdev), .read_only = read_only,
	};
	return 0;
}

void vdev_disk_free(struct vdev_disk *disk)
{
	free(disk->params);
	free(disk->vdev);
}
