/*
 * fuzz_process.c - /proc/PID/statm and /proc/PID/stat.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_process \
 *     tests/fuzz/fuzz_process.c csrc/parse.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_process -max_total_time=20 /tmp/new tests/fuzz/corpus/fuzz_process
 */
#include <stdio.h>

#include "fuzz.h"
#include "parse.h"

/* One byte less is never another number: of statm nothing stays, of stat all or nothing. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	struct mw_statm statm, cut_statm;
	struct mw_stat stat, cut_stat;
	char pid[32];
	int err;

	PARSE(err, statm, mw_parse_statm(text, size, 65536, &statm));
	if (!err) {
		CLAIM(statm.rss % 65536 == 0);
		CLAIM(statm.shared == MW_ABSENT || statm.shared <= statm.rss);
		CLAIM(mw_parse_statm(text, size - 1, 65536, &cut_statm) == -EBADMSG);
	}
	PARSE(err, stat, mw_parse_stat(text, size, &stat));
	if (!err) {
		CLAIM(stat.pid >= 0 && stat.ppid >= 0);
		snprintf(pid, sizeof(pid), "%d (", stat.pid);
		CLAIM(*text == '0' || memcmp(text, pid, strlen(pid)) == 0);
		if (!mw_parse_stat(text, size - 1, &cut_stat)) {
			CLAIM(stat.start_time == cut_stat.start_time &&
			      stat.state == cut_stat.state);
			CLAIM(cut_stat.rss_pages == MW_ABSENT || cut_stat.rss_pages == stat.rss_pages);
		}
	}
	free(text);
	return 0;
}
