"""
Several workers on one board, below one limit or several: on a machine of our making, or in a real cgroup.

Who gives orders is a Crew; its members are processes of this file, `python -m support.crew NUMBER ...`. Each runs a
trial when it is told to, and says what became of it. On a scripted machine memory is shared, each member has a resident
size of its own, and what a trial took comes back when nobody refers to it any more: in the member itself, before its
brake is over.
"""

import contextlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import memwatch
from memwatch.board import Board
from memwatch.model import MiB
from memwatch.slot import BrakePhase, Live, Slot
from memwatch.testing import Eater, ProcTree
from support import delivery
from support.cgroups import Cgroup
from support.delivery import DEADLINE, TESTS, Scripted, ready, say
from support.wait import until

# So near the watermark each looks once a millisecond: who crosses together is seen together.
BRAKE, RESUME, WARN, CALM = (1000 * MiB + gap * MiB for gap in (0, 4, 8, 12))
LOW, URGENT = BRAKE - 60 * MiB, BRAKE - 450 * MiB
LIMIT = 4000 * MiB  # of a scripted cgroup
BASE, MOST = 40 * MiB, 350 * MiB  # what a member has before its trial, and by how much it may grow

SCRIPTED = {"brake": BRAKE, "resume": RESUME, "warn": WARN, "settle": 0, "max_brakes": 1_000_000}

# The board's second page is its tokens, a key and a word each; csrc/board.h has the word.
_TOKENS, _PAGE, _GENERATION, _EPOCH, _DEADLINE = 64, 4096, 10, 16, 32

_FREEZERS = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup")

Order = dict[str, Any]


# ------------------------------------------------------------------------- a scripted machine ---


class Patch(NamedTuple):
    """What one of the machine's files says from now on; as long as what it said before."""

    path: str
    at: int
    text: str

    def apply(self) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, self.text.encode(), self.at)
        finally:
            os.close(fd)


class Machine:
    """
    A machine in a folder, and its processes.

    Args:
        folder: Where to make it; it must not exist.
        groups: The cgroup of each member that has one, by number.
    """

    def __init__(self, folder: Path, groups: dict[int, str] | None = None) -> None:
        folder.mkdir()
        self.root = folder
        self._groups = groups or {}
        self._tree = ProcTree(folder, version=1)
        self._tree.machine(total=8_000_000 * 1024, available=CALM)
        if groups:
            self._tree.machine(total=8_000_000 * 1024)
        for group in {*self._groups.values()}:
            self._tree.group(group, limit=LIMIT, usage=LIMIT - CALM)

    def enter(self, number: int) -> None:
        """Who opens "this process" from now on is the member of that number."""
        pid = 1000 + number
        self._tree.process(pid, rss=BASE)
        self._tree.join(self._groups.get(number, "/"), pid)
        me = self.root / "proc/self"
        me.unlink()
        me.symlink_to(str(pid))

    def left(self, size: int, group: str | None = None) -> Patch:
        """So much can still be taken, below the limit of *group*; None is the machine."""
        if group is not None:
            folder = self.root / "sys/fs/cgroup/memory" / group.lstrip("/")
            return Patch(str(folder / "memory.usage_in_bytes"), 0, f"{LIMIT - size}\n")
        file = self.root / "proc/meminfo"
        text = file.read_bytes()
        at = text.index(b"kB", text.index(b"MemAvailable:")) - 9
        return Patch(str(file), at, f"{size // 1024:8}")

    def grown(self, number: int, size: int) -> Patch:
        """The member has so much more than at first."""
        pages, shared = (BASE + size) // mmap.PAGESIZE, BASE // mmap.PAGESIZE // 1024
        statm = self.root / "proc" / str(1000 + number) / "statm"
        return Patch(str(statm), 0, f"99999 {pages} {shared} 5 0 99999 0\n")


# ------------------------------------------------------------------------------- who is there ---


