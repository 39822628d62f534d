/*
 * brake_hold.c - one signal, two uses: a thread that gets it waits inside the handler
 * for as long as a hold stands; then, if it is the one to raise in, CPython's handler
 * is called, and Python raises at its next bytecode.
 *
 * Parking takes some 30 us wherever the thread is, in C or in Python, with or without
 * the interpreter lock; a call that is in the kernel filling pages parks on its return.
 */

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "brake.h"

/* A handler has no argument of its own.  Set once; the brake is never freed. */
static struct mw_brake *_Atomic current;

/* What stood before ours: CPython's, or nothing; and what is called of it. */
static struct sigaction before;
static void (*_Atomic chained)(int);

/* The thread that is inside it, called by ours. */
static _Atomic pid_t passing;

/* Longer than any hold: should the brake's thread be stuck, nobody waits for it. */
#define HOLD_SLACK_NS (250 * (int64_t)MW_MS)

#define TRIPPED_SHOTS 50

int64_t mw_now(void)
{
	struct timespec now;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void mw_futex_wake(_Atomic uint32_t *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, NULL, NULL, 0);
}

void mw_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns)
{
	struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
				  .tv_nsec = (long)(deadline_ns % 1000000000) };

	syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value, &until, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static bool may_pass(struct mw_own *own, pid_t thread)
{
	return (pid_t)atomic_load(&own->pass) == thread || (pid_t)atomic_load(&own->spare) == thread;
}

static void park(struct mw_brake *brake)
{
	struct mw_own *own = brake->own;
	uint32_t hold = atomic_load(&own->hold);
	pid_t thread = thread_id();

	if (!(hold & 1) || may_pass(own, thread))
		return;
	/* The first time: it may be parked again once it was told. */
	if ((pid_t)atomic_load(&own->held) == thread && !mw_get(brake, MW_WORD_PARKED_NS))
		mw_set(brake, MW_WORD_PARKED_NS, (uint64_t)mw_now());
	for (;;) {
		uint32_t gate = atomic_load(&own->gate);
		int64_t until = atomic_load(&own->hold_until_ns);

		/* A later hold means whoever is signalled for it, again. */
		if (atomic_load(&own->hold) != hold || may_pass(own, thread) || mw_now() >= until)
			return;
		mw_futex_wait(&own->gate, gate, until);
	}
}

static void pass_on(int number)
{
	void (*to)(int) = atomic_load(&chained);
	pid_t self = thread_id();

	/* One that was put in front of ours calls ours: once ours is in front again, that
	   would be a circle. */
	if (to == SIG_DFL || to == SIG_IGN || atomic_load(&passing) == self)
		return;
	atomic_store(&passing, self);
	to(number);
	atomic_store(&passing, 0);
}

static void on_signal(int number)
{
	struct mw_brake *brake = atomic_load(&current);
	int saved = errno;

	/* In a forked child the page is empty, and the signal nobody's. */
	if (brake && atomic_load(&brake->own->alive)) {
		park(brake);
		/* Once is enough until Python has run: each call writes to the wakeup descriptor that
		   loops read, and one that is full loses the signals of others. */
		if ((pid_t)atomic_load(&brake->own->shoot) == thread_id() &&
		    !atomic_exchange(&brake->own->words[MW_WORD_TRIPPED], 1))
			pass_on(number);
	}
	errno = saved;
}

static bool is_ours(const struct sigaction *action)
{
	return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == on_signal;
}

int mw_signal_taken(int number)
{
	struct sigaction now;

	if (sigaction(number, NULL, &now))
		return -errno;
	return !is_ours(&now) && ((now.sa_flags & SA_SIGINFO) ||
				  (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN));
}

bool mw_is_hooked(const struct mw_brake *brake)
{
	struct sigaction now;

	return !sigaction(brake->signal, NULL, &now) && is_ours(&now);
}

static int install(const struct mw_brake *brake, bool restarts)
{
	struct sigaction ours = { .sa_handler = on_signal };

	ours.sa_flags = SA_ONSTACK | (restarts ? SA_RESTART : 0);
	sigfillset(&ours.sa_mask);
	/* A fault inside the handler must still be told. */
	sigdelset(&ours.sa_mask, SIGBUS);
	sigdelset(&ours.sa_mask, SIGSEGV);
	return sigaction(brake->signal, &ours, NULL) ? -errno : 0;
}

