/*
 * test_gather.c - rows of a replay buffer, against arrays that keep everything.
 *
 * links: gather.c
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "memwatch.h"

enum { OBS = 5, REST = 3, WRITTEN = 3000 };

struct step {
	uint8_t obs[OBS], next[OBS], rest[REST];
};

static struct mw_rows rows;

/* Of just the size there is, so that AddressSanitizer sees a byte too far. */
static void begin(uint64_t capacity, uint64_t streams, int shared)
{
	rows = (struct mw_rows){
		.capacity = capacity,
		.stride = shared ? OBS + REST + 4 : OBS + REST + OBS,
		.span = shared ? OBS : 0,
		.link = OBS + REST,
		.streams = streams,
		.block = capacity / MW_SIDE_BLOCKS + 1,
		.entry = OBS,
		.random = { 1, 2, 3, 4 },
	};
	rows.memory = calloc(capacity, rows.stride);
	rows.newest = calloc(streams, OBS);
}

static void end(void)
{
	free(rows.memory);
	free(rows.newest);
	for (int k = 0; k < MW_SIDE_BLOCKS; k++)
		free(rows.side[k]);
}

static void give_block(void)
{
	rows.side[rows.side_room / rows.block] = calloc(rows.block, rows.entry);
	rows.side_room += (uint32_t)rows.block;
}

static int put(struct step *step)
{
	const struct mw_column columns[] = {
		{ step->obs, 0, OBS, 0 },
		{ step->rest, OBS, REST, 0 },
		{ step->next, rows.span ? 0 : OBS + REST, OBS, rows.span != 0 },
	};

	return mw_rows_put(&rows, columns, 3, 1);
}

static int take(int64_t place, struct step *out)
{
	const struct mw_column columns[] = {
		{ out->obs, 0, OBS, 0 },
		{ out->rest, OBS, REST, 0 },
		{ out->next, rows.span ? 0 : OBS + REST, OBS, rows.span != 0 },
	};

	return mw_rows_take(&rows, &place, 1, columns, 3);
}

/* Each row is as it was given, however they follow each other, after every write. */
static void check_ring(uint64_t capacity, uint64_t streams, int shared, int ends_in)
{
	static struct step all[WRITTEN];
	int blocks = 0;

	begin(capacity, streams, shared);
	srand(1);
	for (uint64_t k = 0; k < WRITTEN; k++) {
		struct step *step = &all[k];
		int err;

		for (int b = 0; b < OBS; b++) {
			step->obs[b] = (uint8_t)rand();
			step->next[b] = (uint8_t)rand();
		}
		memcpy(step->rest, &k, REST);
		if (k >= streams && rand() % ends_in)
			memcpy(step->obs, all[k - streams].next, OBS);
		while ((err = put(step)) == -ENOSPC) {
			blocks++;
			give_block();
		}
		CHECK_EQ(0, err);
		for (uint64_t back = 0; back < capacity && back <= k; back += 1 + back / 8) {
			const struct step *expected = &all[k - back];
			struct step found;

			CHECK_EQ(0, take((int64_t)((k - back) % capacity), &found));
			CHECK(!memcmp(expected, &found, sizeof(found)));
		}
	}
	CHECK(shared ? blocks > 0 && blocks <= MW_SIDE_BLOCKS : !blocks);
	CHECK(rows.side_used <= rows.side_top && rows.side_top <= rows.side_room);
	end();
}

static void test_rings(void)
{
	static const struct {
		uint64_t capacity, streams;
		int ends_in;
	} tables[] = { { 1, 1, 2 }, { 2, 1, 3 }, { 7, 7, 3 }, { 8, 3, 2 }, { 64, 1, 10 }, { 100, 16, 1 }, { 1000, 4, 50 } };

	for (size_t k = 0; k < sizeof(tables) / sizeof(*tables); k++)
		for (int shared = 0; shared < 2; shared++)
			check_ring(tables[k].capacity, tables[k].streams, shared, tables[k].ends_in);
}

/* Nothing is written of a batch that may be too much for the side table. */
static void test_no_room(void)
{
	struct step step = { .obs = { 1 } };

	begin(100, 1, 1);
	CHECK_EQ(-ENOSPC, put(&step));
	CHECK_EQ(0, rows.total);
	CHECK_EQ(0, rows.memory[0]);
	give_block();
	CHECK_EQ(0, put(&step));
	CHECK_EQ(1, rows.total);
	end();
}

/* A place that is not there, and links that lead nowhere, are errors and no reads. */
static void test_refusals(void)
{
	struct step step = { .obs = { 1 } }, found;
	const uint32_t wild = 77;

	begin(4, 1, 1);
	while (rows.side_room <= rows.capacity)
		give_block();
	CHECK_EQ(-ERANGE, take(0, &found));
	for (int k = 0; k < 3; k++)
		CHECK_EQ(0, put(&step));
	CHECK_EQ(-ERANGE, take(3, &found));
	CHECK_EQ(-ERANGE, take(-1, &found));
	memcpy(rows.memory + rows.link, &wild, sizeof(wild));
	CHECK_EQ(-EBADMSG, take(0, &found));
	rows.side_free = wild;
	CHECK_EQ(-EBADMSG, put(&step));
	end();
}

/* Each place comes as often as the others, and none that is not there. */
static void test_draws(void)
{
	int64_t places[30000];
	int seen[3] = { 0 };
	struct step step = { .obs = { 1 } };

	begin(8, 1, 0);
	CHECK_EQ(-ENODATA, mw_rows_pick(&rows, 1, places));
	for (int k = 0; k < 3; k++)
		CHECK_EQ(0, put(&step));
	CHECK_EQ(0, mw_rows_pick(&rows, 30000, places));
	for (int k = 0; k < 30000; k++) {
		CHECK(places[k] >= 0 && places[k] < 3);
		seen[places[k] % 3]++;
	}
	for (int k = 0; k < 3; k++)
		CHECK(seen[k] > 9500 && seen[k] < 10500);
	end();
}

int main(void)
{
	test_rings();
	test_no_room();
	test_refusals();
	test_draws();
	return check_failures() != 0;
}
