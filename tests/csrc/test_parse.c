/*
 * test_parse.c - every rule of parse.h, and every branch of parse.c, parse_cgroup.c and span.h.
 *
 * Each text lies in a buffer of exactly its size, so that AddressSanitizer sees a
 * byte too many; each failure must leave `out` as it was.
 *
 *   gcc --coverage -O0 -D_GNU_SOURCE -Icsrc -o t tests/csrc/test_parse.c csrc/parse.c csrc/parse_cgroup.c && ./t
 *
 * links: parse.c parse_cgroup.c
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "parse.h"

/* What `out` holds before; 0xa5a5... is no answer of any case here. */
#define BEFORE 0xa5

struct text {
	const char *bytes;
	size_t len;
};

#define T(literal) ((struct text){literal, sizeof(literal) - 1})

/* The answer of whichever parser; all of it is compared, so all of it is set first. */
union answer {
	struct mw_meminfo meminfo;
	struct mw_statm statm;
	struct mw_stat stat;
	struct mw_pressure pressure;
	struct mw_membership membership;
	struct mw_mount mount;
	uint64_t number;
	int64_t with_sign;
	uint32_t flag;
};

/* FILE_V1, FILE_V2: mw_parse_reclaimable() of either version. */
enum parser {
	MEMINFO, KB, STATM, STAT, U64, I64, LIMIT, FILE_V1, FILE_V2, KEY, PRESSURE, MEMBERSHIP,
	MOUNT, WORD,
};

/* mw_parse_memory() says of memory what mw_parse_meminfo() does, and of swap nothing. */
static void check_memory(const char *exact, size_t len, int err, const struct mw_meminfo *whole)
{
	struct mw_meminfo memory;

	CHECK_EQ(err, mw_parse_memory(exact, len, &memory));
	if (err)
		return;
	CHECK_EQ(whole->total, memory.total);
	CHECK_EQ(whole->free, memory.free);
	CHECK_EQ(whole->available, memory.available);
	CHECK_EQ(whole->estimated, memory.estimated);
	CHECK_EQ(-ENODATA, memory.swap_error);
	CHECK(memory.swap_total == MW_ABSENT && memory.swap_free == MW_ABSENT);
}

static int parse(enum parser parser, struct text text, const char *key, union answer *out)
{
	char *exact = malloc(text.len);
	union answer before;
	int err = 0;

	memset(out, BEFORE, sizeof(*out));
	memset(&before, BEFORE, sizeof(before));
	if (text.len)
		memcpy(exact, text.bytes, text.len);
	switch (parser) {
	case MEMINFO:
		err = mw_parse_meminfo(exact, text.len, &out->meminfo);
		check_memory(exact, text.len, err, &out->meminfo);
		break;
	case KB:
		err = mw_parse_kb(exact, text.len, key, &out->number);
		break;
	case STATM:
		err = mw_parse_statm(exact, text.len, 4096, &out->statm);
		break;
	case STAT:
		err = mw_parse_stat(exact, text.len, &out->stat);
		break;
	case U64:
		err = mw_parse_u64(exact, text.len, &out->number);
		break;
	case I64:
		err = mw_parse_i64(exact, text.len, &out->with_sign);
		break;
	case LIMIT:
		err = mw_parse_limit(exact, text.len, &out->number);
		break;
	case FILE_V1:
		err = mw_parse_reclaimable(exact, text.len, 1, &out->number);
		break;
	case FILE_V2:
		err = mw_parse_reclaimable(exact, text.len, 2, &out->number);
		break;
	case KEY:
		err = mw_parse_key(exact, text.len, key, &out->number);
		break;
	case PRESSURE:
		err = mw_parse_pressure(exact, text.len, &out->pressure);
		break;
	case MEMBERSHIP:
		err = mw_parse_membership(exact, text.len, &out->membership);
		break;
	case MOUNT:
		err = mw_parse_mount(exact, text.len, &out->mount);
		break;
	case WORD:
		err = mw_parse_word(exact, text.len, key, &out->flag);
		break;
	}
	if (err)
		CHECK(memcmp(&before, out, sizeof(before)) == 0);
	free(exact);
	return err;
}

/* One case: the error, or 0 and the number for those parsers whose answer is one. */
struct sample {
	enum parser parser;
	struct text text;
	const char *key;
	int err;
	uint64_t number;
};

