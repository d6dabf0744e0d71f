/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Grants that stay mapped: see grants.h. */
#include "transports/xen/grants.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static struct grant **head_of(struct grants *grants, uint32_t gref)
{
	return &grants->heads[gref & (GRANTS_HEADS - 1)];
}

int grants_init(struct grants *grants, struct guest *guest)
{
	*grants = (struct grants){ .guest = guest };
	grants->all = calloc(GRANTS_MAX, sizeof(*grants->all));
	if (!grants->all)
		return -ENOMEM;
	list_init(&grants->idle);
	list_init(&grants->free);
	for (unsigned i = 0; i < GRANTS_MAX; i++)
		list_add(&grants->free, &grants->all[i].link);
	return 0;
}

static void grant_drop(struct grants *grants, struct grant *grant)
{
	struct grant **at = head_of(grants, grant->gref);

	while (*at != grant)
		at = &(*at)->next;
	*at = grant->next;
	grants->guest->ops->unmap(grants->guest, grant->page, 1);
	grants->mapped--;
	list_del(&grant->link);
	list_add(&grants->free, &grant->link);
}

void grants_drop(struct grants *grants, uint64_t since_ms)
{
	LIST_FOR_SAFE (struct grant, grant, &grants->idle, link) {
		if (grant->idle_ms >= since_ms)
			break;
		grant_drop(grants, grant);
	}
}

void grants_fini(struct grants *grants)
{
	if (!grants->all)
		return;
	grants_drop(grants, UINT64_MAX);
	assert(!grants->mapped);
	free(grants->all);
	grants->all = NULL;
}

static struct grant *grant_map(struct grants *grants, uint32_t gref, int *err)
{
	struct grant *grant;

	if (list_empty(&grants->free)) {
		if (list_empty(&grants->idle)) {
			*err = -EAGAIN;
			return NULL;
		}
		grant_drop(grants, list_item(grants->idle.next, struct grant, link));
	}
	grant = list_item(grants->free.next, struct grant, link);
	grant->page = grants->guest->ops->map(grants->guest, &gref, 1, true);
	if (!grant->page) {
		*err = -EFAULT;
		return NULL;
	}
	grant->gref = gref;
	grant->users = 0;
	grant->next = *head_of(grants, gref);
	*head_of(grants, gref) = grant;
	grants->mapped++;
	return grant;
}

struct grant *grants_get(struct grants *grants, uint32_t gref, int *err)
{
	struct grant *grant = *head_of(grants, gref);

	while (grant && grant->gref != gref)
		grant = grant->next;
	if (!grant)
		grant = grant_map(grants, gref, err);
	if (grant && !grant->users++)
		list_del(&grant->link);
	return grant;
}

void grants_put(struct grants *grants, struct grant *grant, uint64_t now_ms)
{
	if (--grant->users)
		return;
	grant->idle_ms = now_ms;
	list_add(&grants->idle, &grant->link);
}
