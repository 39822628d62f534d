/* procfs_zone.c - free pages that MemAvailable leaves out; see procfs.h. */

#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int mw_open_zoneinfo(int root)
{
	char text[1024];
	int fd = mw_open_below(root, "proc/zoneinfo", O_RDONLY);
	int64_t bytes;

	if (fd < 0)
		return fd;
	bytes = mw_read_pagesets(fd, text, sizeof(text));
	if (bytes < 0) {
		mw_close_file(&fd);
		return (int)bytes;
	}
	return fd;
}

int64_t mw_read_pagesets(int fd, char *text, size_t size)
{
	struct mw_pagesets sets;
	uint64_t bytes;
	ssize_t n;
	int err;

	mw_pagesets_init(&sets);
	for (int64_t at = 0; (n = mw_read_on(fd, text, size, at)) > 0; at += n) {
		err = mw_pagesets_feed(&sets, text, (size_t)n);
		if (err)
			return err;
	}
	if (n < 0)
		return n;
	err = mw_pagesets_end(&sets, &bytes);
	if (err)
		return err;
	if (__builtin_mul_overflow(bytes, (uint64_t)sysconf(_SC_PAGESIZE), &bytes) || bytes > INT64_MAX)
		return -EOVERFLOW;
	return (int64_t)bytes;
}
