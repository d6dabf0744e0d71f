/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads the header of a qcow image and doubts every number in it. What is
 * allocated, read or written later is sized by the checked copy alone.
 *
 * Images of the blktap of 2006 carry an extension after the header. Its first
 * versions wrote the L1 table in the byte order of the machine; later ones say
 * with a flag that it is big-endian, as everybody else has it. Without the flag
 * the order is told from the entries themselves, see l1.c.
 */
#include "drivers/qcow/layout.h"

#include <errno.h>
#include <string.h>

#include "base/num.h"

bool qcow_hits_head(const struct qcow_layout *layout, uint64_t at, uint64_t len)
{
	uint64_t l1_end = layout->l1_at + layout->l1_count * 8;

	return at < layout->head_end || (at < l1_end && layout->l1_at < at + len);
}

bool qcow_looks_like(struct td_file *file)
{
	struct qcow_header head;

	return td_file_size(file) >= sizeof(head) &&
	       !td_file_read(file, &head, sizeof(head), 0) &&
	       from_be32(head.magic) == QCOW_MAGIC && from_be32(head.version) == 1;
}

static int check_geometry(const struct qcow_header *head, struct qcow_layout *out,
			  const char *path, struct td_why *why)
{
	uint64_t size = from_be64(head->size);

	if (head->cluster_bits < 9 || head->cluster_bits > 16)
		return td_fail(why, -EINVAL,
			       "%s: qcow cluster size of 2^%u bytes is not within 512 to 65536",
			       path, head->cluster_bits);
	if (head->l2_bits < 6 || head->l2_bits > 13)
		return td_fail(why, -EINVAL,
			       "%s: qcow L2 table size of 2^%u bytes is not within 512 to 65536",
			       path, head->l2_bits + 3u);
	if (size == 0 || size % 512 || size > INT64_MAX)
		return td_fail(why, -EINVAL,
			       "%s: qcow disk size %llu is not a multiple of 512 above 0", path,
			       (unsigned long long)size);
	out->size = size;
	out->cluster_bits = head->cluster_bits;
	out->l2_bits = head->l2_bits;
	out->l1_count = (size - 1) / qcow_span(out) + 1;
	if (out->l1_count > QCOW_L1_MAX / 8)
		return td_fail(why, -EFBIG,
			       "%s: qcow L1 table of %llu entries is too large (at most %llu)",
			       path, (unsigned long long)out->l1_count, QCOW_L1_MAX / 8);
	return 0;
}

static int check_l1(const struct qcow_header *head, struct qcow_layout *out, uint64_t file,
		    const char *path, struct td_why *why)
{
	uint64_t at = from_be64(head->l1_at), end;

	if (at < sizeof(*head) || at % 8)
		return td_fail(why, -EINVAL, "%s: qcow L1 table at %llu, which cannot be", path,
			       (unsigned long long)at);
	if (__builtin_add_overflow(at, out->l1_count * 8, &end) || end > file)
		return td_fail(why, -EINVAL,
			       "%s: truncated: its qcow L1 table ends past the file's %llu bytes",
			       path, (unsigned long long)file);
	out->l1_at = at;
	return 0;
}

static int read_backing(struct td_file *file, const struct qcow_header *head,
			struct qcow_layout *out, struct td_why *why)
{
	const char *path = td_file_path(file);
	uint64_t at = from_be64(head->backing_at), size = td_file_size(file), end;
	uint32_t len = from_be32(head->backing_len);
	int err;

	if (!at)
		return 0;
	if (len == 0 || len > QCOW_NAME_MAX)
		return td_fail(why, -EINVAL,
			       "%s: qcow backing file name of %u bytes (1 to %d are allowed)",
			       path, len, QCOW_NAME_MAX);
	if (at < sizeof(*head) || __builtin_add_overflow(at, len, &end) || end > size)
		return td_fail(why, -EINVAL, "%s: qcow backing file name lies outside the file",
			       path);
	if (at < out->l1_at + out->l1_count * 8 && out->l1_at < end)
		return td_fail(why, -EINVAL, "%s: qcow backing file name lies in the L1 table",
			       path);
	err = td_file_read(file, out->backing, len, at);
	if (err)
		return td_fail(why, err, "%s: cannot read the backing file name", path);
	if (memchr(out->backing, 0, len))
		return td_fail(why, -EINVAL, "%s: qcow backing file name contains a NUL", path);
	out->name_end = end;
	if (at <= 4096) /* else it is far from the head, and takes clusters */
		out->head_end = max_u64(out->head_end, end);
	return 0;
}

/* The extension is there if its magic is and nothing else claims its bytes. */
static int check_xen(const struct qcow_xen_header *xen, uint64_t backing_at,
		     struct qcow_layout *out, const char *path, struct td_why *why)
{
	uint64_t at = sizeof(struct qcow_header);
	uint64_t room = out->l1_at - at;

	if (backing_at)
		room = min_u64(room, backing_at - at);
	if (room < 12 || from_be32(xen->magic) != QCOW_XEN_MAGIC)
		return 0;
	out->xen_len = room < 16 ? 12 : 16;
	if (out->xen_len == 16)
		out->xen_flags = from_be32(xen->flags);
	if (out->xen_flags & ~(QCOW_XEN_SPARSE | QCOW_XEN_L1_BIG))
		return td_fail(why, -ENOTSUP,
			       "%s: unknown flags 0x%x in the qcow extension header of blktap",
			       path, out->xen_flags);
	out->l1_native = !(out->xen_flags & QCOW_XEN_L1_BIG);
	out->head_end = max_u64(out->head_end, at + out->xen_len);
	return 0;
}

int qcow_layout_read(struct td_file *file, struct qcow_layout *out, struct td_why *why)
{
	struct {
		struct qcow_header head;
		struct qcow_xen_header xen;
	} disk = { 0 };
	const char *path = td_file_path(file);
	uint64_t size = td_file_size(file);
	uint64_t have = min_u64(size, sizeof(disk));
	uint32_t version;
	int err;

	memset(out, 0, sizeof(*out));
	err = have ? td_file_read(file, &disk, have, 0) : 0;
	if (err)
		return td_fail(why, err, "%s: cannot read the qcow header", path);
	if (have >= 4 && from_be32(disk.head.magic) != QCOW_MAGIC)
		return td_fail(why, -EINVAL, "%s: not a qcow image (wrong magic)", path);
	if (have < sizeof(disk.head))
		return td_fail(why, -EINVAL, "%s: truncated: %llu bytes are no qcow header",
			       path, (unsigned long long)size);
	version = from_be32(disk.head.version);
	if (version != 1)
		return td_fail(why, -EINVAL, "%s: qcow version %u, not 1%s", path, version,
			       version == 2 || version == 3 ? " (this is qcow2)" : "");
	if (from_be32(disk.head.crypt) > QCOW_AES)
		return td_fail(why, -ENOTSUP, "%s: unknown qcow encryption method %u", path,
			       from_be32(disk.head.crypt));
	out->encrypted = from_be32(disk.head.crypt) == QCOW_AES;
	out->head_end = sizeof(disk.head);
	err = check_geometry(&disk.head, out, path, why);
	if (!err)
		err = check_l1(&disk.head, out, size, path, why);
	if (!err)
		err = read_backing(file, &disk.head, out, why);
	if (!err)
		err = check_xen(&disk.xen, from_be64(disk.head.backing_at), out, path, why);
	return err;
}
