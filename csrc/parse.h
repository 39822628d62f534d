/*
 * parse.h - kernel text to numbers.
 *
 * Each parser takes bytes and a length, which need not end in a NUL; it reads
 * nothing else, allocates nothing and keeps nothing.  They are strict, for a wrong
 * number kills a trial or saves none: only ASCII digits are digits, a key stands
 * at the start of a line, and a number (or word) that touches the end of the text
 * may have lost its tail.
 *
 * Result: 0; or -EBADMSG malformed or cut, -EOVERFLOW a number that does not fit
 * (in bytes), -ENODATA empty, or without what must be there, -ERANGE impossible.
 * `out` is untouched on failure.  Of a key that stands twice, the first counts.
 */
#ifndef MW_PARSE_H
#define MW_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memwatch.h"

/* >>> what tests read begins here */

/*
 * /proc/meminfo, in bytes.  Memory and swap fail apart: a machine whose SwapFree
 * is nonsense (old LXCFS, WSL 1) still has a MemAvailable.  The result speaks of
 * memory; swap_error is 0 or the code for swap, and then both are MW_ABSENT.
 * -ERANGE: MemTotal 0, MemFree or MemAvailable (or its estimate) above MemTotal.
 * Where MemAvailable is absent, Cached and Shmem must be there; SReclaimable may be
 * missing.  More than 64 KiB are not the kernel's: -EBADMSG.
 */
struct mw_meminfo {
	uint64_t total;
	uint64_t free;
	uint64_t available;
	uint64_t swap_total;
	uint64_t swap_free;
	int32_t swap_error;
	int32_t estimated; /* 1: no MemAvailable; free + cached + sreclaimable - shmem, at least 0 */
};
int mw_parse_meminfo(const char *text, size_t len, struct mw_meminfo *out);

/*
 * The same of memory alone, which stands on the first three lines: a third of the
 * time.  swap_error is -ENODATA.
 */
int mw_parse_memory(const char *text, size_t len, struct mw_meminfo *out);

/*
 * One "Key:   123 kB" line, in bytes: for the rare keys of meminfo, and for
 * smaps_rollup ("Pss").  -ENODATA: no such line, in a text that is whole.
 */
int mw_parse_kb(const char *text, size_t len, const char *key, uint64_t *out);

/*
 * /proc/PID/statm, in bytes.  All seven numbers 0 is a zombie or a kernel thread:
 * -ESRCH, for neither holds memory.  `shared` is MW_ABSENT where the kernel's
 * counter went below 0 (it is printed unsigned) or is above rss.
 */
struct mw_statm {
	uint64_t rss;
	uint64_t shared;
};
int mw_parse_statm(const char *text, size_t len, uint64_t page_size, struct mw_statm *out);

/* /proc/PID/stat.  The comm ends at the last ')'; it may hold anything. */
struct mw_stat {
	int32_t pid;
	int32_t ppid;
	int32_t session;     /* field 6; 0: another pid namespace's, or it has just ended */
	uint64_t start_time; /* field 22, clock ticks since boot */
	uint64_t rss_pages;  /* field 24; MW_ABSENT where the text ends before */
	char state;
};
int mw_parse_stat(const char *text, size_t len, struct mw_stat *out);

/* A file of one number and a newline: memory.current, usage_in_bytes, overcommit_memory. */
int mw_parse_u64(const char *text, size_t len, uint64_t *out);

/* The same with a sign: oom_score_adj. */
int mw_parse_i64(const char *text, size_t len, int64_t *out);

/*
 * A limit: memory.max, memory.high, limit_in_bytes.  "max", and what the kernel
 * prints for "no limit" with each page size (LONG_MAX rounded down to a page;
 * ULONG_MAX on 3.x), is MW_NO_LIMIT.  0 is a limit.
 */
int mw_parse_limit(const char *text, size_t len, uint64_t *out);

/*
 * memory.stat: page cache that can be reclaimed, in bytes: the file LRU lists
 * less dirty and writeback pages, at least 0.  tmpfs and mlocked pages are on
 * other lists.  On v1 the total_ figures count.  Where dirty or writeback are
 * not told (v1 before 4.2) the inactive list alone stands in, for nothing may be
 * called reclaimable that is not.
 */
int mw_parse_reclaimable(const char *text, size_t len, uint32_t version, uint64_t *out);

/* One "key 123" line: memory.stat, memory.events, memory.oom_control. */
int mw_parse_key(const char *text, size_t len, const char *key, uint64_t *out);

/* /proc/pressure/memory; see struct mw_pressure. */
int mw_parse_pressure(const char *text, size_t len, struct mw_pressure *out);

/*
 * /proc/PID/cgroup: the path of the memory hierarchy.  v1 when a hierarchy has the
 * controller "memory", else v2.  `offset` and `length` say where in the text it
 * stands; " (deleted)" is still on it.  -ENODATA: neither is there.  A path that is
 * not absolute, has a NUL, "//", a trailing "/", "." or ".." within (the kernel
 * prints ".." in front only) is -EBADMSG, one above 4095 bytes -ENAMETOOLONG.
 */
struct mw_membership {
	size_t offset;
	size_t length;
	uint32_t version; /* 1 or 2 */
	uint32_t outside; /* 1: begins with "/..", so outside our cgroup namespace */
};
int mw_parse_membership(const char *text, size_t len, struct mw_membership *out);

/*
 * One line of /proc/PID/mountinfo, newline and all.  `root` and `point` get the
 * decoded paths (octal escapes), NUL at the end.  -ENODATA: a sound line of something
 * that is no memory cgroup hierarchy; -ENAMETOOLONG: a path above 4095 bytes.
 */
struct mw_mount {
	uint32_t version; /* 1: v1 with the controller memory; 2: cgroup2 */
	char root[4096];
	char point[4096];
};
int mw_parse_mount(const char *line, size_t len, struct mw_mount *out);

/*
 * cgroup.controllers: 1 or 0 in `out`, whether `word` is among them.  An empty text
 * is no error here: a group without controllers has an empty file.
 */
int mw_parse_word(const char *text, size_t len, const char *word, uint32_t *out);

/*
 * /proc/zoneinfo, which has 1 KiB for each CPU and is taken in chunks, cut anywhere:
 * how many free pages the CPUs keep on lists of their own, over all zones.  Feed all
 * of it, then ask.  The first error stays; -ENODATA: nobody has such a list.  A line
 * above MW_ZONE_LINE bytes is not the kernel's.
 */
enum { MW_ZONE_LINE = 256 };
struct mw_pagesets {
	uint64_t pages;
	int32_t err;
	uint32_t held;    /* bytes in `line`, of a line whose end is yet to come */
	bool in_zone;     /* behind a "Node 0, zone Normal" */
	bool in_pagesets; /* and behind its "pagesets" */
	bool any;         /* at least one count was there */
	char line[MW_ZONE_LINE];
};
void mw_pagesets_init(struct mw_pagesets *sets);
int mw_pagesets_feed(struct mw_pagesets *sets, const char *text, size_t len);
int mw_pagesets_end(const struct mw_pagesets *sets, uint64_t *pages);

/*
 * /proc/PID/task/TID/children: the first pid of a text like "12 34 ", and in `used` how
 * many bytes it took.  -ENODATA: no whole one is left, for the blank behind it is missing.
 */
int mw_parse_child(const char *text, size_t len, size_t *used, int32_t *out);

/* <<< what tests read ends here */

#endif
