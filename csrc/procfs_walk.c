/* procfs_walk.c - see procfs_walk.h. */

#include "procfs_walk.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---------------------------------------------------- folders of numbers --- */

/* The kernel's own struct linux_dirent64, up to the name. */
struct entry_head {
	uint64_t ino;
	int64_t offset;
	uint16_t size;
	uint8_t type;
};
#define NAME_AT (offsetof(struct entry_head, type) + 1)

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

pid_t mw_next_id(struct mw_names *names)
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

/* --------------------------------------------------------------- walking --- */

/* What one look may open, at 5 us each: as many as there are pids where nobody raised
   kernel.pid_max. */
#define FILES_MAX 32768

/* "123/task" and "123/task/125/children" are the longest. */
#define PATH 64

/* What a name below /proc is called. */
static void put_path(char path[PATH], pid_t id, const char *name)
{
	memcpy(mw_put_id(path, id), name, strlen(name) + 1);
}

static int open_next(struct mw_walk *walk, const char *path)
{
	if (walk->files == FILES_MAX)
		return -E2BIG;
	walk->files++;
	return mw_open_file(walk->proc, path);
}

static void missed(struct mw_walk *walk, int err)
{
	if (err && !mw_walk_gone(err) && !walk->error)
		walk->error = err;
}

static int read_stat(struct mw_walk *walk, const char *path, struct mw_stat *out)
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

int mw_walk_stat(struct mw_walk *walk, pid_t pid, struct mw_stat *out)
{
	char path[PATH];
	int err;

	put_path(path, pid, "/stat");
	err = read_stat(walk, path, out);
	return err || out->pid == pid ? err : -EBADMSG;
}

int mw_walk_self(struct mw_walk *walk, struct mw_stat *out)
{
	return read_stat(walk, "self/stat", out);
}

static pid_t pid_at(const struct mw_walk *walk, uint32_t i)
{
	pid_t pid;

	memcpy(&pid, (const char *)walk->list + i * walk->size, sizeof(pid));
	return pid;
}

static bool met(const struct mw_walk *walk, pid_t pid)
{
	for (uint32_t i = 0; i < walk->found; i++)
		if (pid_at(walk, i) == pid)
			return true;
	return pid == walk->self;
}

/* --------------------------------------------- ... where the kernel lists children --- */

static void meet_child(struct mw_walk *walk, pid_t pid, pid_t parent)
{
	struct mw_stat stat;
	int err;

	if (met(walk, pid) || walk->found == walk->n)
		return;
	err = mw_walk_stat(walk, pid, &stat);
	missed(walk, err);
	/* Another's by now, or it never was: its pid was used again. */
	if (!err && stat.ppid == parent)
		walk->meet(walk, &stat);
}

/* "12 34 ", of any length, cut anywhere. */
static int read_children(struct mw_walk *walk, int fd, pid_t parent)
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
static int meet_children_of(struct mw_walk *walk, pid_t parent)
{
	struct mw_names threads = { .folder = -1 };
	char path[PATH];
	pid_t id;
	int fd, err;

	put_path(path, parent, "/task");
	err = threads.folder = open_next(walk, path);
	if (err < 0)
		return err;
	while ((id = mw_next_id(&threads)) > 0) {
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

/* CONFIG_PROC_CHILDREN: its own first thread's file is there, or nobody's is. */
static bool lists_children(struct mw_walk *walk)
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
static int scan(struct mw_walk *walk)
{
	struct mw_names all = { .folder = walk->proc };
	struct passed passed = { { 0 } };
	bool again = false;
	pid_t id = 0;

	(void)lseek(walk->proc, 0, SEEK_SET); /* of a folder: cannot fail */
	while (walk->found < walk->n && (id = mw_next_id(&all)) > 0) {
		struct mw_stat stat;
		int err;

		if (met(walk, id))
			continue;
		err = mw_walk_stat(walk, id, &stat);
		missed(walk, err);
		if (err)
			continue;
		if (met(walk, stat.ppid)) {
			uint32_t before = walk->found;

			walk->meet(walk, &stat);
			again |= walk->found > before && *word_of(&passed, id) >> id % 64 & 1;
		} else {
			*word_of(&passed, stat.ppid) |= (uint64_t)1 << stat.ppid % 64;
		}
	}
	return id < 0 ? id : again;
}

/* ------------------------------------------------------------- ... together --- */

void mw_walk_all(struct mw_walk *walk)
{
	int err;

	if (!lists_children(walk)) {
		while ((err = scan(walk)) > 0)
			;
		missed(walk, err);
		return;
	}
	if (!walk->found)
		missed(walk, meet_children_of(walk, walk->self));
	/* The list is the queue of those whose children are yet to be met. */
	for (uint32_t i = 0; i < walk->found && walk->found < walk->n; i++)
		missed(walk, meet_children_of(walk, pid_at(walk, i)));
}
