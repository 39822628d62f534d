/*
 * test_brake.c - the brake's thread and its signal, without an interpreter: a handler that
 * was installed before stands for CPython's, and the first thread of this process for the
 * trial's.  argv[1] is a folder to write in.
 *
 * What ends processes is in test_brake_kill.c.  Each case has a driver, a thread that is
 * never parked, since it blocks the signal: it moves memory, waits and judges.
 *
 * links: parse.c parse_cgroup.c parse_zone.c procfs.c procfs_walk.c procfs_kin.c procfs_zone.c cgroup.c cgroup_find.c sampler.c board.c board_file.c board_guard.c board_bell.c judge.c brake.c brake_hold.c brake_kill.c brake_look.c brake_start.c brake_turn.c turn.c
 */
#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "board.h"
#include "machine.h"

/* A child of a process with threads starts one of its own: that is the point. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

/* ------------------------------------------------------------- the parts --- */

static pid_t own_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* What stands for CPython's handler: it only makes a note. */
static atomic_int calls;
static _Atomic pid_t caller;

static void interpreter(int number)
{
	(void)number;
	atomic_store(&caller, own_id());
	atomic_fetch_add(&calls, 1);
}

static void handle(int number, void (*handler)(int))
{
	/* Without SA_RESTART, as CPython does. */
	const struct sigaction action = { .sa_handler = handler };

	CHECK(!sigaction(number, &action, NULL));
}

static struct sigaction disposition(int number)
{
	struct sigaction now;

	CHECK(!sigaction(number, NULL, &now));
	return now;
}

/* The trial, in the first thread, until `finish`. */
static atomic_bool finish;
static atomic_ullong ticks;

static void spin(void)
{
	while (!atomic_load(&finish)) {
		atomic_fetch_add(&ticks, 1);
		/* ThreadSanitizer delivers a signal at the next call that it knows. */
		if (TSAN)
			(void)mw_now();
	}
}

static int ends[2];

/* The first thread waits, in the kernel. */
static bool sleeps(void)
{
	char path[64], line[256] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	file = fopen(path, "re");
	CHECK(file && fgets(line, sizeof(line), file));
	if (file)
		fclose(file);
	return strstr(line, ") S ") != NULL;
}

static atomic_int interrupted;

static void read_on(void)
{
	char byte;

	for (;;) {
		ssize_t n = read(ends[0], &byte, 1);

		if (n < 0 && errno == EINTR)
			atomic_fetch_add(&interrupted, 1);
		else
			break;
	}
}

/* A thread beside the trial's. */
static atomic_bool others_finish;
static atomic_ullong other_ticks;
static _Atomic pid_t other_id;

static void *spin_beside(void *unused)
{
	atomic_store(&other_id, own_id());
	while (!atomic_load(&others_finish)) {
		atomic_fetch_add(&other_ticks, 1);
		if (TSAN)
			(void)mw_now();
	}
	return unused;
}

/* From a driver, whose mask it must not inherit. */
static pthread_t start_beside(void)
{
	sigset_t none, before;
	pthread_t id;

	atomic_store(&other_id, 0);
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, &before);
	CHECK_EQ(0, pthread_create(&id, NULL, spin_beside, NULL));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	UNTIL(atomic_load(&other_id));
	return id;
}

static void end_beside(pthread_t id)
{
	atomic_store(&others_finish, true);
	CHECK_EQ(0, pthread_join(id, NULL));
}

static bool moves(atomic_ullong *count)
{
	unsigned long long before = atomic_load(count);

	wait_for_looks(5);
	return atomic_load(count) != before;
}

static bool stands(atomic_ullong *count)
{
	unsigned long long before = atomic_load(count);

	wait_for_looks(20);
	return atomic_load(count) == before;
}

static void *drive(void *driver)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	(*(void (**)(void))driver)();
	atomic_store(&finish, true);
	return NULL;
}

/* The trial in this thread, and the driver beside it. */
static void run(const struct mw_plan *plan, void (*trial)(void), void (*driver)(void))
{
	pthread_t id;

	atomic_store(&finish, false);
	atomic_store(&others_finish, false);
	atomic_store(&ticks, 0);
	atomic_store(&calls, 0);
	atomic_store(&interrupted, 0);
	handle(plan->signal, interpreter);
	page_lists(0);
	available(4000);
	start(plan);
	CHECK_EQ(0, pthread_create(&id, NULL, drive, &driver));
	trial();
	CHECK_EQ(0, pthread_join(id, NULL));
	stop();
}

