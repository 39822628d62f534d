/*
 * test_brake_kill.c - what the brake does to processes: last words, SIGKILL, the trial's
 * children, and allocations that fail.  argv[1] is a folder to write in.
 *
 * Each case is a child with a brake of its own, a worker, whose stderr we hold.  Its children
 * become ours when it dies, so we see how they end.
 *
 * links: parse.c parse_cgroup.c parse_zone.c procfs.c procfs_walk.c procfs_kin.c procfs_zone.c cgroup.c cgroup_find.c sampler.c board.c board_file.c board_guard.c board_bell.c judge.c brake.c brake_hold.c brake_kill.c brake_look.c brake_start.c brake_turn.c turn.c
 */
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "board.h"
#include "machine.h"

#ifdef MEMWATCH_COVERAGE
int kill(pid_t pid, int number)
{
	if (pid == getpid())
		DUMP_COVERAGE();
	return (int)syscall(SYS_kill, pid, number);
}
#endif

/* ------------------------------------------------------------- a worker --- */

/* What it tells us while it lives: a shared page. */
static struct {
	_Atomic pid_t old; /* a child from before the trial */
	_Atomic pid_t young;
	_Atomic int failed;
	_Atomic int step;
} *said;

struct ended {
	int status;
	char words[2048]; /* what it wrote to stderr */
};

static void read_words(int fd, char *words, size_t size)
{
	size_t held = 0;
	ssize_t n;

	while (held < size - 1 && (n = read(fd, words + held, size - 1 - held)) > 0)
		held += (size_t)n;
	words[held] = '\0';
}

/* Runs a worker to its end.  Its stderr is a pipe, unless it puts another there; what it
   finds wrong it counts, for nobody would read it. */
static struct ended run(void (*worker)(void))
{
	struct ended ended = { 0 };
	int out[2];
	pid_t pid;

