/*
 * test_board.c - the board under kills, faults, scribblers and failing system calls.
 *
 * Run with an empty folder of its own as argument.  Linked with --wrap for each
 * call that fault_at() can let fail; see test_board.py.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <dirent.h>
#include <time.h>
#include <unistd.h>

#include "board.h"
#include "check.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define OTHER_BOOT "ffffffff-89ab-cdef-0123-456789abcdef"
#define SECOND INT64_C(1000000000)
#define STALE (10 * SECOND)
#define OURS 4026531836 /* a pid namespace; that of a host, mostly */
#define THEIRS 4026532999
#define SIZE ((off_t)sizeof(struct mw_memory))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAKE (MW_BOARD_CREATE | MW_BOARD_REPLACE)

static char top[256];    /* the folder we may fill */
static char folder[300]; /* of the board */
static char file[320];   /* the board */
static char root[300];   /* has a /proc of our own making */

/* ------------------------------------------------- system calls that fail --- */

/* A sanitizer linked in statically comes by here, too, before it can look after anything. */
#ifdef __clang__
#define EARLY __attribute__((disable_sanitizer_instrumentation))
#else
#define EARLY
#endif

static struct {
	const char *call;
	int nth; /* 1: the next */
	int error; /* 0: short */
} fault;

static void fault_at(const char *call, int nth, int error)
{
	fault.call = call;
	fault.nth = nth;
	fault.error = error;
}

EARLY static int fails(const char *call)
{
	if (!fault.call || strcmp(fault.call, call) || --fault.nth)
		return 0;
	errno = fault.error;
	return 1;
}

#define WRAP(type, call, parameters, arguments)        \
	type __real_##call parameters;                 \
	type __wrap_##call parameters;                 \
	EARLY type __wrap_##call parameters            \
	{                                              \
		return fails(#call) ? (type)-1 : __real_##call arguments; \
	}

WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, open, (const char *path, int flags, mode_t mode), (path, flags, mode))
WRAP(int, openat, (int at, const char *path, int flags, mode_t mode), (at, path, flags, mode))
WRAP(int, fstat, (int fd, struct stat *it), (fd, it))
WRAP(int, getrlimit, (int what, struct rlimit *limit), (what, limit))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(int, fstatat, (int at, const char *path, struct stat *it, int flags), (at, path, it, flags))
WRAP(int, renameat, (int from, const char *path, int to, const char *name), (from, path, to, name))
WRAP(int, linkat, (int from, const char *path, int to, const char *name, int flags),
     (from, path, to, name, flags))
WRAP(int, lstat, (const char *path, struct stat *it), (path, it))
WRAP(int, mlock, (const void *memory, size_t size), (memory, size))
WRAP(void *, mmap, (void *at, size_t size, int protect, int flags, int fd, off_t offset),
     (at, size, protect, flags, fd, offset))

/* What a process that is about to die has run counts, too: --coverage -Wl,-u,__gcov_dump,-u,__gcov_reset. */
extern void __gcov_dump(void) __attribute__((weak));
extern void __gcov_reset(void) __attribute__((weak));

EARLY static void die_soon(void)
{
	if (__gcov_dump && __gcov_reset) {
		__gcov_dump();
		__gcov_reset();
	}
}

int __real_sigaction(int number, const struct sigaction *to, struct sigaction *was);
int __wrap_sigaction(int number, const struct sigaction *to, struct sigaction *was);
EARLY int __wrap_sigaction(int number, const struct sigaction *to, struct sigaction *was)
{
	if (number == SIGBUS && to && (to->sa_handler == SIG_DFL || to->sa_handler == SIG_IGN))
		die_soon();
	return fails("sigaction") ? -1 : __real_sigaction(number, to, was);
}

int __real_raise(int number);
int __wrap_raise(int number);
int __wrap_raise(int number)
{
	die_soon();
	return __real_raise(number);
}

/* So many times, the board goes as soon as it is linked (and its other name is removed). */
static int removals;

int __real_unlinkat(int at, const char *path, int flags);
int __wrap_unlinkat(int at, const char *path, int flags);
int __wrap_unlinkat(int at, const char *path, int flags)
{
	int err = __real_unlinkat(at, path, flags);

	if (removals && removals--)
		unlink(file);
	return err;
}

ssize_t __real_pread(int fd, void *out, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *out, size_t size, off_t offset);
EARLY ssize_t __wrap_pread(int fd, void *out, size_t size, off_t offset)
{
	return fails("pread") ? -1 : __real_pread(fd, out, size, offset);
}

