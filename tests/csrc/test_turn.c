/*
 * test_turn.c - whose turn it is, in tables: the token's word, whom the board shows, and what
 * the brake makes of both.  No thread runs: each look is made up, with a clock of its own.
 * argv[1] is a folder to write in.
 *
 * Every order of a token's steps is in test_turn_steps.c; threads, and a trial that is told,
 * are in test_brake.c.
 *
 * links: parse.c procfs.c board.c board_file.c board_guard.c judge.c turn.c brake_turn.c
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "brake.h"
#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define NOWHERE "/nowhere" /* no /proc: nobody there is known to be dead */
#define MIB (UINT64_C(1) << 20)
#define S (1000 * (int64_t)MW_MS)
#define MS ((int64_t)MW_MS)
#define NOW (1000 * S)

static char folder[300];
static struct mw_board *board;

/* Workers, each with a slot; worker 0 is the one that is asked. */
static struct mw_turn workers[MW_SLOTS];

/* A board of `n` workers, none of which has looked yet. */
static void meet(uint32_t n)
{
	static unsigned int boards;

	snprintf(folder + strlen(folder) - 3, 4, "%03u", ++boards % 1000);
	CHECK_EQ(0, mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	memset(workers, 0, sizeof(workers));
	for (uint32_t i = 0; i < n; i++) {
		struct mw_turn *turn = &workers[i];

		turn->board = board;
		turn->owner = (struct mw_owner){ .pid = 1000 + i, .start_time = 1, .pid_namespace = 1 };
		CHECK_EQ(0, mw_slot_claim(board, NOWHERE, &turn->owner, INT64_MAX, &turn->slot));
		CHECK_EQ(i, turn->slot);
	}
}

static void part(void)
{
	mw_board_close(board);
	board = NULL;
}

static mw_word *token(const struct mw_turn *turn)
{
	return &board->memory->tokens[turn->token].word;
}

/* ------------------------------------------------------------------- words --- */

/* As board.h has them: slot(6), generation(10), epoch(16), deadline(32). */
static void words(void)
{
	static const struct {
		uint32_t slot;
		uint64_t generation;
		uint64_t epoch;
		uint64_t ms;
		uint64_t word;
	} rows[] = {
		{ 0, 1, 0, 0, UINT64_C(0x00010000000001f4) },
		{ 1, 1, 3, 1000, UINT64_C(0x04010003000005dc) },
		{ 63, 1023, 65535, 1000, UINT64_C(0xffffffff000005dc) },
		{ 0, 1024, 65536, 1000, UINT64_C(0x00000000000005dc) },
		{ 2, 65535, 65537, 1000, UINT64_C(0x0bff0001000005dc) },
		{ 5, 7, 9, (UINT64_C(1) << 32) - 501, UINT64_C(0x14070009ffffffff) },
		{ 5, 7, 9, (UINT64_C(1) << 32) - 499, UINT64_C(0x1407000900000001) },
		{ 5, 7, 9, (UINT64_C(5) << 32) + 10, UINT64_C(0x14070009000001fe) },
		/* A deadline of 0 is left out, or the word could be that of nobody. */
		{ 0, 1024, 0, (UINT64_C(1) << 32) - 500, 1 },
	};

	meet(1);
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct mw_turn turn = { .board = board, .slot = rows[i].slot };

		turn.owner.generation = rows[i].generation;
		mw_turn_enter(&turn, 0, 0);
		atomic_store(token(&turn), 0);
		CHECK(mw_turn_take(&turn, rows[i].epoch, (int64_t)rows[i].ms * MS));
		CHECK_EQ(rows[i].word, atomic_load(token(&turn)));
		CHECK_EQ(rows[i].word, turn.word);
	}
	part();
}

