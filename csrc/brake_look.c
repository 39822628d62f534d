/* brake_look.c - one look for the brake's thread, and what it tells of it. */

#include "brake.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Slower than 1 GiB/s is not falling: at one look a millisecond it passes by 1 MiB. */
#define FALLING(elapsed_ns) ((uint64_t)(elapsed_ns) * 1024 * 1024 / MW_MS)

/* It falls in steps (2 MiB in 0.2 ms): a look between two of them sees none, and must not
   be followed by a long sleep (crossing to hold 0.67 ms instead of 0.09). */
#define FELL_NS (2 * (int64_t)MW_MS)

/* A board read ten times a second by people; 4,095 records are to reach back a while. */
#define PUBLISH_NS (10 * (int64_t)MW_MS)

/* ----------------------------------------------------------------- looking --- */

void mw_raise_news(struct mw_brake *brake, uint64_t news, bool stands)
{
	uint64_t now = stands ? brake->news | news : brake->news & ~news;

	if (now == brake->news)
		return;
	brake->news = now;
	mw_set(brake, MW_WORD_FLAGS, now);
	mw_set(brake, MW_WORD_NEWS, mw_get(brake, MW_WORD_NEWS) + 1);
	atomic_fetch_add(&brake->own->news, 1);
	mw_futex_wake(&brake->own->news, 1);
}

/* What MemAvailable leaves out; headroom is then that of a second look. */
static void add_credit(struct mw_brake *brake, bool again)
{
	int64_t lists = again && brake->zone >= 0 ? mw_read_pagesets(brake->zone, brake->text, sizeof(brake->text)) : 0;

	brake->credit = lists > 0 ? (uint64_t)lists : 0;
	(void)mw_sampler_credit(brake->sampler, brake->credit, again);
}

static bool is_held_or_told(const struct mw_brake *brake)
{
	return brake->state.phase >= MW_BRAKE_HOLDING && brake->state.phase != MW_BRAKE_SETTLING;
}

static int sample_once(struct mw_brake *brake, bool again, struct mw_sample *sample)
{
	int err;

	add_credit(brake, again);
	err = mw_sample(brake->sampler, sample);
	if (err == -ESTALE) {
		mw_raise_news(brake, MW_NEWS_STALE, true);
		err = mw_sample(brake->sampler, sample);
	}
	return err;
}

static void take_sample(struct mw_brake *brake, struct mw_sample *sample)
{
	bool again = is_held_or_told(brake);
	int err = sample_once(brake, again, sample);

	/* Below at the first look only: it stays at two looks until the first says so, too, or
	   each would hold the trial anew. */
	if (!err && !again && brake->crediting) {
		if (sample->headroom == MW_ABSENT || sample->headroom >= brake->numbers.brake)
			brake->crediting = false;
		else
			err = sample_once(brake, true, sample);
	}
	if (atomic_exchange(&brake->own->refreshed, 0))
		mw_raise_news(brake, MW_NEWS_STALE, false);
	if (!err)
		return;
	/* Somebody refreshes it, or it cannot be had: not known, this once. */
	memset(sample, 0, sizeof(*sample));
	sample->time_ns = mw_now();
	sample->headroom = sample->rss = sample->limit = MW_ABSENT;
}

/* The seat of the trial that is held or told, or else of the one that would be. */
static bool find_seat(struct mw_brake *brake, uint64_t *epoch)
{
	struct mw_candidate list[MW_SEATS];
	uint32_t n = 0;
	int victim;

	for (uint64_t i = 0; i < MW_SEATS; i++) {
		uint64_t runs = mw_get(brake, mw_seat(i, MW_SEAT_EPOCH));

		if (!runs)
			continue;
		if (brake->state.epoch && runs == brake->state.epoch) {
			*epoch = runs;
			return true;
		}
		/* Of the trials of one process nobody knows which one grew: the newest it is. */
		list[n++] = (struct mw_candidate){ 0, (int64_t)mw_get(brake, mw_seat(i, MW_SEAT_START_NS)), i };
	}
	victim = mw_victim(list, n);
	if (victim < 0)
		return false;
	brake->target.seat = list[victim].number;
	*epoch = mw_get(brake, mw_seat(brake->target.seat, MW_SEAT_EPOCH));
	return *epoch != 0;
}

