"""Headroom against real limits: cgroups made here, mounts of our own, and the kernel's own word on what was left."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgroups import Cgroup, can_limit
from support.wait import until

from memwatch import ProcessGone, Sampler
from memwatch.sampler import PURE
from memwatch.testing import Eater

MiB = 2**20
LIMIT = 256 * MiB

# Page tables, the eater's own heap, and what per-CPU charges hold back (32 pages a CPU, several times).
SLACK = 6 * MiB

needs_cgroup = pytest.mark.skipif(bool(can_limit()), reason=can_limit() or "a cgroup can be made")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to mount another /proc in a namespace of its own"
)
pytestmark = [
    pytest.mark.skipif(PURE, reason="cgroups are the native sampler's alone (MEMWATCH_PURE is set)"),
    pytest.mark.slow,
]


@pytest.fixture
def group() -> Iterator[Cgroup]:
    with Cgroup(LIMIT) as made:
        yield made


@pytest.fixture
def eater(group: Cgroup) -> Iterator[Eater]:
    with eater_in(group) as made:
        yield made


def eater_in(group: Cgroup) -> Eater:
    return Eater(("/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(group.path / "cgroup.procs")))


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a disk, for page cache: /tmp may be a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def exact(pid: int) -> Sampler:
    return Sampler(pid=pid, near=2**63)


def close(expected: int, actual: int | None, slack: int = SLACK) -> bool:
    return actual is not None and abs(expected - actual) <= slack


@needs_cgroup
def test_anonymous_memory_takes_headroom(group: Cgroup, eater: Eater) -> None:
    """Each 32 MiB that a process touches is 32 MiB less for it; freed, they are back."""
    with exact(eater.pid) as sampler:
        start = sampler.headroom()
        assert (str(group.path), LIMIT) == (sampler.sample().binds.path, sampler.sample().binds.limit)
        assert close(LIMIT, start, 24 * MiB)  # an interpreter is in it
        for taken in range(32 * MiB, 193 * MiB, 32 * MiB):
            eater.anonymous(32 * MiB)
            assert close(start - taken, sampler.headroom())
            assert close(start - taken, sampler.sample().headroom)
        eater.free()
        assert close(start, sampler.headroom())


@needs_cgroup
def test_f20_shared_memory_takes_headroom(eater: Eater) -> None:
    """tmpfs is in no process's anonymous memory, and cannot be reclaimed: it counts against the limit."""
    with exact(eater.pid) as sampler:
        start, before = sampler.headroom(), sampler.sample()
        eater.shared(128 * MiB)
        after = sampler.sample()

        assert close(start - 128 * MiB, after.headroom)
        assert close(128 * MiB, after.rss_shared - before.rss_shared)
        assert close(0, after.rss_anon - before.rss_anon)


@needs_cgroup
def test_f21_clean_page_cache_takes_none(group: Cgroup, eater: Eater, disk: Path) -> None:
    """A file of twice the limit goes through the page cache: usage is at the limit, and headroom where it was."""
    with exact(eater.pid) as sampler:
        start = sampler.headroom()
        eater.clean(disk / "data", 2 * LIMIT)
        used = int(group.read("memory.usage_in_bytes" if group.version == 1 else "memory.current"))

        assert used > LIMIT - 32 * MiB
        assert close(start, sampler.headroom(), 2 * SLACK)
        eater.anonymous(128 * MiB)  # pushes the cache out
        assert close(start - 128 * MiB, sampler.headroom(), 2 * SLACK)


@needs_cgroup
def test_f22_dirty_pages_take_headroom_until_they_are_written(eater: Eater, disk: Path) -> None:
    """A page that must be written first cannot be had at once; synced, it can."""
    with exact(eater.pid) as sampler:
        start = sampler.headroom()
        eater.dirty(disk / "data", 32 * MiB)
        dirty = sampler.headroom()
        os.sync()
        until(lambda: close(start, sampler.headroom(), 2 * SLACK), what="headroom after sync")

    # Some may have been written meanwhile, by the kernel's own flusher.
    assert dirty < start - 4 * MiB


