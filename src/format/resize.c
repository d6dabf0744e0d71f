/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before a disk grows: whatever the file holds past its end, where it will be seen,
 * becomes zeroes. In place, since nobody sees it yet.
 */
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "format/map.h"

#define CHUNK (256 * KiB)

static int write_zeroes(struct td_map *map, char *zeroes, uint64_t offset, uint64_t at,
			uint64_t len)
{
	int err = 0;

	for (uint64_t pos = 0, n; pos < len && !err; pos += n) {
		n = min_u64(len - pos, CHUNK);
		if (map->config.crypt) {
			memset(zeroes, 0, n);
			err = sealed_encrypt(map, offset + pos, at + pos, zeroes, n);
		}
		if (!err)
			err = td_file_write(map->config.file, zeroes, n, at + pos);
	}
	return err;
}

int td_map_zero(struct td_map *map, uint64_t from, uint64_t to)
{
	AUTO_FREE char *zeroes = calloc(1, CHUNK);
	struct td_park nobody = { 0 };
	struct td_spot spot;
	int err = zeroes ? 0 : -ENOMEM;

	for (uint64_t n; from < to && !err; from += n) {
		err = map->config.ops->find(map->img, &nobody, from, to - from, &spot);
		n = err ? 0 : min_u64(spot.len, to - from);
		if (!err && spot.kind == TD_SPOT_DATA)
			err = write_zeroes(map, zeroes, from, spot.at, n);
		else if (!err && (spot.kind == TD_SPOT_SHARED || spot.kind == TD_SPOT_PACKED))
			err = -ENOTSUP;
	}
	return err;
}
