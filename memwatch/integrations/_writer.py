"""Writes to studies who runs a trial, once it has run for long enough to be worth it."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AFTER = 1.0  # s; a write costs 3-4 ms on SQLite, a third of a trial that does nothing

_log = logging.getLogger("memwatch")
_said: set[str] = set()


@contextmanager
def undisturbed(what: str) -> Iterator[None]:
    """What fails inside is said once in this process, and no more: the trial's own outcome counts."""
    try:
        yield
    except Exception as error:
        if what not in _said:
            _said.add(what)
            _log.warning("%s: %s: %s", what, type(error).__name__, error)


class Writer:
    """
    One thread, which is started when it is first needed, and again should it have been ended.

    However many trials there are it wakes about once a second: one that ends before its time costs two locks.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._running: set[int] = set()
        self._due: dict[int, tuple[float, Callable[[], None]]] = {}
        self._busy: int | None = None
        self._wakes = math.inf
        self._tickets = 0
        self._thread: threading.Thread | None = None

    def add(self, write: Callable[[], None], after: float) -> int:
        """Calls *write* in the thread after so many seconds, unless it is cancelled before. What to cancel it by."""
        due = time.monotonic() + after
        with self._changed:
            self._tickets += 1
            # Of several trials of a process the board has one alone.
            due = time.monotonic() if self._running else due
            self._due = {it: (min(at, due), what) for it, (at, what) in self._due.items()}
            self._due[self._tickets] = due, write
            self._running.add(self._tickets)
            if self._thread is None or not self._thread.is_alive():
                self._wakes = math.inf
                self._thread = threading.Thread(target=self._run, name="memwatch owner", daemon=True)
                self._thread.start()
            if due < self._wakes:
                self._changed.notify_all()
            return self._tickets

    def cancel(self, ticket: int) -> None:
        """From here on it is not called, nor still at work."""
        with self._changed:
            self._running.discard(ticket)
            self._due.pop(ticket, None)
            # A thread that has ended is not waited for.
            while self._busy == ticket and self._thread is not None and self._thread.is_alive():
                self._changed.wait(0.1)

    def _run(self) -> None:
        while True:
            write = self._next()
            try:
                with undisturbed("cannot write to the study who runs its trials"):
                    write()
            finally:
                with self._changed:
                    self._busy = None
                    self._changed.notify_all()

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                ticket, (at, write) = min(self._due.items(), key=lambda it: it[1][0], default=(0, (math.inf, _nothing)))
                now = time.monotonic()
                if at <= now:
                    del self._due[ticket]
                    self._busy = ticket
                    return write
                self._wakes = at
                self._changed.wait(None if at == math.inf else at - now)


def _nothing() -> None:
    pass


_writer: Writer | None = None


def writer() -> Writer:
    """This process's; a forked child has none of its parent's threads, and gets its own."""
    global _writer  # noqa: PLW0603 - one a process
    if _writer is None or _writer.pid != os.getpid():
        _writer = Writer()
    return _writer
