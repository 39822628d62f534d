/*
 * guest.c - /init of a small virtual machine: the sampler before a real cgroup v2.
 *
 * It makes cgroups, lets workers take memory of each kind, looks at them through
 * memwatch.h, and says what it saw: one JSON object a line, on the console.  It
 * judges nothing; tests/test_qemu.py does.  Then it powers off.
 *
 * The disk is the bare block device: its pages are page cache like those of any
 * file, and no file system has to be made for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memwatch.h"

#define MIB ((uint64_t)1 << 20)
#define PAGE ((uint64_t)4096)
#define CGROUP "/sys/fs/cgroup"
#define DISK "/dev/nvme0n1"

/* ---------------------------------------------------------------- saying --- */

static const char *between = "";

static void begin(const char *fact)
{
	printf("{\"fact\": \"%s\"", fact);
	between = ", ";
}

static void number(const char *key, uint64_t value)
{
	if (value == MW_ABSENT)
		printf("%s\"%s\": null", between, key);
	else
		printf("%s\"%s\": %" PRIu64, between, key, value);
}

static void integer(const char *key, int64_t value)
{
	printf("%s\"%s\": %" PRId64, between, key, value);
}

static void text(const char *key, const char *value)
{
	printf("%s\"%s\": \"%s\"", between, key, value);
}

static void end(void)
{
	printf("}\n");
	fflush(stdout);
}

static void stop(void)
{
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

/* The machine cannot go on; the test fails with these words. */
static void give_up(const char *what, const char *which)
{
	int error = errno;

	begin("gave up");
	text("what", what);
	text("which", which);
	text("why", strerror(error));
	end();
	stop();
}

/* What binds, by its number: 0 for the machine, 99 for what is none of our groups. */
static uint32_t who_binds(struct mw_sampler *sampler, const struct mw_sample *sample)
{
	struct mw_group group;

	if (!sample->bind_dev && !sample->bind_ino)
		return MW_MACHINE;
	for (uint32_t i = 1; !mw_sampler_group(sampler, i, &group); i++)
		if (group.dev == sample->bind_dev && group.ino == sample->bind_ino)
			return i;
	return 99;
}

/* --------------------------------------------------------------- cgroups --- */

static void write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t)strlen(value))
		give_up("write", path);
	close(fd);
}

static void cgroup_write(const char *group, const char *file, const char *value)
{
	char path[512];

	snprintf(path, sizeof(path), CGROUP "%s/%s", group, file);
	write_file(path, value);
}

static void cgroup_limit(const char *group, const char *file, uint64_t bytes)
{
	char value[32];

	snprintf(value, sizeof(value), "%" PRIu64, bytes);
	cgroup_write(group, file, value);
}

static void cgroup_make(const char *group)
{
	char path[512];

	snprintf(path, sizeof(path), CGROUP "%s", group);
	if (mkdir(path, 0755) < 0)
		give_up("mkdir", path);
}

static void cgroup_remove(const char *group)
{
	char path[512];

	snprintf(path, sizeof(path), CGROUP "%s", group);
	if (rmdir(path) < 0)
		give_up("rmdir", path);
}

static void cgroup_move(const char *group, pid_t pid)
{
	char value[32];

	snprintf(value, sizeof(value), "%d", pid);
	cgroup_write(group, "cgroup.procs", value);
}

/* A number of one of a group's files: "123\n", or the one after `key`. */
static uint64_t cgroup_read(const char *group, const char *file, const char *key)
{
	char path[512], line[256];
	uint64_t value = MW_ABSENT;
	FILE *stream;

	snprintf(path, sizeof(path), CGROUP "%s/%s", group, file);
	stream = fopen(path, "re");
	if (!stream)
		give_up("read", path);
	while (value == MW_ABSENT && fgets(line, sizeof(line), stream)) {
		size_t skip = key ? strlen(key) : 0;

		if (!key || (!strncmp(line, key, skip) && line[skip] == ' '))
			value = strtoull(line + skip, NULL, 10);
	}
	fclose(stream);
	return value;
}

/* ---------------------------------------------------------------- worker --- */

struct order {
	char deed; /* see worker() */
	uint64_t bytes;
};

struct answer {
	int32_t error;
	int32_t cgroup_error;
	uint32_t binds;
	uint32_t groups;
	uint64_t headroom;
	uint64_t limit;
	char path[256];
};

struct worker {
	pid_t pid;
	int orders;
	int answers;
	volatile uint64_t *touched; /* bytes of anonymous memory so far; outlives the worker */
};

