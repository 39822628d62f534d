"""
What memwatch-bench measures. Each part runs in a fresh process of its own, which prints raw values as JSON.

The cases are also bench/'s, where pytest-benchmark times them. This is the one Python file that reads /proc
itself: to show what doing without memwatch costs.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ._native import ffi, lib
from .board import Board, Live
from .errors import MemwatchError
from .model import GB, Binding, Watermarks
from .sampler import Sampler, sample
from .units import format_size

clock = time.perf_counter_ns

LIMIT = 8 * GB  # far from any watermark, and from what the measuring takes
DEADLINE = 180.0  # s; the longest part takes 60 on a busy machine
_OURS = str(Path(__file__).with_name("__init__.py"))
_PARENT = str(Path(__file__).parents[1])


class Unmeasured(MemwatchError):
    """A part could not be measured; the message says why."""


class Case(Protocol):
    """A way to look at memory."""

    def run(self, n: int) -> None:
        """Makes *n* looks."""

    def block(self, n: int) -> float:
        """Makes *n* looks; ns for one of them, on average."""

    def each(self, n: int) -> list[int]:
        """Makes *n* looks; ns for each, with what reading the clock takes."""


class InC:
    """One of mw_time()'s deeds: no interpreter stands between two looks."""

    def __init__(self, handle: Any, deed: int) -> None:
        self._handle = handle
        self._deed = deed
        self._out = ffi.new("int64_t[]", 1000)

    def run(self, n: int) -> None:
        lib.mw_time(self._handle, self._deed, n, self._out)

    def block(self, n: int) -> float:
        return sum(self.each(n)) / n

    def each(self, n: int) -> list[int]:
        self.run(n)
        return list(ffi.unpack(self._out, n))


class InPython:
    """A Python function, called as a user would."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look

    def run(self, n: int) -> None:
        look = self._look
        for _ in repeat(None, n):
            look()

    def block(self, n: int) -> float:
        began = clock()
        self.run(n)
        return (clock() - began) / n

    def each(self, n: int) -> list[int]:
        look = self._look
        times = []
        for _ in repeat(None, n):
            began = clock()
            look()
            times.append(clock() - began)
        return times


class ByHand:
    """Looks as somebody would write them who knows what is slow: kept descriptors, and no more parsed than needed."""

    def __init__(self, groups: Sequence[Binding], pid: int | None = None) -> None:
        self._meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        self._statm = os.open(f"/proc/{pid or 'self'}/statm", os.O_RDONLY)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._groups = [
            (os.open(f"{group.path}/{USAGE[group.version]}", os.O_RDONLY), group.limit)
            for group in groups
            if group.limit is not None
        ]

    def headroom(self) -> int:
        text = os.pread(self._meminfo, 8192, 0)
        room = int(text[text.index(b"MemAvailable:") + 13 :].split(None, 1)[0]) * 1024
        for usage, limit in self._groups:
            room = min(room, limit - int(os.pread(usage, 64, 0)))
        return room

    def rss(self) -> int:
        return int(os.pread(self._statm, 256, 0).split()[1]) * self._page

    def sample(self) -> tuple[int, int]:
        return self.headroom(), self.rss()


USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}


def reads(groups: Sequence[Binding]) -> list[str]:
    """The reads that one look makes: of files that are kept open."""
    usages = [USAGE[group.version] for group in groups if group.limit is not None]
    return ["meminfo", "statm", *usages]


def cases(sampler: Sampler) -> dict[str, Case]:
    """Every way to look that is compared, by name."""
    import psutil

    handle = sampler._handle
    process = psutil.Process()
    hand = ByHand(sampler.groups)
    return {
        "timer": InC(handle, lib.MW_TIME_NOTHING),
        "sample: preads": InC(handle, lib.MW_TIME_BARE_SAMPLE),
        "sample: C": InC(handle, lib.MW_TIME_SAMPLE),
        "sample: memwatch": InPython(sample),
        "sample: psutil": InPython(lambda: (psutil.virtual_memory(), process.memory_info())),
        "sample: by hand": InPython(hand.sample),
        "headroom: preads": InC(handle, lib.MW_TIME_BARE_HEADROOM),
        "headroom: C": InC(handle, lib.MW_TIME_HEADROOM),
        "headroom: memwatch": InPython(sampler.headroom),
        "headroom: psutil": InPython(psutil.virtual_memory),
        "headroom: by hand": InPython(hand.headroom),
    }


@contextmanager
def others(folder: str | os.PathLike[str]) -> Iterator[dict[str, Case]]:
    """Every way to learn another worker's RSS; that worker has a slot on a board in *folder* meanwhile."""
    import psutil

    with _interpreter(_START, _PARENT, "measuring", "worker", json.dumps({"folder": os.fspath(folder)})) as worker:
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            told = json.loads(worker.stdout.readline() or "0")
            with Board.open(folder) as board:
                found = [slot for slot in board.slots() if slot.owner.pid == worker.pid]
                if not told or [told] != [slot.rss for slot in found]:
                    raise Unmeasured(f"a worker that has {told} bytes is on the board with {found}")
                slot, process, hand = found[0], psutil.Process(worker.pid), ByHand((), worker.pid)
                yield {
                    "rss: memwatch": InPython(lambda: slot.rss),
                    "rss: psutil": InPython(lambda: process.memory_info().rss),
                    "rss: by hand": InPython(hand.rss),
                }
        finally:
            worker.kill()


