/*
 * judge.c - what to do about a look at memory, and whom to stop.  Pure: trip.py has
 * the same in Python and is the reference; tests/test_judge.py holds the two together.
 */
#include <errno.h>
#include <stdbool.h>

#include "memwatch.h"

/* Nobody gave anything back that would have to settle. */
static bool was_told(const struct mw_judgment *state)
{
	return state->phase == MW_BRAKE_RAISING || state->phase == MW_BRAKE_SQUEEZING;
}

/* The trial has ended, acknowledged or by itself. */
static uint32_t ended(struct mw_judgment *state)
{
	uint32_t deeds = MW_DO_RELEASE;

	if (state->phase == MW_BRAKE_SQUEEZING)
		deeds |= MW_DO_LIFT;
	state->phase = was_told(state) ? MW_BRAKE_SETTLING : MW_BRAKE_WATCHING;
	state->epoch = 0;
	state->reaped_ns = 0;
	return deeds;
}

static uint32_t let_go(struct mw_judgment *state)
{
	state->phase = MW_BRAKE_WATCHING;
	state->epoch = 0;
	return MW_DO_RELEASE;
}

static uint32_t tell(struct mw_judgment *state, const struct mw_look *look)
{
	state->phase = MW_BRAKE_RAISING;
	state->since_ns = look->time_ns;
	state->told_ns = look->time_ns;
	state->reaped_ns = 0;
	return MW_DO_TELL;
}

static uint32_t kill_it(struct mw_judgment *state)
{
	state->phase = MW_BRAKE_KILLING;
	return MW_DO_KILL;
}

static uint32_t watching(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look)
{
	/* Settling lasts until the next trial is admitted, which is not decided here. */
	if (look->epoch || state->phase != MW_BRAKE_SETTLING)
		state->phase = MW_BRAKE_WATCHING;
	if (!look->epoch || look->headroom == MW_ABSENT || look->headroom >= numbers->brake)
		return 0;
	state->phase = MW_BRAKE_HOLDING;
	state->epoch = look->epoch;
	state->since_ns = look->time_ns;
	return MW_DO_HOLD;
}

/* From here on another worker's trial may be the one to end. */
static uint32_t begin_to_wait(struct mw_judgment *state, const struct mw_look *look)
{
	state->phase = MW_BRAKE_WAITING;
	state->since_ns = look->time_ns;
	state->most = look->headroom == MW_ABSENT ? 0 : look->headroom;
	state->rose_ns = look->time_ns;
	return MW_DO_WAIT;
}

static uint32_t holding(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look)
{
	int64_t held_ns = look->time_ns - state->since_ns;
	bool over = held_ns >= numbers->hold_ns;

	/* Blind: nobody is told, but nobody is held for ever, either. */
	if (look->headroom == MW_ABSENT)
		return over ? let_go(state) : 0;
	if (look->headroom >= numbers->brake)
		return let_go(state);
	if (look->headroom >= numbers->urgent && !over)
		return 0;
	switch (look->turn) {
	case MW_TURN_OTHERS:
		return begin_to_wait(state, look);
	case MW_TURN_FREE:
		/* Those who cross together are to be known to each other first; time that was
		   held for, anyway, counts. */
		return held_ns >= numbers->gather_ns ? MW_DO_TAKE : 0;
	default:
		return tell(state, look);
	}
}

static uint32_t waiting(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look)
{
	if (look->headroom == MW_ABSENT)
		return look->time_ns - state->since_ns >= numbers->hold_ns ? let_go(state) : 0;
	/* Where it is nobody else's turn, whoever was to give back has done so; or has died, and
	   it is coming back. */
	if (look->headroom >= (look->turn == MW_TURN_OTHERS ? numbers->resume : numbers->brake))
		return let_go(state);
	if (look->turn == MW_TURN_MINE || look->turn == MW_TURN_ALONE)
		return tell(state, look);
	if (look->headroom > state->most && look->headroom - state->most >= numbers->rise) {
		state->most = look->headroom;
		state->rose_ns = look->time_ns;
	}
	if (look->turn == MW_TURN_OTHERS || look->time_ns - state->rose_ns < numbers->still_ns)
		return 0;
	return MW_DO_TAKE;
}

