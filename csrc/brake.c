/* brake.c - the thread that looks while Python cannot; see brake.h for its other files. */

#include "brake.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* So much more may a trial take that waits for another one to end; then it is parked. */
#define ALLOWANCE (UINT64_C(1) * 1024 * 1024)

/* Nobody is in a trial, and headroom is below the watermark: nothing depends on a look. */
#define NOBODY_NS (20 * (int64_t)MW_MS)

/* While headroom cannot be told, and while it is not falling. */
#define BLIND_NS (10 * (int64_t)MW_MS)
#define STEADY_NS ((int64_t)MW_MS)

/* RSS is not growing, and near its limit: what begins to grow now is seen in time all the
   same, and a worker that stays there costs 0.1 % of a processor. */
#define LEVEL_NS (5 * (int64_t)MW_MS)

/* A trial is held: what is waited for takes a fraction of a millisecond. */
#define HELD_NS (MW_MS / 2)

/* What parked threads may still add, by pages that were on their way. */
#define GROWTH (UINT64_C(4) * 1024 * 1024)

/* After the first shots, sent again until the trial has ended. */
static const int64_t shot_after_ns[] = { 100000, 300000, 1000000, 2000000 };
#define SHOT_NS (2 * (int64_t)MW_MS)

/* How long a thread that takes memory runs between two shots; else it is parked. */
#define SLICE_NS (MW_MS / 2)

/* ------------------------------------------------------------------ doing --- */

static void tell(struct mw_brake *brake, int64_t now)
{
	mw_take_turn_alone(brake, now);
	brake->live.brakes++;
	mw_set(brake, MW_WORD_BRAKES, brake->live.brakes);
	mw_set(brake, MW_WORD_TOLD_HEADROOM, brake->headroom);
	mw_set(brake, MW_WORD_TOLD_RSS, brake->live.rss);
	mw_set(brake, MW_WORD_REAPED, 0);
	mw_set(brake, MW_WORD_TRIPPED, 0);
	mw_set(brake, MW_WORD_TOLD_NS, (uint64_t)now);
	mw_set(brake, MW_WORD_TOLD, brake->state.epoch);
	brake->shots = 0;
	brake->shot_ns = now;
	/* From here on a call that waits must end when it is interrupted. */
	mw_restart_calls(brake, false);
	mw_raise_news(brake, MW_NEWS_RAISE, true);
}

static void end_telling(struct mw_brake *brake)
{
	mw_set(brake, MW_WORD_TOLD, 0);
	atomic_store(&brake->own->shoot, 0);
	mw_let_go(brake);
	mw_restart_calls(brake, true);
	mw_spare(brake, 0);
	mw_raise_news(brake, MW_NEWS_RAISE | MW_NEWS_HELD, false);
}

/* Another worker's trial is to end first. */
static void wait_for_others(struct mw_brake *brake, int64_t now)
{
	mw_set(brake, MW_WORD_WAITS, mw_get(brake, MW_WORD_WAITS) + 1);
	mw_set(brake, MW_WORD_WAIT_NS, (uint64_t)now);
	brake->waited_rss = brake->live.rss;
	mw_let_go(brake);
}