static void look_at_trial(struct mw_brake *brake, struct mw_look *look)
{
	struct mw_target *target = &brake->target;

	/* Above the watermark nobody is to be stopped, and nobody need be looked for; but the next
	   trial is the end of settling. */
	if (!brake->state.epoch && brake->state.phase != MW_BRAKE_SETTLING &&
	    (look->headroom == MW_ABSENT || look->headroom >= brake->numbers.brake))
		return;
	if (!find_seat(brake, &look->epoch)) {
		look->epoch = 0;
		return;
	}
	target->thread = (pid_t)mw_get(brake, mw_seat(target->seat, MW_SEAT_THREAD));
	target->main = target->thread == brake->pid;
	target->start_ticks = mw_get(brake, mw_seat(target->seat, MW_SEAT_START_TICKS));
	target->start_ns = (int64_t)mw_get(brake, mw_seat(target->seat, MW_SEAT_START_NS));
	look->shielded = mw_get(brake, mw_seat(target->seat, MW_SEAT_SHIELD)) != 0;
	look->leaving = mw_get(brake, mw_seat(target->seat, MW_SEAT_LEAVING)) != 0;
	brake->shielded = look->shielded;
	/* It opens files: not when no time is left, and the kernel might kill for them. */
	if (brake->state.phase >= MW_BRAKE_RAISING && look->headroom >= brake->numbers.floor)
		mw_find_kin(brake, look->time_ns);
	look->children = brake->state.epoch ? mw_count_kin(brake) : 0;
	brake->live.growth = mw_growth(brake);
	brake->live.trial_start_ns = target->start_ns;
}

/* One writer counts up beside two copies: some 50 ns, and nothing is waited for. */
void mw_read_orders(struct mw_brake *brake)
{
	struct mw_orders orders = { .rss_limit = MW_NO_LIMIT };
	int err = -ENOENT;

	if (brake->board && !mw_board_broken(brake->board))
		err = mw_slot_orders(brake->board, brake->slot, &brake->owner, &orders);
	/* Written just now, several times over: what was asked before holds until the next look. */
	if (err == -EAGAIN)
		return;
	brake->numbers.rss_limit = orders.rss_limit < brake->rss_limit ? orders.rss_limit : brake->rss_limit;
	if (mw_get(brake, MW_WORD_DRAIN) != orders.drain)
		mw_set(brake, MW_WORD_DRAIN, orders.drain);
}

void mw_brake_look(struct mw_brake *brake, struct mw_look *out)
{
	struct mw_sample sample;
	uint64_t was = brake->headroom;
	int64_t elapsed;

	take_sample(brake, &sample);
	memset(out, 0, sizeof(*out));
	out->time_ns = sample.time_ns;
	out->headroom = sample.headroom;
	out->rss = sample.rss;
	brake->grows = sample.rss != MW_ABSENT && brake->live.rss != MW_ABSENT && sample.rss > brake->live.rss;
	brake->live.rss = sample.rss;
	/* Blind, it goes on being the same that is contended for. */
	if (sample.headroom != MW_ABSENT) {
		brake->live.bind_dev = sample.bind_dev;
		brake->live.bind_ino = sample.bind_ino;
	}
	look_at_trial(brake, out);
	out->turn = mw_see_turn(brake, out);

	elapsed = out->time_ns - brake->headroom_ns;
	if (was != MW_ABSENT && out->headroom < was && was - out->headroom > FALLING(elapsed))
		brake->fell_ns = out->time_ns;
	brake->falling = out->time_ns - brake->fell_ns < FELL_NS;
	brake->headroom = out->headroom;
	brake->headroom_ns = out->time_ns;

	brake->live.time_ns = out->time_ns;
	if (out->rss != MW_ABSENT && out->rss > brake->live.rss_peak)
		brake->live.rss_peak = out->rss;
	brake->live.headroom = out->headroom;
	brake->live.limit = sample.limit;
	brake->live.looks++;
	mw_set(brake, MW_WORD_HEADROOM, out->headroom);
	mw_set(brake, MW_WORD_RSS, out->rss);
	if (out->rss != MW_ABSENT && out->rss > mw_get(brake, MW_WORD_PEAK))
		mw_set(brake, MW_WORD_PEAK, out->rss);
	mw_set(brake, MW_WORD_LIMIT, sample.limit);
	if (out->headroom != MW_ABSENT) {
		mw_set(brake, MW_WORD_KNOWN_NS, (uint64_t)out->time_ns);
		if (out->headroom < mw_get(brake, MW_WORD_LOWEST))
			mw_set(brake, MW_WORD_LOWEST, out->headroom);
	}
	mw_set(brake, MW_WORD_LOOK_NS, (uint64_t)out->time_ns);
}