static int entries(const char *path)
{
	DIR *folder = opendir(path);
	int n = 0;

	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

/* The brake's thread, by its name. */
static pid_t find_thread(void)
{
	DIR *folder = opendir("/proc/self/task");
	struct dirent *entry;
	pid_t found = 0;

	while ((entry = readdir(folder))) {
		char path[300], name[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strcmp(name, "memwatch\n"))
			found = (pid_t)strtol(entry->d_name, NULL, 10);
		fclose(file);
	}
	closedir(folder);
	return found;
}

/* ------------------------------------------------------ starting, stopping --- */

static int refused(const struct mw_plan *plan)
{
	struct mw_brake *out = NULL;
	int err = mw_brake_start(plan, &out);

	CHECK(!out);
	return err;
}

/* What cannot be is refused, and leaves no thread, no descriptor and no handler. */
static void refusals(void)
{
	static const struct {
		size_t at; /* in the plan */
		uint64_t value;
		int error;
	} table[] = {
		{ offsetof(struct mw_plan, numbers.floor), 1000 * MIB, -EINVAL },
		{ offsetof(struct mw_plan, numbers.brake), 1250 * MIB, -EINVAL },
		{ offsetof(struct mw_plan, numbers.urgent), 199 * MIB, -EINVAL },
		{ offsetof(struct mw_plan, numbers.urgent), 1001 * MIB, -EINVAL },
		{ offsetof(struct mw_plan, numbers.hold_ns), UINT64_MAX, -EINVAL },
		{ offsetof(struct mw_plan, numbers.grace_ns), UINT64_MAX, -EINVAL },
		{ offsetof(struct mw_plan, numbers.reap_ns), UINT64_MAX, -EINVAL },
		{ offsetof(struct mw_plan, numbers.gather_ns), UINT64_MAX, -EINVAL },
		{ offsetof(struct mw_plan, numbers.still_ns), UINT64_MAX, -EINVAL },
		{ offsetof(struct mw_plan, rate), 0, -EINVAL },
		{ offsetof(struct mw_plan, period_min_ns), 0, -EINVAL },
		{ offsetof(struct mw_plan, period_max_ns), 1, -EINVAL },
	};
	static const struct {
		int32_t signal;
		uint32_t flags;
	} odd[] = { { 0, 0 }, { SIGKILL, 0 }, { 65, 0 }, { SIGURG, 1024 } };
	int threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
	struct sigaction informed = disposition(SIGURG);
	struct mw_plan plan;

	handle(SIGURG, interpreter);
	for (size_t i = 0; i < COUNT(table); i++) {
		plan = a_plan();
		memcpy((char *)&plan + table[i].at, &table[i].value, sizeof(table[i].value));
		CHECK_EQ(table[i].error, refused(&plan));
	}
	for (size_t i = 0; i < COUNT(odd); i++) {
		plan = a_plan();
		plan.signal = odd[i].signal;
		plan.flags = odd[i].flags;
		CHECK_EQ(-EINVAL, refused(&plan));
	}
	plan = a_plan();
	plan.root = "/nowhere";
	CHECK_EQ(-ENOENT, refused(&plan));
	CHECK(disposition(SIGURG).sa_handler == interpreter);

	/* A handler that wants more than the number is not called as it must be. */
	informed.sa_handler = interpreter;
	informed.sa_flags = SA_SIGINFO;
	CHECK(!sigaction(SIGURG, &informed, NULL));
	plan = a_plan();
	CHECK_EQ(-EBUSY, refused(&plan));
	CHECK(disposition(SIGURG).sa_handler == interpreter);
	CHECK_EQ(threads, entries("/proc/self/task"));
	CHECK_EQ(files, entries("/proc/self/fd"));
}

/* Once a process; stopped twice, and what is asked of it then; started again. */
static void starts_and_stops(void)
{
	int threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
	struct mw_plan plan = a_plan();
	struct mw_live live;

	for (int i = 0; i < 3; i++) {
		handle(SIGURG, interpreter);
		start(&plan);
		CHECK_EQ(-EALREADY, refused(&plan));
		CHECK(mw_brake_words(brake) != NULL);
		CHECK_EQ(threads + 1, entries("/proc/self/task"));
		wait_for_looks(1);
		CHECK_EQ(0, mw_brake_live(brake, &live));
		CHECK_EQ(TOTAL, live.limit);
		CHECK_EQ(0, mw_brake_hook(brake));
		stop();
		stop();
		CHECK(mw_brake_words(brake) == NULL);
		CHECK_EQ(threads, entries("/proc/self/task"));
		CHECK_EQ(files, entries("/proc/self/fd"));
		/* A late one is nobody's. */
		CHECK(disposition(SIGURG).sa_handler == SIG_IGN);
		CHECK(!raise(SIGURG));
	}
	CHECK_EQ(-ESHUTDOWN, mw_brake_live(brake, &live));
	CHECK_EQ(-ESHUTDOWN, mw_brake_arm(brake, &plan.numbers, 0));
	CHECK_EQ(-ESHUTDOWN, mw_brake_board(brake, NULL, 0, NULL));
	CHECK_EQ(-ESHUTDOWN, mw_brake_refresh(brake));
	CHECK_EQ(-ESHUTDOWN, mw_brake_hook(brake));
	CHECK_EQ(-ESHUTDOWN, mw_brake_wait(brake, 0, 0));
	CHECK_EQ(0, mw_brake_stop(NULL));
	CHECK_EQ(-ESHUTDOWN, mw_brake_refresh(NULL));
	CHECK_EQ(-ESHUTDOWN, mw_brake_wait(NULL, 0, 0));
	mw_brake_ring(NULL);
	mw_brake_ring(brake);

	/* A handler that others put there meanwhile is theirs. */
	start(&plan);
	handle(SIGURG, interpreter);
	stop();
	CHECK(disposition(SIGURG).sa_handler == interpreter);
}

static bool may_have_realtime(void)
{
	struct sched_param realtime = { .sched_priority = sched_get_priority_min(SCHED_RR) };
	struct sched_param normal = { .sched_priority = 0 };

	if (pthread_setschedparam(pthread_self(), SCHED_RR, &realtime))
		return false;
	CHECK_EQ(0, pthread_setschedparam(pthread_self(), SCHED_OTHER, &normal));
	return true;
}

/* It asks for SCHED_RR if it is to, says whether it got it, and takes no signal but faults. */
static void the_thread_itself(void)
{
	static const int faults[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGKILL, SIGSTOP };
	unsigned long long blocked = (1ULL << 31) - 1;
	struct mw_plan plan = a_plan();
	pid_t thread;

	for (size_t i = 0; i < COUNT(faults); i++)
		blocked &= ~(1ULL << (faults[i] - 1));
	for (uint32_t flags = 0; flags <= MW_BRAKE_REALTIME; flags += MW_BRAKE_REALTIME) {
		bool realtime = flags && may_have_realtime();

		plan.flags = flags;
		start(&plan);
		wait_for_looks(1);
		thread = find_thread();
		CHECK_EQ(realtime, (word(MW_WORD_FLAGS) & MW_NEWS_REALTIME) != 0);
		CHECK_EQ(realtime ? SCHED_RR : SCHED_OTHER, sched_getscheduler(thread));
		CHECK_EQ(blocked, status_of(thread, "SigBlk") & ((1ULL << 31) - 1));
		stop();
	}
}

/* --------------------------------------------------------------- looking --- */

/* What it sees stands in the words; what it cannot see is not there, and comes back. */
static void words(void)
{
	struct mw_plan plan = a_plan();
	uint64_t known;

	available(4000);
	resident(1000);
	start(&plan);
	wait_for_looks(1);
	CHECK_EQ(4000 * MIB, word(MW_WORD_HEADROOM));
	CHECK_EQ(1000 * (uint64_t)sysconf(_SC_PAGESIZE), word(MW_WORD_RSS));
	CHECK_EQ(TOTAL, word(MW_WORD_LIMIT));
	CHECK_EQ(MW_BRAKE_WATCHING, word(MW_WORD_PHASE));

	blind();
	UNTIL(word(MW_WORD_HEADROOM) == MW_ABSENT);
	known = word(MW_WORD_KNOWN_NS);
	wait_for_looks(3);
	CHECK_EQ(known, word(MW_WORD_KNOWN_NS));
	CHECK(word(MW_WORD_LOOK_NS) > known);
	available(3000);
	UNTIL(word(MW_WORD_HEADROOM) == 3000 * MIB);
	CHECK(word(MW_WORD_KNOWN_NS) > known);
	stop();
}

/* Far away it looks once a period; near, below, and blind it does not wait for that. */
static void pace(void)
{
	static const uint64_t near[] = { 1001, 1000, 999, 0 };
	struct mw_plan plan = a_plan();
	uint64_t before;

	available(4000);
	plan.period_max_ns = HOUR_NS;
	plan.rate = 1; /* so that 3 GiB away is an hour away */
	start(&plan);
	UNTIL(looks() == 1);
	for (int i = 0; i < 3; i++) {
		before = word(MW_WORD_LOOK_NS);
		mw_brake_ring(brake);
		UNTIL(word(MW_WORD_LOOK_NS) != before);
	}
	stop();

	plan.rate = UINT64_C(16) << 30;
	start(&plan);
	for (size_t i = 0; i < COUNT(near); i++) {
		if (near[i])
			available(near[i]);
		else
			blind();
		mw_brake_ring(brake);
		wait_for_looks(20);
	}
	stop();

	/* Falling by more than 1 MiB a millisecond. */
	available(1020);
	plan.period_min_ns = 1;
	start(&plan);
	for (uint64_t mib = 1020; mib > 1000; mib--) {
		before = word(MW_WORD_LOOK_NS);
		available(mib);
		UNTIL(word(MW_WORD_LOOK_NS) != before);
	}
	stop();
}

/* Numbers out of order are refused; good ones count from the next look on. */
static void arming_drive(void)
{
	struct mw_numbers numbers = a_plan().numbers;

	numbers.resume = numbers.brake;
	CHECK_EQ(-EINVAL, mw_brake_arm(brake, &numbers, 0));
	seat(0, 3, getpid(), "");
	wait_for_looks(2);
	CHECK_EQ(0, word(MW_WORD_HOLDS));
	numbers.brake = 4500 * MIB;
	numbers.resume = 4600 * MIB;
	CHECK_EQ(0, mw_brake_arm(brake, &numbers, 4700 * MIB));
	UNTIL(word(MW_WORD_HOLDS) == 1);
	numbers = a_plan().numbers;
	CHECK_EQ(0, mw_brake_arm(brake, &numbers, 0));
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	unseat(0);
}

static void arming(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, arming_drive);
}

struct poster {
	pthread_t id;
	int failed;
};

static void *post(void *arg)
{
	struct poster *me = arg;
	struct mw_numbers numbers = a_plan().numbers;

	for (int i = 0; i < 50; i++) {
		me->failed += mw_brake_arm(brake, &numbers, 0) != 0;
		me->failed += mw_brake_board(brake, NULL, 0, NULL) != 0;
		me->failed += mw_brake_refresh(brake) != 0;
	}
	return NULL;
}

/* Many threads ask things of it: each is answered, none for the other. */
static void many_ask(void)
{
	struct poster posters[4] = { 0 };
	struct mw_plan plan = a_plan();

	available(4000);
	start(&plan);
	/* The numbers wrap. */
	atomic_store(&brake->own->bell, UINT32_MAX - 1);
	for (size_t i = 0; i < COUNT(posters); i++)
		CHECK_EQ(0, pthread_create(&posters[i].id, NULL, post, &posters[i]));
	for (size_t i = 0; i < COUNT(posters); i++) {
		CHECK_EQ(0, pthread_join(posters[i].id, NULL));
		CHECK_EQ(0, posters[i].failed);
	}
	/* While somebody has the mailbox the others wait, but not for ever. */
	atomic_store(&brake->own->posting, 1);
	CHECK_EQ(-ETIMEDOUT, mw_brake_board(brake, NULL, 0, NULL));
	atomic_store(&brake->own->posting, 0);
	stop();
}

