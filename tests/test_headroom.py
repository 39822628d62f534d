"""Headroom below a root: captured trees of real kernels, and scripted ones."""

import errno
import os
from pathlib import Path

import pytest
from support.cbuild import REPO
from support.fork import in_child

from memwatch import Binding, Failure, ProcessGone, ReadingError, Sampler, Watermarks
from memwatch.sampler import PURE
from memwatch.testing import ProcTree

pytestmark = pytest.mark.skipif(PURE, reason="a root and cgroups are the native sampler's alone (MEMWATCH_PURE is set)")

CAPTURED = REPO / "tests" / "proc"
SHARED = REPO.parent / "shared" / "proc"
MiB = 2**20
KB = 1024


def places(sampler: Sampler) -> list[tuple[str, int | None]]:
    return [(group.path, group.limit) for group in sampler.groups]


# ------------------------------------------------------------- captured trees ---

GRAND = "/sys/fs/cgroup/memory/parent/child/grand"
WORKER = "/sys/fs/cgroup/app.slice/job.scope/worker"


@pytest.mark.parametrize(
    ("tree", "pid", "headroom", "binds"),
    [
        # 128 MiB - memory.current of 132780032, without cache
        pytest.param("linux-6.1-debian12-cgroup2", 109, 2**27 - 132780032, (WORKER, 2**27), id="v2-nested"),
        # memory.high of 64 MiB binds below memory.max of 1 GiB
        pytest.param(
            "linux-6.1-debian12-cgroup2", 124, 2**26 - 66244608, ("/sys/fs/cgroup/high.slice", 2**26), id="v2-high"
        ),
        pytest.param("linux-6.1-debian12-cgroup2", 1, 1567368 * KB, (None, 3056160 * KB), id="v2-root"),
        pytest.param(
            "linux-6.1-debian12-cgroup1-hybrid", 117, 2**27 - 133394432, (GRAND, 2**27), id="v1-hybrid-nested"
        ),
        # limit and usage 24 MiB: nothing is left, and that is a number
        pytest.param(
            "linux-6.1-debian12-cgroup1-hybrid", 141, 0, ("/sys/fs/cgroup/memory/oom", 24 * MiB), id="v1-under-oom"
        ),
        pytest.param("linux-6.1-debian12-cgroup1-hybrid", 138, 688580 * KB, (None, 996628 * KB), id="v1-soft-is-none"),
        pytest.param(
            "linux-6.18-cgroup1-hybrid",
            29187,
            2**28 - 63434752 + 32768,
            ("/sys/fs/cgroup/memory/memtest", 2**28),
            id="v1-parent-binds",
        ),
        # its own limit of 128 MiB is the top that a cgroup namespace shows
        pytest.param("linux-6.1-cgroupns", 1530, None, ("/sys/fs/cgroup", 2**27), id="cgroup-namespace"),
    ],
)
def test_f31_headroom_of_captured_machines(
    tree: str, pid: int, headroom: int | None, binds: tuple[str | None, int]
) -> None:
    """On files of real kernels, the nearest limit of all levels binds, or else the machine."""
    with Sampler(pid=pid, root=CAPTURED / tree) as sampler:
        sample = sampler.sample()

        assert binds == (sample.binds.path, sample.binds.limit)
        if headroom is not None:
            assert headroom == sample.headroom == sampler.headroom()


def test_f30_no_limit_is_no_limit() -> None:
    """ "max", and LONG_MAX in pages, limit nobody."""
    with Sampler(pid=109, root=CAPTURED / "linux-6.1-debian12-cgroup2") as sampler:
        assert [
            (WORKER, 2**27),
            ("/sys/fs/cgroup/app.slice/job.scope", None),
            ("/sys/fs/cgroup/app.slice", 2**28),
        ] == places(sampler)
    with Sampler(pid=138, root=CAPTURED / "linux-6.1-debian12-cgroup1-hybrid") as sampler:
        assert [("/sys/fs/cgroup/memory/soft", None), ("/sys/fs/cgroup/memory", None)] == places(sampler)