ssize_t __real_pwrite(int fd, const void *from, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset);
EARLY ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset)
{
	if (fails("pwrite"))
		return fault.error ? -1 : (ssize_t)size - 1;
	return __real_pwrite(fd, from, size, offset);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
EARLY void *__wrap_calloc(size_t n, size_t size)
{
	return fails("calloc") ? NULL : __real_calloc(n, size);
}

/* From the nth on, `interrupted` times EINTR. */
static int interrupted;

int __real_posix_fallocate(int fd, off_t offset, off_t size);
int __wrap_posix_fallocate(int fd, off_t offset, off_t size);
EARLY int __wrap_posix_fallocate(int fd, off_t offset, off_t size)
{
	if (interrupted && interrupted--)
		return EINTR;
	return fails("posix_fallocate") ? fault.error : __real_posix_fallocate(fd, offset, size);
}

/* ---------------------------------------------------------------- helpers --- */

static void remove_files(void)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	if (!dir) {
		unlink(folder);
		return;
	}
	while ((entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	unlinkat(AT_FDCWD, file, AT_REMOVEDIR);
	rmdir(folder);
}

static int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int n = -2; /* . and .. */

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Whole new, in a whole new folder. */
static struct mw_board *fresh(void)
{
	struct mw_board *board = NULL;

	remove_files();
	CHECK_EQ(0, mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	if (!board)
		exit(2);
	return board;
}

static int try_open(const char *boot, uint32_t flags)
{
	struct mw_board *board = NULL;
	int err = mw_board_open(folder, boot, flags, &board);

	CHECK(!err == !!board);
	mw_board_close(board);
	return err;
}

static struct mw_owner owner_of(uint64_t pid, uint64_t start_time, uint64_t pid_namespace)
{
	return (struct mw_owner){ .pid = pid, .start_time = start_time, .pid_namespace = pid_namespace };
}

static int claim(struct mw_board *board, struct mw_owner *owner, uint32_t *slot)
{
	return mw_slot_claim(board, root, owner, STALE, slot);
}

static void make_process(uint64_t pid, uint64_t start_time)
{
	char path[400];
	FILE *out;

	snprintf(path, sizeof(path), "%s/proc/%llu", root, (unsigned long long)pid);
	mkdir(path, 0700);
	strcat(path, "/stat");
	out = fopen(path, "w");
	fprintf(out, "%llu (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %llu 1 1\n",
		(unsigned long long)pid, (unsigned long long)start_time);
	fclose(out);
}

static void end_process(uint64_t pid)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/proc/%llu/stat", root, (unsigned long long)pid);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

/* Every field tells of `n`, so that a torn one shows. */
static struct mw_live live_of(uint64_t n)
{
	uint64_t words[MW_WORDS(struct mw_live)];
	struct mw_live live;

	for (size_t i = 0; i < COUNT(words); i++)
		words[i] = n * 64 + i;
	memcpy(&live, words, sizeof(live));
	return live;
}

static int is_live_of(const struct mw_live *live, uint64_t *n)
{
	struct mw_live whole;

	*n = live->rss / 64;
	whole = live_of(*n);
	return !memcmp(live, &whole, sizeof(whole));
}

static struct mw_work work_of(uint64_t n)
{
	uint64_t words[MW_WORDS(struct mw_work)];
	struct mw_work work;

	for (size_t i = 0; i < COUNT(words); i++)
		words[i] = n * 64 + i;
	memcpy(&work, words, sizeof(work));
	return work;
}

static int is_work_of(const struct mw_work *work, uint64_t *n)
{
	struct mw_work whole;

	*n = work->worker / 64;
	whole = work_of(*n);
	return !memcmp(work, &whole, sizeof(whole));
}

static struct mw_record record_of(uint64_t n)
{
	return (struct mw_record){ .time_ns = (int64_t)n, .kind = n + 1, .rss = n * 2, .headroom = ~n };
}

static int is_record_of(const struct mw_record *record, uint64_t n)
{
	struct mw_record whole = record_of(n);

	return !memcmp(record, &whole, sizeof(whole));
}

/* ------------------------------------------------------- opening, F95 F103 --- */

static void test_a_board_is_made_once_and_then_found(void)
{
	struct mw_board *one = fresh(), *two = NULL;
	struct mw_board_layout layout;
	struct stat it;

	CHECK_EQ(0, mw_board_open(folder, BOOT, 0, &two));
	mw_board_layout(&layout);
	CHECK_EQ(0, stat(file, &it));
	CHECK_EQ(layout.size, it.st_size);
	CHECK(it.st_blocks * 512 >= it.st_size); /* no hole */
	CHECK_EQ(1, it.st_nlink);
	CHECK_EQ(1, count_entries(folder));
	CHECK_EQ(0, mw_board_check(one));
	CHECK(mw_board_memory(one) != mw_board_memory(two));
	mw_board_close(one);
	CHECK_EQ(0, mw_board_check(two));
	mw_board_close(two);
	mw_board_close(NULL);
}

static void test_f104_the_umask_does_not_matter(void)
{
	static const mode_t masks[] = { 0, 022, 077, 0777 };

	for (size_t i = 0; i < COUNT(masks); i++) {
		struct stat of_folder, of_file;
		mode_t was;

		remove_files();
		CHECK_EQ(0, mkdir(folder, 0700));
		if (masks[i] != 0777)
			rmdir(folder);
		was = umask(masks[i]);
		CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
		umask(was);
		CHECK_EQ(0, stat(folder, &of_folder));
		CHECK_EQ(0, stat(file, &of_file));
		CHECK_EQ(0700, of_folder.st_mode & 07777);
		CHECK_EQ(0600, of_file.st_mode & 07777);
	}
}

static void test_arguments_are_looked_at(void)
{
	struct mw_board *board = NULL;
	char slash[310];

	remove_files();
	snprintf(slash, sizeof(slash), "%s/", folder);
	CHECK_EQ(-EINVAL, mw_board_open(slash, BOOT, MW_BOARD_CREATE, &board));
	CHECK_EQ(-EINVAL, mw_board_open("", BOOT, 0, &board));
	CHECK_EQ(-EINVAL, mw_board_open("/", BOOT, 0, &board));
	CHECK_EQ(-EINVAL, mw_board_open("relative", BOOT, 0, &board));
	CHECK_EQ(-EINVAL, mw_board_open(folder, "no boot id", 0, &board));
	CHECK_EQ(-EINVAL, mw_board_open(folder, BOOT, MW_BOARD_REPLACE, &board));
	CHECK_EQ(-EINVAL, mw_board_open(folder, BOOT, 4, &board));
	CHECK_EQ(-ENOENT, mw_board_open(folder, BOOT, 0, &board));
	CHECK(!board);
	CHECK_EQ(-1, count_entries(folder));
	CHECK_EQ(0, mkdir(folder, 0700));
	CHECK_EQ(-ENOENT, mw_board_open(folder, BOOT, 0, &board));
}

/* What may stand where the folder should, and what comes of it, whatever is asked for. */
static void test_f103_a_strange_folder_is_refused(void)
{
	char aside[310];
	struct stat it;

	snprintf(aside, sizeof(aside), "%s.aside", folder);
	for (uint32_t flags = 0; flags <= MAKE; flags += MAKE) {
		remove_files();
		CHECK_EQ(0, mkdir(aside, 0700));
		CHECK_EQ(0, symlink(aside, folder));
		CHECK_EQ(-ENOTDIR, try_open(BOOT, flags));
		CHECK_EQ(0, count_entries(aside)); /* nothing was made behind it */
		CHECK_EQ(0, rmdir(aside));
		unlink(folder);

		close(open(folder, O_CREAT | O_WRONLY, 0600));
		CHECK_EQ(-ENOTDIR, try_open(BOOT, flags));
		unlink(folder);

		CHECK_EQ(0, mkdir(folder, 0700));
		CHECK_EQ(0, chmod(folder, 0755));
		CHECK_EQ(-EPERM, try_open(BOOT, flags));
		CHECK_EQ(0, stat(folder, &it));
		CHECK_EQ(0755, it.st_mode & 0777);
		CHECK_EQ(0, count_entries(folder));
		rmdir(folder);
	}
}

/* The file is made by `make`; then what opening answers without and with REPLACE. */
static void make_symlink(void)
{
	char aside[310];

	snprintf(aside, sizeof(aside), "%s.aside", folder);
	close(open(aside, O_CREAT | O_WRONLY, 0600));
	CHECK_EQ(0, symlink(aside, file));
	CHECK_EQ(0, unlink(aside)); /* it need not lead anywhere */
}

static void make_fifo(void)
{
	CHECK_EQ(0, mkfifo(file, 0600));
}

static void make_folder(void)
{
	CHECK_EQ(0, mkdir(file, 0700));
}

static void make_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	CHECK(snprintf(to.sun_path, sizeof(to.sun_path), "%s", file) < (int)sizeof(to.sun_path));
	CHECK_EQ(0, bind(fd, (struct sockaddr *)&to, sizeof(to)));
	close(fd);
}

static void make_board(void)
{
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
}

static void make_open_to_others(void)
{
	make_board();
	CHECK_EQ(0, chmod(file, 0666));
}

static void cut_to(off_t size)
{
	make_board();
	CHECK_EQ(0, truncate(file, size));
}

static void make_empty(void)
{
	cut_to(0);
}

static void make_one_page(void)
{
	cut_to(MW_PAGE);
}

static void make_a_byte_short(void)
{
	cut_to(SIZE - 1);
}

static void make_a_byte_long(void)
{
	cut_to(SIZE + 1);
}

static void make_hole(void)
{
	cut_to(0);
	CHECK_EQ(0, truncate(file, SIZE));
}

static void scribble(off_t offset, const void *bytes, size_t n)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC, 0);

	CHECK_EQ(n, pwrite(fd, bytes, n, offset));
	close(fd);
}

#define SCRIBBLED(name, member)                                                        \
	static void make_other_##name(void)                                            \
	{                                                                              \
		make_board();                                                          \
		scribble((off_t)offsetof(struct mw_header, member), "\177", 1);        \
	}

SCRIBBLED(magic, magic)
SCRIBBLED(order, order)
SCRIBBLED(size, size)
SCRIBBLED(struct, live_size)
SCRIBBLED(reserve, reserved)
SCRIBBLED(version, version)
SCRIBBLED(boot, boot_id)

/* As a later version would: the size is not what we know. */
static void make_later(void)
{
	uint32_t version = MW_BOARD_VERSION + 1;

	cut_to(SIZE / 2);
	scribble((off_t)offsetof(struct mw_header, version), &version, sizeof(version));
}

static const struct {
	const char *what;
	void (*make)(void);
	int found;
	int replaced;
} files[] = {
	{ "whole", make_board, 0, 0 },
	{ "symlink", make_symlink, -ELOOP, -ELOOP },
	{ "fifo", make_fifo, -EBADMSG, 0 },
	{ "folder", make_folder, -EISDIR, -EISDIR },
	{ "socket", make_socket, -ENXIO, -ENXIO },
	{ "open to others", make_open_to_others, -EPERM, -EPERM },
	{ "empty", make_empty, -EBADMSG, 0 },
	{ "one page", make_one_page, -EBADMSG, 0 },
	{ "a byte short", make_a_byte_short, -EBADMSG, 0 },
	{ "a byte long", make_a_byte_long, -EBADMSG, 0 },
	{ "a hole", make_hole, -EBADMSG, 0 },
	{ "other magic", make_other_magic, -EBADMSG, 0 },
	{ "other byte order", make_other_order, -EBADMSG, 0 },
	{ "other size", make_other_size, -EBADMSG, 0 },
	{ "other struct", make_other_struct, -EBADMSG, 0 },
	{ "something in reserve", make_other_reserve, -EBADMSG, 0 },
	{ "other version", make_other_version, -EPROTO, -EPROTO },
	{ "later version", make_later, -EPROTO, -EPROTO },
	{ "other boot", make_other_boot, -ESTALE, 0 },
};

static void test_f55_f97_each_damaged_file_has_its_answer(void)
{
	for (size_t i = 0; i < COUNT(files); i++) {
		int failed = check_failures();

		for (uint32_t flags = 0; flags <= MAKE; flags++) {
			struct stat was, is;

			if (flags == MW_BOARD_REPLACE)
				continue;
			remove_files();
			CHECK_EQ(0, mkdir(folder, 0700));
			files[i].make();
			CHECK_EQ(0, lstat(file, &was));
			CHECK_EQ(flags == MAKE ? files[i].replaced : files[i].found, try_open(BOOT, flags));
			CHECK_EQ(0, lstat(file, &is));
			/* Replaced by another file, never written to. */
			CHECK_EQ(flags == MAKE && files[i].found && !files[i].replaced,
				 was.st_ino != is.st_ino);
			CHECK_EQ(1, count_entries(folder));
		}
		if (check_failures() != failed)
			fprintf(stderr, "  the file was: %s\n", files[i].what);
	}
}

/* As root, who can give things away. */
static void test_f105_another_users_is_refused(void)
{
	if (geteuid())
		return;
	for (uint32_t flags = 0; flags <= MAKE; flags += MAKE) {
		mw_board_close(fresh());
		CHECK_EQ(0, chown(file, 65534, 65534));
		CHECK_EQ(-EPERM, try_open(BOOT, flags));
		CHECK_EQ(0, chown(file, 0, 0));
		CHECK_EQ(0, chown(folder, 65534, 65534));
		CHECK_EQ(-EPERM, try_open(BOOT, flags));
		CHECK_EQ(1, count_entries(folder));
	}
}

