/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The power-cut explorer. Again and again:
 *
 *   run      a random workload on a fresh image, file operations shuffled,
 *            written down (record.c)
 *   cut      at every instant, with all the ways in which what was not synced
 *            may have happened where these are few, and the telling ones (all,
 *            none, one missing, one only, torn) and random ones where not (cut.c)
 *   look     the file that is left opens read-only, its check finds nothing, and
 *            every sector holds what the promises allow
 *   go on    it opens for writing, and takes writes everywhere; a cluster with
 *            two owners shows now
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cut.h"
#include "drivers/builtin.h"

#define DISK_SIZE (2 * MiB + 384 * KiB) /* two tables of 4 KiB */
#define FLYING 6

struct explorer {
	struct suite suite;
	unsigned states, per_run; /* wanted in all, and of one run */
	unsigned seconds;         /* instead of states, when given */
	unsigned done, kills, runs, steps;
	struct target state;      /* the image of a cut */
	struct record record;
};

/* What is being looked at, for fail(). */
static const struct explorer *looking;
static const struct cut *looking_at;

static void scratch_remove(const struct explorer *ex)
{
	char command[400];

	snprintf(command, sizeof(command), "rm -rf -- '%s'", ex->suite.dir);
	if (system(command))
		fprintf(stderr, "%s: not removed\n", ex->suite.dir);
}

