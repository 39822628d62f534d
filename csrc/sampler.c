/* sampler.c - one struct mw_sample from parse, procfs and cgroup. */

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "memwatch.h"
#include "parse.h"
#include "procfs.h"

/* Limits change by hand, cache by the second; a look costs 6 us, these as much again. */
#define LIMITS_NS 100000000

/* A process moves when it is started, or by hand.  Reading where it is takes 4 us. */
#define MEMBERSHIP_NS 1000000000

/* What fork() empties: a child knows that it is one without a system call, and finds
   no thread of its parent's at work. */
struct own {
	atomic_uint alive;
	atomic_uint busy;
};

struct mw_sampler {
	/* What each look needs lies together: the kernel has just filled the caches with
	   its own. */
	struct own *own; /* on a page of its own */
	size_t page_size;
	int meminfo_fd; /* -1: none here, and that is allowed */
	int statm_fd;
	uint32_t flags;
	bool self;
	bool plenty;
	pid_t opener; /* where the kernel cannot empty a page (Linux < 4.14); else 0 */
	uint64_t near;
	uint64_t credit;
	int64_t limits_at;     /* when the limits are due */
	int64_t membership_at; /* when to ask for it again */
	int64_t removed_at;    /* when to say again that a group is gone */
	struct mw_reader reader;
	struct mw_groups groups;

	size_t size; /* of the whole mapping, the page of `own` included */
	pid_t pid; /* 0: this process */
	int root;
	int process;
	struct mw_groups spare; /* what a refresh opens into */
	char text[8192];
};

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* -------------------------------------------------------------- opening --- */

static struct mw_sampler *allocate(bool self)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = page + (sizeof(struct mw_sampler) + page - 1) / page * page;
	unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct mw_sampler *sampler;

	if (memory == MAP_FAILED)
		return NULL;
	sampler = (struct mw_sampler *)(memory + page);
	if (madvise(memory, page, MADV_WIPEONFORK))
		sampler->opener = getpid();
	sampler->own = (struct own *)memory;
	atomic_store(&sampler->own->alive, 1);
	sampler->self = self;
	sampler->page_size = page;
	sampler->size = size;
	sampler->root = sampler->process = sampler->meminfo_fd = sampler->statm_fd = -1;
	sampler->reader.text = sampler->text;
	sampler->reader.size = sizeof(sampler->text);
	return sampler;
}

static bool forked(const struct mw_sampler *sampler)
{
	return !atomic_load_explicit(&sampler->own->alive, memory_order_relaxed) ||
	       (sampler->opener && sampler->opener != getpid());
}

/* For each use of a handle: 0, and then leave(); or what is wrong with it. */
static int enter(struct mw_sampler *sampler)
{
	if (!sampler)
		return -EBADF;
	if (sampler->self && forked(sampler))
		return -ECHILD;
	if (atomic_exchange_explicit(&sampler->own->busy, 1, memory_order_acquire))
		return -EBUSY;
	return 0;
}

static int leave(struct mw_sampler *sampler, int result)
{
	atomic_store_explicit(&sampler->own->busy, 0, memory_order_release);
	return result;
}

void mw_sampler_close(struct mw_sampler *sampler)
{
	if (!sampler)
		return;
	mw_groups_close(&sampler->groups);
	mw_close_file(&sampler->statm_fd);
	mw_close_file(&sampler->meminfo_fd);
	mw_close_file(&sampler->process);
	mw_close_file(&sampler->root);
	(void)munmap((unsigned char *)sampler - sampler->page_size, sampler->size);
}

/* -------------------------------------------------------------- looking --- */

static int read_meminfo(struct mw_sampler *sampler, bool swap, struct mw_meminfo *out)
{
	ssize_t n = mw_reread(sampler->meminfo_fd, sampler->text, sizeof(sampler->text));

	if (n < 0)
		return (int)n;
	return swap ? mw_parse_meminfo(sampler->text, (size_t)n, out) :
		      mw_parse_memory(sampler->text, (size_t)n, out);
}

static int read_statm(struct mw_sampler *sampler, struct mw_statm *out)
{
	ssize_t n = mw_reread(sampler->statm_fd, sampler->text, sizeof(sampler->text));

	return n < 0 ? (int)n : mw_parse_statm(sampler->text, (size_t)n, sampler->page_size, out);
}

