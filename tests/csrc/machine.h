/*
 * machine.h - a machine in a folder, and a brake that watches it, for the C tests of the
 * brake.
 *
 * The folder is laid out as memwatch.testing.ProcTree does.  What a test changes while the
 * brake looks at it is rewritten in place and never changes its length, so that no look
 * meets half a number.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "brake.h"
#include "check.h"

#define MIB (UINT64_C(1) << 20)
#define TOTAL (UINT64_C(8000000) * 1024) /* of meminfo */
#define HOUR_NS (INT64_C(3600) * 1000 * MW_MS)
#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#if defined(__has_feature)
#define TSAN __has_feature(thread_sanitizer)
#define SANITIZED (TSAN || __has_feature(address_sanitizer))
#else
#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#else
#define TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED TSAN
#endif
#endif

/* Who ends by _exit() or a signal does not tell what of it was covered, unless it does so
   before; .ci/run asks for it. */
#ifdef MEMWATCH_COVERAGE
void __gcov_dump(void);
#define DUMP_COVERAGE() __gcov_dump()
#else
#define DUMP_COVERAGE() ((void)0)
#endif

/* gcc's (12) keeps a signal until read() returns, which it does not know to wait; and it dies
   of a thread that is started after fork(). */
#if defined(__clang__)
#define GCC_TSAN 0
#else
#define GCC_TSAN TSAN
#endif

static char top[256];  /* the folder we may fill */
static char root[300]; /* laid out like "/" */

static inline _Noreturn void leave(int status)
{
	DUMP_COVERAGE();
	_exit(status);
}

/* In place: who has it open reads the new text, as of the kernel. */
static inline void write_file(const char *name, const char *text)
{
	char path[600], *slash;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	for (slash = path + strlen(top) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = '\0';
		(void)mkdir(path, 0700);
	}
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK_EQ(strlen(text), pwrite(fd, text, strlen(text), 0));
	CHECK(!ftruncate(fd, (off_t)strlen(text)));
	close(fd);
}

/* Eight bytes of a file that is there. */
static inline void rewrite(const char *name, off_t at, const char *eight)
{
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK_EQ(8, pwrite(fd, eight, 8, at));
	close(fd);
}

static const char meminfo[] = "MemTotal:        8000000 kB\n"
			      "MemFree:         1000000 kB\n"
			      "MemAvailable:    5000000 kB\n"
			      "Buffers:               0 kB\n"
			      "Cached:          3000000 kB\n"
			      "SwapCached:            0 kB\n"
			      "SwapTotal:             0 kB\n"
			      "SwapFree:              0 kB\n"
			      "Shmem:            100000 kB\n"
			      "SReclaimable:     200000 kB\n";
enum { AVAILABLE_AT = 2 * 28 + 16 };

static const char zoneinfo[] = "Node 0, zone   Normal\n"
			       "  pages free     910060\n"
			       "  pagesets\n"
			       "    cpu: 0\n"
			       "              count:    00000000\n"
			       "              high:     5898\n"
			       "  node_unreclaimable:  0\n";

/* MemAvailable, in MiB. */
static inline void available(uint64_t mib)
{
	char text[16];

	snprintf(text, sizeof(text), "%8llu", (unsigned long long)(mib * 1024 % 100000000));
	rewrite("proc/meminfo", AVAILABLE_AT, text);
}

/* It cannot be read: no number stands there. */
static inline void blind(void)
{
	rewrite("proc/meminfo", AVAILABLE_AT, "unknown!");
}

/* What the CPUs' own lists hold, in MiB. */
static inline void page_lists(uint64_t mib)
{
	char text[16];

	snprintf(text, sizeof(text), "%08llu",
		 (unsigned long long)(mib * MIB / (uint64_t)sysconf(_SC_PAGESIZE) % 100000000));
	rewrite("proc/zoneinfo", strstr(zoneinfo, "00000000") - zoneinfo, text);
}

/* The memory of this process, in pages. */
static inline void resident(unsigned pages)
{
	char text[64];

	snprintf(text, sizeof(text), "20000000 %08u %08u 200 0 20000 0\n", pages, 10);
	write_file("proc/self/statm", text);
}

/* A machine called `name` with 4,882 MiB to be had, on which this process runs. */
static inline void make_machine(const char *name)
{
	char text[300], path[600];

	snprintf(root, sizeof(root), "%s/%s", top, name);
	(void)mkdir(root, 0700);
	write_file("proc/meminfo", meminfo);
	write_file("proc/zoneinfo", zoneinfo);
	snprintf(text, sizeof(text), "proc/%d/cgroup", getpid());
	write_file(text, "0::/\n");
	snprintf(path, sizeof(path), "%s/proc/self", root);
	snprintf(text, sizeof(text), "%d", getpid());
	(void)unlink(path);
	CHECK(!symlink(text, path));
	snprintf(text, sizeof(text), "%d (a b) S 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1000 0 100\n", getpid());
	write_file("proc/self/stat", text);
	write_file("proc/self/mountinfo", "34 33 0:24 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n");
	resident(1000);
	write_file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
}

