/*
 * test_turn_steps.c - the token's protocol, over every order in which the steps of several
 * workers can follow one another.
 *
 * links: board.c board_file.c board_guard.c procfs.c parse.c judge.c
 *
 * The code is turn.c itself; what it loads and swaps is given to it here, one step at a
 * time.  A worker that is to go on by one step does its call anew from the beginning, is
 * given what it read before, then takes that step, and is left where the next one would
 * be.  So a state is plain data: it can be copied, and known again.
 *
 * Between any two steps, another worker may take its own, time may pass, a worker may be
 * killed, its slot be another's, and the token be scribbled on.  A worker that was stopped
 * is one that takes no step while time passes.  Each is bounded by a number; within these,
 * nothing is left out, and each state is judged: see judge().
 *
 * Loads and stores here come in one order for all.  turn.c asks for less (acquire and
 * release), but no step of it depends on the order of two different words, but that of a
 * claim after the token that names its slot.
 *
 * With "long" behind the folder the numbers are larger.  tests/test_turn.py has this find
 * what is wrong with a turn.c that was changed (TURN_C).
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "check.h"

/* Each access is announced; none is made by another way. */
static unsigned int announced;
#define MW_STEP() ((void)announced++)

static uint64_t touch(const mw_word *word, int writes, uint64_t from, uint64_t to);

static bool exchange(const mw_word *word, const uint64_t *from, uint64_t to)
{
	return touch(word, 1, *from, to) == *from;
}

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_compare_exchange_strong_explicit
#define atomic_load_explicit(word, order) touch(word, 0, 0, 0)
#define atomic_store_explicit(word, to, order) ((void)touch(word, 2, 0, to))
#define atomic_compare_exchange_strong_explicit(word, from, to, order, otherwise) exchange(word, from, to)

#ifndef TURN_C
#define TURN_C "turn.c"
#endif
#include TURN_C

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum {
	WORKERS = 3,
	LIMITS = 3,
	ROUNDS = 4,
	PLACES = 4, /* tokens that may change, from a home on; all others stay as they are */
	READS = 16, /* in one call, at most */
	TICK_MS = 250, /* after two a lease is in its last ms, after three it has run out */
};

/* What a worker is at: a call of turn.c, or between two. */
enum doing { SLEEPS, ENTERS, LOOKS, TAKES, HOLDS, RENEWS, EXTENDS, RELEASES, QUITS, HAS_QUIT };

enum life { ALIVE, KILLED, GONE };

struct worker {
	uint64_t life;
	uint64_t doing;
	uint64_t round;
	uint64_t now_ms; /* when it looked */
	uint64_t generation;
	/* Its struct mw_turn as the call began, */
	uint64_t key;
	uint64_t token;
	uint64_t word;
	/* and as it is: what it holds, by its own belief, and where. */
	uint64_t believes;
	uint64_t believes_at;
	/* What the call has read so far. */
	uint64_t reads;
	uint64_t read[READS];
};

struct state {
	uint64_t now_ms;
	uint64_t ticks; /* how often time may pass yet; and so on */
	uint64_t kills;
	uint64_t births;
	uint64_t scribbles;
	uint64_t extended; /* a token was, as one that is killed does */
	uint64_t scribbled;
	uint64_t key[PLACES];
	uint64_t word[PLACES];
	uint64_t claim[WORKERS];
	struct worker workers[WORKERS];
};

/* The bounds of one search. */
struct search {
	int size;
	const char *name;
	uint64_t workers;
	uint64_t rounds; /* how often each looks */
	uint64_t ticks;
	uint64_t kills;
	uint64_t births;
	uint64_t scribbles;
	bool extends;      /* a holder may extend it, as one that is killed */
	uint64_t room;     /* places that other limits do not have */
	uint64_t start_ms;
	uint8_t limits[WORKERS][ROUNDS]; /* which one binds each, by rounds */
};

