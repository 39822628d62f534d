/*
 * brake.h - what the files of the brake share.
 *
 *	judge.c       what to do about a look: pure
 *	brake.c       the thread: looks, asks judge.c, does
 *	brake_start.c starting and stopping it, and speaking to it
 *	brake_look.c  one look, and what is told of it
 *	brake_turn.c  taking turns with other workers; turn.c has how
 *	brake_hold.c  the signal: parking threads, and raising
 *	brake_kill.c  what ends processes: children, squeeze, last words
 */
#ifndef MW_BRAKE_H
#define MW_BRAKE_H

#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "board.h"
#include "memwatch.h"
#include "procfs.h"
#include "turn.h"

#define MW_MS 1000000 /* ns */

/* How often to ask whether the handler is still ours. */
#define MW_HOOK_NS (1000 * (int64_t)MW_MS)

/* Of the thread.  libc's own needs stand at its top: static TLS of large libraries takes
   tens of KiB, and that of ThreadSanitizer 900. */
#ifdef __SANITIZE_THREAD__
#define MW_STACK (2048 * (size_t)1024)
#else
#define MW_STACK (256 * (size_t)1024)
#endif

enum {
	MW_KIN = 256,     /* descendants whose pidfds are kept */
	MW_THREADS = 512, /* threads that are parked at most */
	MW_GAPS = 112,    /* buckets of gaps: four for each power of two, from 1 us on */
};

/* The shared page: fork() empties it, so a child knows that no thread is there. */
struct mw_own {
	_Atomic uint32_t alive; /* the thread runs, in this process */
	_Atomic uint32_t hold;  /* odd: who is signalled waits until it changes */
	_Atomic uint32_t gate;  /* futex: where they wait; counts every change of the next two too */
	_Atomic uint32_t pass;  /* the one that runs although it was parked; 0 */
	_Atomic uint32_t spare; /* the one that is not to be parked at all; 0 */
	_Atomic uint32_t bell;  /* futex: the thread sleeps here */
	_Atomic uint32_t news;  /* futex: mw_brake_wait() */
	_Atomic uint32_t held;  /* the trial's thread, as gettid() calls it */
	_Atomic uint32_t shoot; /* the thread in which to raise; 0 */
	_Atomic uint32_t stop;
	_Atomic uint32_t refreshed; /* the sampler found its groups anew */
	_Atomic uint32_t asked; /* the mailbox: how often it was filled, and emptied */
	_Atomic uint32_t done;
	_Atomic uint32_t posting; /* somebody has the mailbox */
	_Atomic uint32_t forked;  /* the pages are shared with a child */
	_Atomic int64_t hold_until_ns; /* when to wait no more, should the thread be stuck */
	alignas(64) mw_word words[MW_WORD_SEATS + MW_SEATS * MW_SEAT_WORDS];
};

/* What others ask of the thread, one at a time. */
struct mw_mail {
	bool arm;
	bool move;
	struct mw_numbers numbers;
	uint64_t near;
	struct mw_board *board;
	struct mw_owner owner;
	uint32_t slot;
};

/* The trial that is held or told. */
struct mw_target {
	uint64_t seat;
	pid_t thread;
	uint64_t start_ticks;
	int64_t start_ns;
	bool main; /* its thread is the process's first: Python handles signals there */
};

struct mw_brake {
	struct mw_own *own;
	struct mw_sampler *sampler;
	_Atomic uint32_t inside; /* how many others use it; also of a brake that is started anew */
	int zone;    /* /proc/zoneinfo; -1 */
	int threads; /* /proc/self/task */
	int status;  /* /proc/self/status, for its VmData; -1 */
	int statm;   /* of this process, for mw_brake_begin(); -1 */
	bool is_real; /* what is looked at is this machine, and no tree of files */
	int signal;
	pthread_t thread;
	unsigned char *stack;
	pid_t pid;

	struct mw_plan plan;
	struct mw_numbers numbers;
	struct mw_judgment state;
	struct mw_mail mail;
	struct mw_board *board;
	struct mw_owner owner;
	uint32_t slot;
	uint64_t rss_limit; /* as Python gave it; that of `numbers` is the watchdog's, if lower */

