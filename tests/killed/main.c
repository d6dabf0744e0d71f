/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * killed [OPTION...] TAPDISK SPEC: an acknowledged write survives a kill.
 *
 * Round after round: tapdisk is started on the disk, all that the history speaks
 * of is read and compared (history.h), requests of all kinds go out over NBD,
 * several at a time, and at a random moment comes SIGKILL. What was answered by
 * then must be there in the next round; what was not may be there, sector by
 * sector, or not. In some rounds the kill comes while tapdisk starts. In the end
 * it is told to end, and the image's own check finds nothing but leaks.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "core/disk.h"
#include "drivers/builtin.h"
#include "history.h"
#include "nbd.h"
#include "tests/seed.h"

#define DEPTH_MAX 64
#define LEN_MAX (128 * KiB)
#define CHUNK (256 * KiB)
#define PATIENCE_MS 60000

struct flight {
	bool up;
	enum nbd_command command;
	unsigned flags;
	uint64_t at, len;
	uint32_t tag;
};

struct test {
	const char *tapdisk, *spec;
	unsigned rounds, seconds, depth, block;
	char dir[96], socket[104], log[104];
	struct rnd rnd;
	struct nbd nbd;
	struct history history;
	struct flight flight[DEPTH_MAX];
	uint32_t tag;
	uint64_t answered, left, started_twice;
	char *buf;
};

static volatile pid_t server; /* 0: none */
static volatile sig_atomic_t killed;
static struct test *running;

/* ---- the end -------------------------------------------------------------------- */

static void scratch_remove(const struct test *test)
{
	unlink(test->socket);
	unlink(test->log);
	rmdir(test->dir);
}

static void log_show(const struct test *test)
{
	FILE *file = fopen(test->log, "re");
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		printf("# tapdisk: %s", line);
	if (file)
		fclose(file);
}

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
	va_list args;

	printf("not ok: ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	if (server) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	log_show(running);
	scratch_remove(running);
	fflush(stdout);
	_exit(1);
}

/* ---- the server -------------------------------------------------------------------- */

static void time_is_up(int signal)
{
	if (server)
		kill(server, SIGKILL);
	killed = 1;
}

/* us: microseconds from now; 0: never. */
static void kill_in(uint64_t us)
{
	struct itimerval when = { .it_value = { us / 1000000, us % 1000000 } };

	killed = 0;
	setitimer(ITIMER_REAL, &when, NULL);
}

static void server_spawn(struct test *test)
{
	char address[128];
	sigset_t alarm;
	pid_t pid;

	snprintf(address, sizeof(address), "unix:%s", test->socket);
	unlink(test->socket);
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm, NULL); /* the timer must find its pid */
	pid = fork();
	if (!pid) {
		int fd = open(test->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		dup2(fd, STDERR_FILENO);
		sigprocmask(SIG_UNBLOCK, &alarm, NULL);
		execl(test->tapdisk, test->tapdisk, "--disk", test->spec, "--nbd", address, NULL);
		_exit(127);
	}
	server = pid;
	sigprocmask(SIG_UNBLOCK, &alarm, NULL);
}

/* Has it ended? Then it is no more. One that is waited for is killed first: the timer
 * may have found no server yet. */
static bool server_gone(bool wait, int *status)
{
	pid_t pid;

	if (!server)
		return true;
	if (wait)
		kill(server, SIGKILL);
	do {
		pid = waitpid(server, status, wait ? 0 : WNOHANG);
	} while (pid < 0 && errno == EINTR);
	if (pid <= 0)
		return false;
	server = 0;
	return true;
}

/* A killed process lets go of its files, and so of its locks, a little later: one
 * that does not start is started again for a while. */
static void server_start(struct test *test)
{
	uint64_t began = td_now_ms();
	int status;

	server_spawn(test);
	while (!nbd_connect(&test->nbd, test->socket)) {
		if (server_gone(false, &status)) {
			if (td_now_ms() - began > PATIENCE_MS)
				die("tapdisk does not start (status %#x)", status);
			test->started_twice++;
			usleep(10000);
			server_spawn(test);
		}
		if (td_now_ms() - began > PATIENCE_MS)
			die("tapdisk does not listen");
		usleep(2000);
	}
}

