"""
What `memwatch leaks` has run inside of the script: live bytes over time, and once they grow, what grew.

It writes PID.live, a line a look, and PID.json, what grew so far, to a folder that `memwatch leaks` reads.
Nothing is traced before live bytes have grown twice while the time doubled, and no longer than they go on growing.
"""

import _imp
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from . import holding

if TYPE_CHECKING:
    from .leaks_census import Census, Growth

EVERY_LEAST, EVERY_MOST = 0.05, 1.0  # s; a look takes 3 us, and 1 ms where the heap is in pieces
FIRST = 0.5  # s; then at each doubling
# Of a floor to the next: less is a cache that fills, or what a thread keeps for itself.
GROWN, GROWN_SHARE = 2**20, 0.02
OWN = ("memwatch/leaks_", "memwatch/holding.py", "memwatch.leaks_", "<frozen importlib")  # sites, and types
IMPORTS_MOST = 10  # modules in a stretch that explain why live bytes grew
KEPT = 20  # of each kind
TRACED_MOST = 30.0  # s at a time
SUSPECT_SHARE = 0.1
COST_SHARE = 0.02  # of the time; a census takes 0.3 s in a process that has torch


class Look(NamedTuple):
    """Live bytes, what buffers will hold and do already, modules, and when (seconds on the monotonic clock)."""

    time: float
    live: int
    budget: int
    filled: int
    modules: int


class Doubling:
    """
    Whether live bytes grow: the least of a stretch of time against that of the stretch before, half as long.

    Only the second half of a stretch counts: in the first its beginning may still be seen, as a trial that fills.
    """

    def __init__(self, first: float) -> None:
        self.until = first
        self.floors: list[int] = []  # of the stretches so far, the last three
        self._least: int | None = None

    def add(self, age: float, size: int) -> bool:
        """One look, at this age; whether a stretch has ended with it."""
        if age >= self.until * 0.75:
            self._least = size if self._least is None else min(size, self._least)
        if age < self.until:
            return False
        if self._least is not None:
            self.floors = [*self.floors[-2:], self._least]
        self._least = None
        while self.until <= age:
            self.until *= 2
        return True

    @property
    def rises(self) -> int:
        """How often in a row they have grown at the end: 0, 1 or 2."""
        count = 0
        for before, after in zip(self.floors[-2::-1], self.floors[:0:-1], strict=False):
            if after - before <= max(GROWN, before * GROWN_SHARE):
                break
            count += 1
        return count


class Found:
    """What has grown in a stretch of time, in seconds since the start."""

    def __init__(self, since: float) -> None:
        self.since = self.until = since
        self.traced = self._deep = False
        self.sites: list[Growth] = []
        self.rest: list[Growth] = []

    @property
    def length(self) -> float:
        return self.until - self.since

    def add(self, found: "list[Growth]", *, deep: bool) -> None:
        """A later look; of two the one that shows more, for a function may have let go meanwhile."""
        sites = [it for it in found if it.kind == "sites"]
        rest = [it for it in found if it.kind != "sites"]
        if _weight(sites) > _weight(self.sites):
            self.sites = sites
        if (deep, _weight(rest)) >= (self._deep, _weight(self.rest)):
            self.rest, self._deep = rest, deep


