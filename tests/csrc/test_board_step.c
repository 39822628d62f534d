/*
 * test_board_step.c - the board, with a kill or another process after every single
 * instruction.
 *
 * links: board.c board_file.c board_guard.c procfs.c parse.c
 *
 * The processor traps after each instruction; what a test wants done after the Nth
 * is done in the handler: a jump out of the call, which leaves the memory as SIGKILL
 * would, or what another process might do just then.  N goes from the first to the
 * last.  test_board.c has the same with real processes, at random.
 */
#include "check.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

/* Traps are the processor's business; a sanitizer's own code must not be jumped out of. */
#if !defined(__x86_64__) || defined(SANITIZED)

int main(void)
{
	return 0;
}

#else

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "board.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define OURS 4026531836
#define THEIRS 4026532999
#define NOWHERE "/nowhere" /* no /proc: nobody there is known to be dead */
#define STALE INT64_MAX
#define LAST 63
/* Without optimisation there are five times as many, and nothing new between them. */
#ifdef __OPTIMIZE__
#define STRIDE 1
#else
#define STRIDE 7
#endif
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct mw_board *board;
static struct mw_owner owner;
static uint32_t slot;
static struct mw_state *state;

/* ------------------------------------------------------------------ stepping --- */

/* The processor's trap flag, among its other flags. */
#define TRAP 0x100

static struct {
	long n;  /* instructions so far */
	long at; /* after which `deed` is done; 0: after each */
	bool done;
	void (*deed)(void);
	sigjmp_buf out;
} step;