/* `calls` before the one that fails are let through. */
static const struct {
	const char *call;
	int nth;
	int error;
	int expected;
	int before; /* 0 nothing, 1 the folder, 2 a damaged board */
} failing[] = {
	{ "calloc", 1, ENOMEM, -ENOMEM, 0 },
	{ "mkdir", 1, EROFS, -EROFS, 0 },
	{ "open", 1, EMFILE, -EMFILE, 1 },
	{ "fstat", 1, EIO, -EIO, 1 },
	{ "openat", 1, EMFILE, -EMFILE, 1 },
	{ "openat", 2, ENOSPC, -ENOSPC, 1 },
	{ "fchmod", 1, EPERM, -EPERM, 1 },
	{ "getrlimit", 1, EINVAL, -EINVAL, 1 },
	{ "posix_fallocate", 1, ENOSPC, -ENOSPC, 1 },
	{ "posix_fallocate", 9, EDQUOT, -EDQUOT, 1 },
	{ "pwrite", 1, EIO, -EIO, 1 },
	{ "pwrite", 1, 0, -EIO, 1 },
	{ "linkat", 1, EMLINK, -EMLINK, 1 },
	{ "fstat", 2, EIO, -EIO, 2 },
	{ "pread", 1, EIO, -EIO, 2 },
	{ "fstatat", 1, EIO, -EIO, 2 },
	{ "renameat", 1, EIO, -EIO, 2 },
};

static void test_f95_what_fails_leaves_nothing_behind(void)
{
	for (size_t i = 0; i < COUNT(failing); i++) {
		int descriptors = count_entries("/proc/self/fd"), failed = check_failures();

		remove_files();
		if (failing[i].before) {
			CHECK_EQ(0, mkdir(folder, 0700));
			if (failing[i].before == 2)
				make_empty();
		}
		fault_at(failing[i].call, failing[i].nth, failing[i].error);
		CHECK_EQ(failing[i].expected, try_open(BOOT, MAKE));
		CHECK_EQ(0, fault.nth);
		fault_at(NULL, 0, 0);
		CHECK_EQ(descriptors, count_entries("/proc/self/fd"));
		if (failing[i].before)
			CHECK_EQ(failing[i].before - 1, count_entries(folder));
		CHECK_EQ(0, try_open(BOOT, MAKE));
		CHECK_EQ(1, count_entries(folder));
		if (check_failures() != failed)
			fprintf(stderr, "  call %d of %s failed\n", failing[i].nth, failing[i].call);
	}
}

static void test_f95_mapping_it_can_fail_too(void)
{
	struct mw_board *boards[32] = { NULL };
	int n = 0, err = 0;

	mw_board_close(fresh());
	fault_at("mmap", 1, ENOMEM);
	CHECK_EQ(-ENOMEM, try_open(BOOT, 0));
	fault_at("sigaction", 1, EINVAL);
	CHECK_EQ(-EINVAL, try_open(BOOT, 0));
	fault_at(NULL, 0, 0);
	while (n < 32 && !err)
		err = mw_board_open(folder, BOOT, 0, &boards[n++]);
	CHECK_EQ(-EMFILE, err);
	CHECK_EQ(17, n);
	while (n--)
		mw_board_close(boards[n]);
	CHECK_EQ(0, try_open(BOOT, 0));
}

static void test_f95_no_room_below_the_file_size_limit(void)
{
	struct rlimit was, limit;

	remove_files();
	CHECK_EQ(0, getrlimit(RLIMIT_FSIZE, &was));
	limit = was;
	limit.rlim_cur = (rlim_t)SIZE - 1;
	CHECK_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	CHECK_EQ(-EFBIG, try_open(BOOT, MW_BOARD_CREATE)); /* and no SIGXFSZ */
	CHECK_EQ(0, count_entries(folder));
	limit.rlim_cur = (rlim_t)SIZE;
	CHECK_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
	CHECK_EQ(0, setrlimit(RLIMIT_FSIZE, &was));
}

static void test_signals_while_it_is_made_do_no_harm(void)
{
	remove_files();
	interrupted = 99;
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
	remove_files();
	interrupted = 100;
	CHECK_EQ(-EINTR, try_open(BOOT, MW_BOARD_CREATE));
	CHECK_EQ(0, count_entries(folder));
	interrupted = 0;
}

/* Names as a dead process of our pid left them. */
static void test_a_name_that_is_taken_is_passed_over(void)
{
	char name[340];
	unsigned int next = 0, made = 0;

	remove_files();
	CHECK_EQ(0, mkdir(folder, 0700));
	/* How many names this process has used is not known here: take them all. */
	for (; next < 4000; next++) {
		snprintf(name, sizeof(name), "%s.%d.%u", file, (int)getpid(), next);
		close(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
		made++;
	}
	CHECK_EQ(-EAGAIN, try_open(BOOT, MW_BOARD_CREATE));
	CHECK_EQ(made, count_entries(folder));
	remove_files();
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
}

/* ---------------------------------------------------------- one for all --- */

/* Creators start together, also over a damaged one; each says which inode it found. */
static void race(int rounds, bool damaged)
{
	struct shared {
		_Atomic int ready;
		_Atomic uint64_t found[2];
	} *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < rounds; i++) {
		pid_t children[2];

		remove_files();
		CHECK_EQ(0, mkdir(folder, 0700));
		if (damaged)
			make_empty();
		atomic_store(&shared->ready, 0);
		for (int k = 0; k < 2; k++) {
			children[k] = fork();
			if (!children[k]) {
				struct mw_board *board = NULL;
				int err;

				atomic_fetch_add(&shared->ready, 1);
				while (atomic_load(&shared->ready) < 2)
					;
				err = mw_board_open(folder, BOOT, MAKE, &board);
				/* When both replace the same, the first is told so. */
				atomic_fetch_add(&shared->ready, 1);
				while (atomic_load(&shared->ready) < 4)
					;
				if (!err && mw_board_check(board) == -ESTALE) {
					mw_board_close(board);
					err = mw_board_open(folder, BOOT, MAKE, &board);
				}
				atomic_store(&shared->found[k], err ? 0 : (uint64_t)board->ino);
				_exit(0);
			}
		}
		for (int k = 0; k < 2; k++)
			waitpid(children[k], NULL, 0);
		CHECK(shared->found[0]);
		CHECK_EQ(shared->found[0], shared->found[1]);
		CHECK_EQ(1, count_entries(folder));
	}
	munmap(shared, sizeof(*shared));
}

static void test_two_creators_meet_on_one_board(void)
{
	race(60, false);
	race(60, true);
}

static char swapped_with[340];

/* Another's board takes the place of the damaged one, just when we would replace it. */
static void test_a_board_that_was_just_made_is_not_replaced(void)
{
	struct stat theirs, is;
	char theirs_folder[320], theirs_file[340];
	struct mw_board *board = NULL;

	snprintf(theirs_folder, sizeof(theirs_folder), "%s.theirs", folder);
	snprintf(theirs_file, sizeof(theirs_file), "%s/board", theirs_folder);
	CHECK_EQ(0, mw_board_open(theirs_folder, BOOT, MW_BOARD_CREATE, &board));
	mw_board_close(board);
	remove_files();
	CHECK_EQ(0, mkdir(folder, 0700));
	make_empty();
	CHECK_EQ(0, stat(theirs_file, &theirs));
	snprintf(swapped_with, sizeof(swapped_with), "%s", theirs_file);
	CHECK_EQ(0, try_open(BOOT, MAKE));
	CHECK_EQ(0, stat(file, &is));
	CHECK_EQ(theirs.st_ino, is.st_ino);
	CHECK_EQ(1, count_entries(folder));
	rmdir(theirs_folder);
}

int __real_close(int fd);
int __wrap_close(int fd);
EARLY int __wrap_close(int fd)
{
	char from[340];
	struct stat it;

	/* The first close() of a file as large as a board: ours is ready, but not yet in place. */
	if (swapped_with[0] && !fstat(fd, &it) && it.st_size == SIZE) {
		memcpy(from, swapped_with, sizeof(from));
		swapped_with[0] = '\0';
		if (!strcmp(from, "unlink"))
			unlink(file);
		else
			rename(from, file);
	}
	return __real_close(fd);
}

static void test_who_always_removes_it_is_left_alone(void)
{
	remove_files();
	removals = 1000;
	CHECK_EQ(-EAGAIN, try_open(BOOT, MW_BOARD_CREATE));
	CHECK(removals > 900);
	removals = 1;
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
	CHECK_EQ(0, removals);
}

static void test_a_board_that_was_just_removed_is_made(void)
{
	remove_files();
	CHECK_EQ(0, mkdir(folder, 0700));
	make_empty();
	snprintf(swapped_with, sizeof(swapped_with), "unlink");
	CHECK_EQ(0, try_open(BOOT, MAKE));
	CHECK_EQ(1, count_entries(folder));
}

/* ---------------------------------------------------------- check, F95 --- */