/* ------------------------------------------------------------------- gaps --- */

/* Four buckets for each power of two above 1 us. */
static uint32_t gap_bucket(int64_t gap_ns)
{
	uint64_t us4 = (uint64_t)gap_ns / 250;
	uint32_t power, bucket;

	if (us4 < 4)
		return 0;
	power = 63 - (uint32_t)__builtin_clzll(us4);
	bucket = (power - 2) * 4 + (uint32_t)(us4 >> (power - 2) & 3) + 1;
	return bucket < MW_GAPS ? bucket : MW_GAPS - 1;
}

/* The upper end of a bucket. */
static int64_t gap_of(uint32_t bucket)
{
	return bucket ? (int64_t)(5 + (bucket - 1) % 4) * 250 << (bucket - 1) / 4 : 1000;
}

void mw_count_gap(struct mw_brake *brake, int64_t gap_ns)
{
	if (gap_ns < 0)
		gap_ns = 0;
	if (gap_ns > brake->live.gap_max_ns)
		brake->live.gap_max_ns = gap_ns;
	brake->gaps[gap_bucket(gap_ns)]++;
}

static int64_t gap_p99(const struct mw_brake *brake)
{
	uint64_t sum = 0, seen = 0;

	for (uint32_t i = 0; i < MW_GAPS; i++)
		sum += brake->gaps[i];
	for (uint32_t i = 0; i < MW_GAPS; i++) {
		seen += brake->gaps[i];
		if (sum && seen * 100 >= sum * 99)
			return gap_of(i) < brake->live.gap_max_ns ? gap_of(i) : brake->live.gap_max_ns;
	}
	return -1;
}

/* ------------------------------------------------------------- publishing --- */

void mw_publish(struct mw_brake *brake, bool at_once)
{
	int64_t now = brake->live.time_ns;
	struct mw_record record = { now, MW_RECORD_LOOK, brake->live.rss, brake->live.headroom };
	struct timespec cpu;
	/* Those who cross together choose one of themselves by what they have told. */
	bool contends = brake->state.phase == MW_BRAKE_HOLDING || brake->state.phase == MW_BRAKE_WAITING;
	bool due = at_once || now >= brake->publish_ns;
	int err = 0;

	if (!due && !contends)
		return;
	if (due)
		brake->publish_ns = now + PUBLISH_NS;
	brake->live.phase = brake->state.phase;
	brake->live.epoch = brake->state.epoch;
	brake->live.gap_p99_ns = gap_p99(brake);
	if (!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu))
		brake->live.cpu_ns = (int64_t)cpu.tv_sec * 1000000000 + cpu.tv_nsec;
	for (size_t i = 0; i < MW_WORDS(struct mw_live); i++)
		mw_set(brake, (uint32_t)(MW_WORD_LIVE + i), ((const uint64_t *)&brake->live)[i]);
	mw_set(brake, MW_WORD_PHASE, brake->state.phase);
	if (brake->board)
		err = mw_slot_set_live(brake->board, brake->slot, &brake->owner, &brake->live);
	if (brake->board && !err && due)
		err = mw_slot_record(brake->board, brake->slot, &brake->owner, &record);
	mw_raise_news(brake, MW_NEWS_SLOT, err != 0);
}

void mw_mark(struct mw_brake *brake, uint64_t phase)
{
	struct mw_record record = { brake->live.time_ns, MW_RECORD_MARK, phase, brake->live.headroom };

	if (brake->board)
		(void)mw_slot_record(brake->board, brake->slot, &brake->owner, &record);
}
