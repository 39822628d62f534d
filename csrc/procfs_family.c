/* procfs_family.c - a process and its descendants, with what they hold; see memwatch.h. */

#include <fcntl.h>
#include <unistd.h>

#include "procfs_walk.h"

struct family_walk {
	struct mw_walk walk; /* first: what is met gets this one's address */
	struct mw_relative *list;
	uint64_t page_size;
};

static void meet(struct mw_walk *walk, const struct mw_stat *stat)
{
	struct family_walk *family = (struct family_walk *)walk;

	family->list[walk->found++] = (struct mw_relative){
		.pid = stat->pid,
		.ppid = stat->ppid,
		.session = stat->session,
		.start_time = stat->start_time,
		.rss = stat->rss_pages == MW_ABSENT ? MW_ABSENT : stat->rss_pages * family->page_size,
	};
}

/* Whose family it is: first of the list, unless that is ourselves. */
static int begin(struct mw_walk *walk, pid_t pid)
{
	struct mw_stat stat;
	int err;

	if (pid) {
		err = mw_walk_stat(walk, pid, &stat);
		if (!err)
			walk->meet(walk, &stat);
		return err;
	}
	err = mw_walk_self(walk, &stat);
	/* The pids of another namespace are strangers' here. */
	return !err && stat.pid != walk->self ? -EXDEV : err;
}

int mw_family(const char *root, pid_t pid, struct mw_relative *list, uint32_t n)
{
	struct family_walk family = {
		.walk = { .list = list, .size = sizeof(*list), .n = n, .self = pid ? pid : getpid(), .meet = meet },
		.list = list,
		.page_size = (uint64_t)sysconf(_SC_PAGESIZE),
	};
	struct mw_walk *walk = &family.walk;
	int folder, err;

	if (pid < 0 || !n)
		return -EINVAL;
	folder = mw_root_open(root);
	if (folder < 0)
		return folder;
	err = walk->proc = mw_open_below(folder, "proc", O_RDONLY | O_DIRECTORY);
	if (err >= 0)
		err = mw_why_missing(folder, pid, begin(walk, pid));
	if (!err)
		mw_walk_all(walk);
	mw_close_file(&walk->proc);
	mw_close_file(&folder);
	if (!err)
		err = walk->error;
	return err ? err : (int)walk->found;
}
