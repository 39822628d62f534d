/*
 * test_judge.c - what the judge says to each look, and whom it would stop, in tables;
 * tests/test_judge.py holds it to trip.py over thousands of trajectories.
 *
 * links: judge.c
 */
#include <errno.h>

#include "check.h"
#include "memwatch.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MS 1000000

enum {
	HOLD = MW_DO_HOLD,
	RELEASE = MW_DO_RELEASE,
	TELL = MW_DO_TELL,
	REAP = MW_DO_REAP,
	SQUEEZE = MW_DO_SQUEEZE,
	LIFT = MW_DO_LIFT,
	KILL = MW_DO_KILL,
	WAKE = MW_DO_WAKE,
	TAKE = MW_DO_TAKE,
	WAIT = MW_DO_WAIT,
	RETRACT = MW_DO_RETRACT,
	OFF = MW_BRAKE_OFF,
	WATCHING = MW_BRAKE_WATCHING,
	HOLDING = MW_BRAKE_HOLDING,
	RAISING = MW_BRAKE_RAISING,
	SQUEEZING = MW_BRAKE_SQUEEZING,
	KILLING = MW_BRAKE_KILLING,
	SETTLING = MW_BRAKE_SETTLING,
	WAITING = MW_BRAKE_WAITING,
	ALONE = MW_TURN_ALONE,
	FREE = MW_TURN_FREE,
	MINE = MW_TURN_MINE,
	OTHERS = MW_TURN_OTHERS,
};

static const struct mw_numbers numbers = {
	.brake = 200,
	.resume = 250,
	.urgent = 125,
	.floor = 50,
	.rss_limit = 800,
	.hold_ns = 50 * MS,
	.grace_ns = 5000LL * MS,
	.squeeze_ns = 100 * MS,
	.reap_ns = 250 * MS,
	.gather_ns = 2 * MS,
	.still_ns = 40 * MS,
	.rise = 10,
};

/* One look and what must come of it; `ms` and `headroom` stand for themselves. */
struct row {
	int64_t ms;
	uint64_t headroom;
	uint64_t epoch;
	uint32_t shielded;
	uint32_t children;
	uint32_t deeds;
	uint64_t phase;
};

/* Each table begins anew, from nothing. */
static void judge(const char *name, const struct mw_numbers *with, const struct row *rows, size_t n)
{
	struct mw_judgment state = { 0 };
	int before = check_failures();

	for (size_t i = 0; i < n; i++) {
		struct mw_look look = {
			.time_ns = rows[i].ms * MS,
			.headroom = rows[i].headroom,
			.rss = MW_ABSENT,
			.epoch = rows[i].epoch,
			.shielded = rows[i].shielded,
			.children = rows[i].children,
		};

		CHECK_EQ(rows[i].deeds, mw_judge(with, &state, &look));
		CHECK_EQ(rows[i].phase, state.phase);
		if (check_failed != before) {
			fprintf(stderr, "... in row %zu of %s\n", i, name);
			return;
		}
	}
}

#define JUDGE(rows) judge(#rows, &numbers, rows, COUNT(rows))

static void test_watching(void)
{
	static const struct row no_trial[] = {
		{ 1, 10, 0, 0, 0, 0, WATCHING },
		{ 2, 10, 0, 0, 0, 0, WATCHING },
	};
	static const struct row enough[] = {
		{ 1, 200, 7, 0, 0, 0, WATCHING },
		{ 2, MW_ABSENT, 7, 0, 0, 0, WATCHING },
		{ 3, 199, 7, 0, 0, HOLD, HOLDING },
	};

	JUDGE(no_trial);
	JUDGE(enough);
}

