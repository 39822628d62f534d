"""Runs a script, armed as the watchdog arms a worker, and looks at it until it ends: memory, trials and brakes."""

import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from . import config, inject, spawn, trip
from .board import Board, Slot
from .errors import BoardError, MemwatchError
from .leaks_census import Growth
from .model import Watermarks, escape
from .sampler import Sampler, least_limit
from .slot_values import trials_of
from .spawn import Relative

POINTS_MOST = 4000  # then every second one goes; a plot is 1,200 pixels wide
EVERY_LEAST, EVERY_MOST = 0.05, 1.0  # s; a look takes 0.5 ms, for it reads the list of all processes
_TERMINAL = 0x80  # SI_KERNEL: the terminal has sent it to the script as well
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Point(NamedTuple):
    """
    One look. Seconds since the start, and bytes; None is unknown.

    Attributes:
        rss: Of the script and all it started; pages that several share count in each.
        live: What allocators have handed out in its Pythons.
        headroom: What is left before somebody is killed.
        budget, filled: What buffers say they will hold, and do already.
        modules: How many its Pythons have imported.
    """

    time: float
    rss: int | None
    live: int | None = None
    headroom: int | None = None
    budget: int = 0
    filled: int = 0
    modules: int = 0


class Span(NamedTuple):
    """A trial: when it began and ended (None: when the script did), in seconds since the start, and its label."""

    begin: float
    end: float | None
    label: str


class Found(NamedTuple):
    """
    What has grown, as it was seen from inside of one Python.

    Attributes:
        since, until: The stretch of time, in seconds since that Python began.
        traced: Allocation sites were traced meanwhile.
        growths: Of kinds of things.
    """

    since: float
    until: float
    traced: bool
    growths: tuple[Growth, ...]


class Run(NamedTuple):
    """
    How a run went.

    Attributes:
        command: What was run.
        status: As of subprocess: negative is a signal.
        duration: Seconds.
        points, spans, brakes: What was seen; brakes in seconds since the start.
        trials: How many; spans may be fewer, where they were short.
        marks: What the brake went by.
        peak: RSS at its highest, of all looks, and of the kernel's own count for its Pythons.
        found: From inside; empty where that could not tell.
        inside: A Python of it was seen from inside.
        most: How many processes there were at once.
        over: When its own code had ended, in seconds since the start: what is freed then says nothing of before.
    """

    command: tuple[str, ...]
    status: int
    duration: float
    points: list[Point]
    spans: list[Span]
    brakes: list[float]
    trials: int
    marks: Watermarks
    peak: int | None
    found: list[Found]
    inside: bool
    most: int
    over: float = math.inf


def thin(points: list[Point]) -> list[Point]:
    """Every second one, with the higher RSS of the two, so that a peak stays; first and last stay as they are."""
    kept = points[:1]
    for first, second in zip(points[1:-1:2], points[2:-1:2], strict=False):
        kept.append(max(first, second, key=lambda it: it.rss or 0))
    return kept + points[-1:]


# ------------------------------------------------------------------------ what is read ---


