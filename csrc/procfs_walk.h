/*
 * procfs_walk.h - from a process to all its descendants; what procfs_kin.c and
 * procfs_family.c share.  See procfs.h for what such a look costs, and may miss.
 */
#ifndef MW_PROCFS_WALK_H
#define MW_PROCFS_WALK_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "procfs.h"

/* What a folder holds, a piece at a time: readdir() allocates, and so does opendir(). */
struct mw_names {
	int folder;
	size_t at;
	size_t held;
	char text[1024];
};

/* The next name that is a pid; 0 at the end, or a negative errno. */
pid_t mw_next_id(struct mw_names *names);

/* A look at all descendants of one process. */
struct mw_walk {
	const void *list; /* of those met, in order; each begins with its pid_t */
	size_t size;      /* of one of them */
	uint32_t n;       /* how many there can be */
	uint32_t found;   /* and are */
	uint32_t files;   /* opened so far */
	int error;        /* why something could not be looked at, so who was not met may live */
	int proc;
	pid_t self; /* whose they are */
	/* Takes it among those met, `found` with it, or leaves it. */
	void (*meet)(struct mw_walk *walk, const struct mw_stat *stat);
};

/* -ESRCH: it has ended, a zombie too. */
int mw_walk_self(struct mw_walk *walk, struct mw_stat *out); /* ourselves, as this /proc has it */
int mw_walk_stat(struct mw_walk *walk, pid_t pid, struct mw_stat *out);

/* Who ended while we looked is no gap in what was seen. */
static inline bool mw_walk_gone(int err)
{
	return err == -ENOENT || err == -ESRCH;
}

/* Meets them all, or as many as there is room for. */
void mw_walk_all(struct mw_walk *walk);

#endif
