/*
 * wraps.h - each call of the C library that our C makes, so that it can fail once, at a
 * place that is named by a number.
 *
 * tests/test_fail_nth.py links with -Wl,--wrap= for each __wrap_ below, so only what our own
 * objects call fails, never the C library within.  CALL is one of them; HOW is an errno's
 * name, or "short" (10 bytes at most), or "eof".
 */
#ifndef WRAPS_H
#define WRAPS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

/* ------------------------------------------------------------ the plan --- */

static struct {
	const char *call;
	int error;    /* 0: `limit` instead */
	size_t limit; /* bytes that a read may give */
	unsigned long nth; /* 0: none fails */
	_Atomic unsigned long seen;
	_Atomic unsigned long *tally; /* counts them, too; NULL */
	bool real_time; /* the clock goes as it does */
} plan;

/* What this thread calls is not ours to fail: it is the test's own. */
static _Thread_local bool spared;

static bool strikes(const char *call)
{
	if (!plan.nth || spared || strcmp(call, plan.call))
		return false;
	if (plan.tally)
		++*plan.tally;
	return ++plan.seen == plan.nth;
}

#define WRAP(type, name, params, args)                                                            \
	type __real_##name params;                                                                \
	type __wrap_##name params;                                                                \
	type __wrap_##name params                                                                 \
	{                                                                                         \
		if (strikes(#name)) {                                                             \
			errno = plan.error;                                                       \
			return (type)-1;                                                          \
		}                                                                                 \
		return __real_##name args;                                                        \
	}

/* A read that is cut short has read what it gives; `name` is not evaluated twice. */
#define WRAP_READ(name, params, args_of)                                                          \
	ssize_t __real_##name params;                                                             \
	ssize_t __wrap_##name params;                                                             \
	ssize_t __wrap_##name params                                                              \
	{                                                                                         \
		if (strikes(#name)) {                                                             \
			if (!plan.error)                                                          \
				size = size < plan.limit ? size : plan.limit;                     \
			else {                                                                    \
				errno = plan.error;                                               \
				return -1;                                                        \
			}                                                                         \
		}                                                                                 \
		return __real_##name args_of;                                                     \
	}

/* Of those that return the error itself. */
#define WRAP_CODE(name, params, args)                                                             \
	int __real_##name params;                                                                 \
	int __wrap_##name params;                                                                 \
	int __wrap_##name params                                                                  \
	{                                                                                         \
		return strikes(#name) ? plan.error : __real_##name args;                          \
	}

WRAP_READ(pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
WRAP_READ(read, (int fd, void *to, size_t size), (fd, to, size))
WRAP(int, fstat, (int fd, struct stat *out), (fd, out))
WRAP(int, stat, (const char *path, struct stat *out), (path, out))
WRAP(void *, mmap, (void *at, size_t size, int prot, int flags, int fd, off_t from), (at, size, prot, flags, fd, from))
WRAP(int, mlock, (const void *at, size_t size), (at, size))
WRAP(int, fstatat, (int folder, const char *path, struct stat *out, int flags), (folder, path, out, flags))
WRAP(int, lstat, (const char *path, struct stat *out), (path, out))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
WRAP(int, getrlimit, (int what, struct rlimit *out), (what, out))
WRAP(int, sigaction, (int n, const struct sigaction *to, struct sigaction *old), (n, to, old))
WRAP(off_t, lseek, (int fd, off_t at, int from), (fd, at, from))
WRAP(int, poll, (struct pollfd *fds, nfds_t n, int ms), (fds, n, ms))
WRAP(int, setrlimit, (int what, const struct rlimit *to), (what, to))
WRAP(int, prlimit, (pid_t pid, int what, const struct rlimit *to, struct rlimit *old), (pid, what, to, old))
WRAP(pid_t, fork, (void), ())
WRAP(pid_t, setsid, (void), ())
WRAP(int, pipe2, (int ends[2], int flags), (ends, flags))
WRAP(int, dup2, (int from, int to), (from, to))
WRAP(int, fcntl, (int fd, int what, long with), (fd, what, with))
WRAP(pid_t, waitpid, (pid_t pid, int *status, int flags), (pid, status, flags))
WRAP(int, execve, (const char *path, char *const *argv, char *const *env), (path, argv, env))
WRAP_CODE(pthread_atfork, (void (*a)(void), void (*b)(void), void (*c)(void)), (a, b, c))
WRAP_CODE(pthread_attr_init, (pthread_attr_t *out), (out))
WRAP_CODE(pthread_attr_setstack, (pthread_attr_t *of, void *at, size_t size), (of, at, size))
WRAP_CODE(pthread_create, (pthread_t *out, const pthread_attr_t *of, void *(*run)(void *), void *arg), (out, of, run, arg))
WRAP_CODE(pthread_setschedparam, (pthread_t id, int policy, const struct sched_param *to), (id, policy, to))
WRAP(int, madvise, (void *at, size_t size, int advice), (at, size, advice))

/* Each call that has no wrapper in the C library is a call of its own here. */
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	const char *name = number == SYS_openat2	       ? "openat2" :
			   number == SYS_get_mempolicy ? "get_mempolicy" :
			   number == SYS_gettid	       ? "gettid" :
			   number == SYS_getdents64    ? "getdents64" :
			   number == SYS_futex	       ? "futex" :
			   number == SYS_tgkill	       ? "tgkill" :
			   number == SYS_close_range   ? "close_range" :
			   number == SYS_pidfd_open    ? "pidfd_open" :
			   number == SYS_pidfd_send_signal ? "pidfd_send_signal" :
							 NULL;

	CHECK(name != NULL);
	if (name && strikes(name)) {
		errno = plan.error;
		return -1;
	}
	return __real_syscall(number, a, b, c, d, e, f);
}

int __real_prctl(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int __wrap_prctl(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int __wrap_prctl(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	if (strikes("prctl")) {
		errno = plan.error;
		return -1;
	}
	return __real_prctl(what, a, b, c, d);
}

/* A write that is cut short has written what it says. */
WRAP_READ(write, (int fd, const void *from, size_t size), (fd, from, size))
WRAP_READ(pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	errno = plan.error;
	return strikes("calloc") ? NULL : __real_calloc(n, size);
}

/* It answers the error, and leaves errno alone. */
int __real_posix_fallocate(int fd, off_t at, off_t size);
int __wrap_posix_fallocate(int fd, off_t at, off_t size);
int __wrap_posix_fallocate(int fd, off_t at, off_t size)
{
	return strikes("posix_fallocate") ? plan.error : __real_posix_fallocate(fd, at, size);
}

/* close() lets go of the descriptor whatever it answers. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	int result = __real_close(fd);

	if (!strikes("close"))
		return result;
	errno = plan.error;
	return -1;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode = 0;

	if (strikes("open")) {
		errno = plan.error;
		return -1;
	}
	if (flags & O_CREAT) {
		va_list rest;

		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return __real_open(path, flags, mode);
}

int __real_openat(int folder, const char *path, int flags, ...);
int __wrap_openat(int folder, const char *path, int flags, ...);
int __wrap_openat(int folder, const char *path, int flags, ...)
{
	mode_t mode = 0;

	if (strikes("openat")) {
		errno = plan.error;
		return -1;
	}
	if (flags & O_CREAT) {
		va_list rest;

		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return __real_openat(folder, path, flags, mode);
}

/* Never fails; more than a second passes between two looks, so all that is due is done. */
int __real_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
	static int64_t now = 1000;

	if (plan.real_time)
		return __real_clock_gettime(clock, out);
	now += 1100000000;
	out->tv_sec = now / 1000000000;
	out->tv_nsec = now % 1000000000;
	return 0;
}

static bool set_how(const char *how)
{
	static const struct { const char *name; int error; } errors[] = {
		{ "EMFILE", EMFILE }, { "ENFILE", ENFILE }, { "ENOMEM", ENOMEM }, { "EACCES", EACCES },
		{ "EINTR", EINTR },   { "EIO", EIO },	    { "EAGAIN", EAGAIN }, { "ENOSYS", ENOSYS },
		{ "EPERM", EPERM },   { "ENOENT", ENOENT }, { "ENODEV", ENODEV }, { "ESRCH", ESRCH },
		{ "EINVAL", EINVAL }, { "ENOSPC", ENOSPC }, { "EROFS", EROFS },	  { "EDQUOT", EDQUOT },
		{ "EEXIST", EEXIST }, { "EFBIG", EFBIG },   { "EBADF", EBADF },
	};

	if (!strcmp(how, "short") || !strcmp(how, "eof")) {
		plan.limit = how[0] == 's' ? 10 : 0;
		return true;
	}
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (!strcmp(how, errors[i].name))
			plan.error = errors[i].error;
	return plan.error != 0;
}

#endif
