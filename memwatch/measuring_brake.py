"""
What memwatch-bench --brake measures of a brake: when it was due, and when each of its steps came.

Each part runs in a fresh process. A crossing is either scripted, then another process writes the number and knows
when, whatever this one is doing; or real, then the usage of a cgroup tells. MemAvailable never does: up to 834 MiB
are missing from it.
"""

import mmap
import os
import queue
import random
import re
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import brake, measuring, running
from ._native import lib
from .errors import EmergencyBrake
from .measuring import Unmeasured
from .model import GB, MiB
from .sampler import Sampler
from .testing import ProcTree

clock = time.monotonic_ns  # the native thread's clock

LONGEST = 10.0  # s; a trial that was not told by then will not be

# The scripted machine. Memory falls from HIGH and never in a jump, as it does when somebody fills it.
BRAKE, RESUME, WARN, HIGH = (1000 * MiB + gap * MiB for gap in (0, 10, 20, 32))
SLOW_FROM = 4 * MiB  # above BRAKE; to there a leak falls fast, too, or it would take a minute
FILL, LEAK = 4 * GB, GB // 5  # bytes a second: a loop that fills 4 KiB pages, and one that leaks

# Takes its orders by lines, and answers with the time just before the first number below the watermark was written.
_WRITER = """
import os, random, sys, time
path, at, high, brake, fast, slow_from = sys.argv[1], *map(int, sys.argv[2:])
clock, file = time.monotonic_ns, os.open(path, os.O_RDWR)
def write(size):
    os.pwrite(file, b"%8d" % (size >> 10), at)
try:  # or, on busy cores, memory would stand still and then jump
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
except OSError:
    pass
for order in sys.stdin:
    what, _, rate = order.partition(" ")
    if what == "rise\\n":
        write(high)
        print("done", flush=True)
        continue
    time.sleep(random.uniform(0.002, 0.012))
    size, rate, last = high, int(rate), clock()
    while size >= brake:
        time.sleep(0.0001)
        now = clock()
        step = fast if size > brake + slow_from else rate
        size = max(size - step * (now - last) // 10**9, brake - slow_from)
        last = now
        before = clock()
        write(size & ~1023)
        size &= ~1023
    print(before, flush=True)
"""


class Script:
    """
    A machine in a folder whose memory another process writes, and the brake that watches it.

    Args:
        folder: For the machine and the board; it must exist.
        settings: Of memwatch.start(); None: nobody watches.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any] | None) -> None:
        tree = ProcTree(folder, pid=os.getpid())
        tree.machine(available=HIGH)
        self.root = tree.root
        meminfo = tree.root / "proc" / "meminfo"
        at = meminfo.read_bytes().index(b"kB", meminfo.read_bytes().index(b"MemAvailable:")) - 9
        numbers = map(str, (at, HIGH, BRAKE, FILL, SLOW_FROM))
        command = [sys.executable, "-I", "-S", "-c", _WRITER, os.fspath(meminfo), *numbers]
        self._watched = settings is not None
        self._writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if settings is not None:
            brake.start(
                root=tree.root,
                board=tree.root / "board",
                brake=BRAKE,
                resume=RESUME,
                warn=WARN,
                settle=0,
                max_brakes=10**6,
                **settings,
            )
        self.rise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watched:
            brake.stop()
        self._writer.kill()
        for pipe in (self._writer.stdin, self._writer.stdout):
            assert pipe is not None
            pipe.close()
        self._writer.wait()

    def rise(self) -> None:
        """There is memory again, and the brake has seen it."""
        self.order("rise")
        self.answer()
        it = running.current
        if it is None:
            return
        deadline = time.monotonic() + LONGEST
        while it.words[lib.MW_WORD_HEADROOM] < RESUME:
            if time.monotonic() > deadline:
                raise Unmeasured(f"the brake saw no rise within {LONGEST} s")
            lib.mw_brake_ring(it.handle)
            time.sleep(0.0002)

    def fall(self, rate: int = FILL) -> None:
        """Memory begins to fall in 2 to 12 ms, by *rate* bytes a second at last."""
        self.order(f"fall {rate}")

    def order(self, order: str) -> None:
        assert self._writer.stdin is not None
        self._writer.stdin.write(order + "\n")
        self._writer.stdin.flush()

    def answer(self) -> str:
        """Of fall(): when memory fell below the watermark, in ns."""
        assert self._writer.stdout is not None
        answer = self._writer.stdout.readline()
        if not answer:
            raise Unmeasured("the process that writes the machine's memory has ended")
        return answer

    def react(self, work: Callable[[], object], rate: int = FILL) -> dict[str, int]:
        """One trial of *work* that is braked: when each step came, in ns."""
        self.rise()
        self.fall(rate)
        seen = braked(work)
        return {"crossed": int(self.answer()), **seen}


def braked(work: Callable[[], object]) -> dict[str, int]:
    """
    When each step of a brake came, in ns on the monotonic clock.

    held: a look found memory below the watermark. parked: the trial's thread takes nothing more; 0 when it was let
    go before. told: the flag is set. landed: the exception has left *work*. ended: what it held was given back.
    """
    landed = 0

    def trial() -> None:
        nonlocal landed
        try:
            work()
        finally:
            landed = clock()

    ended = None
    try:
        brake.guard(trial)()
    except EmergencyBrake as error:
        ended = error.seconds
    it = running.current
    if ended is None or it is None:
        raise Unmeasured("a trial that was to be braked ended by itself")
    words = it.words
    return {
        "held": words[lib.MW_WORD_HELD_NS],
        "parked": words[lib.MW_WORD_PARKED_NS],
        "told": words[lib.MW_WORD_TOLD_NS],
        "landed": landed,
        "ended": words[lib.MW_WORD_TOLD_NS] + round(ended * 1e9),
        "left": words[lib.MW_WORD_TOLD_HEADROOM],
    }


# ------------------------------------------------------------------ what a trial is at ---


def _loop() -> None:
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        pass


def _lock() -> None:
    # Untimed: with SA_RESTART it would not be interrupted at all.
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _subprocess() -> None:
    subprocess.call(["sleep", str(LONGEST)])


def _regex() -> None:
    # Doubles with each letter: a minute.
    re.match(r"(a+)+$", "a" * 30 + "b")


_numbers = [random.random() for _ in repeat(None, 50_000)]


def _c_call() -> None:
    """Some 15 ms at a time in one call, with the interpreter lock held."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        sorted(_numbers)


