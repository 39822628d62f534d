/*
 * fuzz.h - what the fuzz targets share.  The text is a copy of exactly its size, so
 * that AddressSanitizer sees a byte too many; a failed claim traps, which is a crash.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM(cond)                                                                               \
	do {                                                                                      \
		if (!(cond))                                                                      \
			__builtin_trap();                                                         \
	} while (0)

/* Calls a parser; `out` must be as it was when it fails, and the error one of parse.h's. */
#define PARSE(err, out, call)                                                                     \
	do {                                                                                      \
		memset(&(out), 0xa5, sizeof(out));                                                \
		err = (call);                                                                     \
		CLAIM(known_error(err));                                                          \
		CLAIM(!err || untouched(&(out), sizeof(out)));                                    \
	} while (0)

static inline int known_error(int err)
{
	return !err || err == -EBADMSG || err == -EOVERFLOW || err == -ENODATA || err == -ERANGE ||
	       err == -ESRCH || err == -ENAMETOOLONG;
}

static inline int untouched(const void *out, size_t size)
{
	const unsigned char *byte = out;

	for (size_t i = 0; i < size; i++)
		if (byte[i] != 0xa5)
			return 0;
	return 1;
}

static inline char *exact_copy(const uint8_t *data, size_t size)
{
	char *text = malloc(size ? size : 1);

	CLAIM(text);
	memcpy(text, data, size);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
