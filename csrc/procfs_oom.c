/* procfs_oom.c - whom the kernel kills for want of memory: how many it has, and who is first. */

#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Some 200 counters of 20 to 40 bytes. */
#define VMSTAT 32768

/* A kernel that does not count them says so by leaving them out. */
static int64_t count_of(int err, uint64_t count)
{
	return err == -ENODATA ? -ENOENT : err ? err : (int64_t)(count & INT64_MAX);
}

int64_t mw_oom_kills(const char *root)
{
	char text[VMSTAT];
	int folder = mw_root_open(root), fd, err;
	uint64_t count = 0;
	ssize_t n;

	if (folder < 0)
		return folder;
	fd = mw_open_below(folder, "proc/vmstat", O_RDONLY);
	mw_close_file(&folder);
	if (fd < 0)
		return fd;
	n = mw_reread(fd, text, sizeof(text));
	mw_close_file(&fd);
	if (n < 0)
		return n;
	err = mw_parse_key(text, (size_t)n, "oom_kill", &count);
	return count_of(err, count);
}

int64_t mw_group_oom_kills(struct mw_sampler *sampler)
{
	struct mw_fact fact;

	/* Those of group 1 come right behind the machine's. */
	for (uint32_t i = mw_machine_facts();; i++) {
		int err = mw_fact(sampler, i, &fact);

		if (err)
			return err;
		if (fact.group != 1)
			return -ENOENT;
		if (!strcmp(fact.name, "oom_kill"))
			return count_of(fact.error, (uint64_t)fact.value);
	}
}

int mw_set_oom_score_adj(int32_t adj)
{
	char text[16], *end = text;
	int root = mw_root_open("/"), fd, err = 0;

	if (root < 0)
		return root;
	fd = mw_open_below(root, "proc/self/oom_score_adj", O_WRONLY);
	mw_close_file(&root);
	if (fd < 0)
		return fd;
	if (adj < 0)
		*end++ = '-';
	end = mw_put_id(end, adj < 0 ? -adj : adj);
	if (write(fd, text, (size_t)(end - text)) < 0)
		err = -errno;
	mw_close_file(&fd);
	return err;
}