static void server_expect_killed(struct test *test)
{
	int status = 0;

	if (!killed) { /* the connection is down: it may be about to end */
		uint64_t began = td_now_ms();
		while (server && !server_gone(false, &status) && td_now_ms() - began < 2000)
			usleep(1000);
		die("tapdisk hung up, or did not answer; status %#x", status);
	}
	server_gone(true, &status);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		die("tapdisk ended by itself, status %#x", status);
}

/* ---- what it holds ------------------------------------------------------------------ */

/* One at a time; the first time, it is only noted. */
static void expect_all(struct test *test, bool first)
{
	struct history *history = &test->history;
	char text[512];

	for (uint64_t at = 0, len; at < history->size; at += len) {
		uint64_t cookie;
		uint32_t err;

		len = min_u64(CHUNK, history_room(history, at));
		if (!nbd_send(&test->nbd, NBD_READ, 0, at, history_disk_at(history, at), len,
			      NULL) || !nbd_reply(&test->nbd, &cookie, &err) || cookie != at)
			die("tapdisk does not answer a read");
		if (err)
			die("a read of %llu bytes at %llu failed: %u", (unsigned long long)len,
			    (unsigned long long)history_disk_at(history, at), err);
		if (!nbd_get(&test->nbd, test->buf, len))
			die("tapdisk does not send what it read");
		if (first)
			memcpy(history->first + at, test->buf, len);
		else if (!history_match(history, at, test->buf, len, text, sizeof(text)))
			die("%s", text);
	}
}

/* ---- the load -------------------------------------------------------------------------- */

static bool flies_over(const struct test *test, const struct flight *it)
{
	for (unsigned i = 0; i < test->depth; i++) {
		const struct flight *other = &test->flight[i];
		if (other->up && it->len && other->len && it->at < other->at + other->len &&
		    other->at < it->at + it->len)
			return true;
	}
	return false;
}

static enum nbd_command pick_command(struct test *test)
{
	uint64_t n = rnd_below(&test->rnd, 100);

	if (n < 10)
		return NBD_READ;
	if (n < 16 && test->nbd.can & NBD_CAN_TRIM)
		return NBD_TRIM;
	if (n < 24 && test->nbd.can & NBD_CAN_ZEROES)
		return NBD_ZEROES;
	if (n < 27 && test->nbd.can & NBD_CAN_FLUSH)
		return NBD_FLUSH;
	return NBD_WRITE;
}

/* Half of it in a twelfth of the disk, so that writes meet what was written. */
static void pick_span(struct test *test, struct flight *it)
{
	static const uint32_t lens[] = { 512, 512, 1024, 4096, 4096, 4096, 16384, 65536, LEN_MAX };
	uint64_t size = test->history.size;
	uint64_t within = rnd_below(&test->rnd, 2) ? size : size / 12 + test->block;

	it->at = rnd_below(&test->rnd, within / test->block) * test->block;
	if (rnd_below(&test->rnd, 2))
		it->at = round_down(it->at, 4096);
	it->len = lens[rnd_below(&test->rnd, ARRAY_SIZE(lens))];
	it->len = min_u64(round_up(it->len, test->block), history_room(&test->history, it->at));
	if (it->command == NBD_READ)
		it->len = min_u64(it->len, 4096);
}

static bool launch(struct test *test, unsigned slot)
{
	struct flight it = { .command = pick_command(test) };
	const char *data = NULL;

	if (it.command != NBD_FLUSH)
		pick_span(test, &it);
	if (flies_over(test, &it))
		return true; /* another time */
	if (it.command == NBD_WRITE) {
		it.tag = test->tag++;
		tag_fill(test->buf, it.at, it.len, it.tag);
		data = test->buf;
	}
	if (it.command != NBD_READ && it.command != NBD_FLUSH && test->nbd.can & NBD_CAN_FUA &&
	    !rnd_below(&test->rnd, 12))
		it.flags = NBD_FUA;
	it.up = true;
	test->flight[slot] = it;
	return nbd_send(&test->nbd, it.command, it.flags, slot,
			history_disk_at(&test->history, it.at), it.len, data);
}

