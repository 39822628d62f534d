/* Rows of a replay buffer, in and out: bytes, whatever they mean. */

#include <errno.h>
#include <string.h>

#include "memwatch.h"

/* Up to here the call of memcpy() takes longer than the moves. */
enum { INLINED = 256 };

/* memcpy() of what is known to be small is one move; rewards and flags are most columns. */
static inline void copy(uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	switch (bytes) {
	case 1:
		*to = *from;
		break;
	case 4:
		memcpy(to, from, 4);
		break;
	case 8:
		memcpy(to, from, 8);
		break;
	default:
		if (bytes < 16 || bytes > INLINED) {
			memcpy(to, from, bytes);
			break;
		}
		/* The last move overlaps the one before. */
		for (uint64_t at = 0; at + 16 < bytes; at += 16)
			memcpy(to + at, from + at, 16);
		memcpy(to + bytes - 16, from + bytes - 16, 16);
	}
}

static inline uint32_t load(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static inline void store(uint8_t *to, uint32_t value)
{
	memcpy(to, &value, sizeof(value));
}

static inline uint64_t stored(const struct mw_rows *rows)
{
	return rows->total < rows->capacity ? rows->total : rows->capacity;
}

/* ---------------------------------------------------------- the side table --- */

static uint8_t *side_at(const struct mw_rows *rows, uint32_t number)
{
	return rows->side[number / rows->block] + number % rows->block * rows->entry;
}

/* Whether `n` rows can be written, whatever they are: no more rows than there are have an entry. */
static inline int side_has_room(const struct mw_rows *rows, uint64_t n)
{
	return !rows->span || rows->side_room > rows->capacity || rows->side_room - rows->side_used >= n;
}

/* A row will be written over: its entry is free. */
static int side_drop(struct mw_rows *rows, const uint8_t *row)
{
	const uint32_t link = load(row + rows->link);

	if (!link)
		return 0;
	if (link > rows->side_top)
		return -EBADMSG;
	store(side_at(rows, link - 1), rows->side_free);
	rows->side_free = link;
	rows->side_used--;
	return 0;
}

/* The last that became free, so that few pages are touched. */
static int side_keep(struct mw_rows *rows, uint8_t *row, const uint8_t *bytes)
{
	uint32_t link = rows->side_free;

	if (link > rows->side_top || (!link && rows->side_top >= rows->side_room))
		return -EBADMSG;
	if (link)
		rows->side_free = load(side_at(rows, link - 1));
	else
		link = ++rows->side_top;
	memcpy(side_at(rows, link - 1), bytes, rows->span);
	store(row + rows->link, link);
	rows->side_used++;
	return 0;
}

/* 256 rows of 165 bytes, of 1,000,000: 11 us, and 19 without asking ahead; 4 to 16 rows are alike. */
enum { AHEAD = 8, LINE = 64, FETCHED = 256 };

/* GCC 12 drops calls of a function that does nothing else, for they change nothing. */
#define INLINE static inline __attribute__((always_inline))

/* Asks for the beginning of what will be copied. */
INLINE void fetch(const uint8_t *from, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes && at < FETCHED; at += LINE)
		__builtin_prefetch(from + at, 0, 3);
}

/* ---------------------------------------------------------------------- in --- */

/* The row before `row` in its stream: is what came after it what stands in `row` now? */
static int settle(struct mw_rows *rows, const uint8_t *row, const uint8_t *newest)
{
	/* With as many streams as rows, that one is being written over. */
	if (rows->total < rows->streams || rows->streams == rows->capacity || !memcmp(row, newest, rows->span))
		return 0;
	return side_keep(rows, rows->memory + (rows->total - rows->streams) % rows->capacity * rows->stride, newest);
}

