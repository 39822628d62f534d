/*
 * fuzz_meminfo.c - /proc/meminfo and "Key: 123 kB" lines.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_meminfo \
 *     tests/fuzz/fuzz_meminfo.c csrc/parse.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_meminfo -max_total_time=20 /tmp/new tests/fuzz/corpus/fuzz_meminfo
 */
#include "fuzz.h"
#include "parse.h"

/* `text` said the same of a key as mw_parse_meminfo() did. */
static void claim_same(const char *text, size_t size, const char *key, uint64_t bytes)
{
	uint64_t value;

	CLAIM(mw_parse_kb(text, size, key, &value) == 0 && value == bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	struct mw_meminfo mem;
	uint64_t bytes;
	int err;

	PARSE(err, bytes, mw_parse_kb(text, size, "Pss", &bytes));
	CLAIM(err || bytes % 1024 == 0);
	PARSE(err, mem, mw_parse_meminfo(text, size, &mem));
	if (!err) {
		CLAIM(mem.total > 0 && mem.free <= mem.total && mem.available <= mem.total);
		claim_same(text, size, "MemTotal", mem.total);
		claim_same(text, size, "MemFree", mem.free);
		if (mem.estimated)
			CLAIM(mw_parse_kb(text, size, "MemAvailable", &bytes) == -ENODATA);
		else
			claim_same(text, size, "MemAvailable", mem.available);
		CLAIM(known_error(mem.swap_error));
		if (mem.swap_error) {
			CLAIM(mem.swap_total == MW_ABSENT && mem.swap_free == MW_ABSENT);
		} else {
			CLAIM(mem.swap_free <= mem.swap_total);
			claim_same(text, size, "SwapTotal", mem.swap_total);
			claim_same(text, size, "SwapFree", mem.swap_free);
		}
	}
	free(text);
	return 0;
}