static void check_samples(const char *name, const struct sample *samples, size_t n)
{
	union answer out;

	for (size_t i = 0; i < n; i++) {
		int failed = check_failures();
		int err = parse(samples[i].parser, samples[i].text, samples[i].key, &out);

		CHECK_EQ(samples[i].err, err);
		if (!err)
			CHECK_EQ(samples[i].number,
				 samples[i].parser == WORD ? out.flag : out.number);
		if (failed != check_failures())
			fprintf(stderr, "  in %s, case %zu: %.60s\n", name, i,
			 samples[i].text.bytes);
	}
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define CHECK_SAMPLES(samples) check_samples(#samples, samples, COUNT(samples))

#define MEM "MemTotal:  8000 kB\nMemFree:  1000 kB\n"
#define SWAP "SwapTotal:  20 kB\nSwapFree:  15 kB\n"

static void test_meminfo(void)
{
	static const struct sample refused[] = {
		{MEMINFO, T(""), NULL, -ENODATA, 0},
		{MEMINFO, T("\n\n"), NULL, -ENODATA, 0},
		{MEMINFO, T(":"), NULL, -EBADMSG, 0},
		{MEMINFO, T("M"), NULL, -EBADMSG, 0},
		{MEMINFO, T("MemTotal:  8000 kB\nMemAvailable:  5 kB\n"), NULL, -ENODATA, 0},
		{MEMINFO, T("MemFree:  8000 kB\nMemAvailable:  5 kB\n"), NULL, -ENODATA, 0},
		{MEMINFO, T(MEM "MemAvailable:  5000"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAva"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:  -1 kB\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:  1 MB\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:  1 kB\r\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:\t1 kB\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:   \n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:  5 kB\n" SWAP "\0"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "MemAvailable:  18446744073709551616 kB\n"), NULL, -EOVERFLOW, 0},
		{MEMINFO, T(MEM "MemAvailable:  18446744073709551620 kB\n"), NULL, -EOVERFLOW, 0},
		{MEMINFO, T(MEM "MemAvailable:  18014398509481984 kB\n"), NULL, -EOVERFLOW, 0},
		{MEMINFO, T(MEM "MemAvailable:  8001 kB\n"), NULL, -ERANGE, 0},
		{MEMINFO, T("MemTotal: 0 kB\nMemFree: 0 kB\nMemAvailable: 0 kB\n"),
		 NULL, -ERANGE, 0},
		{MEMINFO, T("MemTotal: 7 kB\nMemFree: 8 kB\nMemAvailable: 7 kB\n"),
		 NULL, -ERANGE, 0},
		/* The estimate needs Cached and Shmem, and all it uses must be sound. */
		{MEMINFO, T(MEM "Shmem: 1 kB\n"), NULL, -ENODATA, 0},
		{MEMINFO, T(MEM "Cached: 1 kB\n"), NULL, -ENODATA, 0},
		{MEMINFO, T(MEM "Cached: x kB\nShmem: 1 kB\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "Cached: 1 kB\nShmem: x kB\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "Cached: 1 kB\nShmem: 1 kB\nSReclaimable: x\n"), NULL, -EBADMSG, 0},
		{MEMINFO, T(MEM "Cached: 7001 kB\nShmem: 0 kB\n"), NULL, -ERANGE, 0},
		{MEMINFO, T(MEM "Cached: 1 kB\nShmem: 1 kB\nZswap: 1 kB"), NULL, -EBADMSG, 0},
	};
	static const struct {
		struct text text;
		uint64_t available;
		int swap_error;
		int estimated;
	} accepted[] = {
		{T(MEM "MemAvailable:  5000 kB\n" SWAP), 5000, 0, 0},
		{T(MEM "MemAvailable:0005000 kB\n" SWAP "Zswap:"), 5000, 0, 0},
		/* The kernel's own width; one wider; one narrower, so that a key stands where
		   a line of that width would go on; and a newline at that very place. */
		{T("MemTotal:           8000 kB\nMemFree:            1000 kB\n"
		   "Inactive(anon): 123456789012 kB\nX: 1 kB\nMemAvailable:  5000 kB\n"
		   "Active:          5000000 kB\nx\nMlocked:               0 kB\n" SWAP), 5000, 0, 0},
		{T("DirectMap1G: 1 kB\n\nMemX: 1 kB\nShmemX: 1 kB\nCachedX: 1 kB\n" SWAP
		   "MemAvailable:  5000 kB\n" MEM), 5000, 0, 0},
		{T(MEM "MemAvailable:  5 kB\nMemAvailable:  6 kB\n" SWAP), 5, 0, 0},
		{T(MEM "MemAvailable:  0 kB\n" SWAP), 0, 0, 0},
		{T(MEM "MemAvailable:  5 kB\n"), 5, -ENODATA, 0},
		{T(MEM "MemAvailable:  5 kB\nSwapTotal:  20 kB\n"), 5, -ENODATA, 0},
		{T(MEM "MemAvailable:  5 kB\nSwapTotal:  20 kB\nSwapFr"), 5, -EBADMSG, 0},
		{T(MEM "MemAvailable:  5 kB\nSwapTotal: 1 kB\nSwapFree: 2 kB\n"), 5, -ERANGE, 0},
		{T(MEM "MemAvailable:  5 kB\nSwapTotal: 0 kB\nSwapFree:18446744073709551488 kB\n"),
		 5, -EOVERFLOW, 0},
		{T(MEM "Cached: 50 kB\n" SWAP "Shmem: 5 kB\nSReclaimable: 3 kB\n"), 1048, 0, 1},
		{T(MEM "Cached: 50 kB\n" SWAP "Shmem: 5 kB\n"), 1045, 0, 1},
		{T(MEM "Cached: 50 kB\n" SWAP "Shmem: 5000 kB\n"), 0, 0, 1},
	};
	static char longest[64 * 1024 + 1];
	const struct text longer = T(MEM "MemAvailable:  5 kB\n" SWAP);
	union answer out;

	CHECK_SAMPLES(refused);
	for (size_t i = 0; i < COUNT(accepted); i++) {
		CHECK_EQ(0, parse(MEMINFO, accepted[i].text, NULL, &out));
		CHECK_EQ(8000 * 1024, out.meminfo.total);
		CHECK_EQ(1000 * 1024, out.meminfo.free);
		CHECK_EQ(accepted[i].available * 1024, out.meminfo.available);
		CHECK_EQ(accepted[i].estimated, out.meminfo.estimated);
		CHECK_EQ(accepted[i].swap_error, out.meminfo.swap_error);
		CHECK_EQ(accepted[i].swap_error ? MW_ABSENT : 20 * 1024, out.meminfo.swap_total);
		CHECK_EQ(accepted[i].swap_error ? MW_ABSENT : 15 * 1024, out.meminfo.swap_free);
	}
	CHECK_EQ(0, parse(MEMINFO, T("MemTotal: 7 kB\nMemFree: 7 kB\nMemAvailable: 7 kB\n"
				     "SwapTotal: 9 kB\nSwapFree: 9 kB\n"), NULL, &out));
	CHECK_EQ(7 * 1024, out.meminfo.free);
	CHECK_EQ(7 * 1024, out.meminfo.available);
	CHECK_EQ(9 * 1024, out.meminfo.swap_free);
	memset(longest, '\n', sizeof(longest));
	memcpy(longest, longer.bytes, longer.len);
	CHECK_EQ(0, parse(MEMINFO, (struct text){longest, sizeof(longest) - 1}, NULL, &out));
	CHECK_EQ(-EBADMSG, parse(MEMINFO, (struct text){longest, sizeof(longest)}, NULL, &out));
}

static void test_kb(void)
{
	static const struct sample samples[] = {
		{KB, T("x [rollup]\nRss: 5 kB\nPss:                 123 kB\n"),
		 "Pss", 0, 123 * 1024},
		{KB, T("Pss_Dirty: 1 kB\nPss: 2 kB\nPss: 3 kB\n"), "Pss", 0, 2048},
		{KB, T("Pss: 2 kB\nRss: 3"), "Pss", 0, 2048},
		{KB, T("Pss: 2 kB"), "Pss", -EBADMSG, 0},
		{KB, T("Rss: 2 kB\n"), "Pss", -ENODATA, 0},
		{KB, T(""), "Pss", -ENODATA, 0},
		{KB, T("Pss: 2\nPss: 3 kB\n"), "Pss", -EBADMSG, 0},
		{KB, T("Pss: 18014398509481983 kB\n"), "Pss", 0, UINT64_MAX - 1023},
	};

	CHECK_SAMPLES(samples);
}

static void test_statm(void)
{
	static const struct sample refused[] = {
		{STATM, T(""), NULL, -ENODATA, 0},
		{STATM, T("0 0 0 0 0 0 0\n"), NULL, -ESRCH, 0},
		{STATM, T("1 1 0 0 0 0"), NULL, -EBADMSG, 0},
		{STATM, T("1 1 0 0 0 0 0"), NULL, -EBADMSG, 0},
		{STATM, T("1 1 0 0 0 0\n"), NULL, -EBADMSG, 0},
		{STATM, T("1 1 0 0 0 0 0 0\n"), NULL, -EBADMSG, 0},
		{STATM, T("1  1 0 0 0 0 0\n"), NULL, -EBADMSG, 0},
		{STATM, T("1 1 0 0 0 0 0\n\n"), NULL, -EBADMSG, 0},
		{STATM, T("1 18446744073709551616 0 0 0 0 0\n"), NULL, -EOVERFLOW, 0},
		{STATM, T("1 4503599627370496 0 0 0 0 0\n"), NULL, -EOVERFLOW, 0},
	};
	union answer out;

	CHECK_SAMPLES(refused);
	CHECK_EQ(0, parse(STATM, T("38649 31963 158 122 0 38476 0\n"), NULL, &out));
	CHECK_EQ(31963 * 4096, out.statm.rss);
	CHECK_EQ(158 * 4096, out.statm.shared);
	CHECK_EQ(0, parse(STATM, T("1 12547 18446744073709551615 0 0 0 0\n"), NULL, &out));
	CHECK_EQ(12547 * 4096, out.statm.rss);
	CHECK_EQ(MW_ABSENT, out.statm.shared);
	CHECK_EQ(0, parse(STATM, T("5 5 5 0 0 0 0\n"), NULL, &out));
	CHECK_EQ(5 * 4096, out.statm.shared);
}

#define FIELDS "0 0 0 -1 0 0 0 0 0 0 0 0 0 20 -19 1 0 "

static void test_stat(void)
{
	static const struct sample refused[] = {
		{STAT, T(""), NULL, -ENODATA, 0},
		{STAT, T("-1 (x) S 1 " FIELDS "337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("2147483648 (x) S 1 " FIELDS "337 0\n"), NULL, -EOVERFLOW, 0},
		{STAT, T("1 x) S 1 " FIELDS "337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("1) ("), NULL, -EBADMSG, 0},
		{STAT, T("1 ("), NULL, -EBADMSG, 0},
		{STAT, T("1 (x"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x)"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) "), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) 5 1 " FIELDS "337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) ~ 1 " FIELDS "337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S -1 " FIELDS "337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S 1 " FIELDS "-337 0\n"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S 1 " FIELDS "337"), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S 1 " FIELDS), NULL, -EBADMSG, 0},
		{STAT, T("1 (x) S 1 " FIELDS "18446744073709551616 0\n"), NULL, -EOVERFLOW, 0},
	};
	static const struct text accepted[] = {
		T("109 (probe) S 1 " FIELDS "337 158306304 31963\n"),
		T("109 (ev) R 1 (il) S 1 " FIELDS "337 158306304"),
		T("109 (a) Z 0 0 0 0) S 1 " FIELDS "337 0\n"),
		T("109 (n\nl\xff) S 1 " FIELDS "337 0\n"),
		T("109 () S 1 " FIELDS "337 0\n"),
	};
	union answer out;

	CHECK_SAMPLES(refused);
	/* The session: of a process that has just ended it is -1. */
	CHECK_EQ(0, parse(STAT, T("1 (x) S 1 0 77 0 -1 0 0 0 0 0 0 0 0 0 20 -19 1 0 337 0\n"), NULL, &out));
	CHECK_EQ(77, out.stat.session);
	CHECK_EQ(0, parse(STAT, T("1 (x) S 1 -1 -1 0 -1 0 0 0 0 0 0 0 0 0 20 -19 1 0 337 0\n"), NULL, &out));
	CHECK_EQ(0, out.stat.session);
	CHECK_EQ(0, parse(STAT, T("1 (x) S 1 0 2147483648 0 -1 0 0 0 0 0 0 0 0 0 20 -19 1 0 337 0\n"), NULL, &out));
	CHECK_EQ(0, out.stat.session);
	for (size_t i = 0; i < COUNT(accepted); i++) {
		CHECK_EQ(0, parse(STAT, accepted[i], NULL, &out));
		CHECK_EQ(109, out.stat.pid);
		CHECK_EQ('S', out.stat.state);
		CHECK_EQ(1, out.stat.ppid);
		CHECK_EQ(337, out.stat.start_time);
	}
	CHECK_EQ(0, parse(STAT, T("2147483647 (x) Z 2147483647 " FIELDS "1 0\n"), NULL, &out));
	CHECK_EQ(INT32_MAX, out.stat.pid);
	CHECK_EQ(INT32_MAX, out.stat.ppid);
	CHECK_EQ('Z', out.stat.state);
	CHECK_EQ(0, parse(STAT, T("1 (x) A 0 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 -19 1 -1 5 0\n"),
			  NULL, &out));
	CHECK_EQ('A', out.stat.state);
	CHECK_EQ(5, out.stat.start_time);
}

/* What a process holds stands behind the rest: where it cannot be had, the rest is good. */
static void test_stat_rss(void)
{
	static const struct {
		struct text text;
		uint64_t rss_pages;
	} rows[] = {
		{T("1 (x) S 1 " FIELDS "337 158306304 31963 99\n"), 31963},
		{T("1 (x) S 1 " FIELDS "337 0 0 99\n"), 0},
		{T("1 (x) S 1 " FIELDS "337 18446744073709551615 18446744073709551614 99\n"), UINT64_MAX - 1},
		{T("1 (x) S 1 " FIELDS "337 \n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304\n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304 \n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304 31963"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304 31963\n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304 -1 99\n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 x 31963 99\n"), MW_ABSENT},
		{T("1 (x) S 1 " FIELDS "337 158306304 18446744073709551616 99\n"), MW_ABSENT},
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		union answer out = { 0 };

		CHECK_EQ(0, parse(STAT, rows[i].text, NULL, &out));
		CHECK_EQ(337, out.stat.start_time);
		CHECK_EQ(rows[i].rss_pages, out.stat.rss_pages);
	}
}

static void test_numbers(void)
{
	static const struct sample samples[] = {
		{U64, T("0\n"), NULL, 0, 0},
		{U64, T("007\n"), NULL, 0, 7},
		{U64, T("18446744073709551615\n"), NULL, 0, UINT64_MAX},
		{U64, T("18446744073709551616\n"), NULL, -EOVERFLOW, 0},
		{U64, T("99999999999999999999\n"), NULL, -EOVERFLOW, 0},
		{U64, T(""), NULL, -ENODATA, 0},
		{U64, T("\n"), NULL, -EBADMSG, 0},
		{U64, T("12"), NULL, -EBADMSG, 0},
		{U64, T("12 \n"), NULL, -EBADMSG, 0},
		{U64, T("12\n1\n"), NULL, -EBADMSG, 0},
		{U64, T("+1\n"), NULL, -EBADMSG, 0},
		{I64, T("-1000\n"), NULL, 0, (uint64_t)-1000},
		{I64, T("1000\n"), NULL, 0, 1000},
		{I64, T("-0\n"), NULL, 0, 0},
		{I64, T("9223372036854775807\n"), NULL, 0, INT64_MAX},
		{I64, T("9223372036854775808\n"), NULL, -EOVERFLOW, 0},
		{I64, T("-9223372036854775808\n"), NULL, 0, (uint64_t)INT64_MIN},
		{I64, T("-9223372036854775809\n"), NULL, -EOVERFLOW, 0},
		{I64, T("--1\n"), NULL, -EBADMSG, 0},
		{I64, T("-\n"), NULL, -EBADMSG, 0},
		{I64, T("-1"), NULL, -EBADMSG, 0},
		{LIMIT, T("134217728\n"), NULL, 0, 134217728},
		{LIMIT, T("0\n"), NULL, 0, 0},
		{LIMIT, T("max\n"), NULL, 0, MW_NO_LIMIT},
		{LIMIT, T("9223372036854771712\n"), NULL, 0, MW_NO_LIMIT},
		{LIMIT, T("9223372036854513664\n"), NULL, 0, MW_NO_LIMIT},
		{LIMIT, T("9223372036854513663\n"), NULL, 0, UINT64_C(9223372036854513663)},
		{LIMIT, T("18446744073709551615\n"), NULL, 0, MW_NO_LIMIT},
		{LIMIT, T("18446744073709551616\n"), NULL, -EOVERFLOW, 0},
		{LIMIT, T("max"), NULL, -EBADMSG, 0},
		{LIMIT, T("max1\n"), NULL, -EBADMSG, 0},
		{LIMIT, T("MAX\n"), NULL, -EBADMSG, 0},
		{LIMIT, T(""), NULL, -ENODATA, 0},
	};

	CHECK_SAMPLES(samples);
}

#define V1 "cache 9\ninactive_file 1\ntotal_cache 9\ntotal_dirty 30\ntotal_writeback 3\n"
#define V2 "anon 1\nfile 99\nfile_mapped 8\nfile_dirty 30\nfile_writeback 3\ninactive_anon 1\n"

static void test_memory_stat(void)
{
	static const struct sample samples[] = {
		{FILE_V2, T(V2 "inactive_file 100\nactive_file 50\n"), NULL, 0, 117},
		{FILE_V2, T(V2 "inactive_file 10\nactive_file 5\nslab 1"), NULL, 0, 0},
		{FILE_V2, T(V2 "inactive_file 30\nactive_file 1\n"), NULL, 0, 0},
		{FILE_V2, T(V2 "active_file 50\ninactive_file 100\n"), NULL, 0, 117},
		{FILE_V2, T(V2 "inactive_file 100\nactive_file 50\n" V2), NULL, 0, 117},
		{FILE_V2, T("file_dirty 1\nfile_dirty 9\nfile_writeback 0\ninactive_file 5\n"
				   "inactive_file 9\nactive_file 0\n"), NULL, 0, 4},
		{FILE_V2, T(V2 "inactive_file 100\n"), NULL, -ENODATA, 0},
		{FILE_V2, T(V2 "active_file 100\n"), NULL, -ENODATA, 0},
		{FILE_V2, T(V2 "inactive_file 100\nactive_file 5"), NULL, -EBADMSG, 0},
		{FILE_V2, T(V2 "inactive_file 100\nactive_file\t5\n"), NULL, -EBADMSG, 0},
		{FILE_V2, T(V2 "inactive_file 100\nactive_file\n"), NULL, -EBADMSG, 0},
		{FILE_V2, T(V2 "inactive_file: 100\nactive_file 5\n"), NULL, -ENODATA, 0},
		{FILE_V2, T(V2 "inactive_file 18446744073709551615\nactive_file 1\n"), NULL,
		 -EOVERFLOW, 0},
		{FILE_V2, T("file_dirty -1\nfile_writeback 1\ninactive_file 9\nactive_file 9\n"),
		 NULL, -EBADMSG, 0},
		{FILE_V2, T("file_dirty 1\nfile_writeback -1\ninactive_file 9\nactive_file 9\n"),
		 NULL, -EBADMSG, 0},
		{FILE_V2, T("inactive_file 100\nactive_file x\n"), NULL, 0, 100},
		{FILE_V2, T("inactive_file 100\nactive_file 50\nfile_dirty 1\n"), NULL, 0, 100},
		{FILE_V2, T("inactive_file 100\nactive_file 50\nfile_wri"), NULL, -EBADMSG, 0},
		{FILE_V2, T("inactive_file x\n"), NULL, -EBADMSG, 0},
		{FILE_V2, T(""), NULL, -ENODATA, 0},
		{FILE_V1, T(V1 "total_inactive_file 100\ntotal_active_file 50\n"), NULL, 0, 117},
		{FILE_V1, T("inactive_file 1\ntotal_inactive_file 100\n"), NULL, 0, 100},
		{FILE_V1, T("total_writeback 7\ntotal_inactive_file 100\ntotal_active_file 5\n"),
		 NULL, 0, 100},
		{FILE_V1, T("inactive_file 1\n"), NULL, -ENODATA, 0},
		{KEY, T("low 0\noom 5\noom_kill 1\n"), "oom_kill", 0, 1},
		{KEY, T("low 0\noom 5\noom_kill 1\n"), "oom", 0, 5},
		{KEY, T("oom_kill 1\noom 5\noom 6\n"), "oom", 0, 5},
		{KEY, T("oom 5\noom_kill 1"), "oom", 0, 5},
		{KEY, T("oom 5\noom_kill 1"), "oom_kill", -EBADMSG, 0},
		{KEY, T("oom 5\n"), "oom_kill", -ENODATA, 0},
		{KEY, T("oom_kill  5\n"), "oom_kill", -EBADMSG, 0},
		{KEY, T("oom_kill 5 kB\n"), "oom_kill", -EBADMSG, 0},
		{KEY, T("oom_kill\n"), "oom_kill", -EBADMSG, 0},
		{KEY, T(""), "oom_kill", -ENODATA, 0},
	};

	CHECK_SAMPLES(samples);
}

#define SOME "some avg10=1.60 avg60=0.66 avg300=100.00 total=519605\n"
#define FULL "full avg10=0.05 avg60=0.66 avg300=0.15 total=516764\n"

static void test_pressure(void)
{
	static const struct sample refused[] = {
		{PRESSURE, T(""), NULL, -ENODATA, 0},
		{PRESSURE, T(FULL SOME), NULL, -EBADMSG, 0},
		{PRESSURE, T(SOME SOME), NULL, -EBADMSG, 0},
		{PRESSURE, T(SOME FULL "x"), NULL, -EBADMSG, 0},
		{PRESSURE, T("some avg10=1.60 avg60=0.66 avg300=0.15 total=519605"),
		 NULL, -EBADMSG, 0},
		{PRESSURE, T("some avg10=1.6 avg60=0.66 avg300=0.15 total=5\n"), NULL, -EBADMSG, 0},
		{PRESSURE, T("some avg10=1,60 avg60=0.66 avg300=0.15 total=5\n"),
		 NULL, -EBADMSG, 0},
		{PRESSURE, T("some avg10=1.60 avg300=0.15 total=5\n"), NULL, -EBADMSG, 0},
		{PRESSURE, T("some avg10=100.01 avg60=0.66 avg300=0.15 total=5\n"),
		 NULL, -ERANGE, 0},
		{PRESSURE, T("some avg10=0.00 avg60=200.00 avg300=0.15 total=5\n"),
		 NULL, -ERANGE, 0},
		{PRESSURE, T("some avg10=0.00 avg60=0.66 avg300=0.15 total=18446744073709551616\n"),
		 NULL, -EOVERFLOW, 0},
	};
	union answer out;

	CHECK_SAMPLES(refused);
	CHECK_EQ(0, parse(PRESSURE, T(SOME FULL), NULL, &out));
	CHECK_EQ(160, out.pressure.some_avg10);
	CHECK_EQ(519605, out.pressure.some_total_us);
	CHECK_EQ(5, out.pressure.full_avg10);
	CHECK_EQ(516764, out.pressure.full_total_us);
	CHECK_EQ(0, parse(PRESSURE, T(SOME), NULL, &out));
	CHECK_EQ(160, out.pressure.some_avg10);
	CHECK_EQ(MW_ABSENT, out.pressure.full_avg10);
	CHECK_EQ(MW_ABSENT, out.pressure.full_total_us);
}

static char long_text[3 * 4096];

/* `before`, then a path of n bytes, then `behind`. */
static struct text long_path(const char *before, size_t n, const char *behind)
{
	size_t at = strlen(before);

	memcpy(long_text, before, at + 1);
	memset(long_text + at, 'a', n);
	long_text[at] = '/';
	memcpy(long_text + at + n, behind, strlen(behind) + 1);
	return (struct text){long_text, at + n + strlen(behind)};
}

static void test_membership(void)
{
	static const struct sample refused[] = {
		{MEMBERSHIP, T(""), NULL, -ENODATA, 0},
		{MEMBERSHIP, T("0::/a"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("1:name=systemd:/x\n"), NULL, -ENODATA, 0},
		{MEMBERSHIP, T("1:name=systemd:/x\n0::/a"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("9:memoryx,xmemory:/docker\n"), NULL, -ENODATA, 0},
		{MEMBERSHIP, T("1:name=memory:/x\n"), NULL, -ENODATA, 0},
		{MEMBERSHIP, T("0::/x\n4:memo"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/a\n0::/b\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("4:memory:/a\n5:memory:/b\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0:memory:/x\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0:/a\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("x::/\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::a\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/a\0b\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/a/\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0:://a\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/a/./b\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/a/../b\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/../a/..\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("0::/../\n"), NULL, -EBADMSG, 0},
		{MEMBERSHIP, T("18446744073709551616::/a\n"), NULL, -EOVERFLOW, 0},
	};
	static const struct {
		struct text text;
		uint32_t version;
		const char *path;
		uint32_t outside;
	} accepted[] = {
		{T("0::/\n"), 2, "/", 0},
		{T("9:name=x:/y\n4:cpu,memory:/v1\n0::/v2\n"), 1, "/v1", 0},
		{T("4:memory:/v1\n0::/cut off he"), 1, "/v1", 0},
		{T("0::/v2\n4:memory:/v1\n"), 1, "/v1", 0},
		{T("9:memoryx:/x\n0::/v2\n"), 2, "/v2", 0},
		{T("0::/a:b:c/d\n"), 2, "/a:b:c/d", 0},
		{T("0::/gone (deleted)\n"), 2, "/gone (deleted)", 0},
		{T("0::/..\n"), 2, "/..", 1},
		{T("0::/../../x\n"), 2, "/../../x", 1},
		{T("0::/..a/...\n"), 2, "/..a/...", 0},
	};
	union answer out;

	CHECK_SAMPLES(refused);
	for (size_t i = 0; i < COUNT(accepted); i++) {
		CHECK_EQ(0, parse(MEMBERSHIP, accepted[i].text, NULL, &out));
		CHECK_EQ(accepted[i].version, out.membership.version);
		CHECK_EQ(accepted[i].outside, out.membership.outside);
		CHECK_EQ(strlen(accepted[i].path), out.membership.length);
		CHECK(memcmp(accepted[i].path, accepted[i].text.bytes + out.membership.offset,
			     out.membership.length) == 0);
	}
	CHECK_EQ(0, parse(MEMBERSHIP, long_path("0::", 4095, "\n"), NULL, &out));
	CHECK_EQ(4095, out.membership.length);
	CHECK_EQ(-ENAMETOOLONG, parse(MEMBERSHIP, long_path("0::", 4096, "\n"), NULL, &out));
}

#define MOUNTED "27 23 0:24 / /sys/fs/cgroup rw,relatime shared:4 - "

static void test_mount(void)
{
	static const struct sample refused[] = {
		{MOUNT, T(""), NULL, -ENODATA, 0},
		{MOUNT, T("   \n"), NULL, -EBADMSG, 0},
		{MOUNT, T("-27 23 0:24 / /x rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0-24 / /x rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 /  /x rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x  - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / x rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 x /x rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x rw shared:4 cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x rw -\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x rw - ext4 /dev/sda1\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x rw - ext4 /dev/sda1 \n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x\\04 rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x\\777 rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x\\000 rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T("27 23 0:24 / /x\\080 rw - cgroup2 cgroup2 rw\n"), NULL, -EBADMSG, 0},
		{MOUNT, T(MOUNTED "cgroup2 cgroup2 rw"), NULL, -EBADMSG, 0},
		{MOUNT, T(MOUNTED "cgroup2 cgroup2 rw\r\n"), NULL, -EBADMSG, 0},
		{MOUNT, T(MOUNTED "cgroup2 cgroup2 r\0w\n"), NULL, -EBADMSG, 0},
		{MOUNT, T(MOUNTED "cgroup2 cgroup2 rw\n\n"), NULL, -EBADMSG, 0},
		{MOUNT, T(MOUNTED "tmpfs cgroup2 rw\n"), NULL, -ENODATA, 0},
		{MOUNT, T(MOUNTED "cgroup cgroup rw,name=memory\n"), NULL, -ENODATA, 0},
		{MOUNT, T(MOUNTED "cgroup cgroup rw,cpu,memory_recursiveprot\n"),
		 NULL, -ENODATA, 0},
		{MOUNT, T("4 1 0:4 net:[4026531840] /n rw - nsfs nsfs rw\n"), NULL, -ENODATA, 0},
	};
	static const struct {
		struct text text;
		uint32_t version;
		const char *root;
		const char *point;
	} accepted[] = {
		{T(MOUNTED "cgroup2 none rw,memory_recursiveprot\n"), 2, "/", "/sys/fs/cgroup"},
		{T(MOUNTED "cgroup2  rw\n"), 2, "/", "/sys/fs/cgroup"},
		{T(MOUNTED "cgroup x rw,cpu,memory\n"), 1, "/", "/sys/fs/cgroup"},
		{T("1 2 3:4 /../.. /a\\011b\\012c\\134040 rw - cgroup2 x rw\n"), 2, "/../..",
		 "/a\tb\nc\\040"},
		{T("1 2 3:4 /\\377 /a\\040-\\040b rw a b:1 - cgroup2 x rw\n"), 2, "/\377",
		 "/a - b"},
	};
	union answer out;

	CHECK_SAMPLES(refused);
	for (size_t i = 0; i < COUNT(accepted); i++) {
		CHECK_EQ(0, parse(MOUNT, accepted[i].text, NULL, &out));
		CHECK_EQ(accepted[i].version, out.mount.version);
		CHECK(strcmp(accepted[i].root, out.mount.root) == 0);
		CHECK(strcmp(accepted[i].point, out.mount.point) == 0);
	}
	CHECK_EQ(0, parse(MOUNT, long_path("1 2 3:4 / ", 4095, " rw - cgroup2 x rw\n"),
	 NULL, &out));
	CHECK_EQ(4095, strlen(out.mount.point));
	CHECK_EQ(0, parse(MOUNT, long_path("1 2 3:4 ", 4095, " / rw - cgroup2 x rw\n"),
			  NULL, &out));
	CHECK_EQ(4095, strlen(out.mount.root));
	CHECK_EQ(-ENAMETOOLONG,
		 parse(MOUNT, long_path("1 2 3:4 / ", 4096, " rw - cgroup2 x rw\n"), NULL, &out));
	CHECK_EQ(-ENAMETOOLONG,
		 parse(MOUNT, long_path("1 2 3:4 ", 4096, " / rw - cgroup2 x rw\n"), NULL, &out));
}

static void test_word(void)
{
	static const struct sample samples[] = {
		{WORD, T("cpuset cpu io memory\n"), "memory", 0, 1},
		{WORD, T("memory cpu\n"), "memory", 0, 1},
		{WORD, T("cpu memoryx xmemory\n"), "memory", 0, 0},
		{WORD, T("cpu\tmemory\n"), "memory", 0, 0},
		{WORD, T("\n"), "memory", 0, 0},
		{WORD, T(""), "memory", 0, 0},
		{WORD, T("cpu memory"), "memory", -EBADMSG, 0},
		{WORD, T("cpu memory\nio\n"), "memory", -EBADMSG, 0},
	};

	CHECK_SAMPLES(samples);
}

static int same(enum parser parser, const union answer *a, const union answer *b)
{
	/* The one struct with padding in it. */
	if (parser == STAT)
		return a->stat.pid == b->stat.pid && a->stat.ppid == b->stat.ppid &&
		       a->stat.state == b->stat.state && a->stat.start_time == b->stat.start_time &&
		       a->stat.rss_pages == b->stat.rss_pages;
	return memcmp(a, b, sizeof(*a)) == 0;
}

/*
 * Every beginning of a good text gives an error or the whole text's answer.  What
 * a cut at the end of a line must hide is hidden as unknown: swap, and `full`; and so is
 * what stands behind a space: the resident size.
 */
static void test_cuts(void)
{
	static const struct {
		enum parser parser;
		struct text text;
		const char *key;
	} good[] = {
		{MEMINFO,
		 T(MEM "MemAvailable:  5000 kB\nCached: 7 kB\n" SWAP "Shmem: 5 kB\n"), NULL},
		{KB, T("x [rollup]\nRss: 5 kB\nPss: 123 kB\nPss_Dirty: 1 kB\n"), "Pss"},
		{STATM, T("38649 31963 158 122 0 38476 0\n"), NULL},
		{STAT, T("109 (ev) R 1 (il) S 1 " FIELDS "337 158306304 31963 99\n"), NULL},
		{U64, T("134217728\n"), NULL},
		{I64, T("-1000\n"), NULL},
		{LIMIT, T("max\n"), NULL},
		{LIMIT, T("9223372036854771712\n"), NULL},
		{FILE_V1, T(V1 "total_inactive_file 1\ntotal_active_file 50\nx 1\n"), NULL},
		{FILE_V2, T(V2 "inactive_file 100\nactive_file 50\nslab 1\n"), NULL},
		{KEY, T("low 0\noom 5\noom_kill 12\nx 1\n"), "oom_kill"},
		{PRESSURE, T(SOME FULL), NULL},
		{MEMBERSHIP, T("5:cpu:/x\n4:memory:/abc\n0::/v2\n"), NULL},
		{MEMBERSHIP, T("1:name=systemd:/x\n0::/abc/d\n"), NULL},
		{MOUNT, T(MOUNTED "cgroup2 cgroup2 rw,nsdelegate\n"), NULL},
		{MOUNT, T(MOUNTED "cgroup cgroup rw,memory\n"), NULL},
		{WORD, T("cpuset cpu io memory\n"), "memory"},
	};
	union answer whole, cut;

	for (size_t i = 0; i < COUNT(good); i++) {
		CHECK_EQ(0, parse(good[i].parser, good[i].text, good[i].key, &whole));
		for (size_t n = 0; n < good[i].text.len; n++) {
			struct text front = {good[i].text.bytes, n};

			if (good[i].parser == WORD && !n)
				continue; /* nothing at all means no controllers */
			if (parse(good[i].parser, front, good[i].key, &cut))
				continue;
			if (good[i].parser == MEMINFO && cut.meminfo.swap_error) {
				CHECK_EQ(MW_ABSENT, cut.meminfo.swap_total);
				CHECK_EQ(MW_ABSENT, cut.meminfo.swap_free);
				cut.meminfo.swap_total = whole.meminfo.swap_total;
				cut.meminfo.swap_free = whole.meminfo.swap_free;
				cut.meminfo.swap_error = 0;
			}
			if (good[i].parser == PRESSURE) {
				CHECK_EQ(sizeof(SOME) - 1, n);
				CHECK_EQ(MW_ABSENT, cut.pressure.full_avg10);
				CHECK_EQ(MW_ABSENT, cut.pressure.full_total_us);
				cut.pressure.full_avg10 = whole.pressure.full_avg10;
				cut.pressure.full_total_us = whole.pressure.full_total_us;
			}
			if (good[i].parser == STAT && cut.stat.rss_pages == MW_ABSENT)
				cut.stat.rss_pages = whole.stat.rss_pages;
			CHECK(same(good[i].parser, &whole, &cut));
		}
	}
}

int main(void)
{
	test_meminfo();
	test_kb();
	test_statm();
	test_stat();
	test_stat_rss();
	test_numbers();
	test_memory_stat();
	test_pressure();
	test_membership();
	test_mount();
	test_word();
	test_cuts();
	return check_failures() != 0;
}
