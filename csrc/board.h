/*
 * board.h - how the board lies in memory; what its two files share.
 *
 * Everything in the mapping is a 64-bit word that is loaded and stored whole, for
 * whoever reads may meet a writer at any instruction, or a scribbler.  Order comes
 * from release stores and acquire loads alone: ThreadSanitizer knows no fences.
 *
 *	header, tokens    2 pages   written once; then only the tokens and `wake`
 *	state of slot i   1 page    claim, owner, three regions, head of the ring
 *	ring of slot i    32 pages
 *
 * The states lie side by side, so that a look at all of them stays within one page
 * table.  A page here is 4 KiB whatever the machine's is.
 *
 * Claim word of a slot, taken by compare-and-swap:
 *
 *	generation(16)  namespace(10)  start time(16)  pid(22)
 *
 * The low 48 bits are 0 while it is free.  The generation stays and counts up with
 * each claim, 1 to 65535; so 0 is a slot that never was anybody's.  The owner is
 * published after the swap, and then `ready` becomes the claim word.  Whoever dies
 * between the two is known to be dead by the bits of its start time and pid; those
 * of its pid namespace say whether we may judge by them.
 *
 * Sequence of a region, and head of the ring:
 *
 *	generation(16)  count(48)
 *
 * Of another generation than the claim, it counts as never written.  So nothing
 * needs emptying, and a claimer cannot die half way through that.
 *
 * A token is the right to brake below one binding limit:
 *
 *	key   a hash of the limit's device and inode; 0 unused
 *	word  slot(6)  low bits of the slot's generation(10)  epoch(16)  deadline(32)
 *
 * The deadline is in ms of CLOCK_MONOTONIC, modulo 2^32, and compared as a signed
 * difference; 0 is a token nobody holds, and an expired one may be swapped for
 * one's own.  A token that makes no sense is an expired one.
 */
#ifndef MW_BOARD_H
#define MW_BOARD_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memwatch.h"

typedef _Atomic uint64_t mw_word;

#define MW_PAGE 4096
#define MW_WORDS(type) (sizeof(type) / sizeof(uint64_t))

/* What the file says of itself.  Magic and version never move, whatever the version. */
struct mw_header {
	char magic[8];
	uint32_t version;
	uint32_t order; /* 0x01020304, as this machine stores it */
	uint32_t size;  /* of the whole board */
	uint32_t slots;
	uint32_t records;
	uint32_t tokens;
	uint32_t owner_size; /* of the structs of memwatch.h */
	uint32_t live_size;
	uint32_t work_size;
	uint32_t orders_size;
	char boot_id[40]; /* 36 characters, filled up with 0 */
	char reserved[40];
};

struct mw_token {
	mw_word key;
	mw_word word;
};

/* A region is its sequence number, and its two copies. */
#define MW_REGION(type) (1 + 2 * MW_WORDS(type))

struct mw_state {
	alignas(MW_PAGE) mw_word claim;
	mw_word ready;
	mw_word doubted; /* a claim that somebody could not judge, and when; see board.c */
	mw_word doubted_ns;
	mw_word owner[MW_WORDS(struct mw_owner)];
	alignas(64) mw_word live[MW_REGION(struct mw_live)];
	alignas(64) mw_word work[MW_REGION(struct mw_work)];
	alignas(64) mw_word orders[MW_REGION(struct mw_orders)];
	alignas(64) mw_word head;
};

struct mw_ring {
	mw_word records[MW_RECORDS][MW_WORDS(struct mw_record)];
};

struct mw_memory {
	alignas(MW_PAGE) mw_word header[MW_WORDS(struct mw_header)];
	alignas(64) _Atomic uint32_t wake; /* the watchdog's futex */
	alignas(MW_PAGE) struct mw_token tokens[MW_TOKENS];
	struct mw_state states[MW_SLOTS];
	alignas(MW_PAGE) struct mw_ring rings[MW_SLOTS];
};

_Static_assert(sizeof(mw_word) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "a word must be one store");
_Static_assert(sizeof(struct mw_header) == 128, "the header has no padding");
_Static_assert(sizeof(struct mw_state) == MW_PAGE, "a state is one page");
_Static_assert(offsetof(struct mw_memory, states) == 2 * (size_t)MW_PAGE, "header and tokens");

struct mw_board {
	struct mw_memory *memory;
	struct mw_header header; /* as it must stay */
	dev_t dev;
	ino_t ino;
	int guard;   /* its place in the table of guarded mappings */
	char path[]; /* of the file */
};

/*
 * board_guard.c: mw_guard_install() sees to it that faults come to us first;
 * mw_guard_add() registers a mapping of sizeof(struct mw_memory) and returns its
 * place, -EMFILE when there is none.
 */
int mw_guard_install(void);
int mw_guard_add(struct mw_memory *memory);
void mw_guard_remove(int guard);
bool mw_guard_broken(int guard);

/* A fault met no file here: nothing in the mapping is shared any more. */
static inline bool mw_board_broken(const struct mw_board *board)
{
	return mw_guard_broken(board->guard);
}

#endif