	struct mw_turn turn;
	struct mw_target target;
	struct mw_live live;
	uint64_t headroom;  /* as last judged */
	bool grows;         /* RSS was higher at the last look than at the one before */
	uint64_t credit;    /* what the per-CPU lists added to it */
	int64_t headroom_ns;
	int64_t fell_ns;    /* when it was last seen falling */
	bool crediting;     /* headroom is below brake only without them */
	bool falling;
	bool shielded;
	uint64_t mark;      /* headroom when threads were last let go */
	int64_t mark_ns;
	int64_t shot_ns;    /* when the next shot is due */
	uint32_t shots;     /* of this brake */
	bool others_held;
	uint64_t waited_rss; /* what the process had when its trial began to wait */
	uint64_t round;     /* headroom when the threads' turns began */
	int tid_next;       /* whose slice is next: a place in `tids` */
	int tid_count;
	uint32_t pause;     /* counts slices */
	bool own_turn;      /* it is that of the trial's thread, in between */
	_Atomic bool restarts; /* SA_RESTART stands */
	int64_t kin_ns;     /* when to look for descendants again */
	int64_t publish_ns;
	int64_t hook_ns;    /* when to ask again whether the handler is ours */
	uint64_t news;

	uint64_t squeezed;  /* the soft RLIMIT_DATA that was drawn in; 0: none is */
	uint64_t unsqueezed;

	struct mw_kin kin[MW_KIN];
	int kin_count;
	uint64_t gaps[MW_GAPS];
	pid_t tids[MW_THREADS];
	char text[16384];
};

int64_t mw_now(void);
void mw_futex_wake(_Atomic uint32_t *word, int n);
/* Until `deadline_ns` of CLOCK_MONOTONIC, or the word changes, or for no reason. */
void mw_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns);

static inline uint64_t mw_get(const struct mw_brake *brake, uint32_t word)
{
	return atomic_load_explicit(&brake->own->words[word], memory_order_acquire);
}

static inline void mw_set(struct mw_brake *brake, uint32_t word, uint64_t value)
{
	atomic_store_explicit(&brake->own->words[word], value, memory_order_release);
}

static inline uint32_t mw_seat(uint64_t seat, uint32_t word)
{
	return (uint32_t)(MW_WORD_SEATS + seat * MW_SEAT_WORDS + word);
}

/* brake.c: the thread, which gets the brake as its argument */
void *mw_brake_run(void *argument);

/* brake_look.c */
/* What the watchdog asks for. */
void mw_read_orders(struct mw_brake *brake);
void mw_brake_look(struct mw_brake *brake, struct mw_look *out);
void mw_count_gap(struct mw_brake *brake, int64_t gap_ns);
void mw_publish(struct mw_brake *brake, bool at_once);
void mw_mark(struct mw_brake *brake, uint64_t phase);
void mw_raise_news(struct mw_brake *brake, uint64_t news, bool stands);

/* brake_turn.c: whose turn it is, for a look; whether it was had; and another slot to do it with. */
uint32_t mw_see_turn(struct mw_brake *brake, const struct mw_look *look);
bool mw_try_turn(struct mw_brake *brake, const struct mw_look *look);
/* Who brakes without having been chosen is seen to, by those who come later. */
void mw_take_turn_alone(struct mw_brake *brake, int64_t now);
void mw_move_turn(struct mw_brake *brake);
/* Of the trial that is held, as struct mw_candidate has it. */
uint64_t mw_growth(const struct mw_brake *brake);

/* brake_hold.c */
int mw_hook(struct mw_brake *brake);
/* Puts back what stood before (`restore`), or has the signal ignored. */
int mw_unhook(struct mw_brake *brake, bool restore);
bool mw_is_hooked(const struct mw_brake *brake);
/* Whether a call that a signal interrupts is started again by the kernel. */
void mw_restart_calls(struct mw_brake *brake, bool restart);
void mw_hold(struct mw_brake *brake, int64_t now);
/* Whoever is parked stays so for a while longer: the brake's thread is not stuck. */
void mw_hold_on(struct mw_brake *brake, int64_t now);
void mw_hold_others(struct mw_brake *brake);
/* One thread that was parked runs, until the next call parks it again.  0: none. */
void mw_pass(struct mw_brake *brake, pid_t thread);
/* One thread is let go, and no longer parked; 0: none. */
void mw_spare(struct mw_brake *brake, pid_t thread);
void mw_let_go(struct mw_brake *brake);
/* Signals the trial's thread, so that Python's handler runs in it. */
void mw_shoot(struct mw_brake *brake);

/* brake_kill.c */
void mw_find_kin(struct mw_brake *brake, int64_t now);
uint32_t mw_count_kin(const struct mw_brake *brake);
void mw_squeeze(struct mw_brake *brake);
void mw_lift(struct mw_brake *brake);
void mw_lift_in_child(void);
void mw_kill(struct mw_brake *brake);

#endif