/* What it did may be there, or is. */
static void note(struct test *test, const struct flight *it, bool answered)
{
	struct history *history = &test->history;

	switch (it->command) {
	case NBD_READ:
	case NBD_FLUSH:
		break;
	case NBD_TRIM: /* advisory */
		history_maybe(history, it->at, it->len, TAG_ZERO);
		break;
	case NBD_WRITE:
	case NBD_ZEROES:
		if (answered)
			history_set(history, it->at, it->len, it->tag);
		else
			history_maybe(history, it->at, it->len, it->tag);
		break;
	}
}

static bool land(struct test *test)
{
	uint64_t slot;
	char text[512];
	uint32_t err;

	if (!nbd_reply(&test->nbd, &slot, &err))
		return false;
	if (slot >= test->depth || !test->flight[slot].up)
		die("a reply to no request, %llu", (unsigned long long)slot);
	struct flight *it = &test->flight[slot];
	if (err)
		die("request %u of %llu bytes at %llu failed: %u", it->command,
		    (unsigned long long)it->len,
		    (unsigned long long)history_disk_at(&test->history, it->at), err);
	if (it->command == NBD_READ) {
		if (!nbd_get(&test->nbd, test->buf, it->len))
			return false;
		if (!history_match(&test->history, it->at, test->buf, it->len, text,
				   sizeof(text)))
			die("under way: %s", text);
	}
	note(test, it, true);
	it->up = false;
	test->answered++;
	return true;
}

static void load_until_killed(struct test *test)
{
	bool there = true;

	while (there) {
		for (unsigned i = 0; there && i < test->depth; i++)
			if (!test->flight[i].up)
				there = launch(test, i);
		unsigned up = 0;
		for (unsigned i = 0; i < test->depth; i++)
			up += test->flight[i].up;
		for (uint64_t n = 1 + rnd_below(&test->rnd, 4); there && n && up; n--, up--)
			there = land(test);
	}
	while (land(test)) /* answers that had been sent */
		;
	for (unsigned i = 0; i < test->depth; i++) {
		if (!test->flight[i].up)
			continue;
		note(test, &test->flight[i], false);
		test->flight[i].up = false;
		test->left++;
	}
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void round_of_load(struct test *test, bool first)
{
	static const unsigned ms[] = { 3, 20, 60, 150, 400 };
	uint64_t most = ms[rnd_below(&test->rnd, ARRAY_SIZE(ms))] * 1000;

	server_start(test);
	if (first)
		history_init(&test->history, test->nbd.size);
	expect_all(test, first);
	kill_in(500 + rnd_below(&test->rnd, most));
	load_until_killed(test);
	nbd_close(&test->nbd);
	server_expect_killed(test);
}

/* Nothing is asked of it: it is killed while it opens the disk, or soon after. */
static void round_of_start(struct test *test)
{
	int status;

	kill_in(200 + rnd_below(&test->rnd, 12000));
	server_spawn(test);
	while (!killed)
		usleep(500);
	server_gone(true, &status); /* an end by itself: locked still */
}

static void last_round(struct test *test)
{
	int status = 0;

	server_start(test);
	expect_all(test, false);
	nbd_close(&test->nbd);
	kill(server, SIGTERM);
	for (unsigned i = 0; !server_gone(false, &status); i++) {
		if (i > 4000)
			die("tapdisk does not end when told to");
		usleep(5000);
	}
	if (status)
		die("tapdisk ended with status %#x", status);
}

static void say_corruption(void *arg, const char *text)
{
	printf("# check: %s\n", text);
}

static void check(struct test *test)
{
	struct td_disk_options options = { .read_only = true };
	struct td_check found = { .say = say_corruption };
	struct td_why why = { "" };
	struct td_registry *registry;
	struct td_disk *disk;
	struct td_loop *loop;

	if (td_loop_new(&loop) || td_registry_new(NULL, &registry) ||
	    td_registry_add_all(registry, td_builtin_drivers, td_builtin_aliases))
		die("no memory");
	int err = td_disk_open(loop, registry, test->spec, &options, &disk, &why);
	if (err)
		die("open read-only: %s", why.text);
	const struct td_driver *driver = td_disk_top(disk)->driver;
	if (driver->check) {
		err = driver->check(td_disk_top(disk), &found, &why);
		if (err || found.corruptions)
			die("check: %llu corruptions %s", (unsigned long long)found.corruptions,
			    why.text);
	}
	td_disk_close(disk);
	td_registry_free(registry);
	td_loop_free(loop);
}

/* ---- the command -------------------------------------------------------------------------------- */

static const char usage[] =
"usage: killed [OPTION...] TAPDISK SPEC\n"
"Kills TAPDISK again and again while it serves the disk SPEC under load; no write\n"
"that was answered may be lost. The disk's content is overwritten.\n"
"  -n, --rounds N      kills N times, 20\n"
"  -T, --seconds S     or for so long\n"
"  -q, --depth N       requests in flight, 16\n"
"  -b, --block BYTES   multiple of requests, 512\n"
"  -S, --seed N        of what is random; printed otherwise\n";

static const struct option options[] = {
	{ "rounds", 1, NULL, 'n' }, { "seconds", 1, NULL, 'T' }, { "depth", 1, NULL, 'q' },
	{ "block", 1, NULL, 'b' }, { "seed", 1, NULL, 'S' }, { NULL },
};

static int parse(struct test *test, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "n:T:q:b:S:", options, NULL)) != -1) {
		switch (c) {
		case 'n': test->rounds = atoi(optarg); break;
		case 'T': test->seconds = atoi(optarg); break;
		case 'q': test->depth = atoi(optarg); break;
		case 'b': test->block = atoi(optarg); break;
		case 'S': test->rnd.s = strtoull(optarg, NULL, 0); break;
		default:  return -1;
		}
	}
	if (optind + 2 != argc || !test->depth || test->depth > DEPTH_MAX ||
	    !is_pow2(test->block) || test->block < SECTOR || test->block > 4096)
		return -1;
	test->tapdisk = argv[optind];
	test->spec = argv[optind + 1];
	return 0;
}