void fail(const char *fmt, ...)
{
	va_list args;

	printf("not ok: ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	if (looking)
		printf("# seed %llu, run %u, after %u states\n",
		       (unsigned long long)looking->suite.seed, looking->runs, looking->done);
	if (looking_at)
		cut_print(&looking->record, looking_at);
	fflush(stdout);
	if (looking)
		scratch_remove(looking);
	_exit(1);
}

void skip(const char *fmt, ...)
{
	va_list args;

	printf("skipped: ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	if (looking)
		scratch_remove(looking);
	exit(77);
}

/* ---- the workload -------------------------------------------------------------- */

static enum td_op op_pick(struct rig *rig, struct rnd *rnd)
{
	uint64_t n = rnd_below(rnd, 100);

	if (n < 62)
		return TD_WRITE;
	if (n < 74)
		return TD_WRITE_ZEROES;
	if (n < 82 && rig->can & TD_CAN_DISCARD)
		return TD_DISCARD;
	return TD_FLUSH;
}

/* A few hot places in each table, parts of clusters, whole ones, several. */
static void span_pick(struct rig *rig, struct rnd *rnd, struct io *io)
{
	static const unsigned sectors[] = { 1, 3, 8, 8, 16, 70, 260 };
	uint64_t hot = rnd_below(rnd, 5) * 480 * KiB;
	uint64_t at = rnd_below(rnd, 4) ? hot + rnd_below(rnd, 400) * SECTOR :
		rnd_below(rnd, rig->size / SECTOR) * SECTOR;
	uint64_t len = sectors[rnd_below(rnd, ARRAY_SIZE(sectors))] * SECTOR;

	if (rnd_below(rnd, 2))
		at = round_down(at, 4096);
	io->offset = min_u64(at, rig->size - SECTOR);
	io->len = min_u64(len, rig->size - io->offset);
}

static bool overlaps(const struct io *a, const struct io *b)
{
	return a->len && b->len && a->offset < b->offset + b->len &&
	       b->offset < a->offset + a->len;
}

struct flight {
	struct io io;
	unsigned ask;
	bool up, told;
};

/* The answer counts from when it is seen: in the turn that brings it. */
static void note_answers(struct record *record, struct flight *flight)
{
	for (unsigned i = 0; i < FLYING; i++) {
		if (!flight[i].up || flight[i].told || !flight[i].io.ended)
			continue;
		flight[i].told = true;
		record_answered(record, flight[i].ask, flight[i].io.err);
	}
}

static void land(struct rig *rig, struct record *record, struct flight *all, struct flight *one)
{
	while (!one->io.ended) {
		rig_turn(rig);
		note_answers(record, all);
	}
	note_answers(record, all);
	int err = io_wait(&one->io);
	require(!err, "the workload met an error: %s", strerror(-err));
	io_free(&one->io);
	one->up = false;
}

static void run_workload(struct explorer *ex, struct rig *rig, struct rnd *rnd)
{
	struct flight flight[FLYING] = { 0 };
	unsigned since_flush = 0;

	for (unsigned i = 0; i < ex->steps; i++) {
		struct io io = { .op = op_pick(rig, rnd), .tag = TAG_FIRST + i };
		if (++since_flush > 7)
			io.op = TD_FLUSH;
		if (io.op == TD_FLUSH)
			since_flush = 0;
		else
			span_pick(rig, rnd, &io);
		if (io.op == TD_WRITE && !rnd_below(rnd, 9))
			io.flags = TD_FUA;
		if (io.op == TD_WRITE_ZEROES && rnd_below(rnd, 2))
			io.flags = TD_MAY_UNMAP;
		for (unsigned j = 0; j < FLYING; j++)
			if (flight[j].up && (overlaps(&flight[j].io, &io)))
				land(rig, &ex->record, flight, &flight[j]);
		unsigned slot = rnd_below(rnd, FLYING);
		if (flight[slot].up)
			land(rig, &ex->record, flight, &flight[slot]);
		flight[slot] = (struct flight){ .io = io, .up = true };
		flight[slot].ask = record_asked(&ex->record, &io);
		io_start(rig, &flight[slot].io);
		note_answers(&ex->record, flight);
		for (uint64_t turns = rnd_below(rnd, 5); turns; turns--) {
			rig_turn(rig);
			note_answers(&ex->record, flight);
		}
	}
	for (unsigned j = 0; j < FLYING; j++)
		if (flight[j].up)
			land(rig, &ex->record, flight, &flight[j]);
}

static void record_run(struct explorer *ex, struct rnd *rnd)
{
	struct suite *suite = &ex->suite;
	struct target target;
	struct rig rig;
	struct td_why why = { "" };

	suite->shuffle = true;
	suite->seed = rnd_next(rnd);
	target_make(suite, DISK_SIZE, &target);
	rig_prepare(&rig, suite);
	record_start(&ex->record, &rig, &target);
	int err = rig_try_open(&rig, &target, &why);
	require(!err, "open: %s (%s)", why.text, strerror(-err));
	ex->record.disk_size = rig.size;
	run_workload(ex, &rig, rnd);
	if (rnd_below(rnd, 2)) { /* half of the runs: the close is part of it */
		rig_close(&rig);
	} else {
		rig.options.hook = NULL;
		uint64_t clock = ex->record.clock;
		unsigned deeds = ex->record.deeds;
		rig_close(&rig);
		ex->record.clock = clock;
		while (ex->record.deeds > deeds)
			free(ex->record.deed[--ex->record.deeds].data);
	}
	rig_end(&rig);
	unlink(target.path);
	suite->shuffle = false;
}

/* ---- looking at what is left ------------------------------------------------------ */

static bool all_zero(const char *data, size_t len)
{
	return !data[0] && !memcmp(data, data + 1, len - 1);
}

static void state_write(const struct explorer *ex, const char *data, uint64_t size)
{
	int fd = open(ex->state.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	require(fd >= 0 && !ftruncate(fd, size), "%s: %s", ex->state.path, strerror(errno));
	for (uint64_t at = 0; at < size; at += 4096) {
		size_t n = min_u64(4096, size - at);
		if (all_zero(data + at, n))
			continue;
		require(pwrite(fd, data + at, n, at) == (ssize_t)n, "%s: %s", ex->state.path,
			strerror(errno));
	}
	close(fd);
}

static void state_open(struct explorer *ex, struct rig *rig, bool read_only,
		       struct model *model)
{
	struct td_why why = { "" };

	rig_prepare(rig, &ex->suite);
	rig->options.read_only = read_only;
	rig->model = *model;
	int err = rig_try_open(rig, &ex->state, &why);
	require(!err, "open %s: %s (%s)", read_only ? "read-only" : "for writing", why.text,
		strerror(-err));
}

/* Every second piece, then all others: who shares a place is found out. */
static void write_everywhere(struct rig *rig)
{
	enum { PIECE = 64 * KiB, COUNT = (DISK_SIZE / PIECE + 2) / 2 };
	static struct io io[COUNT];

	for (unsigned odd = 0; odd < 2; odd++) {
		unsigned count = 0;
		for (uint64_t at = odd * PIECE; at < rig->size; at += 2 * PIECE) {
			io[count] = (struct io){ .op = TD_WRITE, .offset = at, .tag = 1000000,
						 .len = min_u64(PIECE, rig->size - at) };
			io_start(rig, &io[count++]);
		}
		for (unsigned i = 0; i < count; i++) {
			int err = io_wait(&io[i]);
			require(!err, "write after the cut: %s", strerror(-err));
			model_set(&rig->model, io[i].offset, io[i].len, io[i].tag);
			io_free(&io[i]);
		}
		rig_expect_all(rig);
	}
	rig_do(rig, TD_FLUSH, 0, 0, 0);
}

static void look_at(struct explorer *ex, const struct cut *cut)
{
	struct model model = { 0 };
	struct rig rig;
	uint64_t size;
	char *data = cut_file(&ex->record, cut, &size);

	looking_at = cut;
	state_write(ex, data, size);
	free(data);
	cut_model(&ex->record, cut, &model);
	state_open(ex, &rig, true, &model);
	rig_check(&rig);
	rig_expect_all(&rig);
	model = rig.model;
	rig_close(&rig);
	state_open(ex, &rig, false, &model);
	write_everywhere(&rig);
	rig_check(&rig);
	int err = rig_close(&rig);
	require(!err, "close: %s", strerror(-err));
	rig_end(&rig);
	looking_at = NULL;
	ex->done++;
	ex->kills += cut->kill;
}

/* ---- which cuts -------------------------------------------------------------------- */

struct cuts {
	struct cut *cut;
	uint64_t *hash;
	unsigned count, room;
	unsigned telling; /* of them, the first: just after an answer */
};

static void cuts_add(struct explorer *ex, struct cuts *cuts, const struct cut *cut)
{
	uint64_t hash = cut_hash(&ex->record, cut);

	for (unsigned i = 0; i < cuts->count; i++)
		if (cuts->hash[i] == hash)
			return;
	if (cuts->count == cuts->room) {
		cuts->room = cuts->room * 2 + 256;
		cuts->cut = realloc(cuts->cut, cuts->room * sizeof(*cuts->cut));
		cuts->hash = realloc(cuts->hash, cuts->room * sizeof(*cuts->hash));
	}
	cuts->hash[cuts->count] = hash;
	cuts->cut[cuts->count++] = *cut;
}

static void set_all(struct cut *cut, enum fate fate)
{
	memset(cut->fate, fate, cut->frees);
}

static void add_all_subsets(struct explorer *ex, struct cuts *cuts, struct cut *cut)
{
	for (unsigned set = 0; set < 1u << cut->frees; set++) {
		for (unsigned i = 0; i < cut->frees; i++)
			cut->fate[i] = set >> i & 1 ? DONE : LOST;
		cuts_add(ex, cuts, cut);
	}
}

/* All, none, one missing, one only; then random ones. */
static void add_telling_subsets(struct explorer *ex, struct cuts *cuts, struct cut *cut,
				struct rnd *rnd)
{
	set_all(cut, DONE);
	cuts_add(ex, cuts, cut);
	set_all(cut, LOST);
	cuts_add(ex, cuts, cut);
	for (unsigned i = 0; i < cut->frees; i++) {
		set_all(cut, DONE);
		cut->fate[i] = LOST;
		cuts_add(ex, cuts, cut);
		set_all(cut, LOST);
		cut->fate[i] = DONE;
		cuts_add(ex, cuts, cut);
	}
	for (unsigned n = 0; n < 6; n++) {
		for (unsigned i = 0; i < cut->frees; i++)
			cut->fate[i] = rnd_below(rnd, 2) ? DONE : LOST;
		cuts_add(ex, cuts, cut);
	}
}

static void add_torn(struct explorer *ex, struct cuts *cuts, struct cut *cut, struct rnd *rnd)
{
	for (unsigned n = 0; n < 4 && cut->frees; n++) {
		set_all(cut, n % 2 ? DONE : LOST);
		cut->seed = rnd_next(rnd);
		for (unsigned i = 0; i < cut->frees; i++)
			if (!rnd_below(rnd, 2))
				cut->fate[i] = TORN_HEAD + rnd_below(rnd, 3);
		cuts_add(ex, cuts, cut);
	}
	cut->seed = 0;
}

/* What has just been promised is most easily broken now. */
static bool just_answered(const struct record *record, uint64_t at, bool kill)
{
	for (unsigned i = 0; i < record->asks; i++) {
		const struct asked *ask = &record->asked[i];
		if (ask->ended == at)
			return kill || ask->op == TD_FLUSH || ask->flags & TD_FUA;
	}
	return false;
}

static void cuts_at(struct explorer *ex, struct cuts *cuts, uint64_t at, bool kill,
		    struct rnd *rnd)
{
	static struct cut cut;

	if (!cut_begin(&ex->record, at, kill, &cut))
		return;
	if (cut.frees <= 4)
		add_all_subsets(ex, cuts, &cut);
	else
		add_telling_subsets(ex, cuts, &cut, rnd);
	add_torn(ex, cuts, &cut, rnd);
}

static void cuts_find(struct explorer *ex, struct cuts *cuts, struct rnd *rnd)
{
	for (unsigned telling = 2; telling-- > 0;) {
		for (uint64_t at = 1; at <= ex->record.clock; at++)
			for (unsigned kill = 0; kill < 2; kill++)
				if (just_answered(&ex->record, at, kill) == telling)
					cuts_at(ex, cuts, at, kill, rnd);
		if (telling)
			cuts->telling = cuts->count;
	}
}

/* Takes one out: half of the time one of the telling ones. */
static struct cut cuts_take(struct cuts *cuts, struct rnd *rnd)
{
	bool telling = cuts->telling && rnd_below(rnd, 2);
	unsigned i = rnd_below(rnd, telling ? cuts->telling : cuts->count);
	struct cut cut = cuts->cut[i];

	if (i < cuts->telling) {
		cuts->cut[i] = cuts->cut[--cuts->telling];
		i = cuts->telling;
	}
	cuts->cut[i] = cuts->cut[--cuts->count];
	return cut;
}

static bool enough(const struct explorer *ex, uint64_t began)
{
	if (ex->seconds)
		return td_now_ms() - began > ex->seconds * 1000ull;
	return ex->done >= ex->states;
}

static void explore(struct explorer *ex)
{
	uint64_t began = td_now_ms(), found = 0;
	struct rnd rnd = { ex->suite.seed };
	uint64_t seed = ex->suite.seed;

	while (!enough(ex, began)) {
		struct cuts cuts = { 0 };
		record_run(ex, &rnd);
		ex->suite.seed = seed;
		ex->runs++;
		cuts_find(ex, &cuts, &rnd);
		found += cuts.count;
		for (unsigned n = 0; n < ex->per_run && cuts.count && !enough(ex, began); n++) {
			struct cut cut = cuts_take(&cuts, &rnd);
			look_at(ex, &cut);
		}
		free(cuts.cut);
		free(cuts.hash);
		record_free(&ex->record);
	}
	if (!ex->done)
		errx(2, "no time to look at a state: nothing is shown");
	printf("ok: %u states, %u of them of kills, out of %llu found in %u runs, %llu s\n",
	       ex->done, ex->kills, (unsigned long long)found, ex->runs,
	       (unsigned long long)(td_now_ms() - began) / 1000);
}

/* ---- the command --------------------------------------------------------------------- */

static const char usage[] =
"usage: powercut [OPTION...] TYPE [SPEC]\n"
"Cuts the power at every instant of random runs on images of that type.\n"
"  -n, --states N      looks at N states, 2000\n"
"  -T, --seconds S     or for so long\n"
"  -r, --per-run N     states of one run, 250\n"
"  -w, --steps N       requests of a run, 60\n"
"  -o, --overlay       images over a raw backing file\n"
"  -z, --packed        images come from qemu-img, with compressed clusters\n"
"  -c, --cluster BYTES create images with clusters of this size\n"
"  -a, --align BYTES   pretend that files demand this alignment\n"
"  -e, --engine NAME   io_uring or libaio\n"
"  -S, --seed N        of what is random; printed otherwise\n";

static const struct option options[] = {
	{ "states", 1, NULL, 'n' }, { "seconds", 1, NULL, 'T' }, { "per-run", 1, NULL, 'r' },
	{ "steps", 1, NULL, 'w' }, { "overlay", 0, NULL, 'o' }, { "align", 1, NULL, 'a' },
	{ "packed", 0, NULL, 'z' },
	{ "cluster", 1, NULL, 'c' },
	{ "engine", 1, NULL, 'e' }, { "seed", 1, NULL, 'S' }, { NULL },
};

static int parse(struct explorer *ex, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "n:T:r:w:oza:c:e:S:", options, NULL)) != -1) {
		switch (c) {
		case 'n': ex->states = atoi(optarg); break;
		case 'T': ex->seconds = atoi(optarg); break;
		case 'r': ex->per_run = atoi(optarg); break;
		case 'w': ex->steps = atoi(optarg); break;
		case 'o': ex->suite.overlay = true; break;
		case 'z': ex->suite.packed = true; break;
		case 'a': ex->suite.align = atoi(optarg); break;
		case 'c': ex->suite.cluster = atoi(optarg); break;
		case 'e': ex->suite.engine = optarg; break;
		case 'S': ex->suite.seed = strtoull(optarg, NULL, 0); break;
		default:  return -1;
		}
	}
	return optind < argc ? 0 : -1;
}

