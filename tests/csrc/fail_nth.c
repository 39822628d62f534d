/*
 * fail_nth.c - fail the Nth call of one kind, for N = 1, 2, ... until none is left
 * to fail, and see what comes of it each time.
 *
 *	fail_nth SCENARIO ROOT CALL HOW
 *
 * SCENARIO is "tree" (ROOT has a /proc of pid 4242, and figures that stand still),
 * "facts" (the same, and all facts are read, which takes long), "self" (this process, below
 * ROOT, on a machine that lives), "kin" (this process's threads, descendants and page lists,
 * there), "spawn" (a program and a keeper are started) or "board" (ROOT is a folder to put one
 * in).  wraps.h has CALL and HOW.  The brake is in fail_brake.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "memwatch.h"
#include "procfs.h"
#include "wraps.h"

/* ------------------------------------------------------------ the sampler --- */

enum { LOOKS = 4, FACTS = 64, CODES = 16 };

/* What a whole scenario gave; MW_ABSENT and errors where it did not. */
struct outcome {
	int codes[CODES]; /* of each step, in order */
	size_t steps;
	struct mw_sample look[LOOKS]; /* the last one after all was mended */
	uint64_t headroom;
	int left_out; /* a group is, so headroom may be too much: mw_sampler_cgroup_error() */
	uint32_t groups;
	uint64_t limits;
	struct mw_process process;
	struct mw_pressure pressure;
	uint32_t facts;
	uint32_t fact_errors;
	uint64_t fact_sum;
	struct mw_owner self;
};

static int code(struct outcome *o, int error)
{
	o->codes[o->steps++] = error;
	return error;
}

/* A call that fails leaves its out as it was. */
#define INTACT(out)                                                                               \
	do {                                                                                      \
		const unsigned char *p_ = (const unsigned char *)(out);                           \
		size_t wrong_ = 0;                                                                \
		for (size_t i_ = 0; i_ < sizeof(*(out)); i_++)                                    \
			wrong_ += p_[i_] != 0xa5;                                                 \
		CHECK_EQ(0, wrong_);                                                              \
	} while (0)
#define POISON(out) memset((out), 0xa5, sizeof(*(out)))

static void absent(struct mw_sample *s)
{
	memset(s, 0, sizeof(*s));
	s->mem_total = s->mem_available = s->swap_total = s->swap_free = MW_ABSENT;
	s->rss = s->rss_shared = s->rss_anon = s->headroom = s->limit = MW_ABSENT;
}

static void look(struct mw_sampler *sampler, struct outcome *o, struct mw_sample *out)
{
	POISON(out);
	if (code(o, mw_sample(sampler, out))) {
		INTACT(out);
		absent(out);
		return;
	}
	/* MW_PARTIAL is said when, and only when, something is missing. */
	bool missing = out->mem_total == MW_ABSENT || out->mem_available == MW_ABSENT ||
		       out->swap_total == MW_ABSENT || out->swap_free == MW_ABSENT || out->rss == MW_ABSENT ||
		       out->rss_shared == MW_ABSENT || out->rss_anon == MW_ABSENT || out->headroom == MW_ABSENT ||
		       out->limit == MW_ABSENT || out->meminfo_error || out->swap_error || out->statm_error ||
		       out->cgroup_error;
	CHECK_EQ(missing, (out->flags & MW_PARTIAL) != 0);
}

static void describe(struct mw_sampler *sampler, bool facts, struct outcome *o)
{
	struct mw_group group;
	struct mw_fact fact;
	int error = -ENOENT;

	for (uint32_t i = 1; POISON(&group), !mw_sampler_group(sampler, i, &group); i++) {
		o->groups++;
		o->limits += group.limit;
	}
	INTACT(&group);
	POISON(&fact);
	for (uint32_t i = 0; facts && !(error = mw_fact(sampler, i, &fact)); i++, POISON(&fact)) {
		o->facts++;
		o->fact_errors += fact.error != 0;
		if (fact.error)
			CHECK_EQ(0, fact.value);
		o->fact_sum += fact.error ? 0 : (uint64_t)fact.value;
	}
	CHECK_EQ(-ENOENT, error);
	INTACT(&fact);
}

