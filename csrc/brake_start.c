/* brake_start.c - starting and stopping the brake's thread, and speaking to it. */

#include "brake.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAIL_NS (2000 * (int64_t)MW_MS)

/* The one of this process. */
static struct mw_brake *the_brake;

static void close_all(struct mw_brake *brake)
{
	mw_sampler_close(brake->sampler);
	brake->sampler = NULL;
	mw_close_file(&brake->zone);
	mw_close_file(&brake->threads);
	mw_close_file(&brake->status);
	mw_close_file(&brake->statm);
	mw_kin_close(brake->kin, (uint32_t)brake->kin_count);
	brake->kin_count = 0;
}

static void after_fork_in_parent(void)
{
	if (the_brake)
		atomic_store(&the_brake->own->forked, 1);
}

static void after_fork_in_child(void)
{
	struct mw_brake *brake = the_brake;

	mw_lift_in_child();
	if (!brake)
		return;
	/* Now, for later their numbers may be other files': daemons close all they know. */
	atomic_store(&brake->inside, 0);
	close_all(brake);
	/* Where the kernel does not empty it (Linux < 4.14). */
	if (atomic_load(&brake->own->alive))
		memset(brake->own, 0, sizeof(*brake->own));
}

static void *map(size_t size, int flags)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Once a process, for a thread may be inside the handler whenever it is stopped. */
static struct mw_brake *get_memory(void)
{
	struct mw_brake *brake = the_brake;

	if (brake)
		return brake;
	brake = map(sizeof(*brake), MAP_POPULATE);
	if (!brake)
		return NULL;
	brake->zone = brake->threads = brake->status = brake->statm = -1;
	brake->own = map(sizeof(*brake->own), MAP_POPULATE);
	brake->stack = map(MW_STACK, MAP_POPULATE | MAP_STACK);
	if (!brake->own || !brake->stack || pthread_atfork(NULL, after_fork_in_parent, after_fork_in_child)) {
		if (brake->own)
			munmap(brake->own, sizeof(*brake->own));
		if (brake->stack)
			munmap(brake->stack, MW_STACK);
		munmap(brake, sizeof(*brake));
		return NULL;
	}
	(void)madvise(brake->own, sizeof(*brake->own), MADV_WIPEONFORK);
	the_brake = brake;
	return brake;
}

static int open_all(struct mw_brake *brake)
{
	const struct mw_plan *plan = &brake->plan;
	int root, process, err;

	/* Six limits of two groups were half of what a look costs an idle machine. */
	err = mw_sampler_open(plan->root, 0, (plan->flags & ~(uint32_t)MW_BRAKE_REALTIME) | MW_LAZY_LIMITS,
			      &brake->sampler);
	if (err)
		return err;
	(void)mw_sampler_near(brake->sampler, plan->near);
	root = mw_root_open(plan->root);
	if (root < 0)
		return root;
	/* Without it there is no second look, only the first one twice. */
	brake->zone = mw_open_zoneinfo(root);
	brake->is_real = mw_is_system_root(root);
	process = mw_proc_open(root, 0);
	brake->statm = process < 0 ? process : mw_open_statm(process);
	mw_close_file(&process);
	mw_close_file(&root);
	brake->threads = mw_open_threads();
	/* Of this very process, whatever the root: its limit is what is drawn in. */
	root = mw_root_open("/");
	process = root < 0 ? root : mw_proc_open(root, 0);
	brake->status = process < 0 ? process : mw_open_file(process, "status");
	mw_close_file(&process);
	mw_close_file(&root);
	return 0;
}

static bool is_sound(const struct mw_numbers *numbers)
{
	return numbers->floor < numbers->brake && numbers->brake < numbers->resume &&
	       numbers->urgent >= numbers->floor && numbers->urgent <= numbers->brake &&
	       numbers->hold_ns >= 0 && numbers->grace_ns >= 0 && numbers->reap_ns >= 0 &&
	       numbers->gather_ns >= 0 && numbers->still_ns >= 0;
}