/* What is due before a look: 0, -ESRCH, or -ESTALE, which is said once a second. */
static int prepare(struct mw_sampler *sampler, int64_t now)
{
	/* With plenty left, and if that was asked for, a second later will do. */
	if (now >= sampler->limits_at + (sampler->plenty ? MEMBERSHIP_NS - LIMITS_NS : 0)) {
		mw_groups_read_limits(&sampler->groups, &sampler->reader);
		sampler->limits_at = now + LIMITS_NS;
	}
	if (now < sampler->membership_at)
		return 0;
	sampler->membership_at = now + MEMBERSHIP_NS;
	switch (mw_groups_moved(&sampler->groups, &sampler->reader)) {
	case 0:
		break;
	case -ESRCH:
		return -ESRCH;
	case 1:
		return -ESTALE;
	default:
		sampler->reader.dropped++;
		break;
	}
	return 0;
}

/* A removed group's files answer ENODEV for ever: there is another by now. */
static bool removed(struct mw_sampler *sampler, const struct mw_sample *sample)
{
	if (sample->cgroup_error != -ENODEV || sample->time_ns < sampler->removed_at)
		return false;
	sampler->removed_at = sample->time_ns + MEMBERSHIP_NS;
	return true;
}

/* A machine may claim any number that fits; two of them need not. */
static uint64_t sum(uint64_t a, uint64_t b)
{
	uint64_t both;

	return __builtin_add_overflow(a, b, &both) ? INT64_MAX : both;
}

/* Memory of the machine and of the groups: all that headroom needs. */
static void look(struct mw_sampler *sampler, bool swap, struct mw_sample *out)
{
	struct mw_meminfo meminfo;
	uint64_t swap_free = 0;
	uint32_t binds = MW_MACHINE;

	if (sampler->meminfo_fd >= 0)
		out->meminfo_error = read_meminfo(sampler, swap, &meminfo);
	else
		out->meminfo_error = -ENOENT;
	if (!out->meminfo_error) {
		out->mem_total = meminfo.total;
		out->mem_available = meminfo.available;
		out->swap_total = meminfo.swap_total;
		out->swap_free = meminfo.swap_free;
		out->swap_error = meminfo.swap_error;
		out->flags |= meminfo.estimated ? MW_ESTIMATED : 0;
		out->headroom = sum(meminfo.available, sampler->credit);
		if (out->headroom > meminfo.total)
			out->headroom = meminfo.total;
		out->limit = meminfo.total;
		if (swap && meminfo.swap_error)
			sampler->reader.dropped++;
		if (sampler->flags & MW_COUNT_SWAP) {
			swap_free = meminfo.swap_free;
			out->headroom = meminfo.swap_error ? MW_ABSENT : sum(out->headroom, swap_free);
		}
	} else {
		out->swap_error = out->meminfo_error;
		if (sampler->meminfo_fd >= 0)
			sampler->reader.dropped++;
	}
	/* Less than everything that counts is not known: a machine that is short must not
	   hide behind a group that has plenty. */
	if (sampler->meminfo_fd >= 0 && out->headroom == MW_ABSENT)
		return;
	out->cgroup_error = mw_groups_headroom(&sampler->groups, &sampler->reader, sampler->near, swap_free,
					       &out->headroom, &out->limit, &binds);
	if (out->cgroup_error) {
		out->headroom = out->limit = MW_ABSENT;
	} else if (binds) {
		out->bind_dev = sampler->groups.level[binds - 1].dev;
		out->bind_ino = sampler->groups.level[binds - 1].ino;
	}
	sampler->plenty = sampler->flags & MW_LAZY_LIMITS && out->headroom != MW_ABSENT &&
			  out->headroom / 2 > sampler->near;
}

static void start(struct mw_sample *sample, int64_t now)
{
	memset(sample, 0, sizeof(*sample));
	sample->time_ns = now;
	sample->time = (double)now * 1e-9;
	sample->mem_total = sample->mem_available = sample->swap_total = sample->swap_free = MW_ABSENT;
	sample->rss = sample->rss_shared = sample->rss_anon = MW_ABSENT;
	sample->headroom = sample->limit = MW_ABSENT;
}

