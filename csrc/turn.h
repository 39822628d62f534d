/*
 * turn.h - whose turn it is to brake, among the workers below one limit.
 *
 * A token of the board (see board.h) is held by at most one worker at a time.  Who holds it
 * brakes; all others wait.  It is a lease: a holder renews it while it brakes, and one
 * that dies, is stopped or is frozen loses it at the end of that.  Nothing here waits,
 * allocates or locks; every step is one load or one compare-and-swap of a 64-bit word, so
 * whoever stops between two of them leaves nothing half done.
 */
#ifndef MW_TURN_H
#define MW_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

/* Longer than a brake's thread was seen to be kept from a processor (78 ms with half a core,
   FACTS), short enough that nobody waits long for one that was stopped. */
#define MW_LEASE_MS 500

/* What a killed worker held comes back at 70 ms/GiB, small objects in up to 2.9 s; the
   last of that is seen as headroom that rises. */
#define MW_LEASE_DEAD_MS 2000

/* No lease is longer: a deadline further off was scribbled. */
#define MW_LEASE_MOST_MS 10000

/* A thread that looks each millisecond; p99.9 of that on a busy machine is 6.6 ms late. */
#define MW_FRESH_NS 20000000

/* Who has not looked for so long neither waits nor brakes. */
#define MW_PEER_NS 1000000000

/* One worker's part in it. */
struct mw_turn {
	struct mw_board *board;
	struct mw_owner owner; /* its slot's */
	uint32_t slot;
	uint32_t token; /* its place; valid while `key` is not 0 */
	uint64_t key;   /* of the limit it contends for */
	uint64_t word;  /* as we wrote it last; 0: it is not ours */
};

/* Contends for the limit by that name from now on; (0, 0) is the machine.  What is held of
   another one is given back. */
void mw_turn_enter(struct mw_turn *turn, uint64_t dev, uint64_t ino);

/* MW_TURN_FREE, MINE or OTHERS, and never MW_TURN_ALONE. */
uint32_t mw_turn_look(struct mw_turn *turn, int64_t now_ns);

/* Takes it, if it is free: whether it is ours now. */
bool mw_turn_take(struct mw_turn *turn, uint64_t epoch, int64_t now_ns);

/* Holds on to it until `lease_ms` from now: whether it is still ours. */
bool mw_turn_renew(struct mw_turn *turn, int64_t now_ns, int64_t lease_ms);

/* Gives it back; fine where it is not ours. */
void mw_turn_release(struct mw_turn *turn);

/* How long it is ours still, in ms; below 0: it may be another's. */
int64_t mw_turn_left_ms(const struct mw_turn *turn, int64_t now_ns);

/* Whether another worker looks, below whatever limit. */
bool mw_turn_has_peers(const struct mw_turn *turn, int64_t now_ns);

/* Whether another worker's trial is held below the limit that (dev, ino) names. */
bool mw_turn_wanted(const struct mw_turn *turn, uint64_t dev, uint64_t ino, int64_t now_ns);

/*
 * Whether `mine`, held below the limit that (dev, ino) names, is the one to stop: of all
 * trials that are held there now, on the board.
 */
bool mw_turn_chosen(const struct mw_turn *turn, const struct mw_candidate *mine, uint64_t dev, uint64_t ino,
		    int64_t now_ns);

#endif
