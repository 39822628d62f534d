/*
 * check.h - what the C tests share: a failed check prints where and what, and goes on.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>

static int check_failed;

#define CHECK(cond)                                                                               \
	do {                                                                                      \
		if (!(cond)) {                                                                    \
			check_failed++;                                                           \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);        \
		}                                                                                 \
	} while (0)

/* For integers of any kind; both are shown signed and unsigned, whatever they are. */
#define CHECK_EQ(expected, actual)                                                                \
	check_eq(__FILE__, __LINE__, #actual, (uint64_t)(expected), (uint64_t)(actual))

static inline void check_eq(const char *file, int line, const char *what, uint64_t expected,
			    uint64_t actual)
{
	if (expected == actual)
		return;
	check_failed++;
	fprintf(stderr, "%s:%d: %s: expected %lld (%llu), got %lld (%llu)\n", file, line, what,
		(long long)expected, (unsigned long long)expected, (long long)actual,
		(unsigned long long)actual);
}

/* How many checks failed; main() ends with `return check_failures() != 0`. */
static inline int check_failures(void)
{
	return check_failed;
}

#endif
