/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * <blktap/driver.h>: the only header a disk driver needs.
 *
 * A driver is one constant table, struct td_driver. It turns requests on an
 * image into ended requests. In-tree drivers and plug-ins use the same table
 * and the same functions. docs/writing-a-driver.md is the tutorial.
 *
 *   guest -> transport -> core -> submit() -+-> td_end()    it is answered
 *                                           +-> td_pass()   the image below
 *                                           +-> td_io()     I/O on a file
 *                                           +-> td_child()  several of these
 *                                           +-> td_wait()   try again later
 *
 * The rules, all of them:
 *  - Every request given to submit() ends exactly once. After td_end(),
 *    td_pass(), td_io() or td_wait() it is gone: do not touch it again, except
 *    in the step that was asked for. A failure to queue is a completion.
 *  - Nothing blocks in submit(), in a step or in a deferred call. What must
 *    block goes to td_work_start(). open, close, create, check and info run
 *    before the first or after the last request and may block.
 *  - The core has checked offset, length, read-only and capabilities before
 *    submit() sees a request. A driver may assert it.
 *  - All functions below are called on the thread of the request's queue. A
 *    driver meets one thread, the home queue's, unless it says that it can
 *    serve several at once (TD_CAN_ANY_QUEUE, submit_away).
 *  - Functions returning int return 0 or -errno; results leave through the
 *    last pointer and only on success.
 * Offsets and lengths are bytes throughout.
 */
#ifndef BLKTAP_DRIVER_H
#define BLKTAP_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Changed when a field of this header moves or changes meaning. */
#define TD_DRIVER_ABI 3

struct td_queue; /* one thread of a disk, with its event loop and I/O engine */
struct td_files; /* opens files under the policy of the disk */
struct td_file;  /* an open file or block device */
struct td_image;
struct td_req;

/* ---- words for people ------------------------------------------------- */

/* One line that says what was wrong, filled by whoever found it. */
struct td_why {
	char text[512];
};

/*
 * Fills *why (may be NULL) and returns err, so that a check reads
 *     return td_fail(why, -EINVAL, "%s: no qcow magic", path);
 */
