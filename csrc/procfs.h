/*
 * procfs.h - opening below a root, and rereading what was opened.
 *
 * The only place that knows a path below /proc.  A `root` is a descriptor of a
 * folder laid out like "/"; a symlink inside it, absolute or not, stays inside it
 * where the kernel can see to that (openat2, Linux 5.6).
 */
#ifndef MW_PROCFS_H
#define MW_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memwatch.h"
#include "parse.h"

/* Each gives a descriptor, close-on-exec, or a negative errno. */
int mw_root_open(const char *root);
int mw_open_below(int root, const char *path, int flags);
int mw_open_file(int folder, const char *name); /* directly in it, to read */

/* Closes it if it is one (>= 0) and makes it -1. */
void mw_close_file(int *fd);

/*
 * mw_reread() reads a kept descriptor from the start: how many bytes, or a negative
 * errno.  Text that fills the buffer may have been cut, perhaps just behind a
 * newline: then its last byte is withheld, so that no parser takes it for whole.
 */
ssize_t mw_reread(int fd, char *text, size_t size);

/*
 * Reads what is too long for that, piece by piece: `at` is where the last one ended, for
 * there the kernel goes on with a text that it has made already.  0 is the end.
 */
ssize_t mw_read_on(int fd, char *text, size_t size, int64_t at);

/* Open, read and close in one. */
ssize_t mw_read_file(int folder, const char *name, char *text, size_t size);
ssize_t mw_read_below(const char *root, const char *path, char *text, size_t size);

/* /proc/PID (0: /proc/self) as a folder.  Everything opened below it speaks of the
   same process, or fails.  -ENOENT of it, or of a file below it, means what
   mw_why_missing() makes of it: -ESRCH gone, -EACCES hidden from us (hidepid). */
int mw_proc_open(int root, pid_t pid);
int mw_why_missing(int root, pid_t pid, int err);
bool mw_is_system_root(int root);

/* Files of the machine, and of one process, to keep open. */
int mw_open_meminfo(int root);
int mw_open_statm(int process);
int mw_open_membership(int process);
/* Mounts as seen by us, or (below another root) by that process. */
int mw_open_mounts(int root, int process);

/*
 * /proc/zoneinfo, to keep open.  It is read once, so that the kernel's own buffer has
 * its size before memory is short.  mw_read_pagesets() is what the CPUs' own lists of
 * free pages hold, in bytes, or a negative errno; `text` is where it reads to, of any
 * size (from 4 KiB on no slower than at once).
 */
int mw_open_zoneinfo(int root);
int64_t mw_read_pagesets(int fd, char *text, size_t size);

/* A pid in decimal, without a NUL: where it ends.  snprintf() may take a lock and allocate. */
char *mw_put_id(char *to, pid_t id);

/*
 * The threads of this process: a descriptor to keep, and the ids of up to `n` of them as
 * they are now.  The descriptor goes on speaking of this process in a forked child.
 */
int mw_open_threads(void);
int mw_threads(int folder, pid_t *out, uint32_t n);

/* A process that was started by us, or by one of those.  pid 0: nobody. */
struct mw_kin {
	pid_t pid;
	int pidfd;           /* -1: none was to be had, then start_time must do */
	uint64_t start_time; /* clock ticks since boot */
	uint64_t rss_pages;  /* when it was last looked for; MW_ABSENT */
};

/*
 * mw_kin_find() brings `list`, `n` entries that are all 0 at first, up to date: those
 * who live, in order of their distance, so that a parent stands before its children.
 * Entries of who is still there keep their pidfd.  Returns how many there are, n at
 * most; -EXDEV where /proc shows another pid namespace than ours, and what opening it
 * gives, and then the list is as before.  Where only a part could be looked at, who
 * was found before stays.
 *
 * It allocates nothing, but opens files, and the kernel allocates for them: call it
 * before memory is short.  It takes 20 us for each descendant; where the kernel does not
 * list children (CONFIG_PROC_CHILDREN), as much for each process of the machine.  It
 * needs 8 KiB of stack.
 *
 * Who is started while it looks may be missed until the next time.  Who lost its parent
 * belongs to init and is lost to us, with all below it.  A zombie does not count, nor who
 * looks like one, because its first thread has ended.
 */
int mw_kin_find(struct mw_kin *list, uint32_t n);
int mw_kin_find_below(int root, struct mw_kin *list, uint32_t n); /* its /proc speaks of real processes */

/*
 * mw_kin_kill() sends SIGKILL to those who were started at `since_ticks` or later, parents
 * first, and returns how many there were to kill.  It opens nothing for who has a pidfd;
 * who has none is killed only if /proc still says it is the same process, which takes
 * 12 KiB of stack.
 */
int mw_kin_kill(const struct mw_kin *list, uint32_t n, uint64_t since_ticks);

/* Closes their pidfds, and makes the list empty. */
void mw_kin_close(struct mw_kin *list, uint32_t n);

/* Of this process; also in a forked child, before it executes.  It opens and writes. */
int mw_set_oom_score_adj(int32_t adj);

/* Who a process is: -ESRCH when it is gone, a zombie too. */
int mw_read_stat(const char *root, pid_t pid, struct mw_stat *out);

/* The machine's facts for mw_fact(): how many, and one of them. */
uint32_t mw_machine_facts(void);
void mw_machine_fact(int root, int process, pid_t pid, uint32_t index, struct mw_fact *out);

/* Copies what fits, and a NUL. */
void mw_put(char *to, size_t size, const char *text);

/* Reads `name` in `folder` as one fact: its value, or its error. */
enum mw_fact_form {
	MW_FACT_U64,
	MW_FACT_I64,
	MW_FACT_LIMIT,
	MW_FACT_KB,
	MW_FACT_KEY,
	MW_FACT_NODES,
	MW_FACT_ALLOWED,
};
void mw_read_fact(int folder, const char *name, enum mw_fact_form form, const char *key, struct mw_fact *out);

#endif
