/*
 * test_kin.c - threads and descendants, of real processes; argv[1] is a folder to write in.
 *
 * What depends on the kernel (whether it lists children) or on luck (a pid used again, a
 * process that cannot be looked at) is set up in trees below that folder, laid out like
 * "/": what they say is made up, but the processes are real, and so are the pidfds.
 *
 * links: parse.c parse_zone.c procfs.c procfs_walk.c procfs_kin.c procfs_family.c
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "procfs.h"

enum { MAX = 64 };

/* Waits for it, 10 s at most; what came true need not be so a moment later. */
#define UNTIL(cond)                                                                               \
	do {                                                                                      \
		bool is_ = false;                                                                 \
		for (int tries_ = 0; !is_ && tries_ < 10000; tries_++) {                          \
			is_ = (cond);                                                             \
			if (!is_)                                                                 \
				poll(NULL, 0, 1);                                                 \
		}                                                                                 \
		check_true(__FILE__, __LINE__, #cond, is_);                                       \
	} while (0)

static void check_true(const char *file, int line, const char *what, bool is)
{
	if (is)
		return;
	check_failed++;
	fprintf(stderr, "%s:%d: not so in time: %s\n", file, line, what);
}

static const char *folder;

/* ------------------------------------------------------------- processes --- */

/* What children tell of themselves: a shared page. */
static struct {
	_Atomic pid_t pid[MAX];
	_Atomic int go;
} *said;

static pid_t is(int who)
{
	UNTIL(said->pid[who]);
	return said->pid[who];
}

/* It says that it is there, and waits to be killed; should we die, it goes too. */
static _Noreturn void stay(int who)
{
	said->pid[who] = getpid();
	for (;;)
		pause();
}

/*
 * The head of a line of `line` processes, each the child of the one before: who, who + 1,
 * ...  The head dies with us; the others, who must outlive their parent, by themselves.
 */
static _Noreturn void stay_in_line(int who, int line)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (--line > 0 && !fork()) {
		alarm(100);
		who++;
	}
	stay(who);
}

static pid_t start(int who, int line)
{
	pid_t pid;

	for (int i = 0; i < line; i++)
		said->pid[who + i] = 0;
	pid = fork();
	if (!pid)
		stay_in_line(who, line);
	for (int i = 0; i < line; i++)
		is(who + i);
	return pid;
}

static bool alive(pid_t pid)
{
	struct mw_stat stat;

	return !mw_read_stat("/", pid, &stat);
}

static void reap(pid_t pid)
{
	int status;

	CHECK_EQ(pid, waitpid(pid, &status, 0));
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void finish(pid_t pid)
{
	kill(pid, SIGKILL);
	reap(pid);
}

/* One that is not our child any more. */
static void finish_orphan(pid_t pid)
{
	kill(pid, SIGKILL);
	UNTIL(!alive(pid));
}

static uint64_t start_of(pid_t pid)
{
	struct mw_stat stat;

	CHECK_EQ(0, mw_read_stat("/", pid, &stat));
	return stat.start_time;
}

static int descriptors(void)
{
	DIR *listed = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(listed))
		n++;
	closedir(listed);
	return n;
}

/* Where it stands in the list. */
static int place(const struct mw_kin *list, int n, pid_t pid)
{
	for (int i = 0; i < n; i++)
		if (list[i].pid == pid)
			return i;
	return -1;
}

/* Whose pidfd it is, by what the kernel says of it. */
static pid_t pid_of(int pidfd)
{
	char path[64], text[512], *line;
	FILE *file;
	pid_t pid = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	file = fopen(path, "r");
	while (file && (line = fgets(text, sizeof(text), file)))
		if (!strncmp(line, "Pid:", 4))
			pid = atoi(line + 4);
	if (file)
		fclose(file);
	return pid;
}

/* The first `n` are real, with a pidfd of their own; the rest is empty. */
static void check_list(const struct mw_kin *list, int n)
{
	for (int i = 0; i < MAX; i++) {
		if (i >= n) {
			CHECK(!list[i].pid && !list[i].start_time);
			continue;
		}
		CHECK_EQ(start_of(list[i].pid), list[i].start_time);
		CHECK_EQ(list[i].pid, pid_of(list[i].pidfd));
		CHECK_EQ(FD_CLOEXEC, fcntl(list[i].pidfd, F_GETFD));
	}
}