/* At whatever ms it begins, also where 32 bits run over: held to its end, and free from then on. */
static void leases(void)
{
	static const uint64_t begins[] = { 0,
					   1000000,
					   (UINT64_C(1) << 31) - 250,
					   (UINT64_C(1) << 31) + 7,
					   (UINT64_C(1) << 32) - 501,
					   (UINT64_C(1) << 32) - 250,
					   UINT64_C(0x7fffffffffffffff) / 1000000 - 100000 };

	meet(2);
	for (size_t i = 0; i < COUNT(begins); i++) {
		struct mw_turn *a = &workers[0], *b = &workers[1];
		int64_t begin = (int64_t)begins[i] * MS, end = begin + MW_LEASE_MS * MS;

		mw_turn_enter(a, 7, 7);
		mw_turn_enter(b, 7, 7);
		CHECK_EQ(MW_TURN_FREE, mw_turn_look(a, begin));
		CHECK_EQ(-1, mw_turn_left_ms(a, begin));
		CHECK(mw_turn_take(a, 3, begin));
		CHECK_EQ(MW_LEASE_MS, mw_turn_left_ms(a, begin));
		CHECK_EQ(MW_TURN_MINE, mw_turn_look(a, end));
		CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(b, end));
		CHECK(!mw_turn_take(b, 5, end));
		/* Neither has what is not its own. */
		CHECK(!mw_turn_renew(b, end, MW_LEASE_MS));
		mw_turn_release(b);
		CHECK_EQ(MW_TURN_MINE, mw_turn_look(a, end));
		CHECK(mw_turn_renew(a, begin + MW_LEASE_MS / 2 * MS, MW_LEASE_MS));
		CHECK_EQ(MW_LEASE_MS / 2, mw_turn_left_ms(a, end));
		CHECK_EQ(3, atomic_load(token(a)) >> 32 & 0xffff);
		end += MW_LEASE_MS / 2 * MS;
		CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(b, end));
		CHECK_EQ(-1, mw_turn_left_ms(a, end + MS));
		CHECK(!mw_turn_renew(a, end + MS, MW_LEASE_MS));
		CHECK_EQ(0, a->word);
		CHECK_EQ(MW_TURN_FREE, mw_turn_look(b, end + MS));
		CHECK(mw_turn_take(b, 5, end + MS));
		CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(a, end + MS));
		/* Longer, for one that is killed. */
		CHECK(mw_turn_renew(b, end + MS, MW_LEASE_DEAD_MS));
		CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(a, end + (MW_LEASE_DEAD_MS + 1) * MS));
		CHECK_EQ(MW_TURN_FREE, mw_turn_look(a, end + (MW_LEASE_DEAD_MS + 2) * MS));
		mw_turn_release(b);
		CHECK_EQ(0, atomic_load(token(b)));
		mw_turn_release(b);
	}
	part();
}

/* What nobody wrote is free; so is that of a slot which is nobody's, or another's. */
static void nonsense(void)
{
	const uint32_t now = (uint32_t)(NOW / MS);
	const uint64_t soon = now + 100, generation = UINT64_C(1) << 48;
	const struct {
		uint64_t word;
		uint32_t turn;
	} rows[] = {
		{ 0, MW_TURN_FREE },
		{ UINT64_C(1) << 58 | generation | soon, MW_TURN_OTHERS },
		{ UINT64_C(1) << 58 | generation | now, MW_TURN_OTHERS },
		{ UINT64_C(1) << 58 | generation | (now - 1), MW_TURN_FREE },
		{ UINT64_C(1) << 58 | generation | (now + MW_LEASE_MOST_MS), MW_TURN_OTHERS },
		{ UINT64_C(1) << 58 | generation | (now + MW_LEASE_MOST_MS + 1), MW_TURN_FREE },
		{ UINT64_C(1) << 58 | generation | (now + INT32_MAX), MW_TURN_FREE },
		{ UINT64_C(1) << 58 | generation | (uint32_t)(now + (UINT32_C(1) << 31)), MW_TURN_FREE },
		/* Of the generation before, of the next, and of one that was never anybody's. */
		{ UINT64_C(1) << 58 | soon, MW_TURN_FREE },
		{ UINT64_C(1) << 58 | 2 * generation | soon, MW_TURN_FREE },
		{ UINT64_C(2) << 58 | soon, MW_TURN_FREE },
		{ UINT64_C(63) << 58 | generation | soon, MW_TURN_FREE },
		{ UINT64_MAX, MW_TURN_FREE },
		/* One that looks like ours, and which we did not write. */
		{ generation | soon, MW_TURN_OTHERS },
	};

	meet(2);
	mw_turn_enter(&workers[0], 0, 0);
	for (size_t i = 0; i < COUNT(rows); i++) {
		atomic_store(token(&workers[0]), rows[i].word);
		CHECK_EQ(rows[i].turn, mw_turn_look(&workers[0], NOW));
		CHECK_EQ(rows[i].turn == MW_TURN_FREE, mw_turn_take(&workers[0], 1, NOW));
		workers[0].word = 0;
	}
	/* Whoever gives up its slot gives up what it held. */
	atomic_store(token(&workers[0]), UINT64_C(1) << 58 | generation | soon);
	CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(&workers[0], NOW));
	CHECK_EQ(0, mw_slot_release(board, 1, &workers[1].owner));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[0], NOW));
	CHECK_EQ(0, mw_slot_claim(board, NOWHERE, &workers[1].owner, INT64_MAX, &workers[1].slot));
	CHECK_EQ(1, workers[1].slot);
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[0], NOW));
	part();
}