static void fill_disk_buffer(int fd, uint64_t bytes, bool write_it)
{
	static char buffer[256 * 1024];

	memset(buffer, 7, sizeof(buffer));
	for (uint64_t done = 0; done < bytes; done += sizeof(buffer)) {
		ssize_t n = write_it ? write(fd, buffer, sizeof(buffer)) : read(fd, buffer, sizeof(buffer));

		if (n != (ssize_t)sizeof(buffer))
			_exit(3);
	}
}

static void *map(uint64_t bytes, int flags, int fd)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (memory == MAP_FAILED)
		_exit(4);
	return memory;
}

static void touch(uint64_t bytes, volatile uint64_t *touched)
{
	volatile char *memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	for (uint64_t at = 0; at < bytes; at += PAGE) {
		memory[at] = 1;
		*touched += PAGE;
	}
}

/* The worker looks at itself, as memwatch does in training. */
static void look_inward(const char *root, struct answer *out)
{
	struct mw_sampler *sampler = NULL;
	struct mw_sample sample;
	struct mw_group group;

	out->error = mw_sampler_open(root, 0, 0, &sampler);
	if (!out->error) {
		mw_sampler_near(sampler, MW_ABSENT);
		out->error = mw_sample(sampler, &sample);
		out->cgroup_error = mw_sampler_cgroup_error(sampler);
	}
	if (!out->error) {
		out->binds = who_binds(sampler, &sample);
		out->headroom = sample.headroom;
		out->limit = sample.limit;
		while (!mw_sampler_group(sampler, out->groups + 1, &group))
			if (!out->groups++)
				snprintf(out->path, sizeof(out->path), "%.255s", group.path);
	}
	mw_sampler_close(sampler);
}