static const struct search *search;
static struct mw_memory memory;
static struct mw_board board = { .memory = &memory };
static uint64_t inodes[LIMITS]; /* of limits whose keys have one home */
static uint32_t home;

/* ------------------------------------------------------------ being wrong --- */

/* How it came to this, to be shown. */
static struct {
	const char *what;
	uint64_t who;
} path[1000];
static unsigned int path_length;

static _Noreturn void violated(const char *what)
{
	fprintf(stderr, "%s: violated: %s, after\n", search->name, what);
	for (unsigned int i = 0; i < path_length; i++)
		fprintf(stderr, "\t%s %llu\n", path[i].what, (unsigned long long)path[i].who);
	exit(1);
}

/* ---------------------------------------------------------------- one step --- */

static struct {
	struct state *state;
	struct worker *worker;
	uint64_t at;    /* reads so far, in this run of the call */
	uint64_t steps; /* it may take */
	struct mw_turn turn;
	jmp_buf out;
} running;

/* The place of a token counts from the home on; NULL where nothing changes. */
static uint64_t *find(const mw_word *word)
{
	struct state *state = running.state;

	for (uint32_t i = 0; i < PLACES; i++) {
		const struct mw_token *token = &memory.tokens[(home + i) % MW_TOKENS];

		if (word == &token->key)
			return &state->key[i];
		if (word == &token->word)
			return &state->word[i];
	}
	for (uint32_t i = 0; i < WORKERS; i++)
		if (word == &memory.states[i].claim)
			return &state->claim[i];
	return NULL;
}

static int64_t left_of(uint64_t word, uint64_t now_ms)
{
	return (int32_t)((uint32_t)word - (uint32_t)now_ms);
}

/* Whether it holds the token at that place, as far as it knows.  The lease of one that was
   killed lasts to its end, unless its slot is another's. */
static bool believes(const struct state *state, const struct worker *worker, uint64_t place)
{
	return worker->life != GONE && worker->believes && worker->believes_at == place &&
	       left_of(worker->believes, state->now_ms) >= 0;
}

static uint64_t place_of(uint64_t token)
{
	return (token + MW_TOKENS - home) % MW_TOKENS;
}

static void judge_write(const uint64_t *at, uint64_t was, uint64_t to)
{
	const struct state *state = running.state;

	if (at >= state->key && at < state->key + PLACES) {
		if (was && was != to)
			violated("a key was written over");
		return;
	}
	if (at >= state->claim && at < state->claim + WORKERS)
		violated("a claim was written");
	if (state->scribbled)
		return;
	for (uint64_t i = 0; i < search->workers; i++) {
		const struct worker *other = &state->workers[i];

		if (other != running.worker && other->believes == was &&
		    believes(state, other, (uint64_t)(at - state->word)))
			violated("a lease that has not run out was written over");
	}
}

/* One step: a load, a compare-and-swap (1) or a store (2).  What the word was. */
static uint64_t touch(const mw_word *word, int writes, uint64_t from, uint64_t to)
{
	struct worker *worker = running.worker;
	uint64_t *at = find(word), was;

	if (announced != 1)
		violated("a step was not announced");
	announced = 0;
	if (!at) {
		if (writes && (writes == 2 || *word == from))
			violated("a place was written to that cannot be reached");
		return *word;
	}
	if (running.at < worker->reads)
		return worker->read[running.at++];
	if (!running.steps)
		longjmp(running.out, 1);
	running.steps--;
	if (running.at == READS)
		violated("a call does not end");
	was = *at;
	worker->read[running.at++] = was;
	worker->reads++;
	if (writes == 2 || (writes == 1 && was == from)) {
		judge_write(at, was, to);
		*at = to;
	}
	return was;
}

static uint64_t limit_of(const struct state *state, uint64_t who)
{
	return search->limits[who][state->workers[who].round];
}

