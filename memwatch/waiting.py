"""What the watchdog waits for: a deadline, signals to it, workers that end, and the bell that workers ring."""

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .slot import Mapping
from .spawn import Bell

_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Waiting:
    """All of it in one poll(). Signals are handled nowhere else while it is open: in the main thread only."""

    def __init__(self) -> None:
        self._wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell = Bell(self._ring)
        self._before: dict[int, Any] = {}
        # Before the handlers, or a signal that comes between would be heard by nobody.
        self._former = signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        for number in (*_TO_STOP, signal.SIGCHLD):
            # nohup: who asked not to be ended with the terminal is not.
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, lambda *_: None)
        # Who started us may have them blocked, and then nobody could stop us but by SIGKILL.
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)

    def _ring(self) -> None:
        with suppress(OSError):
            os.eventfd_write(self._rung, 1)

    def listen(self, mapping: Mapping) -> None:
        """To the bell of this board."""
        self._bell.follow(mapping)

    def wait(self, until: float, descriptors: Iterable[int]) -> bool:
        """Until a time, or until something happens, as one of the *descriptors* can be read: whether the bell rang."""
        poll = select.poll()
        for fd in (self._wake, self._rung, *descriptors):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        # Rounded up: a deadline that comes a fraction of a millisecond too soon is waited for twice.
        poll.poll(max(0.0, until - time.monotonic()) * 1000 + 0.999)
        with suppress(BlockingIOError):
            os.eventfd_read(self._rung)
            return True
        return False

    def signals(self) -> list[signal.Signals]:
        """Those that ask the watchdog to stop, as they came."""
        with suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self._wake, 4096) if number in _TO_STOP]
        return []

    def close(self) -> None:
        """Signals do again what they did before."""
        self._bell.close()
        signal.set_wakeup_fd(self._former)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for fd in (self._wake, self._wake_end, self._rung):
            os.close(fd)
