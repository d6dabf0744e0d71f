/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD client keeps, against a plain list: nothing is lost, changed or out
 * of order, however the ring wraps, and a flush frees what came before it only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "drivers/nbd/nbd.h"

#define RING (1 * MiB)
#define MANY 100000

struct model {
	uint64_t len[MANY];
	unsigned first, next;
};

static uint8_t *data;

static struct cmd command(unsigned nth, uint64_t len)
{
	struct cmd cmd = {
		.op = nth % 5 == 4 ? TD_DISCARD : TD_WRITE,
		.offset = nth * 512ull, .len = len, .buf = data,
	};

	return cmd;
}

static void compare(const struct kept *kept, const struct model *model)
{
	uint64_t at = kept->head;
	unsigned nth = model->first;
	struct kept_entry *entry;

	while ((entry = kept_next(kept, &at))) {
		assert_true(nth < model->next);
		assert_int_equal(entry->offset, nth * 512ull);
		assert_int_equal(entry->len, model->len[nth]);
		assert_int_equal(entry->op, command(nth, 0).op);
		if (entry->op == TD_WRITE) {
			assert_int_equal(entry->data[0], (char)nth);
			assert_int_equal(entry->data[entry->len - 1], (char)nth);
		}
		nth++;
	}
	assert_int_equal(nth, model->next);
}

static void the_ring_keeps_everything_in_order(void **state)
{
	static struct model model;
	struct kept kept;
	uint64_t mark = 0;
	unsigned marked = 0, refused = 0;

	srandom(7);
	assert_int_equal(kept_init(&kept, RING), 0);
	data = calloc(1, RING);
	while (model.next < 20000) {
		uint64_t len = 512 * (1 + random() % (random() % 8 ? 8 : kept_max(&kept) / 512));
		struct cmd cmd = command(model.next, len);

		if (kept_reserve(&kept, &cmd)) {
			memset(data, model.next, len);
			model.len[model.next++] = len;
			kept_add(&kept, &cmd);
		} else {
			refused++;
			kept_flushed(&kept, kept.tail);
			model.first = model.next;
		}
		if (random() % 50 == 0) { /* one is sent; a former one has ended */
			kept_flushed(&kept, mark);
			model.first = marked > model.first ? marked : model.first;
			mark = kept.tail;
			marked = model.next;
		}
		if (random() % 20 == 0)
			compare(&kept, &model);
		assert_int_equal(kept.reserved, 0);
		assert_true(kept.tail - kept.head <= RING);
	}
	assert_true(refused > 10);
	free(data);
	kept_free(&kept);
}

static void reserved_room_is_there(void **state)
{
	struct kept kept;
	unsigned count = 0;
	struct cmd cmd;

	data = calloc(1, RING);
	cmd = command(0, 0);
	assert_int_equal(kept_init(&kept, RING), 0);
	cmd.len = round_down(kept_max(&kept), 512);
	for (int round = 0; round < 100; round++) {
		for (count = 0; kept_reserve(&kept, &cmd); count++)
			;
		assert_true(count >= 6);
		kept_unreserve(&kept, &cmd);
		for (unsigned i = 1; i < count; i++)
			kept_add(&kept, &cmd);
		assert_int_equal(kept.reserved, 0);
		assert_true(kept.tail - kept.head <= RING);
		assert_true(kept_half_full(&kept));
		kept_flushed(&kept, kept.tail - (round % 2 ? 0 : sizeof(struct kept_entry) +
						 round_up(cmd.len, 64)));
	}
	kept_flushed(&kept, kept.tail);
	kept_rest(&kept);
	assert_false(kept.used);
	free(data);
	kept_free(&kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_ring_keeps_everything_in_order),
		cmocka_unit_test(reserved_room_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
