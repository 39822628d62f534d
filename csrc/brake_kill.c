/*
 * brake_kill.c - what ends processes, and what makes allocations fail.
 *
 * By then memory may be so short that open() and write() fail and a fresh page never
 * comes: descendants are known by pidfds opened when the hold began, and the last
 * words are put together in memory that is locked.
 */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "brake.h"
#include "parse.h"

/* What a squeezed process may still take, so that Python can carry out the exception. */
#define SQUEEZE_ROOM (8 * UINT64_C(1048576))

#define KIN_NS (100 * (int64_t)MW_MS)
#define KIN_SHARE 50

/* For the child of a fork, which finds the shared page empty. */
static _Atomic uint64_t drawn_in, before;

/* ------------------------------------------------------------------- kin --- */

void mw_find_kin(struct mw_brake *brake, int64_t now)
{
	int64_t took;
	int n;

	if (now < brake->kin_ns)
		return;
	n = mw_kin_find(brake->kin, MW_KIN);
	/* 0.1 ms; but a scan of all processes, where the kernel has no lists of children, takes
	   20 us for each, and a look must not wait for that often. */
	took = mw_now() - now;
	brake->kin_ns = now + (took * KIN_SHARE > KIN_NS ? took * KIN_SHARE : KIN_NS);
	/* Those known before are still to be had when it cannot look. */
	if (n >= 0)
		brake->kin_count = n;
}

uint32_t mw_count_kin(const struct mw_brake *brake)
{
	uint32_t n = 0;

	for (int i = 0; i < brake->kin_count; i++)
		n += brake->kin[i].start_time >= brake->target.start_ticks;
	return n;
}

/* --------------------------------------------------------------- squeeze --- */

/* Another trial of this process would be hit by it, and has done nothing. */
static bool runs_one(const struct mw_brake *brake)
{
	int n = 0;

	for (uint64_t i = 0; i < MW_SEATS; i++)
		n += mw_get(brake, mw_seat(i, MW_SEAT_EPOCH)) != 0;
	return n == 1;
}

void mw_squeeze(struct mw_brake *brake)
{
	struct rlimit limit;
	uint64_t data;
	ssize_t n = mw_reread(brake->status, brake->text, sizeof(brake->text));

	if (brake->squeezed || !runs_one(brake) || n < 0 || mw_parse_kb(brake->text, (size_t)n, "VmData", &data) ||
	    getrlimit(RLIMIT_DATA, &limit) || limit.rlim_cur <= data + SQUEEZE_ROOM)
		return;
	brake->unsqueezed = limit.rlim_cur;
	atomic_store(&before, limit.rlim_cur);
	limit.rlim_cur = data + SQUEEZE_ROOM;
	atomic_store(&drawn_in, limit.rlim_cur);
	brake->squeezed = limit.rlim_cur;
	if (setrlimit(RLIMIT_DATA, &limit)) {
		atomic_store(&drawn_in, 0);
		brake->squeezed = 0;
	}
}

void mw_lift(struct mw_brake *brake)
{
	struct rlimit limit;

	if (!brake->squeezed)
		return;
	if (!getrlimit(RLIMIT_DATA, &limit) && limit.rlim_cur == brake->squeezed) {
		limit.rlim_cur = brake->unsqueezed;
		(void)setrlimit(RLIMIT_DATA, &limit);
	}
	/* What was started meanwhile by vfork() and exec has inherited it. */
	brake->kin_ns = 0;
	mw_find_kin(brake, mw_now());
	for (int i = 0; i < brake->kin_count; i++) {
		pid_t pid = brake->kin[i].pid;

		if (prlimit(pid, RLIMIT_DATA, NULL, &limit) || limit.rlim_cur != brake->squeezed)
			continue;
		limit.rlim_cur = brake->unsqueezed;
		(void)prlimit(pid, RLIMIT_DATA, &limit, NULL);
	}
	atomic_store(&drawn_in, 0);
	brake->squeezed = 0;
}