static int64_t in_ns(uint64_t ms)
{
	return (int64_t)ms * 1000000;
}

/* The call, from its beginning; what it answered. */
static uint64_t call(const struct state *state, uint64_t who)
{
	const struct worker *worker = running.worker;
	struct mw_turn *turn = &running.turn;
	int64_t now = in_ns(worker->now_ms);

	switch (worker->doing) {
	case ENTERS:
		mw_turn_enter(turn, 7, inodes[limit_of(state, who)]);
		return 0;
	case LOOKS:
		return mw_turn_look(turn, now);
	case TAKES:
		return mw_turn_take(turn, 2 * worker->round + 1, now);
	case RENEWS:
		return mw_turn_renew(turn, now, MW_LEASE_MS);
	case EXTENDS:
		return mw_turn_renew(turn, now, MW_LEASE_DEAD_MS);
	default:
		mw_turn_release(turn);
		return 0;
	}
}

static void remember(struct worker *worker)
{
	worker->believes = running.turn.word;
	worker->believes_at = running.turn.key ? place_of(running.turn.token) : 0;
}

/* As many steps of its call as it may, whether that came to its end, and what it answered then. */
static bool go_on(struct state *state, uint64_t who, uint64_t steps, uint64_t *answer)
{
	struct worker *worker = &state->workers[who];

	running.state = state;
	running.worker = worker;
	running.at = 0;
	running.steps = steps;
	running.turn = (struct mw_turn){
		.board = &board,
		.owner = { .generation = worker->generation },
		.slot = (uint32_t)who,
		.token = (uint32_t)worker->token,
		.key = worker->key,
		.word = worker->word,
	};
	announced = 0;
	if (setjmp(running.out)) {
		announced = 0;
		remember(worker);
		return false;
	}
	*answer = call(state, who);
	remember(worker);
	worker->key = running.turn.key;
	worker->token = running.turn.token;
	worker->word = running.turn.word;
	memset(worker->read, 0, sizeof(worker->read));
	worker->reads = 0;
	return true;
}

/* ------------------------------------------------------------- the program --- */

static bool is_full(const struct state *state)
{
	for (uint32_t i = 0; i < MW_TOKENS; i++) {
		uint64_t place = place_of(i);

		if (!(place < PLACES ? state->key[place] : memory.tokens[i].key))
			return false;
	}
	return true;
}

static void judge_place(const struct state *state, const struct worker *worker)
{
	uint64_t place = place_of(worker->token);

	if (place < PLACES && state->key[place] == worker->key)
		return;
	if (!is_full(state))
		violated("a limit has another one's place, and there is room");
	if (place)
		violated("without room, a limit has another place than its home");
}

/* What a brake does next; see mw_see_turn() and mw_try_turn(). */
static void decide(struct state *state, uint64_t who, uint64_t answer)
{
	struct worker *worker = &state->workers[who];

	switch (worker->doing) {
	case ENTERS:
		judge_place(state, worker);
		worker->doing = LOOKS;
		break;
	case LOOKS:
		if (answer == MW_TURN_MINE && left_of(worker->word, worker->now_ms) < 0)
			violated("a lease that had run out was said to be held");
		if ((answer == MW_TURN_MINE) != (worker->word != 0))
			violated("what was said is not what is known");
		worker->doing = answer == MW_TURN_FREE ? TAKES : answer == MW_TURN_MINE ? HOLDS : SLEEPS;
		worker->round += answer == MW_TURN_OTHERS;
		break;
	case EXTENDS:
		state->extended |= answer;
		/* fallthrough */
	case TAKES:
	case RENEWS:
		if ((answer != 0) != (worker->word != 0))
			violated("what was answered is not what is known");
		/* fallthrough */
	case RELEASES:
		worker->doing = SLEEPS;
		worker->round++;
		break;
	default:
		worker->doing = HAS_QUIT;
		break;
	}
}