static void test_f95_check_tells_what_happened_to_it(void)
{
	struct mw_board *board = fresh();

	CHECK_EQ(0, mw_board_check(board));
	CHECK_EQ(0, unlink(file));
	CHECK_EQ(-ESTALE, mw_board_check(board)); /* unlinked */
	CHECK_EQ(0, try_open(BOOT, MW_BOARD_CREATE));
	CHECK_EQ(-ESTALE, mw_board_check(board)); /* another in its place */
	mw_board_close(board);

	board = fresh();
	unlink(file);
	CHECK_EQ(0, rmdir(folder));
	CHECK_EQ(-ESTALE, mw_board_check(board)); /* logout took the folder, too */
	close(open(folder, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	CHECK_EQ(-ESTALE, mw_board_check(board));
	unlink(folder);
	mw_board_close(board);

	board = fresh();
	fault_at("lstat", 1, EACCES);
	CHECK_EQ(-EACCES, mw_board_check(board));
	fault_at("sigaction", 1, EINVAL);
	CHECK_EQ(-EINVAL, mw_board_check(board));
	fault_at(NULL, 0, 0);
	scribble(100, "x", 1);
	CHECK_EQ(-EBADMSG, mw_board_check(board)); /* the header is not ours any more */
	scribble(100, "", 1);
	CHECK_EQ(0, mw_board_check(board));
	CHECK_EQ(0, truncate(file, SIZE - 1));
	CHECK_EQ(-EBADMSG, mw_board_check(board)); /* cut short, nothing touched yet */
	CHECK_EQ(0, truncate(file, 0));
	CHECK_EQ(0, truncate(file, SIZE));
	CHECK_EQ(-EBADMSG, mw_board_check(board)); /* cut and drawn out again: zeros */
	mw_board_close(board);
}

/* ------------------------------------------------- claims, F54 F55 F86 --- */

static void test_a_claim_is_found_again_and_given_up(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(100, 7, OURS), elsewhere = owner_of(100, 7, THEIRS), again = owner,
			told;
	uint32_t slot = 99, same = 99;

	make_process(100, 7);
	owner.groups = 2;
	owner.group_dev[1] = 5;
	owner.group_ino[1] = 6;
	CHECK_EQ(-ENOENT, mw_slot_owner(board, 0, &told));
	CHECK_EQ(0, claim(board, &owner, &slot));
	CHECK_EQ(0, slot);
	CHECK_EQ(1, owner.generation);
	CHECK_EQ(0, mw_slot_owner(board, slot, &told));
	CHECK(!memcmp(&owner, &told, sizeof(told)));
	CHECK_EQ(0, claim(board, &elsewhere, &same)); /* the same numbers, but not the same process */
	CHECK_EQ(1, same);
	CHECK_EQ(-EEXIST, claim(board, &again, &same));
	CHECK_EQ(slot, same);
	CHECK_EQ(1, again.generation);
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	CHECK_EQ(-ENOENT, mw_slot_owner(board, slot, &told));
	CHECK_EQ(-ESTALE, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	CHECK_EQ(0, claim(board, &again, &slot));
	CHECK_EQ(2, again.generation); /* it outlives the release */
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	CHECK_EQ(0, mw_slot_alive(board, slot, &again, root, OURS, STALE));
	mw_board_close(board);
	end_process(100);
}

static void test_generations_wrap_but_are_never_0(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(100, 7, OURS);
	struct mw_live live = live_of(3);
	uint32_t slot;

	make_process(100, 7);
	atomic_store(&board->memory->states[0].claim, UINT64_C(65535) << 48);
	CHECK_EQ(0, claim(board, &owner, &slot));
	CHECK_EQ(1, owner.generation);
	CHECK_EQ(-ENOENT, mw_slot_live(board, slot, &owner, &live));
	CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
	CHECK_EQ(0, mw_slot_live(board, slot, &owner, &live));
	mw_board_close(board);
	end_process(100);
}

static void test_nonsense_is_refused(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(0, 7, OURS), told;
	struct mw_live live = live_of(1);
	struct mw_record record = record_of(1);
	uint64_t from = 0;
	uint32_t slot;

	CHECK_EQ(-EINVAL, claim(board, &owner, &slot));
	owner.pid = 1 << 22;
	CHECK_EQ(-EINVAL, claim(board, &owner, &slot));
	owner.pid = 100;
	owner.groups = MW_SLOT_GROUPS + 1;
	CHECK_EQ(-EINVAL, claim(board, &owner, &slot));
	CHECK_EQ(-EINVAL, mw_slot_release(board, 0, &owner));
	CHECK_EQ(-EINVAL, mw_slot_live(board, 0, &owner, &live));
	owner.groups = 0;
	CHECK_EQ(-EINVAL, mw_slot_claim(board, root, &owner, -1, &slot));
	CHECK_EQ(-EINVAL, mw_slot_alive(board, 0, &owner, root, OURS, -1));
	CHECK_EQ(-EINVAL, mw_slot_owner(board, MW_SLOTS, &told));
	CHECK_EQ(-EINVAL, mw_slot_lock(board, MW_SLOTS));
	CHECK_EQ(-EINVAL, mw_slot_release(board, MW_SLOTS, &owner));
	CHECK_EQ(-EINVAL, mw_slot_live(board, MW_SLOTS, &owner, &live));
	CHECK_EQ(-EINVAL, mw_slot_set_live(board, MW_SLOTS, &owner, &live));
	CHECK_EQ(-EINVAL, mw_slot_record(board, MW_SLOTS, &owner, &record));
	CHECK_EQ(-EINVAL, mw_slot_records(board, MW_SLOTS, &owner, &from, &record, 1));
	CHECK_EQ(-ESTALE, mw_slot_live(board, 0, &owner, &live));
	mw_board_close(board);
}

static void test_f54_the_dead_leave_their_slots_to_the_next(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owners[MW_SLOTS], next = owner_of(9000, 1, OURS), told;
	struct mw_live live = live_of(5);
	uint32_t slot;

	make_process(9000, 1);
	for (uint32_t i = 0; i < MW_SLOTS; i++) {
		owners[i] = owner_of(1000 + i, 50 + i, OURS);
		make_process(1000 + i, 50 + i);
		CHECK_EQ(0, claim(board, &owners[i], &slot));
		CHECK_EQ(i, slot);
	}
	CHECK_EQ(-ENOSPC, claim(board, &next, &slot)); /* 64 live */
	CHECK_EQ(0, next.generation);

	CHECK_EQ(0, mw_slot_set_live(board, 7, &owners[7], &live));
	end_process(1007);
	CHECK_EQ(-ESRCH, mw_slot_alive(board, 7, &owners[7], root, OURS, STALE));
	CHECK_EQ(0, mw_slot_owner(board, 7, &told)); /* dead, yet still to be read */
	CHECK_EQ(0, mw_slot_live(board, 7, &owners[7], &live));
	CHECK_EQ(0, claim(board, &next, &slot));
	CHECK_EQ(7, slot);
	CHECK_EQ(2, next.generation);
	CHECK_EQ(-ENOENT, mw_slot_live(board, 7, &next, &live)); /* the dead one's is not ours */
	CHECK_EQ(-ESTALE, mw_slot_set_live(board, 7, &owners[7], &live));
	CHECK_EQ(-ESTALE, mw_slot_live(board, 7, &owners[7], &live));

	/* A free slot is taken before a dead one, whose ring may still be asked for. */
	end_process(1003);
	CHECK_EQ(0, mw_slot_release(board, 60, &owners[60]));
	next = owner_of(9001, 1, OURS);
	make_process(9001, 1);
	CHECK_EQ(0, claim(board, &next, &slot));
	CHECK_EQ(60, slot);

	for (uint32_t i = 0; i < MW_SLOTS; i++)
		end_process(1000 + i);
	end_process(9000);
	end_process(9001);
	mw_board_close(board);
}

static void fill_all_but(struct mw_board *board, uint32_t slot)
{
	for (uint32_t i = 0; i < MW_SLOTS; i++) {
		struct mw_owner owner = owner_of(2000 + i, 1, OURS);
		uint32_t got;

		make_process(2000 + i, 1);
		CHECK_EQ(0, claim(board, &owner, &got));
		if (i == slot)
			CHECK_EQ(0, mw_slot_release(board, got, &owner));
	}
	/* The last is free again: what the test claims goes there. */
}

static void empty_processes(void)
{
	for (uint32_t i = 0; i < MW_SLOTS; i++)
		end_process(2000 + i);
}

static void test_f86_a_pid_that_is_used_again_is_another(void)
{
	struct mw_board *board = fresh();
	struct mw_owner first = owner_of(300, 10, OURS), next = owner_of(300, 11, OURS);
	uint32_t slot;

	fill_all_but(board, 63);
	make_process(300, 10);
	CHECK_EQ(0, claim(board, &first, &slot));
	CHECK_EQ(0, mw_slot_alive(board, slot, &first, root, OURS, STALE));
	make_process(300, 11);
	CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &first, root, OURS, STALE));
	CHECK_EQ(0, claim(board, &next, &slot)); /* and not -EEXIST */
	CHECK_EQ(63, slot);
	/* Start times that differ only above the claim word's bits. */
	make_process(300, 11 + (1 << 20));
	CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &next, root, OURS, STALE));
	end_process(300);
	empty_processes();
	mw_board_close(board);
}

static void test_who_cannot_be_looked_at_may_live(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(300, 10, OURS);
	uint32_t slot;

	make_process(300, 10);
	CHECK_EQ(0, claim(board, &owner, &slot));
	fault_at("open", 1, EMFILE);
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	fault_at(NULL, 0, 0);
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	end_process(300);
	CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	mw_board_close(board);
}