static int take_sample(struct mw_sampler *sampler, struct mw_sample *out)
{
	struct mw_sample sample;
	struct mw_statm statm;
	int err;

	start(&sample, clock_ns(CLOCK_MONOTONIC));
	err = prepare(sampler, sample.time_ns);
	if (err)
		return err;
	look(sampler, true, &sample);
	if (removed(sampler, &sample))
		return -ESTALE;
	sample.statm_error = read_statm(sampler, &statm);
	if (sample.statm_error == -ESRCH)
		return -ESRCH;
	if (!sample.statm_error) {
		sample.rss = statm.rss;
		sample.rss_shared = statm.shared;
		if (statm.shared != MW_ABSENT)
			sample.rss_anon = statm.rss - statm.shared;
	} else {
		sampler->reader.dropped++;
	}
	if (sample.headroom == MW_ABSENT || sample.rss_anon == MW_ABSENT || sample.meminfo_error ||
	    sample.swap_error)
		sample.flags |= MW_PARTIAL;
	sample.dropped = sampler->reader.dropped;
	*out = sample;
	return 0;
}

int mw_sample(struct mw_sampler *sampler, struct mw_sample *out)
{
	int err = enter(sampler);

	return err ? err : leave(sampler, take_sample(sampler, out));
}

static int64_t take_headroom(struct mw_sampler *sampler)
{
	struct mw_sample sample;
	int err;

	/* Only to know what is due: 4 ms too early at most, and a fifth of the price. */
	start(&sample, clock_ns(CLOCK_MONOTONIC_COARSE));
	err = prepare(sampler, sample.time_ns);
	if (err)
		return err;
	look(sampler, sampler->flags & MW_COUNT_SWAP, &sample);
	if (removed(sampler, &sample))
		return -ESTALE;
	if (sample.headroom == MW_ABSENT)
		return sample.cgroup_error ? sample.cgroup_error :
		       sample.meminfo_error ? sample.meminfo_error : sample.swap_error;
	return sample.headroom > INT64_MAX ? INT64_MAX : (int64_t)sample.headroom;
}

int64_t mw_headroom(struct mw_sampler *sampler)
{
	int64_t result = enter(sampler);

	if (result)
		return result;
	result = take_headroom(sampler);
	(void)leave(sampler, 0);
	return result;
}

/* What leaves a limit out for good; anything else may be over in a moment. */
static bool lasting(int err)
{
	return !err || err == -ENOENT || err == -ENODEV || err == -EXDEV || err == -E2BIG || err == -EACCES ||
	       err == -EPERM || err == -EOPNOTSUPP || err == -ENODATA;
}

static int refresh(struct mw_sampler *sampler, bool first)
{
	int64_t now = clock_ns(CLOCK_MONOTONIC);
	struct mw_groups *spare = &sampler->spare;
	int err;

	/* Not sooner than in a second, whatever comes of it: a refresh opens files. */
	sampler->membership_at = now + MEMBERSHIP_NS;
	mw_groups_init(spare, sampler->flags & MW_COUNT_SWAP);
	err = mw_groups_open(spare, sampler->root, sampler->process, &sampler->reader);
	if (err)
		return err;
	/* A limit must not be forgotten because it could not be read just now. */
	if (!first && !lasting(spare->error)) {
		err = spare->error;
		mw_groups_close(spare);
		return err;
	}
	mw_groups_close(&sampler->groups);
	sampler->groups = *spare;
	sampler->limits_at = now + LIMITS_NS;
	return 0;
}

int mw_sampler_refresh(struct mw_sampler *sampler)
{
	int err = enter(sampler);

	return err ? err : leave(sampler, refresh(sampler, false));
}

int mw_sampler_near(struct mw_sampler *sampler, uint64_t bytes)
{
	int err = enter(sampler);

	if (err)
		return err;
	sampler->near = bytes;
	return leave(sampler, 0);
}

int mw_sampler_credit(struct mw_sampler *sampler, uint64_t bytes, int dirty)
{
	int err = enter(sampler);

	if (err)
		return err;
	sampler->credit = bytes;
	sampler->groups.count_dirty = dirty != 0;
	return leave(sampler, 0);
}

