/*
 * parse.c - memory, and who a process is; see parse.h.  span.h has the small parts.
 */
#include "parse.h"

#include "span.h"

enum {
	MEMINFO_MAX = 64 * 1024, /* longer is not the kernel's: one of 2026 has 1.5 KiB */
	LARGEST_PAGE = 256 * 1024,
};

/* --------------------------------------------------------------- meminfo --- */

enum { TOTAL, FREE, AVAILABLE, CACHED, SHMEM, SRECLAIMABLE, SWAP_TOTAL, SWAP_FREE, KEYS };

/* Once these are found, the rest need not be read. */
enum {
	MEMORY = 1 << TOTAL | 1 << FREE | 1 << AVAILABLE,
	MEMORY_AND_SWAP = MEMORY | 1 << SWAP_TOTAL | 1 << SWAP_FREE,
};

static inline int take_key(struct span *line)
{
	switch (*line->p) {
	case 'M':
		return TAKE(line, "MemTotal:") ? TOTAL :
		       TAKE(line, "MemFree:") ? FREE :
		       TAKE(line, "MemAvailable:") ? AVAILABLE : KEYS;
	case 'C':
		return TAKE(line, "Cached:") ? CACHED : KEYS;
	case 'S':
		return TAKE(line, "SwapTotal:") ? SWAP_TOTAL :
		       TAKE(line, "SwapFree:") ? SWAP_FREE :
		       TAKE(line, "Shmem:") ? SHMEM :
		       TAKE(line, "SReclaimable:") ? SRECLAIMABLE : KEYS;
	default:
		return KEYS;
	}
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/*
 * What stands in for MemAvailable.  Shmem must be told (it is since Linux 2.6.32):
 * it is the part of Cached that nobody can have.  SReclaimable need not be (gVisor
 * does not): without it the estimate is only lower.
 */
static int estimate(struct span *value, uint64_t free, uint64_t *out)
{
	uint64_t gross = free + kib(&value[CACHED]) + kib(&value[SRECLAIMABLE]);

	*out = less(gross, kib(&value[SHMEM]));
	if (value[SRECLAIMABLE].err == -ENODATA)
		value[SRECLAIMABLE].err = 0;
	return value[CACHED].err ?: value[SHMEM].err ?: value[SRECLAIMABLE].err;
}

static int swap(struct span *value, struct mw_meminfo *mem)
{
	uint64_t total = kib(&value[SWAP_TOTAL]), free = kib(&value[SWAP_FREE]);
	int err = value[SWAP_TOTAL].err ?: value[SWAP_FREE].err;

	if (err)
		return err;
	if (free > total)
		return -ERANGE;
	mem->swap_total = total * 1024;
	mem->swap_free = free * 1024;
	return 0;
}

static inline int parse_meminfo(const char *text, size_t len, int enough, struct mw_meminfo *out)
{
	struct mw_meminfo mem = {.swap_total = MW_ABSENT, .swap_free = MW_ABSENT};
	struct span rest = whole(text, len), line, value[KEYS];
	uint64_t total, free, available;
	int key, err, found = 0;

	/* NULs behind the text: `len` is the buffer's, not what was read. */
	if (len > MEMINFO_MAX || (len && !text[len - 1]))
		return -EBADMSG;
	nothing_yet(value, KEYS, text, len);
	while ((found & enough) != enough && next_line(&rest, &line)) {
		key = take_key(&line);
		if (key == KEYS || found & 1 << key)
			continue;
		value[key] = line;
		found |= 1 << key;
	}

	total = kib(&value[TOTAL]);
	free = kib(&value[FREE]);
	available = kib(&value[AVAILABLE]);
	err = value[AVAILABLE].err;
	if (err == -ENODATA) {
		err = estimate(value, free, &available);
		mem.estimated = 1;
	}
	err = value[TOTAL].err ?: value[FREE].err ?: err;
	if (err)
		return err;
	if (!total || free > total || available > total)
		return -ERANGE;
	mem.total = total * 1024;
	mem.free = free * 1024;
	mem.available = available * 1024;
	mem.swap_error = enough == MEMORY ? -ENODATA : swap(value, &mem);
	*out = mem;
	return 0;
}

int mw_parse_meminfo(const char *text, size_t len, struct mw_meminfo *out)
{
	return parse_meminfo(text, len, MEMORY_AND_SWAP, out);
}

int mw_parse_memory(const char *text, size_t len, struct mw_meminfo *out)
{
	return parse_meminfo(text, len, MEMORY, out);
}

int mw_parse_kb(const char *text, size_t len, const char *key, uint64_t *out)
{
	struct span rest = whole(text, len), line;
	size_t n = strlen(key);
	uint64_t value;

	while (next_line(&rest, &line)) {
		if (!take_bytes(&line, key, n) || !take(&line, ':'))
			continue;
		(void)take(&line, '\t'); /* in /proc/PID/status */
		value = kib(&line);
		if (!line.err)
			*out = value * 1024;
		return line.err;
	}
	return not_found(text, len);
}

/* --------------------------------------------------------------- process --- */

int mw_parse_statm(const char *text, size_t len, uint64_t page_size, struct mw_statm *out)
{
	struct span line = one_line_of_numbers(text, len);
	struct mw_statm statm = {.shared = MW_ABSENT};
	uint64_t pages[7], any = 0;

	for (int i = 0; i < 7; i++) {
		if (i)
			EXPECT(&line, " ");
		pages[i] = line_number(&line);
		any |= pages[i];
	}
	if (expect_end(&line))
		return line.err;
	if (!any)
		return -ESRCH;
	if (__builtin_mul_overflow(pages[1], page_size, &statm.rss))
		return -EOVERFLOW;
	if (pages[2] <= pages[1])
		statm.shared = pages[2] * page_size;
	*out = statm;
	return 0;
}

static int32_t id(struct span *s)
{
	uint64_t value = number(s);

	if (value > INT32_MAX)
		fail(s, -EOVERFLOW);
	return (int32_t)value;
}

int mw_parse_stat(const char *text, size_t len, struct mw_stat *out)
{
	struct span rest = whole(text, len);
	struct mw_stat stat;
	uint64_t rss;
	int letter;

	stat.pid = id(&rest);
	EXPECT(&rest, " (");
	if (rest.err)
		return rest.err;
	/* Backwards to the last ')', or to the '(' that is just behind us. */
	for (text += len - 1; *text != ')'; text--)
		if (text < rest.p)
			return -EBADMSG;
	rest.p = text + 1;
	EXPECT(&rest, " ");
	stat.state = rest.p == rest.end ? 0 : *rest.p++;
	letter = stat.state | 0x20;
	if (letter < 'a' || letter > 'z')
		fail(&rest, -EBADMSG);
	EXPECT(&rest, " ");
	stat.ppid = id(&rest);
	for (int field = 5; field <= 22; field++) {
		bool negative;

		EXPECT(&rest, " ");
		/* The terminal's group, priority and nice can be negative; a start time never. */
		negative = field < 22 && take(&rest, '-');
		stat.start_time = number(&rest);
		if (field == 6)
			stat.session = negative || stat.start_time > INT32_MAX ? 0 : (int32_t)stat.start_time;
	}
	/* Every kernel has more fields: what ends here may have lost digits. */
	EXPECT(&rest, " ");
	if (rest.err)
		return rest.err;
	(void)number(&rest);
	EXPECT(&rest, " ");
	rss = number(&rest);
	EXPECT(&rest, " ");
	stat.rss_pages = rest.err ? MW_ABSENT : rss;
	*out = stat;
	return 0;
}

/* --------------------------------------------------------------- numbers --- */

int mw_parse_u64(const char *text, size_t len, uint64_t *out)
{
	struct span line = one_line_of_numbers(text, len);
	uint64_t value = line_number(&line);

	if (!expect_end(&line))
		*out = value;
	return line.err;
}

int mw_parse_i64(const char *text, size_t len, int64_t *out)
{
	struct span line = one_line(text, len);
	bool negative = take(&line, '-');
	uint64_t value = number(&line);

	if (expect_end(&line))
		return line.err;
	if (value > (uint64_t)INT64_MAX + negative)
		return -EOVERFLOW;
	*out = (int64_t)(negative ? -value : value); /* unsigned, for -INT64_MIN does not exist */
	return 0;
}

int mw_parse_limit(const char *text, size_t len, uint64_t *out)
{
	struct span line = one_line(text, len);
	uint64_t value = MW_NO_LIMIT;

	if (!TAKE(&line, "max"))
		value = number(&line);
	if (expect_end(&line))
		return line.err;
	/* From here on it may be LONG_MAX, rounded down to the machine's page. */
	if (value >= ((uint64_t)INT64_MAX & ~(uint64_t)(LARGEST_PAGE - 1)))
		value = MW_NO_LIMIT;
	*out = value;
	return 0;
}

/* Hundredths of a percent, of "1.60". */
static uint64_t percent(struct span *s)
{
	uint64_t units = number(s), hundredths;
	const char *start;

	EXPECT(s, ".");
	start = s->p;
	hundredths = number(s);
	if (s->p - start != 2)
		fail(s, -EBADMSG);
	if (units > 100 || units * 100 + hundredths > 10000)
		fail(s, -ERANGE);
	return units * 100 + hundredths;
}

static void stall(struct span *s, uint64_t *avg10, uint64_t *total_us)
{
	EXPECT(s, " avg10=");
	*avg10 = percent(s);
	EXPECT(s, " avg60=");
	percent(s);
	EXPECT(s, " avg300=");
	percent(s);
	EXPECT(s, " total=");
	*total_us = number(s);
	EXPECT(s, "\n");
}

int mw_parse_pressure(const char *text, size_t len, struct mw_pressure *out)
{
	struct span rest = whole(text, len);
	struct mw_pressure pressure = {.full_avg10 = MW_ABSENT, .full_total_us = MW_ABSENT};

	EXPECT(&rest, "some");
	stall(&rest, &pressure.some_avg10, &pressure.some_total_us);
	if (rest.p != rest.end) {
		EXPECT(&rest, "full");
		stall(&rest, &pressure.full_avg10, &pressure.full_total_us);
	}
	if (!expect_end(&rest))
		*out = pressure;
	return rest.err;
}

/* ----------------------------------------------------------- memory.stat --- */

enum { INACTIVE, ACTIVE, DIRTY, WRITEBACK, STATS };

static inline int take_stat_key(struct span *line, uint32_t version)
{
	int key;

	if (version == 1 && !TAKE(line, "total_"))
		return STATS;
	if (TAKE(line, "inactive_file"))
		key = INACTIVE;
	else if (TAKE(line, "active_file"))
		key = ACTIVE;
	else if (version != 1 && !TAKE(line, "file_"))
		return STATS;
	else
		key = TAKE(line, "dirty") ? DIRTY : TAKE(line, "writeback") ? WRITEBACK : STATS;
	return key_ends(line) ? key : STATS;
}

static uint64_t stat_value(struct span *value)
{
	uint64_t n;

	EXPECT(value, " ");
	n = number(value);
	expect_end(value);
	return n;
}

int mw_parse_key(const char *text, size_t len, const char *key, uint64_t *out)
{
	struct span rest = whole(text, len), line;
	size_t n = strlen(key);
	uint64_t value;

	while (next_line(&rest, &line)) {
		if (!take_bytes(&line, key, n) || !key_ends(&line))
			continue;
		value = stat_value(&line);
		if (!line.err)
			*out = value;
		return line.err;
	}
	return not_found(text, len);
}

int mw_parse_reclaimable(const char *text, size_t len, uint32_t version, uint64_t *out)
{
	struct span rest = whole(text, len), line, value[STATS];
	uint64_t bytes, dirty, writeback;
	int key, err, found = 0;

	nothing_yet(value, STATS, text, len);
	while (found != (1 << STATS) - 1 && next_line(&rest, &line)) {
		key = take_stat_key(&line, version);
		if (key == STATS || found & 1 << key)
			continue;
		value[key] = line;
		found |= 1 << key;
	}

	bytes = stat_value(&value[INACTIVE]);
	dirty = stat_value(&value[DIRTY]);
	writeback = stat_value(&value[WRITEBACK]);
	err = value[INACTIVE].err;
	if (value[DIRTY].err != -ENODATA && value[WRITEBACK].err != -ENODATA) {
		if (__builtin_add_overflow(bytes, stat_value(&value[ACTIVE]), &bytes))
			fail(&value[ACTIVE], -EOVERFLOW);
		bytes = less(less(bytes, dirty), writeback);
		err = err ?: value[ACTIVE].err ?: value[DIRTY].err ?: value[WRITEBACK].err;
	}
	if (!err)
		*out = bytes;
	return err;
}
