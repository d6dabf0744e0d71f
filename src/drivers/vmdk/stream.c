/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streams: grains deflated one behind the other, made to be read while they arrive.
 *
 *     header | descriptor | grains, each behind its marker, and behind 512 of them
 *     their table ... | the last table | directory | footer | end
 *
 * One is written forward, by a tool, while there is nothing in it: whole grains, in the
 * order of the disk. They are deflated on worker threads, many at a time, and get their
 * places in the order in which they came:
 *
 *     stream_write -> (a buffer) -> deflate, on a worker -> place_ready -> written
 *
 * A flush writes the tail, with which the image is whole. What is written after it goes
 * over the tail, and the next flush writes it anew.
 */
#include "drivers/vmdk/vmdk.h"

#include <stdlib.h>
#include <string.h>
#include "base/guard.h"
#include "base/list.h"
#include "config.h"
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif

#define BUFFERS 32
#define TABLE_LEN (VMDK_ENTRIES * 4ull)
#define TABLE_ROOM (VMDK_SECTOR + TABLE_LEN) /* with its marker */

enum marker { MARKER_END, MARKER_TABLE, MARKER_DIRECTORY, MARKER_FOOTER };

struct stream_marker {
	le64 sectors;            /* that follow */
	le32 nothing, type;
	uint8_t zero[496];
};
static_assert(sizeof(struct stream_marker) == VMDK_SECTOR, "see docs/vmdk.md");

/* A grain under way. */
struct grain {
	struct list link;        /* in free, or in line */
	struct vmdk_stream *stream;
	struct td_req *req;      /* who brought it */
	struct td_req *io;       /* ours */
	char *data;
	char *out;               /* room for a table, then the marker and what is deflated */
	uint64_t len;            /* in sectors, with the marker */
	bool first, deflated;
	int err;
	struct td_work work;
};

struct vmdk_stream {
	struct vmdk *v;
	struct vmdk_extent *e;
	struct grain grain[BUFFERS];
	char *arena;
	struct list free, line;  /* line: in the order in which they came */
	struct td_parks for_buffer, for_tail, late; /* late: came while it was written */
	uint64_t at;             /* of the file: where the next one goes */
	uint64_t next;           /* of the disk: none before it comes any more */
	le32 table[VMDK_ENTRIES];/* of the grains since the last table was written */
	uint64_t table_number;
	bool table_used, begun, dirty, tail_runs;
	int failed;
	struct td_work tail;
};

/* A request that waits for a buffer, or for the tail to be written. */
struct waiting {
	struct td_park park;
	struct td_req *req;
};

/* ---- the tail ------------------------------------------------------------------- */

struct vmdk_header vmdk_stream_header(const struct vmdk_layout *layout, uint64_t gd_at)
{
	return (struct vmdk_header){
		.magic = to_le32(VMDK_MAGIC),
		.version = to_le32(3),
		.flags = to_le32(VMDK_NEWLINES | VMDK_COMPRESSED | VMDK_MARKERS),
		.capacity = to_le64(layout->size / VMDK_SECTOR),
		.grain = to_le64(layout->grain / VMDK_SECTOR),
		.text_at = to_le64(layout->text_at / VMDK_SECTOR),
		.text_len = to_le64(layout->text_len / VMDK_SECTOR),
		.entries = to_le32(VMDK_ENTRIES),
		.gd_at = to_le64(gd_at == VMDK_AT_END ? gd_at : gd_at / VMDK_SECTOR),
		.overhead = to_le64(layout->overhead / VMDK_SECTOR),
		.newline = '\n', .other = ' ', .newlines = { '\r', '\n' },
		.compression = to_le16(1),
	};
}