def _joining() -> Callable[[], object]:
    # One of its own each time, and not of the trial, which would end it: who is interrupted in join() on Python 3.12
    # and before takes the thread for ended (bpo-45274).
    thread = threading.Thread(target=time.sleep, args=(LONGEST,), daemon=True)
    thread.start()
    return thread.join


# Each makes what a trial does.
WORKS: dict[str, Callable[[], Callable[[], object]]] = {
    "Python loop": lambda: _loop,
    "sleep": lambda: partial(time.sleep, LONGEST),
    "lock.acquire": lambda: _lock,
    "subprocess": lambda: _subprocess,
    "regex": lambda: _regex,
    "Event": lambda: threading.Event().wait,
    "queue": lambda: queue.Queue[int]().get,
    "join": _joining,
    "C call": lambda: _c_call,
}


def _numpy() -> None:
    import numpy as np

    kept = []
    while True:
        kept.append(np.ones(MiB // 8))


def _bytearray() -> None:
    kept = []
    while True:
        kept.append(bytearray(b"\1") * MiB)


def _list() -> None:
    kept: list[list[int]] = []
    while True:
        kept.append([len(kept)] * 100)


def _dict() -> None:
    kept: list[dict[str, float]] = []
    while True:
        kept.append({"step": len(kept), "loss": float(len(kept))})


def _torch() -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]

    kept = []
    while True:
        kept.append(torch.ones(MiB // 4))


ALLOCATIONS: dict[str, Callable[[], None]] = {
    "numpy": _numpy,
    "bytearray": _bytearray,
    "list": _list,
    "dict": _dict,
    "torch": _torch,
}


def allocations() -> list[str]:
    """Those that can be measured here."""
    return [kind for kind in ALLOCATIONS if kind != "torch" or find_spec("torch")]


# ------------------------------------------------------------------------ filling ---

REAL_LIMIT = 1024 * MiB
REAL = {"brake": 400 * MiB, "resume": 420 * MiB, "warn": 440 * MiB, "floor": 60 * MiB}
FILLED = 680 * MiB  # beyond the watermark, and not to the kill
PIECES = {"4 KiB pages": 128 * 1024, "huge pages": 2 * MiB, "huge pages, one C call": FILLED}
LOG = FILLED // min(PIECES.values()) + 1


class Fill:
    """Fills memory as fast as one thread can, and notes the cgroup's usage after each piece."""

    def __init__(self, how: str, usage: str) -> None:
        self.piece = PIECES[how]
        self.times = array("q", bytes(8 * LOG))
        self.usages = array("q", bytes(8 * LOG))
        self.done = 0
        self._usage = os.open(usage, os.O_RDONLY)
        self._advice = mmap.MADV_HUGEPAGE if how.startswith("huge") else mmap.MADV_NOHUGEPAGE

    def __call__(self) -> None:
        import ctypes

        self.done = 0
        # Private: huge pages of shared memory are another setting of the kernel, and off.
        memory = mmap.mmap(-1, FILLED, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(self._advice)
        # Not by slices: copying would take as long as the kernel's zeroing.
        begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for number in range(FILLED // self.piece):
            self.times[number] = clock()
            ctypes.memset(begin + number * self.piece, 1, self.piece)
            self.usages[number] = int(os.pread(self._usage, 32, 0))
            self.done = number + 1
        time.sleep(LONGEST)  # it was told at the latest meanwhile

    def crossing(self, usage: int) -> tuple[int, float]:
        """When the piece was begun that led beyond *usage*, and bytes a second until then."""
        at = next((number for number in range(self.done) if self.usages[number] > usage), self.done)
        took = self.times[at] - self.times[1] if at > 1 else 0
        return self.times[at], (self.usages[at - 1] - self.usages[0]) / took * 1e9 if took else 0.0


def _usage_of(sampler: Sampler) -> tuple[str, int]:
    """The file that tells the usage of the group that this process is limited in, and its limit."""
    group = next((group for group in sampler.groups if group.limit is not None), None)
    if group is None or group.path is None or group.limit is None:
        raise Unmeasured("a process that was put into a cgroup with a limit sees none")
    return os.path.join(group.path, measuring.USAGE[group.version]), group.limit


def _fills(folder: str, how: str, count: int, realtime: bool) -> dict[str, Any]:
    """In a cgroup of REAL_LIMIT: real memory, filled at full speed, to the watermark and what comes beyond."""
    with Sampler() as sampler, watched(folder, realtime=realtime, **REAL):
        path, limit = _usage_of(sampler)
        fill = Fill(how, path)
        values = []
        for _ in range(count + 1):
            wait_for(sampler, REAL["warn"])
            # What can be reclaimed of it is no usage.
            reclaimable = (sampler.headroom() or 0) - (limit - int(Path(path).read_text()))
            seen = braked(fill)
            crossed, rate = fill.crossing(limit + reclaimable - REAL["brake"])
            values.append({"crossed": crossed, "rate": rate, "past": REAL["brake"] - seen["left"], **seen})
        return {"values": values[1:], "realtime": had_realtime()}


def _allocations(folder: str, kind: str, count: int, realtime: bool) -> dict[str, Any]:
    """In a cgroup of REAL_LIMIT: a loop that takes memory until it is stopped."""
    # It takes a quarter of a GB, which is what a brake has to give back.
    marks = {name: size + 300 * MiB for name, size in REAL.items()}
    work = ALLOCATIONS[kind]
    if kind in ("numpy", "torch"):
        __import__(kind)  # what it costs to load is no part of the trial
    with Sampler() as sampler, watched(folder, realtime=realtime, **marks | {"floor": 100 * MiB}):
        values = []
        for _ in range(count + 1):
            wait_for(sampler, marks["warn"])
            values.append(braked(work))
        return {"values": values[1:], "realtime": had_realtime()}


# ---------------------------------------------------------------------- the parts ---


@contextmanager
def watched(folder: str, **settings: Any) -> Iterator[None]:
    """The brake runs, without what stands in the way of measuring it: waits, and a limit of brakes in a row."""
    brake.start(board=os.path.join(folder, "board"), settle=0, max_brakes=10**6, **settings)
    try:
        yield
    finally:
        brake.stop()


def wait_for(sampler: Sampler, size: int) -> None:
    """Until so much can be taken again."""
    deadline = time.monotonic() + LONGEST
    while (sampler.headroom() or 0) < size:
        if time.monotonic() > deadline:
            raise Unmeasured(f"memory did not come back within {LONGEST} s of a brake")
        time.sleep(0.002)


def had_realtime() -> bool:
    """Whether SCHED_RR was asked for, and given."""
    it = running.current
    return it is not None and bool(it.words[lib.MW_WORD_FLAGS] & lib.MW_NEWS_REALTIME)


def _reactions(folder: str, *, kinds: list[str], count: int, realtime: bool, hold: float, rate: int) -> dict[str, Any]:
    """Scripted: each kind of work in turn."""
    with Script(folder, {"hold": hold, "realtime": realtime}) as script:
        values: dict[str, list[dict[str, int]]] = {kind: [] for kind in kinds}
        for _ in range(count + 1):
            for kind in kinds:
                values[kind].append(script.react(WORKS[kind](), rate))
        return {"values": {kind: seen[1:] for kind, seen in values.items()}, "realtime": had_realtime()}


def run(parts: dict[str, Callable[..., Any]]) -> None:
    """In the child: one part, without what the user has set for workers, and without a word about each brake."""
    for name in [name for name in os.environ if name.startswith("MEMWATCH_")]:
        del os.environ[name]
    with open(os.devnull, "w") as nobody:

        def quietly(it: Callable[..., Any]) -> Callable[..., Any]:
            def part(**arguments: Any) -> Any:
                with redirect_stderr(nobody):
                    return it(**arguments)

            return part

        measuring.main({name: quietly(it) for name, it in parts.items()})


def main() -> None:
    run({"reactions": _reactions, "fills": _fills, "allocations": _allocations})


def others() -> float:
    """The share of all cores that others take, over half a second in which this process sleeps."""
    import psutil

    return float(psutil.cpu_percent(interval=0.5)) / 100


_BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """So many processes that do nothing else meanwhile; they end with this one, however it ends."""
    command = [sys.executable, "-I", "-S", "-c", _BUSY]
    others: list[subprocess.Popen[bytes]] = []
    try:
        others.extend(subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(cores))
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            assert other.stdout is not None
            other.stdout.close()
            other.wait()