@pytest.mark.parametrize(
    ("tree", "pid", "error"),
    [
        pytest.param("linux-6.1-nocgroupmount", 1, errno.ENOENT, id="nothing-mounted"),
        # cgroup_disable=memory: the hierarchy is there, but no level has the files
        pytest.param("linux-6.1-nomemcg-nopsi", 1, 0, id="no-controller"),
    ],
)
def test_f29_where_no_cgroup_can_be_seen_the_machine_binds(tree: str, pid: int, error: int) -> None:
    """Without a visible memory cgroup headroom is MemAvailable, and why is told."""
    root = CAPTURED / tree
    with Sampler(pid=pid, root=root) as sampler:
        sample = sampler.sample()

        assert error == sampler.cgroup_error
        assert () == sampler.groups
        assert sample.headroom == sample.mem_available
        assert sample.binds == Binding(sample.mem_total)


def test_f32_outside_the_namespace_no_path_is_built(tmp_path: Path) -> None:
    """A process outside our cgroup namespace ("/../x") has limits that we cannot see, and that is said."""
    tree = ProcTree(tmp_path)
    tree.group("/x", limit=MiB)
    tree.join("/../x")
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        assert (errno.EXDEV, ()) == (sampler.cgroup_error, sampler.groups)
        assert sampler.headroom() == sampler.sample().mem_available


def test_f32_of_two_mounts_the_one_that_is_there_counts(tree: ProcTree) -> None:
    """A mount that another lies over, or whose folder is gone, does not hide the limit that the second shows."""
    tree.group("/job", limit=1000 * MiB, usage=900 * MiB)
    tree.join("/job")
    mountinfo = tree.root / "proc" / str(tree.pid) / "mountinfo"
    line = mountinfo.read_text()
    hidden = line.replace(" /sys/fs/cgroup", " /hidden")
    for text in (hidden + line, line + hidden, hidden + line + hidden):
        mountinfo.write_text(text)
        with exact(tree) as sampler:
            assert (100 * MiB, 0) == (sampler.headroom(), sampler.cgroup_error)


def test_f32_a_namespace_hides_ancestors() -> None:
    """Inside a cgroup namespace the lowest visible limit binds; the hidden 256 MiB above cannot be known."""
    with Sampler(pid=1530, root=CAPTURED / "linux-6.1-cgroupns") as sampler:
        assert [("/sys/fs/cgroup", 2**27)] == places(sampler)
        assert 0 == sampler.cgroup_error


@pytest.mark.skipif(not SHARED.is_dir(), reason="the captures of other projects' machines lie outside this repo")
@pytest.mark.parametrize(
    "tree", sorted(path.name for path in SHARED.glob("*") if path.name != "hostile") if SHARED.is_dir() else []
)
def test_every_captured_machine_is_answered(tree: str) -> None:
    """Each process of each captured machine gives a sample within its machine's bounds, or a plain error."""
    root = SHARED / tree
    for folder in sorted((root / "proc").glob("[0-9]*")):
        try:
            sampler = Sampler(pid=int(folder.name), root=root)
        except (ReadingError, ProcessGone):
            continue  # a capture of part of the files; which parts, the parsers' own tables say
        with sampler:
            sample = sampler.sample()

            assert sample.mem_total is not None
            assert sample.headroom is None or 0 <= sample.headroom <= sample.mem_total


# ------------------------------------------------------------- scripted trees ---


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path, version=request.param)


def exact(tree: ProcTree, **options: bool) -> Sampler:
    """A sampler that reads the cache each time; the default is 0.1 s behind where there is plenty."""
    return Sampler(pid=tree.pid, root=tree.root, near=2**63, **options)


