/*
 * test_cgroup.c - memory cgroups in trees of files: which limit binds, what is left
 * out and why, and what comes of files that change, break and go away.
 *
 * Each check plants a tree of its own below the folder it is given.  What no file of
 * ours can do (answer ENODEV, be interrupted) the calls below do for it, and time
 * passes when a check says so.
 *
 * links: parse.c parse_cgroup.c procfs.c cgroup.c cgroup_find.c sampler.c
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "check.h"
#include "memwatch.h"

#define MIB ((uint64_t)1 << 20)

/* The longest that limits, and membership, are taken for granted (memwatch.h). */
#define LIMITS_NS 100000000
#define MEMBERSHIP_NS 1000000000

/* ------------------------------------------------- what the kernel does --- */

static atomic_llong now_ns = 1000000000000;
static atomic_int reads;

/* The file of this name fails so many times, or something happens while it is read. */
static struct {
	const char *name;
	int err;
	int times;
	void (*meanwhile)(void);
} fault;

static bool strikes(int fd)
{
	char link[32], path[4096];
	const char *name;
	ssize_t n;

	if (!fault.times)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	name = strrchr(path, '/');
	if (!name || strcmp(name + 1, fault.name))
		return false;
	fault.times--;
	if (fault.meanwhile)
		fault.meanwhile();
	errno = fault.err;
	return fault.err;
}

static void fail(const char *name, int err, int times)
{
	fault.name = name;
	fault.err = err;
	fault.times = times;
	fault.meanwhile = NULL;
}

/* These five stand before those of the C library, which are called by other names. */

/* Linux before 4.14 cannot empty a page over fork(). */
static bool old_kernel;

int madvise(void *at, size_t size, int advice)
{
	if (!old_kernel)
		return (int)syscall(SYS_madvise, at, size, advice);
	errno = EINVAL;
	return -1;
}

ssize_t pread(int fd, void *to, size_t size, off_t at)
{
	struct iovec part = { to, size };

	atomic_fetch_add(&reads, 1);
	return strikes(fd) ? -1 : preadv(fd, &part, 1, at);
}

ssize_t read(int fd, void *to, size_t size)
{
	struct iovec part = { to, size };

	return strikes(fd) ? -1 : readv(fd, &part, 1);
}

int fstat(int fd, struct stat *out)
{
	return strikes(fd) ? -1 : fstatat(fd, "", out, AT_EMPTY_PATH);
}

/* Each look at the clock takes 1 ns. */
int clock_gettime(clockid_t clock, struct timespec *out)
{
	long long now = atomic_fetch_add(&now_ns, 1);

	(void)clock;
	out->tv_sec = now / 1000000000;
	out->tv_nsec = now % 1000000000;
	return 0;
}

static void pass(int64_t ns)
{
	atomic_fetch_add(&now_ns, ns);
}

/* ---------------------------------------------------------------- trees --- */

static const char meminfo[] = "MemTotal:        8192000 kB\nMemFree:         1024000 kB\n"
			      "MemAvailable:    6144000 kB\nSwapTotal:       2048000 kB\n"
			      "SwapFree:        1536000 kB\n";
enum { TOTAL = 8000, AVAILABLE = 6000, SWAP = 1500 }; /* the same in MiB */

static const char statm[] = "30000 25000 5000 200 0 20000 0\n";

#define PROC "proc/7"

/* The process is in /a/b: that folder, its parent, and the mount point, by version. */
static const char *const folders[3][3] = {
	[1] = { "sys/fs/cgroup/memory/a/b", "sys/fs/cgroup/memory/a", "sys/fs/cgroup/memory" },
	[2] = { "sys/fs/cgroup/a/b", "sys/fs/cgroup/a", "sys/fs/cgroup" },
};
static const char *const memberships[3] = { [1] = "0::/\n4:cpu,memory:/a/b\n", [2] = "0::/a/b\n" };
static const char *const mounts[3] = {
	[1] = "30 20 0:30 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n",
	[2] = "30 20 0:30 / /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw\n",
};

static char root[32];

/* Opens a file of the tree to be written, and makes the folders that lead to it. */
static FILE *create(const char *folder, const char *name)
{
	char path[8192];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/%s", root, folder, name);
	for (char *p = path; (p = strchr(p, '/')) != NULL; *p++ = '/') {
		*p = '\0';
		if (mkdir(path, 0755))
			CHECK_EQ(EEXIST, errno);
	}
	file = fopen(path, "w");
	if (!file) {
		perror(path);
		exit(2);
	}
	return file;
}

static void put(const char *folder, const char *name, const char *text, ...)
	__attribute__((format(printf, 3, 4)));

static void put(const char *folder, const char *name, const char *text, ...)
{
	FILE *file = create(folder, name);
	va_list args;

	va_start(args, text);
	vfprintf(file, text, args);
	va_end(args);
	CHECK_EQ(0, fclose(file));
}

static void drop(const char *folder, const char *name)
{
	char path[8192];

	snprintf(path, sizeof(path), "%s/%s/%s", root, folder, name);
	CHECK_EQ(0, remove(path));
}

/* A symlink to itself: neither root nor anybody may open it (ELOOP). */
static void loop(const char *folder, const char *name)
{
	char path[8192];

	put(folder, name, " ");
	drop(folder, name);
	snprintf(path, sizeof(path), "%s/%s/%s", root, folder, name);
	CHECK_EQ(0, symlink(name, path));
}

/* Of one group, in MiB.  0: no limit, and of swap: no such file. */
struct figures {
	uint64_t limit;
	uint64_t high;
	uint64_t usage;
	uint64_t cache;
	uint64_t swap_limit;
	uint64_t swap_usage;
	const char *use_hierarchy;
};

static void put_limit(const char *folder, const char *name, uint32_t version, uint64_t mib)
{
	if (mib)
		put(folder, name, "%llu\n", (unsigned long long)(mib * MIB));
	else
		put(folder, name, version == 1 ? "9223372036854771712\n" : "max\n");
}

static void put_bytes(const char *folder, const char *name, uint64_t mib)
{
	put(folder, name, "%llu\n", (unsigned long long)(mib * MIB));
}

static void put_cache(const char *folder, uint32_t version, uint64_t mib)
{
	put(folder, "memory.stat",
	    version == 1 ? "inactive_file 9\ntotal_inactive_file %llu\ntotal_active_file 0\n"
			   "total_dirty 0\ntotal_writeback 0\n" :
			   "anon 9\ninactive_file %llu\nactive_file 0\nfile_dirty 0\n"
			   "file_writeback 0\n",
	    (unsigned long long)(mib * MIB));
}

static void put_group(const char *folder, uint32_t version, const struct figures *it)
{
	bool v1 = version == 1;

	put_limit(folder, v1 ? "memory.limit_in_bytes" : "memory.max", version, it->limit);
	put_bytes(folder, v1 ? "memory.usage_in_bytes" : "memory.current", it->usage);
	put_cache(folder, version, it->cache);
	if (!v1)
		put_limit(folder, "memory.high", version, it->high);
	if (it->swap_limit) {
		put_limit(folder, v1 ? "memory.memsw.limit_in_bytes" : "memory.swap.max", version,
			  it->swap_limit);
		put_bytes(folder, v1 ? "memory.memsw.usage_in_bytes" : "memory.swap.current",
			  it->swap_usage);
	}
	if (it->use_hierarchy)
		put(folder, "memory.use_hierarchy", "%s", it->use_hierarchy);
}

/* A new tree: a machine, process 7, and no cgroup. */
static void plant_machine(void)
{
	static int planted;
	char self[64];

	snprintf(root, sizeof(root), "tree%d", ++planted);
	put("proc", "meminfo", "%s", meminfo);
	put(PROC, "statm", "%s", statm);
	put(PROC, "oom_score_adj", "-17\n");
	snprintf(self, sizeof(self), "%s/proc/self", root);
	CHECK_EQ(0, symlink("7", self));
}