class Member(Scripted):
    """A worker: Scripted, but that its machine and its board are the crew's."""

    def __init__(self, number: int, crew: "Crew", errors: Path) -> None:
        self.number = number
        self._crew = crew
        self._errors = errors
        self._said = b""
        self._slot: Slot | None = None
        gate, self._gate = os.pipe()
        command = [sys.executable, "-P", "-m", "support.crew", str(number), str(gate), str(crew.folder)]
        with errors.open("wb") as file:
            options: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": file,
                "env": crew.environment,
                "pass_fds": [gate],
            }
            self.process = (
                subprocess.Popen(command, **options) if crew.group is None else crew.group.start(command, **options)
            )
        os.close(gate)

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def has_said(self) -> bool:
        """There is a line to be had, or it has ended."""
        return b"\n" in self._said or bool(select.select([self.process.stdout], [], [], 0)[0])

    def open_gate(self) -> None:
        """Its trial may end."""
        os.write(self._gate, b"\n")

    @property
    def live(self) -> Live:
        """What its brake saw last."""
        if self._slot is None:
            slots = {slot.owner.pid: slot for slot in self._crew.board.slots()}
            self._slot = slots[self.pid]
        # None where a writer was met each time.
        return until(self._slot.live, what=f"a look of member {self.number}")

    def reaches(self, *phases: BrakePhase) -> None:
        until(lambda: self.live.phase in phases, what=f"{phases} of member {self.number}, at {self.live.phase}")

    def looks(self, seconds: float) -> None:
        """Until its brake has looked for so long from now on."""
        since = self.live.time or 0.0
        until(lambda: (self.live.time or 0.0) > since + seconds, what=f"another {seconds} s of looks")

    @property
    def count(self) -> int:
        """How often its trial has gone round."""
        return self._crew.counters[self.number]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._gate)
        self.__exit__(None, None, None)


class Crew:
    """
    So many workers, all started and none in a trial.

    Args:
        folder: An empty one.
        count: How many.
        machine: What they look at; None is the real one.
        group: A cgroup to start them in.
        settings: Of memwatch.start().
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        machine: Machine | None = None,
        group: Cgroup | None = None,
        loads: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.folder, self.machine, self.group = folder, machine, group
        variables = {key: value for key, value in os.environ.items() if not key.startswith("MEMWATCH_")}
        self.environment = variables | {"MEMWATCH_BOARD": str(folder / "board")}
        # pytest found this package by its own settings; a process of its own does not.
        self.environment["PYTHONPATH"] = os.pathsep.join(
            [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])],
        )
        if machine is not None:
            self.environment["SCRIPTED_MACHINE"] = str(machine.root)
        counters = folder / "counters"
        counters.write_bytes(bytes(8 * count))
        self.counters = _counters(counters)
        self.board = Board.open(folder / "board", create=True)
        self.members: list[Member] = []
        try:
            for number in range(count):
                self.members.append(Member(number, self, folder / f"stderr-{number}"))
            for it in self.members:
                it.expect("there")
                if machine is not None:
                    machine.enter(it.number)
                it.order(do="start", loads=list(loads), settings=settings)
                it.expect("started")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for it in self.members:
            # One that is stopped is killed all the same.
            it.close()
        self.board.close()
        self.counters.release()

    def kills(self) -> int:
        """How many processes the kernel has killed in the cgroup."""
        assert self.group is not None
        lines = self.group.read("memory.oom_control" if self.group.version == 1 else "memory.events").splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def begin(self, *orders: Order) -> None:
        """A trial in each member that an order is given for, one after the other: the last one is the newest."""
        for it, order in zip(self.members, orders, strict=False):
            if order:
                it.order(do="trial", **order)
                it.expect("armed")

    def grow(self, *sizes: int) -> None:
        """What each member's trial has taken."""
        assert self.machine is not None
        for it, size in zip(self.members, sizes, strict=False):
            self.machine.grown(it.number, size).apply()

    def fall(self, size: int = LOW, group: str | None = None) -> None:
        """So much is left."""
        assert self.machine is not None
        self.machine.left(size, group).apply()

    def next(self, among: Sequence[Member] | None = None) -> tuple[Member, dict[str, Any]]:
        """The next that has something to say, and what."""
        members = self.members if among is None else among
        for it in members:
            if b"\n" in it._said:
                break
        else:
            pipes = {it.process.stdout: it for it in members}
            there = select.select(list(pipes), [], [], DEADLINE)[0]
            assert there, f"nobody says anything for {DEADLINE} s: {[it.live.phase for it in members]}"
            it = pipes[there[0]]
        line = it.line()
        assert line is not None, f"member {it.number} has ended with {it.wait()}:\n{it.stderr}"
        return it, line

    def tokens(self) -> list[tuple[int, float]]:
        """Of each token that somebody has, or had: the slot, and until when, on the monotonic clock."""
        words = memoryview((self.folder / "board" / "board").read_bytes()[_PAGE : 2 * _PAGE]).cast("Q")[1::2]
        now = time.monotonic_ns() // 1_000_000
        found = []
        for word in words:
            if word:
                left = (word - now) % 2**_DEADLINE
                left -= 2**_DEADLINE if left >= 2 ** (_DEADLINE - 1) else 0
                found.append((word >> (_GENERATION + _EPOCH + _DEADLINE), (now + left) / 1000))
        return found