static int write_marked(struct td_file *file, enum marker type, const void *data, uint64_t len,
			uint64_t *at)
{
	uint64_t room = round_up(len, VMDK_SECTOR);
	struct stream_marker marker = { .sectors = to_le64(room / VMDK_SECTOR),
					.type = to_le32(type) };
	AUTO_FREE char *buf = calloc(1, sizeof(marker) + room);
	int err;

	if (!buf)
		return -ENOMEM;
	memcpy(buf, &marker, sizeof(marker));
	if (len)
		memcpy(buf + sizeof(marker), data, len);
	err = td_file_write(file, buf, sizeof(marker) + room, *at);
	*at += sizeof(marker) + room;
	return err;
}

int vmdk_stream_tail(struct td_file *file, const struct vmdk_layout *layout,
		     const uint32_t *table, uint64_t at)
{
	AUTO_FREE le32 *directory = calloc(layout->tables, sizeof(*directory));
	struct vmdk_header footer = vmdk_stream_header(layout, at + VMDK_SECTOR);
	int err = directory ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < layout->tables && directory; i++)
		directory[i] = to_le32(table[i]);
	if (!err)
		err = write_marked(file, MARKER_DIRECTORY, directory, layout->tables * 4, &at);
	if (!err)
		err = write_marked(file, MARKER_FOOTER, &footer, sizeof(footer), &at);
	if (!err)
		err = write_marked(file, MARKER_END, NULL, 0, &at);
	return err ? err : td_file_sync(file);
}

static int tail_run(struct td_work *work)
{
	struct vmdk_stream *s = container_of(work, struct vmdk_stream, tail);
	uint64_t at = s->at;
	int err = 0;

	if (s->table_used) {
		s->e->table[0][s->table_number] = (at + VMDK_SECTOR) / VMDK_SECTOR;
		err = write_marked(s->e->file, MARKER_TABLE, s->table, TABLE_LEN, &at);
	}
	return err ? err : vmdk_stream_tail(s->e->file, &s->e->layout, s->e->table[0], at);
}

/* ---- grains --------------------------------------------------------------------------- */

static void place_ready(struct vmdk_stream *s);

static void grain_over(struct grain *grain, int err)
{
	struct vmdk_stream *s = grain->stream;
	struct td_park *next = s->for_buffer.first;
	struct td_req *req = grain->req;

	s->failed = s->failed ? s->failed : err;
	list_add(&s->free, &grain->link);
	td_end(req, err);
	if (!next)
		return;
	s->for_buffer.first = next->next;
	next->go(next, 0);
}

static void written(struct td_req *io)
{
	grain_over(io->user, io->err);
}

/* The table of the grains so far goes before a grain of the next one. */
static uint64_t place_table(struct vmdk_stream *s, struct grain *grain)
{
	struct stream_marker marker = { .sectors = to_le64(TABLE_LEN / VMDK_SECTOR),
					.type = to_le32(MARKER_TABLE) };

	if (!s->table_used || grain->req->offset / vmdk_span(&s->e->layout) == s->table_number)
		return 0;
	memcpy(grain->out, &marker, sizeof(marker));
	memcpy(grain->out + sizeof(marker), s->table, TABLE_LEN);
	s->e->table[0][s->table_number] = (s->at + VMDK_SECTOR) / VMDK_SECTOR;
	s->at += TABLE_ROOM;
	memset(s->table, 0, sizeof(s->table));
	s->table_used = false;
	return TABLE_ROOM;
}

static void place(struct vmdk_stream *s, struct grain *grain)
{
	uint64_t offset = grain->req->offset, from = s->at, table;

	if (s->at + TABLE_ROOM + grain->len + TABLE_ROOM > VMDK_FILE_MAX) {
		grain_over(grain, -EFBIG);
		return;
	}
	table = place_table(s, grain);
	s->table_number = offset / vmdk_span(&s->e->layout);
	s->table[offset / s->e->layout.grain % VMDK_ENTRIES] = to_le32(s->at / VMDK_SECTOR);
	s->table_used = s->dirty = true;
	s->at += grain->len;
	grain->io->user = grain;
	grain->io->step = written;
	td_buffer(grain->io, TD_WRITE, grain->out + TABLE_ROOM - table, grain->len + table);
	td_io(grain->io, s->e->file, from);
}

