/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * randio: random 4 KiB transfers under O_DIRECT at a queue depth, for guests that have
 * no fio. It needs no library and does as little as it can beside the I/O, since
 * processors are slow where it runs.
 *
 *   randio fill FILE MIB                     makes the file, written from end to end
 *   randio read|write FILE MIB DEPTH SECONDS
 *       prints "randio SIDE DEPTH REQUESTS START END": times of the real-time clock
 *   randio busy                              prints, every 50 ms, the clock and the seconds
 *                                            that this machine's processors have worked
 *
 * Exit code: 0; 1, the system said no; 2, wrong arguments.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define MIB (1 << 20)
#define DEPTH_MAX 256

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int failed(const char *what)
{
	fprintf(stderr, "randio: %s: %s\n", what, strerror(errno));
	return 1;
}

static void *memory(size_t len)
{
	void *buf;

	if (posix_memalign(&buf, BLOCK, len))
		exit(failed("memory"));
	memset(buf, 'r', len);
	return buf;
}

static int fill(const char *path, long mib)
{
	int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	char *buf = memory(MIB);

	if (fd < 0)
		return failed(path);
	for (long i = 0; i < mib; i++)
		if (pwrite(fd, buf, MIB, i * MIB) != MIB)
			return failed(path);
	return fsync(fd) ? failed(path) : 0;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int transfer(const char *side, const char *path, long mib, long depth, double seconds)
{
	int write = !strcmp(side, "write"), fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	struct iocb cb[DEPTH_MAX] = { 0 }, *next[DEPTH_MAX];
	struct io_event event[DEPTH_MAX];
	uint64_t blocks = (uint64_t)mib * (MIB / BLOCK), seed = now() * 1e6;
	char *buf = memory(BLOCK * DEPTH_MAX);
	aio_context_t context = 0;
	long idle = depth, flying = 0, done = 0, n;
	double start, end;

	if (fd < 0)
		return failed(path);
	if (syscall(SYS_io_setup, depth, &context) < 0)
		return failed("io_setup");
	for (long i = 0; i < depth; i++) {
		cb[i].aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb[i].aio_fildes = fd;
		cb[i].aio_buf = (uintptr_t)(buf + BLOCK * i);
		cb[i].aio_nbytes = BLOCK;
		next[i] = &cb[i];
	}
	start = end = now();
	while (end - start < seconds || flying) {
		if (end - start < seconds) {
			for (long i = 0; i < idle; i++)
				next[i]->aio_offset = random_next(&seed) % blocks * BLOCK;
			if (syscall(SYS_io_submit, context, idle, next) != idle)
				return failed("io_submit");
			flying += idle;
		}
		n = syscall(SYS_io_getevents, context, 1L, depth, event, NULL);
		if (n < 0 && errno != EINTR)
			return failed("io_getevents");
		idle = n > 0 ? n : 0;
		for (long i = 0; i < idle; i++) {
			if (event[i].res != BLOCK) {
				errno = event[i].res < 0 ? -event[i].res : EIO;
				return failed(path);
			}
			next[i] = (struct iocb *)(uintptr_t)event[i].obj;
		}
		flying -= idle;
		done += idle;
		end = now();
	}
	printf("randio %s %ld %ld %.6f %.6f\n", side, depth, done, start, end);
	return 0;
}

/* What /proc/stat counts as neither idle, nor waiting, nor stolen. */
static double busy_seconds(FILE *stat)
{
	unsigned long long user, nice, system, idle, wait, irq, soft;

	rewind(stat);
	fflush(stat);
	if (fscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
		   &wait, &irq, &soft) != 7)
		return -1;
	return (double)(user + nice + system + irq + soft) / sysconf(_SC_CLK_TCK);
}

static int busy(void)
{
	FILE *stat = fopen("/proc/stat", "re");
	double seconds;

	if (!stat)
		return failed("/proc/stat");
	while ((seconds = busy_seconds(stat)) >= 0) {
		printf("%.3f %.2f\n", now(), seconds);
		fflush(stdout);
		usleep(50000);
	}
	return failed("/proc/stat");
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	long mib = argc > 3 ? atol(argv[3]) : 0, depth = argc > 4 ? atol(argv[4]) : 0;

	if (argc == 2 && !strcmp(verb, "busy"))
		return busy();
	if (argc == 4 && !strcmp(verb, "fill") && mib > 0)
		return fill(argv[2], mib);
	if (argc == 6 && (!strcmp(verb, "read") || !strcmp(verb, "write")) && mib > 0 &&
	    depth > 0 && depth <= DEPTH_MAX)
		return transfer(verb, argv[2], mib, depth, atof(argv[5]));
	fprintf(stderr, "usage: randio fill FILE MIB | read|write FILE MIB DEPTH SECONDS | busy\n");
	return 2;
}