/* ------------------------------------------------------------------- limits --- */

/* Each limit has a token of its own, which all find; the 65th shares one, and 0, 0 is one of them. */
static void limits(void)
{
	uint32_t tokens[MW_TOKENS];
	uint64_t seen = 0;

	meet(2);
	for (uint64_t i = 0; i < MW_TOKENS; i++) {
		mw_turn_enter(&workers[0], i ? 7 : 0, i);
		mw_turn_enter(&workers[1], i ? 7 : 0, i);
		CHECK(workers[0].key);
		CHECK_EQ(workers[0].token, workers[1].token);
		CHECK(workers[0].token < MW_TOKENS);
		CHECK(!(seen >> workers[0].token & 1));
		seen |= UINT64_C(1) << workers[0].token;
		tokens[i] = workers[0].token;
	}
	CHECK_EQ(UINT64_MAX, seen);
	for (uint64_t i = 0; i < MW_TOKENS; i++) {
		mw_turn_enter(&workers[0], i ? 7 : 0, i);
		CHECK_EQ(tokens[i], workers[0].token);
	}
	for (uint64_t i = 0; i < 100; i++) {
		mw_turn_enter(&workers[0], 8, i);
		mw_turn_enter(&workers[1], 8, i);
		CHECK_EQ(workers[0].token, workers[1].token);
		CHECK(workers[0].token < MW_TOKENS);
	}
	part();
}

/* Who goes over to another limit gives back what it held of the one before; who stays does not. */
static void another_limit(void)
{
	meet(2);
	mw_turn_enter(&workers[0], 7, 1);
	mw_turn_enter(&workers[1], 7, 1);
	CHECK(mw_turn_take(&workers[0], 1, NOW));
	mw_turn_enter(&workers[0], 7, 1);
	CHECK_EQ(MW_TURN_MINE, mw_turn_look(&workers[0], NOW));
	CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(&workers[1], NOW));
	mw_turn_enter(&workers[0], 7, 2);
	CHECK_EQ(0, workers[0].word);
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[0], NOW));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[1], NOW));
	/* The two are apart. */
	CHECK(mw_turn_take(&workers[0], 1, NOW));
	CHECK(mw_turn_take(&workers[1], 1, NOW));
	part();
}

/* ------------------------------------------------------------------- others --- */

enum {
	WATCHING = MW_BRAKE_WATCHING,
	HOLDING = MW_BRAKE_HOLDING,
	WAITING = MW_BRAKE_WAITING,
	RAISING = MW_BRAKE_RAISING,
};

static void publish(uint32_t worker, const struct mw_live *live)
{
	CHECK_EQ(0, mw_slot_set_live(board, workers[worker].slot, &workers[worker].owner, live));
}

