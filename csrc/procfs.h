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

/* Open, read and close in one. */
ssize_t mw_read_file(int folder, const char *name, char *text, size_t size);

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