static void test_holding(void)
{
	static const struct row burst[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 50, 199, 7, 0, 0, 0, HOLDING },
		{ 51, 200, 7, 0, 0, RELEASE, WATCHING },
		{ 52, 200, 0, 0, 0, 0, WATCHING },
	};
	static const struct row told[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 50, 125, 7, 0, 0, 0, HOLDING },
		{ 51, 199, 7, 0, 0, TELL, RAISING },
	};
	static const struct row urgent[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 2, 124, 7, 0, 0, TELL, RAISING },
	};
	static const struct row blind[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 50, MW_ABSENT, 7, 0, 0, 0, HOLDING },
		{ 51, MW_ABSENT, 7, 0, 0, RELEASE, WATCHING },
		{ 52, 199, 7, 0, 0, HOLD, HOLDING },
	};
	static const struct row ended[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 2, 199, 0, 0, 0, RELEASE, WATCHING },
		{ 3, 199, 8, 0, 0, HOLD, HOLDING },
		{ 4, 199, 9, 0, 0, RELEASE | HOLD, HOLDING },
	};

	JUDGE(burst);
	JUDGE(told);
	JUDGE(urgent);
	JUDGE(blind);
	JUDGE(ended);
}

static void test_raising(void)
{
	static const struct row children[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 2, TELL, RAISING },
		{ 2, 125, 7, 0, 2, 0, RAISING },
		{ 3, 124, 7, 0, 0, 0, RAISING },
		{ 4, 49, 7, 0, 2, REAP, RAISING },
		{ 5, 49, 7, 0, 2, 0, RAISING },
		{ 253, 49, 7, 1, 0, 0, RAISING },
		{ 254, 49, 7, 1, 0, KILL, KILLING },
		{ 255, 900, 0, 0, 0, KILL, KILLING },
	};
	static const struct row floor[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 0, TELL, RAISING },
		{ 2, 50, 7, 0, 0, 0, RAISING },
		{ 3, 49, 7, 0, 0, KILL, KILLING },
	};
	static const struct row squeezed[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 0, TELL, RAISING },
		{ 100, 100, 7, 0, 0, 0, RAISING },
		{ 101, 100, 7, 1, 0, 0, RAISING },
		{ 102, 100, 7, 0, 0, SQUEEZE, SQUEEZING },
		{ 103, 100, 7, 0, 0, 0, SQUEEZING },
		{ 104, MW_ABSENT, 7, 1, 0, 0, SQUEEZING },
		{ 105, 100, 7, 1, 0, LIFT, RAISING },
		{ 106, 100, 7, 0, 0, SQUEEZE, SQUEEZING },
		{ 107, 100, 0, 0, 0, RELEASE | LIFT, SETTLING },
		{ 108, 100, 0, 0, 0, 0, SETTLING },
		{ 109, 300, 9, 0, 0, 0, WATCHING },
	};
	static const struct row in_time[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 0, TELL, RAISING },
		{ 100, 100, 7, 0, 0, 0, RAISING },
		{ 101, 100, 7, 0, 0, SQUEEZE, SQUEEZING },
	};
	static const struct row grace[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 51, 199, 7, 0, 0, TELL, RAISING },
		{ 5050, 199, 7, 0, 0, SQUEEZE, SQUEEZING },
		{ 5051, 199, 7, 0, 0, KILL, KILLING },
	};
	/* Seeing nothing, a shield, and memory that is back each begin it anew. */
	static const struct row patient[] = {
		{ 1, 199, 7, 0, 0, HOLD, HOLDING },
		{ 51, 199, 7, 0, 0, TELL, RAISING },
		{ 5050, MW_ABSENT, 7, 0, 0, 0, RAISING },
		{ 10049, 199, 7, 1, 0, 0, RAISING },
		{ 15048, 250, 7, 1, 0, 0, RAISING },
		{ 15049, 250, 7, 0, 0, SQUEEZE, SQUEEZING },
		{ 20048, 249, 7, 0, 0, 0, SQUEEZING },
		{ 20049, 249, 7, 0, 0, KILL, KILLING },
	};
	static const struct row ended[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 2, 100, 7, 0, 0, TELL, RAISING },
		{ 3, 100, 8, 0, 0, RELEASE | HOLD, HOLDING },
		{ 4, 100, 8, 0, 1, TELL, RAISING },
		{ 5, 100, 8, 0, 1, REAP, RAISING },
		{ 6, 300, 0, 0, 0, RELEASE, SETTLING },
		{ 7, 100, 9, 0, 1, HOLD, HOLDING },
		{ 8, 100, 9, 0, 1, TELL, RAISING },
		{ 9, 100, 9, 0, 1, REAP, RAISING },
	};
	/* A squeeze that is off does not come, however long it takes; one of 0 comes at once. */
	struct mw_numbers other = numbers;
	static const struct row never[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 0, TELL, RAISING },
		{ 4000, MW_ABSENT, 7, 0, 0, 0, RAISING },
		{ 8999, 100, 7, 0, 0, 0, RAISING },
		{ 9000, 100, 7, 0, 0, KILL, KILLING },
	};
	static const struct row at_once[] = {
		{ 1, 100, 7, 0, 0, HOLD, HOLDING },
		{ 1, 100, 7, 0, 0, TELL, RAISING },
		{ 1, 100, 7, 0, 0, SQUEEZE, SQUEEZING },
	};

	JUDGE(children);
	JUDGE(floor);
	JUDGE(squeezed);
	JUDGE(in_time);
	JUDGE(grace);
	JUDGE(patient);
	JUDGE(ended);
	other.squeeze_ns = -1;
	judge("never", &other, never, COUNT(never));
	other.squeeze_ns = 0;
	judge("at_once", &other, at_once, COUNT(at_once));
}

