/*
 * parse_zone.c - texts that come in chunks; see parse.h.
 */
#include "parse.h"
#include "span.h"

/* -------------------------------------------------------------- zoneinfo --- */

void mw_pagesets_init(struct mw_pagesets *sets)
{
	*sets = (struct mw_pagesets){ .pages = 0 };
}

static inline void skip_blanks(struct span *line)
{
	while (take(line, ' '))
		;
}

/* "Node 0, zone   Normal" begins a zone; "pagesets" stands at its end, and behind it
   "count: 12" for each CPU. */
static int take_line(struct mw_pagesets *sets, struct span line)
{
	uint64_t count;

	if (TAKE(&line, "Node ")) {
		number(&line);
		EXPECT(&line, ", zone ");
		sets->in_zone = true;
		sets->in_pagesets = false;
		return line.err;
	}
	if (!sets->in_zone)
		return -EBADMSG;
	skip_blanks(&line);
	if (IS(line, "pagesets"))
		sets->in_pagesets = true;
	if (!sets->in_pagesets || !TAKE(&line, "count:"))
		return 0;
	skip_blanks(&line);
	count = number(&line);
	if (expect_end(&line))
		return line.err;
	sets->any = true;
	return __builtin_add_overflow(sets->pages, count, &sets->pages) ? -EOVERFLOW : 0;
}

int mw_pagesets_feed(struct mw_pagesets *sets, const char *text, size_t len)
{
	const char *end = text + len;

	while (!sets->err && text != end) {
		const char *newline = find_newline(text, end), *stop = newline ? newline : end;
		struct span line = { text, stop, 0 };
		size_t size = (size_t)(stop - text);

		/* The same whether it came in one piece or in many. */
		if (size > sizeof(sets->line) - sets->held) {
			sets->err = -EBADMSG;
			break;
		}
		if (sets->held || !newline) {
			memcpy(sets->line + sets->held, text, size);
			sets->held += (uint32_t)size;
			line = (struct span){ sets->line, sets->line + sets->held, 0 };
		}
		text = stop;
		if (newline) {
			sets->err = take_line(sets, line);
			sets->held = 0;
			text++;
		}
	}
	return sets->err;
}

int mw_pagesets_end(const struct mw_pagesets *sets, uint64_t *pages)
{
	if (sets->err)
		return sets->err;
	if (sets->held)
		return -EBADMSG;
	if (!sets->any)
		return -ENODATA;
	*pages = sets->pages;
	return 0;
}

/* -------------------------------------------------------------- children --- */

int mw_parse_child(const char *text, size_t len, size_t *used, int32_t *out)
{
	struct span rest = { text, text + len, 0 };
	uint64_t pid;

	if (!len)
		return -ENODATA;
	pid = number(&rest);
	if (rest.err)
		return rest.err;
	if (rest.p == rest.end)
		return -ENODATA;
	EXPECT(&rest, " ");
	if (rest.err)
		return rest.err;
	/* 0 is nobody's, and to kill() it means the whole process group. */
	if (!pid || pid > INT32_MAX)
		return -ERANGE;
	*used = (size_t)(rest.p - text);
	*out = (int32_t)pid;
	return 0;
}
