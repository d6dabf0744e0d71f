/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest made of a memfd: see sim.h. */
#include "sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/num.h"

static struct sim *of(struct guest *guest)
{
	return container_of(guest, struct sim, guest);
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
	assert_true(at != MAP_FAILED);
	for (unsigned i = 0; i < count; i++)
		assert_true(mmap(at + i * 4096ul, 4096, prot, MAP_SHARED | MAP_FIXED,
				 sim->memfd, grefs[i] * 4096l) != MAP_FAILED);
	sim->mapped += count;
	return at;
}

static void sim_unmap(struct guest *guest, void *memory, unsigned count)
{
	struct sim *sim = of(guest);

	assert_true(sim->mapped >= count);
	sim->mapped -= count;
	assert_int_equal(munmap(memory, count * 4096ul), 0);
}

static void sim_copy(struct guest *guest, struct guest_copy *copies, unsigned count)
{
	struct sim *sim = of(guest);

	sim->copy_calls++;
	for (unsigned i = 0; i < count; i++) {
		struct guest_copy *copy = &copies[i];
		uint8_t *page;

		assert_true(copy->len && copy->offset + copy->len <= 4096);
		copy->err = granted(sim, copy->gref) ? 0 : -EFAULT;
		if (copy->err)
			continue;
		sim->copies++;
		page = sim_page(sim, copy->gref) + copy->offset;
		if (copy->to_guest)
			memcpy(page, copy->local, copy->len);
		else
			memcpy(copy->local, page, copy->len);
	}
}

static void sim_event(struct guest *guest)
{
	uint64_t count;

	assert_int_equal(read(guest->event_fd, &count, sizeof(count)), sizeof(count));
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

void sim_open(struct sim *sim)
{
	memset(sim, 0, sizeof(*sim));
	sim->guest.ops = &sim_ops;
	sim->guest.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(sim->guest.event_fd >= 0);
	sim->memfd = memfd_create("guest", MFD_CLOEXEC);
	assert_true(sim->memfd >= 0);
	assert_int_equal(ftruncate(sim->memfd, SIM_PAGES * 4096l), 0);
	sim->pages = mmap(NULL, SIM_PAGES * 4096ul, PROT_READ | PROT_WRITE, MAP_SHARED,
			  sim->memfd, 0);
	assert_true(sim->pages != MAP_FAILED);
}

void sim_close(struct sim *sim)
{
	munmap(sim->pages, SIM_PAGES * 4096ul);
	close(sim->memfd);
	close(sim->guest.event_fd);
}

void sim_kick(struct sim *sim)
{
	uint64_t one = 1;

	assert_int_equal(write(sim->guest.event_fd, &one, sizeof(one)), sizeof(one));
}