/* A new tree with the process in /a/b.  The root of v2 has no files. */
static void plant(uint32_t version, const struct figures group[3])
{
	plant_machine();
	put(PROC, "cgroup", "%s", memberships[version]);
	put(PROC, "mountinfo", "%s", mounts[version]);
	for (int i = 0; i < (version == 1 ? 3 : 2); i++)
		put_group(folders[version][i], version, &group[i]);
}

/* What most checks need: 412 MiB left in /a/b, and 1000 MiB in /a. */
static const struct figures usual[3] = { { .limit = 512, .usage = 150, .cache = 50 },
					  { .limit = 1200, .usage = 200 } };
enum { USUAL = 412, USUAL_PARENT = 1000 };

static struct mw_sampler *open_flags(uint32_t flags)
{
	struct mw_sampler *sampler = NULL;

	CHECK_EQ(0, mw_sampler_open(root, 7, flags, &sampler));
	if (!sampler)
		exit(2);
	return sampler;
}

static struct mw_sampler *plant_usual(uint32_t version)
{
	plant(version, usual);
	return open_flags(0);
}

/* ------------------------------------------------------------- questions --- */

static struct mw_sample sample_of(struct mw_sampler *sampler)
{
	struct mw_sample sample;

	memset(&sample, 0xa5, sizeof(sample));
	CHECK_EQ(0, mw_sample(sampler, &sample));
	return sample;
}

/* A sample and mw_headroom() say the same. */
static void check_headroom(struct mw_sampler *sampler, uint64_t mib)
{
	CHECK_EQ(mib * MIB, sample_of(sampler).headroom);
	CHECK_EQ(mib * MIB, mw_headroom(sampler));
}

/* Headroom cannot be known, for this reason. */
static void check_unknown(struct mw_sampler *sampler, int err)
{
	struct mw_sample sample = sample_of(sampler);

	CHECK_EQ(err, sample.cgroup_error);
	CHECK_EQ(MW_ABSENT, sample.headroom);
	CHECK_EQ(MW_ABSENT, sample.limit);
	CHECK_EQ(MW_PARTIAL, sample.flags);
	CHECK_EQ(err, mw_headroom(sampler));
}

static void check_group(struct mw_sampler *sampler, uint32_t number, const char *path)
{
	struct mw_group group;
	struct stat status;
	char folder[8192];

	CHECK_EQ(0, mw_sampler_group(sampler, number, &group));
	CHECK_EQ(0, strcmp(path, group.path));
	snprintf(folder, sizeof(folder), "%s/%s", root, group.path);
	CHECK_EQ(0, stat(folder, &status));
	CHECK_EQ(status.st_dev, group.dev);
	CHECK_EQ(status.st_ino, group.ino);
}

static uint32_t count_groups(struct mw_sampler *sampler)
{
	struct mw_group group;
	uint32_t n = 0;

	while (!mw_sampler_group(sampler, n + 1, &group))
		n++;
	CHECK_EQ(-ENOENT, mw_sampler_group(sampler, n + 1, &group));
	CHECK_EQ(-ENOENT, mw_sampler_group(sampler, 0, &group));
	return n;
}

static int lowest_free(void)
{
	int fd = open("/", O_PATH | O_CLOEXEC);

	CHECK(fd >= 0);
	close(fd);
	return fd;
}

/* Where a loop stopped: said behind the checks that failed since. */
static void say(int failures_before, const char *what)
{
	if (failures_before != check_failures())
		fprintf(stderr, "  in: %s\n", what);
}

/* ------------------------------------------------------------ what binds --- */

static const struct {
	const char *claim;
	uint32_t version;
	uint32_t flags;
	struct figures group[3]; /* /a/b, /a, / */
	uint64_t headroom, limit;
	uint32_t binds;
} bindings[] = {
	{ "no limit is no limit", 2, 0, { { .usage = 7 } }, AVAILABLE, TOTAL, 0 },
	{ "nor on v1", 1, 0, { { .usage = 7, .swap_usage = 7 } }, AVAILABLE, TOTAL, 0 },
	{ "the own limit binds", 2, 0, { { .limit = 512, .usage = 100 } }, 412, 512, 1 },
	{ "a limit above the machine's memory does not", 2, 0, { { .limit = 9000, .usage = 100 } },
	  AVAILABLE, TOTAL, 0 },
	{ "the tighter one of two binds", 2, 0,
	  { { .limit = 512, .usage = 100 }, { .limit = 300, .usage = 200 } }, 100, 300, 2 },
	{ "the top has a limit on v1", 1, 0,
	  { { .limit = 512, .usage = 100 }, { 0 }, { .limit = 200, .usage = 150 } }, 50, 200, 3 },
	{ "memory.high below memory.max binds", 2, 0,
	  { { .limit = 512, .high = 400, .usage = 100 } }, 300, 400, 1 },
	{ "usage above a limit leaves nothing", 2, 0, { { .high = 100, .usage = 120 } }, 0, 100, 1 },
	{ "cache can be taken back", 2, 0, { { .limit = 512, .usage = 500, .cache = 50 } }, 62, 512,
	  1 },
	{ "and of v1 the total counts", 1, 0, { { .limit = 512, .usage = 500, .cache = 50 } }, 62,
	  512, 1 },
	{ "cache of one level may leave another to bind", 2, 0,
	  { { .limit = 512, .usage = 500, .cache = 200 }, { .limit = 600, .usage = 500 } }, 100, 600,
	  2 },
	{ "swap does not count unless told so", 2, 0,
	  { { .limit = 512, .usage = 500, .swap_limit = 100 } }, 12, 512, 1 },
	{ "swap up to its limit", 2, MW_COUNT_SWAP,
	  { { .limit = 512, .usage = 500, .swap_limit = 100, .swap_usage = 40 } }, 72, 512, 1 },
	{ "swap up to the parent's limit", 2, MW_COUNT_SWAP,
	  { { .limit = 512, .usage = 500, .swap_limit = 100, .swap_usage = 40 },
	    { .swap_limit = 90, .swap_usage = 80 } }, 22, 512, 1 },
	{ "swap without a limit: what the machine has", 2, MW_COUNT_SWAP,
	  { { .limit = 512, .usage = 500 } }, 12 + SWAP, 512, 1 },
	{ "swap of the machine alone", 2, MW_COUNT_SWAP, { { 0 } }, AVAILABLE + SWAP, TOTAL, 0 },
	{ "v1 limits memory and swap together", 1, 0,
	  { { .swap_limit = 600, .swap_usage = 550 } }, 50, 600, 1 },
	{ "on v1 the smaller rest counts", 1, 0,
	  { { .limit = 500, .usage = 490, .swap_limit = 600, .swap_usage = 595 } }, 5, 500, 1 },
	{ "and swap adds to the first limit only", 1, MW_COUNT_SWAP,
	  { { .limit = 500, .usage = 490, .swap_limit = 600, .swap_usage = 550 } }, 50, 500, 1 },
	{ "swap on v1 without swap accounting", 1, MW_COUNT_SWAP, { { .limit = 500, .usage = 490 } },
	  10 + SWAP, 500, 1 },
	{ "use_hierarchy 0 ends the climb", 1, 0,
	  { { .limit = 512, .usage = 100 }, { .limit = 200, .usage = 199, .use_hierarchy = "0\n" },
	    { .limit = 100, .usage = 100 } }, 412, 512, 1 },
	{ "its own use_hierarchy is nothing to a group", 1, 0,
	  { { .limit = 512, .usage = 500, .use_hierarchy = "0\n" },
	    { .limit = 200, .usage = 199, .use_hierarchy = "1\n" } }, 1, 200, 2 },
	{ "use_hierarchy that is no number does not", 1, 0,
	  { { .limit = 512, .usage = 500 },
	    { .limit = 200, .usage = 199, .use_hierarchy = "?\n" } }, 1, 200, 2 },
};