static void worker(int orders, int answers, volatile uint64_t *touched)
{
	int disk = open(DISK, O_RDWR | O_CLOEXEC);
	int shared = open("/dev/shm/file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct order order;

	if (disk < 0 || shared < 0)
		_exit(2);
	while (read(orders, &order, sizeof(order)) == (ssize_t)sizeof(order)) {
		struct answer answer = { 0 };

		switch (order.deed) {
		case 'a': /* anonymous memory */
			touch(order.bytes, touched);
			break;
		case 'r': /* clean page cache */
			fill_disk_buffer(disk, order.bytes, false);
			break;
		case 'w': /* dirty page cache */
			fill_disk_buffer(disk, order.bytes, true);
			break;
		case 'l': /* page cache that is locked in memory */
			if (mlock(map(order.bytes, MAP_SHARED, disk), order.bytes) < 0)
				answer.error = -errno;
			break;
		case 't': /* tmpfs */
			fill_disk_buffer(shared, order.bytes, true);
			break;
		case 'T':
			if (ftruncate(shared, 0) < 0)
				answer.error = -errno;
			break;
		case 'h':
			look_inward("/", &answer);
			break;
		case 'n': /* a cgroup namespace, and our own mounts, as a container's */
			if (unshare(CLONE_NEWCGROUP | CLONE_NEWNS) < 0 ||
			    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
				answer.error = -errno;
			break;
		case 'm': /* ... whose cgroup2 is mounted anew */
			if (umount2(CGROUP, MNT_DETACH) < 0 || mount("cgroup2", CGROUP, "cgroup2", 0, NULL) < 0)
				answer.error = -errno;
			break;
		}
		if (write(answers, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			_exit(5);
	}
	_exit(0);
}

/* False when the worker died of it. */
static bool try_deed(const struct worker *w, char deed, uint64_t bytes, struct answer *out)
{
	struct order order = { .deed = deed, .bytes = bytes };

	return write(w->orders, &order, sizeof(order)) == (ssize_t)sizeof(order) &&
	       read(w->answers, out, sizeof(*out)) == (ssize_t)sizeof(*out);
}

static struct answer deed(const struct worker *w, char what, uint64_t bytes)
{
	struct answer answer = { 0 };

	errno = 0;
	if (!try_deed(w, what, bytes, &answer)) {
		int status = 0;

		waitpid(w->pid, &status, WNOHANG);
		errno = WIFSIGNALED(status) ? EOWNERDEAD : WEXITSTATUS(status);
		give_up("a worker's deed", (char[]){ what, '\0' });
	}
	errno = -answer.error;
	if (answer.error && what != 'h')
		give_up("a worker's deed", (char[]){ what, '\0' });
	return answer;
}

static struct worker start(const char *group)
{
	struct worker new = { .touched = map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1) };
	int orders[2], answers[2];

	if (pipe2(orders, O_CLOEXEC) < 0 || pipe2(answers, O_CLOEXEC) < 0)
		give_up("pipe", group);
	new.pid = fork();
	if (new.pid < 0)
		give_up("fork", group);
	if (!new.pid) {
		/* Joined before anything is touched, so that all of it is charged there. */
		cgroup_move(group, getpid());
		close(orders[1]);
		close(answers[0]);
		worker(orders[0], answers[1], new.touched);
	}
	close(orders[0]);
	close(answers[1]);
	new.orders = orders[1];
	new.answers = answers[0];
	deed(&new, ' ', 0); /* it has joined when it answers */
	return new;
}

/* Its exit status, or 256 plus the signal. */
static int64_t finish(struct worker *w)
{
	int status = 0;

	close(w->orders);
	close(w->answers);
	if (waitpid(w->pid, &status, 0) != w->pid)
		give_up("waitpid", "worker");
	munmap((void *)(uintptr_t)w->touched, PAGE);
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void drop_caches(void)
{
	sync();
	write_file("/proc/sys/vm/drop_caches", "3");
}

/* --------------------------------------------------------------- looking --- */

static struct mw_sampler *look_at(pid_t pid)
{
	struct mw_sampler *sampler;
	int error = mw_sampler_open("/", pid, 0, &sampler);

	if (error) {
		errno = -error;
		give_up("mw_sampler_open", "/");
	}
	mw_sampler_near(sampler, MW_ABSENT);
	return sampler;
}

static struct mw_sample sample_now(struct mw_sampler *sampler)
{
	struct mw_sample sample;
	int error = mw_sample(sampler, &sample);

	if (error) {
		errno = -error;
		give_up("mw_sample", "worker");
	}
	return sample;
}

static void put_sample(struct mw_sampler *sampler, const struct mw_sample *sample)
{
	number("headroom", sample->headroom);
	number("limit", sample->limit);
	number("binds", who_binds(sampler, sample));
	number("flags", sample->flags);
	number("rss", sample->rss);
	number("rss_shared", sample->rss_shared);
	number("mem_total", sample->mem_total);
	number("mem_available", sample->mem_available);
	number("dropped", sample->dropped);
	integer("cgroup_error", sample->cgroup_error);
	integer("meminfo_error", sample->meminfo_error);
	integer("statm_error", sample->statm_error);
}

/* One look, and what mw_headroom() says at the same time. */
static void say_sample(const char *fact, struct mw_sampler *sampler)
{
	struct mw_sample sample = sample_now(sampler);

	begin(fact);
	put_sample(sampler, &sample);
	integer("alone", mw_headroom(sampler));
	end();
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Look each 10 ms until that answer comes, for 5 s at most. */
static void say_answer(const char *fact, struct mw_sampler *sampler, int wanted)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	struct mw_sample sample;
	int64_t began = now_ns();
	int answer;

	while ((answer = mw_sample(sampler, &sample)) != wanted && now_ns() - began < INT64_C(5000000000))
		nanosleep(&pause, NULL);
	begin(fact);
	integer("answer", answer);
	integer("after_ns", now_ns() - began);
	end();
}

/* A limit was changed: look each 10 ms until another limit binds, for 5 s at most. */
static void say_change(const char *fact, struct mw_sampler *sampler, uint64_t before)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	int64_t began = now_ns();
	struct mw_sample sample;

	while ((sample = sample_now(sampler)).limit == before && now_ns() - began < INT64_C(5000000000))
		nanosleep(&pause, NULL);
	began = now_ns() - began;
	begin(fact);
	put_sample(sampler, &sample);
	integer("after_ns", began);
	end();
}

/* ------------------------------------------------------------- scenarios --- */

static void nested_limits(void)
{
	struct worker w = start("/a/b/c"), neighbour;
	struct mw_sampler *sampler = look_at(w.pid);
	struct mw_group group;
	char path[8192];
	struct stat found;

	for (uint32_t i = 1; !mw_sampler_group(sampler, i, &group); i++) {
		if (group.path[0] != '/')
			snprintf(path, sizeof(path), "/%s", group.path);
		else
			snprintf(path, sizeof(path), "%s", group.path);
		if (stat(path, &found) < 0)
			memset(&found, 0, sizeof(found));
		begin("group");
		number("number", i);
		text("path", group.path);
		number("version", group.version);
		text("limit", group.limit == MW_NO_LIMIT ? "none" : "some");
		number("bytes", group.limit == MW_NO_LIMIT ? MW_ABSENT : group.limit);
		integer("same_folder", found.st_ino == group.ino && found.st_dev == group.dev);
		end();
	}
	begin("open");
	integer("cgroup_error", mw_sampler_cgroup_error(sampler));
	end();
	say_sample("nested", sampler);

	cgroup_limit("/a", "memory.max", 100 * MIB);
	say_change("ancestor lowered", sampler, 128 * MIB);
	cgroup_limit("/a", "memory.max", 256 * MIB);
	say_change("ancestor raised", sampler, 100 * MIB);
	cgroup_limit("/a/b/c", "memory.max", 64 * MIB);
	say_change("own lowered", sampler, 128 * MIB);
	cgroup_write("/a/b/c", "memory.max", "max");
	say_change("own taken away", sampler, 64 * MIB);
	cgroup_limit("/a/b/c", "memory.max", 128 * MIB);
	cgroup_limit("/a/b/c", "memory.high", 48 * MIB);
	say_change("high binds", sampler, 256 * MIB);
	cgroup_write("/a/b/c", "memory.high", "max");

	neighbour = start("/a/n");
	deed(&neighbour, 'a', 200 * MIB);
	say_change("neighbour", sampler, 48 * MIB);
	say_sample("both", sampler);
	finish(&neighbour);
	finish(&w);
	say_answer("gone", sampler, -ESRCH);
	mw_sampler_close(sampler);
}

/* Memory of each kind, and what each leaves. */
static void kinds(void)
{
	static const struct {
		const char *name;
		char deed;
		uint64_t bytes;
	} steps[] = {
		{ "nothing", 0, 0 },           { "16 anonymous", 'a', 16 * MIB }, { "16 anonymous more", 'a', 16 * MIB },
		{ "24 clean", 'r', 24 * MIB }, { "16 tmpfs", 't', 16 * MIB },     { "tmpfs given back", 'T', 0 },
		{ "12 dirty", 'w', 12 * MIB }, { "8 locked", 'l', 8 * MIB },
	};
	struct worker w = start("/a/b/c");
	struct mw_sampler *sampler = look_at(w.pid);

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		struct mw_sample sample;

		if (steps[i].deed)
			deed(&w, steps[i].deed, steps[i].bytes);
		sample = sample_now(sampler);
		begin("kind");
		text("step", steps[i].name);
		put_sample(sampler, &sample);
		number("usage", cgroup_read("/a/b/c", "memory.current", NULL));
		number("file_dirty", cgroup_read("/a/b/c", "memory.stat", "file_dirty"));
		number("unevictable", cgroup_read("/a/b/c", "memory.stat", "unevictable"));
		number("shmem", cgroup_read("/a/b/c", "memory.stat", "shmem"));
		end();
	}
	mw_sampler_close(sampler);
	finish(&w);
	drop_caches();
}

/*
 * The truth: take memory until the kernel kills, and see whether what could be
 * taken after each look is what that look had said.  `clean` and `shared` MiB of
 * page cache and tmpfs are there first.
 */
static void until_killed(const char *name, uint64_t clean, uint64_t dirty, uint64_t shared)
{
	struct { uint64_t touched, headroom; } looks[160];
	struct worker w = start("/a/b/c");
	struct mw_sampler *sampler = look_at(w.pid);
	uint64_t kills = cgroup_read("/a/b/c", "memory.events", "oom_kill"), touched;
	struct answer answer;
	size_t n = 0;

	if (clean)
		deed(&w, 'r', clean * MIB);
	if (dirty)
		deed(&w, 'w', dirty * MIB);
	if (shared)
		deed(&w, 't', shared * MIB);
	do {
		looks[n].headroom = sample_now(sampler).headroom;
		looks[n++].touched = *w.touched;
	} while (n < sizeof(looks) / sizeof(looks[0]) && try_deed(&w, 'a', MIB, &answer));
	touched = *w.touched;
	kills = cgroup_read("/a/b/c", "memory.events", "oom_kill") - kills;
	mw_sampler_close(sampler);

	begin("until killed");
	text("name", name);
	number("kills", kills);
	integer("status", finish(&w));
	printf(", \"looks\": [");
	for (size_t i = 0; i < n; i++)
		printf("%s[%" PRIu64 ", %" PRIu64 "]", i ? ", " : "", looks[i].headroom, touched - looks[i].touched);
	printf("]");
	end();
	truncate("/dev/shm/file", 0);
	drop_caches();
}

static void inward(const char *fact, const struct worker *w)
{
	struct answer answer = deed(w, 'h', 0);

	begin(fact);
	integer("error", answer.error);
	integer("cgroup_error", answer.cgroup_error);
	number("headroom", answer.headroom);
	number("limit", answer.limit);
	number("binds", answer.binds);
	number("groups", answer.groups);
	text("path", answer.path);
	end();
}

static void from_inside(void)
{
	struct worker w = start("/a/b/c");
	struct mw_sampler *sampler = look_at(w.pid);

	deed(&w, 'a', 32 * MIB);
	say_sample("outside", sampler);
	inward("inside", &w);
	mw_sampler_close(sampler);
	deed(&w, 'n', 0);
	inward("namespace, old mount", &w);
	deed(&w, 'm', 0);
	inward("namespace", &w);
	finish(&w);
}

static void moved(void)
{
	struct worker w = start("/a/b/c");
	struct mw_sampler *sampler = look_at(w.pid);
	struct mw_sample sample;

	sample_now(sampler);
	cgroup_move("/d", w.pid);
	say_answer("moved", sampler, -ESTALE);
	begin("moved, said once");
	integer("answer", mw_sample(sampler, &sample));
	end();
	begin("moved, refresh");
	integer("answer", mw_sampler_refresh(sampler));
	integer("descriptors", mw_sampler_descriptors(sampler));
	end();
	say_sample("moved, refreshed", sampler);

	/* Away from a cgroup that is gone: its files answer ENODEV now. */
	cgroup_move("/a/b/c", w.pid);
	cgroup_remove("/d");
	say_answer("removed", sampler, -ESTALE);
	begin("removed, refresh");
	integer("answer", mw_sampler_refresh(sampler));
	end();
	say_sample("removed, refreshed", sampler);
	mw_sampler_close(sampler);
	finish(&w);
}

static void pressure(void)
{
	struct mw_pressure pressure;
	int error = mw_pressure("/", &pressure);

	begin("pressure");
	integer("error", error);
	if (!error) {
		number("some_avg10", pressure.some_avg10);
		number("some_total_us", pressure.some_total_us);
		number("full_total_us", pressure.full_total_us);
	}
	end();
}

static void mount_all(void)
{
	static const struct { const char *type, *where; } mounts[] = {
		{ "devtmpfs", "/dev" }, { "proc", "/proc" }, { "sysfs", "/sys" }, { "cgroup2", CGROUP }, { "tmpfs", "/dev/shm" },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].where, 0755);
		if (mount(mounts[i].type, mounts[i].where, mounts[i].type, 0, NULL) < 0)
			give_up("mount", mounts[i].where);
	}
}