	memset(said, 0, sizeof(*said));
	CHECK(!pipe2(out, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		/* Should this program end, so does it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		check_failed = 0;
		make_machine("machine");
		CHECK(dup2(out[1], STDERR_FILENO) >= 0);
		close(out[0]);
		close(out[1]);
		worker();
		atomic_store(&said->failed, check_failed);
		leave(check_failed != 0);
	}
	close(out[1]);
	read_words(out[0], ended.words, sizeof(ended.words));
	close(out[0]);
	CHECK_EQ(pid, waitpid(pid, &ended.status, 0));
	if (atomic_load(&said->failed))
		fprintf(stderr, "a worker says: %s\n", ended.words);
	CHECK_EQ(0, atomic_load(&said->failed));
	return ended;
}

/* `told` with the worker's pid in place of "%d". */
static void check_killed(const struct ended *ended, pid_t worker, const char *told)
{
	char expected[2048];

	snprintf(expected, sizeof(expected), told, worker);
	CHECK(WIFSIGNALED(ended->status));
	CHECK_EQ(SIGKILL, WTERMSIG(ended->status));
	if (strcmp(expected, ended->words)) {
		check_failed++;
		fprintf(stderr, "expected: %s\ngot: %s\n", expected, ended->words);
	}
}

static _Noreturn void sleep_on(void)
{
	for (;;)
		pause();
}

/* It stays until it is killed; it holds no pipe of ours. */
static pid_t start_child(_Atomic pid_t *tell)
{
	pid_t pid = fork();

	if (!pid) {
		close(STDERR_FILENO);
		sleep_on();
	}
	atomic_store(tell, pid);
	return pid;
}

static struct mw_plan quick_plan(void)
{
	struct mw_plan plan = a_plan();

	plan.numbers.hold_ns = 0;
	return plan;
}

/* A process of ours ended so; whose, it says by its parent's death. */
static void check_child(pid_t pid, bool killed)
{
	int status = 0;

	if (!killed) {
		CHECK_EQ(0, waitpid(pid, &status, WNOHANG));
		CHECK(!kill(pid, SIGKILL));
	}
	CHECK_EQ(pid, waitpid(pid, &status, 0));
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* ------------------------------------------------------------ last words --- */

#define HEAD "\xf0\x9f\x9a\xa8 EMERGENCY BRAKE: worker %d kills itself to prevent OOM crash "

static pid_t last_worker(void)
{
	return (pid_t)atomic_load(&said->step);
}

static void tell_pid(void)
{
	atomic_store(&said->step, getpid());
}

static void cross_the_floor(void)
{
	struct mw_plan plan = quick_plan();

	tell_pid();
	start(&plan);
	(void)start_child(&said->old);
	seat(0, 3, getpid(), "Trial #42 split 3/5");
	available(100);
	sleep_on();
}

/* Below the floor it says so, and it and all that it started are gone. */
static void the_floor(void)
{
	struct ended ended = run(cross_the_floor);

	check_killed(&ended, last_worker(),
		     HEAD "[Trial #42 split 3/5] (below the floor) | Available: 104.9 MB | Threshold: 209.7 MB\n");
	check_child(atomic_load(&said->old), true);
}

static void outlast_the_grace(void)
{
	struct mw_plan plan = quick_plan();

	plan.numbers.grace_ns = 10 * (int64_t)MW_MS;
	tell_pid();
	start(&plan);
	seat(0, 3, getpid(), "Trial #42");
	available(900);
	sleep_on();
}

/* Who was told and does not end in time is ended. */
static void the_grace(void)
{
	struct ended ended = run(outlast_the_grace);

	check_killed(&ended, last_worker(),
		     HEAD "[Trial #42] (did not end in time) | Available: 943.7 MB | Threshold: 1.0 GB\n");
}

static void with_a_full_pipe(void)
{
	static char rest[4096];
	int ends[2];

	CHECK(!pipe2(ends, O_CLOEXEC));
	CHECK(!fcntl(ends[1], F_SETFL, O_NONBLOCK));
	while (write(ends[1], rest, sizeof(rest)) > 0)
		;
	CHECK(!fcntl(ends[1], F_SETFL, 0));
	CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
	cross_the_floor();
}

static void without_a_reader(void)
{
	int ends[2];

	CHECK(!pipe2(ends, O_CLOEXEC));
	CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
	close(ends[0]);
	cross_the_floor();
}

static void without_stderr(void)
{
	close(STDERR_FILENO);
	cross_the_floor();
}

/* Nothing that stderr is or is not keeps it from the kill. */
static void stderr_of_all_kinds(void)
{
	static void (*const workers[])(void) = { with_a_full_pipe, without_a_reader, without_stderr };

	for (size_t i = 0; i < COUNT(workers); i++) {
		struct ended ended = run(workers[i]);

		check_killed(&ended, 0, "");
		check_child(atomic_load(&said->old), true);
	}
}

/* The words alone, of a brake that is made up. */
static struct {
	uint64_t headroom;
	uint64_t brake;
	char text[MW_SEAT_TEXT_BYTES];
} made_up;

static void say_made_up(void)
{
	static struct mw_brake it;
	static struct mw_own own;

	tell_pid();
	it.own = &own;
	it.pid = getpid();
	it.headroom = made_up.headroom;
	it.numbers.brake = made_up.brake;
	for (uint32_t i = 0; i < MW_SEAT_TEXT_BYTES / 8; i++) {
		uint64_t eight;

		memcpy(&eight, made_up.text + i * 8, 8);
		atomic_store(&own.words[mw_seat(0, MW_SEAT_TEXT + i)], eight);
	}
	mw_kill(&it);
}

/* Sizes as Python's units.format_size() has them; a name that fills its place is cut, no more. */
static void words_of_all_sizes(void)
{
	static const struct {
		uint64_t size;
		const char *text;
	} sizes[] = {
		{ 0, "0 B" },
		{ 999, "999 B" },
		{ 1000, "1.0 kB" },
		{ 999949, "999.9 kB" },
		{ 999950, "1.0 MB" },
		{ 123456789, "123.5 MB" },
		{ 1800000000, "1.8 GB" },
		{ UINT64_C(999960000000), "1.0 TB" },
		{ UINT64_C(18000000000000000), "18000.0 TB" },
		{ MW_ABSENT, "unknown" },
	};
	char told[1024];
	struct ended ended;

	for (size_t i = 0; i < COUNT(sizes); i++) {
		made_up.headroom = sizes[i].size;
		made_up.brake = 2000000000;
		memset(made_up.text, 0, sizeof(made_up.text));
		memcpy(made_up.text, "T", 1);
		ended = run(say_made_up);
		snprintf(told, sizeof(told), HEAD "[T] (did not end in time) | Available: %s | Threshold: 2.0 GB\n",
			 last_worker(), sizes[i].text);
		check_killed(&ended, 0, told);
	}
	memset(made_up.text, 'x', sizeof(made_up.text));
	ended = run(say_made_up);
	snprintf(told, sizeof(told), HEAD "[%.*s] (did not end in time) | Available: unknown | Threshold: 2.0 GB\n",
		 last_worker(), (int)sizeof(made_up.text), made_up.text);
	check_killed(&ended, 0, told);
}

static void cross_with_a_board(void)
{
	struct mw_plan plan = quick_plan();
	struct mw_owner owner;
	struct mw_board *board;
	char folder[300], boot[37];
	uint32_t slot;

	snprintf(folder, sizeof(folder), "%s/board", top);
	CHECK_EQ(0, mw_board_open(folder, BOOT, 0, &board));
	CHECK_EQ(0, mw_self(&owner, boot));
	CHECK_EQ(0, mw_slot_claim(board, "/", &owner, INT64_MAX, &slot));
	start(&plan);
	CHECK_EQ(0, mw_brake_board(brake, board, slot, &owner));
	tell_pid();
	seat(0, 3, getpid(), "Trial #42");
	available(100);
	sleep_on();
}

/* Who looks at the board finds what it died of, and at which trial; and has to wait until what
   it held has come back. */
static void the_board(void)
{
	struct mw_turn turn = { .slot = MW_SLOTS - 1 };
	struct mw_record records[64];
	struct mw_board *board;
	struct mw_owner owner;
	struct mw_live live;
	uint64_t from = 0, last = 0, token;
	char folder[300];
	struct ended ended;
	int n;

	snprintf(folder, sizeof(folder), "%s/board", top);
	CHECK_EQ(0, mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	ended = run(cross_with_a_board);
	CHECK(WIFSIGNALED(ended.status));
	CHECK_EQ(0, mw_slot_owner(board, 0, &owner));
	CHECK_EQ(last_worker(), owner.pid);
	CHECK_EQ(0, mw_slot_live(board, 0, &owner, &live));
	CHECK_EQ(MW_BRAKE_KILLING, live.phase);
	CHECK_EQ(3, live.epoch);
	CHECK_EQ(100 * MIB, live.headroom);
	while ((n = mw_slot_records(board, 0, &owner, &from, records, 64)) > 0)
		for (int i = 0; i < n; i++)
			if (records[i].kind == MW_RECORD_MARK)
				last = records[i].rss;
	CHECK_EQ(MW_BRAKE_KILLING, last);
	turn.board = board;
	mw_turn_enter(&turn, 0, 0);
	token = atomic_load(&board->memory->tokens[turn.token].word);
	CHECK_EQ(0, token >> 58);
	CHECK_EQ((uint32_t)((uint64_t)live.time_ns / MW_MS + MW_LEASE_DEAD_MS), (uint32_t)token);
	CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(&turn, live.time_ns + MW_LEASE_DEAD_MS * (int64_t)MW_MS));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&turn, live.time_ns + (MW_LEASE_DEAD_MS + 1) * (int64_t)MW_MS));
	mw_board_close(board);
}

/* The first process of a container: the kernel lets nobody inside kill it. */
static void begin_container(void)
{
	int status = 0;
	pid_t pid;

	if (unshare(CLONE_NEWPID)) {
		fprintf(stderr, "no pid namespace is to be had here\n");
		_exit(3);
	}
	pid = fork();
	if (!pid) {
		/* /proc is the outer one's: the machine is asked for our own pid. */
		make_machine("container");
		CHECK_EQ(1, getpid());
		cross_the_floor();
	}
	CHECK_EQ(pid, waitpid(pid, &status, 0));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
}

static void container(void)
{
	struct ended ended = run(begin_container);
	char told[256];

	if (WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 3) {
		fprintf(stderr, "left out, for it takes privilege: %s", ended.words);
		return;
	}
	snprintf(told, sizeof(told),
		 HEAD "[Trial #42 split 3/5] (below the floor) | Available: 104.9 MB | Threshold: 209.7 MB\n", 1);
	CHECK(!strcmp(told, ended.words));
	CHECK(WIFEXITED(ended.status));
	CHECK_EQ(128 + SIGKILL, WEXITSTATUS(ended.status));
}

/* --------------------------------------------------------------- children --- */

static void reap(void)
{
	struct mw_plan plan = quick_plan();
	uint64_t began;
	int status = 0;
	pid_t young;

	start(&plan);
	(void)start_child(&said->old);
	began = next_tick();
	young = start_child(&said->young);
	seat(0, 3, getpid(), "T");
	set(mw_seat(0, MW_SEAT_START_TICKS), began);
	/* Not urgent: it is told, and they live. */
	available(900);
	UNTIL(word(MW_WORD_TOLD) == 3);
	wait_for_looks(20);
	CHECK_EQ(0, waitpid(young, &status, WNOHANG));
	available(500);
	/* A call that waits is interrupted: this thread is told. */
	UNTIL(waitpid(young, &status, WNOHANG) == young);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	/* What they held is on its way back: below the floor it is waited for. */
	available(4000);
	unseat(0);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
	CHECK_EQ(0, waitpid(atomic_load(&said->old), &status, WNOHANG));
	stop();
}

/* Urgent, it kills the children that the trial started, no others, and not itself. */
static void children(void)
{
	struct ended ended = run(reap);

	CHECK_EQ(0, ended.status);
	check_child(atomic_load(&said->old), false);
}

/* --------------------------------------------------------------- squeezing --- */

static rlim_t data_limit(pid_t pid)
{
	struct rlimit limit = { 0, 0 };

	CHECK(!prlimit(pid, RLIMIT_DATA, NULL, &limit));
	return limit.rlim_cur;
}

/* Whether so much more can be had now. */
static bool can_have(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return false;
	munmap(memory, size);
	return true;
}

static bool is_squeezed(void)
{
	return data_limit(0) != RLIM_INFINITY;
}

/* A child with what this process has at this moment, which says what it finds. */
static void check_forked_child(void)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid)
		leave(is_squeezed() || !can_have(64 * MIB));
	UNTIL(waitpid(pid, &status, WNOHANG) == pid);
	CHECK_EQ(0, status);
}