/* The same where there are other workers: trial 7 throughout, unless it has ended. */
struct turn_row {
	int64_t ms;
	uint64_t headroom;
	uint32_t turn;
	uint32_t deeds;
	uint64_t phase;
	enum { RUNS, SHIELDED, LEAVING, ENDED } it;
};

static void judge_turns(const char *name, const struct turn_row *rows, size_t n)
{
	struct mw_numbers with = numbers;
	struct mw_judgment state = { 0 };
	int before = check_failures();

	with.squeeze_ns = 20 * MS;
	for (size_t i = 0; i < n; i++) {
		struct mw_look look = {
			.time_ns = rows[i].ms * MS,
			.headroom = rows[i].headroom,
			.rss = MW_ABSENT,
			.epoch = rows[i].it == ENDED ? 0 : 7,
			.shielded = rows[i].it == SHIELDED,
			.leaving = rows[i].it == LEAVING,
			.turn = rows[i].turn,
		};

		CHECK_EQ(rows[i].deeds, mw_judge(&with, &state, &look));
		CHECK_EQ(rows[i].phase, state.phase);
		if (check_failed != before) {
			fprintf(stderr, "... in row %zu of %s\n", i, name);
			return;
		}
	}
}

#define JUDGE_TURNS(rows) judge_turns(#rows, rows, COUNT(rows))

