/*
 * fuzz_pressure.c - /proc/pressure/memory.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_pressure \
 *     tests/fuzz/fuzz_pressure.c csrc/parse.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_pressure -max_total_time=20 /tmp/new tests/fuzz/corpus/fuzz_pressure
 */
#include "fuzz.h"
#include "parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	struct mw_pressure pressure, some;
	const char *full;
	int err;

	PARSE(err, pressure, mw_parse_pressure(text, size, &pressure));
	if (!err) {
		CLAIM(pressure.some_avg10 <= 10000);
		CLAIM(pressure.full_avg10 <= 10000 || pressure.full_avg10 == MW_ABSENT);
		/* The first line alone says the same of `some`, and that `full` is not known. */
		full = (const char *)memchr(text, '\n', size) + 1;
		CLAIM(!mw_parse_pressure(text, (size_t)(full - text), &some));
		CLAIM(some.some_avg10 == pressure.some_avg10);
		CLAIM(some.some_total_us == pressure.some_total_us);
		CLAIM(some.full_avg10 == MW_ABSENT && some.full_total_us == MW_ABSENT);
		CLAIM((full == text + size) == (pressure.full_avg10 == MW_ABSENT));
	}
	free(text);
	return 0;
}