/* Facts, and PSS of this process, which is large under ASan, would take most of the time. */
static void run_sampler(const char *root, pid_t pid, bool facts, struct outcome *o)
{
	struct mw_sampler *sampler = (struct mw_sampler *)&plan, *const untouched = sampler;
	char boot[37];
	int64_t headroom;

	memset(o, 0, sizeof(*o));
	for (int i = 0; i < LOOKS; i++)
		absent(&o->look[i]);
	o->headroom = MW_ABSENT;

	if (code(o, mw_sampler_open(root, pid, 0, &sampler))) {
		CHECK(sampler == untouched);
	} else {
		mw_sampler_near(sampler, MW_ABSENT);
		o->left_out = mw_sampler_cgroup_error(sampler);
		look(sampler, o, &o->look[0]);
		headroom = mw_headroom(sampler);
		o->headroom = headroom < 0 ? MW_ABSENT : (uint64_t)headroom;
		code(o, headroom < 0 ? (int)headroom : 0);
		describe(sampler, facts, o);
		look(sampler, o, &o->look[1]);
		code(o, mw_sampler_refresh(sampler));
		if (mw_sampler_cgroup_error(sampler))
			o->left_out = mw_sampler_cgroup_error(sampler);
		look(sampler, o, &o->look[2]);
	}

	POISON(&o->process);
	if (code(o, mw_process(root, pid, pid != 0, &o->process))) {
		INTACT(&o->process);
		o->process = (struct mw_process){ MW_ABSENT, MW_ABSENT, MW_ABSENT, MW_ABSENT, 0, 0 };
	}
	POISON(&o->pressure);
	if (code(o, mw_pressure(root, &o->pressure))) {
		INTACT(&o->pressure);
		o->pressure = (struct mw_pressure){ MW_ABSENT, MW_ABSENT, MW_ABSENT, MW_ABSENT };
	}
	POISON(&o->self);
	if (code(o, mw_self(&o->self, boot)))
		INTACT(&o->self);
	if (o->codes[0])
		return;

	/* From here on nothing fails: one more refresh, and all is as if nothing had. */
	plan.nth = 0;
	CHECK_EQ(0, mw_sampler_refresh(sampler));
	CHECK_EQ(0, mw_sample(sampler, &o->look[LOOKS - 1]));
	mw_sampler_close(sampler);
}

/* --------------------------------------------------------------- judging --- */

static uint64_t slack; /* how far a figure of a living machine may wander */

static bool same(uint64_t expected, uint64_t actual)
{
	return expected == actual || (expected < MW_NO_LIMIT && actual < MW_NO_LIMIT &&
				      (expected > actual ? expected - actual : actual - expected) <= slack);
}

/* The truth, or absent with its error set: never another number, such as 0. */
static void check_number(uint64_t truth, uint64_t actual, int error)
{
	if (actual == MW_ABSENT && truth != MW_ABSENT)
		CHECK(error != 0);
	else
		CHECK(same(truth, actual));
}

static void check_look(const struct mw_sample *truth, const struct mw_sample *s, int error, const struct outcome *o)
{
	int machine = error ? error : s->meminfo_error, swap = machine ? machine : s->swap_error;
	int process = error ? error : s->statm_error;

	check_number(truth->mem_total, s->mem_total, machine);
	check_number(truth->mem_available, s->mem_available, machine);
	check_number(truth->swap_total, s->swap_total, swap);
	check_number(truth->swap_free, s->swap_free, swap);
	check_number(truth->rss, s->rss, process);
	check_number(truth->rss_shared, s->rss_shared, process);
	check_number(truth->rss_anon, s->rss_anon, process);
	if (same(truth->headroom, s->headroom))
		return;
	if (s->headroom == MW_ABSENT)
		CHECK(machine || s->cgroup_error);
	else if (s->headroom > truth->headroom)
		CHECK(o->left_out != 0);
	else
		CHECK(s->dropped > 0);
}