class Lines:
    """PID.live of leaks_inside.py, read as it grows: its last line."""

    def __init__(self, path: str) -> None:
        self._path, self._offset = path, 0
        self.last: tuple[float, int, int, int, int] | None = None

    def read(self) -> None:
        with suppress(OSError), open(self._path, "rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            words = whole.rpartition(b"\n")[2].split()
            if len(words) == 5:
                live, budget, filled, modules = map(int, words[1:])
                self.last = float(words[0]), live, budget, filled, modules


def found_in(folder: str) -> tuple[list[Found], int, int, float]:
    """
    What the Pythons of the script wrote: what grew, how many trials and brakes they had, and when the last of them
    came to its end (on the monotonic clock).
    """
    found, trials, brakes, ended = [], 0, 0, 0.0
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        with suppress(OSError, ValueError, TypeError, KeyError):
            with open(f"{folder}/{name}", encoding="utf-8") as file:
                said = json.load(file)
            growths = tuple(Growth(*it) for it in said["growths"])
            found.append(Found(said["from"], said["until"], said["traced"], growths))
            trials, brakes = trials + trials_of(said.get("epoch", 0)), brakes + said.get("brakes", 0)
            ended = max(ended, said.get("ended", math.inf))  # who was killed could not say
    return found, trials, brakes, ended or math.inf


# ---------------------------------------------------------------------------- looking ---


class Watch:
    """What is seen of a script: a look, and all of them so far."""

    def __init__(self, pid: int, board: Board, folder: str) -> None:
        self._pid, self._board, self._folder = pid, board, folder
        self.began = time.monotonic()
        self.points: list[Point] = []
        self.brakes: list[float] = []
        self.peak: int | None = None
        self.most = 1
        self.every = EVERY_LEAST
        self._family, self._sampler = spawn.Family(), Sampler()
        self._lines: dict[int, Lines] = {}
        self._spans: dict[tuple[int, int], Span] = {}
        self._epochs: dict[int, int] = {}
        self._braked: dict[int, int] = {}

    def look(self) -> None:
        """One point more; the last ones of a script that has ended may lack what it took with it."""
        now = time.monotonic() - self.began
        family = self._relatives()
        self.most = max(self.most, len(family))
        known = [it.rss for it in family if it.rss is not None]
        rss = sum(known) if known else None
        pids = {it.pid for it in family}
        for pid in pids - self._lines.keys():
            self._lines[pid] = Lines(f"{self._folder}/{pid}.live")
        said = []
        for pid in pids:
            self._lines[pid].read()
            if (last := self._lines[pid].last) is not None:
                said.append(last)
        self._read_slots(pids, now)
        if not rss:  # it has ended
            return
        self.peak = max(rss, self.peak or 0)
        live = sum(it[1] for it in said) if said else None
        budget, filled, modules = sum(it[2] for it in said), sum(it[3] for it in said), sum(it[4] for it in said)
        self.points.append(Point(now, rss, live, self._sampler.headroom(), budget, filled, modules))
        self.every = max(self.every, min(now / 200, EVERY_MOST))
        if len(self.points) >= POINTS_MOST:
            self.points = thin(self.points)
            self.every *= 2

    @property
    def inside(self) -> bool:
        return any(it.last is not None for it in self._lines.values())

    @property
    def trials(self) -> int:
        return sum(map(trials_of, self._epochs.values()))

    @property
    def spans(self) -> list[Span]:
        return sorted(self._spans.values())

    def _relatives(self) -> list[Relative]:
        """The script and what descends from it; we may have other children."""
        pids = {self._pid}
        found = []
        with suppress(OSError):
            for it in self._family.look():
                if it.pid in pids or it.ppid in pids:
                    pids.add(it.pid)
                    found.append(it)
        return found

    def _read_slots(self, pids: set[int], now: float) -> None:
        slots: list[Slot] = []
        with suppress(BoardError, OSError):
            slots = [it for it in self._board.slots() if it.place.owner.pid in pids]
        for slot in slots:
            pid, work, live = slot.place.owner.pid, slot.work(), slot.live()
            if live is not None:
                self._see_brakes(pid, live.brakes, now)
                # The kernel's own peak: what came and went between two looks.
                self.peak = max(live.rss_peak or 0, self.peak or 0)
            if work is not None:
                start = now if work.trial_start is None else max(work.trial_start - self.began, 0.0)
                self._see_trial(pid, work.epoch, start, work.label, now)

    def _see_brakes(self, pid: int, brakes: int, now: float) -> None:
        self.brakes += [now] * (brakes - self._braked.get(pid, 0))
        self._braked[pid] = brakes

    def _see_trial(self, pid: int, epoch: int, start: float, label: str, now: float) -> None:
        before = self._epochs.get(pid, 0)
        if epoch == before:
            return
        running = self._spans.get((pid, before))
        if running is not None and running.end is None:
            # One that began since ended it no earlier than now, or than that one's begin.
            self._spans[pid, before] = running._replace(end=max(running.begin, min(start, now) if epoch % 2 else now))
        if epoch % 2:
            self._spans[pid, epoch] = Span(start, None, label)
            if len(self._spans) > POINTS_MOST:
                self._spans = dict(list(self._spans.items())[1::2])
        self._epochs[pid] = epoch

    def close(self) -> None:
        self._sampler.close()


# ---------------------------------------------------------------------------- running ---


def run(settings: config.Settings, command: Sequence[str], program: str, *, stdout: int | None = None) -> Run:
    """
    Runs *command*, whose terminal is ours, to its end.

    Ctrl-C reaches it, as do SIGTERM and SIGHUP to us; we go on until it has ended. *stdout* is a descriptor, or ours.

    Raises:
        MemwatchError: It cannot be started.
    """
    with Sampler() as sampler:
        marks = config.marks_for(settings, least_limit(sampler))
    with _folder() as folder, Board.open(f"{folder}/board", create=True) as board, _signals() as came:
        environ = _environment(os.environ, settings, marks, folder)
        try:
            child = subprocess.Popen([*command], executable=program, env=environ, stdout=stdout)
        except OSError as error:
            raise MemwatchError(f"{escape(program)} cannot be run ({error.strerror})") from None
        watch = Watch(child.pid, board, f"{folder}/inside")
        try:
            _follow(child, watch, came)
        finally:
            watch.close()
        duration = time.monotonic() - watch.began
        found, trials, brakes, ended = found_in(f"{folder}/inside")
    watch.brakes += [duration] * (brakes - len(watch.brakes))
    return Run(
        command=tuple(command),
        status=child.returncode,
        duration=duration,
        points=watch.points,
        spans=watch.spans,
        brakes=watch.brakes,
        trials=max(trials, watch.trials),
        marks=marks,
        peak=watch.peak,
        found=found,
        inside=watch.inside,
        most=watch.most,
        over=ended - watch.began,
    )


def _environment(base: Mapping[str, str], settings: config.Settings, marks: Watermarks, folder: str) -> dict[str, str]:
    try:
        environ = inject.environment(
            base,
            worker=1,
            numbers=trip.numbers(marks, config.patience(settings)),
            near=marks.warn,
            board=f"{folder}/board",
            state=f"{folder}/state",
            settings_environment=settings.environment(),
        )
    except ValueError as error:
        raise MemwatchError(str(error)) from None
    environ["MEMWATCH_ARM"] += f"\n{folder}/inside"  # _inject/sitecustomize.py takes it from there
    return environ


def _follow(child: "subprocess.Popen[bytes]", watch: Watch, came: list[int]) -> None:
    """Looks until it has ended, and passes on signals that it has not got."""
    waited = _PASSED_ON | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    due = watch.began
    while child.poll() is None:
        for number in came:
            child.send_signal(number)
        came.clear()
        if time.monotonic() >= due:
            watch.look()
            due = max(due + watch.every, time.monotonic() + watch.every / 2)
        info = signal.sigtimedwait(waited, max(due - time.monotonic(), 0.0))
        if info is not None and info.si_signo in _PASSED_ON and info.si_code != _TERMINAL:
            child.send_signal(info.si_signo)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """
    Those that end others are read by _follow() meanwhile; the list is of what comes before it does.

    A handler and no SIG_IGN or blocked signal while the script is started: it would inherit these.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    for each in _PASSED_ON:
        if signal.getsignal(each) is not signal.SIG_IGN:  # nohup: the script ignores it as well
            before[each] = signal.signal(each, lambda number, _: came.append(number))
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield came
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _folder() -> Iterator[str]:
    """For the board and what is said from inside; in shared memory where there is room."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    folder = tempfile.mkdtemp(prefix="memwatch-leaks-", dir=memory)
    try:
        for name in ("inside", "state"):
            os.mkdir(f"{folder}/{name}", 0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