/* From /a/b up, the limit that leaves least binds, however often cache is read. */
static void check_what_binds(void)
{
	static const uint64_t nears[] = { 0, 20 * MIB, MW_ABSENT };

	for (size_t i = 0; i < sizeof(bindings) / sizeof(bindings[0]); i++) {
		int failures = check_failures();
		struct mw_sampler *sampler;
		struct mw_group group = { .dev = 0 };

		plant(bindings[i].version, bindings[i].group);
		sampler = open_flags(bindings[i].flags);
		if (bindings[i].binds)
			CHECK_EQ(0, mw_sampler_group(sampler, bindings[i].binds, &group));
		for (size_t j = 0; j < sizeof(nears) / sizeof(nears[0]); j++) {
			struct mw_sample sample;

			CHECK_EQ(0, mw_sampler_near(sampler, nears[j]));
			sample = sample_of(sampler);
			CHECK_EQ(bindings[i].limit * MIB, sample.limit);
			CHECK_EQ(group.dev, sample.bind_dev);
			CHECK_EQ(group.ino, sample.bind_ino);
			CHECK_EQ(0, sample.cgroup_error);
			check_headroom(sampler, bindings[i].headroom);
		}
		CHECK_EQ(0, mw_sampler_cgroup_error(sampler));
		mw_sampler_close(sampler);
		say(failures, bindings[i].claim);
	}
}

/* Sums stop at the largest int64_t: neither "unknown" nor a small number comes out. */
static void check_sums_do_not_wrap(void)
{
	struct mw_sampler *sampler;

	plant(2, usual);
	drop("proc", "meminfo");
	put(folders[2][0], "memory.max", "9223372036000000000\n");
	put(folders[2][0], "memory.current", "0\n");
	put(folders[2][1], "memory.max", "max\n");
	put(folders[2][0], "memory.stat",
	    "inactive_file 18446744073709551000\nactive_file 0\nfile_dirty 0\nfile_writeback 0\n");
	sampler = open_flags(MW_NO_MACHINE_OK);
	CHECK_EQ(INT64_MAX, sample_of(sampler).headroom);
	CHECK_EQ(INT64_MAX, mw_headroom(sampler));
	mw_sampler_close(sampler);
}

/* --------------------------------------------------------- what changes --- */

/* Cache is at most 100 ms old, and of this moment where usage alone says it is near. */
static void check_cache_is_exact_when_near(void)
{
	static const struct figures group[3] = { { .limit = 512, .usage = 412 } };
	struct mw_sampler *sampler;

	plant(2, group);
	sampler = open_flags(0);
	check_headroom(sampler, 100);
	put_cache(folders[2][0], 2, 50);
	check_headroom(sampler, 100);
	CHECK_EQ(0, mw_sampler_near(sampler, 100 * MIB));
	check_headroom(sampler, 100);
	CHECK_EQ(0, mw_sampler_near(sampler, 100 * MIB + 1));
	check_headroom(sampler, 150);
	put_cache(folders[2][0], 2, 60);
	CHECK_EQ(0, mw_sampler_near(sampler, 0));
	check_headroom(sampler, 150);
	pass(LIMITS_NS);
	check_headroom(sampler, 160);
	mw_sampler_close(sampler);
}

/* A limit that was set, moved or lifted is seen after 100 ms, and no sooner. */
static void check_limits_are_live(void)
{
	for (uint32_t version = 1; version <= 2; version++) {
		const char *name = version == 1 ? "memory.limit_in_bytes" : "memory.max";
		struct mw_sampler *sampler = plant_usual(version);
		struct mw_group group;

		put_limit(folders[version][0], name, version, 300);
		pass(LIMITS_NS / 2);
		check_headroom(sampler, USUAL);
		pass(LIMITS_NS / 2);
		check_headroom(sampler, 200);
		CHECK_EQ(0, mw_sampler_group(sampler, 1, &group));
		CHECK_EQ(300 * MIB, group.limit);
		CHECK_EQ(version, group.version);

		put_limit(folders[version][0], name, version, 0);
		pass(LIMITS_NS);
		check_headroom(sampler, USUAL_PARENT);
		CHECK_EQ(0, mw_sampler_group(sampler, 1, &group));
		CHECK_EQ(MW_NO_LIMIT, group.limit);
		put_limit(folders[version][0], name, version, 300);
		pass(LIMITS_NS);
		check_headroom(sampler, 200);
		mw_sampler_close(sampler);
	}
}

static const struct {
	uint32_t version;
	uint32_t level;
	const char *name;
	const char *text;
	int err;
} breakages[] = {
	{ 2, 0, "memory.current", "", -ENODATA },
	{ 2, 0, "memory.current", "1048576", -EBADMSG },
	{ 2, 1, "memory.current", "99999999999999999999\n", -EOVERFLOW },
	{ 2, 0, "memory.max", "maximum\n", -EBADMSG },
	{ 2, 0, "memory.high", "-1\n", -EBADMSG },
	{ 2, 1, "memory.high", "", -ENODATA },
	{ 2, 0, "memory.swap.max", "\n", -EBADMSG },
	{ 2, 0, "memory.swap.current", "x\n", -EBADMSG },
	{ 2, 1, "memory.swap.current", "", -ENODATA },
	{ 2, 0, "memory.stat", "anon 5\n", -ENODATA },
	{ 1, 0, "memory.limit_in_bytes", "", -ENODATA },
	{ 1, 0, "memory.usage_in_bytes", "1 2\n", -EBADMSG },
	{ 1, 2, "memory.limit_in_bytes", "x\n", -EBADMSG },
	{ 1, 0, "memory.memsw.limit_in_bytes", "x\n", -EBADMSG },
	{ 1, 0, "memory.memsw.usage_in_bytes", "x\n", -EBADMSG },
	{ 1, 0, "memory.stat", "total_inactive_file -5\n", -EBADMSG },
};

/* A figure that cannot be read makes headroom unknown, not plenty; then it is well again. */
static void check_breakage_at_run_time(void)
{
	static const struct figures group[3] = {
		{ .limit = 512, .usage = 500, .swap_limit = 600, .swap_usage = 550 },
		{ .limit = 1000, .usage = 700, .swap_limit = 1000, .swap_usage = 700 },
	};
	for (size_t i = 0; i < sizeof(breakages) / sizeof(breakages[0]); i++) {
		int failures = check_failures();
		uint32_t version = breakages[i].version;
		const char *folder = folders[version][breakages[i].level];
		struct mw_sampler *sampler;
		struct mw_sample before;

		plant(version, group);
		sampler = open_flags(MW_COUNT_SWAP);
		CHECK_EQ(0, mw_sampler_near(sampler, MW_ABSENT));
		before = sample_of(sampler);
		CHECK_EQ(0, before.dropped);
		put(folder, breakages[i].name, "%s", breakages[i].text);
		pass(LIMITS_NS);
		check_unknown(sampler, breakages[i].err);
		CHECK(sample_of(sampler).dropped > before.dropped);

		put_group(folder, version, &group[breakages[i].level]);
		pass(LIMITS_NS);
		check_headroom(sampler, before.headroom / MIB);
		mw_sampler_close(sampler);
		say(failures, breakages[i].name);
	}
}

/* Far from the limit cache only adds, so one that cannot be read counts as none. */
static void check_cache_unread_is_none(void)
{
	struct mw_sampler *sampler = plant_usual(2);

	put(folders[2][0], "memory.stat", "x\n");
	pass(LIMITS_NS);
	check_headroom(sampler, USUAL - 50);
	CHECK_EQ(1, sample_of(sampler).dropped);
	put_cache(folders[2][0], 2, 50);
	fail("memory.stat", EIO, 1);
	pass(LIMITS_NS);
	check_headroom(sampler, USUAL - 50);
	CHECK_EQ(2, sample_of(sampler).dropped);
	pass(LIMITS_NS);
	check_headroom(sampler, USUAL);
	mw_sampler_close(sampler);
}

