/*
 * memwatch.h - the whole C interface of memwatch.
 *
 * C measures here; it decides nothing.  Everything a caller must know stands
 * beside each function: what it returns, who owns what, which threads may call
 * it, and what fork does to it.  Between the two marks below, this file is also
 * what Python sees: csrc/ffi_build.py hands those lines to cffi as they are.
 *
 * Four rules hold throughout:
 *
 *  - A function returns 0 or a negative errno.  `out` comes last and is left as
 *    it was on failure.
 *  - Bytes are uint64_t, times are nanoseconds of CLOCK_MONOTONIC in int64_t.
 *  - What is not known is MW_ABSENT.  A reading that failed is never 0 and never
 *    plenty.
 *  - Once something is open it allocates nothing, opens nothing, takes no lock
 *    and prints nothing; the functions that do are named as such.
 */
#ifndef MEMWATCH_H
#define MEMWATCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Unknown.  No byte count can be it: the kernel counts in KiB or pages. */
#define MW_ABSENT UINT64_MAX

/* A limit that limits nothing ("max" on cgroup v2, LONG_MAX in pages on v1). */
#define MW_NO_LIMIT (UINT64_MAX - 1)

/* >>> what Python reads begins here */

/*
 * Error codes, besides those a system call gave.
 *
 *  EBADMSG    kernel text that is malformed, or may have been cut off
 *  EOVERFLOW  a number in it does not fit
 *  ENODATA    it is empty, or lacks what must be there
 *  ERANGE     well-formed but impossible: MemAvailable above MemTotal
 *  ESRCH      the process is gone (a zombie is: it holds no memory)
 *  ESTALE     what was opened is no longer the thing itself: refresh, or open anew
 *  ECHILD     opened before fork(), used in the child
 */

/* ------------------------------------------------------------- sampler --- */

/* What binds: the machine, or else a memory cgroup, by number from 1. */
enum { MW_MACHINE = 0 };

/* struct mw_sample.flags */
enum {
	MW_PARTIAL = 1,   /* at least one number is MW_ABSENT, or an error is set */
	MW_ESTIMATED = 2, /* no MemAvailable here (Linux < 3.14, WSL 1): MemFree
	                     + Cached + SReclaimable - Shmem stands in for it */
};

/*
 * One look.  The errors are 0 or a negative errno, one for each source.  Headroom is
 * known only when everything that counts for it is.
 */
struct mw_sample {
	double time;     /* seconds of CLOCK_MONOTONIC, before the first read */
	uint64_t mem_total;
	uint64_t mem_available;
	uint64_t swap_total;
	uint64_t swap_free;
	uint64_t rss;        /* resident: anonymous, file and shared memory */
	uint64_t rss_shared; /* the file and shared memory part of it */
	uint64_t rss_anon;   /* the rest */
	uint64_t headroom;   /* bytes that can still be taken before somebody is killed */
	int64_t time_ns;     /* `time` in full */
	uint64_t limit;      /* of what binds: MemTotal, or the cgroup's limit */
	uint64_t bind_dev;   /* what binds: a cgroup, by its folder's device and inode; 0, 0: */
	uint64_t bind_ino;   /* the machine */
	uint64_t dropped;    /* readings refused since open: malformed, impossible, failed */
	uint32_t flags;
	int32_t meminfo_error; /* mem_*, and so headroom; -ENOENT with MW_NO_MACHINE_OK: not headroom */
	int32_t swap_error;    /* swap_* */
	int32_t statm_error;   /* rss* */
	int32_t cgroup_error;  /* headroom: a limit that is known to be there could not be read */
};

struct mw_sampler;

/* mw_sampler_open()'s flags */
enum {
	MW_NO_MACHINE_OK = 1, /* go on without /proc/meminfo: only cgroups bind */
	MW_COUNT_SWAP = 2,    /* swap that is free counts as headroom */
	MW_LAZY_LIMITS = 4,   /* limits are up to a second old while headroom is above twice `near` */
};

/*
 * mw_sampler_open() opens what is needed to look at process `pid` (0: this one),
 * below `root`, a folder laid out like "/" ("/" itself, a container's root, a
 * test's tree).  It allocates, opens files, and reads each of them once, so that
 * what is kept is known to work.
 *
 * -ESRCH     there is no such process, or it is a zombie
 * -ENOENT    no /proc/meminfo below root (see MW_NO_MACHINE_OK), or no root
 * -EINVAL    pid below 0, unknown flags
 * and what open(2) and pread(2) give.
 *
 * A cgroup whose files cannot be read is no failure: it is left out, and
 * mw_sampler_cgroup_error() says why.
 *
 * Any thread may use a handle, one at a time: a second one gets -EBUSY and tries
 * again, for nothing here waits.  After fork() the child's copy of a
 * handle on pid 0 answers -ECHILD, for its descriptors read the parent; close it
 * and open another.  NULL answers -EBADF.  Every descriptor is close-on-exec.
 */
int mw_sampler_open(const char *root, pid_t pid, uint32_t flags, struct mw_sampler **out);

/* mw_sampler_close() frees it, also in a forked child.  NULL is fine. */
void mw_sampler_close(struct mw_sampler *sampler);

/*
 * mw_sample() takes one sample.  It allocates nothing and opens nothing.  Limits are
 * read anew when they were last read 100 ms ago; all else is of this moment.
 *
 * -ESRCH   the process is gone, for ever: its pid may be used again, but this
 *          handle never reads the stranger
 * -ESTALE  the process moved to another cgroup (looked for once a second), or its
 *          cgroup was removed: call mw_sampler_refresh().  Said once: a caller
 *          that cannot refresh now goes on with what is open
 * -ECHILD, -EBUSY, -EBADF  see mw_sampler_open()
 */
