/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A front end for tests: lays requests into a ring as a guest of either word
 * size does, from structures declared as its compiler would see them, and not
 * from the back end's own table.
 */
#ifndef TESTS_XEN_FRONT_H
#define TESTS_XEN_FRONT_H

#include <stdint.h>
#include <string.h>

struct front_seg {
	uint32_t gref;
	uint8_t first, last;
	uint8_t pad[2];
};

/* What a test wants to send; front_put() lays it out. */
struct front_req {
	uint8_t op;
	uint64_t id, sector;
	unsigned count;                 /* of segments */
	struct front_seg segs[11];
	uint8_t secure;                 /* DISCARD */
	uint64_t sectors;
	uint8_t indirect_op;            /* INDIRECT */
	uint32_t pages[8];
};

#define FRONT_LAYOUT(name, aligned64)                                         \
	struct name##_rw {                                                    \
		uint8_t op, count;                                            \
		uint16_t handle;                                              \
		aligned64 id, sector;                                         \
		struct front_seg segs[11];                                    \
	};                                                                    \
	struct name##_discard {                                               \
		uint8_t op, flag;                                             \
		uint16_t handle;                                              \
		aligned64 id, sector, sectors;                                \
	};                                                                    \
	struct name##_indirect {                                              \
		uint8_t op, indirect_op;                                      \
		uint16_t count;                                               \
		aligned64 id, sector;                                         \
		uint16_t handle, pad;                                         \
		uint32_t pages[8];                                            \
	};                                                                    \
	struct name##_response {                                              \
		aligned64 id;                                                 \
		uint8_t op;                                                   \
		int16_t status;                                               \
	};                                                                    \
	union name##_entry {                                                  \
		struct name##_rw rw;                                          \
		struct name##_discard discard;                                \
		struct name##_indirect indirect;                              \
		struct name##_response response;                              \
	};                                                                    \
	static inline void name##_put(void *to, const struct front_req *r)    \
	{                                                                     \
		union name##_entry e;                                         \
		memset(&e, 0xee, sizeof(e));                                  \
		if (r->op == 5) {                                             \
			e.discard = (struct name##_discard){                  \
				r->op, r->secure, 0, r->id, r->sector,        \
				r->sectors };                                 \
		} else if (r->op == 6) {                                      \
			e.indirect = (struct name##_indirect){                \
				.op = r->op, .indirect_op = r->indirect_op,   \
				.count = (uint16_t)r->count, .id = r->id,     \
				.sector = r->sector };                        \
			memcpy(e.indirect.pages, r->pages, sizeof(r->pages)); \
		} else {                                                      \
			e.rw = (struct name##_rw){                            \
				.op = r->op, .count = (uint8_t)r->count,      \
				.id = r->id, .sector = r->sector };           \
			memcpy(e.rw.segs, r->segs, sizeof(r->segs));          \
		}                                                             \
		memcpy(to, &e, sizeof(e));                                    \
	}

typedef uint64_t front_u64_32 __attribute__((aligned(4)));
FRONT_LAYOUT(front32, front_u64_32)
FRONT_LAYOUT(front64, uint64_t)

struct front {
	uint8_t *shared;
	bool is32;
	uint32_t entries;
	uint32_t req_prod, rsp_cons;
};

static inline size_t front_entry_size(const struct front *f)
{
	return f->is32 ? sizeof(union front32_entry) : sizeof(union front64_entry);
}

static inline volatile uint32_t *front_index(const struct front *f, unsigned n)
{
	return (volatile uint32_t *)(f->shared + 4 * n);
}

static inline void front_init(struct front *f, void *shared, unsigned pages, bool is32)
{
	*f = (struct front){ .shared = shared, .is32 = is32, .entries = 1 };
	while (f->entries * 2 * front_entry_size(f) <= pages * 4096 - 64)
		f->entries *= 2;
	memset(shared, 0, pages * 4096);
	*front_index(f, 1) = *front_index(f, 3) = 1;
}

static inline uint8_t *front_entry(const struct front *f, uint32_t index)
{
	return f->shared + 64 + (index & (f->entries - 1)) * front_entry_size(f);
}

static inline void front_put(struct front *f, const struct front_req *r)
{
	uint8_t *to = front_entry(f, f->req_prod++);

	if (f->is32)
		front32_put(to, r);
	else
		front64_put(to, r);
}

/* True: the back end wants to be notified. */
static inline bool front_push(struct front *f)
{
	uint32_t old = *front_index(f, 0);

	__atomic_store_n(front_index(f, 0), f->req_prod, __ATOMIC_SEQ_CST);
	return f->req_prod - *front_index(f, 1) < f->req_prod - old;
}

struct front_answer {
	uint64_t id;
	uint8_t op;
	int status;
};

static inline bool front_get(struct front *f, struct front_answer *a)
{
	const uint8_t *from = front_entry(f, f->rsp_cons);

	if (*front_index(f, 2) == f->rsp_cons)
		return false;
	if (f->is32) {
		const struct front32_response *r = (const void *)from;
		*a = (struct front_answer){ r->id, r->op, r->status };
	} else {
		const struct front64_response *r = (const void *)from;
		*a = (struct front_answer){ r->id, r->op, r->status };
	}
	f->rsp_cons++;
	*front_index(f, 3) = f->rsp_cons + 1;
	return true;
}

#endif