int td_fail(struct td_why *why, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * One line about img in the log, under its disk's name. level: LOG_ERR ...
 * LOG_DEBUG of <syslog.h>. At most 10 in 10 seconds: a guest may be the cause.
 * On the queue's thread, or in open and close.
 */
void td_say(struct td_image *img, int level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- queues ------------------------------------------------------------ */

unsigned td_queue_index(const struct td_queue *queue); /* 0: the home queue */
unsigned td_queue_count(const struct td_queue *queue); /* of its disk */

/* ---- requests ---------------------------------------------------------- */

enum td_op {
	TD_READ,
	TD_WRITE,
	TD_FLUSH,        /* all writes that ended before it are made durable */
	TD_DISCARD,      /* content is no longer needed; advisory, content after
	                    it: zeroes or what was there, never other data */
	TD_WRITE_ZEROES, /* reads as zeroes after it */
	TD_EXTENTS,      /* what is at offset? answer in extent */
};
#define TD_OPS 6

enum td_flag {
	TD_FUA = 1 << 0,       /* WRITE, WRITE_ZEROES: durable when it ends.
	                          Only drivers with TD_CAN_FUA see it on WRITE;
	                          nobody sees it on WRITE_ZEROES */
	TD_MAY_UNMAP = 1 << 1, /* WRITE_ZEROES: may free the space */
	TD_COMPRESS = 1 << 2,  /* WRITE of one whole cluster, or of what the disk has
	                          of its last: stored compressed if that saves
	                          space. Only drivers with TD_CAN_COMPRESS see it */
};

enum td_extent_flag {
	TD_EXTENT_HOLE = 1 << 0, /* takes no space in any image of the chain */
	TD_EXTENT_ZERO = 1 << 1, /* reads as zeroes */
	TD_EXTENT_BELOW = 1 << 8, /* times the number of images that it was passed
	                             down: the core counts them */
};

/* How far below the image that was asked the answer is from; 0: its own. */
static inline unsigned td_extent_depth(unsigned flags)
{
	return flags / TD_EXTENT_BELOW;
}

struct td_extent {
	uint64_t len;    /* from the request's offset; > 0, may pass its end */
	unsigned flags;  /* enum td_extent_flag; 0: data */
	/* Where the bytes are, as they are stored: set by td_io(). NULL: not said, or in
	 * no one place (none, in parts, compressed). Valid while the disk is open. */
	struct td_file *file;
	uint64_t at;
};

/* Called when a child has ended; the child is the driver's again. */
typedef void td_step(struct td_req *req);

struct td_req {
	enum td_op       op;
	unsigned         flags;   /* enum td_flag */
	uint64_t         offset;  /* multiple of the image's block_size */
	uint64_t         len;     /* likewise; 0 for FLUSH */
	const struct iovec *iov;  /* READ, WRITE: memory of len bytes in all */
	unsigned         iov_count;
	int              err;     /* in a step: how the child ended */
	struct td_extent extent;  /* EXTENTS: set before td_end(req, 0) */
	struct td_image *image;   /* whose submit() has it */
	struct td_queue *queue;
	struct td_req   *parent;  /* of a child; NULL: a request of a transport,
	                             or td_req_new()'s */
	td_step         *step;    /* of a child; NULL: ends its parent's share */
	void            *user;    /* a child's: free for the driver's use */
};

/*
 * Gives back one share of req. A request starts with one share, and each child
 * holds one more. The first error (err < 0) wins. With the last share the
 * request ends.
 */
void td_end(struct td_req *req, int err);

/*
 * Hands req to the image below, at the same offset. What lies past that image's
 * end, and everything where there is no image below, reads as zeroes. READ and
 * EXTENTS only: an image below is never written. A child comes back to its step
 * with image, offset, len and iov as they were.
 */
void td_pass(struct td_req *req);

/*
 * Does req on a file: its op over [at, at + req->len), then ends req. Takes
 * READ, WRITE (TD_FUA honoured), FLUSH, DISCARD, WRITE_ZEROES and EXTENTS.
 * Any alignment of memory, offset and length works; unaligned ones cost a copy.
 */
void td_io(struct td_req *req, struct td_file *file, uint64_t at);

/*
 * Likewise, but req comes back to step, with its error in req->err, and is ended
 * there: for who must know when I/O has ended, and needs no child for it.
 */
void td_io_step(struct td_req *req, struct td_file *file, uint64_t at, td_step *step);

/*
 * A new child of parent, holding one share of it; NULL when none is free right
 * now: answer with td_wait(). It is aimed with td_slice() or td_buffer(), then
 * given to td_io() or td_pass(), or ended with td_end().
 *
 * A child without a step ends its share of the parent with its error. A child
 * with a step is given back to the driver by that call: there it is aimed again
 * and sent on, or ended with td_end(kid, 0), which keeps its err.
 *
 * Never take children of a child of your own: they come from one reserve per
 * image. Who asks while others wait in td_wait() gets none, and waits behind them.
 */
struct td_req *td_child(struct td_req *parent);

/* In submit(): it was sent home from another queue. */
bool td_req_was_sent(const struct td_req *req);

/* Aims kid at bytes [pos, pos + len) of its parent's data: same op and flags,
 * kid->offset = parent->offset + pos. */
void td_slice(struct td_req *kid, uint64_t pos, uint64_t len);

/* Aims kid at memory of the driver's own, which must stay until kid ends.
 * buf may be NULL for operations that carry no data. */
void td_buffer(struct td_req *kid, enum td_op op, void *buf, uint64_t len);

/*
 * Parks req, one that submit() was given, and calls again(req) when a child of
 * this image has ended; at once, from the loop, if there is none. It may find too
 * few and wait again. Children that req has already must be able to end meanwhile.
 */
void td_wait(struct td_req *req, td_step *again);

/* The driver's own req_size bytes in req; zeroed when submit() gets it, and
 * for a child when td_child() makes it. */
void *td_scratch(const struct td_image *img, const struct td_req *req);

/*
 * A request of the driver's own, with no parent: for I/O on behalf of many, such
 * as metadata pages. Made in open, reused with td_buffer(), td_io() and a step
 * (which is required), freed in close. NULL: no memory.
 */
struct td_req *td_req_new(struct td_queue *queue, struct td_image *img);
void td_req_free(struct td_req *req);

/* The data of a READ or WRITE at [pos, pos + len): copy in and out, zero. */
void td_req_put(struct td_req *req, uint64_t pos, const void *from, size_t len);
void td_req_get(const struct td_req *req, uint64_t pos, void *to, size_t len);
void td_req_zero(struct td_req *req, uint64_t pos, uint64_t len);

/* ---- calls for later --------------------------------------------------- */

/* Runs once, on the queue's thread, at the end of the current turn of the loop
 * and before its I/O goes to the kernel: the place to gather a batch. */
struct td_defer {
	void           (*run)(struct td_defer *defer);
	struct td_defer *next;   /* private */
	bool             queued; /* private */
};
/* Scheduling one that is scheduled already does nothing. */
void td_defer(struct td_queue *queue, struct td_defer *defer);
/* Takes a scheduled call back; in close. */
void td_undefer(struct td_queue *queue, struct td_defer *defer);

/* Calls ring(arg) once, on the queue's thread, some milliseconds after it was set;
 * setting it again moves it. Made in open, freed in close. NULL: no memory. */
struct td_alarm;
struct td_alarm *td_alarm_new(struct td_queue *queue, void (*ring)(void *arg), void *arg);
void td_alarm_set(struct td_alarm *alarm, unsigned ms);
bool td_alarm_is_set(const struct td_alarm *alarm);
void td_alarm_free(struct td_alarm *alarm); /* NULL is fine */

/*
 * Calls ready(watch, events) on the queue's thread while the descriptor is ready for
 * what is waited for: EPOLLIN, EPOLLOUT ... of <sys/epoll.h>. For drivers whose I/O
 * is not on files: sockets, descriptors of a library.
 */
struct td_watch {
	int fd;          /* these two are set by the driver, and kept while it watches */
	void (*ready)(struct td_watch *watch, uint32_t events);
	uint32_t events; /* private; zeroed at first */
};
/* Waits for events, and for nothing else; 0 ends it, which cannot fail: before fd is
 * closed. ready() is not called any more then, in this turn of the loop either. */
int td_watch(struct td_queue *queue, struct td_watch *watch, uint32_t events);

/* Runs run() on a worker thread, then done() on the queue's thread. */
struct td_work {
	int            (*run)(struct td_work *work);           /* may block */
	void           (*done)(struct td_work *work, int err); /* run's result */
	struct td_work  *next; /* private */
	void            *home; /* private */
	int              err;  /* private */
};
void td_work_start(struct td_queue *queue, struct td_work *work);

/* ---- files ------------------------------------------------------------- */

enum td_file_flag {
	TD_FILE_WRITE = 1 << 0,     /* open for writing, with exclusive lock */
	TD_FILE_CREATE = 1 << 1,    /* create; fails if it exists */
	TD_FILE_ZERO_TAIL = 1 << 2, /* reads past the end give zeroes, not EIO */
	TD_FILE_SHARED = 1 << 3,    /* several writers are meant: shared lock */
};

/*
 * Opens path with O_DIRECT, finds the alignment it demands and locks it, with
 * QEMU's lock bytes too: writers exclude everybody, readers exclude writers.
 * files is img->files. Errors name the path. The file belongs to the caller.
 */
int td_file_open(struct td_files *files, const char *path, unsigned flags,
		 struct td_file **out, struct td_why *why);
void td_file_close(struct td_file *file);  /* NULL is fine */

/*
 * In create: a new file that has what fill() writes to it. It is durable when this
 * returns, or there is no such file.
 */
int td_file_make(struct td_files *files, const char *path,
		 int (*fill)(struct td_file *file, const void *plan), const void *plan,
		 struct td_why *why);

const char *td_file_path(const struct td_file *file);
uint64_t td_file_size(const struct td_file *file);   /* now; files grow */
uint32_t td_file_align(const struct td_file *file);  /* offsets, lengths */
bool td_file_is_device(const struct td_file *file);  /* a block device */
/* Its last name is gone: nobody will open it again. */
bool td_file_is_removed(const struct td_file *file);
bool td_file_can_discard(const struct td_file *file); /* opened for writing */
bool td_file_same(const struct td_file *a, const struct td_file *b);

/* Blocking forms, for open, close, create, check, info and td_work. Any
 * alignment; a read past the end is -EIO, or zeroes with TD_FILE_ZERO_TAIL. */
int td_file_read(struct td_file *file, void *buf, size_t len, uint64_t at);
int td_file_write(struct td_file *file, const void *buf, size_t len, uint64_t at);
int td_file_sync(struct td_file *file);
/* Gives the space of [at, at + len) back where that can be done; it reads as zeroes
 * then, or as it did. */
int td_file_punch(struct td_file *file, uint64_t at, uint64_t len);
/* Makes [at, at + len) read as zeroes, with its space if that is as easy. */
int td_file_zero(struct td_file *file, uint64_t at, uint64_t len);
/* Sets the length of a regular file; new space reads as zeroes. */
int td_file_truncate(struct td_file *file, uint64_t size);
/* Reserves space that reads as zeroes at [at, at + len), which lies at or past
 * the end, and lets the file grow over it. Falls back to sparse growth where
 * the file system cannot reserve. -ENOSPC leaves the size as it was. */
int td_file_allocate(struct td_file *file, uint64_t at, uint64_t len);

/* ---- survivor memory --------------------------------------------------- */

/*
 * Memory for changed blocks of a file that is open for writing; it outlives the
 * process. If that is killed, whoever opens the file for writing next gets the
 * file with these blocks written into it, stage by stage with a barrier between,
 * before td_file_open() returns. So a change is safe from a kill as soon as it is
 * stored here. <blktap/format.h> has the cache that uses it.
 *
 * count pages of page bytes (a power of two, 512 to 4096). All changes of a page
 * are single stores, in an order that makes sense at every instant, and begin
 * after td_survivor_dirty().
 */
#define TD_STAGES 8
struct td_survivor;
int td_survivor_new(struct td_file *file, uint32_t page, uint32_t count,
		    struct td_survivor **out, struct td_why *why);
/* keep: the file lacks some of it; else it is removed. NULL is fine. */
void td_survivor_free(struct td_survivor *survivor, bool keep);
void *td_survivor_pages(const struct td_survivor *survivor);
/* Before a page is first touched; -ENOSPC: there is no memory for it. */
int td_survivor_use(struct td_survivor *survivor, uint32_t slot);
/* The page holds what the file has at that offset, and is about to be changed. */
void td_survivor_dirty(struct td_survivor *survivor, uint32_t slot, uint64_t at,
		       unsigned stage);
/* That copy of it is about to be written to the file. */
void td_survivor_writing(struct td_survivor *survivor, uint32_t slot, const void *copy);
/* It has been; clean: the page has not changed since it was copied. */
void td_survivor_written(struct td_survivor *survivor, uint32_t slot, int err, bool clean);

/* ---- images ------------------------------------------------------------ */

enum td_can {
	TD_CAN_WRITE        = 1 << 0, /* also: FLUSH */
	TD_CAN_FUA          = 1 << 1, /* else the core adds a flush */
	TD_CAN_DISCARD      = 1 << 2, /* else refused, and not offered */
	TD_CAN_WRITE_ZEROES = 1 << 3, /* else the core writes zeroes */
	TD_CAN_EXTENTS      = 1 << 4, /* else all is data */
	TD_CAN_SHARE        = 1 << 5, /* several disks may write it: shared=on */
	TD_CAN_COMPRESS     = 1 << 6, /* takes WRITE with TD_COMPRESS, else refused */
	TD_CAN_STREAM       = 1 << 7, /* takes nothing but such, each behind those before
	                                 it, into an empty image: for tools */
	TD_CAN_ANY_QUEUE    = 1 << 8, /* submit() may be called on every queue's thread,
	                                 at the same time; else on the home queue's */
};

/* One image of a disk's chain. */
struct td_image {
	/* set by the core before open */
	const struct td_driver *driver;
	const char      *target;     /* what follows "type:", mostly a path */
	bool             read_only;  /* not one byte of any file may change */
	bool             shared;     /* shared=on was asked for */
	bool             repair;     /* to be repaired by check(): damage that is marked
	                                is no reason not to open it for writing */
	bool             keyless;    /* opened for what needs no key of an encrypted image:
	                                no request for data will come */
	bool             encrypted;  /* set by open: its data are */
	struct td_files *files;
	struct td_queue *queue;      /* the home queue */
	void            *state;      /* state_size bytes, zeroed, then options */
	/* set by open */
	uint64_t         size;       /* bytes; a multiple of block_size, > 0 */
	uint32_t         block_size; /* logical sector; 512 if left 0 */
	uint32_t         can;        /* enum td_can; preset from the driver's,
	                                open may clear bits */
	uint32_t         cluster;    /* bytes that are cheap to write whole, and
	                                to discard; block_size if left 0 */
	struct td_image *below;      /* by td_image_open_below() */
	/* the core's */
	size_t           scratch_at;
	void            *core;
};

/*
 * Opens "type:target[,key=value...]" read-only as the image below img. Refuses
 * chains deeper than 32 and images that are in the chain already. Relative
 * paths are taken from the folder of from_file (may be NULL); SCHEME://... is no
 * path, and taken as it is; "raw" at an nbd URI is opened by the nbd driver.
 */
int td_image_open_below(struct td_image *img, const char *type,
			const char *target, const char *from_file,
			struct td_why *why);

/* ---- keys -------------------------------------------------------------- */

/* The passphrase or key of an encrypted image. Who makes something else of it that is
 * secret wipes that. */
struct td_key {
	const void    *data;
	size_t         len;
	struct td_key *next; /* private */
};

/*
 * In open of an image that is encrypted, and not keyless: the nth key, from 0, of those
 * that were given for the disk, by key-file= and key-fd= of its specification or
 * otherwise; where there is none at all, a program at a terminal asks for it. It stays
 * until open has returned. -ENOKEY: there are no more.
 */
int td_image_key(struct td_image *img, unsigned nth, const struct td_key **out);

/* ---- options ----------------------------------------------------------- */

enum td_option_kind {
	TD_STRING,  /* char *, freed by the core after close */
	TD_BOOL,    /* bool: on, off, true, false, yes, no, 1, 0 */
	TD_UINT,    /* uint64_t */
	TD_SIZE,    /* uint64_t bytes; suffixes K M G T (powers of 1024) */
};

/* Ends with a row whose name is NULL. Unknown keys are errors. */
struct td_option {
	const char         *name;
	enum td_option_kind kind;
	size_t              at;     /* offsetof in the driver's state */
	const char         *help;   /* unit, range, default */
};

/* ---- the table --------------------------------------------------------- */

/* What create() is to make. Strings belong to the caller. */
struct td_create {
	const char      *path;
	uint64_t         size;         /* 0 with a backing image: take its size */
	const char      *backing;      /* NULL: none */
	uint64_t         backing_size; /* bytes, when backing is set */
	uint32_t         cluster;      /* 0: the format's default */
	bool             reserve;      /* all space is to be taken now */
	struct td_files *files;
	const char      *backing_format; /* its type, when backing is set */
	const void      *options;      /* the driver's create_size bytes, zeroed, then
	                                  its create_options; NULL: all zero */
	const char      *name;         /* that path will be renamed to, for images of
	                                  several files; NULL: path */
	const struct td_key *key;     /* of an image that is to be encrypted; NULL: none */
};

/* What check() is asked to put right. */
enum td_repair {
	TD_REPAIR_NOTHING,
	TD_REPAIR_LEAKS,      /* space that nobody refers to is freed */
	TD_REPAIR_ALL,        /* also what is corrupt, as well as can be */
};

/* What check() found. */
struct td_check {
	uint64_t corruptions; /* readers may get wrong data */
	uint64_t leaks;       /* clusters or bytes nobody refers to: harmless */
	uint64_t allocated;   /* clusters in use */
	uint64_t total;       /* clusters in the image */
	uint64_t compressed;  /* clusters */
	/* told by td_check_found(), at most 20 times; may be NULL */
	void   (*say)(void *arg, const char *text);
	void    *arg;
	enum td_repair repair; /* asked for; the image is open for writing then */
	uint64_t corruptions_fixed, leaks_fixed; /* of those counted above */
};

/* Counts a corruption, and tells it in one line of at most 599 bytes. */
void td_check_found(struct td_check *check, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* What measure() says of the file that create() would make. */
struct td_measure {
	uint64_t tables;      /* bytes that it has, whatever is in the disk */
	uint64_t unit;        /* of the disk's aligned units of so many bytes, each that
	                         has data takes as much more; 0: none does */
	uint64_t beside;      /* bytes that each of these takes beside its data */
};

/* Receives info()'s rows, in order. */
typedef void td_info_put(void *arg, const char *key, const char *value);
void td_info_number(td_info_put *put, void *arg, const char *key, uint64_t n);

/* Snapshots kept within an image. */
enum td_snapshot_op {
	TD_SNAPSHOT_LIST,     /* each is told to put() */
	TD_SNAPSHOT_MAKE,     /* of what the disk holds now */
	TD_SNAPSHOT_APPLY,    /* the disk holds what it held then */
	TD_SNAPSHOT_DELETE,
};

struct td_snapshot {
	const char *id, *name;
	uint64_t    size;     /* of the disk then, bytes */
	uint64_t    made_s;   /* when, in seconds since 1970 */
	uint64_t    state_size; /* of a machine's state kept with it; 0: none */
};

struct td_snapshots {
	enum td_snapshot_op op;
	const char *name;     /* or id; NULL for LIST */
	void      (*put)(void *arg, const struct td_snapshot *snapshot);
	void       *arg;
};

struct td_driver {
	uint32_t    abi;        /* TD_DRIVER_ABI */
	uint32_t    size;       /* sizeof(struct td_driver) */
	const char *name;       /* the type in "type:target": [a-z0-9_-]+ */
	const char *summary;    /* a line for --help */
	uint32_t    can;        /* enum td_can */
	uint32_t    state_size; /* private bytes per image */
	uint32_t    req_size;   /* private bytes per request: td_scratch() */
	const struct td_option *options; /* NULL: none */

	/* On failure open leaves nothing behind; close is then not called. */
	int  (*open)(struct td_image *img, struct td_why *why);
	void (*close)(struct td_image *img);
	void (*submit)(struct td_queue *queue, struct td_image *img,
		       struct td_req *req);

	/* For formats; NULL where they make no sense. */
	int  (*create)(const struct td_create *make, struct td_why *why);
	int  (*check)(struct td_image *img, struct td_check *check,
		      struct td_why *why);
	int  (*info)(struct td_image *img, td_info_put *put, void *arg);

	/* Whether a file, opened for reading, looks like one of this format: for
	 * words to people only. */
	bool (*looks_like)(struct td_file *file);
	/* What create() takes beside the fields of td_create. */
	const struct td_option *create_options;
	uint32_t    create_size; /* bytes of td_create.options */
	/* The most that check() can repair. */
	enum td_repair repairs;
	int  (*measure)(const struct td_create *make, struct td_measure *out,
			struct td_why *why);

	/* For an image that is open for writing, while no request is under way; what
	 * they did is durable when they return. */
	/* Makes the disk larger or smaller, and sets img->size. New space reads as
	 * zeroes. Requests that came before and come after may be a guest's. */
	int  (*resize)(struct td_image *img, uint64_t size, struct td_why *why);
	/* Names another backing image, as create() would, or none (NULL). The
	 * content is the caller's business; the chain stays as it was opened. A
	 * driver that has this may find that td_image_open_below() succeeds and
	 * leaves img->below NULL: then this alone will be called. */
	int  (*set_backing)(struct td_image *img, const char *backing, const char *format,
			    struct td_why *why);
	/* LIST: of an image open for reading too. */
	int  (*snapshot)(struct td_image *img, const struct td_snapshots *ask,
			 struct td_why *why);
	/* Removes the files that create(), which succeeded, made beside make->path, for
	 * images of several. */
	void (*unmake)(const struct td_create *make);

	/* That all of a READ would be passed on to the image below, if that can be told at
	 * once: then submit() is not asked. Called where submit() would be, and only of an
	 * image that lies below another: what it says once is remembered. */
	bool (*is_hole)(struct td_image *img, uint64_t offset, uint64_t len);

	/* For a driver that lives at home: a READ or WRITE without flags that comes from
	 * another queue, on that queue's thread, at the same time as all else. True: it has
	 * taken the request as submit() does, but makes no children of it. False: it has
	 * done nothing; the request will be sent to submit(). */
	bool (*submit_away)(struct td_queue *queue, struct td_image *img,
			    struct td_req *req);
};

/* A plug-in is NAME.so in the plug-in folder with one such line:
 *     TD_PLUGIN(my_driver);
 */
#define TD_PLUGIN_SYMBOL "td_plugin_driver"
#define TD_PLUGIN(driver) \
	__attribute__((visibility("default"))) \
	extern const struct td_driver *const td_plugin_driver; \
	const struct td_driver *const td_plugin_driver = &(driver)

#endif
