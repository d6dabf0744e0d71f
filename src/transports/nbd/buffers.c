/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Four sizes of buffers. There are as many of the smallest as there are
 * requests, so a small request never waits for memory; the largest takes the
 * longest request there is. A request may use the next larger size, but only a
 * request too long for the smallest does.
 */
#include "transports/nbd/buffers.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "base/num.h"
#include "transports/nbd/request.h"

static const struct class_size {
	size_t bytes;
	unsigned count;
} sizes[NBD_BUFFER_CLASSES] = {
	{ 32 * KiB, NBD_REQUESTS },
	{ 256 * KiB, 32 },
	{ 2 * MiB, 8 },
	{ NBD_MAX_PAYLOAD, 1 },
};

static size_t class_span(unsigned i)
{
	return sizes[i].bytes * sizes[i].count;
}

static size_t mapping_size(void)
{
	size_t size = NBD_STAGING;

	for (unsigned i = 0; i < NBD_BUFFER_CLASSES; i++)
		size += class_span(i);
	return size;
}

int nbd_buffers_init(struct nbd_buffers *buffers)
{
	uint8_t *at = mmap(NULL, mapping_size(), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return -errno;
	buffers->base = at;
	buffers->used = buffers->dirty = false;
	at += NBD_STAGING;
	for (unsigned i = 0; i < NBD_BUFFER_CLASSES; i++) {
		struct nbd_buffer_class *class = &buffers->class[i];

		class->start = at;
		class->free_count = sizes[i].count;
		for (unsigned k = 0; k < sizes[i].count; k++)
			class->free[k] = sizes[i].count - 1 - k;
		at += class_span(i);
	}
	/* A huge page under a small buffer would be mostly waste. */
	madvise(buffers->base, NBD_STAGING + class_span(0), MADV_NOHUGEPAGE);
	return 0;
}

void nbd_buffers_fini(struct nbd_buffers *buffers)
{
	if (buffers->base)
		munmap(buffers->base, mapping_size());
	buffers->base = NULL;
}

void *nbd_buffers_get(struct nbd_buffers *buffers, size_t len)
{
	buffers->used = buffers->dirty = true;
	for (unsigned i = 0; i < NBD_BUFFER_CLASSES; i++) {
		struct nbd_buffer_class *class = &buffers->class[i];

		if (sizes[i].bytes < len)
			continue;
		if (class->free_count)
			return class->start +
			       class->free[--class->free_count] * sizes[i].bytes;
		if (i == 0)
			return NULL;
	}
	return NULL;
}

void nbd_buffers_put(struct nbd_buffers *buffers, void *buf)
{
	for (unsigned i = 0; i < NBD_BUFFER_CLASSES; i++) {
		struct nbd_buffer_class *class = &buffers->class[i];
		size_t at = (uint8_t *)buf - class->start;

		if ((uint8_t *)buf >= class->start && at < class_span(i)) {
			assert(class->free_count < sizes[i].count);
			class->free[class->free_count++] = at / sizes[i].bytes;
			return;
		}
	}
	assert(!"a buffer of ours");
}

bool nbd_buffers_trim(struct nbd_buffers *buffers, bool idle)
{
	if (buffers->dirty && idle && !buffers->used) {
		madvise(buffers->base, mapping_size(), MADV_DONTNEED);
		buffers->dirty = false;
	}
	buffers->used = false;
	return !buffers->dirty;
}