int main(void)
{
	int disk;

	printf("\n"); /* the firmware left a line unfinished */
	mount_all();
	/* What is dirty stays so until the test is over with it. */
	write_file("/proc/sys/vm/dirty_writeback_centisecs", "0");
	write_file("/proc/sys/vm/dirty_ratio", "90");
	write_file("/proc/sys/vm/dirty_background_ratio", "80");
	signal(SIGPIPE, SIG_IGN);
	/* Kept open: the last close of a block device drops its page cache. */
	disk = open(DISK, O_RDONLY | O_CLOEXEC);
	if (disk < 0)
		give_up("open", DISK);

	cgroup_write("", "cgroup.subtree_control", "+memory");
	for (size_t i = 0; i < 5; i++) {
		static const char *const groups[] = { "/a", "/a/b", "/a/b/c", "/a/n", "/d" };

		cgroup_make(groups[i]);
		if (i < 2)
			cgroup_write(groups[i], "cgroup.subtree_control", "+memory");
	}
	cgroup_limit("/a", "memory.max", 256 * MIB);
	cgroup_limit("/a/b/c", "memory.max", 128 * MIB);
	cgroup_limit("/d", "memory.max", 96 * MIB);

	nested_limits();
	kinds();
	from_inside();
	moved();
	until_killed("anonymous", 0, 0, 0);
	until_killed("clean cache first", 48, 0, 0);
	until_killed("dirty cache first", 0, 24, 0);
	until_killed("tmpfs first", 0, 0, 32);
	pressure();
	begin("done");
	end();
	stop();
}