int mw_sample(struct mw_sampler *sampler, struct mw_sample *out);

/*
 * mw_headroom() is the part of a sample that a watermark needs: headroom in
 * bytes, or a negative errno (mw_sample()'s, or why headroom is not known).
 * It does not read the process's own memory.
 */
int64_t mw_headroom(struct mw_sampler *sampler);

/*
 * mw_sampler_near() says from which headroom on it must be exact, in bytes.
 * memory.stat costs ten times what memory.usage does, so the cache that could be
 * reclaimed is read anew only when usage alone says that less than this is left;
 * above it, the figure is at most 100 ms old.  0, the value after open: always
 * from the last 100 ms.  MW_ABSENT: read each time.
 */
int mw_sampler_near(struct mw_sampler *sampler, uint64_t bytes);

/*
 * mw_sampler_credit() names bytes that MemAvailable leaves out and that can be had all
 * the same: from now on they count for headroom, though never above MemTotal, and
 * mem_available stays what the kernel says.  With `dirty`, a cgroup's file cache counts
 * before it is written out, too, as MemAvailable counts the machine's: whoever is at the
 * limit waits for the disk then, and nobody is killed.  0, 0 after open and after a refresh.
 */
int mw_sampler_credit(struct mw_sampler *sampler, uint64_t bytes, int dirty);

/*
 * mw_sampler_refresh() finds the process's memory cgroups anew and opens their
 * files.  On failure what was open stays.  It opens files but allocates nothing,
 * and takes some 20 us a level.
 */
int mw_sampler_refresh(struct mw_sampler *sampler);

/* A memory cgroup the sampler watches. */
struct mw_group {
	uint64_t dev; /* of its folder: what a cgroup is called by */
	uint64_t ino;
	uint64_t limit;  /* as last read; MW_NO_LIMIT */
	uint32_t version; /* 1 or 2 */
	char path[4096];  /* its folder below root, from the mount point on */
};

/*
 * mw_sampler_group() describes group `number`, 1 for the process's own and
 * counting towards the root.  -ENOENT when there is none: that is how many there
 * are.  Numbers hold until the next refresh.
 */
int mw_sampler_group(struct mw_sampler *sampler, uint32_t number, struct mw_group *out);

/*
 * mw_sampler_cgroup_error() says why cgroups take no part, or not all of them:
 * 0, or -ENOENT (no memory controller is mounted), -EXDEV (the process lies
 * outside what our cgroup namespace or mount shows), -EACCES (a limit that may
 * not be read), -EOPNOTSUPP (a limit without a usage), -ENODEV (its folder is not
 * there), -E2BIG (more levels than are watched, 32: the nearest are), or what else
 * reading them gave.
 */
int mw_sampler_cgroup_error(struct mw_sampler *sampler);

/* mw_sampler_descriptors() is how many descriptors it keeps open. */
int mw_sampler_descriptors(struct mw_sampler *sampler);

/*
 * mw_time() repeats one deed `n` times and writes how long each took, in ns, for
 * benchmarks: a loop in C, so that no interpreter stands between two looks.  For one
 * thread.
 * The bare deeds make the same reads on the same descriptors and look at
 * nothing: the floor that the kernel sets.
 */
enum { MW_TIME_SAMPLE = 0, MW_TIME_BARE_SAMPLE = 1, MW_TIME_HEADROOM = 2, MW_TIME_BARE_HEADROOM = 3, MW_TIME_NOTHING = 4 };
int mw_time(struct mw_sampler *sampler, uint32_t deed, uint32_t n, int64_t *out_ns);

/* ------------------------------------------------------- one-off reads --- */

struct mw_process {
	uint64_t rss;
	uint64_t rss_shared;
	uint64_t pss;        /* MW_ABSENT unless asked for and to be had */
	uint64_t start_time; /* clock ticks since boot: with the pid, who it is */
	int32_t ppid;
	int32_t pss_error; /* 0, or why pss is absent: EACCES for another user's */
};

/*
 * mw_process() opens, reads and closes /proc/PID's files below root, all through
 * one descriptor of its folder, so that they speak of one process.  with_pss
 * reads smaps_rollup, which takes 34 ms for each 4 GiB.  -ESRCH once it is gone.
 */
int mw_process(const char *root, pid_t pid, int with_pss, struct mw_process *out);

/* One of a family of processes. */
struct mw_relative {
	int32_t pid;
	int32_t ppid;
	int32_t session; /* 0: not told (of who has just ended, or leads none we know) */
	uint64_t start_time; /* clock ticks since boot: with the pid, who it is */
	uint64_t rss;        /* bytes; MW_ABSENT */
};

/*
 * mw_family() lists process `pid` and its descendants, up to `n`, itself first and a
 * parent before its children; 0: our own descendants, without ourselves.  Returns how
 * many: n may mean that there are more.  A zombie does not count.  -ESRCH once `pid` is
 * gone, -EXDEV (of pid 0) where /proc is another pid namespace's, and what opening files
 * gave: then not all could be seen, and a sum would be too small.
 *
 * It allocates nothing, but opens files: 20 us for each process, and 8 for each further
 * thread of one; where the kernel does not list children, 20 us for each process of the
 * machine.  Who lost its parent belongs to init, or to the nearest ancestor that is a
 * subreaper.  Who is started while it looks may be missed.
 */
int mw_family(const char *root, pid_t pid, struct mw_relative *list, uint32_t n);

/*
 * mw_oom_kills() is how many processes the kernel has killed for want of memory since
 * boot, below whatever limit; -ENOENT where it does not say (before Linux 4.13).  It opens,
 * reads and closes.
 */
int64_t mw_oom_kills(const char *root);

enum { MW_SLOT_GROUPS = 8 }; /* cgroups of a worker that are kept, nearest first */