/* ---------------------------------------------------------------- threads --- */

static pthread_barrier_t barrier;
static _Atomic pid_t thread_ids[MAX];

static void *wait_twice(void *at)
{
	*(_Atomic pid_t *)at = gettid();
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* How many of ours are listed; a sanitizer may have one of its own. */
static int listed(int fd)
{
	pid_t ids[2 * MAX];
	int n = mw_threads(fd, ids, 2 * MAX), found = 0;

	CHECK(n > 0 && ids[0] == getpid());
	for (int i = 0; i < n; i++)
		for (int j = 0; j < MAX - 1; j++)
			found += ids[i] == thread_ids[j];
	return found;
}

static void test_threads(void)
{
	pthread_t threads[MAX - 1];
	pid_t ids[4] = { 0, 0, 0, -7 };
	int fd = mw_open_threads();

	CHECK(fd >= 0);
	CHECK_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	CHECK_EQ(0, listed(fd));
	/* More than one piece of what the kernel lists. */
	pthread_barrier_init(&barrier, NULL, MAX);
	for (int i = 0; i < MAX - 1; i++)
		pthread_create(&threads[i], NULL, wait_twice, (void *)&thread_ids[i]);
	pthread_barrier_wait(&barrier);
	CHECK_EQ(MAX - 1, listed(fd));
	CHECK_EQ(0, mw_threads(fd, ids, 0));
	CHECK_EQ(3, mw_threads(fd, ids, 3));
	CHECK(ids[0] == getpid() && ids[1] != ids[2] && ids[3] == -7);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < MAX - 1; i++)
		pthread_join(threads[i], NULL);
	/* Joined is a moment before the kernel has done with it. */
	UNTIL(!listed(fd));
	close(fd);
	CHECK_EQ(-EBADF, mw_threads(fd, ids, 4));
	fd = open("/proc/self/stat", O_RDONLY);
	CHECK_EQ(-ENOTDIR, mw_threads(fd, ids, 4));
	close(fd);
}

/* -------------------------------------------------------------------- kin --- */

/* All of them, wherever they were started; and again, with the same pidfds. */
static void *start_from_thread(void *unused)
{
	(void)unused;
	if (!fork())
		stay(9); /* without PDEATHSIG, which a thread's end sends too */
	is(9);
	said->go = 1;
	UNTIL(said->go == 2);
	return NULL;
}

static void test_find(void)
{
	struct mw_kin list[MAX] = { { 0 } }, again[MAX];
	int open_before = descriptors(), n;
	pid_t one, three;
	pthread_t thread;

	CHECK_EQ(0, mw_kin_find(list, MAX));
	CHECK_EQ(0, mw_kin_find(list, 0));
	one = start(0, 1);
	three = start(1, 3);
	said->pid[9] = said->go = 0;
	pthread_create(&thread, NULL, start_from_thread, NULL);
	UNTIL(said->go == 1);

	n = mw_kin_find(list, MAX);
	CHECK_EQ(5, n);
	check_list(list, n);
	CHECK(place(list, n, one) >= 0 && place(list, n, is(9)) >= 0);
	/* A parent stands before its children. */
	CHECK(place(list, n, three) >= 0);
	CHECK(place(list, n, three) < place(list, n, is(2)));
	CHECK(place(list, n, is(2)) < place(list, n, is(3)));
	CHECK_EQ(open_before + 5, descriptors());
	memcpy(again, list, sizeof(list));
	CHECK_EQ(n, mw_kin_find(again, MAX));
	for (int i = 0; i < n; i++)
		CHECK_EQ(list[i].pidfd, again[place(again, n, list[i].pid)].pidfd);
	CHECK_EQ(open_before + 5, descriptors());

	/* A zombie is gone. */
	kill(one, SIGKILL);
	UNTIL(!alive(one));
	n = mw_kin_find(list, MAX);
	CHECK_EQ(4, n);
	check_list(list, n);
	reap(one);
	said->go = 2;
	pthread_join(thread, NULL);
	CHECK_EQ(4, mw_kin_find(list, MAX)); /* the child of a thread that has ended is another's then */
	finish(is(9));
	CHECK_EQ(3, mw_kin_kill(list, MAX, 0));
	reap(three);
	UNTIL(!mw_kin_kill(list, MAX, 0));
	CHECK_EQ(0, mw_kin_find(list, MAX));
	check_list(list, 0);
	CHECK_EQ(open_before, descriptors());
}

