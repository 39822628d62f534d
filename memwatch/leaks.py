"""
Find leaks, and forbid them in tests: what a function keeps of each call, for good.

    from memwatch.leaks import assert_no_leak

    def test_step_keeps_nothing():
        assert_no_leak(trainer.step, batch)

The function is called again and again, in rounds that double, and what the process holds is read four times a round,
after a garbage collection: live bytes of the heap, Python's blocks, mapped memory, descriptors, threads, children and
their private memory. What a leak adds persists when the calls double; caches, pools and bounded buffers fill up and
stop. RSS plays no part in it: on real leaks and healthy functions its differences were wrong five times in 25.

Nothing is traced until there is a verdict, and no environment variable is needed. Only then tracemalloc is started, for
some more calls, to say which line it is.
"""

import gc
import inspect
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import leaks_census
from .leaks_census import Growth
from .units import format_duration, format_size, parse_size

__all__ = ["Growth", "LeakReport", "Signal", "assert_no_leak", "find_leak"]

BLOCK = 80  # bytes of one of Python's blocks, on the average (holding.py)

THREAD = (8 + 64) << 20  # bytes of address space: glibc's stack, and its heap for a thread

PATIENCE = 0.25  # s of calls without suspicion, until a function is trusted
PARTS = 4  # readings a round: their floor must lie above the ceiling of the round before
CALLS = 150_000  # of a suspect function that takes no time
ROUNDS = 3  # doublings in which growth must persist
TRACED = 0.1  # s of calls while tracing
SLOWER = 4  # times, by tracing: 1.9 to 6.3
PERSISTS = 0.6  # of the growth a call in the round before: a cache that fills has less, what grows as log(n) has 0.5
MOST = {"native": 64 << 20, "mapped": 32 << 20, "private": 128 << 20, "blocks": 150_000}
MOST |= {"descriptors": 200, "threads": 100, "children": 30}  # growth at which it stops, for the machine's sake


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is read: below *floor* a round, or *rate* a call, growth is no growth. *unit* is what one more weighs."""

    name: str
    floor: int
    rate: float
    unit: int  # bytes; 0 is a count that has no size
    said: str


_KINDS = (
    _Kind("native", 128, 0.5, 1, "bytes of malloc"),
    _Kind("blocks", 4, 0.02, BLOCK, "blocks of Python's allocator"),
    # In steps: Python's own allocator maps 1 MiB at a time.
    _Kind("mapped", 1 << 15, 64, 1, "bytes mapped, not through malloc"),
    _Kind("descriptors", 2, 0.02, 0, "descriptors"),
    _Kind("threads", 2, 0.02, 0, "threads"),
    _Kind("children", 2, 0.02, 0, "child processes"),
    _Kind("private", 1 << 16, 64, 1, "bytes of private memory in child processes"),
)


@dataclass(frozen=True, slots=True)
class Signal:
    """
    Something that grows with each call.

    Attributes:
        name: "native", "blocks", "mapped", "descriptors", "threads", "children" or "private".
        rate: Growth a call in the last round.
        low, high: Least and most of it in the rounds that decided: the tighter, the surer.
        size: Bytes a call; None for what has no size.
    """

    name: str
    rate: float
    low: float
    high: float
    size: int | None


@dataclass(frozen=True, slots=True)
class LeakReport:
    """
    What was found; str() is the report for people.

    Attributes:
        name: The function.
        signals: What grows; empty when nothing does.
        calls: Calls that were measured, warm-up and naming not among them.
        seconds: What all of it took.
        growths: What was seen to grow, by kind, in *traced* more calls.
        traced: How many these were; 0 where there was no leak to name.
    """

    name: str
    signals: tuple[Signal, ...]
    calls: int
    seconds: float
    growths: tuple[Growth, ...] = ()
    traced: int = 0

    @property
    def leaks(self) -> bool:
        """Whether anything does."""
        return bool(self.signals)

    @property
    def bytes_per_call(self) -> int:
        """Of all signals that have a size."""
        return sum(it.size or 0 for it in self.signals)

    def __str__(self) -> str:
        over = f"{self.calls:,} calls in {format_duration(self.seconds)}"
        if not self.signals:
            return f"{self.name} keeps nothing: {over}"
        size = self.bytes_per_call
        lines = [f"{self.name} leaks{f' {format_size(size)} a call' if size else ''} ({over})"]
        lines += ["", "  a call keeps, in each of the last rounds:"]
        lines += [f"    {_said(it)}" for it in self.signals]
        lines += ["", f"  what grew in {self.traced} more calls, for one call:"]
        named = leaks_census.as_text(self.growths, calls=self.traced)
        lines += [f"    {line}" for line in named or ["nothing that Python knows of"]]
        return "\n".join(lines)


def _said(it: Signal) -> str:
    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"

    kind = next(kind for kind in _KINDS if kind.name == it.name)
    spread = "" if number(it.low) == number(it.high) else f" ({number(it.low)} to {number(it.high)})"
    return f"{number(it.rate)} {kind.said}{spread}"


def assert_no_leak(fn: Callable[..., object], *args: Any, **options: Any) -> None:
    """
    Raises AssertionError, with the report, if *fn* keeps something of each call.

    Takes what find_leak() takes.

    Raises:
        AssertionError: It leaks.
        TypeError, ValueError: As find_leak().
    """
    __tracebackhide__ = True
    report = find_leak(fn, *args, **options)
    if report.leaks:
        raise AssertionError(str(report))


def find_leak(
    fn: Callable[..., object],
    *args: Any,
    tolerance: int | str = 0,
    warmup_times: int = 10,
    times: int = 14,
    seconds: float = 0.4,
    trim_callback: Callable[[], object] | None = None,
    **kwargs: Any,
) -> LeakReport:
    """
    Calls fn(*args, **kwargs) again and again, and says what it keeps of each call.

    A function that keeps nothing is trusted after 0.25 s of calls, a suspect one gets *seconds*; slow functions take
    as long as *warmup_times* and *times* calls do (a warm-up of more than 0.1 s ends after two). One that needs more
    calls to fill its caches is best warmed up by the caller, or told by *warmup_times*.

    Args:
        fn: It may return, print and log what it likes; what it raises ends the search.
        tolerance: Bytes a call that it may keep ("1 kB"). Descriptors, threads and children have no size: not one.
        warmup_times: Calls before the first reading.
        times: Calls to measure at least; 7 or more. Rounds of 2, 4 and 8 are 14.
        seconds: Until a function that is suspect is judged.
        trim_callback: Called before each reading: it empties what may fill up.

    Raises:
        TypeError: *fn* cannot be called, or is a coroutine function: wrap it in asyncio.run.
        ValueError: An argument is out of its range; the message says which.
    """
    least = _checked(fn, tolerance, warmup_times, times, seconds)
    began = time.perf_counter()

    def call(count: int) -> None:
        for _ in range(count):
            fn(*args, **kwargs)

    _warm_up(call, warmup_times)
    for _ in range(2):
        _collect()
        with _frozen():
            search = _Search(call, least, times, seconds, trim_callback)
            search.run()
        grew = search.verdict()
        signals = search.staying(grew)
        # What fell may have been older garbage of others, which is gone now: then it is asked again.
        if bool(signals) == bool(grew):
            break
    name = getattr(fn, "__qualname__", None) or repr(fn)
    growths, traced = _what_grew(call, search, signals) if signals else ((), 0)
    return LeakReport(name, signals, search.calls, time.perf_counter() - began, growths, traced)


def _checked(fn: Any, tolerance: int | str, warmup_times: int, times: int, seconds: float) -> int:
    if not callable(fn):
        raise TypeError(f"{fn!r} cannot be called; give a function, and its arguments after it")
    if inspect.iscoroutinefunction(fn):
        raise TypeError(f"{fn!r} is a coroutine function: give lambda: asyncio.run(...) of it, or drive your own loop")
    if tolerance in (0, "0"):
        least = 0
    else:
        size = parse_size(tolerance).bytes
        if size is None:
            raise ValueError(f"tolerance {tolerance!r} must be bytes a call; a share of what is not said")
        least = size
    if warmup_times < 0:
        raise ValueError(f"warmup_times {warmup_times!r} must be 0 or more")
    if times < 7:
        raise ValueError(f"times {times!r} must be 7 or more: rounds of 1, 2 and 4 calls are the fewest that tell")
    if not seconds >= 0:
        raise ValueError(f"seconds {seconds!r} must be 0 or more")
    return least


def _warm_up(call: Callable[[int], None], times: int) -> None:
    """The first calls import, fill and compile."""
    until = time.perf_counter() + 0.1
    for done in range(times):
        if done >= 2 and time.perf_counter() > until:
            break
        call(1)


def _collect() -> None:
    """
    What is garbage by now shall not be counted.

    Not of old objects where there are children: the collector writes to each one it looks at, so what a forked child
    shares with us would be copied, and what the child copies by itself would not be seen.
    """
    import psutil

    gc.collect(1 if psutil.Process().children() else 2)


@contextmanager
def _frozen() -> Iterator[None]:
    """
    What is alive now is not looked at by the collector meanwhile: with torch loaded a collection takes 70 ms, so 1.

    A cycle of it that the function lets go is then no garbage: staying() looks again, without.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