/* ------------------------------------------------- moved, removed, gone --- */

/* Where the process is is asked once a second; -ESTALE is said once, and refresh() follows it. */
static void check_a_move_is_seen_within_a_second(void)
{
	static const struct figures other = { .limit = 256, .usage = 56 };
	struct mw_sampler *sampler = plant_usual(2);
	struct mw_sample sample;

	put_group("sys/fs/cgroup/c", 2, &other);
	put(PROC, "cgroup", "0::/c\n");
	pass(MEMBERSHIP_NS / 2);
	check_headroom(sampler, USUAL);
	pass(MEMBERSHIP_NS / 2);
	CHECK_EQ(-ESTALE, mw_sample(sampler, &sample));
	check_headroom(sampler, USUAL);
	pass(MEMBERSHIP_NS);
	CHECK_EQ(-ESTALE, mw_headroom(sampler));
	CHECK_EQ(0, mw_sampler_refresh(sampler));
	check_headroom(sampler, 200);
	CHECK_EQ(1, count_groups(sampler));
	check_group(sampler, 1, "/sys/fs/cgroup/c");
	pass(MEMBERSHIP_NS);
	check_headroom(sampler, 200);
	mw_sampler_close(sampler);
}

/* A process that is gone is gone; any other trouble with its cgroup file is counted. */
static void check_membership_that_cannot_be_read(void)
{
	struct mw_sampler *sampler = plant_usual(2);
	struct mw_sample sample;

	fail("cgroup", EIO, 1);
	pass(MEMBERSHIP_NS);
	check_headroom(sampler, USUAL);
	CHECK_EQ(1, sample_of(sampler).dropped);
	for (int i = 0; i < 2; i++) {
		fail("cgroup", ESRCH, 1);
		pass(MEMBERSHIP_NS);
		CHECK_EQ(-ESRCH, i ? (int)mw_headroom(sampler) : mw_sample(sampler, &sample));
	}
	fail("cgroup", ESRCH, 1);
	CHECK_EQ(-ESRCH, mw_sampler_refresh(sampler));
	check_headroom(sampler, USUAL);
	mw_sampler_close(sampler);
}

/* Files of a removed group answer ENODEV: -ESTALE once a second, and else headroom is unknown. */
static void check_a_removed_group_is_stale(void)
{
	static const char *const names[] = { "memory.max", "memory.current" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct mw_sampler *sampler = plant_usual(2);
		struct mw_sample sample;

		fail(names[i], ENODEV, 1000);
		pass(LIMITS_NS);
		CHECK_EQ(-ESTALE, mw_sample(sampler, &sample));
		check_unknown(sampler, -ENODEV);
		pass(MEMBERSHIP_NS);
		CHECK_EQ(-ESTALE, mw_headroom(sampler));
		check_unknown(sampler, -ENODEV);
		fail(NULL, 0, 0);
		CHECK_EQ(0, mw_sampler_refresh(sampler));
		check_headroom(sampler, USUAL);
		mw_sampler_close(sampler);
	}
}

/* ----------------------------------------------------------- where it is --- */

static const struct {
	const char *claim;
	const char *membership;
	const char *mountinfo;
	int err;
	uint32_t count;
	const char *path;
} places[] = {
	{ "nothing mounted", "0::/a/b\n", "", -ENOENT, 0, NULL },
	{ "another type", "0::/a/b\n", "1 2 0:3 / /proc rw - proc proc rw\n", -ENOENT, 0, NULL },
	{ "a line that is none", "0::/a/b\n", "nonsense\n\n", -ENOENT, 0, NULL },
	{ "the other version", "0::/a/b\n", "1 2 0:3 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n",
	  -ENOENT, 0, NULL },
	{ "the whole hierarchy", "0::/a/b\n", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", 0,
	  2, "/sys/fs/cgroup/a/b" },
	{ "without a newline it may be cut", "0::/a/b\n",
	  "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", -ENOENT, 0, NULL },
	{ "a part of it, and then the whole", "0::/a/b\n",
	  "1 2 0:3 /a/b /mnt/b rw - cgroup2 cgroup2 rw\n"
	  "2 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
	  0, 2, "/sys/fs/cgroup/a/b" },
	{ "the whole, and then a part of it", "0::/a/b\n",
	  "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	  "2 2 0:3 /a/b /mnt/b rw - cgroup2 cgroup2 rw\n",
	  0, 2, "/sys/fs/cgroup/a/b" },
	{ "only its own group", "0::/a/b\n", "1 2 0:3 /a/b /mnt/b rw - cgroup2 cgroup2 rw\n", 0, 1,
	  "/mnt/b" },
	{ "its parent, at an escaped place", "0::/a/b\n",
	  "1 2 0:3 /a /mnt/a\\040b rw - cgroup2 cgroup2 rw\n", 0, 2, "/mnt/a b/b" },
	{ "another part", "0::/a/b\n", "1 2 0:3 /x /mnt/b rw - cgroup2 cgroup2 rw\n", -EXDEV, 0, NULL },
	{ "half a name is another", "0::/a/bc\n", "1 2 0:3 /a/b /mnt/b rw - cgroup2 cgroup2 rw\n",
	  -EXDEV, 0, NULL },
	{ "another part, and the whole", "0::/a/b\n",
	  "1 2 0:3 /x /mnt/b rw - cgroup2 cgroup2 rw\n"
	  "2 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	  "3 2 0:3 /x /mnt/c rw - cgroup2 cgroup2 rw\n",
	  0, 2, "/sys/fs/cgroup/a/b" },
	{ "hidden: nothing at the mount point", "0::/a/b\n",
	  "1 2 0:3 / /hidden rw - cgroup2 cgroup2 rw\n", -ENODEV, 0, NULL },
	{ "a file where a folder was", "0::/file/b\n",
	  "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", -ENOTDIR, 0, NULL },
	{ "removed, and its parent binds", "0::/a/gone (deleted)\n",
	  "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", -ENODEV, 1, "/sys/fs/cgroup/a" },
	{ "the root has no files", "0::/\n", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", 0,
	  0, NULL },
	{ "mounted on the root", "0::/sys\n", "1 2 0:3 / / rw - cgroup2 cgroup2 rw\n", 0, 2, "/sys" },
	{ "mounted on the root, and in its root", "0::/\n", "1 2 0:3 / / rw - cgroup2 cgroup2 rw\n", 0,
	  1, "/" },
	{ "outside our namespace", "0::/../x\n", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
	  -EXDEV, 0, NULL },
	{ "no memory controller", "1:cpu:/a/b\n",
	  "1 2 0:3 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n", -ENOENT, 0, NULL },
	{ "in no hierarchy", "", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", -ENOENT, 0,
	  NULL },
	{ "membership malformed", "0:/a/b\n", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
	  -EBADMSG, 0, NULL },
};

/* A place is found by the mount that shows most of it; where none is, the machine binds. */
static void check_where_groups_are_found(void)
{
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int failures = check_failures();
		struct mw_sampler *sampler;

		plant(2, usual);
		put_group("", 2, &usual[1]);
		put_group("sys", 2, &usual[0]);
		put_group("mnt/b", 2, &usual[0]);
		put_group("mnt/a b", 2, &usual[1]);
		put_group("mnt/a b/b", 2, &usual[0]);
		put("sys/fs/cgroup", "file", "no folder\n");
		put(PROC, "cgroup", "%s", places[i].membership);
		put(PROC, "mountinfo", "%s", places[i].mountinfo);
		sampler = open_flags(0);
		CHECK_EQ(places[i].err, mw_sampler_cgroup_error(sampler));
		CHECK_EQ(places[i].count, count_groups(sampler));
		/* It stays where it is, wherever that may be. */
		pass(MEMBERSHIP_NS);
		CHECK_EQ(0, sample_of(sampler).dropped);
		if (places[i].path)
			check_group(sampler, 1, places[i].path);
		else
			check_headroom(sampler, AVAILABLE);
		mw_sampler_close(sampler);
		say(failures, places[i].claim);
	}
}