/* What does not fit is left; what is found later takes the room of who has gone. */
static void test_room(void)
{
	struct mw_kin list[MAX] = { { 0 } };
	int open_before = descriptors();
	pid_t a = start(0, 1), b = start(1, 2), c;

	CHECK_EQ(2, mw_kin_find(list, 2));
	CHECK(!list[2].pid);
	CHECK(place(list, 2, a) >= 0);
	CHECK(place(list, 2, b) >= 0);
	finish(a);
	c = start(4, 1);
	CHECK_EQ(2, mw_kin_find(list, 2));
	CHECK(place(list, 2, b) >= 0 && place(list, 2, a) < 0);
	CHECK_EQ(open_before + 2, descriptors());
	CHECK_EQ(3, mw_kin_find(list, 3));
	CHECK(place(list, 3, c) >= 0 && place(list, 3, is(2)) >= 0);
	/* Who loses its parent is lost, and with it its pidfd. */
	finish(b);
	CHECK_EQ(1, mw_kin_find(list, 3));
	check_list(list, 1);
	CHECK_EQ(open_before + 1, descriptors());
	mw_kin_close(list, 0);
	check_list(list, 1);
	mw_kin_close(list, MAX);
	check_list(list, 0);
	CHECK_EQ(open_before, descriptors());
	mw_kin_close(list, MAX);
	finish_orphan(is(2));
	finish(c);
}

/* Killed is who was started since, by clock ticks, and nobody else. */
static void test_since(void)
{
	struct mw_kin list[MAX] = { { 0 } };
	pid_t before = start(0, 1), after;
	uint64_t first = start_of(before);

	do {
		after = start(1, 1);
		if (start_of(after) == first)
			finish(after);
	} while (start_of(before) == first && !alive(after));
	CHECK_EQ(2, mw_kin_find(list, MAX));
	CHECK_EQ(0, mw_kin_kill(list, 0, 0));
	CHECK_EQ(0, mw_kin_kill(list, MAX, start_of(after) + 1));
	CHECK_EQ(1, mw_kin_kill(list, MAX, first + 1));
	reap(after);
	CHECK(alive(before));
	CHECK_EQ(1, mw_kin_kill(list, MAX, first));
	reap(before);
	/* They are gone: pidfds of the dead are nobody's, whoever has their pid. */
	CHECK_EQ(0, mw_kin_kill(list, MAX, 0));
	mw_kin_close(list, MAX);
}

/* A pid that was used again is another process, with a pidfd or without. */
static void test_reuse(void)
{
	struct mw_kin list[MAX] = { { 0 } };
	int open_before = descriptors(), pipes[2];
	pid_t child = start(0, 1);
	uint64_t started = start_of(child);

	/* Without a pidfd the start time decides, just before the kill. */
	list[0] = (struct mw_kin){ child, -1, started - 1, 0 };
	CHECK_EQ(0, mw_kin_kill(list, MAX, 0));
	list[0].start_time = started + 1;
	CHECK_EQ(0, mw_kin_kill(list, MAX, 0));
	CHECK(alive(child));
	/* The descriptor of who had it before is closed, not kept for the new one. */
	CHECK(!pipe(pipes));
	list[0] = (struct mw_kin){ child, pipes[0], started - 1, 0 };
	CHECK_EQ(1, mw_kin_find(list, MAX));
	check_list(list, 1);
	CHECK_EQ(started, list[0].start_time);
	close(pipes[1]);
	CHECK_EQ(open_before + 1, descriptors());
	/* Who had none gets one as soon as there is one. */
	mw_close_file(&list[0].pidfd);
	CHECK_EQ(1, mw_kin_find(list, MAX));
	check_list(list, 1);
	/* And without one, the right start time is enough. */
	mw_close_file(&list[0].pidfd);
	CHECK_EQ(1, mw_kin_kill(list, MAX, started));
	reap(child);
	CHECK_EQ(0, mw_kin_kill(list, MAX, started));
	CHECK_EQ(0, mw_kin_find(list, MAX));
	CHECK_EQ(open_before, descriptors());
}