/* What one other worker shows, and what that means to us: we have grown by 100 since 500. */
static void one_other(void)
{
	static const struct {
		struct {
			uint64_t phase;
			int64_t ago_ns;
			uint64_t growth;
			int64_t start_ns;
			uint64_t dev;
			uint64_t ino;
		} it;
		bool is_peer;
		bool wants;
		bool we_are_chosen;
	} rows[] = {
		/* Phases: only who is held, or waits, is to be chosen from. */
		{ { HOLDING, 0, 101, 1, 7, 1 }, true, true, false },
		{ { WAITING, 0, 101, 1, 7, 1 }, true, true, false },
		{ { WATCHING, 0, 101, 1, 7, 1 }, true, false, true },
		{ { RAISING, 0, 101, 1, 7, 1 }, true, false, true },
		{ { MW_BRAKE_SQUEEZING, 0, 101, 1, 7, 1 }, true, false, true },
		{ { MW_BRAKE_KILLING, 0, 101, 1, 7, 1 }, true, false, true },
		{ { MW_BRAKE_SETTLING, 0, 101, 1, 7, 1 }, true, false, true },
		{ { MW_BRAKE_OFF, 0, 101, 1, 7, 1 }, false, false, true },
		{ { UINT64_MAX, 0, 101, 1, 7, 1 }, true, false, true },
		/* Growth; then who began last; then the lower slot, which is ours. */
		{ { HOLDING, 0, 99, 999, 7, 1 }, true, true, true },
		{ { HOLDING, 0, 100, 499, 7, 1 }, true, true, true },
		{ { HOLDING, 0, 100, 500, 7, 1 }, true, true, true },
		{ { HOLDING, 0, 100, 501, 7, 1 }, true, true, false },
		{ { HOLDING, 0, 0, 999, 7, 1 }, true, true, true },
		{ { HOLDING, 0, MW_ABSENT, 999, 7, 1 }, true, true, true },
		{ { HOLDING, 0, MW_ABSENT - 1, 0, 7, 1 }, true, true, false },
		/* Another limit binds it. */
		{ { HOLDING, 0, 101, 1, 7, 2 }, true, false, true },
		{ { HOLDING, 0, 101, 1, 8, 1 }, true, false, true },
		{ { HOLDING, 0, 101, 1, 0, 0 }, true, false, true },
		/* How long ago it looked; the clock of another machine, or of a scribbler. */
		{ { HOLDING, MW_FRESH_NS, 101, 1, 7, 1 }, true, true, false },
		{ { HOLDING, MW_FRESH_NS + 1, 101, 1, 7, 1 }, true, false, true },
		{ { HOLDING, -MW_FRESH_NS, 101, 1, 7, 1 }, true, true, false },
		{ { HOLDING, -MW_FRESH_NS - 1, 101, 1, 7, 1 }, true, false, true },
		{ { HOLDING, MW_PEER_NS, 101, 1, 7, 1 }, true, false, true },
		{ { HOLDING, MW_PEER_NS + 1, 101, 1, 7, 1 }, false, false, true },
		{ { HOLDING, -MW_PEER_NS, 101, 1, 7, 1 }, true, false, true },
		{ { HOLDING, -MW_PEER_NS - 1, 101, 1, 7, 1 }, false, false, true },
		{ { HOLDING, NOW - INT64_MAX, 101, 1, 7, 1 }, false, false, true },
	};
	const struct mw_candidate mine = { 100, 500, 99 };

	meet(2);
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct mw_live live = {
			.time_ns = NOW - rows[i].it.ago_ns,
			.phase = rows[i].it.phase,
			.growth = rows[i].it.growth,
			.trial_start_ns = rows[i].it.start_ns,
			.bind_dev = rows[i].it.dev,
			.bind_ino = rows[i].it.ino,
		};
		int before = check_failed;

		publish(1, &live);
		CHECK_EQ(rows[i].is_peer, mw_turn_has_peers(&workers[0], NOW));
		CHECK_EQ(rows[i].wants, mw_turn_wanted(&workers[0], 7, 1, NOW));
		CHECK_EQ(rows[i].we_are_chosen, mw_turn_chosen(&workers[0], &mine, 7, 1, NOW));
		/* What we published ourselves is not another's. */
		publish(0, &live);
		CHECK_EQ(rows[i].is_peer, mw_turn_has_peers(&workers[0], NOW));
		CHECK_EQ(rows[i].we_are_chosen, mw_turn_chosen(&workers[0], &mine, 7, 1, NOW));
		if (check_failed > before)
			fprintf(stderr, "... in row %zu\n", i);
	}
	/* So far from now that the difference is no number. */
	publish(1, &(struct mw_live){ .time_ns = INT64_MIN, .phase = HOLDING, .growth = 101, .bind_dev = 7, .bind_ino = 1 });
	CHECK(!mw_turn_has_peers(&workers[0], NOW));
	CHECK(mw_turn_chosen(&workers[0], &mine, 7, 1, NOW));
	part();
}

static const struct mw_live held = { .time_ns = NOW, .phase = MW_BRAKE_HOLDING, .growth = 101 };

static bool is_seen(void)
{
	const struct mw_candidate mine = { 100, 500, 0 };
	bool wanted = mw_turn_wanted(&workers[0], 0, 0, NOW);

	CHECK_EQ(wanted, !mw_turn_chosen(&workers[0], &mine, 0, 0, NOW));
	CHECK_EQ(wanted, mw_turn_has_peers(&workers[0], NOW));
	return wanted;
}

/* A slot that is nobody's, in the making, or scribbled on has nobody in it. */
static void slots(void)
{
	struct mw_state *state;
	uint64_t claim, ready, live;

	meet(2);
	state = &board->memory->states[1];
	claim = atomic_load(&state->claim);
	ready = atomic_load(&state->ready);
	CHECK(!is_seen());
	publish(1, &held);
	CHECK(is_seen());
	atomic_store(&state->ready, ready ^ 1);
	CHECK(!is_seen());
	atomic_store(&state->ready, ready);
	atomic_store(&state->claim, claim + (UINT64_C(1) << 48));
	CHECK(!is_seen());
	atomic_store(&state->claim, UINT64_MAX);
	CHECK(!is_seen());
	atomic_store(&state->claim, claim);
	CHECK(is_seen());
	live = atomic_load(&state->live[0]);
	atomic_store(&state->live[0], 0);
	CHECK(!is_seen());
	atomic_store(&state->live[0], live);
	CHECK(is_seen());
	/* Its words, too: whatever stands there, it is a worker more or less, and no crash. */
	for (uint64_t word = 0; word < MW_WORDS(struct mw_owner); word++) {
		uint64_t was = atomic_load(&state->owner[word]);

		atomic_store(&state->owner[word], UINT64_MAX);
		(void)is_seen();
		atomic_store(&state->owner[word], was);
	}
	CHECK_EQ(0, mw_slot_release(board, 1, &workers[1].owner));
	CHECK(!is_seen());
	part();
}