def _counters(path: Path) -> "memoryview[int]":
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """
    All threads of a process are frozen by the kernel's freezer, as `docker pause` does, until the end of the `with`.

    Raises:
        OSError: There is no freezer here, or it is not ours to use.
    """
    where = next((it for it in _FREEZERS if (it / "cgroup.procs").exists()), _FREEZERS[-1])
    group = where / f"memwatch-test-{os.getpid()}"
    group.mkdir()
    state, on, off = ("freezer.state", "FROZEN", "THAWED") if where == _FREEZERS[0] else ("cgroup.freeze", "1", "0")
    try:
        # An ordinary folder has no such file; and in that of a real group nobody may make one.
        (group / state).read_text()
        home = _group_of(pid, where)
        (group / "cgroup.procs").write_text(str(pid))
        try:
            (group / state).write_text(on)
            if on == "FROZEN":
                until(lambda: (group / state).read_text().strip() == on, what=f"that {pid} is frozen")
            yield
        finally:
            (group / state).write_text(off)
            with contextlib.suppress(ProcessLookupError):
                (home / "cgroup.procs").write_text(str(pid))
    finally:
        until(lambda: _removed(group), what=f"that {group} is removed")


def _group_of(pid: int, where: Path) -> Path:
    name = "freezer" if where == _FREEZERS[0] else ""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if name in controllers.split(","):
            return where / path.lstrip("/")
    raise FileNotFoundError(f"process {pid} is in no group of {where}")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def can_freeze() -> str:
    """Why frozen() cannot be had; "" when it can."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with frozen(child.pid):
            return ""
    except OSError as error:
        return f"no process can be frozen here: {error}"
    finally:
        child.communicate(b"\n")


# ------------------------------------------------------------------------------- the process ---


class _Held:
    """What a trial took: once nobody refers to it, memory is there again, if the trial was braked."""

    def __init__(self, worker: "_Worker", patches: Sequence[Sequence[Any]], waits: bool) -> None:
        self._worker = worker
        self._patches = [Patch(*patch) for patch in patches]
        self._before = worker.word("BRAKES")
        self._waits = waits

    def __del__(self) -> None:
        if self._worker.word("BRAKES") == self._before:
            return
        if self._waits:
            say("gives back")
            self._worker.wait_for_gate()
        for patch in self._patches:
            patch.apply()


class _Worker:
    """A member's own side."""

    def __init__(self, number: int, gate: int, folder: Path) -> None:
        self._number, self._gate = number, gate
        self._counters = _counters(folder / "counters")
        self._words = memoryview(b"")

    def word(self, name: str) -> int:
        from memwatch._native import lib

        return self._words[getattr(lib, f"MW_WORD_{name}")]

    def start(self, loads: list[str], settings: dict[str, Any]) -> None:
        from memwatch import running

        for name in loads:
            __import__(name)  # what it costs to load is no part of the trial
        if "SCRIPTED_MACHINE" in os.environ:
            delivery.start(**(SCRIPTED | settings))
        else:
            memwatch.start(**settings)
        assert running.current is not None
        self._words = running.current.words
        say("started")

    def room(self) -> None:
        """How much all can take together until one of them must brake."""
        from memwatch import running

        it = running.current
        assert it is not None
        say("room", size=(it.sampler.headroom() or 0) - it.marks.brake)

    def wait_for_gate(self) -> None:
        select.select([self._gate], [], [])

    def _is_shut(self) -> bool:
        return not select.select([self._gate], [], [], 0)[0]

    def trial(self, how: str = "wait", threads: int = 0, **order: Any) -> None:
        """One trial, or one in each of so many threads at once; and what became of it."""
        if not self._is_shut():
            os.read(self._gate, 4096)  # it was opened for one that was braked
        if "SCRIPTED_MACHINE" in os.environ:
            ready()
        if not threads:
            self._say_ended([self._guarded(how, order, "trial")])
            return
        outcomes: list[str] = []

        def one(number: int) -> None:
            outcomes.append(self._guarded(how, {**order}, f"trial {number}"))

        todo = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
        for thread in todo:
            thread.start()
            armed.acquire()
        say("armed")
        for thread in todo:
            thread.join()
        self._say_ended(outcomes)

    def _say_ended(self, outcomes: list[str]) -> None:
        names = ("BRAKES", "WAITS", "HOLDS", "HELD_NS", "TOLD_NS", "WAIT_NS", "FREED_NS", "LOWEST")
        say("ended", outcomes=outcomes, **{name.lower(): self.word(name) for name in names})

    def _guarded(self, how: str, order: Order, label: str) -> str:
        try:
            memwatch.guard(self._run, label=order.pop("label", label))(how, order)
        except memwatch.EmergencyBrake as brake:
            return f"braked {brake.label}"
        except memwatch.MemwatchError as error:
            return repr(error)
        return "returned"

    def _run(self, how: str, order: Order) -> None:
        held = _Held(self, order.pop("back", []), order.pop("waits", False))
        getattr(self, f"_{how}")(held, **order)

    # What a trial may do. It keeps `held` until it ends.

    def _armed(self) -> None:
        if threading.current_thread() is threading.main_thread():
            say("armed")
        else:
            armed.release()

    def _wait(self, _held: _Held) -> None:
        self._armed()
        self.wait_for_gate()

    def _go_round(self, _held: _Held) -> None:
        self._armed()
        while self._is_shut():
            self._counters[self._number] += 1
            time.sleep(0.001)

    def _deaf(self, _held: _Held) -> None:
        """It hears nothing of a brake."""
        with _masked():
            self._armed()
            self.wait_for_gate()

    def _shield(self, held: _Held) -> None:
        with memwatch.shield():
            self._go_round(held)

    def _shield_once_told(self, held: _Held) -> None:
        """Told just before it begins a commit."""
        with _masked():
            self._armed()
            while not self.word("TOLD"):
                time.sleep(0.001)
            # Not `with`: it would be cut at its end, where the test asks what becomes of one that is not.
            with memwatch.shield():
                while self._is_shut():
                    self._counters[self._number] += 1
                    time.sleep(0.001)

    def _with_child(self, _held: _Held, size: int) -> None:
        """What it needs is in a child that it started."""
        with Eater() as child:
            child.anonymous(size)
            self._armed()
            self.wait_for_gate()

    def _fill(self, _held: _Held, size: int, kind: str) -> None:
        """Once the gate is open, takes so many bytes as fast as it can; keeps them until it is open again."""
        self._armed()
        self.wait_for_gate()
        os.read(self._gate, 1)
        kept = FILLS[kind](size)
        say("filled")
        self.wait_for_gate()
        del kept

    def serve(self) -> None:
        say("there")
        for line in sys.stdin:
            order = json.loads(line)
            getattr(self, order.pop("do"))(**order)


