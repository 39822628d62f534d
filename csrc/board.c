/* board.c - slots, regions and rings; see board.h for the words they are made of. */

#include "board.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "procfs.h"

/* A write takes 15-30 ns and a look at memory 6 us: a writer met so often is no writer. */
#define TRIES 64

#define PID_BITS 22
#define START_BITS 16
#define NAMESPACE_BITS 10
#define COUNT_BITS 48

static uint64_t low(uint64_t value, unsigned int bits)
{
	return value & ((UINT64_C(1) << bits) - 1);
}

static uint64_t load(const mw_word *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static void store(mw_word *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static bool swap(mw_word *word, uint64_t from, uint64_t to)
{
	return atomic_compare_exchange_strong_explicit(word, &from, to, memory_order_acq_rel,
						       memory_order_acquire);
}

static void load_words(const mw_word *from, uint64_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = load(from + i);
}

static void store_words(mw_word *to, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		store(to + i, words[i]);
}

/* ---------------------------------------------------------------- owner --- */

static uint64_t namespace_bits(uint64_t pid_namespace)
{
	/* Inodes of namespaces are neighbours; the multiplier (2^64 / golden ratio) spreads them. */
	return (pid_namespace * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - NAMESPACE_BITS);
}

static uint64_t claim_word(const struct mw_owner *owner, uint64_t generation)
{
	return generation << COUNT_BITS |
	       namespace_bits(owner->pid_namespace) << (START_BITS + PID_BITS) |
	       low(owner->start_time, START_BITS) << PID_BITS | low(owner->pid, PID_BITS);
}

static bool is_sound(const struct mw_owner *owner)
{
	return owner->pid && owner->pid == low(owner->pid, PID_BITS) && owner->groups <= MW_SLOT_GROUPS;
}

static uint64_t generation_of(uint64_t word)
{
	return word >> COUNT_BITS;
}

static bool is_free(uint64_t claim)
{
	return !low(claim, COUNT_BITS);
}

/* 0 is left out, for that is the generation of what was never written. */
static uint64_t next_generation(uint64_t claim)
{
	uint64_t generation = generation_of(claim);

	return generation == UINT16_MAX ? 1 : generation + 1;
}

static uint64_t first_of(uint64_t generation)
{
	return generation << COUNT_BITS;
}

/* The slot must still have the claim that `owner` made. */
static int check_owner(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner)
{
	if (slot >= MW_SLOTS || !is_sound(owner))
		return -EINVAL;
	if (mw_board_broken(board))
		return -EBADMSG;
	if (load(&board->memory->states[slot].claim) != claim_word(owner, owner->generation))
		return -ESTALE;
	return 0;
}

static int read_owner(const struct mw_state *state, uint64_t claim, struct mw_owner *out)
{
	uint64_t words[MW_WORDS(struct mw_owner)];
	struct mw_owner owner;

	if (is_free(claim))
		return -ENOENT;
	if (load(&state->ready) != claim)
		return -EAGAIN;
	load_words(state->owner, words, MW_WORDS(struct mw_owner));
	/* The next owner writes here only once the claim is its own. */
	if (load(&state->claim) != claim)
		return -EAGAIN;
	memcpy(&owner, words, sizeof(owner));
	if (!is_sound(&owner) || claim_word(&owner, owner.generation) != claim)
		return -EBADMSG;
	*out = owner;
	return 0;
}

int mw_slot_owner(const struct mw_board *board, uint32_t slot, struct mw_owner *out)
{
	const struct mw_state *state;

	if (slot >= MW_SLOTS)
		return -EINVAL;
	if (mw_board_broken(board))
		return -EBADMSG;
	state = &board->memory->states[slot];
	return read_owner(state, load(&state->claim), out);
}

/* ----------------------------------------------------------------- life --- */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Either may be a scribbler's; a time to come is as far off as one long gone. */
static bool is_old(uint64_t time_ns, int64_t stale_ns)
{
	int64_t past;

	return __builtin_sub_overflow(now_ns(), (int64_t)time_ns, &past) || past > stale_ns ||
	       past < -stale_ns;
}

/*
 * A claim that says nothing by which to judge it: the first to meet it notes it and
 * the time, and it is dead when it is still met like that `stale_ns` later.
 */
static bool doubted_for_long(struct mw_state *state, uint64_t claim, int64_t stale_ns)
{
	if (load(&state->doubted) == claim)
		return is_old(load(&state->doubted_ns), stale_ns);
	store(&state->doubted_ns, (uint64_t)now_ns());
	store(&state->doubted, claim);
	return false;
}

static bool heart_stopped(struct mw_state *state, uint64_t claim, int64_t stale_ns)
{
	uint64_t sequence = load(&state->live[0]);
	const mw_word *copy = &state->live[1 + (sequence & 1) * MW_WORDS(struct mw_live)];

	if (generation_of(sequence) != generation_of(claim))
		return doubted_for_long(state, claim, stale_ns);
	/* One word is whole whatever happens to its copy meanwhile. */
	return is_old(load(copy + offsetof(struct mw_live, time_ns) / sizeof(uint64_t)), stale_ns);
}

/* In our own namespace only: the pid is gone, or is another's by now. */
static bool pid_is_dead(const char *root, uint64_t pid, uint64_t start_time, uint64_t bits)
{
	struct mw_stat stat;
	int err = pid ? mw_read_stat(root, (pid_t)pid, &stat) : -ESRCH;

	/* What cannot be read (hidden, no descriptor left) may live. */
	return err == -ESRCH || (!err && ((stat.start_time ^ start_time) & bits));
}

static bool is_dead(struct mw_state *state, uint64_t claim, const char *root, uint64_t pid_namespace,
		    int64_t stale_ns)
{
	struct mw_owner owner;

	if (!read_owner(state, claim, &owner)) {
		if (owner.pid_namespace != pid_namespace)
			return heart_stopped(state, claim, stale_ns);
		return pid_is_dead(root, owner.pid, owner.start_time, UINT64_MAX);
	}
	/* In the making, perhaps for ever; or scribbled over. */
	if (low(claim >> (START_BITS + PID_BITS), NAMESPACE_BITS) != namespace_bits(pid_namespace))
		return doubted_for_long(state, claim, stale_ns);
	return pid_is_dead(root, low(claim, PID_BITS), claim >> PID_BITS, low(UINT64_MAX, START_BITS));
}

int mw_slot_alive(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const char *root,
		  uint64_t pid_namespace, int64_t stale_ns)
{
	int err = stale_ns < 0 ? -EINVAL : check_owner(board, slot, owner);

	if (err)
		return err;
	return is_dead(&board->memory->states[slot], claim_word(owner, owner->generation), root,
		       pid_namespace, stale_ns) ? -ESRCH : 0;
}

/* ---------------------------------------------------------------- claim --- */

static bool has_slot(const struct mw_board *board, struct mw_owner *owner, uint32_t *slot)
{
	for (uint32_t i = 0; i < MW_SLOTS; i++) {
		struct mw_owner theirs;

		if (mw_slot_owner(board, i, &theirs) || theirs.pid != owner->pid ||
		    theirs.start_time != owner->start_time ||
		    theirs.pid_namespace != owner->pid_namespace)
			continue;
		owner->generation = theirs.generation;
		*slot = i;
		return true;
	}
	return false;
}

static bool take(struct mw_state *state, uint64_t claim, struct mw_owner *owner)
{
	struct mw_owner mine = *owner;
	uint64_t words[MW_WORDS(struct mw_owner)], wanted;

	mine.generation = next_generation(claim);
	wanted = claim_word(&mine, mine.generation);
	if (!swap(&state->claim, claim, wanted))
		return false;
	memcpy(words, &mine, sizeof(mine));
	store_words(state->owner, words, MW_WORDS(struct mw_owner));
	store(&state->ready, wanted);
	/* Stopped for long just here, we were taken for dead. */
	if (load(&state->claim) != wanted)
		return false;
	*owner = mine;
	return true;
}

int mw_slot_claim(struct mw_board *board, const char *root, struct mw_owner *owner, int64_t stale_ns,
		  uint32_t *slot)
{
	if (!is_sound(owner) || stale_ns < 0)
		return -EINVAL;
	if (has_slot(board, owner, slot))
		return -EEXIST;
	/* First the free ones: what the dead left may still be asked for. */
	for (uint32_t i = 0; i < 2 * MW_SLOTS; i++) {
		struct mw_state *state = &board->memory->states[i % MW_SLOTS];
		uint64_t claim = load(&state->claim);
		bool is_first = i < MW_SLOTS;

		if (mw_board_broken(board))
			return -EBADMSG;
		if (is_free(claim) != is_first)
			continue;
		if (!is_first && !is_dead(state, claim, root, owner->pid_namespace, stale_ns))
			continue;
		if (take(state, claim, owner)) {
			*slot = i % MW_SLOTS;
			return 0;
		}
	}
	return -ENOSPC;
}

int mw_slot_release(struct mw_board *board, uint32_t slot, const struct mw_owner *owner)
{
	if (slot >= MW_SLOTS || !is_sound(owner))
		return -EINVAL;
	swap(&board->memory->states[slot].claim, claim_word(owner, owner->generation),
	     first_of(owner->generation));
	return 0;
}

int mw_slot_lock(struct mw_board *board, uint32_t slot)
{
	struct mw_memory *memory = board->memory;

	if (slot >= MW_SLOTS)
		return -EINVAL;
	for (uint32_t i = 0; i < MW_SLOTS; i++)
		load(&memory->states[i].claim);
	if (mw_board_broken(board))
		return -EBADMSG;
	if (mlock(memory, offsetof(struct mw_memory, states)) ||
	    mlock(&memory->states[slot], sizeof(struct mw_state)) ||
	    mlock(&memory->rings[slot], sizeof(struct mw_ring)))
		return -errno;
	return 0;
}

/* -------------------------------------------------------------- regions --- */

/* Where a region lies in a state, in words; `size` bytes are one copy of it. */
#define REGION(name) (offsetof(struct mw_state, name) / sizeof(mw_word))

static int read_region(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		       size_t region, void *out, size_t size)
{
	uint64_t words[MW_WORDS(struct mw_work)]; /* the largest */
	int err = check_owner(board, slot, owner);

	for (int tries = 0; !err && tries < TRIES; tries++) {
		const mw_word *sequence = &board->memory->states[slot].claim + region;
		uint64_t before = load(sequence);
		size_t n = size / sizeof(uint64_t);

		load_words(sequence + 1 + (before & 1) * n, words, n);
		/* Whoever writes to this copy again has counted up before, another owner too. */
		if (load(sequence) != before)
			continue;
		if (generation_of(before) != low(owner->generation, 16))
			return -ENOENT;
		memcpy(out, words, size);
		return 0;
	}
	return err ? err : -EAGAIN;
}

static int write_region(struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
			size_t region, const void *from, size_t size)
{
	uint64_t words[MW_WORDS(struct mw_work)], before, after;
	int err = check_owner(board, slot, owner);
	size_t n = size / sizeof(uint64_t);
	mw_word *sequence;

	if (err)
		return err;
	sequence = &board->memory->states[slot].claim + region;
	before = load(sequence);
	after = first_of(owner->generation);
	if (generation_of(before) == generation_of(after))
		after |= low(before + 1, COUNT_BITS);
	else
		after |= ~before & 1; /* the copy at which no reader is */
	memcpy(words, from, size);
	store_words(sequence + 1 + (after & 1) * n, words, n);
	return swap(sequence, before, after) ? 0 : -EAGAIN;
}

int mw_slot_live(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		 struct mw_live *out)
{
	return read_region(board, slot, owner, REGION(live), out, sizeof(*out));
}

int mw_slot_work(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		 struct mw_work *out)
{
	return read_region(board, slot, owner, REGION(work), out, sizeof(*out));
}

int mw_slot_orders(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		   struct mw_orders *out)
{
	return read_region(board, slot, owner, REGION(orders), out, sizeof(*out));
}

int mw_slot_set_live(struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		     const struct mw_live *live)
{
	return write_region(board, slot, owner, REGION(live), live, sizeof(*live));
}

int mw_slot_set_work(struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		     const struct mw_work *work)
{
	return write_region(board, slot, owner, REGION(work), work, sizeof(*work));
}

int mw_slot_set_orders(struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		       const struct mw_orders *orders)
{
	return write_region(board, slot, owner, REGION(orders), orders, sizeof(*orders));
}

/* ----------------------------------------------------------------- ring --- */

/* Of another generation's head, no record counts. */
static uint64_t count_records(uint64_t head, const struct mw_owner *owner)
{
	return generation_of(head) == low(owner->generation, 16) ? low(head, COUNT_BITS) : 0;
}

/* The oldest that nobody may be writing over: the next takes the place of one. */
static uint64_t oldest_of(uint64_t count)
{
	return count < MW_RECORDS ? 0 : count - MW_RECORDS + 1;
}

int mw_slot_record(struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		   const struct mw_record *record)
{
	uint64_t words[MW_WORDS(struct mw_record)], head, count;
	int err = check_owner(board, slot, owner);
	mw_word *at;

	if (err)
		return err;
	at = &board->memory->states[slot].head;
	head = load(at);
	count = count_records(head, owner);
	memcpy(words, record, sizeof(*record));
	store_words(board->memory->rings[slot].records[count % MW_RECORDS], words,
		    MW_WORDS(struct mw_record));
	count = low(count + 1, COUNT_BITS);
	return swap(at, head, first_of(owner->generation) | count) ? 0 : -EAGAIN;
}

int mw_slot_records(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner,
		    uint64_t *from, struct mw_record *out, uint32_t n)
{
	int err = check_owner(board, slot, owner);

	for (int tries = 0; !err && tries < TRIES; tries++) {
		const mw_word *head = &board->memory->states[slot].head;
		uint64_t count = count_records(load(head), owner), oldest = oldest_of(count);
		uint64_t at = *from < oldest ? oldest : *from > count ? count : *from;
		uint32_t got = 0, gone = 0;

		for (; got < n && at + got < count; got++) {
			uint64_t words[MW_WORDS(struct mw_record)];

			load_words(board->memory->rings[slot].records[(at + got) % MW_RECORDS], words,
				   MW_WORDS(struct mw_record));
			memcpy(out + got, words, sizeof(*out));
		}
		oldest = oldest_of(count_records(load(head), owner));
		/* Another owner's first record may have gone to any place. */
		err = check_owner(board, slot, owner);
		if (err)
			break;
		while (gone < got && at + gone < oldest)
			gone++;
		if (got && gone == got)
			continue;
		memmove(out, out + gone, (got - gone) * sizeof(*out));
		*from = at + got;
		return (int)(got - gone);
	}
	return err ? err : -EAGAIN;
}
