/*
 * fuzz_cgroup.c - /proc/PID/cgroup, a line of mountinfo, and a cgroup's own files.
 *
 *   clang-19 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined \
 *     -fno-sanitize-recover=all -Icsrc -Itests/fuzz -o /tmp/fuzz_cgroup \
 *     tests/fuzz/fuzz_cgroup.c csrc/parse.c csrc/parse_cgroup.c && mkdir -p /tmp/new &&
 *   /tmp/fuzz_cgroup -max_total_time=20 -max_len=8192 /tmp/new tests/fuzz/corpus/fuzz_cgroup
 */
#include "fuzz.h"
#include "parse.h"

static void membership(const char *text, size_t size)
{
	struct mw_membership found;
	const char *path;
	int err;

	PARSE(err, found, mw_parse_membership(text, size, &found));
	if (err)
		return;
	CLAIM(found.version == 1 || found.version == 2);
	CLAIM(found.length >= 1 && found.length <= 4095);
	CLAIM(found.offset < size && found.length < size - found.offset);
	path = text + found.offset;
	CLAIM(path[-1] == ':' && path[0] == '/' && path[found.length] == '\n');
	CLAIM(!memchr(path, '\0', found.length) && !memchr(path, '\n', found.length));
	CLAIM(found.length == 1 || path[found.length - 1] != '/');
	CLAIM(found.outside == (found.length >= 3 && !memcmp(path, "/..", 3) &&
				(path[3] == '/' || path[3] == '\n')));
	/* Behind the leading "..", nothing leads back up. */
	for (size_t i = 0; !found.outside && i + 3 <= found.length; i++)
		CLAIM(memcmp(path + i, "/..", 3) || (path[i + 3] != '/' && path[i + 3] != '\n'));
}

static void mount(const char *text, size_t size)
{
	static struct mw_mount mount;
	int err;

	PARSE(err, mount, mw_parse_mount(text, size, &mount));
	if (err)
		return;
	CLAIM(mount.version == 1 || mount.version == 2);
	CLAIM(mount.root[0] == '/' && strnlen(mount.root, 4096) < 4096);
	CLAIM(mount.point[0] == '/' && strnlen(mount.point, 4096) < 4096);
	CLAIM(memmem(text, size, "cgroup", 6));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const inactive[] = {"total_inactive_file", "inactive_file"};
	static const char *const active[] = {"total_active_file", "active_file"};
	char *text = exact_copy(data, size);
	uint64_t limit, number, all, some;
	int64_t with_sign;
	uint32_t has;
	int err;

	membership(text, size);
	mount(text, size);

	PARSE(err, number, mw_parse_u64(text, size, &number));
	PARSE(err, limit, mw_parse_limit(text, size, &limit));
	if (!err && limit != MW_NO_LIMIT)
		CLAIM(mw_parse_u64(text, size, &number) == 0 && limit == number);
	PARSE(err, with_sign, mw_parse_i64(text, size, &with_sign));
	if (!err && with_sign > 0)
		CLAIM(mw_parse_u64(text, size, &number) == 0 && (uint64_t)with_sign == number);

	for (uint32_t version = 1; version <= 2; version++) {
		PARSE(err, all, mw_parse_reclaimable(text, size, version, &all));
		if (err)
			continue;
		CLAIM(!mw_parse_key(text, size, inactive[version - 1], &number));
		err = mw_parse_key(text, size, active[version - 1], &some);
		CLAIM(all <= number || (!err && all - number <= some));
	}
	PARSE(err, has, mw_parse_word(text, size, "memory", &has));
	CLAIM(err || has == 0 || (has == 1 && memmem(text, size, "memory", 6)));
	free(text);
	return 0;
}
