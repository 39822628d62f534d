/*
 * span.h - taking a text apart, for the parsers alone.
 *
 * A text is taken from the front, piece by piece.  The first piece that is not as
 * it must be sets `err` and leaves nothing to take, so that the rest falls through
 * and the error is asked for once, at the end.
 */
#ifndef MW_SPAN_H
#define MW_SPAN_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* What is left of a text, a line or a field. */
struct span {
	const char *p;
	const char *end;
	int err;
};

static inline void fail(struct span *s, int err)
{
	if (!s->err)
		s->err = err;
	s->p = s->end;
}

static inline bool take(struct span *s, char wanted)
{
	if (s->p == s->end || *s->p != wanted)
		return false;
	s->p++;
	return true;
}

static inline bool take_bytes(struct span *s, const char *wanted, size_t n)
{
	if ((size_t)(s->end - s->p) < n || memcmp(s->p, wanted, n) != 0)
		return false;
	s->p += n;
	return true;
}

static inline void expect_bytes(struct span *s, const char *wanted, size_t n)
{
	if (!take_bytes(s, wanted, n))
		fail(s, -EBADMSG);
}

static inline int expect_end(struct span *s)
{
	if (s->p != s->end)
		fail(s, -EBADMSG);
	return s->err;
}

static inline bool is_bytes(struct span s, const char *wanted, size_t n)
{
	return take_bytes(&s, wanted, n) && s.p == s.end;
}

#define TAKE(s, literal) take_bytes(s, literal, sizeof(literal) - 1)
#define EXPECT(s, literal) expect_bytes(s, literal, sizeof(literal) - 1)
#define IS(s, literal) is_bytes(s, literal, sizeof(literal) - 1)

/* Digits, at least one, as far as they go: what must follow is for the caller to say. */
static inline uint64_t number(struct span *s)
{
	const char *start = s->p, *p = start;
	uint64_t value = 0;

	for (; p != s->end; p++) {
		unsigned int digit = (unsigned int)(unsigned char)*p - '0';

		if (digit > 9)
			break;
		/* 19 digits always fit. */
		if (p - start < 19) {
			value = value * 10 + digit;
		} else if (__builtin_mul_overflow(value, 10u, &value) ||
			   __builtin_add_overflow(value, digit, &value)) {
			fail(s, -EOVERFLOW);
			return 0;
		}
	}
	s->p = p;
	if (p == start)
		fail(s, -EBADMSG);
	return value;
}

/*
 * The same within a line, which ends before its newline: that stops the loop, so none
 * looks for the end.  19 digits always fit, and more are left to number().
 */
static inline uint64_t line_number(struct span *line)
{
	const char *p = line->p;
	uint64_t value = 0;

	/* What has an error may be no line. */
	if (line->err)
		return 0;
	for (; (unsigned char)(*p - '0') <= 9; p++)
		value = value * 10 + (unsigned char)(*p - '0');
	if (p == line->p || p - line->p > 19)
		return number(line);
	line->p = p;
	return value;
}

/* "    123 kB" in KiB: 54 bits, since it must fit in bytes, so a few can be added. */
static inline uint64_t kib(struct span *value)
{
	uint64_t n;

	while (take(value, ' '))
		;
	n = line_number(value);
	EXPECT(value, " kB");
	expect_end(value);
	if (n > UINT64_MAX / 1024)
		fail(value, -EOVERFLOW);
	return n;
}

/* What stands before `stop`, or all of it; `stop` itself is left. */
static inline struct span before(struct span *s, char stop)
{
	struct span part = *s;

	while (s->p != s->end && *s->p != stop)
		s->p++;
	part.end = s->p;
	return part;
}

/* What stands before the next blank, and the blank: neither can be missing. */
static inline struct span field(struct span *s)
{
	struct span part = before(s, ' ');

	if (part.p == part.end)
		fail(s, -EBADMSG);
	EXPECT(s, " ");
	return part;
}