/* Short of descriptors: told, or done without a pidfd; never a list that lost somebody. */
static void test_no_descriptor(void)
{
	struct mw_kin list[MAX] = { { 0 } }, before[MAX];
	struct rlimit limit, low;
	pid_t child = start(0, 1), later;
	int spare, without = 0;

	CHECK_EQ(1, mw_kin_find(list, MAX));
	later = start(1, 1);
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	spare = open("/", O_PATH | O_CLOEXEC);
	close(spare); /* the lowest that is free; those above it may be, too */
	for (int n = 0; n < 12; n++) {
		int found;

		memcpy(before, list, sizeof(list));
		low = (struct rlimit){ (rlim_t)(spare + n), limit.rlim_max };
		CHECK(!setrlimit(RLIMIT_NOFILE, &low));
		found = mw_kin_find(list, MAX);
		CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
		if (found < 0) {
			CHECK_EQ(-EMFILE, found);
			CHECK(!memcmp(before, list, sizeof(list)));
			continue;
		}
		CHECK(place(list, MAX, child) >= 0);
		CHECK(list[place(list, MAX, child)].pidfd >= 0);
		if (found == 2) {
			without += list[place(list, MAX, later)].pidfd < 0;
			mw_close_file(&list[place(list, MAX, later)].pidfd);
		}
	}
	CHECK(without > 0);
	CHECK_EQ(2, mw_kin_find(list, MAX));
	check_list(list, 2);
	CHECK_EQ(2, mw_kin_kill(list, MAX, 0));
	reap(child);
	reap(later);
	mw_kin_close(list, MAX);
}