static void *refresh(void *it)
{
	while (!atomic_load(&others_finish)) {
		int err = mw_brake_refresh(it);

		if (err && err != -ESHUTDOWN && err != -EBUSY)
			atomic_fetch_add(&interrupted, 1);
	}
	return NULL;
}

/* Whoever is inside when it is stopped is waited for. */
static void stopped_meanwhile(void)
{
	struct mw_plan plan = a_plan();
	pthread_t id;

	available(4000);
	atomic_store(&others_finish, false);
	atomic_store(&interrupted, 0);
	start(&plan);
	CHECK_EQ(0, pthread_create(&id, NULL, refresh, brake));
	for (int i = 0; i < 30; i++) {
		struct mw_brake *again = NULL;

		UNTIL(word(MW_WORD_LOOK_NS));
		stop();
		CHECK_EQ(0, mw_brake_start(&plan, &again));
		CHECK(brake == again);
	}
	stop();
	end_beside(id);
	CHECK_EQ(0, atomic_load(&interrupted));
}

static void *await(void *seen)
{
	*(int64_t *)seen = mw_brake_wait(brake, (uint64_t)*(int64_t *)seen, HOUR_NS);
	return NULL;
}

/* Who waits for news gets them, or the time, or the end; at whatever moment that comes. */
static void waiting(void)
{
	struct mw_plan plan = a_plan();

	for (int i = 0; i < 30; i++) {
		pthread_t id;
		int64_t seen;

		available(4000);
		resident(1000);
		start(&plan);
		seen = (int64_t)word(MW_WORD_NEWS);
		CHECK_EQ(-ETIMEDOUT, mw_brake_wait(brake, (uint64_t)seen, 1));
		CHECK_EQ(0, mw_brake_wait(brake, (uint64_t)seen + 1, HOUR_NS));
		CHECK_EQ(0, pthread_create(&id, NULL, await, &seen));
		if (i % 2) {
			plan.numbers.rss_limit = 1;
			CHECK_EQ(0, mw_brake_arm(brake, &plan.numbers, 0));
			CHECK_EQ(0, pthread_join(id, NULL));
			CHECK_EQ(0, seen);
			CHECK(word(MW_WORD_FLAGS) & MW_NEWS_OVER);
			plan.numbers.rss_limit = MW_NO_LIMIT;
			stop();
		} else {
			stop();
			CHECK_EQ(0, pthread_join(id, NULL));
			CHECK_EQ(-ESHUTDOWN, seen);
		}
	}
}

/* Moved to another cgroup: it says so, and once that was looked at it no longer does. */
static void moved(void)
{
	struct mw_plan plan = a_plan();
	char path[64];

	available(4000);
	write_file("sys/fs/cgroup/a/memory.max", "1073741824\n");
	write_file("sys/fs/cgroup/a/memory.high", "max\n");
	write_file("sys/fs/cgroup/a/memory.current", "104857600\n");
	write_file("sys/fs/cgroup/a/memory.stat", "inactive_file 0\nactive_file 0\nfile_dirty 0\nfile_writeback 0\n");
	start(&plan);
	wait_for_looks(1);
	snprintf(path, sizeof(path), "proc/%d/cgroup", getpid());
	write_file(path, "0::/a\n");
	UNTIL(word(MW_WORD_FLAGS) & MW_NEWS_STALE);
	CHECK_EQ(4000 * MIB, word(MW_WORD_HEADROOM));
	CHECK_EQ(0, mw_brake_refresh(brake));
	UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_STALE));
	UNTIL(word(MW_WORD_HEADROOM) == 924 * MIB);
	CHECK_EQ(1024 * MIB, word(MW_WORD_LIMIT));
	stop();
	write_file(path, "0::/\n");
}

/* --------------------------------------------------------------- holding --- */

static void let_pass(void)
{
	available(4000);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
}

/* Below the watermark the trial stands, wherever it is; above, it goes on, and none of
   its calls has seen it. */
static void hold_drive(void)
{
	seat(0, 3, getpid(), "");
	/* So that the count of holds wraps in the middle. */
	atomic_store(&brake->own->hold, UINT32_MAX - 1);
	for (uint64_t i = 1; i <= 3; i++) {
		UNTIL(moves(&ticks));
		available(900);
		UNTIL(word(MW_WORD_PARKED_NS) && word(MW_WORD_HOLDS) == i);
		CHECK(word(MW_WORD_PARKED_NS) >= word(MW_WORD_HELD_NS));
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_HOLDING);
		CHECK(stands(&ticks));
		CHECK(disposition(SIGURG).sa_flags & SA_RESTART);
		CHECK_EQ(1, atomic_load(&brake->own->hold) & 1);
		let_pass();
		CHECK_EQ(0, atomic_load(&brake->own->hold) & 1);
		UNTIL(moves(&ticks));
	}
	CHECK_EQ(0, word(MW_WORD_TOLD));
	CHECK_EQ(0, word(MW_WORD_SHOTS));
	CHECK_EQ(0, word(MW_WORD_BRAKES));
	CHECK_EQ(900 * MIB, word(MW_WORD_LOWEST));
	CHECK_EQ(0, atomic_load(&calls));
}

static void hold_reading_drive(void)
{
	seat(0, 3, getpid(), "");
	UNTIL(sleeps());
	available(900);
	UNTIL(word(MW_WORD_PARKED_NS));
	let_pass();
	CHECK_EQ(0, atomic_load(&interrupted));
	CHECK_EQ(1, write(ends[1], "", 1));
}

static void holding(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, hold_drive);
	CHECK(!pipe2(ends, O_CLOEXEC));
	if (!GCC_TSAN)
		run(&plan, read_on, hold_reading_drive);
	CHECK_EQ(0, atomic_load(&interrupted));
}

/* Memory that is on the CPUs' own lists is there: one hold, and then it knows. */
static void lists_drive(void)
{
	seat(0, 3, getpid(), "");
	UNTIL(looks() > 0);
	page_lists(300);
	available(900);
	UNTIL(word(MW_WORD_HOLDS) == 1);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	wait_for_looks(30);
	CHECK_EQ(1, word(MW_WORD_HOLDS));
	CHECK_EQ(1200 * MIB, word(MW_WORD_HEADROOM));
	CHECK_EQ(0, word(MW_WORD_BRAKES));
	/* Taken from there, too, it is gone. */
	page_lists(50);
	UNTIL(word(MW_WORD_HOLDS) == 2);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_HOLDING);
	/* Far above, nobody asks for them any more. */
	let_pass();
	UNTIL(word(MW_WORD_HEADROOM) == 4000 * MIB);
	CHECK_EQ(0, atomic_load(&calls));
}

static void page_lists_count(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, lists_drive);
}

/* A machine that does not tell of them is looked at twice all the same. */
static void no_lists_drive(void)
{
	CHECK(brake->zone < 0);
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_PARKED_NS));
	blind();
	UNTIL(word(MW_WORD_HEADROOM) == MW_ABSENT);
	let_pass();
}

static void no_lists(void)
{
	struct mw_plan plan = a_plan();

	write_file("proc/zoneinfo", "Node 0, zone   Normal\n");
	run(&plan, spin, no_lists_drive);
	write_file("proc/zoneinfo", zoneinfo);
}

/* Nobody waits for a brake that is stuck. */
static void stuck(void)
{
	struct mw_plan plan = a_plan();

	handle(SIGURG, interpreter);
	available(4000);
	atomic_store(&calls, 0);
	start(&plan);
	atomic_store(&brake->own->hold_until_ns, mw_now() + 20 * (int64_t)MW_MS);
	atomic_fetch_add(&brake->own->hold, 1);
	errno = 1234;
	CHECK(!syscall(SYS_tgkill, getpid(), own_id(), SIGURG));
	if (TSAN)
		(void)mw_now();
	CHECK_EQ(1234, errno);
	CHECK(mw_now() >= atomic_load(&brake->own->hold_until_ns));
	CHECK_EQ(1, atomic_load(&brake->own->hold) & 1);
	mw_let_go(brake);
	CHECK_EQ(0, atomic_load(&calls));
	stop();
}

