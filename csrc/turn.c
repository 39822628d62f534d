/* turn.c - whose turn it is to brake; see turn.h. */

#include "turn.h"

#include <errno.h>
#include <string.h>

#define SLOT_BITS 6
#define GENERATION_BITS 10
#define EPOCH_BITS 16
#define DEADLINE_BITS 32

_Static_assert(SLOT_BITS + GENERATION_BITS + EPOCH_BITS + DEADLINE_BITS == 64, "a token is one word");
_Static_assert(MW_SLOTS == 1 << SLOT_BITS, "it can name each slot");

/* A test counts these steps, and has another worker go on between any two of them. */
#ifndef MW_STEP
#define MW_STEP()
#endif

static uint64_t load(const mw_word *word)
{
	MW_STEP();
	return atomic_load_explicit(word, memory_order_acquire);
}

static bool swap(mw_word *word, uint64_t from, uint64_t to)
{
	MW_STEP();
	return atomic_compare_exchange_strong_explicit(word, &from, to, memory_order_acq_rel,
						       memory_order_acquire);
}

static uint64_t low(uint64_t value, unsigned int bits)
{
	return value & ((UINT64_C(1) << bits) - 1);
}

/* ------------------------------------------------------------------- the word --- */

static uint64_t make_word(const struct mw_turn *turn, uint64_t epoch, uint32_t deadline_ms)
{
	return (uint64_t)turn->slot << (GENERATION_BITS + EPOCH_BITS + DEADLINE_BITS) |
	       low(turn->owner.generation, GENERATION_BITS) << (EPOCH_BITS + DEADLINE_BITS) |
	       low(epoch, EPOCH_BITS) << DEADLINE_BITS | deadline_ms;
}

static uint32_t slot_of(uint64_t word)
{
	return (uint32_t)(word >> (GENERATION_BITS + EPOCH_BITS + DEADLINE_BITS));
}

static uint64_t generation_of(uint64_t word)
{
	return low(word >> (EPOCH_BITS + DEADLINE_BITS), GENERATION_BITS);
}

static uint64_t epoch_of(uint64_t word)
{
	return low(word >> DEADLINE_BITS, EPOCH_BITS);
}

/* Modulo 2^32, some 50 days; 0 is left out, or a word could be that of nobody. */
static uint32_t deadline(int64_t now_ns, int64_t lease_ms)
{
	uint32_t ms = (uint32_t)((uint64_t)now_ns / 1000000 + (uint64_t)lease_ms);

	return ms ? ms : 1;
}

static int64_t left_ms(uint64_t word, int64_t now_ns)
{
	return (int32_t)((uint32_t)word - (uint32_t)((uint64_t)now_ns / 1000000));
}

/* Nobody's: given back, run out, or it never made sense. */
static bool is_free(const struct mw_turn *turn, uint64_t word, int64_t now_ns)
{
	int64_t left = left_ms(word, now_ns);
	uint64_t claim;

	if (!word || left < 0 || left > MW_LEASE_MOST_MS)
		return true;
	claim = load(&turn->board->memory->states[slot_of(word)].claim);
	/* Its slot was given up, or is another's by now. */
	return !low(claim, 48) || low(claim >> 48, GENERATION_BITS) != generation_of(word);
}

/* ------------------------------------------------------------------ the token --- */

