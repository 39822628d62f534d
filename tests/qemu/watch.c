/*
 * watch.c - /init of a small virtual machine that runs one command, and says how that ended.
 *
 *	init COMMAND [ARGUMENT ...]
 *
 * The machine is that of a person: cgroup v2 is there and limits nothing, /dev/shm is,
 * and so is swap if there is a disk.  The command ends by itself, or the kernel kills it,
 * or it stalls, which is told by its size: whoever fills memory grows.  This judges
 * nothing; tests/test_qemu_brake.py does.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/nvme0n1"

/*
 * How long the command's size may stay as it is, in seconds of the guest's own time.  Emulation
 * is some 10 times slower than a processor; a trial that fills grows several times a second.
 */
#define STALLED_S 20

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
	printf("{\"fact\": \"gave up\", \"what\": \"%s\", \"which\": \"%s\", \"why\": \"%s\"}\n",
	       what, which, strerror(errno));
	stop();
}

static void put(const char *key, uint64_t value)
{
	printf(", \"%s\": %" PRIu64, key, value);
}

static void mount_at(const char *point, const char *kind)
{
	if (mkdir(point, 0755) < 0 && errno != EEXIST)
		give_up("mkdir", point);
	if (mount(kind, point, kind, 0, NULL) < 0)
		give_up("mount", point);
}

/* The number after `key`, as in "oom_kill 1" and "SwapTotal:   1 kB"; `key` "" is the first. */
static uint64_t number_in(const char *path, const char *key)
{
	char line[256];
	uint64_t value = 0;
	FILE *stream = fopen(path, "re");

	if (!stream)
		return 0;
	while (fgets(line, sizeof(line), stream)) {
		size_t skip = strlen(key);

		if (strncmp(line, key, skip) || (skip && !strchr(": ", line[skip])))
			continue;
		value = strtoull(line + skip + (line[skip] == ':'), NULL, 10);
		break;
	}
	fclose(stream);
	return value;
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Waits for `pid` to end, or to stall, of which it is killed. */
static bool watch(pid_t pid, int *status)
{
	const struct timespec tick = { .tv_nsec = 50000000 };
	double changed = now_s();
	uint64_t size = 0;
	char statm[64];

	snprintf(statm, sizeof(statm), "/proc/%d/statm", pid);
	while (!waitpid(pid, status, WNOHANG)) {
		uint64_t before = size;

		size = number_in(statm, "");
		if (size != before)
			changed = now_s();
		if (now_s() - changed > STALLED_S) {
			kill(pid, SIGKILL);
			waitpid(pid, status, 0);
			return true;
		}
		nanosleep(&tick, NULL);
	}
	return false;
}

int main(int argc, char **argv)
{
	int status = 0;
	bool stalled;
	double began;
	pid_t pid;

	mount_at("/proc", "proc");
	mount_at("/sys", "sysfs");
	mount_at("/dev", "devtmpfs");
	mount_at("/dev/shm", "tmpfs");
	mount_at("/tmp", "tmpfs");
	mount_at("/sys/fs/cgroup", "cgroup2");
	/* Without a disk there is no swap; SwapTotal says which. */
	if (swapon(DISK, 0) < 0 && errno != ENOENT)
		give_up("swapon", DISK);
	/* The firmware has left the console in the middle of a line. */
	printf("\n{\"fact\": \"machine\"");
	put("total", number_in("/proc/meminfo", "MemTotal") << 10);
	put("available", number_in("/proc/meminfo", "MemAvailable") << 10);
	put("swap", number_in("/proc/meminfo", "SwapTotal") << 10);
	printf("}\n");
	fflush(stdout);
	/* It must see the end, however little memory is left. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		give_up("mlockall", "init");

	began = now_s();
	pid = fork();
	if (pid < 0)
		give_up("fork", argc > 1 ? argv[1] : "");
	if (!pid) {
		if (argc > 1)
			execv(argv[1], argv + 1);
		_exit(127);
	}
	stalled = watch(pid, &status);
	printf("{\"fact\": \"ended\", \"seconds\": %.1f", now_s() - began);
	put("code", WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 0);
	put("signal", WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0);
	put("stalled", stalled);
	put("kills", number_in("/proc/vmstat", "oom_kill"));
	put("swapped_out", number_in("/proc/vmstat", "pswpout") << 12);
	printf("}\n");
	printf("{\"fact\": \"done\"}\n");
	stop();
}