/* The other threads go on, unless headroom still falls; Python's helper goes on even then. */
static void others_drive(void)
{
	pthread_t other = start_beside();

	seat(0, 3, getpid(), "");
	for (uint64_t helper = 0; helper < 2; helper++) {
		uint64_t holds = helper + 1;

		set(MW_WORD_CLERK, helper ? (uint64_t)atomic_load(&other_id) : 0);
		available(900);
		UNTIL(word(MW_WORD_HOLDS) == holds && word(MW_WORD_PARKED_NS));
		CHECK(stands(&ticks));
		UNTIL(moves(&other_ticks));
		/* It comes back, which is no fall; and 3 MiB are on their way yet. */
		available(950);
		wait_for_looks(3);
		available(947);
		wait_for_looks(3);
		UNTIL(moves(&other_ticks));
		available(940);
		UNTIL(word(MW_WORD_HEADROOM) == 940 * MIB);
		if (helper)
			UNTIL(moves(&other_ticks));
		else
			UNTIL(stands(&other_ticks));
		CHECK(stands(&ticks));
		let_pass();
		UNTIL(moves(&ticks) && moves(&other_ticks));
	}
	end_beside(other);
	CHECK_EQ(0, atomic_load(&calls));
}

static void others_are_held(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, others_drive);
}

/* --------------------------------------------------------------- telling --- */

/* Told, it gets the signal again and again until its epoch is over; then never more. */
static void tell_drive(void)
{
	uint64_t shots;
	int so_far;

	seat(0, 3, getpid(), "");
	UNTIL(looks() > 0);
	for (uint64_t i = 1; i <= 2; i++) {
		so_far = atomic_load(&calls);
		available(900);
		UNTIL(word(MW_WORD_TOLD) == 2 * i + 1);
		CHECK(!(disposition(SIGURG).sa_flags & SA_RESTART));
		UNTIL(atomic_load(&calls) >= so_far + 8);
		CHECK_EQ(getpid(), atomic_load(&caller));
		CHECK_EQ(i, word(MW_WORD_BRAKES));
		CHECK_EQ(900 * MIB, word(MW_WORD_TOLD_HEADROOM));
		CHECK_EQ(1000 * (uint64_t)sysconf(_SC_PAGESIZE), word(MW_WORD_TOLD_RSS));
		CHECK(word(MW_WORD_TOLD_NS) >= word(MW_WORD_HELD_NS));
		CHECK(word(MW_WORD_FLAGS) & MW_NEWS_HELD);
		CHECK(word(MW_WORD_FLAGS) & MW_NEWS_RAISE);
		available(4000);
		unseat(0);
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
		CHECK(!(word(MW_WORD_FLAGS) & (MW_NEWS_RAISE | MW_NEWS_HELD)));
		CHECK_EQ(0, word(MW_WORD_TOLD));
		CHECK(disposition(SIGURG).sa_flags & SA_RESTART);
		UNTIL(moves(&ticks));
		shots = word(MW_WORD_SHOTS);
		so_far = atomic_load(&calls);
		wait_for_looks(3);
		CHECK_EQ(shots, word(MW_WORD_SHOTS));
		CHECK_EQ(so_far, atomic_load(&calls));
		seat(0, 2 * i + 3, getpid(), "");
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	}
	unseat(0);
}

/* A call that waits ends when its trial is told. */
static void tell_reading_drive(void)
{
	seat(0, 3, getpid(), "");
	UNTIL(sleeps());
	available(900);
	UNTIL(atomic_load(&interrupted) > 3);
	unseat(0);
	available(4000);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	CHECK_EQ(1, write(ends[1], "", 1));
}

static void telling(void)
{
	struct mw_plan plan = a_plan();

	plan.numbers.hold_ns = 0;
	run(&plan, spin, tell_drive);
	run(&plan, read_on, tell_reading_drive);
	CHECK(atomic_load(&interrupted) > 0);
	close(ends[0]);
	close(ends[1]);
}

/* Nobody is told twice at once, and below the urgent mark a hold does not last. */
static void urgent_drive(void)
{
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_PARKED_NS));
	CHECK_EQ(0, word(MW_WORD_TOLD));
	available(500);
	UNTIL(word(MW_WORD_TOLD) == 3);
	CHECK_EQ(1, word(MW_WORD_HOLDS));
	unseat(0);
	UNTIL(!word(MW_WORD_TOLD));
}

/* Shielded it is told, but not cut; it goes on, also while memory falls. */
static void shield_drive(void)
{
	uint64_t mib = 900;

	seat(0, 3, getpid(), "");
	set(mw_seat(0, MW_SEAT_SHIELD), 1);
	available(mib);
	UNTIL(word(MW_WORD_TOLD) == 3);
	UNTIL(moves(&ticks));
	for (int i = 0; i < 60; i++) {
		available(mib -= 4);
		UNTIL(moves(&ticks));
	}
	CHECK_EQ(0, word(MW_WORD_SHOTS));
	CHECK_EQ(0, atomic_load(&calls));
	set(mw_seat(0, MW_SEAT_SHIELD), 0);
	UNTIL(atomic_load(&calls) > 3);
	unseat(0);
	UNTIL(!word(MW_WORD_TOLD));
	CHECK_EQ(0, atomic_load(&brake->own->spare));
}

static void shield(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, urgent_drive);
	plan.numbers.hold_ns = 0;
	run(&plan, spin, shield_drive);
}

/* Who takes more although it was told runs part of the time, and so do the others; all are
   let go in the end. */
static void turns_drive(void)
{
	uint64_t mib = 999;
	pthread_t other = start_beside();
	int before;

	seat(0, 3, getpid(), "");
	available(mib);
	UNTIL(word(MW_WORD_TOLD) == 3);
	/* It falls until all are parked, and on, through several rounds. */
	for (int i = 0; i < 150; i++) {
		available(mib -= 2);
		poll(NULL, 0, 1);
	}
	before = atomic_load(&calls);
	UNTIL(atomic_load(&calls) > before + 3);
	/* It does not: everybody runs, the trial still told. */
	UNTIL(!(atomic_load(&brake->own->hold) & 1));
	UNTIL(moves(&ticks) && moves(&other_ticks));
	/* In the middle of it others put their handler there: nobody can be parked, nor shot. */
	for (int i = 0; i < 150; i++) {
		available(mib -= 2);
		if (i == 75)
			handle(SIGURG, interpreter);
		poll(NULL, 0, 1);
	}
	UNTIL(moves(&ticks) && moves(&other_ticks));
	CHECK_EQ(0, mw_brake_hook(brake));
	before = atomic_load(&calls);
	UNTIL(atomic_load(&calls) > before + 3);
	/* And it cannot be seen any more. */
	blind();
	UNTIL(word(MW_WORD_HEADROOM) == MW_ABSENT);
	UNTIL(moves(&ticks) && moves(&other_ticks));
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	UNTIL(moves(&ticks) && moves(&other_ticks));
	CHECK_EQ(0, atomic_load(&brake->own->hold) & 1);
	end_beside(other);
}

static void turns(void)
{
	struct mw_plan plan = a_plan();

	plan.numbers.hold_ns = 0;
	run(&plan, spin, turns_drive);
}

/* In a thread that is not the first, Python's helper raises; it is parked all the same. */
static void beside_drive(void)
{
	pthread_t other = start_beside();

	/* Of two trials it is the one that began last. */
	seat(0, 3, getpid(), "");
	seat(1, 5, atomic_load(&other_id), "");
	available(900);
	UNTIL(word(MW_WORD_PARKED_NS));
	UNTIL(stands(&other_ticks));
	UNTIL(moves(&ticks));
	available(500);
	UNTIL(word(MW_WORD_TOLD) == 5);
	CHECK(word(MW_WORD_FLAGS) & MW_NEWS_RAISE);
	UNTIL(moves(&other_ticks));
	CHECK_EQ(0, word(MW_WORD_SHOTS));
	CHECK_EQ(0, atomic_load(&calls));
	available(4000);
	unseat(1);
	UNTIL(!(word(MW_WORD_FLAGS) & (MW_NEWS_RAISE | MW_NEWS_HELD)));
	/* It ended, and the other one goes on. */
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING || word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	end_beside(other);
}

