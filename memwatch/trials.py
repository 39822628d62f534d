"""One trial: its seat among the words shared with the native thread, its end, and what came back."""

import os
import sys
import threading
import time
from _thread import get_ident, get_native_id
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import policy, running
from ._native import lib
from .errors import EmergencyBrake, MemwatchError
from .giveback import give_back, let_go
from .model import escape
from .posting import tell
from .raising import call
from .running import SEATS, UNKNOWN, Running, raise_in
from .units import format_duration, format_size

SETTLE_EVERY = 0.01  # s; a look while memory comes back
TICKS = os.sysconf("SC_CLK_TCK")

_EPOCH, _THREAD, _IDENT, _START_NS, _START_TICKS, _SHIELD, _START_RSS, _START_PEAK, _LEAVING, _TEXT = (
    lib.MW_SEAT_EPOCH,
    lib.MW_SEAT_THREAD,
    lib.MW_SEAT_IDENT,
    lib.MW_SEAT_START_NS,
    lib.MW_SEAT_START_TICKS,
    lib.MW_SEAT_SHIELD,
    lib.MW_SEAT_START_RSS,
    lib.MW_SEAT_START_PEAK,
    lib.MW_SEAT_LEAVING,
    lib.MW_SEAT_TEXT,
)
_SEAT_WORDS = lib.MW_SEAT_WORDS
_TEXT_BYTES = lib.MW_SEAT_TEXT_BYTES


class _Last(threading.local):
    """Of the thread that asks: the peak of the last trial that ended there, in bytes."""

    peak: int | None = None


last = _Last()