/* Who a slot belongs to.  pid and start_time name a process for ever within one
   boot (the header's) and one pid namespace. */
struct mw_owner {
	uint64_t pid;
	uint64_t start_time; /* clock ticks since boot */
	uint64_t pid_namespace; /* inode of /proc/self/ns/pid */
	uint64_t generation; /* of the slot: how often it was claimed */
	uint64_t groups;     /* how many of the following are set */
	uint64_t group_dev[MW_SLOT_GROUPS];
	uint64_t group_ino[MW_SLOT_GROUPS];
};

/*
 * mw_self() says who this process is, for mw_slot_claim() (without the groups),
 * and which boot this is, 36 characters and a NUL, for mw_board_open().
 */
int mw_self(struct mw_owner *out, char boot_id[37]);

/* /proc/pressure/memory: share of time stalled for memory, hundredths of a percent. */
struct mw_pressure {
	uint64_t some_avg10;
	uint64_t some_total_us;
	uint64_t full_avg10; /* MW_ABSENT where only `some` is told */
	uint64_t full_total_us;
};

int mw_pressure(const char *root, struct mw_pressure *out);

/*
 * mw_fact() reads one of the numbers that `memwatch doctor` talks about, by its
 * place in a table, for the process of `sampler`.  It opens, reads and closes.
 * -ENOENT past the end of the table.  A fact that cannot be read is no failure:
 * its error says why.
 */
struct mw_fact {
	char name[32];
	char path[4096 + 64]; /* below root, so that a person can look for himself */
	uint32_t group;       /* the group it was read of, or MW_MACHINE */
	int32_t error;
	int64_t value;
};

int mw_fact(struct mw_sampler *sampler, uint32_t index, struct mw_fact *out);

/* --------------------------------------------------------------- board --- */

/*
 * The board is one file of fixed size in shared memory, one per user, by which
 * workers, the watchdog and the person looking see each other.  It has a header,
 * MW_SLOTS slots of one worker each, and MW_TOKENS brake tokens, one for each
 * limit that binds somebody.
 *
 * A slot has three regions and a ring.  Each region has one writer and is kept
 * twice under a sequence number: a writer fills the copy nobody reads and then
 * counts up.  So a reader never waits, and a writer killed at any instruction
 * leaves the copy before.  The ring keeps the last MW_RECORDS - 1 looks and marks
 * (and room for the next one), and outlives SIGKILL: it is the flight recorder.
 */
enum {
	MW_SLOTS = 64,
	MW_TOKENS = 64,
	MW_RECORDS = 4096,   /* a power of two */
	MW_LABEL = 128,      /* bytes of UTF-8, filled up with 0 */
	MW_BOARD_VERSION = 4,
};

/* The native thread's region: what it saw when it last looked. */
struct mw_live {
	int64_t time_ns; /* the heartbeat */
	uint64_t rss;
	uint64_t rss_peak;
	uint64_t headroom;
	uint64_t limit;
	uint64_t bind_dev; /* 0, 0: the machine */
	uint64_t bind_ino;
	uint64_t looks;
	int64_t gap_p99_ns; /* between two looks, beyond what was meant; MW_ABSENT's bits: unknown */
	int64_t gap_max_ns;
	int64_t cpu_ns; /* the thread's own */
	uint64_t phase; /* of the brake: MW_BRAKE_* */
	uint64_t epoch; /* of the trial that the phase speaks of */
	uint64_t brakes; /* so far */
	uint64_t growth; /* of that trial: see struct mw_candidate */
	int64_t trial_start_ns; /* when it began */
};

/* Phases of the brake, in struct mw_live. */
enum {
	MW_BRAKE_OFF = 0, /* nobody is looking */
	MW_BRAKE_WATCHING = 1,
	MW_BRAKE_HOLDING = 2,
	MW_BRAKE_RAISING = 3,
	MW_BRAKE_SQUEEZING = 4,
	MW_BRAKE_KILLING = 5,
	MW_BRAKE_SETTLING = 6,
	MW_BRAKE_WAITING = 7, /* another worker's trial is to end first */
};

/* Python's region: what the worker is at. */
struct mw_work {
	char label[MW_LABEL]; /* "Trial #42"; empty outside a trial */
	char detail[MW_LABEL]; /* "split 3/5" */
	uint64_t epoch;       /* counts trials; odd while one runs */
	int64_t trial_start_ns;
	uint64_t trial_rss;   /* of the tree when it began */
	uint64_t budget;      /* what buffers say they will hold once they are full */
	uint64_t filled;      /* that they hold already */
	uint64_t live_bytes;  /* what allocators have handed out */
	uint64_t kept_bytes;  /* what malloc() has from the kernel, and has not handed out */
	int64_t live_time_ns; /* when these were read */
	uint64_t worker;      /* its number under a watchdog, from 1; 0 by hand */
	uint64_t key;         /* what the trial is called elsewhere, as a hash; 0 */
	uint64_t tainted;     /* 1: an exception was raised out of nowhere; best started anew */
};

/* The watchdog's region: what it asks for. */
struct mw_orders {
	uint64_t drain;           /* 0, or why: an MW_DRAIN_* */
	int64_t drain_deadline_ns;
	uint64_t rss_limit;       /* of the tree; the brake rings the bell once the process alone is above.
	                             MW_NO_LIMIT */
	uint64_t watchdog_pid;    /* 0: nobody */
	uint64_t watchdog_start_time;
	int64_t time_ns;          /* its heartbeat */
};

enum { MW_DRAIN_NO = 0, MW_DRAIN_AGE = 1, MW_DRAIN_RSS = 2, MW_DRAIN_HEADROOM = 3, MW_DRAIN_STALLED = 4, MW_DRAIN_LEAK = 5, MW_DRAIN_STOP = 6,
       MW_DRAIN_TAINTED = 7 };