static void act(struct mw_brake *brake, uint32_t deeds, int64_t now)
{
	if (deeds & MW_DO_RETRACT)
		end_telling(brake);
	if (deeds & MW_DO_RELEASE) {
		end_telling(brake);
		mw_turn_release(&brake->turn);
		mw_set(brake, MW_WORD_FREED_NS, (uint64_t)now);
		/* Headroom may be below only without the page lists: then that is how it is
		   looked at from now on, or each look would hold the trial anew. */
		brake->crediting = brake->headroom != MW_ABSENT;
	}
	if (deeds & MW_DO_LIFT)
		mw_lift(brake);
	if (deeds & MW_DO_HOLD) {
		mw_set(brake, MW_WORD_HELD_NS, (uint64_t)now);
		mw_set(brake, MW_WORD_PARKED_NS, 0);
		mw_set(brake, MW_WORD_LOWEST, brake->headroom);
		mw_hold(brake, now);
		/* So that Python's helper waits for the interpreter lock from now on: who has it is
		   asked to give it up after 5 ms, parked or not. */
		mw_raise_news(brake, MW_NEWS_HELD, true);
		mw_set(brake, MW_WORD_HOLDS, mw_get(brake, MW_WORD_HOLDS) + 1);
		brake->mark = brake->headroom;
		brake->mark_ns = now;
		brake->kin_ns = 0;
		mw_find_kin(brake, now);
		brake->live.growth = mw_growth(brake);
	}
	if (deeds & MW_DO_WAIT)
		wait_for_others(brake, now);
	if (deeds & MW_DO_TELL)
		tell(brake, now);
	if (deeds & MW_DO_REAP)
		mw_set(brake, MW_WORD_REAPED, (uint64_t)mw_kin_kill(brake->kin, (uint32_t)brake->kin_count,
								     brake->target.start_ticks));
	if (deeds & MW_DO_SQUEEZE)
		mw_squeeze(brake);
	mw_raise_news(brake, MW_NEWS_OVER, brake->state.over != 0);
	if (deeds & ~(uint32_t)MW_DO_WAKE)
		mw_mark(brake, brake->state.phase);
	if (deeds & MW_DO_KILL) {
		/* The others are to wait for this memory. */
		(void)mw_turn_renew(&brake->turn, now, MW_LEASE_DEAD_MS);
		mw_publish(brake, true);
		mw_kill(brake);
	}
}

static bool has_grown(const struct mw_brake *brake, uint64_t by)
{
	return brake->headroom != MW_ABSENT && brake->mark != MW_ABSENT && brake->headroom + by < brake->mark;
}

static void shoot(struct mw_brake *brake, int64_t now)
{
	int64_t after = brake->shots < sizeof(shot_after_ns) / sizeof(*shot_after_ns) ?
				shot_after_ns[brake->shots] : 0;

	brake->shots++;
	brake->shot_ns = after ? (int64_t)mw_get(brake, MW_WORD_TOLD_NS) + after : now + SHOT_NS;
	brake->mark = brake->headroom;
	brake->mark_ns = now;
	if (!brake->shielded)
		mw_shoot(brake);
	mw_let_go(brake);
}

/*
 * Several threads take memory.  From now on one of them runs at a time, half a millisecond
 * in two: who holds the interpreter lock gives it up at its next bytecode, Python's helper
 * gets it and raises in all of them, and meanwhile they take next to nothing.
 */
static void begin_turns(struct mw_brake *brake)
{
	mw_hold_others(brake);
	brake->round = brake->headroom;
}

static void take_turns(struct mw_brake *brake)
{
	pid_t next;

	if (brake->tid_next >= brake->tid_count) {
		/* A whole round without growth: whoever it was has ended. */
		if (brake->headroom == MW_ABSENT || brake->headroom + GROWTH / 4 >= brake->round) {
			mw_let_go(brake);
			return;
		}
		begin_turns(brake);
		/* The handler is another's by now, or the threads could not be listed. */
		if (brake->tid_next >= brake->tid_count) {
			mw_let_go(brake);
			return;
		}
	}
	/* Nobody runs for three slices of four: it may take 80 ms until the helper gets a
	   processor and the interpreter lock, and one thread alone fills 1.6 GB/s. */
	if (brake->pause++ % 4) {
		mw_pass(brake, 0);
		return;
	}
	/* Every other turn is the trial's own: with hundreds of threads it would be told three
	   times a second. */
	brake->own_turn = !brake->own_turn;
	next = brake->own_turn ? brake->target.thread : brake->tids[brake->tid_next++];
	mw_pass(brake, next);
	if (next == brake->target.thread && !brake->shielded)
		mw_shoot(brake);
}