static void another_thread(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, beside_drive);
}

/* ----------------------------------------------------------- the handler --- */

static void unhooked_drive(void)
{
	static void (*const theirs[])(int) = { SIG_DFL, SIG_IGN };
	uint64_t epoch = 3;

	for (size_t i = 0; i < COUNT(theirs); i++) {
		seat(0, epoch, getpid(), "");
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
		handle(SIGUSR1, theirs[i]);
		available(900);
		/* The default would end us. */
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_HOLDING);
		UNTIL(moves(&ticks));
		available(500);
		UNTIL(word(MW_WORD_TOLD) == epoch);
		UNTIL(word(MW_WORD_FLAGS) & MW_NEWS_UNHOOKED);
		UNTIL(moves(&ticks));
		CHECK_EQ(0, word(MW_WORD_SHOTS));
		/* Put in front of that, it parks, but there is nobody to call. */
		CHECK_EQ(0, mw_brake_hook(brake));
		UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_UNHOOKED));
		UNTIL(word(MW_WORD_SHOTS) > 3);
		CHECK(!(disposition(SIGUSR1).sa_flags & SA_RESTART));
		UNTIL(moves(&ticks));
		CHECK_EQ(0, atomic_load(&calls));
		available(4000);
		unseat(0);
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
		set(MW_WORD_SHOTS, 0);
		epoch += 2;
	}
}

/* One that others put in front, and which calls what stood before it: ours. */
static struct sigaction ours;

static void passes_on(int number)
{
	atomic_fetch_add(&calls, 1);
	ours.sa_handler(number);
}

static void circle_drive(void)
{
	seat(0, 3, getpid(), "");
	ours = disposition(SIGUSR1);
	handle(SIGUSR1, passes_on);
	CHECK_EQ(0, mw_brake_hook(brake));
	available(500);
	UNTIL(atomic_load(&calls) > 3);
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
}

static void handlers_of_others(void)
{
	struct sigaction informed = { .sa_flags = SA_SIGINFO };
	struct mw_plan plan = a_plan();

	plan.signal = SIGUSR1;
	run(&plan, spin, unhooked_drive);
	run(&plan, spin, circle_drive);
	informed.sa_handler = interpreter;
	start(&plan);
	CHECK(!sigaction(SIGUSR1, &informed, NULL));
	CHECK_EQ(-EBUSY, mw_brake_hook(brake));
	stop();
	handle(SIGUSR1, SIG_DFL);
}

/* ------------------------------------------------------------------ fork --- */

static int files_before;

static void in_child(void)
{
	static char page[4096 * 8];
	struct mw_plan plan = a_plan();
	sigset_t none;
	int so_far = atomic_load(&calls);

	memcpy(page, brake->own, sizeof(*brake->own) < sizeof(page) ? sizeof(*brake->own) : sizeof(page));
	for (size_t i = 0; i < sizeof(page); i++)
		CHECK_EQ(0, page[i]);
	/* All that the parent's brake had open is closed, before its numbers are others'. */
	CHECK_EQ(files_before, entries("/proc/self/fd"));
	CHECK(mw_brake_words(brake) == NULL);
	CHECK_EQ(-ESHUTDOWN, mw_brake_arm(brake, &plan.numbers, 0));
	CHECK_EQ(-ESHUTDOWN, mw_brake_refresh(brake));
	CHECK_EQ(-ESHUTDOWN, mw_brake_wait(brake, 0, HOUR_NS));
	CHECK_EQ(0, mw_brake_stop(brake));
	sigemptyset(&none);
	CHECK(!pthread_sigmask(SIG_SETMASK, &none, NULL));
	CHECK(!raise(SIGURG));
	CHECK_EQ(so_far, atomic_load(&calls));

	if (GCC_TSAN)
		leave(check_failed != 0);
	/* One of its own: it has a machine, a thread and a trial. */
	make_machine("child");
	plan.root = root;
	plan.numbers.hold_ns = 0;
	handle(SIGURG, interpreter);
	run(&plan, spin, tell_drive);
	plan.numbers.hold_ns = HOUR_NS;
	run(&plan, spin, hold_drive);
	leave(check_failed != 0);
}

static void fork_drive(void)
{
	static const uint64_t headroom[] = { 900, 500 };

	seat(0, 3, getpid(), "");
	for (size_t i = 0; i < COUNT(headroom); i++) {
		int status = 0;
		pid_t child;

		available(headroom[i]);
		UNTIL(word(i ? MW_WORD_TOLD : MW_WORD_PARKED_NS));
		/* Urgent as it is, what began before the trial is left alone. */
		set(mw_seat(0, MW_SEAT_START_TICKS), UINT64_MAX);
		child = fork();
		if (!child) {
			check_failed = 0;
			in_child();
		}
		CHECK_EQ(child, waitpid(child, &status, 0));
		CHECK_EQ(0, status);
		/* Ours does not care; its pages are its own again. */
		UNTIL(!atomic_load(&brake->own->forked));
		CHECK_EQ(i ? MW_BRAKE_RAISING : MW_BRAKE_HOLDING, word(MW_WORD_PHASE));
	}
	UNTIL(atomic_load(&calls) > 3);
	available(4000);
	unseat(0);
	UNTIL(!word(MW_WORD_TOLD));
}

static void forking(void)
{
	struct mw_plan plan = a_plan();

	files_before = entries("/proc/self/fd");
	run(&plan, spin, fork_drive);
}

/* -------------------------------------------------------------- the board --- */

struct place {
	char folder[300];
	struct mw_board *board;
	struct mw_owner owner;
	uint32_t slot;
};

static void open_place(struct place *place, const char *name)
{
	char boot[37];

	snprintf(place->folder, sizeof(place->folder), "%s/%s", top, name);
	CHECK_EQ(0, mw_board_open(place->folder, BOOT, MW_BOARD_CREATE | MW_BOARD_REPLACE, &place->board));
	CHECK_EQ(0, mw_self(&place->owner, boot));
	CHECK(!mw_slot_claim(place->board, "/", &place->owner, INT64_MAX, &place->slot) || check_failed);
}

/* What is on the board now; 0 of nothing. */
static struct mw_live live_of(const struct place *place)
{
	struct mw_live live = { 0 };

	(void)mw_slot_live(place->board, place->slot, &place->owner, &live);
	return live;
}

static void limit_rss(uint64_t limit)
{
	struct mw_numbers numbers = a_plan().numbers;

	numbers.rss_limit = limit;
	CHECK_EQ(0, mw_brake_arm(brake, &numbers, 0));
	UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_OVER) == (limit == MW_NO_LIMIT));
	wait_for_looks(3);
}

static void order(const struct place *place, uint64_t rss_limit, uint64_t drain)
{
	const struct mw_orders orders = { .drain = drain, .rss_limit = rss_limit };

	CHECK_EQ(0, mw_slot_set_orders(place->board, place->slot, &place->owner, &orders));
	UNTIL(word(MW_WORD_DRAIN) == drain);
}

