/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The formats: how their images are opened, sealed and made. */
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "config.h"
#include "drivers/vhdx/crc32c.h"
#include "image.h"
#include "sparse.h"

/* ---- checksums ---------------------------------------------------------------- */

/* Of VHD: the complement of the sum of all bytes, in one of the structure's fields. */
static void vhd_sum(int fd, uint64_t at, size_t len, size_t field, const char *cookie)
{
	uint8_t data[1024];
	uint32_t sum = 0;

	if (pread(fd, data, len, at) != (ssize_t)len || memcmp(data, cookie, 8))
		return;
	memset(data + field, 0, 4);
	for (size_t i = 0; i < len; i++)
		sum += data[i];
	for (unsigned i = 0; i < 4; i++)
		data[field + i] = ~sum >> (24 - 8 * i);
	demand(pwrite(fd, data, len, at) == (ssize_t)len);
}

static void vhd_seal(int fd, uint64_t size)
{
	vhd_sum(fd, 512, 1024, 36, "cxsparse");
	vhd_sum(fd, 0, 512, 64, "conectix");
	if (size >= 1024)
		vhd_sum(fd, size - 512, 512, 64, "conectix");
}

/* Of VHDX: CRC-32C over a structure, in its second word. That of a region table is over
 * 64 KiB, zeroes mostly; entries of the log are few. */
static void vhdx_sum(int fd, uint64_t at, size_t len, const char *signature)
{
	static uint8_t data[1 << 20];

	if (len > sizeof(data) || len < 8 || pread(fd, data, len, at) != (ssize_t)len ||
	    memcmp(data, signature, 4))
		return;
	memset(data + 4, 0, 4);
	uint32_t sum = htole32(crc32c(0, data, len));
	demand(pwrite(fd, &sum, 4, at + 4) == 4);
}

static void vhdx_seal(int fd, uint64_t size)
{
	uint8_t head[12], header[80];
	uint64_t log;

	for (unsigned i = 1; i <= 2; i++) {
		vhdx_sum(fd, i * 64 * KiB, 4 * KiB, "head");
		vhdx_sum(fd, (i + 2) * 64 * KiB, 64 * KiB, "regi");
		if (pread(fd, header, sizeof(header), i * 64 * KiB) != sizeof(header))
			continue;
		memcpy(&log, header + 72, sizeof(log));
		for (unsigned half = 0; half < 2; half++) {
			uint64_t at = le64toh(log) + half * 512 * KiB;

			if (at < size && pread(fd, head, sizeof(head), at) == sizeof(head))
				vhdx_sum(fd, at, head[8] | head[9] << 8 | head[10] << 16, "loge");
		}
	}
}

/* ---- rows ------------------------------------------------------------------------ */

/* The key's file follows. That of a LUKS image has no room in an input: luks.c. */
#define KEY ",key-file="

/* A cluster of 1: the format's default. */
static const struct fuzz_image qcow_images[] = {
	{ .cluster = 1 },
	{ .cluster = 512 },
	{ .cluster = 4096, .overlay = true },
	{ .cluster = 4096, .packed = true },
#ifdef HAVE_LIBCRYPTO
	{ .cluster = 4096, .create = "encryption=aes,weak=on", .how = 2 },
	{ .cluster = 4096, .create = "encryption=aes,weak=on", .overlay = true, .how = 3 },
#endif
	{ 0 },
};

static const struct fuzz_image qcow2_images[] = {
	{ .cluster = 1 },
	{ .cluster = 512, .how = SPARSE_RESIZE },
	{ .cluster = 4096, .overlay = true, .how = SPARSE_REPAIR },
	{ .cluster = 4096, .packed = true },
	{ .cluster = 4096, .how = SPARSE_SNAPSHOT },
	{ .cluster = 512, .overlay = true, .how = SPARSE_SNAPSHOT | SPARSE_RESIZE },
	{ .cluster = 16384, .create = "extended_l2=on", .overlay = true },
	{ .cluster = 16384, .create = "extended_l2=on", .how = SPARSE_SNAPSHOT },
	{ .cluster = 4096, .create = "compression_type=zstd", .packed = true },
	{ 0 },
};

static const struct fuzz_image vhd_images[] = {
	{ .cluster = 1 },
	{ .cluster = 4096, .how = SPARSE_RESIZE },
	{ .cluster = 4096, .overlay = true },
	{ .cluster = 1, .create = "subformat=fixed" },
	{ .cluster = 4096, .how = SPARSE_REPAIR },
	{ 0 },
};

static const struct fuzz_image vhdx_images[] = {
	{ .cluster = 1 << 20 },
	{ .cluster = 1 << 20, .overlay = true, .create = "log=1M" },
	{ .cluster = 1 << 20, .create = "subformat=fixed,sector=4096" },
	{ .cluster = 1 << 20, .how = SPARSE_RESIZE, .running = true }, /* its log counts */
	{ .cluster = 1 << 20, .overlay = true, .create = "log=1M", .running = true },
	{ 0 },
};

static const struct fuzz_image vdi_images[] = {
	{ .cluster = 1 },
	{ .cluster = 4096, .how = SPARSE_RESIZE },
	{ .cluster = 1, .create = "subformat=fixed" },
	{ .cluster = 4096, .how = SPARSE_REPAIR },
	{ 0 },
};

static const struct fuzz_image vmdk_images[] = {
	{ .cluster = 1 },
	{ .cluster = 4096, .how = SPARSE_RESIZE },
	{ .cluster = 4096, .overlay = true },
	{ .cluster = 4096, .create = "zeroed_grain=on" },
	{ 0 },
};

const struct fuzz_format fuzz_formats[] = {
	{ .type = "qcow", .options = { "", ",resized=on", KEY, ",resized=on" KEY },
	  .images = qcow_images },
	{ .type = "qcow2", .images = qcow2_images,
	  .options = { "", ",backing-format=raw", ",snapshot=one", ",data-file=on",
		       ",cache=64K" } },
	{ .type = "vhd", .seal = vhd_seal, .images = vhd_images,
	  .options = { "", ",backing-format=raw", ",subformat=fixed", ",size-from=size" } },
	{ .type = "vdi", .images = vdi_images },
	{ .type = "vmdk", .images = vmdk_images,
	  .options = { "", ",backing-format=raw,stale-parent=on", ",cache=64K" } },
	{ .type = "vmdk", .options = { "", ",backing-format=raw,stale-parent=on" },
	  .text = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=12345678\n"
		  "parentCID=ffffffff\nisNativeSnapshot=\"no\"\n"
		  "createType=\"twoGbMaxExtentFlat\"\nparentFileNameHint=\"base\"\n"
		  "# Extent description\nRW 100 FLAT \"flat\" 0\nRW 24 ZERO\n"
		  "RDONLY 4 FLAT \"base\" 8\nRW 8 SPARSE \"base\"\nRW 8 VMFS \"base\"\n"
		  "# The Disk Data Base\nddb.adapterType = \"ide\"\n"
		  "ddb.geometry.cylinders = \"4\"\n" },
	{ .type = "vhdx", .seal = vhdx_seal, .images = vhdx_images,
	  .options = { "", ",backing-format=raw", ",cache=64K" } },
	{ 0 },
};
