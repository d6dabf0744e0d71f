/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest reached through the stock gntdev and evtchn devices of its back end's
 * domain. The libraries would write a line for every grant a hostile guest gets
 * wrong: their log is shut, and the transport tells what matters.
 */
#include "transports/xen/guest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xen/grant_table.h>
#include <xentoollog.h>

#include "base/num.h"

#define COPIES_A_CALL 256

struct xen_guest {
	struct guest guest;
	struct xentoollog_logger silence;
	xengnttab_handle *gnttab;
	xenevtchn_handle *evtchn;
	int port; /* ours; -1: not bound */
	uint16_t domid;
	xengnttab_grant_copy_segment_t batch[COPIES_A_CALL];
};

static struct xen_guest *of(struct guest *guest)
{
	return container_of(guest, struct xen_guest, guest);
}

static void hush(struct xentoollog_logger *logger, xentoollog_level level, int errnoval,
		 const char *context, const char *format, va_list al)
{
}

static void hush_progress(struct xentoollog_logger *logger, const char *context,
			  const char *what, int percent, unsigned long done,
			  unsigned long total)
{
}

static void *xen_map(struct guest *guest, const uint32_t *grefs, unsigned count,
		     bool writable)
{
	struct xen_guest *xen = of(guest);

	/* The library takes a plain pointer and only reads. */
	return xengnttab_map_domain_grant_refs(xen->gnttab, count, xen->domid,
					       (uint32_t *)grefs,
					       writable ? PROT_READ | PROT_WRITE
							: PROT_READ);
}

static void xen_unmap(struct guest *guest, void *memory, unsigned count)
{
	xengnttab_unmap(of(guest)->gnttab, memory, count);
}

static void batch_add(struct xen_guest *xen, unsigned i, const struct guest_copy *copy)
{
	xengnttab_grant_copy_segment_t *seg = &xen->batch[i];
	union xengnttab_copy_ptr ours = { .virt = copy->local };
	union xengnttab_copy_ptr theirs = {
		.foreign = { .ref = copy->gref, .offset = copy->offset,
			     .domid = xen->domid },
	};

	*seg = (xengnttab_grant_copy_segment_t){
		.source = copy->to_guest ? ours : theirs,
		.dest = copy->to_guest ? theirs : ours,
		.len = copy->len,
		.flags = copy->to_guest ? GNTCOPY_dest_gref : GNTCOPY_source_gref,
		.status = GNTST_general_error,
	};
}

static void batch_run(struct xen_guest *xen, struct guest_copy *copies, unsigned count)
{
	int err = 0;

	if (xengnttab_grant_copy(xen->gnttab, count, xen->batch) < 0)
		err = -errno;
	for (unsigned i = 0; i < count; i++) {
		if (err)
			copies[i].err = err;
		else
			copies[i].err = xen->batch[i].status == GNTST_okay ? 0 : -EFAULT;
	}
}

static void xen_copy(struct guest *guest, struct guest_copy *copies, unsigned count)
{
	struct xen_guest *xen = of(guest);

	while (count) {
		unsigned n = count < COPIES_A_CALL ? count : COPIES_A_CALL;

		for (unsigned i = 0; i < n; i++)
			batch_add(xen, i, &copies[i]);
		batch_run(xen, copies, n);
		copies += n;
		count -= n;
	}
}

static void xen_event(struct guest *guest)
{
	struct xen_guest *xen = of(guest);
	int port = xenevtchn_pending(xen->evtchn);

	/* What comes in from now on raises a new event; the caller looks at the
	 * ring after this. */
	if (port >= 0)
		xenevtchn_unmask(xen->evtchn, port);
}

static void xen_notify(struct guest *guest)
{
	struct xen_guest *xen = of(guest);

	xenevtchn_notify(xen->evtchn, xen->port);
}

static void xen_free(struct guest *guest)
{
	struct xen_guest *xen = of(guest);

	if (xen->port >= 0)
		xenevtchn_unbind(xen->evtchn, xen->port);
	if (xen->evtchn)
		xenevtchn_close(xen->evtchn);
	if (xen->gnttab)
		xengnttab_close(xen->gnttab);
	free(xen);
}

static const struct guest_ops xen_ops = {
	.map = xen_map,
	.unmap = xen_unmap,
	.copy = xen_copy,
	.event = xen_event,
	.notify = xen_notify,
	.free = xen_free,
};

static int guest_open(uint16_t domid, uint32_t event_channel, struct guest **out,
		      struct td_why *why)
{
	struct xen_guest *xen = calloc(1, sizeof(*xen));
	int err;

	if (!xen)
		return td_fail(why, -ENOMEM, "no memory");
	*xen = (struct xen_guest){
		.guest = { .ops = &xen_ops, .event_fd = -1 },
		.silence = { .vmessage = hush, .progress = hush_progress },
		.domid = domid,
		.port = -1,
	};
	xen->gnttab = xengnttab_open(&xen->silence, 0);
	if (!xen->gnttab) {
		err = td_fail(why, -errno, "/dev/xen/gntdev: %s", strerror(errno));
		goto fail;
	}
	xen->evtchn = xenevtchn_open(&xen->silence, 0);
	if (!xen->evtchn) {
		err = td_fail(why, -errno, "/dev/xen/evtchn: %s", strerror(errno));
		goto fail;
	}
	xen->port = xenevtchn_bind_interdomain(xen->evtchn, domid, event_channel);
	if (xen->port < 0) {
		err = td_fail(why, -errno, "event channel %u of domain %u: %s",
			      event_channel, domid, strerror(errno));
		goto fail;
	}
	xen->guest.event_fd = xenevtchn_fd(xen->evtchn);
	*out = &xen->guest;
	return 0;
fail:
	xen_free(&xen->guest);
	return err;
}

int td_xen_connect(struct td_disk *disk, const struct td_xen_params *params,
		   struct td_xen **out, struct td_why *why)
{
	struct guest *guests[TD_XEN_MAX_RINGS];

	if (params->ring_order > TD_XEN_MAX_RING_ORDER || !params->ring_count ||
	    params->ring_count > TD_XEN_MAX_RINGS)
		return td_fail(why, -EINVAL, "%u rings of order %u: 1 to %u of at most %u",
			       params->ring_count, params->ring_order, TD_XEN_MAX_RINGS,
			       TD_XEN_MAX_RING_ORDER);
	for (unsigned i = 0; i < params->ring_count; i++) {
		int err = guest_open(params->domid, params->rings[i].event_channel, &guests[i],
				     why);

		if (err) {
			while (i--)
				guests[i]->ops->free(guests[i]);
			return err;
		}
	}
	return xen_connect_guests(disk, params, guests, out, why);
}