class Inside:
    """Looks from inside of the script until it ends."""

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/{os.getpid()}"
        self._pid = os.getpid()
        self._began = time.monotonic()
        self._doubling = Doubling(FIRST)
        self._before: Census | None = None
        self._before_age = 0.0
        self._tracing = False
        self._cost = 0.0  # of a census, in seconds
        self._again = self._trace_until = 0.0
        self._blind = self._imports = self._due = False
        self._modules = 0
        self._now = self._best = Found(0.0)
        self._ending = threading.Event()
        self._news = threading.Event()
        self._look: Look | None = None
        self._threads = [
            threading.Thread(target=it, name=f"memwatch-{name}", daemon=True)
            for it, name in ((self._run, "leaks"), (self._run_census, "census"))
        ]

    def start(self) -> None:
        import atexit

        # What a census needs is there before: it does not import, see _still().
        import linecache  # noqa: F401
        import tracemalloc  # noqa: F401

        with suppress(ImportError):  # of the script's Python, which may have none; then _run_census() says so
            import psutil  # noqa: F401
        from . import leaks_census  # noqa: F401

        self._note()
        for thread in self._threads:
            thread.start()
        atexit.register(self._end)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._began

    # ------------------------------------------------------------------------ looking ---

    def _run(self) -> None:
        while not self._ending.wait(min(max(self._age / 200, EVERY_LEAST), EVERY_MOST)):
            if (look := self._note()) is not None:
                self._look = look
                self._news.set()

    def _run_census(self) -> None:
        """In a thread of its own: meanwhile live bytes are looked at as before."""
        try:
            while self._news.wait() and not self._ending.is_set():
                self._news.clear()
                if self._look is not None:
                    self._judge(self._look)
        except Exception as error:  # whatever it is, the script goes on
            self._blind = True
            _tell(f"what grows is not looked for ({type(error).__name__}: {error})")

    def _note(self) -> Look | None:
        """One line more in PID.live. No descriptor is kept: the script's own are numbered as ever."""
        heap = holding.heap()
        if heap is None:
            return None
        look = Look(heap.time, heap.live - self._tables(), *holding.promised(), len(sys.modules))
        with suppress(OSError):
            out = os.open(f"{self._path}.live", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(out, (" ".join(map(str, look)) + "\n").encode())
            finally:
                os.close(out)
        return look

    def _tables(self) -> int:
        """What tracing takes by itself, in bytes."""
        if not self._tracing:
            return 0
        import tracemalloc

        return tracemalloc.get_tracemalloc_memory()

    def _judge(self, look: Look) -> None:
        age = look.time - self._began
        # Not less what buffers hold: theirs is mapped, or was handed out as a whole when they were made.
        ended = self._doubling.add(age, look.live)
        rises = self._doubling.rises
        if ended:  # what is imported stays, and is no leak
            modules, self._modules = self._modules, look.modules
            self._imports = self._modules > modules + IMPORTS_MOST
        if self._imports:
            rises = 0
        if self._tracing and (age >= self._trace_until or (ended and not rises)):
            self._trace(on=False)
        share = SUSPECT_SHARE if rises else COST_SHARE
        if ended and self._cost <= share * (age - self._before_age):
            self._due = True
        if self._due:
            self._trace(on=False)
            self._due = not (self._compare(deep=True, go_on=True) if rises else self._take_before())
        elif self._tracing and age >= self._again:
            self._compare(deep=False)
            self._again = age + max(age - self._before_age, 1.0)
        if ended and rises == 2:
            self._trace(on=True)

    # ------------------------------------------------------------------ what has grown ---

    def _trace(self, *, on: bool) -> None:
        """
        For a while at each doubling at which they still grow: what is traced runs two to six times slower.

        The script may do it itself, and then that goes on.
        """
        import tracemalloc

        from . import leaks_census

        if on and not self._tracing:
            self._tracing = not tracemalloc.is_tracing()
            if self._tracing:
                tracemalloc.start(leaks_census.FRAMES)
                self._again, self._trace_until = self._age + 1.0, self._age + TRACED_MOST
        elif not on and self._tracing:
            self._compare(deep=False)
            tracemalloc.stop()
            self._tracing = False

    def _take_before(self) -> bool:
        """Whether it could."""
        from . import leaks_census

        with _still() as still:
            if still:
                began = self._age
                census = leaks_census.take(deep=True)
                self._cost = self._age - began
                self._begin_with(census)
            return still

    def _begin_with(self, census: "Census") -> None:
        """What grows from here on."""
        self._before, self._before_age = census, self._age
        self._now = Found(self._age)

    def _compare(self, *, deep: bool, go_on: bool = False) -> bool:
        """
        What has grown since, to PID.json; *go_on*: the next stretch begins here. Whether it could be told.

        Objects are counted while nothing is traced, which would make that ten times slower.
        """
        from . import leaks_census

        before = self._before
        if before is None:
            return True
        began = self._age
        with _still() as still:
            if not still:
                return False
            after = leaks_census.take(deep=deep, since=before)
        if deep:
            self._cost = self._age - began
        if self._tracing:
            self._now.traced = True
            after = after._replace(sites=leaks_census._sites())
        self._now.add(_largest(leaks_census.compare(before, after)), deep=deep)
        self._now.until = self._age
        # What was found in a moment says less than what was found in the long stretch before.
        if self._now.length >= self._best.length / 2:
            self._best = self._now
        self._write()
        if go_on:
            self._begin_with(after)
        return True

    def _write(self, **more: float) -> None:
        best = self._best
        said = {
            "pid": self._pid,
            "from": best.since,
            "until": best.until,
            "traced": best.traced,
            "growths": [[it.kind, it.what, it.count, it.bytes, it.where] for it in best.sites + best.rest],
        } | more
        with suppress(OSError):
            with open(f"{self._path}.new", "w", encoding="utf-8", errors="backslashreplace") as out:
                json.dump(said, out)
            os.replace(f"{self._path}.new", f"{self._path}.json")

    # --------------------------------------------------------------------------- the end ---

    def _end(self) -> None:
        """At exit; not of a forked child, which has no such thread."""
        if os.getpid() != self._pid:
            return
        ended = time.monotonic()
        try:
            self._ending.set()
            self._news.set()
            for thread in self._threads:
                thread.join(timeout=10.0)
            self._note()
            if not self._blind:
                self._trace(on=False)
                self._compare(deep=True)
            self._write(ended=ended, **self._board())
        except Exception as error:
            _tell(f"what grew was not written ({type(error).__name__}: {error})")

    def _board(self) -> dict[str, int]:
        """What says how many trials and brakes there were: who looks from outside may have missed the last."""
        from .board import Board

        with suppress(Exception), Board.open() as board:
            for slot in board.slots():
                work, live = slot.work(), slot.live()
                if slot.place.owner.pid == self._pid and work is not None and live is not None:
                    return {"epoch": work.epoch, "brakes": live.brakes}
        return {}


def _largest(found: "list[Growth]") -> "list[Growth]":
    """Of each kind; and none of ours."""
    shown = Counter[str]()
    kept = []
    for it in found:
        shown[it.kind] += not it.what.startswith(OWN)
        if shown[it.kind] <= KEPT and not it.what.startswith(OWN):
            kept.append(it)
    return kept


@contextmanager
def _still() -> Iterator[bool]:
    """
    Whether nothing is being imported; and meanwhile nothing begins to be.

    A look at torch's objects while it is half imported crashed its process. Who holds this lock keeps others from
    importing anything, and must not import itself: a thread that waits for it may hold a module's.
    """
    _imp.acquire_lock()
    try:
        specs = [getattr(it, "__spec__", None) for it in list(sys.modules.values())]
        yield not any(getattr(it, "_initializing", False) is True for it in specs)
    finally:
        _imp.release_lock()


def _weight(found: "list[Growth]") -> int:
    return sum(it.bytes or 0 for it in found)


def _tell(message: str) -> None:
    with suppress(Exception):  # stderr may be closed
        sys.stderr.write(f"memwatch: {message}\n")


def begin(folder: str) -> None:
    """From here to its end this script is looked at from inside. What fails is one line on stderr."""
    try:
        Inside(folder).start()
    except Exception as error:
        _tell(f"this script is only seen from outside ({type(error).__name__}: {error})")
