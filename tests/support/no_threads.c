/* no_threads.c - preloaded, it lets pthread_create() fail as it does at pids.max. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

/* How many are still to be had; below 0: any number. */
static int left = -1;

void fail_threads_after(int n)
{
	left = n;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	if (!left)
		return EAGAIN;
	if (left > 0)
		left--;
	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	return real(thread, attributes, run, argument);
}