/* The watchdog's limit counts where it is lower than Python's; it waits at the bell meanwhile. */
static void obey(const struct place *place)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint32_t rung = mw_board_rung(place->board);
	struct mw_live live;

	CHECK_EQ(0, word(MW_WORD_DRAIN));
	order(place, 2000 * page, MW_DRAIN_AGE);
	wait_for_looks(3);
	CHECK(!(word(MW_WORD_FLAGS) & MW_NEWS_OVER));
	CHECK_EQ(rung, mw_board_rung(place->board));
	CHECK_EQ(-ETIMEDOUT, mw_board_wait(place->board, rung, 1));
	CHECK_EQ(-ETIMEDOUT, mw_board_wait(place->board, rung, -1));
	resident(2001);
	CHECK_EQ(0, mw_board_wait(place->board, rung, HOUR_NS));
	/* What it is woken for stands there by then, or it would look, and wait for its next look. */
	CHECK_EQ(0, mw_slot_live(place->board, place->slot, &place->owner, &live));
	CHECK_EQ(2001 * page, live.rss);
	UNTIL(word(MW_WORD_FLAGS) & MW_NEWS_OVER);
	/* Woken once, however long it stays so. */
	wait_for_looks(5);
	CHECK_EQ(rung + 1, mw_board_rung(place->board));
	CHECK_EQ(0, mw_board_wait(place->board, rung, 0));
	/* Another board's watchdog has not heard of it. */
	CHECK_EQ(0, mw_brake_board(brake, NULL, 0, NULL));
	UNTIL(!word(MW_WORD_DRAIN));
	UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_OVER));
	CHECK_EQ(0, mw_brake_board(brake, place->board, place->slot, &place->owner));
	UNTIL(mw_board_rung(place->board) == rung + 2);
	CHECK_EQ(MW_DRAIN_AGE, word(MW_WORD_DRAIN));
	resident(2000);
	UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_OVER));
	/* Python's own, where that is the lower one; and then nobody's. */
	limit_rss(1000 * page);
	order(place, MW_NO_LIMIT, MW_DRAIN_TAINTED);
	CHECK_EQ(rung + 3, mw_board_rung(place->board));
	limit_rss(MW_NO_LIMIT);
	order(place, MW_NO_LIMIT, MW_DRAIN_NO);
	resident(1000);
}

static void board_drive(void)
{
	struct place places[2];
	struct mw_live live;
	uint64_t from = 0;
	struct mw_record records[64];
	int n, marks = 0;
	uint32_t wakes;
	char path[400];

	for (int i = 0; i < 2; i++)
		open_place(&places[i], i ? "b" : "a");
	CHECK_EQ(0, mw_brake_board(brake, places[0].board, places[0].slot, &places[0].owner));
	UNTIL(live_of(&places[0]).looks > 2);
	seat(0, 3, getpid(), "");
	available(500);
	UNTIL(live_of(&places[0]).phase == MW_BRAKE_RAISING);
	live = live_of(&places[0]);
	CHECK_EQ(3, live.epoch);
	CHECK_EQ(1, live.brakes);
	CHECK_EQ(500 * MIB, live.headroom);
	CHECK_EQ(TOTAL, live.limit);
	CHECK_EQ(0, live.bind_dev);
	CHECK_EQ(1000 * (uint64_t)sysconf(_SC_PAGESIZE), live.rss_peak);
	CHECK(live.cpu_ns > 0);
	UNTIL(live_of(&places[0]).gap_p99_ns > 0);
	live = live_of(&places[0]);
	CHECK(live.gap_p99_ns <= live.gap_max_ns);
	available(4000);
	unseat(0);
	UNTIL(live_of(&places[0]).phase == MW_BRAKE_SETTLING);
	/* Held, told, let go: each left its mark. */
	while ((n = mw_slot_records(places[0].board, places[0].slot, &places[0].owner, &from, records, 64)) > 0)
		for (int i = 0; i < n; i++)
			marks |= records[i].kind == MW_RECORD_MARK ? 1 << records[i].rss : 0;
	CHECK_EQ(1 << MW_BRAKE_HOLDING | 1 << MW_BRAKE_RAISING | 1 << MW_BRAKE_SETTLING, marks);

	/* It writes to one while it is given the other: the one before can go at once. */
	available(999);
	for (int i = 0; i < 40; i++) {
		struct place *next = &places[(i + 1) % 2], *last = &places[i % 2];

		CHECK_EQ(0, mw_brake_board(brake, next->board, next->slot, &next->owner));
		mw_board_close(last->board);
		CHECK_EQ(0, mw_board_open(last->folder, BOOT, 0, &last->board));
	}
	CHECK(!(word(MW_WORD_FLAGS) & MW_NEWS_SLOT));

	/* RSS above its limit: the watchdog is woken, once. */
	wakes = atomic_load(&places[0].board->memory->wake);
	limit_rss(1);
	CHECK_EQ(wakes + 1, atomic_load(&places[0].board->memory->wake));
	limit_rss(MW_NO_LIMIT);

	obey(&places[0]);

	/* Cut short under it: it lives, says so, and is quiet about it without a board. */
	snprintf(path, sizeof(path), "%s/board", places[0].folder);
	CHECK(!truncate(path, 4096));
	UNTIL(word(MW_WORD_FLAGS) & MW_NEWS_SLOT);
	wait_for_looks(3);
	CHECK(mw_board_broken(places[0].board));
	limit_rss(1);
	CHECK_EQ(0, mw_brake_board(brake, NULL, 0, NULL));
	UNTIL(!(word(MW_WORD_FLAGS) & MW_NEWS_SLOT));
	for (int i = 0; i < 2; i++)
		mw_board_close(places[i].board);
}

static void the_board(void)
{
	struct mw_plan plan = a_plan();

	run(&plan, spin, board_drive);
}

/* Its last look says that nobody looks any more. */
static void the_last_look(void)
{
	struct mw_plan plan = a_plan();
	struct place place;

	available(4000);
	start(&plan);
	open_place(&place, "last");
	CHECK_EQ(0, mw_brake_board(brake, place.board, place.slot, &place.owner));
	UNTIL(live_of(&place).phase == MW_BRAKE_WATCHING);
	stop();
	CHECK_EQ(MW_BRAKE_OFF, live_of(&place).phase);
	mw_board_close(place.board);
}

/* ------------------------------------------------------------ taking turns --- */

/* Another worker, as far as the board shows it. */
static struct {
	struct place place;
	struct mw_turn turn;
	atomic_bool looks; /* and says that its trial is held */
	atomic_bool ends;
} peer;

/* Ours, on the same board. */
static struct place mine;

static uint64_t token(void)
{
	return atomic_load(&mine.board->memory->tokens[peer.turn.token].word);
}

/* Whose slot a token names, where somebody holds it. */
static bool is_held_by(const struct place *place)
{
	return token() && token() >> 58 == place->slot;
}

static bool is_renewed(uint64_t before)
{
	return is_held_by(&mine) && token() != before;
}

/* For as long as the next lines of a test take. */
static void peer_keeps_it(void)
{
	CHECK(mw_turn_renew(&peer.turn, mw_now(), MW_LEASE_MOST_MS));
}

/* Whatever stands there, and however fast we are to take it anew. */
static void peer_robs_it(void)
{
	do
		atomic_store(&mine.board->memory->tokens[peer.turn.token].word, 0);
	while (!mw_turn_take(&peer.turn, 1, mw_now()));
	peer_keeps_it();
}

static void *peer_looks(void *unused)
{
	while (!atomic_load(&peer.ends)) {
		struct mw_live live = { .time_ns = mw_now(), .phase = MW_BRAKE_HOLDING };

		if (atomic_load(&peer.looks))
			CHECK_EQ(0, mw_slot_set_live(mine.board, peer.place.slot, &peer.place.owner, &live));
		poll(NULL, 0, 1);
	}
	return unused;
}

static void meet_peer(void)
{
	open_place(&mine, "turns");
	peer.place = mine;
	peer.place.owner.pid++;
	peer.place.owner.generation = 0;
	/* Nobody there is known to be dead. */
	CHECK_EQ(0, mw_slot_claim(mine.board, "/nowhere", &peer.place.owner, INT64_MAX, &peer.place.slot));
	CHECK(peer.place.slot != mine.slot);
	peer.turn = (struct mw_turn){ .board = mine.board, .owner = peer.place.owner, .slot = peer.place.slot };
	mw_turn_enter(&peer.turn, 0, 0);
	atomic_store(&peer.looks, false);
	CHECK_EQ(0, mw_brake_board(brake, mine.board, mine.slot, &mine.owner));
}

static void part_from_peer(void)
{
	CHECK_EQ(0, mw_slot_release(mine.board, peer.place.slot, &peer.place.owner));
	CHECK_EQ(0, mw_slot_release(mine.board, mine.slot, &mine.owner));
	mw_board_close(mine.board);
}