@needs_cgroup
@pytest.mark.parametrize("kind", ["anonymous", "shared"])
def test_headroom_is_what_the_kernel_lets_it_take(group: Cgroup, kind: str) -> None:
    """The definition, put to the kernel: headroom more can be taken, and then somebody is killed."""
    step = 2 * MiB
    with eater_in(group) as eater, exact(eater.pid) as sampler:
        getattr(eater, kind)(64 * MiB)
        headroom, taken = sampler.headroom(), 0
        assert headroom is not None
        try:
            while taken < 2 * LIMIT:
                getattr(eater, kind)(step)
                taken += step
        except EOFError as end:
            assert "status -9" in str(end)  # noqa: PT017 - how far it came counts, not only that it ended
        with pytest.raises(ProcessGone):
            sampler.sample()

    assert close(headroom, taken, 2 * SLACK)


@needs_cgroup
def test_f31_the_limit_of_a_real_ancestor_binds() -> None:
    """A group without a limit of its own, two levels below one that has it."""
    with (
        Cgroup(LIMIT) as top,
        Cgroup(parent=top) as middle,
        Cgroup(parent=middle) as leaf,
        eater_in(leaf) as eater,
        exact(eater.pid) as sampler,
    ):
        assert (str(top.path), LIMIT) == (sampler.sample().binds.path, sampler.sample().binds.limit)
        middle.set_limit(LIMIT // 2)
        until(lambda: sampler.sample().binds.path == str(middle.path), seconds=5)
        start = sampler.headroom()
        eater.anonymous(64 * MiB)
        assert close(start - 64 * MiB, sampler.headroom())


@needs_cgroup
def test_f33_a_real_move_is_noticed_within_a_second_or_so(eater: Eater) -> None:
    """Moved into a smaller group, the smaller limit binds, without a word from anybody."""
    with Cgroup(LIMIT // 4) as other, exact(eater.pid) as sampler:
        sampler.sample()
        other.add(eater.pid)
        until(lambda: sampler.sample().binds.path == str(other.path), seconds=5)
        assert LIMIT // 4 == sampler.sample().binds.limit


@needs_cgroup
def test_f34_a_group_that_is_removed_is_left_at_once(group: Cgroup) -> None:
    """Its files answer ENODEV for ever; the next look is at the group where the process is now."""
    with Cgroup(LIMIT // 2) as first, eater_in(first) as eater, exact(eater.pid) as sampler:
        assert str(first.path) == sampler.sample().binds.path
        group.add(eater.pid)
        first.close()
        until(lambda: sampler.sample().binds is not None and sampler.sample().binds.path == str(group.path), seconds=5)
        assert sampler.headroom() is not None


@needs_cgroup
def test_f13_without_a_free_descriptor_what_is_open_goes_on(eater: Eater) -> None:
    """At RLIMIT_NOFILE a kept sampler still looks, also when its process moves; a new one is a plain error."""
    script = """
import errno, resource, sys, time
from memwatch import ReadingError, Sampler
pid, move = int(sys.argv[1]), sys.argv[2]
sampler = Sampler(pid=pid, near=2**63)
limit = sampler.sample().binds.limit
procs = open(move, "w")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    Sampler()
except ReadingError as error:
    assert error.errno == errno.EMFILE, error
else:
    sys.exit("a sampler was opened without a descriptor")
procs.write(str(pid)); procs.flush()
deadline = time.monotonic() + 2.5  # past two of its own looks for a move
while time.monotonic() < deadline:
    sample = sampler.sample()
    assert sample.headroom and sample.binds.limit == limit and not sample.errors, sample
print("went on")
"""
    with Cgroup(LIMIT // 2) as other:
        done = subprocess.run(
            [sys.executable, "-c", script, str(eater.pid), str(other.path / "cgroup.procs")],
            capture_output=True,
            text=True,
            check=False,
        )
        other._given.add(eater.pid)

    assert "went on\n" == done.stdout, done.stderr


# --------------------------------------------------------------- /proc itself ---


def in_namespace(mount: str, script: str, *, user: int = 0) -> str:
    """What a script prints with another /proc mounted, in a mount namespace of its own, as *user*."""
    become = f"os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})"
    # Python starts before it gives up root: its own files may be closed to others.
    code = f"import errno, os, psutil, memwatch\nfrom memwatch import *\n{become}\n{script}"
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


SAY = """
try:
    sample = Sampler({arguments}).sample()
    print("rss" if sample.rss else "no rss", sample.mem_available, [failure.source for failure in sample.errors])
except MemwatchError as error:
    print(type(error).__name__, errno.errorcode.get(getattr(error, "errno", None) or 0))
"""


@needs_root
@pytest.mark.parametrize("strict", ["strict=True", "strict=False"])
def test_f01_without_proc_it_does_not_start(strict: str) -> None:
    """/proc not mounted: a clear error at once, for then not even the cgroup is known."""
    assert "ReadingError ENOENT" == in_namespace("mount -t tmpfs none /proc", SAY.format(arguments=strict))


@needs_root
def test_f02_a_proc_of_processes_alone() -> None:
    """subset=pid hides meminfo and leaves statm: refused, or watched without the machine."""
    mount = "mount -t proc -o subset=pid proc /proc"

    assert "ReadingError ENOENT" == in_namespace(mount, SAY.format(arguments=""))
    said = in_namespace(mount, SAY.format(arguments="strict=False"))
    assert said.startswith("rss None ['meminfo', 'swap'")


@needs_root
def test_f03_a_hidden_process_is_not_a_dead_one() -> None:
    """With hidepid=2 our own numbers are all there; another's process is not to be read, which is not gone."""
    mount = "mount -t proc -o hidepid=2 proc /proc"

    assert in_namespace(mount, SAY.format(arguments=""), user=65534).startswith("rss ")
    assert "ReadingError EACCES" == in_namespace(mount, SAY.format(arguments="pid=1"), user=65534)
    assert "ProcessGone None" == in_namespace(mount, SAY.format(arguments="pid=4194303"), user=65534)
    tree = "try:\n    Sampler.tree({pid})\nexcept MemwatchError as error:\n    print(type(error).__name__)"
    assert "ReadingError" == in_namespace(mount, tree.format(pid=1), user=65534)
    assert "ProcessGone" == in_namespace(mount, tree.format(pid=4194303), user=65534)


def set_aside(sampler: Sampler) -> int:
    """Bytes of huge pages, as `memwatch doctor` tells them."""
    return next(fact.value for fact in sampler.facts() if fact.name == "hugetlb") or 0


@needs_root
def test_f19_huge_pages_are_in_no_rss() -> None:
    """What is set aside for hugetlbfs is told apart, and taken it appears in no process's RSS."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    script = """
import mmap, memwatch
start = memwatch.sample().rss
memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB
for at in range(0, 32 << 20, 2 << 20):
    memory[at] = 1
print(memwatch.sample().rss - start)
"""
    with Sampler() as sampler:
        try:
            start = set_aside(sampler)
            pool.write_text(str(int(before) + 48))
            if int(pool.read_text()) < int(before) + 48:
                pytest.skip("this machine has no 48 huge pages of 2 MiB to set aside")
            reserved = set_aside(sampler) - start
            grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
        finally:
            pool.write_text(before)

    assert 96 * MiB == reserved
    assert grown < 8 * MiB


def test_f19_transparent_huge_pages_are_taken_two_mib_at_a_time() -> None:
    """One byte touched can be 2 MiB of RSS: what a watermark must allow for."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("transparent huge pages are off on this machine")
    script = """
import mmap, memwatch
memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
start = memwatch.sample().rss
for at in range(0, 64 << 20, 2 << 20):
    memory[at] = 1
print(memwatch.sample().rss - start)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert int(done.stdout) > 40 * MiB


def test_f38_pressure_is_polled() -> None:
    """A PSI trigger needs a privilege or a window of 2 s; the file itself needs neither, and is in range."""
    with Sampler() as sampler:
        pressure = sampler.pressure()
    if pressure is None:
        assert not Path("/proc/pressure/memory").exists()
    else:
        assert 0 <= pressure.some_avg10 <= 100
        assert 0 <= (pressure.full_total or 0) <= pressure.some_total


def test_f38_a_kernel_without_pressure(tmp_path: Path) -> None:
    """psi=0: None, which is no pressure of 0."""
    from memwatch.testing import ProcTree

    tree = ProcTree(tmp_path)
    with Sampler(pid=tree.pid, root=tree.root) as sampler:
        assert sampler.pressure() is None


def test_f35_errno_of_a_refused_process_is_kept() -> None:
    """Who catches OSError finds the system's own errno in it."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is asserted below
        Sampler(root="/nonexistent")
    assert errno.ENOENT == caught.value.errno