/* Stopped for long, it is no longer the one to brake.  What is raised already goes on. */
static uint32_t lose(struct mw_judgment *state, const struct mw_look *look)
{
	uint32_t deeds = MW_DO_RETRACT;

	if (look->leaving)
		return 0;
	if (state->phase == MW_BRAKE_SQUEEZING)
		deeds |= MW_DO_LIFT;
	state->reaped_ns = 0;
	return deeds | begin_to_wait(state, look);
}

static uint32_t raising(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look)
{
	uint32_t deeds = 0;

	if (look->turn == MW_TURN_FREE || look->turn == MW_TURN_OTHERS)
		return lose(state, look);
	/* The grace period does not run while blind. */
	if (look->headroom == MW_ABSENT) {
		state->since_ns = look->time_ns;
		return 0;
	}
	if (look->headroom < numbers->urgent && look->children && !state->reaped_ns) {
		state->reaped_ns = look->time_ns;
		deeds |= MW_DO_REAP;
	}
	/* What the children held is on its way back. */
	if (look->headroom < numbers->floor &&
	    !(state->reaped_ns && look->time_ns - state->reaped_ns < numbers->reap_ns))
		return deeds | kill_it(state);
	if (look->shielded || look->headroom >= numbers->resume)
		state->since_ns = look->time_ns;
	if (look->time_ns - state->since_ns >= numbers->grace_ns)
		return deeds | kill_it(state);
	if (look->shielded) {
		if (state->phase == MW_BRAKE_SQUEEZING) {
			state->phase = MW_BRAKE_RAISING;
			deeds |= MW_DO_LIFT;
		}
	} else if (state->phase == MW_BRAKE_RAISING && numbers->squeeze_ns >= 0 &&
		   look->time_ns - state->told_ns >= numbers->squeeze_ns) {
		state->phase = MW_BRAKE_SQUEEZING;
		deeds |= MW_DO_SQUEEZE;
	}
	return deeds;
}

uint32_t mw_judge(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look)
{
	uint32_t deeds = 0;

	if (look->rss != MW_ABSENT) {
		uint64_t over = look->rss > numbers->rss_limit;

		if (over && !state->over)
			deeds |= MW_DO_WAKE;
		state->over = over;
	}
	if (state->phase == MW_BRAKE_KILLING)
		return deeds | MW_DO_KILL;
	if (state->epoch && look->epoch != state->epoch)
		deeds |= ended(state);
	switch (state->phase) {
	case MW_BRAKE_HOLDING:
		return deeds | holding(numbers, state, look);
	case MW_BRAKE_WAITING:
		return deeds | waiting(numbers, state, look);
	case MW_BRAKE_RAISING:
	case MW_BRAKE_SQUEEZING:
		return deeds | raising(numbers, state, look);
	default:
		return deeds | watching(numbers, state, look);
	}
}

/* Whether `a` is stopped rather than `b`. */
static bool rather(const struct mw_candidate *a, const struct mw_candidate *b)
{
	uint64_t grown = a->growth == MW_ABSENT ? 0 : a->growth;
	uint64_t other = b->growth == MW_ABSENT ? 0 : b->growth;

	if (grown != other)
		return grown > other;
	/* The one that began last has the least to lose. */
	if (a->start_ns != b->start_ns)
		return a->start_ns > b->start_ns;
	return a->number < b->number;
}

int mw_victim(const struct mw_candidate *list, uint32_t n)
{
	uint32_t best = 0;

	if (!n)
		return -ENOENT;
	for (uint32_t i = 1; i < n; i++) {
		if (rather(&list[i], &list[best]))
			best = i;
	}
	return (int)best;
}
