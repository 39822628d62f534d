/* cgroup.c - see cgroup.h. */

#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "parse.h"
#include "procfs.h"

/* Names of the same thing, by version; NULL where there is none. */
static const char *const names[3][MW_FILES] = {
	[1] = { [MW_LIMIT] = "memory.limit_in_bytes",
		[MW_USAGE] = "memory.usage_in_bytes",
		[MW_STAT] = "memory.stat",
		[MW_SWAP_LIMIT] = "memory.memsw.limit_in_bytes",
		[MW_SWAP_USAGE] = "memory.memsw.usage_in_bytes" },
	[2] = { [MW_LIMIT] = "memory.max",
		[MW_HIGH] = "memory.high",
		[MW_USAGE] = "memory.current",
		[MW_STAT] = "memory.stat",
		[MW_SWAP_LIMIT] = "memory.swap.max",
		[MW_SWAP_USAGE] = "memory.swap.current" },
};

static uint64_t less(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t above(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Near the top of the range it stays there: MW_ABSENT and MW_NO_LIMIT are no sums. */
static uint64_t add(uint64_t a, uint64_t b)
{
	return a > INT64_MAX - less(b, INT64_MAX) ? INT64_MAX : a + b;
}

/* ------------------------------------------------------------ rereading --- */

typedef int (*parse_fn)(const char *text, size_t len, uint64_t *out);

static int reread(int fd, parse_fn parse, struct mw_reader *reader, uint64_t *out)
{
	ssize_t n = mw_reread(fd, reader->text, reader->size);
	int err = n < 0 ? (int)n : parse(reader->text, (size_t)n, out);

	if (err)
		reader->dropped++;
	return err;
}

/* The whole of the file lists: who allocates at the limit waits for the disk, and is not killed. */
static int parse_cache(uint32_t version, const char *text, size_t len, uint64_t *out)
{
	static const char *const keys[][2] = { [1] = { "total_inactive_file", "total_active_file" },
					       [2] = { "inactive_file", "active_file" } };
	uint64_t inactive, active;
	int err = mw_parse_key(text, len, keys[version][0], &inactive);

	if (!err)
		err = mw_parse_key(text, len, keys[version][1], &active);
	if (!err)
		*out = add(inactive, active);
	return err;
}

static int reread_reclaimable(const struct mw_groups *groups, struct mw_level *level, struct mw_reader *reader)
{
	ssize_t n;
	int err;

	/* No memory.stat: nothing is known to be reclaimable, and so nothing is. */
	if (level->fd[MW_STAT] < 0)
		return 0;
	n = mw_reread(level->fd[MW_STAT], reader->text, reader->size);
	err = n < 0 ? (int)n :
		      mw_parse_reclaimable(reader->text, (size_t)n, groups->version, &level->reclaimable);
	/* Where one of the two is not told, what is told stands. */
	if (!err && groups->count_dirty)
		(void)parse_cache(groups->version, reader->text, (size_t)n, &level->reclaimable);
	if (err)
		reader->dropped++;
	return err;
}

static int read_limits(struct mw_level *level, struct mw_reader *reader)
{
	uint64_t limit, high = MW_NO_LIMIT, swap = MW_NO_LIMIT;
	int err = reread(level->fd[MW_LIMIT], mw_parse_limit, reader, &limit);

	if (!err && level->fd[MW_HIGH] >= 0)
		err = reread(level->fd[MW_HIGH], mw_parse_limit, reader, &high);
	if (!err && level->fd[MW_SWAP_LIMIT] >= 0)
		err = reread(level->fd[MW_SWAP_LIMIT], mw_parse_limit, reader, &swap);
	if (err)
		return err;
	level->limit = less(limit, high);
	level->swap_limit = swap;
	return 0;
}

static bool limited(const struct mw_groups *groups, const struct mw_level *level)
{
	return level->limit != MW_NO_LIMIT || (groups->version == 1 && level->swap_limit != MW_NO_LIMIT);
}

void mw_groups_read_limits(struct mw_groups *groups, struct mw_reader *reader)
{
	groups->limits = 0;
	for (uint32_t i = 0; i < groups->count; i++) {
		struct mw_level *level = &groups->level[i];

		level->limit_error = read_limits(level, reader);
		if (!level->limit_error && !limited(groups, level))
			continue;
		groups->limit[groups->limits++] = (uint8_t)i;
		/* Not known is none: what cannot be read is not called reclaimable. */
		if (reread_reclaimable(groups, level, reader))
			level->reclaimable = 0;
	}
}

/* ------------------------------------------------------------- headroom --- */

/* What swap adds to a limit of memory alone, at most: that of this level and all above. */
static int swap_room(const struct mw_groups *groups, struct mw_reader *reader, uint32_t from, uint64_t *room)
{
	for (uint32_t i = from; groups->version == 2 && i < groups->count; i++) {
		const struct mw_level *level = &groups->level[i];
		uint64_t usage;
		int err;

		if (level->swap_limit == MW_NO_LIMIT)
			continue;
		err = reread(level->fd[MW_SWAP_USAGE], mw_parse_u64, reader, &usage);
		if (err)
			return err;
		*room = less(*room, above(level->swap_limit, usage));
	}
	return 0;
}

static int level_room(struct mw_groups *groups, uint32_t i, struct mw_reader *reader, uint64_t swap_free,
		      uint64_t *room)
{
	struct mw_level *level = &groups->level[i];
	uint64_t usage, swap = swap_free, left = MW_NO_LIMIT;
	int err;

	if (level->limit != MW_NO_LIMIT) {
		err = reread(level->fd[MW_USAGE], mw_parse_u64, reader, &usage);
		if (!err && swap)
			err = swap_room(groups, reader, i, &swap);
		if (err)
			return err;
		left = add(above(level->limit, usage), swap);
	}
	/* v1 counts memory and swap together against a second limit, which may be the
	   nearer one once something is swapped out. */
	if (groups->version == 1 && level->swap_limit != MW_NO_LIMIT) {
		err = reread(level->fd[MW_SWAP_USAGE], mw_parse_u64, reader, &usage);
		if (err)
			return err;
		left = less(left, above(level->swap_limit, usage));
	}
	*room = left;
	return 0;
}

int mw_groups_headroom(struct mw_groups *groups, struct mw_reader *reader, uint64_t near, uint64_t swap_free,
		       uint64_t *headroom, uint64_t *limit, uint32_t *binds)
{
	uint64_t least = *headroom;
	uint32_t who = 0;

	for (uint32_t n = 0; n < groups->limits; n++) {
		uint32_t i = groups->limit[n];
		struct mw_level *level = &groups->level[i];
		uint64_t room;
		int err = level->limit_error;

		if (!err)
			err = level_room(groups, i, reader, swap_free, &room);
		/* Cache only adds: a level that has more left than another binds nobody. */
		if (!err && room < least && room < near)
			err = reread_reclaimable(groups, level, reader);
		if (err)
			return err;
		room = add(room, level->reclaimable);
		if (room < least) {
			least = room;
			who = i + 1;
		}
	}
	if (who) {
		const struct mw_level *level = &groups->level[who - 1];

		*headroom = least;
		*limit = groups->version == 1 ? less(level->limit, level->swap_limit) : level->limit;
		*binds = who;
	}
	return 0;
}

void mw_groups_bare(const struct mw_groups *groups, struct mw_reader *reader)
{
	for (uint32_t n = 0; n < groups->limits; n++) {
		const struct mw_level *level = &groups->level[groups->limit[n]];

		if (level->limit != MW_NO_LIMIT)
			(void)mw_reread(level->fd[MW_USAGE], reader->text, reader->size);
		if (groups->version == 1 && level->swap_limit != MW_NO_LIMIT)
			(void)mw_reread(level->fd[MW_SWAP_USAGE], reader->text, reader->size);
	}
}

/* -------------------------------------------------------------- opening --- */


static void close_level(struct mw_level *level)
{
	for (int i = 0; i < MW_FILES; i++)
		mw_close_file(&level->fd[i]);
}

static void init_level(struct mw_level *level)
{
	memset(level, 0, sizeof(*level));
	for (int i = 0; i < MW_FILES; i++)
		level->fd[i] = -1;
}

void mw_groups_init(struct mw_groups *groups, bool count_swap)
{
	memset(groups, 0, sizeof(*groups));
	groups->membership_fd = -1;
	groups->count_swap = count_swap;
}

void mw_groups_close(struct mw_groups *groups)
{
	for (uint32_t i = 0; i < groups->count; i++)
		close_level(&groups->level[i]);
	mw_close_file(&groups->membership_fd);
	mw_groups_init(groups, groups->count_swap);
}

/* No descriptor or no memory left: nothing can be said, which is no "no limit". */
static bool exhausted(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM;
}

/*
 * -ENOENT: no memory controller at this level (the root of v2 has no files).  Of what it
 * has, only limit and usage must be there: gVisor has no memory.stat, and kernels
 * without swap accounting nothing of swap.
 */
static int open_level(const struct mw_groups *groups, struct mw_level *level, int folder)
{
	struct stat status = { 0 };
	int err = fstat(folder, &status) ? -errno : 0;

	for (int i = 0; !err && i < MW_FILES; i++) {
		const char *name = names[groups->version][i];
		bool swap = i == MW_SWAP_LIMIT || i == MW_SWAP_USAGE;

		if (!name || (swap && groups->version == 2 && !groups->count_swap))
			continue;
		level->fd[i] = mw_open_file(folder, name);
		if (level->fd[i] >= 0 || (level->fd[i] == -ENOENT && i != MW_LIMIT && i != MW_USAGE))
			continue;
		err = i == MW_USAGE && level->fd[i] == -ENOENT ? -EOPNOTSUPP : level->fd[i];
	}
	if (level->fd[MW_SWAP_USAGE] < 0)
		mw_close_file(&level->fd[MW_SWAP_LIMIT]);
	level->dev = status.st_dev;
	level->ino = status.st_ino;
	return err;
}

/* A v1 group whose use_hierarchy is 0 does not count what its children take. */
static bool counts_children(const struct mw_groups *groups, int folder, struct mw_reader *reader)
{
	uint64_t value;
	ssize_t n;

	if (groups->version != 1)
		return true;
	n = mw_read_file(folder, "memory.use_hierarchy", reader->text, reader->size);
	return n < 0 || mw_parse_u64(reader->text, (size_t)n, &value) || value;
}

/* Opens and reads the next level, which is `folder`; it is closed again on failure. */
static int fill_level(struct mw_groups *groups, int folder, struct mw_reader *reader)
{
	struct mw_level *level = &groups->level[groups->count];
	int err;

	init_level(level);
	err = open_level(groups, level, folder);
	if (!err)
		err = read_limits(level, reader);
	if (!err)
		err = reread_reclaimable(groups, level, reader);
	if (err)
		close_level(level);
	return err;
}

/* There are more levels than are watched: does this one have a limit at all? */
static int pass_over(const struct mw_groups *groups, int folder)
{
	int fd = mw_open_file(folder, names[groups->version][MW_LIMIT]);
	bool counts = fd != -ENOENT;

	mw_close_file(&fd);
	return counts ? -E2BIG : -ENOENT;
}

/*
 * Adds the level whose folder is path[0..length).  1: done, or left out for the
 * reason in groups->error; 0: it, and so all above, do not count; or -errno.
 */
static int add_level(struct mw_groups *groups, int root, struct mw_reader *reader, size_t length)
{
	bool own = !groups->path[length];
	char kept = groups->path[length];
	int folder, err;

	groups->path[length] = '\0';
	folder = mw_open_below(root, groups->path, O_PATH | O_DIRECTORY);
	groups->path[length] = kept;
	if (folder < 0) {
		if (exhausted(folder))
			return folder;
		/* Removed while we looked, or hidden by a container; its ancestors still bind. */
		groups->error = folder == -ENOENT ? -ENODEV : folder;
		return 1;
	}
	if (!own && !counts_children(groups, folder, reader)) {
		mw_close_file(&folder);
		return 0;
	}
	if (groups->count == MW_GROUPS)
		err = pass_over(groups, folder);
	else
		err = fill_level(groups, folder, reader);
	mw_close_file(&folder);
	if (!err)
		groups->level[groups->count++].length = (uint32_t)length;
	else if (exhausted(err))
		return err;
	else if (err != -ENOENT)
		groups->error = err;
	return err != -E2BIG;
}

static int add_levels(struct mw_groups *groups, int root, struct mw_reader *reader, size_t point)
{
	size_t length = strlen(groups->path);
	int more = add_level(groups, root, reader, length);

	while (more > 0 && length > point) {
		do
			length--;
		while (length > point && groups->path[length] != '/');
		more = add_level(groups, root, reader, length);
	}
	return more < 0 ? more : 0;
}

int mw_groups_open(struct mw_groups *groups, int root, int process, struct mw_reader *reader)
{
	size_t point;
	int err;

	mw_groups_init(groups, groups->count_swap);
	groups->membership_fd = mw_open_membership(process);
	err = groups->membership_fd < 0 ? groups->membership_fd : mw_groups_locate(groups, root, process, reader, &point);
	if (!err)
		err = add_levels(groups, root, reader, point);
	else if (!exhausted(err)) {
		groups->error = err;
		err = 0;
	}
	if (err)
		mw_groups_close(groups);
	else
		mw_groups_read_limits(groups, reader);
	return err;
}

/* ----------------------------------------------------------- describing --- */

int mw_groups_descriptors(const struct mw_groups *groups)
{
	int n = groups->membership_fd >= 0;

	for (uint32_t i = 0; i < groups->count; i++)
		for (int j = 0; j < MW_FILES; j++)
			n += groups->level[i].fd[j] >= 0;
	return n;
}

int mw_groups_describe(const struct mw_groups *groups, uint32_t number, struct mw_group *out)
{
	const struct mw_level *level;

	if (!number || number > groups->count)
		return -ENOENT;
	level = &groups->level[number - 1];
	memset(out, 0, sizeof(*out));
	out->dev = level->dev;
	out->ino = level->ino;
	out->limit = level->limit;
	out->version = groups->version;
	/* A hierarchy mounted on the root itself has a path of no length. */
	out->path[0] = '/';
	memcpy(out->path, groups->path, level->length);
	return 0;
}

static const struct {
	uint32_t version;
	const char *name, *file;
	enum mw_fact_form form;
	const char *key;
} facts[] = {
	{ 2, "memory_max", "memory.max", MW_FACT_LIMIT, NULL },
	{ 2, "memory_high", "memory.high", MW_FACT_LIMIT, NULL },
	{ 2, "memory_usage", "memory.current", MW_FACT_U64, NULL },
	{ 2, "oom_group", "memory.oom.group", MW_FACT_U64, NULL },
	{ 2, "swap_max", "memory.swap.max", MW_FACT_LIMIT, NULL },
	{ 2, "oom_kill", "memory.events", MW_FACT_KEY, "oom_kill" },
	{ 1, "memory_max", "memory.limit_in_bytes", MW_FACT_LIMIT, NULL },
	{ 1, "memory_usage", "memory.usage_in_bytes", MW_FACT_U64, NULL },
	{ 1, "memsw_max", "memory.memsw.limit_in_bytes", MW_FACT_LIMIT, NULL },
	{ 1, "oom_kill_disable", "memory.oom_control", MW_FACT_KEY, "oom_kill_disable" },
	{ 1, "oom_kill", "memory.oom_control", MW_FACT_KEY, "oom_kill" },
};

uint32_t mw_groups_facts(const struct mw_groups *groups)
{
	uint32_t n = 0;

	for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
		n += facts[i].version == groups->version;
	return n;
}

int mw_groups_fact(const struct mw_groups *groups, int root, uint32_t number, uint32_t index, struct mw_fact *out)
{
	struct mw_group group;
	size_t n, i = 0;
	int folder, err = mw_groups_describe(groups, number, &group);

	if (err)
		return err;
	while (facts[i].version != groups->version || index--)
		i++;
	memset(out, 0, sizeof(*out));
	out->group = number;
	mw_put(out->name, sizeof(out->name), facts[i].name);
	n = strcmp(group.path, "/") ? strlen(group.path) : 0;
	memcpy(out->path, group.path, n);
	out->path[n] = '/';
	mw_put(out->path + n + 1, sizeof(out->path) - n - 1, facts[i].file);
	folder = mw_open_below(root, group.path, O_PATH | O_DIRECTORY);
	if (folder < 0) {
		out->error = folder;
		return 0;
	}
	mw_read_fact(folder, facts[i].file, facts[i].form, facts[i].key, out);
	mw_close_file(&folder);
	return 0;
}
