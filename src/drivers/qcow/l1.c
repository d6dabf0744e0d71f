/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The L1 table: read whole at open, kept in memory in the file's own bytes, cut
 * into parts that lie in one 4 KiB block of the file each, so that each is
 * written by itself. Memory is touched only where the table is not empty: a
 * large image that is mostly empty stays cheap.
 *
 * First versions of the tools of 2006 wrote entries in the byte order of their
 * machine and said so nowhere. The entries tell: read the right way, every one
 * of them is the place of a table within the file; read the wrong way, hardly
 * ever. Where both ways are possible the image is refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "drivers/qcow/qcow.h"

static int read_table(struct qcow *qcow, uint64_t base, struct td_why *why)
{
	static const char zeroes[4096];
	char *to = (char *)qcow->l1;
	size_t step = 64 * KiB;
	char *buf = aligned_alloc(4096, step);
	int err = buf ? 0 : -ENOMEM;

	for (size_t pos = 0; !err && pos < qcow->l1_room; pos += step) {
		size_t n = min_u64(step, qcow->l1_room - pos);

		err = td_file_read(qcow->file, buf, n, base + pos);
		for (size_t i = 0; !err && i < n; i += sizeof(zeroes)) {
			size_t m = min_u64(sizeof(zeroes), n - i);

			if (memcmp(buf + i, zeroes, m))
				memcpy(to + pos + i, buf + i, m);
		}
	}
	free(buf);
	return err ? td_fail(why, err, "%s: cannot read the qcow L1 table",
			     td_file_path(qcow->file)) : 0;
}

bool qcow_l2_fits(const struct qcow *qcow, uint64_t at)
{
	uint64_t bytes = qcow_l2_bytes(&qcow->layout), size = td_file_size(qcow->file);

	return at % 512 == 0 && at < size && bytes <= size - at &&
	       !qcow_hits_head(&qcow->layout, at, bytes);
}

static int tell_order(struct qcow *qcow, const be64 *entry, bool *little, struct td_why *why)
{
	bool as_big = true, as_little = true, any = false;

	for (uint64_t i = 0; i < qcow->layout.l1_count; i++) {
		uint64_t value = from_be64(entry[i]);

		if (!value)
			continue;
		any = true;
		as_big = as_big && qcow_l2_fits(qcow, value);
		as_little = as_little && qcow_l2_fits(qcow, __builtin_bswap64(value));
	}
	if (any && as_big == as_little)
		return td_fail(why, -EINVAL,
			       "%s: cannot tell the byte order of its qcow L1 table, written by "
			       "a blktap of 2006%s", td_file_path(qcow->file),
			       as_big ? " (both orders are possible)" : " (neither order makes sense)");
	/* An empty table keeps its format's rule: the writer's own, x86's. */
	*little = any ? as_little : true;
	return 0;
}

static void make_parts(struct qcow *qcow, uint64_t base, bool little)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t l1_end = layout->l1_at + layout->l1_count * 8;

	for (uint32_t i = 0; i < qcow->l1_parts; i++) {
		uint64_t block = round_down(base, 4096) + i * 4096ull;
		uint64_t mem_from = max_u64(block, base);
		uint64_t mem_to = min_u64(block + 4096, base + qcow->l1_room);
		uint64_t from = max_u64(mem_from, layout->l1_at);
		uint64_t to = min_u64(mem_to, l1_end);
		struct qcow_table *part = &qcow->l1_part[i];

		qcow_table_init(part, qcow, from,
				(be64 *)((char *)qcow->l1 + (from - base)), (to - from) / 8);
		part->before = from - mem_from;
		part->after = mem_to - to;
		part->little = little;
	}
}

struct qcow_table *qcow_l1_part(struct qcow *qcow, uint64_t index, uint32_t *entry)
{
	uint64_t at = qcow->layout.l1_at + index * 8;
	struct qcow_table *part =
		&qcow->l1_part[at / 4096 - round_down(qcow->layout.l1_at, 512) / 4096];

	*entry = (at - part->at) / 8;
	return part;
}

uint64_t qcow_l1_entry(struct qcow *qcow, uint64_t index)
{
	uint32_t entry;
	struct qcow_table *part = qcow_l1_part(qcow, index, &entry);

	return qcow_entry(part, entry);
}

int qcow_l1_open(struct qcow *qcow, struct td_why *why)
{
	const struct qcow_layout *layout = &qcow->layout;
	uint64_t base = round_down(layout->l1_at, 512);
	uint64_t end = round_up(layout->l1_at + layout->l1_count * 8, 512);
	bool little = false;
	int err;

	qcow->l1_room = end - base;
	qcow->l1 = mmap(NULL, qcow->l1_room, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (qcow->l1 == MAP_FAILED) {
		qcow->l1 = NULL;
		return td_fail(why, -ENOMEM, "%s: no memory for its L1 table",
			       td_file_path(qcow->file));
	}
	err = read_table(qcow, base, why);
	if (!err && layout->l1_native)
		err = tell_order(qcow, (be64 *)((char *)qcow->l1 + (layout->l1_at - base)),
				 &little, why);
	if (err)
		goto unmap;
	qcow->l1_parts = (end - 1) / 4096 - base / 4096 + 1;
	qcow->l1_part = calloc(qcow->l1_parts, sizeof(*qcow->l1_part));
	if (!qcow->l1_part) {
		err = td_fail(why, -ENOMEM, "%s: no memory", td_file_path(qcow->file));
		goto unmap;
	}
	make_parts(qcow, base, little);
	return 0;
unmap:
	munmap(qcow->l1, qcow->l1_room);
	qcow->l1 = NULL;
	return err;
}

void qcow_l1_close(struct qcow *qcow)
{
	free(qcow->l1_part);
	if (qcow->l1)
		munmap(qcow->l1, qcow->l1_room);
}