/* Places for those at the head of the line that are deflated. */
static void place_ready(struct vmdk_stream *s)
{
	while (!list_empty(&s->line) && !s->tail_runs) {
		struct grain *grain = list_item(s->line.next, struct grain, link);

		if (!grain->deflated)
			return;
		list_del(&grain->link);
		if (grain->err || s->failed)
			grain_over(grain, grain->err ? grain->err : s->failed);
		else
			place(s, grain);
	}
}

#ifdef HAVE_ZLIB
static uint64_t deflated_most(uint64_t grain)
{
	return compressBound(grain);
}

static int zip(const char *from, uint64_t len, char *to, uint64_t *room)
{
	uLongf out = *room;
	int ret = compress((Bytef *)to, &out, (const Bytef *)from, len);

	*room = out;
	return ret == Z_OK ? 0 : ret == Z_MEM_ERROR ? -ENOMEM : -EIO;
}
#else
static uint64_t deflated_most(uint64_t grain)
{
	return grain;
}

static int zip(const char *from, uint64_t len, char *to, uint64_t *room)
{
	return -EOPNOTSUPP;
}
#endif

/* The first grain begins the stream anew: what was its tail goes. */
static int deflate_run(struct td_work *work)
{
	struct grain *grain = container_of(work, struct grain, work);
	struct vmdk_extent *e = grain->stream->e;
	struct vmdk_grain_marker marker = { .sector = to_le64(grain->req->offset / VMDK_SECTOR) };
	char *out = grain->out + TABLE_ROOM;
	uint64_t len = deflated_most(e->layout.grain);
	int err = grain->first ? td_file_truncate(e->file, e->layout.overhead) : 0;

	if (!err)
		err = zip(grain->data, e->layout.grain, out + sizeof(marker), &len);
	if (err)
		return err;
	marker.size = to_le32(len);
	memcpy(out, &marker, sizeof(marker));
	len += sizeof(marker);
	grain->len = round_up(len, VMDK_SECTOR);
	memset(out + len, 0, grain->len - len);
	return 0;
}

static void deflate_done(struct td_work *work, int err)
{
	struct grain *grain = container_of(work, struct grain, work);

	grain->deflated = true;
	grain->err = err;
	place_ready(grain->stream);
}

static int refused(struct vmdk_stream *s, const char *what)
{
	td_say(s->v->img, LOG_ERR, "is a stream: %s", what);
	return -EROFS;
}

/* 0: whole grains, each after those before it. */
static int write_fits(struct vmdk_stream *s, const struct td_req *req)
{
	uint64_t grain = s->e->layout.grain;

	if (!(req->flags & TD_COMPRESS) || req->offset % grain ||
	    (req->len != grain && (req->len > grain || req->offset + req->len != s->e->end)))
		return refused(s, "only tools write to it, whole grains, compressed");
	if (req->offset < s->next)
		return refused(s, "it is written once, forward");
	return s->failed;
}

static void begin(struct vmdk_stream *s, struct td_req *req)
{
	struct grain *grain = list_item(list_pop(&s->free), struct grain, link);

	list_add(&s->line, &grain->link);
	grain->req = req;
	grain->deflated = false;
	grain->first = !s->begun;
	s->begun = true;
	td_req_get(req, 0, grain->data, req->len);
	memset(grain->data + req->len, 0, s->e->layout.grain - req->len);
	td_work_start(req->queue, &grain->work);
}

static struct vmdk_stream *stream_of(const struct td_req *req)
{
	return ((struct vmdk *)req->image->state)->stream;
}

static void buffer_free(struct td_park *park, int err)
{
	struct td_req *req = container_of(park, struct waiting, park)->req;

	begin(stream_of(req), req);
}

static void wait_in(struct td_parks *parks, struct td_req *req, void (*go)(struct td_park *, int))
{
	struct waiting *waiting = td_scratch(req->image, req);

	waiting->park.go = go;
	waiting->req = req;
	td_parks_add(parks, &waiting->park);
}