/* Did anything say that something was amiss? */
static bool told(const struct outcome *truth, const struct outcome *o)
{
	bool is = o->left_out != truth->left_out || o->fact_errors > truth->fact_errors ||
		  o->process.pss_error != truth->process.pss_error;

	for (size_t i = 0; i < CODES; i++)
		is = is || o->codes[i] != truth->codes[i];
	for (int i = 0; i < LOOKS; i++)
		is = is || o->look[i].meminfo_error || o->look[i].swap_error || o->look[i].statm_error ||
		     o->look[i].cgroup_error || o->look[i].dropped > truth->look[i].dropped;
	return is;
}

static bool equal(const struct outcome *truth, const struct outcome *o)
{
	bool is = o->steps == truth->steps && same(truth->headroom, o->headroom) && o->groups == truth->groups &&
		  o->limits == truth->limits && o->facts == truth->facts && same(truth->fact_sum, o->fact_sum) &&
		  same(truth->process.rss, o->process.rss) && same(truth->process.pss, o->process.pss) &&
		  o->process.start_time == truth->process.start_time && o->process.ppid == truth->process.ppid &&
		  same(truth->pressure.some_total_us, o->pressure.some_total_us) &&
		  same(truth->pressure.full_total_us, o->pressure.full_total_us) &&
		  !memcmp(&o->self, &truth->self, sizeof(o->self));

	for (int i = 0; i < LOOKS; i++)
		is = is && same(truth->look[i].headroom, o->look[i].headroom) &&
		     same(truth->look[i].rss, o->look[i].rss) && o->look[i].bind_dev == truth->look[i].bind_dev &&
		     o->look[i].bind_ino == truth->look[i].bind_ino;
	return is;
}

static void judge(const struct outcome *truth, const struct outcome *o, bool must_not_matter)
{
	size_t step = 1;

	if (must_not_matter) {
		CHECK(equal(truth, o));
		CHECK(!told(truth, o));
	} else if (!equal(truth, o)) {
		CHECK(told(truth, o));
	}
	/* The numbers have their own rules, whatever was told. */
	if (!o->codes[0]) {
		check_look(&truth->look[0], &o->look[0], o->codes[step], o);
		if (!same(truth->headroom, o->headroom))
			CHECK(o->headroom == MW_ABSENT || o->headroom < truth->headroom || o->left_out);
		check_look(&truth->look[1], &o->look[1], o->codes[step + 2], o);
		check_look(&truth->look[2], &o->look[2], o->codes[step + 4], o);
		CHECK(same(truth->look[3].headroom, o->look[3].headroom));
		CHECK(same(truth->look[3].rss, o->look[3].rss));
		CHECK_EQ(0, o->look[3].flags & MW_PARTIAL);
	}
	if (o->process.pss == MW_ABSENT && o->process.rss != MW_ABSENT)
		CHECK(o->process.pss_error == truth->process.pss_error ? truth->process.pss == MW_ABSENT :
									  o->process.pss_error != 0);
}

/* -------------------------------------------------------------- the board --- */

static const char boot_id[] = "01234567-89ab-cdef-0123-456789abcdef";

struct board_outcome {
	int codes[CODES];
	size_t steps;
};

static int step(struct board_outcome *o, int error)
{
	o->codes[o->steps++] = error;
	return error;
}

/* How many files are in the folder but the board; `empty` removes all. */
static int others(const char *folder, bool empty)
{
	char path[4096];
	struct dirent *entry;
	DIR *listed = opendir(folder);
	int n = 0;

	while (listed && (entry = readdir(listed))) {
		if (entry->d_name[0] == '.')
			continue;
		n += strcmp(entry->d_name, "board") != 0;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (empty && unlink(path))
			return -1;
	}
	if (listed)
		closedir(listed);
	return n;
}