/* All 64: one is chosen, by all alike, whoever it is. */
static void a_full_board(void)
{
	meet(MW_SLOTS);
	for (uint32_t victim = 0; victim < MW_SLOTS; victim++) {
		uint32_t chosen = 0;

		for (uint32_t i = 0; i < MW_SLOTS; i++) {
			struct mw_live live = held;

			live.growth = i == victim ? 50 : 10 + i % 3;
			live.phase = i % 2 ? HOLDING : WAITING;
			publish(i, &live);
		}
		for (uint32_t i = 0; i < MW_SLOTS; i++) {
			const struct mw_candidate own = { i == victim ? 50 : 10 + i % 3, 0, 0 };

			CHECK(mw_turn_wanted(&workers[i], 0, 0, NOW));
			CHECK_EQ(i == victim, mw_turn_chosen(&workers[i], &own, 0, 0, NOW));
			chosen += mw_turn_chosen(&workers[i], &own, 0, 0, NOW);
			mw_turn_enter(&workers[i], 0, 0);
		}
		CHECK_EQ(1, chosen);
		CHECK(mw_turn_take(&workers[victim], 1, NOW));
		for (uint32_t i = 0; i < MW_SLOTS; i++)
			CHECK_EQ(i == victim ? MW_TURN_MINE : MW_TURN_OTHERS, mw_turn_look(&workers[i], NOW));
		mw_turn_release(&workers[victim]);
	}
	part();
}

/* -------------------------------------------------------------- the brake's --- */

static struct mw_own own;
static struct mw_brake brake;
static struct mw_look look;

/* One that holds or tells its trial, at worker 0's slot, below the limit (7, 1). */
static void make_brake(uint64_t phase)
{
	memset(&brake, 0, sizeof(brake));
	memset(&own, 0, sizeof(own));
	brake.own = &own;
	brake.numbers.gather_ns = 2 * MS;
	brake.state = (struct mw_judgment){ .phase = phase, .epoch = 9, .since_ns = NOW };
	brake.live.bind_dev = 7;
	brake.live.bind_ino = 1;
	brake.board = board;
	brake.owner = workers[0].owner;
	brake.slot = workers[0].slot;
	mw_move_turn(&brake);
	look = (struct mw_look){ .time_ns = NOW, .headroom = 100, .rss = 100, .epoch = 9 };
}

static void show(uint32_t worker, uint64_t phase, uint64_t growth)
{
	publish(worker, &(struct mw_live){
				.time_ns = look.time_ns, .phase = phase, .growth = growth, .bind_dev = 7, .bind_ino = 1 });
}

/* Without a trial, a board, or ever having contended for a limit, it is alone. */
static void alone(void)
{
	meet(2);
	mw_turn_enter(&workers[1], 7, 1);
	CHECK(mw_turn_take(&workers[1], 1, NOW));
	make_brake(HOLDING);
	CHECK_EQ(MW_TURN_OTHERS, mw_see_turn(&brake, &look));
	brake.state.epoch = 0;
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	make_brake(HOLDING);
	brake.board = NULL;
	mw_move_turn(&brake);
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	mw_take_turn_alone(&brake, NOW);
	/* Of what is not seen nothing is known, neither what binds. */
	make_brake(HOLDING);
	look.headroom = MW_ABSENT;
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	CHECK_EQ(0, brake.turn.key);
	mw_take_turn_alone(&brake, NOW);
	CHECK_EQ(0, brake.turn.word);
	look.headroom = 100;
	CHECK_EQ(MW_TURN_OTHERS, mw_see_turn(&brake, &look));
	look.headroom = MW_ABSENT;
	CHECK_EQ(MW_TURN_OTHERS, mw_see_turn(&brake, &look));
	make_brake(RAISING);
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	part();
}

/* Where nobody looks nobody is waited for; where somebody does, until all have shown up. */
static void gathering(void)
{
	meet(2);
	make_brake(HOLDING);
	look.time_ns = NOW + 2 * MS - 1;
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	mw_take_turn_alone(&brake, NOW);
	CHECK_EQ(MW_TURN_MINE, mw_see_turn(&brake, &look));
	mw_turn_release(&brake.turn);
	look.time_ns = NOW + 2 * MS;
	CHECK_EQ(MW_TURN_FREE, mw_see_turn(&brake, &look));
	CHECK(mw_try_turn(&brake, &look));
	CHECK_EQ(MW_TURN_MINE, mw_see_turn(&brake, &look));
	mw_turn_release(&brake.turn);
	look.time_ns = NOW;
	show(1, WATCHING, 0);
	CHECK_EQ(MW_TURN_FREE, mw_see_turn(&brake, &look));
	show(1, MW_BRAKE_OFF, 0);
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	part();
}

