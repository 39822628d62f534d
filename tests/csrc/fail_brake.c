/*
 * fail_brake.c - fail the Nth call of one kind that the brake makes, for N = 1, 2, ...: all
 * that starting it makes, and some more while it brakes.
 *
 *	fail_brake SCENARIO FOLDER CALL HOW
 *
 * SCENARIO is "brake" (it is started, brakes once, and is stopped) or "kill" (it ends the
 * process).  FOLDER is for a machine that is made up; wraps.h has CALL and HOW.  Each N is a
 * process of its own, so that what is kept for a process's life is made anew.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "machine.h"
#include "wraps.h"

/* How many of the calls that it makes after it was started: it makes them for ever. */
enum { RUNNING = 24 };

/* What a process tells the one that started it: a shared page. */
static struct {
	_Atomic unsigned long seen;    /* calls */
	_Atomic unsigned long starting; /* of these, in mw_brake_start() */
} *told;

static int lines_of(const char *path)
{
	FILE *file = fopen(path, "re");
	int n = 0, byte;

	while ((byte = fgetc(file)) != EOF)
		n += byte == '\n';
	fclose(file);
	return n;
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

struct mine {
	int threads;
	int files;
	int mappings;
	void (*handler)(int);
	rlim_t data;
};

static struct mine look_at_me(void)
{
	struct mine me;
	struct sigaction now;
	struct rlimit data;

	me.threads = entries("/proc/self/task");
	me.files = entries("/proc/self/fd");
	me.mappings = lines_of("/proc/self/maps");
	CHECK(!sigaction(SIGURG, NULL, &now));
	me.handler = now.sa_handler;
	CHECK(!getrlimit(RLIMIT_DATA, &data));
	me.data = data.rlim_cur;
	return me;
}

static void interpreter(int number)
{
	(void)number;
}

static struct mw_plan a_quick_plan(void)
{
	struct mw_plan it = a_plan();

	it.flags = MW_BRAKE_REALTIME;
	it.numbers.hold_ns = 0;
	/* A sanitizer ends a program that cannot have memory. */
	it.numbers.squeeze_ns = SANITIZED ? -1 : 0;
	return it;
}

static int start_one(void)
{
	const struct mw_plan it = a_quick_plan();
	struct mw_brake *out = NULL;
	int err;

	spared = false;
	err = mw_brake_start(&it, &out);
	spared = true;
	if (err)
		CHECK(!out);
	else
		brake = out;
	return err;
}

/* What cannot be read is not known, and nothing is made up. */
static void begin_one(void)
{
	int err;

	spared = false;
	err = mw_brake_begin(brake, 1);
	spared = true;
	CHECK_EQ(err ? MW_ABSENT : 1000 * (uint64_t)sysconf(_SC_PAGESIZE), word(mw_seat(1, MW_SEAT_START_RSS)));
	CHECK(!err || err == -plan.error || !plan.error || brake->statm < 0);
}

/* All or nothing: where it was refused all is as it was, and nothing more is lost the next
   time, which may succeed: what is kept for a process's life need not be made again. */
static void judge_refusal(int err, const struct mine *before)
{
	struct mine after = look_at_me(), again;

	CHECK(err == -plan.error || !plan.error || !strcmp(plan.call, "openat2"));
	CHECK_EQ(before->threads, after.threads);
	CHECK_EQ(before->files, after.files);
	CHECK(before->handler == after.handler);
	plan.seen = 0;
	if (!start_one()) {
		CHECK_EQ(0, mw_brake_stop(brake));
		return;
	}
	again = look_at_me();
	CHECK_EQ(after.threads, again.threads);
	CHECK_EQ(after.files, again.files);
	CHECK_EQ(after.mappings, again.mappings);
	CHECK(before->handler == again.handler);
}

/* A child of the trial, which holds nothing that is looked at. */
static pid_t start_child(void)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

/* A call that fails brakes nobody; and who is braked is told, and let go again. */
static void brake_once(void)
{
	pid_t old = start_child(), child;
	uint64_t began = next_tick();
	int status = 0;

	seat(0, 3, getpid(), "T");
	UNTIL(word(MW_WORD_LOOK_NS) > word(mw_seat(0, MW_SEAT_START_NS)));
	wait_for_looks(3);
	CHECK_EQ(0, word(MW_WORD_HOLDS));
	CHECK_EQ(0, word(MW_WORD_TOLD));
	set(mw_seat(0, MW_SEAT_START_TICKS), began);
	child = start_child();
	available(900);
	UNTIL(word(MW_WORD_TOLD) == 3);
	UNTIL(word(MW_WORD_SHOTS) > 1);
	available(500);
	/* Killed by the brake, if it could be found; one failure does not hide it for long. */
	UNTIL(waitpid(child, &status, WNOHANG) == child);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(0, waitpid(old, &status, WNOHANG));
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	CHECK_EQ(0, word(MW_WORD_TOLD));
	CHECK_EQ(0, atomic_load(&brake->own->hold) & 1);
	CHECK(!kill(old, SIGKILL));
	CHECK_EQ(old, waitpid(old, &status, 0));
}

/* Also where the kernel would not empty the page (madvise). */
static void fork_once(void)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		check_failed = 0;
		CHECK(mw_brake_words(brake) == NULL);
		CHECK_EQ(0, word(MW_WORD_LOOK_NS));
		leave(check_failed != 0);
	}
	CHECK_EQ(pid, waitpid(pid, &status, 0));
	CHECK_EQ(0, status);
}