static void test_turns(void)
{
	/* Asked for until it is had; urgent, once those who cross together know each other. */
	static const struct turn_row taken[] = {
		{ 1, 199, ALONE, HOLD, HOLDING, RUNS },
		{ 2, 199, FREE, 0, HOLDING, RUNS },
		{ 50, 125, FREE, 0, HOLDING, RUNS },
		{ 51, 199, FREE, TAKE, HOLDING, RUNS },
		{ 52, 199, FREE, TAKE, HOLDING, RUNS },
		{ 52, 199, MINE, TELL, RAISING, RUNS },
	};
	static const struct turn_row urgent[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 1, 124, FREE, 0, HOLDING, RUNS },
		{ 2, 124, FREE, 0, HOLDING, RUNS },
		{ 3, 124, FREE, TAKE, HOLDING, RUNS },
		{ 3, 124, MINE, TELL, RAISING, RUNS },
	};
	/* It was another's all along: let go once that one has ended, and memory is back. */
	static const struct turn_row freed[] = {
		{ 1, 199, ALONE, HOLD, HOLDING, RUNS },
		{ 50, 199, OTHERS, 0, HOLDING, RUNS },
		{ 51, 199, OTHERS, WAIT, WAITING, RUNS },
		{ 900, 10, OTHERS, 0, WAITING, RUNS },
		{ 901, 249, OTHERS, 0, WAITING, RUNS },
		{ 902, 250, OTHERS, RELEASE, WATCHING, RUNS },
		{ 903, 199, ALONE, HOLD, HOLDING, RUNS },
		{ 904, 124, OTHERS, WAIT, WAITING, RUNS },
		{ 905, 200, OTHERS, 0, WAITING, RUNS },
		{ 906, 200, FREE, RELEASE, WATCHING, RUNS },
	};
	/* While it rises by what counts nobody else is chosen; then it is chosen anew. */
	static const struct turn_row rising[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 2, 100, OTHERS, WAIT, WAITING, RUNS },
		{ 41, 109, OTHERS, 0, WAITING, RUNS },
		{ 41, 110, FREE, 0, WAITING, RUNS },
		{ 80, 119, FREE, 0, WAITING, RUNS },
		{ 80, 60, FREE, 0, WAITING, RUNS },
		{ 81, 119, FREE, TAKE, WAITING, RUNS },
		{ 82, 120, FREE, 0, WAITING, RUNS },
		{ 121, 129, FREE, 0, WAITING, RUNS },
		{ 122, 129, FREE, TAKE, WAITING, RUNS },
		{ 122, 129, MINE, TELL, RAISING, RUNS },
	};
	/* Who is alone by now waits for nobody. */
	static const struct turn_row alone[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 2, 100, OTHERS, WAIT, WAITING, RUNS },
		{ 3, 100, ALONE, TELL, RAISING, RUNS },
	};
	/* Blind, it neither takes nor waits for ever. */
	static const struct turn_row blind[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 2, 100, OTHERS, WAIT, WAITING, RUNS },
		{ 51, MW_ABSENT, FREE, 0, WAITING, RUNS },
		{ 52, MW_ABSENT, FREE, RELEASE, WATCHING, RUNS },
	};
	static const struct turn_row ended[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 2, 100, OTHERS, WAIT, WAITING, RUNS },
		{ 3, 100, OTHERS, RELEASE, WATCHING, ENDED },
	};
	/* Lost while it is told: nothing is raised any more, until its next turn. */
	static const struct turn_row lost[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 3, 100, MINE, TELL, RAISING, RUNS },
		{ 22, 100, MINE, 0, RAISING, RUNS },
		{ 22, 100, OTHERS, RETRACT | WAIT, WAITING, RUNS },
		{ 61, 10, FREE, 0, WAITING, RUNS },
		{ 62, 10, FREE, TAKE, WAITING, RUNS },
		{ 62, 100, MINE, TELL, RAISING, RUNS },
		{ 81, 100, MINE, 0, RAISING, RUNS },
		{ 82, 100, MINE, SQUEEZE, SQUEEZING, RUNS },
		{ 83, 100, FREE, RETRACT | LIFT | WAIT, WAITING, RUNS },
		{ 84, 250, FREE, RELEASE, WATCHING, RUNS },
	};
	/* Lost in the look that finds it below the floor: another worker has the turn. */
	static const struct turn_row below[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 3, 100, MINE, TELL, RAISING, RUNS },
		{ 4, 49, OTHERS, RETRACT | WAIT, WAITING, RUNS },
		{ 5, 49, MINE, TELL, RAISING, RUNS },
		{ 6, 49, MINE, KILL, KILLING, RUNS },
	};
	/* What is raised already goes on: it is the way out. */
	static const struct turn_row leaving[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 3, 100, MINE, TELL, RAISING, RUNS },
		{ 4, 100, OTHERS, 0, RAISING, LEAVING },
		{ 5, 100, FREE, 0, RAISING, LEAVING },
		{ 6, 100, OTHERS, RELEASE, SETTLING, ENDED },
	};
	/* Whoever is blind has lost it all the same. */
	static const struct turn_row blind_lost[] = {
		{ 1, 124, ALONE, HOLD, HOLDING, RUNS },
		{ 3, 100, MINE, TELL, RAISING, RUNS },
		{ 4, MW_ABSENT, OTHERS, RETRACT | WAIT, WAITING, SHIELDED },
		{ 5, 9, OTHERS, 0, WAITING, SHIELDED },
		{ 44, 19, FREE, 0, WAITING, SHIELDED },
		{ 83, 9, FREE, 0, WAITING, SHIELDED },
		{ 84, 9, FREE, TAKE, WAITING, SHIELDED },
	};

	JUDGE_TURNS(taken);
	JUDGE_TURNS(urgent);
	JUDGE_TURNS(freed);
	JUDGE_TURNS(rising);
	JUDGE_TURNS(alone);
	JUDGE_TURNS(blind);
	JUDGE_TURNS(ended);
	JUDGE_TURNS(lost);
	JUDGE_TURNS(below);
	JUDGE_TURNS(leaving);
	JUDGE_TURNS(blind_lost);
}