static void stream_write(struct vmdk_stream *s, struct td_req *req)
{
	int err = write_fits(s, req);

	if (err) {
		td_end(req, err);
		return;
	}
	s->next = req->offset + req->len;
	if (list_empty(&s->free))
		wait_in(&s->for_buffer, req, buffer_free);
	else
		begin(s, req);
}

/* ---- flush ---------------------------------------------------------------------------- */

static void tail_written(struct td_park *park, int err)
{
	td_end(container_of(park, struct waiting, park)->req, err);
}

static void tail_done(struct td_work *work, int err)
{
	struct vmdk_stream *s = container_of(work, struct vmdk_stream, tail);
	struct td_parks waiting = s->for_tail;

	s->for_tail = s->late;
	s->late = (struct td_parks){ 0 };
	s->tail_runs = s->for_tail.first;
	s->dirty = err;
	if (s->tail_runs)
		td_work_start(s->v->img->queue, &s->tail);
	td_parks_go(&waiting, err);
	place_ready(s);
}

static void stream_flush(struct vmdk_stream *s, struct td_req *req)
{
	if (s->failed || (!s->dirty && !s->tail_runs)) {
		td_end(req, s->failed);
		return;
	}
	wait_in(s->tail_runs ? &s->late : &s->for_tail, req, tail_written);
	if (s->tail_runs)
		return;
	s->tail_runs = true;
	td_work_start(req->queue, &s->tail);
}

void vmdk_stream_submit(struct vmdk_stream *s, struct td_req *req)
{
	if (req->op == TD_WRITE)
		stream_write(s, req);
	else if (req->op == TD_FLUSH)
		stream_flush(s, req);
	else
		td_end(req, refused(s, "while it is being written nothing else can be done"));
}

/* ---- open and close ------------------------------------------------------------------- */

int vmdk_stream_may(const struct vmdk_extent *e, struct td_why *why)
{
	const char *path = td_file_path(e->file);

	if (!e->layout.stream)
		return td_fail(why, -ENOTSUP, "%s: is compressed: it can be read, not written", path);
	for (uint64_t i = 0; i < e->layout.tables; i++)
		if (e->table[0][i])
			return td_fail(why, -ENOTSUP, "%s: is a stream: it can be read, not written "
				       "(it was, once)", path);
#ifdef HAVE_ZLIB
	return 0;
#else
	return td_fail(why, -ENOTSUP, "%s: this blktap is built without zlib: it writes no "
		       "streams", path);
#endif
}

int vmdk_stream_open(struct vmdk *v, struct vmdk_extent *e, struct td_why *why)
{
	struct vmdk_stream *s = v->stream = calloc(1, sizeof(*s));
	uint64_t out = round_up(TABLE_ROOM + sizeof(struct vmdk_grain_marker) +
				deflated_most(e->layout.grain) + VMDK_SECTOR, 4096);
	uint64_t one = round_up(e->layout.grain, 4096) + out;

	if (s)
		s->arena = aligned_alloc(4096, BUFFERS * one);
	if (!s || !s->arena)
		return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(e->file));
	s->v = v;
	s->e = e;
	s->at = e->layout.overhead;
	s->tail.run = tail_run;
	s->tail.done = tail_done;
	list_init(&s->free);
	list_init(&s->line);
	for (unsigned i = 0; i < BUFFERS; i++) {
		struct grain *grain = &s->grain[i];

		grain->stream = s;
		grain->out = s->arena + i * one;
		grain->data = grain->out + out;
		grain->work.run = deflate_run;
		grain->work.done = deflate_done;
		grain->io = td_req_new(v->img->queue, v->img);
		if (!grain->io)
			return td_fail(why, -ENOMEM, "%s: no memory", td_file_path(e->file));
		list_add(&s->free, &grain->link);
	}
	return 0;
}

void vmdk_stream_close(struct vmdk_stream *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < BUFFERS; i++)
		td_req_free(s->grain[i].io);
	free(s->arena);
	free(s);
}
