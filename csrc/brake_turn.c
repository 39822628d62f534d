/* brake_turn.c - taking turns with other workers: see turn.h. */

#include "brake.h"

#include <unistd.h>

/* Renewed that long before its end, ten times a second do. */
#define RENEW_MS (MW_LEASE_MS - 100)

static bool has_board(const struct mw_brake *brake)
{
	return brake->turn.board && !mw_board_broken(brake->turn.board);
}

/* How long memory that was given back may take to show, at most: model.py's SETTLE. */
#define SETTLE_NS (2000 * (int64_t)MW_MS)

/* Nothing comes of it for now, or for ever: a shield is up, headroom cannot be told, or who is
   being left does not come out of that (a __del__ that hangs). */
static bool is_stuck(const struct mw_brake *brake, const struct mw_look *look)
{
	if (look->headroom == MW_ABSENT)
		return true;
	if (look->leaving)
		return look->time_ns - brake->state.told_ns > brake->numbers.grace_ns + SETTLE_NS;
	return look->shielded;
}

/*
 * Who is told goes on having the turn, but for one that is stuck while others wait for it.
 * One that ran out, because this process was stopped for long, is not taken anew without
 * being asked for again: the trial has had no time to end, either.
 */
static uint32_t keep(struct mw_brake *brake, uint32_t whose, const struct mw_look *look)
{
	if (is_stuck(brake, look) &&
	    mw_turn_wanted(&brake->turn, brake->live.bind_dev, brake->live.bind_ino, look->time_ns))
		return whose;
	if (whose == MW_TURN_FREE && look->leaving)
		return mw_turn_take(&brake->turn, brake->state.epoch, look->time_ns) ? MW_TURN_MINE : MW_TURN_OTHERS;
	if (whose == MW_TURN_MINE && mw_turn_left_ms(&brake->turn, look->time_ns) < RENEW_MS &&
	    !mw_turn_renew(&brake->turn, look->time_ns, MW_LEASE_MS))
		return MW_TURN_OTHERS;
	return whose;
}

uint32_t mw_see_turn(struct mw_brake *brake, const struct mw_look *look)
{
	bool contends = brake->state.phase == MW_BRAKE_HOLDING || brake->state.phase == MW_BRAKE_WAITING;
	uint32_t whose;

	if (!brake->state.epoch || !has_board(brake))
		return MW_TURN_ALONE;
	if (look->headroom != MW_ABSENT && contends)
		mw_turn_enter(&brake->turn, brake->live.bind_dev, brake->live.bind_ino);
	if (!brake->turn.key)
		return MW_TURN_ALONE;
	whose = mw_turn_look(&brake->turn, look->time_ns);
	if (!contends)
		return keep(brake, whose, look);
	/* Nobody is there for whom to wait. */
	if (whose == MW_TURN_FREE && look->time_ns - brake->state.since_ns < brake->numbers.gather_ns &&
	    !mw_turn_has_peers(&brake->turn, look->time_ns))
		return MW_TURN_ALONE;
	return whose;
}

bool mw_try_turn(struct mw_brake *brake, const struct mw_look *look)
{
	struct mw_candidate mine = { brake->live.growth, brake->live.trial_start_ns, brake->turn.slot };

	return mw_turn_chosen(&brake->turn, &mine, brake->live.bind_dev, brake->live.bind_ino, look->time_ns) &&
	       mw_turn_take(&brake->turn, look->epoch, look->time_ns);
}

void mw_take_turn_alone(struct mw_brake *brake, int64_t now)
{
	if (has_board(brake) && brake->turn.key && !brake->turn.word)
		(void)mw_turn_take(&brake->turn, brake->state.epoch, now);
}

void mw_move_turn(struct mw_brake *brake)
{
	if (has_board(brake))
		mw_turn_release(&brake->turn);
	brake->turn = (struct mw_turn){ .board = brake->board, .owner = brake->owner, .slot = brake->slot };
}

uint64_t mw_growth(const struct mw_brake *brake)
{
	uint64_t before = mw_get(brake, mw_seat(brake->target.seat, MW_SEAT_START_RSS));
	uint64_t now = brake->live.rss, sum, page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (now == MW_ABSENT || before == MW_ABSENT || brake->shielded)
		return 0;
	sum = now > before ? now - before : 0;
	for (int i = 0; i < brake->kin_count; i++) {
		const struct mw_kin *kin = &brake->kin[i];

		if (kin->start_time >= brake->target.start_ticks && kin->rss_pages != MW_ABSENT &&
		    kin->rss_pages > before / page)
			sum += (kin->rss_pages - before / page) * page;
	}
	return sum;
}
