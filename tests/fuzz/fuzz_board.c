/*
 * fuzz_board.c - a board that somebody scribbles over, and one that is not a board.
 *
 * The input's first byte chooses.  Odd: the rest is a file's beginning, which is
 * opened; only whole headers pass.  Even: 11 bytes each are a place and a word put
 * there while the board is mapped; then every call must end, with an answer of its
 * own, and whatever it gives must keep within bounds.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_board \
 *     tests/fuzz/fuzz_board.c csrc/board.c csrc/board_file.c csrc/board_guard.c \
 *     csrc/procfs.c csrc/parse.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_board -max_total_time=20 /tmp/new tests/fuzz/corpus/fuzz_board
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "board.h"
#include "fuzz.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define SPACE 4026531836
#define SLOT 2 /* of ours; the first two are others' */
#define WORDS (sizeof(struct mw_memory) / 8)
#define STEP 11

static char folder[] = "/tmp/memwatch-fuzz-XXXXXX";
static struct mw_board *board;
static struct mw_owner owners[SLOT + 1];

static void clean_up(void)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	mw_board_close(board);
	unlinkat(fd, "board", 0);
	close(fd);
	rmdir(folder);
}

static void set_up(void)
{
	CLAIM(mkdtemp(folder));
	CLAIM(!mw_board_open(folder, BOOT, MW_BOARD_CREATE, &board));
	atexit(clean_up);
}

static void settle(void)
{
	struct mw_live live = { .rss = 1 };
	struct mw_record record = { .kind = MW_RECORD_LOOK };

	for (uint32_t i = 0; i <= SLOT; i++) {
		uint32_t slot;

		owners[i] = (struct mw_owner){ .pid = (uint64_t)getpid() + i, .start_time = 1, .pid_namespace = SPACE + i };
		CLAIM(!mw_slot_claim(board, "/nowhere", &owners[i], 1, &slot) && slot == i);
		CLAIM(!mw_slot_set_live(board, i, &owners[i], &live));
		CLAIM(!mw_slot_record(board, i, &owners[i], &record));
	}
}

static int is_known(int err)
{
	return !err || err == -EINVAL || err == -EBADMSG || err == -ESTALE || err == -ENOENT || err == -EAGAIN;
}

static void use_slot(uint32_t slot)
{
	struct mw_owner owner, *told[] = { &owners[SLOT], &owner };
	struct mw_record records[100];
	int err = mw_slot_owner(board, slot, &owner);

	CLAIM(is_known(err));
	CLAIM(err || (owner.groups <= MW_SLOT_GROUPS && owner.pid && owner.pid < 1 << 22));
	for (int i = 0; i < (err ? 1 : 2); i++) {
		struct mw_live live;
		struct mw_work work;
		struct mw_orders orders;
		uint64_t from = 0, before = 0;

		err = mw_slot_alive(board, slot, told[i], "/nowhere", SPACE, 1);
		CLAIM(is_known(err) || err == -ESRCH);
		CLAIM(is_known(mw_slot_live(board, slot, told[i], &live)));
		CLAIM(is_known(mw_slot_work(board, slot, told[i], &work)));
		CLAIM(is_known(mw_slot_orders(board, slot, told[i], &orders)));
		err = mw_slot_records(board, slot, told[i], &from, records, 100);
		CLAIM(err < 0 ? is_known(err) : err <= 100);
		CLAIM(from >= before && (err >= 0 || from == before));
		err = mw_slot_set_work(board, slot, told[i], &(struct mw_work){ .epoch = 7 });
		CLAIM(is_known(err));
		/* Whatever stood there: what was written is what is read. */
		CLAIM(err || (!mw_slot_work(board, slot, told[i], &work) && work.epoch == 7));
		err = mw_slot_record(board, slot, told[i], &records[0]);
		CLAIM(is_known(err));
	}
}

static void scribble(const uint8_t *data, size_t size)
{
	mw_word *words = (mw_word *)board->memory;
	struct mw_owner again = owners[SLOT];
	uint32_t slot;
	int err;

	for (; size >= STEP; data += STEP, size -= STEP) {
		uint64_t word;
		size_t at = (size_t)data[1] << 8 | data[2];

		/* The header, the first states, and the first ring are where it hurts. */
		at = data[0] % 3 == 0 ? at % 1024 : data[0] % 3 == 1 ? 1024 + at % (4 * 512) : 67 * 512 + at;
		memcpy(&word, data + 3, 8);
		atomic_store(&words[at % WORDS], word);
	}
	for (uint32_t i = 0; i <= SLOT + 1; i++)
		use_slot(i);
	err = mw_slot_claim(board, "/nowhere", &again, 1, &slot);
	CLAIM(!err || err == -EEXIST);
	CLAIM(slot < MW_SLOTS);
	err = mw_board_check(board);
	CLAIM(!err || err == -EBADMSG);
	CLAIM(!mw_slot_release(board, slot, &again));
	for (size_t i = 0; i < 7 * 512; i++)
		atomic_store(&words[i], 0);
	for (size_t i = 0; i < MW_WORDS(struct mw_header); i++) {
		uint64_t word;

		memcpy(&word, (const char *)&board->header + i * 8, 8);
		atomic_store(&words[i], word);
	}
	CLAIM(!mw_board_check(board));
}

/* The file's beginning, put over a sound board's; the file is as long as it was. */
static void open_file(const uint8_t *data, size_t size)
{
	struct mw_board *other = NULL;
	int fd = open(board->path, O_RDWR | O_CLOEXEC), err;
	struct mw_header header;

	CLAIM(pwrite(fd, data, size < sizeof(header) ? size : sizeof(header), 0) >= 0);
	CLAIM(pread(fd, &header, sizeof(header), 0) == sizeof(header));
	err = mw_board_open(folder, BOOT, 0, &other);
	CLAIM(!err || err == -EBADMSG || err == -EPROTO || err == -ESTALE);
	/* It is taken for a board if, and only if, it is one to the last byte. */
	CLAIM(!err == !memcmp(&header, &board->header, sizeof(header)));
	CLAIM(!err == !!other);
	mw_board_close(other);
	CLAIM(pwrite(fd, &board->header, sizeof(header), 0) == sizeof(header));
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!board)
		set_up();
	if (!size)
		return 0;
	if (data[0] & 1) {
		open_file(data + 1, size - 1);
	} else {
		settle();
		scribble(data + 1, size - 1);
	}
	return 0;
}