static void squeeze(void)
{
	struct mw_plan plan = quick_plan();
	pid_t cat;

	plan.numbers.squeeze_ns = 0;
	start(&plan);
	for (uint64_t epoch = 3; epoch <= 5; epoch += 2) {
		seat(0, epoch, getpid(), "T");
		available(900);
		UNTIL(is_squeezed());
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SQUEEZING);
		CHECK(!can_have(64 * MIB));
		CHECK(can_have(MIB));
		check_forked_child();
		/* A shield lifts it. */
		set(mw_seat(0, MW_SEAT_SHIELD), 1);
		UNTIL(!is_squeezed());
		CHECK(can_have(64 * MIB));
		set(mw_seat(0, MW_SEAT_SHIELD), 0);
		UNTIL(is_squeezed());
		/* Who is started by vfork() and exec has no handler for it. */
		cat = vfork();
		if (!cat) {
			execl("/bin/sleep", "sleep", "100", (char *)NULL);
			_exit(127);
		}
		CHECK(data_limit(cat) != RLIM_INFINITY);
		available(4000);
		unseat(0);
		UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SETTLING);
		CHECK(!is_squeezed());
		CHECK_EQ(RLIM_INFINITY, data_limit(cat));
		CHECK(!kill(cat, SIGKILL));
		CHECK_EQ(cat, waitpid(cat, NULL, 0));
		check_forked_child();
	}
	stop();
}