void mw_lift_in_child(void)
{
	struct rlimit limit;
	uint64_t squeezed = atomic_exchange(&drawn_in, 0);

	if (!squeezed || getrlimit(RLIMIT_DATA, &limit) || limit.rlim_cur != squeezed)
		return;
	limit.rlim_cur = atomic_load(&before);
	(void)setrlimit(RLIMIT_DATA, &limit);
}

/* ------------------------------------------------------------ last words --- */

static size_t put_text(char *to, size_t at, size_t size, const char *text)
{
	while (*text && at + 1 < size)
		to[at++] = *text++;
	to[at] = '\0';
	return at;
}

static size_t put_number(char *to, size_t at, size_t size, uint64_t number)
{
	char digits[24];
	size_t n = sizeof(digits) - 1;

	digits[n] = '\0';
	do
		digits[--n] = (char)('0' + number % 10);
	while (number /= 10);
	return put_text(to, at, size, digits + n);
}

/* As units.format_size() prints it: "1.8 GB". */
static size_t put_size(char *to, size_t at, size_t size, uint64_t bytes)
{
	static const char *const units[] = { " B", " kB", " MB", " GB", " TB" };
	double scaled = (double)bytes;
	size_t unit = 0;
	uint64_t tenths;

	if (bytes == MW_ABSENT)
		return put_text(to, at, size, "unknown");
	/* 999.95 would be printed as 1000.0. */
	for (; unit < 4 && scaled >= 999.95; unit++)
		scaled /= 1000;
	tenths = (uint64_t)(scaled * 10 + 0.5);
	at = put_number(to, at, size, unit ? tenths / 10 : bytes);
	if (unit) {
		at = put_text(to, at, size, ".");
		at = put_number(to, at, size, tenths % 10);
	}
	return put_text(to, at, size, units[unit]);
}

/* The trial's name as Python wrote it: another thread may be writing it right now. */
static size_t put_seat(const struct mw_brake *brake, char *to, size_t at, size_t size)
{
	uint64_t words[MW_SEAT_TEXT_BYTES / sizeof(uint64_t)];
	char text[MW_SEAT_TEXT_BYTES + 1];

	for (uint32_t i = 0; i < MW_SEAT_TEXT_BYTES / sizeof(uint64_t); i++)
		words[i] = mw_get(brake, mw_seat(brake->target.seat, MW_SEAT_TEXT + i));
	memcpy(text, words, MW_SEAT_TEXT_BYTES);
	text[MW_SEAT_TEXT_BYTES] = '\0';
	return put_text(to, at, size, text);
}

static void say_last_words(struct mw_brake *brake)
{
	struct pollfd out = { .fd = STDERR_FILENO, .events = POLLOUT };
	char *line = brake->text;
	size_t n, size = 1024; /* at most PIPE_BUF, so one piece */
	bool starved = brake->headroom < brake->numbers.floor;

	n = put_text(line, 0, size, "\xf0\x9f\x9a\xa8 EMERGENCY BRAKE: worker ");
	n = put_number(line, n, size, (uint64_t)brake->pid);
	n = put_text(line, n, size, " kills itself to prevent OOM crash [");
	n = put_seat(brake, line, n, size - 160);
	n = put_text(line, n, size, starved ? "] (below the floor) | Available: " : "] (did not end in time) | Available: ");
	n = put_size(line, n, size, brake->headroom);
	n = put_text(line, n, size, " | Threshold: ");
	n = put_size(line, n, size, starved ? brake->numbers.floor : brake->numbers.brake);
	n = put_text(line, n, size, "\n");
	/* A reader that does not read must not keep us from the kill. */
	if (poll(&out, 1, 0) == 1 && out.revents & POLLOUT)
		(void)!write(STDERR_FILENO, line, n);
}

void mw_kill(struct mw_brake *brake)
{
	/* A closed pipe is no reason to die by another signal: this thread blocks them all. */
	say_last_words(brake);
	(void)mw_kin_kill(brake->kin, (uint32_t)brake->kin_count, 0);
	(void)kill(brake->pid, SIGKILL);
	/* The first process of a container cannot be killed by itself, only end. */
	_exit(128 + SIGKILL);
}