def interleaved(what: dict[str, Case], *, rounds: int, calls: int, singles: int) -> dict[str, Any]:
    """Each case in each round, so that what disturbs one disturbs its neighbours too; the order goes round."""
    names = list(what)
    for name in names:  # a warm-up, which is dropped
        what[name].block(calls)
    blocks: dict[str, list[float]] = {name: [] for name in names}
    each: dict[str, list[int]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        if number % 2:
            order.reverse()
        for name in order:
            blocks[name].append(what[name].block(calls))
        for name in order:
            each[name] += what[name].each(singles)
    return {"blocks": blocks, "each": each}


def nothing() -> None:
    """What waking up costs when there is nothing to do."""


def at(hz: int, looks: int, look: Callable[[], object]) -> dict[str, int]:
    """What this process's CPU time is when it looks *hz* times a second."""
    used, began = time.process_time_ns(), clock()
    for number in range(1, looks + 1):
        # Deadlines that are kept: who wakes up too late for the next one looks at once.
        left = began + number * 1_000_000_000 // hz - clock()
        if left > 0:
            time.sleep(left / 1e9)
        look()
    took = clock() - began
    return {"hz": hz, "looks": looks, "took_ns": took, "cpu_ns": time.process_time_ns() - used}


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    with open("/proc/cpuinfo") as file:
        named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "cpu": named[0] if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": sample().mem_total,
        "kernel": f"{platform.system()} {platform.release()}",
        "clock": vars(time.get_clock_info("perf_counter")),
    }


# ---------------------------------------------------------------- the parts ---


def _looks(rounds: int, calls: int, singles: int) -> dict[str, Any]:
    sampler = Sampler()
    first, groups = sampler.sample(), sampler.groups
    values = interleaved(cases(sampler), rounds=rounds, calls=calls, singles=singles)
    last = sampler.sample()
    problems = [f"a reading failed: {failure}" for failure in (*first.errors, *last.errors, *sample().errors)]
    if sampler.dropped:
        problems.append(f"{sampler.dropped} readings were refused")
    with Sampler() as after:
        if [(group.dev, group.ino, group.limit) for group in after.groups] != [
            (group.dev, group.ino, group.limit) for group in groups
        ]:
            problems.append("the process was moved to another cgroup, or a limit was changed, meanwhile")
    limits = [group.limit for group in groups if group.limit is not None]
    if limits and last.headroom is not None:
        near = Watermarks.for_limit(max([*limits, last.mem_total or 0])).warn
        if last.headroom < near:
            problems.append(f"memory is short ({last.headroom} bytes of headroom): each look reads memory.stat besides")
    return {
        **values,
        "problems": problems,
        "reads": reads(groups),
        "descriptors": sampler.descriptors,
        "groups": [group._asdict() for group in groups],
        "headroom": last.headroom,
    }


