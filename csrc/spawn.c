/*
 * spawn.c - starting workers, and the keeper that ends them should we die.
 *
 * What runs in a child of fork() is async-signal-safe, for the caller may have threads,
 * and any of them may hold any lock.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memwatch.h"
#include "procfs.h"

/* The same on every machine; headers may be older than the kernel. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOEXEC_RANGE 4U /* CLOSE_RANGE_CLOEXEC, Linux 5.11 */

/* The exit status of a shell for what it could not execute. */
#define NOT_EXECUTED 127

/* --------------------------------------------------------------- forking --- */

/*
 * fork() with every signal blocked: Python's handlers write to a pipe of the parent's, and
 * must not run in the child.  `before` is the mask that the parent has again.
 */
static pid_t fork_quietly(sigset_t *before)
{
	sigset_t all;
	pid_t pid;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
	pid = fork();
	err = errno;
	if (pid)
		pthread_sigmask(SIG_SETMASK, before, NULL);
	return pid < 0 ? -err : pid;
}

/* -1 where there is none to be had. */
static int open_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -1 : fd;
}

/* A pipe; both ends are close-on-exec. */
static int open_pipe(int ends[2])
{
	return pipe2(ends, O_CLOEXEC) ? -errno : 0;
}

static void close_pipe(int ends[2])
{
	mw_close_file(&ends[0]);
	mw_close_file(&ends[1]);
}

/* Beyond stdin, stdout and stderr, which are about to be replaced. */
static int move_up(int fd)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return moved < 0 ? -errno : moved;
}

/* --------------------------------------------------------------- a worker --- */

/* Handled as by default, all of them: what is ignored stays so over exec, SIGPIPE in Python's
   case.  And then none is blocked. */