/* One record of the ring. */
struct mw_record {
	int64_t time_ns;
	uint64_t kind;  /* MW_RECORD_* */
	uint64_t rss;   /* of a look; else what the kind says */
	uint64_t headroom;
};

enum { MW_RECORD_LOOK = 1, MW_RECORD_MARK = 2 };

struct mw_board;

/* mw_board_open()'s flags */
enum {
	MW_BOARD_CREATE = 1, /* make folder and board where there is none */
	MW_BOARD_REPLACE = 2, /* with CREATE: leave a damaged one, and make a new one in its place */
};

/*
 * mw_board_open() opens the board in `folder` and maps it.  The folder's path is
 * absolute and does not end in '/', which would follow a symlink.  It must be a
 * real folder, ours, and closed to others (0700); so must the file be (0600).
 * `boot_id` are the 36 characters of /proc/sys/kernel/random/boot_id: a board of
 * another boot counts as damaged.
 *
 * -EINVAL    a path as above it is not, unknown flags, no boot id
 * -ENOENT    there is none (without CREATE)
 * -EPERM     folder or file is another user's, or open to others
 * -ELOOP, -ENOTDIR  it is a symlink, or no folder
 * -EPROTO    a board of another version of memwatch: never replaced
 * -EBADMSG   damaged: its header is not a board's, or it was cut short
 * -ESTALE    of another boot
 * -ENOSPC, -EFBIG   no room for it: on the device, below RLIMIT_FSIZE
 * -EMFILE    this process has 16 boards mapped already
 * -EAGAIN    others made and removed it each time we looked
 * and what the system calls give.
 *
 * A new board is made under another name, with all its pages there
 * (posix_fallocate), and then linked: nobody ever sees half a one.  Who dies
 * in the middle leaves a file "board.*" behind, which may be removed.
 *
 * It allocates the handle and keeps no descriptor open.  A handle may be used by
 * many threads; the mapping is inherited over fork(), where the parent's slot
 * stays the parent's: the child must neither write to it nor release it.
 *
 * A file that somebody cuts short while it is mapped would mean SIGBUS.  The
 * first open installs a handler for that signal; a fault inside a board puts an
 * empty board there and marks it broken (-EBADMSG from then on), any other fault
 * goes where it went before.  A thread that blocks SIGBUS is not protected.
 */
int mw_board_open(const char *folder, const char *boot_id, uint32_t flags, struct mw_board **out);

/* mw_board_close() unmaps it; slots stay claimed.  NULL is fine. */
void mw_board_close(struct mw_board *board);

/*
 * mw_board_check() says whether the board is still the one others find: 0, or
 * -ESTALE (unlinked, or another one stands in its place), -EBADMSG (damaged or
 * cut short).  It opens nothing but asks for the file's status by name: 2 us, so
 * once a second.  A handler for SIGBUS that another library put in front of ours
 * meanwhile gets behind it again.
 */
int mw_board_check(struct mw_board *board);

/*
 * The bell: one word of the board that workers count up to wake the watchdog.
 * mw_board_wait() waits until it is no longer `seen`, which mw_board_rung() gave before:
 * 0, or -ETIMEDOUT, -EBADMSG the board is broken, -EINTR a signal's handler ran.  Of a
 * board that was unlinked nobody rings the bell: a timeout is to be short enough to ask
 * mw_board_check().
 */
uint32_t mw_board_rung(const struct mw_board *board);
int mw_board_wait(struct mw_board *board, uint32_t seen, int64_t timeout_ns);
void mw_board_ring(struct mw_board *board);

/* The mapping, for readers that need one number fast, and where things lie in it. */
const void *mw_board_memory(const struct mw_board *board);
struct mw_board_layout {
	uint64_t size;
	uint64_t slots;      /* of slot 0, from the beginning */
	uint64_t slot_size;
	uint64_t claim;      /* of the claim word, from the slot's beginning */
	uint64_t live;       /* of the live region's sequence number: generation(16), count(48) */
	uint64_t live_copy;  /* of its copy 0, which an even count means; 1 follows at live_size */
	uint64_t live_size;
};
void mw_board_layout(struct mw_board_layout *out);

/*
 * mw_slot_claim() takes a slot for `owner`, whose generation it sets: one that is
 * free, or else one whose owner is dead, since that one's ring may still be
 * asked for.  What stood in it counts as empty from then on.  `slot` gets its
 * number, from 0.
 *
 * -EEXIST   this process has one already: `slot` and the generation are that one's
 * -ENOSPC   all are taken by the living
 * -EINVAL   the owner has no pid, or too many groups
 * -EBADMSG  the board is broken
 *
 * Whether an owner lives is told by /proc/PID/stat below `root` (which must be
 * that of our own pid namespace); one of another pid namespace is taken for
 * dead when its heartbeat is older than `stale_ns`, or, before its first, when it
 * was met without one that long ago.  It opens files, but allocates nothing.
 */
int mw_slot_claim(struct mw_board *board, const char *root, struct mw_owner *owner, int64_t stale_ns, uint32_t *slot);

/*
 * mw_slot_lock() locks the header and a slot in memory (mlock), and touches the
 * other slots' regions, so that a look at them meets no new page: -ENOMEM or
 * -EPERM where RLIMIT_MEMLOCK is too small, which is no reason not to go on.
 * Locks are not inherited over fork().
 */
int mw_slot_lock(struct mw_board *board, uint32_t slot);

/* mw_slot_release() gives it up; 0 also when it no longer is ours. */
int mw_slot_release(struct mw_board *board, uint32_t slot, const struct mw_owner *owner);