static int start_thread(struct mw_brake *brake)
{
	sigset_t all, before;
	pthread_attr_t attributes;
	int err;

	/* It inherits the mask; faults, and the board's guard against SIGBUS, must come. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	err = pthread_attr_init(&attributes);
	if (err)
		return -err;
	err = pthread_attr_setstack(&attributes, brake->stack, MW_STACK);
	if (!err) {
		pthread_sigmask(SIG_SETMASK, &all, &before);
		err = pthread_create(&brake->thread, &attributes, mw_brake_run, brake);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attributes);
	return -err;
}

/* Others may ask at any time whether it runs: so word by word.  Nobody is held, and what only
   counts goes on counting. */
static void reset_shared(struct mw_own *own)
{
	atomic_store(&own->pass, 0);
	atomic_store(&own->spare, 0);
	atomic_store(&own->held, 0);
	atomic_store(&own->shoot, 0);
	atomic_store(&own->stop, 0);
	atomic_store(&own->refreshed, 0);
	atomic_store(&own->done, atomic_load(&own->asked));
	for (size_t i = 0; i < sizeof(own->words) / sizeof(*own->words); i++)
		atomic_store(&own->words[i], 0);
}

static void reset(struct mw_brake *brake, const struct mw_plan *plan)
{
	brake->plan = *plan;
	brake->numbers = plan->numbers;
	brake->rss_limit = plan->numbers.rss_limit;
	brake->signal = plan->signal;
	brake->pid = getpid();
	memset(&brake->state, 0, sizeof(brake->state));
	memset(&brake->target, 0, sizeof(brake->target));
	memset(&brake->live, 0, sizeof(brake->live));
	memset(brake->gaps, 0, sizeof(brake->gaps));
	reset_shared(brake->own);
	brake->headroom = brake->mark = MW_ABSENT;
	brake->credit = brake->squeezed = brake->news = 0;
	brake->crediting = brake->falling = brake->grows = brake->others_held = false;
	brake->headroom_ns = mw_now();
	brake->fell_ns = brake->headroom_ns - MW_MS * 1000;
	brake->publish_ns = brake->kin_ns = 0;
	brake->hook_ns = mw_now() + MW_HOOK_NS;
	brake->board = NULL;
	memset(&brake->turn, 0, sizeof(brake->turn));
	brake->kin_count = 0;
}

static bool is_alive(const struct mw_brake *brake)
{
	return brake && atomic_load(&brake->own->alive);
}

int mw_brake_start(const struct mw_plan *plan, struct mw_brake **out)
{
	struct mw_brake *brake;
	int err;

	if (is_alive(the_brake))
		return -EALREADY;
	if (!is_sound(&plan->numbers) || !plan->rate || plan->period_min_ns <= 0 ||
	    plan->period_max_ns < plan->period_min_ns || plan->signal <= 0)
		return -EINVAL;
	brake = get_memory();
	if (!brake)
		return -ENOMEM;
	reset(brake, plan);
	err = open_all(brake);
	if (!err)
		err = mw_hook(brake);
	if (!err) {
		bool locked;

		/* A child that was forked in the middle of a brake has inherited it off. */
		mw_restart_calls(brake, true);
		locked = !mlock(brake, sizeof(*brake)) && !mlock(brake->own, sizeof(*brake->own)) &&
			 !mlock(brake->stack, MW_STACK);
		mw_raise_news(brake, MW_NEWS_LOCKED, locked);
		atomic_store(&brake->own->alive, 1);
		err = start_thread(brake);
		if (err) {
			atomic_store(&brake->own->alive, 0);
			(void)mw_unhook(brake, true);
		}
	}
	if (err) {
		close_all(brake);
		return err;
	}
	*out = brake;
	return 0;
}

int mw_brake_stop(struct mw_brake *brake)
{
	if (!is_alive(brake))
		return 0;
	atomic_store(&brake->own->stop, 1);
	mw_brake_ring(brake);
	(void)pthread_join(brake->thread, NULL);
	(void)mw_unhook(brake, false);
	atomic_store(&brake->own->alive, 0);
	atomic_fetch_add(&brake->own->news, 1);
	mw_futex_wake(&brake->own->news, INT32_MAX);
	/* mw_brake_refresh() is inside for some 20 us a level. */
	while (atomic_load(&brake->inside))
		sched_yield();
	close_all(brake);
	return 0;
}

/* ------------------------------------------------------------ while it runs --- */

uint64_t *mw_brake_words(struct mw_brake *brake)
{
	return is_alive(brake) ? (uint64_t *)(uintptr_t)brake->own->words : NULL;
}

void mw_brake_ring(struct mw_brake *brake)
{
	if (!is_alive(brake))
		return;
	atomic_fetch_add(&brake->own->bell, 1);
	mw_futex_wake(&brake->own->bell, 1);
}

static void wait_a_moment(void)
{
	const struct timespec moment = { .tv_nsec = MW_MS / 5 };

	(void)nanosleep(&moment, NULL);
}

/* Waits until the mailbox is empty. */
static int wait_until_read(struct mw_brake *brake, int64_t deadline)
{
	while (atomic_load(&brake->own->done) != atomic_load(&brake->own->asked)) {
		if (!is_alive(brake))
			return -ESHUTDOWN;
		if (mw_now() >= deadline)
			return -ETIMEDOUT;
		wait_a_moment();
	}
	return 0;
}

/* Any thread may; what one of them could not get delivered in time is not written over. */
static int post(struct mw_brake *brake, const struct mw_mail *mail)
{
	int64_t deadline = mw_now() + MAIL_NS;
	int err;

	if (!is_alive(brake))
		return -ESHUTDOWN;
	while (atomic_exchange(&brake->own->posting, 1)) {
		if (mw_now() >= deadline)
			return -ETIMEDOUT;
		wait_a_moment();
	}
	err = wait_until_read(brake, deadline);
	if (!err) {
		brake->mail = *mail;
		atomic_fetch_add(&brake->own->asked, 1);
		mw_brake_ring(brake);
		err = wait_until_read(brake, deadline);
	}
	atomic_store(&brake->own->posting, 0);
	return err;
}

int mw_brake_arm(struct mw_brake *brake, const struct mw_numbers *numbers, uint64_t near)
{
	const struct mw_mail mail = { .arm = true, .numbers = *numbers, .near = near };

	return is_sound(numbers) ? post(brake, &mail) : -EINVAL;
}

int mw_brake_board(struct mw_brake *brake, struct mw_board *board, uint32_t slot, const struct mw_owner *owner)
{
	struct mw_mail mail = { .move = true, .board = board, .slot = slot };

	if (owner)
		mail.owner = *owner;
	return post(brake, &mail);
}

int mw_brake_refresh(struct mw_brake *brake)
{
	int err = -EBUSY;

	if (!brake)
		return -ESHUTDOWN;
	/* mw_brake_stop() closes the sampler once nobody is inside. */
	atomic_fetch_add(&brake->inside, 1);
	/* The thread is inside for 10 us at a time. */
	for (int tries = 0; err == -EBUSY && tries < 1000; tries++) {
		err = is_alive(brake) ? mw_sampler_refresh(brake->sampler) : -ESHUTDOWN;
		if (err == -EBUSY)
			sched_yield();
	}
	if (!err)
		atomic_store(&brake->own->refreshed, 1);
	atomic_fetch_sub(&brake->inside, 1);
	return err;
}

static int read_rss(struct mw_brake *brake, uint64_t *out)
{
	struct mw_statm statm;
	char text[256]; /* seven numbers */
	ssize_t n = mw_reread(brake->statm, text, sizeof(text));
	int err = n < 0 ? (int)n : mw_parse_statm(text, (size_t)n, (uint64_t)sysconf(_SC_PAGESIZE), &statm);

	if (!err)
		*out = statm.rss;
	return err;
}

/* The most this process has ever had; 0 where what is looked at is not this machine. */
static uint64_t most_ever(const struct mw_brake *brake)
{
	struct rusage usage;

	return brake->is_real && !getrusage(RUSAGE_SELF, &usage) ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

int mw_brake_begin(struct mw_brake *brake, uint32_t seat)
{
	uint64_t rss = MW_ABSENT;
	int err = -ESHUTDOWN;

	if (!brake || seat >= MW_SEATS)
		return -EINVAL;
	/* As in mw_brake_refresh(). */
	atomic_fetch_add(&brake->inside, 1);
	if (is_alive(brake)) {
		err = read_rss(brake, &rss);
		mw_set(brake, mw_seat(seat, MW_SEAT_START_RSS), rss);
		mw_set(brake, mw_seat(seat, MW_SEAT_START_PEAK), most_ever(brake));
		mw_set(brake, MW_WORD_PEAK, err ? 0 : rss);
	}
	atomic_fetch_sub(&brake->inside, 1);
	return err;
}

int64_t mw_brake_peak(struct mw_brake *brake, uint32_t seat)
{
	uint64_t seen, most;

	if (!brake || seat >= MW_SEATS)
		return -EINVAL;
	if (!is_alive(brake))
		return -ESHUTDOWN;
	seen = mw_get(brake, MW_WORD_PEAK);
	most = most_ever(brake);
	if (most > mw_get(brake, mw_seat(seat, MW_SEAT_START_PEAK)) && most > seen)
		seen = most;
	return seen ? (int64_t)seen : -ENODATA;
}

int mw_brake_hook(struct mw_brake *brake)
{
	return is_alive(brake) ? mw_hook(brake) : -ESHUTDOWN;
}

int mw_brake_wait(struct mw_brake *brake, uint64_t seen, int64_t timeout_ns)
{
	int64_t deadline = mw_now() + timeout_ns;

	if (!brake)
		return -ESHUTDOWN;
	for (;;) {
		/* First, or it could be stopped unnoticed between a look and the wait. */
		uint32_t news = atomic_load(&brake->own->news);

		if (!is_alive(brake) || atomic_load(&brake->own->stop))
			return -ESHUTDOWN;
		if (mw_get(brake, MW_WORD_NEWS) != seen)
			return 0;
		if (mw_now() >= deadline)
			return -ETIMEDOUT;
		mw_futex_wait(&brake->own->news, news, deadline);
	}
}

int mw_brake_live(struct mw_brake *brake, struct mw_live *out)
{
	struct mw_live live;

	if (!is_alive(brake))
		return -ESHUTDOWN;
	for (size_t i = 0; i < MW_WORDS(live); i++)
		((uint64_t *)&live)[i] = mw_get(brake, (uint32_t)(MW_WORD_LIVE + i));
	*out = live;
	return 0;
}
