/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The power-cut explorer; see explore.h for its parts and docs/power-cuts.md for
 * what it shows.
 *
 * Runs alternate between fixed seeds, the same every time, and those that follow
 * from a seed that is printed.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rule.h"
#include "drivers/builtin.h"
#include "explore.h"
#include "tests/seed.h"

#define OUTSIDE_EVERY 250 /* states, and qemu-img is asked too */
#define SEEN_ROOM (1u << 22)
#define FEW_STATES 300
#define MANY_STATES 600 /* so often as a row says */
#define ROWS_MAX 32

struct explorer {
	struct suite suite;
	const struct format *format;
	unsigned states, per_run, steps; /* wanted in all; of a run, and its requests */
	unsigned seconds;                /* instead of states, when given */
	bool seeded, keep;
	uint64_t began_ms, seed;
	unsigned runs, kills, torn, again;
	struct log log;
	struct rebuild rebuild;
	struct judge judge;
	struct model model;              /* allowed at the instant of ... */
	uint64_t model_hash;
	char survivors_in[300];
	uint64_t *seen;                  /* states that were judged: a hash table */
};

/* What is being looked at, for fail(). */
static const struct explorer *looking;
static const struct cut *looking_at;
static const char *broken_rule;

/* ---- rules that are broken on purpose ---------------------------------------------- */

extern const struct td_rule __start_td_rules[], __stop_td_rules[];

bool td_rule_holds(const struct td_rule *rule)
{
	return !broken_rule || strcmp(rule->name, broken_rule);
}

uint64_t td_limit(const char *name, uint64_t value)
{
	const struct format *row = looking ? looking->format : NULL;

	return row && row->limit && !strcmp(row->limit, name) ? row->limit_is : value;
}

static bool rule_known(const char *name)
{
	for (const struct td_rule *rule = __start_td_rules; rule < __stop_td_rules; rule++)
		if (!strcmp(rule->name, name))
			return true;
	return false;
}

static void rules_list(void)
{
	for (const struct td_rule *rule = __start_td_rules; rule < __stop_td_rules; rule++)
		printf("%s\n", rule->name);
}

/* ---- the end -------------------------------------------------------------------------- */

static void scratch_remove(const struct explorer *ex)
{
	char command[400];

	snprintf(command, sizeof(command), "rm -rf -- '%s'", ex->suite.dir);
	if (system(command))
		fprintf(stderr, "%s: not removed\n", ex->suite.dir);
}