/* Only the one that is chosen takes it, with its epoch; and one of those that cannot see each other. */
static void trying(void)
{
	struct mw_candidate theirs = { 50, 0, 1 };

	meet(2);
	mw_turn_enter(&workers[1], 7, 1);
	make_brake(HOLDING);
	show(1, HOLDING, 50);
	CHECK_EQ(MW_TURN_FREE, mw_see_turn(&brake, &look));
	brake.live.growth = 49;
	CHECK(!mw_try_turn(&brake, &look));
	CHECK_EQ(0, atomic_load(token(&workers[1])));
	brake.live.growth = 50;
	brake.live.trial_start_ns = -1;
	CHECK(!mw_try_turn(&brake, &look));
	brake.live.trial_start_ns = 0; /* of one age: the lower slot */
	CHECK(mw_try_turn(&brake, &look));
	CHECK_EQ(9, atomic_load(token(&workers[1])) >> 32 & 0xffff);
	CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(&workers[1], NOW));
	/* Chosen as well, since it does not see us: too late. */
	CHECK(mw_turn_chosen(&workers[1], &theirs, 7, 1, NOW));
	CHECK(!mw_turn_take(&workers[1], 1, NOW));
	CHECK_EQ(MW_TURN_MINE, mw_see_turn(&brake, &look));
	/* Another limit binds us by now: what was had is given back. */
	brake.live.bind_ino = 2;
	show(1, WATCHING, 0);
	CHECK_EQ(MW_TURN_FREE, mw_see_turn(&brake, &look));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[1], NOW));
	part();
}

/* A turn of ours, `ms` ago, at a trial that is told. */
static void hold_turn(int64_t ms)
{
	make_brake(RAISING);
	mw_turn_enter(&brake.turn, 7, 1);
	atomic_store(token(&brake.turn), 0);
	CHECK(mw_turn_take(&brake.turn, 9, NOW - ms * MS));
}

/* Told, it goes on having the turn: renewed when a fifth of its lease is over. */
static void keeping(void)
{
	enum { RUNS, SHIELDED, LEAVING = 2, BLIND = 4 };
	static const struct {
		int64_t ms;      /* how long ago it was taken, */
		int64_t told_ms; /* and the trial told */
		int it;
		bool wanted;
		bool lost; /* to another */
		uint32_t turn;
		int64_t left_ms;
	} rows[] = {
		{ 0, 0, RUNS, false, false, MW_TURN_MINE, 500 },
		{ 100, 0, RUNS, false, false, MW_TURN_MINE, 400 },
		{ 101, 0, RUNS, false, false, MW_TURN_MINE, 500 },
		{ 500, 0, RUNS, true, false, MW_TURN_MINE, 500 },
		/* Run out: it is asked for anew, unless the trial is on its way out. */
		{ 501, 0, RUNS, false, false, MW_TURN_FREE, -1 },
		{ 501, 0, LEAVING, false, false, MW_TURN_MINE, 500 },
		{ 101, 0, RUNS, false, true, MW_TURN_OTHERS, -1 },
		{ 101, 0, LEAVING, false, true, MW_TURN_OTHERS, -1 },
		/* Under a shield it lasts no longer than its lease, where others wait for it. */
		{ 101, 0, SHIELDED, false, false, MW_TURN_MINE, 500 },
		{ 101, 0, SHIELDED, true, false, MW_TURN_MINE, 399 },
		{ 500, 0, SHIELDED, true, false, MW_TURN_MINE, 0 },
		{ 501, 0, SHIELDED, true, false, MW_TURN_FREE, -1 },
		/* Nor does that of one who sees nothing, and so tells nobody. */
		{ 101, 0, BLIND, false, false, MW_TURN_MINE, 500 },
		{ 101, 0, BLIND, true, false, MW_TURN_MINE, 399 },
		{ 501, 0, BLIND | LEAVING, true, false, MW_TURN_FREE, -1 },
		/* On its way out it has time: that to end in, and that in which memory comes back. */
		{ 101, 0, SHIELDED | LEAVING, true, false, MW_TURN_MINE, 500 },
		{ 501, 7000, SHIELDED | LEAVING, true, false, MW_TURN_MINE, 500 },
		{ 101, 7001, LEAVING, true, false, MW_TURN_MINE, 399 },
		{ 501, 7001, LEAVING, true, false, MW_TURN_FREE, -1 },
		{ 501, 7001, LEAVING, false, false, MW_TURN_MINE, 500 },
	};

	meet(2);
	mw_turn_enter(&workers[1], 7, 1);
	for (size_t i = 0; i < COUNT(rows); i++) {
		int before = check_failed;

		hold_turn(rows[i].ms);
		brake.numbers.grace_ns = 5 * S;
		brake.state.told_ns = NOW - rows[i].told_ms * MS;
		look.shielded = rows[i].it & SHIELDED;
		look.leaving = (rows[i].it & LEAVING) != 0;
		if (rows[i].it & BLIND)
			look.headroom = MW_ABSENT;
		show(1, rows[i].wanted ? HOLDING : WATCHING, 0);
		if (rows[i].lost) {
			atomic_store(token(&workers[1]), 0);
			CHECK(mw_turn_take(&workers[1], 1, NOW));
		}
		CHECK_EQ(rows[i].turn, mw_see_turn(&brake, &look));
		CHECK_EQ(rows[i].left_ms, mw_turn_left_ms(&brake.turn, NOW));
		if (check_failed > before)
			fprintf(stderr, "... in row %zu\n", i);
	}
	part();
}

