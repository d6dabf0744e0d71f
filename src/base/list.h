/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A doubly linked list whose links live in its members.
 *     struct list all;  list_init(&all);  list_add(&all, &item->link);
 *     LIST_FOR(struct item, item, &all, link) { ... }
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/num.h"

struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *head)
{
	head->prev = head->next = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_add(struct list *head, struct list *link)
{
	link->prev = head->prev;
	link->next = head;
	head->prev->next = link;
	head->prev = link;
}

/* Leaves link empty, so that removing it again is harmless. */
static inline void list_del(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_init(link);
}

/* The first link, taken off; NULL if there is none. */
static inline struct list *list_pop(struct list *head)
{
	struct list *link = head->next;

	if (link == head)
		return NULL;
	list_del(link);
	return link;
}

/* Moves all members of from to the end of to. */
static inline void list_join(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	from->prev->next = to;
	to->prev->next = from->next;
	to->prev = from->prev;
	list_init(from);
}

#define list_item(ptr, type, member) container_of(ptr, type, member)

#define LIST_FOR(type, item, head, member) \
	for (type *item = list_item((head)->next, type, member); \
	     &item->member != (head); \
	     item = list_item(item->member.next, type, member))

/* The current item may be removed and freed in the body. */
#define LIST_FOR_SAFE(type, item, head, member) \
	for (type *item = list_item((head)->next, type, member), \
		  *item##_next = list_item(item->member.next, type, member); \
	     &item->member != (head); \
	     item = item##_next, \
		  item##_next = list_item(item->member.next, type, member))

#endif