static bool is(const char *call)
{
	return !strcmp(plan.call, call);
}

static int run_brake(void)
{
	const struct sigaction action = { .sa_handler = interpreter };
	struct mine before, after;
	struct mw_numbers numbers;
	int err;

	CHECK(!sigaction(SIGURG, &action, NULL));
	before = look_at_me();
	err = start_one();
	if (!err)
		begin_one();
	atomic_store(&told->starting, plan.seen);
	if (err) {
		judge_refusal(err, &before);
		/* From here on nothing fails, and nothing of it is left. */
		plan.nth = 0;
		CHECK_EQ(0, start_one());
	}
	brake_once();
	fork_once();
	spared = false;
	numbers = a_plan().numbers;
	(void)mw_brake_arm(brake, &numbers, 0);
	(void)mw_brake_refresh(brake);
	(void)mw_brake_hook(brake);
	(void)mw_brake_wait(brake, word(MW_WORD_NEWS), MW_MS);
	CHECK_EQ(0, mw_brake_stop(brake));
	spared = true;
	after = look_at_me();
	CHECK_EQ(before.threads, after.threads);
	CHECK_EQ(before.files, after.files);
	/* What could not be set, or not be asked for, is not put back. */
	if (!is("sigaction") || err)
		CHECK(after.handler == SIG_IGN);
	if (!is("getrlimit") && !is("setrlimit"))
		CHECK_EQ(before.data, after.data);
	return 0;
}

static int run_kill(void)
{
	int out = open("/dev/null", O_WRONLY | O_CLOEXEC);

	if (start_one())
		return 0;
	/* The words are the other tests'. */
	CHECK(dup2(out, STDERR_FILENO) >= 0);
	seat(0, 3, getpid(), "T");
	atomic_store(&told->starting, plan.seen);
	available(100);
	for (;;)
		pause();
}

/* One process for one place to fail at.  Whether there was such a place. */
static bool run(bool kills, unsigned long nth)
{
	int status = 0;
	pid_t pid;

	memset(told, 0, sizeof(*told));
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		check_failed = 0;
		make_machine("machine");
		plan.nth = nth;
		plan.tally = &told->seen;
		(void)(kills ? run_kill() : run_brake());
		leave(check_failed != 0);
	}
	CHECK_EQ(pid, waitpid(pid, &status, 0));
	/* Whatever failed, it ends: by its own hand, or by that of the kernel. */
	if (kills && WIFSIGNALED(status))
		CHECK_EQ(SIGKILL, WTERMSIG(status));
	else
		CHECK_EQ(0, status);
	return nth <= atomic_load(&told->seen) && nth <= atomic_load(&told->starting) + RUNNING;
}

int main(int argc, char **argv)
{
	unsigned long n = 0;
	bool hit;

	if (argc != 5 || !set_how(argv[4]))
		return 2;
	plan.call = argv[3];
	plan.real_time = true;
	spared = true;
	snprintf(top, sizeof(top), "%s", argv[2]);
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED)
		return 2;
	do {
		int failed = check_failed;

		hit = run(!strcmp(argv[1], "kill"), ++n);
		if (check_failed > failed)
			fprintf(stderr, "... when call %lu of %s failed\n", n, plan.call);
	} while (hit);
	printf("%lu\n", n - 1);
	return check_failures() != 0;
}