/* Heartbeats of one in another pid namespace, as seconds before now, and whether he lives. */
static void test_f86_another_namespace_is_judged_by_its_heartbeat(void)
{
	static const struct {
		int64_t ago;
		int expected;
	} beats[] = { { 0, 0 }, { 9, 0 }, { 11, -ESRCH }, { -9, 0 }, { -11, -ESRCH }, };
	static const int64_t scribbled[] = { INT64_MIN, INT64_MAX, -1 };
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(300, 10, THEIRS), ours = owner_of(301, 1, OURS);
	struct mw_live live = live_of(1);
	uint32_t slot, same;

	fill_all_but(board, 63);
	make_process(301, 1);
	CHECK_EQ(0, claim(board, &owner, &slot));
	/* No pid 300 here, which says nothing; no heartbeat yet either. */
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	CHECK_EQ(-ENOSPC, claim(board, &ours, &same));
	for (size_t i = 0; i < COUNT(beats); i++) {
		live.time_ns = now_ns() - beats[i].ago * SECOND;
		CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
		CHECK_EQ(beats[i].expected, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
		/* In its own namespace the pid decides, and there is none. */
		CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &owner, root, THEIRS, STALE));
	}
	for (size_t i = 0; i < COUNT(scribbled); i++) {
		live.time_ns = scribbled[i];
		CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
		CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	}
	CHECK_EQ(0, claim(board, &ours, &same));
	CHECK_EQ(slot, same);
	end_process(301);
	empty_processes();
	mw_board_close(board);
}

static void test_one_without_a_heartbeat_is_dead_when_met_twice_so(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(300, 10, THEIRS);
	mw_word *doubted_ns;
	uint32_t slot;

	CHECK_EQ(0, claim(board, &owner, &slot));
	doubted_ns = &board->memory->states[slot].doubted_ns;
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE)); /* notes the time */
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	atomic_fetch_sub(doubted_ns, (uint64_t)STALE); /* so it was 10 s ago */
	CHECK_EQ(-ESRCH, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	/* The next owner is not doubted because this one was. */
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	CHECK_EQ(0, claim(board, &owner, &slot));
	CHECK_EQ(0, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
	mw_board_close(board);
}

/* Killed between the swap and the publication: `ready` is still of before. */
static void test_f54_a_claim_that_was_never_finished_is_taken_over(void)
{
	struct mw_board *board = fresh();
	struct mw_owner dead = owner_of(300, 10, OURS), far = owner_of(300, 10, THEIRS),
			ours = owner_of(301, 1, OURS), told;
	struct mw_state *state = &board->memory->states[63];
	uint32_t slot;

	fill_all_but(board, 63);
	make_process(301, 1);
	make_process(300, 10);
	CHECK_EQ(0, claim(board, &dead, &slot));
	atomic_store(&state->ready, 0);
	CHECK_EQ(-EAGAIN, mw_slot_owner(board, 63, &told));
	CHECK_EQ(-ENOSPC, claim(board, &ours, &slot)); /* 300 lives and may yet finish */
	make_process(300, 11);
	CHECK_EQ(0, claim(board, &ours, &slot)); /* used again */
	CHECK_EQ(0, mw_slot_release(board, slot, &ours));

	CHECK_EQ(0, claim(board, &dead, &slot));
	atomic_store(&state->ready, 0);
	end_process(300);
	CHECK_EQ(0, claim(board, &ours, &slot)); /* gone */
	CHECK_EQ(0, mw_slot_release(board, slot, &ours));

	/* Of nobody at all: a scribbler's. */
	CHECK_EQ(0, claim(board, &dead, &slot));
	atomic_fetch_and(&state->claim, ~((UINT64_C(1) << 22) - 1));
	CHECK_EQ(0, claim(board, &ours, &slot));
	CHECK_EQ(0, mw_slot_release(board, slot, &ours));

	/* In another namespace: pid 300 of ours says nothing of it. */
	CHECK_EQ(0, claim(board, &far, &slot));
	atomic_store(&state->ready, 0);
	CHECK_EQ(-ENOSPC, claim(board, &ours, &slot));
	atomic_fetch_sub(&state->doubted_ns, (uint64_t)STALE);
	CHECK_EQ(0, claim(board, &ours, &slot));
	CHECK_EQ(63, slot);
	end_process(301);
	empty_processes();
	mw_board_close(board);
}

/* Every word of every state scribbled over: bounded, and usable again in the end. */
static void test_f55_scribbled_slots_are_taken_over(void)
{
	static const uint64_t patterns[] = { UINT64_MAX, 1, UINT64_C(0x5a5a5a5a5a5a5a5a),
					     UINT64_C(1) << 22, UINT64_C(0x7fff) << 48 | 1 };
	struct mw_board *board = fresh();
	struct mw_owner ours = owner_of(301, 1, OURS), told;
	mw_word *words = (mw_word *)board->memory->states;
	struct mw_record records[8];

	make_process(301, 1);
	for (size_t i = 0; i < COUNT(patterns); i++) {
		struct mw_owner owner = ours;
		uint64_t from = 0;
		uint32_t slot;
		int err;

		for (size_t k = 0; k < sizeof(board->memory->states) / 8; k++)
			atomic_store(&words[k], patterns[i]);
		for (uint32_t k = 0; k < MW_SLOTS; k++)
			CHECK_EQ(-EBADMSG, mw_slot_owner(board, k, &told));
		for (uint32_t k = 0; k < MW_SLOTS; k++)
			atomic_store(&board->memory->states[k].doubted, 0);
		err = claim(board, &owner, &slot);
		/* Of another namespace, by its bits, and met for the first time. */
		if (err == -ENOSPC) {
			for (uint32_t k = 0; k < MW_SLOTS; k++)
				atomic_fetch_sub(&board->memory->states[k].doubted_ns, (uint64_t)STALE);
			err = claim(board, &owner, &slot);
		}
		CHECK_EQ(0, err);
		CHECK_EQ(0, mw_slot_owner(board, slot, &told));
		/* A head from nowhere: the generation is not ours, or there is much to read. */
		CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, 8));
		atomic_store(&board->memory->states[slot].head, owner.generation << 48 | ((UINT64_C(1) << 48) - 1));
		CHECK_EQ(8, mw_slot_records(board, slot, &owner, &from, records, 8));
		CHECK_EQ(0, mw_slot_record(board, slot, &owner, &records[0]));
		CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, 8));
		CHECK_EQ(0, from); /* counted past its end, so from the beginning */
	}
	end_process(301);
	mw_board_close(board);
}

static _Atomic bool scribbling;

static void *come_and_go(void *argument)
{
	mw_word *claim_word = argument;
	uint64_t was = atomic_load(claim_word);

	while (atomic_load(&scribbling)) {
		atomic_store(claim_word, UINT64_C(7) << 48);
		atomic_store(claim_word, was);
	}
	return NULL;
}

/* Who takes our claim away meanwhile gets it; we go on to the next, to an end. */
static void test_f55_claiming_ends_whatever_others_do(void)
{
	struct mw_board *board = fresh();
	int64_t until = now_ns() + SECOND / 4;
	pthread_t other;

	fill_all_but(board, 63);
	make_process(301, 1);
	atomic_store(&scribbling, true);
	pthread_create(&other, NULL, come_and_go, &board->memory->states[63].claim);
	while (now_ns() < until) {
		struct mw_owner owner = owner_of(301, 1, OURS);
		uint32_t slot = 63;
		int err = claim(board, &owner, &slot);

		CHECK(!err || err == -EEXIST || err == -ENOSPC);
		CHECK_EQ(63, slot);
	}
	atomic_store(&scribbling, false);
	pthread_join(other, NULL);
	end_process(301);
	empty_processes();
	mw_board_close(board);
}

static void *claim_all(void *argument)
{
	struct mw_board *board = argument;
	uint32_t *slots = calloc(MW_SLOTS, sizeof(*slots));
	static _Atomic uint64_t pid = 5000;

	for (uint32_t i = 0; i < MW_SLOTS / 2; i++) {
		struct mw_owner owner = owner_of(atomic_fetch_add(&pid, 1), 1, OURS);

		CHECK_EQ(0, claim(board, &owner, &slots[i]));
	}
	return slots;
}

static void test_no_slot_goes_to_two(void)
{
	for (int round = 0; round < 20; round++) {
		struct mw_board *board = fresh();
		int owners[MW_SLOTS] = { 0 };
		pthread_t threads[2];

		for (int k = 0; k < 2; k++)
			pthread_create(&threads[k], NULL, claim_all, board);
		for (int k = 0; k < 2; k++) {
			void *slots;

			pthread_join(threads[k], &slots);
			for (uint32_t i = 0; i < MW_SLOTS / 2; i++)
				owners[((uint32_t *)slots)[i]]++;
			free(slots);
		}
		for (uint32_t i = 0; i < MW_SLOTS; i++)
			CHECK_EQ(1, owners[i]);
		mw_board_close(board);
	}
}

static void test_locking_is_tried_and_told(void)
{
	struct mw_board *board = fresh();

	CHECK_EQ(0, mw_slot_lock(board, 3));
	for (int nth = 1; nth <= 3; nth++) {
		fault_at("mlock", nth, ENOMEM);
		CHECK_EQ(-ENOMEM, mw_slot_lock(board, 3));
	}
	fault_at(NULL, 0, 0);
	mw_board_close(board);
}

/* --------------------------------------------------- regions and ring, F96 --- */