/* The calling thread may not make that system call from now on: `error` instead. */
static void deny(int call, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* No pidfds to be had, or to be used: by the start time then.  In a child: a filter stays. */
static void test_denied(void)
{
	static const struct { int call, error; bool pidfd, lost; int killed; } cases[] = {
		{ SYS_pidfd_open, ENOSYS, false, false, 1 },
		{ SYS_pidfd_open, EPERM, false, false, 1 },
		{ SYS_pidfd_send_signal, ENOSYS, true, false, 1 },
		{ SYS_pidfd_send_signal, EPERM, true, false, 1 },
		{ SYS_pidfd_send_signal, EINVAL, true, false, 0 },
		{ SYS_kill, EPERM, true, false, 1 },
		{ SYS_kill, EPERM, true, true, 0 }, /* the pidfd is, so kill() must do */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		pid_t child = fork();
		int status;

		if (!child) {
			struct mw_kin list[MAX] = { { 0 } };
			pid_t grandchild = start(0, 1);

			check_failed = 0;
			deny(cases[i].call, cases[i].error);
			CHECK_EQ(1, mw_kin_find(list, MAX));
			CHECK_EQ(grandchild, list[0].pid);
			CHECK_EQ(cases[i].pidfd, list[0].pidfd >= 0);
			if (cases[i].lost)
				mw_close_file(&list[0].pidfd);
			CHECK_EQ(cases[i].killed, mw_kin_kill(list, MAX, 0));
			if (cases[i].killed)
				UNTIL(!alive(grandchild));
			else
				CHECK(alive(grandchild));
			exit(check_failures() != 0); /* the grandchild dies with us */
		}
		CHECK_EQ(child, waitpid(child, &status, 0));
		CHECK_EQ(0, status);
	}
}

/* A forked child starts with nobody. */
static void test_fork(void)
{
	pid_t sibling = start(0, 1), child = fork();
	int status;

	if (!child) {
		struct mw_kin list[MAX] = { { 0 } };

		check_failed = 0;
		CHECK_EQ(0, mw_kin_find(list, MAX));
		exit(check_failures() != 0);
	}
	CHECK_EQ(child, waitpid(child, &status, 0));
	CHECK_EQ(0, status);
	finish(sibling);
}

/* ------------------------------------------------------------ made-up trees --- */

static char tree[512];
static int root = -1;

static void put(const char *text, size_t len, const char *format, int a, int b)
{
	char path[1024], name[256], *slash;
	int fd;

	snprintf(name, sizeof(name), format, a, b);
	snprintf(path, sizeof(path), "%s/proc/%s", tree, name);
	for (slash = path + strlen(tree) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = '\0';
		CHECK(!mkdir(path, 0755) || errno == EEXIST);
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	CHECK(fd >= 0 && write(fd, text, len) == (ssize_t)len);
	close(fd);
}

/* A process as the tree shows it; the rest of the line is real enough. */
static void put_stat(pid_t pid, char state, pid_t parent, uint64_t start_time)
{
	char text[256];
	int n = snprintf(text, sizeof(text),
			 "%d (a) b) %c %d 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %llu 0 0\n", pid, state,
			 parent, (unsigned long long)start_time);

	put(text, (size_t)n, "%d/stat", pid, 0);
}

static void put_children(pid_t pid, pid_t thread, const char *text)
{
	put(text, strlen(text), "%d/task/%d/children", pid, thread);
}

static void begin(const char *name, pid_t self)
{
	char path[1024], to[32];

	snprintf(tree, sizeof(tree), "%s/%s", folder, name);
	CHECK(!mkdir(tree, 0755));
	mw_close_file(&root);
	root = mw_root_open(tree);
	put_stat(getpid(), 'R', 1, 5);
	snprintf(path, sizeof(path), "%s/proc/self", tree);
	snprintf(to, sizeof(to), "%d", self);
	CHECK(!symlink(to, path));
}

/* The forms that lists of children have: many threads, many children, wherever they are cut. */
static void test_listed(void)
{
	struct mw_kin list[MAX] = { { 0 } };
	int open_before = descriptors();
	pid_t me = getpid(), a = start(0, 1), b = start(1, 1), c = start(2, 1), stranger = start(3, 1);
	char text[8192];
	size_t n;

	begin("listed", me);
	open_before = descriptors();
	for (pid_t pid = a; pid; pid = pid == a ? b : pid == b ? c : pid == c ? stranger : 0)
		put_stat(pid, 'S', pid == c ? b : pid == stranger ? 1 : me, start_of(pid));
	snprintf(text, sizeof(text), "%d %d ", a, stranger); /* he is not ours any more */
	put_children(me, me, text);
	/* Of another thread; and itself, which no kernel says. */
	snprintf(text, sizeof(text), "%d %d %d ", a, me, b);
	put_children(me, 900001, text);
	put_children(a, a, "");
	snprintf(text, sizeof(text), "%d ", c);
	put_children(b, 900002, text);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	check_list(list, 3);
	CHECK(place(list, 3, b) < place(list, 3, c));
	CHECK(place(list, 3, stranger) < 0);

	CHECK_EQ(1, mw_kin_find_below(root, list, 1));
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));

	/* Longer than what is read at once, and cut within each number in turn. */
	for (size_t shift = 0; shift < 9; shift++) {
		n = (size_t)snprintf(text, sizeof(text), "%0*d ", (int)shift + 1, 7);
		while (n < 2000)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%d ", 990000 + (int)n);
		snprintf(text + n, sizeof(text) - n, "%d %d ", a, b);
		put_children(me, me, text);
		put_children(me, 900001, "");
		mw_kin_close(list, MAX);
		CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	}

	/* A list that cannot be read, or an entry: who was found before stays, all told. */
	static const char *const broken[] = { "12", "12 x ", "0 ", "-5 ", "12\n" };

	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		put_children(me, me, broken[i]);
		CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
		check_list(list, 3);
	}
	memset(text, '0', 1000); /* a number without an end */
	text[1000] = '\0';
	put_children(me, me, text);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	snprintf(text, sizeof(text), "%d %d ", a, b);
	put_children(me, me, text);
	put("12 (", 4, "%d/stat", c, 0);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	put_stat(a, 'S', me, start_of(a));
	put_stat(b, 'S', me, start_of(b));
	put("9 (x) S", 7, "%d/stat", c, 0);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	/* Of another process than its folder's name. */
	n = (size_t)snprintf(text, sizeof(text), "%d (x) S %d 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 77 0 0\n", a, b);
	put(text, n, "%d/stat", c, 0);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));

	/* Whole again: c has ended, in each way a kernel can say so. */
	for (const char *state = "ZXx"; *state; state++) {
		put_stat(c, 'S', b, start_of(c));
		CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
		put_stat(c, *state, b, start_of(c));
		CHECK_EQ(2, mw_kin_find_below(root, list, MAX));
		CHECK(place(list, MAX, c) < 0);
	}
	mw_kin_close(list, MAX);

	/* More to look at than is looked at: told by keeping who was there before. */
	put_stat(c, 'S', b, start_of(c));
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	char *many = malloc(40000 * 8 + 1);
	n = 0;
	for (int i = 0; i < 40000; i++)
		n += (size_t)sprintf(many + n, "%d ", 1000000 + i);
	put(many, n, "%d/task/%d/children", me, me);
	free(many);
	CHECK_EQ(3, mw_kin_find_below(root, list, MAX));
	check_list(list, 3);
	mw_kin_close(list, MAX);
	CHECK_EQ(open_before, descriptors());
	finish(a);
	finish(b);
	finish(c);
	finish(stranger);
}

