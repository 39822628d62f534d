/* board_file.c - the board's file: found, judged, made, mapped and looked after. */

#include "board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "board"
#define MAGIC "memwatch"
#define SIZE sizeof(struct mw_memory)
#define BOOT_ID 36

/* Others who make and remove it between our looks; more is no accident. */
#define TRIES 16

/* tmpfs gives an allocation up, all of it, when a signal comes (a profiler's timer,
   say): so in pieces, 0.1 ms each. */
#define PIECE ((size_t)256 * 1024)
#define PIECE_TRIES 100

static void fill_header(struct mw_header *out, const char *boot_id)
{
	struct mw_header header = {
		.version = MW_BOARD_VERSION,
		.order = 0x01020304,
		.size = SIZE,
		.slots = MW_SLOTS,
		.records = MW_RECORDS,
		.tokens = MW_TOKENS,
		.owner_size = sizeof(struct mw_owner),
		.live_size = sizeof(struct mw_live),
		.work_size = sizeof(struct mw_work),
		.orders_size = sizeof(struct mw_orders),
	};

	memcpy(header.magic, MAGIC, sizeof(header.magic));
	memcpy(header.boot_id, boot_id, BOOT_ID);
	*out = header;
}

/* What is found is not what would have been written: which way? */
static int judge_header(const struct mw_header *found, const struct mw_header *ours)
{
	if (memcmp(found->magic, ours->magic, sizeof(ours->magic)) || found->order != ours->order)
		return -EBADMSG;
	if (found->version != ours->version)
		return -EPROTO;
	if (memcmp(found, ours, offsetof(struct mw_header, boot_id)) ||
	    memcmp(found->reserved, ours->reserved, sizeof(ours->reserved)))
		return -EBADMSG;
	return memcmp(found->boot_id, ours->boot_id, sizeof(ours->boot_id)) ? -ESTALE : 0;
}

/* ----------------------------------------------------------------- find --- */

static bool is_private(const struct stat *it)
{
	return it->st_uid == geteuid() && !(it->st_mode & (S_IRWXG | S_IRWXO));
}

static int open_folder(const char *folder, bool create)
{
	struct stat it;
	int fd, err;

	if (create && mkdir(folder, 0700) && errno != EEXIST)
		return -errno;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = fstat(fd, &it) ? -errno : is_private(&it) ? 0 : -EPERM;
	if (err)
		close(fd);
	return err ? err : fd;
}

/* What stands in the folder; `it` is known once a -EBADMSG or -ESTALE is. */
static int judge_file(int fd, const struct mw_header *ours, struct stat *it)
{
	struct mw_header found;
	ssize_t n;
	int err;

	if (fstat(fd, it))
		return -errno;
	if (!is_private(it))
		return -EPERM;
	if (!S_ISREG(it->st_mode))
		return -EBADMSG;
	/* Not through a mapping, which it may be too short for. */
	n = pread(fd, &found, sizeof(found), 0);
	if (n < 0)
		return -errno;
	if ((size_t)n < sizeof(found))
		return -EBADMSG;
	/* The size last: another version's is another. */
	err = judge_header(&found, ours);
	return err == -EPROTO || it->st_size == (off_t)SIZE ? err : -EBADMSG;
}

/* A descriptor of the board, or a negative errno. */
static int open_file(int folder, const struct mw_header *ours, struct stat *it)
{
	/* Not to wait for the other end, should it be a fifo. */
	int fd = openat(folder, NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	err = judge_file(fd, ours, it);
	if (err)
		close(fd);
	return err ? err : fd;
}

/* ----------------------------------------------------------------- make --- */

static int allocate(int fd)
{
	struct rlimit limit;

	/* Else the attempt alone would be SIGXFSZ. */
	if (getrlimit(RLIMIT_FSIZE, &limit))
		return -errno;
	if (limit.rlim_cur < SIZE)
		return -EFBIG;
	for (size_t at = 0; at < SIZE; at += PIECE) {
		size_t size = SIZE - at < PIECE ? SIZE - at : PIECE;
		int tries = 0, err;

		/* Not ftruncate(): a hole would be a SIGBUS once memory is full. */
		do
			err = posix_fallocate(fd, (off_t)at, (off_t)size);
		while (err == EINTR && ++tries < PIECE_TRIES);
		if (err)
			return -err;
	}
	return 0;
}

static int fill_file(int fd, const struct mw_header *header)
{
	ssize_t n;
	int err;

	/* The umask may have taken from 0600, and an ACL of the folder's added to it. */
	if (fchmod(fd, S_IRUSR | S_IWUSR))
		return -errno;
	err = allocate(fd);
	if (err)
		return err;
	n = pwrite(fd, header, sizeof(*header), 0);
	if (n < 0)
		return -errno;
	return n == sizeof(*header) ? 0 : -EIO;
}

/* Open under a name that nobody has. */
static int open_new(int folder, char name[32])
{
	static _Atomic unsigned int count;

	for (int tries = 0; tries < TRIES; tries++) {
		int fd;

		snprintf(name, 32, NAME ".%d.%u", (int)getpid(), atomic_fetch_add(&count, 1));
		fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			    S_IRUSR | S_IWUSR);
		if (fd >= 0)
			return fd;
		if (errno != EEXIST)
			return -errno;
	}
	return -EAGAIN;
}