static void reset_signals(void)
{
	const struct sigaction plain = { .sa_handler = SIG_DFL };
	sigset_t none;

	/* SIGKILL, SIGSTOP and libc's own cannot be set, and need not. */
	for (int number = 1; number < NSIG; number++)
		(void)sigaction(number, &plain, NULL);
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static int replace_standard(int output)
{
	int null = mw_open_file(AT_FDCWD, "/dev/null"), err;

	if (null < 0)
		return null;
	/* It may be one of the three itself, if those were closed. */
	err = null = move_up(null);
	output = move_up(output);
	if (output < 0)
		err = output;
	if (err < 0)
		return err;
	return dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 ? -errno : 0;
}

/* Everything but executing it: 0, or -errno. */
static int prepare(const struct mw_launch *launch, pid_t parent)
{
	int err;

	if (setsid() < 0)
		return -errno;
	if (launch->death_signal) {
		if (prctl(PR_SET_PDEATHSIG, (unsigned long)launch->death_signal, 0UL, 0UL, 0UL))
			return -errno;
		/* It died before: nobody will tell us. */
		if (getppid() != parent)
			_exit(NOT_EXECUTED);
	}
	if (launch->oom_score_adj >= -1000 && launch->oom_score_adj <= 1000)
		(void)mw_set_oom_score_adj(launch->oom_score_adj);
	err = replace_standard(launch->output);
	if (err)
		return err;
	(void)syscall(SYS_close_range, 3U, ~0U, CLOEXEC_RANGE);
	reset_signals();
	return 0;
}

static _Noreturn void become(const struct mw_launch *launch, pid_t parent, int tell)
{
	int moved = move_up(tell), err = moved;

	if (moved >= 0) {
		tell = moved;
		err = prepare(launch, parent);
	}
	if (!err) {
		/* POSIX has them without const, and says that it keeps them as they are. */
		execve(launch->path, (char *const *)(uintptr_t)launch->argv, (char *const *)(uintptr_t)launch->env);
		err = -errno;
	}
	while (write(tell, &err, sizeof(err)) < 0 && errno == EINTR)
		;
	_exit(NOT_EXECUTED);
}

/* What the child could not do; 0: it is another program by now, or was killed. */
static int listen_to_child(int fd)
{
	int err = 0;
	ssize_t n;

	do
		n = read(fd, &err, sizeof(err));
	while (n < 0 && errno == EINTR);
	return n == sizeof(err) ? err : 0;
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int mw_spawn(const struct mw_launch *launch, int *pidfd)
{
	pid_t parent = getpid(), pid;
	sigset_t before;
	int ends[2], err;

	err = open_pipe(ends);
	if (err)
		return err;
	pid = fork_quietly(&before);
	if (!pid)
		become(launch, parent, ends[1]);
	mw_close_file(&ends[1]);
	err = pid < 0 ? pid : listen_to_child(ends[0]);
	mw_close_file(&ends[0]);
	if (err) {
		if (pid > 0)
			reap(pid);
		return err;
	}
	*pidfd = open_pidfd(pid);
	return pid;
}

/* ------------------------------------------------------------- the keeper --- */

#define NAME "memwatch-keep"

/* Twice what `run` starts at most: a replacement is told before the dead one is removed. */
#define KEPT 128

#define POLL_NS 20000000

struct message {
	int32_t pid;
	int32_t add;
};

/* What is known of when a leader was started, if that is not when. */
enum { UNTOLD = 0, ENDED = 1 };

struct kept {
	pid_t pid;
	uint64_t start_time;
};

struct keeper {
	uint32_t count;
	struct kept list[KEPT];
};

static uint64_t start_time_of(pid_t pid)
{
	struct mw_stat stat;
	int err = mw_read_stat("/", pid, &stat);

	return !err ? stat.start_time : err == -ESRCH ? ENDED : UNTOLD;
}

static void forget(struct keeper *keeper, pid_t pid)
{
	for (uint32_t i = 0; i < keeper->count; i++)
		if (keeper->list[i].pid == pid)
			keeper->list[i--] = keeper->list[--keeper->count];
}

static void take_note(struct keeper *keeper, const struct message *message)
{
	if (message->pid <= 1)
		return;
	/* Told twice, it is the later one. */
	forget(keeper, message->pid);
	if (message->add && keeper->count < KEPT)
		keeper->list[keeper->count++] = (struct kept){ message->pid, start_time_of(message->pid) };
}

/* Until the other end is closed. */
static void listen_to_watchdog(struct keeper *keeper, int fd)
{
	struct message messages[64];

	for (;;) {
		ssize_t n = read(fd, messages, sizeof(messages));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		/* Each was one write() of less than PIPE_BUF: none is cut. */
		for (size_t i = 0; i < (size_t)n / sizeof(*messages); i++)
			take_note(keeper, &messages[i]);
	}
}

/*
 * A group's number is not used again while it has members, so where its leader is a
 * stranger, it is gone; where there is no leader, its other members are left.
 */
static bool is_stranger(const struct kept *kept)
{
	uint64_t start_time = start_time_of(kept->pid);

	return start_time > ENDED && kept->start_time != UNTOLD && start_time != kept->start_time;
}

/* Sends it to all groups: how many are left. */
static uint32_t signal_all(struct keeper *keeper, int number)
{
	for (uint32_t i = 0; i < keeper->count; i++)
		if (is_stranger(&keeper->list[i]) || (kill(-keeper->list[i].pid, number) && errno == ESRCH))
			keeper->list[i--] = keeper->list[--keeper->count];
	return keeper->count;
}

static int64_t now_ns(void)
{
	struct timespec now;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void end_all(struct keeper *keeper, int64_t grace_ns)
{
	const struct timespec moment = { .tv_nsec = POLL_NS };
	int64_t begun = now_ns();

	if (grace_ns > 0) {
		(void)signal_all(keeper, SIGTERM);
		/* Who is stopped hears nothing. */
		(void)signal_all(keeper, SIGCONT);
		while (signal_all(keeper, 0) && now_ns() - begun < grace_ns)
			(void)nanosleep(&moment, NULL);
	}
	(void)signal_all(keeper, SIGKILL);
}

/* Descriptors from `first` on. */
static void close_from(unsigned int first)
{
	struct rlimit limit = { .rlim_cur = 1024 };

	if (!syscall(SYS_close_range, first, ~0U, 0U))
		return;
	/* Before Linux 5.9.  Who has more open than a million keeps the rest open. */
	(void)getrlimit(RLIMIT_NOFILE, &limit);
	for (unsigned int fd = first; fd < limit.rlim_cur && fd < 1U << 20; fd++)
		(void)close((int)fd);
}

static _Noreturn void be_keeper(int64_t grace_ns, int keep, int input)
{
	struct keeper keeper = { .count = 0 };

	(void)setsid();
	(void)prctl(PR_SET_NAME, NAME, 0UL, 0UL, 0UL);
	/* The pipe is 0 and the lock 1, whatever they were, and nothing else is open. */
	input = move_up(input);
	if (keep >= 0)
		keep = move_up(keep);
	if (input < 0 || dup2(input, 0) < 0)
		_exit(NOT_EXECUTED);
	if (keep < 0 || dup2(keep, 1) < 0)
		(void)close(1);
	close_from(2);
	listen_to_watchdog(&keeper, 0);
	end_all(&keeper, grace_ns);
	_exit(0);
}

int mw_keeper_start(int64_t grace_ns, int keep, int *pipe, int *pidfd)
{
	sigset_t before;
	int ends[2], err;
	pid_t pid;

	err = open_pipe(ends);
	if (err)
		return err;
	/* Told by a loop that must not wait; who listens may. */
	if (fcntl(ends[1], F_SETFL, O_NONBLOCK)) {
		err = -errno;
		close_pipe(ends);
		return err;
	}
	pid = fork_quietly(&before);
	if (!pid)
		be_keeper(grace_ns, keep, ends[0]);
	if (pid < 0) {
		close_pipe(ends);
		return pid;
	}
	mw_close_file(&ends[0]);
	*pipe = ends[1];
	*pidfd = open_pidfd(pid);
	return pid;
}

int mw_keeper_tell(int pipe, pid_t pid, int add)
{
	const struct message message = { pid, add != 0 };
	ssize_t n;

	/* kill(-1) would mean everybody. */
	if (pid <= 1)
		return -EINVAL;
	do
		n = write(pipe, &message, sizeof(message));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int mw_adopt_orphans(void)
{
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) ? -errno : 0;
}
