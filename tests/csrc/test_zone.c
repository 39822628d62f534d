/*
 * test_zone.c - /proc/zoneinfo, and lists of children: texts that come in chunks.
 *
 * Each text is fed whole, cut in two at every byte, and in chunks of every size, and
 * must give the same; each chunk lies in a buffer of exactly its size, so that
 * AddressSanitizer sees a byte too many.  argv[1] is a folder to write in.
 *
 * links: parse.c parse_zone.c procfs.c procfs_zone.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "parse.h"
#include "procfs.h"

#define ZONE "Node 0, zone   Normal\n  pages free     910060\n        min      9438\n"
#define CPU(n, count) "    cpu: " n "\n              count: " count "\n              high:  42\n              batch: 7\n"
#define SETS ZONE "  pagesets\n"
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

struct sample {
	const char *name;
	const char *text;
	size_t len;
	int err;
	uint64_t pages;
};

#define T(literal) literal, sizeof(literal) - 1

static const struct sample samples[] = {
	{ "one CPU", T(SETS CPU("0", "3066")), 0, 3066 },
	{ "two CPUs, the form of Linux 6",
	  T(SETS "    cpu: 0\n              count:    3066\n              high:     5898\n              batch:    63\n"
		 "              high_min: 5898\n              high_max: 61440\n  vm stats threshold: 24\n"
		 "    cpu: 1\n              count:    3736\n  vm stats threshold: 24\n  node_unreclaimable:  0\n"
		 "  start_pfn:           1048576\n"),
	  0, 6802 },
	{ "three zones of two nodes, one without memory",
	  T(SETS CPU("0", "1") "Node 0, zone  Movable\n  pages free     0\n        protection: (0, 0, 0)\n"
	    "Node 1, zone   Normal\n  pagesets\n" CPU("0", "10") CPU("1", "100")),
	  0, 111 },
	{ "Linux 2.6: two lists a CPU", T(SETS CPU("0 pcp: 0", "2") CPU("0 pcp: 1", "5")), 0, 7 },
	{ "Linux 4.9: a line without a key", T(ZONE "                   537792\n  pagesets\n" CPU("0", "4")), 0, 4 },
	{ "leading zeros", T(SETS CPU("0", "007")), 0, 7 },
	{ "nothing free", T(SETS CPU("0", "0")), 0, 0 },
	{ "an empty line", T(SETS "\n" CPU("0", "9")), 0, 9 },
	{ "the largest", T(SETS CPU("0", "18446744073709551614") CPU("1", "1")), 0, UINT64_MAX },
	{ "a line as long as may be", T(ZONE X64 X64 X64 X64 "\n  pagesets\n" CPU("0", "8")), 0, 8 },
	/* What only looks like a count. */
	{ "before pagesets", T(ZONE "              count: 5\n  pagesets\n" CPU("0", "1")), 0, 1 },
	{ "in the zone behind", T(SETS CPU("0", "1") "Node 0, zone  Movable\n              count: 5\n"), 0, 1 },
	{ "another key", T(SETS "  account: 5\n  counts: 5\n  Count: 5\n" CPU("0", "1")), 0, 1 },
	{ "pagesets in a longer word", T(ZONE "  pagesets:\n" CPU("0", "1")), -ENODATA, 0 },
	/* Nobody has a list. */
	{ "empty", T(""), -ENODATA, 0 },
	{ "one zone", T(ZONE), -ENODATA, 0 },
	{ "a zone, and no CPU", T(SETS), -ENODATA, 0 },
	/* Malformed. */
	{ "no zone", T("  pagesets\n" CPU("0", "1")), -EBADMSG, 0 },
	{ "another file", T("MemTotal:        8000000 kB\n"), -EBADMSG, 0 },
	{ "one newline", T("\n"), -EBADMSG, 0 },
	{ "a byte order mark", T("\xef\xbb\xbf" SETS CPU("0", "1")), -EBADMSG, 0 },
	{ "a zone by no number", T("Node a, zone   Normal\n  pagesets\n" CPU("0", "1")), -EBADMSG, 0 },
	{ "a node without a zone", T("Node 0\n  pagesets\n" CPU("0", "1")), -EBADMSG, 0 },
	{ "a later zone by no number", T(SETS CPU("0", "1") "Node , zone   Normal\n"), -EBADMSG, 0 },
	{ "no count", T(SETS "  count:\n"), -EBADMSG, 0 },
	{ "blanks for a count", T(SETS "  count:   \n"), -EBADMSG, 0 },
	{ "negative", T(SETS CPU("0", "-1")), -EBADMSG, 0 },
	{ "plus", T(SETS CPU("0", "+1")), -EBADMSG, 0 },
	{ "hexadecimal", T(SETS CPU("0", "0x10")), -EBADMSG, 0 },
	{ "a fraction", T(SETS CPU("0", "1.5")), -EBADMSG, 0 },
	{ "two numbers", T(SETS CPU("0", "1 2")), -EBADMSG, 0 },
	{ "a blank behind", T(SETS CPU("0", "1 ")), -EBADMSG, 0 },
	{ "a tab", T(SETS CPU("0", "\t1")), -EBADMSG, 0 },
	{ "CRLF", T(SETS "  count: 1\r\n"), -EBADMSG, 0 },
	{ "a NUL within", T(SETS "  count: 1\0\n"), -EBADMSG, 0 },
	{ "NULs behind", T(SETS CPU("0", "1") "\0\0\0"), -EBADMSG, 0 },
	{ "full-width digits", T(SETS CPU("0", "\xef\xbc\x91")), -EBADMSG, 0 },
	{ "cut in the number", T(SETS "    cpu: 0\n              count: 30"), -EBADMSG, 0 },
	{ "cut behind a whole one", T(SETS CPU("0", "1") "  vm st"), -EBADMSG, 0 },
	{ "a line longer than may be", T(ZONE X64 X64 X64 X64 "x\n  pagesets\n" CPU("0", "8")), -EBADMSG, 0 },
	{ "2^64", T(SETS CPU("0", "18446744073709551616")), -EOVERFLOW, 0 },
	{ "a node by 2^64", T("Node 18446744073709551616, zone   Normal\n"), -EOVERFLOW, 0 },
	{ "2^64 in two", T(SETS CPU("0", "18446744073709551615") CPU("1", "1")), -EOVERFLOW, 0 },
	{ "the first error stays", T(SETS CPU("0", "18446744073709551616") CPU("1", "-1")), -EOVERFLOW, 0 },
};

