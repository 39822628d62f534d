"""
What memwatch-bench --workers measures: workers that run out of memory together, and which of them brakes how soon.

Each worker is a process of its own; who measures gives orders and writes the machine. A crossing is scripted: memory
falls by one write, and is there again once nobody refers any more to what the braked trial held. A race is real: all
fill one cgroup as fast as they can.
"""

import json
import mmap
import os
import select
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import brake, measuring, running
from ._native import lib
from .errors import EmergencyBrake
from .measuring import Unmeasured
from .measuring_brake import run
from .model import MiB
from .testing import ProcTree

clock = time.monotonic_ns  # the native thread's clock

LONGEST = 30.0  # s, for a worker's next word

# The scripted machine: so near the watermark each worker looks once a millisecond, as it does where memory is filled.
BRAKE, RESUME, WARN, CALM = (1000 * MiB + gap * MiB for gap in (0, 4, 8, 12))
LOW = BRAKE - 60 * MiB
BASE, GROWN = 40 * MiB, 30 * MiB  # what a worker has, and how much more each trial has than that of the one before it

# How long a trial of a crossing sleeps between two notes of the time: with more of them the workers would measure each
# other, of which there are more than cores.
STEP = 0.0005
NOTES = 1 << 14

LIMITS = {4: 512 * MiB, 8: 1024 * MiB}  # of the cgroup in which so many workers race

END = "end"  # the file that ends a race

WORDS = ("BRAKES", "HELD_NS", "TOLD_NS", "WAIT_NS", "FREED_NS")


# ------------------------------------------------------------------- in a worker's process ---


