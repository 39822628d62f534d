/* procfs_kin.c - the threads of this process, and its descendants; see procfs.h. */

#include "procfs_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same on every machine Linux 5.3 knows; headers may be older than the kernel. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* -------------------------------------------------------------- threads --- */

int mw_open_threads(void)
{
	int root = mw_root_open("/"), fd;

	if (root < 0)
		return root;
	fd = mw_open_below(root, "proc/self/task", O_RDONLY | O_DIRECTORY);
	mw_close_file(&root);
	return fd;
}

int mw_threads(int folder, pid_t *out, uint32_t n)
{
	struct mw_names names = { .folder = folder };
	uint32_t found = 0;
	pid_t id = 0;

	if (lseek(folder, 0, SEEK_SET) < 0)
		return -errno;
	while (found < n && (id = mw_next_id(&names)) > 0)
		out[found++] = id;
	return id < 0 ? id : (int)found;
}

/* ------------------------------------------------------------------ kin --- */

/*
 * The list has three parts: [0, found) was met in this look, in order; [found, kept) is
 * from before and was not met yet; the rest is empty.
 */
struct kin_walk {
	struct mw_walk walk; /* first: what is met gets this one's address */
	struct mw_kin *list;
	uint32_t kept;
};

/*
 * A pidfd of that very process: the pid was its own before and after.  -1: none is to be
 * had (Linux < 5.3, a seccomp filter, no descriptor left); -ESRCH: it has ended.
 */
static int open_pidfd(struct mw_walk *walk, const struct mw_stat *stat)
{
	struct mw_stat again;
	int fd = (int)syscall(SYS_pidfd_open, stat->pid, 0), err;

	if (fd < 0)
		return errno == ESRCH ? -ESRCH : -1;
	err = mw_walk_stat(walk, stat->pid, &again);
	if (!err && again.start_time == stat->start_time)
		return fd;
	mw_close_file(&fd);
	return !err || mw_walk_gone(err) ? -ESRCH : -1;
}

static void drop(struct mw_kin *kin)
{
	mw_close_file(&kin->pidfd);
	*kin = (struct mw_kin){ .pid = 0 };
}

/* Takes it among those found, the room of one from before if need be. */
static void meet(struct mw_walk *walk, const struct mw_stat *stat)
{
	struct kin_walk *known = (struct kin_walk *)walk;
	struct mw_kin kin = { stat->pid, -1, stat->start_time, MW_ABSENT };
	struct mw_kin *list = known->list;
	uint32_t i;

	for (i = walk->found; i < known->kept; i++)
		if (list[i].pid == stat->pid && list[i].start_time == stat->start_time)
			break;
	if (i < known->kept)
		kin = list[i];
	kin.rss_pages = stat->rss_pages;
	if (kin.pidfd < 0)
		kin.pidfd = open_pidfd(walk, stat);
	if (kin.pidfd == -ESRCH)
		return;
	if (i == known->kept && i == walk->n)
		drop(&list[--i]);
	else if (i == known->kept)
		known->kept++;
	list[i] = list[walk->found];
	list[walk->found++] = kin;
}

int mw_kin_find_below(int root, struct mw_kin *list, uint32_t n)
{
	struct kin_walk known = {
		.walk = { .list = list, .size = sizeof(*list), .n = n, .self = getpid(), .meet = meet },
		.list = list,
	};
	struct mw_walk *walk = &known.walk;
	struct mw_stat self;
	int err;

	while (known.kept < n && list[known.kept].pid)
		known.kept++;
	walk->proc = mw_open_below(root, "proc", O_RDONLY | O_DIRECTORY);
	if (walk->proc < 0)
		return walk->proc;
	err = mw_walk_self(walk, &self);
	/* The pids of another namespace are strangers' here, and would be killed. */
	if (!err && self.pid != walk->self)
		err = -EXDEV;
	if (!err)
		mw_walk_all(walk);
	mw_close_file(&walk->proc);
	if (err)
		return err;
	while (!walk->error && known.kept > walk->found)
		drop(&list[--known.kept]);
	return (int)known.kept;
}

int mw_kin_find(struct mw_kin *list, uint32_t n)
{
	int root = mw_root_open("/"), found;

	if (root < 0)
		return root;
	found = mw_kin_find_below(root, list, n);
	mw_close_file(&root);
	return found;
}

/* Whether a pidfd says that it has ended: it can be read then, and of a zombie too. */
static bool ended(int pidfd)
{
	struct pollfd poll_ = { .fd = pidfd, .events = POLLIN };

	return poll(&poll_, 1, 0) == 1;
}

static bool kill_one(const struct mw_kin *kin)
{
	struct mw_stat stat;

	if (kin->pidfd >= 0) {
		if (ended(kin->pidfd))
			return false;
		if (!syscall(SYS_pidfd_send_signal, kin->pidfd, SIGKILL, NULL, 0))
			return true;
		/* A seccomp filter may know the one call and not the other. */
		if (errno != ENOSYS && errno != EPERM)
			return false;
	}
	return !mw_read_stat("/", kin->pid, &stat) && stat.start_time == kin->start_time &&
	       !kill(kin->pid, SIGKILL);
}

int mw_kin_kill(const struct mw_kin *list, uint32_t n, uint64_t since_ticks)
{
	int killed = 0;

	for (uint32_t i = 0; i < n && list[i].pid; i++)
		killed += list[i].start_time >= since_ticks && kill_one(&list[i]);
	return killed;
}

void mw_kin_close(struct mw_kin *list, uint32_t n)
{
	for (uint32_t i = 0; i < n && list[i].pid; i++)
		drop(&list[i]);
}
