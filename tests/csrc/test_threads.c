/*
 * test_threads.c - who may share what: a sampler a thread, one sampler for all of
 * them, and one slot of a board with a writer and readers.  For ThreadSanitizer,
 * but what is checked holds without it, too.
 *
 * links: parse.c parse_cgroup.c procfs.c cgroup.c cgroup_find.c sampler.c board.c board_file.c board_guard.c
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "memwatch.h"

enum { THREADS = 4, LOOKS = 500, WRITES = 20000 };

static const char boot_id[] = "01234567-89ab-cdef-0123-456789abcdef";

/* Failures are counted by the thread that joins. */
struct thread {
	pthread_t id;
	struct mw_sampler *sampler;
	struct mw_board *board;
	const struct mw_owner *owner;
	atomic_bool *done;
	uint32_t slot;
	int good;
	int busy;
	int bad;
};

static void run(struct thread *threads, size_t n, void *(*deed)(void *))
{
	for (size_t i = 0; i < n; i++)
		CHECK_EQ(0, pthread_create(&threads[i].id, NULL, deed, &threads[i]));
	for (size_t i = 0; i < n; i++)
		CHECK_EQ(0, pthread_join(threads[i].id, NULL));
}

static void *look(void *arg)
{
	struct thread *me = arg;
	struct mw_sample sample;

	for (int i = 0; i < LOOKS; i++) {
		int err = mw_sample(me->sampler, &sample);
		int64_t headroom = mw_headroom(me->sampler);

		if (i % 50 == 0 && mw_sampler_refresh(me->sampler) == -EBUSY)
			me->busy++;
		if (err == -EBUSY || headroom == -EBUSY)
			me->busy++;
		else if (err || headroom <= 0 || !sample.rss || sample.headroom > sample.mem_total)
			me->bad++;
		else
			me->good++;
	}
	return NULL;
}

static void samplers(bool shared)
{
	struct thread threads[THREADS] = { 0 };
	int good = 0;

	for (int i = 0; i < THREADS; i++) {
		threads[i].sampler = threads[0].sampler;
		if (!shared || !i)
			CHECK_EQ(0, mw_sampler_open("/", 0, 0, &threads[i].sampler));
	}
	run(threads, THREADS, look);
	for (int i = 0; i < THREADS; i++) {
		good += threads[i].good;
		CHECK_EQ(0, threads[i].bad);
		if (!shared)
			CHECK_EQ(0, threads[i].busy);
		if (!shared || !i)
			mw_sampler_close(threads[i].sampler);
	}
	CHECK(good > 0);
}

/* A region is whole when each of its numbers says the same. */
static void *read_slot(void *arg)
{
	struct thread *me = arg;
	struct mw_record records[64];
	struct mw_live live;
	uint64_t from = 0;

	while (!atomic_load(me->done)) {
		int err = mw_slot_live(me->board, me->slot, me->owner, &live), n;

		if (err == -EAGAIN || err == -ENOENT)
			me->busy++;
		else if (err || live.rss != live.headroom || live.rss != live.brakes)
			me->bad++;
		else
			me->good++;
		n = mw_slot_records(me->board, me->slot, me->owner, &from, records, 64);
		for (int i = 0; i < n; i++)
			me->bad += records[i].rss != records[i].headroom ||
				   (i && records[i].rss != records[i - 1].rss + 1);
	}
	return NULL;
}

static void *write_slot(void *arg)
{
	struct thread *me = arg;

	for (uint64_t i = 1; i <= WRITES; i++) {
		struct mw_live live = { .rss = i, .headroom = i, .brakes = i };
		struct mw_record record = { .kind = MW_RECORD_LOOK, .rss = i, .headroom = i };

		me->bad += mw_slot_set_live(me->board, me->slot, me->owner, &live) != 0;
		me->bad += mw_slot_record(me->board, me->slot, me->owner, &record) != 0;
	}
	atomic_store(me->done, true);
	return NULL;
}

static void *write_or_read(void *arg)
{
	struct thread *me = arg;

	return me->good < 0 ? write_slot(arg) : read_slot(arg);
}

static void board(const char *folder)
{
	struct mw_owner owner = { .pid = (uint64_t)getpid(), .start_time = 7, .pid_namespace = 9 };
	struct thread threads[THREADS] = { 0 };
	atomic_bool done = false;
	struct mw_board *board = NULL;
	uint32_t slot;
	char path[4096];

	snprintf(path, sizeof(path), "%s/board", folder);
	CHECK_EQ(0, mw_board_open(path, boot_id, MW_BOARD_CREATE, &board));
	CHECK_EQ(0, mw_slot_claim(board, "/", &owner, INT64_MAX, &slot));
	for (int i = 0; i < THREADS; i++) {
		threads[i].board = board;
		threads[i].owner = &owner;
		threads[i].slot = slot;
		threads[i].done = &done;
	}
	threads[0].good = -1; /* the writer */
	run(threads, THREADS, write_or_read);
	for (int i = 0; i < THREADS; i++)
		CHECK_EQ(0, threads[i].bad);
	CHECK_EQ(0, mw_slot_release(board, slot, &owner));
	mw_board_close(board);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	samplers(false);
	samplers(true);
	board(argv[1]);
	return check_failures() != 0;
}