/* Another board, or none: what was held of the one before is given back, and nothing is known of it. */
static void moving(void)
{
	struct mw_board *before;

	meet(1);
	before = board;
	hold_turn(0);
	CHECK(atomic_load(token(&brake.turn)));
	brake.board = NULL;
	mw_move_turn(&brake);
	CHECK_EQ(0, brake.turn.key);
	CHECK_EQ(0, brake.turn.word);
	workers[0].board = before;
	mw_turn_enter(&workers[0], 7, 1);
	CHECK_EQ(0, atomic_load(token(&workers[0])));
	/* One that is taken already is not taken twice. */
	make_brake(RAISING);
	mw_turn_enter(&brake.turn, 7, 1);
	mw_take_turn_alone(&brake, NOW);
	CHECK_EQ(MW_LEASE_MS, mw_turn_left_ms(&brake.turn, NOW));
	mw_take_turn_alone(&brake, NOW + 100 * MS);
	CHECK_EQ(MW_LEASE_MS, mw_turn_left_ms(&brake.turn, NOW));
	part();
}

/* A board that was cut short under it is none; nobody is waited for because of it. */
static void broken(void)
{
	char path[400];

	meet(2);
	mw_turn_enter(&workers[1], 7, 1);
	make_brake(HOLDING);
	CHECK(mw_turn_take(&workers[1], 1, NOW));
	CHECK_EQ(MW_TURN_OTHERS, mw_see_turn(&brake, &look));
	snprintf(path, sizeof(path), "%s/board", folder);
	CHECK(!truncate(path, MW_PAGE));
	/* What is met there from now on is empty. */
	CHECK(mw_see_turn(&brake, &look) != MW_TURN_OTHERS);
	CHECK(mw_board_broken(board));
	CHECK_EQ(MW_TURN_ALONE, mw_see_turn(&brake, &look));
	mw_take_turn_alone(&brake, NOW);
	CHECK_EQ(0, brake.turn.word);
	mw_move_turn(&brake);
	part();
}

/* Of the process since its trial began; of each child that was started since, beyond what its parent had then. */
static void growing(void)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	const struct {
		uint64_t before; /* pages */
		uint64_t now;
		bool shielded;
		struct {
			uint64_t start_time; /* the trial began with tick 100 */
			uint64_t pages;
		} kin[3];
		uint64_t growth;
	} rows[] = {
		{ 1000, 1000, false, { { 0 } }, 0 },
		{ 1000, 1500, false, { { 0 } }, 500 },
		{ 1000, 400, false, { { 0 } }, 0 },
		{ 1000, MW_ABSENT, false, { { 100, 5000 } }, 0 },
		{ MW_ABSENT, 1000, false, { { 100, 5000 } }, 0 },
		{ 0, 1000, false, { { 0 } }, 1000 },
		{ 1000, 1500, true, { { 100, 5000 } }, 0 },
		{ 1000, 1500, false, { { 99, 9000 } }, 500 },
		{ 1000, 1500, false, { { 100, 1200 } }, 700 },
		{ 1000, 1500, false, { { 101, 1000 } }, 500 },
		{ 1000, 1500, false, { { 101, 300 } }, 500 },
		{ 1000, 1500, false, { { 101, MW_ABSENT } }, 500 },
		{ 1000, 400, false, { { 101, 1200 }, { 99, 4000 }, { 102, 1003 } }, 203 },
	};

	meet(1);
	for (size_t i = 0; i < COUNT(rows); i++) {
		make_brake(HOLDING);
		brake.target.seat = 3;
		brake.target.start_ticks = 100;
		brake.shielded = rows[i].shielded;
		brake.live.rss = rows[i].now == MW_ABSENT ? MW_ABSENT : rows[i].now * page;
		mw_set(&brake, mw_seat(3, MW_SEAT_START_RSS),
		       rows[i].before == MW_ABSENT ? MW_ABSENT : rows[i].before * page);
		for (size_t k = 0; k < COUNT(rows[i].kin); k++)
			brake.kin[k] = (struct mw_kin){ .pid = 1,
							.pidfd = -1,
							.start_time = rows[i].kin[k].start_time,
							.rss_pages = rows[i].kin[k].pages };
		brake.kin_count = COUNT(rows[i].kin);
		CHECK_EQ(rows[i].growth * page, mw_growth(&brake));
	}
	part();
}

