/*
 * board_guard.c - a board that is cut short must not take the training with it.
 *
 * A touch beyond the end of a mapped file is SIGBUS.  As libwayland and the X server
 * do, the handler puts anonymous memory where the file was and lets the touch happen
 * again; a flag tells the board's users.  A signal has one disposition a process,
 * so this is the one place with variables of the process's own.  No lock is taken:
 * a handler would wait for it for ever.
 */

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "board.h"

#define GUARDED 16

/* How often somebody else's handler may push itself in front of ours. */
#define LAYERS 8

static struct {
	_Atomic uintptr_t base; /* 0: unused */
	_Atomic bool broken;
} guarded[GUARDED];

/* What stood before ours; each is written once, before `layers` counts it. */
static struct sigaction before[LAYERS];
static _Atomic int layers;

/* The process that is installing, or 0.  A child of its may inherit the number: it
   is not the child's, so no child waits for a thread it does not have. */
static _Atomic pid_t installing;

/* The thread that is inside an earlier handler, called by ours. */
static _Atomic pid_t passing;

static pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* True once the touch at `address` may happen again. */
static bool mend(uintptr_t address)
{
	for (int i = 0; i < GUARDED; i++) {
		uintptr_t base = atomic_load(&guarded[i].base);
		void *memory;

		if (!base || address < base || address - base >= sizeof(struct mw_memory))
			continue;
		/* First the flag, so that nobody takes the zeros for a board's. */
		atomic_store(&guarded[i].broken, true);
		memory = mmap((void *)base, sizeof(struct mw_memory), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		return memory != MAP_FAILED;
	}
	return false;
}

/* The fault is not ours: what would have happened without us? */
static void pass_on(int number, siginfo_t *info, void *context)
{
	/* A handler in front of which we are may call ours as what stood before it: then
	   the circle ends at the one that was there first. */
	pid_t thread = thread_id(), last = atomic_load(&passing);
	int layer = last == thread ? 0 : atomic_load(&layers) - 1;
	const struct sigaction *to = &before[layer];
	bool sent = info->si_code <= 0; /* by kill() and its like: it will not recur by itself */

	if (!(to->sa_flags & SA_SIGINFO) && (to->sa_handler == SIG_DFL || to->sa_handler == SIG_IGN)) {
		if (sent && to->sa_handler == SIG_IGN)
			return;
		/* Back to the instruction that faulted; the kernel ends it, core and all. */
		sigaction(number, to, NULL);
		if (sent)
			raise(number);
		return;
	}
	atomic_store(&passing, thread);
	if (to->sa_flags & SA_SIGINFO)
		to->sa_sigaction(number, info, context);
	else
		to->sa_handler(number);
	atomic_store(&passing, last);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code <= 0 || !mend((uintptr_t)info->si_addr))
		pass_on(number, info, context);
	errno = saved;
}

static bool is_ours(const struct sigaction *action)
{
	return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_fault;
}

/* Holding `installing`. */
static int install(void)
{
	struct sigaction now, ours = { .sa_sigaction = on_fault };
	int layer = atomic_load(&layers);

	if (sigaction(SIGBUS, NULL, &now))
		return -errno;
	/* After so many, whoever insists shall have it. */
	if (is_ours(&now) || layer == LAYERS)
		return 0;
	/* An earlier handler runs within ours, so with the mask and stack it asked for. */
	ours.sa_mask = now.sa_mask;
	ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (now.sa_flags & (SA_NODEFER | SA_RESTART));
	before[layer] = now;
	atomic_store(&layers, layer + 1);
	if (sigaction(SIGBUS, &ours, NULL)) {
		atomic_store(&layers, layer);
		return -errno;
	}
	return 0;
}

int mw_guard_install(void)
{
	pid_t self = getpid(), holder = 0;
	int err;

	while (!atomic_compare_exchange_weak(&installing, &holder, self))
		if (holder == self)
			holder = 0;
	err = install();
	atomic_store(&installing, 0);
	return err;
}

int mw_guard_add(struct mw_memory *memory)
{
	for (int i = 0; i < GUARDED; i++) {
		uintptr_t unused = 0;

		if (atomic_compare_exchange_strong(&guarded[i].base, &unused, (uintptr_t)memory)) {
			atomic_store(&guarded[i].broken, false);
			return i;
		}
	}
	return -EMFILE;
}

void mw_guard_remove(int guard)
{
	atomic_store(&guarded[guard].base, 0);
}

bool mw_guard_broken(int guard)
{
	return atomic_load_explicit(&guarded[guard].broken, memory_order_acquire);
}