/* What was written is read, or an error is told. */
static void use_board(struct mw_board *board, struct board_outcome *o)
{
	struct mw_owner owner = { .pid = (uint64_t)getpid(), .start_time = 7, .pid_namespace = 9 }, found;
	struct mw_live live = { .time_ns = 1, .rss = 2 }, live_read;
	struct mw_work work = { .label = "Trial #42", .epoch = 3 }, work_read;
	struct mw_record record = { .time_ns = 4, .kind = MW_RECORD_LOOK, .rss = 5 }, records[2];
	uint32_t slot = 99;
	uint64_t from = 0;

	if (step(o, mw_slot_claim(board, "/", &owner, INT64_MAX, &slot))) {
		CHECK_EQ(99, slot);
		return;
	}
	step(o, mw_slot_lock(board, slot));
	CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
	CHECK_EQ(0, mw_slot_set_work(board, slot, &owner, &work));
	CHECK_EQ(0, mw_slot_record(board, slot, &owner, &record));
	CHECK_EQ(0, mw_slot_live(board, slot, &owner, &live_read));
	CHECK(!memcmp(&live, &live_read, sizeof(live)));
	CHECK_EQ(0, mw_slot_work(board, slot, &owner, &work_read));
	CHECK(!memcmp(&work, &work_read, sizeof(work)));
	CHECK_EQ(1, mw_slot_records(board, slot, &owner, &from, records, 2));
	CHECK(!memcmp(&record, &records[0], sizeof(record)));
	CHECK_EQ(0, mw_slot_owner(board, slot, &found));
	CHECK(!memcmp(&owner, &found, sizeof(owner)));
	/* Who cannot be looked at may live; only who is known to be gone is dead. */
	owner.pid_namespace = 9;
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, "/", 10, INT64_MAX));
	step(o, mw_board_check(board));
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
}

/* Make one, use it, damage it, put another in its place. */
static void run_board(const char *folder, struct board_outcome *o)
{
	struct mw_board *const untouched = (struct mw_board *)&plan, *board = untouched;
	char path[4096];

	memset(o, 0, sizeof(*o));
	if (others(folder, true) < 0 || (rmdir(folder) && errno != ENOENT))
		CHECK(!"the folder could be emptied");
	snprintf(path, sizeof(path), "%s/board", folder);
	for (int i = 0; i < 2; i++) {
		if (step(o, mw_board_open(folder, boot_id, MW_BOARD_CREATE | MW_BOARD_REPLACE, &board))) {
			CHECK(board == untouched);
			return;
		}
		use_board(board, o);
		mw_board_close(board);
		board = untouched;
		if (truncate(path, 4096))
			CHECK(!"the board is there");
	}
}

static void judge_board(const struct board_outcome *o, const char *folder, bool hit)
{
	int n = 0;

	for (size_t i = 0; i < o->steps; i++)
		n += o->codes[i] != 0;
	/* An error is told where it happened, and harms nothing else. */
	CHECK(n <= hit);
	for (size_t i = 0; i < o->steps; i++)
		if (o->codes[i])
			CHECK(o->codes[i] == -plan.error || !strcmp(plan.call, "pwrite") ||
			      !strcmp(plan.call, "pread") || !strcmp(plan.call, "lstat"));
	/* No file is left behind, but where removing it is what failed. */
	if (strcmp(plan.call, "unlinkat") || !hit)
		CHECK_EQ(0, others(folder, false));
}

/* -------------------------------------------------------------- descendants --- */

enum { KIN = 4 };

static struct {
	pid_t old[2]; /* started before the victims */
	uint64_t since;
} family;

static bool lives(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	/* Of a child: it has not ended, not even as a zombie. */
	return !waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid;
}

static pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	alarm(100); /* should we not come to kill it */
	for (;;)
		pause();
}

static uint64_t start_of(pid_t pid)
{
	struct mw_stat stat = { .start_time = 0 };

	CHECK_EQ(0, mw_read_stat("/", pid, &stat));
	return stat.start_time;
}

/* A victim that a clock tick parts from those who must stay. */
static pid_t start_victim(void)
{
	pid_t pid = start_child();

	while (start_of(pid) < family.since) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pid = start_child();
	}
	return pid;
}

struct kin_outcome {
	int found;
	int killed;
	int threads;
	int64_t pagesets;
};