/*
 * mw_slot_owner() tells whose it is, dead or alive: -ENOENT nobody's, -EAGAIN in
 * the making, -EBADMSG scribbled over.
 */
int mw_slot_owner(const struct mw_board *board, uint32_t slot, struct mw_owner *out);

/*
 * mw_slot_alive() judges a slot's owner as mw_slot_claim() does, for who looks from
 * `pid_namespace`: 0, -ESRCH dead, -ESTALE the slot is another's by now.
 */
int mw_slot_alive(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const char *root, uint64_t pid_namespace, int64_t stale_ns);

/*
 * Readers.  Each gives a whole region as one writer left it: -EAGAIN when a
 * bounded number of tries met a writer each time, -ENOENT when nothing was
 * written since the slot was claimed, -ESTALE when it is no longer `owner`'s.
 */
int mw_slot_live(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner, struct mw_live *out);
int mw_slot_work(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner, struct mw_work *out);
int mw_slot_orders(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner, struct mw_orders *out);

/*
 * Writers: one thread for each region of a slot, and the native thread for the
 * ring.  -ESTALE when the slot is no longer `owner`'s (the watchdog passes the
 * owner it means), -EAGAIN when another writer was met.
 */
int mw_slot_set_live(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const struct mw_live *live);
int mw_slot_set_work(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const struct mw_work *work);
int mw_slot_set_orders(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const struct mw_orders *orders);
int mw_slot_record(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, const struct mw_record *record);

/*
 * mw_slot_records() copies up to `n` records from number `*from` on (0 is the
 * first since the claim) into `out`, oldest first, and returns how many; `*from`
 * becomes the number after the last copied.  Records that are gone, or were
 * written over while they were copied, are passed over; a number above those
 * written is brought back to the next.  -EAGAIN when the writer was faster each
 * time, -ESTALE as for readers; `out` may then be half filled.
 */
int mw_slot_records(const struct mw_board *board, uint32_t slot, const struct mw_owner *owner, uint64_t *from, struct mw_record *out, uint32_t n);

/*
 * mw_turn_lend() takes the token of the limit that (dev, ino) names (0, 0: the machine) in
 * the name of the worker that the watchdog is about to stop, so that no brake begins below
 * that limit meanwhile: to all workers, that one too, it is another's.  It ends after
 * `lease_ms` (10 s at most) or with the slot; another call prolongs it, or with 0 gives
 * it back.
 * 0, or -EBUSY a worker brakes there (that one, too: let it), -ESTALE the slot is no
 * longer the owner's, -EBADMSG the board is broken.  For a worker without a slot
 * (MW_SLOTS, owner NULL) it only looks: 0 it is free, -EBUSY.
 */
int mw_turn_lend(struct mw_board *board, uint32_t slot, const struct mw_owner *owner, uint64_t dev, uint64_t ino, int64_t now_ns, int64_t lease_ms);

/* --------------------------------------------------------------- judge --- */

/*
 * What to do about a look at memory, once a trial runs: four comparisons with numbers
 * that trip.py computed.  trip.trip() is the reference; the two are held to the
 * same answers by a differential test.  Pure: no clock, no I/O, any thread.
 */
struct mw_numbers {
	uint64_t brake;     /* headroom below which the trial must end */
	uint64_t resume;    /* above: nobody is in danger */
	uint64_t urgent;    /* below: a hold does not wait to its end, and the trial's children go */
	uint64_t floor;     /* below: no time is left to ask */
	uint64_t rss_limit; /* of this process; MW_NO_LIMIT */
	int64_t hold_ns;    /* how long a trial is held before it is told */
	int64_t grace_ns;   /* how long it may take to end then */
	int64_t squeeze_ns; /* after it was told; below 0: never */
	int64_t reap_ns;    /* how long the memory of children that were killed may take to come back */
	int64_t gather_ns;  /* how long workers that cross together may take to show up */
	int64_t still_ns;   /* headroom that has not risen for so long has stopped rising */
	uint64_t rise;      /* by less than this is no rise */
};

/* Whose turn it is to brake below the limit that binds. */
enum {
	MW_TURN_ALONE = 0,  /* there is nobody to take turns with, or no board to do it on */
	MW_TURN_FREE = 1,   /* nobody's yet */
	MW_TURN_MINE = 2,
	MW_TURN_OTHERS = 3, /* another worker's trial is to end first */
};

/* One look, as judged. */
struct mw_look {
	int64_t time_ns;
	uint64_t headroom; /* MW_ABSENT: unknown */
	uint64_t rss;      /* MW_ABSENT */
	uint64_t epoch;    /* of the trial that would be stopped; 0: none runs */
	uint32_t shielded; /* it asked not to be cut now */
	uint32_t children; /* how many of its descendants were started since it began */
	uint32_t turn;     /* MW_TURN_*; only while a trial is held, waits or is told */
	uint32_t leaving;  /* it is being left: nothing is raised in it any more */
};

/* What is remembered between two looks; all 0 at first. */
struct mw_judgment {
	uint64_t phase; /* MW_BRAKE_* */
	uint64_t epoch; /* of the trial held or told; 0 */
	int64_t since_ns;  /* the hold began; then the grace period did */
	int64_t told_ns;
	int64_t reaped_ns; /* 0: its children were not killed */
	uint64_t over;     /* 1 while RSS is above its limit */
	uint64_t most;     /* while it waits: the highest headroom, */
	int64_t rose_ns;   /* and when that was last reached */
};