def _rates(rounds: int, seconds: float, rates: Sequence[int]) -> list[dict[str, Any]]:
    sampler = Sampler()
    sampler.headroom()

    at(100, 10, sampler.headroom)  # a warm-up, which is dropped
    values = []
    for _ in range(rounds):
        for hz in rates:
            looks = max(1, round(hz * seconds))
            values.append({"what": "look", **at(hz, looks, sampler.headroom)})
            values.append({"what": "nothing", **at(hz, looks, nothing)})
    return values


def _board(folder: str, rounds: int, calls: int, singles: int) -> dict[str, Any]:
    with others(folder) as ways:
        return interleaved(ways, rounds=rounds, calls=calls, singles=singles)


def _worker(folder: str) -> None:
    """Lives until whoever reads its slot ends it, or has died."""
    rss = sample().rss
    with Board.open(folder, create=True) as board:
        board.claim().set_live(Live(time=time.monotonic(), rss=rss, rss_peak=rss, headroom=None, limit=None))
        print(rss, flush=True)
        sys.stdin.read()


_PARTS: dict[str, Callable[..., Any]] = {"looks": _looks, "rates": _rates, "board": _board, "worker": _worker}


def main(parts: dict[str, Callable[..., Any]] = _PARTS) -> None:
    """In the child: the part that was asked for, once its parent has put it where it belongs."""
    part, arguments = sys.argv[-2:]
    if not sys.stdin.readline():
        return  # the parent has died
    json.dump(parts[part](**json.loads(arguments)), sys.stdout)


# ------------------------------------------------------------- the children ---

# At the end of the path, where site-packages is: an import must not look here first.
_START = """
import importlib, sys
sys.path.append(sys.argv[1])
importlib.import_module("memwatch." + sys.argv[2]).main()
"""

# The memory is read as /proc has it: ru_maxrss would be the parent's, if that is larger, since it survives exec.
_IMPORT = """
import os, sys, time
if sys.argv[1] not in sys.path:
    sys.path.append(sys.argv[1])
{ground}
def rss():
    file = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(file, 256).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(file)
rss(), time.perf_counter_ns()
had = set(sys.modules)
memory, began = rss(), time.perf_counter_ns()
{what}
took = time.perf_counter_ns() - began
memory = rss() - memory
loaded = sorted(set(sys.modules) - had)
import json
print(json.dumps({{
    "took_ns": took, "rss": memory, "loaded": loaded,
    "file": getattr(sys.modules.get("memwatch"), "__file__", None),
}}))
"""