class _Held:
    """What a trial took: once nobody refers to it, the scripted machine has it again, if the trial was told."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def __del__(self) -> None:
        self._give_back()


class _Worker:
    """Does what it is ordered to. In a trial orders are seen and not read: a brake would cut that short."""

    def __init__(self, folder: str) -> None:
        self._end = os.path.join(folder, END)
        self._orders = b""

    def orders(self) -> Iterator[dict[str, Any]]:
        """To begin something; others were meant for a trial that is over."""
        while True:
            line, end, rest = self._orders.partition(b"\n")
            if not end:
                piece = os.read(0, 4096)
                if not piece:
                    return
                self._orders += piece
                continue
            self._orders = rest
            order: dict[str, Any] = json.loads(line)
            if order["what"] in ("begin", "room"):
                yield order

    @staticmethod
    def say(what: str, **more: Any) -> None:
        os.write(1, json.dumps({"what": what, **more}).encode() + b"\n")

    @staticmethod
    def is_asked() -> bool:
        return bool(select.select([0], [], [], 0)[0])

    def words(self) -> dict[str, int]:
        assert running.current is not None
        return {name: running.current.words[getattr(lib, f"MW_WORD_{name}")] for name in WORDS}

    def cross(self, meminfo: str, at: int, statm: str) -> None:
        """Trials that are braked, or end when they are asked to, and note when they ran."""
        it = running.current
        assert it is not None
        times = array("q", bytes(8 * NOTES))
        noted = 0

        def back() -> None:
            if it.words[lib.MW_WORD_TOLD]:
                _write(statm, 0, _statm(0))
                _write(meminfo, at, f"{CALM // 1024:8}")

        def trial() -> None:
            nonlocal noted
            held = _Held(back)
            self.say("armed")
            while not self.is_asked() or it.words[lib.MW_WORD_PHASE] != lib.MW_BRAKE_WATCHING:
                times[noted % NOTES] = clock()
                noted += 1
                time.sleep(STEP)
            del held

        for _ in self.orders():
            deadline = time.monotonic() + LONGEST
            while it.words[lib.MW_WORD_HEADROOM] < RESUME and time.monotonic() < deadline:
                lib.mw_brake_ring(it.handle)
                time.sleep(STEP)
            noted = 0
            braked = _is_braked(trial)
            words = self.words()
            let_go = max(words["WAIT_NS"], words["HELD_NS"])
            ran = next((times[n] for n in range(min(noted, NOTES)) if times[n] > let_go), 0)
            self.say("ended", braked=braked, ran=ran, words=words)

    def race(self) -> None:
        """Trials that take what they are told to, as fast as they can, and keep it until they are asked to end."""
        it = running.current
        assert it is not None
        for order in self.orders():
            if order["what"] == "room":
                self.say("room", size=(it.sampler.headroom() or 0) - it.marks.brake)
                continue
            braked = _is_braked(partial(self._fill, order["size"], order["how"]))
            self.say("ended", braked=braked)

    def _fill(self, size: int, how: str) -> None:
        self.say("armed")
        while not self.is_asked():
            time.sleep(STEP)
        kept = FILLS[how](size)
        self.say("filled")
        while not os.path.exists(self._end):
            time.sleep(0.001)
        del kept


def _is_braked(trial: Callable[[], object]) -> bool:
    try:
        brake.guard(trial)()
    except EmergencyBrake:
        return True
    return False


def _pages(size: int, advice: int) -> object:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    piece = b"\1" * MiB
    for at in range(0, size, MiB):
        memory[at : at + MiB] = piece
    return memory


def _objects(size: int) -> object:
    return [bytearray(b"\1") * MiB for _ in range(size // MiB)]


FILLS: dict[str, Callable[[int], object]] = {
    "4 KiB pages": lambda size: _pages(size, mmap.MADV_NOHUGEPAGE),
    "huge pages": lambda size: _pages(size, mmap.MADV_HUGEPAGE),
    "bytearrays": _objects,
}


def _crossing(folder: str, root: str, meminfo: str, at: int, statm: str) -> None:
    marks = {"brake": BRAKE, "resume": RESUME, "warn": WARN, "settle": 0, "hold": 0}
    brake.start(root=root, board=os.path.join(folder, "board"), max_brakes=10**6, **marks)  # type: ignore[arg-type]
    worker = _Worker(folder)
    worker.say("started")
    worker.cross(meminfo, at, statm)


def _racing(folder: str) -> None:
    brake.start(board=os.path.join(folder, "board"), max_brakes=10**6)
    worker = _Worker(folder)
    worker.say("started")
    worker.race()


def main() -> None:
    run({"crossing": _crossing, "racing": _racing})


# -------------------------------------------------------------------------- who gives orders ---


def _write(path: str, at: int, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, text.encode(), at)
    finally:
        os.close(fd)


def _statm(grown: int) -> str:
    """As long each time: it is read while it is written."""
    return f"99999 {(BASE + grown) // mmap.PAGESIZE} 10 5 0 99999 0\n"


class _Crew:
    """Workers that were started, and what they say."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._pipes: dict[int, int] = {}
        self._said: dict[int, bytes] = {}
        self.workers: list[Any] = []

    def start(self, part: str, enter: Callable[[int], None] | None, **arguments: Any) -> None:
        number, given = len(self.workers), json.dumps(arguments)
        worker = measuring._interpreter(measuring._START, measuring._PARENT, "measuring_workers", part, given)
        self._stack.callback(_end, worker)
        self.workers.append(worker)
        self._said[number] = b""
        if enter is not None:
            enter(worker.pid)

    def go(self, number: int) -> None:
        """It has loaded all it needs, beside the others, and now begins to watch."""
        self._send(number, "go\n")
        self.expect(number, "started")

    def _send(self, number: int, text: str) -> None:
        worker = self.workers[number]
        worker.stdin.write(text)
        worker.stdin.flush()

    def order(self, number: int, what: str, **more: Any) -> None:
        self._send(number, json.dumps({"what": what, **more}) + "\n")

    def next(self, among: Sequence[int]) -> tuple[int, dict[str, Any]]:
        """Who of these says something next, and what; {"what": "died"} of one that has ended."""
        deadline = time.monotonic() + LONGEST
        while True:
            for number in among:
                if b"\n" in self._said[number]:
                    line, _, self._said[number] = self._said[number].partition(b"\n")
                    return number, json.loads(line)
            pipes = {self.workers[number].stdout.fileno(): number for number in among}
            there = select.select(list(pipes), [], [], max(deadline - time.monotonic(), 0))[0]
            if not there:
                raise Unmeasured(f"{len(among)} of {len(self.workers)} workers said nothing for {LONGEST} s")
            for pipe in there:
                piece = os.read(pipe, 65536)
                if not piece:
                    return pipes[pipe], {"what": "died"}
                self._said[pipes[pipe]] += piece

    def expect(self, number: int, what: str) -> dict[str, Any]:
        _, line = self.next([number])
        if line["what"] != what:
            raise Unmeasured(f"a worker said {line} where {what!r} was due")
        return line

    def has_said(self, number: int) -> bool:
        return b"\n" in self._said[number] or bool(select.select([self.workers[number].stdout], [], [], 0)[0])