/* A line as long as its options does not hide those behind it, nor does one cut in two reads. */
static void check_long_lines_are_passed_over(void)
{
	static const int lengths[] = { 8100, 8190, 8191, 8192, 8193, 16384, 20000 };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct mw_sampler *sampler;

		plant(2, usual);
		put(PROC, "mountinfo", "1 2 0:3 / /x rw - overlay overlay rw,lowerdir=%0*d\n%s",
		    lengths[i] - 46, 0, mounts[2]);
		sampler = open_flags(0);
		CHECK_EQ(0, mw_sampler_cgroup_error(sampler));
		check_headroom(sampler, USUAL);
		mw_sampler_close(sampler);
	}
}

/* A mount point and a path that fit alone may not fit together. */
static void check_paths_too_long_to_join(void)
{
	for (int n = 4090; n <= 4092; n++) {
		struct mw_sampler *sampler;

		plant(2, usual);
		put(PROC, "mountinfo", "1 2 0:3 / /%0*d rw - cgroup2 cgroup2 rw\n", n - 1, 0);
		sampler = open_flags(0);
		/* 4091 + strlen("/a/b") is the longest; no file system has names so long. */
		CHECK_EQ(-ENAMETOOLONG, mw_sampler_cgroup_error(sampler));
		CHECK_EQ(0, count_groups(sampler));
		mw_sampler_close(sampler);
	}
}

/* 32 levels are watched, the mount point's too; of more the nearest, which is said. */
static void check_deep_nesting(void)
{
	for (int depth = MW_GROUPS; depth <= MW_GROUPS + 1; depth++) {
		char path[256] = "", folder[512];
		struct mw_sampler *sampler;

		plant_machine();
		for (int i = 0; i < depth; i++) {
			snprintf(folder, sizeof(folder), "sys/fs/cgroup%s", path);
			/* The top one is the tightest. */
			put_group(folder, 2, &(struct figures){ .limit = 100 + (uint64_t)i });
			if (i < depth - 1)
				strcat(path, "/d");
		}
		put(PROC, "cgroup", "0::%s\n", path);
		put(PROC, "mountinfo", "%s", mounts[2]);
		sampler = open_flags(0);
		for (int refreshed = 0; refreshed < 2; refreshed++) {
			CHECK_EQ(MW_GROUPS, count_groups(sampler));
			CHECK_EQ(depth > MW_GROUPS ? -E2BIG : 0, mw_sampler_cgroup_error(sampler));
			check_headroom(sampler, depth > MW_GROUPS ? 101 : 100);
			CHECK_EQ(0, mw_sampler_refresh(sampler));
		}
		mw_sampler_close(sampler);
	}
}

/* What is not there, or no file, is told apart; and headroom is the machine's. */
static void check_files_of_the_process(void)
{
	static const struct {
		const char *name;
		int err;
		bool folder;
	} cases[] = {
		{ "cgroup", -ENOENT, false },
		{ "cgroup", -EISDIR, true },
		{ "mountinfo", -ENOENT, false },
		{ "mountinfo", -EISDIR, true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int failures = check_failures();
		struct mw_sampler *sampler;

		plant(2, usual);
		drop(PROC, cases[i].name);
		if (cases[i].folder) {
			char inner[64];

			snprintf(inner, sizeof(inner), PROC "/%s", cases[i].name);
			put(inner, "x", " ");
		}
		sampler = open_flags(0);
		CHECK_EQ(cases[i].err, mw_sampler_cgroup_error(sampler));
		pass(MEMBERSHIP_NS);
		check_headroom(sampler, AVAILABLE);
		mw_sampler_close(sampler);
		say(failures, cases[i].name);
	}
}

/* A signal in the middle of the mounts changes nothing. */
static void check_interrupted_reading(void)
{
	struct mw_sampler *sampler;

	plant(2, usual);
	fail("mountinfo", EINTR, 2);
	sampler = open_flags(0);
	CHECK_EQ(0, fault.times);
	check_headroom(sampler, USUAL);
	mw_sampler_close(sampler);
}

/* ---------------------------------------------------------- what is left out --- */

static const struct {
	uint32_t version;
	uint32_t level;
	const char *name;
	const char *text; /* NULL: it is not there; "loop": it cannot be opened */
	int err;
	uint32_t count;
	uint64_t headroom;
} omissions[] = {
	{ 2, 0, "memory.max", NULL, 0, 1, 1400 },
	{ 2, 0, "memory.max", "loop", -ELOOP, 1, 1400 },
	{ 2, 0, "memory.max", "x\n", -EBADMSG, 1, 1400 },
	{ 2, 0, "memory.high", "loop", -ELOOP, 1, 1400 },
	{ 2, 0, "memory.stat", "", -ENODATA, 1, 1400 },
	{ 2, 1, "memory.max", "x\n", -EBADMSG, 1, 612 },
	{ 2, 0, "memory.swap.max", "loop", -ELOOP, 1, 1400 },
	{ 2, 0, "memory.swap.current", "loop", -ELOOP, 1, 1400 },
	/* gVisor has no memory.stat; without usage a limit says nothing. */
	{ 2, 0, "memory.stat", NULL, 0, 2, 612 },
	{ 2, 0, "memory.high", NULL, 0, 2, 612 },
	{ 2, 0, "memory.current", "loop", -ELOOP, 1, 1400 },
	{ 2, 0, "memory.current", NULL, -EOPNOTSUPP, 1, 1400 },
	{ 1, 0, "memory.usage_in_bytes", NULL, -EOPNOTSUPP, 2, 1000 },
	/* Without swap accounting, or with half of it, a group has no limit of swap. */
	{ 2, 0, "memory.swap.max", NULL, 0, 2, 812 },
	{ 2, 0, "memory.swap.current", NULL, 0, 2, 812 },
	{ 1, 0, "memory.memsw.limit_in_bytes", "loop", -ELOOP, 2, 1000 },
	{ 1, 0, "memory.memsw.usage_in_bytes", NULL, 0, 3, 1000 },
	{ 1, 0, "memory.stat", "inactive_file 5\n", -ENODATA, 2, 1000 },
};

/* A group that cannot be read when it is opened is left out, the others bind, and why is told. */
static void check_what_is_left_out(void)
{
	static const struct figures group[3][3] = {
		[1] = { { .limit = 512, .usage = 150, .swap_limit = 600, .swap_usage = 100 },
			{ .limit = 1200, .usage = 200, .swap_limit = 1200, .swap_usage = 200 } },
		[2] = { { .limit = 512, .usage = 100, .swap_limit = 300, .swap_usage = 100 },
			{ .limit = 1200, .usage = 200, .swap_limit = 700, .swap_usage = 300 } },
	};

	for (size_t i = 0; i < sizeof(omissions) / sizeof(omissions[0]); i++) {
		int failures = check_failures();
		uint32_t version = omissions[i].version;
		const char *folder = folders[version][omissions[i].level];
		struct mw_sampler *sampler;

		plant(version, group[version]);
		if (!omissions[i].text)
			drop(folder, omissions[i].name);
		else if (!strcmp(omissions[i].text, "loop"))
			loop(folder, omissions[i].name);
		else
			put(folder, omissions[i].name, "%s", omissions[i].text);
		sampler = open_flags(MW_COUNT_SWAP);
		CHECK_EQ(omissions[i].err, mw_sampler_cgroup_error(sampler));
		CHECK_EQ(omissions[i].count, count_groups(sampler));
		check_headroom(sampler, omissions[i].headroom);
		mw_sampler_close(sampler);
		say(failures, omissions[i].name);
	}
}

/* A limit that only root may read: for others the group is left out, and that is told. */
static void check_a_limit_that_may_not_be_read(void)
{
	uid_t user = geteuid();
	struct mw_sampler *sampler;
	char path[128];

	plant(2, usual);
	snprintf(path, sizeof(path), "%s/%s/memory.max", root, folders[2][0]);
	CHECK_EQ(0, chmod(path, 0));
	if (!user)
		CHECK_EQ(0, seteuid(65534));
	sampler = open_flags(0);
	CHECK_EQ(0, seteuid(user));
	CHECK_EQ(-EACCES, mw_sampler_cgroup_error(sampler));
	check_headroom(sampler, USUAL_PARENT);
	mw_sampler_close(sampler);
}

/* A group whose folder cannot be asked who it is is none that could be named. */
static void check_a_folder_without_status(void)
{
	struct mw_sampler *sampler;

	plant(2, usual);
	fail("b", EIO, 1);
	sampler = open_flags(0);
	CHECK_EQ(-EIO, mw_sampler_cgroup_error(sampler));
	check_headroom(sampler, USUAL_PARENT);
	mw_sampler_close(sampler);
}

/* ---------------------------------------------------------------- refresh --- */

static const struct {
	int err;
	bool forgets; /* the group, for good: else what was open stays */
} refusals[] = {
	{ ENODEV, true }, { EACCES, true }, { EPERM, true },  { EXDEV, true },	{ EOPNOTSUPP, true },
	{ EIO, false },	  { ENOMEM, false }, { ENFILE, false }, { EMFILE, false },
};

/* A refresh that fails for the moment leaves what was open, and that still binds. */
static void check_a_failing_refresh_keeps_the_old(void)
{
	struct mw_sampler *sampler = plant_usual(2);
	int descriptors = mw_sampler_descriptors(sampler);

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		bool forgets = refusals[i].forgets;

		fail("memory.max", refusals[i].err, 1);
		CHECK_EQ(forgets ? 0 : -refusals[i].err, mw_sampler_refresh(sampler));
		CHECK_EQ(forgets ? -refusals[i].err : 0, mw_sampler_cgroup_error(sampler));
		check_headroom(sampler, forgets ? USUAL_PARENT : USUAL);
		CHECK_EQ(0, mw_sampler_refresh(sampler));
		CHECK_EQ(descriptors, mw_sampler_descriptors(sampler));
	}

	put_group("sys/fs/cgroup/c", 2, &(struct figures){ .limit = 100 });
	put("sys/fs/cgroup/c", "memory.max", "x\n");
	put(PROC, "cgroup", "0::/c\n");
	CHECK_EQ(-EBADMSG, mw_sampler_refresh(sampler));
	check_headroom(sampler, USUAL);
	check_group(sampler, 1, "/sys/fs/cgroup/a/b");
	put(PROC, "mountinfo", "\n");
	CHECK_EQ(0, mw_sampler_refresh(sampler));
	CHECK_EQ(-ENOENT, mw_sampler_cgroup_error(sampler));
	check_headroom(sampler, AVAILABLE);
	mw_sampler_close(sampler);
}