/* Writes a stat in place, whose start time is another each time, until it is told to end. */
struct changing {
	pid_t pid;
	atomic_bool end;
};

static void *change(void *arg)
{
	struct changing *changing = arg;
	uint64_t start_time = start_of(changing->pid) + 10; /* of as many digits, nearly always */

	for (uint64_t i = 0; !changing->end; i++) {
		char path[1024], text[256];
		int n, fd;

		n = snprintf(text, sizeof(text), "%d (x) S %d 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 %020llu 0 0\n",
			     changing->pid, getpid(), (unsigned long long)(start_time + i % 2));
		snprintf(path, sizeof(path), "%s/proc/%d/stat", tree, changing->pid);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		CHECK(pwrite(fd, text, (size_t)n, 0) == n);
		close(fd);
	}
	return NULL;
}

/* Between the two looks at a new one its pid may become another's, or nobody's. */
static void test_changing(void)
{
	struct mw_kin list[MAX] = { { 0 } };
	pid_t me = getpid(), a = start(0, 1), gone = start(1, 1);
	struct changing changing = { .pid = a };
	int open_before, missed = 0;
	pthread_t thread;
	char text[64];

	begin("changing", me);
	open_before = descriptors();
	snprintf(text, sizeof(text), "%d %d ", a, gone);
	put_children(me, me, text);
	put_stat(a, 'S', me, start_of(a));
	put_stat(gone, 'S', me, start_of(gone));
	finish(gone); /* the tree still shows it, but pidfd_open() knows better */
	CHECK_EQ(1, mw_kin_find_below(root, list, MAX));
	check_list(list, 1);
	/* The tree tells of one that was there before under this pid. */
	put_stat(a, 'S', me, start_of(a) + 1);
	CHECK_EQ(1, mw_kin_find_below(root, list, MAX));
	CHECK_EQ(start_of(a) + 1, list[0].start_time);
	CHECK_EQ(open_before + 1, descriptors());
	mw_kin_close(list, MAX);

	/* A pidfd that may be another's is not kept. */
	put("", 0, "%d/stat", a, 0);
	pthread_create(&thread, NULL, change, &changing);
	UNTIL(mw_kin_find_below(root, list, MAX) == 1); /* it writes */
	for (int i = 0; i < 100000 && !missed; i++) {
		mw_kin_close(list, MAX);
		missed = !mw_kin_find_below(root, list, MAX);
	}
	CHECK(missed);
	CHECK_EQ(0, mw_kin_kill(list, MAX, 0));
	changing.end = true;
	pthread_join(thread, NULL);
	mw_kin_close(list, MAX);
	UNTIL(descriptors() == open_before);
	finish(a);
}