/* Keeps in check what takes memory while a trial is held or told. */
static void restrain(struct mw_brake *brake, int64_t now)
{
	switch (brake->state.phase) {
	case MW_BRAKE_WAITING:
		/* A commit that others wait for is not kept from its end. */
		mw_spare(brake, brake->shielded ? brake->target.thread : 0);
		if (atomic_load(&brake->own->hold) & 1) {
			mw_hold_on(brake, now);
			if (!brake->others_held && has_grown(brake, GROWTH))
				mw_hold_others(brake);
		} else if ((brake->headroom != MW_ABSENT && brake->headroom < brake->numbers.urgent) ||
			   (brake->live.rss != MW_ABSENT && brake->waited_rss != MW_ABSENT &&
			    brake->live.rss > brake->waited_rss + ALLOWANCE)) {
			brake->mark = brake->headroom;
			mw_hold(brake, now);
		}
		break;
	case MW_BRAKE_HOLDING:
		mw_hold_on(brake, now);
		/* The first look was without the page lists, and what was on its way back counts. */
		if (brake->headroom != MW_ABSENT && brake->headroom > brake->mark)
			brake->mark = brake->headroom;
		/* The trial's thread is parked, and yet it falls: then it is the others. */
		if (!brake->others_held && has_grown(brake, GROWTH))
			mw_hold_others(brake);
		break;
	case MW_BRAKE_RAISING:
	case MW_BRAKE_SQUEEZING:
		/* Who is shielded, or is being left, goes on. */
		mw_spare(brake, brake->shielded ? brake->target.thread : 0);
		if (brake->others_held)
			take_turns(brake);
		else if (now >= brake->shot_ns)
			shoot(brake, now);
		else if (now - brake->mark_ns >= SLICE_NS && has_grown(brake, GROWTH / 4)) {
			/* Told, it takes more: it runs a quarter of the time.  And if it still falls
			   then, it is the others. */
			if (atomic_load(&brake->own->hold) & 1)
				begin_turns(brake);
			else
				mw_hold(brake, now);
		}
		break;
	default:
		break;
	}
}

/* --------------------------------------------------------------- the thread --- */

/*
 * Until RSS can be above its limit; headroom's period holds where that is longer.  Without a
 * limit, or 1.6 GiB below one (100 ms of 16 GiB/s), nothing is looked at more often than for
 * headroom alone; nor above it, for the watchdog has been told.
 */
static int64_t period_for_rss(const struct mw_brake *brake)
{
	uint64_t limit = brake->numbers.rss_limit, rss = brake->live.rss;
	int64_t least = brake->grows ? STEADY_NS : LEVEL_NS;
	double ns;

	if (limit >= MW_NO_LIMIT || rss == MW_ABSENT || rss > limit)
		return INT64_MAX;
	ns = (double)(limit - rss) / (double)brake->plan.rate * 1e9;
	if (ns >= (double)brake->plan.period_max_ns)
		return INT64_MAX;
	return ns < (double)least ? least : (int64_t)ns;
}

static int64_t period_for_headroom(const struct mw_brake *brake, bool in_trial)
{
	uint64_t room = brake->headroom, gap;
	double ns;

	if (room == MW_ABSENT)
		return BLIND_NS;
	gap = room > brake->numbers.brake ? room - brake->numbers.brake : 0;
	if (room < brake->numbers.brake && !in_trial)
		return NOBODY_NS;
	ns = (double)gap / (double)brake->plan.rate * 1e9;
	if (ns >= (double)brake->plan.period_max_ns)
		return brake->plan.period_max_ns;
	if (ns < STEADY_NS && !brake->falling)
		return STEADY_NS;
	return ns < (double)brake->plan.period_min_ns ? brake->plan.period_min_ns : (int64_t)ns;
}

static int64_t period(const struct mw_brake *brake, bool in_trial)
{
	int64_t one, other;

	switch (brake->state.phase) {
	case MW_BRAKE_HOLDING:
		return HELD_NS;
	case MW_BRAKE_WAITING:
		return STEADY_NS;
	case MW_BRAKE_RAISING:
	case MW_BRAKE_SQUEEZING:
		return SLICE_NS;
	default:
		break;
	}
	one = period_for_headroom(brake, in_trial);
	other = period_for_rss(brake);
	return one < other ? one : other;
}

