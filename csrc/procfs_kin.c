/* procfs_kin.c - the threads of this process, and its descendants; see procfs.h. */

#include "procfs.h"

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

/* ---------------------------------------------------- folders of numbers --- */

/* The kernel's own struct linux_dirent64, up to the name. */
struct entry_head {
	uint64_t ino;
	int64_t offset;
	uint16_t size;
	uint8_t type;
};
#define NAME_AT (offsetof(struct entry_head, type) + 1)

/* What a folder holds, a piece at a time: readdir() allocates, and so does opendir(). */
struct names {
	int folder;
	size_t at;
	size_t held;
	char text[1024];
};

/* A name that is a pid; 0 if it is not one ("self", "."). */
static pid_t to_id(const char *name)
{
	pid_t id = 0;

	for (; *name; name++) {
		if (*name < '0' || *name > '9' || id > INT32_MAX / 10 - 1)
			return 0;
		id = id * 10 + (*name - '0');
	}
	return id;
}

/* The next pid; 0 at the end, or a negative errno. */
static pid_t next_id(struct names *names)
{
	pid_t id = 0;

	while (!id) {
		uint16_t size;

		if (names->at == names->held) {
			long n = syscall(SYS_getdents64, names->folder, names->text, sizeof(names->text));

			if (n <= 0)
				return n < 0 ? -errno : 0;
			names->at = 0;
			names->held = (size_t)n;
		}
		memcpy(&size, names->text + names->at + offsetof(struct entry_head, size), sizeof(size));
		id = to_id(names->text + names->at + NAME_AT);
		names->at += size;
	}
	return id;
}

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
	struct names names = { .folder = folder };
	uint32_t found = 0;
	pid_t id = 0;

	if (lseek(folder, 0, SEEK_SET) < 0)
		return -errno;
	while (found < n && (id = next_id(&names)) > 0)
		out[found++] = id;
	return id < 0 ? id : (int)found;
}

/* ------------------------------------------------------------------ kin --- */

/* What one look may open, at 5 us each: as many as there are pids where nobody raised
   kernel.pid_max. */
#define FILES_MAX 32768

/*
 * A look at all descendants.  The list has three parts: [0, found) was met in this
 * look, in order; [found, kept) is from before and was not met yet; the rest is empty.
 */
struct walk {
	struct mw_kin *list;
	uint32_t n;
	uint32_t found;
	uint32_t kept;
	uint32_t files; /* opened so far */
	bool partly;	/* something could not be looked at, so who was not met may live */
	int proc;
	pid_t self;
};

/* "123/task" and "123/task/125/children" are the longest. */
#define PATH 64

/* What a name below /proc is called. */
static void put_path(char path[PATH], pid_t id, const char *name)
{
	memcpy(mw_put_id(path, id), name, strlen(name) + 1);
}

static int open_next(struct walk *walk, const char *path)
{
	if (walk->files == FILES_MAX)
		return -E2BIG;
	walk->files++;
	return mw_open_file(walk->proc, path);
}

/* Who ended while we looked is no gap in what was seen. */
static bool gone(int err)
{
	return err == -ENOENT || err == -ESRCH;
}

static void missed(struct walk *walk, int err)
{
	walk->partly |= err && !gone(err);
}

static int read_stat(struct walk *walk, const char *path, struct mw_stat *out)
{
	char text[1024]; /* 52 numbers and a name */
	int fd = open_next(walk, path), err;
	ssize_t n;

	if (fd < 0)
		return fd;
	n = mw_reread(fd, text, sizeof(text));
	mw_close_file(&fd);
	err = n < 0 ? (int)n : mw_parse_stat(text, (size_t)n, out);
	if (!err && (out->state == 'Z' || out->state == 'X' || out->state == 'x'))
		err = -ESRCH;
	return err;
}

static int read_stat_of(struct walk *walk, pid_t pid, struct mw_stat *out)
{
	char path[PATH];
	int err;

	put_path(path, pid, "/stat");
	err = read_stat(walk, path, out);
	return err || out->pid == pid ? err : -EBADMSG;
}

static bool met(const struct walk *walk, pid_t pid)
{
	for (uint32_t i = 0; i < walk->found; i++)
		if (walk->list[i].pid == pid)
			return true;
	return pid == walk->self;
}

/*
 * A pidfd of that very process: the pid was its own before and after.  -1: none is to be
 * had (Linux < 5.3, a seccomp filter, no descriptor left); -ESRCH: it has ended.
 */
static int open_pidfd(struct walk *walk, const struct mw_stat *stat)
{
	struct mw_stat again;
	int fd = (int)syscall(SYS_pidfd_open, stat->pid, 0), err;

	if (fd < 0)
		return errno == ESRCH ? -ESRCH : -1;
	err = read_stat_of(walk, stat->pid, &again);
	if (!err && again.start_time == stat->start_time)
		return fd;
	mw_close_file(&fd);
	return !err || gone(err) ? -ESRCH : -1;
}

static void drop(struct mw_kin *kin)
{
	mw_close_file(&kin->pidfd);
	*kin = (struct mw_kin){ .pid = 0 };
}

/* Takes it among those found, the room of one from before if need be. */
static void meet(struct walk *walk, const struct mw_stat *stat)
{
	struct mw_kin kin = { stat->pid, -1, stat->start_time, MW_ABSENT };
	struct mw_kin *list = walk->list;
	uint32_t i;

	for (i = walk->found; i < walk->kept; i++)
		if (list[i].pid == stat->pid && list[i].start_time == stat->start_time)
			break;
	if (i < walk->kept)
		kin = list[i];
	kin.rss_pages = stat->rss_pages;
	if (kin.pidfd < 0)
		kin.pidfd = open_pidfd(walk, stat);
	if (kin.pidfd == -ESRCH)
		return;
	if (i == walk->kept && i == walk->n)
		drop(&list[--i]);
	else if (i == walk->kept)
		walk->kept++;
	list[i] = list[walk->found];
	list[walk->found++] = kin;
}