/* What is to be done, as bits. */
enum {
	MW_DO_HOLD = 1,     /* park it, and look a second time */
	MW_DO_RELEASE = 2,  /* let it go on */
	MW_DO_TELL = 4,     /* raise in it, until it ends */
	MW_DO_REAP = 8,     /* kill the children it started */
	MW_DO_SQUEEZE = 16, /* let its allocations fail */
	MW_DO_LIFT = 32,    /* let them succeed again */
	MW_DO_KILL = 64,    /* last words, then this process ends */
	MW_DO_WAKE = 128,   /* tell the watchdog that RSS is above its limit */
	MW_DO_TAKE = 256,   /* take the turn, if this trial is the one to stop */
	MW_DO_WAIT = 512,   /* another one is: let it go on as long as it takes nothing more */
	MW_DO_RETRACT = 1024, /* raise no more in it: it lost its turn */
};

/*
 * mw_judge() moves `state` on by one look and returns what is to be done.  In every
 * phase but MW_BRAKE_OFF, WATCHING and SETTLING the look must be a second look (see
 * mw_brake_start()): the per-CPU page lists count as there.  Once MW_DO_TAKE was done
 * it may be called again with the same look, whose `turn` is then MW_TURN_MINE.
 */
uint32_t mw_judge(const struct mw_numbers *numbers, struct mw_judgment *state, const struct mw_look *look);

/*
 * A trial that could be the one to stop.  Its growth is what its process has more than
 * when it began, and of each child that was started since, what that has more than its
 * parent had then (for so much a forked child shares).  One that asked not to be cut
 * now has none.
 */
struct mw_candidate {
	uint64_t growth;   /* of its process tree since it began, in bytes; MW_ABSENT counts as 0 */
	int64_t start_ns;  /* when it began */
	uint64_t number;   /* what to call it by: a slot, a seat */
};

/*
 * mw_victim() is the place in `list` of the one to stop: the largest growth; of equals
 * the one that began last, of those the lowest number.  -ENOENT of none.
 */
int mw_victim(const struct mw_candidate *list, uint32_t n);

/* --------------------------------------------------------------- brake --- */

/*
 * The brake: a thread that looks while Python cannot, and a signal handler that parks
 * the trial's thread.  One for each process; its memory is never freed, for a thread
 * may be inside the handler at any time.  After a fork the child has no such thread,
 * and every word below reads 0; it may start its own.
 */
struct mw_brake;

/* mw_brake_start()'s flags, besides mw_sampler_open()'s */
enum {
	MW_BRAKE_REALTIME = 16, /* ask for SCHED_RR */
};

struct mw_plan {
	const char *root;  /* as for mw_sampler_open() */
	uint32_t flags;
	int32_t signal;    /* to park and to raise with */
	uint64_t near;     /* as for mw_sampler_near() */
	uint64_t rate;     /* bytes a second: how fast memory can be filled */
	int64_t period_min_ns;
	int64_t period_max_ns;
	struct mw_numbers numbers;
};

/*
 * The words that Python and the thread share, each a uint64_t.  The first ones are the
 * thread's to write; the seats, one for each thread that runs trials, are Python's.
 */
enum {
	MW_WORD_TOLD = 0,     /* epoch of the trial that must end now; 0: none */
	MW_WORD_TOLD_NS = 1,  /* when it was told */
	MW_WORD_HELD_NS = 2,  /* when the last hold began */
	MW_WORD_PARKED_NS = 3, /* when the trial's thread was parked in it */
	MW_WORD_PHASE = 4,    /* MW_BRAKE_* */
	MW_WORD_HEADROOM = 5, /* as last seen; MW_ABSENT */
	MW_WORD_LOOK_NS = 6,  /* when that was */
	MW_WORD_KNOWN_NS = 7, /* when headroom was last known */
	MW_WORD_NEWS = 8,     /* counts what mw_brake_wait() waits for */
	MW_WORD_FLAGS = 9,    /* MW_NEWS_* that stand */
	MW_WORD_HOLDS = 10,   /* holds so far */
	MW_WORD_SHOTS = 11,   /* signals sent to raise, so far */
	MW_WORD_BRAKES = 12,  /* trials told so far */
	MW_WORD_LOWEST = 13,  /* the least headroom since the last hold began */
	MW_WORD_LIMIT = 14,   /* of what binds */
	MW_WORD_RSS = 15,
	MW_WORD_TOLD_HEADROOM = 16, /* what was left when it was told */
	MW_WORD_TOLD_RSS = 17,
	MW_WORD_REAPED = 19,  /* children of it that were killed */
	MW_WORD_CLERK = 18,   /* Python's to write: its helper thread, which is never parked */
	MW_WORD_TRIPPED = 20, /* CPython's handler was called to raise, and Python's, which writes 0, did not run yet */
	MW_WORD_PEAK = 21,    /* the highest RSS since Python last wrote here */
	MW_WORD_WAITS = 22,   /* how often a trial has waited for another worker's to end */
	MW_WORD_WAIT_NS = 23, /* when the last such wait began */
	MW_WORD_FREED_NS = 24, /* when the last hold or wait ended without a brake */
	MW_WORD_DRAIN = 25,   /* MW_DRAIN_*, as the slot's orders say; 0 */
	MW_WORD_LIVE = 32,    /* where a struct mw_live begins, as last published */
	MW_WORD_SEATS = 64,   /* where seat 0 begins */
	MW_SEATS = 64,
	/* In a seat: */
	MW_SEAT_EPOCH = 0,    /* of the trial that runs; 0: none.  Written last */
	MW_SEAT_THREAD = 1,   /* its thread, as gettid() calls it */
	MW_SEAT_IDENT = 2,    /* and as Python does */
	MW_SEAT_START_NS = 3, /* when it began */
	MW_SEAT_START_TICKS = 4, /* the same in clock ticks since boot */
	MW_SEAT_SHIELD = 5,   /* how many shields are up */
	MW_SEAT_START_RSS = 6, /* what the process had when it began */
	MW_SEAT_LEAVING = 7,  /* 1 while it is being left */
	MW_SEAT_START_PEAK = 8, /* the most that the process had ever had by then */
	MW_SEAT_TEXT = 9,     /* its name for the last words: MW_SEAT_TEXT_BYTES, the last of them 0 */
	MW_SEAT_TEXT_BYTES = 312,
	MW_SEAT_WORDS = 48,
};