def _end(worker: Any) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        with suppress(BrokenPipeError):  # an order that it never read
            pipe.close()


@contextmanager
def crossing(folder: str, count: int) -> Iterator[Callable[[Sequence[int]], dict[str, Any]]]:
    """So many workers on a scripted machine; what is given makes them cross, and takes how much each has grown."""
    root = Path(folder) / "machine"
    root.mkdir()
    tree = ProcTree(root)
    tree.machine(available=CALM)
    meminfo = root / "proc" / "meminfo"
    at = meminfo.read_bytes().index(b"kB", meminfo.read_bytes().index(b"MemAvailable:")) - 9
    statms = []
    with ExitStack() as stack:
        crew = _Crew(stack)
        for number in range(count):
            statms.append(str(root / "proc" / str(1000 + number) / "statm"))
            arguments = {"root": str(root), "meminfo": str(meminfo), "at": at, "statm": statms[number]}
            crew.start("crossing", None, folder=folder, **arguments)
        for number in range(count):
            # Who opens "this process" keeps what it has found: each has a size of its own.
            tree.process(1000 + number, rss=BASE)
            me = root / "proc" / "self"
            me.unlink()
            me.symlink_to(str(1000 + number))
            crew.go(number)
        before = [0] * count

        def cross(sizes: Sequence[int]) -> dict[str, Any]:
            for statm in statms:
                _write(statm, 0, _statm(0))
            for number in range(count):
                crew.order(number, "begin")
                crew.expect(number, "armed")
            for statm, size in zip(statms, sizes, strict=True):
                _write(statm, 0, _statm(size))
            crossed = clock()
            _write(str(meminfo), at, f"{LOW // 1024:8}")
            everybody = list(range(count))
            victim, line = crew.next(everybody)
            ended = {victim: line}
            others = [number for number in everybody if number != victim]
            for number in others:
                crew.order(number, "end")
            ended |= {number: crew.expect(number, "ended") for number in others}
            seen = [{**ended[number]["words"], "ran": ended[number]["ran"]} for number in everybody]
            brakes = [it["BRAKES"] - had for it, had in zip(seen, before, strict=True)]
            before[:] = [it["BRAKES"] for it in seen]
            return {"crossed": crossed, "victim": victim, "sizes": list(sizes), "brakes": brakes, "seen": seen}

        yield cross


@contextmanager
def racing(folder: str, count: int, enter: Callable[[int], None]) -> Iterator[Callable[[str, int], dict[str, Any]]]:
    """So many workers in the cgroup that *enter* puts them into; what is given makes them race, so that some fit."""
    end = Path(folder) / END
    with ExitStack() as stack:
        crew = _Crew(stack)
        for _ in range(count):
            crew.start("racing", enter, folder=folder)
        for number in range(count):
            crew.go(number)

        def race(how: str, fit: int) -> dict[str, Any]:
            crew.order(0, "room")
            size = int(crew.expect(0, "room")["size"] / (fit + 0.5)) // MiB * MiB
            there = list(range(count))
            for number in there:
                crew.order(number, "begin", size=size, how=how)
            for number in there:
                crew.expect(number, "armed")
            began = clock()
            for number in there:
                crew.order(number, "fill")
            full: set[int] = set()
            died, quiet = 0, 0.0
            # Who has filled may be braked all the same; so until nobody was for longer than that takes.
            while not full >= set(there) or time.monotonic() < quiet:
                if full >= set(there) and not any(map(crew.has_said, there)):
                    time.sleep(0.005)
                    continue
                number, line = crew.next(there)
                quiet = time.monotonic() + 0.2
                if line["what"] == "filled":
                    full.add(number)
                    continue
                there.remove(number)
                died += line["what"] == "died"
            end.touch()
            for number in there:
                crew.expect(number, "ended")
            end.unlink()
            if died:
                raise Unmeasured(f"{died} of {count} workers died in a race of {how}")
            return {"lost": count - len(there), "least": count - fit, "size": size, "took": clock() - began}

        yield race