static void allow_descriptors(rlim_t more, struct rlimit *before)
{
	struct rlimit limit;

	CHECK_EQ(0, getrlimit(RLIMIT_NOFILE, before));
	limit = *before;
	limit.rlim_cur = (rlim_t)lowest_free() + more;
	CHECK_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
}

/* Out of descriptors at whichever file, opening and refreshing fail, and leave none behind. */
static void check_exhausted_descriptors(void)
{
	struct mw_sampler *sampler = plant_usual(2), *another;
	int free_before = lowest_free(), opened = -EMFILE, refreshed = -EMFILE;
	int needed = mw_sampler_descriptors(sampler);
	struct rlimit before;
	rlim_t more;

	for (more = 0; refreshed; more++) {
		allow_descriptors(more, &before);
		refreshed = mw_sampler_refresh(sampler);
		CHECK_EQ(0, setrlimit(RLIMIT_NOFILE, &before));
		CHECK(!refreshed || refreshed == -EMFILE);
		CHECK_EQ(0, mw_sampler_cgroup_error(sampler));
		check_headroom(sampler, USUAL);
		CHECK_EQ(needed, mw_sampler_descriptors(sampler));
		if (refreshed)
			CHECK_EQ(free_before, lowest_free());
	}
	/* What it keeps of the groups, and at most the folder it is about to close. */
	CHECK(more >= 9);
	mw_sampler_close(sampler);

	free_before = lowest_free();
	for (more = 0; opened; more++) {
		allow_descriptors(more, &before);
		opened = mw_sampler_open(root, 7, 0, &another);
		CHECK_EQ(0, setrlimit(RLIMIT_NOFILE, &before));
		CHECK(!opened || opened == -EMFILE);
		if (opened)
			CHECK_EQ(free_before, lowest_free());
	}
	CHECK_EQ(needed, mw_sampler_descriptors(another));
	mw_sampler_close(another);
	CHECK_EQ(free_before, lowest_free());
}

static struct rlimit descriptors;

static void forbid_descriptors(void)
{
	allow_descriptors(0, &descriptors);
}

/* Others took the last descriptor between two levels: what was open stays, all of it. */
static void check_exhausted_between_levels(void)
{
	struct mw_sampler *sampler = plant_usual(2);
	int needed = mw_sampler_descriptors(sampler);

	fail("memory.stat", 0, 1);
	fault.meanwhile = forbid_descriptors;
	CHECK_EQ(-EMFILE, mw_sampler_refresh(sampler));
	CHECK_EQ(0, setrlimit(RLIMIT_NOFILE, &descriptors));
	check_headroom(sampler, USUAL);
	CHECK_EQ(needed, mw_sampler_descriptors(sampler));
	mw_sampler_close(sampler);
}

/* -------------------------------------------------------------- the machine --- */

static const struct {
	const char *claim;
	const char *meminfo; /* NULL: it answers EIO */
	uint32_t flags;
	int meminfo_error, swap_error;
	int64_t headroom; /* of mw_headroom(): in MiB, or the error */
	uint32_t sample_flags;
} machines[] = {
	{ "cannot be read", NULL, 0, -EIO, -EIO, -EIO, MW_PARTIAL },
	{ "malformed", "MemTotal: x\n", 0, -EBADMSG, -EBADMSG, -EBADMSG, MW_PARTIAL },
	{ "no swap figures", "MemTotal: 4096000 kB\nMemFree: 0 kB\nMemAvailable: 2048000 kB\n", 0, 0,
	  -ENODATA, 2000, MW_PARTIAL },
	{ "no swap figures, and swap counts",
	  "MemTotal: 4096000 kB\nMemFree: 0 kB\nMemAvailable: 2048000 kB\n", MW_COUNT_SWAP, 0, -ENODATA,
	  -ENODATA, MW_PARTIAL },
	{ "estimated",
	  "MemTotal: 4096000 kB\nMemFree: 1024000 kB\nCached: 1024000 kB\nSwapTotal: 0 kB\n"
	  "SwapFree: 0 kB\nShmem: 512000 kB\n",
	  0, 0, 0, 1500, MW_ESTIMATED },
	{ "more than an int64_t holds",
	  "MemTotal: 18014398509481983 kB\nMemFree: 0 kB\nMemAvailable: 18014398509481983 kB\n"
	  "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
	  0, 0, 0, INT64_MAX, 0 },
};