static void feed(struct mw_pagesets *sets, const char *text, size_t len)
{
	char *exact = malloc(len);
	int before = sets->err, err;

	if (len)
		memcpy(exact, text, len);
	err = mw_pagesets_feed(sets, exact, len);
	CHECK_EQ(sets->err, err);
	CHECK(!before || err == before);
	free(exact);
}

/* Cut behind the first `first` bytes, and then every `step`. */
static void check_fed(const struct sample *s, size_t first, size_t step)
{
	struct mw_pagesets sets;
	uint64_t pages = 99;
	int failed = check_failures();

	memset(&sets, 0xa5, sizeof(sets));
	mw_pagesets_init(&sets);
	feed(&sets, s->text, first);
	for (size_t at = first; at < s->len; at += step)
		feed(&sets, s->text + at, s->len - at < step ? s->len - at : step);
	CHECK_EQ(s->err, mw_pagesets_end(&sets, &pages));
	CHECK_EQ(s->err ? 99 : s->pages, pages);
	if (check_failures() > failed)
		fprintf(stderr, "... of %s, first %zu, then each %zu\n", s->name, first, step);
}

static void test_pagesets(void)
{
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
		check_fed(&samples[i], samples[i].len, 1);
		for (size_t n = 1; n <= samples[i].len; n++) {
			check_fed(&samples[i], n, samples[i].len);
			check_fed(&samples[i], 0, n);
		}
	}
}

/* Whatever is cut off the end, no other sum comes of it than that of the whole lines. */
static void test_cut(void)
{
	static const char text[] = SETS CPU("0", "3066") CPU("1", "3736");

	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		struct sample s = { "a text cut short", text, len, 0, 0 };
		const char *second = strstr(text, "3736"), *first = strstr(text, "3066");

		s.pages = text + len > second ? 6802 : 3066;
		if (len && text[len - 1] != '\n')
			s.err = -EBADMSG;
		else if (text + len < first)
			s.err = -ENODATA;
		check_fed(&s, len, 1);
	}
}

/* ---------------------------------------------------------------- reading --- */

static int root = -1;