static void test_rss(void)
{
	static const struct {
		uint64_t rss;
		uint32_t deeds;
		uint64_t over;
	} rows[] = {
		{ 800, 0, 0 },
		{ 801, WAKE, 1 },
		{ 802, 0, 1 },
		{ MW_ABSENT, 0, 1 },
		{ 803, 0, 1 },
		{ 800, 0, 0 },
		{ MW_ABSENT, 0, 0 },
		{ MW_NO_LIMIT, WAKE, 1 },
	};
	struct mw_judgment state = { 0 };
	struct mw_numbers boundless = numbers;
	struct mw_look look = { .headroom = 900 };

	for (size_t i = 0; i < COUNT(rows); i++) {
		look.rss = rows[i].rss;
		CHECK_EQ(rows[i].deeds, mw_judge(&numbers, &state, &look));
		CHECK_EQ(rows[i].over, state.over);
	}
	boundless.rss_limit = MW_NO_LIMIT;
	CHECK_EQ(0, mw_judge(&boundless, &state, &look));
	CHECK_EQ(0, state.over);
	/* It is said beside what else is to be done. */
	look = (struct mw_look){ .headroom = 10, .rss = 801, .epoch = 7 };
	CHECK_EQ(HOLD | WAKE, mw_judge(&numbers, &state, &look));
	state = (struct mw_judgment){ .phase = KILLING, .epoch = 7 };
	CHECK_EQ(KILL | WAKE, mw_judge(&numbers, &state, &look));
}

static void test_victim(void)
{
	static const struct {
		struct mw_candidate list[3];
		uint32_t n;
		int place;
	} rows[] = {
		{ { { 0 } }, 0, -ENOENT },
		{ { { 0, 5, 3 } }, 1, 0 },
		{ { { 1, 9, 0 }, { 3, 1, 1 }, { 2, 5, 2 } }, 3, 1 },
		{ { { 3, 1, 0 }, { 3, 9, 1 }, { 3, 5, 2 } }, 3, 1 },
		{ { { 3, 9, 5 }, { 3, 9, 2 }, { 3, 9, 4 } }, 3, 1 },
		{ { { 3, 9, 2 }, { 3, 9, 2 } }, 2, 0 },
		{ { { MW_ABSENT, 9, 0 }, { 1, 1, 1 } }, 2, 1 },
		{ { { 1, 1, 0 }, { MW_ABSENT, 9, 1 } }, 2, 0 },
		{ { { MW_ABSENT, 1, 0 }, { 0, 2, 1 } }, 2, 1 },
		{ { { MW_NO_LIMIT, 1, 0 }, { 0, 2, 1 } }, 2, 0 },
	};

	for (size_t i = 0; i < COUNT(rows); i++)
		CHECK_EQ(rows[i].place, mw_victim(rows[i].list, rows[i].n));
	CHECK_EQ(-ENOENT, mw_victim(NULL, 0));
}

int main(void)
{
	test_watching();
	test_holding();
	test_raising();
	test_turns();
	test_rss();
	test_victim();
	return check_failures() != 0;
}
