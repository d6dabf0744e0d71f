/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a run down; see record.h.
 */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct record *record_of(struct td_file_hook *base)
{
	return container_of(base, struct record, base);
}

static char *gather(const struct td_file_op_seen *op)
{
	char *data = malloc(op->len), *at = data;

	for (unsigned i = 0; i < op->iov_count; i++) {
		memcpy(at, op->iov[i].iov_base, op->iov[i].iov_len);
		at += op->iov[i].iov_len;
	}
	return data;
}

static uint64_t deed_add(struct record *record, const struct td_file_op_seen *op)
{
	if (record->deeds == record->deeds_room) {
		record->deeds_room = record->deeds_room * 2 + 256;
		record->deed = realloc(record->deed,
				       record->deeds_room * sizeof(*record->deed));
	}
	record->deed[record->deeds] = (struct deed){
		.event = op->event,
		.offset = op->offset,
		.len = op->len,
		.data = op->event == TD_EV_WRITE ? gather(op) : NULL,
		.dsync = op->dsync,
		.issued = ++record->clock,
		.ended = NEVER,
	};
	return ++record->deeds;
}

/* The hook's ids are the deeds' numbers from 1; 0 for what is not written down. */
static int record_begin(struct td_file_hook *base, const struct td_file_op_seen *op,
			uint64_t *id)
{
	struct record *record = record_of(base);

	*id = 0;
	if (op->event == TD_EV_READ)
		return 0;
	require(!strcmp(td_file_path(op->file), record->path), "%s was changed",
		td_file_path(op->file));
	pthread_mutex_lock(&record->lock);
	*id = deed_add(record, op);
	pthread_mutex_unlock(&record->lock);
	return 0;
}

static void record_end(struct td_file_hook *base, uint64_t id, int err)
{
	struct record *record = record_of(base);

	if (!id)
		return;
	pthread_mutex_lock(&record->lock);
	record->deed[id - 1].ended = ++record->clock;
	record->deed[id - 1].err = err;
	pthread_mutex_unlock(&record->lock);
}

static bool record_hold(struct td_file_hook *base, struct td_fileop *op, bool ended)
{
	struct record *record = record_of(base);

	return record->next->base.hold(&record->next->base, op, ended);
}

void record_start(struct record *record, struct rig *rig, const struct target *target)
{
	struct stat st;
	int fd = open(target->path, O_RDONLY | O_CLOEXEC);

	require(fd >= 0 && !fstat(fd, &st), "%s: %s", target->path, strerror(errno));
	*record = (struct record){
		.base = { record_begin, record_end, record_hold },
		.next = &rig->hook,
		.path = target->path,
		.before_size = st.st_size,
		.tag = target->tag,
		.before = malloc(st.st_size + 1),
	};
	require(pread(fd, record->before, st.st_size, 0) == st.st_size, "%s: %s",
		target->path, strerror(errno));
	close(fd);
	pthread_mutex_init(&record->lock, NULL);
	rig->options.hook = &record->base;
}

unsigned record_asked(struct record *record, const struct io *io)
{
	if (record->asks == record->asks_room) {
		record->asks_room = record->asks_room * 2 + 64;
		record->asked = realloc(record->asked,
					record->asks_room * sizeof(*record->asked));
	}
	pthread_mutex_lock(&record->lock);
	record->asked[record->asks] = (struct asked){
		.op = io->op,
		.flags = io->flags,
		.offset = io->offset,
		.len = io->len,
		.tag = io->op == TD_WRITE ? io->tag : TAG_ZERO,
		.issued = ++record->clock,
		.ended = NEVER,
	};
	pthread_mutex_unlock(&record->lock);
	return record->asks++;
}

void record_answered(struct record *record, unsigned ask, int err)
{
	pthread_mutex_lock(&record->lock);
	record->asked[ask].ended = ++record->clock;
	record->asked[ask].err = err;
	pthread_mutex_unlock(&record->lock);
}

void record_free(struct record *record)
{
	for (unsigned i = 0; i < record->deeds; i++)
		free(record->deed[i].data);
	free(record->deed);
	free(record->asked);
	free(record->before);
	pthread_mutex_destroy(&record->lock);
}