static void put(const char *text, size_t len)
{
	int fd = openat(root, "proc/zoneinfo", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	CHECK(fd >= 0 && write(fd, text, len) == (ssize_t)len);
	close(fd);
}

#define PUT(literal) put(T(literal))

static void test_read(void)
{
	const int64_t page = sysconf(_SC_PAGESIZE);
	char text[4096];
	int fd;

	CHECK_EQ(-ENOENT, mw_open_zoneinfo(root));
	PUT("");
	CHECK_EQ(-ENODATA, mw_open_zoneinfo(root));
	PUT("Node 0\n");
	CHECK_EQ(-EBADMSG, mw_open_zoneinfo(root));
	PUT(SETS CPU("0", "3066") CPU("1", "3736"));
	fd = mw_open_zoneinfo(root);
	CHECK(fd >= 0);
	CHECK_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	for (size_t size = 1; size <= sizeof(text); size += size < 300 ? 1 : 97)
		CHECK_EQ(6802 * page, mw_read_pagesets(fd, text, size));
	/* A kept descriptor tells what is now. */
	PUT(SETS CPU("0", "12"));
	CHECK_EQ(12 * page, mw_read_pagesets(fd, text, sizeof(text)));
	PUT(SETS CPU("0", "-1"));
	CHECK_EQ(-EBADMSG, mw_read_pagesets(fd, text, sizeof(text)));
	PUT(SETS CPU("0", "1") "  vm");
	CHECK_EQ(-EBADMSG, mw_read_pagesets(fd, text, sizeof(text)));
	PUT(SETS CPU("0", "18446744073709551615"));
	CHECK_EQ(-EOVERFLOW, mw_read_pagesets(fd, text, sizeof(text)));
	PUT(SETS CPU("0", "2251799813685248")); /* 2^63 bytes, of pages of 4 KiB */
	CHECK_EQ(-EOVERFLOW, mw_read_pagesets(fd, text, sizeof(text)));
	PUT(SETS CPU("0", "2251799813685247"));
	if (page == 4096)
		CHECK_EQ(INT64_MAX - 4095, mw_read_pagesets(fd, text, sizeof(text)));
	close(fd);
	CHECK_EQ(-EBADF, mw_read_pagesets(fd, text, sizeof(text)));
}

/* The machine's own file, read in pieces of every kind, is one text each time. */
static void test_here(void)
{
	int here = mw_root_open("/"), fd = mw_open_zoneinfo(here);
	struct mw_meminfo meminfo;
	char text[16384];
	int64_t bytes;
	ssize_t n;

	CHECK(fd >= 0 || fd == -ENOENT); /* a container without one */
	if (fd >= 0) {
		n = mw_read_file(here, "proc/meminfo", text, sizeof(text));
		CHECK(n > 0 && !mw_parse_memory(text, (size_t)n, &meminfo));
		for (size_t size = 1; size <= sizeof(text); size *= 4) {
			bytes = mw_read_pagesets(fd, text, size);
			CHECK(bytes >= 0 && (uint64_t)bytes < meminfo.total);
		}
	}
	mw_close_file(&fd);
	mw_close_file(&here);
}

/* --------------------------------------------------------------- children --- */

static void test_children(void)
{
	static const struct {
		const char *text;
		size_t len;
		int err;
		size_t used;
		int32_t pid;
	} texts[] = {
		{ T("12 "), 0, 3, 12 },
		{ T("12 34 "), 0, 3, 12 },
		{ T("2147483647 "), 0, 11, INT32_MAX },
		{ T("007 "), 0, 4, 7 },
		/* Not all of it is here. */
		{ T(""), -ENODATA, 0, 0 },
		{ T("12"), -ENODATA, 0, 0 },
		/* No list of pids; 0 and what is above would be somebody else's to kill(). */
		{ T("0 "), -ERANGE, 0, 0 },
		{ T("2147483648 "), -ERANGE, 0, 0 },
		{ T("4294967297 "), -ERANGE, 0, 0 },
		{ T("18446744073709551617 "), -EOVERFLOW, 0, 0 },
		{ T("-1 "), -EBADMSG, 0, 0 },
		{ T(" 12 "), -EBADMSG, 0, 0 },
		{ T("12\n"), -EBADMSG, 0, 0 },
		{ T("12a "), -EBADMSG, 0, 0 },
		{ T("12\0"), -EBADMSG, 0, 0 },
		{ T("a"), -EBADMSG, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *exact = malloc(texts[i].len);
		size_t used = 0;
		int32_t pid = 0;

		if (texts[i].len)
			memcpy(exact, texts[i].text, texts[i].len);
		CHECK_EQ(texts[i].err, mw_parse_child(exact, texts[i].len, &used, &pid));
		CHECK_EQ(texts[i].used, used);
		CHECK_EQ(texts[i].pid, pid);
		free(exact);
	}
}

int main(int argc, char **argv)
{
	char path[4096];

	if (argc != 2)
		return 2;
	snprintf(path, sizeof(path), "%s/proc", argv[1]);
	CHECK(!mkdir(path, 0755));
	root = mw_root_open(argv[1]);
	test_pagesets();
	test_cut();
	test_read();
	test_here();
	test_children();
	return check_failures() != 0;
}