static void do_deed(void)
{
	step.done = true;
	step.deed();
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	if (step.at && ++step.n != step.at)
		return;
	/* A trap costs 10 us under a hypervisor: none but those that are needed. */
	if (step.at)
		((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP;
	do_deed();
}

/* The claim is about to be swapped: see run_from_claim(). */
static void on_claim(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	mprotect(&board->memory->states[LAST], MW_PAGE, PROT_READ | PROT_WRITE);
	if (step.at)
		((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP;
	else
		do_deed();
}

static inline void set_trap_flag(void)
{
	__asm__ volatile("pushfq; orq %0, (%%rsp); popfq" ::"i"(TRAP) : "memory", "cc");
}

static inline void clear_trap_flag(void)
{
	__asm__ volatile("pushfq; andq %0, (%%rsp); popfq" ::"i"(~TRAP) : "memory", "cc");
}

static void leave(void)
{
	siglongjmp(step.out, 1);
}

static void begin(void (*deed)(void), long at)
{
	step.n = 0;
	step.at = at;
	step.deed = deed;
	step.done = false;
}

/* Runs `call`, with `deed` done after instruction `at`; false once there are not so many. */
static bool run(void (*call)(void), void (*deed)(void), long at)
{
	begin(deed, at);
	if (!sigsetjmp(step.out, 1)) {
		set_trap_flag();
		call();
		clear_trap_flag();
	}
	return step.done;
}

/*
 * The same, counted from the swap of the last slot's claim: the first write to that
 * page, which faults.  0: just before it, and only once.
 */
static bool run_from_claim(void (*call)(void), void (*deed)(void), long at)
{
	begin(deed, at);
	mprotect(&board->memory->states[LAST], MW_PAGE, PROT_READ);
	if (!sigsetjmp(step.out, 1)) {
		call();
		clear_trap_flag();
	}
	return step.done;
}

/* ------------------------------------------------------------------- values --- */

static struct mw_live live_of(uint64_t n)
{
	uint64_t words[MW_WORDS(struct mw_live)];
	struct mw_live live;

	for (size_t i = 0; i < COUNT(words); i++)
		words[i] = n * 64 + i;
	memcpy(&live, words, sizeof(live));
	return live;
}

static bool is_live_of(const struct mw_live *live, uint64_t n)
{
	struct mw_live whole = live_of(n);

	return !memcmp(live, &whole, sizeof(whole));
}

static struct mw_record record_of(uint64_t n)
{
	return (struct mw_record){ .time_ns = (int64_t)n, .kind = n + 1, .rss = n * 2, .headroom = ~n };
}

static bool is_record_of(const struct mw_record *record, uint64_t n)
{
	struct mw_record whole = record_of(n);

	return !memcmp(record, &whole, sizeof(whole));
}

static void write_live(uint64_t n)
{
	struct mw_live live = live_of(n);

	CHECK_EQ(0, mw_slot_set_live(board, slot, &owner, &live));
}

static uint64_t recorded;

static void write_record(void)
{
	struct mw_record record = record_of(recorded);

	CHECK_EQ(0, mw_slot_record(board, slot, &owner, &record));
	recorded++;
}

/* ------------------------------------------------------------------ the calls --- */

static struct mw_live live;
static struct mw_record records[4];
static struct mw_owner told;
static uint64_t from;
static int err;

static void set_live(void)
{
	err = mw_slot_set_live(board, slot, &owner, &live);
}

static void get_live(void)
{
	err = mw_slot_live(board, slot, &owner, &live);
}

static void add_record(void)
{
	err = mw_slot_record(board, slot, &owner, &records[0]);
}

static void get_records(void)
{
	err = mw_slot_records(board, slot, &owner, &from, records, COUNT(records));
}

static void get_owner(void)
{
	err = mw_slot_owner(board, slot, &told);
}

static struct mw_owner claimer;
static uint32_t claimed;

static void claim(void)
{
	err = mw_slot_claim(board, NOWHERE, &claimer, STALE, &claimed);
}

/* ------------------------------------------------------------------- the tests --- */

static void test_f96_a_writer_killed_after_any_instruction_tears_nothing(void)
{
	bool old = false, new = false;
	long at;

	for (at = 1;; at += STRIDE) {
		struct mw_live seen;
		bool killed;

		write_live(1);
		live = live_of(2);
		killed = run(set_live, leave, at);
		CHECK_EQ(0, mw_slot_live(board, slot, &owner, &seen));
		CHECK(is_live_of(&seen, 1) || is_live_of(&seen, 2));
		old |= is_live_of(&seen, 1);
		new |= is_live_of(&seen, 2);
		write_live(3); /* the next writer minds nothing of it */
		CHECK_EQ(0, mw_slot_live(board, slot, &owner, &seen));
		CHECK(is_live_of(&seen, 3));
		if (!killed)
			break;
	}
	CHECK(at > 100);
	CHECK(old && new);
}

static void test_f96_a_recorder_killed_after_any_instruction_lacks_one_at_most(void)
{
	struct mw_record *all = calloc(MW_RECORDS, sizeof(*all));
	bool old = false, new = false;
	long at;

	while (recorded < 2 * MW_RECORDS)
		write_record();
	for (at = 1;; at += STRIDE) {
		uint64_t begin = recorded - 3;
		bool killed;
		int got;

		records[0] = record_of(recorded);
		killed = run(add_record, leave, at);
		got = mw_slot_records(board, slot, &owner, &begin, all, MW_RECORDS);
		CHECK(got == 3 || got == 4);
		old |= got == 3;
		new |= got == 4;
		for (int i = 0; i < got; i++)
			CHECK(is_record_of(&all[i], recorded - 3 + (uint64_t)i));
		recorded += got == 4;
		/* The oldest, in whose place it was written, is not told of any more. */
		begin = 0;
		CHECK_EQ(MW_RECORDS - 1, mw_slot_records(board, slot, &owner, &begin, all, MW_RECORDS));
		for (uint64_t i = 0; i < MW_RECORDS - 1; i++)
			CHECK(is_record_of(&all[i], recorded - MW_RECORDS + 1 + i));
		if (!killed)
			break;
	}
	CHECK(at > 50);
	CHECK(old && new);
	free(all);
}

static uint64_t writes;

static void write_two(void)
{
	/* The second goes to the copy that is being read. */
	write_live(11);
	write_live(12);
}

static void test_f96_a_reader_overtaken_after_any_instruction_reads_a_whole_one(void)
{
	bool old = false, new = false;
	long at;

	for (at = 1;; at += STRIDE) {
		bool overtaken;

		write_live(10);
		overtaken = run(get_live, write_two, at);
		CHECK_EQ(0, err);
		CHECK(is_live_of(&live, 10) || is_live_of(&live, 12));
		old |= is_live_of(&live, 10);
		new |= is_live_of(&live, 12);
		if (!overtaken)
			break;
	}
	CHECK(at > 100);
	CHECK(old && new);
}

static void record_two(void)
{
	write_record();
	write_record();
}

static void test_f96_a_reader_of_the_ring_is_overtaken_after_any_instruction(void)
{
	int fewest = COUNT(records);
	long at;

	for (at = 1;; at += STRIDE) {
		bool overtaken;

		from = 0; /* the oldest, which go next */
		overtaken = run(get_records, record_two, at);
		CHECK(err > 0);
		for (int i = 0; i < err; i++)
			CHECK(is_record_of(&records[i], from - (uint64_t)err + (uint64_t)i));
		fewest = err < fewest ? err : fewest;
		if (!overtaken)
			break;
	}
	CHECK(at > 100);
	CHECK_EQ(COUNT(records) - 2, fewest);
}

static void scribble(void)
{
	uint64_t n = owner.generation << 48 | ++writes * MW_RECORDS;

	atomic_store(&state->live[0], n);
	atomic_store(&state->head, n);
}

/* Somebody is there between any two instructions: each call gives up. */
static void test_f55_every_call_ends_under_a_scribbler(void)
{
	static void (*const calls[])(void) = { get_live, set_live, get_records, add_record };

	for (size_t i = 0; i < COUNT(calls); i++) {
		from = 5;
		run(calls[i], scribble, 0);
		CHECK_EQ(-EAGAIN, err);
		CHECK_EQ(5, from);
	}
	atomic_store(&state->head, 0);
	recorded = 0;
}

/* The next owner's claim, the first words of its publication, and the beginning of its first record. */
static void change_hands(void)
{
	atomic_store(&state->claim, (owner.generation + 1) << 48 | 77);
	for (size_t i = 0; i < MW_SLOT_GROUPS; i++)
		atomic_store(&state->owner[offsetof(struct mw_owner, group_dev) / 8 + i], 99);
	for (size_t i = 0; i < MW_WORDS(struct mw_record) / 2; i++)
		atomic_store(&board->memory->rings[slot].records[0][i], 99);
}

static void test_what_changes_hands_after_any_instruction_is_not_told_of(void)
{
	static void (*const calls[])(void) = { get_owner, get_live, set_live, get_records, add_record };
	uint64_t ours = atomic_load(&state->claim);

	for (size_t i = 0; i < COUNT(calls); i++) {
		bool old = false, new = false, changed = true;

		for (long at = 1; changed; at += STRIDE) {
			write_live(1);
			atomic_store(&state->head, 0);
			recorded = 0;
			record_two();
			live = live_of(2);
			from = 0;
			changed = run(calls[i], change_hands, at);
			old |= err >= 0;
			new |= err == (calls[i] == get_owner ? -EAGAIN : -ESTALE);
			CHECK(err >= 0 || err == -EAGAIN || err == -ESTALE);
			CHECK(err < 0 || calls[i] != get_owner || !memcmp(&told, &owner, sizeof(told)));
			CHECK(err <= 0 || is_record_of(&records[0], 0));
			atomic_store(&state->claim, ours);
			for (size_t k = 0; k < MW_SLOT_GROUPS; k++)
				atomic_store(&state->owner[offsetof(struct mw_owner, group_dev) / 8 + k], 0);
		}
		CHECK(old && new);
	}
}

/* All but the last slot are others', of another namespace, whom nothing shows to be dead. */
static void fill_board(void)
{
	for (uint32_t i = slot + 1; i < LAST; i++) {
		struct mw_owner other = { .pid = 1000 + i, .start_time = 1, .pid_namespace = THEIRS };
		uint32_t got;

		CHECK_EQ(0, mw_slot_claim(board, NOWHERE, &other, STALE, &got));
		CHECK_EQ(i, got);
	}
}

/* From the swap on, after each instruction: whoever comes next knows, and can take it. */
static void test_f54_a_claimer_killed_after_any_instruction_leaves_the_slot(void)
{
	mw_word *last = &board->memory->states[LAST].claim;
	bool unfinished = false, finished = false, killed = true;

	for (long at = 1; killed; at += STRIDE) {
		struct mw_owner next = { .pid = 3000, .start_time = 3, .pid_namespace = OURS };
		uint64_t generation = atomic_load(last) >> 48;
		uint32_t got = 0;
		int found;

		claimer = (struct mw_owner){ .pid = 2000, .start_time = 2, .pid_namespace = OURS };
		killed = run_from_claim(claim, leave, at);
		found = mw_slot_owner(board, LAST, &told);
		CHECK(found == 0 || found == -EAGAIN);
		unfinished |= found == -EAGAIN;
		finished |= found == 0;
		CHECK(found || (told.pid == 2000 && told.generation == generation + 1));
		/* In "/" nobody has pid 2000 and began with the second tick after boot. */
		CHECK_EQ(0, mw_slot_claim(board, "/", &next, STALE, &got));
		CHECK_EQ(LAST, got);
		CHECK_EQ(generation + 2, next.generation);
		CHECK_EQ(0, mw_slot_release(board, got, &next));
	}
	CHECK(unfinished && finished);
}

static void take_it_away(void)
{
	atomic_fetch_add(&board->memory->states[LAST].claim, UINT64_C(1) << 48);
}

static void test_f54_a_claim_that_is_taken_away_is_no_claim(void)
{
	mw_word *last = &board->memory->states[LAST].claim;
	bool lost = false, won = false, taken = true;

	for (long at = 0; taken; at += STRIDE) {
		claimer = (struct mw_owner){ .pid = 2000, .start_time = 2, .pid_namespace = OURS };
		taken = run_from_claim(claim, take_it_away, at);
		CHECK(err == 0 || err == -ENOSPC);
		CHECK(!err || !claimer.generation);
		lost |= err == -ENOSPC && at;
		won |= !err;
		atomic_store(last, (atomic_load(last) >> 48 << 48));
	}
	CHECK(lost && won);
}

int main(int argc, char **argv)
{
	struct sigaction trap = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	struct sigaction fault = { .sa_sigaction = on_claim, .sa_flags = SA_SIGINFO };
	char folder[300];

	if (argc < 2)
		return 2;
	snprintf(folder, sizeof(folder), "%s/folder", argv[1]);
	sigaction(SIGTRAP, &trap, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	owner = (struct mw_owner){ .pid = 1000, .start_time = 1, .pid_namespace = THEIRS };
	CHECK_EQ(0, mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	CHECK_EQ(0, mw_slot_claim(board, NOWHERE, &owner, STALE, &slot));
	state = &board->memory->states[slot];

	test_f96_a_writer_killed_after_any_instruction_tears_nothing();
	test_f96_a_recorder_killed_after_any_instruction_lacks_one_at_most();
	test_f96_a_reader_overtaken_after_any_instruction_reads_a_whole_one();
	test_f96_a_reader_of_the_ring_is_overtaken_after_any_instruction();
	test_f55_every_call_ends_under_a_scribbler();
	test_what_changes_hands_after_any_instruction_is_not_told_of();
	fill_board();
	test_f54_a_claimer_killed_after_any_instruction_leaves_the_slot();
	test_f54_a_claim_that_is_taken_away_is_no_claim();
	mw_board_close(board);
	return check_failures() != 0;
}

#endif