static void find_driver(struct suite *suite, const char *type)
{
	struct td_why why = { "" };

	require(!td_registry_new(NULL, &suite->registry), "no registry");
	require(!td_registry_add_all(suite->registry, td_builtin_drivers, td_builtin_aliases),
		"no drivers");
	suite->driver = td_registry_find(suite->registry, type, &why);
	require(suite->driver, "%s", why.text);
}

static void scratch_make(struct explorer *ex)
{
	const char *root = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";

	snprintf(ex->suite.dir, sizeof(ex->suite.dir), "%s/blktap-powercut.XXXXXX", root);
	require(mkdtemp(ex->suite.dir), "%s: %s", ex->suite.dir, strerror(errno));
	snprintf(ex->state.path, sizeof(ex->state.path), "%s/state", ex->suite.dir);
	snprintf(ex->state.spec, sizeof(ex->state.spec), "%s:%s", ex->suite.driver->name,
		 ex->state.path);
}

int main(int argc, char **argv)
{
	static struct explorer ex = {
		.suite = { .exact = true }, .states = 2000, .per_run = 250, .steps = 60,
	};

	ex.suite.seed = td_now_us() % 1000000000;
	if (parse(&ex, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	find_driver(&ex.suite, argv[optind]);
	ex.suite.spec = argv[optind + 1];
	scratch_make(&ex);
	printf("# %s%s, seed %llu\n", argv[optind], ex.suite.overlay ? ", overlay" : "",
	       (unsigned long long)ex.suite.seed);
	fflush(stdout);
	looking = &ex;
	explore(&ex);
	scratch_remove(&ex);
	td_registry_free(ex.suite.registry);
	return 0;
}
