/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Those who wait.
 */
#include <blktap/format.h>

void td_parks_add(struct td_parks *parks, struct td_park *park)
{
	park->next = NULL;
	if (parks->first)
		parks->last->next = park;
	else
		parks->first = park;
	parks->last = park;
}

void td_parks_go(struct td_parks *parks, int err)
{
	struct td_park *park = parks->first;

	parks->first = parks->last = NULL;
	while (park) {
		struct td_park *next = park->next;

		park->go(park, err);
		park = next;
	}
}
