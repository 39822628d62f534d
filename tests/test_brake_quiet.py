"""
It brakes for nothing never: memory that comes and goes, and is there all the while, ends no trial.

For real where it can be had, in cgroups of a few hundred MB; and from a machine in a folder where it takes a moment
that no real machine repeats. Each worker is a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.cgroups import Cgroup, can_limit
from support.wait import until

from memwatch.sampler import PURE
from memwatch.testing import Eater, ProcTree

pytestmark = [
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
    pytest.mark.slow,
]
in_a_cgroup = pytest.mark.skipif(bool(can_limit()), reason=can_limit() or "a cgroup can be made")

MB = 10**6
MiB = 2**20
LIMIT = 256 * MiB
DEADLINE = 60.0

RIGHT = 42

# A trial that lasts until it is told that the test is over, and then returns RIGHT; and what the brake did meanwhile.
WORKER = """
import ast, os, sys, time
import memwatch
from memwatch import running
from memwatch._native import lib
sys.stdout.write(f"{os.getpid()}\\n"); sys.stdout.flush()

def word(name):
    return running.current.words[getattr(lib, "MW_WORD_" + name)]

def work():
    for line in sys.stdin:
        if line == "over\\n":
            return 42
        for name in line.split():
            print(word(name), flush=True)

memwatch.start(**ast.literal_eval(sys.argv[1]))
print("began", flush=True)
print(memwatch.guard(work, label="Trial #1")(), word("BRAKES"), flush=True)
"""


class Outcome(NamedTuple):
    """Of the trial, and of the watch."""

    result: int
    brakes: int
    stderr: str


class Worker:
    """A worker in a trial, which does nothing until it is over."""

    def __init__(self, board: Path, settings: dict[str, Any], group: Cgroup | None = None) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
        command = [sys.executable, "-c", WORKER, repr(settings)]
        options: dict[str, Any] = {"env": {**kept, "MEMWATCH_BOARD": str(board)}, "text": True}
        options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = group.start(command, **options) if group else subprocess.Popen(command, **options)
        self.pid = int(self._line())
        assert "began" == self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate()[1]
        return line

    def word(self, name: str) -> int:
        """One of the words that the native thread writes."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(self.process.communicate()[1]) from None
        return int(self._line())

    def looks_on(self) -> None:
        """Waits until it has looked again, a few times."""
        for _ in range(3):
            seen = self.word("LOOK_NS")
            until(lambda seen=seen: self.word("LOOK_NS") > seen, what="a look")

    def end(self) -> Outcome:
        said, stderr = self.process.communicate("over\n", timeout=DEADLINE)
        result, brakes = said.split()
        return Outcome(int(result), int(brakes), stderr)


@contextmanager
def worker(board: Path, *, group: Cgroup | None = None, **settings: Any) -> Iterator[Worker]:
    it = Worker(board, settings, group)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait()
        for pipe in (it.process.stdin, it.process.stdout, it.process.stderr):
            assert pipe is not None
            pipe.close()


def inside(group: Cgroup) -> tuple[str, ...]:
    """What Eater starts with, to be in *group*."""
    return ("/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(group.path / "cgroup.procs"))


def disk() -> Path | None:
    """A folder on a file system whose pages are cache, and not memory themselves."""
    for folder in (Path("/var/tmp"), Path("/tmp"), Path.cwd()):
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False).stdout
        if os.access(folder, os.W_OK) and kind.strip() not in ("", "tmpfs", "ramfs"):
            return folder
    return None


needs_disk = pytest.mark.skipif(disk() is None, reason="every folder that can be written is in memory (tmpfs)")


# ----------------------------------------------------------------------------- for real ---


@pytest.fixture
def file() -> Iterator[Path]:
    """A file to be, of whose pages none is in memory for good."""
    folder = disk()
    assert folder is not None
    path = folder / f"memwatch-quiet-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


def usage(group: Cgroup) -> int:
    return int(group.read("memory.usage_in_bytes" if group.version == 1 else "memory.current"))