static void test_what_was_written_is_what_is_read(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(300, 10, OURS);
	struct mw_live live;
	struct mw_work work;
	struct mw_orders orders = { .drain = MW_DRAIN_RSS, .rss_limit = MW_NO_LIMIT }, told;
	uint32_t slot;

	CHECK_EQ(0, claim(board, &owner, &slot));
	CHECK_EQ(-ENOENT, mw_slot_live(board, slot, &owner, &live));
	CHECK_EQ(-ENOENT, mw_slot_work(board, slot, &owner, &work));
	CHECK_EQ(-ENOENT, mw_slot_orders(board, slot, &owner, &told));
	for (uint64_t i = 1; i < 5; i++) {
		struct mw_live in = live_of(i);
		struct mw_work at = work_of(i);

		orders.time_ns = (int64_t)i;
		CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &in));
		CHECK_EQ(0, mw_slot_set_work(board, slot, &owner, &at));
		CHECK_EQ(0, mw_slot_set_orders(board, slot, &owner, &orders));
		CHECK_EQ(0, mw_slot_live(board, slot, &owner, &live));
		CHECK_EQ(0, mw_slot_work(board, slot, &owner, &work));
		CHECK_EQ(0, mw_slot_orders(board, slot, &owner, &told));
		CHECK(!memcmp(&in, &live, sizeof(live)));
		CHECK(!memcmp(&at, &work, sizeof(work)));
		CHECK(!memcmp(&orders, &told, sizeof(told)));
	}
	mw_board_close(board);
}

static void test_the_ring_keeps_the_last_ones(void)
{
	struct mw_board *board = fresh();
	struct mw_owner owner = owner_of(300, 10, OURS);
	struct mw_record *records = calloc(MW_RECORDS, sizeof(*records));
	uint64_t from = 0;
	uint32_t slot;

	CHECK_EQ(0, claim(board, &owner, &slot));
	CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS));
	CHECK_EQ(0, from);
	for (uint64_t i = 0; i < 10; i++) {
		struct mw_record record = record_of(i);

		CHECK_EQ(0, mw_slot_record(board, slot, &owner, &record));
	}
	CHECK_EQ(4, mw_slot_records(board, slot, &owner, &from, records, 4));
	CHECK_EQ(4, from);
	CHECK_EQ(6, mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS));
	CHECK(is_record_of(&records[0], 4));
	CHECK_EQ(10, from);
	CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS));
	from = 3;
	CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, 0));
	CHECK_EQ(3, from);
	from = 1000;
	CHECK_EQ(0, mw_slot_records(board, slot, &owner, &from, records, 4));
	CHECK_EQ(10, from); /* above what was written: of another board, perhaps */
	for (uint64_t i = 10; i < 3 * MW_RECORDS; i++) {
		struct mw_record record = record_of(i);

		CHECK_EQ(0, mw_slot_record(board, slot, &owner, &record));
	}
	CHECK_EQ(MW_RECORDS - 1, mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS));
	CHECK(is_record_of(&records[0], 2 * MW_RECORDS + 1));
	CHECK(is_record_of(&records[MW_RECORDS - 2], 3 * MW_RECORDS - 1));
	CHECK_EQ(3 * MW_RECORDS, from);
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	CHECK_EQ(-ESTALE, mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS));
	CHECK_EQ(-ESTALE, mw_slot_record(board, slot, &owner, records));
	free(records);
	mw_board_close(board);
}

struct storm {
	struct mw_board *board;
	struct mw_owner owner;
	uint32_t slot;
	_Atomic bool over;
	uint64_t n;
};

static void *write_always(void *argument)
{
	struct storm *storm = argument;

	for (; !atomic_load(&storm->over); storm->n++) {
		struct mw_live live = live_of(storm->n);
		struct mw_work work = work_of(storm->n);
		struct mw_record record = record_of(storm->n);

		CHECK_EQ(0, mw_slot_set_live(storm->board, storm->slot, &storm->owner, &live));
		CHECK_EQ(0, mw_slot_set_work(storm->board, storm->slot, &storm->owner, &work));
		CHECK_EQ(0, mw_slot_record(storm->board, storm->slot, &storm->owner, &record));
	}
	return NULL;
}

static void test_f96_a_reader_beside_a_writer_sees_whole_ones(void)
{
	struct storm storm = { .board = fresh(), .owner = owner_of(300, 10, OURS) };
	struct mw_record *records = calloc(MW_RECORDS, sizeof(*records));
	int64_t until = now_ns() + SECOND / 4;
	uint64_t from = 0, seen = 0, whole = 0, last = 0;
	pthread_t writer;

	CHECK_EQ(0, claim(storm.board, &storm.owner, &storm.slot));
	pthread_create(&writer, NULL, write_always, &storm);
	while (now_ns() < until) {
		struct mw_live live;
		struct mw_work work;
		uint64_t n;
		int got;

		if (!mw_slot_live(storm.board, storm.slot, &storm.owner, &live)) {
			CHECK(is_live_of(&live, &n));
			CHECK(n >= last);
			last = n;
			whole++;
		}
		if (!mw_slot_work(storm.board, storm.slot, &storm.owner, &work))
			CHECK(is_work_of(&work, &n));
		/* From time to time far behind, where the writer is about to write. */
		if (whole % 16 == 0)
			from = 0;
		got = mw_slot_records(storm.board, storm.slot, &storm.owner, &from, records, MW_RECORDS);
		for (int i = 0; i < got; i++)
			CHECK(is_record_of(&records[i], from - (uint64_t)got + (uint64_t)i));
		seen += got > 0 ? (uint64_t)got : 0;
	}
	atomic_store(&storm.over, true);
	pthread_join(writer, NULL);
	CHECK(whole > 0);
	CHECK(seen > 0);
	free(records);
	mw_board_close(storm.board);
}

static void *count_up(void *argument)
{
	struct storm *storm = argument;
	struct mw_state *state = &storm->board->memory->states[storm->slot];

	while (!atomic_load(&storm->over)) {
		uint64_t n = storm->owner.generation << 48 | ++storm->n * MW_RECORDS;

		atomic_store_explicit(&state->work[0], n, memory_order_relaxed);
		atomic_store_explicit(&state->head, n, memory_order_relaxed);
	}
	return NULL;
}

/* A scribbler at the sequence numbers: every call ends, with -EAGAIN for lack of better. */
static void test_f55_no_reader_waits_for_a_scribbler(void)
{
	struct storm storm = { .board = fresh(), .owner = owner_of(300, 10, OURS) };
	struct mw_record *records = calloc(MW_RECORDS, sizeof(*records));
	int64_t until = now_ns() + 2 * SECOND;
	int read = 0, set = 0, record = 0, ring = 0;
	pthread_t scribbler;

	CHECK_EQ(0, claim(storm.board, &storm.owner, &storm.slot));
	pthread_create(&scribbler, NULL, count_up, &storm);
	/* On one core there is nobody beside us, so that each may well succeed. */
	while (now_ns() < until && !(read && set && record && ring)) {
		struct mw_work work = work_of(1);
		uint64_t from = 0;
		int err = mw_slot_work(storm.board, storm.slot, &storm.owner, &work);

		CHECK(err == 0 || err == -EAGAIN || err == -ENOENT);
		read += err == -EAGAIN;
		err = mw_slot_set_work(storm.board, storm.slot, &storm.owner, &work);
		CHECK(err == 0 || err == -EAGAIN);
		set += err == -EAGAIN;
		err = mw_slot_record(storm.board, storm.slot, &storm.owner, records);
		CHECK(err == 0 || err == -EAGAIN);
		record += err == -EAGAIN;
		err = mw_slot_records(storm.board, storm.slot, &storm.owner, &from, records, MW_RECORDS);
		CHECK(err == -EAGAIN || (err >= 0 && err < MW_RECORDS));
		ring += err == -EAGAIN;
	}
	atomic_store(&storm.over, true);
	pthread_join(scribbler, NULL);
	free(records);
	mw_board_close(storm.board);
}

/* The slot changes hands between the first look and the last. */
static void test_what_changes_hands_meanwhile_is_nobodys(void)
{
	struct storm storm = { .board = fresh(), .owner = owner_of(300, 10, OURS) };
	struct mw_record *records = calloc(MW_RECORDS, sizeof(*records));
	struct mw_live live = live_of(1);
	int64_t until = now_ns() + SECOND / 4;
	pthread_t other;

	CHECK_EQ(0, claim(storm.board, &storm.owner, &storm.slot));
	CHECK_EQ(0, mw_slot_set_live(storm.board, storm.slot, &storm.owner, &live));
	for (int i = 0; i < MW_RECORDS; i++)
		CHECK_EQ(0, mw_slot_record(storm.board, storm.slot, &storm.owner, records));
	atomic_store(&scribbling, true);
	pthread_create(&other, NULL, come_and_go, &storm.board->memory->states[storm.slot].claim);
	while (now_ns() < until) {
		uint64_t from = 0, n;
		struct mw_owner told;
		int err = mw_slot_live(storm.board, storm.slot, &storm.owner, &live);
		int got = mw_slot_records(storm.board, storm.slot, &storm.owner, &from, records, 64);

		CHECK(err == 0 || err == -ESTALE);
		CHECK(is_live_of(&live, &n));
		CHECK(got == 64 || got == -ESTALE);
		err = mw_slot_owner(storm.board, storm.slot, &told);
		CHECK(err == 0 || err == -ENOENT || err == -EAGAIN);
	}
	atomic_store(&scribbling, false);
	pthread_join(other, NULL);
	free(records);
	mw_board_close(storm.board);
}