static void read_mail(struct mw_brake *brake)
{
	uint32_t asked = atomic_load(&brake->own->asked);

	if (asked == atomic_load(&brake->own->done))
		return;
	if (brake->mail.arm) {
		/* Somebody finds its groups anew: at the next look, then. */
		if (mw_sampler_near(brake->sampler, brake->mail.near) == -EBUSY)
			return;
		brake->numbers = brake->mail.numbers;
		brake->rss_limit = brake->numbers.rss_limit;
	}
	if (brake->mail.move) {
		brake->board = brake->mail.board;
		brake->owner = brake->mail.owner;
		brake->slot = brake->mail.slot;
		brake->publish_ns = 0;
		mw_move_turn(brake);
		/* Who watches this board has not been told. */
		brake->state.over = 0;
	}
	atomic_store(&brake->own->done, asked);
}

static void prepare_thread(struct mw_brake *brake)
{
	struct sched_param realtime = { .sched_priority = sched_get_priority_min(SCHED_RR) };

	(void)prctl(PR_SET_NAME, "memwatch");
	(void)prctl(PR_SET_TIMERSLACK, 1);
	if (brake->plan.flags & MW_BRAKE_REALTIME && !pthread_setschedparam(pthread_self(), SCHED_RR, &realtime))
		mw_raise_news(brake, MW_NEWS_REALTIME, true);
}

/*
 * A fork makes every page one that the next write copies, and when memory is short there
 * is none to copy to.  So they are written to while there is: what is used only then, and
 * the stack below us.
 */
static void touch(struct mw_brake *brake)
{
	volatile unsigned char *at = brake->stack, *here = __builtin_frame_address(0);

	/* What lies right below may be in use. */
	for (; here - at > 4096; at += 4096)
		*at = *at;
	for (at = (volatile unsigned char *)brake->kin; at < (unsigned char *)(brake + 1); at += 4096)
		*at = *at;
	brake->text[sizeof(brake->text) - 1] = '\0';
}

void *mw_brake_run(void *argument)
{
	struct mw_brake *brake = argument;
	struct mw_own *own = brake->own;
	int64_t due = 0;

	prepare_thread(brake);
	for (;;) {
		/* First, or what was asked for while nobody waited would wait for a period. */
		uint32_t bell = atomic_load(&own->bell);
		struct mw_look seen;
		uint64_t phase = brake->state.phase;
		int64_t now, next;
		uint32_t deeds;

		if (atomic_load(&own->stop))
			break;
		if (atomic_exchange(&own->forked, 0))
			touch(brake);
		read_mail(brake);
		mw_read_orders(brake);
		mw_brake_look(brake, &seen);
		if (due)
			mw_count_gap(brake, seen.time_ns - due);
		due = 0;
		deeds = mw_judge(&brake->numbers, &brake->state, &seen);
		if (deeds & MW_DO_TAKE && mw_try_turn(brake, &seen)) {
			seen.turn = MW_TURN_MINE;
			deeds |= mw_judge(&brake->numbers, &brake->state, &seen);
		}
		deeds &= ~(uint32_t)MW_DO_TAKE;
		act(brake, deeds, seen.time_ns);
		restrain(brake, seen.time_ns);
		mw_publish(brake, brake->state.phase != phase || deeds & MW_DO_WAKE);
		/* The watchdog reads what was published: RSS above its limit, or it was woken for nothing. */
		if (deeds & MW_DO_WAKE && brake->board)
			mw_board_ring(brake->board);
		if (seen.time_ns >= brake->hook_ns) {
			brake->hook_ns = seen.time_ns + MW_HOOK_NS;
			mw_raise_news(brake, MW_NEWS_UNHOOKED, !mw_is_hooked(brake));
		}
		/* A trial that was just held is looked at a second time at once. */
		if (deeds & MW_DO_HOLD)
			continue;
		now = mw_now();
		next = seen.time_ns + period(brake, seen.epoch != 0);
		if (brake->state.phase == MW_BRAKE_RAISING && !brake->others_held && brake->shot_ns < next)
			next = brake->shot_ns;
		if (next <= now)
			continue;
		mw_futex_wait(&own->bell, bell, next);
		/* Rung for, it did not come late. */
		if (atomic_load(&own->bell) == bell)
			due = next;
	}
	mw_lift(brake);
	end_telling(brake);
	mw_turn_release(&brake->turn);
	brake->state.phase = MW_BRAKE_OFF;
	brake->live.time_ns = mw_now();
	mw_publish(brake, true);
	atomic_store(&own->done, atomic_load(&own->asked));
	return NULL;
}