/* Finds them twice, so that what is kept is looked at too, and kills one; then the other files. */
static void run_kin(struct kin_outcome *o)
{
	const bool gone = plan.error == ENOENT || plan.error == ESRCH || (!plan.error && !plan.limit);
	const unsigned long nth = plan.nth;
	struct mw_kin list[KIN] = { { 0 } };
	pid_t victim, ids[8];
	char text[1024];
	int root, fd, twice;

	plan.nth = 0;
	victim = start_victim();
	plan.nth = nth;
	o->found = mw_kin_find(list, KIN);
	twice = mw_kin_find(list, KIN);
	/* The second look loses nobody, unless it was told that he is gone. */
	CHECK(twice < 0 || o->found < 0 || twice >= o->found || gone);
	o->killed = mw_kin_kill(list, KIN, family.since);
	CHECK(o->killed == 0 || o->killed == 1);
	if (o->killed)
		waitpid(victim, NULL, 0);
	else
		CHECK(lives(victim));
	for (int i = 0; i < 2; i++)
		CHECK(lives(family.old[i]));

	o->threads = fd = mw_open_threads();
	if (fd >= 0)
		o->threads = mw_threads(fd, ids, 8);
	mw_close_file(&fd);
	o->pagesets = root = mw_root_open("/");
	if (root >= 0)
		o->pagesets = fd = mw_open_zoneinfo(root);
	if (fd >= 0)
		o->pagesets = mw_read_pagesets(fd, text, sizeof(text));
	mw_close_file(&fd);
	mw_close_file(&root);

	/* From here on nothing fails: all are found, and who is left is killed. */
	plan.nth = 0;
	CHECK_EQ(3 - o->killed, mw_kin_find(list, KIN));
	CHECK_EQ(1 - o->killed, mw_kin_kill(list, KIN, family.since));
	if (!o->killed)
		waitpid(victim, NULL, 0);
	mw_kin_close(list, KIN);
	plan.nth = nth;
}

static void judge_kin(const struct kin_outcome *o, bool must_not_matter)
{
	if (must_not_matter) {
		CHECK_EQ(3, o->found);
		CHECK_EQ(1, o->killed);
		CHECK_EQ(1, o->threads);
		CHECK(o->pagesets >= 0);
	}
	/* All, or what could be seen, or the error. */
	CHECK(o->found >= 0 ? o->found <= 3 : o->found == -plan.error || !plan.error);
	CHECK(o->threads == 1 || o->threads == -plan.error || !plan.error);
	CHECK(o->pagesets >= 0 || o->pagesets == -plan.error || !plan.error);
}

/* -------------------------------------------------------------- processes --- */

/* How many calls there were, in children too. */
static _Atomic unsigned long *calls;

