/* board_bell.c - the word of the board by which workers wake the watchdog. */

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "board.h"

uint32_t mw_board_rung(const struct mw_board *board)
{
	return atomic_load(&board->memory->wake);
}

static int64_t now_ns(void)
{
	struct timespec now;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int mw_board_wait(struct mw_board *board, uint32_t seen, int64_t timeout_ns)
{
	int64_t begun = now_ns(), left = timeout_ns;

	for (;;) {
		uint32_t rung = mw_board_rung(board);
		struct timespec time;

		/* After that look, which may be what finds it broken. */
		if (mw_board_broken(board))
			return -EBADMSG;
		if (rung != seen)
			return 0;
		if (left <= 0)
			return -ETIMEDOUT;
		time = (struct timespec){ .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };
		/* Not private: who rings is another process. */
		if (syscall(SYS_futex, &board->memory->wake, FUTEX_WAIT, seen, &time, NULL, 0) && errno == EINTR)
			return -EINTR;
		left = timeout_ns - (now_ns() - begun);
	}
}

void mw_board_ring(struct mw_board *board)
{
	if (mw_board_broken(board))
		return;
	atomic_fetch_add(&board->memory->wake, 1);
	syscall(SYS_futex, &board->memory->wake, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