/* The machine's figures fail apart from the groups', and without them headroom is unknown. */
static void check_the_machine(void)
{
	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		int64_t headroom = machines[i].headroom;
		int failures = check_failures();
		struct mw_sampler *sampler;
		struct mw_sample sample;

		plant_machine();
		sampler = open_flags(machines[i].flags);
		CHECK_EQ(-ENOENT, mw_sampler_cgroup_error(sampler));
		CHECK_EQ(0, count_groups(sampler));
		if (machines[i].meminfo)
			put("proc", "meminfo", "%s", machines[i].meminfo);
		else
			fail("meminfo", EIO, 2);
		sample = sample_of(sampler);
		CHECK_EQ(machines[i].meminfo_error, sample.meminfo_error);
		CHECK_EQ(machines[i].swap_error, sample.swap_error);
		CHECK_EQ(machines[i].sample_flags, sample.flags);
		CHECK_EQ(machines[i].swap_error ? 1 : 0, sample.dropped);
		CHECK_EQ(headroom < 0, sample.headroom == MW_ABSENT);
		if (headroom > 0 && headroom < INT64_MAX)
			headroom *= (int64_t)MIB;
		CHECK_EQ(headroom, mw_headroom(sampler));
		mw_sampler_close(sampler);
		say(failures, machines[i].claim);
	}
}

/* Without /proc/meminfo only groups bind, if that is allowed; else it is an error. */
static void check_without_a_machine(void)
{
	struct mw_sampler *sampler = NULL;
	struct mw_sample sample;

	plant(2, usual);
	drop("proc", "meminfo");
	CHECK_EQ(-ENOENT, mw_sampler_open(root, 7, 0, &sampler));
	sampler = open_flags(MW_NO_MACHINE_OK);
	check_headroom(sampler, USUAL);
	sample = sample_of(sampler);
	CHECK_EQ(512 * MIB, sample.limit);
	CHECK_EQ(-ENOENT, sample.meminfo_error);
	CHECK_EQ(MW_ABSENT, sample.mem_total);
	CHECK_EQ(3 + 1 + 2 * 4, mw_sampler_descriptors(sampler));
	put_limit(folders[2][0], "memory.max", 2, 0);
	put_limit(folders[2][1], "memory.max", 2, 0);
	pass(LIMITS_NS);
	CHECK_EQ(MW_ABSENT, sample_of(sampler).headroom);
	CHECK_EQ(-ENOENT, mw_headroom(sampler));
	mw_sampler_close(sampler);
}

/* The process's own memory: what fails of it is no matter to headroom, but its end is an end. */
static void check_the_process(void)
{
	struct mw_sampler *sampler = plant_usual(2);
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct mw_sample sample = sample_of(sampler);

	CHECK_EQ(25000 * page, sample.rss);
	CHECK_EQ(5000 * page, sample.rss_shared);
	CHECK_EQ(20000 * page, sample.rss_anon);
	CHECK_EQ(0, sample.statm_error);
	CHECK_EQ(0, sample.flags);

	put(PROC, "statm", "30000 25000 25001 200 0 20000 0\n");
	sample = sample_of(sampler);
	CHECK_EQ(25000 * page, sample.rss);
	CHECK_EQ(MW_ABSENT, sample.rss_shared);
	CHECK_EQ(MW_ABSENT, sample.rss_anon);
	CHECK_EQ(MW_PARTIAL, sample.flags);

	put(PROC, "statm", "30000 x\n");
	sample = sample_of(sampler);
	CHECK_EQ(-EBADMSG, sample.statm_error);
	CHECK_EQ(MW_ABSENT, sample.rss);
	CHECK_EQ(USUAL * MIB, sample.headroom);
	CHECK_EQ(1, sample.dropped);
	fail("statm", EIO, 1);
	CHECK_EQ(-EIO, sample_of(sampler).statm_error);

	put(PROC, "statm", "0 0 0 0 0 0 0\n");
	CHECK_EQ(-ESRCH, mw_sample(sampler, &sample));
	fail("statm", ESRCH, 1);
	CHECK_EQ(-ESRCH, mw_sample(sampler, &sample));
	CHECK_EQ(USUAL * MIB, mw_headroom(sampler));
	mw_sampler_close(sampler);
}

static int open_error(const char *where, pid_t pid, uint32_t flags)
{
	struct mw_sampler *sampler = NULL;
	int err = mw_sampler_open(where, pid, flags, &sampler);

	CHECK(err < 0 && !sampler);
	return err;
}

/* What cannot be opened at all says why, and leaves `out` alone. */
static void check_refused_openings(void)
{
	struct mw_sampler *sampler = NULL;
	struct rlimit memory, none;

	CHECK_EQ(-EINVAL, open_error(".", -1, 0));
	CHECK_EQ(-EINVAL, open_error(".", 0, 8));
	CHECK_EQ(-ENOENT, open_error("no such root", 7, 0));
	plant(2, usual);
	CHECK_EQ(-ESRCH, open_error(root, 8, 0));
	CHECK_EQ(0, getrlimit(RLIMIT_AS, &memory));
	none = memory;
	none.rlim_cur = 0;
	CHECK_EQ(0, setrlimit(RLIMIT_AS, &none));
	CHECK_EQ(-ENOMEM, mw_sampler_open(root, 7, 0, &sampler));
	CHECK_EQ(0, setrlimit(RLIMIT_AS, &memory));
	CHECK(!sampler);
	put(PROC, "statm", "0 0 0 0 0 0 0\n");
	CHECK_EQ(-ESRCH, open_error(root, 7, 0));
	put(PROC, "statm", "1 2 3\n");
	CHECK_EQ(-EBADMSG, open_error(root, 7, 0));
	drop(PROC, "statm");
	CHECK_EQ(-ESRCH, open_error(root, 7, 0));
	put("proc", "meminfo", "x\n");
	CHECK(open_error(root, 7, MW_NO_MACHINE_OK) != -ESRCH);
}

/* -------------------------------------------------------------------- facts --- */

static const struct {
	uint32_t version;
	struct {
		const char *name, *path;
		int32_t error;
		int64_t value;
	} fact[6];
} told[] = {
	{ 2,
	  { { "memory_max", "/memory.max", 0, 512 << 20 },
	    { "memory_high", "/memory.high", 0, INT64_MAX },
	    { "memory_usage", "/memory.current", 0, 150 << 20 },
	    { "oom_group", "/memory.oom.group", 0, 1 },
	    { "swap_max", "/memory.swap.max", -ENOENT, 0 },
	    { "oom_kill", "/memory.events", 0, 3 } } },
	{ 1,
	  { { "memory_max", "/memory.limit_in_bytes", 0, 512 << 20 },
	    { "memory_usage", "/memory.usage_in_bytes", 0, 150 << 20 },
	    { "memsw_max", "/memory.memsw.limit_in_bytes", -ENOENT, 0 },
	    { "oom_kill_disable", "/memory.oom_control", 0, 0 },
	    { "oom_kill", "/memory.oom_control", 0, 4 } } },
};

/* Each group has its facts behind the machine's, by number; then come no more. */
static void check_facts(void)
{
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		uint32_t version = told[i].version, index = 0;
		const char *folder = folders[version][0];
		struct mw_sampler *sampler = plant_usual(version);
		uint32_t groups = count_groups(sampler), each;
		struct mw_fact fact;
		char path[256];

		put(folder, "memory.oom.group", "1\n");
		put(folder, "memory.events", "max 1\noom_kill 3\n");
		put(folder, "memory.oom_control", "oom_kill_disable 0\noom_kill 4\n");
		while (CHECK_EQ(0, mw_fact(sampler, index, &fact)), !fact.group)
			index++;
		CHECK(index > 0);
		for (each = 0; each < 6 && told[i].fact[each].name; each++, index++) {
			CHECK_EQ(0, mw_fact(sampler, index, &fact));
			CHECK(!strcmp(told[i].fact[each].name, fact.name));
			snprintf(path, sizeof(path), "/%s%s", folder, told[i].fact[each].path);
			CHECK(!strcmp(path, fact.path));
			CHECK_EQ(1, fact.group);
			CHECK_EQ(told[i].fact[each].error, fact.error);
			CHECK_EQ(told[i].fact[each].value, fact.value);
		}
		CHECK_EQ(0, mw_fact(sampler, index, &fact));
		CHECK_EQ(2, fact.group);
		CHECK_EQ(0, mw_fact(sampler, index + (groups - 1) * each - 1, &fact));
		CHECK_EQ(groups, fact.group);
		CHECK_EQ(-ENOENT, mw_fact(sampler, index + (groups - 1) * each, &fact));
		CHECK_EQ(-ENOENT, mw_fact(sampler, UINT32_MAX, &fact));
		mw_sampler_close(sampler);
	}
}