/* Over the one that was judged, unless another has replaced it since: a moment remains in
   which two do, and mw_board_check() tells the first that its board is not the one. */
static int replace(int folder, const char *name, const struct stat *judged)
{
	struct stat it;

	if (fstatat(folder, NAME, &it, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? -EEXIST : -errno;
	if (it.st_dev != judged->st_dev || it.st_ino != judged->st_ino)
		return -EEXIST;
	return renameat(folder, name, folder, NAME) ? -errno : 0;
}

/* -EEXIST: somebody was faster, look again. */
static int create(int folder, const struct mw_header *header, const struct stat *judged)
{
	char name[32];
	int fd = open_new(folder, name), err;

	if (fd < 0)
		return fd;
	err = fill_file(fd, header);
	close(fd);
	if (!err && judged)
		err = replace(folder, name, judged);
	else if (!err)
		err = linkat(folder, name, folder, NAME, 0) ? -errno : 0;
	/* Nothing to remove after a rename. */
	if (err || !judged)
		unlinkat(folder, name, 0);
	return err;
}

static int find_or_create(int folder, const struct mw_header *header, uint32_t flags, struct stat *it)
{
	for (int tries = 0; tries < TRIES; tries++) {
		int fd = open_file(folder, header, it), err;
		bool damaged = fd == -EBADMSG || fd == -ESTALE;

		if (!(fd == -ENOENT && flags & MW_BOARD_CREATE) &&
		    !(damaged && flags & MW_BOARD_REPLACE))
			return fd;
		err = create(folder, header, damaged ? it : NULL);
		if (err && err != -EEXIST)
			return err;
	}
	return -EAGAIN;
}

/* ------------------------------------------------------------------ map --- */

static int map(struct mw_board *board, int fd)
{
	void *memory;
	int err = mw_guard_install();

	if (err)
		return err;
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	board->guard = mw_guard_add(memory);
	if (board->guard < 0) {
		munmap(memory, SIZE);
		return board->guard;
	}
	board->memory = memory;
	return 0;
}

/* O_NOFOLLOW looks at the last name only, and follows it when a slash comes after. */
static bool is_folder_path(const char *folder)
{
	return folder[0] == '/' && folder[1] && folder[strlen(folder) - 1] != '/';
}

int mw_board_open(const char *folder, const char *boot_id, uint32_t flags, struct mw_board **out)
{
	struct mw_board *board;
	struct stat it;
	size_t size;
	int folder_fd, fd, err;

	if (!is_folder_path(folder) || strlen(boot_id) != BOOT_ID ||
	    flags & ~(uint32_t)(MW_BOARD_CREATE | MW_BOARD_REPLACE) || flags == MW_BOARD_REPLACE)
		return -EINVAL;
	size = strlen(folder) + sizeof("/" NAME);
	board = calloc(1, sizeof(*board) + size);
	if (!board)
		return -ENOMEM;
	snprintf(board->path, size, "%s/" NAME, folder);
	fill_header(&board->header, boot_id);

	err = folder_fd = open_folder(folder, flags & MW_BOARD_CREATE);
	if (folder_fd < 0)
		goto failed;
	err = fd = find_or_create(folder_fd, &board->header, flags, &it);
	close(folder_fd);
	if (fd < 0)
		goto failed;
	err = map(board, fd);
	close(fd);
	if (err)
		goto failed;
	board->dev = it.st_dev;
	board->ino = it.st_ino;
	*out = board;
	return 0;
failed:
	free(board);
	return err;
}

void mw_board_close(struct mw_board *board)
{
	if (!board)
		return;
	mw_guard_remove(board->guard);
	munmap(board->memory, SIZE);
	free(board);
}

/* Word by word, for somebody may be scribbling. */
static bool header_holds(const struct mw_board *board)
{
	uint64_t ours[MW_WORDS(struct mw_header)], differ = 0;

	memcpy(ours, &board->header, sizeof(ours));
	for (size_t i = 0; i < MW_WORDS(struct mw_header); i++)
		differ |= ours[i] ^ atomic_load_explicit(&board->memory->header[i], memory_order_relaxed);
	return !differ;
}

int mw_board_check(struct mw_board *board)
{
	struct stat it;
	int err = mw_guard_install();

	if (err)
		return err;
	/* By its whole path, as who comes new would find it. */
	if (lstat(board->path, &it))
		return errno == ENOENT || errno == ENOTDIR ? -ESTALE : -errno;
	if (it.st_dev != board->dev || it.st_ino != board->ino)
		return -ESTALE;
	/* Once broken, zeros stand where the header stood. */
	return it.st_size == (off_t)SIZE && header_holds(board) ? 0 : -EBADMSG;
}

const void *mw_board_memory(const struct mw_board *board)
{
	return board->memory;
}

void mw_board_layout(struct mw_board_layout *out)
{
	*out = (struct mw_board_layout){
		.size = SIZE,
		.slots = offsetof(struct mw_memory, states),
		.slot_size = sizeof(struct mw_state),
		.claim = offsetof(struct mw_state, claim),
		.live = offsetof(struct mw_state, live),
		.live_copy = sizeof(mw_word),
		.live_size = sizeof(struct mw_live),
	};
}