@in_a_cgroup
@needs_disk
def test_reading_files_is_not_memory_that_is_gone(tmp_path: Path, file: Path) -> None:
    """Four times the limit is read through the cgroup; usage stands at it, and the kernel takes the cache back."""
    with Eater() as outside:
        outside.clean(file, 4 * LIMIT)
    forget(file)
    with Cgroup(LIMIT) as group, worker(tmp_path, group=group, brake="32MiB") as it:
        for _ in range(3):
            with group.start(["cat", file], stdout=subprocess.DEVNULL) as reader:
                assert 0 == reader.wait(DEADLINE)
            it.looks_on()
        full = usage(group)
        outcome = it.end()

    assert full > LIMIT * 3 // 4, "the cache was not full enough to show anything"
    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


def forget(file: Path) -> None:
    """Its pages leave the cache, in which they count for whoever wrote them."""
    with open(file, "rb") as it:
        os.posix_fadvise(it.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@in_a_cgroup
@needs_disk
@pytest.mark.parametrize("kind", ["clean", "dirty"])
def test_writing_files_is_not_memory_that_is_gone(tmp_path: Path, file: Path, kind: str) -> None:
    """Four times the cgroup's limit is written through it, with fsync() at the end of each file or without."""
    with Cgroup(LIMIT) as group, worker(tmp_path, group=group, brake="32MiB") as it:
        with Eater(inside(group)) as eater:
            for _ in range(4):
                getattr(eater, kind)(file, LIMIT)
        it.looks_on()
        outcome = it.end()

    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


def braked(outcome: Outcome) -> str:
    """The lines of a brake that are on stderr; a warning is none."""
    return "\n".join(line for line in outcome.stderr.splitlines() if "BRAKE" in line)


@in_a_cgroup
def test_tmpfs_filled_and_emptied_below_the_limit(tmp_path: Path) -> None:
    """Shared memory comes and goes, up to 32 MiB above the watermark, twenty times."""
    with Cgroup(LIMIT) as group, worker(tmp_path, group=group, brake="32MiB") as it:
        with Eater(inside(group)) as eater:
            for _ in range(20):
                room = it.word("HEADROOM")
                eater.shared(room - 64 * MiB)
                it.looks_on()
                eater.free()
        outcome = it.end()

    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


@in_a_cgroup
def test_a_burst_of_another_that_ends_within_the_hold(tmp_path: Path) -> None:
    """
    Another process takes memory until the trial is held, and gives it back at once: the hold was all. The hold is ten
    times the default, for a machine so busy that the burst's own end takes its time.
    """
    with Cgroup(LIMIT) as group, worker(tmp_path, group=group, brake="64MiB", hold="500ms") as it:
        floor = 64 * MiB // 4
        for _ in range(5):
            with Eater(inside(group)) as eater:
                # Below brake, and above what is so urgent that the hold is cut short.
                eater.anonymous(it.word("HEADROOM") - (64 * MiB + floor) // 2 - 16 * MiB)
        holds = it.word("HOLDS")
        outcome = it.end()

    assert holds > 0, "no burst was seen"
    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


def pagesets() -> int:
    """Bytes in the per-CPU page lists of this machine."""
    count = 0
    for line in Path("/proc/zoneinfo").read_text().splitlines():
        if line.strip().startswith("count:"):
            count += int(line.split()[1])
    return count * os.sysconf("SC_PAGESIZE")


def mem_available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="it takes two CPUs, one for each list")
def test_memory_freed_and_taken_again_on_the_machine(tmp_path: Path) -> None:
    """
    One process frees a gigabyte onto its CPU's own list, where MemAvailable does not count it, and one on another CPU
    takes as much from elsewhere. MemAvailable crosses the watermark and what is there does not: held, and not braked.
    """
    first, second = sorted(os.sched_getaffinity(0))[:2]
    margin = 64 * MiB
    with Eater(("taskset", "-c", str(first))) as gives, Eater(("taskset", "-c", str(second))) as takes:
        gives.anonymous(1024 * MiB)
        brake = mem_available() - 3 * margin
        with worker(tmp_path, brake=brake, floor="16MiB", resume=brake + 1, warn=brake + 2) as it:
            gives.free()
            while mem_available() > brake - margin // 2:
                if mem_available() + pagesets() < brake + 2 * margin:
                    pytest.skip(
                        f"the per-CPU lists hold {pagesets() // MiB} MiB here: too little to tell the looks apart"
                    )
                takes.anonymous(16 * MiB)
            it.looks_on()
            holds = it.word("HOLDS")
            there = mem_available() + pagesets()
            outcome = it.end()

    if there < brake + margin:
        pytest.skip("somebody else took the machine's memory meanwhile")
    assert holds > 0, "MemAvailable alone would have done"
    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


# ----------------------------------------------------------------- from a machine in a folder ---

HIGH, BRAKE, LOW = 5000 * MB, 1000 * MB, 950 * MB
SETTINGS = {"brake": BRAKE, "resume": 1200 * MB, "floor": 100 * MB}


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    (tmp_path / "machine").mkdir()
    return ProcTree(tmp_path / "machine")


def available(tree: ProcTree, size: int) -> None:
    tree.machine(available=size // 1024 * 1024)


@pytest.mark.parametrize(
    ("pages", "brakes"),
    [pytest.param(60_000, 0, id="the-page-lists-hold-it"), pytest.param(100, 1, id="they-do-not")],
)
def test_f71_what_is_on_the_page_lists_is_there(tmp_path: Path, tree: ProcTree, pages: int, brakes: int) -> None:
    """
    MemAvailable falls below the watermark: the trial is held, and looked at again with the per-CPU lists. With 240 MB
    there it goes on after that one hold; without them it is braked, so the second look is what it was spared by.
    """
    available(tree, HIGH)
    with worker(tmp_path, root=str(tree.root), **SETTINGS) as it:
        tree.zoneinfo([pages // 2, pages // 2])
        available(tree, LOW)
        if brakes:
            # The trial sits in a read, and that ends.
            assert "EMERGENCY BRAKE ACTIVATED [Trial #1]" in it.process.stderr.readline()
            return
        until(lambda: it.word("HOLDS"), what="a hold")
        it.looks_on()
        holds, told = it.word("HOLDS"), it.word("TOLD")
        outcome = it.end()

    assert (1, 0) == (holds, told)
    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


def test_a_burst_that_ends_within_the_hold(tmp_path: Path, tree: ProcTree) -> None:
    """Memory is short until the trial is held, and there again before the hold is over; ten times."""
    available(tree, HIGH)
    # As long as can be set: whoever ends the burst is a process of its own, on a machine that may be busy.
    with worker(tmp_path, root=str(tree.root), hold=10, **SETTINGS) as it:
        for number in range(1, 11):
            available(tree, LOW)
            until(lambda: phase(tmp_path) == "HOLDING", what="a hold")
            available(tree, HIGH)
            until(lambda: phase(tmp_path) == "WATCHING", what="its end")
            assert number == it.word("HOLDS")
        outcome = it.end()

    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))


def phase(board: Path) -> str:
    """Of the one worker that is on the board."""
    from memwatch.board import Board

    with Board.open(board) as it:
        phases = [live.phase.name for slot in it.slots() if (live := slot.live()) and live.phase]
    return phases[0] if phases else ""


def test_a_look_that_fails_is_no_shortage(tmp_path: Path, tree: ProcTree) -> None:
    """/proc/meminfo says nothing for a while, and then what it said before."""
    available(tree, HIGH)
    with worker(tmp_path, root=str(tree.root), **SETTINGS) as it:
        text = (tree.root / "proc/meminfo").read_text()
        for broken in ("", text[:40], text.replace(" kB", ""), "\0" * len(text)):
            (tree.root / "proc/meminfo").write_text(broken)
            until(lambda: it.word("HEADROOM") == 2**64 - 1, what="a look that fails")
            (tree.root / "proc/meminfo").write_text(text)
            until(lambda: it.word("HEADROOM") < 2**63, what="a look that does not")
        assert 0 == it.word("HOLDS")
        outcome = it.end()

    assert Outcome(RIGHT, 0, "") == outcome._replace(stderr=braked(outcome))