/* Killed 300 times at any moment: whole regions, a whole ring, at most one record short. */
static void test_f96_sigkill_tears_nothing(void)
{
	enum { KILLS = 300 };
	struct mw_board *board = fresh();
	struct mw_record *records = calloc(MW_RECORDS, sizeof(*records));
	_Atomic uint64_t *done = mmap(NULL, MW_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int seed = 1;
	int wrote = 0;

	for (int i = 0; i < KILLS; i++) {
		struct mw_owner owner = owner_of(300, 10 + (uint64_t)i, OURS);
		struct mw_live live;
		struct mw_work work;
		uint64_t from = 0, n;
		int64_t until;
		uint32_t slot;
		pid_t child;
		int got;

		CHECK_EQ(0, claim(board, &owner, &slot));
		atomic_store(done, 0);
		child = fork();
		if (!child) {
			for (uint64_t k = 0;; k++) {
				struct mw_live in = live_of(k);
				struct mw_work at = work_of(k);
				struct mw_record record = record_of(k);

				mw_slot_set_live(board, slot, &owner, &in);
				mw_slot_set_work(board, slot, &owner, &at);
				mw_slot_record(board, slot, &owner, &record);
				atomic_store(done, k + 1);
			}
		}
		/* Some are killed at their first write, some once the ring went round. */
		until = now_ns() + rand_r(&seed) % (i % 4 ? 300000 : 4000000);
		while (now_ns() < until || (i % 8 && !atomic_load(done))) {
			if (!mw_slot_live(board, slot, &owner, &live))
				CHECK(is_live_of(&live, &n));
			if (!mw_slot_work(board, slot, &owner, &work))
				CHECK(is_work_of(&work, &n));
		}
		kill(child, SIGKILL);
		CHECK_EQ(child, waitpid(child, NULL, 0));

		n = atomic_load(done);
		wrote += n > 0;
		got = mw_slot_records(board, slot, &owner, &from, records, MW_RECORDS);
		CHECK(from == n || from == n + 1);
		CHECK_EQ(from < MW_RECORDS ? from : MW_RECORDS - 1, got);
		for (int k = 0; k < got; k++)
			CHECK(is_record_of(&records[k], from - (uint64_t)got + (uint64_t)k));
		if (n) {
			CHECK_EQ(0, mw_slot_live(board, slot, &owner, &live));
			CHECK(is_live_of(&live, &from));
			CHECK(from + 1 == n || from == n);
			CHECK_EQ(0, mw_slot_work(board, slot, &owner, &work));
			CHECK(is_work_of(&work, &from));
			CHECK(from + 1 == n || from == n);
		}
		/* The next one writes where this one stopped. */
		if (i % 2)
			CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	}
	CHECK(wrote > KILLS / 2);
	munmap((void *)done, MW_PAGE);
	free(records);
	mw_board_close(board);
}

/* ------------------------------------------------------- SIGBUS, F95 --- */

static void test_f95_a_board_cut_short_while_mapped_is_told_not_died_of(void)
{
	static const off_t sizes[] = { 0, MW_PAGE, SIZE / 2, SIZE - MW_PAGE };

	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct mw_board *board = fresh(), *other = NULL;
		struct mw_owner owner = owner_of(300, 10, OURS), told;
		struct mw_record record = record_of(1);
		struct mw_live live = live_of(1);
		uint64_t from = 0;
		uint32_t slot;

		CHECK_EQ(0, mw_board_open(folder, BOOT, 0, &other));
		CHECK_EQ(0, claim(board, &owner, &slot));
		CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
		CHECK_EQ(0, truncate(file, sizes[i]));
		/* The last page is beyond the end each time. */
		atomic_load(&board->memory->rings[MW_SLOTS - 1].records[MW_RECORDS - 1][0]);
		CHECK_EQ(-EBADMSG, mw_slot_live(board, slot, &owner, &live));
		CHECK_EQ(-EBADMSG, mw_slot_set_live(board, slot, &owner, &live));
		CHECK_EQ(-EBADMSG, mw_slot_record(board, slot, &owner, &record));
		CHECK_EQ(-EBADMSG, mw_slot_records(board, slot, &owner, &from, &record, 1));
		CHECK_EQ(-EBADMSG, mw_slot_owner(board, slot, &told));
		CHECK_EQ(-EBADMSG, mw_slot_alive(board, slot, &owner, root, OURS, STALE));
		CHECK_EQ(-EBADMSG, claim(board, &owner, &slot));
		CHECK_EQ(-EBADMSG, mw_board_check(board));
		CHECK_EQ(0, mw_slot_release(board, slot, &owner));
		/* And made anew beside it. */
		CHECK_EQ(0, try_open(BOOT, MAKE));
		CHECK_EQ(-ESTALE, mw_board_check(board));
		mw_board_close(board);
		/* Each mapping is told by its own touch. */
		mw_slot_live(other, slot, &owner, &live);
		CHECK_EQ(-ESTALE, mw_board_check(other));
		mw_board_close(other);
		board = NULL;
		CHECK_EQ(0, mw_board_open(folder, BOOT, 0, &board));
		CHECK_EQ(0, mw_board_check(board));
		mw_board_close(board);
	}
}

/* What the first call to touch it answers: none of them dies of it. */
static void test_f95_any_call_may_be_the_first_to_touch_it(void)
{
	for (int which = 0; which < 8; which++) {
		struct mw_board *board = fresh();
		struct mw_owner owner = owner_of(300, 10, OURS), next = owner_of(301, 1, OURS), told;
		struct mw_record record = record_of(1);
		struct mw_live live = live_of(1);
		uint64_t from = 0;
		uint32_t slot, other;
		int err;

		CHECK_EQ(0, claim(board, &owner, &slot));
		CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
		CHECK_EQ(0, mw_slot_record(board, slot, &owner, &record));
		CHECK_EQ(0, truncate(file, 0));
		err = which == 0   ? mw_slot_live(board, slot, &owner, &live)
		      : which == 1 ? mw_slot_set_live(board, slot, &owner, &live)
		      : which == 2 ? mw_slot_record(board, slot, &owner, &record)
		      : which == 3 ? mw_slot_records(board, slot, &owner, &from, &record, 1)
		      : which == 4 ? mw_slot_owner(board, slot, &told)
		      : which == 5 ? mw_slot_alive(board, slot, &owner, root, OURS, STALE)
		      : which == 6 ? claim(board, &next, &other)
				   : mw_slot_lock(board, slot);
		CHECK(err < 0);
		CHECK_EQ(-EBADMSG, mw_board_check(board));
		mw_board_close(board);
	}
}

static void *read_always(void *argument)
{
	struct storm *storm = argument;

	while (!atomic_load(&storm->over)) {
		struct mw_live live;
		uint64_t n;

		if (!mw_slot_live(storm->board, storm->slot, &storm->owner, &live))
			CHECK(is_live_of(&live, &n));
		/* Beside the mending, words are zeros that nobody wrote: none is believed. */
	}
	return NULL;
}

/*
 * Not under clang's ThreadSanitizer: its atomic load holds a lock of its own while
 * it touches the memory, and a handler that meets a fault there may then use none.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ATOMICS_LOCK 1
#endif
#endif

static void test_f95_threads_that_read_meanwhile_live_on(void)
{
#ifdef ATOMICS_LOCK
	(void)read_always;
	return;
#endif
	for (int i = 0; i < 20; i++) {
		struct storm storm = { .board = fresh(), .owner = owner_of(300, 10, OURS) };
		struct mw_live live = live_of(1);
		pthread_t readers[3];

		CHECK_EQ(0, claim(storm.board, &storm.owner, &storm.slot));
		CHECK_EQ(0, mw_slot_set_live(storm.board, storm.slot, &storm.owner, &live));
		for (int k = 0; k < 3; k++)
			pthread_create(&readers[k], NULL, read_always, &storm);
		CHECK_EQ(0, truncate(file, 0));
		while (mw_slot_set_live(storm.board, storm.slot, &storm.owner, &live) != -EBADMSG)
			;
		atomic_store(&storm.over, true);
		for (int k = 0; k < 3; k++)
			pthread_join(readers[k], NULL);
		mw_board_close(storm.board);
	}
}

/* Faults that are no board's, each scenario in a process of its own (this program again). */

static void *touched;

