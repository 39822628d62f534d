/*
 * parse_cgroup.c - which cgroup a process is in, and where it is mounted; see parse.h.
 */
#include "parse.h"

#include "span.h"

enum {
	LONGEST_PATH = 4095, /* PATH_MAX less its NUL */
};

/* A cgroup's path as the kernel prints it: plain bytes, ".." in front only. */
static int check_path(struct span path, uint32_t *outside)
{
	size_t len = (size_t)(path.end - path.p);
	bool front = true;

	if (*path.p != '/' || memchr(path.p, '\0', len))
		return -EBADMSG;
	if (len > LONGEST_PATH)
		return -ENAMETOOLONG;
	if (len == 1)
		return 0;
	while (take(&path, '/')) {
		struct span name = before(&path, '/');
		bool up = IS(name, "..");

		if (name.p == name.end || IS(name, ".") || (up && !front))
			return -EBADMSG;
		front = up;
		*outside |= up;
	}
	return 0;
}

int mw_parse_membership(const char *text, size_t len, struct mw_membership *out)
{
	enum { OTHER, V1, V2 } which;
	struct mw_membership found = {.version = V1};
	struct span rest = whole(text, len), line, path[] = {{0}, {0}, {0}};
	int err = not_found(text, len);

	while (next_line(&rest, &line)) {
		uint64_t hierarchy = number(&line);
		struct span controllers;

		EXPECT(&line, ":");
		controllers = before(&line, ':');
		EXPECT(&line, ":");
		if (line.err)
			return line.err;
		which = !hierarchy ? V2 : has_word(controllers, ',', "memory") ? V1 : OTHER;
		if (which == OTHER)
			continue;
		/* One line each, and no list of controllers for the unified hierarchy. */
		if (path[which].p || (which == V2 && controllers.p != controllers.end))
			return -EBADMSG;
		path[which] = line;
	}
	/* A text that was cut can say v1, for it wins, but not that there is none. */
	if (!path[V1].p) {
		if (!path[V2].p || err == -EBADMSG)
			return err;
		found.version = V2;
	}
	line = path[found.version];
	err = check_path(line, &found.outside);
	if (err)
		return err;
	found.offset = (size_t)(line.p - text);
	found.length = (size_t)(line.end - line.p);
	*out = found;
	return 0;
}

int mw_parse_mount(const char *text, size_t len, struct mw_mount *out)
{
	struct span line = one_line(text, len), root, point, type;
	uint32_t version;
	int err;

	for (const char *behind = "  : "; *behind; behind++) { /* id, parent, device */
		number(&line);
		expect_bytes(&line, behind, 1);
	}
	root = field(&line);
	point = field(&line);
	field(&line);
	while (!line.err && !IS(field(&line), "-"))
		;
	type = field(&line);
	before(&line, ' '); /* the source, which may be empty */
	EXPECT(&line, " ");
	if (line.p == line.end || line.end[-1] == '\r' || memchr(text, '\0', len))
		fail(&line, -EBADMSG);
	if (line.err)
		return line.err;

	if (IS(type, "cgroup2"))
		version = 2;
	else if (IS(type, "cgroup") && has_word(line, ',', "memory"))
		version = 1;
	else
		return -ENODATA;
	err = check_escaped(root, LONGEST_PATH) ?: check_escaped(point, LONGEST_PATH);
	if (err)
		return err;
	out->version = version;
	unescape(root, out->root);
	unescape(point, out->point);
	return 0;
}

int mw_parse_word(const char *text, size_t len, const char *word, uint32_t *out)
{
	struct span line = one_line(text, len);

	/* Where there are no controllers at all, the kernel prints nothing. */
	if (line.err && len)
		return line.err;
	*out = len && has_word(line, ' ', word);
	return 0;
}