/* Of a group that went away a fact says so; where there is no group there is no fact of one. */
static void check_facts_of_nothing(void)
{
	struct mw_sampler *sampler = plant_usual(2);
	struct mw_fact fact;
	char from[128], to[128];
	uint32_t machine = 0;

	snprintf(from, sizeof(from), "%s/%s", root, folders[2][0]);
	snprintf(to, sizeof(to), "%s/gone", root);
	CHECK_EQ(0, rename(from, to));
	while (!mw_fact(sampler, machine, &fact) && !fact.group)
		machine++;
	CHECK_EQ(1, fact.group);
	CHECK_EQ(-ENOENT, fact.error);
	CHECK_EQ(0, fact.value);
	mw_sampler_close(sampler);

	plant_machine();
	sampler = open_flags(0);
	CHECK_EQ(0, mw_fact(sampler, machine - 1, &fact));
	CHECK_EQ(-ENOENT, mw_fact(sampler, machine, &fact));
	mw_sampler_close(sampler);
}

/* ------------------------------------------------------------------ handles --- */

/* Every function that takes a handle refuses this one, and touches nothing. */
static void check_refused(struct mw_sampler *sampler, int err)
{
	struct mw_sample sample;
	struct mw_group group;
	struct mw_fact fact;

	CHECK_EQ(err, mw_sample(sampler, &sample));
	CHECK_EQ(err, mw_headroom(sampler));
	CHECK_EQ(err, mw_sampler_near(sampler, 0));
	CHECK_EQ(err, mw_sampler_refresh(sampler));
	CHECK_EQ(err, mw_sampler_group(sampler, 1, &group));
	CHECK_EQ(err, mw_sampler_cgroup_error(sampler));
	CHECK_EQ(err, mw_sampler_descriptors(sampler));
	CHECK_EQ(err, mw_fact(sampler, 0, &fact));
}

/* NULL is no handle: -EBADF, and nothing to close. */
static void check_no_handle(void)
{
	int64_t ns;

	check_refused(NULL, -EBADF);
	CHECK_EQ(-EBADF, mw_time(NULL, MW_TIME_NOTHING, 1, &ns));
	mw_sampler_close(NULL);
}

/* A handle on oneself is of no use to a child; one on another process is. */
static void check_a_forked_child(bool old)
{
	struct mw_sampler *own = NULL, *others;
	int status, failures = check_failures();
	pid_t child;

	plant(2, usual);
	old_kernel = old;
	CHECK_EQ(0, mw_sampler_open(root, 0, 0, &own));
	old_kernel = false;
	others = open_flags(0);
	child = fork();
	if (!child) {
		check_refused(own, -ECHILD);
		check_headroom(others, USUAL);
		mw_sampler_close(own);
		mw_sampler_close(others);
		exit(check_failures() != failures);
	}
	CHECK_EQ(child, waitpid(child, &status, 0));
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	check_headroom(own, USUAL);
	check_headroom(others, USUAL);
	mw_sampler_close(own);
	mw_sampler_close(others);
}

static struct mw_sampler *busy;

static void *use_busy(void *arg)
{
	check_refused(busy, -EBUSY);
	return arg;
}

/* Called in the middle of a look. */
static void look_from_elsewhere(void)
{
	pthread_t thread;

	CHECK_EQ(0, pthread_create(&thread, NULL, use_busy, NULL));
	CHECK_EQ(0, pthread_join(thread, NULL));
}

/* While one thread looks, another gets -EBUSY and does not wait. */
static void check_a_busy_handle(void)
{
	busy = plant_usual(2);
	fail("memory.current", 0, 1);
	fault.meanwhile = look_from_elsewhere;
	check_headroom(busy, USUAL);
	CHECK_EQ(0, fault.times);
	mw_sampler_close(busy);
}

static int reads_of(struct mw_sampler *sampler, uint32_t deed)
{
	enum { N = 3 };
	int before = atomic_load(&reads);
	int64_t ns[N] = { 0 };

	CHECK_EQ(0, mw_time(sampler, deed, N, ns));
	/* Each look at the clock takes 1 ns; a sample looks once more. */
	for (int i = 0; i < N; i++)
		CHECK_EQ(deed == MW_TIME_SAMPLE || deed == MW_TIME_HEADROOM ? 2 : 1, ns[i]);
	return (atomic_load(&reads) - before) / N;
}

/* The bare deeds make as many reads as those they stand for, and nothing makes none. */
static void check_timing(void)
{
	static const struct figures memsw_only[3] = { { .swap_limit = 600, .swap_usage = 1 } };
	int64_t ns = -1;

	for (int i = 0; i < 3; i++) {
		struct mw_sampler *sampler;

		plant(i == 2 ? 2 : 1, i ? usual : memsw_only);
		sampler = open_flags(0);
		CHECK_EQ(i ? 4 : 3, reads_of(sampler, MW_TIME_SAMPLE));
		CHECK_EQ(i ? 4 : 3, reads_of(sampler, MW_TIME_BARE_SAMPLE));
		CHECK_EQ(i ? 3 : 2, reads_of(sampler, MW_TIME_HEADROOM));
		CHECK_EQ(i ? 3 : 2, reads_of(sampler, MW_TIME_BARE_HEADROOM));
		CHECK_EQ(0, reads_of(sampler, MW_TIME_NOTHING));
		CHECK_EQ(-EINVAL, mw_time(sampler, MW_TIME_NOTHING + 1, 1, &ns));
		CHECK_EQ(-1, ns);
		mw_sampler_close(sampler);
	}
}

/* Below mw_sampler_*(): a set that was never opened has nothing to say, and closes. */
static void check_an_empty_set(void)
{
	char text[64];
	struct mw_reader reader = { .text = text, .size = sizeof(text) };
	static struct mw_groups groups;

	mw_groups_init(&groups, true);
	CHECK_EQ(0, mw_groups_descriptors(&groups));
	CHECK_EQ(0, mw_groups_moved(&groups, &reader));
	CHECK_EQ(0, mw_groups_facts(&groups));
	mw_groups_close(&groups);
	CHECK(groups.count_swap);
}

int main(int argc, char **argv)
{
	int first_free;

	/* Files are made below where we are, by short names, and others may read them. */
	if (argc != 2 || chdir(argv[1]) || chmod(".", 0755))
		return 2;
	umask(022);
	first_free = lowest_free();
	check_what_binds();
	check_sums_do_not_wrap();
	check_cache_is_exact_when_near();
	check_limits_are_live();
	check_breakage_at_run_time();
	check_cache_unread_is_none();
	check_a_move_is_seen_within_a_second();
	check_membership_that_cannot_be_read();
	check_a_removed_group_is_stale();
	check_where_groups_are_found();
	check_long_lines_are_passed_over();
	check_paths_too_long_to_join();
	check_deep_nesting();
	check_files_of_the_process();
	check_interrupted_reading();
	check_what_is_left_out();
	check_a_limit_that_may_not_be_read();
	check_a_folder_without_status();
	check_a_failing_refresh_keeps_the_old();
	check_exhausted_descriptors();
	check_exhausted_between_levels();
	check_the_machine();
	check_without_a_machine();
	check_the_process();
	check_refused_openings();
	check_facts();
	check_facts_of_nothing();
	check_no_handle();
	check_a_forked_child(false);
	check_a_forked_child(true);
	check_a_busy_handle();
	check_timing();
	check_an_empty_set();
	/* Of all that was opened nothing is. */
	CHECK_EQ(first_free, lowest_free());
	return check_failures() != 0;
}
