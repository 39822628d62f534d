"""What a worker says of itself: to its log, and on the board."""

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import holding
from ._native import ffi, lib
from .board import Board
from .errors import BoardError
from .sampler import Sampler
from .slot import Place, Slot, WorkWords, why
from .slot_values import trials_of

if TYPE_CHECKING:
    from .trials import Trial

HEAP_EVERY = 1.0  # s; a fragmented heap takes 1 ms to look at


def tell(level: str, message: str) -> None:
    """A line to the logger "memwatch"; and to stderr, where none of its handlers writes there."""
    import logging

    logger = logging.getLogger("memwatch")
    number = getattr(logging, level.upper())
    logger.log(number, "%s", message)
    if not logger.isEnabledFor(number):
        return
    # Without any handler logging itself writes warnings there.
    if not logger.hasHandlers() or _reaches_stderr(logger):
        return
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed, full, or none at all: the log has it
        pass


def _reaches_stderr(logger: Any) -> bool:
    at = logger
    while at is not None:
        if any(getattr(handler, "stream", None) in (sys.stderr, sys.__stderr__) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


class Posted:
    """
    A worker's part of the board, and what it writes there.

    Attributes:
        trials: The innermost trial of each thread, by its ident.
        number: This worker's under a watchdog; 0 without one.
        epochs: How many trials it has begun.
        tainted: A brake was raised out of nowhere: see slot_values.Work.
        said: What was said already, and is said once.
    """

    def __init__(self, sampler: Sampler, folder: str | os.PathLike[str] | None, number: int) -> None:
        self.sampler, self._folder, self.number = sampler, folder, number
        self.pid = os.getpid()
        self.handle: Any = ffi.NULL
        self.lock = threading.Lock()
        self.trials: dict[int, Trial] = {}
        self.epochs = 0
        self.stopping = False
        self.board: Board | None = None
        self.slot: Slot | None = None
        self.place: Place | None = None
        self.said: set[str] = set()
        self.work = WorkWords()
        self.work.words.worker = number
        self.work_epoch = 0
        self.tainted = False
        self._heap: holding.Heap | None = None
        self._heap_due = 0.0

    def join_board(self) -> None:
        """Takes a slot. Without one the worker is braked all the same."""
        try:
            self.board = Board.open(self._folder, create=True)
            self.slot = self.board.claim(groups=[(it.dev, it.ino) for it in self.sampler.groups])
            before = self.slot.work() if self.number else None
            if before is not None and before.worker == self.number:  # stopped, and started again
                self.tainted, self.epochs = before.tainted, trials_of(before.epoch)
                self.work_epoch = 2 * self.epochs + 1 if before.epoch else 0
            epoch = self.work_epoch and self.work_epoch + 1  # even: none runs
            self.work.say(epoch=epoch)
            self.work.words.tainted = self.tainted
            self.slot.set_words(self.work)
            self._write_to(self.slot)
        except (BoardError, OSError) as error:
            self.slot = None
            self.say_once("board", "warning", f"{error}. This worker is braked, but others do not see it")

    def _write_to(self, slot: Slot) -> None:
        place = slot.place
        code = lib.mw_brake_board(self.handle, place.mapping.handle, place.number, place.owner)
        if code:
            raise BoardError(f"the brake's thread does not take the board ({why(code)})")
        self.place = place  # mapped for as long as the thread writes there

    def check_board(self) -> None:
        """About once a second: the board may have been unlinked."""
        board, slot = self.board, self.slot
        if board is None:
            return
        try:
            if slot is None:
                self.slot = slot = board.claim(groups=[(it.dev, it.ino) for it in self.sampler.groups])
                slot.set_words(self.work)
                self._write_to(slot)
            else:
                board.check()
                if slot.place is not self.place:
                    self._write_to(slot)
        except (BoardError, OSError) as error:
            if self.stopping:  # and so it was closed
                return
            self.say_once("board", "warning", f"{error}. This worker is braked, but others do not see it")

    def write_work(self, trial: "Trial | None") -> None:
        """What the worker is at, to the board: of several trials the newest."""
        slot = self.slot
        if slot is None:
            return
        work = self.work
        looked = trial is None and self.look_at_heap()
        with self.lock, suppress(BoardError):  # check_board() makes it anew, and says so
            if trial is None and self.trials:  # other threads go on with theirs
                trial = max(list(self.trials.values()), key=lambda it: it.start_ns, default=None)
            if trial is None:
                work.say(epoch=self.work_epoch + 1)
            else:
                self.work_epoch = trial.epoch
                work.say(trial.label, trial.detail, trial.epoch, trial.start_ns, trial.start_rss)
            work.words.key = 0 if trial is None else trial.key
            work.words.tainted = self.tainted
            if looked:
                self._say_holding()
            slot.set_words(work)

    def look_at_heap(self) -> bool:
        """What it has handed out, at most once a second: whether it was time for that. The board has it from the next
        write_*()."""
        now = time.monotonic()
        if now < self._heap_due:
            return False
        self._heap_due = now + HEAP_EVERY
        self._heap = holding.heap()
        return True

    def _say_holding(self) -> None:
        budget, filled = holding.promised()
        it = self._heap
        if it is None:
            self.work.hold(budget, filled)
        else:
            self.work.hold(budget, filled, it.live, it.kept, it.time)

    def write_holding(self) -> None:
        """What this process holds, to the board: about once a second."""
        slot = self.slot
        if slot is None:
            return
        with self.lock, suppress(BoardError):
            self._say_holding()
            slot.set_words(self.work)

    def write_waiting(self, label: str, key: int) -> None:
        """A trial that was begun elsewhere, and that nobody would know of if this worker were killed now."""
        if self.slot is None or self.trials:
            return
        with self.lock, suppress(BoardError):
            self.work.say(label, "waits for memory", self.work_epoch + 1)
            self.work.words.key = key
            self.slot.set_words(self.work)

    def say_once(self, about: str, level: str, message: str) -> None:
        if about not in self.said:
            self.said.add(about)
            tell(level, message)

    @property
    def worker(self) -> str:
        """What this worker is called in the log: "Worker 1", by its number under a watchdog, or else by its slot."""
        return f"Worker {self.number or (self.pid if self.slot is None else self.slot.number + 1)}"