def _interpreter(program: str, *arguments: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    command = [sys.executable, "-P", "-X", "faulthandler", "-c", program, *arguments]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _ask(program: str, *arguments: str, enter: Callable[[int], None] | None = None) -> Any:
    """What a fresh interpreter prints, which begins once it was let in."""
    with _interpreter(program, *arguments) as child:
        try:
            if enter is not None:
                enter(child.pid)
            said, complained = child.communicate("go\n", timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)
            _before, _, stack = child.communicate()[1].partition("Current thread")
            where = next((f"; it was at {line.strip()}" for line in stack.splitlines() if "File" in line), "")
            raise Unmeasured(f"{' '.join(arguments[1:])} did not end within {DEADLINE} s{where}") from None
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        lines = complained.strip().splitlines() or [f"exit status {child.returncode}"]
        raise Unmeasured(f"a process that measures has failed: {lines[-1]}")
    return json.loads(said)


def part(name: str, enter: Callable[[int], None] | None, **arguments: Any) -> Any:
    """Raw values of one part, from a process of its own; *enter* puts it into its cgroup."""
    return part_of("measuring", name, enter, arguments)


def part_of(room: str, name: str, enter: Callable[[int], None] | None, arguments: dict[str, Any]) -> Any:
    """The same of another file."""
    return _ask(_START, _PARENT, room, name, json.dumps(arguments), enter=enter)


@contextmanager
def folder_in_memory() -> Iterator[str]:
    """A folder for a board or a scripted machine, gone at the end: a disk would be measured with it."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with TemporaryDirectory(prefix="memwatch-bench-", dir=memory) as folder:
        yield folder


def board(**arguments: Any) -> Any:
    """Raw values of reading another's slot, on a board of its own: the user's is left alone."""
    with folder_in_memory() as folder:
        return part("board", None, folder=folder, **arguments)


GROUNDS = {"bare": "", "numpy": "import numpy"}
IMPORTS = {"memwatch": "import memwatch", "psutil": "import psutil", "nothing": "pass"}


def imported(ground: str, what: str) -> dict[str, Any]:
    """What one import takes in a fresh interpreter where nothing, or numpy, was imported before."""
    seen = _ask(_IMPORT.format(ground=GROUNDS[ground], what=IMPORTS[what]), _PARENT)
    if seen["file"] not in (None, _OURS):
        raise Unmeasured(f"another memwatch was imported: {seen['file']}, not {_OURS}")
    return {"ground": ground, "what": what, **seen}


def imports(rounds: int) -> list[dict[str, Any]]:
    """All imports, in turn."""
    turn = [(ground, what) for ground in GROUNDS for what in IMPORTS]
    for ground, what in turn:  # warms the disk's cache up, and is dropped
        imported(ground, what)
    return [imported(ground, what) for _ in range(rounds) for ground, what in turn]


@contextmanager
def limited() -> Iterator[tuple[Callable[[int], None] | None, str]]:
    """
    A memory cgroup with a limit, so that a look reads its usage too: what puts a process into it, and a note.

    The first is None where there is a limit already, or none can be made. It is removed in any case.
    """
    with Sampler() as sampler:
        groups = sampler.groups
    limits = [group for group in groups if group.limit is not None]
    if limits:
        yield None, f"already in {limits[0]}"
        return
    with limited_to(LIMIT) as (enter, note):
        yield enter, note if enter is not None else f"{note}, so that no usage is read"


@contextmanager
def limited_to(limit: int) -> Iterator[tuple[Callable[[int], None] | None, str]]:
    """A memory cgroup limited to *limit* bytes, as limited() has it; None where none can be made."""
    with Sampler() as sampler:
        groups = sampler.groups
    if not groups or groups[0].path is None:
        yield None, "no memory cgroup can be seen here"
        return
    folder, note = _make_group(Path(groups[0].path), groups[0].version, limit)
    try:
        yield None if folder is None else partial(_write, folder / "cgroup.procs"), note
    finally:
        if folder is not None:
            _remove(folder)


def _make_group(own: Path, version: int, limit: int) -> tuple[Path | None, str]:
    reason = ""
    # Version 2: a group with processes has no children with limits; one beside it may.
    for home in (own,) if version == 1 else (own, own.parent):
        folder = home / f"memwatch-bench-{os.getpid()}"
        try:
            folder.mkdir()
            _write(folder / ("memory.limit_in_bytes" if version == 1 else "memory.max"), limit)
        except OSError as error:
            reason = f"no cgroup limit here, and none can be set ({error.strerror})"
            _remove(folder)
        except BaseException:
            _remove(folder)
            raise
        else:
            return folder, f"in a cgroup of its own, limited to {format_size(limit)}"
    return None, reason


def _write(path: Path, number: int) -> None:
    with path.open("r+") as file:
        file.write(str(number))


def _remove(folder: Path) -> None:
    """A process that has just died may keep its group for a moment."""
    deadline = time.monotonic() + 5
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