/* MW_WORD_FLAGS */
enum {
	MW_NEWS_STALE = 1,    /* call mw_brake_refresh() */
	MW_NEWS_UNHOOKED = 2, /* the signal's handler is no longer ours */
	MW_NEWS_SLOT = 4,     /* the board's slot cannot be written */
	MW_NEWS_RAISE = 8,    /* a trial is told: raise in threads, where no signal does */
	MW_NEWS_REALTIME = 16, /* SCHED_RR was had */
	MW_NEWS_LOCKED = 32,  /* own pages are locked in memory */
	MW_NEWS_OVER = 64,    /* RSS is above its limit */
	MW_NEWS_HELD = 128,   /* a trial is held or told */
};

/*
 * mw_brake_start() opens a sampler on this process, installs the handler, and starts
 * the thread.  It allocates.  -EALREADY it runs; -EAGAIN no thread could be had
 * (RLIMIT_NPROC, pids.max); -EINVAL numbers out of order, or a signal that cannot be
 * handled; and what mw_sampler_open() gives.  On failure nothing is left behind.
 *
 * A second look adds what the per-CPU page lists of /proc/zoneinfo hold, which
 * MemAvailable leaves out, and a cgroup's dirty cache: the kernel takes back the one, and
 * waits for the other, before it kills anybody.
 */
int mw_brake_start(const struct mw_plan *plan, struct mw_brake **out);

/* mw_brake_stop() ends and joins the thread, lets go whom it holds, and ignores the
   signal from then on.  Nothing is raised after it.  In a forked child it does nothing. */
int mw_brake_stop(struct mw_brake *brake);

/* The shared words; NULL in a child that has not started its own. */
uint64_t *mw_brake_words(struct mw_brake *brake);

/* mw_brake_arm() gives it other numbers, which count from its next look on. */
int mw_brake_arm(struct mw_brake *brake, const struct mw_numbers *numbers, uint64_t near);

/*
 * mw_brake_board() gives it the slot to write to from now on (board NULL: none), and
 * returns once the one before is no longer touched.  -ETIMEDOUT: keep both mapped.
 */
int mw_brake_board(struct mw_brake *brake, struct mw_board *board, uint32_t slot, const struct mw_owner *owner);

/* mw_brake_refresh() is mw_sampler_refresh() for its sampler. */
int mw_brake_refresh(struct mw_brake *brake);

/*
 * mw_brake_begin() writes to a seat what this process holds as a trial begins there, in
 * 2 us, and begins MW_WORD_PEAK anew; 0, or a negative errno, and then MW_ABSENT is
 * written.  mw_brake_peak() is the most it has held since: the highest look, or the
 * kernel's own maximum (getrusage(2)) once that has risen, which begins with that of the
 * process that started this one; a negative errno.
 */
int mw_brake_begin(struct mw_brake *brake, uint32_t seat);
int64_t mw_brake_peak(struct mw_brake *brake, uint32_t seat);

/* mw_brake_hook() puts the handler in front of the one that stands now, which it calls
   to raise: that of CPython.  At any later time, too. */
int mw_brake_hook(struct mw_brake *brake);

/* mw_signal_taken() is 1 where a handler stands that is neither ours nor the default nor
   ignores: of one that C code installed, CPython knows nothing. */
int mw_signal_taken(int signal);

/* mw_brake_wait() waits until MW_WORD_NEWS is no longer `seen`: 0, or -ETIMEDOUT,
   -ESHUTDOWN once it was stopped.  For one thread. */
int mw_brake_wait(struct mw_brake *brake, uint64_t seen, int64_t timeout_ns);

/* mw_brake_ring() has it look now. */
void mw_brake_ring(struct mw_brake *brake);

/* mw_brake_live() is what it last wrote, or would have, to its slot; of numbers that
   change together, one may be older than another. */
int mw_brake_live(struct mw_brake *brake, struct mw_live *out);

/*
 * mw_install() puts functions of the interpreter's own kind into a Python object:
 * raise_in(ident, type) raises `type` in the thread of that ident at its next bytecode,
 * or takes back what was not raised yet (None); it returns whether there is such a
 * thread.  Unlike a call through cffi it keeps the interpreter lock, so that what was
 * found out about that thread before it is called still holds.  raise_after(decide)
 * raises what decide() returns, if it is not None, in the calling thread once it is
 * back in Python: for what is called from C code that drops exceptions.  -ENOMEM.
 */
int mw_install(void *object);

/* ------------------------------------------------------------- the heap --- */

/*
 * What malloc() has.  Reading it takes the locks of its arenas, one after the other, and
 * 3 us; 1 ms where they are fragmented: never from the brake's thread, which must not
 * wait for a thread that is parked.
 */
struct mw_heap {
	uint64_t live; /* bytes handed out and not freed, their headers and all */
	uint64_t held; /* bytes taken from the kernel for that */
};

/* mw_heap() reads it.  -ENOSYS: this C library does not tell. */
int mw_heap(struct mw_heap *out);

/*
 * mw_trim() gives what malloc() keeps back to the kernel: 1, 0 there was nothing, or
 * -ENOSYS.  It takes the heap's locks, 80 ms for 1 GB in pieces.
 */
int mw_trim(void);

/* ------------------------------------------------------------ processes --- */

