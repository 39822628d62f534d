/* procfs_oom.c - whom the kernel kills for want of memory: how many it has, and who is first. */

#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Some 200 counters of 20 to 40 bytes. */
#define VMSTAT 32768

int64_t mw_oom_kills(const char *root)
{
	char text[VMSTAT];
	ssize_t n = mw_read_below(root, "proc/vmstat", text, sizeof(text));
	uint64_t count = 0;
	int err;

	if (n < 0)
		return n;
	err = mw_parse_key(text, (size_t)n, "oom_kill", &count);
	/* A kernel that does not count them says so by leaving them out. */
	return err == -ENODATA ? -ENOENT : err ? err : (int64_t)(count & INT64_MAX);
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