/* Told, it has the token and goes on having it; once its trial has ended it has not. */
static void take_drive(void)
{
	uint64_t before;

	meet_peer();
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_HOLDING);
	wait_for_looks(3);
	CHECK_EQ(0, token());
	available(500);
	UNTIL(is_held_by(&mine));
	UNTIL(word(MW_WORD_TOLD) == 3);
	CHECK_EQ(3, token() >> 32 & 0xffff);
	CHECK_EQ(0, word(MW_WORD_WAITS));
	for (int i = 0; i < 2; i++) {
		before = token();
		UNTIL(is_renewed(before));
	}
	CHECK_EQ(0, word(MW_WORD_WAITS));
	/* One that ran out is asked for anew: others may have waited for it. */
	atomic_store(&mine.board->memory->tokens[peer.turn.token].word, 0);
	UNTIL(word(MW_WORD_WAITS) == 1);
	UNTIL(is_held_by(&mine));
	UNTIL(word(MW_WORD_TOLD) == 3);
	CHECK_EQ(2, word(MW_WORD_BRAKES));
	/* But not by who is on the way out already. */
	set(mw_seat(0, MW_SEAT_LEAVING), 1);
	wait_for_looks(2);
	atomic_store(&mine.board->memory->tokens[peer.turn.token].word, 0);
	UNTIL(is_held_by(&mine));
	CHECK_EQ(3, word(MW_WORD_TOLD));
	CHECK_EQ(1, word(MW_WORD_WAITS));
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	UNTIL(!token());
	/* Without a board there is nobody to ask; what was held is given back to the one before. */
	seat(0, 5, getpid(), "");
	available(500);
	UNTIL(is_held_by(&mine));
	CHECK_EQ(0, mw_brake_board(brake, NULL, 0, NULL));
	CHECK_EQ(0, token());
	wait_for_looks(5);
	CHECK_EQ(5, word(MW_WORD_TOLD));
	CHECK_EQ(1, word(MW_WORD_WAITS));
	/* And so it is when the brake ends: see taking_turns(). */
	CHECK_EQ(0, mw_brake_board(brake, mine.board, mine.slot, &mine.owner));
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	seat(0, 7, getpid(), "");
	available(500);
	UNTIL(is_held_by(&mine));
}

/* While it is another's turn the trial goes on, unless it takes more or time runs short. */
static void wait_drive(void)
{
	meet_peer();
	CHECK(mw_turn_take(&peer.turn, 1, mw_now()));
	peer_keeps_it();
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WAITING);
	CHECK_EQ(1, word(MW_WORD_WAITS));
	CHECK(word(MW_WORD_WAIT_NS) >= word(MW_WORD_HELD_NS));
	UNTIL(moves(&ticks));
	resident(1000 + 250);
	wait_for_looks(3);
	UNTIL(moves(&ticks));
	resident(1000 + 300);
	UNTIL(sleeps());
	CHECK(stands(&ticks));
	CHECK_EQ(MW_BRAKE_WAITING, word(MW_WORD_PHASE));
	/* It came back: all is as before. */
	available(1250);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	CHECK(word(MW_WORD_FREED_NS) > word(MW_WORD_WAIT_NS));
	CHECK(!(word(MW_WORD_FLAGS) & (MW_NEWS_RAISE | MW_NEWS_HELD)));
	UNTIL(moves(&ticks));
	/* What it had when this wait began is what counts. */
	peer_keeps_it();
	available(900);
	UNTIL(word(MW_WORD_WAITS) == 2);
	UNTIL(moves(&ticks));
	available(599);
	UNTIL(sleeps());
	CHECK(stands(&ticks));
	CHECK_EQ(0, word(MW_WORD_TOLD));
	CHECK_EQ(0, atomic_load(&calls));
	CHECK_EQ(MW_BRAKE_WAITING, word(MW_WORD_PHASE));
	/* A commit that others wait for is not kept from its end; and no longer than that. */
	set(mw_seat(0, MW_SEAT_SHIELD), 1);
	UNTIL(moves(&ticks));
	set(mw_seat(0, MW_SEAT_SHIELD), 0);
	UNTIL(sleeps());
	CHECK(stands(&ticks));
	/* The other one has ended, and nothing came of it. */
	mw_turn_release(&peer.turn);
	UNTIL(word(MW_WORD_TOLD) == 3);
	CHECK(is_held_by(&mine));
	UNTIL(atomic_load(&calls) > 3);
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	resident(1000);
}

/* A turn that was lost is nobody's to go on with: the signal is sent no more. */
static void lose_drive(void)
{
	uint64_t shots;
	int so_far;

	meet_peer();
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_TOLD) == 3);
	UNTIL(atomic_load(&calls) > 3);
	peer_robs_it();
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WAITING);
	CHECK_EQ(0, word(MW_WORD_TOLD));
	CHECK_EQ(1, word(MW_WORD_WAITS));
	CHECK(!(word(MW_WORD_FLAGS) & MW_NEWS_RAISE));
	CHECK(disposition(SIGURG).sa_flags & SA_RESTART);
	UNTIL(moves(&ticks));
	shots = word(MW_WORD_SHOTS);
	so_far = atomic_load(&calls);
	wait_for_looks(5);
	CHECK_EQ(shots, word(MW_WORD_SHOTS));
	CHECK_EQ(so_far, atomic_load(&calls));
	/* Its next turn is another brake. */
	mw_turn_release(&peer.turn);
	UNTIL(word(MW_WORD_TOLD) == 3);
	CHECK_EQ(2, word(MW_WORD_BRAKES));
	UNTIL(atomic_load(&calls) > so_far + 3);
	/* But who is on the way out already goes on. */
	set(mw_seat(0, MW_SEAT_LEAVING), 1);
	wait_for_looks(2);
	peer_robs_it();
	wait_for_looks(5);
	CHECK_EQ(3, word(MW_WORD_TOLD));
	CHECK_EQ(1, word(MW_WORD_WAITS));
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	CHECK(is_held_by(&peer.place));
}

/* A shield keeps the turn only for as long as nobody else wants it. */
static void yield_drive(void)
{
	pthread_t id;
	uint64_t before;

	meet_peer();
	atomic_store(&peer.ends, false);
	CHECK_EQ(0, pthread_create(&id, NULL, peer_looks, NULL));
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_TOLD) == 3);
	set(mw_seat(0, MW_SEAT_SHIELD), 1);
	wait_for_looks(2);
	for (int i = 0; i < 2; i++) {
		UNTIL(is_held_by(&mine));
		before = token();
		UNTIL(is_renewed(before));
	}
	CHECK_EQ(0, word(MW_WORD_WAITS));
	atomic_store(&peer.looks, true);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WAITING);
	CHECK_EQ(0, word(MW_WORD_TOLD));
	UNTIL(mw_turn_take(&peer.turn, 1, mw_now()) || mw_turn_left_ms(&peer.turn, mw_now()) > 0);
	peer_keeps_it();
	UNTIL(moves(&ticks));
	CHECK_EQ(MW_BRAKE_WAITING, word(MW_WORD_PHASE));
	atomic_store(&peer.ends, true);
	CHECK_EQ(0, pthread_join(id, NULL));
	available(4000);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_WATCHING);
	unseat(0);
}

static void taking_turns(void)
{
	static void (*const drivers[])(void) = { take_drive, wait_drive, lose_drive, yield_drive };

	for (size_t i = 0; i < COUNT(drivers); i++) {
		struct mw_plan plan = a_plan();

		/* The first one sees it held before it is told. */
		plan.numbers.hold_ns = i ? 0 : HOUR_NS;
		run(&plan, spin, drivers[i]);
		/* Whatever it was at when it was stopped. */
		CHECK(!is_held_by(&mine));
		part_from_peer();
	}
}