static bool calls(const struct worker *worker)
{
	return worker->doing != SLEEPS && worker->doing != HOLDS && worker->doing != HAS_QUIT;
}

/* To before the first step of what it does next, or to where it has a choice. */
static void settle(struct state *state, uint64_t who)
{
	uint64_t answer;

	while (calls(&state->workers[who]) && go_on(state, who, 0, &answer))
		decide(state, who, answer);
}

static void take_step(struct state *state, uint64_t who)
{
	uint64_t answer;

	if (go_on(state, who, 1, &answer))
		decide(state, who, answer);
}

/* ------------------------------------------------------------ what must hold --- */

/*
 * Whether this worker, who is alone from here on, has the token `wait_ms` from now: it ends
 * the call that it is in, and looks once.
 */
static bool gets_it(const struct state *from, uint64_t who, uint64_t wait_ms, bool unless_believed)
{
	struct state state = *from;
	struct worker *worker = &state.workers[who];
	uint64_t answer = 0;

	if (calls(worker))
		(void)go_on(&state, who, UINT64_MAX, &answer);
	if (worker->round == search->rounds)
		worker->round--;
	state.now_ms += wait_ms;
	worker->now_ms = state.now_ms;
	worker->doing = ENTERS;
	(void)go_on(&state, who, UINT64_MAX, &answer);
	if (unless_believed)
		for (uint64_t i = 0; i < search->workers; i++)
			if (i != who && believes(&state, &state.workers[i], place_of(worker->token)))
				return true;
	worker->doing = LOOKS;
	(void)go_on(&state, who, UINT64_MAX, &answer);
	if (answer == MW_TURN_MINE)
		return true;
	if (answer != MW_TURN_FREE)
		return false;
	worker->doing = TAKES;
	(void)go_on(&state, who, UINT64_MAX, &answer);
	return answer && believes(&state, worker, worker->believes_at);
}

static void judge_keys(const struct state *state)
{
	for (uint32_t i = 0; i < PLACES; i++)
		for (uint32_t k = 0; k < i; k++)
			if (state->key[i] && state->key[i] == state->key[k])
				violated("one limit has two places");
}

static void judge(const struct state *state)
{
	uint64_t lease = state->scribbled ? MW_LEASE_MOST_MS : state->extended ? MW_LEASE_DEAD_MS : MW_LEASE_MS;

	judge_keys(state);
	for (uint64_t place = 0; place < PLACES && !state->scribbled; place++) {
		uint64_t n = 0;

		for (uint64_t i = 0; i < search->workers; i++)
			n += believes(state, &state->workers[i], place);
		if (n > 1)
			violated("two hold one token");
	}
	for (uint64_t i = 0; i < search->workers; i++) {
		if (state->workers[i].life != ALIVE || state->workers[i].doing == HAS_QUIT)
			continue;
		/* Whatever became of the others.  A deadline of 0 is put off by 1 ms. */
		if (!gets_it(state, i, lease + 2, false))
			violated("a lease later, one who is alone does not get it");
		/* What was given back, or whose holder's slot is another's, is free at once. */
		if (!state->scribbled && !gets_it(state, i, 0, true))
			violated("nobody holds it, and one who is alone does not get it");
	}
}

/* -------------------------------------------------------------- the search --- */

/* States that were seen, by two hashes of 64 bits; and in how many ways it goes on from each. */
struct seen {
	uint64_t a;
	uint64_t b;
	double ways;
};

static struct seen *table;
static size_t table_size, states;