int mw_rows_put(struct mw_rows *rows, const struct mw_column *columns, uint32_t n_columns, uint64_t n)
{
	uint8_t *const end = rows->memory + rows->capacity * rows->stride;
	uint8_t *row = rows->memory + rows->total % rows->capacity * rows->stride;

	if (!side_has_room(rows, n))
		return -ENOSPC;
	for (uint64_t k = 0; k < n; k++) {
		uint8_t *newest = rows->newest;

		/* Of a large store they are in no cache: 4.2 us for 256, and 4.9 without. */
		if (k + AHEAD < n && (uint64_t)(end - row) >= (AHEAD + 1) * rows->stride)
			fetch(row + AHEAD * rows->stride, rows->stride);
		if (rows->span) {
			newest += rows->total % rows->streams * rows->span;
			if (rows->total >= rows->capacity && side_drop(rows, row))
				return -EBADMSG;
		}
		for (uint32_t c = 0; c < n_columns; c++)
			if (!columns[c].next)
				copy(row + columns[c].offset, columns[c].data + k * columns[c].bytes, columns[c].bytes);
		if (rows->span) {
			store(row + rows->link, 0);
			if (settle(rows, row, newest))
				return -EBADMSG;
			for (uint32_t c = 0; c < n_columns; c++)
				if (columns[c].next)
					copy(newest + columns[c].offset, columns[c].data + k * columns[c].bytes,
					     columns[c].bytes);
		}
		rows->total++;
		row += rows->stride;
		if (row == end)
			row = rows->memory;
	}
	return 0;
}

/* --------------------------------------------------------------------- out --- */

static inline uint64_t turned(uint64_t bits, int by)
{
	return bits << by | bits >> (64 - by);
}

/* xoshiro256++ of Blackman and Vigna; the upper half of its next number. */
static uint32_t draw(uint64_t *state)
{
	const uint64_t out = turned(state[0] + state[3], 23) + state[0], shifted = state[1] << 17;

	state[2] ^= state[0];
	state[3] ^= state[1];
	state[1] ^= state[2];
	state[0] ^= state[3];
	state[2] ^= shifted;
	state[3] = turned(state[3], 45);
	return (uint32_t)(out >> 32);
}

int mw_rows_pick(struct mw_rows *rows, uint64_t n, int64_t *out)
{
	const uint32_t bound = (uint32_t)stored(rows);

	if (!bound)
		return -ENODATA;
	/* Lemire: a product's upper half is even once the few lower ones that stand once too often are refused. */
	for (uint64_t k = 0, product; k < n; k++) {
		do
			product = (uint64_t)draw(rows->random) * bound;
		while ((uint32_t)product < bound && (uint32_t)product < -bound % bound);
		out[k] = (int64_t)(product >> 32);
	}
	return 0;
}

/* What came after the row at `place`; NULL: a link that leads nowhere. */
static const uint8_t *following(const struct mw_rows *rows, uint64_t place, uint64_t head)
{
	const uint64_t newer = (head > place ? head : head + rows->capacity) - place - 1;
	uint64_t next = place + rows->streams;
	uint32_t link;

	if (newer < rows->streams)
		return rows->newest + (rows->total - 1 - newer) % rows->streams * rows->span;
	link = load(rows->memory + place * rows->stride + rows->link);
	if (link)
		return link <= rows->side_top ? side_at(rows, link - 1) : NULL;
	if (next >= rows->capacity)
		next -= rows->capacity;
	return rows->memory + next * rows->stride;
}

INLINE void fetch_row(const struct mw_rows *rows, uint64_t place, uint64_t bound)
{
	const uint64_t next = place + rows->streams < bound ? place + rows->streams : 0;

	fetch(rows->memory + place * rows->stride, rows->stride);
	/* What came after it is most often here. */
	fetch(rows->memory + next * rows->stride, rows->span);
}

int mw_rows_take(const struct mw_rows *rows, const int64_t *places, uint64_t n, const struct mw_column *columns,
		 uint32_t n_columns)
{
	const uint64_t bound = stored(rows), head = rows->total % rows->capacity;

	for (uint64_t k = 0; k < n; k++)
		if ((uint64_t)places[k] >= bound)
			return -ERANGE;
	for (uint64_t k = 0; k < n; k++) {
		const uint8_t *row = rows->memory + (uint64_t)places[k] * rows->stride, *after = NULL;

		if (k + AHEAD < n)
			fetch_row(rows, (uint64_t)places[k + AHEAD], bound);
		if (rows->span && !(after = following(rows, (uint64_t)places[k], head)))
			return -EBADMSG;
		for (uint32_t c = 0; c < n_columns; c++) {
			const uint8_t *from = columns[c].next ? after : row;

			copy(columns[c].data + k * columns[c].bytes, from + columns[c].offset, columns[c].bytes);
		}
	}
	return 0;
}
