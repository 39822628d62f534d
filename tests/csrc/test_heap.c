/*
 * What malloc() has handed out, from several threads at once.
 *
 * links: heap.c
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "memwatch.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define REPLACED 1 /* malloc() is the sanitizer's own, and tells nothing of this */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define REPLACED 1
#endif
#endif
#ifndef REPLACED
#define REPLACED 0
#endif

enum { PIECES = 1000, PIECE = 1000, LARGE = 1 << 26, THREADS = 4 };

static uint64_t live(void)
{
	struct mw_heap heap = { 0 };

	CHECK_EQ(0, mw_heap(&heap));
	if (!REPLACED)
		CHECK(heap.live <= heap.held);
	return heap.live;
}

/* It grows by what is taken, in pieces or at once, and falls by as much. */
static void test_live(void)
{
	static char *pieces[PIECES];
	const uint64_t before = live();
	uint64_t small, large;
	char *volatile one; /* else a compiler may leave out what is only taken and freed */

	for (size_t i = 0; i < PIECES; i++) {
		pieces[i] = malloc(PIECE);
		CHECK(pieces[i] != NULL);
		if (pieces[i])
			memset(pieces[i], 1, PIECE);
	}
	small = live() - before;
	one = malloc(LARGE);
	CHECK(one != NULL);
	if (one)
		one[LARGE - 1] = 1;
	large = live() - before - small;
	if (!REPLACED) {
		CHECK(small >= (uint64_t)PIECES * PIECE && small < (uint64_t)PIECES * (PIECE + 64));
		CHECK(large >= LARGE && large < LARGE + 65536);
	}
	free(one);
	for (size_t i = 0; i < PIECES; i++)
		free(pieces[i]);
	if (!REPLACED)
		CHECK(live() < before + 65536);
	CHECK(mw_trim() >= 0);
}

static void *churn(void *arg)
{
	(void)arg;
	for (size_t i = 1; i < 2000; i++) {
		char *volatile it = malloc(i * 37 % 70000 + 1);

		CHECK(it != NULL);
		free(it);
		if (i % 500 == 0)
			CHECK(mw_trim() >= 0);
	}
	return NULL;
}

/* Others allocate meanwhile. */
static void test_threads(void)
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		CHECK_EQ(0, pthread_create(&threads[i], NULL, churn, NULL));
	for (size_t i = 0; i < 1000; i++)
		live();
	for (size_t i = 0; i < THREADS; i++)
		CHECK_EQ(0, pthread_join(threads[i], NULL));
}

int main(void)
{
	test_live();
	test_threads();
	return check_failures() != 0;
}