static uint64_t spread(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static void hash(const uint64_t *words, size_t n, struct seen *into)
{
	for (size_t i = 0; i < n; i++) {
		into->a = spread(into->a + words[i]) + i;
		into->b = (into->b ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
		into->b ^= into->b >> 29;
	}
}

static struct seen key_of_state(const struct state *state)
{
	struct seen it = { 1, 2, 0 };

	hash((const uint64_t *)state, offsetof(struct state, workers) / 8, &it);
	for (uint64_t i = 0; i < search->workers; i++)
		hash((const uint64_t *)&state->workers[i],
		     offsetof(struct worker, read) / 8 + state->workers[i].reads, &it);
	it.b = spread(it.b);
	return it;
}

static struct seen *find_seen(const struct seen *key)
{
	size_t at = key->a & (table_size - 1);

	while (table[at].ways > 0 && (table[at].a != key->a || table[at].b != key->b))
		at = (at + 1) & (table_size - 1);
	return &table[at];
}

static void add_seen(const struct seen *it)
{
	if (2 * ++states > table_size) {
		struct seen *old = table;
		size_t n = table_size;

		table_size = n ? 2 * n : 1 << 16;
		table = calloc(table_size, sizeof(*table));
		if (!table)
			violated("no memory is left for the search");
		for (size_t i = 0; i < n; i++)
			if (old[i].ways > 0)
				*find_seen(&old[i]) = old[i];
		free(old);
	}
	*find_seen(it) = *it;
}

static double explore(const struct state *state);

/* One of the things that may happen next. */
static double follow(const struct state *next)
{
	double ways = explore(next);

	path_length--;
	return ways;
}

static void note(const char *what, uint64_t who)
{
	path[path_length].what = what;
	path[path_length++].who = who;
}

static uint64_t claim_of(uint64_t who, uint64_t generation)
{
	return generation << 48 | (1000 + who);
}

/* All that one worker may do, or that may be done to it. */
static double follow_worker(const struct state *state, uint64_t who)
{
	const struct worker *worker = &state->workers[who];
	struct state next;
	double ways = 0;

#define FOLLOW(what, ...)                                                                         \
	do {                                                                                      \
		struct worker *it = &next.workers[who];                                           \
		next = *state;                                                                    \
		note(what, who);                                                                  \
		__VA_ARGS__;                                                                      \
		settle(&next, (uint64_t)(it - next.workers));                                     \
		ways += follow(&next);                                                            \
	} while (0)

	if (worker->life == KILLED)
		FOLLOW("its slot is given up", {
			it->life = GONE;
			next.claim[who] = worker->generation << 48;
		});
	if (worker->life != ALIVE) {
		/* Its slot is another worker's, which is at its own beginning. */
		if (state->births)
			FOLLOW("its slot is claimed", {
				const uint64_t generation = worker->generation + 1;

				next.births--;
				*it = (struct worker){ .generation = generation };
				next.claim[who] = claim_of(who, generation);
			});
		return ways;
	}
	if (state->kills)
		FOLLOW("is killed", {
			next.kills--;
			it->life = KILLED;
			/* What it would have done does not tell two states from each other. */
			memset(it->read, 0, sizeof(it->read));
			it->reads = it->round = it->now_ms = it->key = it->token = it->word = 0;
			it->doing = SLEEPS;
		});
	switch (worker->doing) {
	case SLEEPS:
		if (worker->round < search->rounds)
			FOLLOW("looks", {
				it->now_ms = state->now_ms;
				it->doing = ENTERS;
			});
		else
			FOLLOW("quits", it->doing = QUITS);
		break;
	case HOLDS:
		FOLLOW("goes on holding", {
			it->doing = SLEEPS;
			it->round++;
		});
		FOLLOW("renews", it->doing = RENEWS);
		FOLLOW("releases", it->doing = RELEASES);
		if (search->extends)
			FOLLOW("extends", it->doing = EXTENDS);
		break;
	case HAS_QUIT:
		FOLLOW("gives up its slot", {
			const uint64_t generation = worker->generation;

			*it = (struct worker){ .life = GONE, .generation = generation };
			next.claim[who] = generation << 48;
		});
		break;
	default:
		FOLLOW("takes a step", take_step(&next, who));
		break;
	}
	return ways;
}

/* Words that no worker wrote; some look as if one had. */
static double follow_scribbles(const struct state *state)
{
	const uint32_t now = (uint32_t)state->now_ms;
	const uint64_t ours = (state->workers[0].generation & 1023) << 48;
	const uint64_t words[] = {
		0,
		UINT64_MAX,
		ours | (uint32_t)(now + 400),			    /* a lease */
		ours | (uint32_t)(now + MW_LEASE_MOST_MS),	    /* the longest */
		ours | (uint32_t)(now + MW_LEASE_MOST_MS + 1),	    /* too long */
		ours | (uint32_t)(now + (UINT32_C(1) << 31) - 1),   /* the furthest ahead */
		ours | (uint32_t)(now + (UINT32_C(1) << 31)),	    /* the furthest back */
		UINT64_C(63) << 58 | (uint32_t)(now + 400),	    /* of a slot that nobody has */
		(ours ^ UINT64_C(1) << 48) | (uint32_t)(now + 400), /* of another generation */
	};
	double ways = 0;

	for (size_t i = 0; i < COUNT(words); i++) {
		struct state next = *state;

		next.scribbles--;
		next.scribbled = 1;
		next.word[0] = words[i];
		note("somebody scribbles", i);
		ways += follow(&next);
	}
	return ways;
}

static double explore(const struct state *state)
{
	struct seen it = key_of_state(state), *found = table ? find_seen(&it) : NULL;
	double ways = 0;

	if (found && found->ways > 0)
		return found->ways;
	judge(state);
	for (uint64_t i = 0; i < search->workers; i++)
		ways += follow_worker(state, i);
	if (state->ticks) {
		struct state next = *state;

		next.ticks--;
		next.now_ms += TICK_MS;
		note("time passes, ms:", TICK_MS);
		ways += follow(&next);
	}
	if (state->scribbles)
		ways += follow_scribbles(state);
	it.ways = ways > 0 ? ways : 1;
	add_seen(&it);
	return it.ways;
}

static void make_limits(void)
{
	uint64_t inode = 1;

	home = (uint32_t)(key_of(7, inode) % MW_TOKENS);
	for (size_t i = 0; i < LIMITS; inode++)
		if (key_of(7, inode) % MW_TOKENS == home)
			inodes[i++] = inode;
}

static void run(const struct search *it)
{
	struct state state = {
		.now_ms = it->start_ms,
		.ticks = it->ticks,
		.kills = it->kills,
		.births = it->births,
		.scribbles = it->scribbles,
	};
	double ways;

	search = it;
	memset(memory.tokens, 0, sizeof(memory.tokens));
	/* What room there is comes last of those that may change, if it is so little. */
	for (uint32_t i = 0; i < MW_TOKENS && it->room <= PLACES; i++) {
		if (i >= PLACES)
			memory.tokens[(home + i) % MW_TOKENS].key = i + 1;
		else if (i < PLACES - it->room)
			state.key[i] = i + 1;
	}
	for (uint64_t i = 0; i < it->workers; i++) {
		/* The next generation's low bits are 0. */
		state.workers[i].generation = 1023;
		state.claim[i] = claim_of(i, 1023);
	}
	free(table);
	table = NULL;
	table_size = states = 0;
	ways = explore(&state);
	printf("%s: %zu states, %.1e schedules\n", it->name, states, ways);
}

#define ORDINARY_MS 1000000
/* Deadlines are on both sides of 2^32 ms, and one of them is 0. */
#define WRAPPING_MS (UINT64_C(0x100000000) - 500 - TICK_MS)

/* How much is searched: under a sanitizer, as it is, and with "long". */
enum { LITTLE, USUAL, LONG };

/* Workers, rounds, ticks, kills, births, scribbles, extends, room. */
static const struct search searches[] = {
	{ LITTLE, "two workers", 2, 2, 3, 1, 0, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LITTLE, "an extended lease", 2, 1, 9, 1, 0, 0, true, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LITTLE, "scribbled on", 2, 1, 2, 0, 0, 1, false, MW_TOKENS, ORDINARY_MS, { { 0 } } },
	{ LITTLE, "from one limit to another", 2, 2, 1, 1, 0, 0, false, MW_TOKENS, ORDINARY_MS, { { 0, 1 }, { 1, 0 } } },
	{ LITTLE, "two limits of one home", 2, 1, 1, 1, 0, 0, false, MW_TOKENS, ORDINARY_MS, { { 0 }, { 1 } } },
	{ LITTLE, "the last place", 2, 1, 1, 1, 0, 0, false, 1, ORDINARY_MS, { { 0 }, { 1 } } },
	{ LITTLE, "no place", 2, 1, 1, 1, 0, 0, false, 0, ORDINARY_MS, { { 0 }, { 1 } } },

	{ USUAL, "two workers", 2, 3, 4, 1, 0, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ USUAL, "a slot that changes hands", 2, 2, 3, 1, 1, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ USUAL, "three workers", 3, 1, 2, 1, 0, 0, false, MW_TOKENS, ORDINARY_MS, { { 0 } } },
	{ USUAL, "an extended lease", 2, 2, 9, 1, 0, 0, true, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ USUAL, "scribbled on", 2, 2, 2, 0, 0, 1, false, MW_TOKENS, ORDINARY_MS, { { 0 } } },
	{ USUAL, "from one limit to another", 2, 2, 3, 1, 1, 0, false, MW_TOKENS, ORDINARY_MS, { { 0, 1 }, { 1, 0 } } },
	{ USUAL, "three of one home", 3, 1, 1, 1, 0, 0, false, MW_TOKENS, ORDINARY_MS, { { 0 }, { 1 }, { 0 } } },
	{ USUAL, "three for the last place", 3, 1, 1, 1, 0, 0, false, 1, ORDINARY_MS, { { 0 }, { 1 }, { 0 } } },
	{ USUAL, "no place", 2, 2, 3, 1, 1, 0, false, 0, ORDINARY_MS, { { 0 }, { 1 } } },

	{ LONG, "two workers", 2, 3, 6, 1, 1, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LONG, "two that are both killed", 2, 2, 5, 2, 2, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LONG, "three workers", 3, 1, 4, 2, 1, 0, false, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LONG, "an extended lease", 2, 2, 11, 1, 0, 0, true, MW_TOKENS, WRAPPING_MS, { { 0 } } },
	{ LONG, "scribbled on", 2, 2, 3, 1, 0, 1, false, MW_TOKENS, ORDINARY_MS, { { 0 } } },
	{ LONG, "from one limit to another", 2, 3, 3, 1, 1, 0, false, MW_TOKENS, ORDINARY_MS, { { 0, 1, 0 }, { 1, 0, 0 } } },
	{ LONG, "three limits of one home", 3, 1, 2, 1, 1, 0, false, MW_TOKENS, ORDINARY_MS, { { 0 }, { 1 }, { 2 } } },
	{ LONG, "three for the last place", 3, 1, 2, 1, 1, 0, false, 1, ORDINARY_MS, { { 0 }, { 1 }, { 2 } } },
	{ LONG, "three without a place", 3, 1, 2, 1, 0, 0, false, 0, ORDINARY_MS, { { 0 }, { 1 }, { 2 } } },
};

int main(int argc, char **argv)
{
	int most = USUAL;

	if (argc < 2)
		return 2;
	/* Or measured for coverage. */
#if defined(SANITIZED) || !defined(__OPTIMIZE__)
	most = LITTLE;
#endif
	if (argc > 2 && !strcmp(argv[2], "long"))
		most = LONG;
	make_limits();
	for (size_t i = 0; i < COUNT(searches); i++)
		if (searches[i].size <= most)
			run(&searches[i]);
	free(table);
	return 0;
}