/* --------------------------------------------------------------- waiting --- */

/* Waits for it, 20 s at most; what came true need not be so a moment later. */
#define UNTIL(cond)                                                                               \
	do {                                                                                      \
		bool is_ = false;                                                                 \
		for (int tries_ = 0; !is_ && tries_ < 20000; tries_++) {                          \
			is_ = (cond);                                                             \
			if (!is_)                                                                 \
				poll(NULL, 0, 1);                                                 \
		}                                                                                 \
		if (!is_) {                                                                       \
			check_failed++;                                                           \
			fprintf(stderr, "%s:%d: not so in time: %s\n", __FILE__, __LINE__, #cond); \
		}                                                                                 \
	} while (0)

/* ------------------------------------------------------------- the brake --- */

static struct mw_brake *brake;

static inline uint64_t word(uint32_t index)
{
	return mw_get(brake, index);
}

static inline uint64_t looks(void)
{
	return word(MW_WORD_LIVE + offsetof(struct mw_live, looks) / 8);
}

/* Until it has looked `n` times more, as told every 10 ms. */
static inline void wait_for_looks(uint64_t n)
{
	uint64_t before;

	/* What is told may be 10 ms old; what was looked at before must not count. */
	before = looks();
	UNTIL(looks() != before);
	before = looks();
	UNTIL(looks() >= before + n);
}

static inline void set(uint32_t index, uint64_t value)
{
	mw_set(brake, index, value);
}

/* A trial begins, as Python has it: the epoch is written last. */
static inline void seat(uint64_t number, uint64_t epoch, pid_t thread, const char *text)
{
	uint64_t words[MW_SEAT_TEXT_BYTES / 8] = { 0 };

	memcpy(words, text, strnlen(text, MW_SEAT_TEXT_BYTES - 1));
	for (uint32_t i = 0; i < COUNT(words); i++)
		set(mw_seat(number, MW_SEAT_TEXT + i), words[i]);
	set(mw_seat(number, MW_SEAT_THREAD), (uint64_t)thread);
	set(mw_seat(number, MW_SEAT_START_NS), (uint64_t)mw_now());
	set(mw_seat(number, MW_SEAT_START_TICKS), 1);
	set(mw_seat(number, MW_SEAT_SHIELD), 0);
	set(mw_seat(number, MW_SEAT_LEAVING), 0);
	CHECK_EQ(brake->statm < 0, mw_brake_begin(brake, (uint32_t)number) != 0);
	set(mw_seat(number, MW_SEAT_EPOCH), epoch);
	mw_brake_ring(brake);
}

static inline void unseat(uint64_t number)
{
	set(mw_seat(number, MW_SEAT_EPOCH), 0);
	mw_brake_ring(brake);
}

/* Waits for the next clock tick: processes begun in the same one are of one age. */
static inline uint64_t next_tick(void)
{
	uint64_t tick, first = 0;

	do {
		struct timespec now;

		CHECK(!clock_gettime(CLOCK_BOOTTIME, &now));
		tick = (uint64_t)now.tv_sec * (uint64_t)sysconf(_SC_CLK_TCK) +
		       (uint64_t)now.tv_nsec * (uint64_t)sysconf(_SC_CLK_TCK) / 1000000000;
		first = first ? first : tick;
		poll(NULL, 0, 1);
	} while (tick == first);
	return tick;
}

/* Watermarks at 1,000 MiB; nobody is told before an hour is over, unless it is urgent. */
static inline struct mw_plan a_plan(void)
{
	return (struct mw_plan){
		.root = root,
		.signal = SIGURG,
		.rate = UINT64_C(16) << 30,
		.period_min_ns = MW_MS / 10,
		.period_max_ns = 5 * (int64_t)MW_MS, /* or most of a test would be waiting */
		.near = 2000 * MIB,
		.numbers = { .brake = 1000 * MIB,
			     .resume = 1250 * MIB,
			     .urgent = 600 * MIB,
			     .floor = 200 * MIB,
			     .rss_limit = MW_NO_LIMIT,
			     .hold_ns = HOUR_NS,
			     .grace_ns = HOUR_NS,
			     .squeeze_ns = -1,
			     .reap_ns = 250 * (int64_t)MW_MS,
			     .gather_ns = 2 * (int64_t)MW_MS,
			     .still_ns = 50 * (int64_t)MW_MS,
			     .rise = 8 * MIB },
	};
}

static inline void start(const struct mw_plan *plan)
{
	CHECK_EQ(0, mw_brake_start(plan, &brake));
}

static inline void stop(void)
{
	CHECK_EQ(0, mw_brake_stop(brake));
}

/* Of `status`, in hexadecimal; 0: it is not there. */
static inline unsigned long long status_of(pid_t thread, const char *key)
{
	char path[64], line[256];
	unsigned long long value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", thread);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key)))
			value = strtoull(line + strlen(key) + 1, NULL, 16);
	if (file)
		fclose(file);
	return value;
}

#endif