/* Without lists of children, by everybody's parent, in whatever order /proc tells them. */
static void test_scanned(void)
{
	enum { LINE = 6 };
	struct mw_kin list[MAX] = { { 0 } };
	pid_t me = getpid(), first = start(0, LINE), other = start(20, 1), gone = start(21, 1);
	uint64_t gone_start = start_of(gone);
	int open_before = descriptors();
	char name[32];

	finish(gone);

	for (int order = 0; order < 24; order++) {
		snprintf(name, sizeof(name), "scanned-%d", order);
		begin(name, me);
		put_stat(1, 'S', 0, 1);
		/* Still shown, with a child: looked for once more at most, and not found. */
		put_stat(gone, 'S', me, gone_start);
		put_stat(other, 'S', gone, start_of(other));
		for (int i = 0; i < LINE; i++) {
			int who = order & 1 ? LINE - 1 - i : (i * 5 + order) % LINE;

			put_stat(is(who), 'S', who ? is(who - 1) : me, start_of(is(who)));
		}
		put("", 0, "%d/task/%d/stat", me, me);
		put("", 0, "uptime", 0, 0);
		put("", 0, "99999999999/stat", 0, 0);
		put("", 0, "12x/stat", 0, 0);
		put("", 0, "999999/statm", 0, 0); /* gone by the time its stat is opened */
		CHECK_EQ(LINE, mw_kin_find_below(root, list, MAX));
		check_list(list, LINE);
		for (int who = 0; who < LINE; who++)
			CHECK_EQ(who, place(list, LINE, is(who)));
		CHECK_EQ(2, mw_kin_find_below(root, list, 2));
		mw_kin_close(list, MAX);
		CHECK_EQ(LINE, mw_kin_find_below(root, list, MAX));
		/* One that cannot be read: it and those behind it stay, though they were not met. */
		put("", 0, "%d/stat", is(LINE / 2), 0);
		CHECK_EQ(LINE, mw_kin_find_below(root, list, MAX));
		put_stat(is(LINE / 2), 'S', 1, start_of(is(LINE / 2)));
		CHECK_EQ(LINE / 2, mw_kin_find_below(root, list, MAX));
		mw_kin_close(list, MAX);
		CHECK_EQ(open_before, descriptors());
	}
	finish(other);
	finish(first);
	for (int who = 1; who < LINE; who++)
		finish_orphan(is(who));
}

/* Where it cannot be begun, the list is as before. */
static void test_not_begun(void)
{
	struct mw_kin list[MAX] = { { 0 } }, before[MAX];
	pid_t child = start(0, 1);
	char path[1024];

	CHECK_EQ(1, mw_kin_find(list, MAX));
	memcpy(before, list, sizeof(list));
	begin("namespace", child);
	put_stat(child, 'S', 1, 9);
	CHECK_EQ(-EXDEV, mw_kin_find_below(root, list, MAX)); /* "self" is somebody else there */
	put("", 0, "%d/stat", child, 0);
	CHECK_EQ(-ENODATA, mw_kin_find_below(root, list, MAX));
	snprintf(path, sizeof(path), "%s/proc/self", tree);
	CHECK(!unlink(path));
	CHECK_EQ(-ENOENT, mw_kin_find_below(root, list, MAX));
	snprintf(tree, sizeof(tree), "%s/empty", folder);
	CHECK(!mkdir(tree, 0755));
	mw_close_file(&root);
	root = mw_root_open(tree);
	CHECK_EQ(-ENOENT, mw_kin_find_below(root, list, MAX));
	CHECK(!memcmp(before, list, sizeof(list)));
	mw_kin_close(list, MAX);
	mw_close_file(&root);
	finish(child);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	folder = argv[1];
	said = mmap(NULL, sizeof(*said), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (said == MAP_FAILED)
		return 2;
	test_threads();
	test_find();
	test_room();
	test_since();
	test_reuse();
	test_no_descriptor();
	test_denied();
	test_fork();
	test_listed();
	test_changing();
	test_scanned();
	test_not_begun();
	return check_failures() != 0;
}