/* Lent in a worker's name, a token is another's to everybody, that worker too. */
static void lent(void)
{
	struct mw_turn *a, *b;
	struct mw_owner other;
	int64_t end = NOW + 400 * MS;

	meet(2);
	a = &workers[0];
	b = &workers[1];
	mw_turn_enter(a, 7, 7);
	mw_turn_enter(b, 7, 7);
	/* To look takes nothing. */
	CHECK_EQ(0, mw_turn_lend(board, MW_SLOTS, NULL, 7, 7, NOW, 400));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(a, NOW));
	CHECK_EQ(0, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW, 400));
	CHECK_EQ(-EBUSY, mw_turn_lend(board, MW_SLOTS, NULL, 7, 7, NOW, 400));
	CHECK_EQ(-EBUSY, mw_turn_lend(board, b->slot, &b->owner, 7, 7, NOW, 400));
	CHECK_EQ(0, mw_turn_lend(board, b->slot, &b->owner, 7, 8, NOW, 400)); /* another limit */
	for (uint32_t i = 0; i < 2; i++) {
		CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(&workers[i], end));
		CHECK(!mw_turn_take(&workers[i], 3, end));
		CHECK_EQ(MW_TURN_FREE, mw_turn_look(&workers[i], end + MS));
	}
	/* Prolonged, to 10 s at most; given back. */
	CHECK_EQ(0, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW, 1000000));
	CHECK_EQ(MW_TURN_OTHERS, mw_turn_look(a, NOW + MW_LEASE_MOST_MS * MS));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(a, NOW + (MW_LEASE_MOST_MS + 1) * MS));
	CHECK_EQ(0, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW + 5 * S, 0));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(b, NOW + 5 * S + MS));
	/* Who brakes is let, even by who would stop it. */
	CHECK(mw_turn_take(a, 3, NOW + 6 * S));
	CHECK_EQ(-EBUSY, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW + 6 * S, 400));
	CHECK_EQ(MW_TURN_MINE, mw_turn_look(a, NOW + 6 * S));
	mw_turn_release(a);
	/* It ends with the slot. */
	CHECK_EQ(0, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW + 7 * S, 400));
	CHECK_EQ(0, mw_slot_release(board, a->slot, &a->owner));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(b, NOW + 7 * S));
	CHECK_EQ(-ESTALE, mw_turn_lend(board, a->slot, &a->owner, 7, 7, NOW + 7 * S, 400));
	other = b->owner;
	other.start_time++;
	CHECK_EQ(-ESTALE, mw_turn_lend(board, b->slot, &other, 7, 7, NOW + 7 * S, 400));
	CHECK_EQ(MW_TURN_FREE, mw_turn_look(b, NOW + 7 * S));
	part();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{ "words", words },
		{ "leases", leases },
		{ "nonsense", nonsense },
		{ "limits", limits },
		{ "another_limit", another_limit },
		{ "one_other", one_other },
		{ "slots", slots },
		{ "a_full_board", a_full_board },
		{ "alone", alone },
		{ "gathering", gathering },
		{ "trying", trying },
		{ "keeping", keeping },
		{ "moving", moving },
		{ "broken", broken },
		{ "growing", growing },
		{ "lent", lent },
	};

	if (argc < 2)
		return 2;
	snprintf(folder, sizeof(folder), "%s/board-000", argv[1]);
	for (size_t i = 0; i < COUNT(cases); i++) {
		int failed = check_failed;

		if (argc > 2 && strcmp(argv[2], cases[i].name))
			continue;
		cases[i].run();
		if (check_failed > failed)
			fprintf(stderr, "... in %s\n", cases[i].name);
	}
	return check_failures() != 0;
}