/* What a trial began with, and the most that it has had since. */
static void peaks(void)
{
	static const uint32_t none[] = { MW_SEATS, UINT32_MAX };
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct mw_plan plan = a_plan();

	available(4000);
	resident(1000);
	start(&plan);
	CHECK_EQ(0, mw_brake_begin(brake, 2));
	CHECK_EQ(1000 * page, word(mw_seat(2, MW_SEAT_START_RSS)));
	/* Of a machine that is made up the kernel knows no maximum. */
	CHECK_EQ(0, word(mw_seat(2, MW_SEAT_START_PEAK)));
	CHECK_EQ(1000 * page, mw_brake_peak(brake, 2));
	resident(3000);
	UNTIL(mw_brake_peak(brake, 2) == (int64_t)(3000 * page));
	resident(2000);
	wait_for_looks(2);
	CHECK_EQ(3000 * page, mw_brake_peak(brake, 2));
	CHECK_EQ(0, mw_brake_begin(brake, 3));
	CHECK_EQ(2000 * page, word(mw_seat(3, MW_SEAT_START_RSS)));
	CHECK_EQ(2000 * page, mw_brake_peak(brake, 3));
	/* One that cannot be told is not known, and no peak is made up. */
	write_file("proc/self/statm", "x\n");
	CHECK_EQ(-EBADMSG, mw_brake_begin(brake, 2));
	CHECK_EQ(MW_ABSENT, word(mw_seat(2, MW_SEAT_START_RSS)));
	CHECK_EQ(-ENODATA, mw_brake_peak(brake, 2));
	resident(1000);
	for (size_t i = 0; i < COUNT(none); i++) {
		CHECK_EQ(-EINVAL, mw_brake_begin(brake, none[i]));
		CHECK_EQ(-EINVAL, mw_brake_peak(brake, none[i]));
	}
	stop();
	CHECK_EQ(-EINVAL, mw_brake_begin(NULL, 0));
	CHECK_EQ(-EINVAL, mw_brake_peak(NULL, 0));
	CHECK_EQ(-ESHUTDOWN, mw_brake_begin(brake, 0));
	CHECK_EQ(-ESHUTDOWN, mw_brake_peak(brake, 0));
}

/* Of this machine it does: also what comes and goes between two looks. */
static void a_peak_between_looks(void)
{
	enum { SIZE = 256 << 20 };
	struct mw_plan plan = a_plan();
	struct rusage usage;
	int64_t peak;
	char *memory;

	plan.root = "/";
	plan.period_max_ns = HOUR_NS;
	plan.period_min_ns = HOUR_NS;
	start(&plan);
	UNTIL(word(MW_WORD_LOOK_NS));
	CHECK_EQ(0, mw_brake_begin(brake, 0));
	CHECK(word(mw_seat(0, MW_SEAT_START_RSS)) > 0);
	CHECK(word(mw_seat(0, MW_SEAT_START_PEAK)) > 0);
	CHECK(mw_brake_peak(brake, 0) >= (int64_t)word(mw_seat(0, MW_SEAT_START_RSS)));
	/* Above what this process has ever had. */
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	CHECK(memory != MAP_FAILED);
	CHECK(!munmap(memory, SIZE));
	CHECK(!getrusage(RUSAGE_SELF, &usage));
	peak = mw_brake_peak(brake, 0);
	CHECK(peak >= SIZE);
	CHECK_EQ(usage.ru_maxrss * 1024, peak);
	/* The next trial does not inherit it. */
	CHECK_EQ(0, mw_brake_begin(brake, 1));
	CHECK(mw_brake_peak(brake, 1) < peak);
	stop();
}

/* ---------------------------------------------------------------- figures --- */

/* The 99th of a hundred gaps is told to within a quarter, and never above the longest. */
static void gaps(void)
{
	static const int64_t table[] = { 1000, 1249, 1250, 1999, 2000, 2499, 2500, 10000, 99999, 1000000,
					 50000000, 1000000000, INT64_C(100000000000) };
	static struct mw_brake it;
	static struct mw_own own;

	it.own = &own;
	own.alive = 1;
	mw_publish(&it, true);
	CHECK_EQ(-1, it.live.gap_p99_ns);
	for (size_t i = 0; i < COUNT(table); i++) {
		memset(it.gaps, 0, sizeof(it.gaps));
		it.live.gap_max_ns = 0;
		for (int n = 0; n < 99; n++)
			mw_count_gap(&it, table[i]);
		mw_count_gap(&it, HOUR_NS);
		mw_publish(&it, true);
		CHECK(it.live.gap_p99_ns > table[i]);
		CHECK(it.live.gap_p99_ns <= table[i] + table[i] / 4 + 1);
		CHECK_EQ(HOUR_NS, it.live.gap_max_ns);
		/* Alone it is the longest, too. */
		memset(it.gaps, 0, sizeof(it.gaps));
		it.live.gap_max_ns = 0;
		mw_count_gap(&it, table[i]);
		mw_publish(&it, true);
		CHECK_EQ(table[i], it.live.gap_p99_ns);
	}
	/* Too early is on time, and an hour is as long as it gets. */
	memset(it.gaps, 0, sizeof(it.gaps));
	it.live.gap_max_ns = 0;
	for (int n = 0; n < 99; n++)
		mw_count_gap(&it, -5);
	mw_publish(&it, true);
	CHECK_EQ(0, it.live.gap_p99_ns);
	mw_count_gap(&it, HOUR_NS);
	mw_publish(&it, true);
	CHECK_EQ(1000, it.live.gap_p99_ns);
	for (int n = 0; n < 1000; n++)
		mw_count_gap(&it, HOUR_NS);
	mw_publish(&it, true);
	CHECK(it.live.gap_p99_ns > INT64_C(100000000000));
}

/* All that it does takes less than half of its stack. */
static void deep_drive(void)
{
	pid_t child = fork();
	int status;

	if (!child)
		for (;;)
			pause();
	set(mw_seat(0, MW_SEAT_START_TICKS), 1);
	seat(0, 3, getpid(), "");
	available(900);
	UNTIL(word(MW_WORD_PARKED_NS));
	available(500); /* told, and the child, which began meanwhile, is ended */
	CHECK_EQ(child, waitpid(child, &status, 0));
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	UNTIL(atomic_load(&calls) > 3);
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
}

static void stack(void)
{
	struct mw_plan plan = a_plan();
	size_t unused = 0;

	/* The first case that runs alone has none yet. */
	start(&plan);
	stop();
	memset(brake->stack, 0xa5, MW_STACK);
	run(&plan, spin, deep_drive);
	while (unused < MW_STACK && brake->stack[unused] == 0xa5)
		unused++;
	CHECK(unused > MW_STACK / 2);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{ "refusals", refusals },
		{ "starts_and_stops", starts_and_stops },
		{ "the_thread_itself", the_thread_itself },
		{ "words", words },
		{ "pace", pace },
		{ "arming", arming },
		{ "many_ask", many_ask },
		{ "stopped_meanwhile", stopped_meanwhile },
		{ "waiting", waiting },
		{ "moved", moved },
		{ "holding", holding },
		{ "page_lists_count", page_lists_count },
		{ "no_lists", no_lists },
		{ "stuck", stuck },
		{ "others_are_held", others_are_held },
		{ "telling", telling },
		{ "shield", shield },
		{ "turns", turns },
		{ "another_thread", another_thread },
		{ "handlers_of_others", handlers_of_others },
		{ "forking", forking },
		{ "the_board", the_board },
		{ "the_last_look", the_last_look },
		{ "taking_turns", taking_turns },
		{ "peaks", peaks },
		{ "a_peak_between_looks", a_peak_between_looks },
		{ "gaps", gaps },
		{ "stack", stack },
	};

	pthread_t first;

	if (argc < 2)
		return 2;
	/* ThreadSanitizer starts one of its own with it, which is not the brake's. */
	atomic_store(&others_finish, true);
	CHECK_EQ(0, pthread_create(&first, NULL, spin_beside, NULL));
	end_beside(first);
	snprintf(top, sizeof(top), "%s", argv[1]);
	make_machine("machine");
	for (size_t i = 0; i < COUNT(cases); i++) {
		int failed = check_failed;

		if (argc > 2 && strcmp(argv[2], cases[i].name))
			continue;
		cases[i].run();
		if (check_failed > failed)
			fprintf(stderr, "... in %s\n", cases[i].name);
		if (argc > 2 || getenv("SAY"))
			fprintf(stderr, "%s: %lld ms\n", cases[i].name, (long long)mw_now() / MW_MS);
	}
	return check_failures() != 0;
}