struct mw_launch {
	const char *path;        /* of the program; no search in $PATH */
	const char *const *argv; /* both end in a NULL */
	const char *const *env;
	int32_t output;          /* a descriptor: its stdout and stderr */
	int32_t oom_score_adj;   /* beyond -1000 to 1000: as ours is */
	int32_t death_signal;    /* that it gets when we die; 0: none */
};

/*
 * mw_spawn() starts a program, and returns its pid, or a negative errno: why it could not
 * be executed, too.  It leads a session and a process group of its own, reads nothing
 * (/dev/null), handles each signal as by default and blocks none, and has no other
 * descriptor of ours.  That its oom_score_adj could not be had is no failure.  `pidfd`
 * gets a close-on-exec descriptor of it, or -1 where there is none to be had (Linux < 5.3,
 * a seccomp filter).
 *
 * From the main thread only: the death signal is sent when the *thread* that called
 * this ends.  It waits until the program runs, 1 ms.  Before Linux 5.9 descriptors that
 * are not close-on-exec are inherited.
 */
int mw_spawn(const struct mw_launch *launch, int *pidfd);

/*
 * From mw_adopt_orphans() on, descendants of ours that lose their parent become our
 * children, to be reaped by us, and not init's (prctl(2), PR_SET_CHILD_SUBREAPER).
 */
int mw_adopt_orphans(void);

/*
 * The keeper is a small process that outlives us to end our workers, whatever we die
 * of.  mw_keeper_start() returns its pid, or a negative errno; `pipe` is for
 * mw_keeper_tell(), and once the last copy of that is closed it ends the workers it
 * still knows: SIGTERM to their process groups, SIGKILL after `grace_ns` (0: at once).
 * With none to end it just exits; reap it.  Of our descriptors it keeps only `keep` (a
 * lock held by flock(2); -1: none), so that who waits for that waits for its end, too.
 * From the main thread, before memory is short: it never allocates.
 */
int mw_keeper_start(int64_t grace_ns, int keep, int *pipe, int *pidfd);

/*
 * mw_keeper_tell() adds a worker, our child and the leader of its process group, or removes
 * one, before it is reaped.  -EINVAL a pid of nobody's; 0, or -EAGAIN it does not read (stopped), -EPIPE it
 * is gone: start another one and tell it all.  SIGPIPE must be ignored, as it is in Python.
 */
int mw_keeper_tell(int pipe, pid_t pid, int add);

/* --------------------------------------------- rows of a replay buffer --- */

enum { MW_SIDE_BLOCKS = 64 };

/*
 * A ring of rows in memory that its owner (replay.py) maps and frees: bytes, for nothing
 * here knows a type.  With `span`, the beginning of a row (an observation) is what came
 * after the row `streams` places before it, too, and so is stored once.  Where it is not,
 * as at the end of an episode, the true bytes stand in an entry of the side table, and
 * after the newest row of each stream in `newest`.
 *
 * One thread at a time; nothing is allocated.  After fork() the child's copy is its own
 * where the memory is private.  All memory is zero at first.
 */
struct mw_rows {
	uint8_t *memory;    /* capacity rows of `stride` bytes */
	uint8_t *newest;    /* streams entries of `span` bytes */
	uint8_t *side[MW_SIDE_BLOCKS]; /* each `block` entries of `entry` bytes */
	uint64_t capacity;  /* below 2^32 - 1 */
	uint64_t stride;
	uint64_t span;      /* 0: each row stands alone */
	uint64_t link;      /* where in a row is its entry's number + 1, 4 bytes; 0: it has none */
	uint64_t streams;   /* environments that take turns, at most `capacity` */
	uint64_t block;
	uint64_t entry;     /* at least span and 4 */
	uint64_t total;     /* rows ever written; the next one stands at total % capacity */
	uint64_t random[4]; /* xoshiro256++, not all 0 */
	uint32_t side_room; /* entries of the blocks there are; */
	uint32_t side_top;  /* of these, ever used; */
	uint32_t side_used; /* of these, in use; */
	uint32_t side_free; /* the first that is no longer, + 1; each holds the next one's */
	uint32_t busy;      /* somebody is at it without the interpreter lock */
	uint32_t zero;
};

/* Bytes of each row that come from, or go to, an array of the caller's: the first row's
   at `data`, the following `bytes` apart. */
struct mw_column {
	uint8_t *data;
	uint64_t offset; /* in a row; with `next`, in what came after it */
	uint64_t bytes;
	uint32_t next;
};

/*
 * mw_rows_put() writes `n` rows, each of which counts (`total`) once all of it is written.
 * The columns must cover a row, and be inside of it: that is not checked.
 *
 * -ENOSPC   the side table may be too small: give it blocks until there are `n` free entries,
 *           or more than `capacity` in all.  Nothing was written
 * -EBADMSG  its numbers are impossible, as after a file that was tampered with
 */
int mw_rows_put(struct mw_rows *rows, const struct mw_column *columns, uint32_t n_columns, uint64_t n);

/* mw_rows_pick() draws places of rows, each as likely as the other, with replacement.
   -ENODATA: there is no row. */
int mw_rows_pick(struct mw_rows *rows, uint64_t n, int64_t *out);

/* mw_rows_take() copies the rows at these places out.  -ERANGE: there is no such row, and
   nothing was written; -EBADMSG as of mw_rows_put(), with part of it written. */
int mw_rows_take(const struct mw_rows *rows, const int64_t *places, uint64_t n, const struct mw_column *columns,
		 uint32_t n_columns);

/*
 * mw_install_rows() puts a type into a Python object, `Rows`: what ReplayBuffer is derived
 * from.  Its add() and extend() take what is of the very type and shape a field has, in C
 * and with the interpreter lock held throughout, and leave all else to _add() and
 * _extend() of the derived class.  -ENOMEM.
 */
int mw_install_rows(void *object);

/* <<< what Python reads ends here */

#endif
