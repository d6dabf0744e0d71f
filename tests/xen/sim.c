/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest made of a memfd: see sim.h. */
#include "sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/num.h"

/* cmocka's asserts are for the test's own thread only. */
#define demand(what) ((what) ? (void)0 : demanded(#what))
static void demanded(const char *what)
{
	fprintf(stderr, "sim: not so: %s\n", what);
	abort();
}

static struct sim *of(struct guest *guest)
{
	return container_of(guest, struct sim_ring, guest)->sim;
}

static bool granted(const struct sim *sim, uint32_t gref)
{
	return gref && gref < SIM_PAGES && !sim->bad[gref];
}

static void *sim_map(struct guest *guest, const uint32_t *grefs, unsigned count,
		     bool writable)
{
	struct sim *sim = of(guest);
	int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ;
	uint8_t *at;

	sim->maps++;
	sim->writable_maps += writable;
	for (unsigned i = 0; i < count; i++) {
		if (!granted(sim, grefs[i])) {
			errno = EINVAL;
			return NULL;
		}
	}
	at = mmap(NULL, count * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	demand(at != MAP_FAILED);
	for (unsigned i = 0; i < count; i++)
		demand(mmap(at + i * 4096ul, 4096, prot, MAP_SHARED | MAP_FIXED,
			    sim->memfd, grefs[i] * 4096l) != MAP_FAILED);
	sim->mapped += count;
	return at;
}

static void sim_unmap(struct guest *guest, void *memory, unsigned count)
{
	struct sim *sim = of(guest);

	demand(sim->mapped >= count);
	sim->mapped -= count;
	demand(!munmap(memory, count * 4096ul));
}

static void sim_copy(struct guest *guest, struct guest_copy *copies, unsigned count)
{
	struct sim_ring *ring = container_of(guest, struct sim_ring, guest);
	struct sim *sim = ring->sim;

	sim->copy_calls++;
	ring->thread = pthread_self();
	for (unsigned i = 0; i < count; i++) {
		struct guest_copy *copy = &copies[i];
		uint8_t *page;

		demand(copy->len && copy->offset + copy->len <= 4096);
		copy->err = granted(sim, copy->gref) ? 0 : -EFAULT;
		if (copy->err)
			continue;
		sim->copies++;
		page = ring->back + copy->gref * 4096ul + copy->offset;
		if (copy->to_guest)
			memcpy(page, copy->local, copy->len);
		else
			memcpy(copy->local, page, copy->len);
	}
}

static void sim_event(struct guest *guest)
{
	uint64_t count;

	demand(read(guest->event_fd, &count, sizeof(count)) == sizeof(count));
}

static void sim_notify(struct guest *guest)
{
	of(guest)->notified++;
}

static void sim_free(struct guest *guest)
{
	of(guest)->freed++;
}

static const struct guest_ops sim_ops = {
	.map = sim_map,
	.unmap = sim_unmap,
	.copy = sim_copy,
	.event = sim_event,
	.notify = sim_notify,
	.free = sim_free,
};

static void *sim_memory(const struct sim *sim)
{
	void *memory = mmap(NULL, SIM_PAGES * 4096ul, PROT_READ | PROT_WRITE, MAP_SHARED,
			    sim->memfd, 0);

	demand(memory != MAP_FAILED);
	return memory;
}

void sim_open(struct sim *sim)
{
	memset(sim, 0, sizeof(*sim));
	sim->memfd = memfd_create("guest", MFD_CLOEXEC);
	demand(sim->memfd >= 0);
	demand(!ftruncate(sim->memfd, SIM_PAGES * 4096l));
	sim->pages = sim_memory(sim);
	for (unsigned i = 0; i < ARRAY_SIZE(sim->ring); i++) {
		struct sim_ring *ring = &sim->ring[i];

		ring->sim = sim;
		ring->back = sim_memory(sim);
		ring->guest.ops = &sim_ops;
		ring->guest.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		demand(ring->guest.event_fd >= 0);
	}
}

void sim_close(struct sim *sim)
{
	munmap(sim->pages, SIM_PAGES * 4096ul);
	for (unsigned i = 0; i < ARRAY_SIZE(sim->ring); i++) {
		munmap(sim->ring[i].back, SIM_PAGES * 4096ul);
		close(sim->ring[i].guest.event_fd);
	}
	close(sim->memfd);
}

void sim_kick(struct sim *sim, unsigned ring)
{
	uint64_t one = 1;

	demand(write(sim->ring[ring].guest.event_fd, &one, sizeof(one)) == sizeof(one));
}