static bool enough(const struct test *test, unsigned round, uint64_t began)
{
	if (test->seconds) /* but a few rounds, however slow the machine is */
		return round >= 5 && td_now_ms() - began >= test->seconds * 1000ull;
	return round >= test->rounds;
}

int main(int argc, char **argv)
{
	static struct test test = { .rounds = 20, .depth = 16, .block = SECTOR, .tag = TAG_FIRST };
	uint64_t began = td_now_ms();
	struct sigaction alarm = { .sa_handler = time_is_up };
	unsigned round = 0, starts = 0;

	test.rnd.s = test_seed();
	if (parse(&test, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	printf("# %s, seed %llu\n", test.spec, (unsigned long long)test.rnd.s);
	fflush(stdout);
	snprintf(test.dir, sizeof(test.dir), "%s/blktap-killed.XXXXXX", getenv("TMPDIR") ?: "/tmp");
	if (!mkdtemp(test.dir)) {
		perror(test.dir);
		return 2;
	}
	snprintf(test.socket, sizeof(test.socket), "%s/s", test.dir);
	snprintf(test.log, sizeof(test.log), "%s/log", test.dir);
	test.buf = malloc(CHUNK);
	running = &test;
	sigaction(SIGALRM, &alarm, NULL);
	for (; !enough(&test, round, began); round++) {
		if (round && !rnd_below(&test.rnd, 6)) {
			round_of_start(&test);
			starts++;
		} else {
			round_of_load(&test, round == 0);
		}
	}
	last_round(&test);
	check(&test);
	printf("ok: %u kills, %u of them while it started; %llu requests answered, %llu not; "
	       "%llu MiB looked at each time, %llu s\n", round, starts,
	       (unsigned long long)test.answered, (unsigned long long)test.left,
	       (unsigned long long)(test.history.size / MiB),
	       (unsigned long long)(td_now_ms() - began) / 1000);
	history_free(&test.history);
	free(test.buf);
	scratch_remove(&test);
	return test.answered ? 0 : 1;
}