static void fault_elsewhere(void)
{
	char path[340];
	int fd;

	snprintf(path, sizeof(path), "%s/elsewhere", top);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	touched = mmap(NULL, MW_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unlink(path);
	*(volatile char *)touched = 1;
}

static void fault_in_board(void)
{
	struct mw_board *board = NULL;

	if (mw_board_open(folder, BOOT, MAKE, &board) || truncate(file, 0))
		_exit(90);
	atomic_load(&board->memory->states[0].claim);
	if (mw_board_check(board) != -EBADMSG)
		_exit(91);
	mw_board_close(board);
}

static void set(void (*handler)(int), void (*with_info)(int, siginfo_t *, void *))
{
	struct sigaction to = { .sa_flags = 0 };

	if (with_info) {
		to.sa_sigaction = with_info;
		to.sa_flags = SA_SIGINFO;
	} else {
		to.sa_handler = handler;
	}
	sigaction(SIGBUS, &to, NULL);
}

static void leave_42(int number)
{
	die_soon();
	_exit(number == SIGBUS ? 42 : 92);
}

static void leave_43(int number, siginfo_t *info, void *context)
{
	die_soon();
	_exit(number == SIGBUS && info->si_addr == touched && context ? 43 : 93);
}

static volatile sig_atomic_t calls;

static void only_count(int number)
{
	calls += number == SIGBUS;
}

static struct sigaction behind;

static void count_and_go_on(int number, siginfo_t *info, void *context)
{
	calls++;
	behind.sa_sigaction(number, info, context);
}

static void put_in_front(void)
{
	struct sigaction to = { .sa_sigaction = count_and_go_on, .sa_flags = SA_SIGINFO }, was;

	sigaction(SIGBUS, &to, &was);
	if (was.sa_sigaction != count_and_go_on)
		behind = was;
}

static int scenario(const char *name)
{
	struct mw_board *board = NULL;

	if (!strcmp(name, "ignored") || !strcmp(name, "ignored-sent"))
		set(SIG_IGN, NULL);
	else if (!strcmp(name, "handler"))
		set(leave_42, NULL);
	else if (!strcmp(name, "handler-info"))
		set(NULL, leave_43);
	else if (!strcmp(name, "handler-returns"))
		set(only_count, NULL);
	else
		set(SIG_DFL, NULL);
	fault_in_board();

	if (!strcmp(name, "default-sent")) {
		raise(SIGBUS);
	} else if (!strcmp(name, "ignored-sent")) {
		raise(SIGBUS);
		fault_in_board();
		return 44;
	} else if (!strcmp(name, "handler-returns")) {
		raise(SIGBUS);
		fault_in_board();
		return calls == 1 ? 44 : 94;
	} else if (!strcmp(name, "in-front")) {
		/* Somebody who calls ours is no hindrance; once behind us, he is not asked. */
		put_in_front();
		fault_in_board();
		fault_in_board();
		if (calls != 0)
			return 95;
		if (mw_board_open(folder, BOOT, MAKE, &board))
			return 96;
		put_in_front();
		truncate(file, 0);
		atomic_load(&board->memory->states[0].claim);
		if (calls != 1 || mw_board_check(board) != -EBADMSG)
			return 97;
		mw_board_close(board);
		return 44;
	} else if (!strcmp(name, "circle")) {
		/* Ours before theirs before ours: the first of all decides, here by dying. */
		put_in_front();
		fault_in_board();
		fault_elsewhere();
	} else if (!strcmp(name, "refused")) {
		put_in_front();
		fault_at("sigaction", 2, EINVAL);
		if (mw_board_open(folder, BOOT, MAKE, &board) != -EINVAL)
			return 105;
		fault_in_board();
		return calls ? 106 : 44;
	} else if (!strcmp(name, "insists")) {
		for (int i = 0; i < 20; i++) {
			put_in_front();
			if (mw_board_open(folder, BOOT, MAKE, &board) || mw_board_check(board))
				return 98;
			mw_board_close(board);
		}
		fault_in_board();
		return calls ? 44 : 99; /* he has his way in the end, and still calls us */
	} else if (!strcmp(name, "mending-fails")) {
		if (mw_board_open(folder, BOOT, MAKE, &board) || truncate(file, 0))
			return 100;
		fault_at("mmap", 1, ENOMEM);
		atomic_load(&board->memory->states[0].claim);
	} else if (!strcmp(name, "forked")) {
		pid_t child;
		int status;

		if (mw_board_open(folder, BOOT, MAKE, &board))
			return 101;
		truncate(file, 0);
		child = fork();
		if (!child) {
			atomic_load(&board->memory->states[0].claim);
			_exit(mw_board_check(board) == -EBADMSG ? 44 : 102);
		}
		waitpid(child, &status, 0);
		atomic_load(&board->memory->states[0].claim);
		if (mw_board_check(board) != -EBADMSG || !WIFEXITED(status))
			return 103;
		mw_board_close(board);
		return WEXITSTATUS(status);
	} else {
		fault_elsewhere();
	}
	return 104;
}

static const struct {
	const char *name;
	int code;
	int signal;
} scenarios[] = {
	{ "default", 0, SIGBUS },
	{ "default-sent", 0, SIGBUS },
	{ "ignored", 0, SIGBUS },
	{ "ignored-sent", 44, 0 },
	{ "handler", 42, 0 },
	{ "handler-info", 43, 0 },
	{ "handler-returns", 44, 0 },
	{ "in-front", 44, 0 },
	{ "circle", 0, SIGBUS },
	{ "refused", 44, 0 },
	{ "insists", 44, 0 },
	{ "mending-fails", 0, SIGBUS },
	{ "forked", 44, 0 },
};

static void test_f95_other_faults_go_where_they_went_before(void)
{
	for (size_t i = 0; i < COUNT(scenarios); i++) {
		int failed = check_failures(), status = 0;
		pid_t child;

		remove_files();
		child = fork();
		if (!child) {
			struct rlimit none = { 0, 0 };

			setrlimit(RLIMIT_CORE, &none);
			execl("/proc/self/exe", "test_board", top, scenarios[i].name, (char *)NULL);
			_exit(89);
		}
		waitpid(child, &status, 0);
		if (scenarios[i].signal)
			CHECK_EQ(scenarios[i].signal, WIFSIGNALED(status) ? WTERMSIG(status) : -1);
		else
			CHECK_EQ(scenarios[i].code, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
		if (check_failures() != failed)
			fprintf(stderr, "  the scenario was: %s, status %#x\n", scenarios[i].name, status);
	}
}

static void *check_always(void *argument)
{
	struct mw_board *board = argument;

	while (atomic_load(&scribbling))
		CHECK_EQ(0, mw_board_check(board));
	return NULL;
}

/* Forked while threads of the parent's are inside the check: there is nothing to wait for. */
static void test_f48_a_child_does_not_wait_for_a_thread_it_has_not(void)
{
	struct mw_board *board = fresh();
	pthread_t threads[2];

	atomic_store(&scribbling, true);
	for (int k = 0; k < 2; k++)
		pthread_create(&threads[k], NULL, check_always, board);
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();
		int status = 0;

		if (!child) {
			alarm(20);
			status = mw_board_check(board);
			die_soon();
			_exit(status ? 1 : 0);
		}
		waitpid(child, &status, 0);
		CHECK_EQ(0, status);
	}
	atomic_store(&scribbling, false);
	for (int k = 0; k < 2; k++)
		pthread_join(threads[k], NULL);
	mw_board_close(board);
}

int main(int argc, char **argv)
{
	char path[320];

	if (argc < 2)
		return 2;
	snprintf(top, sizeof(top), "%s", argv[1]);
	snprintf(folder, sizeof(folder), "%s/folder", top);
	snprintf(file, sizeof(file), "%s/board", folder);
	snprintf(root, sizeof(root), "%s/root", top);
	if (argc > 2)
		return scenario(argv[2]);
	mkdir(root, 0700);
	snprintf(path, sizeof(path), "%s/proc", root);
	mkdir(path, 0700);

	test_a_board_is_made_once_and_then_found();
	test_f104_the_umask_does_not_matter();
	test_arguments_are_looked_at();
	test_f103_a_strange_folder_is_refused();
	test_f55_f97_each_damaged_file_has_its_answer();
	test_f105_another_users_is_refused();
	test_f95_what_fails_leaves_nothing_behind();
	test_f95_mapping_it_can_fail_too();
	test_f95_no_room_below_the_file_size_limit();
	test_signals_while_it_is_made_do_no_harm();
	test_a_name_that_is_taken_is_passed_over();
	test_two_creators_meet_on_one_board();
	test_a_board_that_was_just_made_is_not_replaced();
	test_a_board_that_was_just_removed_is_made();
	test_who_always_removes_it_is_left_alone();
	test_f95_check_tells_what_happened_to_it();

	test_a_claim_is_found_again_and_given_up();
	test_generations_wrap_but_are_never_0();
	test_nonsense_is_refused();
	test_f54_the_dead_leave_their_slots_to_the_next();
	test_f86_a_pid_that_is_used_again_is_another();
	test_who_cannot_be_looked_at_may_live();
	test_f86_another_namespace_is_judged_by_its_heartbeat();
	test_one_without_a_heartbeat_is_dead_when_met_twice_so();
	test_f54_a_claim_that_was_never_finished_is_taken_over();
	test_f55_scribbled_slots_are_taken_over();
	test_f55_claiming_ends_whatever_others_do();
	test_no_slot_goes_to_two();
	test_locking_is_tried_and_told();

	test_what_was_written_is_what_is_read();
	test_the_ring_keeps_the_last_ones();
	test_f96_a_reader_beside_a_writer_sees_whole_ones();
	test_f55_no_reader_waits_for_a_scribbler();
	test_what_changes_hands_meanwhile_is_nobodys();
	test_f96_sigkill_tears_nothing();

	test_f95_a_board_cut_short_while_mapped_is_told_not_died_of();
	test_f95_any_call_may_be_the_first_to_touch_it();
	test_f95_threads_that_read_meanwhile_live_on();
	test_f95_other_faults_go_where_they_went_before();
	test_f48_a_child_does_not_wait_for_a_thread_it_has_not();
	remove_files();
	return check_failures() != 0;
}