def test_f21_reclaimable_cache_is_headroom(tree: ProcTree) -> None:
    """limit - usage + file cache, less what is dirty or being written back (F22)."""
    tree.group("/job", limit=1000 * MiB, usage=900 * MiB, inactive_file=300 * MiB, active_file=100 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 500 * MiB == sampler.headroom()

        tree.group(
            "/job",
            limit=1000 * MiB,
            usage=900 * MiB,
            inactive_file=300 * MiB,
            active_file=100 * MiB,
            dirty=150 * MiB,
            writeback=50 * MiB,
        )
        assert 300 * MiB == sampler.headroom()


def test_f22_more_dirty_than_cache_is_nothing(tree: ProcTree) -> None:
    """The counters are read one after the other and may disagree: never below 0."""
    tree.group("/job", limit=1000 * MiB, usage=900 * MiB, inactive_file=1 * MiB, dirty=5 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 100 * MiB == sampler.headroom()


def test_f21_usage_above_the_limit_is_no_headroom(tree: ProcTree) -> None:
    """A limit cut below usage leaves 0 bytes, not 2^64."""
    tree.group("/job", limit=100 * MiB, usage=101 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 0 == sampler.headroom() == sampler.sample().headroom


def test_f31_the_ancestor_with_least_left_binds(tree: ProcTree) -> None:
    """Every level counts, and which one binds changes with use."""
    tree.group("/a", limit=2000 * MiB, usage=1900 * MiB)
    tree.group("/a/b", usage=500 * MiB)
    tree.group("/a/b/c", limit=1000 * MiB, usage=500 * MiB)
    tree.join("/a/b/c")
    with exact(tree) as sampler:
        sample = sampler.sample()

        assert (100 * MiB, 2000 * MiB, "a") == (sample.headroom, sample.binds.limit, Path(sample.binds.path).name)
        tree.group("/a", limit=2000 * MiB, usage=1000 * MiB)
        sample = sampler.sample()

        assert (500 * MiB, 1000 * MiB, "c") == (sample.headroom, sample.binds.limit, Path(sample.binds.path).name)
        tree.machine(available=400 * MiB)
        sample = sampler.sample()

        assert (400 * MiB, None) == (sample.headroom, sample.binds.path)


def test_limits_are_read_live(tree: ProcTree) -> None:
    """A limit that is set, moved or lifted under a running worker is seen within 0.1 s."""
    from support.wait import until

    tree.group("/job", usage=100 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert sampler.sample().binds.path is None
        for limit in (1000 * MiB, 300 * MiB):
            tree.group("/job", limit=limit, usage=100 * MiB)
            until(lambda limit=limit: sampler.headroom() == limit - 100 * MiB, seconds=5)
            assert limit == sampler.sample().binds.limit
        tree.group("/job", usage=100 * MiB)
        until(lambda: sampler.sample().binds.path is None, seconds=5)


def test_above_near_the_cache_may_be_old_and_below_it_is_not(tree: ProcTree) -> None:
    """Usage alone decides whether memory.stat is worth its price; a watermark is never judged by an old figure."""
    tree.group("/job", limit=1000 * MiB, usage=500 * MiB, inactive_file=100 * MiB)
    tree.join("/job")
    with Sampler(pid=tree.pid, root=tree.root, near=300 * MiB) as sampler:
        assert 600 * MiB == sampler.headroom()
        # Near: anonymous memory has pushed the cache out.
        tree.group("/job", limit=1000 * MiB, usage=900 * MiB, inactive_file=20 * MiB)
        assert 120 * MiB == sampler.headroom()


def test_f30_high_and_max_whichever_is_less(tmp_path: Path) -> None:
    """Above memory.high the kernel throttles a worker to a halt: it is a limit."""
    tree = ProcTree(tmp_path, version=2)
    tree.join("/job")
    for limit, high, binds in ((500, 400, 400), (400, 500, 400), (None, 300, 300)):
        tree.group("/job", limit=limit and limit * MiB, high=high * MiB, usage=100 * MiB)
        with exact(tree) as sampler:
            assert binds * MiB == sampler.sample().binds.limit


@pytest.mark.parametrize(("depth", "error"), [(32, 0), (33, errno.E2BIG)])
def test_the_nearest_32_levels_are_watched(tmp_path: Path, depth: int, error: int) -> None:
    """One more is told; the root of v2, which has no limit, is not one more."""
    tree = ProcTree(tmp_path, version=2)
    path = ""
    for _ in range(depth):
        path += "/g"
        tree.group(path, limit=1000 * MiB, usage=100 * MiB)
    tree.join(path)
    with exact(tree) as sampler:
        assert (32, error, 900 * MiB) == (len(sampler.groups), sampler.cgroup_error, sampler.headroom())


def test_use_hierarchy_0_does_not_count_children(tmp_path: Path) -> None:
    """A v1 ancestor that does not count its children's memory limits nobody below it, nor do those above."""
    tree = ProcTree(tmp_path, version=1)
    tree.group("/a", limit=100 * MiB, usage=90 * MiB)
    tree.group("/a/b", limit=200 * MiB, usage=0, use_hierarchy=False)
    tree.group("/a/b/c", limit=300 * MiB, usage=50 * MiB)
    tree.join("/a/b/c")
    with exact(tree) as sampler:
        assert [300 * MiB] == [group.limit for group in sampler.groups]
        assert 250 * MiB == sampler.headroom()


def test_use_hierarchy_counts_above_a_group_that_was_left_out(tmp_path: Path) -> None:
    """Our own group cannot be judged, and the one above it does not count us: nothing of it binds."""
    tree = ProcTree(tmp_path, version=1)
    tree.group("/a", limit=100 * MiB, usage=99 * MiB, use_hierarchy=False)
    (tree.group("/a/b", limit=512 * MiB) / "memory.stat").write_text("x\n")
    tree.join("/a/b")
    with exact(tree) as sampler:
        assert () == sampler.groups
        assert sampler.headroom() == sampler.sample().mem_available


def test_v1_memory_and_swap_together_may_bind_first(tmp_path: Path) -> None:
    """Once part is swapped out, memsw.limit can be nearer than the limit of memory alone."""
    tree = ProcTree(tmp_path, version=1)
    tree.group("/job", limit=256 * MiB, usage=200 * MiB, swap_limit=300 * MiB, swap_usage=260 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 40 * MiB == sampler.headroom()


@pytest.mark.parametrize(
    ("version", "swap_limit", "swap_usage", "headroom"),
    [
        pytest.param(2, None, 0, 100 + 500, id="v2-all-free-swap"),
        pytest.param(2, 80 * MiB, 30 * MiB, 100 + 50, id="v2-what-swap-max-leaves"),
        pytest.param(2, 0, 0, 100, id="v2-none-allowed"),
        pytest.param(1, None, 0, 100 + 500, id="v1-all-free-swap"),
        pytest.param(1, 1300 * MiB, 900 * MiB, 400, id="v1-memsw"),
    ],
)
def test_f24_swap_counts_only_when_asked(
    tmp_path: Path, version: int, swap_limit: int | None, swap_usage: int, headroom: int
) -> None:
    """Free swap is no headroom by default; asked for, it is, as far as the cgroup may use it."""
    tree = ProcTree(tmp_path, version=version)
    tree.machine(swap_total=600 * MiB, swap_free=500 * MiB)
    tree.group("/job", limit=1000 * MiB, usage=900 * MiB, swap_limit=swap_limit, swap_usage=swap_usage)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 100 * MiB == sampler.headroom()
    with exact(tree, count_swap=True) as sampler:
        assert headroom * MiB == sampler.headroom()


def test_f24_swap_of_an_ancestor_counts_too(tmp_path: Path) -> None:
    """What an ancestor may not swap its child may not either."""
    tree = ProcTree(tmp_path, version=2)
    tree.machine(swap_total=600 * MiB, swap_free=500 * MiB)
    tree.group("/a", usage=900 * MiB, swap_limit=10 * MiB)
    tree.group("/a/b", limit=1000 * MiB, usage=900 * MiB)
    tree.join("/a/b")
    with exact(tree, count_swap=True) as sampler:
        assert 110 * MiB == sampler.headroom()


def test_f24_memory_and_swap_beyond_what_fits(tree: ProcTree) -> None:
    """Two numbers that fit, whose sum does not, are much and not little."""
    tree.machine(total=2**64 - 1024, available=2**64 - 1024, free=0, swap_total=2**64 - 1024, swap_free=2**64 - 1024)
    with exact(tree, count_swap=True) as sampler:
        assert 2**63 - 1 == sampler.headroom()


def test_f26_swap_added_and_removed(tree: ProcTree) -> None:
    """swapon and swapoff under a running worker are seen at the next look."""
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        for size in (0, 500 * MiB, 0):
            tree.machine(swap_total=size, swap_free=size // 2)
            sample = sampler.sample()

            assert (size, size // 2) == (sample.swap_total, sample.swap_free)


def test_f11_total_changes_at_run_time(tree: ProcTree) -> None:
    """A balloon takes memory away: a share of it is recomputed, and a brake that no longer fits is refused."""
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        assert 8_000_000 * KB == sampler.sample().mem_total
        tree.machine(total=2_000_000 * KB, available=900_000 * KB)
        sample = sampler.sample()

        assert 2_000_000 * KB == sample.mem_total == sample.binds.limit
        assert 204_800_000 == Watermarks.for_limit(sample.binds.limit).brake  # a tenth
        with pytest.raises(ValueError, match="must be below the limit that binds, 2048000000 bytes"):
            Watermarks.for_limit(sample.binds.limit, brake=3 * 10**9)


def test_f04_without_memavailable_it_is_estimated(tree: ProcTree) -> None:
    """MemFree + Cached + SReclaimable - Shmem, and said so."""
    tree.machine(available=None)
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        sample = sampler.sample()

        assert (4_100_000 * KB, True, ()) == (sample.mem_available, sample.estimated, sample.errors)
        assert sample.headroom == sample.mem_available


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 50", errno.EBADMSG, id="f05-cut"),
        pytest.param("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: -5 kB\n", errno.EBADMSG, id="f06-negative"),
        pytest.param(
            "MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 18446744073709551616 kB\n", errno.EOVERFLOW, id="f07"
        ),
        pytest.param("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 9000000 kB\n", errno.ERANGE, id="f10-insane"),
        pytest.param("", errno.ENODATA, id="empty"),
    ],
)
def test_f06_a_bad_meminfo_is_none_and_said(tree: ProcTree, text: str, code: int) -> None:
    """A reading that fails is None with its reason, is counted, and is over with the next good one."""
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        meminfo = tree.root / "proc/meminfo"
        good = meminfo.read_bytes()
        inode = meminfo.stat().st_ino
        meminfo.write_text(text)
        assert inode == meminfo.stat().st_ino
        sample = sampler.sample()

        assert (None, None, None) == (sample.mem_available, sample.headroom, sample.binds)
        assert Failure("meminfo", code) in sample.errors
        assert sample.rss == 100 * os.sysconf("SC_PAGESIZE")
        assert sampler.headroom() is None
        assert sampler.dropped >= 1
        meminfo.write_bytes(good)
        assert 5_000_000 * KB == sampler.headroom() == sampler.sample().headroom


def test_f06_a_machine_that_starts_garbled_is_refused(tree: ProcTree) -> None:
    """What cannot be read even once is no basis for a watch."""
    (tree.root / "proc/meminfo").write_text("MemTotal: lots\n")
    with pytest.raises(ReadingError, match="its text is malformed or cut") as caught:
        Sampler(pid=tree.pid, root=tree.root)
    assert errno.EBADMSG == caught.value.errno


@pytest.mark.parametrize("text", ["", "12", "-1\n", "many\n"], ids=["empty", "cut", "negative", "word"])
def test_a_limit_that_cannot_be_read_is_not_plenty(tree: ProcTree, text: str) -> None:
    """With a limit known to be there and its usage unknown, headroom is None, not the machine's."""
    folder = tree.group("/job", limit=1000 * MiB, usage=900 * MiB)
    tree.join("/job")
    with exact(tree) as sampler:
        assert 100 * MiB == sampler.headroom()
        (folder / ("memory.usage_in_bytes" if tree.version == 1 else "memory.current")).write_text(text)
        sample = sampler.sample()

        assert (None, None) == (sample.headroom, sampler.headroom())
        assert ["cgroup"] == [failure.source for failure in sample.errors]
        assert 5_000_000 * KB == sample.mem_available


def test_f02_without_meminfo_only_cgroups_bind(tree: ProcTree) -> None:
    """procfs with subset=pid: refused, or, where that was allowed, headroom is what the cgroup leaves."""
    (tree.root / "proc/meminfo").unlink()
    with pytest.raises(ReadingError, match="strict=False"):
        Sampler(pid=tree.pid, root=tree.root)
    with Sampler(pid=tree.pid, root=tree.root, strict=False) as sampler:
        assert sampler.sample().headroom is None  # no limit: nothing is known
    tree.group("/job", limit=1000 * MiB, usage=900 * MiB)
    tree.join("/job")
    with Sampler(pid=tree.pid, root=tree.root, strict=False) as sampler:
        sample = sampler.sample()

        assert (100 * MiB, None, 1000 * MiB) == (sample.headroom, sample.mem_available, sample.binds.limit)
        assert 100 * MiB == sampler.headroom()


def test_f33_a_move_to_another_cgroup_is_noticed(tree: ProcTree) -> None:
    """Within a second the new limit binds; nobody has to ask."""
    from support.wait import until

    tree.group("/a", limit=1000 * MiB, usage=900 * MiB)
    tree.group("/b", limit=2000 * MiB, usage=1500 * MiB)
    tree.join("/a")
    with exact(tree) as sampler:
        assert 100 * MiB == sampler.headroom()
        tree.join("/b")
        until(lambda: sampler.headroom() == 500 * MiB, seconds=5)
        assert ["b", "memory" if tree.version == 1 else None][: len(sampler.groups)] == [
            Path(group.path).name for group in sampler.groups
        ]


def test_a_group_without_memory_stat_has_nothing_to_reclaim(tree: ProcTree) -> None:
    """gVisor tells limit and usage alone: then what is left is limit - usage, and not the machine's plenty."""
    folder = tree.group("/job", limit=1000 * MiB, usage=900 * MiB, inactive_file=300 * MiB)
    (folder / "memory.stat").unlink()
    tree.join("/job")
    with exact(tree) as sampler:
        assert (100 * MiB, 0) == (sampler.headroom(), sampler.cgroup_error)


def test_a_limit_without_a_usage_is_said(tree: ProcTree) -> None:
    """A group that cannot be judged is left out, with the reason; the one above it still counts."""
    tree.group("/a", limit=2000 * MiB, usage=1000 * MiB)
    folder = tree.group("/a/b", limit=1000 * MiB)
    (folder / ("memory.usage_in_bytes" if tree.version == 1 else "memory.current")).unlink()
    tree.join("/a/b")
    with exact(tree) as sampler:
        assert (1000 * MiB, errno.EOPNOTSUPP) == (sampler.headroom(), sampler.cgroup_error)


def test_f33_a_limit_is_not_forgotten_for_a_reading_that_failed(tree: ProcTree) -> None:
    """Moved to a group whose files are garbled just then: the old limit binds until the new one can be read."""
    from support.wait import until

    tree.group("/a", limit=1000 * MiB, usage=900 * MiB)
    folder = tree.group("/b", limit=2000 * MiB, usage=1500 * MiB)
    limit = folder / ("memory.limit_in_bytes" if tree.version == 1 else "memory.max")
    good = limit.read_text()
    tree.join("/a")
    with exact(tree) as sampler:
        assert 100 * MiB == sampler.headroom()
        limit.write_text("12")  # its tail is missing
        tree.join("/b")
        until(lambda: sampler.sample() and sampler.dropped, seconds=5)
        assert 100 * MiB == sampler.headroom()
        limit.write_text(good)
        until(lambda: sampler.headroom() == 500 * MiB, seconds=5)


def test_f35_a_cgroup_that_may_not_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    """A limit file of mode 0400 of another user: the rest still counts."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user whom the file is closed to")
    tree = ProcTree(tmp_path, version=2)
    tree.group("/a", limit=1000 * MiB, usage=900 * MiB)
    (tree.group("/a/b", limit=100 * MiB, usage=90 * MiB) / "memory.max").chmod(0o400)
    tree.join("/a/b")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)  # pytest's own folders, closed to others

    def look_as_nobody() -> str:
        os.setresuid(65534, 65534, 65534)
        with Sampler(pid=tree.pid, root=tree.root, near=2**63) as sampler:
            return f"{sampler.cgroup_error} {sampler.headroom()}"

    assert f"{errno.EACCES} {100 * MiB}" == in_child(look_as_nobody)


def test_f15_a_zombie_is_gone(tree: ProcTree) -> None:
    """statm of zeros is no process of 0 bytes."""
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        sampler.sample()
        tree.process(tree.pid, rss=0)
        with pytest.raises(ProcessGone, match=f"process {tree.pid} is gone"):
            sampler.sample()
    with pytest.raises(ProcessGone):
        Sampler(pid=tree.pid, root=tree.root)


def test_a_shared_counter_below_zero_is_not_used(tree: ProcTree) -> None:
    """The kernel prints a negative counter unsigned: RSS is known, its parts are not."""
    (tree.root / "proc" / str(tree.pid) / "statm").write_text("200 100 18446744073709551615 5 0 200 0\n")
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        sample = sampler.sample()

        assert (100 * os.sysconf("SC_PAGESIZE"), None, None) == (sample.rss, sample.rss_shared, sample.rss_anon)


def test_descriptors_kept_are_those_that_were_stated(tree: ProcTree) -> None:
    """5, and 3 to 5 for each memory cgroup; none is left after close."""
    tree.group("/a")
    tree.group("/a/b")
    tree.join("/a/b")
    before = len(os.listdir("/proc/self/fd"))
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        kept = len(os.listdir("/proc/self/fd")) - before

        # v1 has memory+swap beside memory, and its root has files too; v2 has memory.high.
        assert kept == sampler.descriptors == 5 + {1: 3 * 5, 2: 2 * 4}[tree.version]
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_link_inside_the_root_stays_inside(tmp_path: Path) -> None:
    """An absolute link below a container's root is the container's own, not ours."""
    tree = ProcTree(tmp_path / "root" if (tmp_path / "root").mkdir() is None else tmp_path)
    (tree.root / "real").mkdir()
    (tree.root / "proc/meminfo").rename(tree.root / "real/meminfo")
    (tree.root / "proc/meminfo").symlink_to("/real/meminfo")
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        assert 8_000_000 * KB == sampler.sample().mem_total


def test_the_fake_is_like_a_real_kernel(tree: ProcTree) -> None:
    """ProcTree writes the files, and the keys, that the captured machine has."""
    real = CAPTURED / {1: "linux-6.1-debian12-cgroup1-hybrid", 2: "linux-6.1-debian12-cgroup2"}[tree.version]
    point = {1: "sys/fs/cgroup/memory/parent", 2: "sys/fs/cgroup/app.slice"}[tree.version]
    made = tree.group("/job", limit=100, usage=50)
    for file in made.iterdir():
        if file.name == "memory.use_hierarchy":
            continue  # not collected there
        theirs = (real / point / file.name).read_text()
        ours = file.read_text()

        assert {line.split()[0] for line in ours.splitlines() if " " in line} <= {
            line.split()[0] for line in theirs.splitlines()
        }
        assert ours.endswith("\n") == theirs.endswith("\n")
    keys = {line.split(":")[0] for line in (real / "proc/meminfo").read_text().splitlines()}
    assert {line.split(":")[0] for line in (tree.root / "proc/meminfo").read_text().splitlines()} <= keys
    for name in ("statm", "cgroup", "mountinfo", "stat"):
        assert (tree.root / "proc" / str(tree.pid) / name).exists()
