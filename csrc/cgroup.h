/*
 * cgroup.h - the memory cgroups of one process, from its own to the root.
 *
 * The only place that knows cgroup v1 from v2.  A set is opened as a whole, then
 * only reread; when the process moves, another set is opened beside it and the two
 * are exchanged, so that a failure leaves what there was.
 */
#ifndef MW_CGROUP_H
#define MW_CGROUP_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memwatch.h"

/* Levels that are watched; Kubernetes makes 5, systemd 6, a nested container 9. */
#define MW_GROUPS 32

/* The files of a level that are kept open; which exist depends on version and kernel. */
enum { MW_LIMIT, MW_HIGH, MW_USAGE, MW_STAT, MW_SWAP_LIMIT, MW_SWAP_USAGE, MW_FILES };

/* One cache line for what a look needs; the names behind it. */
struct mw_level {
	alignas(64) uint64_t limit; /* min(memory.max, memory.high), or limit_in_bytes */
	uint64_t swap_limit;        /* v1: memory and swap together; v2: swap alone, if it counts */
	uint64_t reclaimable;       /* as last read */
	int limit_error;            /* of the last reading of the limits */
	int fd[MW_FILES];           /* -1: not here */
	uint32_t length;            /* of its path, in mw_groups.path */
	uint64_t dev;
	uint64_t ino;
};

struct mw_groups {
	uint32_t version;
	uint32_t count;
	uint32_t limits;          /* how many levels have a limit, or one that was not readable, */
	uint8_t limit[MW_GROUPS]; /* and which: a look touches no other */
	bool count_swap;
	bool count_dirty; /* cache counts as reclaimable before it is written out, too */
	int membership_fd; /* /proc/PID/cgroup; kept even where there is no group */
	int error;         /* mw_sampler_cgroup_error() */
	uint64_t membership; /* a hash of what membership_fd said */
	struct mw_level level[MW_GROUPS];
	char path[4096]; /* of level 0's folder; each further level is a shorter piece of it */
};

/* A reader's means: a buffer to read into, and what was refused so far. */
struct mw_reader {
	char *text;
	size_t size;
	uint64_t dropped;
};

void mw_groups_init(struct mw_groups *groups, bool count_swap); /* nothing open */
void mw_groups_close(struct mw_groups *groups);

/*
 * Opens the groups of `process` (a folder of procfs.h) below `root`, and reads each
 * file once.  A group that cannot be read is left out, with the reason in `error`.
 * Fails only when it cannot tell whether there are groups at all (no descriptor
 * left, say), and leaves nothing open then.
 */
int mw_groups_open(struct mw_groups *groups, int root, int process, struct mw_reader *reader);

/* Reads every limit, and the reclaimable cache of those that have one, anew. */
void mw_groups_read_limits(struct mw_groups *groups, struct mw_reader *reader);

/* 1 when the process is in other groups than when they were opened, 0, or -errno. */
int mw_groups_moved(const struct mw_groups *groups, struct mw_reader *reader);

/*
 * Lowers *headroom (MW_ABSENT: nothing known yet) to what the groups leave, with
 * *limit and *binds of the one that does.  `near` is mw_sampler_near()'s;
 * `swap_free` is 0 unless swap counts.  On failure nothing is changed.
 */
int mw_groups_headroom(struct mw_groups *groups, struct mw_reader *reader, uint64_t near, uint64_t swap_free,
		       uint64_t *headroom, uint64_t *limit, uint32_t *binds);

/* The reads that mw_groups_headroom() makes at the least, for benchmarks. */
void mw_groups_bare(const struct mw_groups *groups, struct mw_reader *reader);

/*
 * For cgroup.c: from membership_fd to the folder of the process's own group (path), how
 * much of it is the mount point (*point), version and hash.
 */
int mw_groups_locate(struct mw_groups *groups, int root, int process, struct mw_reader *reader, size_t *point);

int mw_groups_descriptors(const struct mw_groups *groups);
int mw_groups_describe(const struct mw_groups *groups, uint32_t number, struct mw_group *out);

/* The facts for mw_fact(): how many each group has, and one of group `number`: -ENOENT
   when there is no such group. */
uint32_t mw_groups_facts(const struct mw_groups *groups);
int mw_groups_fact(const struct mw_groups *groups, int root, uint32_t number, uint32_t index, struct mw_fact *out);

#endif
