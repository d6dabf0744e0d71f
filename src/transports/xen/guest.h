/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest as one ring's server sees it: pages it has granted, and an event channel.
 * A guest of several rings is several of these, used by a thread each. guest.c is the real one, over libxengnttab and libxenevtchn; tests bring their
 * own, whose grants are pages of the test.
 */
#ifndef TRANSPORTS_XEN_GUEST_H
#define TRANSPORTS_XEN_GUEST_H

#include <blktap/driver.h>

#include "transports/xen/xen.h"

/* Copies between our memory and a part of one granted page. */
struct guest_copy {
	void    *local;
	uint32_t gref;
	uint16_t offset, len; /* within the page */
	bool     to_guest;
	int      err;         /* answer */
};

struct guest {
	const struct guest_ops *ops;
	int event_fd; /* readable: an event came in, to be taken with event() */
};

struct guest_ops {
	/* All pages or none; adjacent in memory. NULL: errno says why. */
	void *(*map)(struct guest *guest, const uint32_t *grefs, unsigned count,
		     bool writable);
	void  (*unmap)(struct guest *guest, void *memory, unsigned count);
	/* Does them all, and sets each one's err. */
	void  (*copy)(struct guest *guest, struct guest_copy *copies, unsigned count);
	void  (*event)(struct guest *guest);  /* takes an event, asks for more */
	void  (*notify)(struct guest *guest);
	void  (*free)(struct guest *guest);
};

/* What td_xen_connect() does once params->ring_count guests are at hand. Takes them
 * over, and frees them on failure too. */
int xen_connect_guests(struct td_disk *disk, const struct td_xen_params *params,
		       struct guest *guests[], struct td_xen **out, struct td_why *why);

#endif