int mw_hook(struct mw_brake *brake)
{
	struct sigaction now;

	if (sigaction(brake->signal, NULL, &now))
		return -errno;
	if (is_ours(&now))
		return 0;
	/* One that wants siginfo is not CPython's; it would have to be called otherwise. */
	if (now.sa_flags & SA_SIGINFO)
		return -EBUSY;
	before = now;
	atomic_store(&chained, now.sa_handler);
	atomic_store(&current, brake);
	brake->restarts = true;
	return install(brake, true);
}

int mw_unhook(struct mw_brake *brake, bool restore)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };

	/* Somebody else's handler stays. */
	if (!mw_is_hooked(brake))
		return 0;
	return sigaction(brake->signal, restore ? &before : &ignore, NULL) ? -errno : 0;
}

void mw_restart_calls(struct mw_brake *brake, bool restart)
{
	if (brake->restarts == restart || !mw_is_hooked(brake))
		return;
	brake->restarts = restart;
	(void)install(brake, restart);
}

static void send(const struct mw_brake *brake, pid_t thread)
{
	/* One that has ended meanwhile is no error of ours. */
	(void)syscall(SYS_tgkill, brake->pid, thread, brake->signal);
}

void mw_hold(struct mw_brake *brake, int64_t now)
{
	struct mw_own *own = brake->own;

	atomic_store(&own->held, (uint32_t)brake->target.thread);
	atomic_store(&own->hold_until_ns, now + HOLD_SLACK_NS);
	if (!(atomic_load(&own->hold) & 1))
		atomic_fetch_add(&own->hold, 1);
	/* Whoever stands behind another's handler cannot be parked; it would be killed by a
	   default action, or run what is not ours. */
	if (mw_is_hooked(brake))
		send(brake, brake->target.thread);
}

void mw_hold_on(struct mw_brake *brake, int64_t now)
{
	atomic_store(&brake->own->hold_until_ns, now + HOLD_SLACK_NS);
}

/* Lists who may be parked: not this thread, nor Python's helper, which raises in others. */
static void list_threads(struct mw_brake *brake)
{
	pid_t self = thread_id(), clerk = (pid_t)mw_get(brake, MW_WORD_CLERK);
	int n = mw_threads(brake->threads, brake->tids, MW_THREADS), kept = 0;

	for (int i = 0; i < n; i++)
		if (brake->tids[i] != self && brake->tids[i] != clerk)
			brake->tids[kept++] = brake->tids[i];
	brake->tid_count = kept;
}

void mw_hold_others(struct mw_brake *brake)
{
	if (!mw_is_hooked(brake))
		return;
	brake->others_held = true;
	brake->tid_next = 0;
	list_threads(brake);
	/* Who waits already gets the signal once it waits no more: one too many, and harmless. */
	for (int i = 0; i < brake->tid_count; i++)
		send(brake, brake->tids[i]);
}

static void open_gate(struct mw_own *own)
{
	atomic_fetch_add(&own->gate, 1);
	mw_futex_wake(&own->gate, INT32_MAX);
}

void mw_pass(struct mw_brake *brake, pid_t thread)
{
	pid_t last = (pid_t)atomic_exchange(&brake->own->pass, (uint32_t)thread);

	atomic_store(&brake->own->hold_until_ns, mw_now() + HOLD_SLACK_NS);
	open_gate(brake->own);
	if (last && last != thread && mw_is_hooked(brake))
		send(brake, last);
}

void mw_spare(struct mw_brake *brake, pid_t thread)
{
	pid_t last = (pid_t)atomic_exchange(&brake->own->spare, (uint32_t)thread);

	if (last == thread)
		return;
	open_gate(brake->own);
	/* It ran out of the handler meanwhile, and the hold still stands. */
	if (last && atomic_load(&brake->own->hold) & 1 && mw_is_hooked(brake))
		send(brake, last);
}

void mw_let_go(struct mw_brake *brake)
{
	struct mw_own *own = brake->own;

	brake->others_held = false;
	if (!(atomic_load(&own->hold) & 1))
		return;
	atomic_fetch_add(&own->hold, 1);
	atomic_store(&own->pass, 0);
	open_gate(own);
}

void mw_shoot(struct mw_brake *brake)
{
	if (!brake->target.main || !mw_is_hooked(brake))
		return;
	/* Whoever put ours in front again meanwhile did it for a hold. */
	mw_restart_calls(brake, false);
	atomic_store(&brake->own->shoot, (uint32_t)brake->target.thread);
	/* Now and then all the same, should another exception have come before Python's handler. */
	if (brake->shots % TRIPPED_SHOTS == 0)
		mw_set(brake, MW_WORD_TRIPPED, 0);
	mw_set(brake, MW_WORD_SHOTS, mw_get(brake, MW_WORD_SHOTS) + 1);
	send(brake, brake->target.thread);
}