class Trial:
    """
    One trial of one thread, from its admission to its end.

    Attributes:
        epoch: Its number in this process: odd.
        frame: The guard's own: only frames it called may be cut.
        key: What stands on the board for it; 0.
        shields: How many shields are up; one more while it is being left.
        start_rss: What the process held when it began, in bytes; None is unknown.
        told_ns, raised_ns: When it was told, and when something was last raised in it.
        raises: How often something was.
        raised: Something was raised in it, so that it was braked however it ended.
        asynchronous: That came between two lines, and not at a safe point.
    """

    __slots__ = (
        "_number",
        "_others",
        "_owner",
        "_peak",
        "_seat",
        "_start_peak",
        "_words",
        "asynchronous",
        "detail",
        "ended",
        "epoch",
        "frame",
        "ident",
        "is_main",
        "key",
        "label",
        "outer",
        "raised",
        "raised_ns",
        "raises",
        "shields",
        "start_ns",
        "start_rss",
        "told_ns",
    )

    def __init__(self, owner: Running, label: str, key: int = 0) -> None:
        self._owner = owner
        self._words = owner.words
        self.label = escape(label)
        self.detail = ""
        self.frame: FrameType | None = None
        self.raised = self.asynchronous = False
        self.start_rss: int | None = None
        self._peak = self._start_peak = 0
        self.raised_ns = self.told_ns = self.raises = 0
        self.ended = False
        self.ident = get_ident()
        self.is_main = get_native_id() == owner.pid
        self.outer: Trial | None = owner.trials.get(self.ident)
        # Whoever is killed in a part of a trial is looked for by what the whole is called.
        self.key: int = key or (0 if self.outer is None else self.outer.key)
        self.shields: int = 0 if self.outer is None else self.outer.shields  # a shield covers what runs inside it
        self._seat = self._take_seat()
        self._number = (self._seat - SEATS) // _SEAT_WORDS
        self._others = _threads() if self.is_main else frozenset()
        self.start_ns = time.monotonic_ns()
        owner.epochs += 1
        self.epoch = 2 * owner.epochs + 1
        words, seat = self._words, self._seat
        words[seat + _SHIELD] = self.shields
        words[seat + _LEAVING] = 0
        self._begin_peak()
        words[seat + _START_NS] = self.start_ns
        words[seat + _START_TICKS] = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)
        self._write_text()
        owner.trials[self.ident] = self
        owner.write_work(self)

    def _take_seat(self) -> int:
        if self.outer is not None:
            return self.outer._seat
        try:
            number = self._owner.seats.pop()
        except IndexError:
            raise MemwatchError(
                f"{lib.MW_SEATS} threads of this process run trials already, which is as many as can be braked"
            ) from None
        seat = SEATS + number * _SEAT_WORDS
        self._words[seat + _THREAD] = get_native_id()
        self._words[seat + _IDENT] = self.ident
        return int(seat)

    def _begin_peak(self) -> None:
        """One peak is kept for all trials of the process, from when the last of them began."""
        owner, words, seat = self._owner, self._words, self._seat
        so_far = words[lib.MW_WORD_PEAK]
        for other in list(owner.trials.values()):
            other._peak = max(other._peak, so_far)
        known = not lib.mw_brake_begin(owner.handle, self._number)
        self.start_rss = words[seat + _START_RSS] if known else None
        self._start_peak = words[seat + _START_PEAK]
        self._peak = self.start_rss or 0

    @property
    def peak(self) -> int | None:
        """The most resident memory that the process has had since it began, in bytes; None is unknown."""
        if not self.ended:
            seen = lib.mw_brake_peak(self._owner.handle, self._number)
            self._peak = max(self._peak, seen)
        return self._peak or None

    def _write_text(self) -> None:
        """Its name, for the last words."""
        text = f"{self.label} {self.detail}".strip().encode("utf-8", "replace")[: _TEXT_BYTES - 1]
        at = self._seat + _TEXT
        n = -(-(len(text) + 1) // 8)  # the NUL too
        padded = memoryview(text.ljust(n * 8, b"\0")).cast("Q")
        self._words[at : at + n] = padded

    def arm(self, frame: FrameType) -> None:
        """From here on it may be told, and cut in frames that *frame* called."""
        self.frame = frame
        self._words[self._seat + _EPOCH] = self.epoch

    def say(self, detail: str) -> None:
        """Where it is, as "split 3/5"."""
        self.detail = escape(detail)
        self._write_text()
        self._owner.write_work(self)

    def mark_raised(self, *, asynchronous: bool = False) -> None:
        self.raised = True
        if asynchronous:
            self.asynchronous = self._owner.tainted = True
        self.raised_ns = time.monotonic_ns()
        self.raises += 1

    def takes_more(self) -> bool:
        """Since it was told."""
        left = self._words[lib.MW_WORD_HEADROOM]
        return policy.takes_more(self._words[lib.MW_WORD_TOLD_HEADROOM], None if left == UNKNOWN else left)

    def raise_shield(self, by: int) -> None:
        self.shields += by
        self._words[self._seat + _SHIELD] = self.shields

    def threads(self) -> list[int]:
        """The threads that were started since it began, while it ran in the main thread: its own, then."""
        if not self.is_main:
            return []
        return [ident for ident, it in _idents().items() if it not in self._others]

    def leave(self) -> bool:
        """
        Nothing is raised in it any more. Whether it was braked; if not, it has ended.

        Twice is fine: what was raised in another thread may come while it is being left.
        """
        if self.ended:
            return self.raised
        if running.current is not self._owner:  # stopped meanwhile, or in a forked child
            self.ended = True
            return self.raised
        self.raise_shield(1)
        self._words[self._seat + _LEAVING] = 1
        self.frame = None
        if not self.is_main:
            raise_in(self.ident, None)
        if not self.raised:
            if self.outer is None:
                self._owner.brakes_in_row = 0
            self.end()
        return self.raised

    def end(self) -> None:
        """It is over: the seat is free, or the outer trial's again."""
        if self.ended:
            return
        last.peak = self.peak
        self.ended = True
        words, seat, outer, owner = self._words, self._seat, self.outer, self._owner
        if running.current is not owner:
            return
        if outer is not None:
            owner.trials[self.ident] = outer
            outer._peak = max(outer._peak, self._peak)
            words[seat + _START_RSS] = UNKNOWN if outer.start_rss is None else outer.start_rss
            words[seat + _START_PEAK] = outer._start_peak
            words[seat + _LEAVING] = 0
            words[seat + _SHIELD] = outer.shields
            words[seat + _EPOCH] = 0 if outer.frame is None else outer.epoch
            outer._write_text()
            owner.write_work(outer)
            return
        words[seat + _EPOCH] = 0
        owner.trials.pop(self.ident, None)
        owner.seats.append(self._number)
        owner.write_work(None)

    def run(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], parameters: Callable[[], str]
    ) -> Any:
        """Calls *fn*, and turns whatever came of a brake into EmergencyBrake, which has the *parameters*."""
        try:
            result = self._cut(fn, args, kwargs)
        except BaseException as error:
            if not self.leave():
                raise
            let_go(error)
        else:
            if not self.leave():
                return result
            del result
        # Out of the except block: what is raised inside keeps all that the trial held alive, through __context__.
        raise self.account(parameters)

    def _cut(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The guard's own frame."""
        self.arm(sys._getframe())
        return call(fn, args, kwargs)

    def account(self, parameters: Callable[[], str] = str) -> EmergencyBrake:
        """Gives back what it held, says so, and makes the exception that tells of it."""
        owner, words = self._owner, self._words
        self.leave()
        available, told_rss = words[lib.MW_WORD_TOLD_HEADROOM], words[lib.MW_WORD_TOLD_RSS]
        threshold = owner.marks.brake
        self._outlive_threads()
        give_back()
        told_ns = self.told_ns or words[lib.MW_WORD_TOLD_NS]  # only threads of it were raised in
        elapsed = (time.monotonic_ns() - told_ns) / 1e9
        after = self._settle()
        rss = owner.sampler.sample().rss
        freed = None if rss is None or told_rss == UNKNOWN else max(told_rss - rss, 0)
        # What children held was none of our own RSS: then headroom tells.
        if words[lib.MW_WORD_REAPED] and after is not None:
            freed = max(freed or 0, after - available)
        self.end()
        owner.brakes_in_row += 1
        where = f"{self.label} {self.detail}".strip()
        tell("critical", f"🚨 EMERGENCY BRAKE ACTIVATED [{where}]")
        tell("critical", f"{self.label} killed to prevent OOM crash")
        tell("critical", f"Available: {format_size(available)} | Threshold: {format_size(threshold)}")
        tell("critical", f"Freed {format_size(freed)} in {format_duration(elapsed)}; available {format_size(after)}")
        return EmergencyBrake(
            f"{self.label} killed to prevent OOM crash: available {format_size(available)}, "
            f"threshold {format_size(threshold)}",
            self.label,
            self.detail,
            available,
            threshold,
            freed,
            elapsed,
            parameters(),
            None if told_rss == UNKNOWN else told_rss,
            self.peak,
            self.asynchronous,
        )

    def _settle(self) -> int | None:
        """
        Waits until what was given back is there. What is left then.

        It counts as told all the while: should its children take more memory, they pay for it.
        """
        owner = self._owner
        state, over = policy.Settling(time.monotonic()), False
        while True:
            headroom = owner.sampler.headroom()
            state, over = policy.settled(owner.patience, state, time.monotonic(), headroom)
            if over:
                return headroom
            time.sleep(SETTLE_EVERY)

    def _outlive_threads(self) -> None:
        """Threads that it started are made to end; what they held comes back only then. Not longer than `grace`."""
        owner = self._owner
        deadline = time.monotonic() + owner.patience.grace
        while self.threads() and time.monotonic() < deadline:
            headroom = owner.sampler.headroom()
            if headroom is not None and headroom >= owner.marks.resume:
                return
            time.sleep(SETTLE_EVERY)


def _idents() -> dict[int, Any]:
    """Live Python threads by ident, but memwatch's. Without threading's lock, which who was cut may hold."""
    active = threading._active  # type: ignore[attr-defined]
    return {ident: it for ident, it in list(active.items()) if not it.name.startswith("memwatch")}


def _threads() -> frozenset[Any]:
    return frozenset(_idents().values())