/* With another trial beside it, which did nothing, nobody is squeezed. */
static void squeeze_two(void)
{
	struct mw_plan plan = quick_plan();

	plan.numbers.squeeze_ns = 0;
	start(&plan);
	seat(1, 5, getpid(), "other");
	seat(0, 3, getpid(), "T");
	available(900);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SQUEEZING);
	wait_for_looks(5);
	CHECK(!is_squeezed());
	unseat(1);
	unseat(0);
	stop();
}

/* Stopped in the middle, it leaves things as they were; one changed by others is theirs. */
static void squeeze_and_stop(void)
{
	struct mw_plan plan = quick_plan();
	struct rlimit own = { .rlim_cur = UINT64_C(1) << 60, .rlim_max = RLIM_INFINITY };

	plan.numbers.squeeze_ns = 0;
	for (int theirs = 0; theirs < 2; theirs++) {
		available(4000);
		start(&plan);
		seat(0, 3, getpid(), "T");
		available(900);
		UNTIL(is_squeezed());
		if (theirs)
			CHECK(!setrlimit(RLIMIT_DATA, &own));
		stop();
		CHECK_EQ(theirs ? own.rlim_cur : RLIM_INFINITY, data_limit(0));
	}
	/* One that is low already stays as it is. */
	CHECK(!setrlimit(RLIMIT_DATA, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY }));
	available(4000);
	start(&plan);
	own.rlim_cur = MIB;
	CHECK(!setrlimit(RLIMIT_DATA, &own));
	seat(0, 3, getpid(), "T");
	available(900);
	UNTIL(word(MW_WORD_PHASE) == MW_BRAKE_SQUEEZING);
	stop();
	CHECK_EQ(MIB, data_limit(0));
}

static void squeezing(void)
{
	static void (*const workers[])(void) = { squeeze, squeeze_two, squeeze_and_stop };

	/* A sanitizer allocates whenever it likes, and ends the program when it cannot. */
	if (SANITIZED)
		return;
	for (size_t i = 0; i < COUNT(workers); i++) {
		struct ended ended = run(workers[i]);

		CHECK_EQ(0, ended.status);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{ "the_floor", the_floor },
		{ "the_grace", the_grace },
		{ "stderr_of_all_kinds", stderr_of_all_kinds },
		{ "words_of_all_sizes", words_of_all_sizes },
		{ "the_board", the_board },
		{ "container", container },
		{ "children", children },
		{ "squeezing", squeezing },
	};

	if (argc < 2)
		return 2;
	snprintf(top, sizeof(top), "%s", argv[1]);
	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	said = mmap(NULL, sizeof(*said), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (said == MAP_FAILED)
		return 2;
	for (size_t i = 0; i < COUNT(cases); i++) {
		int failed = check_failed;

		if (argc > 2 && strcmp(argv[2], cases[i].name))
			continue;
		cases[i].run();
		if (check_failed > failed)
			fprintf(stderr, "... in %s\n", cases[i].name);
	}
	return check_failures() != 0;
}