static inline bool has_word(struct span s, char separator, const char *word)
{
	do {
		if (is_bytes(before(&s, separator), word, strlen(word)))
			return true;
	} while (take(&s, separator));
	return false;
}

/*
 * A byte of a field, or three octal digits behind a backslash; 0 when it is none.
 * The blank behind the field ends an escape that was cut.
 */
static inline int take_escaped(struct span *s)
{
	int value = 0;

	if (!take(s, '\\'))
		return (unsigned char)*s->p++;
	for (int i = 0; i < 3; i++) {
		if (*s->p < '0' || *s->p > '7')
			return 0;
		value = value * 8 + *s->p++ - '0';
	}
	return value <= 0xff ? value : 0;
}

/* Whether a field is an absolute path of at most `longest` bytes, well escaped. */
static inline int check_escaped(struct span path, size_t longest)
{
	size_t len = 0;

	if (*path.p != '/')
		return -EBADMSG;
	for (; path.p != path.end; len++)
		if (!take_escaped(&path))
			return -EBADMSG;
	return len > longest ? -ENAMETOOLONG : 0;
}

/* For a path that was checked; `out` has room for it and a NUL. */
static inline void unescape(struct span path, char *out)
{
	while (path.p != path.end)
		*out++ = (char)take_escaped(&path);
	*out = '\0';
}

static inline struct span whole(const char *text, size_t len)
{
	return (struct span){text, text + len, len ? 0 : -ENODATA};
}

/* A file of one line, without its newline: one that has lost it may have lost more. */
static inline struct span one_line(const char *text, size_t len)
{
	struct span line = whole(text, len);

	if (!len)
		return line;
	line.end--;
	if (memchr(text, '\n', len) != line.end)
		fail(&line, -EBADMSG);
	return line;
}

/* The same of numbers alone, where a newline further in will not pass for a digit. */
static inline struct span one_line_of_numbers(const char *text, size_t len)
{
	struct span line = whole(text, len);

	if (!len)
		return line;
	line.end--;
	if (*line.end != '\n')
		fail(&line, -EBADMSG);
	return line;
}

/*
 * memchr() for a newline.  Nearly every line of meminfo has 27 characters ("%-16s%8lu
 * kB"), and a look passes over sixteen: to name that place outright lets the processor
 * go on with the next line before it knows, which saves a third of the parsing.
 */
static inline const char *find_newline(const char *p, const char *end)
{
#ifdef __SSE2__
	if (end - p >= 32) {
		const __m128i newline = _mm_set1_epi8('\n');
		__m128i low = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), newline);
		__m128i high = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + 16)), newline);
		unsigned int found = (unsigned int)_mm_movemask_epi8(low) |
				     (unsigned int)_mm_movemask_epi8(high) << 16;

		if ((found & -found) == 1u << 27)
			return p + 27;
		if (found)
			return p + __builtin_ctz(found);
	}
#endif
	return memchr(p, '\n', (size_t)(end - p));
}

/*
 * The next line, without its newline, which still stands at line->end: there is
 * always a byte to look at.  What has no newline is no line.
 */
static inline bool next_line(struct span *text, struct span *line)
{
	const char *newline = find_newline(text->p, text->end);

	if (!newline)
		return false;
	*line = (struct span){text->p, newline, 0};
	text->p = newline + 1;
	return true;
}

/*
 * Whether the key just taken from a line was whole.  It ends at a blank, or at what
 * has no business there: then its value is malformed, and not another key's.
 */
static inline bool key_ends(const struct span *line)
{
	return (unsigned char)*line->p <= ' ';
}

/* Why a key was not found: it may stand in what was cut off, or else it is not there. */
static inline int not_found(const char *text, size_t len)
{
	return len && text[len - 1] != '\n' ? -EBADMSG : -ENODATA;
}

/* A value that was not found, until it is. */
static inline void nothing_yet(struct span *value, int n, const char *text, size_t len)
{
	for (int i = 0; i < n; i++)
		value[i] = (struct span){text, text, not_found(text, len)};
}

#endif