class _Search:
    """Readings of one function. They stand in arrays made beforehand: a list of them would grow, too."""

    def __init__(
        self,
        call: Callable[[int], None],
        tolerance: int,
        times: int,
        seconds: float,
        trim: Callable[[], object] | None,
    ) -> None:
        import psutil

        self.call, self.tolerance, self.seconds, self.trim = call, tolerance, seconds, trim
        self.first = max(1, times // 7)
        self.me = psutil.Process()
        self.calls = self.rounds = 0
        self.spent = 0.0
        self.values = {kind.name: array("q", bytes(8 * PARTS * 64)) for kind in _KINDS}
        self.at = array("q", bytes(8 * PARTS * 64))  # calls so far, of each reading
        self.ends = array("q", bytes(8 * 64))  # the last reading of each round
        self.readings = 0
        for _ in range(2):  # it has caches, too
            self.read()
            self.readings = 0

    def read(self) -> None:
        """One look: 2 ms."""
        if self.trim is not None:
            self.trim()
        gc.collect()
        here = self.readings
        for name, value in _look(self.me):
            self.values[name][here] = value
        self.at[here] = self.calls
        self.readings = here + 1

    def run(self) -> None:
        """Rounds that double, until it is trusted or the time is over."""
        self.read()
        self.ends[0] = 0
        count = self.first
        while True:
            self.round(count)
            count *= 2
            if self.rounds < ROUNDS:
                continue
            ahead = self.spent / self.calls * count
            suspect = any(self.grew(kind, self.rounds) or self.grew(kind, self.rounds - 1) for kind in _KINDS)
            if self.spent + ahead > (self.seconds if suspect else PATIENCE) or (suspect and self.enough()):
                return

    def round(self, count: int) -> None:
        parts = min(PARTS, count)
        for part in range(parts):
            calls = count * (part + 1) // parts - count * part // parts
            start = time.perf_counter()
            self.call(calls)
            self.spent += time.perf_counter() - start
            self.calls += calls
            self.read()
        self.rounds += 1
        self.ends[self.rounds] = self.readings - 1

    def enough(self) -> bool:
        """Whether the next round would take more than the machine should give."""
        end, start = self.ends[self.rounds], self.ends[self.rounds - 1]
        return self.calls * 2 > CALLS or any(
            values[end] - values[0] + 2 * (values[end] - values[start]) > MOST[name]
            for name, values in self.values.items()
        )

    def slope(self, kind: _Kind, number: int) -> float:
        """Growth a call in that round, from 1."""
        start, end = self.ends[number - 1], self.ends[number]
        values = self.values[kind.name]
        return (values[end] - values[start]) / (self.at[end] - self.at[start])

    def lasts(self, kind: _Kind, number: int) -> bool:
        """Whether a call added in that round what one did in the round before, of which a part may have been once."""
        calls = self.at[self.ends[number - 1]] - self.at[self.ends[number - 2]]
        return self.slope(kind, number) >= PERSISTS * (self.slope(kind, number - 1) - kind.floor / calls)

    def grew(self, kind: _Kind, number: int) -> bool:
        start, end = self.ends[number - 1], self.ends[number]
        slope = self.slope(kind, number)
        enough = slope * (self.at[end] - self.at[start]) >= kind.floor and slope >= kind.rate
        return enough and (not kind.unit or slope * kind.unit > self.tolerance)

    def persists(self, kind: _Kind) -> bool:
        """Whether it grew in each of the last rounds, no less a call than before, without coming back, to the end."""
        values = self.values[kind.name]
        for number in range(self.rounds - ROUNDS + 1, self.rounds + 1):
            if not self.grew(kind, number):
                # The first ones are too short for what grows in steps.
                return False
            start, end = self.ends[number - 1], self.ends[number]
            former = self.ends[number - 2] if number > 1 else start - 1
            ceiling = max(values[former + 1 : start + 1])
            if min(values[start + 1 : end + 1]) < ceiling:
                return False
            if number > self.rounds - ROUNDS + 1 and not self.lasts(kind, number):
                return False
        last, former = self.ends[self.rounds], self.ends[self.rounds - 1]
        return values[last] > values[max(last - PARTS // 2, former)]

    def verdict(self) -> tuple[Signal, ...]:
        found = []
        for kind in _KINDS:
            if self.persists(kind):
                slopes = [self.slope(kind, number) for number in range(self.rounds - ROUNDS + 1, self.rounds + 1)]
                size = round(slopes[-1] * kind.unit) if kind.unit else None
                found.append(Signal(kind.name, slopes[-1], min(slopes), max(slopes), size))
        return tuple(found)

    def staying(self, signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
        """Those still there after a full collection: what was frozen may have been garbage since."""
        if {it.name for it in signals} <= {"children", "private"}:  # not the collector's
            return signals
        last = self.readings - 1
        self.read()
        self.readings = last + 1
        return tuple(
            it
            for it in signals
            if self.values[it.name][last + 1] - self.values[it.name][0]
            > 0.5 * (self.values[it.name][last] - self.values[it.name][0])
        )


def _look(me: Any) -> Iterator[tuple[str, int]]:
    """Each of _KINDS, of this process."""
    try:
        from .holding import heap
    except ImportError:  # there is no native module: what malloc holds is then part of what is mapped
        it = None
    else:
        it = heap()
    native, held, blocks = (0, 0, 0) if it is None else (it.native, it.held, it.blocks)
    yield "native", native
    yield "blocks", blocks
    threads = me.num_threads()
    # Python's allocator maps arenas for its blocks, and each thread brings a stack and, the first ones, a heap.
    yield "mapped", me.memory_info().vms - held - leaks_census.SMALL * blocks - THREAD * threads
    yield "descriptors", me.num_fds()
    yield "threads", threads
    children = me.children(recursive=True)
    yield "children", len(children)
    private = 0
    for child in children:
        private += leaks_census.private(child) or 0
    yield "private", private


def _what_grew(
    call: Callable[[int], None], search: _Search, signals: tuple[Signal, ...]
) -> tuple[tuple[Growth, ...], int]:
    """What some more calls leave behind, with tracing on; and how many these were. Tracing is off again after it."""
    calls = min(500, max(4, int(TRACED / (SLOWER * search.spent / search.calls))))
    for it in signals:
        calls = min(calls, max(4, int(MOST[it.name] / 4 / it.rate)))
    # What there is by now need not be walked over: of a leak, that may be a lot.
    with _frozen():
        return _named(call, calls, search, signals), calls


def _named(call: Callable[[int], None], calls: int, search: _Search, signals: tuple[Signal, ...]) -> tuple[Growth, ...]:
    import tracemalloc

    names = {it.name for it in signals}
    mapped = "mapped" in names
    leaks_census.take(deep=False, mapped=mapped)  # what it imports and caches is no leak
    before = leaks_census.take(mapped=mapped)
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start(leaks_census.FRAMES)
    try:
        call(calls)
        if search.trim is not None:
            search.trim()
        after = leaks_census.take(mapped=mapped, since=before)
    finally:
        if ours:
            tracemalloc.stop()
    found = [it for it in leaks_census.compare(before, after) if it.kind != "native" and _often(it, calls)]
    # Of what malloc gave, the part that no traced allocation accounts for.
    total = sum(it.size or 0 for it in signals)
    traced = sum(it[2] for it in after.sites.values()) - sum(it[2] for it in before.sites.values())
    for it in signals:
        unknown = round(it.rate * calls) - traced
        if it.name == "native" and unknown > 0.25 * it.rate * calls and unknown > 0.1 * total * calls:
            found.append(Growth("native", "malloc, by C code, or for a buffer that grows in steps", 0, unknown, ""))
        # The census has written to what they shared.
        if it.name == "private" and not any(each.kind == "children" for each in found):
            who = ", ".join(f"{name} PID {pid}" for pid, (name, _) in after.children.items())
            found.append(Growth("children", who, 0, round(it.rate * calls), "private memory"))
    if not names & {"native", "blocks"}:  # then these are the census's own
        found = [it for it in found if it.kind not in ("sites", "objects", "tensors")]
    return tuple(_greatest(found))


def _often(it: Growth, calls: int) -> bool:
    """Whether it may be of each call, and not of the first or of the census itself."""
    if it.kind in ("mapped", "children"):
        return (it.bytes or 0) > 64 * calls or it.count >= max(3, calls // 20)
    return it.count >= max(3, calls // 20)


def _greatest(found: list[Growth]) -> Iterator[Growth]:
    """Of each kind, what is not dwarfed by its greatest."""
    for it in found:
        rest = [other for other in found if other.kind == it.kind]
        most = max(other.count for other in rest), max(other.bytes or 0 for other in rest)
        if it.count * 20 >= most[0] or (it.bytes or 0) * 20 >= most[1] > 0:
            yield it