static int open_all(struct mw_sampler *sampler, const char *root, pid_t pid)
{
	struct mw_meminfo meminfo;
	struct mw_statm statm;
	int err;

	sampler->root = mw_root_open(root);
	if (sampler->root < 0)
		return sampler->root;
	sampler->process = mw_proc_open(sampler->root, pid);
	sampler->meminfo_fd = mw_open_meminfo(sampler->root);
	/* Where /proc is not there at all, say so: not that the process is gone. */
	err = sampler->meminfo_fd < 0 ? sampler->meminfo_fd : read_meminfo(sampler, false, &meminfo);
	if (err && !(err == -ENOENT && sampler->flags & MW_NO_MACHINE_OK))
		return err;
	if (sampler->process < 0)
		return sampler->process;
	sampler->statm_fd = mw_open_statm(sampler->process);
	if (sampler->statm_fd < 0)
		return mw_why_missing(sampler->root, pid, sampler->statm_fd);
	err = read_statm(sampler, &statm);
	return err ? err : refresh(sampler, true);
}

int mw_sampler_open(const char *root, pid_t pid, uint32_t flags, struct mw_sampler **out)
{
	struct mw_sampler *sampler;
	int err;

	if (pid < 0 || flags & ~(uint32_t)(MW_NO_MACHINE_OK | MW_COUNT_SWAP | MW_LAZY_LIMITS))
		return -EINVAL;
	sampler = allocate(!pid);
	if (!sampler)
		return -ENOMEM;
	sampler->flags = flags;
	sampler->pid = pid;
	mw_groups_init(&sampler->groups, flags & MW_COUNT_SWAP);
	err = open_all(sampler, root, pid);
	if (err) {
		mw_sampler_close(sampler);
		return err;
	}
	*out = sampler;
	return 0;
}

/* ----------------------------------------------------------- describing --- */

int mw_sampler_group(struct mw_sampler *sampler, uint32_t number, struct mw_group *out)
{
	int err = enter(sampler);

	return err ? err : leave(sampler, mw_groups_describe(&sampler->groups, number, out));
}

int mw_sampler_cgroup_error(struct mw_sampler *sampler)
{
	int err = enter(sampler);

	return err ? err : leave(sampler, sampler->groups.error);
}

int mw_sampler_descriptors(struct mw_sampler *sampler)
{
	int err = enter(sampler);

	if (err)
		return err;
	return leave(sampler, 3 + (sampler->meminfo_fd >= 0) + mw_groups_descriptors(&sampler->groups));
}

static int fact(struct mw_sampler *sampler, uint32_t index, struct mw_fact *out)
{
	uint32_t machine = mw_machine_facts(), each = mw_groups_facts(&sampler->groups);

	if (index < machine) {
		mw_machine_fact(sampler->root, sampler->process, sampler->pid, index, out);
		return 0;
	}
	if (!each)
		return -ENOENT;
	index -= machine;
	return mw_groups_fact(&sampler->groups, sampler->root, index / each + 1, index % each, out);
}

int mw_fact(struct mw_sampler *sampler, uint32_t index, struct mw_fact *out)
{
	int err = enter(sampler);

	return err ? err : leave(sampler, fact(sampler, index, out));
}

/* ------------------------------------------------------------- measuring --- */

static void bare(struct mw_sampler *sampler, bool with_statm)
{
	(void)mw_reread(sampler->meminfo_fd, sampler->text, sizeof(sampler->text));
	mw_groups_bare(&sampler->groups, &sampler->reader);
	if (with_statm)
		(void)mw_reread(sampler->statm_fd, sampler->text, sizeof(sampler->text));
}

int mw_time(struct mw_sampler *sampler, uint32_t deed, uint32_t n, int64_t *out_ns)
{
	struct mw_sample sample;

	if (!sampler)
		return -EBADF;
	if (deed > MW_TIME_NOTHING)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++) {
		int64_t before = clock_ns(CLOCK_MONOTONIC);

		if (deed == MW_TIME_SAMPLE)
			(void)mw_sample(sampler, &sample);
		else if (deed == MW_TIME_HEADROOM)
			(void)mw_headroom(sampler);
		else if (deed != MW_TIME_NOTHING)
			bare(sampler, deed == MW_TIME_BARE_SAMPLE);
		out_ns[i] = clock_ns(CLOCK_MONOTONIC) - before;
	}
	return 0;
}