static int status_of(pid_t pid)
{
	int status = -1;

	while (__real_waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* One is started and ends; a keeper is told of it, and ends too. */
static void run_spawn(bool must_not_matter)
{
	const char *const argv[] = { "true", NULL }, *const env[] = { NULL };
	const struct mw_launch launch = { "/bin/true", argv, env, STDERR_FILENO, 500, SIGKILL };
	int pidfd = -7, pipe = -7, pid = mw_spawn(&launch, &pidfd);

	CHECK(pid > 0 || pid == -plan.error);
	CHECK(pid > 0 || !must_not_matter);
	CHECK((pidfd == -7) == (pid < 0));
	if (pid > 0)
		CHECK_EQ(0, status_of(pid));
	mw_close_file(&pidfd);

	pidfd = -7;
	pid = mw_keeper_start(0, -1, &pipe, &pidfd);
	CHECK(pid > 0 || pid == -plan.error);
	CHECK((pidfd == -7) == (pid < 0) && (pipe == -7) == (pid < 0));
	if (pid > 0) {
		int err = mw_keeper_tell(pipe, INT32_MAX, 1), status;

		/* One that could not become a keeper has gone. */
		CHECK(!err || err == -plan.error || err == -EPIPE);
		mw_close_file(&pipe);
		status = status_of(pid);
		CHECK(WIFEXITED(status) && (!WEXITSTATUS(status) || !must_not_matter));
	}
	mw_close_file(&pidfd);
	/* No zombie is left. */
	CHECK(__real_waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

/* ------------------------------------------------------------------ main --- */

static int descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

/* Interrupted, told to try again, or told that a newer call is not there: nobody notices. */
static bool must_not_matter(void)
{
	return plan.error == EINTR || !strcmp(plan.call, "close") || !strcmp(plan.call, "madvise") ||
	       (!strcmp(plan.call, "openat2") &&
		(plan.error == ENOSYS || plan.error == EPERM || plan.error == EAGAIN));
}

/* `pid` 0 is this process. */
static unsigned long fail_sampler(const char *root, pid_t pid, bool facts)
{
	struct outcome truth, o;
	unsigned long n = 0;
	bool hit;

	run_sampler(root, pid, facts, &truth);
	CHECK_EQ(0, truth.codes[0]);
	do {
		int failures = check_failed, open_before = descriptors();

		plan.nth = ++n;
		plan.seen = 0;
		run_sampler(root, pid, facts, &o);
		hit = plan.seen >= n;
		plan.nth = 0;
		judge(&truth, &o, !hit || must_not_matter());
		CHECK_EQ(open_before, descriptors());
		if (check_failed > failures)
			fprintf(stderr, "... when call %lu of %s failed\n", n, plan.call);
	} while (hit);
	return n - 1;
}

static unsigned long fail_board(const char *folder)
{
	struct board_outcome o;
	unsigned long n = 0;
	bool hit;

	do {
		int failures = check_failed, open_before = descriptors();

		plan.nth = ++n;
		plan.seen = 0;
		run_board(folder, &o);
		hit = plan.seen >= n;
		plan.nth = 0;
		judge_board(&o, folder, hit);
		run_board(folder, &o);
		judge_board(&o, folder, false);
		CHECK_EQ(open_before, descriptors());
		if (check_failed > failures)
			fprintf(stderr, "... when call %lu of %s failed\n", n, plan.call);
	} while (hit);
	return n - 1;
}

static unsigned long fail_kin(void)
{
	struct kin_outcome o;
	unsigned long n = 0;
	bool hit;

	for (int i = 0; i < 2; i++)
		family.old[i] = start_child();
	family.since = start_of(family.old[1]) + 1;
	run_kin(&o);
	judge_kin(&o, true);
	do {
		int failures = check_failed, open_before = descriptors();

		plan.nth = ++n;
		plan.seen = 0;
		run_kin(&o);
		hit = plan.seen >= n;
		plan.nth = 0;
		judge_kin(&o, !hit || plan.error == EINTR || !strcmp(plan.call, "close") ||
				      !strcmp(plan.call, "poll") || !strncmp(plan.call, "pidfd_", 6));
		CHECK_EQ(open_before, descriptors());
		if (check_failed > failures)
			fprintf(stderr, "... when call %lu of %s failed\n", n, plan.call);
	} while (hit);
	for (int i = 0; i < 2; i++) {
		kill(family.old[i], SIGKILL);
		waitpid(family.old[i], NULL, 0);
	}
	return n - 1;
}

static unsigned long fail_spawn(void)
{
	unsigned long n = 0;

	calls = mmap(NULL, sizeof(*calls), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (calls == MAP_FAILED)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	plan.tally = calls;
	do {
		int failures = check_failed, open_before = descriptors();
		/* Without a pidfd, or with a signal that is ignored, it is started all the same. */
		bool free_to_fail = plan.error == EINTR || !strcmp(plan.call, "close") ||
				    !strcmp(plan.call, "close_range") || !strcmp(plan.call, "pidfd_open") ||
				    !strcmp(plan.call, "sigaction");

		plan.nth = ++n;
		plan.seen = 0;
		atomic_store(calls, 0);
		run_spawn(free_to_fail);
		plan.nth = 0;
		CHECK_EQ(open_before, descriptors());
		if (check_failed > failures)
			fprintf(stderr, "... when call %lu of %s failed\n", n, plan.call);
	} while (atomic_load(calls) >= n);
	return n - 1;
}

int main(int argc, char **argv)
{
	unsigned long n;

	if (argc != 5 || !set_how(argv[4]))
		return 2;
	plan.call = argv[3];
	if (!strcmp(argv[1], "board")) {
		n = fail_board(argv[2]);
	} else if (!strcmp(argv[1], "kin")) {
		n = fail_kin();
	} else if (!strcmp(argv[1], "spawn")) {
		n = fail_spawn();
	} else {
		bool self = !strcmp(argv[1], "self");

		slack = self ? (uint64_t)256 << 20 : 0;
		n = fail_sampler(argv[2], self ? 0 : 4242, !strcmp(argv[1], "facts"));
	}
	printf("%lu\n", n);
	return check_failures() != 0;
}