/* --------------------------------------------- ... where the kernel lists children --- */

static void meet_child(struct walk *walk, pid_t pid, pid_t parent)
{
	struct mw_stat stat;
	int err;

	if (met(walk, pid) || walk->found == walk->n)
		return;
	err = read_stat_of(walk, pid, &stat);
	missed(walk, err);
	/* Another's by now, or it never was: its pid was used again. */
	if (!err && stat.ppid == parent)
		meet(walk, &stat);
}

/* "12 34 ", of any length, cut anywhere. */
static int read_children(struct walk *walk, int fd, pid_t parent)
{
	char text[512];
	size_t held = 0;
	int64_t at = 0;

	for (;;) {
		ssize_t n = mw_read_on(fd, text + held, sizeof(text) - held, at);
		size_t from = 0, used;
		int32_t pid;
		int err;

		if (n <= 0)
			return !n && held ? -EBADMSG : (int)n;
		at += n;
		held += (size_t)n;
		while (!(err = mw_parse_child(text + from, held - from, &used, &pid))) {
			from += used;
			meet_child(walk, pid, parent);
		}
		held -= from;
		if (err != -ENODATA || held == sizeof(text))
			return -EBADMSG;
		memmove(text, text + from, held);
	}
}

/* The children of each thread of a process. */
static int meet_children_of(struct walk *walk, pid_t parent)
{
	struct names threads = { .folder = -1 };
	char path[PATH];
	pid_t id;
	int fd, err;

	put_path(path, parent, "/task");
	err = threads.folder = open_next(walk, path);
	if (err < 0)
		return err;
	while ((id = next_id(&threads)) > 0) {
		char *end = mw_put_id(path, parent);

		memcpy(end, "/task/", 6);
		put_path(end + 6, id, "/children");
		err = fd = open_next(walk, path);
		if (fd >= 0)
			err = read_children(walk, fd, parent);
		mw_close_file(&fd);
		missed(walk, err < 0 ? err : 0);
	}
	mw_close_file(&threads.folder);
	return id;
}

/* CONFIG_PROC_CHILDREN: our own first thread's file is there, or nobody's is. */
static bool lists_children(struct walk *walk)
{
	char path[PATH], *end = mw_put_id(path, walk->self);
	int fd, err;

	memcpy(end, "/task/", 6);
	put_path(end + 6, walk->self, "/children");
	err = fd = open_next(walk, path);
	mw_close_file(&fd);
	return err != -ENOENT;
}

/* ----------------------------------------------------- ... and where it does not --- */

/* Whether a process was passed over that may be a child of one that is met later. */
struct passed {
	uint64_t parents[16]; /* a bit for each pid, modulo 1024 */
};

static uint64_t *word_of(struct passed *passed, pid_t pid)
{
	return &passed->parents[(uint32_t)pid / 64 % 16];
}

/* One pass over all processes: 1 if another could find more, 0, or a negative errno. */
static int scan(struct walk *walk)
{
	struct names all = { .folder = walk->proc };
	struct passed passed = { { 0 } };
	bool again = false;
	pid_t id = 0;

	(void)lseek(walk->proc, 0, SEEK_SET); /* of a folder: cannot fail */
	while (walk->found < walk->n && (id = next_id(&all)) > 0) {
		struct mw_stat stat;
		int err;

		if (met(walk, id))
			continue;
		err = read_stat_of(walk, id, &stat);
		missed(walk, err);
		if (err)
			continue;
		if (met(walk, stat.ppid)) {
			uint32_t before = walk->found;

			meet(walk, &stat);
			again |= walk->found > before && *word_of(&passed, id) >> id % 64 & 1;
		} else {
			*word_of(&passed, stat.ppid) |= (uint64_t)1 << stat.ppid % 64;
		}
	}
	return id < 0 ? id : again;
}

/* ------------------------------------------------------------- ... together --- */

/* All of them: 0, or why it could not be begun. */
static int walk_all(struct walk *walk)
{
	struct mw_stat self;
	int err = read_stat(walk, "self/stat", &self);

	if (err)
		return err;
	/* The pids of another namespace are strangers' here, and would be killed. */
	if (self.pid != walk->self)
		return -EXDEV;
	if (!lists_children(walk)) {
		while ((err = scan(walk)) > 0)
			;
		missed(walk, err);
		return 0;
	}
	missed(walk, meet_children_of(walk, walk->self));
	/* The list is the queue of those whose children are yet to be met. */
	for (uint32_t i = 0; i < walk->found && walk->found < walk->n; i++)
		missed(walk, meet_children_of(walk, walk->list[i].pid));
	return 0;
}

int mw_kin_find_below(int root, struct mw_kin *list, uint32_t n)
{
	struct walk walk = { .list = list, .n = n, .self = getpid() };
	int err;

	while (walk.kept < n && list[walk.kept].pid)
		walk.kept++;
	walk.proc = mw_open_below(root, "proc", O_RDONLY | O_DIRECTORY);
	if (walk.proc < 0)
		return walk.proc;
	err = walk_all(&walk);
	mw_close_file(&walk.proc);
	if (err)
		return err;
	while (!walk.partly && walk.kept > walk.found)
		drop(&list[--walk.kept]);
	return (int)walk.kept;
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