armed = threading.Semaphore(0)


@contextlib.contextmanager
def _masked() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})


# --------------------------------------------------------------------------- what fills memory ---


def _pages(size: int, advice: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    piece = b"\1" * MiB
    for at in range(0, size, MiB):
        memory[at : at + MiB] = piece
    return memory


def _small_pages(size: int) -> Any:
    return _pages(size, mmap.MADV_NOHUGEPAGE)


def _huge_pages(size: int) -> Any:
    return _pages(size, mmap.MADV_HUGEPAGE)


def _threads(size: int) -> Any:
    """Four threads, each in a system call that fills its part with the interpreter lock released."""
    kept: list[Any] = []
    zeros = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)

    def fill() -> None:
        kept.append(memory := mmap.mmap(-1, size // 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        with memoryview(memory) as view:
            at = 0
            while at < size // 4:
                at += os.readv(zeros, [view[at : at + MiB]])  # fewer where a signal came

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(zeros)
    return kept


def _numpy(size: int) -> Any:
    import numpy as np

    kept = []
    for _ in range(size // MiB):
        kept.append(np.ones(MiB // 8))  # noqa: PERF401 - a loop that can be cut, as training is
    return kept


FILLS = {"4 KiB pages": _small_pages, "huge pages": _huge_pages, "threads": _threads, "numpy": _numpy}


if __name__ == "__main__":
    _Worker(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).serve()
