/* procfs.c - see procfs.h. */

#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef SYS_openat2
#include <linux/openat2.h>
#endif

/* statm, stat, limits: far below this.  meminfo is 1.5 KiB, memory.stat 2 KiB. */
#define TEXT 8192

/* openat2() answers EAGAIN when a rename ran beside a ".." of ours. */
#define TRIES 8

int mw_root_open(const char *root)
{
	int fd;

	do
		fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

static int open_at(int folder, const char *path, int flags)
{
	int fd;

	do
		fd = openat(folder, path, flags | O_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

int mw_open_below(int root, const char *path, int flags)
{
	while (*path == '/')
		path++;
	if (!*path)
		path = ".";
#ifdef SYS_openat2
	struct open_how how = {
		.flags = (uint64_t)(uint32_t)(flags | O_CLOEXEC),
		.resolve = RESOLVE_IN_ROOT,
	};

	for (int tries = 0; tries < TRIES; tries++) {
		long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		/* Before Linux 5.6, and where a seccomp filter does not know it: below. */
		if (errno == ENOSYS || errno == EPERM)
			break;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
#endif
	return open_at(root, path, flags);
}

int mw_open_file(int folder, const char *name)
{
	return open_at(folder, name, O_RDONLY);
}

void mw_close_file(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

ssize_t mw_read_on(int fd, char *text, size_t size, int64_t at)
{
	ssize_t n;

	do
		n = pread(fd, text, size, (off_t)at);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t mw_reread(int fd, char *text, size_t size)
{
	ssize_t n = mw_read_on(fd, text, size, 0);

	return n > 0 && (size_t)n == size ? n - 1 : n;
}

ssize_t mw_read_file(int folder, const char *name, char *text, size_t size)
{
	int fd = mw_open_file(folder, name);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = mw_reread(fd, text, size);
	mw_close_file(&fd);
	return n;
}

ssize_t mw_read_below(const char *root, const char *path, char *text, size_t size)
{
	int folder = mw_root_open(root), fd;
	ssize_t n;

	if (folder < 0)
		return folder;
	fd = mw_open_below(folder, path, O_RDONLY);
	mw_close_file(&folder);
	if (fd < 0)
		return fd;
	n = mw_reread(fd, text, size);
	mw_close_file(&fd);
	return n;
}

bool mw_is_system_root(int root)
{
	struct stat ours, theirs;

	return !stat("/", &ours) && !fstat(root, &theirs) && ours.st_dev == theirs.st_dev &&
	       ours.st_ino == theirs.st_ino;
}

char *mw_put_id(char *to, pid_t id)
{
	char digits[16];
	size_t n = 0;

	do
		digits[n++] = (char)('0' + id % 10);
	while (id /= 10);
	while (n)
		*to++ = digits[--n];
	return to;
}

/* "proc/self", or "proc/" and a pid. */
static void process_path(pid_t pid, char path[32])
{
	memcpy(path, "proc/self", 10);
	if (pid)
		*mw_put_id(path + 5, pid) = '\0';
}

/*
 * What it means that a process's folder, or a file in it, is not there.  With hidepid=2
 * another user's process cannot be seen and may well live; else it is gone.
 */
int mw_why_missing(int root, pid_t pid, int err)
{
	if (err != -ENOENT || !pid)
		return err;
	if (mw_is_system_root(root) && (!kill(pid, 0) || errno == EPERM))
		return -EACCES;
	return -ESRCH;
}

int mw_proc_open(int root, pid_t pid)
{
	char path[32];

	process_path(pid, path);
	return mw_why_missing(root, pid, mw_open_below(root, path, O_PATH | O_DIRECTORY));
}

int mw_open_meminfo(int root)
{
	return mw_open_below(root, "proc/meminfo", O_RDONLY);
}

int mw_open_statm(int process)
{
	return mw_open_file(process, "statm");
}

int mw_open_membership(int process)
{
	return mw_open_file(process, "cgroup");
}

int mw_open_mounts(int root, int process)
{
	/* Paths are opened in our own mount namespace, whoever is watched. */
	if (mw_is_system_root(root))
		return mw_open_below(root, "proc/self/mountinfo", O_RDONLY);
	return mw_open_file(process, "mountinfo");
}

static int read_stat(int process, pid_t pid, struct mw_stat *out)
{
	char text[TEXT];
	struct mw_stat stat;
	ssize_t n = mw_read_file(process, "stat", text, sizeof(text));
	int err;

	if (n < 0)
		return (int)n;
	err = mw_parse_stat(text, (size_t)n, &stat);
	if (err)
		return err;
	/* The folder of one process that tells of another is no /proc. */
	if (pid && stat.pid != pid)
		return -EBADMSG;
	if (stat.state == 'Z' || stat.state == 'X' || stat.state == 'x')
		return -ESRCH;
	*out = stat;
	return 0;
}

int mw_read_stat(const char *root, pid_t pid, struct mw_stat *out)
{
	int folder = mw_root_open(root), process, err;

	if (folder < 0)
		return folder;
	err = process = mw_proc_open(folder, pid);
	if (process >= 0)
		err = mw_why_missing(folder, pid, read_stat(process, pid, out));
	mw_close_file(&process);
	mw_close_file(&folder);
	return err;
}

static int read_statm(int process, struct mw_statm *out)
{
	char text[TEXT];
	ssize_t n = mw_read_file(process, "statm", text, sizeof(text));

	if (n < 0)
		return (int)n;
	return mw_parse_statm(text, (size_t)n, (uint64_t)sysconf(_SC_PAGESIZE), out);
}

static int read_pss(int process, uint64_t *out)
{
	char text[TEXT];
	ssize_t n = mw_read_file(process, "smaps_rollup", text, sizeof(text));

	return n < 0 ? (int)n : mw_parse_kb(text, (size_t)n, "Pss", out);
}

static int read_process(int process, pid_t pid, int with_pss, struct mw_process *out)
{
	struct mw_stat stat;
	struct mw_statm statm;
	int err = read_stat(process, pid, &stat);

	if (!err)
		err = read_statm(process, &statm);
	if (err)
		return err;
	out->pss = MW_ABSENT;
	out->pss_error = with_pss ? read_pss(process, &out->pss) : 0;
	out->rss = statm.rss;
	out->rss_shared = statm.shared;
	out->start_time = stat.start_time;
	out->ppid = stat.ppid;
	return 0;
}

int mw_process(const char *root, pid_t pid, int with_pss, struct mw_process *out)
{
	int folder, process, err;

	if (pid < 0)
		return -EINVAL;
	folder = mw_root_open(root);
	if (folder < 0)
		return folder;
	err = process = mw_proc_open(folder, pid);
	if (process >= 0)
		err = mw_why_missing(folder, pid, read_process(process, pid, with_pss, out));
	mw_close_file(&process);
	mw_close_file(&folder);
	return err;
}

int mw_self(struct mw_owner *out, char boot_id[37])
{
	struct mw_owner self = { .generation = 0 };
	struct mw_stat stat_;
	struct stat space;
	char text[64];
	ssize_t n;
	int err;

	err = mw_read_stat("/", 0, &stat_);
	if (err)
		return err;
	/* The link's target, so it needs following: openat2 would refuse a magic link. */
	if (stat("/proc/self/ns/pid", &space))
		return -errno;
	n = mw_read_below("/", "proc/sys/kernel/random/boot_id", text, sizeof(text));
	if (n < 0)
		return (int)n;
	if (n != 37 || text[36] != '\n')
		return -EBADMSG;
	memcpy(boot_id, text, 36);
	boot_id[36] = '\0';
	self.pid = (uint64_t)stat_.pid;
	self.start_time = stat_.start_time;
	self.pid_namespace = space.st_ino;
	*out = self;
	return 0;
}

int mw_pressure(const char *root, struct mw_pressure *out)
{
	char text[TEXT];
	ssize_t n = mw_read_below(root, "proc/pressure/memory", text, sizeof(text));

	return n < 0 ? (int)n : mw_parse_pressure(text, (size_t)n, out);
}

/* ---------------------------------------------------------------- facts --- */

static void store(struct mw_fact *fact, int err, uint64_t value)
{
	/* No limit, and what no int64_t holds, is as good as its largest. */
	fact->error = err;
	fact->value = err ? 0 : value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

static void parse_fact(const char *text, size_t n, enum mw_fact_form form, const char *key, struct mw_fact *out)
{
	uint64_t value = 0;
	int64_t with_sign = 0;
	int err = 0;

	switch (form) {
	case MW_FACT_I64:
		out->error = mw_parse_i64(text, n, &with_sign);
		out->value = with_sign;
		return;
	case MW_FACT_U64:
		err = mw_parse_u64(text, n, &value);
		break;
	case MW_FACT_LIMIT:
		err = mw_parse_limit(text, n, &value);
		break;
	case MW_FACT_KB:
		err = mw_parse_kb(text, n, key, &value);
		break;
	case MW_FACT_KEY:
		err = mw_parse_key(text, n, key, &value);
		break;
	case MW_FACT_NODES:
	case MW_FACT_ALLOWED:
		return; /* counted, not parsed */
	}
	store(out, err, value);
}

static void read_fact(int fd, enum mw_fact_form form, const char *key, struct mw_fact *out)
{
	char text[TEXT];
	ssize_t n;

	if (fd < 0) {
		store(out, fd, 0);
		return;
	}
	n = mw_reread(fd, text, sizeof(text));
	mw_close_file(&fd);
	if (n < 0)
		store(out, (int)n, 0);
	else
		parse_fact(text, (size_t)n, form, key, out);
}

void mw_read_fact(int folder, const char *name, enum mw_fact_form form, const char *key, struct mw_fact *out)
{
	read_fact(mw_open_file(folder, name), form, key, out);
}

/* Nodes of memory that the machine has, told by the folders of the first 64. */
static int count_nodes(int root, uint64_t *out)
{
	uint64_t count = 0;

	for (int node = 0; node < 64; node++) {
		char path[] = "sys/devices/system/node/node00";
		size_t n = sizeof(path) - 3;
		int fd;

		if (node > 9)
			path[n++] = (char)('0' + node / 10);
		path[n++] = (char)('0' + node % 10);
		path[n] = '\0';
		fd = mw_open_below(root, path, O_PATH | O_DIRECTORY);
		if (fd < 0 && fd != -ENOENT)
			return fd;
		count += fd >= 0;
		mw_close_file(&fd);
	}
	*out = count;
	return count ? 0 : -ENOENT;
}

/* Nodes that this process may take memory from (cpuset.mems, numactl). */
static int count_allowed_nodes(uint64_t *out)
{
	unsigned long mask[16] = { 0 }; /* 1024 nodes, the most a kernel is built for */
	uint64_t count = 0;

	if (syscall(SYS_get_mempolicy, NULL, mask, sizeof(mask) * 8, NULL, MPOL_F_MEMS_ALLOWED))
		return -errno;
	for (size_t i = 0; i < sizeof(mask) / sizeof(mask[0]); i++)
		count += (uint64_t)__builtin_popcountl(mask[i]);
	*out = count;
	return 0;
}

/* OpenZFS prints "%-31s %-4d %llu": a key of 36 bytes, type and all (4 is a number). */
#define ARC_SIZE "size                            4   "

static const struct {
	const char *name;
	const char *path; /* below the process's folder where it does not begin with '/' */
	enum mw_fact_form form;
	const char *key;
} facts[] = {
	{ "mem_available", "/proc/meminfo", MW_FACT_KB, "MemAvailable" },
	{ "commit_limit", "/proc/meminfo", MW_FACT_KB, "CommitLimit" },
	{ "committed", "/proc/meminfo", MW_FACT_KB, "Committed_AS" },
	{ "hugetlb", "/proc/meminfo", MW_FACT_KB, "Hugetlb" },
	{ "overcommit", "/proc/sys/vm/overcommit_memory", MW_FACT_U64, NULL },
	{ "swappiness", "/proc/sys/vm/swappiness", MW_FACT_U64, NULL },
	{ "panic_on_oom", "/proc/sys/vm/panic_on_oom", MW_FACT_U64, NULL },
	{ "oom_kill_allocating_task", "/proc/sys/vm/oom_kill_allocating_task", MW_FACT_U64, NULL },
	{ "zfs_arc", "/proc/spl/kstat/zfs/arcstats", MW_FACT_KEY, ARC_SIZE },
	{ "numa_nodes", "/sys/devices/system/node", MW_FACT_NODES, NULL },
	{ "numa_allowed", "/proc/self/status", MW_FACT_ALLOWED, NULL },
	{ "oom_score_adj", "oom_score_adj", MW_FACT_I64, NULL },
	{ "pss", "smaps_rollup", MW_FACT_KB, "Pss" },
};

void mw_put(char *to, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);

	memcpy(to, text, n);
	to[n] = '\0';
}

uint32_t mw_machine_facts(void)
{
	return sizeof(facts) / sizeof(facts[0]);
}

void mw_machine_fact(int root, int process, pid_t pid, uint32_t index, struct mw_fact *out)
{
	const char *path;
	uint64_t nodes = 0;
	int err;

	memset(out, 0, sizeof(*out));
	mw_put(out->name, sizeof(out->name), facts[index].name);
	path = facts[index].path;
	if (path[0] == '/') {
		mw_put(out->path, sizeof(out->path), path);
	} else {
		char folder[32];
		size_t n;

		process_path(pid, folder);
		n = strlen(folder);
		out->path[0] = '/';
		memcpy(out->path + 1, folder, n);
		out->path[n + 1] = '/';
		mw_put(out->path + n + 2, sizeof(out->path) - n - 2, path);
	}
	switch (facts[index].form) {
	case MW_FACT_NODES:
		err = count_nodes(root, &nodes);
		store(out, err, nodes);
		break;
	case MW_FACT_ALLOWED:
		err = count_allowed_nodes(&nodes);
		store(out, err, nodes);
		break;
	default:
		read_fact(path[0] == '/' ? mw_open_below(root, path, O_RDONLY) : mw_open_file(process, path),
			  facts[index].form, facts[index].key, out);
		break;
	}
}
