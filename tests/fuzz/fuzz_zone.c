/*
 * fuzz_zone.c - /proc/zoneinfo and lists of children, fed in pieces: the first byte says
 * of which size.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_zone \
 *     tests/fuzz/fuzz_zone.c csrc/parse*.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_zone -max_total_time=20 /tmp/new tests/fuzz/corpus/fuzz_zone
 */
#include "fuzz.h"
#include "parse.h"

/* Fed in pieces of `step` bytes, each of exactly its size. */
static int sum(const uint8_t *data, size_t size, size_t step, uint64_t *pages)
{
	struct mw_pagesets sets;
	int err;

	memset(&sets, 0xa5, sizeof(sets));
	mw_pagesets_init(&sets);
	for (size_t at = 0, n; at < size; at += n) {
		char *piece;

		n = size - at < step ? size - at : step;
		piece = exact_copy(data + at, n);
		err = mw_pagesets_feed(&sets, piece, n);
		CLAIM(known_error(err));
		free(piece);
	}
	PARSE(err, *pages, mw_pagesets_end(&sets, pages));
	return err;
}

/* Each pid is one that may be killed, and all of the text is read, or refused. */
static void read_children(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	size_t at = 0, used = 0;
	int32_t pid;
	int err;

	while (!(err = mw_parse_child(text + at, size - at, &used, &pid))) {
		CLAIM(pid > 0 && used >= 2 && used <= size - at);
		CLAIM(text[at + used - 1] == ' ');
		at += used;
	}
	CLAIM(known_error(err));
	if (err == -ENODATA)
		for (; at < size; at++)
			CLAIM(text[at] >= '0' && text[at] <= '9');
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step = size ? data[0] % 64 + 1u : 1;
	uint64_t whole, cut;
	int err;

	if (size) {
		data++;
		size--;
	}
	err = sum(data, size, size ? size : 1, &whole);
	CLAIM(err == sum(data, size, step, &cut));
	CLAIM(whole == cut);
	read_children(data, size);
	return 0;
}