void fail(const char *fmt, ...)
{
	bool noticed = broken_rule && looking_at;
	va_list args;

	printf(noticed ? "noticed: " : "not ok: ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	if (looking)
		printf("# %s, seed %llu, after %u states\n", looking->format->name,
		       (unsigned long long)looking->seed, looking->judge.judged);
	if (looking_at)
		cut_print(&looking->log, looking_at);
	if (looking && looking->keep)
		printf("# the files are in %s\n", looking->suite.dir);
	else if (looking)
		scratch_remove(looking);
	fflush(stdout);
	_exit(noticed ? 0 : 1);
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

/* ---- its states --------------------------------------------------------------------------- */

static bool enough(const struct explorer *ex)
{
	if (ex->seconds)
		return td_now_ms() - ex->began_ms > ex->seconds * 1000ull;
	return ex->judge.judged >= ex->states;
}

/* Notes a state; false: it has been judged before. */
static bool seen_add(struct explorer *ex, uint64_t hash)
{
	hash |= !hash;
	for (unsigned i = hash % SEEN_ROOM, n = 0; n < 64; i = (i + 1) % SEEN_ROOM, n++) {
		if (ex->seen[i] == hash)
			return false;
		if (!ex->seen[i]) {
			ex->seen[i] = hash;
			return true;
		}
	}
	return true; /* the table is full: it may be judged twice */
}

static void model_renew(struct explorer *ex, const struct cut *cut)
{
	uint64_t hash = cut_model_hash(&ex->log, cut->at, cut->kill);

	if (ex->model.cell && hash == ex->model_hash)
		return;
	model_free(&ex->model);
	cut_model(&ex->log, cut->at, cut->kill, &ex->model);
	ex->model_hash = hash;
}

static bool is_torn(const struct cut *cut)
{
	for (unsigned i = 0; i < cut->frees; i++)
		if (cut->fate[i] > DONE)
			return true;
	return false;
}

static uint64_t state_hash(const struct explorer *ex, const struct survivors *survivors)
{
	uint64_t hash = mix(mix(rebuild_hash(&ex->rebuild), ex->model_hash), ex->runs);

	for (unsigned i = 0; survivors && i < survivors->count; i++)
		hash = mix(hash, store_hash(&survivors->file[i].store));
	return hash;
}

static bool look_at(void *arg, const struct cut *cut)
{
	struct explorer *ex = arg;
	const struct survivors *survivors = cut->kill ? log_survivors(&ex->log, cut->at) : NULL;

	looking_at = cut;
	rebuild_cut(&ex->rebuild, cut);
	model_renew(ex, cut);
	cut_sizes(&ex->log, cut->at, ex->judge.size);
	if (seen_add(ex, state_hash(ex, survivors))) {
		judge_state(&ex->judge, &ex->rebuild, survivors, &ex->model,
			    ex->judge.judged % OUTSIDE_EVERY == OUTSIDE_EVERY / 2);
		ex->kills += cut->kill;
		ex->torn += is_torn(cut);
	} else {
		ex->again++;
	}
	looking_at = NULL;
	return !enough(ex);
}

static void run_explore(struct explorer *ex, uint64_t seed)
{
	struct rnd rnd = { seed };
	struct run run = { .suite = &ex->suite, .format = ex->format, .steps = ex->steps,
			   .survivors_in = ex->survivors_in, .log = &ex->log };

	ex->seed = ex->suite.seed = seed;
	require(!mkdir(ex->suite.dir, 0700) && !mkdir(ex->survivors_in, 0700), "%s: %s",
		ex->suite.dir, strerror(errno));
	run_record(&run, &rnd);
	rebuild_begin(&ex->rebuild, &ex->log);
	judge_begin(&ex->judge, &run, rnd_next(&rnd));
	cuts_visit(&ex->log, ex->format->kills, ex->per_run, &rnd, look_at, ex);
	judge_end(&ex->judge);
	model_free(&run.holds);
	rebuild_end(&ex->rebuild);
	model_free(&ex->model);
	log_free(&ex->log);
	scratch_remove(ex);
	ex->runs++;
}

static void explore(struct explorer *ex, uint64_t seed)
{
	ex->began_ms = td_now_ms();
	while (!enough(ex)) {
		bool fixed = !ex->seeded && ex->runs % 2 == 0;
		run_explore(ex, fixed ? 1 + ex->runs / 2 : seed + ex->runs / 2);
	}
	if (!ex->judge.judged)
		errx(2, "no time to look at a state: nothing is shown");
	printf("%s: %s: %u states (%u of kills, %u adopted, %u torn, %u marked dirty, %u also by "
	       "qemu-img), %u that came again, %u runs, %llu s\n", broken_rule ? "not ok" : "ok",
	       ex->format->name, ex->judge.judged, ex->kills, ex->judge.adopted, ex->torn, ex->judge.marked,
	       ex->judge.outside, ex->again, ex->runs,
	       (unsigned long long)(td_now_ms() - ex->began_ms) / 1000);
	if (broken_rule)
		printf("not ok: that %s is broken was NOT NOTICED\n", broken_rule);
}

/* ---- the command --------------------------------------------------------------------------- */

static const char usage[] =
"usage: powercut [OPTION...] ROW...\n"
"       powercut [OPTION...] --break RULE\n"
"       powercut --list | --rules\n"
"Cuts the power at every instant of random runs on images as ROW says, and judges\n"
"what is left; or breaks a rule and ends well if that is noticed.\n"
"  -n, --states N      judges N states; otherwise as many as CI does\n"
"  -T, --seconds S     or for so long\n"
"  -r, --per-run N     states of one run, besides prefixes, about: 200\n"
"  -w, --steps N       requests of a run, at most: 60\n"
"  -a, --align BYTES   pretend that files demand this alignment\n"
"  -e, --engine NAME   io_uring or libaio, for the runs\n"
"  -S, --seed N        the first run's; the next ones follow. None is fixed then\n"
"  -k, --keep          leave the files of a state that is wrong\n"
"  -b, --break RULE    ends with 0 if that is noticed\n"
"  -l, --list          rows\n"
"  -L, --rules         rules that can be broken\n";

static const struct option options[] = {
	{ "states", 1, NULL, 'n' }, { "seconds", 1, NULL, 'T' }, { "per-run", 1, NULL, 'r' },
	{ "steps", 1, NULL, 'w' }, { "align", 1, NULL, 'a' }, { "engine", 1, NULL, 'e' },
	{ "seed", 1, NULL, 'S' }, { "keep", 0, NULL, 'k' }, { "break", 1, NULL, 'b' },
	{ "list", 0, NULL, 'l' }, { "rules", 0, NULL, 'L' }, { NULL },
};

static void rows_list(void)
{
	for (const struct format *row = formats; row->name; row++)
		printf("%s\n", row->name);
}

static const struct format *row_find(const char *name)
{
	for (const struct format *row = formats; row->name; row++)
		if (!strcmp(row->name, name))
			return row;
	errx(2, "there is no row %s; --list tells which there are", name);
}

static const struct format *rule_break(struct explorer *ex, const char *name)
{
	const struct broken *row = broken_rules;

	while (row->rule && strcmp(row->rule, name))
		row++;
	if (!row->rule || !rule_known(name))
		errx(2, "there is no rule %s; --rules tells which there are", name);
	broken_rule = row->rule;
	if (row->steps)
		ex->steps = row->steps;
	return row_find(row->row);
}

/* Returns how many rows there are. */
static unsigned parse(struct explorer *ex, int argc, char **argv, uint64_t *seed,
		      const struct format **rows)
{
	unsigned count = 0;
	int c;

	while ((c = getopt_long(argc, argv, "n:T:r:w:a:e:S:kb:lL", options, NULL)) != -1) {
		switch (c) {
		case 'n': ex->states = atoi(optarg); break;
		case 'T': ex->seconds = atoi(optarg); break;
		case 'r': ex->per_run = atoi(optarg); break;
		case 'w': ex->steps = max_u64(atoi(optarg), 8); break;
		case 'a': ex->suite.align = atoi(optarg); break;
		case 'e': ex->suite.engine = optarg; break;
		case 'S': *seed = strtoull(optarg, NULL, 0); ex->seeded = true; break;
		case 'k': ex->keep = true; break;
		case 'b': rows[0] = rule_break(ex, optarg); break;
		case 'l': rows_list(); exit(0);
		case 'L': rules_list(); exit(0);
		default:  return 0;
		}
	}
	if (broken_rule)
		return optind == argc;
	while (optind < argc && count < ROWS_MAX)
		rows[count++] = row_find(argv[optind++]);
	return optind == argc ? count : 0;
}

static void suite_make(struct explorer *ex)
{
	struct suite *suite = &ex->suite;
	struct td_why why = { "" };
	const char *root = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";

	require(!td_registry_new(NULL, &suite->registry), "no registry");
	require(!td_registry_add_all(suite->registry, td_builtin_drivers, td_builtin_aliases),
		"no drivers");
	suite->driver = td_registry_find(suite->registry, ex->format->type, &why);
	require(suite->driver, "%s", why.text);
	suite->spec = ex->format->template;
	suite->overlay = ex->format->overlay;
	suite->packed = ex->format->packed;
	suite->encrypted = ex->format->encrypted;
	suite->cluster = ex->format->cluster;
	suite->create = ex->format->create;
	suite->base_size = ex->format->base_size;
	snprintf(suite->dir, sizeof(suite->dir), "%s/blktap-powercut.XXXXXX", root);
	require(mkdtemp(suite->dir), "%s: %s", suite->dir, strerror(errno));
	rmdir(suite->dir); /* each run makes it anew */
	snprintf(ex->survivors_in, sizeof(ex->survivors_in), "%s/survivors", suite->dir);
	setenv("BLKTAP_SURVIVOR_DIR", ex->survivors_in, 1);
}

static void row_explore(struct explorer *ex, const struct format *row, uint64_t seed)
{
	ex->format = row;
	if (!ex->states)
		ex->states = broken_rule ? 20000 : row->states ? row->states * MANY_STATES : FEW_STATES;
	/* of every open of an image whose encryption is weak there is a warning */
	td_log_level(row->encrypted ? LOG_ERR : LOG_WARNING);
	suite_make(ex);
	ex->seen = calloc(SEEN_ROOM, sizeof(*ex->seen));
	printf("# %s, seed %llu\n", row->name, (unsigned long long)seed);
	fflush(stdout);
	looking = ex;
	explore(ex, seed);
	looking = NULL;
	scratch_remove(ex);
	td_registry_free(ex->suite.registry);
	free(ex->seen);
}

int main(int argc, char **argv)
{
	static struct explorer wanted = {
		.suite = { .exact = true }, .per_run = 200, .steps = 60,
	}, ex;
	const struct format *rows[ROWS_MAX];
	uint64_t seed = test_seed();
	unsigned count = parse(&wanted, argc, argv, &seed, rows);

	if (!count) {
		fputs(usage, stderr);
		return 2;
	}
	/* megabytes come and go with each state: they need not be new each time */
	mallopt(M_MMAP_THRESHOLD, 64 * MiB);
	mallopt(M_TRIM_THRESHOLD, 256 * MiB);
	for (unsigned i = 0; i < count; i++) {
		ex = wanted;
		row_explore(&ex, rows[i], seed);
	}
	return broken_rule ? 1 : 0;
}
