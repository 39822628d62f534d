/*
 * test_spawn.c - starting a program, the keeper, the bell and a family, with real processes,
 * for the sanitizers; what they must do is told in tests/test_spawn.py.  argv[1] is a folder to
 * write in.
 *
 * links: parse.c parse_cgroup.c parse_zone.c procfs.c procfs_walk.c procfs_family.c procfs_oom.c cgroup.c cgroup_find.c sampler.c board.c board_file.c board_guard.c board_bell.c spawn.c
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "board.h"
#include "check.h"
#include "procfs.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define S (INT64_C(1000) * 1000000)

static int status_of(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int start(const char *path, int *pidfd)
{
	const char *const argv[] = { path, "60", NULL }, *const env[] = { NULL };
	const struct mw_launch launch = { path, argv, env, STDERR_FILENO, 500, SIGKILL };

	return mw_spawn(&launch, pidfd);
}

static void programs(void)
{
	int pidfd = -7, pid;

	CHECK_EQ(-ENOENT, start("/nowhere", &pidfd));
	CHECK_EQ(-7, pidfd);
	CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
	pid = start("/bin/true", &pidfd);
	CHECK(pid > 0);
	CHECK_EQ(0, status_of(pid));
	mw_close_file(&pidfd);
}

/* A family of two, of which the keeper ends one. */
static void keeping(void)
{
	int pidfds[2], pipe = -1, worker = start("/bin/sleep", &pidfds[0]), status;
	pid_t keeper = mw_keeper_start(60 * S, -1, &pipe, &pidfds[1]);
	struct mw_relative list[4];

	CHECK_EQ(2, mw_family("/", 0, list, 4));
	CHECK_EQ(3, mw_family("/", getpid(), list, 4));
	CHECK_EQ(getpid(), list[0].pid);
	CHECK_EQ(1, mw_family("/", worker, list, 4));
	CHECK_EQ(worker, list[0].session);
	CHECK_EQ(getpid(), list[0].ppid);
	CHECK_EQ(-EINVAL, mw_keeper_tell(pipe, -1, 1));
	CHECK_EQ(0, mw_keeper_tell(pipe, worker, 1));
	mw_close_file(&pipe);
	status = status_of(worker);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	CHECK_EQ(0, status_of(keeper));
	CHECK_EQ(-ESRCH, mw_family("/", worker, list, 4));
	for (int i = 0; i < 2; i++)
		mw_close_file(&pidfds[i]);
}

/* Rung by another process, through its own mapping. */
static void bell(const char *top)
{
	struct mw_board *board, *other;
	char folder[300];
	uint32_t seen;
	pid_t child;

	snprintf(folder, sizeof(folder), "%s/bell", top);
	CHECK_EQ(0, mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	seen = mw_board_rung(board);
	CHECK_EQ(-ETIMEDOUT, mw_board_wait(board, seen, 1000));
	child = fork();
	if (!child) {
		if (mw_board_open(folder, BOOT, 0, &other))
			_exit(1);
		mw_board_ring(other);
		_exit(0);
	}
	CHECK_EQ(0, mw_board_wait(board, seen, 60 * S));
	CHECK_EQ(seen + 1, mw_board_rung(board));
	CHECK_EQ(0, status_of(child));
	/* Cut short, nobody rings any more: that is told, and harms nobody. */
	snprintf(folder + strlen(folder), sizeof(folder) - strlen(folder), "/board");
	CHECK(!truncate(folder, 0));
	CHECK_EQ(-EBADMSG, mw_board_wait(board, seen + 1, 60 * S));
	mw_board_ring(board);
	mw_board_close(board);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	programs();
	keeping();
	bell(argv[1]);
	return check_failures() != 0;
}
