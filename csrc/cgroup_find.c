/* cgroup_find.c - where the memory cgroup of a process is mounted; see cgroup.h. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "parse.h"
#include "procfs.h"

/* FNV-1a: to notice a change, not to withstand anybody. */
static uint64_t hash(const char *text, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
	return h;
}

int mw_groups_moved(const struct mw_groups *groups, struct mw_reader *reader)
{
	ssize_t n;

	if (groups->membership_fd < 0)
		return 0;
	n = mw_reread(groups->membership_fd, reader->text, reader->size);
	if (n < 0)
		return (int)n;
	return hash(reader->text, (size_t)n) != groups->membership;
}

/* Where the process's path lies below a mount of root `root`; NULL: outside it. */
static const char *below(const char *path, const char *root)
{
	size_t n = strlen(root);

	if (!strcmp(root, "/"))
		return path;
	if (strncmp(path, root, n) || (path[n] && path[n] != '/'))
		return NULL;
	return path + n;
}

static int join(char *out, size_t size, const char *point, const char *rest)
{
	size_t n = strcmp(point, "/") ? strlen(point) : 0, m = strcmp(rest, "/") ? strlen(rest) : 0;

	if (n + m >= size)
		return -ENAMETOOLONG;
	memcpy(out, point, n);
	memcpy(out + n, rest, m);
	memset(out + n + m, 0, size - n - m);
	return 0;
}

/* What is known of the mount in groups->path. */
struct place {
	bool there;  /* its folder exists; one that another mount hides does not */
	size_t root; /* length of the mount's root: the shortest shows the most ancestors */
	size_t point;
};

static bool is_there(int root, const char *path)
{
	int fd = mw_open_below(root, path, O_PATH | O_DIRECTORY);
	bool there = fd >= 0;

	mw_close_file(&fd);
	return there;
}

/*
 * 0: this line's mount can be used, and is `best` if none before was better; -EXDEV: the
 * right hierarchy, but not our part of it; -ENOENT: another's line.
 */
static int try_mount(struct mw_groups *groups, int root, const char *line, size_t len, const char *path,
		     struct place *best)
{
	struct mw_mount mount;
	struct place place;
	char whole[sizeof(groups->path)];
	const char *rest;
	int err = mw_parse_mount(line, len, &mount);

	/* Other lines are not ours to judge. */
	if (err || mount.version != groups->version)
		return -ENOENT;
	rest = below(path, mount.root);
	if (!rest)
		return -EXDEV;
	err = join(whole, sizeof(whole), mount.point, rest);
	if (err)
		return err;
	place.there = is_there(root, whole);
	place.root = strlen(mount.root);
	place.point = strcmp(mount.point, "/") ? strlen(mount.point) : 0;
	/* Of equals the last: it may lie over the others. */
	if (place.there > best->there || (place.there == best->there && place.root <= best->root)) {
		*best = place;
		memcpy(groups->path, whole, sizeof(whole));
	}
	return 0;
}

/*
 * Finds the mount that shows `path`.  Lines are as long as their options: what does
 * not fit the buffer is of another type (overlay), and is passed over to its end.
 */
static int find_mount(struct mw_groups *groups, int root, int fd, const char *path, struct mw_reader *reader,
		      struct place *best)
{
	size_t have = 0;
	bool skipping = false;
	int found = -ENOENT;

	for (;;) {
		char *line = reader->text, *end;
		ssize_t n;

		do
			n = read(fd, reader->text + have, reader->size - have);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return -errno;
		if (!n)
			return found;
		have += (size_t)n;
		while ((end = memchr(line, '\n', have)) != NULL) {
			size_t len = (size_t)(end - line) + 1;

			if (!skipping) {
				int err = try_mount(groups, root, line, len, path, best);

				if (!err || (err != -ENOENT && found))
					found = err;
			}
			skipping = false;
			line += len;
			have -= len;
		}
		if (have == reader->size) {
			skipping = true;
			have = 0;
		}
		memmove(reader->text, line, have);
	}
}

int mw_groups_locate(struct mw_groups *groups, int root, int process, struct mw_reader *reader, size_t *point)
{
	struct mw_membership membership;
	struct place best = { .root = SIZE_MAX };
	char path[4096];
	ssize_t n = mw_reread(groups->membership_fd, reader->text, reader->size);
	int err = n < 0 ? (int)n : mw_parse_membership(reader->text, (size_t)n, &membership);
	int fd;

	if (n >= 0)
		groups->membership = hash(reader->text, (size_t)n);
	if (err)
		return err == -ENODATA ? -ENOENT : err;
	if (membership.outside)
		return -EXDEV;
	memcpy(path, reader->text + membership.offset, membership.length);
	path[membership.length] = '\0';
	groups->version = membership.version;
	fd = mw_open_mounts(root, process);
	if (fd < 0)
		return fd;
	err = find_mount(groups, root, fd, path, reader, &best);
	mw_close_file(&fd);
	*point = best.point;
	return err;
}