/* Inodes are neighbours; splitmix64's finalizer spreads them. */
static uint64_t key_of(uint64_t dev, uint64_t ino)
{
	uint64_t key = dev * UINT64_C(0x9e3779b97f4a7c15) + ino;

	key = (key ^ key >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	key = (key ^ key >> 27) * UINT64_C(0x94d049bb133111eb);
	key ^= key >> 31;
	return key ? key : 1;
}

/*
 * Keys are never taken out again, so all find the same place.  The 65th limit since the
 * board was made shares the token of another one: then the two take turns, which is one
 * wait too many and no harm.
 */
static uint32_t find_token(struct mw_board *board, uint64_t key)
{
	uint32_t home = (uint32_t)(key % MW_TOKENS);

	for (uint32_t i = 0; i < MW_TOKENS; i++) {
		uint32_t at = (home + i) % MW_TOKENS;
		mw_word *word = &board->memory->tokens[at].key;
		uint64_t there = load(word);

		if (there == key || (!there && swap(word, 0, key)))
			return at;
		/* Another was faster, perhaps with the same key. */
		if (!there && load(word) == key)
			return at;
	}
	return home;
}

static mw_word *token_word(const struct mw_turn *turn)
{
	return &turn->board->memory->tokens[turn->token].word;
}

void mw_turn_enter(struct mw_turn *turn, uint64_t dev, uint64_t ino)
{
	uint64_t key = key_of(dev, ino);

	if (turn->key == key)
		return;
	mw_turn_release(turn);
	turn->token = find_token(turn->board, key);
	turn->key = key;
}

uint32_t mw_turn_look(struct mw_turn *turn, int64_t now_ns)
{
	uint64_t word = load(token_word(turn));

	if (turn->word && word == turn->word && left_ms(word, now_ns) >= 0)
		return MW_TURN_MINE;
	/* It ran out, even if nobody has taken it yet: from here on anybody may, at any time. */
	turn->word = 0;
	return is_free(turn, word, now_ns) ? MW_TURN_FREE : MW_TURN_OTHERS;
}

bool mw_turn_take(struct mw_turn *turn, uint64_t epoch, int64_t now_ns)
{
	uint64_t word = load(token_word(turn));
	uint64_t wanted = make_word(turn, epoch, deadline(now_ns, MW_LEASE_MS));

	if (!is_free(turn, word, now_ns) || !swap(token_word(turn), word, wanted))
		return false;
	turn->word = wanted;
	return true;
}

bool mw_turn_renew(struct mw_turn *turn, int64_t now_ns, int64_t lease_ms)
{
	uint64_t wanted;

	if (!turn->word)
		return false;
	wanted = make_word(turn, epoch_of(turn->word), deadline(now_ns, lease_ms));
	if (left_ms(turn->word, now_ns) < 0 || !swap(token_word(turn), turn->word, wanted)) {
		turn->word = 0;
		return false;
	}
	turn->word = wanted;
	return true;
}

void mw_turn_release(struct mw_turn *turn)
{
	if (turn->word)
		(void)swap(token_word(turn), turn->word, 0);
	turn->word = 0;
}

int64_t mw_turn_left_ms(const struct mw_turn *turn, int64_t now_ns)
{
	return turn->word ? left_ms(turn->word, now_ns) : -1;
}

/* Whose slot it is, by the word of who says so. */
static bool has_slot(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner)
{
	struct mw_owner there;

	return !mw_slot_owner(board, slot, &there) && there.pid == owner->pid &&
	       there.start_time == owner->start_time && there.pid_namespace == owner->pid_namespace &&
	       there.generation == owner->generation;
}

/* A lent token's epoch, which no trial has: theirs are odd. */
#define LENT 0

int mw_turn_lend(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, uint64_t dev, uint64_t ino,
		 int64_t now_ns, int64_t lease_ms)
{
	struct mw_turn turn = { .board = board, .slot = slot };
	int64_t lease = lease_ms < MW_LEASE_MOST_MS ? lease_ms : MW_LEASE_MOST_MS;
	uint64_t there, lent;
	bool can_be_had;

	if (mw_board_broken(board))
		return -EBADMSG;
	mw_turn_enter(&turn, dev, ino);
	there = load(token_word(&turn));
	can_be_had = is_free(&turn, there, now_ns);
	if (slot >= MW_SLOTS)
		return can_be_had ? 0 : -EBUSY;
	if (!has_slot(board, slot, owner))
		return -ESTALE;
	turn.owner = *owner;
	lent = make_word(&turn, LENT, deadline(now_ns, lease > 0 ? lease : 0));
	/* Lent to the same worker before: only the deadline is another. */
	if (!can_be_had && there >> DEADLINE_BITS != lent >> DEADLINE_BITS)
		return -EBUSY;
	return swap(token_word(&turn), there, lent) ? 0 : -EBUSY;
}

/* ------------------------------------------------------------ the other workers --- */

/* The last look of whoever has a slot, if that was at most `within_ns` ago. */
static bool has_looked(const struct mw_turn *turn, uint32_t slot, int64_t now_ns, int64_t within_ns,
		       struct mw_live *out)
{
	struct mw_owner owner;
	int64_t ago;

	if (slot == turn->slot || mw_slot_owner(turn->board, slot, &owner) ||
	    mw_slot_live(turn->board, slot, &owner, out))
		return false;
	/* It may be a scribbler's. */
	return !__builtin_sub_overflow(now_ns, out->time_ns, &ago) && ago <= within_ns && ago >= -within_ns;
}

bool mw_turn_has_peers(const struct mw_turn *turn, int64_t now_ns)
{
	struct mw_live live;

	for (uint32_t i = 0; i < MW_SLOTS; i++)
		if (has_looked(turn, i, now_ns, MW_PEER_NS, &live) && live.phase != MW_BRAKE_OFF)
			return true;
	return false;
}

/* The trials of other workers that are held below the limit (dev, ino): how many. */
static uint32_t list_others(const struct mw_turn *turn, uint64_t dev, uint64_t ino, int64_t now_ns,
			    struct mw_candidate out[MW_SLOTS])
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < MW_SLOTS; i++) {
		struct mw_live live;

		if (!has_looked(turn, i, now_ns, MW_FRESH_NS, &live) || live.bind_dev != dev || live.bind_ino != ino ||
		    (live.phase != MW_BRAKE_HOLDING && live.phase != MW_BRAKE_WAITING))
			continue;
		out[n++] = (struct mw_candidate){ live.growth, live.trial_start_ns, i };
	}
	return n;
}

bool mw_turn_wanted(const struct mw_turn *turn, uint64_t dev, uint64_t ino, int64_t now_ns)
{
	struct mw_candidate list[MW_SLOTS];

	return list_others(turn, dev, ino, now_ns, list) != 0;
}

bool mw_turn_chosen(const struct mw_turn *turn, const struct mw_candidate *mine, uint64_t dev, uint64_t ino,
		    int64_t now_ns)
{
	struct mw_candidate list[MW_SLOTS + 1];
	uint32_t n = list_others(turn, dev, ino, now_ns, list);

	list[n] = (struct mw_candidate){ mine->growth, mine->start_ns, turn->slot };
	return mw_victim(list, n + 1) == (int)n;
}
